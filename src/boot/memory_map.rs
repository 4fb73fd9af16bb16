//! The memory map a PC's firmware would report: what is RAM, what is reserved.
//!
//! One value for both boot protocols: [`super::zero_page`] writes it as an e820 table,
//! [`super::pvh`] as a memory map table. The type numbers are the same in both.
//!
//! Sources: `[acpi]` ACPI 6.4, section 15 "System Address Map Interfaces"; `[pvh]` Xen
//! `xen/include/public/arch-x86/hvm/start_info.h`.
//! Read next: [`super::zero_page`].

use crate::memory::guest::ram_ranges;
use crate::memory::layout::{EBDA, HIGH_RAM_START};

/// `[acpi]` table 15.4, AddressRangeMemory; `[pvh]` XEN_HVM_MEMMAP_TYPE_RAM.
pub const RAM: u32 = 1;
/// `[acpi]` table 15.4, AddressRangeReserved; `[pvh]` XEN_HVM_MEMMAP_TYPE_RESERVED.
pub const RESERVED: u32 = 2;

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First guest-physical address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// [`RAM`] or [`RESERVED`].
    pub kind: u32,
}

/// The map of a guest with `size` bytes of RAM, lowest range first.
///
/// The MMIO gap is not listed: an address in no entry is free for devices.
pub fn memory_map(size: u64) -> Vec<Entry> {
    let entry = |start, end, kind| Entry {
        start,
        len: end - start,
        kind,
    };
    let mut map = vec![
        entry(0, EBDA.0, RAM),
        // Really RAM, with the ACPI and MP tables in it: the kernel must not reuse it.
        entry(EBDA.0, HIGH_RAM_START.0, RESERVED),
    ];
    for (start, len) in ram_ranges(size) {
        let end = start.0 + len;
        let start = start.0.max(HIGH_RAM_START.0);
        if start < end {
            map.push(entry(start, end, RAM));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_guest_has_ram_hole_ram() {
        let map = memory_map(128 << 20);
        let expected = [
            (0, 0x9_fc00, RAM),
            (0x9_fc00, 0x6_0400, RESERVED),
            (0x10_0000, 127 << 20, RAM),
        ];
        assert_eq!(
            map,
            expected.map(|(start, len, kind)| Entry { start, len, kind })
        );
    }

    #[test]
    fn large_guest_goes_on_above_the_gap() {
        let map = memory_map(4 << 30);
        let last = Entry {
            start: 4 << 30,
            len: 1 << 30,
            kind: RAM,
        };
        assert_eq!(map.len(), 4);
        assert_eq!(map[2].start + map[2].len, 3 << 30);
        assert_eq!(map[3], last);
    }

    #[test]
    fn map_covers_exactly_the_ram_and_never_overlaps() {
        let size = 5 << 30;
        let map = memory_map(size);
        assert_eq!(map.iter().map(|entry| entry.len).sum::<u64>(), size);
        assert!(
            map.windows(2)
                .all(|pair| pair[0].start + pair[0].len <= pair[1].start)
        );
    }

    #[test]
    fn types_are_those_of_pvh() {
        use linux_loader::start_info::{XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED};
        assert_eq!(
            (RAM, RESERVED),
            (XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED)
        );
    }
}
