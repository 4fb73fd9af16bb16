//! Guests of a topic's own, beside the sides: other flags, another root.
//!
//! Where KVM is software no Linux guest reaches its first process; then a topic that consists of such
//! guests says so and tries nothing. Read next: [`super::kernels`].

use std::ffi::OsString;
use std::path::Path;

use crate::bench::subject::Subject;
use crate::bundle::program;
use crate::compare::finding::{Figure, Findings, Line, Unit, Value};
use crate::compare::side::Kind;
use crate::doctor::{self, Verdict};

/// The built-in full kernel: it is chosen for a machine with a virtio device, of which this is the
/// smallest.
pub const FULL_KERNEL: &str = "--rng";

/// Why this host cannot run Linux guests; `None` if it can.
pub fn hindrance() -> Option<String> {
    in_words(&doctor::diagnose(&doctor::gather(Path::new("/"))).verdict)
}

fn in_words(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::FullSpeed | Verdict::Nested => None,
        Verdict::SoftwareBackEnd => Some(
            "this host's KVM is software, on which a stock kernel does not reach its first process; \
             cottage compare --in testbed runs both sides emulated"
                .to_owned(),
        ),
        Verdict::Cannot(why) => Some(format!("{why}; cottage doctor says what to do")),
    }
}

/// `cottage run` with `flags`, and `command` in the guest.
pub fn subject(flags: &[OsString], command: &[&str]) -> Subject {
    let mut words = flags.to_vec();
    words.push("--".into());
    words.extend(command.iter().map(OsString::from));
    Subject::Cottage {
        program: program().into(),
        words,
    }
}

/// A line of a figure that is about guests.
pub fn line(side: &str, kind: Kind, value: Value) -> Line {
    Line {
        side: side.to_owned(),
        kind,
        value,
    }
}

/// Findings without any, but for `why`.
pub fn not_run(topic: &'static str, question: &'static str, why: &str) -> Findings {
    let figure = Figure {
        key: format!("{topic}.not-run"),
        title: "Not run".to_owned(),
        end_points: "nothing was started".to_owned(),
        unit: Unit::Count,
        part_of: None,
        lines: vec![line("cottage", Kind::Vm, Value::NotRun(why.to_owned()))],
    };
    Findings {
        topic,
        question,
        figures: vec![figure],
        tables: Vec::new(),
        notes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_without_guests_are_told_apart() {
        assert_eq!(in_words(&Verdict::FullSpeed), None);
        assert_eq!(in_words(&Verdict::Nested), None);
        let text = in_words(&Verdict::SoftwareBackEnd).unwrap();
        assert!(text.contains("--in testbed"), "{text}");
        let text = in_words(&Verdict::Cannot("no /dev/kvm".to_owned())).unwrap();
        assert!(text.starts_with("no /dev/kvm;"), "{text}");
    }

    #[test]
    fn command_comes_behind_the_flags() {
        let name = subject(&[FULL_KERNEL.into()], &["/bin/sh", "-c", "echo a b"]).name();
        assert_eq!(name, "cottage run --rng -- /bin/sh -c 'echo a b'");
    }
}
