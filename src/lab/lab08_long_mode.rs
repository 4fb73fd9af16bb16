//! Lab 8: long mode and page tables, by the host.
//!
//! A VMM need not have the guest switch: it writes the tables to memory and sets the registers, all at
//! once. This is how Linux's 64-bit entry is reached. Source: `[sdm3]` 4.5, "4-Level Paging"; 10.8.5,
//! "Initializing IA-32e Mode". Read next: [`super::lab09_page_fault`].

use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::GuestAddress;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, RFLAGS, Rig, op, run as enter};
use super::tale::{Stop, Tale};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "long-mode",
    title: "long mode: page tables, EFER, and CS.L",
    page: include_str!("../../docs/labs/08-long-mode.md"),
    linux: false,
    guests: &[GUEST],
    variants: &[
        Variant {
            name: "no-l",
            what: "the code segment has L clear: long mode, but 32-bit code",
            recognise: "no fault at all. The same bytes mean other instructions: 0x48 is no prefix, but \
                        `dec eax`. A disassembly of 64-bit code with a `dec eax` before everything",
        },
        Variant {
            name: "no-pae",
            what: "CR4.PAE is clear",
            recognise: "KVM_SET_SREGS refuses with EINVAL. KVM says no more than that; it checks CR0.PG, \
                        CR4.PAE, EFER.LME and EFER.LMA against each other, and L against D",
        },
    ],
    answer: Answer {
        right: &["512", "0x200"],
        why: "a table is a page of 4096 bytes, an entry has 8",
    },
    run,
};

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits64,
    ops: &[
        op(&[0x48, 0x31, 0xc0], "xor rax, rax", "0"),
        op(&[0x48, 0xff, 0xc8], "dec rax", "minus 1: 64 ones"),
        op(&[0x48, 0xc1, 0xe8, 0x20], "shr rax, 0x20", "the upper 32 of them"),
        op(&[0xe7, 0x41], "out 0x41, eax", "show them"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

// A table's entry: an address, and in its low bits flags.
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7; // 2 MiB at once
/// Top table, second table, third: each a page.
const TABLES: [u64; 3] = [0x8000, 0x9000, 0xa000];

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &GUEST)?;
    let mut vcpu = long_mode(tale, &rig)?;
    loop {
        tale.say("KVM_RUN");
        match enter(tale, &mut vcpu)? {
            VcpuExit::IoOut(0x41, data) => tale.exit(&VcpuExit::IoOut(0x41, data)),
            VcpuExit::Hlt => {
                tale.exit(&VcpuExit::Hlt);
                return Ok(());
            }
            exit => return Err(tale.unexpected(&exit)),
        }
    }
}

/// Processor 0 in long mode at [`CODE`], with the first 4 MiB mapped one to one and a stack below 0x7000.
pub(super) fn long_mode(tale: &mut Tale, rig: &Rig) -> Result<VcpuFd, Stop> {
    // 1. Tables.
    write_tables(tale, rig)?;

    // 2. Registers, all in one call: KVM checks that they go together.
    let vcpu = tale.call("KVM_CREATE_VCPU", "number 0", rig.vm.create_vcpu(0))?;
    let mut sregs = tale.call("KVM_GET_SREGS", "", vcpu.get_sregs())?;
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        present: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    sregs.cs = kvm_segment {
        selector: 0x8,
        type_: 0b1011, // execute, read, accessed
        l: u8::from(!tale.breaks("no-l")),
        db: u8::from(tale.breaks("no-l")),
        ..flat
    };
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
        *segment = kvm_segment {
            selector: 0x10,
            type_: 0b0011, // read, write, accessed
            db: 1,
            ..flat
        };
    }
    sregs.cr3 = TABLES[0];
    sregs.cr4 = if tale.breaks("no-pae") { 0 } else { 1 << 5 }; // PAE
    sregs.cr0 = 1 << 31 | 1 << 4 | 1; // PG, ET, PE
    sregs.efer = 1 << 10 | 1 << 8; // LMA, LME
    let about = format!(
        "cr0 {:#x}, cr3 {:#x}, cr4 {:#x}, efer {:#x}, cs.l {}",
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer, sregs.cs.l
    );
    tale.call("KVM_SET_SREGS", &about, vcpu.set_sregs(&sregs))?;
    let regs = kvm_regs {
        rip: CODE,
        rsp: 0x7000,
        rflags: RFLAGS,
        ..kvm_regs::default()
    };
    tale.call(
        "KVM_SET_REGS",
        "rip 0x1000, rsp 0x7000, rflags 0x2",
        vcpu.set_regs(&regs),
    )?;
    Ok(vcpu)
}

/// Maps the first 4 MiB one to one.
fn write_tables(tale: &mut Tale, rig: &Rig) -> Result<(), Stop> {
    // An address's bits 47:39 choose an entry of the top table, 38:30 of the second, 29:21 of
    //    the third, whose entries here are pages of 2 MiB; bits 20:0 are the place in it.
    let [top, second, third] = TABLES;
    for (table, entry, value, meaning) in [
        (top, 0, second | PRESENT_WRITABLE, "the second table"),
        (second, 0, third | PRESENT_WRITABLE, "the third table"),
        (third, 0, PRESENT_WRITABLE | LARGE, "2 MiB from 0 on"),
        (
            third,
            1,
            0x20_0000 | PRESENT_WRITABLE | LARGE,
            "2 MiB from 2 MiB on",
        ),
    ] {
        rig.memory
            .write(GuestAddress(table + entry * 8), &value.to_le_bytes())?;
        tale.say(format!(
            "  table at {table:#x}, entry {entry}: {value:#8x}, {meaning}"
        ));
    }
    Ok(())
}
