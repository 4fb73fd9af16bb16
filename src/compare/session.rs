//! One comparison under way: the sides, the rounds, the clock, the signals.
//!
//! Topics ask it to run commands on sides: once with their output ([`Session::output`]), in interleaved
//! rounds ([`Session::rounds`]), or many at a time that stay ([`Session::hold`]). After a signal that
//! asks to end, everything returns early and [`Session::ended_by`] says so.
//! Read next: [`super::talk`].

use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::thread::CpuSet;
use serde::Serialize;

use super::finding::{Line, Value};
use super::root::Root;
use super::side::{self, Absent, Found, Side};
use super::topic::crowd::Crowd;
use crate::bench::rounds::{Pinned, Progress};
use crate::bench::running::Running;
use crate::bench::subject::{Error, Sample, Subject, Watch};
use crate::console::signals::Signals;
use crate::timeline::Nanos;

/// How much is to be done.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Rounds that count.
    pub runs: usize,
    /// Rounds before them that do not.
    pub warm_up: usize,
    /// Whether to do as little as still says something.
    pub quick: bool,
    /// How long one run may take.
    pub limit: Nanos,
    /// The processors to stay on, if not all.
    #[serde(skip)]
    pub pin: Option<CpuSet>,
    /// Why figures of work that a guest's kernel does mean nothing here; `None` if they do.
    pub emulated: Option<String>,
    /// Whether the clock counts instructions instead of time.
    pub instructions: bool,
    /// Whether this host is itself an emulated one, with little memory and time.
    pub testbed: bool,
}

/// One comparison under way.
#[derive(Debug)]
pub struct Session<'a> {
    /// What is there and what is not.
    pub found: &'a Found,
    /// What all sides have got.
    pub root: &'a Root,
    /// How much is to be done.
    pub plan: &'a Plan,
    /// Many instances side by side, once measured: two topics tell of them.
    pub crowds: Option<Vec<Crowd>>,
    /// The signal that asked to end, once it has come.
    pub ended_by: Option<u8>,
    pub(super) signals: Signals,
}

/// Every instance's number, so that no two have a name in common.
static INSTANCES: AtomicU64 = AtomicU64::new(0);

/// Values of a side's rounds, or why there are none.
#[derive(Debug)]
pub struct Series {
    /// The side's place in [`Found::sides`].
    pub side: usize,
    /// A sample a round; none where a round was cut off.
    pub samples: Vec<Option<Sample>>,
    /// Why the side was given up; what it said.
    pub failed: Option<String>,
}

/// An instance that goes on running; it is ended and removed when dropped.
#[derive(Debug)]
pub struct Held<'a> {
    side: &'a Side,
    name: String,
    running: Running,
}

impl<'a> Session<'a> {
    /// Begins; from now on signals that ask to end are read, not acted on.
    pub fn new(found: &'a Found, root: &'a Root, plan: &'a Plan, signals: Signals) -> Self {
        Self {
            found,
            root,
            plan,
            crowds: None,
            ended_by: None,
            signals,
        }
    }

    /// Tells who waits on a terminal what is measured, where it is no matter of rounds.
    pub fn progress(&self, what: &str, side: &str) {
        Progress::word(&format!("{what}: {side}"));
    }

    /// Whether a signal asked to end.
    pub fn over(&self) -> bool {
        self.ended_by.is_some()
    }

    /// A name for an instance that no other has.
    fn name() -> String {
        let number = INSTANCES.fetch_add(1, Ordering::Relaxed);
        format!("cottage-compare-{}-{number}", std::process::id())
    }

    pub(super) fn watch(&self) -> Watch {
        Watch {
            until: None,
            limit: self.plan.limit,
            any_status: false,
            keep_output: true,
        }
    }

    /// Runs `command` once on `side` and returns the sample with its output, a line and its time of
    /// arrival at a time.
    ///
    /// # Errors
    /// A sentence that says why there is none, which after a signal means nothing.
    pub fn output(&mut self, side: &Side, command: &[&str]) -> Result<Sample, String> {
        let watch = self.watch();
        self.once(side, command, &watch)
    }

    /// As [`Session::output`], with the runtime's command line changed.
    ///
    /// # Errors
    /// As [`Session::output`]; those of `change` too.
    pub fn output_changed(
        &mut self,
        side: &Side,
        command: &[&str],
        change: fn(Subject) -> Result<Subject, String>,
    ) -> Result<Sample, String> {
        let watch = self.watch();
        self.once_changed(side, command, &watch, change)
    }

    fn once(&mut self, side: &Side, command: &[&str], watch: &Watch) -> Result<Sample, String> {
        self.once_changed(side, command, watch, Ok)
    }

    fn once_changed(
        &mut self,
        side: &Side,
        command: &[&str],
        watch: &Watch,
        change: fn(Subject) -> Result<Subject, String>,
    ) -> Result<Sample, String> {
        let name = Self::name();
        let subject = side.launch.prepare(&name, command).and_then(change)?;
        let pinned = self.plan.pin.as_ref().map(Pinned::to).transpose();
        let pinned = pinned.map_err(|error| format!("cannot keep to the processors: {error}"))?;
        let sample = subject.run(watch, false, &mut self.signals);
        drop(pinned);
        side.launch.remove(&name, sample.is_ok());
        sample.map_err(|error| {
            if let Error::Signal(number) = error {
                self.ended_by = Some(number);
            }
            side::trial::why(&error)
        })
    }

    /// Runs `command` on all sides of `of`, in rounds, each side once a round, a different one first
    /// each time. A side that fails is given up, the others go on.
    pub fn rounds(&mut self, of: &[usize], command: &[&str], what: &str) -> Vec<Series> {
        let mut all: Vec<Series> = of
            .iter()
            .map(|side| Series {
                side: *side,
                samples: Vec::new(),
                failed: None,
            })
            .collect();
        let total = self.plan.warm_up + self.plan.runs;
        let mut progress = Progress::new(what, total * of.len());
        let watch = self.watch();
        let found = self.found;
        for round in 0..total {
            for turn in 0..all.len() {
                let index = (round + turn) % all.len();
                let Some(series) = all.get_mut(index) else {
                    continue;
                };
                let Some(side) = found.sides.get(series.side) else {
                    continue;
                };
                if series.failed.is_none() && !self.over() {
                    match self.once(side, command, &watch) {
                        Ok(sample) if round >= self.plan.warm_up => {
                            series.samples.push(Some(sample));
                        }
                        Ok(_warm) => {}
                        Err(_cut_off) if self.over() => {}
                        Err(error) => series.failed = Some(error),
                    }
                }
                // Each round has its place in every series, so that rounds can be set side by side.
                series
                    .samples
                    .resize_with((round + 1).saturating_sub(self.plan.warm_up), || None);
                progress.step();
            }
            if self.over() {
                break;
            }
        }
        all
    }

    /// Starts an instance of `side` that runs `command`, waits for its first output and leaves it
    /// running.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub fn hold(&mut self, side: &'a Side, command: &[&str]) -> Result<Held<'a>, String> {
        let name = Self::name();
        let subject = side.launch.prepare(&name, command)?;
        // A pipe that stays open: programs in there may take the end of their input for the end.
        let running = subject.start(false, Stdio::piped());
        let running = running.map_err(|error| side::trial::why(&error))?;
        let mut held = Held {
            side,
            name,
            running,
        };
        let watch = self.watch();
        match held.running.watch_output(&watch, &mut self.signals) {
            Ok(()) => Ok(held),
            Err(interrupt) => {
                let said = held.running.said();
                let error = subject.interrupted(interrupt, &watch, said);
                if let Error::Signal(number) = error {
                    self.ended_by = Some(number);
                }
                Err(side::trial::why(&error))
            }
        }
    }

    /// Ends instances, all at once rather than one after another.
    pub fn release(&self, mut held: Vec<Held<'_>>) {
        for instance in &mut held {
            instance.running.ask_to_end();
        }
    }

    /// Lines of a figure: a value for every side that is there, by its place, and "not run" for those
    /// that are not, in the order of reports.
    pub fn lines(&self, value: impl Fn(usize, &Side) -> Value) -> Vec<Line> {
        let there = self.found.sides.iter().enumerate();
        let there = there.map(|(index, side)| Line {
            side: side.name.clone(),
            kind: side.kind,
            value: value(index, side),
        });
        let absent = self.found.absent.iter().map(|absent: &Absent| Line {
            side: absent.name.clone(),
            kind: absent.kind,
            value: Value::NotRun(absent.reason.clone()),
        });
        let mut lines: Vec<_> = there.chain(absent).collect();
        lines.sort_by_key(|line| line.kind as u8);
        lines
    }
}

impl Held<'_> {
    /// The process that was spawned.
    pub fn pid(&mut self) -> u32 {
        self.running.process_id()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.running.end_now();
        self.side.launch.remove(&self.name, false);
    }
}
