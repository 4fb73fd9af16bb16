//! The MP table: processors and interrupt wiring for kernels built without ACPI.
//!
//! ```text
//! MP_TABLE        floating pointer: where the table is   16 bytes
//!       + 0x10    header                                 44
//!                 processor entries, one a vCPU          20 each
//!                 bus entry: one ISA bus                  8
//!                 I/O APIC entry                          8
//!                 interrupt entries, one a line           8 each
//!                 local interrupt entries: LINT0, LINT1   8 each
//! ```
//!
//! The loader calls [`build`] and copies the bytes to `layout::MP_TABLE`, in the range that
//! Linux scans for the floating pointer.
//!
//! Sources: `[mp]` Intel MultiProcessor Specification 1.4, May 1997; `[linux]`
//! `arch/x86/kernel/mpparse.c`, v6.12.
//! Read next: [`super::bios_data`].

use vm_memory::Address;

use super::{LAST_XAPIC_ID, checksum, ioapic_id, low_half};
use crate::memory::layout::{IOAPIC, IOAPIC_PINS, LOCAL_APIC, MP_TABLE, MP_TABLE_MAX_SIZE};

/// Size of the floating pointer structure in bytes. `[mp]` 4.1
const FLOATING_POINTER_SIZE: u8 = 16;
/// Size of the configuration table's header in bytes. `[mp]` 4.2
const HEADER_SIZE: usize = 44;
/// Size of a processor entry in bytes; every other entry has 8. `[mp]` 4.3
const PROCESSOR_ENTRY_SIZE: usize = 20;
/// Size of every other entry in bytes. `[mp]` 4.3
const ENTRY_SIZE: usize = 8;

/// Version 1.4 of the specification, as both structures give it. `[mp]` table 4-1
const SPECIFICATION_1_4: u8 = 4;
/// The version of an APIC that is part of the processor, "1Xh". `[mp]` 4.3.1
const APIC_VERSION: u8 = 0x14;
/// The only bus. Its interrupts are edge-triggered and active high unless an entry says
/// otherwise, which is how our I/O APIC expects its lines. `[mp]` 4.3.4
const ISA_BUS: u8 = 0;
/// Polarity and trigger mode as the bus has them. `[mp]` table 4-10
const CONFORMS: u8 = 0;
/// The destination that means every local APIC. `[mp]` 4.3.5
const ALL_LOCAL_APICS: u8 = 0xff;

/// The most processors the table can name: ids 0 to 254.
pub const MAX_PROCESSORS: u32 = LAST_XAPIC_ID + 1;

// The largest table: all processors, bus, I/O APIC, pins, two local interrupts.
const _: () = {
    let entries = (2 + IOAPIC_PINS as usize + 2) * ENTRY_SIZE;
    let processors = MAX_PROCESSORS as usize * PROCESSOR_ENTRY_SIZE;
    let size = FLOATING_POINTER_SIZE as usize + HEADER_SIZE + processors + entries;
    assert!(size as u64 <= MP_TABLE_MAX_SIZE);
};

/// What an interrupt line carries. `[mp]` table 4-10
#[derive(Clone, Copy)]
enum Kind {
    /// A vector from the I/O APIC's redirection table.
    Vectored = 0,
    /// A non-maskable interrupt.
    Nmi = 1,
    /// A vector from an 8259.
    ExtInt = 3,
}

/// Returns the floating pointer and the configuration table of a machine with `vcpus` processors
/// and devices at these `lines`.
///
/// A machine with more than [`MAX_PROCESSORS`] is described without the rest: the table's ids
/// have 8 bits. A kernel without ACPI then runs on those it is told of.
pub fn build(vcpus: u32, lines: &[u32]) -> Vec<u8> {
    let mut bytes = floating_pointer().to_vec();
    bytes.extend(configuration_table(vcpus, lines));
    bytes
}

/// `[mp]` 4.1: sixteen bytes that point to the table right after them.
fn floating_pointer() -> [u8; 16] {
    /// The structure's own length in paragraphs of 16 bytes.
    const LENGTH: u8 = 1;
    let table = MP_TABLE.unchecked_add(u64::from(FLOATING_POINTER_SIZE));
    let [a, b, c, d] = low_half(table);
    // The feature bytes at the end: a table is present (the first is 0) and there is no IMCR to
    // leave PIC mode with (bit 7 of the second is 0).
    let with = |sum| {
        let version = SPECIFICATION_1_4;
        [
            b'_', b'M', b'P', b'_', a, b, c, d, LENGTH, version, sum, 0, 0, 0, 0, 0,
        ]
    };
    with(checksum(&with(0)))
}

/// `[mp]` 4.2: the header and the entries, in ascending order of their types as 4.3 demands.
fn configuration_table(vcpus: u32, lines: &[u32]) -> Vec<u8> {
    let mut entries = Entries::default();
    // The cap is checked by the type: ids are bytes and 0xff is not among them.
    for id in (0..=u8::MAX).take_while(|id| u32::from(*id) < vcpus.min(MAX_PROCESSORS)) {
        entries.processor(id);
    }
    entries.add([1, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']); // [mp] 4.3.2
    entries.ioapic(ioapic_id(vcpus));
    entries.interrupts(ioapic_id(vcpus), lines);

    let length = u16::try_from(HEADER_SIZE + entries.bytes.len()).unwrap_or(u16::MAX);
    let mut table = Vec::with_capacity(usize::from(length));
    table.extend(b"PCMP");
    table.extend(length.to_le_bytes());
    table.extend([SPECIFICATION_1_4, 0]); // the checksum comes last
    table.extend(b"COTTAGE VM          "); // OEM id, 8 bytes, and product id, 12 bytes
    table.extend([0; 6]); // no OEM table: address and size
    table.extend(entries.count.to_le_bytes());
    table.extend(low_half(LOCAL_APIC));
    table.extend([0; 4]); // no extended table: length, checksum; one reserved byte
    table.extend(entries.bytes);
    let sum = checksum(&table);
    if let Some(field) = table.get_mut(7) {
        *field = sum;
    }
    table
}

/// The table's entries as they are collected.
#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u16,
}

impl Entries {
    /// Adds an entry, or the last 8 bytes of a longer one.
    fn add(&mut self, entry: [u8; ENTRY_SIZE]) {
        self.bytes.extend(entry);
        self.count += 1;
    }

    /// `[mp]` 4.3.1.
    fn processor(&mut self, id: u8) {
        const ENABLED: u8 = 1 << 0;
        const BOOTSTRAP: u8 = 1 << 1;
        /// Family 6. Linux only prints it; CPUID is what counts.
        const SIGNATURE: [u8; 4] = [0x00, 0x06, 0, 0];
        /// FPU, bit 0, and APIC, bit 9: likewise.
        const FEATURES: [u8; 4] = [0x01, 0x02, 0, 0];
        let flags = match id {
            0 => ENABLED | BOOTSTRAP,
            _ => ENABLED,
        };
        self.bytes.extend([0, id, APIC_VERSION, flags]);
        self.bytes.extend(SIGNATURE);
        self.bytes.extend(FEATURES);
        self.add([0; 8]); // reserved
    }

    /// `[mp]` 4.3.3.
    fn ioapic(&mut self, id: u8) {
        const USABLE: u8 = 1 << 0;
        let [a, b, c, d] = low_half(IOAPIC);
        self.add([2, id, APIC_VERSION, USABLE, a, b, c, d]);
    }

    /// `[mp]` 4.3.4 and 4.3.5.
    fn interrupts(&mut self, ioapic: u8, lines: &[u32]) {
        // ISA interrupt n arrives at pin n, without the exception PCs make for the timer (0 at
        // pin 2): global interrupt n is pin n everywhere in cottage. Interrupts from 16 on are
        // more than an ISA bus has; Linux takes them as numbers. A pin without an entry is one
        // that nothing is wired to.
        for line in lines.iter().filter_map(|line| u8::try_from(*line).ok()) {
            self.wire(3, Kind::Vectored, line, (ioapic, line));
        }
        // LINT0 is the 8259's line, even where there is none: Linux takes virtual wire mode as given.
        self.wire(4, Kind::ExtInt, 0, (0, 0));
        self.wire(4, Kind::Nmi, 0, (ALL_LOCAL_APICS, 1));
    }

    /// `to` is the destination APIC's id and its pin.
    fn wire(&mut self, entry: u8, kind: Kind, irq: u8, to: (u8, u8)) {
        self.add([entry, kind as u8, CONFORMS, 0, ISA_BUS, irq, to.0, to.1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[u32] = &[4, 17];

    /// Bytes of the table before its entries.
    const ENTRIES: usize = 16 + HEADER_SIZE;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn mp_4_1_floating_pointer_names_the_table_after_it() {
        let bytes = build(1, LINES);
        assert_eq!(&bytes[0..4], b"_MP_");
        assert_eq!(bytes[4..8], 0xf_0010_u32.to_le_bytes());
        assert_eq!(bytes[8], 1, "length in paragraphs");
        assert_eq!(bytes[9], 4, "specification 1.4");
        assert_eq!(sum(&bytes[..16]), 0);
        assert_eq!(bytes[11..16], [0; 5], "features");
    }

    #[test]
    fn mp_4_2_header_counts_what_follows() {
        let bytes = build(3, LINES);
        let table = &bytes[16..];
        assert_eq!(&table[0..4], b"PCMP");
        assert_eq!(
            usize::from(table[4]) | usize::from(table[5]) << 8,
            table.len()
        );
        assert_eq!(table[6], 4);
        assert_eq!(sum(table), 0);
        assert_eq!(&table[8..28], b"COTTAGE VM          ");
        assert_eq!(table[28..34], [0; 6]);
        assert_eq!(table[34..36], (3 + 1 + 1 + 2 + 2_u16).to_le_bytes());
        assert_eq!(table[36..40], 0xfee0_0000_u32.to_le_bytes());
        assert_eq!(table[40..44], [0; 4]);
        assert_eq!(table.len(), 44 + 3 * 20 + (1 + 1 + 2 + 2) * 8);
    }

    #[test]
    fn mp_4_3_1_only_processor_0_is_the_bootstrap_processor() {
        let bytes = build(2, LINES);
        let first = [
            0, 0, 0x14, 3, 0, 6, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bytes[ENTRIES..ENTRIES + 20], first);
        assert_eq!(bytes[ENTRIES + 20..ENTRIES + 24], [0, 1, 0x14, 1]);
    }

    #[test]
    fn mp_4_3_2_bus_0_is_isa() {
        let bytes = build(1, LINES);
        assert_eq!(&bytes[ENTRIES + 20..ENTRIES + 28], b"\x01\x00ISA   ");
    }

    #[test]
    fn mp_4_3_3_ioapic_follows_the_processors_ids() {
        let bytes = build(4, LINES);
        let at = ENTRIES + 4 * 20 + 8;
        assert_eq!(bytes[at..at + 4], [2, 4, 0x14, 1]);
        assert_eq!(bytes[at + 4..at + 8], 0xfec0_0000_u32.to_le_bytes());
    }

    #[test]
    fn mp_4_3_4_wired_lines_go_to_the_pin_of_their_number() {
        let bytes = build(1, LINES);
        let at = ENTRIES + 20 + 16;
        assert_eq!(bytes[at..at + 8], [3, 0, 0, 0, 0, 4, 1, 4]);
        assert_eq!(bytes[at + 8..at + 16], [3, 0, 0, 0, 0, 17, 1, 17]);
        assert_eq!(bytes[at + 16], 4, "local interrupts follow");
    }

    #[test]
    fn mp_4_3_5_lint0_is_extint_and_lint1_is_nmi() {
        let bytes = build(1, LINES);
        let at = bytes.len() - 16;
        assert_eq!(bytes[at..at + 8], [4, 3, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[at + 8..], [4, 1, 0, 0, 0, 0, 0xff, 1]);
    }

    #[test]
    fn machine_with_255_processors_is_described_whole() {
        let bytes = build(255, LINES);
        let last = ENTRIES + 254 * 20;
        assert_eq!(bytes[last..last + 4], [0, 254, 0x14, 1]);
        assert_eq!(bytes[last + 20], 1, "the bus follows");
        assert_eq!(sum(&bytes[16..]), 0);
    }

    #[test]
    fn machine_with_more_processors_is_capped_at_255() {
        assert_eq!(build(1000, LINES), build(255, LINES));
    }
}
