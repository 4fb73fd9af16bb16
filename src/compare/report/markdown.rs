//! The report in Markdown, for a repository or a forum.
//!
//! Read next: [`super::page`].

use std::fmt::Write;

use super::words::{self, Scale};
use super::{Report, SideInfo, guide};
use crate::compare::claims::Judged;
use crate::compare::finding::{Figure, Findings, Table};
use crate::compare::relation::Range;

/// Adds a line.
macro_rules! add {
    ($text:expr, $($piece:tt)*) => {
        let _infallible = writeln!($text, $($piece)*);
    };
}

/// The whole report.
pub fn render(report: &Report) -> String {
    let mut text = format!("# VM or container, measured\n\n`{}`\n\n", report.command);
    for line in report.circumstances() {
        add!(text, "- {}", plain(&line));
    }
    text += "\n| side | what it is | version | how it is run |\n|---|---|---|---|\n";
    for side in &report.sides {
        let cells = [
            &side.name,
            words::kind(side.kind),
            &side.version,
            &how(side),
        ]
        .map(plain);
        add!(text, "| {} |", cells.join(" | "));
    }
    if !report.absent.is_empty() {
        text.push('\n');
    }
    for absent in words::all_absent(&report.absent) {
        add!(text, "- {}", plain(&absent));
    }
    for findings in &report.findings {
        topic(&mut text, report, findings);
    }
    if !report.claims.is_empty() {
        claims(&mut text, &report.claims);
    }
    text
}

/// A side's command, and what it took to make it work.
fn how(side: &SideInfo) -> String {
    let notes = side.notes.iter().map(|note| format!("; {note}"));
    side.command.clone() + &notes.collect::<String>()
}

fn topic(text: &mut String, report: &Report, findings: &Findings) {
    add!(text, "\n## {}: {}\n", findings.topic, findings.question);
    if let Some(guide) = guide::of(findings.topic) {
        add!(text, "*Usual misreading.* {}", plain(guide.misreading));
    }
    for (figure, parts) in words::with_parts(findings) {
        numbers(text, figure, report.plan.instructions);
        if !parts.is_empty() {
            in_parts(text, figure, &parts, report.plan.instructions);
        }
    }
    for table in &findings.tables {
        word_table(text, table);
    }
    if !findings.notes.is_empty() {
        text.push('\n');
    }
    for note in &findings.notes {
        add!(text, "- {}", plain(note));
    }
}

fn numbers(text: &mut String, figure: &Figure, instructions: bool) {
    let scale = Scale::of(figure, instructions);
    let beside = words::references(figure);
    let unit = if scale.name.is_empty() {
        String::new()
    } else {
        format!(", {}", scale.name)
    };
    let heads = beside
        .iter()
        .map(|own| format!(" beside {} |", plain(&own.side)));
    add!(
        text,
        "\n### {}\n\n{}\n",
        plain(&figure.title),
        plain(&figure.end_points)
    );
    add!(
        text,
        "| side | {}{unit} | min | max | n |{}",
        words::middle(figure),
        heads.collect::<String>()
    );
    add!(
        text,
        "|---|---:|---:|---:|---:|{}",
        "---:|".repeat(beside.len())
    );
    for line in &figure.lines {
        let Some(range) = Range::of(line) else {
            continue;
        };
        let cells = beside.iter();
        let cells = cells.map(|own| format!(" {} |", words::beside(figure, own, line, false)));
        add!(
            text,
            "| {} | {} | {} | {} | {} |{}",
            plain(&line.side),
            scale.number(range.middle),
            scale.number(range.min),
            scale.number(range.max),
            range.n,
            cells.collect::<String>()
        );
    }
    add!(text, "\n({})", words::columns(figure));
    let missing = words::all_missing(figure);
    if !missing.is_empty() {
        text.push('\n');
    }
    for missing in missing {
        add!(text, "- {}", plain(&missing));
    }
}

fn in_parts(text: &mut String, whole: &Figure, parts: &[&Figure], instructions: bool) {
    let scale = Scale::of(whole, instructions);
    let heads = parts
        .iter()
        .map(|part| format!(" {} |", plain(words::part_title(part))));
    add!(
        text,
        "\n{}, in parts: medians, {}\n",
        plain(&whole.title),
        scale.name
    );
    add!(text, "| side |{}", heads.collect::<String>());
    add!(text, "|---|{}", "---:|".repeat(parts.len()));
    for line in &whole.lines {
        if let Some(medians) = words::part_medians(parts, &line.side) {
            let cells = medians
                .iter()
                .map(|median| format!(" {} |", scale.number(*median)));
            add!(
                text,
                "| {} |{}",
                plain(&line.side),
                cells.collect::<String>()
            );
        }
    }
}

fn word_table(text: &mut String, table: &Table) {
    add!(
        text,
        "\n### {}\n\n| property | answer | sides |\n|---|---|---|",
        plain(&table.title)
    );
    for row in &table.rows {
        let mut name = plain(&row.name);
        if !row.remark.is_empty() {
            name += &format!(" ({})", plain(&row.remark));
        }
        for (value, sides) in words::groups(&table.columns, row) {
            let sides = if sides.len() == table.columns.len() {
                "all".to_owned()
            } else {
                sides.join("; ")
            };
            add!(text, "| {name} | {} | {} |", plain(value), plain(&sides));
            name.clear();
        }
    }
}

fn claims(text: &mut String, claims: &[Judged]) {
    add!(
        text,
        "\n## What lecture notes say, and what is true here\n\n{}\n",
        words::tally(claims)
    );
    for (first, all) in words::by_rule(claims) {
        add!(text, "- {}", plain(&first.claim.says));
        for judged in all {
            let claim = &judged.claim;
            let quote = plain(&claim.quote);
            add!(
                text,
                "  - \"{quote}\" ({}:{})",
                plain(&claim.file),
                claim.line
            );
        }
        add!(text, "  - rule: {}", plain(&first.rule));
        if !first.evidence.is_empty() {
            add!(text, "  - here: {}", plain(&first.evidence.join("; ")));
        }
        add!(text, "  - **{}**", plain(&first.verdict.to_string()));
    }
}

/// One line in which nothing is taken for Markdown or HTML, nor ends a cell.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' => {
                plain.push('\\');
                plain.push(character);
            }
            control if control.is_control() => plain.push(' '),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn rows_of_a_table_have_the_same_number_of_cells() {
        let text = render(&testing::judged());
        let mut cells = None;
        for line in text.lines() {
            let bars = line.replace("\\|", "").matches('|').count();
            if line.starts_with('|') {
                assert_eq!(*cells.get_or_insert(bars), bars, "{line}");
            } else {
                cells = None;
            }
        }
        assert!(
            text.contains("\n- ctr: not run: no engine answers"),
            "{text}"
        );
    }

    #[test]
    fn names_of_machines_are_text() {
        let text = render(&testing::report());
        assert!(text.contains(r"AMD EPYC \<made up\>"), "{text}");
    }
}
