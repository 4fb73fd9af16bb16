//! The report as one HTML file: nothing fetched, no script, its charts and style within.
//!
//! It follows the reader's light or dark, fits a phone, and prints in black on white. Everything that
//! may come from the machine, a runtime or a claims file is escaped. Source: HTML Living Standard;
//! contrast of text by WCAG 2.2, 1.4.3, as `page.css` has it. Read next: [`super::axis`].

use std::fmt::Write;

use super::chart;
use super::words::{self, Scale};
use super::{Report, guide};
use crate::compare::claims::Judged;
use crate::compare::finding::{Figure, Findings, Table};
use crate::compare::relation::Range;
use crate::timeline::canvas::escape;

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn render(report: &Report) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>VM or container, measured</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>VM or container, measured here</h1>\n"
    );
    heading(&mut page, report);
    for findings in &report.findings {
        topic(&mut page, report, findings);
    }
    if !report.claims.is_empty() {
        claims(&mut page, &report.claims);
    }
    page + "</body>\n</html>\n"
}

/// Adds a piece of the page; what is put into it has been escaped.
macro_rules! add {
    ($page:expr, $($piece:tt)*) => {
        let _infallible = writeln!($page, $($piece)*);
    };
}

fn heading(page: &mut String, report: &Report) {
    add!(page, "<p><code>{}</code></p>", escape(&report.command));
    page.push_str("<nav>");
    for findings in &report.findings {
        let topic = escape(findings.topic);
        let _infallible = write!(page, "<a href=\"#{topic}\">{topic}</a> ");
    }
    if !report.claims.is_empty() {
        page.push_str("<a href=\"#claims\">claims</a>");
    }
    page.push_str("</nav>\n");
    for line in report.circumstances() {
        let warns = ["warning", "PARTIAL", "EMULATED", "INSTRUCTIONS"];
        let warns = warns.iter().any(|word| line.starts_with(word));
        let class = if warns { "alert" } else { "soft" };
        add!(page, "<p class=\"{class}\">{}</p>", escape(&line));
    }
    sides(page, report);
    page.push_str(
        "<p class=\"soft\">In the charts a hollow circle is a floor (a process, as little around it as \
         can be), a full circle a container, a square a VM. Grey boxes hold the values from p10 to p90; \
         the upright line is the median; n is how many values there are.</p>\n",
    );
}

fn sides(page: &mut String, report: &Report) {
    page.push_str("<ul class=\"sides\">\n");
    for side in &report.sides {
        let name = format!("{} ({})", side.name, words::kind(side.kind));
        let notes = side.notes.iter();
        let notes = notes.map(|note| format!("<br><span class=\"soft\">{}</span>", escape(note)));
        add!(
            page,
            "<li><strong>{}</strong> {}<br><code>{}</code>{}</li>",
            escape(&name),
            escape(&side.version),
            escape(&side.command),
            notes.collect::<String>()
        );
    }
    for absent in words::all_absent(&report.absent) {
        add!(page, "<li>{}</li>", escape(&absent));
    }
    page.push_str("</ul>\n");
}

fn topic(page: &mut String, report: &Report, findings: &Findings) {
    let instructions = report.plan.instructions;
    add!(
        page,
        "<section id=\"{}\">\n<h2>{}</h2>",
        escape(findings.topic),
        escape(findings.question)
    );
    if let Some(guide) = guide::of(findings.topic) {
        add!(
            page,
            "<div class=\"guide\"><p><strong>How to read it.</strong> {}</p>\
             <p><strong>Usual misreading.</strong> {}</p></div>",
            escape(guide.reading),
            escape(guide.misreading)
        );
    }
    for (figure, parts) in words::with_parts(findings) {
        one_figure(page, figure, instructions);
        if !parts.is_empty() {
            in_parts(page, figure, &parts, instructions);
        }
    }
    for table in &findings.tables {
        word_table(page, table);
    }
    if !findings.notes.is_empty() {
        page.push_str("<ul class=\"soft\">\n");
        for note in &findings.notes {
            add!(page, "<li>{}</li>", escape(note));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("</section>\n");
}

fn one_figure(page: &mut String, figure: &Figure, instructions: bool) {
    let scale = Scale::of(figure, instructions);
    add!(
        page,
        "<h3>{}</h3>\n<p class=\"soft points\">{}</p>\n<figure>\n{}</figure>",
        escape(&figure.title),
        escape(&figure.end_points),
        chart::figure(figure, instructions)
    );
    if let Some(words) = chart::thinned(figure) {
        add!(page, "<p class=\"soft\">{words}</p>");
    }
    let missing = words::all_missing(figure);
    if !missing.is_empty() {
        let items = missing
            .iter()
            .map(|line| format!("<li>{}</li>\n", escape(line)));
        add!(
            page,
            "<ul class=\"soft\">\n{}</ul>",
            items.collect::<String>()
        );
    }
    if figure.lines.iter().any(|line| Range::of(line).is_some()) {
        numbers(page, figure, scale);
    }
}

fn numbers(page: &mut String, figure: &Figure, scale: Scale) {
    let beside = words::references(figure);
    let heads = beside
        .iter()
        .map(|own| format!("<th class=\"number\">beside {}</th>", escape(&own.side)));
    let unit = if scale.name.is_empty() {
        String::new()
    } else {
        format!(", {}", scale.name)
    };
    add!(
        page,
        "<div class=\"scroll\"><table>\n<thead><tr><th>side</th><th class=\"number\">{}{unit}</th>\
         <th class=\"number\">min</th><th class=\"number\">max</th><th class=\"number\">n</th>{}</tr></thead>",
        words::middle(figure),
        heads.collect::<String>()
    );
    for line in &figure.lines {
        let Some(range) = Range::of(line) else {
            continue;
        };
        let cells = beside.iter().map(|own| {
            let told = words::beside(figure, own, line, false);
            format!("<td class=\"number\">{told}</td>")
        });
        let numbers = [range.middle, range.min, range.max]
            .map(|value| format!("<td class=\"number\">{}</td>", scale.number(value)));
        add!(
            page,
            "<tr><td class=\"side\">{}</td>{}<td class=\"number\">{}</td>{}</tr>",
            escape(&line.side),
            numbers.concat(),
            range.n,
            cells.collect::<String>()
        );
    }
    let brackets = match words::middle(figure) {
        "median" => "; in brackets the middle half of the ratios, round by round",
        _ => "",
    };
    add!(
        page,
        "</table></div>\n<p class=\"soft\">{}{brackets}</p>",
        words::columns(figure)
    );
}

fn in_parts(page: &mut String, whole: &Figure, parts: &[&Figure], instructions: bool) {
    let keys = parts.iter().enumerate().map(|(index, part)| {
        format!(
            "<span class=\"key part{index}\"></span>{} <span class=\"soft\">({})</span>",
            escape(words::part_title(part)),
            escape(&part.end_points)
        )
    });
    add!(
        page,
        "<h3>{}, in parts</h3>\n<p class=\"points\">From left to right: {}</p>\n<figure>\n{}</figure>\n\
         <p class=\"soft\">Medians, which need not add up to the median of the whole. Parts too short to \
         see stand in the figures at the right.</p>",
        escape(&whole.title),
        keys.collect::<Vec<_>>().join("; "),
        chart::bars(whole, parts, instructions)
    );
}

fn word_table(page: &mut String, table: &Table) {
    add!(
        page,
        "<h3>{}</h3>\n<div class=\"scroll\"><table>\n\
         <thead><tr><th>property</th><th>answer</th><th>sides</th></tr></thead>",
        escape(&table.title)
    );
    for row in &table.rows {
        let groups = words::groups(&table.columns, row);
        let remark = if row.remark.is_empty() {
            String::new()
        } else {
            format!("<br><span class=\"soft\">{}</span>", escape(&row.remark))
        };
        for (index, (value, sides)) in groups.iter().enumerate() {
            let name = if index == 0 {
                let name = escape(&row.name);
                format!(
                    "<td class=\"words\" rowspan=\"{}\">{name}{remark}</td>",
                    groups.len()
                )
            } else {
                String::new()
            };
            let sides = if sides.len() == table.columns.len() {
                "all".to_owned()
            } else {
                escape(&sides.join("; "))
            };
            add!(
                page,
                "<tr>{name}<td class=\"words\">{}</td><td class=\"words\">{sides}</td></tr>",
                escape(value)
            );
        }
    }
    page.push_str("</table></div>\n");
}

fn claims(page: &mut String, claims: &[Judged]) {
    add!(
        page,
        "<section id=\"claims\">\n<h2>What lecture notes say, and what is true here</h2>\n<p>{}</p>",
        escape(&words::tally(claims))
    );
    for (first, all) in words::by_rule(claims) {
        add!(
            page,
            "<article>\n<p>{}</p>\n<ul class=\"soft\">",
            escape(&first.claim.says)
        );
        for judged in all {
            let claim = &judged.claim;
            add!(
                page,
                "<li>\u{201c}{}\u{201d} <code>{}:{}</code></li>",
                escape(&claim.quote),
                escape(&claim.file),
                claim.line
            );
        }
        add!(
            page,
            "</ul>\n<p>Rule: <code>{}</code></p>",
            escape(&first.rule)
        );
        if !first.evidence.is_empty() {
            let here = escape(&first.evidence.join("; "));
            add!(page, "<p class=\"soft\">Here: {here}</p>");
        }
        let verdict = escape(&first.verdict.to_string());
        add!(
            page,
            "<p class=\"verdict\">Verdict: {verdict}</p>\n</article>"
        );
    }
    page.push_str("</section>\n");
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::compare::finding::Value;

    #[test]
    fn it_needs_nothing_from_outside() {
        let page = render(&testing::judged());
        for word in [
            "http:", "https:", "<script", "url(", "@import", "<link", "src=",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("@media print"));
    }

    #[test]
    fn what_is_not_ours_is_escaped() {
        let mut report = testing::judged();
        let hostile = "</title><script>alert('\"&</script>";
        report.command = hostile.to_owned();
        report.host.cpu = hostile.to_owned();
        report.warnings = vec![hostile.to_owned()];
        report.sides[0].version = hostile.to_owned();
        report.sides[0].command = hostile.to_owned();
        report.absent[0].reason = hostile.to_owned();
        report.claims[0].claim.quote = hostile.to_owned();
        let figure = &mut report.findings[0].figures[0];
        figure.title = hostile.to_owned();
        figure.end_points = hostile.to_owned();
        for line in &mut figure.lines {
            line.side = hostile.to_owned();
        }
        figure.lines[0].value = Value::NotRun(hostile.to_owned());
        let page = render(&report);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
        assert_eq!(
            page.matches("</title>").count(),
            page.matches("<title>").count()
        );
    }

    #[test]
    fn tags_are_closed_in_order() {
        let page = render(&testing::judged());
        let mut open = Vec::new();
        for piece in page.split('<').skip(1) {
            let tag = piece.split(['>', ' ', '\n']).next().unwrap();
            let closed_by_itself = piece.split('>').next().unwrap().ends_with('/');
            if let Some(tag) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(tag), "{piece}");
            } else if !closed_by_itself && !["!DOCTYPE", "meta", "br"].contains(&tag) {
                open.push(tag);
            }
        }
        assert_eq!(open, [""; 0]);
    }

    /// A colour's luminance. Source: WCAG 2.2, "relative luminance".
    fn luminance(color: &str) -> f64 {
        let part = |at: usize| {
            let value = u8::from_str_radix(&color[at..at + 2], 16).unwrap();
            let value = f64::from(value) / 255.0;
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    #[test]
    fn text_stands_out_from_paper_in_light_and_dark() {
        let themes: Vec<_> = STYLE.split(":root {").skip(1).collect();
        assert_eq!(themes.len(), 2);
        for theme in themes {
            let color = |name: &str| {
                let (_, rest) = theme.split_once(&format!("--{name}: ")).unwrap();
                luminance(&rest[..7])
            };
            let contrast = |a: f64, b: f64| (a.max(b) + 0.05) / (a.min(b) + 0.05);
            for text in ["ink", "soft", "link"] {
                for behind in ["paper", "panel"] {
                    let contrast = contrast(color(text), color(behind));
                    assert!(contrast >= 4.5, "{text} on {behind}: {contrast:.2}");
                }
            }
            // Marks need less: WCAG 2.2, 1.4.11.
            for mark in ["floor", "container", "vm", "part0", "part1", "part2"] {
                let contrast = contrast(color(mark), color("paper"));
                assert!(contrast >= 3.0, "{mark}: {contrast:.2}");
            }
        }
    }
}
