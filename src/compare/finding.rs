//! What a topic found, before it is text, JSON or a picture.
//!
//! A *figure* is one quantity with its two end points, measured on every side alike; a *table* is
//! what can only be told in words; *notes* say how to read them. A side that could not be measured
//! stands there with the reason: never with a constant, never left out.
//!
//! The keys are for programs and for [`super::claims`]: `start.first-output`, `disk.image`.
//! Read next: [`super::relation`].

use serde::Serialize;

use super::side::Kind;
use crate::bench::stats::Summary;

/// Everything one topic found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// The topic's name, as on the command line.
    pub topic: &'static str,
    /// What it answers, as a question.
    pub question: &'static str,
    /// Quantities.
    pub figures: Vec<Figure>,
    /// What is told in words.
    pub tables: Vec<Table>,
    /// How it was measured, and how to read it.
    pub notes: Vec<String>,
}

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Nanoseconds; under `-icount` of the testbed, instructions.
    Nanoseconds,
    /// Bytes.
    Bytes,
    /// Pieces.
    Count,
}

/// One quantity.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// For programs: topic, a dot, a name.
    pub key: String,
    /// For people.
    pub title: String,
    /// Where it begins and where it ends, or what is counted, the same on every side.
    pub end_points: String,
    /// Of the values.
    pub unit: Unit,
    /// Whether several figures of this topic stack up to another one: the other's key.
    pub part_of: Option<String>,
    /// One a side, in the order of the sides.
    pub lines: Vec<Line>,
}

/// One side's values of a figure.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The side's name.
    pub side: String,
    /// What it is.
    pub kind: Kind,
    /// What was measured.
    #[serde(flatten)]
    pub value: Value,
}

/// What was measured, or why nothing was.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// One value a round; none where a round was cut off.
    Samples(Vec<Option<u64>>),
    /// A number that does not vary, such as a file's size.
    Exact(u64),
    /// A number that was not reached here but follows from a slope that was measured.
    Extrapolated(u64),
    /// The value beside how many instances there were.
    Curve(Vec<Point>),
    /// Not measured: why.
    NotRun(String),
    /// Measured, but it says nothing beside the other sides here: why.
    NotComparable(String),
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Point {
    /// How many instances.
    pub instances: u64,
    /// What they took together.
    pub value: u64,
}

/// What can only be told in words: a row a property, a column a side.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// For programs: topic, a dot, a name.
    pub key: String,
    /// For people.
    pub title: String,
    /// Names of the sides.
    pub columns: Vec<String>,
    /// The properties.
    pub rows: Vec<Row>,
}

/// One property.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// One a column.
    pub cells: Vec<String>,
    /// What it means, or why it proves nothing; may be empty.
    pub remark: String,
}

impl Line {
    /// The figures of its samples; `None` where it has none.
    pub fn summary(&self) -> Option<Summary> {
        match &self.value {
            Value::Samples(samples) => {
                Summary::of(&samples.iter().copied().flatten().collect::<Vec<_>>())
            }
            _ => None,
        }
    }

    /// The one number to quote: the median, the exact value, or a curve's slope.
    pub fn middle(&self) -> Option<f64> {
        match &self.value {
            Value::Samples(_) => self.summary().map(|summary| summary.median as f64),
            Value::Exact(value) | Value::Extrapolated(value) => Some(*value as f64),
            Value::Curve(points) => slope(points),
            Value::NotRun(_) | Value::NotComparable(_) => None,
        }
    }
}

impl Figure {
    /// The line of a side.
    pub fn line(&self, side: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.side == side)
    }
}

/// What one more instance takes, by least squares; `None` of fewer than two points.
pub fn slope(points: &[Point]) -> Option<f64> {
    let n = points.len() as f64;
    let mean = |of: fn(&Point) -> u64| points.iter().map(|p| of(p) as f64).sum::<f64>() / n;
    let (mean_x, mean_y) = (mean(|p| p.instances), mean(|p| p.value));
    let mut covariance = 0.0;
    let mut variance = 0.0;
    for point in points {
        let dx = point.instances as f64 - mean_x;
        covariance += dx * (point.value as f64 - mean_y);
        variance += dx * dx;
    }
    (points.len() > 1 && variance > 0.0).then(|| covariance / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(values: &[(u64, u64)]) -> Vec<Point> {
        let point = |&(instances, value)| Point { instances, value };
        values.iter().map(point).collect()
    }

    #[test]
    fn slope_is_what_one_more_takes() {
        let straight = curve(&[(0, 100), (10, 150), (50, 350)]);
        assert!((slope(&straight).unwrap() - 5.0).abs() < 1e-9);
        // R: coef(lm(c(3, 9, 12) ~ c(1, 2, 4)))[2]
        let crooked = curve(&[(1, 3), (2, 9), (4, 12)]);
        assert!((slope(&crooked).unwrap() - 2.785_714_285_714_286).abs() < 1e-9);
        assert_eq!(slope(&curve(&[(1, 3)])), None);
        assert_eq!(slope(&curve(&[(1, 3), (1, 4)])), None);
    }

    #[test]
    fn slopes_are_those_of_scipy() {
        let text = include_str!("../../tests/fixtures/statistics/reference.json");
        let whole: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = whole["curves"].as_array().unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let numbers = |of: &str| {
                let numbers = case[of].as_array().unwrap().iter();
                numbers
                    .map(|number| number.as_u64().unwrap())
                    .collect::<Vec<_>>()
            };
            let points = numbers("instances").into_iter().zip(numbers("values"));
            let slope = slope(&curve(&points.collect::<Vec<_>>())).unwrap();
            let wanted = case["slope"].as_f64().unwrap();
            assert!((slope / wanted - 1.0).abs() < 1e-9, "{slope}: {case}");
        }
    }

    #[test]
    fn no_number_where_nothing_was_measured() {
        let line = |value| Line {
            side: "crun".to_owned(),
            kind: Kind::Container,
            value,
        };
        assert_eq!(line(Value::NotRun("no crun".to_owned())).middle(), None);
        assert_eq!(line(Value::Samples(vec![None])).middle(), None);
        assert_eq!(line(Value::Exact(3)).middle(), Some(3.0));
        assert_eq!(
            line(Value::Samples(vec![None, Some(4), Some(5)])).middle(),
            Some(4.0)
        );
    }
}
