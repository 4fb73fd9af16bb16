//! `monitor`: what a machine can be asked that gdb has no words for.
//!
//! Read next: [`super::session`].

use std::fmt::Write as _;

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, kvm_regs,
};

use super::target::Machine;
use crate::kvm::Vcpu;
use crate::timeline::Stage;
use crate::watch::code::{self, Width};

const HELP: &str = "\
monitor help                 this
monitor walk ADDRESS [CPU]   the way of an address through the page tables
monitor phys ADDRESS [LEN]   memory by guest-physical address, as bytes
monitor memory physical      gdb's own commands (x, print, break) take physical addresses; so does
                             `maintenance packet Qqemu.PhyMemMode:1`
monitor memory virtual       ... virtual ones again
monitor code [CPU]           the next instructions of a processor, in the mode it is in
monitor cpus                 what each processor is doing
monitor marks                boot marks and their times
monitor able                 what KVM on this host can do for a debugger
monitor quit                 end the machine, as Ctrl-A x does
Numbers may be hexadecimal with 0x. CPU is a vCPU's number, gdb's thread less 1; 0 if not given.
";
/// Bytes of `monitor phys`: without a length, and at most.
const SOME: u64 = 64;
const MOST: u64 = 4096;
/// Bytes of a line of it.
const LINE: usize = 16;
/// Instructions of `monitor code`.
const INSTRUCTIONS: usize = 8;

/// Carries `command` out and answers in words.
pub fn answer(machine: &mut Machine, command: &str) -> String {
    let words: Vec<_> = command.split_whitespace().collect();
    match *words.as_slice() {
        [] | ["help"] => HELP.to_owned(),
        ["walk", address] => with_number(address, |at| walk(machine, at, 0)),
        ["walk", address, cpu] => with_number(cpu, |cpu| {
            with_number(address, |at| walk(machine, at, small(cpu)))
        }),
        ["phys", address] => with_number(address, |at| phys(machine, at, SOME)),
        ["phys", address, len] => {
            with_number(len, |len| with_number(address, |at| phys(machine, at, len)))
        }
        ["memory", "physical"] => physical(machine, true),
        ["memory", "virtual"] => physical(machine, false),
        ["code"] => instructions(machine, 0),
        ["code", cpu] => with_number(cpu, |cpu| instructions(machine, small(cpu))),
        ["cpus"] => cpus(machine),
        ["marks"] => marks(machine),
        ["able"] => machine.debugger().plan().able.to_string(),
        ["quit"] => {
            machine.end();
            "the machine ends as soon as it goes on: continue, or detach\n".to_owned()
        }
        _ => format!("{command:?} is no command of cottage's; monitor help lists them\n"),
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Reads a number; without one, says so.
fn with_number(text: &str, go_on: impl FnOnce(u64) -> String) -> String {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_or_else(
        |_no_number| format!("{text:?} is no number; write 4096 or 0x1000\n"),
        go_on,
    )
}

fn walk(machine: &Machine, at: u64, cpu: u32) -> String {
    match machine.walk(cpu, at) {
        Some(walk) => walk
            .lines()
            .iter()
            .map(|line| format!("{line}\n"))
            .collect(),
        None => no_cpu(cpu),
    }
}

fn no_cpu(cpu: u32) -> String {
    format!("there is no vCPU {cpu}\n")
}

fn phys(machine: &mut Machine, at: u64, len: u64) -> String {
    if len > MOST {
        return format!("at most {MOST} bytes at once\n");
    }
    let was = std::mem::replace(&mut machine.physical, true);
    let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = machine.read(0, at, &mut data);
    machine.physical = was;
    data.truncate(read);
    let mut text = String::new();
    for (line, bytes) in (at..).step_by(LINE).zip(data.chunks(LINE)) {
        let hex: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown = |byte: &u8| {
            if byte.is_ascii_graphic() {
                char::from(*byte)
            } else {
                '.'
            }
        };
        let ascii: String = bytes.iter().map(shown).collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{line:#012x}  {:<47}  {ascii}", hex.join(" "));
    }
    if (read as u64) < len {
        let _ = writeln!(text, "no memory at {:#x}", at.saturating_add(read as u64));
    }
    text
}

fn physical(machine: &mut Machine, physical: bool) -> String {
    machine.physical = physical;
    let kind = if physical { "physical" } else { "virtual" };
    format!("addresses are {kind} now\n")
}

fn instructions(machine: &mut Machine, cpu: u32) -> String {
    let Some(state) = machine.state(cpu) else {
        return no_cpu(cpu);
    };
    let cs = state.sregs.cs;
    let long_mode = state.sregs.efer & EFER_LMA != 0;
    let width = Width::of(long_mode, cs.l != 0, cs.db != 0);
    let mut bytes = [0; INSTRUCTIONS * code::LONGEST];
    let read = machine.read(cpu, state.linear_pc(), &mut bytes);
    let (bytes, _) = bytes.split_at(read);
    let lines = code::disassemble(bytes, state.linear_pc(), width);
    let lines = lines.iter().take(INSTRUCTIONS);
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    format!("vCPU {cpu}, {width:?}\n{text}")
}

/// EFER: long mode is active. `[sdm3]` 2.2.1
const EFER_LMA: u64 = 1 << 10;

fn cpus(machine: &Machine) -> String {
    let mut text = String::new();
    for id in 0..machine.debugger().vcpus() {
        let asked = machine
            .debugger()
            .gate()
            .ask(id, |stand| (activity(stand.vcpu), stand.vcpu.regs().ok()));
        let (words, regs) = asked.unwrap_or(("gone", None));
        let kvm_regs { rip, rsp, .. } = regs.unwrap_or_default();
        let _ = writeln!(text, "vCPU {id}: {words}, rip {rip:#x}, rsp {rsp:#x}");
    }
    text
}

/// What a processor is doing, as KVM has it.
pub(super) fn activity(vcpu: &Vcpu) -> &'static str {
    match vcpu.activity() {
        Ok(KVM_MP_STATE_RUNNABLE) => "runs",
        Ok(KVM_MP_STATE_HALTED) => "halted, waits for an interrupt",
        Ok(KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED) => "waits to be started",
        Ok(KVM_MP_STATE_SIPI_RECEIVED) => "is being started",
        Ok(_) | Err(_) => "does what this cottage does not know",
    }
}

fn marks(machine: &Machine) -> String {
    let (notes, _) = machine.parts().timeline.notes();
    let begin = notes.iter().find(|note| note.stage == Stage::GuestEntered);
    let begin = begin.map_or(0, |note| note.at);
    let mut text = String::new();
    for note in &notes {
        if let Stage::Mark(mark) = note.stage {
            let micros = note.at.saturating_sub(begin) / 1000;
            let _ = writeln!(
                text,
                "mark {mark} at {}.{:03} ms",
                micros / 1000,
                micros % 1000
            );
        }
    }
    match text.is_empty() {
        true => "no marks yet\n".to_owned(),
        false => text + "(since the first entry; standing still counts)\n",
    }
}
