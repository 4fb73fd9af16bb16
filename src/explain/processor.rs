//! The processor at the first instruction: descriptors, registers bit by bit, and that instruction.
//!
//! The names of bits are [`crate::watch::arch`]'s. What KVM sets itself and no protocol asks for (the
//! local APIC's base, DR6 and the like) is not shown.
//!
//! Source: `[sdm3]` Intel SDM vol. 3A, order no. 253668, 3.4.5 and 2.4.
//! Read next: [`crate::lab`].

use kvm_bindings::kvm_segment;

use super::guest::Guest;
use super::page::{Part, Section};
use crate::boot::Protocol;
use crate::watch::arch::{CR0, CR4, EFER, Mode, RFLAGS, Register, Segment};
use crate::watch::code::{LONGEST, Width, disassemble};
use crate::watch::paging::{End, walk};

/// Instructions that are shown at the entry point.
const INSTRUCTIONS: usize = 8;

/// Shows the GDT, read from guest memory.
pub fn gdt(guest: &Guest<'_>, section: &mut Section) {
    let table = guest.sregs.gdt;
    section.say(format!(
        "At {:#x}, limit {:#x}, the offset of its last byte. It is used when a segment register is loaded \
         again: what the registers hold now, KVM was told beside it.",
        table.base, table.limit
    ));
    let row = |selector: u64| {
        let raw = guest.number(table.base + selector, 8)?;
        let users = segments(guest)
            .into_iter()
            .filter(|(_, segment)| u64::from(segment.selector) == selector && selector != 0);
        let users: Vec<_> = users.map(|(name, _)| name).collect();
        Some(vec![
            format!("{selector:#04x}"),
            format!("{raw:#018x}"),
            users.join(" "),
            Segment::of_descriptor(raw).words(),
        ])
    };
    let rows = (0..=u64::from(table.limit)).step_by(8).filter_map(row);
    section.table(
        &["selector", "descriptor", "loaded in", "meaning"],
        rows.collect(),
    );
    let differing = segments(guest).into_iter().filter(|(_, segment)| {
        let in_table = guest.number(table.base + u64::from(segment.selector), 8);
        let in_table = in_table.map(Segment::of_descriptor);
        segment.selector != 0 && in_table != Some(Segment::of_register(segment))
    });
    let differing: Vec<_> = differing.map(|(name, _)| name).collect();
    if !differing.is_empty() {
        section.say(format!(
            "The registers {} hold something else than the table, which is wrong: they change when they \
             are loaded again.",
            differing.join(" ")
        ));
    }
}

fn segments(guest: &Guest<'_>) -> [(&'static str, kvm_segment); 7] {
    let sregs = &guest.sregs;
    [
        ("CS", sregs.cs),
        ("DS", sregs.ds),
        ("ES", sregs.es),
        ("FS", sregs.fs),
        ("GS", sregs.gs),
        ("SS", sregs.ss),
        ("TR", sregs.tr),
    ]
}

/// Shows registers and the first instructions.
pub fn registers(guest: &Guest<'_>, section: &mut Section) {
    section.say(format!(
        "The first processor is in {}.{}",
        Mode::of(&guest.sregs).words(),
        match guest.config.vcpus {
            1 => "",
            _ =>
                " The others wait in KVM, in real mode, until the kernel sends them INIT and SIPI.",
        }
    ));
    let mut rows = general(guest);
    for (register, value) in [
        (CR0, guest.sregs.cr0),
        (CR4, guest.sregs.cr4),
        (EFER, guest.sregs.efer),
        (RFLAGS, guest.regs.rflags),
    ] {
        rows.extend(bits(register, value));
    }
    let row = |name: &str, value: u64, meaning: &str| {
        vec![name.to_owned(), format!("{value:#x}"), meaning.to_owned()]
    };
    let idt = guest.sregs.idt;
    rows.extend([
        row(
            "CR3",
            guest.sregs.cr3,
            match guest.sregs.cr3 {
                0 => "no page tables",
                _ => "where the page tables begin",
            },
        ),
        row("GDTR", guest.sregs.gdt.base, "where the GDT is"),
        row(
            "IDTR",
            idt.base,
            match idt.limit {
                0 => "limit 0: no interrupt table, so that an exception now is a triple fault",
                _ => "where the interrupt table is",
            },
        ),
    ]);
    section.table(&["register", "value", "meaning"], rows);
    let row = |(name, segment): (&str, kvm_segment)| {
        vec![
            name.to_owned(),
            format!("{:#x}", segment.selector),
            Segment::of_register(&segment).words(),
        ]
    };
    let rows = segments(guest).into_iter().map(row).collect();
    section.table(&["segment", "selector", "meaning"], rows);
    section.say("The first instructions, as they lie in guest memory:");
    section.parts.push(Part::Verbatim(code(guest)));
}

/// General-purpose registers that are not zero.
fn general(guest: &Guest<'_>) -> Vec<Vec<String>> {
    let regs = guest.regs;
    let told = match guest.filled.protocol {
        Protocol::Linux64 | Protocol::Linux32 => "the zero page",
        Protocol::Pvh => "the start info",
        Protocol::Multiboot => "the multiboot information",
    };
    let pointer = format!("address of {told}");
    let meaning = |name: &str, value: u64| match name {
        "RIP" => "the first instruction".to_owned(),
        "RSP" | "RBP" => "a stack, which the protocol does not promise".into(),
        "RAX" => "a multiboot loader was here".into(),
        _ if value == guest.filled.info.0 => pointer.clone(),
        _ => String::new(),
    };
    let registers = [
        ("RIP", regs.rip),
        ("RAX", regs.rax),
        ("RBX", regs.rbx),
        ("RCX", regs.rcx),
        ("RDX", regs.rdx),
        ("RSI", regs.rsi),
        ("RDI", regs.rdi),
        ("RBP", regs.rbp),
        ("RSP", regs.rsp),
        ("R8", regs.r8),
        ("R9", regs.r9),
        ("R10", regs.r10),
        ("R11", regs.r11),
        ("R12", regs.r12),
        ("R13", regs.r13),
        ("R14", regs.r14),
        ("R15", regs.r15),
    ];
    let set = registers.into_iter().filter(|(_, value)| *value != 0);
    let row = |(name, value)| {
        vec![
            String::from(name),
            format!("{value:#x}"),
            meaning(name, value),
        ]
    };
    let mut rows: Vec<_> = set.map(row).collect();
    rows.push(vec![
        "others".into(),
        "0x0".into(),
        "of the general registers".into(),
    ]);
    rows
}

/// The register in a row, then its bits in one each.
fn bits(register: Register, value: u64) -> Vec<Vec<String>> {
    let mut rows = vec![vec![
        register.name.to_owned(),
        format!("{value:#x}"),
        match value {
            0 => "no bit is set".to_owned(),
            _ => register.names(value),
        },
    ]];
    rows.extend(register.set(value).map(|bit| {
        vec![
            format!("  .{}", bit.name),
            format!("bit {}", bit.at),
            bit.meaning.to_owned(),
        ]
    }));
    rows
}

/// The instructions at the entry point.
fn code(guest: &Guest<'_>) -> Vec<String> {
    let read = |at, len| guest.number(at, len);
    let End::Mapped(physical) = walk(&guest.sregs, guest.regs.rip, read).end else {
        return vec!["not mapped".into()];
    };
    let bytes = guest
        .bytes(physical, (INSTRUCTIONS * LONGEST) as u64)
        .unwrap_or_default();
    let long = EFER.has(guest.sregs.efer, "LMA");
    let width = Width::of(long, guest.sregs.cs.l == 1, guest.sregs.cs.db == 1);
    let lines = disassemble(&bytes, guest.regs.rip, width);
    let text = |line: &crate::watch::code::Line| {
        let bytes: Vec<_> = line
            .bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{:#x}  {:<24} {}", line.at, bytes.join(" "), line.text)
    };
    lines.iter().take(INSTRUCTIONS).map(text).collect()
}
