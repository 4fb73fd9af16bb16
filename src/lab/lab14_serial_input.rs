//! Lab 14: typed bytes, which come by an interrupt.
//!
//! Lab 11's pin and lab 13's port together: a byte arrives, the port raises its pin, the guest's handler
//! takes the byte, and the port lowers the pin. Source: PC16550D data sheet, "Interrupt Enable Register".
//! Read next: [`super::lab15_two_vcpus`].

use kvm_ioctls::{VcpuExit, VmFd};
use vm_memory::GuestAddress;

use super::lab11_interrupts::PIC;
use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, op, run as enter};
use super::tale::{Stop, Tale};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "serial-input",
    title: "typed bytes: a port that interrupts",
    page: include_str!("../../docs/labs/14-serial-input.md"),
    linux: false,
    guests: &[GUEST, HANDLER],
    variants: &[Variant {
        name: "stuck-pin",
        what: "the port does not lower its pin when the byte is taken",
        recognise: "the first key works, the second never: a PIC that looks for edges sees none on a pin that \
                    stays high. A console that takes one byte after each start",
    }],
    answer: Answer {
        right: &["4", "IRQ 4", "pin 4"],
        why: "COM1 has interrupt 4 on a PC; in cottage it is src/memory/layout.rs, COM1_GSI",
    },
    run,
};

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &{
        let [a, b, c, d, e, f, g, h, i, j] = PIC;
        let ier = op(&[0xba, 0xf9, 0x03], "mov dx, 0x3f9", "IER, interrupt enable");
        let one = op(&[0xb0, 0x01], "mov al, 1", "bit 0: when a byte has come");
        let out = op(&[0xee], "out dx, al", "the port may interrupt");
        let sti = op(&[0xfb], "sti", "and so may the PIC");
        let hlt = op(&[0xf4], "hlt", "wait");
        let jmp = op(&[0xeb, 0xfd], "jmp short 0x101b", "again");
        [a, b, c, d, e, f, g, h, i, j, ier, one, out, sti, hlt, jmp]
    },
};

#[rustfmt::skip]
const HANDLER: Guest = Guest {
    at: 0x3000,
    width: Width::Bits16,
    ops: &[
        op(&[0xba, 0xf8, 0x03], "mov dx, 0x3f8", "RBR, the receiver"),
        op(&[0xec], "in al, dx", "take the byte"),
        op(&[0x34, 0x20], "xor al, 0x20", "small letters become capitals"),
        op(&[0xee], "out dx, al", "and send it back: THR is the same port"),
        op(&[0xb0, 0x20], "mov al, 0x20", "EOI"),
        op(&[0xe6, 0x20], "out 0x20, al", "to the PIC"),
        op(&[0xcf], "iret", "wait on"),
    ],
};

const PIN: u32 = 4;
const DATA: u16 = 0x3f8;
const IER: u16 = 0x3f9;
const TYPED: &[u8] = b"ok";

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &GUEST)?;
    rig.load(tale, &HANDLER)?;
    rig.memory
        .write(GuestAddress(0x24 * 4), &[0x00, 0x30, 0, 0])?;
    tale.say("memory at 0x24 * 4: the handler of vector 0x24 is at 0x3000");
    tale.call(
        "KVM_CREATE_IRQCHIP",
        "for the PIC",
        rig.vm.create_irq_chip(),
    )?;
    let mut vcpu = rig.real_mode(tale)?;
    if tale.breaks("stuck-pin") {
        tale.expect_hang();
    }

    let mut keys = TYPED.iter().copied();
    let mut waiting = None;
    let mut printed = String::new();
    while printed.len() < TYPED.len() {
        tale.say("KVM_RUN");
        match enter(tale, &mut vcpu)? {
            // The guest listens now. A port that interrupts before would not be heard.
            VcpuExit::IoOut(IER, data) => {
                tale.exit(&VcpuExit::IoOut(IER, data));
                waiting = press(tale, &rig.vm, keys.next())?;
            }
            VcpuExit::IoIn(DATA, data) => {
                tale.exit(&VcpuExit::IoIn(DATA, data));
                data.fill(waiting.take().unwrap_or(0));
                tale.say("  we answer with the key");
                if !tale.breaks("stuck-pin") {
                    let lowered = rig.vm.set_irq_line(PIN, false);
                    tale.call("KVM_IRQ_LINE", "pin 4 low: nothing left to take", lowered)?;
                }
            }
            VcpuExit::IoOut(DATA, data) => {
                tale.exit(&VcpuExit::IoOut(DATA, data));
                printed.extend(data.iter().copied().map(char::from));
                waiting = press(tale, &rig.vm, keys.next())?;
            }
            VcpuExit::Intr if tale.breaks("stuck-pin") => {
                tale.say("  it does not return; after a while a signal ends it, KVM_EXIT_INTR");
                break;
            }
            exit => return Err(tale.unexpected(&exit)),
        }
    }
    tale.say(format!("the guest has printed {printed:?}"));
    Ok(())
}

/// A key is pressed, if there is one left: it waits in the port, which raises its pin.
fn press(tale: &mut Tale, vm: &VmFd, key: Option<u8>) -> Result<Option<u8>, Stop> {
    if let Some(key) = key {
        let about = format!("the key {:?}: pin 4 high", char::from(key));
        tale.call("KVM_IRQ_LINE", &about, vm.set_irq_line(PIN, true))?;
    }
    Ok(key)
}
