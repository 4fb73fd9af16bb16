//! The event loop: the one thread besides the vCPUs.
//!
//! It waits for five things with one poll(2): typed bytes, room for printed ones, room for
//! cottage's own words, signals, and the machine's own wake-up ([`Control`]). Bytes the guest
//! prints do not pass through here unless their reader is slow.
//!
//! ```text
//!   stdin ──▶ keys for cottage? ──▶ input (bounded) ──▶ SerialPort, or the virtio console ──▶ guest
//!   guest ──▶ SerialPort, virtio console ──▶ Output ──▶ stdout
//!                              └─ backlog, drained here
//! ```
//!
//! Read next: [`crate::status`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::console::coding;
use crate::console::escape::{Command, HELP, KeyFilter};
use crate::console::output::Output;
use crate::console::signals::{Event, Signals, stop_self};
use crate::console::terminal;
use crate::console::words::Words;
use crate::control::Control;
use crate::devices::Pins;
use crate::devices::report::{MARK_HANDED_OVER, MARK_READY, MarkPort};
use crate::devices::serial::SerialPort;
use crate::memory::layout::COM1_GSI;
use crate::outcome::Ending;
use crate::timeline::Timeline;
use crate::virtio::console::Port;

/// Piped bytes that wait for the guest; beyond it stdin is not read, and whoever writes it waits.
const MAX_PIPED: usize = 16 << 10; // 16 KiB
/// The same for a terminal. Large, because Ctrl-A x must be seen behind a paste that the guest
/// does not read.
const MAX_TYPED: usize = 1 << 20; // 1 MiB
/// After this many bytes the guest gets a pause.
const BURST: usize = 4 << 10; // 4 KiB
/// Its length. The guest's driver runs in interrupts; the work that lets it lower RTS, flow
/// control, does not, and 64 KiB without any would overflow Linux's buffers.
const PAUSE: Duration = Duration::from_millis(1);
/// Ctrl-D: what ends a terminal's input.
const END_OF_TRANSMISSION: u8 = 0x04;

/// What the end of stdin looks like to the guest, and when it may be given input at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEnd {
    /// Our init: input waits for its ready mark, the end is a serial break or [`coding::END`]. It
    /// may hand over to another, without ever being ready.
    OurInit,
    /// Any other guest: input waits for its console's driver, the end is Ctrl-D.
    Foreign,
}

/// The parts of the machine the loop serves.
#[derive(Debug)]
pub struct Served {
    /// The serial port: the console, or what stands in for it until its driver is there.
    pub serial: Arc<SerialPort>,
    /// The virtio console, if that is the user's.
    pub port: Option<Port>,
    /// The console's output.
    pub output: Arc<Output>,
    /// Wake-ups and the end.
    pub control: Arc<Control>,
    /// Tells when our init is ready.
    pub marks: Arc<MarkPort>,
    /// Who is at the other end of the line.
    pub guest: GuestEnd,
}

impl Served {
    /// The serial port as console, printing to stdout.
    pub fn new(
        pins: &Arc<dyn Pins>,
        guest: GuestEnd,
        control: &Arc<Control>,
        timeline: &Arc<Timeline>,
    ) -> Self {
        let output = Arc::new(Output::stdout(timeline.clone()));
        let serial = SerialPort::new(pins.clone(), COM1_GSI, output.clone(), control.clone());
        Self {
            serial: Arc::new(serial),
            port: None,
            output,
            control: control.clone(),
            marks: Arc::new(MarkPort::new(timeline.clone(), control.clone())),
            guest,
        }
    }

    /// Gives bytes to the guest; returns how many it took.
    fn receive(&self, bytes: &[u8]) -> usize {
        match &self.port {
            Some(port) => port.receive(bytes),
            None => self.serial.receive(bytes),
        }
    }

    /// The output has room again.
    fn resume_output(&self) {
        self.serial.resume_output();
        if let Some(port) = &self.port {
            port.resume_output();
        }
    }
}

/// The loop's state.
#[derive(Debug)]
pub struct EventLoop<'a> {
    served: &'a Served,
    signals: Signals,
    keys: Option<KeyFilter>,
    input: VecDeque<u8>,
    stdin_open: bool,
    end_signs: u8,
    burst: usize,
    output_fd: OwnedFd,
    words: Words,
}

/// What poll(2) found.
#[derive(Debug, Default)]
struct Ready {
    stdin: bool,
    signal: bool,
    output: bool,
    words: bool,
}

impl<'a> EventLoop<'a> {
    /// A loop that reads stdin; keys for cottage are looked for if a person types them.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(served: &'a Served, signals: Signals) -> io::Result<Self> {
        Ok(Self {
            served,
            signals,
            keys: terminal::is_interactive().then(KeyFilter::default),
            input: VecDeque::new(),
            stdin_open: true,
            end_signs: 0,
            burst: 0,
            output_fd: served.output.poll_fd()?,
            words: Words::default(),
        })
    }

    /// Runs until the machine has ended. `status_line` makes what `Ctrl-A s` prints.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn run(&mut self, status_line: &dyn Fn() -> String) -> io::Result<Ending> {
        loop {
            self.served.control.acknowledge();
            if let Some(ending) = self.served.control.take_ending() {
                self.flush(&ending);
                return Ok(ending);
            }
            self.deliver();
            let ready = self.wait()?;
            if ready.output {
                self.served.output.drain();
                self.served.resume_output();
                if self.served.output.lost().is_some() {
                    self.served.control.stop(Ending::OutputLost);
                }
            }
            if ready.words {
                self.words.drain();
            }
            if ready.signal {
                self.handle_signals();
            }
            if ready.stdin && !self.served.control.input_held() {
                self.read_stdin(status_line);
            }
        }
    }

    /// Gives the guest what it takes.
    fn deliver(&mut self) {
        let Some(guest) = self.listener() else {
            return;
        };
        if self.burst >= BURST && self.served.port.is_none() {
            std::thread::sleep(PAUSE);
            self.burst = 0;
        }
        // Until nothing is taken: only then does the port know that somebody waits for room. (The
        // queue's first slice may be all that was asked for and yet not all there is.)
        while !self.input.is_empty() {
            let taken = self.served.receive(self.input.as_slices().0);
            if taken == 0 {
                break;
            }
            self.input.drain(..taken);
            self.burst += taken;
        }
        if self.input.is_empty() && !self.stdin_open {
            self.signal_end(guest);
        }
    }

    /// Who listens at the other end by now.
    fn listener(&self) -> Option<GuestEnd> {
        let Served { marks, guest, .. } = self.served;
        match guest {
            GuestEnd::OurInit if marks.reached(MARK_READY) => Some(GuestEnd::OurInit),
            GuestEnd::OurInit if !marks.reached(MARK_HANDED_OVER) => None,
            _ => Some(GuestEnd::Foreign),
        }
    }

    /// Tells the guest that stdin has ended, as far as it takes the signs of it now.
    fn signal_end(&mut self, guest: GuestEnd) {
        if self.is_coded() {
            return;
        }
        let served = self.served;
        let (signs, send): (u8, &dyn Fn() -> bool) = match guest {
            // Two, because a kernel with CONFIG_MAGIC_SYSRQ_SERIAL keeps the first break on a
            // console for itself. Our init ignores what comes after the end.
            GuestEnd::OurInit if served.port.is_none() => (2, &|| served.serial.receive_break()),
            _ => (1, &|| served.receive(&[END_OF_TRANSMISSION]) == 1),
        };
        while self.end_signs < signs && send() {
            self.end_signs += 1;
        }
    }

    /// Whether the guest's input is [`coding`]'s, with the end in it.
    fn is_coded(&self) -> bool {
        let our_init = self.listener() == Some(GuestEnd::OurInit);
        self.served.port.is_some() && our_init && self.keys.is_none()
    }

    fn wait(&self) -> io::Result<Ready> {
        let max_input = if self.keys.is_some() {
            MAX_TYPED
        } else {
            MAX_PIPED
        };
        // A pipe at a virtio console is read when it is known who listens: it may have to be coded.
        let early = self.served.port.is_some() && self.keys.is_none() && self.listener().is_none();
        let ours = self.stdin_open && !self.served.control.input_held();
        let read_stdin = ours && !early && self.input.len() < max_input;
        let stdin = read_stdin.then(rustix::stdio::stdin);
        let write_output = self.served.output.waiting();
        let output = write_output.then(|| self.output_fd.as_fd());
        let words = self.words.waiting_for();
        // What is not waited for must be left out, or a closed stdin would report its end for ever:
        // the wake-up stands in its place.
        let wake = self.served.control.wake_fd();
        let or_wake = |fd: Option<_>, flags| match fd {
            Some(fd) => PollFd::from_borrowed_fd(fd, flags),
            None => PollFd::from_borrowed_fd(wake, PollFlags::IN),
        };
        let mut fds = [
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN),
            or_wake(stdin, PollFlags::IN),
            or_wake(output, PollFlags::OUT),
            or_wake(words, PollFlags::OUT),
        ];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [_, signal, typed, room, words_room] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            signal,
            stdin: stdin.is_some() && typed,
            output: output.is_some() && room,
            words: words.is_some() && words_room,
        })
    }

    fn read_stdin(&mut self, status_line: &dyn Fn() -> String) {
        let mut buffer = [0; 4096];
        let typed = match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => &[],
            Ok(n) => buffer.get(..n).unwrap_or(&[]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return,
            // EIO: the terminal hung up, or we are in the background of an orphaned session.
            // EBADF: started without stdin. Nothing will ever come.
            Err(_) => &[],
        };
        if typed.is_empty() {
            self.stdin_open = false;
            if self.is_coded() {
                self.input.extend(coding::END);
            }
            return;
        }
        let commands = match &mut self.keys {
            Some(keys) => keys.sort(typed, &mut self.input),
            None => {
                if self.is_coded() {
                    coding::encode(typed, &mut self.input);
                } else {
                    self.input.extend(typed);
                }
                Vec::new()
            }
        };
        for command in commands {
            match command {
                Command::Quit => self.served.control.stop(Ending::Quit),
                Command::Help => self.words.say(HELP),
                Command::Status => self.words.say(&status_line()),
            }
        }
    }

    fn handle_signals(&mut self) {
        while let Some(event) = self.signals.read() {
            match event {
                Event::End(number) => self.served.control.stop(Ending::Signal(number)),
                Event::Stop => {
                    let raw = terminal::is_raw();
                    terminal::restore();
                    stop_self();
                    // Continued: SIGCONT is pending too and finds nothing left to do.
                    if raw {
                        let _no_terminal_now = terminal::set_raw();
                    }
                    self.resize();
                }
                // Stopped by SIGSTOP, behind our back: the shell has reset the terminal.
                Event::Continue => {
                    if terminal::is_raw() {
                        let _no_terminal_now = terminal::set_raw();
                    }
                    self.resize();
                }
                Event::Resize => self.resize(),
            }
        }
    }

    /// Tells the guest how large the terminal is; a serial line cannot.
    fn resize(&self) {
        if let (Some(port), Some((rows, columns))) = (&self.served.port, terminal::window_size()) {
            port.resize(rows, columns);
        }
    }

    /// Writes out what the guest printed before it ended.
    ///
    /// As long as there is a reader it is waited for, as any program would: a slow pager must see
    /// the end. Signals and Ctrl-A x end the waiting.
    fn flush(&mut self, ending: &Ending) {
        let patient = !matches!(ending, Ending::Quit | Ending::Signal(_));
        loop {
            self.served.resume_output();
            self.words.drain();
            if self.served.output.drain() || !patient {
                return;
            }
            self.served
                .output
                .wait(&to_timespec(Duration::from_millis(100)));
            if matches!(self.signals.read(), Some(Event::End(_))) {
                return;
            }
        }
    }
}

fn to_timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or_default()
}
