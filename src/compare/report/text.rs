//! The report for the terminal: tables of at most [`WIDTH`] columns.
//!
//! A side is a row, so that any number of them fits. Tables in words are turned: under each property
//! its values, each with the sides that have it, which shows at a glance who shares the host's kernel.
//! Read next: [`super::json`].

use std::fmt::Write;

use super::words::{self, Scale, wrap};
use super::{Report, guide};
use crate::compare::claims::Judged;
use crate::compare::finding::{Figure, Findings, Table};
use crate::compare::relation::{self, Range};
use crate::compare::side::Kind;

/// Columns; more than 80 where names are long, but never more than this.
const WIDTH: usize = 100;
/// Columns of sides' names; longer ones have a line of their own.
const NAME: usize = 27;
/// Columns of a number.
const NUMBER: usize = 9;
/// Columns of a relation.
const RELATION: usize = 19;

/// The whole report.
pub fn render(report: &Report) -> String {
    let mut text = heading(report);
    for findings in &report.findings {
        text += &topic(report, findings);
    }
    if !report.claims.is_empty() {
        text += &claims(&report.claims);
    }
    text
}

fn heading(report: &Report) -> String {
    let mut text = format!("{}\n", report.command);
    for line in report.circumstances() {
        text += &wrap(&line, WIDTH, "", "  ");
    }
    text += "sides:\n";
    for side in &report.sides {
        let version = format!("{} {}", side.name, side.version);
        let _infallible = writeln!(
            text,
            "  {} ({})",
            version.trim_end(),
            words::kind(side.kind)
        );
    }
    for absent in &report.absent {
        let line = format!("{}: not run: {}", absent.name, absent.reason);
        text += &wrap(&line, WIDTH, "  ", "    ");
    }
    text
}

fn topic(report: &Report, findings: &Findings) -> String {
    let title = format!("{}: {}", findings.topic, findings.question);
    let mut text = format!(
        "\n{title}\n{}\n",
        "=".repeat(title.chars().count().min(WIDTH))
    );
    for (figure, parts) in words::with_parts(findings) {
        text += &figure_table(figure, report.plan.instructions);
        if !parts.is_empty() {
            text += &parts_table(figure, &parts, report.plan.instructions);
        }
    }
    for table in &findings.tables {
        text += &word_table(table);
    }
    for note in &findings.notes {
        text += &wrap(note, WIDTH, "- ", "  ");
    }
    if let Some(guide) = guide::of(findings.topic) {
        text += &wrap(guide.misreading, WIDTH, "- usual misreading: ", "  ");
    }
    text
}

fn figure_table(figure: &Figure, instructions: bool) -> String {
    let scale = Scale::of(figure, instructions);
    let mut text = format!("\n{}", figure.title);
    if !scale.name.is_empty() {
        let _infallible = write!(text, ", {}", scale.name);
    }
    text.push('\n');
    text += &wrap(&figure.end_points, WIDTH, "  ", "  ");
    let beside: Vec<_> = [Kind::Floor, Kind::Vm]
        .into_iter()
        .filter_map(|kind| Some((kind, words::reference(figure, kind)?)))
        .collect();
    let heads = beside
        .iter()
        .map(|(kind, _)| format!(" {:>RELATION$}", format!("beside {}", words::kind(*kind))));
    let _infallible = writeln!(
        text,
        "  {:<NAME$} {:>NUMBER$} {:>NUMBER$} {:>NUMBER$} {:>4}{}",
        "side",
        "middle",
        "min",
        "max",
        "n",
        heads.collect::<String>()
    );
    for line in &figure.lines {
        let mut name = format!("  {:<NAME$}", line.side);
        if line.side.chars().count() > NAME {
            name += &format!("\n  {:<NAME$}", "");
        }
        let Some(range) = Range::of(line) else {
            let missing = words::missing(line).unwrap_or_default();
            text += &wrap(&missing, WIDTH, &format!("{name} "), "      ");
            continue;
        };
        let cells = beside.iter().map(|(_, own)| {
            let cell = if own.side == line.side {
                "1".to_owned()
            } else {
                words::relation(&relation::relation(figure, &own.side, &line.side))
            };
            format!(" {cell:>RELATION$}")
        });
        let _infallible = writeln!(
            text,
            "{name} {:>NUMBER$} {:>NUMBER$} {:>NUMBER$} {:>4}{}",
            scale.number(range.middle),
            scale.number(range.min),
            scale.number(range.max),
            range.n,
            cells.collect::<String>()
        );
    }
    let mut legend = format!("({}", words::columns(figure));
    for (kind, own) in beside {
        let _infallible = write!(legend, "; {}: {}", words::kind(kind), own.side);
    }
    text + &wrap(&(legend + ")"), WIDTH, "  ", "  ")
}

fn parts_table(whole: &Figure, parts: &[&Figure], instructions: bool) -> String {
    let scale = Scale::of(whole, instructions);
    let mut text = format!("\n{}, in parts: medians, {}\n", whole.title, scale.name);
    let heads = parts
        .iter()
        .map(|part| format!(" {:>18}", words::part_title(part)));
    let _infallible = writeln!(text, "  {:<NAME$}{}", "side", heads.collect::<String>());
    for line in &whole.lines {
        if let Some(medians) = words::part_medians(parts, &line.side) {
            let cells = medians.iter().map(|m| format!(" {:>18}", scale.number(*m)));
            let _infallible = writeln!(text, "  {:<NAME$}{}", line.side, cells.collect::<String>());
        }
    }
    for part in parts {
        let line = format!("{}: {}", words::part_title(part), part.end_points);
        text += &wrap(&line, WIDTH, "  ", "    ");
    }
    text + "  (medians of parts need not add up to the median of the whole)\n"
}

fn word_table(table: &Table) -> String {
    let mut text = format!("\n{}\n", table.title);
    for row in &table.rows {
        let _infallible = writeln!(text, "  {}", row.name);
        for (value, sides) in words::groups(&table.columns, row) {
            let sides = if sides.len() == table.columns.len() {
                "all".to_owned()
            } else {
                sides.join("; ")
            };
            text += &wrap(&format!("{value}  <- {sides}"), WIDTH, "    ", "      ");
        }
        if !row.remark.is_empty() {
            text += &wrap(&format!("({})", row.remark), WIDTH, "    ", "    ");
        }
    }
    text
}

fn claims(claims: &[Judged]) -> String {
    let mut text = String::from("\nclaims of lecture notes\n=======================\n");
    for judged in claims {
        let claim = &judged.claim;
        let _infallible = writeln!(text, "\n{}:{}  [{}]", claim.file, claim.line, claim.id);
        text += &wrap(&format!("\"{}\"", claim.quote), WIDTH, "  ", "  ");
        text += &wrap(&judged.rule, WIDTH, "  rule: ", "    ");
        for line in &judged.evidence {
            text += &wrap(line, WIDTH, "  here: ", "    ");
        }
        text += &wrap(&judged.verdict.to_string(), WIDTH, "  => ", "     ");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::compare::finding::Value;

    fn line<'a>(text: &'a str, side: &str) -> &'a str {
        let begin = format!("  {side} ");
        text.lines().find(|line| line.starts_with(&begin)).unwrap()
    }

    #[test]
    fn it_fits_the_terminal() {
        let text = render(&testing::report());
        let wide: Vec<_> = text
            .lines()
            .filter(|line| line.chars().count() > WIDTH)
            .collect();
        assert!(wide.is_empty(), "{wide:#?}");
        assert!(!text.lines().any(|line| line.ends_with(' ')), "{text}");
    }

    #[test]
    fn every_figure_has_its_spread_and_its_n() {
        let report = testing::report();
        let table = figure_table(testing::figure(&report, "start.first-output"), false);
        let crun = line(&table, "crun");
        let cells: Vec<_> = crun.split_whitespace().collect();
        assert_eq!(cells[0], "crun");
        assert_eq!((cells[3], cells[4]), ("11.2", "20"), "{crun}");
        assert!(crun.contains(" x ["), "{crun}");
        assert!(table.contains("VM: cottage, tiny kernel"), "{table}");
    }

    #[test]
    fn what_was_not_run_is_told_with_the_reason() {
        let text = render(&testing::report());
        assert!(line(&text, "ctr").contains("not run: no engine answers"));
        assert!(text.contains("not comparable here: guest kernel code is emulated"));
    }

    #[test]
    fn overlapping_ranges_get_no_ratio() {
        let mut figure = testing::figure(&testing::report(), "start.gone").clone();
        figure.lines[4].value = figure.lines[3].value.clone();
        figure.lines[0].value = figure.lines[3].value.clone();
        let table = figure_table(&figure, false);
        assert!(line(&table, "runc").contains("ranges overlap"), "{table}");
    }

    #[test]
    fn a_side_cut_off_before_its_turn_says_so() {
        let mut figure = testing::figure(&testing::report(), "start.gone").clone();
        figure.lines[3].value = Value::Samples(vec![None, None]);
        let table = figure_table(&figure, false);
        assert!(
            line(&table, "crun").contains("cut off before its turn"),
            "{table}"
        );
    }

    #[test]
    fn a_partial_report_begins_so() {
        let mut report = testing::report();
        assert!(!render(&report).contains("PARTIAL"));
        report.partial = true;
        let text = render(&report);
        assert!(
            text.lines().nth(1).unwrap().starts_with("PARTIAL"),
            "{text}"
        );
    }
}
