//! The report for programs, with every value that was measured.
//!
//! ```text
//!   { "report": "cottage compare", "version": "0.1.0", "command": ..., "partial": false,
//!     "host": { "date": ..., "cpu": ..., "kvm": ... }, "load_before": "0.10", "load_after": ...,
//!     "warnings": [...], "root": { "digest": ..., "bytes": ..., "left_out": [...] },
//!     "plan": { "runs": 20, "warm_up": 2, "instructions": false, ... },
//!     "sides": [ { "name": "crun", "kind": "container", "version": ..., "command": ...,
//!                  "notes": [...] } ],
//!     "absent": [ { "name": ..., "kind": ..., "reason": ... } ],
//!     "findings": [ {
//!       "topic": "start", "question": ..., "notes": [...],
//!       "figures": [ {
//!         "key": "start.first-output", "title": ..., "end_points": ..., "unit": "nanoseconds",
//!         "part_of": null,
//!         "lines": [ {
//!           "side": "crun", "kind": "container",
//!           "samples": [ 7710000, ..., null ]       or "exact": 2049128
//!             or "curve": [ { "instances": 10, "value": ... } ]
//!             or "not_run": "no crun on PATH"       or "not_comparable": ...
//!           "range": { "n": 20, "min": ..., "low": p10, "middle": median, "high": p90, "max": ... },
//!           "beside_floor": { "side": "process", "ratio": { "ratio": 75.5, "middle_half": [72, 79] } }
//!                        or { "side": ..., "overlap": null }, "too_few" or "nothing" likewise
//!           "beside_vm": ... } ] } ],
//!       "tables": [ { "key": ..., "title": ..., "columns": [ SIDE... ],
//!                     "rows": [ { "name": ..., "cells": [...], "remark": ... } ] } ] } ],
//!     "claims": [ { "claim": { "id": ..., "rule": {...} }, "rule": "in words", "evidence": [...],
//!                   "verdict": "holds" or "does_not_hold" or { "holds_only_for": [...] }
//!                              or { "cannot_be_judged": "why" },
//!                   "in_question": whether its topic was measured } ] }
//! ```
//!
//! `samples` has a value for each round, null where a round was cut off or gave none. With
//! `plan.instructions` nanoseconds are instructions. Read next: [`super::markdown`].

use serde::Serialize;

use super::words;
use super::{Report, RootInfo, SideInfo};
use crate::bench::host::Host;
use crate::compare::claims::Judged;
use crate::compare::finding::{Figure, Findings, Line, Table, Unit};
use crate::compare::relation::{Range, Relation, relation};
use crate::compare::session::Plan;
use crate::compare::side::{Absent, Kind};

#[derive(Serialize)]
struct JsonReport<'a> {
    report: &'static str,
    version: &'static str,
    command: &'a str,
    partial: bool,
    host: &'a Host,
    load_before: &'a str,
    load_after: &'a str,
    warnings: &'a [String],
    root: &'a RootInfo,
    plan: &'a Plan,
    sides: &'a [SideInfo],
    absent: &'a [Absent],
    findings: Vec<JsonFindings<'a>>,
    claims: &'a [Judged],
}

#[derive(Serialize)]
struct JsonFindings<'a> {
    topic: &'a str,
    question: &'a str,
    notes: &'a [String],
    figures: Vec<JsonFigure<'a>>,
    tables: &'a [Table],
}

#[derive(Serialize)]
struct JsonFigure<'a> {
    key: &'a str,
    title: &'a str,
    end_points: &'a str,
    unit: Unit,
    part_of: Option<&'a str>,
    lines: Vec<JsonLine<'a>>,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    #[serde(flatten)]
    line: &'a Line,
    range: Option<Range>,
    beside_floor: Option<Beside<'a>>,
    beside_vm: Option<Beside<'a>>,
}

#[derive(Serialize)]
struct Beside<'a> {
    side: &'a str,
    #[serde(flatten)]
    relation: Relation,
}

/// The report as one JSON object, with a line feed at its end.
pub fn render(report: &Report) -> String {
    crate::timeline::json::to_text(&JsonReport {
        report: "cottage compare",
        version: env!("CARGO_PKG_VERSION"),
        command: &report.command,
        partial: report.partial,
        host: &report.host,
        load_before: &report.load.0,
        load_after: &report.load.1,
        warnings: &report.warnings,
        root: &report.root,
        plan: &report.plan,
        sides: &report.sides,
        absent: &report.absent,
        findings: report.findings.iter().map(findings).collect(),
        claims: &report.claims,
    })
}

fn findings(findings: &Findings) -> JsonFindings<'_> {
    JsonFindings {
        topic: findings.topic,
        question: findings.question,
        notes: &findings.notes,
        figures: findings.figures.iter().map(figure).collect(),
        tables: &findings.tables,
    }
}

fn figure(figure: &Figure) -> JsonFigure<'_> {
    let beside = |kind, line: &Line| {
        let own = words::reference(figure, kind)?;
        (own.side != line.side).then(|| Beside {
            side: &own.side,
            relation: relation(figure, &own.side, &line.side),
        })
    };
    let line = |line| JsonLine {
        line,
        range: Range::of(line),
        beside_floor: beside(Kind::Floor, line),
        beside_vm: beside(Kind::Vm, line),
    };
    JsonFigure {
        key: &figure.key,
        title: &figure.title,
        end_points: &figure.end_points,
        unit: figure.unit,
        part_of: figure.part_of.as_deref(),
        lines: figure.lines.iter().map(line).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing;
    use super::*;

    fn json() -> Value {
        serde_json::from_str(&render(&testing::report())).unwrap()
    }

    #[test]
    fn every_value_is_kept() {
        let json = json();
        let lines = &json["findings"][0]["figures"][0]["lines"];
        assert_eq!(lines[3]["side"], "crun");
        assert_eq!(lines[3]["samples"].as_array().unwrap().len(), 20);
        assert_eq!(lines[3]["range"]["n"], 20);
        assert_eq!(lines[8]["side"], "ctr");
        assert!(
            lines[8]["not_run"]
                .as_str()
                .unwrap()
                .starts_with("no engine")
        );
        assert!(lines[8]["range"].is_null());
        let curve = &json["findings"][1]["figures"][0]["lines"][0]["curve"];
        assert_eq!(curve.as_array().unwrap().len(), 3);
    }

    #[test]
    fn relations_are_kept() {
        let json = json();
        let crun = &json["findings"][0]["figures"][0]["lines"][3];
        assert_eq!(crun["beside_floor"]["side"], "process");
        assert!(crun["beside_floor"]["ratio"]["ratio"].as_f64().unwrap() > 10.0);
        assert_eq!(crun["beside_vm"]["side"], "cottage, tiny kernel, initramfs");
    }
}
