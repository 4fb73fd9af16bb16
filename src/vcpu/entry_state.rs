//! The state in which the first processor enters the guest, as plain data.
//!
//! Each boot protocol fixes it: Linux's 64-bit protocol wants long mode with the first gigabytes
//! mapped one to one, the others want 32-bit protected mode without paging. The other processors need
//! nothing: KVM starts them in real mode when the guest sends INIT and SIPI.
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12, "64-bit Boot Protocol";
//! `[pvh]` Xen `docs/misc/pvh.pandoc`; `[multiboot]` Multiboot Specification 0.6.96; `[sdm3]` Intel SDM vol. 3A, order no. 253668, sections
//! 3.4.5 (segment descriptors), 4.5 (4-level paging), 2.5 (control registers).
//! Read next: [`super::cpuid`].

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::GuestAddress;

use crate::boot::Protocol;
use crate::kvm::{self, Vcpu};
use crate::memory::layout::{
    BOOT_GDT, BOOT_STACK, PAGE_DIRECTORIES, PAGE_DIRECTORIES_SIZE, PDPT, PML4,
};
use crate::memory::{self, GuestMemory};

// Control registers. [sdm3] 2.5
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set; interrupts are off.
const RFLAGS: u64 = 1 << 1;

// Selectors. [boot] asks for __BOOT_CS 0x10 and __BOOT_DS 0x18.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;
/// Segments of 4 GiB: a limit of 20 ones, counted in pages.
const FLAT_4G_LIMIT: u32 = 0xffff_ffff;

// Segment types. [sdm3] table 3-1 and table 3-2
const TYPE_CODE: u8 = 0b1011; // execute, read, accessed
const TYPE_DATA: u8 = 0b0011; // read, write, accessed
const TYPE_TSS_BUSY: u8 = 0b1011;

/// What a multiboot kernel finds in %eax. [multiboot] 3.2
const MULTIBOOT_LOADED: u64 = 0x2bad_b002;

// Page table entries. [sdm3] 4.5
const PRESENT_WRITABLE: u64 = 0b11;
const PAGE_SIZE_2M: u64 = 1 << 7;

/// Registers and memory at the first instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryState {
    regs: kvm_regs,
    code: kvm_segment,
    data: kvm_segment,
    task: kvm_segment,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    /// Whether the page tables of [`write_tables`] are used.
    paging: bool,
}

impl EntryState {
    /// The state that `protocol` prescribes for a kernel entered at `entry` whose boot
    /// information is at `info`.
    pub fn new(protocol: Protocol, entry: GuestAddress, info: GuestAddress) -> Self {
        let regs = kvm_regs {
            rip: entry.0,
            rflags: RFLAGS,
            ..Default::default()
        };
        match protocol {
            Protocol::Linux64 => Self {
                // [boot]: %rsi holds the address of struct boot_params. A stack is not promised,
                // but costs nothing.
                regs: kvm_regs {
                    rsi: info.0,
                    rsp: BOOT_STACK.0,
                    rbp: BOOT_STACK.0,
                    ..regs
                },
                code: code_segment(true),
                data: data_segment(),
                task: task_segment(),
                cr0: CR0_PE | CR0_ET | CR0_PG,
                cr3: PML4.0,
                cr4: CR4_PAE,
                efer: EFER_LME | EFER_LMA,
                paging: true,
            },
            Protocol::Pvh | Protocol::Linux32 | Protocol::Multiboot => Self {
                regs: match protocol {
                    // [boot] "32-bit Boot Protocol": %esi holds the address of struct boot_params.
                    Protocol::Linux32 => kvm_regs {
                        rsi: info.0,
                        ..regs
                    },
                    // [multiboot] 3.2: %eax holds a magic number, %ebx the address of the information.
                    Protocol::Multiboot => kvm_regs {
                        rax: MULTIBOOT_LOADED,
                        rbx: info.0,
                        ..regs
                    },
                    // [pvh]: %ebx holds the address of the start info.
                    _ => kvm_regs {
                        rbx: info.0,
                        ..regs
                    },
                },
                // All three want flat 32-bit segments, in cr0 only PE, cr4 zero.
                code: code_segment(false),
                data: data_segment(),
                task: task_segment(),
                cr0: CR0_PE | CR0_ET,
                cr3: 0,
                cr4: 0,
                efer: 0,
                paging: false,
            },
        }
    }

    /// General-purpose registers.
    pub fn regs(&self) -> &kvm_regs {
        &self.regs
    }

    /// Changes `sregs`, as KVM resets them, to this state. The local APIC base stays KVM's.
    pub fn apply(&self, sregs: &mut kvm_sregs) {
        sregs.cs = self.code;
        for segment in [
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
        ] {
            *segment = self.data;
        }
        sregs.tr = self.task;
        sregs.gdt = kvm_dtable {
            base: BOOT_GDT.0,
            limit: GDT_LIMIT,
            padding: [0; 3],
        };
        // No interrupt table: an exception before the kernel has its own is a triple fault,
        // which ends the run with a report.
        sregs.idt = kvm_dtable::default();
        sregs.cr0 = self.cr0;
        sregs.cr3 = self.cr3;
        sregs.cr4 = self.cr4;
        sregs.efer = self.efer;
    }

    /// Gives `vcpu` this state.
    ///
    /// # Errors
    /// KVM's.
    pub fn give(&self, vcpu: &Vcpu) -> Result<(), kvm::Error> {
        let mut sregs = vcpu.sregs()?;
        self.apply(&mut sregs);
        vcpu.set_sregs(&sregs)?;
        vcpu.set_regs(self.regs())
    }

    /// Writes the GDT and, if the protocol wants paging, the page tables to guest memory.
    ///
    /// # Errors
    /// When guest memory is too small to hold them.
    pub fn write_tables(&self, memory: &GuestMemory) -> Result<(), memory::guest::Error> {
        let gdt = [
            0,
            0,
            descriptor(&self.code),
            descriptor(&self.data),
            descriptor(&self.task),
        ];
        memory.write(BOOT_GDT, &table_bytes(gdt))?;
        if self.paging {
            memory.write(PML4, &(PDPT.0 | PRESENT_WRITABLE).to_le_bytes())?;
            memory.write(PDPT, &table_bytes(pdpt_entries()))?;
            memory.write(PAGE_DIRECTORIES, &table_bytes(page_directory_entries()))?;
        }
        Ok(())
    }
}

/// Null, an unused one, code, data, task state: five descriptors.
pub const GDT_BYTES: u64 = 5 * 8;
const GDT_LIMIT: u16 = 5 * 8 - 1;

fn code_segment(long_mode: bool) -> kvm_segment {
    kvm_segment {
        selector: CODE_SELECTOR,
        type_: TYPE_CODE,
        // 64-bit code has L set and D clear; both set is reserved. [sdm3] 3.4.5
        l: u8::from(long_mode),
        db: u8::from(!long_mode),
        ..flat_segment()
    }
}

fn data_segment() -> kvm_segment {
    kvm_segment {
        selector: DATA_SELECTOR,
        type_: TYPE_DATA,
        db: 1,
        ..flat_segment()
    }
}

/// Entering a guest needs a task register that is busy; nobody switches tasks.
fn task_segment() -> kvm_segment {
    kvm_segment {
        selector: TASK_SELECTOR,
        type_: TYPE_TSS_BUSY,
        limit: 0x67,
        s: 0,
        g: 0,
        ..flat_segment()
    }
}

fn flat_segment() -> kvm_segment {
    kvm_segment {
        limit: FLAT_4G_LIMIT,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// The 8-byte form of a segment that the GDT holds. [sdm3] figure 3-8
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(segment.limit >> if segment.g == 1 { 12 } else { 0 });
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}

fn pdpt_entries() -> impl Iterator<Item = u64> {
    (0..PAGE_DIRECTORIES_SIZE / 0x1000)
        .map(|i| (PAGE_DIRECTORIES.0 + i * 0x1000) | PRESENT_WRITABLE)
}

/// 4 GiB one to one, in 2 MiB pages.
fn page_directory_entries() -> impl Iterator<Item = u64> {
    (0..PAGE_DIRECTORIES_SIZE / 8).map(|i| i << 21 | PRESENT_WRITABLE | PAGE_SIZE_2M)
}

fn table_bytes(entries: impl IntoIterator<Item = u64>) -> Vec<u8> {
    entries.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: GuestAddress = GuestAddress(0x7000);
    const ENTRY: GuestAddress = GuestAddress(0x100_0000);

    #[test]
    fn linux64_enters_long_mode_with_boot_params_in_rsi() {
        let state = EntryState::new(Protocol::Linux64, ENTRY, INFO);
        let mut sregs = kvm_sregs {
            apic_base: 0xfee0_0900,
            ..Default::default()
        };
        state.apply(&mut sregs);
        assert_eq!((state.regs().rip, state.regs().rsi), (ENTRY.0, INFO.0));
        assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18));
        assert_eq!((sregs.cs.l, sregs.cs.db), (1, 0));
        assert_eq!(
            (sregs.cr0, sregs.cr4, sregs.efer),
            (0x8000_0011, 0x20, 0x500)
        );
        assert_eq!(sregs.cr3, PML4.0);
        assert_eq!(sregs.apic_base, 0xfee0_0900, "KVM's own");
    }

    #[test]
    fn pvh_enters_protected_mode_with_start_info_in_ebx() {
        let state = EntryState::new(Protocol::Pvh, ENTRY, INFO);
        let mut sregs = kvm_sregs::default();
        state.apply(&mut sregs);
        assert_eq!((state.regs().rip, state.regs().rbx), (ENTRY.0, INFO.0));
        assert_eq!(
            (sregs.cs.l, sregs.cs.db, sregs.cs.limit),
            (0, 1, 0xffff_ffff)
        );
        assert_eq!(
            (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer),
            (0x11, 0, 0, 0)
        );
        assert_eq!((sregs.tr.type_, sregs.tr.s, sregs.tr.limit), (0xb, 0, 0x67));
    }

    #[test]
    fn multiboot_3_2_enters_protected_mode_with_the_magic_number_in_eax() {
        let state = EntryState::new(Protocol::Multiboot, ENTRY, INFO);
        let mut sregs = kvm_sregs::default();
        state.apply(&mut sregs);
        let regs = state.regs();
        assert_eq!((regs.rax, regs.rbx), (0x2bad_b002, INFO.0));
        assert_eq!((regs.rip, regs.rflags), (ENTRY.0, 2));
        assert_eq!((sregs.cr0, sregs.cs.db, sregs.efer), (0x11, 1, 0));
    }

    #[test]
    fn linux32_enters_protected_mode_with_boot_params_in_esi() {
        let state = EntryState::new(Protocol::Linux32, ENTRY, INFO);
        let regs = state.regs();
        assert_eq!((regs.rsi, regs.rbp, regs.rdi, regs.rbx), (INFO.0, 0, 0, 0));
    }

    #[test]
    fn sdm_figure_3_8_descriptors_match_the_well_known_values() {
        assert_eq!(descriptor(&code_segment(true)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&code_segment(false)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&data_segment()), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task_segment()), 0x0000_8b00_0000_0067);
    }

    #[test]
    fn page_tables_map_four_gib_one_to_one() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        EntryState::new(Protocol::Linux64, ENTRY, INFO)
            .write_tables(&memory)
            .unwrap();
        let read = |gpa| {
            let mut bytes = [0; 8];
            memory.read(GuestAddress(gpa), &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        };
        // Walk to the last 2 MiB below 4 GiB: directory 3, entry 511.
        let pdpt = read(PML4.0) & !0xfff;
        let directory = read(pdpt + 3 * 8) & !0xfff;
        assert_eq!(read(directory + 511 * 8), 0xffe0_0000 | 0x83);
        assert_eq!(read(PML4.0 + 8), 0);
    }

    #[test]
    fn gdt_holds_code_and_data_at_their_selectors() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        EntryState::new(Protocol::Pvh, ENTRY, INFO)
            .write_tables(&memory)
            .unwrap();
        let mut gdt = [0; 40];
        memory.read(BOOT_GDT, &mut gdt).unwrap();
        assert_eq!(gdt[0x10..0x18], 0x00cf_9b00_0000_ffff_u64.to_le_bytes());
        assert_eq!(gdt[0x18..0x20], 0x00cf_9300_0000_ffff_u64.to_le_bytes());
    }
}
