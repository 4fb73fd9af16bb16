//! How a run ends, and the exit status that says so. The table in README and `--help` is this.
//! Read next: [`crate::running`].

use std::fmt;
use std::sync::Arc;

use crate::memory::GuestMemory;
use crate::vcpu::run::Board;
use crate::watch::scene::Scene;
use crate::watch::tell::{Kind, Report, tell};

/// A mistake in flags, files or their contents; nothing was started.
pub const USER_ERROR: u8 = 110;
/// cottage or the host failed: no KVM, no memory, an I/O error, a bug.
pub const VMM_FAILURE: u8 = 111;
/// The guest crashed: triple fault, an instruction KVM cannot emulate, failed entry.
pub const GUEST_CRASH: u8 = 112;
/// The guest's kernel panicked.
pub const GUEST_PANIC: u8 = 113;
/// A command was given and the guest ended without telling its status.
pub const NO_STATUS: u8 = 114;
/// Added to a signal's number, as shells do.
pub const SIGNAL_BASE: u8 = 128;

/// Printed under `cottage run --help`.
pub const EXIT_STATUS_HELP: &str = "\
Exit status:
  0-255  the status of the guest's command or shell, once reported; a crash after it is told in words
  0      the guest powered off or reset without having been given a command
  110    user error: a flag, a file or its contents; nothing was started
  111    cottage or the host failed: no KVM, no memory, an I/O error
  112    the guest crashed: triple fault, instruction KVM cannot run, failed entry
  113    the guest's kernel panicked
  odd    what the guest wrote to the port of --debug-exit, twice and 1 more
  114    the guest ended, or you quit, before the command's status was known
  128+N  cottage was ended by signal N";

/// What that is. `[sdm3]` Intel SDM vol. 3A, order no. 253668, 6.15, "Double Fault Exception".
const TRIPLE_FAULT: &str = "an exception, another on the way to its handler, and another on the way to \
                            that one's: the processor has shut down";

/// An error and its causes, one a line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!("\n  because: {error}");
        cause = error.source();
    }
    text
}

/// Why the guest no longer runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// ACPI power-off, or our init's.
    PowerOff,
    /// The i8042's or ACPI's reset.
    Reset,
    /// The port of `--debug-exit`, with the status it asked for.
    DebugExit(u8),
    /// Triple fault; the text tells the processor's state.
    TripleFault(String),
    /// KVM could not go on; the text tells why.
    Crash(String),
    /// A vCPU thread met an error of cottage's or the host's.
    Failure(String),
    /// The guest's output could not be written; [`Outcome::lost_output`] has the error.
    OutputLost,
    /// Ctrl-A x.
    Quit,
    /// A signal asked the process to end.
    Signal(u8),
}

/// What is known when the guest has ended.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended.
    pub ending: Ending,
    /// The status the guest reported.
    pub status: Option<u8>,
    /// The line with which the guest's kernel panicked, as seen on the console.
    pub panic: Option<String>,
    /// Whether the user gave a command whose status matters.
    pub command_given: bool,
    /// Console output was lost: the error of the write.
    pub lost_output: Option<String>,
    /// Bytes the guest printed.
    pub printed: u64,
    /// How a processor stood at the end, if that may have to be told, and the guest's memory.
    pub scene: Option<(Box<Scene>, Arc<GuestMemory>)>,
}

impl Outcome {
    /// As seen on the console and by the processors; nothing was asked of the guest, or reported by it.
    pub fn of(ending: Ending, board: &Board) -> Self {
        let (output, scene) = (&board.output, board.witness.take());
        Self {
            ending,
            status: None,
            panic: output.panic_line(),
            command_given: false,
            lost_output: output.lost(),
            printed: output.written(),
            scene: scene.map(|scene| (scene, board.memory.clone())),
        }
    }

    /// Tells the user on stderr, by `say`, what there is to tell: at length, where the guest has crashed
    /// and the tools are at hand.
    pub fn tell(&self, say: impl Fn(&str)) {
        let told = self.report().is_some_and(|(report, memory)| {
            tell(&report, memory) // says it itself
        });
        let rest = if told {
            self.lost_text()
        } else {
            self.message()
        };
        if let Some(text) = rest {
            say(&text);
        }
    }

    /// What the tools can tell at length.
    fn report(&self) -> Option<(Report, &GuestMemory)> {
        let (scene, memory) = self.scene.as_ref()?;
        let kind = match &self.ending {
            Ending::Crash(_) => Kind::Crash,
            _ if self.status.is_some() => return None,
            Ending::Reset | Ending::TripleFault(_) if self.panic.is_some() => Kind::Panic,
            Ending::TripleFault(_) => Kind::Crash,
            ending if ending.cut_short() && self.printed == 0 => Kind::Silent,
            _ => return None,
        };
        let text = self.end_text().unwrap_or_else(|| self.ending.to_string());
        let mut headline = text.lines().next().unwrap_or_default().to_owned();
        if kind == Kind::Silent {
            headline += "; the guest had printed nothing";
        }
        let report = Report {
            kind,
            headline,
            printed: self.printed,
            scene: Scene::clone(scene),
        };
        Some((report, memory))
    }

    /// The process's exit status.
    pub fn exit_code(&self) -> u8 {
        match &self.ending {
            Ending::Signal(number) => SIGNAL_BASE.saturating_add(*number),
            Ending::Failure(_) | Ending::OutputLost => VMM_FAILURE,
            _ if self.lost_output.is_some() => VMM_FAILURE,
            Ending::DebugExit(status) => *status,
            // Once the command's status is known, how the guest went down does not matter.
            _ if self.status.is_some() => self.status.unwrap_or(0),
            Ending::Crash(_) => GUEST_CRASH,
            // A panicking kernel resets or, if it cannot, faults: the panic is the cause.
            _ if self.panic.is_some() => GUEST_PANIC,
            Ending::TripleFault(_) => GUEST_CRASH,
            _ if self.command_given => NO_STATUS,
            Ending::PowerOff | Ending::Reset | Ending::Quit => 0,
        }
    }

    /// What to tell the user on stderr; nothing when all went as asked.
    pub fn message(&self) -> Option<String> {
        let texts: Vec<_> = self
            .end_text()
            .into_iter()
            .chain(self.lost_text())
            .collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    }

    fn end_text(&self) -> Option<String> {
        let text = match (&self.ending, &self.panic) {
            (Ending::Failure(text), _) => text.clone(),
            (Ending::Signal(number), _) => format!("ended by {}", SignalName(*number)),
            (Ending::OutputLost, None) | (Ending::DebugExit(_), _) => return None,
            (Ending::Crash(text), _) => match self.status {
                Some(status) => format!(
                    "the guest crashed, but only after its command had ended, with status {status}: \
                     {text}"
                ),
                None => format!("the guest crashed: {text}"),
            },
            // Reset and triple fault are ways to go down, too: `reboot=t` asks for the latter.
            _ if self.status.is_some() => return None,
            (_, Some(line)) => format!("the guest's kernel panicked: {line}"),
            (Ending::TripleFault(text), None) => {
                format!("the guest crashed with a triple fault: {TRIPLE_FAULT}\n{text}")
            }
            (ending, None) if self.command_given => {
                format!("{ending} before the command's status was known")
            }
            _ => return None,
        };
        Some(text)
    }

    fn lost_text(&self) -> Option<String> {
        let error = self.lost_output.as_ref()?;
        let ended = match self.ending {
            Ending::OutputLost => "; so the guest was ended",
            _ => "",
        };
        Some(format!(
            "console output was lost: cannot write to stdout: {error}{ended}"
        ))
    }
}

impl Ending {
    /// Whether it is, or may be, a crash: a panicking kernel resets.
    pub fn may_be_a_crash(&self) -> bool {
        matches!(self, Self::TripleFault(_) | Self::Crash(_) | Self::Reset)
    }

    /// Whether the guest was ended by its user, and did not end.
    pub fn cut_short(&self) -> bool {
        matches!(self, Self::Quit | Self::Signal(_))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "the guest powered off",
            Self::Reset => "the guest reset itself",
            Self::DebugExit(_) => "the guest asked for an exit status",
            Self::TripleFault(_) => "the guest crashed with a triple fault",
            Self::Crash(_) => "the guest crashed",
            Self::Failure(_) => "cottage failed",
            Self::OutputLost => "output was lost",
            Self::Quit => "you quit",
            Self::Signal(_) => "a signal came",
        })
    }
}

struct SignalName(u8);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i32::from(self.0) {
            libc::SIGTERM => f.write_str("SIGTERM"),
            libc::SIGHUP => f.write_str("SIGHUP"),
            libc::SIGINT => f.write_str("SIGINT"),
            libc::SIGQUIT => f.write_str("SIGQUIT"),
            number => write!(f, "signal {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ending: Ending) -> Outcome {
        Outcome {
            ending,
            status: None,
            panic: None,
            command_given: false,
            lost_output: None,
            printed: 0,
            scene: None,
        }
    }

    #[test]
    fn reported_status_is_the_exit_status_however_the_guest_went_down() {
        for ending in [
            Ending::PowerOff,
            Ending::Reset,
            Ending::TripleFault(String::new()),
        ] {
            let outcome = Outcome {
                status: Some(7),
                command_given: true,
                ..outcome(ending)
            };
            assert_eq!(outcome.exit_code(), 7);
            assert_eq!(outcome.message(), None);
        }
    }

    #[test]
    fn crash_after_the_status_is_told_and_leaves_the_status() {
        let outcome = Outcome {
            status: Some(7),
            command_given: true,
            ..outcome(Ending::Crash("rip 0x1".into()))
        };
        assert_eq!(outcome.exit_code(), 7);
        let text = outcome.message().unwrap();
        let told =
            "the guest crashed, but only after its command had ended, with status 7: rip 0x1";
        assert_eq!(text, told);
    }

    #[test]
    fn orderly_end_without_command_is_success() {
        for ending in [Ending::PowerOff, Ending::Reset, Ending::Quit] {
            assert_eq!(outcome(ending.clone()).exit_code(), 0);
            assert_eq!(outcome(ending).message(), None);
        }
    }

    #[test]
    fn debug_exit_is_the_status_and_nothing_is_said() {
        let outcome = Outcome {
            command_given: true,
            ..outcome(Ending::DebugExit(33))
        };
        assert_eq!((outcome.exit_code(), outcome.message()), (33, None));
    }

    #[test]
    fn missing_status_of_a_command_is_not_success() {
        let outcome = Outcome {
            command_given: true,
            ..outcome(Ending::Reset)
        };
        assert_eq!(outcome.exit_code(), NO_STATUS);
        let text = outcome.message().unwrap();
        assert_eq!(
            text,
            "the guest reset itself before the command's status was known"
        );
    }

    #[test]
    fn panic_explains_a_reset_or_triple_fault() {
        for ending in [Ending::Reset, Ending::TripleFault("rip".into())] {
            let panic = Some("Kernel panic - not syncing: boo".to_owned());
            let outcome = Outcome {
                panic,
                command_given: true,
                ..outcome(ending)
            };
            assert_eq!(outcome.exit_code(), GUEST_PANIC);
            assert!(outcome.message().unwrap().ends_with("not syncing: boo"));
        }
    }

    #[test]
    fn crash_signal_and_failure_have_their_own_codes() {
        assert_eq!(
            outcome(Ending::TripleFault("x".into())).exit_code(),
            GUEST_CRASH
        );
        assert_eq!(outcome(Ending::Crash("x".into())).exit_code(), GUEST_CRASH);
        assert_eq!(
            outcome(Ending::Failure("x".into())).exit_code(),
            VMM_FAILURE
        );
        assert_eq!(outcome(Ending::Signal(15)).exit_code(), 143);
        assert_eq!(
            outcome(Ending::Signal(15)).message().unwrap(),
            "ended by SIGTERM"
        );
    }

    #[test]
    fn lost_output_is_a_failure_even_if_the_command_succeeded() {
        let lost_output = Some("No space left on device".to_owned());
        let outcome = Outcome {
            status: Some(0),
            lost_output,
            ..outcome(Ending::PowerOff)
        };
        assert_eq!(outcome.exit_code(), VMM_FAILURE);
        assert!(outcome.message().unwrap().contains("No space left"));
    }

    #[test]
    fn output_that_cannot_be_written_ends_the_guest_and_says_so() {
        let outcome = Outcome {
            command_given: true,
            lost_output: Some("No space left on device".to_owned()),
            ..outcome(Ending::OutputLost)
        };
        assert_eq!(outcome.exit_code(), VMM_FAILURE);
        let text = outcome.message().unwrap();
        assert_eq!(
            text,
            "console output was lost: cannot write to stdout: No space left on device; so the guest \
             was ended"
        );
    }

    #[test]
    fn lost_output_is_told_of_beside_a_panic() {
        let outcome = Outcome {
            panic: Some("Kernel panic - not syncing: boo".to_owned()),
            lost_output: Some("No space left on device".to_owned()),
            ..outcome(Ending::Reset)
        };
        assert_eq!(outcome.exit_code(), VMM_FAILURE);
        let text = outcome.message().unwrap();
        assert!(
            text.contains("boo\n") && text.contains("No space left"),
            "{text}"
        );
    }

    #[test]
    fn page_is_for_crashes_panics_and_silence_only() {
        let memory = Arc::new(GuestMemory::new(2 << 20).unwrap());
        let told = |ending, panic: Option<&str>, printed, status| {
            let outcome = Outcome {
                status,
                panic: panic.map(str::to_owned),
                printed,
                scene: Some((Box::default(), memory.clone())),
                ..outcome(ending)
            };
            let report = outcome.report();
            report.map(|(report, _)| (report.kind, report.headline))
        };
        let crash = Ending::Crash("why\nrip 0".into());
        let headline = "the guest crashed: why".to_owned();
        assert_eq!(
            told(crash.clone(), None, 9, None),
            Some((Kind::Crash, headline))
        );
        let after = told(crash, None, 9, Some(7)).unwrap();
        assert!(after.1.ends_with("status 7: why"), "{}", after.1);
        let triple = Ending::TripleFault("rip 0".into());
        let kind = |told: Option<(Kind, String)>| told.map(|(kind, _)| kind);
        assert_eq!(kind(told(triple.clone(), None, 9, None)), Some(Kind::Crash));
        assert_eq!(
            kind(told(triple.clone(), Some("x"), 9, None)),
            Some(Kind::Panic)
        );
        assert_eq!(told(triple, Some("x"), 9, Some(0)), None);
        assert_eq!(told(Ending::Reset, None, 9, None), None);
        assert_eq!(told(Ending::Quit, None, 9, None), None);
        let silent = told(Ending::Quit, None, 0, None).unwrap();
        assert_eq!(silent.1, "you quit; the guest had printed nothing");
    }

    #[test]
    fn help_names_every_code() {
        for code in [
            USER_ERROR,
            VMM_FAILURE,
            GUEST_CRASH,
            GUEST_PANIC,
            NO_STATUS,
            SIGNAL_BASE,
        ] {
            assert!(EXIT_STATUS_HELP.contains(&format!("\n  {code}")), "{code}");
        }
    }
}
