//! A terminal with a user at it: a pty, what appeared on it, and keys to type.
//!
//! The program gets a session of its own with the pty as its controlling terminal, as under a shell.
//! [`Terminal::ends_with`] compares the terminal's settings with those before, after every run.
//!
//! Source: pty(7), ioctl_tty(2).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Termios, Winsize};
use rustix::termios::{tcgetattr, tcsetattr, tcsetwinsize};

use super::program::LIMIT;

/// Between two looks at something that will come.
const PAUSE: Duration = Duration::from_millis(10);
/// The reading thread asks that often whether it is still needed.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// The terminal, and the program that runs on it.
pub(crate) struct Terminal {
    master: Arc<File>,
    tty: OwnedFd,
    before: Termios,
    seen: Arc<Mutex<Vec<u8>>>,
    /// Whether the user does not look, so that nothing is read.
    away: Arc<AtomicBool>,
    /// How far [`Self::wait_for`] has come in `seen`.
    cursor: usize,
    child: Option<Child>,
}

impl Terminal {
    /// A terminal of 33 rows and 99 columns.
    pub(crate) fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let tty = rustix::fs::open(path.as_c_str(), flags, Mode::empty()).unwrap();
        let size = Winsize {
            ws_row: 33,
            ws_col: 99,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&tty, size).unwrap();
        let before = tcgetattr(&tty).unwrap();
        let terminal = Self {
            master: Arc::new(File::from(master)),
            tty,
            before,
            seen: Arc::default(),
            away: Arc::default(),
            cursor: 0,
            child: None,
        };
        terminal.look();
        terminal
    }

    /// Opens a terminal and starts `command` with all three streams on it.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut terminal = Self::open();
        command.stdin(terminal.tty());
        command.stdout(terminal.tty());
        command.stderr(terminal.tty());
        terminal.start(command);
        terminal
    }

    /// The terminal as a stream for [`Self::start`].
    pub(crate) fn tty(&self) -> Stdio {
        self.tty.try_clone().unwrap().into()
    }

    /// Starts `command`, whose streams are set, in a session that has this terminal.
    #[expect(unsafe_code, reason = "only between fork and exec can a session begin")]
    pub(crate) fn start(&mut self, mut command: Command) {
        let tty = self.tty.try_clone().unwrap();
        let take_terminal = move || {
            rustix::process::setsid()?;
            Ok(rustix::process::ioctl_tiocsctty(tty.as_fd())?)
        };
        // SAFETY: the closure makes two system calls and neither allocates nor locks.
        unsafe { command.pre_exec(take_terminal) };
        self.child = Some(command.spawn().unwrap());
    }

    /// The running program.
    pub(crate) fn child(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }

    /// Types `keys`; they are at most what the terminal holds, 4 KiB.
    pub(crate) fn type_keys(&self, keys: &[u8]) {
        (&*self.master).write_all(keys).unwrap();
    }

    /// Types any amount, as fast as it is taken, while the test goes on.
    pub(crate) fn paste(&self, text: Vec<u8>) {
        let master = self.master.clone();
        // If the program ends before all is pasted, the test says so.
        std::thread::spawn(move || (&*master).write_all(&text));
    }

    /// Makes the terminal's window another size, which the program is told by SIGWINCH.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.tty, size).unwrap();
    }

    /// Looks away until the guard is dropped: what appears fills the terminal and then waits.
    pub(crate) fn look_away(&self) -> LookingAway {
        self.away.store(true, Ordering::SeqCst);
        LookingAway(self.away.clone())
    }

    /// Waits until `text` appears after what the last call found.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        let wanted = text.as_bytes();
        let found = wait(|| {
            let seen = self.seen.lock().unwrap();
            let at = find(&seen[self.cursor..], wanted)?;
            Some(self.cursor + at + wanted.len())
        });
        let Some(end) = found else {
            panic!("no {text:?} on the terminal:\n{}", self.text());
        };
        self.cursor = end;
    }

    /// Everything that appeared so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits until the terminal is raw.
    #[track_caller]
    pub(crate) fn wait_raw(&self) {
        assert!(
            wait(|| self.is_raw().then_some(())).is_some(),
            "never raw: {:?}",
            self.settings()
        );
    }

    /// Waits until the settings are those from before the program started.
    #[track_caller]
    pub(crate) fn wait_restored(&self) {
        let restored = wait(|| (text_of(&self.settings()) == text_of(&self.before)).then_some(()));
        assert!(restored.is_some(), "never restored: {:?}", self.settings());
    }

    /// Puts the settings back to those before the program started, as a shell does.
    pub(crate) fn reset(&self) {
        tcsetattr(&self.tty, OptionalActions::Now, &self.before).unwrap();
    }

    /// Waits until the program is stopped.
    #[track_caller]
    pub(crate) fn wait_stopped(&self) {
        let stopped = wait(|| {
            let stat = std::fs::read_to_string(self.proc("stat")).ok()?;
            stat.contains(") T ").then_some(())
        });
        assert!(stopped.is_some(), "never stopped:\n{}", self.text());
    }

    /// Sends the program a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Hangs up, as a closed window does.
    pub(crate) fn hang_up(mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        // Dropped here and, at its next look, by the reading thread: then the kernel hangs up.
        drop(self);
        exit_code(&mut child).unwrap()
    }

    /// Waits for the end of the program: its exit status is `code`, the settings are as before.
    #[track_caller]
    pub(crate) fn ends_with(&mut self, code: i32) {
        let mut child = self.child.take().unwrap();
        let Some(found) = exit_code(&mut child) else {
            self.child = Some(child);
            panic!("the program hangs; terminal:\n{}", self.text());
        };
        // What it said last may still be on its way through the pty.
        std::thread::sleep(PAUSE * 5);
        assert_eq!(found, code, "terminal:\n{}", self.text());
        assert_eq!(text_of(&self.settings()), text_of(&self.before));
    }

    /// Resident memory of the program in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        resident_kib(&self.proc("status"))
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid().as_raw_nonzero())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.tty).unwrap()
    }

    fn is_raw(&self) -> bool {
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        !self.settings().local_modes.intersects(cooked)
    }

    /// Starts the thread that sees what appears, until the last program has closed the terminal.
    fn look(&self) {
        let (master, away) = (self.master.clone(), self.away.clone());
        let seen = Arc::downgrade(&self.seen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Some(seen) = seen.upgrade() {
                if away.load(Ordering::SeqCst) {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                let mut fds = [PollFd::new(&*master, PollFlags::IN)];
                if poll(&mut fds, Some(&LOOK)).unwrap() == 0 {
                    continue;
                }
                let Ok(n) = (&*master).read(&mut buffer) else {
                    return;
                };
                seen.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
    }
}

/// As long as this lives, nobody looks at the terminal.
pub(crate) struct LookingAway(Arc<AtomicBool>);

impl Drop for LookingAway {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Drop for Terminal {
    /// Leaves no guest behind when a test fails.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// `VmRSS` of a `/proc/PID/status` file, in KiB.
pub(crate) fn resident_kib(status: &str) -> u64 {
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

/// The exit status of `child`, 128 + n for signal n; `None` if it hangs.
pub(crate) fn exit_code(child: &mut Child) -> Option<i32> {
    let status = wait(|| child.try_wait().unwrap())?;
    status.code().or(status.signal().map(|signal| 128 + signal))
}

/// Asks again and again until there is an answer or the time is up.
pub(crate) fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if start.elapsed() > LIMIT {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}

fn text_of(settings: &Termios) -> String {
    format!("{settings:?}")
}
