//! Lab 7: protected mode, by the guest itself.
//!
//! Real mode ends at 1 MiB. A descriptor table says what segments there are; bit 0 of CR0 makes the
//! processor look there; a far jump loads CS. Source: `[sdm3]` 10.9.1, "Switching to Protected Mode"; 3.4.5,
//! "Segment Descriptors". Read next: [`super::lab08_long_mode`].

use kvm_ioctls::VcpuExit;
use vm_memory::GuestAddress;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, op, run as enter};
use super::tale::{Stop, Tale};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "protected-mode",
    title: "protected mode: a GDT, and a far jump",
    page: include_str!("../../docs/labs/07-protected-mode.md"),
    linux: false,
    guests: &[REAL, PROTECTED],
    variants: &[Variant {
        name: "gdt-limit",
        what: "the table's limit is 7: only the null descriptor counts",
        recognise: "KVM_EXIT_SHUTDOWN right after CR0.PE is set: descriptor 1 lies beyond the limit, which is \
                    a fault, and there is nobody to handle it. The limit is the size less 1",
    }],
    answer: Answer {
        right: &["23", "0x17"],
        why: "three descriptors of 8 bytes are 24 bytes; the limit is the last byte that counts",
    },
    run,
};

#[rustfmt::skip]
const REAL: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &[
        op(&[0xfa], "cli", "no interrupts on the way"),
        op(&[0x66, 0x0f, 0x01, 0x16, 0x00, 0x20], "lgdt [0x2000]", "where the descriptors are"),
        op(&[0x0f, 0x20, 0xc0], "mov eax, cr0", "the switch:"),
        op(&[0x66, 0x83, 0xc8, 0x01], "or eax, 1", "bit 0, PE"),
        op(&[0x0f, 0x22, 0xc0], "mov cr0, eax", "protected mode, but CS is still that of real mode"),
        op(&[0xea, 0x00, 0x30, 0x08, 0x00], "jmp far 0x3000, 8", "load CS with descriptor 1"),
    ],
};

#[rustfmt::skip]
const PROTECTED: Guest = Guest {
    at: 0x3000,
    width: Width::Bits32,
    ops: &[
        op(&[0x66, 0xb8, 0x10, 0x00], "mov ax, 0x10", "descriptor 2"),
        op(&[0x8e, 0xd8], "mov ds, ax", "a data segment of 4 GiB"),
        op(&[0xb8, 0x78, 0x56, 0x34, 0x12], "mov eax, 0x12345678", "an immediate that only 32-bit code has"),
        op(&[0xa3, 0x00, 0x00, 0x10, 0x00], "mov [0x100000], eax", "beyond the reach of real mode"),
        op(&[0xe7, 0x41], "out 0x41, eax", "show it"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

/// Null; code; data. Both reach from 0 to 4 GiB: base 0, a limit of 0xfffff pages.
///
/// The bytes from the top: base 31:24, flags and limit 19:16, access, base 23:0, limit 15:0.
const GDT: [u64; 3] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &REAL)?;
    rig.load(tale, &PROTECTED)?;

    // What lgdt loads: the limit, 2 bytes, and the address, 4 bytes.
    let limit: u16 = if tale.breaks("gdt-limit") { 7 } else { 23 };
    let [low, high] = limit.to_le_bytes();
    rig.memory
        .write(GuestAddress(0x2000), &[low, high, 0x10, 0x20, 0, 0])?;
    rig.memory.write(
        GuestAddress(0x2010),
        GDT.map(u64::to_le_bytes).as_flattened(),
    )?;
    tale.say(format!(
        "memory at 0x2000: limit {limit}, the table is at 0x2010"
    ));
    for (number, (what, descriptor)) in ["null", "code", "data"].into_iter().zip(GDT).enumerate() {
        tale.say(format!("  descriptor {number}, {what}: {descriptor:#018x}"));
    }

    let mut vcpu = rig.real_mode(tale)?;
    loop {
        tale.say("KVM_RUN");
        match enter(tale, &mut vcpu)? {
            VcpuExit::IoOut(0x41, data) => tale.exit(&VcpuExit::IoOut(0x41, data)),
            VcpuExit::Hlt => {
                tale.exit(&VcpuExit::Hlt);
                break;
            }
            VcpuExit::Shutdown if tale.breaks("gdt-limit") => {
                tale.exit(&VcpuExit::Shutdown);
                return Ok(());
            }
            exit => return Err(tale.unexpected(&exit)),
        }
    }
    let sregs = tale.call("KVM_GET_SREGS", "what the jump has done", vcpu.get_sregs())?;
    let cs = sregs.cs;
    tale.say(format!("  cr0 bit 0: {}", sregs.cr0 & 1));
    tale.say(format!(
        "  cs: selector {:#x}, base {:#x}, limit {:#x}",
        cs.selector, cs.base, cs.limit
    ));
    let mut stored = [0; 4];
    rig.memory.read(GuestAddress(0x10_0000), &mut stored)?;
    tale.say(format!(
        "memory at 0x100000 holds {:#x}",
        u32::from_le_bytes(stored)
    ));
    Ok(())
}
