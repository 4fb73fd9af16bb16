//! What `break`, `hbreak` and `watch` of gdb's become.
//!
//! gdb sets them all whenever it lets the guest go and takes them back when it has stopped. Where one cannot
//! be, gdb has only an error number: the reason is said on cottage's side.
//! Read next: [`super::monitor`].

use gdbstub::target::TargetResult;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};

use super::able::Trap;
use super::memory;
use super::plan::{Kind, Slot};
use super::target::Machine;
use crate::console::words::say;

/// As many remarks about breakpoints as one session gets.
const MAX_REMARKS: usize = 16;

impl Machine {
    /// Says something about the breakpoint at `at`, once.
    fn remark(&mut self, at: u64, words: &'static str) {
        if self.remarks.len() < MAX_REMARKS && self.remarks.insert(at, words) != Some(words) {
            say(&format!("gdb: breakpoint at {at:#x}: {words}"));
        }
    }

    /// Puts a slot into a debug register.
    fn add(&mut self, slot: Slot) -> bool {
        slot.is_possible() && self.debugger().plan().add(slot)
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
        let able = self.debugger().plan().able;
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
            && memory::plant(&self.parts().memory, &mut self.debugger().plan(), at, gpa)
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
            return Ok(self.debugger().plan().remove(slot));
        }
        let pulled = memory::pull(&self.parts().memory, &mut self.debugger().plan(), at);
        Ok(pulled)
    }
}

impl HwBreakpoint for Machine {
    fn add_hw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        if !self.debugger().plan().able.hardware {
            self.remark(at, "KVM here heeds no debug registers; use break");
            return Ok(false);
        }
        Ok(self.add(Slot::new(at, 1, Kind::Execute)))
    }

    fn remove_hw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self
            .debugger()
            .plan()
            .remove(Slot::new(at, 1, Kind::Execute)))
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
        if !self.debugger().plan().able.watch {
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
            .debugger()
            .plan()
            .remove(Slot::new(at, len, kind_of(kind))))
    }
}
