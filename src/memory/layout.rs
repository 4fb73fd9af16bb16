//! Every guest address, I/O port and interrupt number cottage uses, in one place.
//!
//! ```text
//!  guest-physical memory                                              defined by
//!  0x0000_0000 ┌──────────────────────────────────────────────┐
//!              │ real-mode vectors: left zero                   │
//!  0x0000_0400 │ BIOS data, for kernels that are no Linux       │ BIOS_DATA
//!  0x0000_0500 │ boot GDT                                       │ BOOT_GDT
//!  0x0000_6000 │ PVH start info, module list, memory map        │ PVH_START_INFO
//!  0x0000_7000 │ zero page (struct boot_params)                 │ ZERO_PAGE
//!  0x0000_9000 │ page tables: PML4, PDPT, 4 page directories    │ PML4
//!  0x0001_0000 │ multiboot information                          │ MULTIBOOT_INFO
//!  0x0002_0000 │ kernel command line                            │ CMDLINE
//!  0x0009_fc00 ├──────────────────────────────────────────────┤ EBDA
//!              │ reserved: where a PC keeps EBDA, video, ROMs   │
//!  0x000e_0000 │ ACPI: RSDP first, then the tables              │ ACPI_TABLES
//!  0x000f_0000 │ MP table                                       │ MP_TABLE
//!  0x0010_0000 ├──────────────────────────────────────────────┤ HIGH_RAM_START
//!              │ kernel (where it asks to be), then initramfs   │
//!              │ RAM up to the memory size or 3 GiB             │
//!  0xc000_0000 ├──────────────────────────────────────────────┤ MMIO_GAP_START
//!              │ virtio-mmio windows that the DSDT names        │ VIRTIO_ACPI
//!  0xc001_0000 │ the same devices, for the command line         │ VIRTIO_CMDLINE
//!  0xfec0_0000 │ I/O APIC registers                             │ IOAPIC
//!  0xfee0_0000 │ local APIC registers (in KVM)                  │ LOCAL_APIC
//!  0xfffb_c000 │ identity-map page and TSS for KVM on Intel     │ KVM_IDENTITY_MAP
//! 0x1_0000_0000 ├──────────────────────────────────────────────┤ MMIO_GAP_END
//!              │ the rest of RAM, if memory exceeds 3 GiB       │
//!   next GiB   ├──────────────────────────────────────────────┤ pmem_start()
//!              │ files that `--pmem` maps, each from a GiB on   │
//!              └──────────────────────────────────────────────┘
//!
//!  I/O ports
//!  0x0020-0x0021  first PIC   \
//!  0x0040-0x0043  PIT          } in KVM, with the full irqchip only; so is
//!  0x00a0-0x00a1  second PIC  /  0x0061, the speaker's gate, and 0x04d0-0x04d1
//!  0x0060-0x0064  i8042: only the reset line and an idle status
//!  0x0070-0x0071  RTC and CMOS
//!  0x03f8-0x03ff  COM1, the console
//!  0x0600-0x0601  ACPI sleep control and status (power-off)
//!  0x0700         boot mark: the guest writes a stage number
//!  0x0704         exit status: the guest writes its command's status
//!  0x0cf8-0x0cff  PCI configuration address and data: an empty bus
//!
//!  global system interrupts (GSI) = I/O APIC pins
//!  0       interval timer, with the full irqchip only
//!  4       COM1
//!  10-23   virtio devices, in the order of their windows
//! ```
//!
//! Constants stand in the drawing's order; assertions at the end keep ranges apart.
//! `docs/memory-map.md` repeats this as tables and `tests/docs.rs` compares the two.
//! Read next: [`super::guest`].

use vm_memory::GuestAddress;

/// The BIOS data area, written only for kernels that are no Linux.
pub const BIOS_DATA: GuestAddress = GuestAddress(0x400);
/// Size of the BIOS data area, in bytes.
pub const BIOS_DATA_SIZE: u64 = 0x100;
/// The GDT of the entry state, five descriptors long.
pub const BOOT_GDT: GuestAddress = GuestAddress(0x500);
/// `struct hvm_start_info`; its module list and memory map follow in the same page.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// `struct boot_params`, one page.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// The stack pointer at entry; Linux switches to its own stack in its first instructions.
pub const BOOT_STACK: GuestAddress = GuestAddress(0x8ff0);
/// Level 4 page table; it has one entry.
pub const PML4: GuestAddress = GuestAddress(0x9000);
/// Level 3 page table; four entries, one a GiB.
pub const PDPT: GuestAddress = GuestAddress(0xa000);
/// First of four page directories that map 4 GiB one to one in 2 MiB pages.
pub const PAGE_DIRECTORIES: GuestAddress = GuestAddress(0xb000);
/// Size of the four page directories, in bytes.
pub const PAGE_DIRECTORIES_SIZE: u64 = 4 * 0x1000;
/// Multiboot information: the structure, memory map, module list and strings.
pub const MULTIBOOT_INFO: GuestAddress = GuestAddress(0x1_0000);
/// Room for it, in bytes.
pub const MULTIBOOT_INFO_MAX_SIZE: u64 = 0x1_0000;
/// The kernel command line, NUL-terminated.
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// Room for the command line with its NUL, in bytes. Linux itself keeps 2048 (COMMAND_LINE_SIZE).
pub const CMDLINE_MAX_SIZE: u64 = 0x1_0000;
/// End of conventional memory: a PC keeps its extended BIOS data area here.
pub const EBDA: GuestAddress = GuestAddress(0x9_fc00);
/// The ACPI tables; the RSDP stands first, on a 16-byte boundary where a scan finds it.
pub const ACPI_TABLES: GuestAddress = GuestAddress(0xe_0000);
/// Room for the ACPI tables, in bytes.
pub const ACPI_TABLES_MAX_SIZE: u64 = 0x1_0000;
/// The MP floating pointer structure; the configuration table follows it.
pub const MP_TABLE: GuestAddress = GuestAddress(0xf_0000);
/// Room for the MP table, in bytes.
pub const MP_TABLE_MAX_SIZE: u64 = 0x1_0000;
/// First byte above the PC's first megabyte.
pub const HIGH_RAM_START: GuestAddress = GuestAddress(0x10_0000);
/// RAM stops here and goes on at [`MMIO_GAP_END`].
pub const MMIO_GAP_START: GuestAddress = GuestAddress(0xc000_0000);
/// The first of [`VIRTIO_SLOTS`] register windows, one after the other, that the DSDT names.
pub const VIRTIO_ACPI: GuestAddress = GuestAddress(0xc000_0000);
/// Windows on the same devices under other addresses, named on the kernel command line.
pub const VIRTIO_CMDLINE: GuestAddress = GuestAddress(0xc001_0000);
/// Size of a virtio-mmio register window, in bytes.
pub const VIRTIO_WINDOW_SIZE: u64 = 0x1000;
/// I/O APIC register window.
pub const IOAPIC: GuestAddress = GuestAddress(0xfec0_0000);
/// Size of the I/O APIC window, in bytes.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Local APIC register window, emulated by KVM.
pub const LOCAL_APIC: GuestAddress = GuestAddress(0xfee0_0000);
/// One page KVM needs on Intel processors that cannot run real mode unaided.
pub const KVM_IDENTITY_MAP: GuestAddress = GuestAddress(0xfffb_c000);
/// Three pages after it, for the same reason.
pub const KVM_TSS: GuestAddress = GuestAddress(0xfffb_d000);
/// RAM beyond the gap starts here.
pub const MMIO_GAP_END: GuestAddress = GuestAddress(0x1_0000_0000);

/// First 8259 interrupt controller, command and data.
pub const PIC_1_PORT: u16 = 0x20;
/// Second 8259.
pub const PIC_2_PORT: u16 = 0xa0;
/// Trigger modes of both, one port each.
pub const PIC_TRIGGER_PORT: u16 = 0x4d0;
/// Ports of each of the three.
pub const PIC_PORTS: u16 = 2;
/// 8254 interval timer: three channels and a command port.
pub const PIT_PORT: u16 = 0x40;
/// Channels and command.
pub const PIT_PORTS: u16 = 4;
/// i8042 data port; the block runs to the command port 0x64.
pub const I8042_PORT: u16 = 0x60;
/// Number of ports from data to command.
pub const I8042_PORTS: u16 = 5;
/// RTC index port; the data port follows.
pub const RTC_PORT: u16 = 0x70;
/// Index and data.
pub const RTC_PORTS: u16 = 2;
/// First port of the 16550A at COM1.
pub const COM1_PORT: u16 = 0x3f8;
/// A 16550A has eight registers.
pub const COM1_PORTS: u16 = 8;
/// ACPI sleep control register; the sleep status register follows.
pub const ACPI_SLEEP_PORT: u16 = 0x600;
/// Control and status.
pub const ACPI_SLEEP_PORTS: u16 = 2;
/// A byte written here marks a boot stage.
pub const BOOT_MARK_PORT: u16 = 0x700;
/// Four bytes, so that a mark may be written with any width.
pub const BOOT_MARK_PORTS: u16 = 4;
/// The status of the guest's command is written here, 0 to 255.
pub const EXIT_STATUS_PORT: u16 = 0x704;
/// Four bytes, so that the status may be written with any width.
pub const EXIT_STATUS_PORTS: u16 = 4;
/// PCI configuration address; the four data ports follow.
pub const PCI_CONFIG_PORT: u16 = 0xcf8;
/// Address and data.
pub const PCI_CONFIG_PORTS: u16 = 8;

/// The ports of all devices, those in KVM too: the first of each, and how many it has.
pub fn device_ports() -> [(u16, u16); 11] {
    [
        (PIC_1_PORT, PIC_PORTS),
        (PIT_PORT, PIT_PORTS),
        (PIC_2_PORT, PIC_PORTS),
        (PIC_TRIGGER_PORT, PIC_PORTS),
        (I8042_PORT, I8042_PORTS),
        (RTC_PORT, RTC_PORTS),
        (COM1_PORT, COM1_PORTS),
        (ACPI_SLEEP_PORT, ACPI_SLEEP_PORTS),
        (BOOT_MARK_PORT, BOOT_MARK_PORTS),
        (EXIT_STATUS_PORT, EXIT_STATUS_PORTS),
        (PCI_CONFIG_PORT, PCI_CONFIG_PORTS),
    ]
}

/// The interval timer's interrupt; there is one only with the full irqchip.
pub const PIT_GSI: u32 = 0;
/// COM1's interrupt, as on every PC.
pub const COM1_GSI: u32 = 4;
/// The first virtio device's interrupt. Below it lie pins that kernels without ACPI take for a PC's
/// own: 0 and 2 the timer's, 8 the clock's, 9 ACPI's.
pub const VIRTIO_GSI: u32 = 10;
/// Room for virtio devices, each with a window and a pin.
pub const VIRTIO_SLOTS: u32 = 14;
/// The most pins the I/O APIC can have; `platform::ioapic_pins` says how many it has.
pub const IOAPIC_PINS: u32 = 24;

/// Smallest guest memory: the first megabyte plus room for the smallest kernels.
pub const MIN_MEMORY: u64 = 2 << 20; // 2 MiB
/// Largest guest memory: what 46-bit guest-physical addresses leave comfortable.
pub const MAX_MEMORY: u64 = 1 << 40; // 1 TiB

/// Where persistent memory can begin: Linux before 5.3 wants none in the same 128 MiB as RAM or as
/// another, and addresses cost nothing.
pub const PMEM_START_ALIGN: u64 = 1 << 30; // 1 GiB
/// Sizes of persistent memory are multiples of this: Linux's PMEM_ALIGN, a large page.
pub const PMEM_SIZE_ALIGN: u64 = 2 << 20; // 2 MiB

/// Where the first persistent memory begins, above `ram` bytes of RAM.
pub fn pmem_start(ram: u64) -> GuestAddress {
    let high = ram.saturating_sub(MMIO_GAP_START.0);
    after_pmem(MMIO_GAP_END.0.saturating_add(high))
}

/// Where the next persistent memory begins, if `end` is the end of what is there.
pub fn after_pmem(end: u64) -> GuestAddress {
    GuestAddress(
        end.checked_next_multiple_of(PMEM_START_ALIGN)
            .unwrap_or(u64::MAX),
    )
}

/// The most RAM a guest can have whose processors have `bits` of physical address.
pub fn max_memory(bits: u32) -> u64 {
    let end = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
    let high = end.saturating_sub(MMIO_GAP_END.0);
    end.min(MMIO_GAP_START.0) + high
}

const _: () = {
    assert!(BIOS_DATA.0 + BIOS_DATA_SIZE <= BOOT_GDT.0);
    assert!(BOOT_GDT.0 + 5 * 8 <= PVH_START_INFO.0);
    assert!(PVH_START_INFO.0 + 0x1000 <= ZERO_PAGE.0);
    assert!(ZERO_PAGE.0 + 0x1000 <= BOOT_STACK.0);
    assert!(BOOT_STACK.0 < PML4.0);
    assert!(PML4.0 + 0x1000 <= PDPT.0 && PDPT.0 + 0x1000 <= PAGE_DIRECTORIES.0);
    assert!(PAGE_DIRECTORIES.0 + PAGE_DIRECTORIES_SIZE <= MULTIBOOT_INFO.0);
    assert!(MULTIBOOT_INFO.0 + MULTIBOOT_INFO_MAX_SIZE <= CMDLINE.0);
    assert!(CMDLINE.0 + CMDLINE_MAX_SIZE <= EBDA.0);
    assert!(EBDA.0 < ACPI_TABLES.0);
    assert!(ACPI_TABLES.0 + ACPI_TABLES_MAX_SIZE <= MP_TABLE.0);
    assert!(MP_TABLE.0 + MP_TABLE_MAX_SIZE <= HIGH_RAM_START.0);
    assert!(HIGH_RAM_START.0 < MIN_MEMORY && MIN_MEMORY < MMIO_GAP_START.0);
    assert!(MMIO_GAP_START.0 <= VIRTIO_ACPI.0);
    let windows = VIRTIO_SLOTS as u64 * VIRTIO_WINDOW_SIZE;
    assert!(VIRTIO_ACPI.0 + windows <= VIRTIO_CMDLINE.0);
    assert!(VIRTIO_CMDLINE.0 + windows <= IOAPIC.0);
    assert!(COM1_GSI < VIRTIO_GSI && VIRTIO_GSI + VIRTIO_SLOTS <= IOAPIC_PINS);
    assert!(MMIO_GAP_START.0 < IOAPIC.0 && IOAPIC.0 + IOAPIC_SIZE <= LOCAL_APIC.0);
    assert!(LOCAL_APIC.0 + 0x1000 <= KVM_IDENTITY_MAP.0);
    assert!(KVM_IDENTITY_MAP.0 + 0x1000 <= KVM_TSS.0 && KVM_TSS.0 + 0x3000 <= MMIO_GAP_END.0);
    assert!(BOOT_MARK_PORT + BOOT_MARK_PORTS <= EXIT_STATUS_PORT);
    assert!(EXIT_STATUS_PORT + EXIT_STATUS_PORTS <= PCI_CONFIG_PORT);
    assert!(MMIO_GAP_END.0.is_multiple_of(PMEM_START_ALIGN));
    assert!(PMEM_START_ALIGN.is_multiple_of(PMEM_SIZE_ALIGN));
    assert!(PIC_1_PORT + PIC_PORTS <= PIT_PORT && PIT_PORT + PIT_PORTS <= I8042_PORT);
    assert!(RTC_PORT + RTC_PORTS <= PIC_2_PORT && PIC_2_PORT + PIC_PORTS <= COM1_PORT);
    assert!(COM1_PORT + COM1_PORTS <= PIC_TRIGGER_PORT);
    assert!(PIC_TRIGGER_PORT + PIC_PORTS <= ACPI_SLEEP_PORT);
    assert!(PIT_GSI < COM1_GSI && COM1_GSI < IOAPIC_PINS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_36_bit_processors_is_64_gib_less_the_gap() {
        assert_eq!(max_memory(36), 63 << 30);
    }

    #[test]
    fn memory_of_39_bit_processors_ends_below_the_largest_that_is_accepted() {
        assert_eq!(max_memory(39), 511 << 30);
        assert!(max_memory(39) < MAX_MEMORY && MAX_MEMORY < max_memory(46));
    }

    #[test]
    fn persistent_memory_begins_above_ram_and_the_gap() {
        let starts = [2 << 20, 3 << 30, (3 << 30) + 4096, 5 << 30].map(|ram| pmem_start(ram).0);
        assert_eq!(starts, [4 << 30, 4 << 30, 5 << 30, 6 << 30]);
    }

    #[test]
    fn memory_of_32_bits_ends_at_the_gap() {
        assert_eq!(max_memory(32), MMIO_GAP_START.0);
        assert_eq!(max_memory(64), u64::MAX - (1 << 30));
    }
}
