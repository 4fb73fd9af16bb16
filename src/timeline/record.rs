//! What a measured cottage tells its parent: lines of text up a pipe.
//!
//! ```text
//!   point 81340123456789 1204 99123 guest-kernel mark 1: init started
//!   exit out 0x3f8 serial 80 201000 2100 9000
//!   memory 1180 1100 212 20480
//!   figure free 83886080
//!   dropped 3
//! ```
//!
//! - `point`: nanoseconds, VM exits so far, nanoseconds spent answering them, who, name;
//! - `exit`: kind, address (`-` if it has none), device (`-`), count, then nanoseconds in cottage:
//!   total, median, 99th percentile;
//! - `memory`, in KiB: resident, proportional and private dirty outside guest RAM, and guest RAM;
//! - `figure`: what the guest said last of its memory, a line a number;
//! - `dropped`: instants that were not kept.
//!
//! Both ends are the same program, so there is no version; a line that is not understood is an
//! error, not skipped. Read next: [`super::memory_use`].

use std::fmt::Write;
use std::io;

use super::exits::ExitLine;
use super::memory_use::MemoryUse;
use super::{Nanos, Timeline, Who, attribute};

/// An instant as the parent knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// What had just happened.
    pub name: String,
    /// Who spent the time before it.
    pub who: Who,
    /// When.
    pub at: Nanos,
    /// VM exits until then.
    pub exits: u64,
    /// Time cottage had spent answering them.
    pub answering: Nanos,
}

/// One run, as measured from inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Instants, oldest first.
    pub points: Vec<Point>,
    /// VM exits by kind and address, most frequent first.
    pub exits: Vec<ExitLine>,
    /// Memory at the end of the run, if it was asked for.
    pub memory: Option<MemoryUse>,
    /// What the guest said of its memory, if it has a balloon.
    pub figures: Vec<(String, u64)>,
    /// Instants that were not kept.
    pub dropped: u64,
}

/// A record's line that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("The measured run's record has a line that makes no sense: {0:?}")]
pub struct Malformed(String);

/// The parent's descriptor does not take the record.
#[derive(Debug, thiserror::Error)]
#[error("Cannot write the record of a measured run to descriptor {fd} (--record-fd)")]
pub struct SendError {
    fd: u32,
    source: io::Error,
}

/// The record of a run that has ended.
pub fn write(timeline: &Timeline) -> String {
    let mut text = String::new();
    let (notes, dropped) = timeline.notes();
    for (noted, who) in notes.iter().zip(attribute(&notes)) {
        let _infallible = writeln!(
            text,
            "point {} {} {} {} {}",
            noted.at,
            noted.exits,
            noted.answering,
            word(who),
            noted.stage
        );
    }
    for line in timeline.counts().lines() {
        let address = line
            .address
            .map_or_else(|| "-".to_owned(), |address| format!("{address:#x}"));
        let _infallible = writeln!(
            text,
            "exit {} {address} {} {} {} {} {}",
            line.kind,
            line.device.as_deref().unwrap_or("-"),
            line.count,
            line.total,
            line.median,
            line.p99
        );
    }
    if let Some(m) = timeline.memory() {
        let _infallible = writeln!(
            text,
            "memory {} {} {} {}",
            m.resident, m.proportional, m.private_dirty, m.guest
        );
    }
    for (name, value) in timeline.figures() {
        let _infallible = writeln!(text, "figure {name} {value}");
    }
    if dropped > 0 {
        let _infallible = writeln!(text, "dropped {dropped}");
    }
    text
}

/// Writes the record to descriptor `fd`, which the parent has left open for it.
///
/// # Errors
/// What the host said.
pub fn send(timeline: &Timeline, fd: u32) -> Result<(), SendError> {
    // By way of /proc, because a number is no descriptor that safe Rust could own.
    std::fs::write(format!("/proc/self/fd/{fd}"), write(timeline))
        .map_err(|source| SendError { fd, source })
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// [`Malformed`] with the line.
pub fn parse(text: &str) -> Result<Record, Malformed> {
    let mut record = Record::default();
    for line in text.lines() {
        parse_line(line, &mut record).ok_or_else(|| Malformed(line.to_owned()))?;
    }
    Ok(record)
}

fn parse_line(line: &str, record: &mut Record) -> Option<()> {
    let (kind, rest) = line.split_once(' ')?;
    match kind {
        "point" => {
            let mut words = rest.splitn(5, ' ');
            record.points.push(Point {
                at: words.next()?.parse().ok()?,
                exits: words.next()?.parse().ok()?,
                answering: words.next()?.parse().ok()?,
                who: who(words.next()?)?,
                name: words.next()?.to_owned(),
            });
        }
        "exit" => {
            let mut words = rest.split(' ');
            let (kind, address, device) = (words.next()?, words.next()?, words.next()?);
            let address = match address {
                "-" => None,
                hex => Some(u64::from_str_radix(hex.strip_prefix("0x")?, 16).ok()?),
            };
            let mut number = || words.next()?.parse().ok();
            record.exits.push(ExitLine {
                kind: kind.to_owned(),
                address,
                device: (device != "-").then(|| device.to_owned()),
                count: number()?,
                total: number()?,
                median: number()?,
                p99: number()?,
            });
        }
        "memory" => {
            let mut words = rest.split(' ');
            let mut number = || words.next()?.parse().ok();
            record.memory = Some(MemoryUse {
                resident: number()?,
                proportional: number()?,
                private_dirty: number()?,
                guest: number()?,
            });
        }
        "figure" => {
            let (name, value) = rest.split_once(' ')?;
            record.figures.push((name.to_owned(), value.parse().ok()?));
        }
        "dropped" => record.dropped = rest.parse().ok()?,
        _ => return None,
    }
    Some(())
}

fn word(who: Who) -> &'static str {
    match who {
        Who::Vmm => "vmm",
        Who::HostKernel => "host-kernel",
        Who::GuestKernel => "guest-kernel",
        Who::GuestUser => "guest-user",
    }
}

fn who(text: &str) -> Option<Who> {
    Who::ALL.into_iter().find(|who| word(*who) == text)
}

#[cfg(test)]
mod tests {
    use super::super::exits::{ExitCounts, Kind};
    use super::super::{Measure, Stage};
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let measure = Measure {
            exits: true,
            memory: true,
        };
        let timeline = Timeline::measuring(measure);
        timeline.note(Stage::Main);
        timeline.count_exit(70);
        timeline.note(Stage::FirstUse("serial"));
        let mut counts = ExitCounts::default();
        counts.add(Kind::Out, Some(0x3f8), Some("serial"), 70);
        counts.add(Kind::Interrupted, None, None, 5);
        timeline.add_counts(&counts);
        timeline.look_at_memory(&(0..0));
        timeline.keep_figures(vec![("free", 5), ("total", u64::MAX)]);
        let record = parse(&write(&timeline)).unwrap();
        assert_eq!(record.points.len(), 3);
        assert_eq!(record.points[1].name, "first use of serial");
        assert_eq!(
            (record.points[1].exits, record.points[1].answering),
            (1, 70)
        );
        assert_eq!(record.exits, counts.lines());
        assert_eq!(record.memory, timeline.memory());
        assert!(record.memory.is_some());
        let figures = [("free".to_owned(), 5), ("total".to_owned(), u64::MAX)];
        assert_eq!(record.figures, figures);
    }

    #[test]
    fn nonsense_is_an_error_with_the_line() {
        for line in [
            "",
            "point",
            "point 1 2 3 nobody x",
            "exit out 3f8 - 1 1 1 1",
            "figure free",
            "figure free -1",
            "hello 1",
        ] {
            let text = format!("dropped 1\n{line}\n");
            assert_eq!(parse(&text), Err(Malformed(line.to_owned())), "{line:?}");
        }
    }
}
