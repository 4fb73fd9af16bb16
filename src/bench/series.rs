//! From samples to series: the same span of every round, side by side.
//!
//! A *span* begins at spawn and ends at something both sides have (first output, gone) or that
//! cottage tells (guest entered, init's marks). An *interval* lies between two consecutive instants
//! of cottage's; together they make up the whole. Read next: [`super::report`].

use crate::devices::report::{MARK_DONE, MARK_INIT, MARK_READY};
use crate::timeline::chart::{Interval, intervals};
use crate::timeline::exits::ExitLine;
use crate::timeline::{Nanos, Stage, Who};

use super::stats::Summary;
use super::subject::Sample;

/// Values by round; `None` where a round has none.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the time ended with.
    pub name: String,
    /// The values.
    pub values: Vec<Option<Nanos>>,
}

/// An interval of every round.
#[derive(Clone, Debug)]
pub struct IntervalSeries {
    /// What it ended with.
    pub name: String,
    /// Who spent it.
    pub who: Who,
    /// How long it took.
    pub took: Series,
    /// Its end, after spawn.
    pub end: Series,
}

/// Everything about one subject's runs.
#[derive(Clone, Debug)]
pub struct Account {
    /// From spawn to here.
    pub spans: Vec<Series>,
    /// In order of time; none for other programs.
    pub intervals: Vec<IntervalSeries>,
    /// VM exits of each round that reached cottage.
    pub exits: Series,
    /// Those of the last round, by kind.
    pub last_exits: Vec<ExitLine>,
}

/// Instants that are spans of their own.
const SPANS: [Stage; 4] = [
    Stage::GuestEntered,
    Stage::Mark(MARK_INIT),
    Stage::Mark(MARK_READY),
    Stage::Mark(MARK_DONE),
];

impl Series {
    fn new(name: &str, values: Vec<Option<Nanos>>) -> Self {
        Self {
            name: name.to_owned(),
            values,
        }
    }

    /// The values there are.
    pub fn present(&self) -> Vec<Nanos> {
        self.values.iter().copied().flatten().collect()
    }

    /// Their figures; `None` if there is no value.
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.present())
    }
}

impl Account {
    /// Of `samples`, one a round.
    pub fn of(samples: &[Option<Sample>]) -> Self {
        let each = |of: &dyn Fn(&Sample) -> Option<Nanos>| -> Vec<Option<Nanos>> {
            samples.iter().map(|sample| of(sample.as_ref()?)).collect()
        };
        let mut spans = vec![
            Series::new("first output", each(&|sample| sample.first_output)),
            Series::new("matching output", each(&|sample| sample.matched)),
        ];
        for stage in SPANS {
            let at = |sample: &Sample| {
                let run = sample.run.as_ref()?;
                let name = stage.to_string();
                let point = run.record.points.iter().find(|point| point.name == name)?;
                point.at.checked_sub(run.spawned)
            };
            spans.push(Series::new(&stage.to_string(), each(&at)));
        }
        spans.push(Series::new(
            "process gone",
            each(&|sample| Some(sample.gone)),
        ));
        spans.retain(|span| span.summary().is_some());

        let last = samples.iter().rev().flatten().find_map(|s| s.run.as_ref());
        let exits = |sample: &Sample| {
            let lines = &sample.run.as_ref()?.record.exits;
            Some(lines.iter().map(|line| line.count).sum())
        };
        Self {
            spans,
            intervals: interval_series(samples),
            exits: Series::new("VM exits", each(&exits)),
            last_exits: last.map_or_else(Vec::new, |run| run.record.exits.clone()),
        }
    }

    /// The median run: each interval from the median end of the one before to its own.
    ///
    /// No single run was like this, but it has no gaps, and no straggler shows in it.
    pub fn median_run(&self) -> Vec<Interval> {
        let mut start = 0;
        let intervals = self.intervals.iter().filter_map(|interval| {
            let end = interval.end.summary()?.median.max(start);
            let median = Interval {
                name: interval.name.clone(),
                who: interval.who,
                start,
                end,
                exits: 0,
                answering: 0,
            };
            start = end;
            Some(median)
        });
        intervals.collect()
    }
}

/// The intervals of all runs by name, in the order of their median ends.
fn interval_series(samples: &[Option<Sample>]) -> Vec<IntervalSeries> {
    let runs: Vec<Option<Vec<Interval>>> = samples
        .iter()
        .map(|sample| Some(numbered(intervals(sample.as_ref()?.run.as_ref()?))))
        .collect();
    let mut names: Vec<(String, Who)> = Vec::new();
    for interval in runs.iter().flatten().flatten() {
        if !names.iter().any(|(name, _)| *name == interval.name) {
            names.push((interval.name.clone(), interval.who));
        }
    }
    let mut all: Vec<_> = names
        .into_iter()
        .map(|(name, who)| {
            let each = |of: &dyn Fn(&Interval) -> Nanos| {
                let find = |run: &Option<Vec<Interval>>| {
                    let interval = run.as_ref()?.iter().find(|i| i.name == name)?;
                    Some(of(interval))
                };
                Series::new(&name, runs.iter().map(find).collect())
            };
            IntervalSeries {
                took: each(&|interval| interval.end - interval.start),
                end: each(&|interval| interval.end),
                who,
                name: name.clone(),
            }
        })
        .collect();
    all.sort_by_key(|interval| interval.end.summary().map(|ends| ends.median));
    all
}

/// Gives instants that occur again in a run a number: "mark 9", "mark 9 (2)".
fn numbered(mut intervals: Vec<Interval>) -> Vec<Interval> {
    let names: Vec<String> = intervals.iter().map(|i| i.name.clone()).collect();
    for (index, interval) in intervals.iter_mut().enumerate() {
        let before = names.iter().take(index);
        let times = before.filter(|name| **name == interval.name).count();
        if times > 0 {
            interval.name += &format!(" ({})", times + 1);
        }
    }
    intervals
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;
    use crate::timeline::child::MeasuredRun;
    use crate::timeline::record::{Point, Record};

    /// A run of cottage that entered its guest `entered` after spawn and was gone twice as late.
    pub(in crate::bench) fn sample(entered: Nanos) -> Sample {
        let spawned = 5_000;
        let point = |name: &str, who, at| Point {
            name: name.to_owned(),
            who,
            at: spawned + at,
            exits: 0,
            answering: 0,
        };
        let points = vec![
            point("main entered", Who::HostKernel, entered / 2),
            point("guest entered", Who::Vmm, entered),
            point("mark 9", Who::GuestKernel, entered + 1),
            point("mark 9", Who::GuestKernel, entered + 3),
        ];
        Sample {
            first_output: None,
            matched: None,
            gone: 2 * entered,
            spawned,
            lines: Vec::new(),
            run: Some(MeasuredRun {
                spawned,
                record: Record {
                    points,
                    ..Record::default()
                },
                gone: spawned + 2 * entered,
                status: ExitStatus::from_raw(0),
            }),
        }
    }

    #[test]
    fn spans_without_values_are_left_out() {
        let account = Account::of(&[Some(sample(1000)), None, Some(sample(3000))]);
        let names: Vec<_> = account.spans.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["guest entered", "process gone"]);
        assert_eq!(account.spans[0].values, [Some(1000), None, Some(3000)]);
    }

    #[test]
    fn repeated_instants_are_numbered() {
        let account = Account::of(&[Some(sample(1000))]);
        let names: Vec<_> = account.intervals.iter().map(|i| i.name.as_str()).collect();
        let wanted = [
            "main entered",
            "guest entered",
            "mark 9",
            "mark 9 (2)",
            "process gone",
        ];
        assert_eq!(names, wanted);
        assert_eq!(account.intervals[3].took.values, [Some(2)]);
    }

    #[test]
    fn median_run_has_no_gaps() {
        let samples: Vec<_> = [1000, 5000, 2000].map(|t| Some(sample(t))).into();
        let run = Account::of(&samples).median_run();
        for pair in run.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        assert_eq!(run.last().unwrap().end, 4000);
    }
}
