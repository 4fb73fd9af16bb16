//! Lab 5: port output, and why hlt does not always return.
//!
//! The program is that of "Using the KVM API" (LWN 658511, 2015): 2 + 2, printed. Source: `[kvm]`
//! section 5, KVM_EXIT_IO; 4.38, KVM_GET_MP_STATE. Read next: [`super::lab06_mmio`].

use kvm_ioctls::VcpuExit;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, op, run as enter};
use super::tale::{Stop, Tale};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "ports",
    title: "port output: 2 + 2, and why hlt does not return",
    page: include_str!("../../docs/labs/05-ports.md"),
    linux: false,
    guests: &[GUEST],
    variants: &[Variant {
        name: "apic",
        what: "the machine gets interrupt controllers in KVM, by KVM_CREATE_IRQCHIP",
        recognise: "KVM_RUN never returns from hlt, the host's processor is idle, and KVM_GET_MP_STATE says \
                    halted: with a local APIC in KVM, KVM itself waits for the interrupt",
    }],
    answer: Answer {
        right: &["2", "two"],
        why: "one exit for each `out`; hlt makes a third exit, but that is not output",
    },
    run,
};

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &[
        op(&[0xba, 0xf8, 0x03], "mov dx, 0x3f8", "where a PC's first serial port is"),
        op(&[0x00, 0xd8], "add al, bl", "2 + 2: the host has set both"),
        op(&[0x04, 0x30], "add al, 0x30", "as a digit"),
        op(&[0xee], "out dx, al", "print it"),
        op(&[0xb0, 0x0a], "mov al, 0xa", "a line feed"),
        op(&[0xee], "out dx, al", "print that"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &GUEST)?;
    if tale.breaks("apic") {
        let made = rig.vm.create_irq_chip();
        tale.call(
            "KVM_CREATE_IRQCHIP",
            "PIC, I/O APIC, and a local APIC for each vCPU",
            made,
        )?;
        tale.expect_hang();
    }
    let mut vcpu = rig.real_mode(tale)?;
    let mut regs = tale.call("KVM_GET_REGS", "", vcpu.get_regs())?;
    regs.rax = 2;
    regs.rbx = 2;
    tale.call("KVM_SET_REGS", "al 2, bl 2", vcpu.set_regs(&regs))?;

    // What the guest prints. A real serial port has more registers: lab 13.
    let mut printed = String::new();
    loop {
        tale.say("KVM_RUN");
        match enter(tale, &mut vcpu)? {
            VcpuExit::IoOut(0x3f8, data) => {
                tale.exit(&VcpuExit::IoOut(0x3f8, data));
                printed.extend(data.iter().copied().map(char::from));
            }
            VcpuExit::Hlt => {
                tale.exit(&VcpuExit::Hlt);
                break;
            }
            VcpuExit::Intr if tale.breaks("apic") => {
                tale.say("  it does not return; after a while a signal ends it, KVM_EXIT_INTR");
                let state = vcpu.get_mp_state();
                let state = tale.call("KVM_GET_MP_STATE", "what the processor does", state)?;
                tale.say(format!("  {}", mp_state(state.mp_state)));
                break;
            }
            exit => return Err(tale.unexpected(&exit)),
        }
    }
    tale.say(format!("the guest has printed {printed:?}"));
    Ok(())
}

/// `[kvm]` 4.38
pub(super) fn mp_state(state: u32) -> &'static str {
    match state {
        kvm_bindings::KVM_MP_STATE_RUNNABLE => "runnable",
        kvm_bindings::KVM_MP_STATE_UNINITIALIZED => "uninitialized: waits for INIT",
        kvm_bindings::KVM_MP_STATE_INIT_RECEIVED => "had INIT, waits for SIPI",
        kvm_bindings::KVM_MP_STATE_HALTED => "halted: has executed hlt and waits for an interrupt",
        _ => "in a state this lab does not know",
    }
}
