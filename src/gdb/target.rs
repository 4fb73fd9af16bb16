//! The machine as gdb's protocol sees it: a process whose threads are vCPUs.
//!
//! Everything here happens while all vCPUs stand at the gate, but for [`Machine::resume`], which opens it.
//! What a machine that is over is asked gets an error, which gdb shows.
//! Read next: [`super::monitor`].

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};

use super::able::Trap;
use super::debugger::{Debugger, Parts};
use super::plan::{Kind, Slot, Stop};
use super::registers::{All, Machine64, State};
use super::{memory, monitor};
use crate::console::words::say;
use crate::kvm::{Error, Vcpu};
use crate::watch::paging::Walk;

/// What gdb is told when something is not possible: its numbers are errno's.
const NO_SUCH_THREAD: u8 = 3; // ESRCH
const NOT_THERE: u8 = 14; // EFAULT
const NOT_SO: u8 = 22; // EINVAL
/// As many remarks about breakpoints as one session gets.
const MAX_REMARKS: usize = 16;

/// A machine that a gdb is attached to.
#[derive(Debug)]
pub struct Machine {
    debugger: Arc<Debugger>,
    parts: Parts,
    /// Addresses are physical.
    pub physical: bool,
    stepping: BTreeSet<u32>,
    continuing: BTreeSet<u32>,
    /// vCPUs that gdb does not name stay where they are.
    locked: bool,
    /// Breakpoints that are in debug registers because their address leads nowhere.
    stand_ins: BTreeSet<u64>,
    remarks: BTreeMap<u64, &'static str>,
}

/// gdb's number of a vCPU: its own and 1, for 0 means any.
pub fn tid_of(id: u32) -> Tid {
    let number = usize::try_from(id).unwrap_or(0).saturating_add(1);
    Tid::new(number).unwrap_or(Tid::MIN)
}

fn id_of(tid: Tid) -> u32 {
    u32::try_from(tid.get() - 1).unwrap_or(u32::MAX)
}

fn state_of(vcpu: &Vcpu) -> Result<State, Error> {
    Ok(State {
        regs: vcpu.regs()?,
        sregs: vcpu.sregs()?,
        fpu: vcpu.fpu()?,
    })
}

/// Gives `vcpu` what differs between two states; KVM checks it.
fn give(vcpu: &Vcpu, old: &State, new: &State) -> Result<(), Error> {
    if old.sregs != new.sregs {
        vcpu.set_sregs(&new.sregs)?;
    }
    if old.fpu != new.fpu {
        vcpu.set_fpu(&new.fpu)?;
    }
    if old.regs != new.regs {
        vcpu.set_regs(&new.regs)?;
    }
    Ok(())
}

impl Machine {
    /// The machine of `debugger`, whose vCPUs stand at the gate.
    pub(super) fn new(debugger: Arc<Debugger>, parts: Parts) -> Self {
        Self {
            debugger,
            parts,
            physical: false,
            stepping: BTreeSet::new(),
            continuing: BTreeSet::new(),
            locked: false,
            stand_ins: BTreeSet::new(),
            remarks: BTreeMap::new(),
        }
    }

    pub(super) fn debugger(&self) -> &Debugger {
        &self.debugger
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The registers of a vCPU.
    pub(super) fn state(&self, id: u32) -> Option<State> {
        let state = self
            .debugger
            .gate()
            .ask(id, |stand| state_of(stand.vcpu).ok());
        state.flatten()
    }

    /// The guest-physical address that `linear` leads to from vCPU `id`.
    pub(super) fn locate(&mut self, id: u32, linear: u64) -> Option<u64> {
        if self.physical {
            return Some(linear);
        }
        let walk = self.walk(id, linear)?;
        memory::locate(&self.parts.memory, linear, memory::end_of(&walk))
    }

    /// The way of `linear` through the page tables of vCPU `id`.
    pub(super) fn walk(&self, id: u32, linear: u64) -> Option<Walk> {
        let state = self.state(id)?;
        Some(memory::walk(&self.parts.memory, &state.sregs, linear))
    }

    /// Reads from `at` as far as there is memory.
    pub(super) fn read(&mut self, id: u32, at: u64, data: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = at.wrapping_add(done as u64);
            let len = memory::in_page(at, rest.len());
            let (part, _) = rest.split_at_mut(len);
            let Some(gpa) = self.locate(id, at) else {
                break;
            };
            if !memory::read(&self.parts.memory, &self.debugger.plan(), gpa, part) {
                break;
            }
            done += len;
        }
        done
    }

    fn write(&mut self, id: u32, at: u64, data: &[u8]) -> bool {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let at = at.wrapping_add(done as u64);
            let (part, _) = rest.split_at(memory::in_page(at, rest.len()));
            let Some(gpa) = self.locate(id, at) else {
                return false;
            };
            if !memory::write(&self.parts.memory, &mut self.debugger.plan(), gpa, part) {
                return false;
            }
            done += part.len();
        }
        true
    }

    /// Says something about the breakpoint at `at`, once.
    fn remark(&mut self, at: u64, words: &'static str) {
        if self.remarks.len() < MAX_REMARKS && self.remarks.insert(at, words) != Some(words) {
            say(&format!("gdb: breakpoint at {at:#x}: {words}"));
        }
    }

    /// Takes everything back, and lets the guest go on.
    pub fn let_go(&mut self) {
        {
            let mut plan = self.debugger.plan();
            let planted: Vec<_> = plan.software.keys().copied().collect();
            for at in planted {
                memory::pull(&self.parts.memory, &mut plan, at);
            }
            plan.slots = Default::default();
        }
        self.stepping.clear();
        self.arm();
        self.debugger.set_attached(false);
        while self.debugger.next_stop().is_some() {}
        self.debugger.gate().open();
    }

    /// Tells KVM the plan, vCPU by vCPU.
    fn arm(&mut self) {
        self.debugger.plan().stepping = std::mem::take(&mut self.stepping);
        for id in 0..self.debugger.vcpus() {
            let watched = self.debugger.plan().watched(id);
            let asked = self
                .debugger
                .gate()
                .ask(id, move |stand| stand.vcpu.watch_for(&watched));
            if let Some(Err(error)) = asked {
                say(&format!("gdb: vCPU {id} will not stop: {error}"));
            }
        }
    }

    /// In gdb's terms.
    pub fn reason(&self, id: u32, stop: Stop) -> MultiThreadStopReason<u64> {
        let tid = tid_of(id);
        let signal = |signal| MultiThreadStopReason::SignalWithThread { tid, signal };
        match stop {
            Stop::Software => MultiThreadStopReason::SwBreak(tid),
            Stop::Hardware => {
                let at = self.state(id).map(|state| state.linear_pc());
                if at.is_some_and(|at| self.stand_ins.contains(&at)) {
                    MultiThreadStopReason::SwBreak(tid)
                } else {
                    MultiThreadStopReason::HwBreak(tid)
                }
            }
            Stop::Watch { at, loads } => MultiThreadStopReason::Watch {
                tid,
                kind: if loads {
                    WatchKind::ReadWrite
                } else {
                    WatchKind::Write
                },
                addr: at,
            },
            Stop::Step => signal(Signal::SIGTRAP),
            Stop::Crash => signal(Signal::SIGABRT),
        }
    }

    /// Puts a slot into a debug register.
    fn add(&mut self, slot: Slot) -> bool {
        slot.is_possible() && self.debugger.plan().add(slot)
    }
}

impl Target for Machine {
    type Arch = Machine64;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, Machine64, Infallible> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Machine {
    fn read_registers(&mut self, regs: &mut All, tid: Tid) -> TargetResult<(), Self> {
        let state = self.state(id_of(tid));
        *regs = state.ok_or(TargetError::Errno(NO_SUCH_THREAD))?.to_gdb();
        Ok(())
    }

    fn write_registers(&mut self, regs: &All, tid: Tid) -> TargetResult<(), Self> {
        let id = id_of(tid);
        let old = self.state(id).ok_or(TargetError::Errno(NO_SUCH_THREAD))?;
        let new = old.changed(regs);
        let new = new.map_err(|_selector| TargetError::Errno(NOT_SO))?;
        let given = move |vcpu: &Vcpu| give(vcpu, &old, &new);
        match self.debugger.gate().ask(id, move |stand| given(stand.vcpu)) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(TargetError::Errno(NOT_SO)),
            None => Err(TargetError::Errno(NO_SUCH_THREAD)),
        }
    }

    fn read_addrs(&mut self, at: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        match self.read(id_of(tid), at, data) {
            0 => Err(TargetError::Errno(NOT_THERE)),
            n => Ok(n),
        }
    }

    fn write_addrs(&mut self, at: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let written = self.write(id_of(tid), at, data);
        written.then_some(()).ok_or(TargetError::Errno(NOT_THERE))
    }

    fn list_active_threads(&mut self, tell: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        (0..self.debugger.vcpus()).for_each(|id| tell(tid_of(id)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Machine {
    fn thread_extra_info(&self, tid: Tid, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let id = id_of(tid);
        let words = self
            .debugger
            .gate()
            .ask(id, |stand| monitor::activity(stand.vcpu));
        let text = format!("vCPU {id}, {}", words.unwrap_or("gone"));
        let len = text.len().min(buffer.len());
        buffer
            .iter_mut()
            .zip(text.bytes())
            .for_each(|(to, from)| *to = from);
        Ok(len)
    }
}

impl MultiThreadResume for Machine {
    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.stepping.clear();
        self.continuing.clear();
        self.locked = false;
        Ok(())
    }

    fn set_resume_action_continue(
        &mut self,
        tid: Tid,
        _: Option<Signal>,
    ) -> Result<(), Infallible> {
        if id_of(tid) < self.debugger.vcpus() {
            self.continuing.insert(id_of(tid));
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Infallible> {
        // Then the session reports it, and nobody has moved.
        if self.debugger.must_tell_first() {
            return Ok(());
        }
        let named: Vec<_> = self.stepping.union(&self.continuing).copied().collect();
        self.arm();
        if self.locked {
            self.debugger.gate().open_for(named);
        } else {
            self.debugger.gate().open();
        }
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Machine {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Infallible> {
        if id_of(tid) < self.debugger.vcpus() {
            self.stepping.insert(id_of(tid));
        }
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Machine {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.locked = true;
        Ok(())
    }
}

impl Breakpoints for Machine {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Machine {
    /// An address that leads nowhere gets a debug register, which needs no memory.
    fn add_sw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        let able = self.debugger.plan().able;
        let walk = self.walk(0, at);
        if matches!(able.trap, Some(Trap::Out { .. })) && walk.as_ref().is_some_and(memory::is_user)
        {
            self.remark(
                at,
                "a program's page; KVM here stops programs at no instruction",
            );
            return Ok(false);
        }
        if let Some(gpa) = self.locate(0, at)
            && memory::plant(&self.parts.memory, &mut self.debugger.plan(), at, gpa)
        {
            if walk.and_then(|walk| memory::end_of(&walk)) != Some(gpa) && !self.physical {
                self.remark(
                    at,
                    "the guest has not mapped it yet; set where Linux maps it from",
                );
            }
            return Ok(true);
        }
        if able.hardware && self.add(Slot::new(at, 1, Kind::Execute)) {
            self.stand_ins.insert(at);
            self.remark(at, "no memory is there (yet): it is in a debug register");
            return Ok(true);
        }
        self.remark(
            at,
            "no memory is there, and no debug register is left that KVM heeds",
        );
        Ok(false)
    }

    fn remove_sw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        if self.stand_ins.remove(&at) {
            let slot = Slot::new(at, 1, Kind::Execute);
            return Ok(self.debugger.plan().remove(slot));
        }
        let pulled = memory::pull(&self.parts.memory, &mut self.debugger.plan(), at);
        Ok(pulled)
    }
}

impl HwBreakpoint for Machine {
    fn add_hw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        if !self.debugger.plan().able.hardware {
            self.remark(at, "KVM here heeds no debug registers; use break");
            return Ok(false);
        }
        Ok(self.add(Slot::new(at, 1, Kind::Execute)))
    }

    fn remove_hw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.debugger.plan().remove(Slot::new(at, 1, Kind::Execute)))
    }
}

/// What x86 has for a kind of gdb's.
fn kind_of(kind: WatchKind) -> Kind {
    match kind {
        WatchKind::Write => Kind::Write,
        // There is no register for loads alone: gdb sees by the value whether it was one.
        WatchKind::Read | WatchKind::ReadWrite => Kind::Access,
    }
}

impl HwWatchpoint for Machine {
    fn add_hw_watchpoint(
        &mut self,
        at: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        if !self.debugger.plan().able.watch {
            self.remark(
                at,
                "KVM here heeds no debug registers; `set can-use-hw-watchpoints 0` has gdb step and compare",
            );
            return Ok(false);
        }
        Ok(self.add(Slot::new(at, len, kind_of(kind))))
    }

    fn remove_hw_watchpoint(
        &mut self,
        at: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        Ok(self
            .debugger
            .plan()
            .remove(Slot::new(at, len, kind_of(kind))))
    }
}

impl MonitorCmd for Machine {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        mut out: ConsoleOutput<'_>,
    ) -> Result<(), Infallible> {
        let text = String::from_utf8_lossy(command);
        out.write_raw(monitor::answer(self, &text).as_bytes());
        Ok(())
    }
}
