//! One run as a bar chart in the terminal, and the account of its VM exits as a table.
//!
//! Pure text from a [`MeasuredRun`]. Read next: [`super::json`].

use std::fmt::Write;

use super::child::MeasuredRun;
use super::exits::ExitLine;
use super::memory_use::MemoryUse;
use super::record::Point;
use super::{Nanos, Who};

/// Columns of the bars.
const WIDTH: u64 = 30;
/// Lines of the account of exits; the rest is added up in one.
const MAX_EXIT_LINES: usize = 24;

/// A time span of a run and who spent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// What had happened at its end.
    pub name: String,
    /// Who spent it.
    pub who: Who,
    /// Nanoseconds after spawn at which it began.
    pub start: Nanos,
    /// Nanoseconds after spawn at which it ended.
    pub end: Nanos,
    /// VM exits in it.
    pub exits: u64,
    /// Time of it in which cottage answered them.
    pub answering: Nanos,
}

/// The intervals of `run`, from spawn to gone, without gaps.
pub fn intervals(run: &MeasuredRun) -> Vec<Interval> {
    let last = run.record.points.last();
    let gone = Point {
        name: "process gone".to_owned(),
        who: Who::HostKernel,
        at: run.gone,
        exits: last.map_or(0, |p| p.exits),
        answering: last.map_or(0, |p| p.answering),
    };
    let mut before = (run.spawned, 0, 0);
    let mut intervals = Vec::with_capacity(run.record.points.len() + 1);
    for point in run.record.points.iter().chain([&gone]) {
        intervals.push(Interval {
            name: point.name.clone(),
            who: point.who,
            start: before.0 - run.spawned,
            end: point.at.max(before.0) - run.spawned,
            exits: point.exits.saturating_sub(before.1),
            answering: point.answering.saturating_sub(before.2),
        });
        before = (point.at.max(before.0), point.exits, point.answering);
    }
    intervals
}

/// How much of `intervals` each spent, in the order of [`Who::ALL`]. Time in which cottage answers
/// exits is cottage's, also within the guest's intervals.
pub fn shares(intervals: &[Interval]) -> [(Who, Nanos); 4] {
    Who::ALL.map(|who| {
        let spent = intervals.iter().map(|interval| {
            let length = interval.end - interval.start;
            let is_guest = matches!(interval.who, Who::GuestKernel | Who::GuestUser);
            let answering = if is_guest {
                interval.answering.min(length)
            } else {
                0
            };
            let own = if interval.who == who {
                length - answering
            } else {
                0
            };
            own + if who == Who::Vmm { answering } else { 0 }
        });
        (who, spent.sum())
    })
}

/// The chart.
pub fn timeline(run: &MeasuredRun) -> String {
    let intervals = intervals(run);
    let total = (run.gone - run.spawned).max(1);
    let mut text = String::from(
        "   at ms    took  0                          total  who              until\n",
    );
    for interval in &intervals {
        let bar = bar(interval, total);
        let _infallible = write!(
            text,
            "{} {}  {bar}  {:<15}  {}",
            ms(interval.end, 8),
            ms(interval.end - interval.start, 7),
            interval.who,
            interval.name
        );
        if interval.exits > 0 {
            let _infallible = write!(
                text,
                " ({} exits, {} ms in cottage)",
                interval.exits,
                ms(interval.answering, 0)
            );
        }
        text.push('\n');
    }
    let parts: Vec<_> = shares(&intervals)
        .iter()
        .map(|(who, spent)| format!("{who} {}", ms(*spent, 0)))
        .collect();
    let _infallible = writeln!(text, "total {} ms: {}", ms(total, 0), parts.join(", "));
    if run.record.dropped > 0 {
        let _infallible = writeln!(text, "{} more instants were not kept", run.record.dropped);
    }
    if let Some(memory) = &run.record.memory {
        text += &memory_line(memory);
    }
    if !run.record.figures.is_empty() {
        text += &figures_line(&run.record.figures);
    }
    text
}

/// What the guest said of its memory: it need not be true.
fn figures_line(figures: &[(String, u64)]) -> String {
    let sizes = [
        "total",
        "free",
        "available",
        "caches",
        "swapped_in",
        "swapped_out",
    ];
    let parts: Vec<_> = figures
        .iter()
        .map(|(name, value)| match sizes.contains(&name.as_str()) {
            true => format!("{name} {} KiB", value >> 10),
            false => format!("{name} {value}"),
        })
        .collect();
    format!("guest's own account: {}\n", parts.join(", ")).replace('_', " ")
}

/// What the run's memory cost the host.
pub(crate) fn memory_line(memory: &MemoryUse) -> String {
    format!(
        "memory: cottage {} KiB resident (proportional {}, private dirty {}), guest RAM touched {} KiB\n",
        memory.resident, memory.proportional, memory.private_dirty, memory.guest
    )
}

/// The account of VM exits.
pub fn exits(lines: &[ExitLine]) -> String {
    let count: u64 = lines.iter().map(|line| line.count).sum();
    let total: Nanos = lines.iter().map(|line| line.total).sum();
    let mut text = format!(
        "{count} VM exits reached cottage, which took {} ms to answer them\n\
         \x20  count  total ms    p50 us    p99 us  exit         address     device\n",
        ms(total, 0)
    );
    for line in lines.iter().take(MAX_EXIT_LINES) {
        let address = line
            .address
            .map_or_else(String::new, |address| format!("{address:#x}"));
        let _infallible = writeln!(
            text,
            "{:>8}  {}  {}  {}  {:<11}  {address:<10}  {}",
            line.count,
            ms(line.total, 8),
            us(line.median),
            us(line.p99),
            line.kind,
            line.device.as_deref().unwrap_or("")
        );
    }
    let rest = lines.get(MAX_EXIT_LINES..).unwrap_or(&[]);
    if !rest.is_empty() {
        let count: u64 = rest.iter().map(|line| line.count).sum();
        let total: Nanos = rest.iter().map(|line| line.total).sum();
        let _infallible = writeln!(
            text,
            "{count:>8}  {}  {:>20}  {} more kinds",
            ms(total, 8),
            "",
            rest.len()
        );
    }
    text
}

/// The interval's place in the whole.
fn bar(interval: &Interval, total: Nanos) -> String {
    let column = |at: Nanos| at * WIDTH / total;
    // At least one mark each, or the short ones, most of a VMM's own, would not be seen.
    let start = column(interval.start).min(WIDTH - 1);
    let end = column(interval.end).clamp(start + 1, WIDTH);
    let fill = match interval.who {
        Who::HostKernel => "▒",
        Who::Vmm => "█",
        Who::GuestKernel => "▓",
        Who::GuestUser => "░",
    };
    (0..WIDTH)
        .map(|at| {
            if (start..end).contains(&at) {
                fill
            } else {
                "·"
            }
        })
        .collect()
}

fn ms(nanos: Nanos, width: usize) -> String {
    format!(
        "{:>width$}.{:03}",
        nanos / 1_000_000,
        nanos / 1000 % 1000,
        width = width.saturating_sub(4)
    )
}

fn us(nanos: Nanos) -> String {
    format!("{:>4}.{:03}", nanos / 1000, nanos % 1000)
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::super::record::Record;
    use super::*;

    fn point(name: &str, who: Who, at: Nanos, exits: u64, answering: Nanos) -> Point {
        Point {
            name: name.to_owned(),
            who,
            at,
            exits,
            answering,
        }
    }

    pub(in crate::timeline) fn run() -> MeasuredRun {
        let points = vec![
            point("main entered", Who::HostKernel, 1_500_000, 0, 0),
            point("guest entered", Who::Vmm, 2_000_000, 0, 0),
            point("guest ended", Who::GuestKernel, 4_000_000, 7, 400_000),
        ];
        MeasuredRun {
            spawned: 1_000_000,
            record: Record {
                points,
                ..Record::default()
            },
            gone: 5_000_000,
            status: ExitStatus::from_raw(0),
        }
    }

    #[test]
    fn intervals_have_no_gaps() {
        let intervals = intervals(&run());
        assert_eq!(intervals.first().unwrap().start, 0);
        assert_eq!(intervals.last().unwrap().end, 4_000_000);
        for pair in intervals.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
    }

    #[test]
    fn shares_add_up_and_answering_is_cottages() {
        let shares = shares(&intervals(&run()));
        let total: Nanos = shares.iter().map(|(_, spent)| spent).sum();
        assert_eq!(total, 4_000_000);
        assert_eq!(shares[1], (Who::Vmm, 900_000));
        assert_eq!(shares[2], (Who::GuestKernel, 1_600_000));
    }

    #[test]
    fn every_interval_has_a_line_and_a_visible_bar() {
        let text = timeline(&run());
        assert_eq!(text.lines().count(), 1 + 4 + 1, "{text}");
        for line in text.lines().skip(1).take(4) {
            assert!(line.contains(['▒', '█', '▓', '░']), "{line}");
        }
        assert!(
            text.contains("guest ended (7 exits, 0.400 ms in cottage)"),
            "{text}"
        );
    }

    #[test]
    fn long_accounts_end_in_a_sum() {
        let line = |port| ExitLine {
            kind: "out".to_owned(),
            address: Some(port),
            device: None,
            count: 2,
            total: 1500,
            median: 700,
            p99: 800,
        };
        let lines: Vec<_> = (0..30).map(line).collect();
        let text = exits(&lines);
        assert!(text.starts_with("60 VM exits"), "{text}");
        assert!(text.ends_with("6 more kinds\n"), "{text}");
    }
}
