//! Chapter 12: `cottage bench`, the same boot many times, beside other programs.
//!
//! ```text
//!   flags ─▶ Plan ─▶ rounds: subject, subject, … ─▶ samples ─▶ series ─▶ Report ─▶ text, JSON, SVG
//!   (mod)           (rounds)  (subject, cold)                 (series, stats)   (report, json, svg)
//! ```
//!
//! What it does not do: judge. It gives figures with their spread and with the machine they belong
//! to ([`host`]), and refuses a ratio that the spread does not carry ([`stats`]).
//! Read next: [`subject`].

pub mod subject;
pub mod process;
pub mod said;
pub mod running;
pub mod rounds;
pub mod cold;
pub mod host;
pub mod stats;
pub mod series;
pub mod report;
pub mod json;
pub mod svg;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::bundle::program;
use crate::cli::{BenchArgs, MachineArgs, ReportFormat};
use crate::config::{self, VmConfig};
use crate::console::words::say;
use crate::outcome::{NO_STATUS, SIGNAL_BASE, USER_ERROR, VMM_FAILURE, with_causes};
use cold::{Cold, Copy};
use host::{Host, Moment, Part};
use report::{Measurement, Report};
use rounds::{Measured, Plan};
use series::Account;
use subject::{Subject, Watch};

/// What a guest of cottage's own runs if nothing is asked for: the least that prints.
const DEFAULT_COMMAND: [&str; 2] = ["echo", "up"];

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag of the machine.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A kernel or initramfs cannot be read.
    #[error(transparent)]
    Blob(#[from] crate::boot::blob::Error),
    /// `--program` beside a machine.
    #[error("--program {0:?} measures that program instead of a boot: leave out {1}")]
    ProgramAndMachine(String, String),
    /// `--program` or `--vs` is not a command line.
    #[error("{flag} {value:?} is {what}: give a program and its arguments, quoted as for a shell")]
    Words {
        /// Which flag.
        flag: &'static str,
        /// As given.
        value: String,
        /// What is wrong.
        what: &'static str,
    },
    /// `--until` is no regular expression.
    #[error("--until {value:?} is no regular expression: {why}")]
    Until {
        /// As given.
        value: String,
        /// What the parser said.
        why: String,
    },
    /// `--pin` is no list of processors.
    #[error(
        "--pin {value:?} is no list of processors that this process may use: give numbers and \
         ranges of {allowed}"
    )]
    Pin {
        /// As given.
        value: String,
        /// What is accepted.
        allowed: String,
    },
    /// `--out` has no ending that names a format.
    #[error("--out {0:?} does not end in .txt, .json or .svg, which says what to write there")]
    OutFormat(PathBuf),
    /// A report cannot be written.
    #[error("Cannot write the report to {0:?}")]
    Write(PathBuf, #[source] io::Error),
    /// `--cold` cannot be had.
    #[error(transparent)]
    Cold(#[from] cold::Error),
    /// A run failed.
    #[error(transparent)]
    Rounds(#[from] rounds::Error),
}

impl Error {
    /// The exit status this error ends the process with; a failed boot's is the boot's.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Rounds(rounds::Error::Run(subject::Error::Status { status, .. }))
                if (USER_ERROR..=NO_STATUS).contains(status) =>
            {
                *status
            }
            Self::Rounds(rounds::Error::Run(
                subject::Error::Child(_) | subject::Error::Watch(_),
            ))
            | Self::Rounds(rounds::Error::Pin(_) | rounds::Error::Signals(_))
            | Self::Cold(cold::Error::Copy(_)) => VMM_FAILURE,
            _ => USER_ERROR,
        }
    }
}

/// Measures as `args` say, reports, and returns the exit status.
pub fn main(args: &BenchArgs) -> u8 {
    bench(args).unwrap_or_else(|error| {
        say(&with_causes(&error));
        error.exit_code()
    })
}

fn bench(args: &BenchArgs) -> Result<u8, Error> {
    let outs = args.out.iter().map(|path| Out::open(path));
    let outs = outs.collect::<Result<Vec<_>, _>>()?;
    let copy = args.cold.then(Copy::make).transpose()?;
    let (plan, parts) = plan(args, copy.as_ref())?;
    let (host, before) = (Host::look(), Moment::look());
    let measured = rounds::measure(&plan)?;
    let after = Moment::look();
    if let Some(signal) = measured.ended_by
        && !measured.samples.iter().flatten().any(Option::is_some)
    {
        say("cut short before a run counted: nothing to report");
        return Ok(SIGNAL_BASE + signal);
    }
    let ended_by = measured.ended_by;
    let report = Report {
        warnings: host::warnings(&before, &after, host.cpus),
        load: (before.load, after.load),
        host,
        parts,
        runs: plan.runs,
        warm_up: plan.warm_up,
        partial: ended_by.is_some(),
        how: how(args, &plan),
        subjects: measurements(&plan, measured),
    };
    for out in outs {
        out.write(&report)?;
    }
    let text = render(&report, args.format);
    let stdout = io::stdout().write_all(text.as_bytes());
    stdout.map_err(|source| Error::Write("stdout".into(), source))?;
    Ok(ended_by.map_or(0, |signal| SIGNAL_BASE + signal))
}

fn render(report: &Report, format: ReportFormat) -> String {
    match format {
        ReportFormat::Text => report.text(),
        ReportFormat::Json => json::render(report),
        ReportFormat::Svg => svg::render(report),
    }
}

fn measurements(plan: &Plan, measured: Measured) -> Vec<Measurement> {
    let results = measured.samples.iter().zip(measured.memory);
    let subjects = plan.subjects.iter().zip(results);
    subjects
        .map(|(subject, (samples, memory))| Measurement {
            name: subject.name(),
            account: Account::of(samples),
            memory,
        })
        .collect()
}

/// A file for the report, opened before anything is measured.
struct Out {
    path: PathBuf,
    file: File,
    format: ReportFormat,
}

impl Out {
    fn open(path: &Path) -> Result<Self, Error> {
        let format = match path.extension().and_then(|ending| ending.to_str()) {
            Some("txt") => ReportFormat::Text,
            Some("json") => ReportFormat::Json,
            Some("svg") => ReportFormat::Svg,
            _ => return Err(Error::OutFormat(path.to_owned())),
        };
        // What is in it stays until there is something better.
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|source| Error::Write(path.to_owned(), source))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            format,
        })
    }

    fn write(mut self, report: &Report) -> Result<(), Error> {
        let text = render(report, self.format);
        // A device such as /dev/stdout.txt's target has no length to set.
        let _not_a_file = self.file.set_len(0);
        let written = self.file.write_all(text.as_bytes());
        written.map_err(|source| Error::Write(self.path, source))
    }
}

/// What to do, and the files that are measured by it.
fn plan(args: &BenchArgs, copy: Option<&Copy>) -> Result<(Plan, Vec<Part>), Error> {
    let mut files = Vec::new();
    let mut parts = Vec::new();
    let mut subjects = Vec::new();
    if let Some(program) = &args.program {
        if let Some(flag) = args.machine.first_given() {
            return Err(Error::ProgramAndMachine(program.clone(), flag));
        }
        let words = split("--program", program)?;
        files.extend(cold::files_of(&words));
        subjects.push(Subject::Other(words));
    } else {
        let machine = with_command(&args.machine);
        let config = VmConfig::from_args(machine.clone())?;
        parts = host::parts(&config)?;
        let program = copy.map_or_else(|| program().into(), Copy::path);
        files.push(program.clone());
        files.extend(machine.kernel.iter().chain(&machine.initramfs).cloned());
        subjects.push(Subject::Cottage {
            program,
            words: machine.to_words(),
        });
    }
    for command in &args.vs {
        let words = split("--vs", command)?;
        files.extend(cold::files_of(&words));
        subjects.push(Subject::Other(words));
    }
    let watch = Watch {
        until: args.until.as_deref().map(regex).transpose()?,
        limit: u64::from(args.timeout) * 1_000_000_000,
        any_status: args.any_status,
        keep_output: false,
    };
    let plan = Plan {
        subjects,
        runs: args.runs as usize,
        warm_up: args.warm_up as usize,
        watch,
        pin: args.pin.as_deref().map(cpus).transpose()?,
        cold: args.cold.then(|| Cold::new(files)).transpose()?,
    };
    Ok((plan, parts))
}

/// The machine, with a command if it is all cottage's own: a shell at the end of its input prints
/// nothing that could be waited for.
fn with_command(machine: &MachineArgs) -> MachineArgs {
    let mut machine = machine.clone();
    let all_ours = machine.kernel.is_none() && machine.initramfs.is_none();
    if machine.command.is_empty() && all_ours && machine.init.is_none() {
        machine.command = DEFAULT_COMMAND.map(Into::into).to_vec();
    }
    machine
}

fn split(flag: &'static str, value: &str) -> Result<Vec<String>, Error> {
    let wrong = |what| Error::Words {
        flag,
        value: value.to_owned(),
        what,
    };
    let words = shlex::split(value).ok_or_else(|| wrong("not well quoted"))?;
    if words.is_empty() {
        return Err(wrong("empty"));
    }
    Ok(words)
}

fn regex(value: &str) -> Result<Regex, Error> {
    Regex::new(value).map_err(|error| Error::Until {
        value: value.to_owned(),
        why: error.to_string(),
    })
}

/// The processors of a list such as `0,2-3`, if this process may use them.
pub(crate) fn cpus(list: &str) -> Result<CpuSet, Error> {
    let allowed = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(number(first)?..=number(last)?),
        None => number(part).map(|one| one..=one),
    };
    let mut chosen = CpuSet::new();
    let every = list.split(',').all(|part| {
        range(part).is_some_and(|range| {
            let within = *range.end() < CpuSet::MAX_CPU && !range.is_empty();
            within
                && range.into_iter().all(|cpu| {
                    chosen.set(cpu);
                    allowed.is_set(cpu)
                })
        })
    });
    let usable = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let usable: Vec<_> = usable.map(|cpu| cpu.to_string()).collect();
    every.then_some(chosen).ok_or_else(|| Error::Pin {
        value: list.to_owned(),
        allowed: usable.join(", "),
    })
}

/// How it was measured, in sentences for the report.
fn how(args: &BenchArgs, plan: &Plan) -> Vec<String> {
    let mut how = Vec::new();
    if args.program.is_none() && args.machine.command != with_command(&args.machine).command {
        let command = DEFAULT_COMMAND.join(" ");
        how.push(format!(
            "the guest ran `{command}`; give another command after --"
        ));
    }
    if let Some(until) = &plan.watch.until {
        how.push(format!(
            "waited for a line of output that matches {:?}",
            until.as_str()
        ));
    }
    if let Some(pin) = &args.pin {
        how.push(format!("kept to processors {pin}"));
    }
    if let Some(cold) = &plan.cold {
        let name = |path: &Path| match path.starts_with("/proc") {
            true => "a copy of cottage".to_owned(),
            false => path.display().to_string(),
        };
        let paths: Vec<_> = cold.paths().map(name).collect();
        how.push(format!(
            "cold: dropped from the page cache before each run: {}",
            paths.join(", ")
        ));
    }
    how
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_numbers_and_ranges() {
        let one = cpus("0").unwrap();
        assert!(one.is_set(0) && one.count() == 1);
        for wrong in ["", "x", "1-0", "0,", "99999", "-1", "0-99999999999"] {
            let error = cpus(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("--pin {wrong:?}")), "{error}");
        }
    }

    #[test]
    fn commands_are_split_as_a_shell_would() {
        let words = split("--vs", "qemu -append 'a b' \"c\"").unwrap();
        assert_eq!(words, ["qemu", "-append", "a b", "c"]);
        for wrong in ["", "  ", "'open"] {
            let error = split("--vs", wrong).unwrap_err().to_string();
            assert!(error.contains("--vs"), "{error}");
        }
    }
}
