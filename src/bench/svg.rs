//! The report as a picture: for each span the values of every subject, and cottage's median run.
//!
//! Every value is a dot, so that nothing is hidden by a mean; the box is from p10 to p90, the line
//! in it the median. Read next: [`crate::compare`].

use super::report::{Measurement, Report, ms};
use super::series::Series;
use crate::timeline::canvas::{Anchor, Canvas, GREY, Scale, Style};
use crate::timeline::svg::waterfall;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 200.0;
const RIGHT: f64 = 880.0;
/// A subject's strip of dots.
const STRIP: f64 = 34.0;
/// Longer command lines are cut.
const MAX_NAME: usize = 110;
/// One colour a subject, the first cottage's. Source: as `timeline::canvas::color`.
const COLORS: [&str; 5] = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00"];

/// The picture.
pub fn render(report: &Report) -> String {
    let mut canvas = Canvas::new(WIDTH);
    let mut y = heading(&mut canvas, report);
    for name in span_names(&report.subjects) {
        y = distribution(&mut canvas, y + 30.0, &name, &report.subjects);
    }
    for subject in &report.subjects {
        let run = subject.account.median_run();
        if !run.is_empty() {
            y += 50.0;
            let title = "Median of every interval";
            canvas.text((20.0, y), Anchor::Start, Style::Title, title);
            let name = cut(&subject.name);
            canvas.text((20.0, y + 20.0), Anchor::Start, Style::Note, &name);
            y = waterfall(&mut canvas, y + 46.0, &run);
        }
    }
    for warning in &report.warnings {
        y += 20.0;
        canvas.text(
            (20.0, y),
            Anchor::Start,
            Style::Note,
            &format!("warning: {warning}"),
        );
    }
    canvas.finish(y + 20.0)
}

fn heading(canvas: &mut Canvas, report: &Report) -> f64 {
    let host = &report.host;
    let title = format!("{} runs, {}", report.runs, host.date);
    canvas.text((20.0, 34.0), Anchor::Start, Style::Title, &title);
    let machine = format!(
        "{} x {}, Linux {}, KVM: {}",
        host.cpus, host.cpu, host.kernel, host.kvm
    );
    canvas.text((20.0, 56.0), Anchor::Start, Style::Note, &machine);
    let mut y = 62.0;
    for (index, subject) in report.subjects.iter().enumerate() {
        y += 20.0;
        canvas.bar(
            (20.0, y - 11.0),
            (12.0, 12.0),
            subject_color(index),
            &subject.name,
        );
        canvas.text((38.0, y), Anchor::Start, Style::Label, &cut(&subject.name));
    }
    for how in &report.how {
        y += 20.0;
        canvas.text((20.0, y), Anchor::Start, Style::Note, how);
    }
    y
}

/// The names of all spans, in the order of their first occurrence.
fn span_names(subjects: &[Measurement]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for span in subjects.iter().flat_map(|subject| &subject.account.spans) {
        if !names.contains(&span.name) {
            names.push(span.name.clone());
        }
    }
    names
}

/// One span: a strip a subject on a common scale; returns where it ends.
fn distribution(canvas: &mut Canvas, top: f64, name: &str, subjects: &[Measurement]) -> f64 {
    let strips: Vec<(usize, &Series)> = subjects
        .iter()
        .enumerate()
        .filter_map(|(index, subject)| {
            let span = subject
                .account
                .spans
                .iter()
                .find(|span| span.name == name)?;
            Some((index, span))
        })
        .collect();
    let values: Vec<_> = strips.iter().flat_map(|(_, span)| span.present()).collect();
    let (Some(min), Some(max)) = (values.iter().min(), values.iter().max()) else {
        return top;
    };
    // From 0, or a small difference would look like a large one.
    let scale = Scale {
        left: LEFT,
        right: RIGHT,
        from: 0,
        to: (*max).max(*min + 1),
    };
    canvas.text(
        (20.0, top),
        Anchor::Start,
        Style::Label,
        &format!("spawn to {name}"),
    );
    let bottom = top + 8.0 + STRIP * strips.len() as f64;
    canvas.axis(&scale, top + 8.0, bottom);
    for (row, (index, span)) in strips.iter().enumerate() {
        strip(
            canvas,
            top + 8.0 + STRIP * row as f64,
            &scale,
            (*index, span),
        );
    }
    bottom + 20.0
}

fn strip(canvas: &mut Canvas, top: f64, scale: &Scale, (index, span): (usize, &Series)) {
    let Some(summary) = span.summary() else {
        return;
    };
    let color = subject_color(index);
    let (from, to, middle) = (
        scale.x(summary.p10),
        scale.x(summary.p90),
        scale.x(summary.median),
    );
    let tip = format!("median {} ms, n = {}", ms(summary.median), summary.n);
    canvas.bar(
        (from, top + 6.0),
        ((to - from).max(1.0), STRIP - 12.0),
        "#eeeeee",
        &tip,
    );
    for (place, value) in span.present().into_iter().enumerate() {
        // Spread over the height by turns, so that equal values do not cover each other.
        let y = top + STRIP / 2.0 + ((place * 5) % 11) as f64 - 5.0;
        canvas.dot(scale.x(value), y, color);
    }
    canvas.line((middle, top + 3.0), (middle, top + STRIP - 3.0), GREY);
    let label = format!("{} ms", ms(summary.median));
    canvas.text(
        (RIGHT + 12.0, top + 21.0),
        Anchor::Start,
        Style::Label,
        &label,
    );
}

fn subject_color(index: usize) -> &'static str {
    COLORS.get(index % COLORS.len()).copied().unwrap_or(GREY)
}

fn cut(name: &str) -> String {
    if name.chars().count() <= MAX_NAME {
        return name.to_owned();
    }
    let mut name: String = name.chars().take(MAX_NAME).collect();
    name.push('…');
    name
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn every_value_is_a_dot_and_names_are_escaped() {
        let svg = render(&report(3));
        // Two spans of two subjects with ten rounds each.
        assert_eq!(svg.matches("<circle").count(), 40);
        assert!(svg.contains("&lt;two&gt;") && !svg.contains("<two>"));
        assert!(svg.contains("spawn to process gone"));
        assert!(svg.contains("warning: it rained"));
    }
}
