//! The lines of `probe cost all`, with the times at which they came.
//!
//! The format is told in `guest-images/probe/src/cost.rs`. Read next: [`super::works`].

use crate::bench::subject::Line;
use crate::timeline::Nanos;

/// One kind of work in one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Operations in a batch.
    pub operations: u64,
    /// What else the first line says, such as `fs=ef53`.
    pub about: Option<String>,
    /// From each batch's line to the next, on the host's clock.
    pub batches: Vec<Nanos>,
    /// Nanoseconds for an operation, batch by batch, on the clock inside.
    pub own: Vec<f64>,
    /// How many batches there should be.
    pub wanted: usize,
    /// The error's number, if it could not be done.
    pub failed: Option<String>,
}

impl Measured {
    /// What `operations` took, on the host's clock, on average over all batches; `None` of a run that was
    /// cut off.
    ///
    /// Not a batch's own: whoever hands lines on (a monitor, a terminal) may hand on several at once.
    pub fn host(&self, operations: u64) -> Option<Nanos> {
        let time = u128::from(self.whole()?) * u128::from(operations);
        let all = u128::from(self.operations.max(1)) * self.wanted as u128;
        u64::try_from((time + all / 2) / all).ok()
    }

    /// From the first line to that of the last batch, on the host's clock.
    pub fn whole(&self) -> Option<Nanos> {
        let complete = self.wanted > 0 && self.batches.len() == self.wanted;
        complete.then(|| self.batches.iter().sum())
    }

    /// The own clock's time for all beside the host's.
    pub fn own_to_host(&self) -> Option<f64> {
        let own = self.own.iter().sum::<f64>() * self.operations as f64;
        let host = self.whole()? as f64;
        (host > 0.0 && self.own.len() == self.wanted).then(|| own / host)
    }
}

/// All that one run says.
pub fn measured(lines: &[Line]) -> Vec<Measured> {
    let mut all: Vec<Measured> = Vec::new();
    let mut before = 0;
    for line in lines {
        if let Some(rest) = line.text.strip_prefix("BEGIN ") {
            all.extend(begun(rest));
        } else if let Some(rest) = line.text.strip_prefix("FAILED ") {
            all.extend(failed(rest));
        } else if let Some(one) = all.last_mut() {
            if line.text == "." {
                one.batches.push(line.at.saturating_sub(before));
            } else if let Some(sample) = line.text.strip_prefix("sample ") {
                one.own.extend(sample.parse::<f64>());
            }
        }
        before = line.at;
    }
    all
}

/// `NAME ops=N batches=N[ ABOUT]`.
fn begun(rest: &str) -> Option<Measured> {
    let mut words = rest.splitn(4, ' ');
    Some(Measured {
        name: words.next()?.to_owned(),
        operations: words.next()?.strip_prefix("ops=")?.parse().ok()?,
        wanted: words.next()?.strip_prefix("batches=")?.parse().ok()?,
        about: words.next().map(str::to_owned),
        ..Measured::default()
    })
}

/// `NAME errno N`.
fn failed(rest: &str) -> Option<Measured> {
    let (name, why) = rest.split_once(" errno ")?;
    Some(Measured {
        name: name.to_owned(),
        failed: Some(why.to_owned()),
        ..Measured::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the probe printed it, but for the times.
    const RECORDED: &str = "\
0 BEGIN arith ops=250000 batches=3
5000 .
9000 .
16000 .
16010 END
16010 sample 0.0
16010 sample 18.0
16010 sample 19.9
20000 BEGIN fsync ops=1 batches=3 fs=1021994
20100 .
20300 .
20400 FAILED tcp errno 101";

    fn recorded() -> Vec<Measured> {
        let lines = RECORDED.lines().map(|line| {
            let (at, text) = line.split_once(' ').unwrap();
            Line {
                at: at.parse().unwrap(),
                text: text.to_owned(),
            }
        });
        measured(&lines.collect::<Vec<_>>())
    }

    #[test]
    fn batches_are_timed_by_the_lines_after_them() {
        let all = recorded();
        let names: Vec<_> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["arith", "fsync", "tcp"]);
        assert_eq!(all[0].batches, [5000, 4000, 7000]);
        // 16 us for three times 250,000.
        assert_eq!(all[0].host(1_000_000), Some(21_333));
        assert_eq!(all[0].own, [0.0, 18.0, 19.9]);
    }

    #[test]
    fn clocks_are_set_beside_each_other() {
        let ratio = recorded()[0].own_to_host().unwrap();
        assert!(
            (ratio - 37.9 * 250_000.0 / 16_000.0).abs() < 1e-9,
            "{ratio}"
        );
    }

    #[test]
    fn what_was_cut_off_has_no_figure() {
        let all = recorded();
        assert_eq!(all[1].about.as_deref(), Some("fs=1021994"));
        assert_eq!(all[1].batches, [100, 200]);
        assert_eq!((all[1].host(1), all[1].own_to_host()), (None, None));
        assert_eq!(all[2].failed.as_deref(), Some("101"));
        assert_eq!(all[2].host(1), None);
    }

    #[test]
    fn other_lines_are_no_measurement() {
        let line = |text: &str| Line {
            at: 5,
            text: text.to_owned(),
        };
        for text in [
            ".",
            "sample 5",
            "BEGIN",
            "BEGIN x",
            "BEGIN x ops=a batches=1",
            "FAILED x",
        ] {
            assert_eq!(measured(&[line(text)]), [], "{text}");
        }
    }
}
