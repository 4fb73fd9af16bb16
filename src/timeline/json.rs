//! One run for programs: every instant in nanoseconds after spawn.
//!
//! ```text
//!   { "cottage": "0.1.0", "clock": "CLOCK_MONOTONIC", "unit": "ns", "status": 0, "total": 2710000,
//!     "intervals": [ { "until": "main entered", "who": "host kernel", "start": 0, "end": 804000,
//!                      "exits": 0, "answering": 0 } ... ],
//!     "spent": { "host kernel": 1200000, ... },
//!     "dropped": 0,
//!     "exits": [ { "kind": "out", "address": 1016, "device": "serial", "count": 12,
//!                  "total": 61000, "p50": 4600, "p99": 9200 } ... ],
//!     "memory": { "unit": "KiB", "resident": 2084, "proportional": 1100, "private_dirty": 188,
//!                 "guest": 4096 },
//!     "figures": { "free": 83886080, "total": 121634816, ... } }
//! ```
//!
//! `answering` is the part of an interval in which cottage answered VM exits. `memory` is null where
//! it was not read. `figures` is what the guest said of its memory through its balloon, in bytes and
//! counts; without one it is empty. Read next: [`super::canvas`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::Nanos;
use super::chart::{self, Interval};
use super::child::MeasuredRun;
use super::exits::ExitLine;
use super::memory_use::MemoryUse;

#[derive(Serialize)]
struct Report {
    cottage: &'static str,
    clock: &'static str,
    unit: &'static str,
    status: u8,
    total: Nanos,
    intervals: Vec<JsonInterval>,
    spent: BTreeMap<String, Nanos>,
    dropped: u64,
    exits: Vec<JsonExit>,
    memory: Option<JsonMemory>,
    figures: BTreeMap<String, u64>,
}

/// An [`Interval`] as programs get it.
#[derive(Serialize)]
pub(crate) struct JsonInterval {
    until: String,
    who: String,
    start: Nanos,
    end: Nanos,
    exits: u64,
    answering: Nanos,
}

/// An [`ExitLine`] as programs get it.
#[derive(Serialize)]
pub(crate) struct JsonExit {
    kind: String,
    address: Option<u64>,
    device: Option<String>,
    count: u64,
    total: Nanos,
    p50: Nanos,
    p99: Nanos,
}

/// [`MemoryUse`] as programs get it.
#[derive(Serialize)]
pub(crate) struct JsonMemory {
    unit: &'static str,
    resident: u64,
    proportional: u64,
    private_dirty: u64,
    guest: u64,
}

impl From<&Interval> for JsonInterval {
    fn from(interval: &Interval) -> Self {
        Self {
            until: interval.name.clone(),
            who: interval.who.to_string(),
            start: interval.start,
            end: interval.end,
            exits: interval.exits,
            answering: interval.answering,
        }
    }
}

impl From<&ExitLine> for JsonExit {
    fn from(line: &ExitLine) -> Self {
        Self {
            kind: line.kind.clone(),
            address: line.address,
            device: line.device.clone(),
            count: line.count,
            total: line.total,
            p50: line.median,
            p99: line.p99,
        }
    }
}

impl From<MemoryUse> for JsonMemory {
    fn from(memory: MemoryUse) -> Self {
        Self {
            unit: "KiB",
            resident: memory.resident,
            proportional: memory.proportional,
            private_dirty: memory.private_dirty,
            guest: memory.guest,
        }
    }
}

/// The run as one JSON object, with a line feed at its end.
pub fn render(run: &MeasuredRun) -> String {
    let intervals = chart::intervals(run);
    let spent = chart::shares(&intervals);
    to_text(&Report {
        cottage: env!("CARGO_PKG_VERSION"),
        clock: "CLOCK_MONOTONIC",
        unit: "ns",
        status: run.exit_code(),
        total: run.gone - run.spawned,
        intervals: intervals.iter().map(Into::into).collect(),
        spent: spent
            .map(|(who, spent)| (who.to_string(), spent))
            .into_iter()
            .collect(),
        dropped: run.record.dropped,
        exits: run.record.exits.iter().map(Into::into).collect(),
        memory: run.record.memory.map(Into::into),
        figures: run.record.figures.iter().cloned().collect(),
    })
}

/// `value` as indented JSON and a line feed.
pub(crate) fn to_text(value: &impl Serialize) -> String {
    // Fails for maps whose keys are no text and for what fails by itself; neither is in a report.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::chart::tests::run;
    use super::*;

    #[test]
    fn every_interval_is_there_and_the_shares_add_up() {
        let json: serde_json::Value = serde_json::from_str(&render(&run())).unwrap();
        assert_eq!(json["total"], 4_000_000);
        assert_eq!(json["intervals"][0]["until"], "main entered");
        assert_eq!(json["intervals"].as_array().unwrap().len(), 4);
        let spent = json["spent"].as_object().unwrap();
        let sum: u64 = spent.values().map(|spent| spent.as_u64().unwrap()).sum();
        assert_eq!(sum, 4_000_000);
        assert!(json["memory"].is_null());
    }
}
