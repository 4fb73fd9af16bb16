//! Chapter 10: when what happened, from exec to the end of the process, and who took the time.
//!
//! While a machine is built and run, [`Timeline`] notes instants: a clock read and a store each.
//! `cottage run --timeline` and `cottage bench` run cottage as a child process ([`child`]), because
//! a process can see neither its own exec nor its own end; the child hands its instants up a pipe
//! as a [`record`]. One clock for all: CLOCK_MONOTONIC, which processes share.
//!
//! ```text
//!   parent: spawn ─────────────────────────────────────────────────────────────▶ gone
//!   child:         main, files, KVM, vCPUs ▶ guest: first exit, marks ▶ end ▶ destroyed
//!                  └──────────── Timeline ───────────┘ record ─▶ pipe ─▶ parent
//! ```
//!
//! What an instant is called is what had just happened then; the interval before it is the time
//! that took. While one thread fills memory and another makes the VM ([`crate::machine`]), instants
//! of both come in between each other: an interval then belongs to whoever ended it, and what the
//! other did in it shows as a shorter interval of its own. Read next: [`exits`].

pub mod exits;
pub mod record;
pub mod memory_use;
pub mod child;
pub mod chart;
pub mod json;
pub mod canvas;
pub mod svg;
pub mod report;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use crate::devices::report::{MARK_DONE, MARK_HANDED_OVER, MARK_INIT, MARK_READY};
use crate::virtio::Figure;
use crate::watch::Watch;
use exits::ExitCounts;
use memory_use::MemoryUse;

/// Nanoseconds on CLOCK_MONOTONIC, which all processes of a host share.
pub type Nanos = u64;

/// Instants kept. Cottage has about twenty of its own; the rest is for the guest's marks, and a
/// guest that marks for ever is only counted.
const MAX_POINTS: usize = 96;

/// The time now.
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    // Both are non-negative on this clock.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanos
}

/// What has just happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// cottage's `main` begins: the process exists and the program is mapped.
    Main,
    /// Flags are parsed and checked.
    Configured,
    /// Guest memory is mapped in this process.
    MemoryMapped,
    /// The kernel is in guest memory.
    KernelLoaded,
    /// The initramfs is.
    InitramfsLoaded,
    /// Tables, command line and boot information are.
    TablesWritten,
    /// `/dev/kvm` is open.
    KvmOpened,
    /// KVM_CREATE_VM has returned.
    VmCreated,
    /// KVM knows the guest's memory.
    MemoryGiven,
    /// The devices exist.
    DevicesReady,
    /// KVM has said which CPUID it can offer.
    CpuidKnown,
    /// All vCPUs exist and the first has its registers.
    VcpusReady,
    /// The first vCPU is about to enter the guest for the first time.
    GuestEntered,
    /// It has come back for the first time.
    FirstExit,
    /// The guest has used a device for the first time: a stage of its kernel that every kernel
    /// shows, without its help.
    FirstUse(&'static str),
    /// The guest has printed its first byte.
    FirstByte,
    /// The guest has written this number to the mark port.
    Mark(u8),
    /// The guest has asked to stop, or was stopped.
    GuestEnded,
    /// The memory in use has been looked at, which only measuring does.
    MemoryRead,
    /// All vCPU threads have ended.
    VcpusStopped,
    /// The VM and its memory are gone.
    VmDestroyed,
}

/// Who spends the time up to an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// cottage itself.
    Vmm,
    /// The host's kernel, on cottage's behalf.
    HostKernel,
    /// The guest's kernel.
    GuestKernel,
    /// The guest's init and command.
    GuestUser,
}

impl Who {
    /// All of them, in the order of a boot.
    pub const ALL: [Self; 4] = [
        Self::HostKernel,
        Self::Vmm,
        Self::GuestKernel,
        Self::GuestUser,
    ];
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vmm => "cottage",
            Self::HostKernel => "host kernel",
            Self::GuestKernel => "guest kernel",
            Self::GuestUser => "guest userspace",
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Main => "main entered",
            Self::Configured => "flags checked",
            Self::MemoryMapped => "guest memory mapped",
            Self::KernelLoaded => "kernel loaded",
            Self::InitramfsLoaded => "initramfs loaded",
            Self::TablesWritten => "boot tables written",
            Self::KvmOpened => "/dev/kvm opened",
            Self::VmCreated => "VM created",
            Self::MemoryGiven => "memory given to KVM",
            Self::DevicesReady => "devices ready",
            Self::CpuidKnown => "CPUID known",
            Self::VcpusReady => "vCPUs ready",
            Self::GuestEntered => "guest entered",
            Self::FirstExit => "first exit",
            Self::FirstUse(device) => return write!(f, "first use of {device}"),
            Self::FirstByte => "first serial byte",
            Self::Mark(MARK_INIT) => "mark 1: init started",
            Self::Mark(MARK_READY) => "mark 2: ready",
            Self::Mark(MARK_DONE) => "mark 3: command done",
            Self::Mark(MARK_HANDED_OVER) => "mark 4: its own init takes over",
            Self::Mark(number) => return write!(f, "mark {number}"),
            Self::GuestEnded => "guest ended",
            Self::MemoryRead => "memory use read",
            Self::VcpusStopped => "vCPUs stopped",
            Self::VmDestroyed => "VM destroyed",
        })
    }
}

/// An instant and the state of the counters then.
#[derive(Clone, Copy, Debug)]
pub struct Noted {
    /// What had just happened.
    pub stage: Stage,
    /// When.
    pub at: Nanos,
    /// VM exits so far; 0 unless they are counted.
    pub exits: u64,
    /// Time cottage has spent answering them.
    pub answering: Nanos,
}

/// The instants of one run, noted from all threads.
#[derive(Debug)]
pub struct Timeline {
    notes: Mutex<Notes>,
    exits: AtomicU64,
    answering: AtomicU64,
    measure: Measure,
    watch: Watch,
}

/// What is measured besides the instants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Count and time VM exits.
    pub exits: bool,
    /// Look at the memory in use when the guest has ended.
    pub memory: bool,
}

#[derive(Debug)]
struct Notes {
    kept: Vec<Noted>,
    dropped: u64,
    counts: ExitCounts,
    memory: Option<MemoryUse>,
    figures: Vec<Figure>,
}

impl Timeline {
    /// An empty one that notes instants and nothing else.
    pub fn new() -> Self {
        Self::measuring(Measure::default())
    }

    /// An empty one for a run that is measured.
    pub fn measuring(measure: Measure) -> Self {
        Self {
            notes: Mutex::new(Notes {
                kept: Vec::with_capacity(MAX_POINTS),
                dropped: 0,
                counts: ExitCounts::default(),
                memory: None,
                figures: Vec::new(),
            }),
            exits: AtomicU64::new(0),
            answering: AtomicU64::new(0),
            measure,
            watch: Watch::nobody(),
        }
    }

    /// The same, and `watch` is told of each instant.
    #[must_use]
    pub fn watched(self, watch: Watch) -> Self {
        Self { watch, ..self }
    }

    /// Who is told.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Whether VM exits are counted.
    pub fn metering(&self) -> bool {
        self.measure.exits
    }

    /// Notes that `stage` has just been reached.
    pub fn note(&self, stage: Stage) {
        self.note_at(stage, now());
    }

    /// Notes `stage` unless it is there.
    pub fn note_once(&self, stage: Stage) {
        if !self.reached(stage) {
            self.note(stage);
        }
    }

    /// Notes that `stage` was reached at `at`.
    pub fn note_at(&self, stage: Stage, at: Nanos) {
        let noted = Noted {
            stage,
            at,
            exits: self.exits.load(Ordering::Relaxed),
            answering: self.answering.load(Ordering::Relaxed),
        };
        self.watch.each(|by| by.noted(&noted));
        let mut notes = self.lock();
        // The guest's marks must not crowd out what cottage notes at the end.
        let limit = match stage {
            Stage::Mark(_) => MAX_POINTS - 32,
            _ => MAX_POINTS,
        };
        if notes.kept.len() < limit {
            notes.kept.push(noted);
        } else {
            notes.dropped += 1;
        }
    }

    /// Whether `stage` was noted.
    pub fn reached(&self, stage: Stage) -> bool {
        self.lock().kept.iter().any(|noted| noted.stage == stage)
    }

    /// What was noted so far, oldest first, and how many more came than are kept.
    pub fn notes(&self) -> (Vec<Noted>, u64) {
        let notes = self.lock();
        let mut kept = notes.kept.clone();
        kept.sort_by_key(|noted| noted.at);
        (kept, notes.dropped)
    }

    /// Counts one exit that took cottage `answering` to answer.
    pub fn count_exit(&self, answering: Nanos) {
        self.exits.fetch_add(1, Ordering::Relaxed);
        self.answering.fetch_add(answering, Ordering::Relaxed);
    }

    /// Adds what one vCPU's thread has counted.
    pub fn add_counts(&self, counts: &ExitCounts) {
        self.lock().counts.merge(counts);
    }

    /// The exits of all vCPUs that have ended.
    pub fn counts(&self) -> ExitCounts {
        self.lock().counts.clone()
    }

    /// Reads how much memory this process uses, if that is wanted; `guest` is where guest RAM is.
    pub fn look_at_memory(&self, guest: &Range<u64>) {
        if self.measure.memory {
            let memory = MemoryUse::of_this_process(guest);
            self.lock().memory = memory;
            self.note(Stage::MemoryRead);
        }
    }

    /// Keeps what the guest said last of its memory, for the report.
    pub fn keep_figures(&self, figures: Vec<Figure>) {
        self.lock().figures = figures;
    }

    /// What [`Timeline::keep_figures`] got.
    pub fn figures(&self) -> Vec<Figure> {
        self.lock().figures.clone()
    }

    /// What [`Timeline::look_at_memory`] saw.
    pub fn memory(&self) -> Option<MemoryUse> {
        self.lock().memory
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}

/// Who spent the time before each of `notes`, which are in order.
///
/// In the guest it is the kernel until init marks its start, then userspace until the command is
/// done; what a guest without marks does is all put down to its kernel.
pub fn attribute(notes: &[Noted]) -> Vec<Who> {
    let mut in_guest = Who::GuestKernel;
    notes
        .iter()
        .map(|noted| match noted.stage {
            Stage::Main
            | Stage::MemoryMapped
            | Stage::KvmOpened
            | Stage::VmCreated
            | Stage::MemoryGiven
            | Stage::CpuidKnown
            | Stage::VcpusReady
            | Stage::VmDestroyed => Who::HostKernel,
            Stage::Configured
            | Stage::KernelLoaded
            | Stage::InitramfsLoaded
            | Stage::TablesWritten
            | Stage::DevicesReady
            | Stage::GuestEntered
            | Stage::MemoryRead
            | Stage::VcpusStopped => Who::Vmm,
            Stage::FirstExit | Stage::FirstUse(_) | Stage::FirstByte | Stage::GuestEnded => {
                in_guest
            }
            Stage::Mark(number) => {
                let before = in_guest;
                match number {
                    MARK_INIT => in_guest = Who::GuestUser,
                    MARK_DONE => in_guest = Who::GuestKernel,
                    _ => {}
                }
                before
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_marks_leave_room_for_the_end() {
        let timeline = Timeline::new();
        for _ in 0..10_000 {
            timeline.note(Stage::Mark(9));
        }
        timeline.note(Stage::VmDestroyed);
        let (notes, dropped) = timeline.notes();
        assert_eq!(notes.last().unwrap().stage, Stage::VmDestroyed);
        assert_eq!(notes.len() as u64 + dropped, 10_001);
        assert!(notes.len() <= MAX_POINTS);
    }

    #[test]
    fn guest_time_is_the_kernels_before_init_and_after_the_command() {
        let stages = [
            Stage::FirstExit,
            Stage::Mark(MARK_INIT),
            Stage::Mark(MARK_READY),
            Stage::Mark(77),
            Stage::Mark(MARK_DONE),
            Stage::GuestEnded,
        ];
        let timeline = Timeline::new();
        for stage in stages {
            timeline.note(stage);
        }
        let who = attribute(&timeline.notes().0);
        let (kernel, user) = (Who::GuestKernel, Who::GuestUser);
        assert_eq!(who, [kernel, kernel, user, user, user, kernel]);
    }

    #[test]
    fn a_guest_without_marks_is_all_kernel() {
        let timeline = Timeline::new();
        timeline.note(Stage::FirstByte);
        timeline.note(Stage::GuestEnded);
        assert!(
            attribute(&timeline.notes().0)
                .iter()
                .all(|who| *who == Who::GuestKernel)
        );
    }
}
