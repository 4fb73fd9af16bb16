//! A crash tells its story: what happened, which mistake it looks like, and the state that shows it.
//!
//! - [`page`]: the page a user reads, line by line; [`exits`]: the last exits in words;
//! - [`mistakes`]: likely mistakes of a processor's state, by rules; [`boot_mistakes`]: those of what was
//!   booted, by what it says;
//! - [`printable`]: text from a guest, made harmless.
//!
//! All of it is pure, over a [`View`]: a report and memory to read. Memory is read in pieces of a few
//! bytes at addresses that the guest may have chosen; no loop here runs longer for it.
//!
//! Who calls it: the tools, for a machine of their own or of a `cottage` that asks ([`super::tell`]).
//! Read next: [`page`].

pub mod page;
pub mod exits;
pub mod mistakes;
pub mod boot_mistakes;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::arch::{CR0, EFER, Mode};
use super::code::{self, LONGEST, Line, Width};
use super::paging::{End, Walk, walk};
use super::scene::{Physical, Scene};
use super::tell::{Asked, Report};
use crate::console::words::say;
use crate::outcome::{USER_ERROR, VMM_FAILURE};

/// Bytes of a small page, within which virtual memory is one piece.
const PAGE: u64 = 4096;

/// A report, and memory to read.
pub struct View<'a> {
    /// What happened, and how the processor stands.
    pub report: &'a Report,
    /// Guest memory.
    pub memory: &'a dyn Physical,
    /// What this host's KVM is.
    pub host: Host,
}

/// What of the host explains crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The module kvm_pvm is loaded: guests' kernels are run by an emulator of instructions.
    pub pvm: bool,
    /// The processor is emulated by QEMU.
    pub tcg: bool,
}

impl Host {
    /// Looks at this one.
    pub fn look() -> Self {
        Self {
            pvm: std::path::Path::new("/sys/module/kvm_pvm").exists(),
            tcg: crate::vcpu::cpuid::host_is_tcg(),
        }
    }
}

impl View<'_> {
    /// How the processor stands.
    pub fn scene(&self) -> &Scene {
        &self.report.scene
    }

    /// Whether KVM has reset the processor when it shut down, as it does on AMD. `[sdm3]` 10.1.4: CS base
    /// 0xffff0000, IP 0xfff0.
    pub fn was_reset(&self) -> bool {
        let Scene { regs, sregs, .. } = self.scene();
        regs.rip == 0xfff0 && sregs.cs.base == 0xffff_0000
    }

    /// Whether the processor runs 64-bit code.
    pub fn is_64_bit(&self) -> bool {
        Mode::of(&self.scene().sregs) == Mode::Long
    }

    /// Where RIP points, as page tables count.
    pub fn rip(&self) -> u64 {
        self.linear(self.scene().sregs.cs.base, self.scene().regs.rip)
    }

    /// Where RSP points, likewise.
    pub fn rsp(&self) -> u64 {
        self.linear(self.scene().sregs.ss.base, self.scene().regs.rsp)
    }

    /// In 64-bit code segments have no base; elsewhere addresses have 32 bits. `[sdm3]` 3.4.4
    fn linear(&self, base: u64, offset: u64) -> u64 {
        if self.is_64_bit() {
            return offset;
        }
        base.wrapping_add(offset) & 0xffff_ffff
    }

    /// Whether addresses go through page tables.
    pub fn paging(&self) -> bool {
        CR0.has(self.scene().sregs.cr0, "PG")
    }

    /// The number of `len` bytes at a physical address.
    pub fn number(&self, gpa: u64, len: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        let (wanted, _) = bytes.split_at_mut(len.min(8));
        self.memory
            .read(gpa, wanted)
            .then(|| u64::from_le_bytes(bytes))
    }

    /// The way through the page tables.
    pub fn walk(&self, address: u64) -> Walk {
        walk(&self.scene().sregs, address, |gpa, len| {
            self.number(gpa, usize::try_from(len).unwrap_or(8))
        })
    }

    /// The bytes at a virtual address, as far as they are mapped to memory; at most `len`.
    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let at = address.wrapping_add(bytes.len() as u64);
            let End::Mapped(gpa) = self.walk(at).end else {
                break;
            };
            let left = usize::try_from(PAGE - at % PAGE).unwrap_or(0);
            let mut part = vec![0; left.min(len - bytes.len())];
            if self.memory.read(gpa, &mut part) {
                bytes.extend(part);
                continue;
            }
            break;
        }
        bytes
    }

    /// A number at a virtual address.
    pub fn word(&self, address: u64) -> Option<u64> {
        let bytes = self.bytes(address, 8);
        Some(u64::from_le_bytes(*bytes.first_chunk()?))
    }

    /// At most `count` instructions from `address`.
    pub fn code(&self, address: u64, count: usize) -> Vec<Line> {
        let code = self.bytes(address, count * LONGEST);
        let mut lines = code::disassemble(&code, address, self.width());
        lines.truncate(count);
        lines
    }

    /// How the processor reads code.
    pub fn width(&self) -> Width {
        let sregs = &self.scene().sregs;
        let long = EFER.has(sregs.efer, "LMA");
        Width::of(long, sregs.cs.l != 0, sregs.cs.db != 0)
    }
}

/// `text` without what a terminal would obey.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '.' } else { c })
        .collect()
}

/// `cottage-tools tell-crash`: the report comes from stdin, which answers for memory too.
pub fn main() -> u8 {
    let Ok(stdin) = rustix::stdio::stdin().as_fd().try_clone_to_owned() else {
        return VMM_FAILURE;
    };
    let stream = UnixStream::from(stdin);
    let report = match Report::read(&mut &stream) {
        Ok(report) => report,
        Err(error) => {
            say(&format!(
                "this sub-command is for cottage itself, when a guest has crashed: no report on stdin: {error}"
            ));
            return USER_ERROR;
        }
    };
    let view = View {
        report: &report,
        memory: &Asked(&stream),
        host: Host::look(),
    };
    say(&page::render(&view));
    0
}

#[cfg(test)]
pub(super) mod testing {
    //! Machines for the tests of rules and pages.

    use vm_memory::GuestAddress;

    use super::*;
    use crate::boot::Protocol;
    use crate::memory::GuestMemory;
    use crate::vcpu::entry_state::EntryState;
    use crate::watch::tell::Kind;

    /// Where the code is.
    pub(in crate::watch) const CODE: u64 = 0x10_0000;

    /// A processor that has entered `code` in 64-bit mode and then crashed, and its memory.
    pub(in crate::watch) fn crashed(code: &[u8]) -> (Report, GuestMemory) {
        let memory = GuestMemory::new(4 << 20).unwrap();
        memory.write(GuestAddress(CODE), code).unwrap();
        let entry = EntryState::new(Protocol::Linux64, GuestAddress(CODE), GuestAddress(0x7000));
        entry.write_tables(&memory).unwrap();
        let mut report = Report {
            kind: Kind::Crash,
            headline: "the guest crashed".into(),
            ..Report::default()
        };
        report.scene.regs = *entry.regs();
        entry.apply(&mut report.scene.sregs);
        (report, memory)
    }

    pub(in crate::watch) fn view<'a>(report: &'a Report, memory: &'a GuestMemory) -> View<'a> {
        View {
            report,
            memory,
            host: Host::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{CODE, crashed, view};
    use super::*;

    #[test]
    fn bytes_end_where_nothing_is_mapped() {
        let (report, memory) = crashed(&[0xf4]);
        let view = view(&report, &memory);
        assert_eq!(view.bytes(CODE, 2), [0xf4, 0]);
        assert_eq!(view.bytes((4 << 20) - 3, 8), [0; 3]);
        assert_eq!(view.bytes((4 << 20) - 4096, 5000).len(), 4096);
        assert!(view.bytes(1 << 40, 8).is_empty());
        assert_eq!(view.word(CODE), Some(0xf4));
    }

    #[test]
    fn segments_count_outside_64_bit_code_only() {
        let (mut report, memory) = crashed(&[0xf4]);
        report.scene.sregs.cs.base = 0x1000;
        assert_eq!(view(&report, &memory).rip(), CODE);
        report.scene.sregs = kvm_bindings::kvm_sregs::default();
        report.scene.sregs.cs.base = 0xffff_f000;
        report.scene.regs.rip = 0x1234;
        assert_eq!(view(&report, &memory).rip(), 0x234);
    }

    #[test]
    fn control_characters_become_dots() {
        assert_eq!(printable("a\x1b[31m\r\nb\u{9b}"), "a.[31m..b.");
    }
}
