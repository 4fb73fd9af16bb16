//! Charts in SVG that need no width of their own: places are in percent, letters in pixels.
//!
//! So the letters of a chart are as large on a phone as on paper. Colours and line widths are classes
//! of the page's style sheet (`page.css`), which has them for light, dark and print. A side is told by
//! name and shape, never by colour alone. Read next: [`crate::doctor`].

use std::fmt::Write;

use super::axis::Axis;
use super::words::{self, Scale};
use crate::compare::finding::{Figure, Line, Point, Value};
use crate::compare::relation::Range;
use crate::compare::side::Kind;
use crate::timeline::canvas::escape;

/// A side's row in a chart of values: name and figures, and under them the strip.
const ROW: f64 = 46.0;
/// The same in a chart of curves.
const CURVE_ROW: f64 = 62.0;
/// Of which names and figures take this much.
const NAMES: f64 = 20.0;
/// Room for the axis.
const AXIS: f64 = 40.0;
/// More dots than this would only be black, and make a page slow.
const MAX_DOTS: usize = 400;

/// A drawing under way.
struct Drawing {
    body: String,
}

impl Drawing {
    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        let _infallible = self.body.write_fmt(element);
        self.body.push('\n');
    }

    /// Name at the left, figures at the right; `range` is left out on narrow screens.
    fn row(&mut self, y: f64, line: &Line, middle: &str, range: &str) {
        let y = y + 14.0;
        // On a phone there is no room for so long a unit; it stands below the axis too.
        let middle = words::LONG_UNITS.iter().fold(escape(middle), |text, unit| {
            text.replace(
                &format!(" {unit}"),
                &format!(r#"<tspan class="wide"> {unit}</tspan>"#),
            )
        });
        self.add(format_args!(
            r#"<text x="1%" y="{y}">{}</text><text x="99%" y="{y}" class="end">{}<tspan class="wide">{}</tspan></text>"#,
            escape(&line.side),
            middle,
            escape(range)
        ));
    }

    /// Marks and figures of `axis`, below `bottom`, with lines up to 0.
    fn axis(&mut self, axis: &Axis, scale: Scale, bottom: f64) {
        for (at, figure) in axis.ticks() {
            let x = axis.place(at);
            self.add(format_args!(
                r#"<line x1="{x:.2}%" x2="{x:.2}%" y1="0" y2="{bottom}" class="grid"/>"#
            ));
            let class = if x < 5.0 {
                "note"
            } else if x > 95.0 {
                "note end"
            } else {
                "note middle"
            };
            let y = bottom + 15.0;
            self.add(format_args!(
                r#"<text x="{x:.2}%" y="{y}" class="{class}">{figure}</text>"#
            ));
        }
        let unit = if scale.name.is_empty() {
            "number"
        } else {
            scale.name
        };
        let how = match axis.factor() {
            Some(factor) => format!("; logarithmic: each mark {factor} x the last"),
            None => String::new(),
        };
        let y = bottom + 32.0;
        self.add(format_args!(
            r#"<text x="1%" y="{y}" class="note">{unit}{how}</text>"#
        ));
    }

    /// One side's values, from `top` down.
    fn strip(&mut self, axis: &Axis, scale: Scale, top: f64, (line, range): (&Line, &Range)) {
        let place = |value: f64| axis.place(value / scale.factor);
        let under = top + ROW - 1.5;
        self.add(format_args!(
            r#"<line x1="1%" x2="99%" y1="{under}" y2="{under}" class="grid"/>"#
        ));
        let ends = format!(
            " [{}..{}]",
            scale.number(range.min),
            scale.number(range.max)
        );
        if range.n > 1 {
            let middle = format!("{}, n {}", scale.value(range.middle), range.n);
            self.row(top, line, &middle, &ends);
            let (low, high) = (place(range.low), place(range.high));
            let (y, height) = (top + NAMES + 1.0, ROW - NAMES - 6.0);
            self.add(format_args!(
                r#"<rect x="{low:.2}%" y="{y}" width="{:.2}%" height="{height}" class="box"/>"#,
                (high - low).max(0.2)
            ));
        } else {
            let what = match line.value {
                Value::Extrapolated(_) => "extrapolated",
                _ => "one value",
            };
            self.row(
                top,
                line,
                &format!("{}, {what}", scale.value(range.middle)),
                "",
            );
        }
        if range.max == 0.0 && axis.log() {
            return;
        }
        for (index, value) in dots(&line.value).into_iter().enumerate() {
            // Spread over the height by turns, so that equal values do not cover each other.
            let y = top + NAMES + 11.0 + ((index * 5) % 11) as f64 - 5.0;
            self.dot(place(value), y, line.kind);
        }
        if range.n > 1 {
            let x = place(range.middle);
            let (from, to) = (top + NAMES - 1.0, top + ROW - 3.0);
            self.add(format_args!(
                r#"<line x1="{x:.2}%" x2="{x:.2}%" y1="{from}" y2="{to}" class="median"/>"#
            ));
        }
    }

    /// One side's curve, from `top` down; `most` is as high as a row.
    fn curve(
        &mut self,
        (axis, most): (&Axis, f64),
        scale: Scale,
        top: f64,
        (line, range): (&Line, &Range),
    ) {
        let middle = format!("{} each, n {}", scale.value(range.middle), range.n);
        let ends = format!(
            " [{}..{}]",
            scale.number(range.min),
            scale.number(range.max)
        );
        self.row(top, line, &middle, &ends);
        let base = top + CURVE_ROW - 4.0;
        let place = |point: &Point| {
            let height = (CURVE_ROW - NAMES - 8.0) * point.value as f64 / most;
            (axis.place(point.instances as f64), base - height)
        };
        self.add(format_args!(
            r#"<line x1="1%" x2="99%" y1="{base}" y2="{base}" class="grid"/>"#
        ));
        let points = points_of(line);
        for pair in points.windows(2) {
            if let [from, to] = pair {
                let ((x1, y1), (x2, y2)) = (place(from), place(to));
                self.add(format_args!(
                    r#"<line x1="{x1:.2}%" y1="{y1:.1}" x2="{x2:.2}%" y2="{y2:.1}" class="curve {}"/>"#,
                    words::kind(line.kind).to_lowercase()
                ));
            }
        }
        for point in points {
            let (x, y) = place(point);
            self.dot(x, y, line.kind);
        }
    }

    /// Shape of a kind of side: hollow circles, circles, squares.
    fn dot(&mut self, x: f64, y: f64, kind: Kind) {
        match kind {
            Kind::Vm => self.add(format_args!(
                r#"<rect x="{x:.2}%" y="{:.1}" width="6" height="6" transform="translate(-3,0)" class="vm"/>"#,
                y - 3.0
            )),
            Kind::Floor => {
                self.add(format_args!(r#"<circle cx="{x:.2}%" cy="{y:.1}" r="3" class="floor"/>"#));
            }
            Kind::Container => {
                self.add(format_args!(
                    r#"<circle cx="{x:.2}%" cy="{y:.1}" r="3" class="container"/>"#
                ));
            }
        }
    }

    fn finish(self, height: f64, title: &str) -> String {
        format!(
            "<svg role=\"img\" aria-label=\"{0}\" width=\"100%\" height=\"{height}\">\n\
             <title>{0}</title>\n{1}</svg>\n",
            escape(title),
            self.body
        )
    }
}

/// The chart of a figure; empty if no side has anything to show, or all have nothing but 0.
pub fn figure(figure: &Figure, instructions: bool) -> String {
    let scale = Scale::of(figure, instructions);
    let shown: Vec<(&Line, Range)> = figure
        .lines
        .iter()
        .filter_map(|line| Some((line, Range::of(line)?)))
        .collect();
    if shown.is_empty() {
        return String::new();
    }
    if shown
        .iter()
        .any(|(line, _)| matches!(line.value, Value::Curve(_)))
    {
        return curves(figure, &shown, scale);
    }
    strips(figure, &shown, scale)
}

fn strips(figure: &Figure, shown: &[(&Line, Range)], scale: Scale) -> String {
    let unit = |value: f64| value / scale.factor;
    // A side that takes nothing at all has no dot, so that the others can have an axis of factors.
    let drawn = || shown.iter().filter(|(_, range)| range.max != 0.0);
    if drawn().next().is_none() {
        return String::new();
    }
    let values: Vec<f64> = drawn()
        .flat_map(|(_, r)| [unit(r.min), unit(r.max)])
        .collect();
    let middles: Vec<f64> = drawn().map(|(_, r)| unit(r.middle)).collect();
    let axis = Axis::of(&values, &middles);
    let mut drawing = Drawing {
        body: String::new(),
    };
    let bottom = ROW * shown.len() as f64 + 4.0;
    drawing.axis(&axis, scale, bottom);
    for (index, (line, range)) in shown.iter().enumerate() {
        drawing.strip(&axis, scale, ROW * index as f64, (line, range));
    }
    drawing.finish(bottom + AXIS, &spoken(figure, shown, scale))
}

/// The values to draw: all, or of very many some evenly by rank, with the least and the most.
fn dots(value: &Value) -> Vec<f64> {
    match value {
        Value::Samples(samples) => {
            let present: Vec<u64> = samples.iter().copied().flatten().collect();
            if present.len() <= MAX_DOTS {
                return present.into_iter().map(|value| value as f64).collect();
            }
            let mut sorted = present;
            sorted.sort_unstable();
            let last = sorted.len() - 1;
            let ranks = (0..MAX_DOTS).map(|n| n * last / (MAX_DOTS - 1));
            ranks
                .filter_map(|rank| sorted.get(rank).map(|value| *value as f64))
                .collect()
        }
        Value::Exact(value) | Value::Extrapolated(value) => vec![*value as f64],
        _ => Vec::new(),
    }
}

/// Whether [`figure`] shows only some of the values, and how many; for the words under the chart.
pub fn thinned(figure: &Figure) -> Option<String> {
    let most = figure
        .lines
        .iter()
        .filter_map(|line| line.summary().map(|s| s.n))
        .max()?;
    (most > MAX_DOTS).then(|| format!("{MAX_DOTS} dots of {most} values, evenly by rank"))
}

/// A row a side with its own curve, all on the same two axes, so that steepness can be compared.
fn curves(figure: &Figure, shown: &[(&Line, Range)], scale: Scale) -> String {
    let all: Vec<Point> = shown
        .iter()
        .flat_map(|(line, _)| points_of(line).to_vec())
        .collect();
    if all.iter().all(|point| point.value == 0) {
        return String::new();
    }
    let instances: Vec<f64> = all.iter().map(|point| point.instances as f64).collect();
    let most = all
        .iter()
        .map(|point| point.value)
        .max()
        .unwrap_or(1)
        .max(1) as f64;
    let axis = Axis::of(&instances, &[]);
    let pieces = Scale {
        name: "instances side by side",
        factor: 1.0,
    };
    let mut drawing = Drawing {
        body: String::new(),
    };
    let bottom = CURVE_ROW * shown.len() as f64 + 4.0;
    drawing.axis(&axis, pieces, bottom);
    for (index, (line, range)) in shown.iter().enumerate() {
        drawing.curve(
            (&axis, most),
            scale,
            CURVE_ROW * index as f64,
            (line, range),
        );
    }
    let note = format!("each row from 0 to {}", scale.value(most));
    let y = bottom + 32.0;
    drawing.add(format_args!(
        r#"<text x="99%" y="{y}" class="note end">{}</text>"#,
        escape(&note)
    ));
    drawing.finish(bottom + AXIS, &spoken(figure, shown, scale))
}

fn points_of(line: &Line) -> &[Point] {
    match &line.value {
        Value::Curve(points) => points,
        _ => &[],
    }
}

/// A bar a side, cut into its parts by their medians.
pub fn bars(whole: &Figure, parts: &[&Figure], instructions: bool) -> String {
    let scale = Scale::of(whole, instructions);
    let sides: Vec<(&Line, Vec<f64>)> = whole
        .lines
        .iter()
        .filter_map(|line| Some((line, words::part_medians(parts, &line.side)?)))
        .collect();
    let sum = |medians: &[f64]| medians.iter().sum::<f64>() / scale.factor;
    let sums: Vec<f64> = sides.iter().map(|(_, medians)| sum(medians)).collect();
    if sides.is_empty() {
        return String::new();
    }
    // A length on an axis of factors is no amount: bars have one from 0, however short some get.
    let axis = Axis::of(&sums, &[]);
    let mut drawing = Drawing {
        body: String::new(),
    };
    let bottom = ROW * sides.len() as f64 + 4.0;
    drawing.axis(&axis, scale, bottom);
    for (index, (line, medians)) in sides.iter().enumerate() {
        let top = ROW * index as f64;
        let n = parts
            .iter()
            .filter_map(|part| part.line(&line.side)?.summary());
        let n = n.map(|summary| summary.n).min().unwrap_or(1);
        let each: Vec<_> = medians.iter().map(|median| scale.number(*median)).collect();
        let range = format!(" = {}", each.join(" + "));
        let middle = format!("{}, n {n}", scale.value(sum(medians) * scale.factor));
        drawing.row(top, line, &middle, &range);
        let mut from = 0.0;
        for (part, median) in medians.iter().enumerate() {
            let to = from + median / scale.factor;
            let (x, width) = (axis.place(from), axis.place(to) - axis.place(from));
            let (y, height) = (top + NAMES + 1.0, ROW - NAMES - 8.0);
            drawing.add(format_args!(
                r#"<rect x="{x:.2}%" y="{y}" width="{width:.2}%" height="{height}" class="part part{part}"/>"#
            ));
            from = to;
        }
    }
    let told = sides
        .iter()
        .zip(&sums)
        .map(|((line, _), sum)| format!("{} {}", line.side, scale.value(sum * scale.factor)));
    let title = format!(
        "{}, in parts: {}",
        whole.title,
        told.collect::<Vec<_>>().join("; ")
    );
    drawing.finish(bottom + AXIS, &title)
}

/// The chart for who cannot see it.
fn spoken(figure: &Figure, shown: &[(&Line, Range)], scale: Scale) -> String {
    let sides = shown
        .iter()
        .map(|(line, range)| format!("{} {}", line.side, scale.value(range.middle)));
    let sides: Vec<_> = sides.collect();
    format!(
        "{}, {}: {}",
        figure.title,
        words::middle(figure),
        sides.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn chart(key: &str) -> String {
        figure(testing::figure(&testing::report(), key), false)
    }

    #[test]
    fn every_value_has_a_mark_and_every_side_its_n() {
        let svg = chart("start.first-output");
        // Two floors and six containers, and two VMs, of twenty rounds each.
        assert_eq!(svg.matches("<circle").count(), 8 * 20);
        assert_eq!(svg.matches("class=\"vm\"").count(), 2 * 20);
        assert_eq!(svg.matches("class=\"median\"").count(), 10);
        assert_eq!(svg.matches(", n 20").count(), 10);
        assert!(
            svg.contains("ms; logarithmic: each mark 10 x the last"),
            "{svg}"
        );
        assert!(svg.contains("role=\"img\""));
    }

    #[test]
    fn every_place_is_a_number() {
        for findings in &testing::report().findings {
            for one in &findings.figures {
                let svg = figure(one, false);
                assert!(!svg.contains("NaN") && !svg.contains("inf%"), "{svg}");
            }
        }
    }

    #[test]
    fn curves_share_their_axes() {
        let svg = chart("memory.host");
        assert!(svg.contains("instances side by side") && svg.contains("each row from 0 to"));
        // Three points and two lines between them, a side.
        assert_eq!(svg.matches("class=\"curve").count(), 10 * 2);
    }

    #[test]
    fn parts_fill_their_bars() {
        let report = testing::report();
        let whole = testing::figure(&report, "start.first-output");
        let (_, parts) = words::with_parts(&report.findings[0]).remove(0);
        let svg = bars(whole, &parts, false);
        assert_eq!(svg.matches("class=\"part ").count(), 10 * 3);
        assert!(svg.contains(", n 20") && svg.contains(" = "));
    }

    #[test]
    fn very_many_values_are_thinned_and_that_is_said() {
        let mut one = testing::figure(&testing::report(), "start.gone").clone();
        one.lines.truncate(1);
        assert_eq!(thinned(&one), None);
        one.lines[0].value = Value::Samples((0..100_000).map(|n| Some(1_000_000 + n)).collect());
        assert_eq!(figure(&one, false).matches("<circle").count(), MAX_DOTS);
        assert_eq!(
            thinned(&one).unwrap(),
            "400 dots of 100000 values, evenly by rank"
        );
        let dots = dots(&one.lines[0].value);
        assert_eq!((dots[0], dots[MAX_DOTS - 1]), (1_000_000.0, 1_099_999.0));
    }

    #[test]
    fn nothing_to_show_is_no_chart() {
        let mut one = testing::figure(&testing::report(), "disk.engine").clone();
        for line in &mut one.lines {
            line.value = Value::Exact(0);
        }
        assert_eq!(figure(&one, false), "");
        one.lines[0].value = Value::Exact(5);
        assert_eq!(figure(&one, false).matches("<circle").count(), 2 + 7);
    }
}
