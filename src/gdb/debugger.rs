//! The debugger's side of the vCPUs: it stops them, and hands the reason to the session.
//!
//! ```text
//!   vCPU's thread: exited() ─ Stop? ─▶ inbox ─▶ session's thread: gather(), tell gdb
//!                  entering() ─▶ Gate ◀── ask(registers, memory, ...)
//! ```
//!
//! While nobody is attached it does nothing but let vCPUs through.
//! Read next: [`super::place`].

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kvm_bindings::{KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB, kvm_debug_exit_arch};
use rustix::event::{EventfdFlags, eventfd};

use super::able::{Able, Trap};
use super::plan::{Meaning, Plan, Stop};
use crate::console::words::say;
use crate::kvm::VmExit;
use crate::outcome::Ending;
use crate::vcpu::run::Board;
use crate::watch::gate::Gate;
use crate::watch::{Observer, Stand, Verdict};

/// What the session is told.
#[derive(Debug, Default)]
struct Inbox {
    /// At most one of each vCPU's: it waits at the gate after it.
    stops: VecDeque<(u32, Stop)>,
    /// The process's exit status, once it is known.
    ended: Option<u8>,
}

/// An observer that stops vCPUs for gdb.
#[derive(Debug)]
pub struct Debugger {
    gate: Gate,
    plan: Mutex<Plan>,
    inbox: Mutex<Inbox>,
    /// Where a vCPU must go on that has run a breakpoint's `out`: at the breakpoint.
    rewinds: Mutex<BTreeMap<u32, u64>>,
    wake: OwnedFd,
    attached: AtomicBool,
    greeting: Mutex<Option<String>>,
    vcpus: u32,
    parts: OnceLock<Parts>,
}

/// What the session needs of a [`Board`].
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) control: Arc<crate::control::Control>,
    pub(super) memory: Arc<crate::memory::GuestMemory>,
    pub(super) timeline: Arc<crate::timeline::Timeline>,
}

impl Parts {
    fn of(board: &Board) -> Self {
        Self {
            control: board.control.clone(),
            memory: board.memory.clone(),
            timeline: board.timeline.clone(),
        }
    }
}

impl Debugger {
    /// For a machine of so many `vcpus`, which says `greeting` when it could begin; if it is to `wait`, it
    /// does not.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(able: Able, vcpus: u32, greeting: String, wait: bool) -> io::Result<Self> {
        let gate = Gate::default();
        if wait {
            gate.close();
        }
        Ok(Self {
            gate,
            plan: Mutex::new(Plan::new(able)),
            inbox: Mutex::default(),
            rewinds: Mutex::default(),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            attached: AtomicBool::new(false),
            greeting: Mutex::new(Some(greeting)),
            vcpus,
            parts: OnceLock::new(),
        })
    }

    /// What is to stop the guest; changed only while all vCPUs stand at the gate.
    pub(super) fn plan(&self) -> MutexGuard<'_, Plan> {
        lock(&self.plan)
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// The machine, once it stands.
    pub(super) fn parts(&self) -> Option<&Parts> {
        self.parts.get()
    }

    /// Whether a gdb is attached, from now on.
    pub(super) fn set_attached(&self, attached: bool) {
        self.attached.store(attached, Ordering::Release);
    }

    /// Closes the gate and waits for all vCPUs; false when the machine is over.
    pub(super) fn gather(&self) -> bool {
        loop {
            let ids = self.gate.gather();
            if ids.len() >= usize::try_from(self.vcpus).unwrap_or(usize::MAX) {
                return true;
            }
            // A vCPU whose thread has not come here for the first time, or the end.
            if self.gate.is_over() || self.ended().is_some() {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The oldest stop that gdb has not been told of.
    pub(super) fn next_stop(&self) -> Option<(u32, Stop)> {
        lock(&self.inbox).stops.pop_front()
    }

    /// Forgets stops that come again by themselves, when the guest goes on; whether one is left. A
    /// breakpoint's instruction has not been executed, but a watchpoint's has.
    pub(super) fn must_tell_first(&self) -> bool {
        let mut inbox = lock(&self.inbox);
        let keep = |(_, stop): &(u32, Stop)| matches!(stop, Stop::Watch { .. } | Stop::Crash);
        inbox.stops.retain(keep);
        !inbox.stops.is_empty()
    }

    /// The process's exit status, once it is known.
    pub(super) fn ended(&self) -> Option<u8> {
        lock(&self.inbox).ended
    }

    /// The run is over with this exit status.
    pub fn finish(&self, code: u8) {
        lock(&self.inbox).ended = Some(code);
        self.wake();
    }

    /// For poll(2).
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Forgets the wake-ups so far.
    pub(super) fn acknowledge(&self) {
        let _none_pending = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    fn wake(&self) {
        // It fails only when the counter is full: then the session is awake anyway.
        let _awake_already = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire)
    }

    fn stop(&self, id: u32, stop: Stop) {
        self.gate.close();
        lock(&self.inbox).stops.push_back((id, stop));
        self.wake();
    }

    /// A vCPU's first entry: the machine stands.
    fn meet(&self, board: &Board) {
        if self.parts.get().is_some() {
            return;
        }
        // Two vCPUs may meet here: both bring the same.
        let _same = self.parts.set(Parts::of(board));
        let greeting = lock(&self.greeting).take();
        if let Some(greeting) = greeting {
            say(&greeting);
            self.wake();
        }
    }

    /// Whether RIP is where it should be; if not, the vCPU has to settle first.
    fn is_rewound(&self, stand: &mut Stand<'_>) -> bool {
        let Some(at) = lock(&self.rewinds).get(&stand.id).copied() else {
            return true;
        };
        if !stand.vcpu.is_settled() {
            stand.vcpu.only_settle(true);
            return false;
        }
        lock(&self.rewinds).remove(&stand.id);
        if let Ok(mut regs) = stand.vcpu.regs() {
            regs.rip = at;
            // Refused only for a vCPU that is gone.
            let _next_entry_fails = stand.vcpu.set_regs(&regs);
        }
        true
    }

    fn debug_exit(&self, stand: &mut Stand<'_>, exit: &kvm_debug_exit_arch) {
        let meaning = self.plan().meaning(stand.id, exit);
        let inject = match meaning {
            Meaning::Ours(stop) => return self.stop(stand.id, stop),
            Meaning::GuestBreakpoint => KVM_GUESTDBG_INJECT_BP,
            Meaning::GuestDebug => KVM_GUESTDBG_INJECT_DB,
        };
        let mut watched = self.plan().watched(stand.id);
        watched.flags |= inject;
        // EBUSY: another exception waits; the guest's instruction runs again after it.
        let _again_later = stand.vcpu.watch_for(&watched);
    }

    /// Whether a byte that went to a port is a breakpoint's; then RIP has to go back to it.
    fn is_trap(&self, stand: &mut Stand<'_>) -> bool {
        let (trap, none) = {
            let plan = self.plan();
            (plan.able.trap, plan.software.is_empty())
        };
        let Some(Trap::Out { behind }) = trap.filter(|_| !none) else {
            return false;
        };
        let (Ok(regs), Ok(sregs)) = (stand.vcpu.regs(), stand.vcpu.sregs()) else {
            return false;
        };
        let rip = regs.rip.wrapping_sub(u64::from(behind));
        let is_ours = {
            let linear = sregs.cs.base.wrapping_add(rip);
            self.plan().software.contains_key(&linear)
        };
        if is_ours {
            lock(&self.rewinds).insert(stand.id, rip);
        }
        is_ours
    }
}

impl Observer for Debugger {
    fn entering(&self, stand: &mut Stand<'_>) {
        self.meet(stand.board);
        if self.is_rewound(stand) {
            self.gate.pass(stand);
        }
    }

    fn exited(&self, stand: &mut Stand<'_>) -> Verdict {
        if !self.is_attached() {
            return Verdict::Answer;
        }
        let debug = match stand.vcpu.exit() {
            VmExit::Debug(exit) => Some(exit),
            VmExit::PortOut { size: 1, .. } => None,
            _ => return Verdict::Answer,
        };
        match debug {
            // KVM steps when it finishes the `out` of a breakpoint that gdb stepped into.
            Some(_) if lock(&self.rewinds).contains_key(&stand.id) => {}
            Some(exit) => self.debug_exit(stand, &exit),
            None if self.is_trap(stand) => self.stop(stand.id, Stop::Software),
            None => return Verdict::Answer,
        }
        Verdict::Taken
    }

    fn crashed(&self, stand: &mut Stand<'_>, ending: &Ending) {
        if self.is_attached() && matches!(ending, Ending::TripleFault(_) | Ending::Crash(_)) {
            self.stop(stand.id, Stop::Crash);
            self.gate.pass(stand);
        }
    }

    fn left(&self, id: u32) {
        self.gate.leave(id);
        self.wake();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
