//! The testbed's own program, one static file for both sides of the emulated machine.
//!
//! `agent host SOCKET OUTCOME [tty]` runs on your machine and `agent inside PORT CTL FILES` in the
//! emulated one. They talk over one virtio-serial port, which is a Unix socket on the host side.
//! Plain `cat` on both ends would not do: a port has no end-of-file in one direction only, standard
//! output and standard error need telling apart, and bytes that QEMU has not yet taken from the
//! port are lost when the machine powers off. So the two ends exchange frames, and the inside
//! waits for the host's acknowledgement before it lets the machine go down.
//!
//! A frame is one byte of kind, a little-endian u32 of length, and that many bytes:
//!
//! ```text
//!   host -> inside   i  bytes for standard input      inside -> host   o  bytes of standard output
//!                    e  end of standard input                          E  bytes of standard error
//!                    w  window size: rows, columns                     m  a message of the testbed
//!                    a  all of it arrived, go down                     x  exit status, the last one
//! ```
//!
//! It needs nothing but `std`, so `build.sh` compiles it with one call of rustc. The few system
//! calls `std` lacks are declared at the end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio, exit};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// One page of the port's ring holds 4 KiB; the driver splits a write at 32 KiB. A frame that just
/// fits one write costs one notification.
const FRAME_MAX: usize = 32 * 1024;
const HEADER: usize = 5;

/// How often the host looks whether its terminal has changed size. Polling spares us a signal handler.
const WINDOW_POLL: Duration = Duration::from_millis(300);

/// Where run.sh puts cottage.
const MEASURED_PROGRAM: &str = "/disk/bin/cottage";
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [_, "host", socket, outcome] => host(socket, outcome, false),
        [_, "host", socket, outcome, "tty"] => host(socket, outcome, true),
        [_, "inside", port, ctl, files] => inside(port, Path::new(ctl), Path::new(files)),
        _ => Err(io::Error::other(
            "usage: agent host SOCKET OUTCOME [tty] | agent inside PORT CTL FILES",
        )),
    };
    if let Err(error) = result {
        eprintln!("testbed: {error}");
        exit(1);
    }
}

// ---------------------------------------------------------------------------------------------
// Frames

/// The sending side of the port, shared by the threads that have something to say.
#[derive(Clone)]
struct Sender(Arc<Mutex<Box<dyn Write + Send>>>);

impl Sender {
    fn new(port: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(port))))
    }

    /// Sends one frame in one write, so that it costs one notification.
    fn send(&self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        frame.push(kind);
        frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        frame.extend_from_slice(payload);
        self.0.lock().unwrap().write_all(&frame)
    }

    /// Sends everything `source` gives, in frames of `kind`, calling `seen` on each piece first.
    fn pump(&self, kind: u8, mut source: impl Read, mut seen: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; FRAME_MAX - HEADER];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    seen(&buffer[..count]);
                    self.send(kind, &buffer[..count])?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A pseudo-terminal whose last user has gone answers EIO (5) instead of end-of-file.
                Err(error) if error.raw_os_error() == Some(5) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Receives one frame into `payload` and returns its kind.
fn receive(port: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<u8> {
    let mut header = [0; HEADER];
    port.read_exact(&mut header)?;
    let [kind, length @ ..] = header;
    payload.resize(u32::from_le_bytes(length) as usize, 0);
    port.read_exact(payload)?;
    Ok(kind)
}

// ---------------------------------------------------------------------------------------------
// The host side

/// Connects this process's standard streams to the command inside, until its exit status arrives.
///
/// The status goes to the file `outcome`, not to our own exit status: run.sh must tell a command
/// that exits with 1 from an agent that fails with 1. No outcome file means the machine was lost.
fn host(socket: &str, outcome: &str, tty: bool) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let (mut port, _) = listener.accept()?;
    let sender = Sender::new(port.try_clone()?);

    if tty {
        let sender = sender.clone();
        thread::spawn(move || follow_window_size(&sender));
    }
    let stdin_sender = sender.clone();
    thread::spawn(move || {
        // A standard input that fails is at its end as far as the command is concerned.
        let _ = stdin_sender.pump(b'i', raw(0), |_| {});
        let _ = stdin_sender.send(b'e', &[]);
    });

    // Unbuffered: io::stdout() would hold back an unfinished line.
    let (mut stdout, mut stderr) = (raw(1), raw(2));
    let mut payload = Vec::new();
    loop {
        let Ok(kind) = receive(&mut port, &mut payload) else {
            return Ok(());
        };
        let written = match kind {
            b'o' => stdout.write_all(&payload),
            b'E' | b'm' => stderr.write_all(&payload),
            b'x' => {
                fs::write(outcome, format!("exit {}\n", payload[0]))?;
                sender.send(b'a', &[])?;
                // Stay until QEMU hangs up: a peer that vanishes first would be an error to it.
                let _ = io::copy(&mut port, &mut io::sink());
                return Ok(());
            }
            other => Err(io::Error::other(format!(
                "a frame of unknown kind {other:#x}"
            ))),
        };
        if let Err(error) = written {
            // Whoever read our output has gone, like `head` after its last line.
            fs::write(outcome, format!("broken {error}\n"))?;
            return Ok(());
        }
    }
}

fn follow_window_size(sender: &Sender) {
    let mut last = None;
    loop {
        let mut size = WindowSize::default();
        // SAFETY: TIOCGWINSZ writes one struct winsize, which WindowSize mirrors.
        if unsafe { ioctl(0, TIOCGWINSZ, &mut size) } == 0
            && last != Some((size.rows, size.columns))
        {
            last = Some((size.rows, size.columns));
            let [rows, columns] = [size.rows.to_le_bytes(), size.columns.to_le_bytes()];
            if sender.send(b'w', &[rows, columns].concat()).is_err() {
                return;
            }
        }
        thread::sleep(WINDOW_POLL);
    }
}

// ---------------------------------------------------------------------------------------------
// The inside

/// What run.sh asked for, as it stands in the control directory.
struct Request {
    argv: Vec<String>,
    /// Rows and columns, if the command gets a terminal.
    tty: Option<WindowSize>,
    /// Report the clock at the start, the first output byte, this line (if not empty), the end.
    clock: Option<String>,
    /// Report how many exits each virtual machine took.
    exits: bool,
}

impl Request {
    fn read(ctl: &Path) -> io::Result<Self> {
        let argv = fs::read_to_string(ctl.join("argv"))?;
        Ok(Self {
            // Every word ends in a NUL, as in /proc/PID/cmdline.
            argv: argv.split_terminator('\0').map(String::from).collect(),
            tty: fs::read_to_string(ctl.join("tty"))
                .ok()
                .map(|text| WindowSize::parse(&text)),
            clock: fs::read_to_string(ctl.join("clock")).ok(),
            exits: ctl.join("exits").exists(),
        })
    }
}

/// Runs the command and reports everything about it to the host.
fn inside(port: &str, ctl: &Path, files: &Path) -> io::Result<()> {
    let request = Request::read(ctl)?;
    let port = File::options().read(true).write(true).open(port)?;
    let sender = Sender::new(port.try_clone()?);
    let before = survey(files)?;
    let exit_counts = request.exits.then(ExitCounts::watch);

    if request.clock.is_some() {
        // While the machine waits for its disk, the instruction clock leaps to the next timer: read
        // the program beforehand, so that what is counted is its start and not the disk's.
        let _without = fs::read(MEASURED_PROGRAM);
    }
    let clock = Arc::new(Mutex::new(Clock::new(request.clock.clone())));
    let status = match start(&request, files) {
        Ok(running) => attend(running, &port, &sender, &clock)?,
        Err(error) => {
            let input = port.try_clone()?;
            thread::spawn(move || feed(input, None, None));
            sender.send(b'E', format!("{}: {error}\n", request.argv[0]).as_bytes())?;
            // What a shell answers: 127 for a command that is not there, 126 for one it cannot run.
            if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            }
        }
    };

    if request.clock.is_some() {
        sender.send(b'm', clock.lock().unwrap().report().as_bytes())?;
    }
    if let Some(counts) = exit_counts {
        sender.send(b'm', counts.report().as_bytes())?;
    }
    write_changes(ctl, &before, &survey(files)?)?;
    sender.send(b'x', &[status])?;
    // `feed` ends this process when the acknowledgement comes.
    thread::sleep(Duration::from_secs(3600));
    Ok(())
}

/// A command that runs, and our ends of its streams.
struct Running {
    child: std::process::Child,
    stdin: Option<File>,
    stdout: File,
    stderr: Option<File>,
    /// The controlling side of its terminal, if it has one.
    terminal: Option<File>,
}

fn start(request: &Request, files: &Path) -> io::Result<Running> {
    let mut command = Command::new(&request.argv[0]);
    command.args(&request.argv[1..]).current_dir(files);
    match &request.tty {
        Some(size) => start_on_terminal(command, size),
        None => start_on_pipes(command),
    }
}

fn start_on_pipes(mut command: Command) -> io::Result<Running> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdin = child.stdin.take().map(|end| File::from(OwnedFd::from(end)));
    let stdout = File::from(OwnedFd::from(child.stdout.take().unwrap()));
    let stderr = child
        .stderr
        .take()
        .map(|end| File::from(OwnedFd::from(end)));
    Ok(Running {
        child,
        stdin,
        stdout,
        stderr,
        terminal: None,
    })
}

fn start_on_terminal(mut command: Command, size: &WindowSize) -> io::Result<Running> {
    let terminal = File::options().read(true).write(true).open("/dev/ptmx")?;
    let (unlock, mut number) = (0i32, 0i32);
    // SAFETY: TIOCSPTLCK reads an int, TIOCGPTN writes one, TIOCSWINSZ reads a struct winsize.
    unsafe {
        check(ioctl(terminal.as_raw_fd(), TIOCSPTLCK, &unlock))?;
        check(ioctl(terminal.as_raw_fd(), TIOCGPTN, &mut number))?;
        check(ioctl(
            terminal.as_raw_fd(),
            TIOCSWINSZ,
            std::ptr::from_ref(size),
        ))?;
    }
    let side = File::options()
        .read(true)
        .write(true)
        .open(format!("/dev/pts/{number}"))?;
    command
        .stdin(side.try_clone()?)
        .stdout(side.try_clone()?)
        .stderr(side);
    // SAFETY: between fork and exec only two system calls are made, both async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            check(setsid())?;
            check(ioctl(0, TIOCSCTTY, 0))
        });
    }
    let child = command.spawn()?;
    // `command` still holds this process's copies of the terminal's user side; were they open when
    // the child ends, the terminal would never report it.
    drop(command);
    Ok(Running {
        child,
        stdin: Some(terminal.try_clone()?),
        stdout: terminal.try_clone()?,
        stderr: None,
        terminal: Some(terminal),
    })
}

/// Carries the streams of `running` until it ends; returns its exit status as a shell counts it.
fn attend(
    mut running: Running,
    port: &File,
    sender: &Sender,
    clock: &Arc<Mutex<Clock>>,
) -> io::Result<u8> {
    let input = port.try_clone()?;
    let (stdin, terminal) = (running.stdin.take(), running.terminal.take());
    thread::spawn(move || feed(input, stdin, terminal));

    let (out_sender, out_clock, stdout) = (sender.clone(), clock.clone(), running.stdout);
    let out = thread::spawn(move || {
        out_sender.pump(b'o', stdout, |bytes| {
            out_clock.lock().unwrap().output(bytes)
        })
    });
    let err_sender = sender.clone();
    let err = running
        .stderr
        .take()
        .map(|stderr| thread::spawn(move || err_sender.pump(b'E', stderr, |_| {})));

    let status = running.child.wait()?;
    clock.lock().unwrap().ended();
    // Whatever the command left running would keep its output open for ever. This spares ourselves,
    // process 1 and the kernel's own.
    // SAFETY: kill takes two integers.
    unsafe { kill(-1, SIGKILL) };
    out.join().unwrap()?;
    if let Some(err) = err {
        err.join().unwrap()?;
    }
    Ok(shell_status(status))
}

/// Passes the host's frames on to the command, and ends this process at the acknowledgement.
fn feed(mut port: File, mut stdin: Option<File>, terminal: Option<File>) {
    let mut payload = Vec::new();
    loop {
        match receive(&mut port, &mut payload) {
            // A command that closed its input (or ended) makes the write fail; the rest is dropped.
            Ok(b'i') => {
                if let Some(open) = &mut stdin {
                    if open.write_all(&payload).is_err() {
                        stdin = None;
                    }
                }
            }
            Ok(b'e') => match &terminal {
                // A terminal has no end-of-file of its own, only the key that means it: Ctrl-D.
                Some(_) => drop(stdin.take().map(|mut open| open.write_all(&[4]))),
                None => stdin = None,
            },
            Ok(b'w') => {
                if let (Some(terminal), [r0, r1, c0, c1]) = (&terminal, payload.as_slice()) {
                    let size = WindowSize {
                        rows: u16::from_le_bytes([*r0, *r1]),
                        columns: u16::from_le_bytes([*c0, *c1]),
                        ..WindowSize::default()
                    };
                    // SAFETY: TIOCSWINSZ reads one struct winsize, which WindowSize mirrors.
                    unsafe { ioctl(terminal.as_raw_fd(), TIOCSWINSZ, &size) };
                }
            }
            Ok(b'a') => exit(0),
            Ok(_) => {}
            Err(_) => exit(1),
        }
    }
}

fn shell_status(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    (code & 0xff) as u8
}

// ---------------------------------------------------------------------------------------------
// What changed among the files

/// Every regular file under a directory, with what its change would alter.
type Survey = BTreeMap<String, (u64, i64, i64, u32)>;

fn survey(root: &Path) -> io::Result<Survey> {
    let mut found = Survey::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_dir() {
                waiting.push(path);
            } else if meta.is_file() {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                // The change time cannot be set by the command, unlike the modification time.
                found.insert(
                    name,
                    (meta.size(), meta.ctime(), meta.ctime_nsec(), meta.mode()),
                );
            }
        }
    }
    Ok(found)
}

/// Writes `changed` and `new` to the control directory: one line per file, its mode, size and name.
fn write_changes(ctl: &Path, before: &Survey, after: &Survey) -> io::Result<()> {
    let (mut changed, mut new) = (String::new(), String::new());
    for (name, state) in after {
        let list = match before.get(name) {
            Some(old) if old == state => continue,
            Some(_) => &mut changed,
            None => &mut new,
        };
        list.push_str(&format!("{:o} {} {name}\n", state.3 & 0o777, state.0));
    }
    fs::write(ctl.join("changed"), changed)?;
    fs::write(ctl.join("new"), new)
}

// ---------------------------------------------------------------------------------------------
// Instruction and exit counts

/// Reads of the time-stamp counter at the moments of a command's life.
///
/// Under `-icount shift=0` QEMU advances its virtual clock by one nanosecond per instruction, and
/// the emulated counter *is* that clock: a difference of two reads is the number of instructions
/// between them, exact to the instruction and for the price of one. A clock of the kernel would add
/// a system call and the error of its calibration. An idle processor makes the virtual clock jump
/// to the next timer, so sleeping counts as well.
struct Clock {
    line: String,
    started: u64,
    first_byte: Option<u64>,
    line_seen: Option<u64>,
    ended: Option<u64>,
    /// Output since the last line break, for a line that arrives in pieces.
    tail: Vec<u8>,
}

impl Clock {
    fn new(line: Option<String>) -> Self {
        Self {
            line: line.unwrap_or_default(),
            started: time_stamp(),
            first_byte: None,
            line_seen: None,
            ended: None,
            tail: Vec::new(),
        }
    }

    fn output(&mut self, bytes: &[u8]) {
        let now = time_stamp();
        self.first_byte.get_or_insert(now);
        if self.line.is_empty() || self.line_seen.is_some() {
            return;
        }
        self.tail.extend_from_slice(bytes);
        if String::from_utf8_lossy(&self.tail).contains(&self.line) {
            self.line_seen = Some(now);
        }
        if let Some(end) = self.tail.iter().rposition(|byte| *byte == b'\n') {
            self.tail.drain(..=end);
        }
    }

    fn ended(&mut self) {
        self.ended = Some(time_stamp());
    }

    fn report(&self) -> String {
        let row = |moment: Option<u64>, name: &str| match moment {
            Some(at) => format!(
                "{:>12.3}  {name}\n",
                at.saturating_sub(self.started) as f64 / 1e6
            ),
            None => format!("{:>12}  {name}\n", "never"),
        };
        let mut text = String::from("million instructions until\n");
        text += &row(self.first_byte, "first output byte");
        if !self.line.is_empty() {
            text += &row(self.line_seen, &format!("output has {:?}", self.line));
        }
        text + &row(self.ended, "exit")
    }
}

/// Exit counts of the virtual machines the command makes.
///
/// KVM sums its counters over the machines that live, so after a command they are all back at zero.
/// An open counter file keeps its machine from being destroyed, however: we open them as soon as
/// KVM has made the machine's directory (inotify tells us) and read them when the command has
/// ended. The price is that the machine's destruction is not part of the command's time.
struct ExitCounts(Arc<Mutex<Vec<(String, File)>>>);

const KVM_DEBUG: &str = "/sys/kernel/debug/kvm";

impl ExitCounts {
    fn watch() -> Self {
        let held = Arc::new(Mutex::new(Vec::new()));
        let counters = held.clone();
        // SAFETY: both calls return a descriptor or -1; the path is a C string.
        let notify = unsafe {
            let notify = inotify_init1(0);
            inotify_add_watch(notify, c"/sys/kernel/debug/kvm".as_ptr(), IN_CREATE);
            notify
        };
        thread::spawn(move || {
            // SAFETY: the descriptor was made above and nobody else owns it.
            let mut events = unsafe { File::from_raw_fd(notify) };
            let mut buffer = [0; 4096];
            while events.read(&mut buffer).is_ok() {
                // The directory is announced before its files exist.
                thread::sleep(Duration::from_millis(1));
                let mut held = counters.lock().unwrap();
                for directory in fs::read_dir(KVM_DEBUG).into_iter().flatten().flatten() {
                    let machine = directory.path();
                    let name = directory.file_name().to_string_lossy().into_owned();
                    if !machine.is_dir()
                        || held
                            .iter()
                            .any(|(path, _): &(String, File)| path.starts_with(&format!("{name}/")))
                    {
                        continue;
                    }
                    for file in fs::read_dir(&machine).into_iter().flatten().flatten() {
                        if let (true, Ok(open)) = (file.path().is_file(), File::open(file.path())) {
                            held.push((
                                format!("{name}/{}", file.file_name().to_string_lossy()),
                                open,
                            ));
                        }
                    }
                }
            }
        });
        Self(held)
    }

    fn report(&self) -> String {
        let mut held = self.0.lock().unwrap();
        held.sort_by(|a, b| a.0.cmp(&b.0));
        let mut text = String::from("KVM counters that are not zero\n");
        for (name, file) in held.iter_mut() {
            let mut value = String::new();
            if file.read_to_string(&mut value).is_ok()
                && !matches!(value.trim(), "0" | "")
                && !value.trim().contains('\n')
            {
                text += &format!("{:>12}  {name}\n", value.trim());
            }
        }
        text
    }
}

// ---------------------------------------------------------------------------------------------
// System calls that std does not offer

#[repr(C)]
#[derive(Default)]
struct WindowSize {
    rows: u16,
    columns: u16,
    x_pixels: u16,
    y_pixels: u16,
}

impl WindowSize {
    /// Reads what `stty size` prints.
    fn parse(text: &str) -> Self {
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        let (rows, columns) = (numbers.next().unwrap_or(24), numbers.next().unwrap_or(80));
        Self {
            rows,
            columns,
            ..Self::default()
        }
    }
}

// Linux include/uapi/asm-generic/ioctls.h, signal.h and include/uapi/linux/inotify.h, x86-64.
const TIOCSCTTY: u64 = 0x540E;
const TIOCGWINSZ: u64 = 0x5413;
const TIOCSWINSZ: u64 = 0x5414;
const TIOCGPTN: u64 = 0x8004_5430;
const TIOCSPTLCK: u64 = 0x4004_5431;
const SIGKILL: i32 = 9;
const IN_CREATE: u32 = 0x100;

unsafe extern "C" {
    fn ioctl(fd: i32, request: u64, ...) -> i32;
    fn setsid() -> i32;
    fn kill(pid: i32, signal: i32) -> i32;
    fn inotify_init1(flags: i32) -> i32;
    fn inotify_add_watch(fd: i32, path: *const std::ffi::c_char, mask: u32) -> i32;
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn time_stamp() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// A descriptor this process was started with, as an unbuffered file.
fn raw(fd: i32) -> File {
    // SAFETY: 0, 1 and 2 were opened by whoever started us, and each is taken over once.
    unsafe { File::from_raw_fd(fd) }
}
