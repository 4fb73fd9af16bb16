//! All runs: in rounds, in each of which every subject has its turn.
//!
//! A machine that becomes slower or faster meanwhile does so for all subjects alike; who goes
//! first changes from round to round, for the same reason. Ctrl-C ends the rounds, and what was
//! measured until then is reported. Read next: [`super::cold`].

use std::io::{self, IsTerminal, Write};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::cold::Cold;
use super::subject::{self, Sample, Subject, Watch};
use crate::compare::testbed;
use crate::console::signals::Signals;
use crate::console::words::say;
use crate::timeline::memory_use::MemoryUse;
use crate::timeline::{Nanos, now};

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// Who takes part; the first is what the others are compared with.
    pub subjects: Vec<Subject>,
    /// Rounds that count.
    pub runs: usize,
    /// Rounds before them that do not.
    pub warm_up: usize,
    /// How each run is watched.
    pub watch: Watch,
    /// The processors to stay on, if not all.
    pub pin: Option<CpuSet>,
    /// What to drop from the page cache before each run.
    pub cold: Option<Cold>,
}

/// What came of it.
#[derive(Debug)]
pub struct Measured {
    /// A line for each subject, in it a sample for each round; `None` where a round was cut off.
    pub samples: Vec<Vec<Option<Sample>>>,
    /// The memory that each cottage takes, from a run that was not timed.
    pub memory: Vec<Option<MemoryUse>>,
    /// The signal that ended the rounds early.
    pub ended_by: Option<u8>,
}

/// Why nothing can be reported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A run failed.
    #[error(transparent)]
    Run(#[from] subject::Error),
    /// The processors cannot be chosen.
    #[error("Cannot keep to the processors of --pin")]
    Pin(#[source] io::Error),
    /// Signals cannot be watched.
    #[error("Cannot watch for signals")]
    Signals(#[source] io::Error),
}

/// Does as `plan` says.
///
/// # Errors
/// [`Error`] of the first run that failed.
pub fn measure(plan: &Plan) -> Result<Measured, Error> {
    let mut signals = Signals::block().map_err(Error::Signals)?;
    let total = plan.warm_up + plan.runs;
    let mut progress = Progress::new("runs", total * plan.subjects.len());
    let mut measured = Measured {
        samples: vec![Vec::new(); plan.subjects.len()],
        memory: vec![None; plan.subjects.len()],
        ended_by: None,
    };
    for round in 0..total {
        let mut samples = vec![None; plan.subjects.len()];
        let result = one_round(plan, round, &mut samples, &mut signals, &mut progress);
        if round >= plan.warm_up {
            for (line, sample) in measured.samples.iter_mut().zip(samples) {
                line.push(sample);
            }
        }
        match result {
            Err(Error::Run(subject::Error::Signal(number))) => {
                measured.ended_by = Some(number);
                return Ok(measured);
            }
            other => other?,
        }
    }
    for (subject, memory) in plan.subjects.iter().zip(&mut measured.memory) {
        if let Subject::Cottage { .. } = subject {
            match subject.run(&plan.watch, true, &mut signals) {
                Ok(sample) => *memory = sample.run.and_then(|run| run.record.memory),
                Err(subject::Error::Signal(number)) => measured.ended_by = Some(number),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(measured)
}

fn one_round(
    plan: &Plan,
    round: usize,
    samples: &mut [Option<Sample>],
    signals: &mut Signals,
    progress: &mut Progress,
) -> Result<(), Error> {
    for turn in 0..plan.subjects.len() {
        let index = (round + turn) % plan.subjects.len();
        let (Some(subject), Some(sample)) = (plan.subjects.get(index), samples.get_mut(index))
        else {
            continue;
        };
        if let Some(cold) = &plan.cold {
            cold.drop_pages();
        }
        let pinned = plan.pin.as_ref().map(Pinned::to).transpose();
        let pinned = pinned.map_err(|e| Error::Pin(e.into()))?;
        *sample = Some(subject.run(&plan.watch, false, signals)?);
        drop(pinned);
        progress.step();
    }
    Ok(())
}

/// This thread on the chosen processors, and with it what it starts; back on all when dropped.
///
/// The measuring thread stays there too while a run lasts. It sleeps then, but for reading output.
#[derive(Debug)]
pub(crate) struct Pinned(CpuSet);

impl Pinned {
    pub(crate) fn to(cpus: &CpuSet) -> rustix::io::Result<Self> {
        let this: Option<Pid> = None;
        let before = sched_getaffinity(this)?;
        sched_setaffinity(this, cpus)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _as_it_was = sched_setaffinity(None, &self.0);
    }
}

/// A line on the terminal. Nothing where stderr is none, but for the testbed, behind which somebody
/// waits: there a line now and then.
pub(crate) struct Progress {
    what: String,
    shown: bool,
    total: usize,
    done: usize,
    started: Nanos,
}

impl Progress {
    pub(crate) fn new(what: &str, total: usize) -> Self {
        Self {
            what: what.to_owned(),
            shown: io::stderr().is_terminal(),
            total,
            done: 0,
            started: now(),
        }
    }

    /// A word on the line, where there are no runs to count.
    pub(crate) fn word(text: &str) {
        if io::stderr().is_terminal() {
            let _nobody_looks = io::stderr().write_all(format!("\r{text}\x1b[K").as_bytes());
        }
    }

    pub(crate) fn step(&mut self) {
        self.done += 1;
        if !self.shown {
            self.tell_elsewhere();
            return;
        }
        let took = now() - self.started;
        let left = took / self.done.max(1) as u64 * (self.total - self.done) as u64;
        let width = 30;
        let full = self.done * width / self.total.max(1);
        let bar = "█".repeat(full) + &"·".repeat(width - full);
        // Back to the start of the line, and clear what is right of it.
        let line = format!(
            "\r{bar} {} of {} {}, {} s left\x1b[K",
            self.done,
            self.total,
            self.what,
            left.div_ceil(1_000_000_000)
        );
        let _nobody_looks = io::stderr().write_all(line.as_bytes());
    }
}

impl Progress {
    /// A whole line at each fifth, without a time: the emulated clock is not the waiting user's.
    fn tell_elsewhere(&self) {
        let part = |done: usize| done * 5 / self.total.max(1);
        if part(self.done) > part(self.done - 1) && testbed::command_line().is_some() {
            say(&format!(
                "{}: {} of {} done",
                self.what, self.done, self.total
            ));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _nobody_looks = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
