//! What is measured, and one run of it on the clock.
//!
//! The clock is this process's, from just before the subject is spawned: to the arrival of its
//! output in this process's pipe, and to the moment it was found gone. That is the same for every
//! subject; what cottage tells of itself (its instants and VM exits) comes on top.
//! Read next: [`super::rounds`].

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use regex_lite::Regex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::console::signals::{Event, Signals, stop_self};
use crate::timeline::child::{self, MeasuredChild, MeasuredRun, exit_code};
use crate::timeline::{Nanos, now};

/// A line is matched up to this length; a stream without line feeds must not fill memory.
const MAX_LINE: usize = 4096;
/// What is kept of stderr, for the message if the run fails.
const MAX_ERRORS: usize = 2048;
/// Pieces read from a stream before all others are looked at again.
const MAX_PIECES: usize = 16;
/// How long a process that is asked to end may take, before it is killed.
const GRACE: Nanos = 2_000_000_000;

/// A program that is run again and again.
#[derive(Clone, Debug)]
pub enum Subject {
    /// cottage with these flags of `run`; it tells its instants.
    Cottage {
        /// The program file.
        program: PathBuf,
        /// Its flags.
        words: Vec<OsString>,
    },
    /// Any other program.
    Other(Vec<String>),
}

/// How each run is watched.
#[derive(Debug)]
pub struct Watch {
    /// Output to wait for, a line of it at a time.
    pub until: Option<Regex>,
    /// How long a run may take.
    pub limit: Nanos,
    /// Whether a status other than 0 is a success.
    pub any_status: bool,
}

/// One run. Times are nanoseconds from spawn.
#[derive(Clone, Debug)]
pub struct Sample {
    /// First byte on stdout.
    pub first_output: Option<Nanos>,
    /// First line of it that matched.
    pub matched: Option<Nanos>,
    /// Process gone.
    pub gone: Nanos,
    /// What cottage told of itself.
    pub run: Option<MeasuredRun>,
}

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program did not start.
    #[error("Cannot start {name}")]
    Start {
        /// As [`Subject::name`].
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// cottage's own record cannot be had.
    #[error(transparent)]
    Child(#[from] child::Error),
    /// It failed.
    #[error(
        "{name} ended with status {status}, so its times would mean nothing \
         (--any-status takes them all the same){said}"
    )]
    Status {
        /// As [`Subject::name`].
        name: String,
        /// As a shell has it.
        status: u8,
        /// The end of its stderr, or empty.
        said: String,
    },
    /// What was waited for did not come.
    #[error("{name} ended without a line of output that matches --until {pattern:?}{said}")]
    NoMatch {
        /// As [`Subject::name`].
        name: String,
        /// The pattern.
        pattern: String,
        /// The end of its stderr, or empty.
        said: String,
    },
    /// It ran on.
    #[error("{name} did not end within {seconds} s (--timeout) and was stopped")]
    Late {
        /// As [`Subject::name`].
        name: String,
        /// The limit.
        seconds: u64,
    },
    /// A signal asked this process to end.
    #[error("signal {0}")]
    Signal(u8),
    /// The host does not let it be watched.
    #[error("Cannot watch a run")]
    Watch(#[source] io::Error),
}

impl Subject {
    /// The command line, to be read.
    pub fn name(&self) -> String {
        match self {
            Self::Cottage { words, .. } => {
                let words = words.iter().map(|word| quote(&word.to_string_lossy()));
                let words: Vec<_> = words.collect();
                format!("cottage run {}", words.join(" "))
            }
            Self::Other(words) => {
                let words: Vec<_> = words.iter().map(|word| quote(word)).collect();
                words.join(" ")
            }
        }
    }

    /// Runs it once; `memory` has cottage look at its memory, which makes the run longer.
    ///
    /// # Errors
    /// [`Error`]; the process and its group have ended by then.
    pub fn run(&self, watch: &Watch, memory: bool, signals: &mut Signals) -> Result<Sample, Error> {
        loop {
            let mut running = self.start(memory)?;
            let seen = running.watch(watch, signals);
            if let Err(error) = seen {
                running.end(signals);
                return Err(match error {
                    Interrupt::Signal(number) => Error::Signal(number),
                    Interrupt::Late => Error::Late {
                        name: self.name(),
                        seconds: watch.limit / 1_000_000_000,
                    },
                    Interrupt::Host(source) => Error::Watch(source),
                });
            }
            if !running.stopped {
                return self.judge(running, watch);
            }
            // Ctrl-Z in the midst of it: the time is no measure of anything.
            running.end(signals);
        }
    }

    fn start(&self, memory: bool) -> Result<Running, Error> {
        let configure = |command: &mut Command| {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                // A group of its own, so that whatever it starts can be ended with it.
                .process_group(0);
        };
        let mut process = match self {
            Self::Cottage { program, words } => {
                Process::Cottage(MeasuredChild::spawn(program, words, memory, configure)?)
            }
            Self::Other(words) => {
                let mut words = words.iter();
                let mut command = Command::new(words.next().map_or("", String::as_str));
                command.args(words);
                configure(&mut command);
                let spawned = now();
                let process = command.spawn().map_err(|source| Error::Start {
                    name: self.name(),
                    source,
                })?;
                Process::Other { process, spawned }
            }
        };
        let child = process.child();
        let streams = (child.stdout.take(), child.stderr.take());
        let output = streams.0.map(|pipe| File::from(OwnedFd::from(pipe)));
        let errors = streams.1.map(|pipe| File::from(OwnedFd::from(pipe)));
        for pipe in output.iter().chain(&errors) {
            fcntl_setfl(pipe, OFlags::NONBLOCK).map_err(|e| Error::Watch(e.into()))?;
        }
        Ok(Running {
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

    /// The sample of a process that has ended, if it is one.
    fn judge(&self, running: Running, watch: &Watch) -> Result<Sample, Error> {
        let said = match String::from_utf8_lossy(&running.said).trim() {
            "" => String::new(),
            said => format!("; it said:\n{said}"),
        };
        let spawned = running.spawned;
        let (gone, status, run) = running.process.wait()?;
        if status != 0 && !watch.any_status {
            let name = self.name();
            return Err(Error::Status { name, status, said });
        }
        if let (Some(until), None) = (&watch.until, running.matched) {
            return Err(Error::NoMatch {
                name: self.name(),
                pattern: until.as_str().to_owned(),
                said,
            });
        }
        Ok(Sample {
            first_output: running.first_output.map(|at| at - spawned),
            matched: running.matched.map(|at| at - spawned),
            gone: gone - spawned,
            run,
        })
    }
}

/// A word as a shell would need it.
fn quote(word: &str) -> String {
    // shlex also quotes `=`, which only matters before a program's name.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    shlex::try_quote(word).map_or_else(|_nul| word.to_owned(), Into::into)
}

#[derive(Debug)]
enum Process {
    Cottage(MeasuredChild),
    Other { process: Child, spawned: Nanos },
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
enum Interrupt {
    Signal(u8),
    Late,
    Host(io::Error),
}

impl From<rustix::io::Errno> for Interrupt {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Host(errno.into())
    }
}

/// A run under way.
#[derive(Debug)]
struct Running {
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
    fn pid(&mut self) -> Option<Pid> {
        i32::try_from(self.process.child().id())
            .ok()
            .and_then(Pid::from_raw)
    }

    /// Reads its output until it has ended.
    fn watch(&mut self, watch: &Watch, signals: &mut Signals) -> Result<(), Interrupt> {
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
                Event::Continue => {}
            }
        }
        Ok(())
    }

    /// Ends the process and whatever it has started, first gently.
    fn end(&mut self, signals: &mut Signals) {
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
