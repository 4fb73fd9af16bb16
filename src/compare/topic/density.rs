//! How many instances fit?
//!
//! Until a limit that is stated: the host's memory, its process numbers, a start that takes twice as
//! long. Measured up to a number that does the host no harm, and from there extrapolated by the slope,
//! which each line says. Read next: [`super::disk`].

use std::fs;

use super::Findings;
use super::crowd::{self, Crowd};
use crate::compare::finding::{Figure, Unit, Value, slope};
use crate::compare::session::Session;

/// Measures it.
pub fn measure(session: &mut Session<'_>) -> Findings {
    let crowds = crowd::measure(session);
    let memory = crowd::memory_total();
    let threads = limit("/proc/sys/kernel/threads-max").min(limit("/proc/sys/kernel/pid_max"));
    let figure = |key, title, counted, unit, of: &dyn Fn(&Crowd) -> Value| {
        figure((session, &crowds), (key, title, counted), unit, of)
    };
    Findings {
        topic: "density",
        question: "How many instances fit on this host?",
        figures: vec![
            figure(
                "measured",
                "Ran side by side here",
                "instances that waited side by side; the number is chosen, not a limit".to_owned(),
                Unit::Count,
                &|crowd| Value::Exact(crowd.starts.len() as u64),
            ),
            figure(
                "by-memory",
                "Would fill the memory",
                format!(
                    "EXTRAPOLATED: {} MiB of memory, by what one more instance takes in the host's \
                     view",
                    memory >> 20
                ),
                Unit::Count,
                &|crowd| fits(memory, slope(&crowd.host)),
            ),
            figure(
                "by-threads",
                "Would use up the thread numbers",
                format!(
                    "EXTRAPOLATED: {threads} threads (the lesser of threads-max and pid_max), by how \
                     many one more instance has on the host"
                ),
                Unit::Count,
                &|crowd| fits(threads, slope(&crowd.tasks)),
            ),
            figure(
                "start",
                "Start beside the others",
                "from before an instance is spawned to its first output, one value for each, while \
                 those before it run"
                    .to_owned(),
                Unit::Nanoseconds,
                &|crowd| Value::Samples(crowd.starts.clone()),
            ),
        ],
        tables: Vec::new(),
        notes: notes(session, &crowds),
    }
}

fn figure(
    (session, crowds): (&Session<'_>, &[Crowd]),
    (key, title, counted): (&str, &str, String),
    unit: Unit,
    of: &dyn Fn(&Crowd) -> Value,
) -> Figure {
    Figure {
        key: format!("density.{key}"),
        title: title.to_owned(),
        end_points: counted,
        unit,
        part_of: None,
        lines: session.lines(|index, _| match crowds.get(index) {
            None => Value::NotRun("it was not reached".to_owned()),
            Some(crowd) => match &crowd.stopped {
                Some(why) if crowd.starts.is_empty() => Value::NotRun(why.clone()),
                _ => of(crowd),
            },
        }),
    }
}

/// How many of `each` there are in `all`.
fn fits(all: u64, each: Option<f64>) -> Value {
    match each {
        // Less than a page, or a tenth of a thread, is no slope but noise.
        Some(each) if each > 0.1 =>
        {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "positive, and cut on purpose: there is no part of an instance"
            )]
            Value::Extrapolated((all as f64 / each) as u64)
        }
        _ => Value::NotComparable(
            "one more instance took so little that the slope is lost in what the host does besides"
                .to_owned(),
        ),
    }
}

fn limit(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(u64::MAX)
}

fn notes(session: &Session<'_>, crowds: &[Crowd]) -> Vec<String> {
    let mut notes = vec![
        "an instance only waits: one that works fills the host's processors and memory sooner, on \
         every side alike"
            .to_owned(),
    ];
    for (side, crowd) in session.found.sides.iter().zip(crowds) {
        let starts: Vec<_> = crowd.starts.iter().flatten().copied().collect();
        let third = starts.len() / 3;
        let mean =
            |starts: &[u64]| starts.iter().sum::<u64>() as f64 / 1e6 / starts.len().max(1) as f64;
        if let (Some(first), Some(last)) = (starts.get(..third), starts.get(starts.len() - third..))
            && third > 0
        {
            notes.push(format!(
                "{}: a start took {:.1} ms on average among the first {third}, {:.1} ms among the \
                 last {third}",
                side.name,
                mean(first),
                mean(last)
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_cut_to_whole_instances() {
        assert_eq!(fits(100, Some(30.0)), Value::Extrapolated(3));
        assert!(matches!(fits(100, Some(0.0)), Value::NotComparable(_)));
        assert!(matches!(fits(100, Some(-5.0)), Value::NotComparable(_)));
        assert!(matches!(fits(100, None), Value::NotComparable(_)));
    }
}
