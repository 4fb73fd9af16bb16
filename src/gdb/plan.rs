//! What is to stop the guest, and what a debug exit therefore means: decisions without KVM.
//!
//! ```text
//!   gdb: break, hbreak, watch, stepi        KVM: exception, DR6, RIP
//!                 │                                     │
//!                 ▼                                     ▼
//!               Plan ── watched(vCPU) ──▶ KVM      Plan::meaning ──▶ Stop, or the guest's own
//! ```
//!
//! Source: `[sdm3]` 18.2 (debug registers), 18.3 (debug exceptions).
//! Read next: [`super::able`].

use std::collections::{BTreeMap, BTreeSet};

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP,
    kvm_debug_exit_arch,
};

use super::able::{Able, Trap};
use crate::kvm::debug::{ADDRESSES, Watched};

/// Exception numbers. `[sdm3]` 6.15
const DEBUG: u32 = 1;
const BREAKPOINT: u32 = 3;
/// DR6: a single step.
const DR6_STEP: u64 = 1 << 14;
/// DR7: exact breakpoints, and bit 10, which is always set.
const DR7_FIXED: u64 = 1 << 10 | 1 << 9 | 1 << 8;
/// As many software breakpoints as there can be; gdb has none of its own.
pub const MAX_SOFTWARE: usize = 4096;

/// What a debug register is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An instruction, before it is executed.
    Execute,
    /// A store, after it was made.
    Write,
    /// A load or a store; x86 has no register for loads alone.
    Access,
}

/// The content of one debug register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Linear address.
    pub at: u64,
    /// Bytes: 1, 2, 4 or 8, and the address is a multiple of it.
    pub len: u64,
    /// What for.
    pub kind: Kind,
}

impl Slot {
    /// A slot for `len` bytes at `at`.
    pub fn new(at: u64, len: u64, kind: Kind) -> Self {
        Self { at, len, kind }
    }

    /// Whether a debug register can hold it. `[sdm3]` 18.2.5
    pub fn is_possible(&self) -> bool {
        matches!(self.len, 1 | 2 | 4 | 8) && self.at.is_multiple_of(self.len)
    }

    /// Its R/W and LEN fields of DR7. `[sdm3]` 18.2.4
    fn bits(self) -> u64 {
        let kind = match self.kind {
            Kind::Execute => 0,
            Kind::Write => 1,
            Kind::Access => 3,
        };
        let len = match self.len {
            2 => 1,
            8 => 2,
            4 => 3,
            _ => 0,
        };
        kind | len << 2
    }
}

/// Debug registers 0 to 3, and 7.
pub fn control_of(slots: &[Option<Slot>; ADDRESSES]) -> ([u64; ADDRESSES], u64) {
    let mut control = DR7_FIXED;
    for (i, slot) in slots.iter().enumerate() {
        if let Some(slot) = slot {
            control |= 2 << (2 * i) | slot.bits() << (16 + 4 * i);
        }
    }
    (slots.map(|slot| slot.map_or(0, |slot| slot.at)), control)
}

/// A software breakpoint in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planted {
    /// Where its byte is.
    pub gpa: u64,
    /// The guest's byte.
    pub original: u8,
}

/// What stopped a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A software breakpoint.
    Software,
    /// A breakpoint in a debug register.
    Hardware,
    /// A watchpoint.
    Watch {
        /// Its address.
        at: u64,
        /// Whether loads count too.
        loads: bool,
    },
    /// A step is done.
    Step,
    /// The machine cannot go on.
    Crash,
}

/// What a debug exit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The debugger's.
    Ours(Stop),
    /// An INT3 of the guest's own.
    GuestBreakpoint,
    /// A debug exception of the guest's own.
    GuestDebug,
}

/// All that is to stop the guest.
#[derive(Debug)]
pub struct Plan {
    /// What KVM can do.
    pub able: Able,
    /// Software breakpoints by linear address.
    pub software: BTreeMap<u64, Planted>,
    /// Debug registers.
    pub slots: [Option<Slot>; ADDRESSES],
    /// vCPUs that run one instruction.
    pub stepping: BTreeSet<u32>,
}

impl Plan {
    /// Nothing yet.
    pub fn new(able: Able) -> Self {
        Self {
            able,
            software: BTreeMap::new(),
            slots: [None; ADDRESSES],
            stepping: BTreeSet::new(),
        }
    }

    /// Takes a debug register for `slot`; false if there is none left.
    pub fn add(&mut self, slot: Slot) -> bool {
        if self.slots.contains(&Some(slot)) {
            return true;
        }
        match self.slots.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(slot);
                true
            }
            None => false,
        }
    }

    /// Gives it back; false if it was not there.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let place = self.slots.iter_mut().find(|place| **place == Some(slot));
        place.is_some_and(|place| place.take().is_some())
    }

    /// What KVM is to watch for on vCPU `id`.
    pub fn watched(&self, id: u32) -> Watched {
        let (addresses, control) = control_of(&self.slots);
        let mut flags = 0;
        if self.able.trap == Some(Trap::Int3) && !self.software.is_empty() {
            flags |= KVM_GUESTDBG_USE_SW_BP;
        }
        if self.slots.iter().any(Option::is_some) {
            flags |= KVM_GUESTDBG_USE_HW_BP;
        }
        if self.stepping.contains(&id) {
            flags |= KVM_GUESTDBG_SINGLESTEP;
            if self.able.step_alone {
                flags |= KVM_GUESTDBG_BLOCKIRQ;
            }
        }
        Watched {
            flags,
            addresses,
            control,
        }
    }

    /// What a debug exit of vCPU `id` is about.
    pub fn meaning(&self, id: u32, exit: &kvm_debug_exit_arch) -> Meaning {
        if exit.exception == BREAKPOINT {
            return if self.software.contains_key(&exit.pc) {
                Meaning::Ours(Stop::Software)
            } else {
                Meaning::GuestBreakpoint
            };
        }
        let hit = (0..).zip(&self.slots);
        let mut hit = hit.filter(|(i, _): &(u32, _)| exit.dr6 & 1 << i != 0);
        if let Some(slot) = hit.find_map(|(_, slot)| *slot) {
            return Meaning::Ours(match slot.kind {
                Kind::Execute => Stop::Hardware,
                kind => Stop::Watch {
                    at: slot.at,
                    loads: kind == Kind::Access,
                },
            });
        }
        // DR6 does not tell of a step on every back end.
        let step = exit.dr6 & DR6_STEP != 0 || exit.exception != DEBUG;
        if self.stepping.contains(&id) || (step && self.slots.iter().all(Option::is_none)) {
            return Meaning::Ours(Stop::Step);
        }
        Meaning::GuestDebug
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABLE: Able = Able {
        trap: Some(Trap::Int3),
        hardware: true,
        watch: true,
        step: true,
        step_alone: true,
    };

    fn exit(exception: u32, pc: u64, dr6: u64) -> kvm_debug_exit_arch {
        kvm_debug_exit_arch {
            exception,
            pc,
            dr6,
            ..Default::default()
        }
    }

    #[test]
    fn sdm3_18_2_4_dr7_has_kind_and_length_of_each_register() {
        let slots = [
            Some(Slot::new(0x1000, 1, Kind::Execute)),
            Some(Slot::new(0x2000, 8, Kind::Write)),
            None,
            Some(Slot::new(0x3000, 4, Kind::Access)),
        ];
        let (addresses, control) = control_of(&slots);
        assert_eq!(addresses, [0x1000, 0x2000, 0, 0x3000]);
        assert_eq!(control, 0xf090_078a);
    }

    #[test]
    fn slots_are_four_aligned_and_of_four_sizes() {
        assert!(!Slot::new(0x1001, 2, Kind::Write).is_possible());
        assert!(!Slot::new(0x1000, 3, Kind::Write).is_possible());
        assert!(!Slot::new(0x1000, 0, Kind::Write).is_possible());
        let mut plan = Plan::new(ABLE);
        let slot = |i: u64| Slot::new(0x1000 * i, 1, Kind::Execute);
        assert!((1..=4).all(|i| plan.add(slot(i))));
        assert!(plan.add(slot(1)), "it is there already");
        assert!(!plan.add(slot(5)));
        assert!(plan.remove(slot(2)) && !plan.remove(slot(2)) && plan.add(slot(5)));
    }

    #[test]
    fn kvm_watches_for_what_is_planned_and_no_more() {
        let mut plan = Plan::new(ABLE);
        assert_eq!(plan.watched(0).flags, 0);
        let planted = Planted {
            gpa: 0x1000,
            original: 0x55,
        };
        plan.software.insert(0x1000, planted);
        plan.stepping.insert(1);
        assert_eq!(plan.watched(0).flags, KVM_GUESTDBG_USE_SW_BP);
        let stepping = KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ;
        assert_eq!(plan.watched(1).flags, KVM_GUESTDBG_USE_SW_BP | stepping);
        plan.able.trap = Some(Trap::Out { behind: true });
        plan.able.step_alone = false;
        assert_eq!(plan.watched(1).flags, KVM_GUESTDBG_SINGLESTEP);
    }

    #[test]
    fn an_exit_is_the_debuggers_or_the_guests() {
        let mut plan = Plan::new(ABLE);
        let planted = Planted {
            gpa: 0x1000,
            original: 0x55,
        };
        plan.software.insert(0x1000, planted);
        let software = Meaning::Ours(Stop::Software);
        assert_eq!(plan.meaning(0, &exit(3, 0x1000, 0)), software);
        let own = plan.meaning(0, &exit(3, 0x1001, 0));
        assert_eq!(own, Meaning::GuestBreakpoint);

        assert!(plan.add(Slot::new(0x2000, 4, Kind::Write)));
        let watch = Meaning::Ours(Stop::Watch {
            at: 0x2000,
            loads: false,
        });
        assert_eq!(plan.meaning(0, &exit(1, 0x1005, 1)), watch);
        let other = plan.meaning(0, &exit(1, 0x1005, 2));
        assert_eq!(other, Meaning::GuestDebug);
        plan.stepping.insert(0);
        let step = plan.meaning(0, &exit(1, 0x1005, DR6_STEP));
        assert_eq!(step, Meaning::Ours(Stop::Step));
    }
}
