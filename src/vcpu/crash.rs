//! What to tell a user whose guest has crashed: the cause in words and the processor's state.
//!
//! Who calls it: the run loop, after the last exit. It only reads.
//! Read next: [`crate::bus`].

use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, kvm_sregs};
use vm_memory::GuestAddress;

use crate::kvm::{Vcpu, internal_error_name};
use crate::memory::GuestMemory;

/// The longest x86 instruction.
const MAX_INSTRUCTION: usize = 15;

/// Registers and the code at RIP, one fact a line.
pub fn state(vcpu: &Vcpu, memory: &GuestMemory) -> String {
    let (regs, sregs) = match (vcpu.regs(), vcpu.sregs()) {
        (Ok(regs), Ok(sregs)) => (regs, sregs),
        (Err(e), _) | (_, Err(e)) => return format!("the registers cannot be read: {e}"),
    };
    let code = match translate(&sregs, memory, regs.rip) {
        Some(gpa) => code_at(memory, gpa),
        None => "not mapped".to_owned(),
    };
    let note = if is_after_reset(regs.rip, &sregs) {
        RESET_NOTE
    } else {
        ""
    };
    format!(
        "{note}rip {:#x}  {} mode, cs {:#x}  rflags {:#x}\n\
         rax {:#x}  rbx {:#x}  rcx {:#x}  rdx {:#x}\n\
         rsi {:#x}  rdi {:#x}  rsp {:#x}  rbp {:#x}\n\
         cr0 {:#x}  cr2 {:#x}  cr3 {:#x}  cr4 {:#x}  efer {:#x}\n\
         code at rip: {code}",
        regs.rip,
        mode(&sregs),
        sregs.cs.selector,
        regs.rflags,
        regs.rax,
        regs.rbx,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        regs.rsp,
        regs.rbp,
        sregs.cr0,
        sregs.cr2,
        sregs.cr3,
        sregs.cr4,
        sregs.efer,
    )
}

const RESET_NOTE: &str =
    "(these are the values after a reset: on AMD, KVM resets a processor that shuts down)\n";

/// Whether the processor stands at the reset vector. [sdm3] 10.1.4: CS base 0xffff0000, IP 0xfff0.
fn is_after_reset(rip: u64, sregs: &kvm_sregs) -> bool {
    rip == 0xfff0 && sregs.cs.base == 0xffff_0000
}

/// What KVM_EXIT_INTERNAL_ERROR means.
///
/// For a failed emulation KVM adds the instruction: data\[1\] holds its length in the low byte
/// and then its bytes, if data\[0\] has flag 0. `[kvm]` "KVM_EXIT_INTERNAL_ERROR"
pub fn internal_error(suberror: u32, data: &[u64]) -> String {
    let name = internal_error_name(suberror);
    let mut text = format!("KVM internal error {suberror}: {name}");
    if suberror == KVM_INTERNAL_ERROR_EMULATION {
        if let [flags, rest @ ..] = data
            && flags & 1 != 0
        {
            let bytes: Vec<u8> = rest.iter().flat_map(|word| word.to_le_bytes()).collect();
            if let Some((len, bytes)) = bytes.split_first() {
                let len = usize::from(*len).min(MAX_INSTRUCTION);
                text += &format!(" (bytes {})", hex(bytes.get(..len).unwrap_or(bytes)));
            }
        }
        text += "; `cottage doctor` says what this host's KVM is";
    }
    text
}

/// What KVM_EXIT_FAIL_ENTRY means.
pub fn failed_entry(reason: u64, cpu: u32) -> String {
    format!(
        "host CPU {cpu} refused to enter the guest, hardware reason {reason:#x}: \
         the guest's state is not one a processor can be in"
    )
}

fn mode(sregs: &kvm_sregs) -> &'static str {
    const PE: u64 = 1 << 0;
    const LMA: u64 = 1 << 10;
    if sregs.cr0 & PE == 0 {
        "real"
    } else if sregs.efer & LMA != 0 && sregs.cs.l != 0 {
        "64-bit"
    } else {
        "protected"
    }
}

fn code_at(memory: &GuestMemory, gpa: GuestAddress) -> String {
    let mut bytes = [0; MAX_INSTRUCTION];
    match memory.read(gpa, &mut bytes) {
        Ok(()) => hex(&bytes),
        Err(e) => e.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Guest-virtual to guest-physical, by walking the guest's own tables.
///
/// Only what reports need: 4-level and no paging. KVM_TRANSLATE would do the same, but not every
/// back end has it.
fn translate(sregs: &kvm_sregs, memory: &GuestMemory, address: u64) -> Option<GuestAddress> {
    const PG: u64 = 1 << 31;
    const LMA: u64 = 1 << 10;
    const PRESENT: u64 = 1 << 0;
    const LARGE: u64 = 1 << 7;
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    if sregs.cr0 & PG == 0 {
        return Some(GuestAddress(sregs.cs.base.wrapping_add(address)));
    }
    if sregs.efer & LMA == 0 {
        return None;
    }
    let mut table = sregs.cr3 & FRAME;
    for level in (0..4_u32).rev() {
        let shift = 12 + 9 * level;
        let mut entry = [0; 8];
        memory
            .read(
                GuestAddress(table + (address >> shift & 0x1ff) * 8),
                &mut entry,
            )
            .ok()?;
        let entry = u64::from_le_bytes(entry);
        if entry & PRESENT == 0 {
            return None;
        }
        let inside = (1 << shift) - 1;
        if level == 0 || (entry & LARGE != 0 && level < 3) {
            return Some(GuestAddress(entry & FRAME & !inside | address & inside));
        }
        table = entry & FRAME;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::Protocol;
    use crate::vcpu::entry_state::EntryState;

    #[test]
    fn emulation_failure_shows_the_instruction() {
        let bytes = u64::from_le_bytes([3, 0x0f, 0xc7, 0x0e, 0, 0, 0, 0]);
        let text = internal_error(KVM_INTERNAL_ERROR_EMULATION, &[1, bytes, 0]);
        assert!(text.contains("(bytes 0f c7 0e)"), "{text}");
    }

    #[test]
    fn emulation_failure_without_bytes_is_no_panic() {
        for data in [&[][..], &[1], &[0, 5], &[1, u64::MAX]] {
            assert!(internal_error(KVM_INTERNAL_ERROR_EMULATION, data).contains("error 1"));
        }
        assert!(internal_error(77, &[]).contains("error 77"));
    }

    #[test]
    fn walk_follows_the_entry_state_and_stops_at_holes() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let at = GuestAddress(0x10_0000);
        let state = EntryState::new(Protocol::Linux64, at, at);
        state.write_tables(&memory).unwrap();
        let mut sregs = kvm_sregs::default();
        state.apply(&mut sregs);
        assert_eq!(
            translate(&sregs, &memory, 0x12_3456),
            Some(GuestAddress(0x12_3456))
        );
        assert_eq!(translate(&sregs, &memory, 0xffff_8000_0000_0000), None);
        sregs.cr3 = u64::MAX;
        assert_eq!(translate(&sregs, &memory, 0), None, "tables outside RAM");
    }
}
