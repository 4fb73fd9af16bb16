//! Lab 3: a processor and its registers.
//!
//! A vCPU begins as a PC's processor after reset: in real mode, 16 bytes below 4 GiB, where a PC has
//! firmware. Source: `[kvm]` 4.7, 4.11 to 4.14; `[sdm3]` 10.1.4, "First Instruction Executed".
//! Read next: [`super::lab04_real_mode`].

use kvm_ioctls::VcpuExit;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{RFLAGS, Rig, run as enter};
use super::tale::{Stop, Tale};

pub(super) const LAB: Lab = Lab {
    name: "registers",
    title: "a processor and its registers",
    page: include_str!("../../docs/labs/03-registers.md"),
    linux: false,
    guests: &[],
    variants: &[Variant {
        name: "reset-vector",
        what: "the registers stay as they are, and the processor runs",
        recognise: "no exit that a device could answer, and RIP still 0xfff0: the guest never executed \
                    anything. Registers were not set, or not on this vCPU",
    }],
    answer: Answer {
        right: &["0xfffffff0"],
        why: "the base of CS counts, not its selector: 0xffff0000 + 0xfff0",
    },
    run,
};

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;

    // 1. A processor. Its number is also that of its local APIC, once there is one.
    let vcpu = rig.vm.create_vcpu(0);
    let mut vcpu = tale.call("KVM_CREATE_VCPU", "number 0", vcpu)?;

    // 2. How it begins.
    let mut sregs = tale.call(
        "KVM_GET_SREGS",
        "segments and control registers",
        vcpu.get_sregs(),
    )?;
    let (cs, cr0) = (sregs.cs, sregs.cr0);
    tale.say(format!(
        "  cs: selector {:#x}, base {:#x}, limit {:#x}",
        cs.selector, cs.base, cs.limit
    ));
    let pe = if cr0 & 1 == 0 {
        "clear: real mode"
    } else {
        "set: protected mode"
    };
    tale.say(format!("  cr0: {cr0:#x}, bit 0 is {pe}"));
    let mut regs = tale.call("KVM_GET_REGS", "all others", vcpu.get_regs())?;
    tale.say(format!("  rip {:#x}, rflags {:#x}", regs.rip, regs.rflags));
    tale.say(format!(
        "  the first instruction is at {:#x}",
        cs.base + regs.rip
    ));

    if tale.breaks("reset-vector") {
        tale.say("KVM_RUN");
        tale.expect_hang();
        match enter(tale, &mut vcpu)? {
            VcpuExit::InternalError => {
                tale.say("  exit KVM_EXIT_INTERNAL_ERROR: code where no memory is")
            }
            VcpuExit::MmioRead(at, _) => {
                tale.say(format!(
                    "  exit KVM_EXIT_MMIO: load from {at:#x}, where no memory is"
                ));
            }
            exit => return Err(tale.unexpected(&exit)),
        }
        let regs = tale.call("KVM_GET_REGS", "where it stands", vcpu.get_regs())?;
        tale.say(format!("  rip {:#x}", regs.rip));
        return Ok(());
    }

    // 3. Where it should begin instead.
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    tale.call(
        "KVM_SET_SREGS",
        "cs: selector 0, base 0",
        vcpu.set_sregs(&sregs),
    )?;
    regs.rip = 0x1000;
    regs.rflags = RFLAGS;
    tale.call(
        "KVM_SET_REGS",
        "rip 0x1000, rflags 0x2",
        vcpu.set_regs(&regs),
    )?;

    // 4. Did it take that?
    let regs = tale.call("KVM_GET_REGS", "again", vcpu.get_regs())?;
    tale.say(format!("  rip {:#x}, rflags {:#x}", regs.rip, regs.rflags));
    Ok(())
}
