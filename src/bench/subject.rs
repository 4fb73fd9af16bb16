//! What is measured, and one run of it on the clock.
//!
//! The clock is this process's, from just before the subject is spawned: to the arrival of its
//! output in this process's pipe, and to the moment it was found gone. That is the same for every
//! subject; what cottage tells of itself (its instants and VM exits) comes on top.
//! Read next: [`super::process`].

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use regex_lite::Regex;

use super::process::{Interrupt, Process};
use super::running::Running;
use crate::console::signals::Signals;
use crate::timeline::child::{self, MeasuredChild, MeasuredRun};
use crate::timeline::{Nanos, now};

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
    /// Whether the output itself is wanted, and not only when it came.
    pub keep_output: bool,
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
    /// Just before the spawn, on this host's monotonic clock, which the other times count from.
    pub spawned: Nanos,
    /// The beginning of the output, where it was wanted.
    pub lines: Vec<Line>,
}

/// A line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When its end came, in nanoseconds from spawn.
    pub at: Nanos,
    /// Without its end.
    pub text: String,
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
    /// It should have gone on.
    #[error("{name} ended without a word{said}")]
    Silent {
        /// As [`Subject::name`].
        name: String,
        /// The end of its stderr, or empty.
        said: String,
    },
    /// It ran on.
    #[error("{name} did not end within {seconds} s (--timeout) and was stopped{said}")]
    Late {
        /// As [`Subject::name`].
        name: String,
        /// The limit.
        seconds: u64,
        /// The end of its stderr, or empty.
        said: String,
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
            let mut running = self.start(memory, Stdio::null())?;
            let seen = running.watch(watch, signals);
            if let Err(error) = seen {
                running.end(signals);
                return Err(self.interrupted(error, watch, running.said()));
            }
            if !running.was_stopped() {
                return self.judge(running, watch);
            }
            // Ctrl-Z in the midst of it: the time is no measure of anything.
            running.end(signals);
        }
    }

    /// Why watching a run of this ended early; `said` as [`Running::said`].
    pub(crate) fn interrupted(&self, interrupt: Interrupt, watch: &Watch, said: String) -> Error {
        match interrupt {
            Interrupt::Signal(number) => Error::Signal(number),
            Interrupt::Late => Error::Late {
                name: self.name(),
                seconds: watch.limit / 1_000_000_000,
                said,
            },
            Interrupt::Ended(said) => Error::Silent {
                name: self.name(),
                said,
            },
            Interrupt::Host(source) => Error::Watch(source),
        }
    }

    /// Spawns it with `input`; whoever gets it watches it.
    pub(crate) fn start(&self, memory: bool, input: Stdio) -> Result<Running, Error> {
        let configure = move |command: &mut Command| {
            command
                .stdin(input)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                // A group of its own, so that whatever it starts can be ended with it.
                .process_group(0);
        };
        let process = match self {
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
        Running::new(process).map_err(Error::Watch)
    }

    /// The sample of a process that has ended, if it is one.
    fn judge(&self, mut running: Running, watch: &Watch) -> Result<Sample, Error> {
        let said = running.said();
        let spawned = running.spawned();
        let (first_output, matched) = running.output();
        let lines = running.take_lines();
        let (gone, status, run) = running.wait()?;
        if status != 0 && !watch.any_status {
            let name = self.name();
            return Err(Error::Status { name, status, said });
        }
        if let (Some(until), None) = (&watch.until, matched) {
            return Err(Error::NoMatch {
                name: self.name(),
                pattern: until.as_str().to_owned(),
                said,
            });
        }
        Ok(Sample {
            first_output: first_output.map(|at| at - spawned),
            matched: matched.map(|at| at - spawned),
            gone: gone - spawned,
            run,
            spawned,
            lines,
        })
    }
}

/// A word as a shell would need it.
pub(crate) fn quote(word: &str) -> String {
    // shlex also quotes `=`, which only matters before a program's name.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    shlex::try_quote(word).map_or_else(|_nul| word.to_owned(), Into::into)
}
