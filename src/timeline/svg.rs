//! One run as a picture: a bar for each interval, one below the other, as time went by.
//!
//! Read next: [`super::report`].

use super::canvas::{Anchor, Canvas, Scale, Style, color};
use super::chart::{self, Interval};
use super::child::MeasuredRun;
use super::{Nanos, Who};

const WIDTH: f64 = 1000.0;
/// Names stand left of the bars.
const LEFT: f64 = 200.0;
/// Figures stand right of them.
const RIGHT: f64 = 880.0;
const ROW: f64 = 20.0;

/// The picture of `run`.
pub fn render(run: &MeasuredRun) -> String {
    let intervals = chart::intervals(run);
    let mut canvas = Canvas::new(WIDTH);
    canvas.text(
        (20.0, 34.0),
        Anchor::Start,
        Style::Title,
        "One boot, from spawn to process gone",
    );
    let bottom = waterfall(&mut canvas, 60.0, &intervals);
    canvas.finish(bottom + 16.0)
}

/// Draws `intervals`, which have no gaps, from `top` downwards; returns where it ends.
pub(crate) fn waterfall(canvas: &mut Canvas, top: f64, intervals: &[Interval]) -> f64 {
    let total = intervals.last().map_or(1, |last| last.end).max(1);
    let scale = Scale {
        left: LEFT,
        right: RIGHT,
        from: 0,
        to: total,
    };
    canvas.legend(LEFT, top);
    let top = top + 14.0;
    let bottom = top + ROW * intervals.len() as f64;
    canvas.axis(&scale, top, bottom);
    for (row, interval) in intervals.iter().enumerate() {
        let y = top + ROW * row as f64;
        let (start, end) = (scale.x(interval.start), scale.x(interval.end));
        let took = ms(interval.end - interval.start);
        let tip = format!("{}: {took} ms, {}", interval.name, interval.who);
        // At least a pixel, or the short ones, most of a VMM's own, would not be seen.
        let width = (end - start).max(1.0);
        canvas.bar(
            (start, y + 3.0),
            (width, ROW - 6.0),
            color(interval.who),
            &tip,
        );
        canvas.text(
            (LEFT - 10.0, y + 14.0),
            Anchor::End,
            Style::Label,
            &interval.name,
        );
        let mut figures = format!("{took} ms");
        if interval.exits > 0 {
            figures += &format!(", {} exits", interval.exits);
        }
        // Right of its bar, or left of one that reaches the end.
        if end < RIGHT - 60.0 {
            canvas.text(
                (start + width + 6.0, y + 14.0),
                Anchor::Start,
                Style::Note,
                &figures,
            );
        } else {
            canvas.text((start - 6.0, y + 14.0), Anchor::End, Style::Note, &figures);
        }
    }
    let bottom = bottom + 42.0;
    canvas.text(
        (LEFT, bottom),
        Anchor::Start,
        Style::Label,
        &summary(total, intervals),
    );
    bottom
}

fn summary(total: Nanos, intervals: &[Interval]) -> String {
    let parts =
        chart::shares(intervals).map(|(who, spent): (Who, Nanos)| format!("{who} {}", ms(spent)));
    format!("total {} ms: {}", ms(total), parts.join(", "))
}

fn ms(nanos: Nanos) -> String {
    format!("{:.3}", nanos as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::super::chart::tests::run;
    use super::*;

    #[test]
    fn every_interval_has_a_bar_and_a_name() {
        let svg = render(&run());
        for name in [
            "main entered",
            "guest entered",
            "guest ended",
            "process gone",
        ] {
            assert!(svg.contains(&format!(">{name}<")), "{name}: {svg}");
        }
        let legend = Who::ALL.len();
        assert_eq!(svg.matches("<title>").count(), 4 + legend);
        assert!(svg.contains("total 4.000 ms"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
