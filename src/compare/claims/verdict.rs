//! Whether a claim holds here: pure arithmetic on what the topics found.
//!
//! Read next: [`crate::compare::report`].

use std::fmt;

use serde::Serialize;

use super::bounds::{Bounds, Emulated, One, honest, ratio, within};
use super::rule::{self, Rule, Test};
use super::{Claim, Claims};
use crate::cli::compare::Topic;
use crate::compare::finding::{Figure, Findings, Line, Table, Unit};
use crate::compare::relation::{Range, few};
use crate::compare::report::words::{self, Scale};
use crate::compare::side::Kind;

/// What is known about the sides besides the findings.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What was found.
    pub findings: &'a [Findings],
    /// Names of sides and what they are.
    pub kinds: &'a [(String, Kind)],
    /// Who is slowed by emulation.
    pub emulated: Emulated,
    /// Whether times are counts of instructions.
    pub instructions: bool,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// For all sides that ran.
    Holds,
    /// For none.
    DoesNotHold,
    /// For these, not for others.
    HoldsOnlyFor(Vec<String>),
    /// Why.
    CannotBeJudged(String),
}

/// A claim with what was found.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// The claim.
    pub claim: Claim,
    /// Its rule in words.
    pub rule: String,
    /// What was measured, side by side.
    pub evidence: Vec<String>,
    /// What follows.
    pub verdict: Verdict,
    /// Whether what it is about was measured at all.
    pub in_question: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds => f.write_str("holds"),
            Self::DoesNotHold => f.write_str("does not hold"),
            Self::HoldsOnlyFor(sides) => write!(f, "holds only for {}", sides.join("; ")),
            Self::CannotBeJudged(why) => write!(f, "cannot be judged on this machine: {why}"),
        }
    }
}

/// Each side with what was found of it.
type Found = Vec<(String, One)>;

/// Judges all claims.
pub fn judge(claims: &Claims, facts: &Facts<'_>) -> Vec<Judged> {
    claims
        .list
        .iter()
        .map(|(claim, rule)| one(claim, rule, facts))
        .collect()
}

fn one(claim: &Claim, rule: &Rule, facts: &Facts<'_>) -> Judged {
    let mut evidence = Vec::new();
    let measured = |topic: Topic| facts.findings.iter().any(|f| f.topic == topic.name());
    let verdict =
        if rule.needs_hardware && facts.emulated != Emulated::None {
            Err("it needs a processor that runs guests by itself; here guests' kernels are emulated"
            .to_owned())
        } else {
            apply(&rule.test, facts, &mut evidence)
        };
    Judged {
        claim: claim.clone(),
        rule: rule.to_string(),
        evidence,
        verdict: verdict.map_or_else(Verdict::CannotBeJudged, |found| sum_up(&found)),
        in_question: rule.topic().is_none_or(measured),
    }
}

fn apply(test: &Test, facts: &Facts<'_>, evidence: &mut Vec<String>) -> Result<Found, String> {
    match test {
        Test::Unmeasured(why) => Err(why.clone()),
        Test::Figure { key, .. } => {
            let figures = facts.findings.iter().flat_map(|f| &f.figures);
            let figure = pick(facts, key, figures, |figure| &figure.key)?;
            of_figure(test, figure, facts, evidence)
        }
        Test::Cells { table: key, .. } => {
            let tables = facts.findings.iter().flat_map(|f| &f.tables);
            let table = pick(facts, key, tables, |table| &table.key)?;
            of_cells(test, table, facts.kinds, evidence)
        }
    }
}

/// What `key` names, or why there is nothing of that name.
fn pick<'a, T>(
    facts: &Facts<'_>,
    key: &str,
    mut all: impl Iterator<Item = &'a T>,
    of: impl Fn(&T) -> &String,
) -> Result<&'a T, String> {
    all.find(|one| of(one) == key).ok_or_else(|| {
        let topic = key.split('.').next().unwrap_or(key);
        if facts
            .findings
            .iter()
            .any(|findings| findings.topic == topic)
        {
            format!("the topic {topic} has found no {key}")
        } else {
            format!("the topic {topic} was not measured")
        }
    })
}

fn of_figure(
    test: &Test,
    figure: &Figure,
    facts: &Facts<'_>,
    evidence: &mut Vec<String>,
) -> Result<Found, String> {
    let Test::Figure {
        sides,
        beside,
        at_least,
        at_most,
        ..
    } = test
    else {
        return Ok(Vec::new());
    };
    let bounds = (*at_least, *at_most);
    if let Some(why) = other_unit(figure, facts, beside.is_none(), bounds) {
        return Err(why);
    }
    let own = beside
        .as_ref()
        .map(|own| reference(figure, own))
        .transpose()?;
    let scale = Scale::of(figure, facts.instructions);
    let meant = |line: &&Line| sides.iter().any(|side| rule::selects(side, line));
    let (mut found, mut missing) = (Found::new(), Vec::new());
    for line in figure.lines.iter().filter(meant) {
        if own.is_some_and(|(own, _)| own.side == line.side) {
            continue;
        }
        let verdict = match Range::of(line) {
            None => {
                missing.push(line.side.as_str());
                One::Open(words::missing(line).unwrap_or_default())
            }
            Some(range) if few(&line.value) => {
                evidence.push(format!("{}: {}", line.side, told(&range, own, scale)));
                One::Open("too few values to judge by".to_owned())
            }
            Some(range) => {
                evidence.push(format!("{}: {}", line.side, told(&range, own, scale)));
                let range = own.map_or(Ok(range), |(_, own)| ratio(&range, &own));
                range.map_or_else(One::Open, |range| {
                    let slowed = own.is_none() && figure.unit == Unit::Nanoseconds;
                    honest(
                        within(&range, bounds),
                        bounds,
                        slowed,
                        facts.emulated,
                        line.kind,
                    )
                })
            }
        };
        found.push((line.side.clone(), verdict));
    }
    // Why, stands in the verdict if there is nothing else, and in the figure's own table.
    if !evidence.is_empty() && !missing.is_empty() {
        evidence.push(format!("not measured: {}", missing.join("; ")));
    }
    Ok(found)
}

/// Why bounds say nothing about a figure: they count something else.
fn other_unit(
    figure: &Figure,
    facts: &Facts<'_>,
    absolute: bool,
    bounds: Bounds,
) -> Option<String> {
    let given = [bounds.0, bounds.1].into_iter().flatten();
    if absolute
        && given
            .into_iter()
            .any(|bound| bound.unit != Some(figure.unit))
    {
        return Some(format!(
            "{} counts something else than the rule",
            figure.key
        ));
    }
    (absolute && facts.instructions && figure.unit == Unit::Nanoseconds)
        .then(|| "instructions were counted here, not time".to_owned())
}

/// The first side that `name` means and that has a figure.
fn reference<'a>(figure: &'a Figure, name: &str) -> Result<(&'a Line, Range), String> {
    let meant = figure.lines.iter().filter(|line| rule::selects(name, line));
    let mut why = format!("there is no side {name}");
    for line in meant {
        match Range::of(line) {
            Some(_) if few(&line.value) => why = format!("{}: too few values", line.side),
            Some(range) => return Ok((line, range)),
            None => {
                why = format!(
                    "{}: {}",
                    line.side,
                    words::missing(line).unwrap_or_default()
                )
            }
        }
    }
    Err(why)
}

fn told(range: &Range, own: Option<(&Line, Range)>, scale: Scale) -> String {
    let mut text = scale.value(range.middle);
    if range.n > 1 {
        text += &format!(
            " [{}..{}], n {}",
            scale.number(range.min),
            scale.number(range.max),
            range.n
        );
    }
    if let Some((line, own)) = own {
        text += &format!(" beside {}'s {}", line.side, scale.value(own.middle));
        if let Ok(ratio) = ratio(range, &own) {
            text += &format!(
                ": {} to {} x",
                words::significant(ratio.low, 2),
                words::significant(ratio.high, 2)
            );
        }
    }
    text
}

fn of_cells(
    test: &Test,
    table: &Table,
    kinds: &[(String, Kind)],
    evidence: &mut Vec<String>,
) -> Result<Found, String> {
    let Test::Cells {
        row: name,
        sides,
        beside,
        same,
        ..
    } = test
    else {
        return Ok(Vec::new());
    };
    let row = table.rows.iter().find(|row| row.name == *name);
    let row = row.ok_or_else(|| format!("{} has no row {name:?}", table.key))?;
    let cells = || table.columns.iter().zip(&row.cells);
    let own = cells().find(|(side, _)| rule::selects_side(beside, side, None));
    let (_, own) = own.ok_or_else(|| format!("there is no side {beside}"))?;
    evidence.push(format!("{beside}: {own}"));
    let mut found = Found::new();
    for (side, cell) in cells() {
        let known = kinds.iter().find(|(name, _)| name == side);
        let kind = known.map(|(_, kind)| *kind);
        if sides
            .iter()
            .any(|selector| rule::selects_side(selector, side, kind))
        {
            evidence.push(format!("{side}: {cell}"));
            let verdict = if cell.starts_with("not run") {
                One::Open(cell.clone())
            } else if (cell == own) == *same {
                One::Yes
            } else {
                One::No
            };
            found.push((side.clone(), verdict));
        }
    }
    Ok(found)
}

fn sum_up(found: &Found) -> Verdict {
    let sides = |wanted: fn(&One) -> bool| {
        let those = found.iter().filter(move |(_, one)| wanted(one));
        those.map(|(side, _)| side.clone()).collect::<Vec<_>>()
    };
    let (yes, no) = (sides(|one| *one == One::Yes), sides(|one| *one == One::No));
    // A side that was not measured says nothing against the others.
    let across = sides(|one| matches!(one, One::Open(why) if !why.starts_with("not ")));
    match (yes.is_empty(), no.is_empty()) {
        (false, true) if across.is_empty() => Verdict::Holds,
        (false, _) => Verdict::HoldsOnlyFor(yes),
        (true, false) => Verdict::DoesNotHold,
        (true, true) => {
            let open = found.iter().filter_map(|(side, one)| match one {
                One::Open(why) => Some((side.as_str(), why.clone())),
                _ => None,
            });
            let mut why = words::by_reason(open);
            if why.is_empty() {
                why.push("no such side was there".to_owned());
            }
            Verdict::CannotBeJudged(why.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::finding::{Row, Value};

    /// Sides of a figure: name, kind, values.
    fn findings(lines: &[(&str, Kind, Value)]) -> [Findings; 1] {
        let line = |(side, kind, value): &(&str, Kind, Value)| Line {
            side: (*side).to_owned(),
            kind: *kind,
            value: value.clone(),
        };
        let row = Row {
            name: "boot id".to_owned(),
            cells: vec!["a".to_owned(), "a".to_owned(), "b".to_owned()],
            remark: String::new(),
        };
        [Findings {
            topic: "start",
            question: "?",
            figures: vec![Figure {
                key: "start.gone".to_owned(),
                title: String::new(),
                end_points: String::new(),
                unit: Unit::Nanoseconds,
                part_of: None,
                lines: lines.iter().map(line).collect(),
            }],
            tables: vec![Table {
                key: "start.table".to_owned(),
                title: String::new(),
                columns: ["process", "crun", "cottage"].map(str::to_owned).to_vec(),
                rows: vec![row],
            }],
            notes: Vec::new(),
        }]
    }

    fn rounds(from: u64, to: u64) -> Value {
        Value::Samples((from..=to).map(|ms| Some(ms * 1_000_000)).collect())
    }

    /// crun 10 to 19 ms, docker 200 to 219 ms, a VM 100 to 119 ms, podman not run.
    fn usual() -> [Findings; 1] {
        findings(&[
            ("crun", Kind::Container, rounds(10, 19)),
            ("docker, bridge", Kind::Container, rounds(200, 219)),
            (
                "podman",
                Kind::Container,
                Value::NotRun("no podman on PATH".to_owned()),
            ),
            ("cottage", Kind::Vm, rounds(100, 119)),
        ])
    }

    fn judged(rule: &str, emulated: Emulated) -> Judged {
        judged_by(rule, emulated, &usual())
    }

    fn judged_by(rule: &str, emulated: Emulated, findings: &[Findings]) -> Judged {
        let text = format!(
            r#"{{"claims":[{{"id":"a","file":"f","line":1,"quote":"q","says":"s","rule":{rule}}}]}}"#
        );
        let kinds = [
            ("crun".to_owned(), Kind::Container),
            ("cottage".to_owned(), Kind::Vm),
        ];
        let facts = Facts {
            findings,
            kinds: &kinds,
            emulated,
            instructions: false,
        };
        judge(&Claims::parse("f", &text).unwrap(), &facts).remove(0)
    }

    fn verdict(rule: &str) -> String {
        judged(rule, Emulated::None).verdict.to_string()
    }

    #[test]
    fn bounds_decide_side_by_side() {
        let containers = |bound: &str| {
            verdict(&format!(
                r#"{{"figure":"start.gone","sides":["containers"],{bound}}}"#
            ))
        };
        assert_eq!(containers(r#""at_most":"1 s""#), "holds");
        assert_eq!(containers(r#""at_most":"100 ms""#), "holds only for crun");
        assert_eq!(containers(r#""at_least":"1 s""#), "does not hold");
        assert_eq!(
            containers(r#""at_least":"15 ms","at_most":"300 ms""#),
            "holds only for docker, bridge"
        );
    }

    #[test]
    fn a_range_across_the_bound_says_nothing() {
        let rule = r#"{"figure":"start.gone","sides":["vms"],"at_most":"110 ms"}"#;
        assert!(verdict(rule).ends_with("its range lies across the bound"));
    }

    #[test]
    fn what_did_not_run_has_no_verdict() {
        let rule = r#"{"figure":"start.gone","sides":["podman"],"at_most":"1 s"}"#;
        let judged = judged(rule, Emulated::None);
        assert_eq!(
            judged.verdict.to_string(),
            "cannot be judged on this machine: podman: not run: no podman on PATH"
        );
        assert_eq!(judged.evidence, [""; 0]);
        assert!(
            verdict(r#"{"figure":"memory.host","sides":["vms"],"at_most":"1 MB"}"#)
                .ends_with("the topic memory was not measured")
        );
        assert!(
            verdict(r#"{"figure":"start.other","sides":["vms"],"at_most":"1 s"}"#)
                .ends_with("the topic start has found no start.other")
        );
        assert!(
            verdict(r#"{"figure":"start.gone","sides":["lxc"],"at_most":"1 s"}"#)
                .ends_with("no such side was there")
        );
        assert!(verdict(r#"{"unmeasured":"no Windows"}"#).ends_with("no Windows"));
    }

    #[test]
    fn a_reason_is_told_once_for_all_its_sides() {
        let why = || Value::NotRun("no KVM".to_owned());
        let none = findings(&[("a", Kind::Vm, why()), ("b", Kind::Vm, why())]);
        let rule = r#"{"figure":"start.gone","sides":["vms"],"at_most":"1 s"}"#;
        let judged = judged_by(rule, Emulated::None, &none);
        assert!(
            judged
                .verdict
                .to_string()
                .ends_with(": a; b: not run: no KVM")
        );
        assert!(judged.in_question);
        let mixed = r#"{"figure":"start.gone","sides":["containers"],"at_most":"1 s"}"#;
        let judged = judged_by(mixed, Emulated::None, &usual());
        assert_eq!(judged.evidence.last().unwrap(), "not measured: podman");
        assert_eq!(judged.verdict, Verdict::Holds);
    }

    #[test]
    fn ratios_go_by_both_ranges() {
        let beside = |bound: &str| {
            let rule = r#"{"figure":"start.gone","sides":["containers"],"beside":"cottage","#;
            verdict(&format!("{rule}{bound}}}"))
        };
        assert_eq!(beside(r#""at_most":"1 x""#), "holds only for crun");
        assert_eq!(beside(r#""at_most":"5 x""#), "holds");
        assert_eq!(beside(r#""at_least":"3 x""#), "does not hold");
        // A thing is not compared with itself.
        let own =
            r#"{"figure":"start.gone","sides":["cottage"],"beside":"cottage","at_most":"1 x"}"#;
        assert!(verdict(own).ends_with("no such side was there"));
    }

    #[test]
    fn emulation_is_never_why_a_claim_holds() {
        let slow = r#"{"figure":"start.gone","sides":["vms"],"at_least":"50 ms"}"#;
        assert_eq!(judged(slow, Emulated::None).verdict, Verdict::Holds);
        assert!(matches!(
            judged(slow, Emulated::Guests).verdict,
            Verdict::CannotBeJudged(_)
        ));
        // But what is fast although it is emulated is fast.
        let minutes = r#"{"figure":"start.gone","sides":["vms"],"at_least":"60 s"}"#;
        assert_eq!(judged(minutes, Emulated::All).verdict, Verdict::DoesNotHold);
        let containers = r#"{"figure":"start.gone","sides":["crun"],"at_most":"5 ms"}"#;
        assert_eq!(
            judged(containers, Emulated::Guests).verdict,
            Verdict::DoesNotHold
        );
        assert!(matches!(
            judged(containers, Emulated::All).verdict,
            Verdict::CannotBeJudged(_)
        ));
        let hardware =
            r#"{"figure":"start.gone","sides":["vms"],"at_most":"1 s","needs":"hardware"}"#;
        assert_eq!(judged(hardware, Emulated::None).verdict, Verdict::Holds);
        assert!(judged(hardware, Emulated::Guests).evidence.is_empty());
    }

    #[test]
    fn cells_are_set_beside_a_sides() {
        let cells = |side: &str, cells: &str| {
            verdict(&format!(
                r#"{{"table":"start.table","row":"boot id","sides":["{side}"],"beside":"process","cells":"{cells}"}}"#
            ))
        };
        assert_eq!(cells("containers", "same"), "holds");
        assert_eq!(cells("vms", "different"), "holds");
        assert_eq!(cells("vms", "same"), "does not hold");
        let rule = r#"{"table":"start.table","row":"uptime","sides":["vms"],"beside":"process","cells":"same"}"#;
        assert!(verdict(rule).ends_with(r#"start.table has no row "uptime""#));
    }

    #[test]
    fn bounds_of_another_kind_are_no_bounds() {
        let rule = r#"{"figure":"start.gone","sides":["vms"],"at_most":"1 MB"}"#;
        assert!(verdict(rule).ends_with("counts something else than the rule"));
    }

    #[test]
    fn zero_has_no_ratio() {
        let zero = findings(&[
            ("process", Kind::Floor, Value::Exact(0)),
            ("cottage", Kind::Vm, Value::Exact(5)),
        ]);
        let rule = r#"{"figure":"start.gone","sides":["vms"],"beside":"process","at_least":"1 x"}"#;
        let judged = judged_by(rule, Emulated::None, &zero);
        assert!(
            judged
                .verdict
                .to_string()
                .ends_with("of 0 there is no ratio")
        );
    }
}
