//! The report for programs, with every value that was measured.
//!
//! ```text
//!   { "report": "cottage bench", "version": "0.1.0", "unit": "ns", "partial": false,
//!     "runs": 20, "warm_up": 3, "how": [...], "warnings": [...],
//!     "machine": { "date": ..., "cpu": ..., "kvm": ..., "load_before": "0.10", ... },
//!     "parts": [ { "what": "kernel", "name": ..., "version": ..., "size": ..., "sha256": ... } ],
//!     "subjects": [ {
//!       "command": "cottage run ...",
//!       "spans": [ { "until": "process gone", "n": 20, "min": ..., "p10": ..., "median": ...,
//!                    "p90": ..., "p99": ..., "max": ..., "samples": [ 2710000, ..., null ] } ],
//!       "intervals": [ { "until": ..., "who": ..., "took": { as a span }, "end": { ... } } ],
//!       "exits": { as a span, in exits }, "exits_of_last_run": [ ... ], "memory": { ... },
//!       "comparisons": [ { "span": ..., "ratio": 3.1, "middle_half": [2.9, 3.2] }
//!                        or { "span": ..., "overlap": { "own": [p10, p90], "other": [...] } } ]
//!     } ] }
//! ```
//!
//! `samples` has a value for each round, null where a round was cut off. Read next: [`super::svg`].

use serde::Serialize;
use serde_json::{Value, json};

use super::host::{Host, Part};
use super::report::{Measurement, Report};
use super::series::Series;
use super::stats::Comparison;
use crate::timeline::Nanos;
use crate::timeline::json::{JsonExit, JsonMemory, to_text};

#[derive(Serialize)]
struct JsonReport<'a> {
    report: &'static str,
    version: &'static str,
    unit: &'static str,
    partial: bool,
    runs: usize,
    warm_up: usize,
    how: &'a [String],
    warnings: &'a [String],
    machine: Machine<'a>,
    parts: &'a [Part],
    subjects: Vec<JsonSubject<'a>>,
}

#[derive(Serialize)]
struct Machine<'a> {
    #[serde(flatten)]
    host: &'a Host,
    load_before: &'a str,
    load_after: &'a str,
}

#[derive(Serialize)]
struct JsonSubject<'a> {
    command: &'a str,
    spans: Vec<JsonSeries<'a>>,
    intervals: Vec<JsonInterval<'a>>,
    exits: JsonSeries<'a>,
    exits_of_last_run: Vec<JsonExit>,
    memory: Option<JsonMemory>,
    comparisons: Vec<Value>,
}

#[derive(Serialize)]
struct JsonInterval<'a> {
    until: &'a str,
    who: String,
    took: JsonSeries<'a>,
    end: JsonSeries<'a>,
}

#[derive(Serialize)]
struct JsonSeries<'a> {
    until: &'a str,
    n: usize,
    min: Option<Nanos>,
    p10: Option<Nanos>,
    median: Option<Nanos>,
    p90: Option<Nanos>,
    p99: Option<Nanos>,
    max: Option<Nanos>,
    samples: &'a [Option<Nanos>],
}

impl<'a> From<&'a Series> for JsonSeries<'a> {
    fn from(series: &'a Series) -> Self {
        let summary = series.summary();
        Self {
            until: &series.name,
            n: summary.map_or(0, |s| s.n),
            min: summary.map(|s| s.min),
            p10: summary.map(|s| s.p10),
            median: summary.map(|s| s.median),
            p90: summary.map(|s| s.p90),
            p99: summary.map(|s| s.p99),
            max: summary.map(|s| s.max),
            samples: &series.values,
        }
    }
}

/// The report as one JSON object, with a line feed at its end.
pub fn render(report: &Report) -> String {
    to_text(&JsonReport {
        report: "cottage bench",
        version: env!("CARGO_PKG_VERSION"),
        unit: "ns",
        partial: report.partial,
        runs: report.runs,
        warm_up: report.warm_up,
        how: &report.how,
        warnings: &report.warnings,
        machine: Machine {
            host: &report.host,
            load_before: &report.load.0,
            load_after: &report.load.1,
        },
        parts: &report.parts,
        subjects: report
            .subjects
            .iter()
            .enumerate()
            .map(|(index, subject)| json_subject(report, subject, index > 0))
            .collect(),
    })
}

fn json_subject<'a>(
    report: &'a Report,
    subject: &'a Measurement,
    compared: bool,
) -> JsonSubject<'a> {
    let account = &subject.account;
    let comparisons = report.comparisons(subject).filter(|_| compared);
    JsonSubject {
        command: &subject.name,
        spans: account.spans.iter().map(Into::into).collect(),
        intervals: account
            .intervals
            .iter()
            .map(|interval| JsonInterval {
                until: &interval.name,
                who: interval.who.to_string(),
                took: (&interval.took).into(),
                end: (&interval.end).into(),
            })
            .collect(),
        exits: (&account.exits).into(),
        exits_of_last_run: account.last_exits.iter().map(Into::into).collect(),
        memory: subject.memory.map(Into::into),
        comparisons: comparisons
            .map(|(span, comparison)| json_comparison(span, comparison))
            .collect(),
    }
}

fn json_comparison(span: &str, comparison: Comparison) -> Value {
    match comparison {
        Comparison::Ratio { ratio, middle_half } => {
            json!({ "span": span, "ratio": ratio, "middle_half": middle_half })
        }
        Comparison::Overlap { own, other } => {
            json!({ "span": span, "overlap": { "own": own, "other": other } })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn raw_samples_are_kept_and_comparisons_told() {
        let json: Value = serde_json::from_str(&render(&report(3))).unwrap();
        let span = &json["subjects"][0]["spans"][0];
        assert_eq!(span["n"], 10);
        assert_eq!(span["samples"].as_array().unwrap().len(), 10);
        assert_eq!(json["subjects"][0]["comparisons"], json!([]));
        let comparison = &json["subjects"][1]["comparisons"][0];
        assert_eq!(comparison["span"], "guest entered");
        assert!((comparison["ratio"].as_f64().unwrap() - 3.0).abs() < 0.01);
        assert_eq!(json["machine"]["load_before"], "0.1");
    }
}
