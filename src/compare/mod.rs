//! Chapter 13: `cottage compare`, VM or container, measured on the reader's own machine.
//!
//! ```text
//!   flags ─▶ root file system ─▶ sides that work ─▶ topics ─▶ findings ─▶ Report ─▶ terminal, JSON,
//!   (mod)    (root)              (side)             (topic)   (finding)   (report)  Markdown, HTML
//!                                                                  └─▶ claims: holds, does not hold
//! ```
//!
//! It must survive the eyes of people who wrote container runtimes and hypervisors: the same program,
//! the same files, the same two end points on every side; sides in turn, never one after the other;
//! no ratio that the spread does not carry; no figure for what did not run.
//! Read next: [`finding`].

pub mod finding;
pub mod relation;
pub mod side;
pub mod topic;
pub mod scratch;
pub mod command;
pub mod sweep;
pub mod root;
pub mod session;
pub mod talk;
pub mod testbed;
pub mod claims;
pub mod report;

use std::io::{self, Write};

use crate::bench::host::{self, Host, Moment};
use crate::bench::subject::quote;
use crate::cli::compare::{CompareArgs, Place, Topic};
use crate::console::signals::Signals;
use crate::console::words::say;
use crate::outcome::{SIGNAL_BASE, USER_ERROR, VMM_FAILURE, with_causes};
use claims::Claims;
use report::Report;
use root::Root;
use scratch::Scratch;
use session::{Plan, Session};
use side::Found;

/// Rounds that count, unless the user says how many; and with `--quick`.
const RUNS: (usize, usize) = (20, 7);
/// Rounds before them.
const WARM_UP: (usize, usize) = (2, 1);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--with` names what is no runtime.
    #[error("--with {value:?}: there is no runtime {word:?}; give {}, or all, with commas between", side::RUNTIMES.join(", "))]
    With {
        /// As given.
        value: String,
        /// What is none.
        word: String,
    },
    /// `--pin` is no list of processors.
    #[error(transparent)]
    Pin(Box<crate::bench::Error>),
    /// The reports cannot be written.
    #[error(transparent)]
    Report(#[from] report::Error),
    /// The claims cannot be used.
    #[error(transparent)]
    Claims(#[from] claims::Error),
    /// There is no place to work.
    #[error(transparent)]
    Scratch(#[from] scratch::Error),
    /// There is no root file system to give to the sides.
    #[error(transparent)]
    Root(#[from] root::Error),
    /// The testbed cannot be had.
    #[error(transparent)]
    Testbed(#[from] testbed::Error),
    /// Signals cannot be watched.
    #[error("Cannot watch for signals")]
    Signals(#[source] io::Error),
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::With { .. } | Self::Pin(_) | Self::Claims(_) => USER_ERROR,
            Self::Report(error) => error.exit_code(),
            Self::Testbed(error) => error.exit_code(),
            Self::Root(_) => USER_ERROR,
            // A place that cannot be worked in is the user's to choose.
            Self::Scratch(_) => USER_ERROR,
            Self::Signals(_) => VMM_FAILURE,
        }
    }
}

/// Compares as `args` say, reports, and returns the exit status.
pub fn main(args: &CompareArgs) -> u8 {
    run(args).unwrap_or_else(|error| {
        say(&with_causes(&error));
        error.exit_code()
    })
}

fn run(args: &CompareArgs) -> Result<u8, Error> {
    let wanted = wanted(&args.with)?;
    testbed::check(args)?;
    let plan = plan(args)?;
    let claims = claims_of(args)?;
    let out = args.out.as_deref().map(report::Out::open).transpose()?;
    let mut signals = Signals::block().map_err(Error::Signals)?;
    if args.place == Place::Testbed {
        return Ok(testbed::main(args, &mut signals)?);
    }
    let mut scratch = Scratch::make()?;
    scratch.adopt_orphans();
    let root = Root::make(&scratch)?;
    let (host, before) = (Host::look(), Moment::look());
    let found = side::find(&wanted, &root, &scratch, &mut signals);
    say_found(&root, &found);
    let mut session = Session::new(&found, &root, &plan, signals);
    session.ended_by = found.ended_by;
    let mut findings = Vec::new();
    for topic in topics(args, claims.as_ref()) {
        if session.over() {
            break;
        }
        findings.push(topic::measure(topic, &mut session));
    }
    let ended_by = session.ended_by;
    let after = Moment::look();
    let mut report = Report {
        warnings: host::warnings(&before, &after, host.cpus),
        load: (before.load, after.load),
        host,
        command: command_line(),
        partial: ended_by.is_some(),
        root: (&root).into(),
        sides: found.sides.iter().map(Into::into).collect(),
        absent: found.absent.clone(),
        plan,
        findings,
        claims: Vec::new(),
    };
    if let Some(claims) = &claims {
        report.claims = report.judge(claims);
    }
    let stdout = io::stdout().write_all(report::text::render(&report).as_bytes());
    let written = out.map_or(Ok(()), |out| out.write(&report));
    // Both are tried before either is complained of.
    stdout.map_err(report::Error::Stdout)?;
    written?;
    Ok(ended_by.map_or(0, |signal| SIGNAL_BASE + signal))
}

/// The topics asked for, each once, in the order of reports; else those that the claims need, else all.
fn topics(args: &CompareArgs, claims: Option<&Claims>) -> Vec<Topic> {
    if let (true, Some(claims)) = (args.topics.is_empty(), claims) {
        return claims.topics();
    }
    let asked = |topic: &Topic| args.topics.is_empty() || args.topics.contains(topic);
    Topic::ALL.into_iter().filter(asked).collect()
}

/// What `--claims` and `--claims-file` ask for, which says the former too.
fn claims_of(args: &CompareArgs) -> Result<Option<Claims>, claims::Error> {
    let file = args.claims_file.as_deref();
    let asked = args.claims || file.is_some();
    asked.then(|| Claims::load(file)).transpose()
}

/// The runtimes that `--with` names.
fn wanted(list: &str) -> Result<Vec<&'static str>, Error> {
    if list.trim() == "all" {
        return Ok(side::RUNTIMES.to_vec());
    }
    let words = list.split(',').map(str::trim);
    let runtime = |word: &str| {
        let known = side::RUNTIMES.iter().find(|runtime| **runtime == word);
        known.copied().ok_or_else(|| Error::With {
            value: list.to_owned(),
            word: word.to_owned(),
        })
    };
    words.map(runtime).collect()
}

fn plan(args: &CompareArgs) -> Result<Plan, Error> {
    let pick = |given: Option<u32>, (whole, quick): (usize, usize)| {
        given.map_or(if args.quick { quick } else { whole }, |n| n as usize)
    };
    let pin = args.pin.as_deref().map(crate::bench::cpus).transpose();
    Ok(Plan {
        runs: pick(args.runs, RUNS),
        warm_up: pick(args.warm_up, WARM_UP),
        quick: args.quick,
        limit: u64::from(args.timeout) * 1_000_000_000,
        pin: pin.map_err(|error| Error::Pin(Box::new(error)))?,
        emulated: side::vm::emulated(),
        instructions: args.instructions,
        testbed: testbed::is_inside(),
    })
}

fn command_line() -> String {
    if let Some(outer) = testbed::command_line() {
        return outer;
    }
    let words = std::env::args().skip(1);
    let words: Vec<_> = words.map(|word| quote(&word)).collect();
    format!("cottage {}", words.join(" "))
}

/// What the reader should know before it begins; on stderr, for stdout gets the report.
fn say_found(root: &Root, found: &Found) {
    say(&format!(
        "one root file system for all: {} bytes, sha256 {}",
        root.bytes, root.digest
    ));
    if !root.left_out.is_empty() {
        let names = root.left_out.join(", ");
        say(&format!(
            "in folders without {names}, which only root can make"
        ));
    }
    for absent in &found.absent {
        say(&format!("{}: not run: {}", absent.name, absent.reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_known_by_name() {
        assert_eq!(wanted("crun,bwrap").unwrap(), ["crun", "bwrap"]);
        assert_eq!(wanted("all").unwrap(), side::RUNTIMES);
        for wrong in ["", "lxc", "crun,", "crun;runc"] {
            let error = wanted(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("--with {wrong:?}")), "{error}");
            assert!(error.contains("podman"), "{error}");
        }
    }
}
