//! How two sides relate, and when nothing may be said about it.
//!
//! One rule for tables, charts and claims: a ratio stands only where the ranges are apart, between
//! figures that have a range. That of rounds is from p10 to p90 ([`stats::compare`]); that of a curve is
//! from the least to the most that one more instance took between neighbouring points; a number that
//! does not vary is its own. Read next: [`super::side`].

use serde::Serialize;

use super::finding::{Figure, Line, Point, Unit, Value, slope};
use crate::bench::stats::{self, Comparison};

/// Rounds with both sides that a ratio needs: with fewer, two equal sides are apart by chance too often.
/// Of 5 and 5 values in any order, 2 in 252 have all of one side below all of the other.
pub const MIN_ROUNDS: usize = 5;

/// A side's figure with its spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    /// Values, points, or 1.
    pub n: usize,
    /// The least of all.
    pub min: f64,
    /// Where the range begins that comparisons go by.
    pub low: f64,
    /// The number to quote.
    pub middle: f64,
    /// Where that range ends.
    pub high: f64,
    /// The most of all.
    pub max: f64,
}

/// What may be said about two sides of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The ranges are apart.
    Ratio {
        /// So many times as much.
        ratio: f64,
        /// The first and the third quartile of the ratios round by round, where there are rounds.
        middle_half: Option<(f64, f64)>,
    },
    /// They overlap: no difference was resolved.
    Overlap,
    /// There are fewer than [`MIN_ROUNDS`] rounds with both, or a curve of two points.
    TooFew,
    /// One of them is 0 or was not measured.
    Nothing,
}

impl Range {
    /// Of a line; `None` where nothing was measured.
    pub fn of(line: &Line) -> Option<Self> {
        match &line.value {
            Value::Samples(_) => line.summary().map(|summary| Self {
                n: summary.n,
                min: summary.min as f64,
                low: summary.p10 as f64,
                middle: summary.median as f64,
                high: summary.p90 as f64,
                max: summary.max as f64,
            }),
            Value::Exact(value) | Value::Extrapolated(value) => Some(Self::exact(*value as f64)),
            Value::Curve(points) => Self::of_curve(points),
            Value::NotRun(_) | Value::NotComparable(_) => None,
        }
    }

    fn exact(value: f64) -> Self {
        Self {
            n: 1,
            min: value,
            low: value,
            middle: value,
            high: value,
            max: value,
        }
    }

    fn of_curve(points: &[Point]) -> Option<Self> {
        let middle = slope(points)?;
        let steps = points
            .windows(2)
            .filter_map(slope)
            .chain([middle])
            .collect::<Vec<_>>();
        let least = steps.iter().copied().fold(f64::INFINITY, f64::min);
        let most = steps.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Self {
            n: points.len(),
            min: least,
            low: least,
            middle,
            high: most,
            max: most,
        })
    }

    /// Whether it has anything in common with `other`.
    fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

/// How `other` relates to `own`.
pub fn relation(figure: &Figure, own: &str, other: &str) -> Relation {
    let (Some(a), Some(b)) = (figure.line(own), figure.line(other)) else {
        return Relation::Nothing;
    };
    let (Some(own_range), Some(other_range)) = (Range::of(a), Range::of(b)) else {
        return Relation::Nothing;
    };
    if own_range.middle <= 0.0 || other_range.middle <= 0.0 {
        return Relation::Nothing;
    }
    match (&a.value, &b.value) {
        (Value::Samples(a), Value::Samples(b)) => of_rounds(a, b),
        _ if few(&a.value) || few(&b.value) => Relation::TooFew,
        // Of pieces that were chosen or extrapolated a ratio would be a score.
        _ if figure.unit == Unit::Count => Relation::Nothing,
        (Value::Exact(_), Value::Exact(_)) => apart(&own_range, &other_range),
        _ if own_range.overlaps(&other_range) => Relation::Overlap,
        _ => apart(&own_range, &other_range),
    }
}

fn of_rounds(own: &[Option<u64>], other: &[Option<u64>]) -> Relation {
    let both = own.iter().zip(other);
    if both.filter(|(a, b)| a.is_some() && b.is_some()).count() < MIN_ROUNDS {
        return Relation::TooFew;
    }
    match stats::compare(own, other) {
        Some(Comparison::Ratio { ratio, middle_half }) => Relation::Ratio {
            ratio,
            middle_half: Some(middle_half),
        },
        Some(Comparison::Overlap { .. }) => Relation::Overlap,
        None => Relation::Nothing,
    }
}

/// Whether it varies, but has too few values to show by how much.
pub fn few(value: &Value) -> bool {
    match value {
        Value::Samples(samples) => samples.iter().flatten().count() < MIN_ROUNDS,
        Value::Curve(points) => points.len() < 3,
        _ => false,
    }
}

fn apart(own: &Range, other: &Range) -> Relation {
    Relation::Ratio {
        ratio: other.middle / own.middle,
        middle_half: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::side::Kind;
    use super::*;

    fn figure(own: Value, other: Value) -> Figure {
        let line = |side: &str, value| Line {
            side: side.to_owned(),
            kind: Kind::Container,
            value,
        };
        Figure {
            key: "start.x".to_owned(),
            title: String::new(),
            end_points: String::new(),
            unit: Unit::Nanoseconds,
            part_of: None,
            lines: vec![line("own", own), line("other", other)],
        }
    }

    fn related(own: Value, other: Value) -> Relation {
        relation(&figure(own, other), "own", "other")
    }

    fn rounds(values: impl IntoIterator<Item = u64>) -> Value {
        Value::Samples(values.into_iter().map(Some).collect())
    }

    fn curve(values: &[u64]) -> Value {
        let points = values.iter().zip([1, 2, 4]);
        Value::Curve(
            points
                .map(|(value, instances)| Point {
                    instances,
                    value: *value,
                })
                .collect(),
        )
    }

    fn ratio(ratio: f64, middle_half: Option<(f64, f64)>) -> Relation {
        Relation::Ratio { ratio, middle_half }
    }

    #[test]
    fn rounds_that_are_apart_have_a_ratio() {
        assert_eq!(
            related(rounds([10; 5]), rounds([30; 5])),
            ratio(3.0, Some((3.0, 3.0)))
        );
        assert_eq!(related(rounds(10..15), rounds(12..17)), Relation::Overlap);
    }

    #[test]
    fn four_rounds_with_both_are_too_few() {
        assert_eq!(related(rounds([10; 4]), rounds([30; 4])), Relation::TooFew);
        let with_gap = Value::Samples(vec![None, Some(9), Some(9), Some(9), Some(9)]);
        assert_eq!(related(with_gap, rounds([30; 5])), Relation::TooFew);
    }

    #[test]
    fn of_zero_and_of_what_was_not_measured_nothing_is_said() {
        assert_eq!(related(rounds([0; 5]), rounds([30; 5])), Relation::Nothing);
        assert_eq!(related(rounds([30; 5]), rounds([0; 5])), Relation::Nothing);
        let absent = Value::NotRun("no docker".to_owned());
        assert_eq!(related(absent, rounds([30; 5])), Relation::Nothing);
        let meaningless = Value::NotComparable("emulated".to_owned());
        assert_eq!(related(rounds([30; 5]), meaningless), Relation::Nothing);
        let figure = figure(rounds([1; 5]), rounds([1; 5]));
        assert_eq!(relation(&figure, "own", "nobody"), Relation::Nothing);
    }

    #[test]
    fn exact_numbers_have_a_ratio() {
        assert_eq!(related(Value::Exact(4), Value::Exact(6)), ratio(1.5, None));
        let pieces = Figure {
            unit: Unit::Count,
            ..figure(Value::Exact(4), Value::Exact(6))
        };
        assert_eq!(relation(&pieces, "own", "other"), Relation::Nothing);
    }

    #[test]
    fn curves_go_by_what_neighbouring_points_say() {
        // 5 each; and 10 to 20 each.
        let straight = || curve(&[105, 110, 120]);
        let crooked = || curve(&[110, 120, 160]);
        assert!(matches!(
            related(straight(), crooked()),
            Relation::Ratio {
                middle_half: None,
                ..
            }
        ));
        let range = Range::of(&figure(crooked(), crooked()).lines[0]).unwrap();
        assert_eq!((range.n, range.low, range.high), (3, 10.0, 20.0));
        assert_eq!(
            related(crooked(), curve(&[100, 115, 145])),
            Relation::Overlap
        );
        assert_eq!(related(straight(), curve(&[1, 30])), Relation::TooFew);
    }
}
