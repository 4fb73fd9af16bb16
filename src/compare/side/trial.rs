//! Trying a way to run a command, and saying in words why it does not work.
//!
//! Everything that is run here has a limit on its time, for a runtime that is broken may hang, and ends
//! when a signal asks this process to end.
//! Read next: [`super::words`].

use std::fs;

use super::{Absent, Kind, Launch, Side};
use crate::bench::subject::{Error, Sample, Subject, Watch};
use crate::compare::command::{one_line, program};
use crate::compare::root::Root;
use crate::compare::scratch::{Ledger, Scratch};
use crate::compare::testbed;
use crate::console::signals::Signals;
use crate::outcome::with_causes;
use crate::timeline::Nanos;

/// A second.
pub const SECOND: Nanos = 1_000_000_000;
/// How long a first container may take. Measured ones take under a second.
const LIMIT: Nanos = 10 * SECOND;
/// How long a program may take to say its version; if it has to ask an engine, too.
pub const VERSION_LIMIT: Nanos = 5 * SECOND;
/// How long loading an image may take.
const LOAD_LIMIT: Nanos = 20 * SECOND;
/// What the probe prints first when it is asked whether it is there.
const READY: &str = "READY";
/// The command that is tried.
const COMMAND: [&str; 2] = ["/probe", "ready"];

/// A side that may be: ways to have it, the plain one first.
#[derive(Debug)]
pub struct Slot {
    /// As [`Side::name`].
    pub name: String,
    /// As [`Side::runtime`].
    pub runtime: &'static str,
    /// What stands in between.
    pub kind: Kind,
    /// The runtime's own word for its version.
    pub version: String,
    /// How.
    pub ways: Vec<Way>,
}

/// A way to run commands.
#[derive(Debug)]
pub struct Way {
    /// How.
    pub launch: Box<dyn Launch>,
    /// What is unusual about it.
    pub notes: Vec<String>,
    /// How long its first instance may take.
    pub limit: Nanos,
}

impl Way {
    /// A way.
    pub fn new(launch: impl Launch + 'static, notes: &[&str]) -> Self {
        Self {
            launch: Box::new(launch),
            notes: notes.iter().map(|note| (*note).to_owned()).collect(),
            limit: LIMIT,
        }
    }
}

/// What a try needs.
#[derive(Debug)]
pub struct Trial<'a> {
    /// What the sides get.
    pub root: &'a Root,
    /// Where they put what they need.
    pub scratch: &'a Scratch,
    /// The signal that asked to end.
    pub ended_by: Option<u8>,
    signals: &'a mut Signals,
    tries: usize,
    /// Whether something of the runtime at hand hung: no flag cures that.
    hung: bool,
}

impl<'a> Trial<'a> {
    /// Nothing was tried yet.
    pub fn new(root: &'a Root, scratch: &'a Scratch, signals: &'a mut Signals) -> Self {
        Self {
            root,
            scratch,
            ended_by: None,
            signals,
            tries: 0,
            hung: false,
        }
    }

    /// What comes is another runtime's.
    pub fn next_runtime(&mut self) {
        self.hung = false;
    }

    /// A number that no other instance or folder of a try has.
    pub fn number(&mut self) -> usize {
        self.tries += 1;
        self.tries
    }

    /// For what has to be undone.
    pub fn ledger(&self) -> Ledger {
        self.scratch.ledger()
    }

    /// The side, by the first way that works.
    ///
    /// # Errors
    /// What the last way said, for the plain one failed as expected where that one is needed.
    pub fn first_that_works(&mut self, slot: Slot) -> Result<Side, Absent> {
        let mut reason = "it hung before, as another side".to_owned();
        for way in slot.ways {
            if self.hung || self.ended_by.is_some() {
                break;
            }
            match self.works(&way) {
                Ok(command) => {
                    return Ok(Side {
                        name: slot.name,
                        runtime: slot.runtime,
                        kind: slot.kind,
                        version: slot.version,
                        command,
                        notes: way.notes,
                        launch: way.launch,
                    });
                }
                Err(why) => reason = why,
            }
        }
        Err(Absent {
            name: slot.name,
            kind: slot.kind,
            reason,
        })
    }

    /// Whether the probe says that it is ready; and how it was run.
    fn works(&mut self, way: &Way) -> Result<String, String> {
        let name = format!("{}-try{}", self.scratch.tag(), self.number());
        let subject = way.launch.prepare(&name, &COMMAND)?;
        let sample = self.once(&subject, way.limit);
        way.launch.remove(&name, sample.is_ok());
        let lines = sample?.lines;
        if lines.iter().any(|line| line.text.starts_with(READY)) {
            return Ok(self.to_read(&subject, &name));
        }
        let last = lines.last().map(|line| one_line(&line.text));
        Err(match last {
            Some(last) => format!("it ran, but not our program: it printed {last:?}"),
            None => "it ran, but nothing was printed inside".to_owned(),
        })
    }

    /// A command line without what is different each time.
    fn to_read(&self, subject: &Subject, instance: &str) -> String {
        let command = COMMAND.join(" ");
        let (folder, root) = (self.scratch.folder(), &self.root.folder);
        // A process of the host's has the command's path on the host.
        let line = subject
            .name()
            .replace(&format!("{}{command}", root.display()), "COMMAND");
        let line = line.replace(&command, "COMMAND").replace(instance, "NAME");
        let line = line.replace(&folder.to_string_lossy().into_owned(), "FOLDER");
        line.replace(&self.root.image_name(), "IMAGE")
    }

    fn once(&mut self, subject: &Subject, limit: Nanos) -> Result<Sample, String> {
        let watch = Watch {
            until: None,
            limit: limit * u64::from(testbed::patience()),
            any_status: false,
            keep_output: true,
        };
        subject.run(&watch, false, self.signals).map_err(|error| {
            match error {
                Error::Signal(number) => self.ended_by = Some(number),
                Error::Late { .. } => self.hung = true,
                _ => {}
            }
            why(&error)
        })
    }

    /// Runs a command that prepares something and returns the lines it printed.
    ///
    /// # Errors
    /// A sentence.
    pub fn run(&mut self, words: &[String], limit: Nanos) -> Result<Vec<String>, String> {
        let sample = self.once(&Subject::Other(words.to_vec()), limit)?;
        Ok(sample.lines.into_iter().map(|line| line.text).collect())
    }

    /// Has an image loaded.
    ///
    /// # Errors
    /// A sentence.
    pub fn load(&mut self, words: &[String]) -> Result<(), String> {
        let loaded = self.run(words, LOAD_LIMIT);
        loaded
            .map_err(|why| format!("it does not load an image: {why}"))
            .map(drop)
    }

    /// The first line that a command prints.
    ///
    /// # Errors
    /// A sentence.
    pub fn first_line(&mut self, words: &[String]) -> Result<String, String> {
        let lines = self.run(words, VERSION_LIMIT)?;
        let first = lines.into_iter().find(|line| !line.trim().is_empty());
        first
            .map(|line| one_line(&line))
            .ok_or_else(|| "it prints nothing".to_owned())
    }

    /// The path of the program `name` and what it says when asked for its version.
    ///
    /// # Errors
    /// A sentence that names the Debian package.
    pub fn installed(&mut self, name: &str, package: &str) -> Result<(String, String), String> {
        let path = program(name);
        let path = path.ok_or_else(|| format!("not installed (package {package})"))?;
        let path = path.to_string_lossy().into_owned();
        let version = self.first_line(&[path.clone(), "--version".to_owned()]);
        match version {
            // busybox's programs have none.
            Err(why) if self.hung => Err(format!("asked for its version: {why}")),
            version => Ok((path, version.unwrap_or_default())),
        }
    }
}

/// Why a run is no sample, as a part of a sentence.
pub fn why(error: &Error) -> String {
    let said = |said: &str| {
        let said = said.trim_start_matches("; it said:");
        match one_line(cause(said)) {
            said if said.is_empty() => said,
            said => format!("; it said: {said}"),
        }
    };
    match error {
        Error::Start { source, .. } => format!("it does not start: {source}"),
        Error::Status {
            status, said: text, ..
        } => format!("it ended with status {status}{}", said(text)),
        Error::Late {
            seconds,
            said: text,
            ..
        } => format!(
            "it did not end within {seconds} s and was killed{}",
            said(text)
        ),
        Error::Silent { said: text, .. } => format!("it ended without a word{}", said(text)),
        Error::Signal(number) => format!("signal {number}"),
        Error::NoMatch { .. } | Error::Child(_) | Error::Watch(_) => one_line(&with_causes(error)),
    }
}

/// Of cottage's own words the first line: below it a crash is told at length, with registers.
fn cause(said: &str) -> &str {
    let own = said.lines().find(|line| line.starts_with("cottage: "));
    own.unwrap_or(said)
}

/// One side that is not there.
pub fn absent(name: &str, kind: Kind, reason: impl Into<String>) -> Vec<Result<Slot, Absent>> {
    vec![Err(Absent {
        name: name.to_owned(),
        kind,
        reason: reason.into(),
    })]
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the host has version 1 of cgroups with version 2 beside it, as systemd's hybrid mode has.
pub fn is_hybrid() -> bool {
    fs::exists("/sys/fs/cgroup/unified/cgroup.procs").unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_one_line_without_flags_of_other_commands() {
        let error = Error::Status {
            name: "crun run".to_owned(),
            status: 1,
            said: "; it said:\nno\n\x1b[31mcgroup".to_owned(),
        };
        assert_eq!(
            why(&error),
            "it ended with status 1; it said: no [31mcgroup"
        );
        let error = Error::Status {
            name: "cottage run".to_owned(),
            status: 112,
            said: "; it said:\ncottage: the guest crashed: KVM gave up\ncottage: rip 0x0"
                .to_owned(),
        };
        assert_eq!(
            why(&error),
            "it ended with status 112; it said: cottage: the guest crashed: KVM gave up"
        );
        let error = Error::Late {
            name: "docker".to_owned(),
            seconds: 10,
            said: String::new(),
        };
        assert_eq!(why(&error), "it did not end within 10 s and was killed");
    }
}
