//! What a lab tells: each KVM call and each exit, a line each.
//!
//! The words are part of the course: the page of a lab shows them, and `cottage lab check` compares.
//! So they hold no address of the host's and no time, except where the page says `<...>`.
//! Read next: [`super::rig`].

use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvm_ioctls::VcpuExit;

use crate::memory;
use crate::timeline::now;

/// How long a guest may stay in KVM_RUN before a signal fetches it out: no lab's guest takes longer,
/// emulated twice over on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same where it is meant to hang.
const SHORT: Duration = Duration::from_millis(700);
/// Entries into the guest after which a lab is over: none needs as many, but a user's code may.
const MOST_ENTRIES: u32 = 60_000;
/// Columns of a paragraph.
const WIDTH: usize = 96;

/// Why a lab ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// KVM refused a call.
    #[error("{call} was refused")]
    Refused {
        /// Its name.
        call: &'static str,
        /// KVM's reason.
        source: io::Error,
    },
    /// The guest did something else than its page says.
    #[error("The guest left KVM_RUN by {0}, which this lab does not expect")]
    Unexpected(String),
    /// This host cannot run this lab; a sentence with the reason.
    #[error("This lab cannot run here: {0}")]
    NotHere(String),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] memory::guest::Error),
    /// Something ordinary failed.
    #[error("Cannot {what}")]
    Host {
        /// What the lab wanted.
        what: &'static str,
        /// The host's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Makes a [`Stop::Host`] of any error.
pub(super) fn host<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl FnOnce(E) -> Stop {
    move |source| Stop::Host {
        what,
        source: source.into(),
    }
}

/// When the guest that runs now has to be out of KVM_RUN; 0 while none runs.
#[derive(Clone, Debug, Default)]
pub struct Deadline(Arc<AtomicU64>);

impl Deadline {
    /// Whether it is past.
    pub fn is_past(&self) -> bool {
        let at = self.0.load(Ordering::SeqCst);
        at != 0 && now() > at
    }

    fn set(&self, from_now: Duration) {
        let length = u64::try_from(from_now.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(now() + length, Ordering::SeqCst);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

/// A lab as it is told.
#[derive(Debug)]
pub struct Tale {
    lines: Vec<String>,
    live: bool,
    muted: bool,
    broken: Option<&'static str>,
    patience: Duration,
    deadline: Deadline,
    code: Option<Vec<u8>>,
    entries: u32,
}

impl Tale {
    /// A tale of a lab from which the line that `broken` names is left out; told on stdout at once if
    /// `live`.
    pub fn new(broken: Option<&'static str>, live: bool) -> Self {
        Self {
            lines: Vec::new(),
            live,
            muted: false,
            broken,
            patience: PATIENCE,
            deadline: Deadline::default(),
            code: None,
            entries: 0,
        }
    }

    /// Has the lab run `code` in place of the first that it loads. Nobody knows how long that takes.
    pub fn with_code(mut self, code: Option<Vec<u8>>) -> Self {
        if code.is_some() {
            self.expect_hang();
        }
        self.code = code;
        self
    }

    /// The user's code, once.
    pub fn take_code(&mut self) -> Option<Vec<u8>> {
        self.code.take()
    }

    /// Whether this is the variant `what`.
    pub fn breaks(&self, what: &str) -> bool {
        self.broken == Some(what)
    }

    /// Whether anything is left out.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// The guest is meant to hang: do not wait long for it.
    pub fn expect_hang(&mut self) {
        self.patience = SHORT;
    }

    /// Tells one line.
    pub fn say(&mut self, line: impl Into<String>) {
        let line = line.into();
        if self.muted {
            return;
        }
        if self.live {
            // Without a reader the lab runs on; its status still tells.
            let _nobody_listens = writeln_stdout(&line);
        } else {
            self.lines.push(line);
        }
    }

    /// Tells a paragraph, in lines that fit a screen.
    pub fn explain(&mut self, text: &str) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
                self.say(std::mem::replace(&mut line, String::from(" ")));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.say(line);
    }

    /// Does what an earlier lab has told at length, in one line: `about`.
    ///
    /// # Errors
    /// What `work` says.
    pub fn briefly<T>(
        &mut self,
        about: &str,
        work: impl FnOnce(&mut Self) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        self.say(about);
        self.muted = true;
        let result = work(self);
        self.muted = false;
        result
    }

    /// Tells of a call, and of its refusal.
    ///
    /// # Errors
    /// [`Stop::Refused`] if it was.
    pub fn call<T>(
        &mut self,
        call: &'static str,
        about: &str,
        result: Result<T, kvm_ioctls::Error>,
    ) -> Result<T, Stop> {
        self.say(if about.is_empty() {
            call.to_owned()
        } else {
            format!("{call}: {about}")
        });
        result.map_err(|error| {
            let source = io::Error::from_raw_os_error(error.errno());
            self.say(format!("  refused: {source}"));
            Stop::Refused { call, source }
        })
    }

    /// Tells of an exit.
    pub fn exit(&mut self, exit: &VcpuExit<'_>) {
        self.say(format!("  exit {}", words(exit)));
    }

    /// Tells of an exit that the lab does not know what to do with.
    pub fn unexpected(&mut self, exit: &VcpuExit<'_>) -> Stop {
        self.exit(exit);
        Stop::Unexpected(words(exit))
    }

    /// Runs `enter`, which calls KVM_RUN, for as long as a guest may take.
    ///
    /// # Errors
    /// [`Stop::Unexpected`] after more entries than any lab needs.
    pub fn with_deadline<T>(&mut self, enter: impl FnOnce() -> T) -> Result<T, Stop> {
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            let many = format!("one exit after another, {MOST_ENTRIES} in all");
            return Err(Stop::Unexpected(many));
        }
        self.deadline.set(self.patience);
        let result = enter();
        self.deadline.clear();
        Ok(result)
    }

    /// By which somebody else sees that the guest hangs.
    pub fn deadline(&self) -> Deadline {
        self.deadline.clone()
    }

    /// All that was told, and not live.
    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }
}

fn writeln_stdout(line: &str) -> io::Result<()> {
    io::Write::write_all(&mut io::stdout(), format!("{line}\n").as_bytes())
}

/// An exit in the words of `[kvm]` section 5, "The kvm_run structure".
pub fn words(exit: &VcpuExit<'_>) -> String {
    match exit {
        VcpuExit::IoOut(port, data) => {
            format!("KVM_EXIT_IO: out to port {port:#x}, {}", bytes(data))
        }
        VcpuExit::IoIn(port, data) => {
            format!("KVM_EXIT_IO: in from port {port:#x}, {} wanted", size(data))
        }
        VcpuExit::MmioWrite(at, data) => {
            format!("KVM_EXIT_MMIO: store to {at:#x}, {}", bytes(data))
        }
        VcpuExit::MmioRead(at, data) => {
            format!("KVM_EXIT_MMIO: load from {at:#x}, {} wanted", size(data))
        }
        VcpuExit::Hlt => "KVM_EXIT_HLT: the guest waits for an interrupt".into(),
        VcpuExit::Shutdown => "KVM_EXIT_SHUTDOWN: a triple fault".into(),
        VcpuExit::InternalError => "KVM_EXIT_INTERNAL_ERROR: KVM itself gives up".into(),
        VcpuExit::FailEntry(reason, _) => {
            format!("KVM_EXIT_FAIL_ENTRY: the processor refuses this state, reason {reason:#x}")
        }
        VcpuExit::Intr => "KVM_EXIT_INTR: a signal came for this thread".into(),
        other => format!("{other:?}"),
    }
}

fn size(data: &[u8]) -> String {
    match data.len() {
        1 => "1 byte".into(),
        n => format!("{n} bytes"),
    }
}

/// `2 bytes: 0x1234`, as the guest's register held it; `1 byte: 0x41 'A'`.
fn bytes(data: &[u8]) -> String {
    let mut text = format!("{}: 0x", size(data));
    for byte in data.iter().rev() {
        // Cannot fail: a String takes all.
        let _infallible = write!(text, "{byte:02x}");
    }
    match data {
        [byte] if byte.is_ascii_graphic() => text + &format!(" '{}'", char::from(*byte)),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_told_with_port_size_and_value() {
        let out = VcpuExit::IoOut(0x3f8, b"A");
        assert_eq!(
            words(&out),
            "KVM_EXIT_IO: out to port 0x3f8, 1 byte: 0x41 'A'"
        );
        let store = VcpuExit::MmioWrite(0xd000_0000, &[0x34, 0x12]);
        assert_eq!(
            words(&store),
            "KVM_EXIT_MMIO: store to 0xd0000000, 2 bytes: 0x1234"
        );
    }

    #[test]
    fn refused_call_is_told_and_ends_the_lab() {
        let mut tale = Tale::new(None, false);
        let refused = tale.call(
            "KVM_X",
            "y",
            Err::<(), _>(kvm_ioctls::Error::new(libc::EINVAL)),
        );
        assert!(matches!(refused, Err(Stop::Refused { call: "KVM_X", .. })));
        assert_eq!(
            tale.into_lines(),
            ["KVM_X: y", "  refused: Invalid argument (os error 22)"]
        );
    }

    #[test]
    fn paragraphs_are_cut_between_words_and_indented() {
        let mut tale = Tale::new(None, false);
        tale.explain(&"word ".repeat(30));
        let lines = tale.into_lines();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].len() <= WIDTH && lines[0].ends_with("word"));
        assert!(lines[1].starts_with("  word"));
    }

    #[test]
    fn guest_that_exits_without_end_is_over_after_so_many() {
        let mut tale = Tale::new(None, false);
        tale.entries = MOST_ENTRIES - 1;
        assert!(tale.with_deadline(|| ()).is_ok());
        let over = tale.with_deadline(|| panic!("entered")).unwrap_err();
        assert!(matches!(over, Stop::Unexpected(_)));
    }

    #[test]
    fn deadline_counts_only_while_a_guest_runs() {
        let mut tale = Tale::new(None, false);
        let deadline = tale.deadline();
        tale.patience = Duration::ZERO;
        let past = tale.with_deadline(|| {
            std::thread::sleep(Duration::from_millis(1));
            deadline.is_past()
        });
        assert!(past.unwrap() && !deadline.is_past());
    }
}
