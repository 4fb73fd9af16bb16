//! Values, relations and machines in words; the same in all forms of the report.
//!
//! Read next: [`super::guide`].

use crate::bench::host::Host;
use crate::compare::claims::{Judged, Verdict};
use crate::compare::finding::{Figure, Findings, Line, Row, Unit, Value};
use crate::compare::relation::{self, Range, Relation};
use crate::compare::side::{Absent, Kind};

/// A unit that suits a figure's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Its name; empty for pieces.
    pub name: &'static str,
    /// How many of the figure's own unit it is.
    pub factor: f64,
}

/// Names for which a narrow screen has no room in each row.
pub const LONG_UNITS: [&str; 2] = ["million instructions", "thousand instructions"];
const TIMES: [Scale; 4] = [
    scale("s", 1e9),
    scale("ms", 1e6),
    scale("us", 1e3),
    scale("ns", 1.0),
];
const INSTRUCTIONS: [Scale; 3] = [
    scale(LONG_UNITS[0], 1e6),
    scale(LONG_UNITS[1], 1e3),
    scale("instructions", 1.0),
];
const SIZES: [Scale; 4] = [
    scale("GiB", 1_073_741_824.0),
    scale("MiB", 1_048_576.0),
    scale("KiB", 1024.0),
    scale("bytes", 1.0),
];
const PIECES: [Scale; 1] = [scale("", 1.0)];
/// The least value of a figure shall not be smaller than this in its unit.
const LEAST: f64 = 0.05;

const fn scale(name: &'static str, factor: f64) -> Scale {
    Scale { name, factor }
}

impl Scale {
    /// The largest unit in which no side of `figure` comes out tiny, and not all below 1.
    pub fn of(figure: &Figure, instructions: bool) -> Self {
        let units: &[Self] = match figure.unit {
            Unit::Nanoseconds if instructions => &INSTRUCTIONS,
            Unit::Nanoseconds => &TIMES,
            Unit::Bytes => &SIZES,
            Unit::Count => &PIECES,
        };
        let middles = figure.lines.iter().filter_map(Line::middle);
        let middles = middles.map(f64::abs).filter(|middle| *middle > 0.0);
        let (least, most) = middles.fold((f64::INFINITY, 0.0_f64), |(least, most), middle| {
            (least.min(middle), most.max(middle))
        });
        let fits = |unit: &&Self| least / unit.factor >= LEAST && most >= unit.factor;
        let smallest = units.last().copied().unwrap_or(scale("", 1.0));
        units
            .iter()
            .find(fits)
            .copied()
            .filter(|_| most > 0.0)
            .unwrap_or(smallest)
    }

    /// The number alone.
    pub fn number(&self, value: f64) -> String {
        if self.factor == 1.0 && value.fract() == 0.0 {
            return format!("{value:.0}");
        }
        significant(value / self.factor, 3)
    }

    /// The number and its unit.
    pub fn value(&self, value: f64) -> String {
        format!("{} {}", self.number(value), self.name)
            .trim_end()
            .to_owned()
    }
}

/// `value` with this many digits that count, or all before the point.
pub fn significant(value: f64, digits: u8) -> String {
    // The exponent after rounding: 99.96 has three digits before the point.
    let rounded = format!("{value:.*e}", usize::from(digits) - 1);
    let exponent = rounded.split_once('e').map_or("0", |(_, power)| power);
    let exponent: i64 = exponent.parse().unwrap_or(0);
    let after = (i64::from(digits) - 1 - exponent).clamp(0, 12);
    if value == 0.0 {
        return "0".to_owned();
    }
    format!("{value:.*}", usize::try_from(after).unwrap_or(0))
}

/// A relation; `-` where nothing may be said.
fn told(relation: &Relation) -> String {
    match relation {
        Relation::Ratio {
            ratio,
            middle_half: Some((low, high)),
        } => format!(
            "{} x [{}..{}]",
            significant(*ratio, 2),
            significant(*low, 2),
            significant(*high, 2)
        ),
        Relation::Ratio { ratio, .. } => format!("{} x", significant(*ratio, 2)),
        Relation::Overlap => "ranges overlap".to_owned(),
        Relation::TooFew => "too few values".to_owned(),
        Relation::Nothing => "-".to_owned(),
    }
}

/// The sides that others are set beside: the first floor and the first VM with a figure.
pub fn references(figure: &Figure) -> Vec<&Line> {
    let kinds = [Kind::Floor, Kind::Vm];
    let found = kinds.into_iter().filter_map(|kind| reference(figure, kind));
    found.collect()
}

/// How a line relates to that of `own`, for a table; without the middle half of rounds if it is narrow.
pub fn beside(figure: &Figure, own: &Line, line: &Line, narrow: bool) -> String {
    if own.side == line.side {
        return "1".to_owned();
    }
    match relation::relation(figure, &own.side, &line.side) {
        Relation::Ratio { ratio, .. } if narrow => told(&Relation::Ratio {
            ratio,
            middle_half: None,
        }),
        relation => told(&relation),
    }
}

/// What the number to quote is.
pub fn middle(figure: &Figure) -> &'static str {
    let values = figure.lines.iter().map(|line| &line.value);
    values.fold("value", |name, value| match value {
        Value::Samples(_) => "median",
        Value::Curve(_) => "for one",
        _ => name,
    })
}

/// Why a line has no figure.
pub fn missing(line: &Line) -> Option<String> {
    match &line.value {
        Value::NotRun(why) => Some(format!("not run: {why}")),
        Value::NotComparable(why) => Some(format!("not comparable here: {why}")),
        _ if Range::of(line).is_none() => {
            Some("not run: it was cut off before its turn".to_owned())
        }
        _ => None,
    }
}

/// Sides and reasons, each reason once.
pub fn by_reason<'a>(all: impl Iterator<Item = (&'a str, String)>) -> Vec<String> {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (side, why) in all {
        match groups.iter_mut().find(|(known, _)| *known == why) {
            Some((_, sides)) => sides.push(side),
            None => groups.push((why, vec![side])),
        }
    }
    let told = groups
        .iter()
        .map(|(why, sides)| format!("{}: {why}", sides.join("; ")));
    told.collect()
}

/// Why lines have no figure.
pub fn all_missing(figure: &Figure) -> Vec<String> {
    let lines = figure.lines.iter();
    by_reason(lines.filter_map(|line| Some((line.side.as_str(), missing(line)?))))
}

/// Why sides are not there.
pub fn all_absent(absent: &[Absent]) -> Vec<String> {
    let why = |absent: &Absent| format!("not run: {}", absent.reason);
    by_reason(
        absent
            .iter()
            .map(|absent| (absent.name.as_str(), why(absent))),
    )
}

/// What a figure's numbers and ratios are.
pub fn columns(figure: &Figure) -> &'static str {
    let curve = |line: &Line| matches!(line.value, Value::Curve(_));
    let exact = |line: &Line| matches!(line.value, Value::Exact(_));
    let beyond = |line: &Line| matches!(line.value, Value::Extrapolated(_));
    if figure.lines.iter().any(beyond) {
        "extrapolated from a slope that was measured: single numbers, without a spread"
    } else if figure.lines.iter().any(curve) {
        "what one more instance takes: the slope over all n points, the least and the most between \
         neighbouring points; no ratio where those overlap"
    } else if figure.lines.iter().any(exact) {
        "single numbers, without a spread"
    } else {
        "median, least and most of n values; x: ratio of the medians, only where the ranges from p10 to \
         p90 are apart"
    }
}

/// The first side of `kind` with a figure: what others are set beside.
pub fn reference(figure: &Figure, kind: Kind) -> Option<&Line> {
    let mut lines = figure.lines.iter();
    lines.find(|line| line.kind == kind && Range::of(line).is_some())
}

/// Figures that are no parts, each with its parts.
pub fn with_parts(findings: &Findings) -> Vec<(&Figure, Vec<&Figure>)> {
    let whole = findings.figures.iter().filter(|f| f.part_of.is_none());
    whole
        .map(|whole| {
            let parts = findings.figures.iter();
            let parts = parts.filter(|part| part.part_of.as_ref() == Some(&whole.key));
            (whole, parts.collect())
        })
        .collect()
}

/// A part's title without what every part's title begins with.
pub fn part_title(part: &Figure) -> &str {
    part.title.strip_prefix("of it: ").unwrap_or(&part.title)
}

/// A part's median where it can be added to others, and the same of the others of its side.
pub fn part_medians(parts: &[&Figure], side: &str) -> Option<Vec<f64>> {
    parts
        .iter()
        .map(|part| part.line(side).and_then(Line::middle))
        .collect()
}

/// The values of a row, each once, with the sides that have it.
pub fn groups<'a>(columns: &'a [String], row: &'a Row) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (side, cell) in columns.iter().zip(&row.cells) {
        match groups.iter_mut().find(|(value, _)| value == cell) {
            Some((_, sides)) => sides.push(side),
            None => groups.push((cell, vec![side])),
        }
    }
    groups
}

/// Claims with the same rule together, in the order of the first of each.
pub fn by_rule(claims: &[Judged]) -> Vec<(&Judged, Vec<&Judged>)> {
    let mut groups: Vec<(&Judged, Vec<&Judged>)> = Vec::new();
    for judged in claims {
        let same = |other: &Judged| other.rule == judged.rule && other.verdict == judged.verdict;
        match groups.iter_mut().find(|(first, _)| same(first)) {
            Some((_, all)) => all.push(judged),
            None => groups.push((judged, vec![judged])),
        }
    }
    groups
}

/// How many claims came out how, and by which rule.
pub fn tally(claims: &[Judged]) -> String {
    let count = |wanted: fn(&Verdict) -> bool| {
        let those = claims.iter().filter(|judged| wanted(&judged.verdict));
        those.count()
    };
    format!(
        "Of {} claims {} hold, {} do not, {} hold only for some, {} cannot be judged on this machine. \
         A claim holds for a side whose range (p10 to p90) is wholly within the bounds of its rule, and \
         does not for one whose range is wholly outside.",
        claims.len(),
        count(|verdict| *verdict == Verdict::Holds),
        count(|verdict| *verdict == Verdict::DoesNotHold),
        count(|verdict| matches!(verdict, Verdict::HoldsOnlyFor(_))),
        count(|verdict| matches!(verdict, Verdict::CannotBeJudged(_)))
    )
}

/// What stands between the program and the host's kernel.
pub fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Floor => "floor",
        Kind::Container => "container",
        Kind::Vm => "VM",
    }
}

/// What this host's KVM means for figures of VMs, as [`Host::kvm`] tells it.
pub fn kvm_means(host: &Host) -> &'static str {
    let kvm = &host.kvm;
    if kvm.starts_with("not usable") {
        "no VM can run here"
    } else if kvm.contains("software") {
        "this processor does not help with VMs: guests' kernels are carried out instruction by \
         instruction by a program, slowly, and a usual Linux does not start at all; figures of VMs \
         say nothing about machines whose processors help"
    } else if kvm.contains("nested") {
        "this machine is itself a VM: each time a guest needs the host costs more than on a machine \
         of metal, so VMs come out slower here than they are there"
    } else {
        "the processor runs guests by itself: figures of VMs are those of real hardware"
    }
}

/// `text` in lines of at most `width` columns; the first begins with `first`, the others with `rest`.
/// Words that are longer stay whole.
pub fn wrap(text: &str, width: usize, first: &str, rest: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > width {
            lines += line.trim_end();
            lines.push('\n');
            rest.clone_into(&mut line);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    lines + line.trim_end() + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn digits_that_count() {
        let three = [0.0, 0.102_4, 7.7, 99.96, 216.4, 12_345.6].map(|v| significant(v, 3));
        assert_eq!(three, ["0", "0.102", "7.70", "100", "216", "12346"]);
        assert_eq!(significant(0.000_71, 2), "0.00071");
        assert_eq!(significant(2560.0, 2), "2560");
        assert_eq!(significant(-7.7, 3), "-7.70");
    }

    #[test]
    fn units_leave_no_side_tiny() {
        let report = testing::report();
        let unit = |key: &str, instructions| Scale::of(testing::figure(&report, key), instructions);
        // From 0.1 ms of a process to seconds of a VM.
        assert_eq!(unit("start.first-output", false).name, "ms");
        assert_eq!(unit("start.first-output", true).name, LONG_UNITS[0]);
        assert_eq!(unit("cost.syscall", false).name, "ns");
        assert_eq!(unit("disk.engine", false).name, "MiB");
        assert_eq!(unit("isolation.syscalls", false).value(332.0), "332");
        assert_eq!(unit("cost.syscall", false).value(141.0), "141 ns");
    }

    #[test]
    fn a_reason_is_told_once_for_all_its_sides() {
        let report = testing::report();
        assert_eq!(
            all_missing(testing::figure(&report, "cost.syscall")),
            [
                "ctr: not run: no engine answers on /run/containerd/containerd.sock",
                "cottage, tiny kernel, initramfs; cottage, full kernel, read-only disk: not comparable \
                 here: guest kernel code is emulated on this host"
            ]
        );
    }

    #[test]
    fn lines_are_wrapped_at_words() {
        assert_eq!(wrap("one two three", 9, "- ", "  "), "- one two\n  three\n");
        assert_eq!(wrap("unbreakable", 5, "", ""), "unbreakable\n");
        assert_eq!(wrap("", 5, "", ""), "\n");
    }

    #[test]
    fn equal_cells_stand_together() {
        let columns = ["a", "b", "c"].map(str::to_owned);
        let row = Row {
            name: "release".to_owned(),
            cells: ["6.18", "6.12", "6.18"].map(str::to_owned).to_vec(),
            remark: String::new(),
        };
        assert_eq!(
            groups(&columns, &row),
            [("6.18", vec!["a", "c"]), ("6.12", vec!["b"])]
        );
    }
}
