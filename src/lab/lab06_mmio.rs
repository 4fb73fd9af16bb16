//! Lab 6: memory-mapped I/O, which is memory that is not there.
//!
//! A device's register is an address where no slot is: the guest's load or store becomes an exit, and we
//! are the device. Source: `[kvm]` section 5, KVM_EXIT_MMIO. Read next: [`super::lab07_protected_mode`].

use kvm_ioctls::VcpuExit;
use vm_memory::GuestAddress;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, data_at, op, run as enter};
use super::tale::{Stop, Tale};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "mmio",
    title: "memory-mapped I/O: a store to where no memory is",
    page: include_str!("../../docs/labs/06-mmio.md"),
    linux: false,
    guests: &[GUEST],
    variants: &[Variant {
        name: "covered",
        what: "there is memory at the device's address",
        recognise: "the driver runs to its end, and the device has never been asked: no KVM_EXIT_MMIO. \
                    Memory and devices overlap; a load returns what was stored, or 0",
    }],
    answer: Answer {
        right: &["0xd0000010"],
        why: "DS begins at 0xd0000000, and the instruction adds 0x10",
    },
    run,
};

const DEVICE: u64 = 0xd000_0000;

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &[
        op(&[0xb8, 0x34, 0x12], "mov ax, 0x1234", "a word"),
        op(&[0xa3, 0x10, 0x00], "mov [0x10], ax", "store it: DS begins where no memory is"),
        op(&[0xa0, 0x20, 0x00], "mov al, [0x20]", "load a byte from there"),
        op(&[0xe6, 0x41], "out 0x41, al", "show what it was"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &GUEST)?;
    if tale.breaks("covered") {
        tale.say("KVM_SET_USER_MEMORY_REGION: slot 1, the same memory again at 0xd0000000");
        rig.lend(tale, 1, DEVICE)?;
    }
    let mut vcpu = rig.real_mode(tale)?;
    tale.say("KVM_SET_SREGS: DS begins at 0xd0000000");
    data_at(tale, &vcpu, DEVICE)?;
    loop {
        tale.say("KVM_RUN");
        match enter(tale, &mut vcpu)? {
            VcpuExit::MmioWrite(at, data) => tale.exit(&VcpuExit::MmioWrite(at, data)),
            VcpuExit::MmioRead(at, data) => {
                tale.exit(&VcpuExit::MmioRead(at, data));
                // The next KVM_RUN completes the load with what stands here.
                data.fill(0x77);
                tale.say("  we answer 0x77");
            }
            VcpuExit::IoOut(0x41, data) => tale.exit(&VcpuExit::IoOut(0x41, data)),
            VcpuExit::Hlt => {
                tale.exit(&VcpuExit::Hlt);
                break;
            }
            exit => return Err(tale.unexpected(&exit)),
        }
    }
    let mut word = [0; 2];
    rig.memory.read(GuestAddress(0x10), &mut word)?;
    tale.say(format!(
        "memory at 0x10 holds {:#x}",
        u16::from_le_bytes(word)
    ));
    Ok(())
}
