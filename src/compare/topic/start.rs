//! How long until the command runs?
//!
//! From just before the spawn of the runtime's own command line, on the host's clock, to the first
//! byte of the probe's output in this process's pipe; and to the moment the process was found gone.
//! The same on every side; what is split further is told by whoever knows: cottage its own instants,
//! the probe the time at which it was entered, where its clock is the host's.
//! Read next: [`super::crowd`].

use super::Findings;
use crate::bench::subject::Sample;
use crate::compare::finding::{Figure, Unit, Value};
use crate::compare::session::{Series, Session};
use crate::compare::side::Kind;
use crate::devices::report::MARK_INIT;
use crate::timeline::{Nanos, Stage};

/// Measures it.
pub fn measure(session: &mut Session<'_>) -> Findings {
    let all: Vec<usize> = (0..session.found.sides.len()).collect();
    let rounds = session.rounds(&all, &["/probe", "stamp"], "start");
    let figure = |key: &str, title: &str, end_points: &str, of: &Of| Figure {
        key: format!("start.{key}"),
        title: title.to_owned(),
        end_points: end_points.to_owned(),
        unit: Unit::Nanoseconds,
        part_of: None,
        lines: session.lines(|index, side| value(&rounds, index, side.kind, of)),
    };
    let part = |key, title, end_points, of: &Of| Figure {
        part_of: Some("start.first-output".to_owned()),
        ..figure(key, title, end_points, of)
    };
    Findings {
        topic: "start",
        question: "How long does it take until the program inside runs?",
        figures: vec![
            figure(
                "first-output",
                "Start to first output",
                "from just before the runtime's command line is spawned to the arrival of the \
                 first byte that the program inside prints",
                &|sample, _| sample.first_output,
            ),
            figure(
                "gone",
                "Start to exit",
                "from the same spawn to the moment the runtime's process is found gone",
                &|sample, _| Some(sample.gone),
            ),
            part(
                "runtime",
                "of it: runtime or VMM",
                "from the spawn to the first instruction inside: of the program in a container, of \
                 the guest's kernel in a VM",
                &|sample, kind| runtime(sample, kind),
            ),
            part(
                "kernel",
                "of it: guest's kernel",
                "from the guest's first instruction to its first process; in a container there is \
                 none to start",
                &|sample, kind| kernel(sample, kind),
            ),
            part(
                "userspace",
                "of it: processes inside",
                "from there to the first byte of output: init and the program in a VM, the program \
                 in a container",
                &|sample, kind| {
                    let before = runtime(sample, kind)? + kernel(sample, kind)?;
                    sample.first_output?.checked_sub(before)
                },
            ),
        ],
        tables: Vec::new(),
        notes: notes(session),
    }
}

type Of = dyn Fn(&Sample, Kind) -> Option<Nanos>;

fn value(rounds: &[Series], side: usize, kind: Kind, of: &Of) -> Value {
    let Some(series) = rounds.iter().find(|series| series.side == side) else {
        return Value::NotRun("it was not asked for".to_owned());
    };
    if let Some(why) = &series.failed {
        return Value::NotRun(why.clone());
    }
    let each = series.samples.iter();
    Value::Samples(each.map(|sample| of(sample.as_ref()?, kind)).collect())
}

/// Until the first instruction inside.
fn runtime(sample: &Sample, kind: Kind) -> Option<Nanos> {
    match kind {
        Kind::Vm => instant(sample, Stage::GuestEntered),
        // The probe prints when it was entered, on the clock that it shares with the host.
        Kind::Floor | Kind::Container => {
            let line = sample.lines.first()?;
            let stamp: Nanos = line.text.strip_prefix("READY ")?.trim().parse().ok()?;
            stamp.checked_sub(sample.spawned)
        }
    }
}

fn kernel(sample: &Sample, kind: Kind) -> Option<Nanos> {
    match kind {
        Kind::Vm => {
            let init = instant(sample, Stage::Mark(MARK_INIT))?;
            init.checked_sub(instant(sample, Stage::GuestEntered)?)
        }
        Kind::Floor | Kind::Container => Some(0),
    }
}

/// An instant of cottage's own, after the spawn.
fn instant(sample: &Sample, stage: Stage) -> Option<Nanos> {
    let run = sample.run.as_ref()?;
    let name = stage.to_string();
    let point = run.record.points.iter().find(|point| point.name == name)?;
    point.at.checked_sub(run.spawned)
}

fn notes(session: &Session<'_>) -> Vec<String> {
    let plan = session.plan;
    vec![format!(
        "{} rounds after {} to warm up; in each every side had its turn, a different one first each \
         time",
        plan.runs, plan.warm_up
    )]
}
