//! The guest that was filled, to be read back: whatever the other modules tell comes through here.
//!
//! Nothing is remembered from the filling but where to begin: the processor's entry state. From there a
//! kernel would find the rest, and so does an explanation: CR3 leads to page tables, GDTR to descriptors,
//! %rsi or %ebx to what the kernel is told, and that to command line, initramfs and ACPI tables.
//! Read next: [`super::info`].

use kvm_bindings::{kvm_regs, kvm_sregs};
use vm_memory::GuestAddress;

use super::fields::{number, text};
use super::info::{self, Told};
use crate::config::{Irqchip, VmConfig};
use crate::loading::Filled;
use crate::memory::GuestMemory;
use crate::memory::layout::CMDLINE_MAX_SIZE;

/// What the machine around a kernel depends on.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Whether it is a Linux: then it has our initramfs, init and command line.
    pub linux: bool,
    /// Where the interrupt controllers are.
    pub chip: Irqchip,
}

/// A guest whose memory is filled.
#[derive(Debug)]
pub struct Guest<'a> {
    /// Its memory.
    pub memory: &'a GuestMemory,
    /// Where things were laid.
    pub filled: &'a Filled,
    /// What was asked for.
    pub config: &'a VmConfig,
    /// What its kernel is.
    pub kernel: Kind,
    /// General-purpose registers.
    pub regs: kvm_regs,
    /// Segments and control registers: of the first processor; KVM's own values are zero here.
    pub sregs: kvm_sregs,
}

impl<'a> Guest<'a> {
    /// A guest with this memory, which `filled` describes.
    pub fn new(
        memory: &'a GuestMemory,
        (filled, kernel): (&'a Filled, Kind),
        config: &'a VmConfig,
    ) -> Self {
        let mut sregs = kvm_sregs::default();
        filled.entry.apply(&mut sregs);
        Self {
            memory,
            filled,
            config,
            kernel,
            regs: *filled.entry.regs(),
            sregs,
        }
    }

    /// `len` bytes of its memory; `None` if not all of them are RAM.
    pub fn bytes(&self, at: u64, len: u64) -> Option<Vec<u8>> {
        // Asked before anything is allocated.
        self.memory.check(GuestAddress(at), len).ok()?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.memory.read(GuestAddress(at), &mut bytes).ok()?;
        Some(bytes)
    }

    /// The little-endian number of `len` bytes there, at most 8.
    pub fn number(&self, at: u64, len: u64) -> Option<u64> {
        let bytes = self.bytes(at, len.min(8))?;
        number(&bytes, 0, bytes.len())
    }

    /// The NUL-terminated text there.
    pub fn text(&self, at: u64) -> String {
        // Nothing in a guest's memory lets us read further than the longest text there can be.
        let end = self.memory.low_end().0;
        let len = end.saturating_sub(at).min(CMDLINE_MAX_SIZE);
        text(&self.bytes(at, len).unwrap_or_default())
    }

    /// What the kernel is told.
    pub fn told(&self) -> Told {
        info::read(self)
    }

    /// The command line that the kernel is told.
    pub fn cmdline(&self) -> String {
        self.told()
            .cmdline
            .map_or(String::new(), |at| self.text(at))
    }
}
