//! The report: everything that is told, before it is text, JSON or a picture; and the text.
//!
//! Read next: [`super::json`].

use std::fmt::Write;

use super::host::{Host, Part};
use super::series::{Account, Series};
use super::stats::{Comparison, Summary, compare};
use crate::timeline::Nanos;
use crate::timeline::chart;
use crate::timeline::memory_use::MemoryUse;

/// Everything.
#[derive(Debug)]
pub struct Report {
    /// The machine.
    pub host: Host,
    /// Its load average before and after.
    pub load: (String, String),
    /// What was measured, file by file.
    pub parts: Vec<Part>,
    /// Rounds asked for.
    pub runs: usize,
    /// Rounds before them.
    pub warm_up: usize,
    /// Whether the rounds were cut short.
    pub partial: bool,
    /// How it was measured, in sentences: pinned, cold, what was waited for.
    pub how: Vec<String>,
    /// What makes the figures less worth.
    pub warnings: Vec<String>,
    /// What was run, the one that others are compared with first.
    pub subjects: Vec<Measurement>,
}

/// One subject's part.
#[derive(Debug)]
pub struct Measurement {
    /// Its command line.
    pub name: String,
    /// Its times.
    pub account: Account,
    /// Its memory, if it is cottage.
    pub memory: Option<MemoryUse>,
}

impl Report {
    /// How each span of `other` relates to the same of the first subject.
    pub fn comparisons<'a>(
        &'a self,
        other: &'a Measurement,
    ) -> impl Iterator<Item = (&'a str, Comparison)> {
        let own = self.subjects.first().into_iter();
        let own = own.flat_map(|first| &first.account.spans);
        own.filter_map(|own| {
            let spans = &mut other.account.spans.iter();
            let span = spans.find(|span| span.name == own.name)?;
            Some((own.name.as_str(), compare(&own.values, &span.values)?))
        })
    }

    /// The report for reading.
    pub fn text(&self) -> String {
        let mut text = self.heading();
        for (index, subject) in self.subjects.iter().enumerate() {
            let _infallible = writeln!(text, "\n{}", subject.name);
            text += &spans(&subject.account.spans);
            if index > 0 {
                text += &self.ratios(subject);
            }
            text += &intervals(&subject.account);
            text += &exits(&subject.account);
            if let Some(memory) = &subject.memory {
                text += &chart::memory_line(memory);
            }
        }
        for warning in &self.warnings {
            let _infallible = writeln!(text, "\nwarning: {warning}");
        }
        text
    }

    fn heading(&self) -> String {
        let host = &self.host;
        let mut text = format!(
            "{}{} runs after {} to warm up, {}\n\
             machine: {} x {}, Linux {}\n\
             KVM: {}; huge pages {}; governor {}; load {} before, {} after\n",
            if self.partial {
                "PARTIAL: cut short, of "
            } else {
                ""
            },
            self.runs,
            self.warm_up,
            host.date,
            host.cpus,
            host.cpu,
            host.kernel,
            host.kvm,
            host.huge_pages,
            host.governor,
            self.load.0,
            self.load.1
        );
        for part in &self.parts {
            let version = part.version.as_deref().unwrap_or("");
            let _infallible = writeln!(
                text,
                "{}: {} ({} bytes) {version}\n  sha256 {}",
                part.what, part.name, part.size, part.sha256
            );
        }
        for how in &self.how {
            let _infallible = writeln!(text, "{how}");
        }
        text
    }

    fn ratios(&self, other: &Measurement) -> String {
        let mut text = String::new();
        for (name, comparison) in self.comparisons(other) {
            let _infallible = writeln!(text, "  {name}: {}", sentence(&comparison));
        }
        text
    }
}

/// A comparison in words.
pub fn sentence(comparison: &Comparison) -> String {
    match comparison {
        Comparison::Ratio { ratio, middle_half } => format!(
            "{ratio:.2} x the first's (middle half of the rounds: {:.2} to {:.2})",
            middle_half.0, middle_half.1
        ),
        Comparison::Overlap { own, other } => format!(
            "no ratio: the ranges overlap (p10 to p90: {} to {} ms against the first's {} to {} ms)",
            ms(other.0),
            ms(other.1),
            ms(own.0),
            ms(own.1)
        ),
    }
}

fn spans(spans: &[Series]) -> String {
    let mut text = format!(
        "  {:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>5}\n",
        "ms from spawn to", "min", "median", "p90", "p99", "max", "n"
    );
    for span in spans {
        if let Some(summary) = span.summary() {
            let _infallible = writeln!(text, "  {:<24} {}", span.name, figures(&summary));
        }
    }
    text
}

fn intervals(account: &Account) -> String {
    if account.intervals.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "  {:<24} {:>9} {:>9} {:>9} {:>9} {:>9} {:>5}  {:<15} median end\n",
        "ms it took until", "min", "median", "p90", "p99", "max", "n", "who"
    );
    for interval in &account.intervals {
        if let (Some(took), Some(end)) = (interval.took.summary(), interval.end.summary()) {
            let _infallible = writeln!(
                text,
                "  {:<24} {}  {:<15} {:>10}",
                interval.name,
                figures(&took),
                interval.who,
                ms(end.median)
            );
        }
    }
    let spent = chart::shares(&account.median_run());
    let spent = spent.map(|(who, spent)| format!("{who} {}", ms(spent)));
    let _infallible = writeln!(text, "  of the medians: {} ms", spent.join(", "));
    text
}

fn exits(account: &Account) -> String {
    let Some(exits) = account.exits.summary() else {
        return String::new();
    };
    let kinds = account.last_exits.iter().take(3).map(|line| {
        let device = line.device.as_deref().unwrap_or("no device");
        format!("{} {} {device}", line.count, line.kind)
    });
    let kinds: Vec<_> = kinds.collect();
    format!(
        "  VM exits that reached cottage: {} (min {}, max {}); most: {}\n",
        exits.median,
        exits.min,
        exits.max,
        kinds.join(", ")
    )
}

fn figures(summary: &Summary) -> String {
    format!(
        "{:>9} {:>9} {:>9} {:>9} {:>9} {:>5}",
        ms(summary.min),
        ms(summary.median),
        ms(summary.p90),
        ms(summary.p99),
        ms(summary.max),
        summary.n
    )
}

/// Nanoseconds as milliseconds.
pub fn ms(nanos: Nanos) -> String {
    format!("{}.{:03}", nanos / 1_000_000, nanos / 1000 % 1000)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::series::tests::sample;
    use super::*;

    /// Two subjects; the second took `factor` times as long.
    pub(in crate::bench) fn report(factor: u64) -> Report {
        let measurement = |name: &str, factor: u64| {
            let samples: Vec<_> = (0..10).map(|n| sample(factor * (1_000_000 + n))).collect();
            let samples: Vec<_> = samples.into_iter().map(Some).collect();
            Measurement {
                name: name.to_owned(),
                account: Account::of(&samples),
                memory: None,
            }
        };
        Report {
            host: Host::look(),
            load: ("0.1".to_owned(), "0.2".to_owned()),
            parts: Vec::new(),
            runs: 10,
            warm_up: 1,
            partial: false,
            how: vec!["cold".to_owned()],
            warnings: vec!["it rained".to_owned()],
            subjects: vec![measurement("one", 1), measurement("<two>", factor)],
        }
    }

    #[test]
    fn ratios_stand_where_ranges_are_apart() {
        let text = report(3).text();
        assert!(text.contains("process gone: 3.00 x the first's"), "{text}");
        assert!(text.contains("warning: it rained"), "{text}");
    }

    #[test]
    fn no_ratio_stands_where_ranges_overlap() {
        let text = report(1).text();
        assert!(text.contains("process gone: no ratio"), "{text}");
        assert!(!text.contains(" x the first's"), "{text}");
    }
}
