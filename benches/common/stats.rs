//! Medians, spreads and ratios of samples.
//!
//! No means: a machine with other work to do adds to some runs and never takes from any. Samples
//! that were taken in turn are compared in pairs, so that what slowed one round slows both sides.

/// The value below which this share of the samples lies.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index between 0 and the number of samples"
    )]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// `median (min, p90)`
pub(crate) fn summary(samples: &[f64]) -> String {
    format!(
        "{:8.2} ({:.2}, {:.2})",
        median(samples),
        quantile(samples, 0.0),
        quantile(samples, 0.9)
    )
}

/// The ratio of the medians; in brackets, between which values the middle half of the ratios round
/// by round lies. A `?` says that this half reaches over 1: no difference was shown.
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> String {
    let pairs: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    let (low, high) = (quantile(&pairs, 0.25), quantile(&pairs, 0.75));
    let doubt = if low <= 1.0 && high >= 1.0 { " ?" } else { "" };
    let ratio = median(ours) / median(theirs);
    format!("{ratio:6.2} [{low:.2} to {high:.2}]{doubt}")
}
