//! What labs 1 to 3 have shown, in one go, for the labs after them: a VM with a piece of memory, and a
//! processor that stands before its first instruction.
//!
//! Nothing is hidden here that a lab has not done by hand before: [`super::lab01_kvm`] opens /dev/kvm,
//! [`super::lab02_memory`] lends memory, [`super::lab03_registers`] sets registers.
//! Read next: [`super::lab01_kvm`].
#![expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION lends host memory to the guest"
)]

use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::GuestAddress;

use super::tale::{Stop, Tale};
use crate::memory::GuestMemory;
use crate::memory::layout::{KVM_IDENTITY_MAP, KVM_TSS};
use crate::vcpu::cpuid::has_vmx;
use crate::watch::code::{Line, Width, disassemble};

/// Guest memory of a lab, in bytes.
pub(super) const SIZE: u64 = 2 << 20; // 2 MiB
/// Where most guests' code is.
pub(super) const CODE: u64 = 0x1000;
/// Bytes of code that a user may bring: a page, behind which other things lie.
pub(super) const LONGEST_CODE: usize = 4096;
/// RFLAGS with nothing set but bit 1, which always is.
pub(super) const RFLAGS: u64 = 1 << 1;

/// One instruction of a guest: its bytes, what a disassembler says, and what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    bytes: &'static [u8],
    text: &'static str,
    comment: &'static str,
}

/// Makes an [`Op`].
pub(super) const fn op(bytes: &'static [u8], text: &'static str, comment: &'static str) -> Op {
    Op {
        bytes,
        text,
        comment,
    }
}

/// A guest's code.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Guest-physical address of its first byte.
    pub at: u64,
    /// How the processor will read it.
    pub width: Width,
    /// Its instructions.
    pub ops: &'static [Op],
}

impl Guest {
    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.ops.iter().flat_map(|op| op.bytes).copied().collect()
    }

    /// Its instructions as a disassembler would give them, each with its comment.
    pub fn lines(&self) -> impl Iterator<Item = (Line, &'static str)> {
        let mut at = self.at;
        self.ops.iter().map(move |op| {
            let line = Line {
                at,
                bytes: op.bytes.to_vec(),
                text: op.text.into(),
            };
            at += op.bytes.len() as u64;
            (line, op.comment)
        })
    }
}

/// Machine code as a user types it: pairs of hexadecimal digits, with spaces between them or not.
pub fn parse_code(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let digit = |c: char| c.to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    let code: Vec<_> = pairs.collect::<Option<_>>()?;
    (1..=LONGEST_CODE).contains(&code.len()).then_some(code)
}

/// A VM with memory.
#[derive(Debug)]
pub struct Rig {
    /// The system.
    pub kvm: Kvm,
    /// The machine.
    pub vm: VmFd,
    /// Its memory: slot 0, from address 0 on.
    pub memory: Arc<GuestMemory>,
}

impl Rig {
    /// A VM with 2 MiB of memory in slot 0.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn new(tale: &mut Tale) -> Result<Self, Stop> {
        let rig = Self::without_tss(tale)?;
        if has_vmx() {
            rig.give_tss(tale)?;
        }
        Ok(rig)
    }

    /// The same without KVM_SET_TSS_ADDR: what that is for, lab 4 tells.
    ///
    /// # Errors
    /// KVM's refusal.
    pub(super) fn without_tss(tale: &mut Tale) -> Result<Self, Stop> {
        tale.say("a VM with 2 MiB of memory from address 0 on, as in labs 1 and 2");
        let rig = Self::bare(tale, SIZE)?;
        rig.lend(tale, 0, 0)?;
        Ok(rig)
    }

    /// A VM, and `size` bytes that are not lent to it yet.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn bare(tale: &mut Tale, size: u64) -> Result<Self, Stop> {
        let kvm = quietly(tale, "open /dev/kvm", Kvm::new())?;
        let vm = quietly(tale, "KVM_CREATE_VM", kvm.create_vm())?;
        // Never freed, so that no order in which a lab lets go of things can be wrong; a lab ends with
        // its process.
        let memory = Arc::new(GuestMemory::new(size)?);
        std::mem::forget(memory.clone());
        Ok(Self { kvm, vm, memory })
    }

    /// Gives KVM the three pages it needs on Intel processors that cannot run real mode by themselves.
    fn give_tss(&self, tale: &mut Tale) -> Result<(), Stop> {
        let map = self.vm.set_identity_map_address(KVM_IDENTITY_MAP.0);
        quietly(tale, "KVM_SET_IDENTITY_MAP_ADDR", map)?;
        let tss = usize::try_from(KVM_TSS.0).unwrap_or(usize::MAX);
        quietly(tale, "KVM_SET_TSS_ADDR", self.vm.set_tss_address(tss))
    }

    /// Lends all memory to the guest as slot `slot`, from address `at` on.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn lend(&self, tale: &mut Tale, slot: u32, at: u64) -> Result<(), Stop> {
        let lent = self.set_slot(slot, at, 0);
        quietly(tale, "KVM_SET_USER_MEMORY_REGION", lent)
    }

    /// The same with a record of the pages that the guest writes.
    pub(super) fn lend_logged(&self) -> Result<(), kvm_ioctls::Error> {
        self.set_slot(0, 0, KVM_MEM_LOG_DIRTY_PAGES)
    }

    fn set_slot(&self, slot: u32, at: u64, flags: u32) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: at,
            memory_size: self.memory.size(),
            userspace_addr: self.memory.host_range().start,
        };
        // SAFETY: 1. host_range() is mapped for size() bytes, readable and writable. 2. The mapping is
        // never undone: `bare` keeps a share for ever. 3. Nobody holds a Rust reference into it; GuestMemory reads and
        // writes by volatile copies.
        unsafe { self.vm.set_user_memory_region(region) }
    }

    /// Puts a guest's code where it belongs, and shows it.
    ///
    /// # Errors
    /// If that is not memory.
    pub fn load(&self, tale: &mut Tale, guest: &Guest) -> Result<(), Stop> {
        if let Some(code) = tale.take_code() {
            self.memory.write(GuestAddress(guest.at), &code)?;
            tale.say(format!("your code, at {:#x}:", guest.at));
            for line in disassemble(&code, guest.at, guest.width) {
                tale.say(listed(&line, ""));
            }
            return Ok(());
        }
        self.memory.write(GuestAddress(guest.at), &guest.bytes())?;
        // Once is enough: the variants run the same code.
        if tale.is_broken() {
            tale.say(format!("the guest's code, at {:#x}", guest.at));
            return Ok(());
        }
        tale.say(format!("the guest's code, at {:#x}:", guest.at));
        for (line, comment) in guest.lines() {
            tale.say(listed(&line, comment));
        }
        Ok(())
    }

    /// Processor 0, in real mode at 0x1000.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn real_mode(&self, tale: &mut Tale) -> Result<VcpuFd, Stop> {
        tale.say(
            "a vCPU in real mode at 0x1000, all segments at 0, stack below 0x7000, as in lab 4",
        );
        let vcpu = quietly(tale, "KVM_CREATE_VCPU", self.vm.create_vcpu(0))?;
        let mut sregs = quietly(tale, "KVM_GET_SREGS", vcpu.get_sregs())?;
        for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
            segment.base = 0;
            segment.selector = 0;
        }
        quietly(tale, "KVM_SET_SREGS", vcpu.set_sregs(&sregs))?;
        let regs = kvm_regs {
            rip: CODE,
            rsp: 0x7000,
            rflags: RFLAGS,
            ..kvm_regs::default()
        };
        quietly(tale, "KVM_SET_REGS", vcpu.set_regs(&regs))?;
        Ok(vcpu)
    }
}

/// A line of a listing.
pub(super) fn listed(line: &Line, comment: &str) -> String {
    let bytes: Vec<_> = line
        .bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (bytes, text) = (bytes.join(" "), &line.text);
    let whole = format!("    {:#x}  {bytes:<26}  {text:<31} ; {comment}", line.at);
    whole.trim_end_matches([' ', ';']).to_owned()
}

/// A call that an earlier lab has explained: only its refusal is told.
pub(super) fn quietly<T>(
    tale: &mut Tale,
    call: &'static str,
    result: Result<T, kvm_ioctls::Error>,
) -> Result<T, Stop> {
    match result {
        Ok(value) => Ok(value),
        refused => tale.call(call, "", refused),
    }
}

/// KVM_RUN. A guest that does not come back is fetched out by a signal, which is
/// [`VcpuExit::Intr`].
///
/// # Errors
/// KVM's refusal.
pub fn run<'a>(tale: &mut Tale, vcpu: &'a mut VcpuFd) -> Result<VcpuExit<'a>, Stop> {
    match tale.with_deadline(|| vcpu.run())? {
        Ok(exit) => Ok(exit),
        Err(error) if error.errno() == libc::EINTR => Ok(VcpuExit::Intr),
        Err(error) => tale.call("KVM_RUN", "", Err(error)),
    }
}

/// Moves a real-mode processor's DS to `base`, so that its code reaches addresses above 1 MiB.
///
/// # Errors
/// KVM's refusal.
pub(super) fn data_at(tale: &mut Tale, vcpu: &VcpuFd, base: u64) -> Result<(), Stop> {
    let mut sregs = quietly(tale, "KVM_GET_SREGS", vcpu.get_sregs())?;
    sregs.ds.base = base;
    quietly(tale, "KVM_SET_SREGS", vcpu.set_sregs(&sregs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_pairs_of_digits_with_or_without_spaces() {
        assert_eq!(parse_code("b0 34 F4"), Some(vec![0xb0, 0x34, 0xf4]));
        assert_eq!(parse_code("b034f4"), parse_code("b0 34 f4"));
        for wrong in ["", " ", "b", "b0 3", "0xf4", "hlt", "é4"] {
            assert_eq!(parse_code(wrong), None, "{wrong}");
        }
        assert!(parse_code(&"90".repeat(LONGEST_CODE)).is_some());
        assert!(parse_code(&"90".repeat(LONGEST_CODE + 1)).is_none());
    }
}
