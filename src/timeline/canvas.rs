//! A drawing in SVG: the few shapes that charts are made of, and a scale.
//!
//! What comes out is self-contained: no script, nothing fetched, fonts by family only. All text is
//! escaped, for names may come from a guest or from the user. Source: SVG 1.1, chapters 9 to 11.
//! Read next: [`super::svg`].

use std::fmt::Write;

use super::{Nanos, Who};

/// A drawing under way; sizes and places are in pixels from the upper left.
#[derive(Debug)]
pub struct Canvas {
    body: String,
    width: f64,
}

/// Where a text stands relative to its place.
#[derive(Clone, Copy, Debug)]
pub enum Anchor {
    /// To the right of it.
    Start,
    /// Around it.
    Middle,
    /// To the left of it.
    End,
}

/// Kinds of text.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    /// The drawing's heading.
    Title,
    /// Names.
    Label,
    /// Figures and remarks, smaller and grey.
    Note,
}

impl Canvas {
    /// An empty one, `width` pixels wide.
    pub fn new(width: f64) -> Self {
        Self {
            body: String::new(),
            width,
        }
    }

    /// A filled rectangle at `at`, of `size`; `tip` is shown when one points at it.
    pub fn bar(&mut self, at: (f64, f64), size: (f64, f64), color: &str, tip: &str) {
        let ((x, y), (width, height)) = (at, size);
        let _infallible = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             fill=\"{color}\"><title>{}</title></rect>",
            escape(tip)
        );
    }

    /// A dot, see-through, so that many show as a dark place.
    pub fn dot(&mut self, x: f64, y: f64, color: &str) {
        let _infallible = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\" fill-opacity=\"0.45\"/>"
        );
    }

    /// A line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str) {
        let _infallible = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    /// A line of text whose baseline is at `at`.
    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, style: Style, text: &str) {
        let (x, y) = at;
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (size, color, weight) = match style {
            Style::Title => (18, INK, "600"),
            Style::Label => (13, INK, "400"),
            Style::Note => (12, GREY, "400"),
        };
        let _infallible = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" \
             font-weight=\"{weight}\" fill=\"{color}\">{}</text>",
            escape(text)
        );
    }

    /// Who is which colour, in a row at `y`.
    pub fn legend(&mut self, x: f64, y: f64) {
        let mut x = x;
        for who in Who::ALL {
            let name = who.to_string();
            self.bar((x, y - 11.0), (12.0, 12.0), color(who), &name);
            self.text((x + 18.0, y), Anchor::Start, Style::Note, &name);
            x += 130.0;
        }
    }

    /// Marks and figures of `scale` at `y`, with lines up to `top`.
    pub fn axis(&mut self, scale: &Scale, top: f64, y: f64) {
        for (at, label) in scale.ticks() {
            let x = scale.x(at);
            self.line((x, top), (x, y), GRID);
            self.text((x, y + 16.0), Anchor::Middle, Style::Note, &label);
        }
        self.text(
            (scale.right + 8.0, y + 16.0),
            Anchor::Start,
            Style::Note,
            "ms",
        );
    }

    /// The drawing as an SVG document, `height` pixels high.
    pub fn finish(self, height: f64) -> String {
        let Self { body, width } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" \
             font-family=\"system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }
}

/// Colours that stay apart for the colour-blind and in print. Source: Okabe and Ito, "Color
/// Universal Design", 2008.
pub fn color(who: Who) -> &'static str {
    match who {
        Who::HostKernel => "#999999",
        Who::Vmm => "#d55e00",
        Who::GuestKernel => "#0072b2",
        Who::GuestUser => "#009e73",
    }
}

/// Text.
const INK: &str = "#1a1a1a";
/// Less important text.
pub const GREY: &str = "#555555";
/// Lines behind the data.
const GRID: &str = "#e0e0e0";

/// Time to pixels.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Where it begins.
    pub left: f64,
    /// Where it ends.
    pub right: f64,
    /// The time at its beginning.
    pub from: Nanos,
    /// The time at its end, later than `from`.
    pub to: Nanos,
}

impl Scale {
    /// Where `at` is.
    pub fn x(&self, at: Nanos) -> f64 {
        let part = (at.saturating_sub(self.from)) as f64 / (self.to - self.from).max(1) as f64;
        self.left + part.min(1.0) * (self.right - self.left)
    }

    /// Round times and their labels in ms, four to ten of them.
    fn ticks(&self) -> Vec<(Nanos, String)> {
        let length = (self.to - self.from).max(1);
        // 1, 2 or 5 times a power of ten.
        let mut step: Nanos = 1;
        let mut factors = [2, 5, 10].iter().cycle();
        let mut power = 1;
        while length / step > 8 {
            let factor = *factors.next().unwrap_or(&10);
            step = power * factor;
            if factor == 10 {
                power = step;
            }
        }
        let decimals = (0..=6_u32)
            .find(|decimals| (step * 10_u64.pow(*decimals)).is_multiple_of(1_000_000))
            .unwrap_or(6) as usize;
        let first = self.from.div_ceil(step) * step;
        (0..)
            .map(|n| first + n * step)
            .take_while(|at| *at <= self.to)
            .map(|at| (at, format!("{:.decimals$}", at as f64 / 1e6)))
            .collect()
    }
}

/// Text as XML has it; control characters, which XML forbids, become replacement characters.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(from: Nanos, to: Nanos) -> Vec<String> {
        let scale = Scale {
            left: 0.0,
            right: 100.0,
            from,
            to,
        };
        scale.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(
            labels(0, 2_700_000),
            ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]
        );
        assert_eq!(labels(0, 41_000_000).last().unwrap(), "40");
        assert_eq!(labels(2_100_000, 2_300_000)[0], "2.10");
        for to in [1, 10, 999, 12_345, 7_777_777, 123_456_789_012] {
            let count = labels(0, to).len();
            assert!((2..=10).contains(&count), "{to}: {count}");
        }
    }

    #[test]
    fn text_is_escaped() {
        let mut canvas = Canvas::new(10.0);
        canvas.text((0.0, 0.0), Anchor::Start, Style::Label, "a<b>&\"\u{1b}");
        let svg = canvas.finish(10.0);
        assert!(svg.contains(">a&lt;b&gt;&amp;&quot;\u{fffd}<"), "{svg}");
    }

    #[test]
    fn what_lies_beyond_the_scale_stays_at_its_ends() {
        let scale = Scale {
            left: 10.0,
            right: 20.0,
            from: 100,
            to: 200,
        };
        assert_eq!(
            [0, 100, 150, 200, 900].map(|at| scale.x(at)),
            [10.0, 10.0, 15.0, 20.0, 20.0]
        );
    }
}
