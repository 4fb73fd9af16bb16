//! Findings, the verdict over them, and how both are printed.
//!
//! ```text
//! ok       KVM opens: API version 12, up to 1024 vCPUs in a VM
//! warning  Huge pages are off: ...
//!          to do: ...
//!
//! This machine can run guests at full speed.
//! ```
//!
//! [`mod@super::diagnose`] makes them, [`super::main`] prints them. Pure. Read next: [`crate::explain`].

use std::fmt::Write as _;

/// Where guests boot if not here: for a user who has only the program, and for one with the source.
pub(super) const ELSEWHERE: &str = "copy this program to a machine with hardware KVM, or use \
    the testbed: `make boot` in cottage's source";

/// How much a finding matters, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// Guests run, but worse than they could.
    Warning,
    /// Guests do not run.
    Problem,
}

impl Level {
    /// The word in the report and its colour (ECMA-48 SGR: green, blue, yellow, red).
    fn label(self) -> (&'static str, u8) {
        match self {
            Self::Ok => ("ok", 32),
            Self::Note => ("note", 34),
            Self::Warning => ("warning", 33),
            Self::Problem => ("problem", 31),
        }
    }
}

/// One thing found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// The finding in a few words.
    pub what: String,
    /// What that means, or the numbers.
    pub detail: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    /// A finding that nothing needs to be done about.
    pub fn new(level: Level, what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            level,
            what: what.into(),
            detail: detail.into(),
            remedy: None,
        }
    }

    /// The same finding with something to do.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

/// What it all comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The processor runs guests, with nothing below.
    FullSpeed,
    /// The processor is itself virtual.
    Nested,
    /// KVM works without the processor's help and runs guest kernels by emulation.
    SoftwareBackEnd,
    /// Nothing runs; the first problem says why.
    Cannot(String),
}

impl Verdict {
    fn words(&self) -> String {
        match self {
            Self::FullSpeed => "This machine can run guests at full speed.".to_owned(),
            Self::Nested => {
                "This machine can run guests, nested: slower, because each exit passes \
                through the hypervisor below. Do not compare its times with those of real hardware."
                    .to_owned()
            }
            Self::SoftwareBackEnd => {
                format!(
                    "KVM here is a software back end (PVM): VMM start-up works, a stock kernel \
                     cannot reach userspace. For guests that boot, {ELSEWHERE}"
                )
            }
            Self::Cannot(reason) => format!("This machine cannot run guests: {reason}."),
        }
    }
}

/// All findings, in the order of the diagnosis, and the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was found.
    pub findings: Vec<Finding>,
    /// What it comes to.
    pub verdict: Verdict,
}

impl Report {
    /// Whether a distribution's kernel boots to userspace here.
    pub fn can_boot_linux(&self) -> bool {
        matches!(self.verdict, Verdict::FullSpeed | Verdict::Nested)
    }
}

/// The report as text, with terminal colours if `color`.
pub fn render(report: &Report, color: bool) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let (label, code) = finding.level.label();
        let padding = " ".repeat(9_usize.saturating_sub(label.len()));
        let label = match color {
            true => format!("\x1b[{code}m{label}\x1b[0m"),
            false => label.to_owned(),
        };
        // Writing to a String cannot fail.
        let _never = writeln!(text, "{label}{padding}{}: {}", finding.what, finding.detail);
        if let Some(remedy) = &finding.remedy {
            let _never = writeln!(text, "         to do: {remedy}");
        }
    }
    let _never = writeln!(text, "\n{}", report.verdict.words());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Verdict) -> Report {
        let good = Finding::new(Level::Ok, "Door", "open");
        let bad = Finding::new(Level::Problem, "Roof", "missing").remedy("build one");
        Report {
            findings: vec![good, bad],
            verdict,
        }
    }

    #[test]
    fn report_lists_findings_then_the_verdict() {
        let text = render(&report(Verdict::FullSpeed), false);
        let expected = "ok       Door: open\nproblem  Roof: missing\n         to do: build one\n\n\
                        This machine can run guests at full speed.\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn colour_stands_around_the_label_only() {
        let text = render(&report(Verdict::FullSpeed), true);
        assert!(
            text.starts_with("\x1b[32mok\x1b[0m       Door: open\n"),
            "{text:?}"
        );
    }

    #[test]
    fn only_hardware_boots_linux() {
        assert!(report(Verdict::FullSpeed).can_boot_linux());
        assert!(report(Verdict::Nested).can_boot_linux());
        assert!(!report(Verdict::SoftwareBackEnd).can_boot_linux());
        assert!(!report(Verdict::Cannot(String::new())).can_boot_linux());
    }

    #[test]
    fn levels_are_ordered() {
        assert!(Level::Ok < Level::Note && Level::Note < Level::Warning);
        assert!(Level::Warning < Level::Problem);
    }

    #[test]
    fn verdicts_say_what_follows() {
        let text = |verdict| render(&report(verdict), false);
        assert!(text(Verdict::Nested).contains("nested: slower"));
        let elsewhere = text(Verdict::SoftwareBackEnd);
        assert!(elsewhere.contains("copy this program") && elsewhere.contains("make boot"));
        assert!(text(Verdict::Cannot("no door".into())).ends_with("cannot run guests: no door.\n"));
    }
}
