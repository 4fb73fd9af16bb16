//! Lab 9: a page fault, an interrupt table, and what a triple fault is.
//!
//! A fault in the guest is the guest's affair: KVM delivers it through the guest's own table, and no exit
//! tells us. Only when that fails, and the double fault after it too, do we hear of it. Source: `[sdm3]`
//! 6.14.1, "64-Bit Mode IDT"; 6.15, interrupts 8 and 14. Read next: [`super::lab10_cpuid`].

use kvm_bindings::kvm_dtable;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::GuestAddress;

use super::lab08_long_mode::long_mode;
use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, op, run as enter};
use super::tale::{Stop, Tale};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "page-fault",
    title: "a page fault, and what a triple fault is",
    page: include_str!("../../docs/labs/09-page-fault.md"),
    linux: false,
    guests: &[GUEST, HANDLER],
    variants: &[
        Variant {
            name: "no-idt",
            what: "there is no interrupt table",
            recognise: "KVM_EXIT_SHUTDOWN, with RIP at the instruction that faulted and CR2 the address it \
                        wanted; on AMD neither, for KVM resets the processor then. A kernel that dies \
                        so before its first line has touched what nobody mapped or lent",
        },
        Variant {
            name: "no-stack",
            what: "RSP points to where nothing is mapped",
            recognise: "KVM_EXIT_SHUTDOWN as without a table, and the table is in order: then look at RSP. To \
                        call a handler the processor pushes five words, and that faulted in turn",
        },
    ],
    answer: Answer {
        right: &["14", "0xe", "entry 14"],
        why: "page fault is exception 14; an entry has 16 bytes, so it is at 14 * 16 of the table",
    },
    run,
};

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits64,
    ops: &[
        op(&[0x48, 0xc7, 0xc0, 0x00, 0x00, 0x00, 0x40], "mov rax, 0x40000000", "1 GiB: the page tables end at 4 MiB"),
        op(&[0x48, 0x8b, 0x18], "mov rbx, [rax]", "a page fault"),
        op(&[0xf4], "hlt", "not reached"),
    ],
};

#[rustfmt::skip]
const HANDLER: Guest = Guest {
    at: 0x2000,
    width: Width::Bits64,
    ops: &[
        op(&[0x0f, 0x20, 0xd0], "mov rax, cr2", "the address that was not there"),
        op(&[0xe7, 0x41], "out 0x41, eax", "show it"),
        op(&[0x58], "pop rax", "the error code: why not"),
        op(&[0xe7, 0x42], "out 0x42, eax", "show it"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

const GDT: u64 = 0x3000;
const IDT: u64 = 0x4000;
const PAGE_FAULT: u64 = 14;
/// An entry's flags: present, an interrupt gate of 64 bits.
const GATE: u64 = 0x8e00;
/// Where a processor begins: lab 3.
const RESET_RIP: u64 = 0xfff0;

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &GUEST)?;
    rig.load(tale, &HANDLER)?;

    write_tables(tale, &rig)?;
    let about = "a vCPU in long mode at 0x1000, the first 4 MiB mapped, as in lab 8";
    let mut vcpu = tale.briefly(about, |tale| long_mode(tale, &rig))?;
    let table = |base, limit| kvm_dtable {
        base,
        limit,
        ..kvm_dtable::default()
    };
    let mut sregs = tale.call("KVM_GET_SREGS", "", vcpu.get_sregs())?;
    sregs.gdt = table(GDT, 15);
    sregs.idt = if tale.breaks("no-idt") {
        table(0, 0)
    } else {
        table(IDT, 16 * 256 - 1)
    };
    let about = format!("idt at {:#x}, limit {:#x}", sregs.idt.base, sregs.idt.limit);
    tale.call("KVM_SET_SREGS", &about, vcpu.set_sregs(&sregs))?;
    if tale.breaks("no-stack") {
        let mut regs = tale.call("KVM_GET_REGS", "", vcpu.get_regs())?;
        regs.rsp = 0x8000_0000;
        tale.call("KVM_SET_REGS", "rsp 0x80000000", vcpu.set_regs(&regs))?;
    }
    loop {
        tale.say("KVM_RUN");
        match enter(tale, &mut vcpu)? {
            VcpuExit::IoOut(port, data) => tale.exit(&VcpuExit::IoOut(port, data)),
            VcpuExit::Hlt => {
                tale.exit(&VcpuExit::Hlt);
                return Ok(());
            }
            VcpuExit::Shutdown if tale.is_broken() => {
                tale.exit(&VcpuExit::Shutdown);
                break;
            }
            exit => return Err(tale.unexpected(&exit)),
        }
    }
    tell_death(tale, &vcpu)
}

/// The interrupt table with one gate, and the descriptor table that delivering a fault looks into.
fn write_tables(tale: &mut Tale, rig: &Rig) -> Result<(), Stop> {
    // A gate: the handler's address in three pieces, and the selector of its code segment. That is looked
    // up, so now the GDT must be there, too: entry 1 is 64-bit code.
    let gate = HANDLER.at | 0x8 << 16 | GATE << 32;
    let [null, code] = [0, 0x00af_9b00_0000_ffff_u64];
    rig.memory
        .write(GuestAddress(IDT + PAGE_FAULT * 16), &gate.to_le_bytes())?;
    rig.memory.write(
        GuestAddress(GDT),
        [null, code].map(u64::to_le_bytes).as_flattened(),
    )?;
    tale.say(format!(
        "memory at {IDT:#x} + 14 * 16: the gate {gate:#x}, to {:#x}",
        HANDLER.at
    ));
    tale.say(format!(
        "memory at {GDT:#x}: a GDT, with 64-bit code as entry 1"
    ));
    Ok(())
}

/// What is known after a triple fault.
fn tell_death(tale: &mut Tale, vcpu: &VcpuFd) -> Result<(), Stop> {
    let regs = tale.call("KVM_GET_REGS", "where it died", vcpu.get_regs())?;
    tale.say(format!("  rip {:#x}", regs.rip));
    if regs.rip == RESET_RIP {
        tale.say(
            "  KVM has reset this processor: on AMD nothing is left of it after a triple fault",
        );
    }
    let sregs = tale.call("KVM_GET_SREGS", "and of what", vcpu.get_sregs())?;
    tale.say(format!("  cr2 {:#x}", sregs.cr2));
    Ok(())
}
