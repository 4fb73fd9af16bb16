//! What many runs say together: quantiles, and when two of them may be compared.
//!
//! Pure arithmetic on nanoseconds. Quantiles are by nearest rank, so each is a value that was
//! measured: with 20 runs, p99 is the maximum. Source: Hyndman and Fan, "Sample Quantiles in
//! Statistical Packages", 1996, definition 1. Read next: [`super::series`].

use crate::timeline::Nanos;

/// The figures of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many values.
    pub n: usize,
    /// The least.
    pub min: Nanos,
    /// 10 % are at most this.
    pub p10: Nanos,
    /// Half are.
    pub median: Nanos,
    /// 90 % are.
    pub p90: Nanos,
    /// 99 % are.
    pub p99: Nanos,
    /// All are.
    pub max: Nanos,
}

impl Summary {
    /// Of `values`, in any order; `None` of none.
    pub fn of(values: &[Nanos]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        Some(Self {
            n: sorted.len(),
            min: *sorted.first()?,
            p10: quantile(&sorted, 10)?,
            median: quantile(&sorted, 50)?,
            p90: quantile(&sorted, 90)?,
            p99: quantile(&sorted, 99)?,
            max: *sorted.last()?,
        })
    }
}

/// The value that `percent` of `sorted` do not exceed, by nearest rank.
fn quantile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// How one series relates to another that was measured in the same rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Comparison {
    /// The ranges are apart: the ratio means something.
    Ratio {
        /// Of the medians, other to own.
        ratio: f64,
        /// The first and the third quartile of the ratios round by round.
        middle_half: (f64, f64),
    },
    /// They overlap, so a ratio of medians would claim more than was measured.
    Overlap {
        /// p10 and p90 of this one.
        own: (Nanos, Nanos),
        /// p10 and p90 of the other.
        other: (Nanos, Nanos),
    },
}

/// Compares `other` with `own`: the values of each round, in which either may be missing.
///
/// `None` if there is no round with both. The range of a series is from p10 to p90: the extremes
/// of many runs nearly always overlap, because every machine stumbles at times.
pub fn compare(own: &[Option<Nanos>], other: &[Option<Nanos>]) -> Option<Comparison> {
    let rounds = own.iter().zip(other);
    let pairs: Vec<(Nanos, Nanos)> = rounds.filter_map(|(a, b)| Some(((*a)?, (*b)?))).collect();
    let (a, b): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
    let (a, b) = (Summary::of(&a)?, Summary::of(&b)?);
    if a.p10 <= b.p90 && b.p10 <= a.p90 {
        return Some(Comparison::Overlap {
            own: (a.p10, a.p90),
            other: (b.p10, b.p90),
        });
    }
    let mut ratios: Vec<f64> = pairs.iter().map(|(a, b)| ratio(*b, *a)).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    Some(Comparison::Ratio {
        ratio: ratio(b.median, a.median),
        middle_half: (quantile(&ratios, 25)?, quantile(&ratios, 75)?),
    })
}

fn ratio(a: Nanos, b: Nanos) -> f64 {
    a as f64 / b.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_one_to_a_hundred() {
        let values: Vec<Nanos> = (1..=100).rev().collect();
        let wanted = Summary {
            n: 100,
            min: 1,
            p10: 10,
            median: 50,
            p90: 90,
            p99: 99,
            max: 100,
        };
        assert_eq!(Summary::of(&values), Some(wanted));
    }

    #[test]
    fn few_values_give_values_that_were_measured() {
        let summary = Summary::of(&[30, 10, 20]).unwrap();
        assert_eq!(
            (summary.p10, summary.median, summary.p90, summary.p99),
            (10, 20, 30, 30)
        );
        assert_eq!(Summary::of(&[7]).unwrap().median, 7);
        assert_eq!(Summary::of(&[]), None);
    }

    fn all(values: impl IntoIterator<Item = Nanos>) -> Vec<Option<Nanos>> {
        values.into_iter().map(Some).collect()
    }

    #[test]
    fn ranges_that_are_apart_have_a_ratio() {
        let own = all(100..110);
        let other = all((100..110).map(|value| 3 * value));
        let Some(Comparison::Ratio { ratio, middle_half }) = compare(&own, &other) else {
            panic!("no ratio");
        };
        assert!((ratio - 3.0).abs() < 1e-9);
        assert_eq!(middle_half, (3.0, 3.0));
    }

    #[test]
    fn ranges_that_overlap_have_none() {
        let comparison = compare(&all(100..110), &all(105..115));
        let overlap = Comparison::Overlap {
            own: (100, 108),
            other: (105, 113),
        };
        assert_eq!(comparison, Some(overlap));
        let same = all(100..110);
        assert!(matches!(
            compare(&same, &same),
            Some(Comparison::Overlap { .. })
        ));
    }

    #[test]
    fn one_straggler_does_not_hide_a_difference() {
        let mut own = all(100..120);
        own[3] = Some(1_000_000);
        let other = all(200..220);
        assert!(matches!(
            compare(&own, &other),
            Some(Comparison::Ratio { .. })
        ));
    }

    /// What numpy says, by `tests/fixtures/statistics/make.py`.
    fn reference(of: &str) -> Vec<serde_json::Value> {
        let text = include_str!("../../tests/fixtures/statistics/reference.json");
        let mut whole: serde_json::Value = serde_json::from_str(text).unwrap();
        whole[of].as_array_mut().unwrap().split_off(0)
    }

    fn rounds(values: &serde_json::Value) -> Vec<Option<Nanos>> {
        let values = values.as_array().unwrap().iter();
        values.map(serde_json::Value::as_u64).collect()
    }

    #[test]
    fn summaries_are_those_of_numpy() {
        let cases = reference("summaries");
        assert!(cases.len() > 30);
        for case in cases {
            let values: Vec<_> = rounds(&case["values"]).into_iter().flatten().collect();
            let of = |name: &str| case[name].as_u64().unwrap();
            let wanted = Summary {
                n: values.len(),
                min: of("min"),
                p10: of("p10"),
                median: of("p50"),
                p90: of("p90"),
                p99: of("p99"),
                max: of("max"),
            };
            assert_eq!(Summary::of(&values), Some(wanted), "{values:?}");
        }
    }

    #[test]
    fn comparisons_are_those_of_numpy() {
        let (mut ratios, mut overlaps) = (0, 0);
        let near = |a: f64, b: &serde_json::Value| (a / b.as_f64().unwrap() - 1.0).abs() < 1e-12;
        for case in reference("pairs") {
            match compare(&rounds(&case["own"]), &rounds(&case["other"])).unwrap() {
                Comparison::Overlap { .. } => {
                    overlaps += 1;
                    assert_eq!(case["overlap"], true, "{case}");
                }
                Comparison::Ratio { ratio, middle_half } => {
                    ratios += 1;
                    assert_eq!(case["overlap"], false, "{case}");
                    assert!(near(ratio, &case["ratio"]), "{case}");
                    assert!(near(middle_half.0, &case["middle_half"][0]), "{case}");
                    assert!(near(middle_half.1, &case["middle_half"][1]), "{case}");
                }
            }
        }
        assert!(ratios > 10 && overlaps > 10, "{ratios} {overlaps}");
    }

    #[test]
    fn only_rounds_with_both_count() {
        let own = [Some(100), None, Some(100)];
        let other = [None, Some(300), Some(200)];
        let Some(Comparison::Ratio { ratio, .. }) = compare(&own, &other) else {
            panic!("no ratio");
        };
        assert!((ratio - 2.0).abs() < 1e-9);
        assert_eq!(compare(&own[..2], &other[..2]), None);
    }
}
