//! What this host's KVM can do for a debugger, found out by guests of a few bytes.
//!
//! KVM_SET_GUEST_DEBUG succeeds where nothing comes of it: QEMU's emulation of SVM keeps hardware
//! breakpoints and INT3 from the hypervisor, a software back end has no debug registers for code that runs
//! by itself. So each ability is tried. One machine a try, because what fails may end it in a triple fault.
//! Read next: [`super::registers`].

use std::fmt;
use std::sync::Arc;

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP,
    kvm_regs,
};
use vm_memory::GuestAddress;

use super::plan::{Kind, Slot, control_of};
use crate::boot::Protocol;
use crate::kvm::debug::Watched;
use crate::kvm::{Error, Kvm, Vcpu, VmExit};
use crate::memory::GuestMemory;
use crate::vcpu::entry_state::EntryState;

/// Where the tries' code is.
const CODE: GuestAddress = GuestAddress(0x10_0000);
/// What they read, and whose boot information nobody looks at.
const DATA: GuestAddress = GuestAddress(0x18_0000);
/// Enough for both and for the page tables.
const MEMORY: u64 = 2 << 20; // 2 MiB
/// A port that nobody has.
const PORT: u64 = 0x80;
/// Signals may interrupt a try; nothing else comes so often.
const ENTRIES: usize = 100;

const INT3: u8 = 0xcc;
const OUT_DX_AL: u8 = 0xee;
const NOP: u8 = 0x90;
const HLT: u8 = 0xf4;

/// The instruction that a software breakpoint writes over the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// INT3, which KVM reports; what hardware does.
    Int3,
    /// `out dx, al`, which KVM reports as an access to a port, in the kernel only: programs may not use
    /// ports. RIP stands behind it already at the exit, or not yet.
    Out {
        /// Whether it does.
        behind: bool,
    },
}

impl Trap {
    /// Its one byte.
    pub fn byte(self) -> u8 {
        match self {
            Self::Int3 => INT3,
            Self::Out { .. } => OUT_DX_AL,
        }
    }
}

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Able {
    /// What software breakpoints are made of; `None`: there are none.
    pub trap: Option<Trap>,
    /// Breakpoints in debug registers stop the guest.
    pub hardware: bool,
    /// So do watchpoints.
    pub watch: bool,
    /// A single instruction can be run.
    pub step: bool,
    /// ... without the interrupt that came meanwhile being served first.
    pub step_alone: bool,
}

impl Able {
    /// Tries everything.
    ///
    /// # Errors
    /// KVM's, where even a guest of one instruction is not to be had.
    pub fn find_out() -> Result<Self, Error> {
        let kvm = Kvm::open()?;
        let all = Able {
            trap: trap(&kvm)?,
            hardware: hardware(&kvm)?,
            watch: watch(&kvm)?,
            step: step(&kvm)?,
            step_alone: kvm.debug_flags() & KVM_GUESTDBG_BLOCKIRQ != 0,
        };
        Ok(all)
    }

    /// What is missing, in words, a line each; empty on hardware.
    pub fn lacks(&self) -> Vec<&'static str> {
        let lines = [
            (
                self.trap.is_none(),
                "break: KVM here stops at no instruction that could be written over the guest's; try hbreak",
            ),
            (
                matches!(self.trap, Some(Trap::Out { .. })),
                "break: KVM here does not tell of INT3, so `out dx, al` stands in for it: good in the kernel, an exception in programs",
            ),
            (
                !self.hardware,
                "hbreak: debug registers stop nothing with KVM here; use break",
            ),
            (
                !self.watch,
                "watch: debug registers stop nothing with KVM here; `set can-use-hw-watchpoints 0` has gdb step and compare instead, slowly",
            ),
            (!self.step, "stepi: KVM here does not step"),
            (
                self.step && !self.step_alone,
                "stepi: this KVM (Linux before 5.16) cannot hold interrupts back, so a step may lead into a handler",
            ),
        ];
        let missing = lines.into_iter().filter(|(lacks, _)| *lacks);
        missing.map(|(_, words)| words).collect()
    }
}

impl fmt::Display for Able {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |able| if able { "yes" } else { "no" };
        let trap = match self.trap {
            None => "no",
            Some(Trap::Int3) => "by INT3",
            Some(Trap::Out { .. }) => "by OUT, in the kernel only",
        };
        writeln!(f, "software breakpoints (break)   {trap}")?;
        writeln!(f, "hardware breakpoints (hbreak)  {}", word(self.hardware))?;
        writeln!(f, "watchpoints (watch, rwatch)    {}", word(self.watch))?;
        writeln!(f, "single steps (stepi)           {}", word(self.step))?;
        writeln!(
            f,
            "steps past interrupts          {}",
            word(self.step_alone)
        )
    }
}

/// What a try ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// A debug exit at this offset in the code.
    Debug(u64),
    /// A port, RIP at this offset.
    Port(u64),
    /// Anything else: the ability is not there.
    Else,
}

fn trap(kvm: &Kvm) -> Result<Option<Trap>, Error> {
    let watched = Watched {
        flags: KVM_GUESTDBG_USE_SW_BP,
        ..Watched::default()
    };
    if attempt(kvm, &[INT3, HLT], &watched)? == Came::Debug(0) {
        return Ok(Some(Trap::Int3));
    }
    Ok(
        match attempt(kvm, &[OUT_DX_AL, HLT], &Watched::default())? {
            Came::Port(at) => Some(Trap::Out { behind: at != 0 }),
            Came::Debug(_) | Came::Else => None,
        },
    )
}

fn hardware(kvm: &Kvm) -> Result<bool, Error> {
    let watched = slots(Slot::new(CODE.0 + 1, 1, Kind::Execute));
    Ok(attempt(kvm, &[NOP, NOP, HLT], &watched)? == Came::Debug(1))
}

fn watch(kvm: &Kvm) -> Result<bool, Error> {
    let watched = slots(Slot::new(DATA.0, 1, Kind::Write));
    let store = [0x88, 0x06, NOP, HLT]; // mov [rsi], al
    // A trap, not a fault: RIP is behind the store.
    Ok(attempt(kvm, &store, &watched)? == Came::Debug(2))
}

fn step(kvm: &Kvm) -> Result<bool, Error> {
    let watched = Watched {
        flags: KVM_GUESTDBG_SINGLESTEP,
        ..Watched::default()
    };
    Ok(attempt(kvm, &[NOP, NOP, HLT], &watched)? == Came::Debug(1))
}

fn slots(slot: Slot) -> Watched {
    let (addresses, control) = control_of(&[Some(slot), None, None, None]);
    Watched {
        flags: KVM_GUESTDBG_USE_HW_BP,
        addresses,
        control,
    }
}

/// Runs `code` in long mode to its first exit.
fn attempt(kvm: &Kvm, code: &[u8], watched: &Watched) -> Result<Came, Error> {
    let Ok(memory) = GuestMemory::new(MEMORY).map(Arc::new) else {
        return Ok(Came::Else);
    };
    let entry = EntryState::new(Protocol::Linux64, CODE, DATA);
    if entry.write_tables(&memory).is_err() || memory.write(CODE, code).is_err() {
        return Ok(Came::Else);
    }
    let vm = kvm.create_vm(memory)?;
    vm.give_memory()?;
    let mut vcpu = Arc::new(vm).create_vcpu(0)?;
    vcpu.set_cpuid(&kvm.supported_cpuid()?)?;
    entry.give(&vcpu)?;
    vcpu.set_regs(&kvm_regs {
        rdx: PORT,
        rsi: DATA.0,
        ..vcpu.regs()?
    })?;
    // A flag that this KVM does not know: the ability is not there.
    if vcpu.watch_for(watched).is_err() {
        return Ok(Came::Else);
    }
    first_exit(&mut vcpu)
}

fn first_exit(vcpu: &mut Vcpu) -> Result<Came, Error> {
    for _ in 0..ENTRIES {
        let port = match vcpu.run()? {
            VmExit::Interrupted => continue,
            VmExit::Debug(_) => false,
            VmExit::PortOut { .. } => true,
            _ => return Ok(Came::Else),
        };
        let at = vcpu.regs()?.rip.wrapping_sub(CODE.0);
        return Ok(if port {
            Came::Port(at)
        } else {
            Came::Debug(at)
        });
    }
    Ok(Came::Else)
}
