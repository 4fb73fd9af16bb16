//! The report for the terminal: tables of at most `WIDTH` columns.
//!
//! A side is a row, so that any number of them fits. Tables in words are turned: under each property
//! its values, each with the sides that have it, which shows at a glance who shares the host's kernel.
//! Read next: [`super::json`].

use std::fmt::Write;

use super::words::{self, Scale, wrap};
use super::{Report, guide};
use crate::compare::claims::Judged;
use crate::compare::finding::{Figure, Findings, Table};
use crate::compare::relation::Range;

/// Columns; more than 80 where names are long, but never more than this.
const WIDTH: usize = 100;
/// Columns of sides' names, if there are such long ones; still longer ones have a line of their own.
const NAME: usize = 36;
/// Columns of a number.
const NUMBER: usize = 8;
/// Columns of a relation.
const RELATION: usize = 14;

/// The whole report.
pub fn render(report: &Report) -> String {
    let mut text = heading(report);
    for findings in &report.findings {
        text += &topic(report, findings);
    }
    if !report.claims.is_empty() {
        text += &claims(&report.claims);
    }
    // Guests and containers have a say in it: nothing of theirs may steer the terminal.
    text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

fn heading(report: &Report) -> String {
    let mut text = format!("{}\n", report.command);
    for line in report.circumstances() {
        text += &wrap(&line, WIDTH, "", "  ");
    }
    text += "sides:\n";
    for side in &report.sides {
        let line = format!(
            "{} ({}): {}",
            side.name,
            words::kind(side.kind),
            side.version
        );
        text += &wrap(line.trim_end_matches([':', ' ']), WIDTH, "  ", "      ");
        if !side.command.is_empty() {
            text += &wrap(&side.command, WIDTH, "    $ ", "      ");
        }
        for note in &side.notes {
            text += &wrap(note, WIDTH, "    - ", "      ");
        }
    }
    for absent in words::all_absent(&report.absent) {
        text += &wrap(&absent, WIDTH, "  ", "      ");
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
    let beside = words::references(figure);
    let heads = beside.iter().map(|own| {
        format!(
            " {:>RELATION$}",
            format!("beside {}", words::kind(own.kind))
        )
    });
    let width = name_width(figure);
    let _infallible = writeln!(
        text,
        "  {:<width$} {:>NUMBER$} {:>NUMBER$} {:>NUMBER$} {:>4}{}",
        "side",
        words::middle(figure),
        "min",
        "max",
        "n",
        heads.collect::<String>()
    );
    for line in &figure.lines {
        let Some(range) = Range::of(line) else {
            continue;
        };
        let mut name = format!("  {:<width$}", line.side);
        if line.side.chars().count() > width {
            name += &format!("\n  {:<width$}", "");
        }
        let cells = beside.iter().map(|own| {
            let cell = words::beside(figure, own, line, true);
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
    for missing in words::all_missing(figure) {
        text += &wrap(&missing, WIDTH, "  ", "      ");
    }
    let mut legend = format!("({}", words::columns(figure));
    for own in beside {
        let _infallible = write!(legend, "; {}: {}", words::kind(own.kind), own.side);
    }
    text + &wrap(&(legend + ")"), WIDTH, "  ", "  ")
}

fn name_width(figure: &Figure) -> usize {
    let lengths = figure.lines.iter().map(|line| line.side.chars().count());
    lengths.max().unwrap_or(0).min(NAME)
}

fn parts_table(whole: &Figure, parts: &[&Figure], instructions: bool) -> String {
    let (scale, width) = (Scale::of(whole, instructions), name_width(whole));
    let mut text = format!("\n{}, in parts: medians, {}\n", whole.title, scale.name);
    let heads = parts
        .iter()
        .map(|part| format!(" {:>16}", words::part_title(part)));
    let _infallible = writeln!(text, "  {:<width$}{}", "side", heads.collect::<String>());
    for line in &whole.lines {
        if let Some(medians) = words::part_medians(parts, &line.side) {
            let cells = medians.iter().map(|m| format!(" {:>16}", scale.number(*m)));
            let _infallible =
                writeln!(text, "  {:<width$}{}", line.side, cells.collect::<String>());
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
    text += &wrap(&words::tally(claims), WIDTH, "", "");
    let other = claims.iter().filter(|judged| !judged.in_question).count();
    if other > 0 {
        let line = format!("{other} are about topics that were not measured, and left out here.");
        text += &wrap(&line, WIDTH, "", "");
    }
    let groups = words::by_rule(claims).into_iter();
    for (first, all) in groups.filter(|(first, _)| first.in_question) {
        text += &wrap(&first.claim.says, WIDTH, "\n* ", "  ");
        for judged in all {
            let claim = &judged.claim;
            let quote = format!("{}:{} \"{}\"", claim.file, claim.line, claim.quote);
            text += &wrap(&quote, WIDTH, "  ", "    ");
        }
        text += &wrap(&first.rule, WIDTH, "  rule: ", "    ");
        if !first.evidence.is_empty() {
            text += &wrap(&first.evidence.join("; "), WIDTH, "  here: ", "    ");
        }
        text += &wrap(&first.verdict.to_string(), WIDTH, "  => ", "     ");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::compare::finding::Value;

    fn line<'a>(text: &'a str, side: &str) -> &'a str {
        let mut lines = text.lines();
        let begins = |line: &&str| {
            [" ", ":"]
                .iter()
                .any(|end| line.starts_with(&format!("  {side}{end}")))
        };
        lines.find(begins).unwrap()
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
        assert!(crun.contains(" x"), "{crun}");
        assert!(
            table.contains("VM: cottage, tiny kernel, initramfs"),
            "{table}"
        );
    }

    #[test]
    fn what_was_not_run_is_told_with_the_reason() {
        let text = render(&testing::report());
        assert!(
            text.contains("\n  ctr: not run: no engine answers"),
            "{text}"
        );
        assert!(text.contains("not comparable here:"));
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
    fn claims_stand_with_rule_and_verdict() {
        let mut report = testing::judged();
        let text = render(&report);
        let claim = "\"return 60\"";
        let rest = text
            .split_once(claim)
            .unwrap()
            .1
            .split("\n\n")
            .next()
            .unwrap();
        assert!(
            rest.contains("rule: start.first-output of vms: at least 60 s"),
            "{rest}"
        );
        assert!(rest.ends_with("=> does not hold"), "{rest}");
        report.findings.remove(0);
        report.claims = report.judge(&crate::compare::claims::Claims::load(None).unwrap());
        let text = render(&report);
        assert!(!text.contains(claim) && text.contains("topics that were not measured"));
    }

    #[test]
    fn nobody_steers_the_terminal() {
        let mut report = testing::report();
        report.findings[3].tables[0].rows[0].cells[9] = "\u{1b}[2J\u{9b}31m".to_owned();
        report.absent[0].reason = "\u{7}bell".to_owned();
        let text = render(&report);
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{7}']), "{text}");
        assert!(text.contains("\u{fffd}[2J"), "{text}");
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
