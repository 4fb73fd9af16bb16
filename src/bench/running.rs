//! A run under way: its output is read, its end awaited, a signal to this process heeded.
//!
//! Read next: [`super::rounds`].

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;

use regex_lite::Regex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::subject::{Error, Watch};
use crate::console::signals::{Event, Signals, stop_self};
use crate::timeline::child::{MeasuredChild, MeasuredRun, exit_code};
use crate::timeline::{Nanos, now};

/// A line is matched up to this length; a stream without line feeds must not fill memory.
const MAX_LINE: usize = 4096;
/// What is kept of stderr, for the message if the run fails.
const MAX_ERRORS: usize = 2048;
/// Pieces read from a stream before all others are looked at again.
const MAX_PIECES: usize = 16;
/// How long a process that is asked to end may take, before it is killed.
const GRACE: Nanos = 2_000_000_000;

/// The process, by what is known of it.
#[derive(Debug)]
pub(super) enum Process {
    /// cottage, which tells its instants.
    Cottage(MeasuredChild),
    /// Any other.
    Other {
        /// The process.
        process: Child,
        /// Just before it was spawned.
        spawned: Nanos,
    },
}

impl Process {
    fn child(&mut self) -> &mut Child {
        match self {
            Self::Cottage(child) => &mut child.process,
            Self::Other { process, .. } => process,
        }
    }

    fn spawned(&self) -> Nanos {
        match self {
            Self::Cottage(child) => child.spawned,
            Self::Other { spawned, .. } => *spawned,
        }
    }

    /// Waits for its end: when, its status, and what cottage told.
    fn wait(self) -> Result<(Nanos, u8, Option<MeasuredRun>), Error> {
        match self {
            Self::Cottage(child) => {
                let run = child.wait()?;
                Ok((run.gone, run.exit_code(), Some(run)))
            }
            Self::Other { mut process, .. } => {
                let status = process.wait().map_err(Error::Watch)?;
                Ok((now(), exit_code(status), None))
            }
        }
    }
}

/// Why watching ended before the process did.
pub(super) enum Interrupt {
    /// A signal asks this process to end.
    Signal(u8),
    /// The time is up.
    Late,
    /// The host refused something.
    Host(io::Error),
}

impl From<rustix::io::Errno> for Interrupt {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Host(errno.into())
    }
}

/// A run under way.
#[derive(Debug)]
pub(super) struct Running {
    process: Process,
    spawned: Nanos,
    output: Option<File>,
    errors: Option<File>,
    /// The line of output so far.
    line: Vec<u8>,
    /// The end of stderr.
    said: Vec<u8>,
    first_output: Option<Nanos>,
    matched: Option<Nanos>,
    /// This process was stopped meanwhile.
    stopped: bool,
}

impl Running {
    /// Takes over a process that was just spawned with pipes for stdout and stderr.
    pub(super) fn new(mut process: Process) -> io::Result<Self> {
        let child = process.child();
        let streams = (child.stdout.take(), child.stderr.take());
        let output = streams.0.map(|pipe| File::from(OwnedFd::from(pipe)));
        let errors = streams.1.map(|pipe| File::from(OwnedFd::from(pipe)));
        for pipe in output.iter().chain(&errors) {
            fcntl_setfl(pipe, OFlags::NONBLOCK)?;
        }
        Ok(Self {
            spawned: process.spawned(),
            process,
            output,
            errors,
            line: Vec::new(),
            said: Vec::new(),
            first_output: None,
            matched: None,
            stopped: false,
        })
    }

    /// Just before it was spawned.
    pub(super) fn spawned(&self) -> Nanos {
        self.spawned
    }

    /// When its first byte of output came, and its first line that matched.
    pub(super) fn output(&self) -> (Option<Nanos>, Option<Nanos>) {
        (self.first_output, self.matched)
    }

    /// The end of its stderr.
    pub(super) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    /// Whether this process was stopped meanwhile.
    pub(super) fn was_stopped(&self) -> bool {
        self.stopped
    }

    /// Waits for its end: when, its status, and what cottage told.
    pub(super) fn wait(self) -> Result<(Nanos, u8, Option<MeasuredRun>), Error> {
        self.process.wait()
    }

    fn pid(&mut self) -> Option<Pid> {
        i32::try_from(self.process.child().id())
            .ok()
            .and_then(Pid::from_raw)
    }

    /// Reads its output until it has ended.
    pub(super) fn watch(&mut self, watch: &Watch, signals: &mut Signals) -> Result<(), Interrupt> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let end = pidfd_open(pid, PidfdFlags::empty())?;
        loop {
            let left = (self.spawned + watch.limit).checked_sub(now());
            let left = left.ok_or(Interrupt::Late)?;
            let ready = self.poll(&end, signals, left)?;
            if ready.output {
                self.read_output(watch.until.as_ref());
            }
            if ready.errors {
                self.read_errors();
            }
            if ready.signals {
                self.take_signals(signals)?;
            }
            if ready.ended {
                // What it printed last may have come after the look at the pipe. The pipe's end
                // need not come: others may hold it.
                self.read_output(watch.until.as_ref());
                self.read_errors();
                return Ok(());
            }
        }
    }

    fn poll(&self, end: &OwnedFd, signals: &Signals, left: Nanos) -> Result<Ready, Interrupt> {
        // A stream that has ended would be ready for ever; the process stands in for it.
        let output = self.output.as_ref().map_or(end.as_fd(), AsFd::as_fd);
        let errors = self.errors.as_ref().map_or(end.as_fd(), AsFd::as_fd);
        let mut fds = [
            PollFd::new(end, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(output, PollFlags::IN),
            PollFd::from_borrowed_fd(errors, PollFlags::IN),
        ];
        let timeout = Timespec {
            tv_sec: i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(left % 1_000_000_000).unwrap_or(0),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [ended, signals, output, errors] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            ended,
            signals,
            output,
            errors,
        })
    }

    fn read_output(&mut self, until: Option<&Regex>) {
        let mut piece = [0; 4096];
        // Not until it is empty: one that prints for ever must not hide the clock and the signals.
        for _ in 0..MAX_PIECES {
            let Some(n) = read(&mut self.output, &mut piece) else {
                return;
            };
            let at = now();
            self.first_output.get_or_insert(at);
            let Some(until) = until.filter(|_| self.matched.is_none()) else {
                continue;
            };
            for byte in piece.get(..n).unwrap_or(&[]) {
                if *byte == b'\n' {
                    self.match_line(until, at);
                    self.line.clear();
                } else if self.line.len() < MAX_LINE {
                    self.line.push(*byte);
                }
            }
            // A prompt has no line feed.
            self.match_line(until, at);
        }
    }

    fn match_line(&mut self, until: &Regex, at: Nanos) {
        let line = String::from_utf8_lossy(&self.line);
        if self.matched.is_none() && until.is_match(line.trim_end_matches('\r')) {
            self.matched = Some(at);
        }
    }

    fn read_errors(&mut self) {
        let mut piece = [0; 4096];
        for _ in 0..MAX_PIECES {
            let Some(n) = read(&mut self.errors, &mut piece) else {
                return;
            };
            self.said.extend_from_slice(piece.get(..n).unwrap_or(&[]));
            let excess = self.said.len().saturating_sub(MAX_ERRORS);
            self.said.drain(..excess);
        }
    }

    fn take_signals(&mut self, signals: &mut Signals) -> Result<(), Interrupt> {
        while let Some(event) = signals.read() {
            match event {
                Event::End(number) => return Err(Interrupt::Signal(number)),
                Event::Stop => {
                    stop_self();
                    self.stopped = true;
                }
                Event::Continue | Event::Resize => {}
            }
        }
        Ok(())
    }

    /// Ends the process and whatever it has started, first gently.
    pub(super) fn end(&mut self, signals: &mut Signals) {
        let Some(pid) = self.pid() else { return };
        let _gone_already = kill_process_group(pid, Signal::TERM);
        let patient = Watch {
            until: None,
            limit: now() - self.spawned + GRACE,
            any_status: true,
        };
        if self.watch(&patient, signals).is_err() {
            let _gone_already = kill_process_group(pid, Signal::KILL);
        }
        let _reaped = self.process.child().wait();
    }
}

/// Which of the descriptors have something.
struct Ready {
    ended: bool,
    signals: bool,
    output: bool,
    errors: bool,
}

/// Reads what is there; `None` if nothing is, and then, if it has ended, there is no stream left.
fn read(stream: &mut Option<File>, piece: &mut [u8]) -> Option<usize> {
    match stream.as_mut()?.read(piece) {
        Ok(0) => {
            *stream = None;
            None
        }
        Ok(n) => Some(n),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(_) => {
            *stream = None;
            None
        }
    }
}
