//! Likely mistakes of a processor's state, by rules.
//!
//! Each rule looks for one thing that those who write kernels, loaders and VMMs get wrong, and says it
//! in a sentence that names the value. A rule that finds nothing says nothing; a sentence is a suspicion,
//! and stands above the state that it was read from.
//!
//! Sources: `[sdm3]` Intel SDM vol. 3A, order no. 253668: 3.4.5 (descriptors), 4 (paging), 6.10 to 6.14
//! (interrupt tables), 9.8.5 (entering long mode).
//! Read next: [`super::boot_mistakes`].

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_SHUTDOWN, KVM_INTERNAL_ERROR_EMULATION,
    KVM_MP_STATE_HALTED,
};

use super::View;
use super::page::exception_name;
use crate::kvm::last::LastExit;
use crate::watch::arch::{CR0, CR4, EFER, Mode, RFLAGS, Segment};
use crate::watch::paging::{End, Walk};

/// A rule and its name, by which tests call it.
pub struct Rule {
    /// In a word or two.
    pub name: &'static str,
    /// What it finds.
    pub find: fn(&View<'_>) -> Option<String>,
}

const fn rule(name: &'static str, find: fn(&View<'_>) -> Option<String>) -> Rule {
    Rule { name, find }
}

/// All rules about a processor, the most telling first.
pub const RULES: [Rule; 15] = [
    rule("impossible state", impossible_state),
    rule("cannot be emulated", cannot_be_emulated),
    rule("code that is no memory", code_in_no_memory),
    rule("cr3 outside memory", cr3_outside_memory),
    rule("rip not mapped", rip_not_mapped),
    rule("rip without execution", rip_without_execution),
    rule("rip in zeros", rip_in_zeros),
    rule("cs without L", cs_without_l),
    rule("cs outside the GDT", cs_outside_gdt),
    rule("no stack", no_stack),
    rule("no interrupt table", no_interrupt_table),
    rule("no gate", no_gate),
    rule("bit 63 without NXE", bit_63_without_nxe),
    rule("halted for ever", halted_for_ever),
    rule("endless loop", endless_loop),
];

/// What the rules find. After a reset on AMD there is nothing to look at.
pub fn all(view: &View<'_>) -> Vec<String> {
    if view.was_reset() {
        return Vec::new();
    }
    RULES.iter().filter_map(|rule| (rule.find)(view)).collect()
}

fn last<'a>(view: &View<'a>) -> Option<&'a LastExit> {
    view.report.scene.exits.last()
}

fn ended_by(view: &View<'_>, reason: u32) -> bool {
    last(view).is_some_and(|exit| exit.reason == reason)
}

fn impossible_state(view: &View<'_>) -> Option<String> {
    let sregs = &view.scene().sregs;
    if let Mode::Impossible(why) = Mode::of(sregs) {
        return Some(format!("no processor can be in this state: {why}"));
    }
    let refused = ended_by(view, KVM_EXIT_FAIL_ENTRY);
    (refused && RFLAGS.has(view.scene().regs.rflags, "VM")).then(|| {
        "RFLAGS.VM is set, virtual-8086 mode: its segments must look like real mode's".into()
    })
}

/// An instruction that the host's KVM does not know, and what keeps a kernel from using it.
fn cannot_be_emulated(view: &View<'_>) -> Option<String> {
    let failed = last(view)?;
    let emulation = failed.reason == KVM_EXIT_INTERNAL_ERROR
        && failed.data == u64::from(KVM_INTERNAL_ERROR_EMULATION);
    let instruction = view.code(view.rip(), 1).pop().filter(|_| emulation)?;
    let word = |text: &str| instruction.text.contains(text);
    let hint = match () {
        () if word("cmpxchg16b") => "; a Linux leaves it out with `clearcpuid=cx16` (--append)",
        () if word("xrstor") || word("xsave") => {
            "; a Linux leaves it out with `noxsave` (--append)"
        }
        () if word("popcnt") => "; a Linux leaves it out with `clearcpuid=popcnt` (--append)",
        () if word("clac") || word("stac") => {
            "; a Linux leaves it out with `clearcpuid=smap` (--append)"
        }
        () if word("(bad)") => "; it is no instruction at all: look at how execution came here",
        () => "",
    };
    let host = match view.host.pvm {
        true => ", which runs guest kernels by an emulator (kvm_pvm),",
        false => "",
    };
    Some(format!(
        "this host's KVM{host} cannot emulate `{}`{hint}",
        instruction.text
    ))
}

/// RIP leads to an address where a device is, or nothing.
fn code_in_no_memory(view: &View<'_>) -> Option<String> {
    let rip = view.rip();
    let End::Mapped(gpa) = view.walk(rip).end else {
        return None;
    };
    let nothing = !view.memory.read(gpa, &mut [0]);
    nothing.then(|| {
        format!(
            "RIP {rip:#x} leads to physical {gpa:#x}, where no memory is: a jump to a wrong address, or \
             page tables that map one"
        )
    })
}

fn cr3_outside_memory(view: &View<'_>) -> Option<String> {
    let cr3 = view.scene().sregs.cr3 & !0xfff & !(1 << 63);
    let outside = view.paging() && !view.memory.read(cr3, &mut [0; 8]);
    outside.then(|| format!("CR3 points to {cr3:#x}, outside memory: paging has no tables"))
}

fn failed(walk: &Walk) -> Option<String> {
    match walk.end {
        End::Mapped(_) => None,
        End::NotPresent => {
            let table = walk.steps.last()?.entry.level.table;
            Some(format!("its {table} entry is not present"))
        }
        End::NoMemory(at) => Some(format!("its tables lead to {at:#x}, where no memory is")),
        End::NotCanonical => Some(format!("that is no address with {}", walk.format)),
    }
}

fn rip_not_mapped(view: &View<'_>) -> Option<String> {
    let rip = view.rip();
    let why = failed(&view.walk(rip)).filter(|_| cr3_outside_memory(view).is_none())?;
    Some(format!(
        "RIP {rip:#x} is in no mapped page: {why}; the code that sets CR3 must itself be mapped, at the \
         address it runs at"
    ))
}

fn rip_without_execution(view: &View<'_>) -> Option<String> {
    const NO_EXECUTE: u64 = 1 << 63;
    let rip = view.rip();
    let walk = view.walk(rip);
    let forbids = |step: &&crate::watch::paging::Step| step.entry.raw & NO_EXECUTE != 0;
    let nxe = EFER.has(view.scene().sregs.efer, "NXE");
    let step = walk.steps.iter().find(forbids).filter(|_| nxe)?;
    Some(format!(
        "RIP {rip:#x} is in a page without execution: bit 63 of its {} entry is set",
        step.entry.level.table
    ))
}

fn rip_in_zeros(view: &View<'_>) -> Option<String> {
    const ENOUGH: usize = 16;
    let rip = view.rip();
    let zeros = view.bytes(rip, ENOUGH) == [0; ENOUGH];
    zeros.then(|| {
        format!(
            "RIP {rip:#x} is in empty memory, all zeros: nothing was loaded there, or a jump missed"
        )
    })
}

fn cs_without_l(view: &View<'_>) -> Option<String> {
    let sregs = &view.scene().sregs;
    let long = EFER.has(sregs.efer, "LMA");
    if !long || view.is_64_bit() {
        return None;
    }
    Some(format!(
        "the GDT entry for CS ({:#x}) has L=0 while EFER.LMA is set: the processor takes 64-bit code for \
         {}-bit code",
        sregs.cs.selector,
        if sregs.cs.db == 0 { 16 } else { 32 }
    ))
}

/// What the GDT holds for CS today; a segment register keeps what was there when it was loaded.
fn cs_outside_gdt(view: &View<'_>) -> Option<String> {
    let sregs = &view.scene().sregs;
    if !CR0.has(sregs.cr0, "PE") {
        return None;
    }
    let offset = u64::from(sregs.cs.selector & !7);
    let limit = sregs.gdt.limit;
    if offset + 7 > u64::from(limit) {
        return Some(format!(
            "CS is {:#x}, beyond the GDT, whose limit is {limit:#x}: the next interrupt or far jump faults",
            sregs.cs.selector
        ));
    }
    let at = sregs.gdt.base.wrapping_add(offset);
    let Some(descriptor) = view.word(at) else {
        return Some(format!(
            "the GDT at {:#x} is not mapped to memory: the next interrupt or far jump faults",
            sregs.gdt.base
        ));
    };
    let segment = Segment::of_descriptor(descriptor);
    let is_code = segment.present && segment.code_or_data && segment.kind & 0b1000 != 0;
    (!is_code).then(|| {
        format!(
            "the GDT entry for CS ({:#x}) is no code segment: {}; the next interrupt or far jump faults",
            sregs.cs.selector,
            segment.words()
        )
    })
}

fn no_stack(view: &View<'_>) -> Option<String> {
    // What pushes goes below.
    let (rsp, below) = (view.rsp(), view.rsp().wrapping_sub(8));
    let mistake = match (rsp, failed(&view.walk(below))) {
        (0, _) => "it was never set".into(),
        (_, Some(why)) => why,
        _ if view.word(below).is_none() => "no memory is there".into(),
        _ => return None,
    };
    Some(format!(
        "RSP is {rsp:#x} and there is no stack below it: {mistake}; a push, call or interrupt faults"
    ))
}

/// Bytes of a gate. `[sdm3]` 6.11, 6.14.1
fn gate_size(view: &View<'_>) -> u64 {
    if EFER.has(view.scene().sregs.efer, "LMA") {
        16
    } else {
        8
    }
}

fn no_interrupt_table(view: &View<'_>) -> Option<String> {
    const LAST_FAULT: u64 = 14;
    let sregs = &view.scene().sregs;
    let (base, limit) = (sregs.idt.base, sregs.idt.limit);
    if !CR0.has(sregs.cr0, "PE") {
        return None;
    }
    let needed = (LAST_FAULT + 1) * gate_size(view) - 1;
    if u64::from(limit) < needed {
        return Some(format!(
            "the IDT's limit is {limit:#x}, no room for the gates of faults: every exception is a triple fault"
        ));
    }
    view.word(base).is_none().then(|| {
        format!("the IDT at {base:#x} is not mapped to memory: every exception is a triple fault")
    })
}

/// Gates of the exceptions that happen first, if the machine shut down for want of one.
fn no_gate(view: &View<'_>) -> Option<String> {
    const PRESENT: u64 = 1 << 47;
    const FAULTS: [u8; 5] = [14, 13, 6, 0, 8];
    let sregs = &view.scene().sregs;
    let concerned = ended_by(view, KVM_EXIT_SHUTDOWN) && CR0.has(sregs.cr0, "PE");
    if !concerned || no_interrupt_table(view).is_some() {
        return None;
    }
    let gate = |vector: u8| {
        let at = u64::from(vector) * gate_size(view);
        view.word(sregs.idt.base.wrapping_add(at))
    };
    let absent = |vector: &&u8| gate(**vector).is_none_or(|gate| gate & PRESENT == 0);
    let names: Vec<_> = FAULTS.iter().filter(absent).collect();
    let names: Vec<_> = names.into_iter().map(|v| exception_name(*v)).collect();
    let text = match names.len() {
        0 => return None,
        5 => "no gates".to_owned(),
        _ => format!("no gate for {}", names.join(" and ")),
    };
    let cr2 = match sregs.cr2 {
        0 => String::new(),
        cr2 => format!("; the last page fault was for {cr2:#x}"),
    };
    Some(format!(
        "the IDT at {:#x} has {text}: an exception without a handler becomes a triple fault{cr2}",
        sregs.idt.base
    ))
}

fn bit_63_without_nxe(view: &View<'_>) -> Option<String> {
    const NO_EXECUTE: u64 = 1 << 63;
    let sregs = &view.scene().sregs;
    if EFER.has(sregs.efer, "NXE") || !CR4.has(sregs.cr4, "PAE") {
        return None;
    }
    let walks = [view.rip(), view.rsp(), sregs.cr2].map(|address| view.walk(address));
    let mut steps = walks.iter().flat_map(|walk| &walk.steps);
    let step = steps.find(|step| step.entry.is_present() && step.entry.raw & NO_EXECUTE != 0)?;
    Some(format!(
        "the {} entry at {:#x} has bit 63 set (no execution) while EFER.NXE is clear: the bit is reserved \
         then, and each access faults",
        step.entry.level.table, step.at
    ))
}

fn halted_for_ever(view: &View<'_>) -> Option<String> {
    let scene = view.scene();
    let masked = !RFLAGS.has(scene.regs.rflags, "IF");
    (scene.mp_state == KVM_MP_STATE_HALTED && masked).then(|| {
        "it has halted with interrupts off (HLT, RFLAGS.IF clear): nothing but an NMI can wake it".into()
    })
}

fn endless_loop(view: &View<'_>) -> Option<String> {
    const JUMP_TO_ITSELF: [u8; 2] = [0xeb, 0xfe];
    (view.bytes(view.rip(), 2) == JUMP_TO_ITSELF).then(|| {
        "it jumps to where it is, for ever: a place to hang, as kernels have on purpose".into()
    })
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_sregs;
    use proptest::prelude::*;
    use vm_memory::GuestAddress;

    use super::*;
    use crate::memory::GuestMemory;
    use crate::watch::scene::Scene;
    use crate::watch::story::testing::{CODE, crashed, view};
    use crate::watch::tell::Report;

    const EXECUTABLE: [u8; 4] = [0x90, 0x90, 0x90, 0xf4];

    /// Names of the rules that find something after `spoil`.
    fn found(spoil: impl FnOnce(&mut Scene, &GuestMemory)) -> Vec<&'static str> {
        let (mut report, memory) = crashed(&EXECUTABLE);
        spoil(&mut report.scene, &memory);
        let view = view(&report, &memory);
        let rules = RULES.iter().filter(|rule| (rule.find)(&view).is_some());
        rules.map(|rule| rule.name).collect()
    }

    fn exit(reason: u32, data: u64) -> LastExit {
        LastExit {
            reason,
            data,
            ..LastExit::default()
        }
    }

    #[test]
    fn entry_state_has_no_mistakes_but_the_interrupt_table_that_kernels_bring() {
        assert_eq!(found(|_, _| {}), ["no interrupt table"]);
        let with_table = |scene: &mut Scene, _: &GuestMemory| scene.sregs.idt.limit = 0xfff;
        assert_eq!(found(with_table), [""; 0]);
    }

    #[test]
    fn each_mistake_is_found_by_its_rule() {
        type Spoil = fn(&mut Scene, &GuestMemory);
        let cases: [(&str, Spoil); 13] = [
            ("cs without L", |s, _| s.sregs.cs.l = 0),
            ("impossible state", |s, _| s.sregs.cs.db = 1),
            ("cr3 outside memory", |s, _| s.sregs.cr3 = 0x8000_0000),
            ("rip not mapped", |s, _| s.regs.rip = 1 << 40),
            ("rip in zeros", |s, _| s.regs.rip = 0x18_0000),
            ("code that is no memory", |s, _| s.regs.rip = 0xfec0_0000),
            ("no stack", |s, _| s.regs.rsp = 0),
            ("cs outside the GDT", |s, _| s.sregs.gdt.limit = 7),
            ("cs outside the GDT", |s, _| s.sregs.cs.selector = 0x18),
            ("no gate", |s, _| {
                s.sregs.idt.limit = 0xfff;
                s.exits = vec![exit(KVM_EXIT_SHUTDOWN, 0)];
            }),
            ("bit 63 without NXE", |_, memory| {
                let entry = (1 << 63 | 0xa003_u64).to_le_bytes();
                memory.write(GuestAddress(0x9000), &entry).unwrap();
            }),
            ("halted for ever", |s, _| s.mp_state = KVM_MP_STATE_HALTED),
            ("endless loop", |_, memory| {
                memory.write(GuestAddress(CODE), &[0xeb, 0xfe]).unwrap();
            }),
        ];
        for (name, spoil) in cases {
            let found = found(spoil);
            assert!(found.contains(&name), "{name}: {found:?}");
        }
    }

    #[test]
    fn instruction_that_cannot_be_emulated_is_named_with_a_way_out() {
        let (mut report, memory) = crashed(&[0xf0, 0x48, 0x0f, 0xc7, 0x0e]);
        report.scene.exits = vec![exit(
            KVM_EXIT_INTERNAL_ERROR,
            KVM_INTERNAL_ERROR_EMULATION.into(),
        )];
        let text = cannot_be_emulated(&view(&report, &memory)).unwrap();
        assert!(
            text.contains("cannot emulate `lock cmpxchg16b") && text.contains("clearcpuid=cx16"),
            "{text}"
        );
    }

    #[test]
    fn execution_is_forbidden_by_bit_63_only_with_nxe() {
        let forbid = |scene: &mut Scene, memory: &GuestMemory| {
            scene.sregs.efer |= 1 << 11;
            let entry = (1 << 63 | 0xa003_u64).to_le_bytes();
            memory.write(GuestAddress(0x9000), &entry).unwrap();
        };
        let found = found(forbid);
        assert!(found.contains(&"rip without execution"), "{found:?}");
        assert!(!found.contains(&"bit 63 without NXE"), "{found:?}");
    }

    #[test]
    fn nothing_is_said_of_a_processor_that_was_reset() {
        let (mut report, memory) = crashed(&EXECUTABLE);
        report.scene.regs.rip = 0xfff0;
        report.scene.sregs = kvm_sregs::default();
        report.scene.sregs.cs.base = 0xffff_0000;
        assert_eq!(all(&view(&report, &memory)), [""; 0]);
    }

    proptest! {
        #[test]
        fn no_state_and_no_memory_is_too_much(
            words in prop::collection::vec(any::<u64>(), 170..172),
            tables in prop::collection::vec(any::<u64>(), 512),
            cr3 in 0_u64..0x20_0000,
            paging in any::<bool>(),
        ) {
            let memory = GuestMemory::new(2 << 20).unwrap();
            let bytes: Vec<u8> = tables.iter().flat_map(|word| word.to_le_bytes()).collect();
            for at in (0..2 << 20).step_by(4096) {
                memory.write(GuestAddress(at), &bytes).unwrap();
            }
            let mut scene = Scene::default();
            let count = scene.to_words().len();
            let mut numbers: Vec<_> = words.into_iter().cycle().take(count).collect();
            numbers[count - 1] = 0; // no exits
            scene = Scene::from_words(&numbers).unwrap();
            if paging {
                scene.sregs.cr0 |= 1 << 31 | 1;
                scene.sregs.cr3 = cr3;
            }
            let report = Report { scene, ..Report::default() };
            let text = crate::watch::story::page::render(&view(&report, &memory));
            prop_assert!(text.lines().count() < 80);
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        }
    }
}
