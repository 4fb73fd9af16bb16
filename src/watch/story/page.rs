//! The page: cause, likely mistakes, registers, code, stack, page tables, last exits.
//!
//! In the order in which one asks. A line is a fact; lines are for a terminal of 100 columns, and there are
//! never more than about 70.
//! Read next: [`super::exits`].

use kvm_bindings::{
    KVM_EXIT_SHUTDOWN, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED,
};

use super::exits::exits;
use super::{View, boot_mistakes, mistakes, printable};
use crate::watch::arch::{CR0, CR4, EFER, Mode, RFLAGS, Segment};
use crate::watch::paging::End;
use crate::watch::tell::Kind;

/// Instructions shown.
const INSTRUCTIONS: usize = 6;
/// Words of the stack shown.
const STACK_WORDS: u64 = 8;
/// Where Linux maps its own text, which lies in memory from 0 on unless KASLR moves it.
/// Linux `Documentation/arch/x86/x86_64/mm.rst`, v6.12
const LINUX_TEXT: u64 = 0xffff_ffff_8000_0000;

/// The page as text.
pub fn render(view: &View<'_>) -> String {
    let mut lines = vec![printable(&view.report.headline)];
    // A panic comes from code that works, and the processor stands where the reset was asked for.
    let mut mistakes = match view.report.kind {
        Kind::Panic => Vec::new(),
        _ => mistakes::all(view),
    };
    mistakes.extend(boot_mistakes::all(view));
    if !mistakes.is_empty() {
        let head = match view.report.kind {
            Kind::Stopped => "what stands out:",
            _ => "what it looks like:",
        };
        lines.push(head.into());
        lines.extend(mistakes.iter().map(|found| format!("  - {found}")));
    }
    if view.was_reset() {
        lines.push(RESET_NOTE.into());
    }
    lines.extend(registers(view));
    lines.extend(tables_of_segments(view));
    lines.extend(code(view));
    if !view.was_reset() {
        lines.extend(stack(view));
        lines.extend(tables(view));
    }
    lines.extend(exits(&view.scene().exits));
    lines.join("\n")
}

const RESET_NOTE: &str = "on AMD, KVM resets a processor that shuts down: these registers are those after \
                          a reset, the guest's are gone; the last exits say where it was";

/// Everything KVM tells of the processor itself.
pub fn registers(view: &View<'_>) -> Vec<String> {
    let (scene, regs) = (view.scene(), &view.scene().regs);
    let row = |names: [(&str, u64); 4]| {
        names
            .map(|(name, value)| format!("{name:<3} {:<18}", format!("{value:#x}")))
            .join("  ")
            .trim_end()
            .to_owned()
    };
    let sregs = &scene.sregs;
    let mut lines = vec![
        format!(
            "processor {}, {}; {}, ring {}",
            scene.id,
            Mode::of(sregs).words(),
            activity(scene.mp_state),
            sregs.cs.dpl
        ),
        format!(
            "rip {:#x}  rflags {:#x} ({})",
            regs.rip,
            regs.rflags,
            RFLAGS.names(regs.rflags)
        ),
        row([
            ("rax", regs.rax),
            ("rbx", regs.rbx),
            ("rcx", regs.rcx),
            ("rdx", regs.rdx),
        ]),
        row([
            ("rsi", regs.rsi),
            ("rdi", regs.rdi),
            ("rsp", regs.rsp),
            ("rbp", regs.rbp),
        ]),
        row([
            ("r8", regs.r8),
            ("r9", regs.r9),
            ("r10", regs.r10),
            ("r11", regs.r11),
        ]),
        row([
            ("r12", regs.r12),
            ("r13", regs.r13),
            ("r14", regs.r14),
            ("r15", regs.r15),
        ]),
        format!("cr0 {:#x} ({})", sregs.cr0, CR0.names(sregs.cr0)),
        format!(
            "cr2 {:#x}  cr3 {:#x}  cr4 {:#x} ({})",
            sregs.cr2,
            sregs.cr3,
            sregs.cr4,
            CR4.names(sregs.cr4)
        ),
        format!("efer {:#x} ({})", sregs.efer, EFER.names(sregs.efer)),
    ];
    lines.extend(pending(view));
    lines
}

/// Code and stack segment, and where the tables are: what most mistakes are about.
fn tables_of_segments(view: &View<'_>) -> Vec<String> {
    let all = segments(view);
    let wanted = |line: &String| {
        ["cs ", "ss ", "gdt", "idt"]
            .iter()
            .any(|w| line.starts_with(w))
    };
    all.into_iter().filter(wanted).collect()
}

/// Segments and tables.
pub fn segments(view: &View<'_>) -> Vec<String> {
    let sregs = &view.scene().sregs;
    let named = [
        ("cs", &sregs.cs),
        ("ds", &sregs.ds),
        ("es", &sregs.es),
        ("fs", &sregs.fs),
        ("gs", &sregs.gs),
        ("ss", &sregs.ss),
        ("tr", &sregs.tr),
        ("ldt", &sregs.ldt),
    ];
    let mut lines: Vec<_> = named
        .iter()
        .map(|(name, segment)| {
            let words = Segment::of_register(segment).words();
            format!("{name:<3} {:#06x}  {words}", segment.selector)
        })
        .collect();
    for (name, table) in [("gdt", &sregs.gdt), ("idt", &sregs.idt)] {
        lines.push(format!(
            "{name} at {:#x}, limit {:#x}",
            table.base, table.limit
        ));
    }
    lines
}

fn activity(mp_state: u32) -> &'static str {
    match mp_state {
        KVM_MP_STATE_RUNNABLE => "running",
        KVM_MP_STATE_UNINITIALIZED => "waiting for INIT",
        KVM_MP_STATE_INIT_RECEIVED => "waiting for SIPI",
        KVM_MP_STATE_HALTED => "halted",
        KVM_MP_STATE_SIPI_RECEIVED => "starting by SIPI",
        _ => "in a state this cottage does not know",
    }
}

/// Exceptions and interrupts on their way.
fn pending(view: &View<'_>) -> Option<String> {
    let events = &view.scene().events;
    let exception = &events.exception;
    let mut found = Vec::new();
    if exception.injected != 0 || exception.pending != 0 {
        let mut text = format!("exception {}", exception_name(exception.nr));
        if exception.has_error_code != 0 {
            text += &format!(", error code {:#x}", exception.error_code);
        }
        found.push(text);
    }
    if events.interrupt.injected != 0 {
        found.push(format!("interrupt vector {:#x}", events.interrupt.nr));
    }
    if events.nmi.injected != 0 || events.nmi.pending != 0 {
        found.push("NMI".into());
    }
    (!found.is_empty()).then(|| format!("on its way: {}", found.join("; ")))
}

/// "#PF (14, page fault)". `[sdm3]` table 6-1
pub fn exception_name(vector: u8) -> String {
    let name = match vector {
        0 => "#DE, divide error",
        1 => "#DB, debug",
        3 => "#BP, breakpoint",
        4 => "#OF, overflow",
        5 => "#BR, bound",
        6 => "#UD, no such instruction",
        7 => "#NM, no floating point",
        8 => "#DF, double fault",
        10 => "#TS, bad TSS",
        11 => "#NP, segment not present",
        12 => "#SS, stack segment",
        13 => "#GP, general protection",
        14 => "#PF, page fault",
        16 => "#MF, floating point",
        17 => "#AC, alignment",
        18 => "#MC, machine check",
        19 => "#XM, SIMD floating point",
        _ => return format!("{vector}"),
    };
    format!("{vector} ({name})")
}

/// Instructions from RIP on; after a reset, from where the last exit was.
fn code(view: &View<'_>) -> Vec<String> {
    if view.was_reset() {
        return last_code(view);
    }
    let lines = view.code(view.rip(), INSTRUCTIONS);
    if lines.is_empty() {
        return vec!["code at rip: not mapped to memory".into()];
    }
    let mut text = vec!["code at rip:".to_owned()];
    text.extend(lines.iter().map(|line| format!("  {line}")));
    text
}

/// The code at the last exit before the reset. The page tables are gone: what can be guessed are one to
/// one, and Linux's text.
fn last_code(view: &View<'_>) -> Vec<String> {
    let exits = &view.scene().exits;
    let last = exits.iter().rev().find(|e| e.reason != KVM_EXIT_SHUTDOWN);
    let Some(rip) = last.map(|exit| exit.rip).filter(|rip| *rip != 0) else {
        return vec!["code at rip: gone".into()];
    };
    let (gpa, how) = match rip.checked_sub(LINUX_TEXT) {
        Some(offset) => (offset, "if Linux has its text at its usual place"),
        None => (rip, "if addresses are mapped one to one"),
    };
    let mut bytes = [0; 48];
    if !view.memory.read(gpa, &mut bytes) {
        return vec![format!("code at rip: gone; the last exit was at {rip:#x}")];
    }
    let width = crate::watch::code::Width::Bits64;
    let lines = crate::watch::code::disassemble(&bytes, rip, width);
    let mut text = vec![format!(
        "code at rip: gone; at the last exit, {rip:#x}, as 64-bit code, {how}:"
    )];
    text.extend(lines.iter().take(INSTRUCTIONS).map(|l| format!("  {l}")));
    text
}

/// Words from RSP on.
fn stack(view: &View<'_>) -> Vec<String> {
    let rsp = view.rsp();
    let words = (0..STACK_WORDS).map_while(|n| view.word(rsp.wrapping_add(n * 8)));
    let words: Vec<_> = words.map(|word| format!("{word:#x}")).collect();
    if words.is_empty() {
        return vec![format!("stack at {rsp:#x}: not mapped to memory")];
    }
    let rows = words.chunks(4).map(|row| format!("  {}", row.join("  ")));
    std::iter::once(format!("stack at {rsp:#x}:"))
        .chain(rows)
        .collect()
}

/// Where RIP, RSP and CR2 lead: in full where a walk fails, and for CR2.
fn tables(view: &View<'_>) -> Vec<String> {
    if !view.paging() {
        return Vec::new();
    }
    let cr2 = view.scene().sregs.cr2;
    let mut lines = Vec::new();
    for (name, address) in [("rip", view.rip()), ("rsp", view.rsp()), ("cr2", cr2)] {
        if name == "cr2" && (cr2 == 0 || cr2 == view.rip() || cr2 == view.rsp()) {
            continue;
        }
        let walk = view.walk(address);
        match walk.end {
            End::Mapped(gpa) if name != "cr2" => {
                lines.push(format!(
                    "page tables: {name} {address:#x} is at physical {gpa:#x}"
                ));
            }
            _ => {
                let what = if name == "cr2" {
                    ", the last page fault's address"
                } else {
                    ""
                };
                lines.push(format!("page tables for {name}{what}, by {}:", walk.format));
                lines.extend(walk.lines().iter().map(|line| format!("  {line}")));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::last::LastExit;
    use crate::watch::story::testing::{CODE, crashed, view};

    #[test]
    fn page_goes_from_the_cause_to_the_last_exits() {
        let (mut report, memory) = crashed(&[0x48, 0x8b, 0x18]);
        report.scene.sregs.cr2 = 1 << 40;
        report.scene.events.exception.pending = 1;
        report.scene.events.exception.nr = 14;
        report.scene.events.exception.has_error_code = 1;
        let text = render(&view(&report, &memory));
        let mut rest = text.as_str();
        for part in [
            "the guest crashed\nwhat it looks like:\n",
            "processor 0, long mode: 64-bit code, paging; running, ring 0\nrip 0x100000",
            "on its way: exception 14 (#PF, page fault), error code 0x0\n",
            "cs  0x0010  64-bit code",
            "code at rip:\n  0x100000  48 8b 18                  mov rbx, [rax]\n",
            "stack at 0x8ff0:\n",
            "page tables: rip 0x100000 is at physical 0x100000\n",
            "page tables for cr2, the last page fault's address, by 4-level paging:\n  PML4 entry   2",
            "last exits: none",
        ] {
            let found = rest.split_once(part);
            rest = found.unwrap_or_else(|| panic!("no {part:?} in\n{text}")).1;
        }
    }

    #[test]
    fn processor_that_was_reset_shows_the_code_of_its_last_exit() {
        let (mut report, memory) = crashed(&[0xf4]);
        report.scene.regs.rip = 0xfff0;
        report.scene.sregs = kvm_bindings::kvm_sregs::default();
        report.scene.sregs.cs.base = 0xffff_0000;
        let exit = |reason, rip| LastExit {
            reason,
            rip,
            number: 1,
            ..LastExit::default()
        };
        report.scene.exits = vec![exit(2, CODE), exit(KVM_EXIT_SHUTDOWN, 0xfff0)];
        let text = render(&view(&report, &memory));
        assert!(text.contains("on AMD, KVM resets"), "{text}");
        let code = "at the last exit, 0x100000, as 64-bit code, if addresses are mapped one to one:\n  \
                    0x100000  f4";
        assert!(text.contains(code), "{text}");
        report.scene.exits = vec![exit(2, LINUX_TEXT + CODE)];
        let text = render(&view(&report, &memory));
        assert!(text.contains("0xffffffff80100000  f4"), "{text}");
    }
}
