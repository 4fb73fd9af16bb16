//! What does work cost inside?
//!
//! One run of the probe does fixed amounts of several kinds of work and prints a line after each batch.
//! This process notes when the lines arrive: the host's clock times every side, because a guest's clock
//! is what its hypervisor makes of time. A round's value is the mean of its batches; sides take
//! turns, as everywhere. The probe's own clock is only set beside it, and the notes say where they part.
//! Read next: [`lines`].

pub mod lines;
pub mod works;
pub mod echo;

use super::Findings;
use crate::compare::finding::{Figure, Unit, Value};
use crate::compare::session::{Plan, Series, Session};
use crate::compare::side::{Kind, Side};
use crate::timeline::Nanos;
use echo::Echo;
use lines::{Measured, measured};
use works::{WORKS, Work, incomparable};

/// Batches of a run; the first one, which warms up, comes on top.
const BATCHES: (&str, &str) = ("batches=5", "batches=3");
/// An emulated processor is so much slower, in the probe's words.
const DIVIDE: &str = "divide=10";
/// Clocks that differ by more than this say different things.
const CLOCKS_APART: f64 = 0.1;
/// Work that took less than this in all says more of how lines arrive than of itself.
const RESOLVED: Nanos = 1_000_000;

/// Measures it.
pub fn measure(session: &mut Session<'_>) -> Findings {
    let all: Vec<usize> = (0..session.found.sides.len()).collect();
    // Without it one figure is missing, and says so.
    let echo = Echo::start(&session.root.folder);
    let port = echo
        .as_ref()
        .ok()
        .map(|echo| format!("to=host:{}", echo.port()));
    let mut command = vec!["/probe", "cost", "all", "dir=/tmp"];
    command.extend(words(session.plan));
    command.extend(port.as_deref());
    let rounds = session.rounds(&all, &command, "cost");
    let runs: Vec<Vec<Option<Vec<Measured>>>> = rounds.iter().map(parsed).collect();
    let plan = session.plan;
    let figures = WORKS.iter().map(|work| Figure {
        key: format!("cost.{}", work.name),
        title: work.title.to_owned(),
        end_points: work.end_points.to_owned(),
        unit: Unit::Nanoseconds,
        part_of: None,
        lines: session.lines(|index, side| {
            let at = rounds.iter().position(|series| series.side == index);
            let Some((series, runs)) = at.and_then(|at| rounds.get(at).zip(runs.get(at))) else {
                return Value::NotRun("it was not reached".to_owned());
            };
            value(work, side.kind, plan, &Round { series, runs })
        }),
    });
    let figures = figures.collect();
    let mut notes = notes(plan);
    if let Err(why) = &echo {
        notes.push(format!("network round trip: not run: {why}"));
    }
    for (series, runs) in rounds.iter().zip(&runs) {
        let side = session.found.sides.get(series.side);
        // The others have the host's clock.
        if let Some(side) = side.filter(|side| side.kind == Kind::Vm) {
            notes.extend(clocks(side, runs));
        }
    }
    Findings {
        topic: "cost",
        question: "What does work cost inside?",
        figures,
        tables: Vec::new(),
        notes,
    }
}

/// How much is done, by how fast this machine is.
fn words(plan: &Plan) -> Vec<&'static str> {
    let batches = if plan.quick { BATCHES.1 } else { BATCHES.0 };
    let mut words = vec![batches];
    words.extend(plan.testbed.then_some(DIVIDE));
    words
}

/// What the probe said in each round.
fn parsed(series: &Series) -> Vec<Option<Vec<Measured>>> {
    let each = series.samples.iter();
    each.map(|sample| Some(measured(&sample.as_ref()?.lines)))
        .collect()
}

/// A side's rounds.
struct Round<'a> {
    series: &'a Series,
    runs: &'a [Option<Vec<Measured>>],
}

/// A work's values on a side, or why there are none.
fn value(work: &Work, kind: Kind, plan: &Plan, rounds: &Round<'_>) -> Value {
    if let Some(why) = &rounds.series.failed {
        return Value::NotRun(why.clone());
    }
    let of_work = |run: &Option<Vec<Measured>>| {
        let run = run.as_ref()?;
        run.iter().find(|one| one.name == work.name).cloned()
    };
    let ran: Vec<Option<Measured>> = rounds.runs.iter().map(of_work).collect();
    if let Some(why) = ran.iter().flatten().find_map(|one| one.failed.as_ref()) {
        return Value::NotRun(works::failed(work, why));
    }
    let about = ran.iter().flatten().find_map(|one| one.about.as_deref());
    if let Some(why) = incomparable(work, kind, plan, about) {
        return Value::NotComparable(why);
    }
    let mut whole: Vec<Nanos> = ran.iter().flatten().filter_map(Measured::whole).collect();
    whole.sort_unstable();
    if whole
        .get(whole.len() / 2)
        .is_some_and(|whole| *whole < RESOLVED)
    {
        return Value::NotComparable(works::unresolved(work));
    }
    let samples: Vec<Option<u64>> = ran
        .iter()
        .map(|one| one.as_ref()?.host(work.operations))
        .collect();
    if samples.iter().all(Option::is_none) {
        return Value::NotRun("the probe did not say that it was done".to_owned());
    }
    Value::Samples(samples)
}

/// What to say of a side whose own clock tells another time than the host's.
fn clocks(side: &Side, runs: &[Option<Vec<Measured>>]) -> Option<String> {
    let apart: Vec<String> = WORKS
        .iter()
        .filter_map(|work| {
            let all = runs.iter().flatten().flatten();
            let ratios = all.filter(|one| one.name == work.name);
            let mut ratios: Vec<f64> = ratios.filter_map(Measured::own_to_host).collect();
            ratios.sort_unstable_by(f64::total_cmp);
            let middle = *ratios.get(ratios.len() / 2)?;
            ((middle - 1.0).abs() > CLOCKS_APART).then(|| format!("{} {middle:.2} x", work.name))
        })
        .collect();
    (!apart.is_empty()).then(|| {
        format!(
            "{}: its own clock says other times than the host's, which are the ones above: {}",
            side.name,
            apart.join(", ")
        )
    })
}

fn notes(plan: &Plan) -> Vec<String> {
    let mut notes = vec![
        format!(
            "the host's clock, at the arrival of a line after each batch of fixed work; a round's value \
             is the mean of its batches; {} rounds. What a line takes to arrive is in it, as often as \
             there are batches",
            plan.runs
        ),
        "the program keeps itself to one processor, inside; loopback on the host crosses no network \
         device, the others' way to the host does"
            .to_owned(),
        "a VM's figures are those of its kernel: cottage's tiny one is built without mitigations of \
         processor faults, for which system calls pay on the host"
            .to_owned(),
        "where ranges overlap, no difference was resolved".to_owned(),
    ];
    if plan.testbed {
        notes.push(format!(
            "the processor here is emulated: batches are smaller ({DIVIDE}), and only work that neither \
             leaves the guest nor changes its page tables is compared between VMs and the rest"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::subject::Line;

    pub(super) fn plan() -> Plan {
        Plan {
            runs: 2,
            warm_up: 0,
            quick: true,
            limit: 1,
            pin: None,
            emulated: None,
            instructions: false,
            testbed: false,
        }
    }

    fn run(interval: u64) -> Option<Vec<Measured>> {
        let mut at = 1_000_000;
        let mut lines = vec![Line {
            at,
            text: "BEGIN syscall ops=1000 batches=3".to_owned(),
        }];
        for _ in 0..3 {
            at += interval;
            lines.push(Line {
                at,
                text: ".".to_owned(),
            });
        }
        for text in ["END", "sample 100.0", "sample 100.0", "sample 100.0"] {
            lines.push(Line {
                at,
                text: text.to_owned(),
            });
        }
        lines.push(Line {
            at,
            text: "FAILED tcp errno 101".to_owned(),
        });
        Some(measured(&lines))
    }

    fn of(name: &str, kind: Kind, plan: &Plan, runs: &[Option<Vec<Measured>>]) -> Value {
        let work = WORKS.iter().find(|work| work.name == name).unwrap();
        let series = Series {
            side: 0,
            samples: Vec::new(),
            failed: None,
        };
        let series = &series;
        value(work, kind, plan, &Round { series, runs })
    }

    #[test]
    fn a_round_is_the_mean_of_its_batches_by_the_hosts_clock() {
        let runs = [run(2_000_000), None, run(3_000_000)];
        let value = of("syscall", Kind::Container, &plan(), &runs);
        assert_eq!(value, Value::Samples(vec![Some(2000), None, Some(3000)]));
    }

    #[test]
    fn what_is_shorter_than_lines_take_is_no_figure() {
        let value = of("syscall", Kind::Container, &plan(), &[run(300_000)]);
        assert!(matches!(value, Value::NotComparable(_)), "{value:?}");
    }

    #[test]
    fn no_figure_where_there_is_no_network() {
        let value = of("tcp", Kind::Vm, &plan(), &[run(200_000)]);
        let Value::NotRun(why) = value else {
            panic!("{value:?}")
        };
        assert!(why.contains("no way to the host"), "{why}");
    }

    #[test]
    fn work_of_an_emulated_kernel_has_no_figure() {
        let why = "guest kernel code is emulated on this host".to_owned();
        let plan = Plan {
            emulated: Some(why.clone()),
            ..plan()
        };
        let runs = [run(2_000_000)];
        let value = of("syscall", Kind::Vm, &plan, &runs);
        assert_eq!(value, Value::NotComparable(why));
        let value = of("syscall", Kind::Container, &plan, &runs);
        assert_eq!(value, Value::Samples(vec![Some(2000)]));
    }

    #[test]
    fn what_did_not_finish_is_no_figure() {
        let value = of("arith", Kind::Container, &plan(), &[run(200_000), None]);
        assert!(matches!(value, Value::NotRun(_)), "{value:?}");
    }
}
