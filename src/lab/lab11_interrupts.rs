//! Lab 11: an interrupt, from a pin to a handler.
//!
//! KVM has a PC's interrupt controllers. The guest programs the PIC, the host moves a pin, and the handler
//! runs: none of the guest's accesses to ports 0x20 and 0x21 is an exit. Source: `[kvm]` 4.24,
//! KVM_CREATE_IRQCHIP; 4.25, KVM_IRQ_LINE; Intel 8259A data sheet. Read next: [`super::lab12_timer`].

use kvm_ioctls::VcpuExit;
use vm_memory::GuestAddress;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Op, Rig, op, run as enter};
use super::tale::{Stop, Tale};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "interrupts",
    title: "an interrupt: from a pin to a handler",
    page: include_str!("../../docs/labs/11-interrupts.md"),
    linux: false,
    guests: &[GUEST, HANDLER, FORGETFUL],
    variants: &[
        Variant {
            name: "after-vcpu",
            what: "KVM_CREATE_IRQCHIP comes after KVM_CREATE_VCPU",
            recognise: "EINVAL from KVM_CREATE_IRQCHIP: a vCPU gets its local APIC when it is made, so the \
                        controllers come first. (After the memory they should come, for speed: see the page)",
        },
        Variant {
            name: "no-eoi",
            what: "the handler does not tell the PIC that it is done",
            recognise: "the first interrupt arrives and no other ever does; the processor is halted. A driver \
                        that stops after one request, a clock that ticks once",
        },
    ],
    answer: Answer {
        right: &["0x90", "36 * 4"],
        why: "pin 4 is vector 0x24, and an entry of a real-mode interrupt table has 4 bytes",
    },
    run,
};

/// ICW1 to ICW4 and the mask: what programs a PIC.
#[rustfmt::skip]
pub(super) const PIC: [Op; 10] = [
    op(&[0xb0, 0x11], "mov al, 0x11", "ICW1: begin, with ICW4"),
    op(&[0xe6, 0x20], "out 0x20, al", "to the first PIC"),
    op(&[0xb0, 0x20], "mov al, 0x20", "ICW2: its pin 0 is vector 0x20"),
    op(&[0xe6, 0x21], "out 0x21, al", ""),
    op(&[0xb0, 0x04], "mov al, 4", "ICW3: the second PIC is at pin 2"),
    op(&[0xe6, 0x21], "out 0x21, al", ""),
    op(&[0xb0, 0x01], "mov al, 1", "ICW4: 8086 mode"),
    op(&[0xe6, 0x21], "out 0x21, al", ""),
    op(&[0xb0, 0xef], "mov al, 0xef", "the mask: all pins off but 4"),
    op(&[0xe6, 0x21], "out 0x21, al", ""),
];

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &{
        let [a, b, c, d, e, f, g, h, i, j] = PIC;
        let ready = op(&[0xe6, 0x80], "out 0x80, al", "tell the host: ready");
        let sti = op(&[0xfb], "sti", "interrupts on");
        let hlt = op(&[0xf4], "hlt", "wait");
        let jmp = op(&[0xeb, 0xfd], "jmp short 0x1017", "again");
        [a, b, c, d, e, f, g, h, i, j, ready, sti, hlt, jmp]
    },
};

#[rustfmt::skip]
const HANDLER: Guest = Guest {
    at: 0x3000,
    width: Width::Bits16,
    ops: &[
        op(&[0xe6, 0x41], "out 0x41, al", "here we are"),
        op(&[0xb0, 0x20], "mov al, 0x20", "EOI: done with it"),
        op(&[0xe6, 0x20], "out 0x20, al", "to the first PIC"),
        op(&[0xe6, 0x42], "out 0x42, al", "tell the host"),
        op(&[0xcf], "iret", "back to the loop"),
    ],
};

/// The handler without the EOI.
#[rustfmt::skip]
const FORGETFUL: Guest = Guest {
    at: 0x3000,
    width: Width::Bits16,
    ops: &[
        op(&[0xe6, 0x41], "out 0x41, al", "here we are"),
        op(&[0xe6, 0x42], "out 0x42, al", "tell the host"),
        op(&[0xcf], "iret", "back to the loop"),
    ],
};

const PIN: u32 = 4;

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &GUEST)?;
    rig.load(
        tale,
        if tale.breaks("no-eoi") {
            &FORGETFUL
        } else {
            &HANDLER
        },
    )?;
    // Real mode's interrupt table is at 0: offset and segment for each vector.
    rig.memory
        .write(GuestAddress(0x24 * 4), &[0x00, 0x30, 0, 0])?;
    tale.say("memory at 0x24 * 4: the handler of vector 0x24 is at 0x3000");

    if tale.breaks("after-vcpu") {
        let _vcpu = rig.real_mode(tale)?;
        return tale.call("KVM_CREATE_IRQCHIP", "now", rig.vm.create_irq_chip());
    }
    let made = rig.vm.create_irq_chip();
    tale.call(
        "KVM_CREATE_IRQCHIP",
        "two PICs, an I/O APIC, a local APIC for each vCPU",
        made,
    )?;
    let mut vcpu = rig.real_mode(tale)?;
    if tale.breaks("no-eoi") {
        tale.expect_hang();
    }
    let mut handled = 0;
    while handled < 2 {
        tale.say("KVM_RUN");
        match enter(tale, &mut vcpu)? {
            VcpuExit::IoOut(0x80, data) => {
                tale.exit(&VcpuExit::IoOut(0x80, data));
                let raised = rig.vm.set_irq_line(PIN, true);
                tale.call("KVM_IRQ_LINE", "pin 4 high", raised)?;
            }
            VcpuExit::IoOut(0x41, data) => tale.exit(&VcpuExit::IoOut(0x41, data)),
            VcpuExit::IoOut(0x42, data) => {
                tale.exit(&VcpuExit::IoOut(0x42, data));
                handled += 1;
                // The PIC looks for edges: low, and high again, is a second interrupt.
                let lowered = rig.vm.set_irq_line(PIN, false);
                tale.call("KVM_IRQ_LINE", "pin 4 low", lowered)?;
                let raised = rig.vm.set_irq_line(PIN, true);
                tale.call("KVM_IRQ_LINE", "pin 4 high", raised)?;
            }
            VcpuExit::Intr if tale.breaks("no-eoi") => {
                tale.say("  it does not return; after a while a signal ends it, KVM_EXIT_INTR");
                break;
            }
            exit => return Err(tale.unexpected(&exit)),
        }
    }
    tale.say(format!("interrupts handled: {handled}"));
    Ok(())
}
