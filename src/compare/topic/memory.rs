//! What does one more instance take of the host's memory?
//!
//! Of curves through several numbers of instances, the slope: what all have in common (an engine, shared
//! pages) does not count as one instance's. What an engine takes by itself stands beside it.
//! Read next: [`super::density`].

use super::Findings;
use super::crowd::{self, Crowd, pss};
use crate::compare::finding::{Figure, Point, Unit, Value};
use crate::compare::session::Session;

/// Measures it.
pub fn measure(session: &mut Session<'_>) -> Findings {
    let crowds = crowd::measure(session);
    let figure = |key: &str, title: &str, counted: &str, of: &dyn Fn(&Crowd) -> Value| Figure {
        key: format!("memory.{key}"),
        title: title.to_owned(),
        end_points: counted.to_owned(),
        unit: Unit::Bytes,
        part_of: None,
        lines: session.lines(|index, _| crowds.get(index).map_or_else(nothing, of)),
    };
    Findings {
        topic: "memory",
        question: "What does one more instance take of the host's memory?",
        figures: vec![
            figure(
                "processes",
                "Processes on the host",
                "sum of PSS over all processes of the host, beyond that without instances; the \
                 program inside, its helpers and a VM's memory are in it",
                &|crowd| curve(crowd, &crowd.processes, ""),
            ),
            figure(
                "host",
                "The host's view",
                "AnonPages + Slab + PageTables + KernelStack + Percpu + Shmem of /proc/meminfo, \
                 beyond that without instances",
                &|crowd| curve(crowd, &crowd.host, ""),
            ),
            figure(
                "cgroup",
                "Charged to its cgroup",
                "memory.current of the instances' cgroups",
                &|crowd| {
                    curve(
                        crowd,
                        &crowd.cgroup,
                        "instances have no cgroup of their own",
                    )
                },
            ),
            figure(
                "guest",
                "Guest memory touched",
                "resident pages of what is the guest's memory; it is in the processes' too",
                &|crowd| curve(crowd, &crowd.guest, "there is no guest"),
            ),
            engine(session),
        ],
        tables: Vec::new(),
        notes: notes(session, &crowds),
    }
}

/// What runs whether there are instances or not.
fn engine(session: &Session<'_>) -> Figure {
    Figure {
        key: "memory.engine".to_owned(),
        title: "Engine, once".to_owned(),
        end_points: "PSS of the processes that run even if there is no instance".to_owned(),
        unit: Unit::Bytes,
        part_of: None,
        lines: session
            .lines(|_, side| Value::Exact(side.launch.engine().iter().map(|pid| pss(*pid)).sum())),
    }
}

fn nothing() -> Value {
    Value::NotRun("it was not reached".to_owned())
}

fn curve(crowd: &Crowd, points: &[Point], why_none: &str) -> Value {
    match (points, &crowd.stopped) {
        ([] | [_], Some(why)) => Value::NotRun(why.clone()),
        ([], None) => Value::NotRun(why_none.to_owned()),
        (points, _) => Value::Curve(points.to_vec()),
    }
}

fn notes(session: &Session<'_>, crowds: &[Crowd]) -> Vec<String> {
    let steps = crowd::steps(session).iter();
    let steps: Vec<_> = steps.map(ToString::to_string).collect();
    let mut notes = vec![
        format!(
            "{} instances side by side, each waiting; the figure for one is the slope, by least \
             squares",
            steps.join(", ")
        ),
        "PSS alone misses what the kernel keeps for an instance, its cgroup's charge misses the \
         helpers outside, and the host's view has in it what others do meanwhile: read all three"
            .to_owned(),
    ];
    for (side, crowd) in session.found.sides.iter().zip(crowds) {
        if let Some(why) = &crowd.stopped {
            notes.push(format!("{}: {why}", side.name));
        }
    }
    notes
}
