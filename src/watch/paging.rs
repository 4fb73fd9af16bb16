//! Page tables in words: what an entry says, and the walk from an address to a page.
//!
//! [`walk`] does what the processor does when it misses its TLB, and keeps what it read on the way. It
//! reads physical memory through a closure, so that it works on guest RAM, on a dump and in a test.
//!
//! Sources: `[sdm3]` Intel SDM vol. 3A, order no. 253668, chapter 4: 4.3 (32-bit paging), 4.4 (PAE), 4.5
//! (4-level and 5-level).
//! Read next: [`super::code`].

use std::fmt;

use kvm_bindings::kvm_sregs;
use vm_memory::GuestAddress;

use crate::memory::GuestMemory;

use super::arch::{CR0, CR4, EFER};

// Bits of an entry, the same in all formats. [sdm3] tables 4-14 to 4-20
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLED: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// In a directory: this entry maps a large page, and leads to no table.
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 12 to 51: where the page or table is.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Not at all.
    Off,
    /// Two levels, entries of 4 bytes.
    Bits32,
    /// Three levels, entries of 8 bytes, addresses of 32 bits.
    Pae,
    /// Four levels: addresses of 48 bits.
    Level4,
    /// Five levels: addresses of 57 bits.
    Level5,
}

/// One level of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// What the manual calls its tables.
    pub table: &'static str,
    /// The lowest bit of an address that chooses an entry.
    pub shift: u32,
    /// How many bits do.
    pub bits: u32,
    /// Whether an entry can map a large page.
    pub large: bool,
}

const fn level(table: &'static str, shift: u32, bits: u32, large: bool) -> Level {
    Level {
        table,
        shift,
        bits,
        large,
    }
}

const PML5: Level = level("PML5", 48, 9, false);
const PML4: Level = level("PML4", 39, 9, false);
const PDPT: Level = level("PDPT", 30, 9, true);
const DIRECTORY: Level = level("PD", 21, 9, true);
const TABLE: Level = level("PT", 12, 9, false);
const LEVELS: [Level; 5] = [PML5, PML4, PDPT, DIRECTORY, TABLE];
const LEVELS_PAE: [Level; 3] = [level("PDPT", 30, 2, false), DIRECTORY, TABLE];
const LEVELS_32: [Level; 2] = [level("PD", 22, 10, true), level("PT", 12, 10, false)];

impl Format {
    /// As the control registers say. `[sdm3]` 4.1.1
    pub fn of(sregs: &kvm_sregs) -> Self {
        let pae = CR4.has(sregs.cr4, "PAE");
        match CR0.has(sregs.cr0, "PG") {
            false => Self::Off,
            true if !pae => Self::Bits32,
            true if !EFER.has(sregs.efer, "LMA") => Self::Pae,
            true if CR4.has(sregs.cr4, "LA57") => Self::Level5,
            true => Self::Level4,
        }
    }

    /// Its levels, that of CR3 first.
    pub fn levels(self) -> &'static [Level] {
        match self {
            Self::Off => &[],
            Self::Bits32 => &LEVELS_32,
            Self::Pae => &LEVELS_PAE,
            Self::Level4 => LEVELS.split_at(1).1,
            Self::Level5 => &LEVELS,
        }
    }

    /// Bytes of an entry.
    pub fn entry_size(self) -> u64 {
        match self {
            Self::Bits32 => 4,
            _ => 8,
        }
    }

    /// Whether bits above the translated ones repeat the highest of those. `[sdm1]` 3.3.7.1
    pub fn is_canonical(self, address: u64) -> bool {
        let unused = match self {
            Self::Off | Self::Bits32 | Self::Pae => return address >> 32 == 0,
            Self::Level4 => 16,
            Self::Level5 => 7,
        };
        // Sign extension: shift left, then right with the sign.
        let signed = address.cast_signed() << unused >> unused;
        signed.cast_unsigned() == address
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "no paging",
            Self::Bits32 => "32-bit paging",
            Self::Pae => "PAE paging",
            Self::Level4 => "4-level paging",
            Self::Level5 => "5-level paging",
        })
    }
}

/// An entry as the processor reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its bits.
    pub raw: u64,
    /// The table it stands in.
    pub level: Level,
}

impl Entry {
    /// Whether it leads anywhere.
    pub fn is_present(self) -> bool {
        self.raw & PRESENT != 0
    }

    /// Whether it maps a page, and leads to no further table.
    pub fn is_page(self) -> bool {
        self.level.shift == TABLE.shift || (self.level.large && self.raw & LARGE != 0)
    }

    /// Bytes of the page it maps, or of all that the table behind it can map.
    pub fn reach(self) -> u64 {
        1 << self.level.shift
    }

    /// Where its page or table begins.
    pub fn address(self) -> u64 {
        let address = self.raw & ADDRESS;
        if self.is_page() && self.level.large {
            // Lower bits of a large page's address have other meanings. [sdm3] table 4-18
            return address & !(self.reach() - 1);
        }
        address
    }

    /// "0x200000, 2 MiB page, writable" or "table at 0xa000, writable"; "not present".
    pub fn words(self) -> String {
        if !self.is_present() {
            return match self.raw {
                0 => "not present".into(),
                raw => format!("not present ({raw:#x})"),
            };
        }
        let kind = match self.is_page() {
            true => format!("{} page at {:#x}", size(self.reach()), self.address()),
            false => format!("table at {:#x}", self.address()),
        };
        format!("{kind}, {}", self.flags().join(", "))
    }

    /// What it permits, and what the processor has noted in it.
    pub fn flags(self) -> Vec<&'static str> {
        let when = |bit, word| (self.raw & bit != 0).then_some(word);
        let flags = [
            Some(match self.raw & WRITABLE {
                0 => "read only",
                _ => "writable",
            }),
            when(USER, "user"),
            when(NO_EXECUTE, "no execution"),
            when(WRITE_THROUGH, "write-through"),
            when(CACHE_DISABLED, "uncached"),
            when(ACCESSED, "accessed"),
            when(DIRTY, "dirty").filter(|_| self.is_page()),
            when(GLOBAL, "global").filter(|_| self.is_page()),
        ];
        flags.into_iter().flatten().collect()
    }
}

/// One table that a walk went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Physical address of the entry.
    pub at: u64,
    /// Which entry of its table it is.
    pub index: u64,
    /// The entry.
    pub entry: Entry,
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At this physical address.
    Mapped(u64),
    /// At an entry that is not present, the last step.
    NotPresent,
    /// At an entry in no memory: here.
    NoMemory(u64),
    /// Before it began: the address is no address. `[sdm1]` 3.3.7.1
    NotCanonical,
}

/// The way from a virtual address to a physical one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The virtual (linear) address.
    pub address: u64,
    /// By which rules.
    pub format: Format,
    /// The entries that were read.
    pub steps: Vec<Step>,
    /// Where it led.
    pub end: End,
}

/// Walks through tables in guest memory; see [`walk`].
pub fn walk_memory(memory: &GuestMemory, sregs: &kvm_sregs, address: u64) -> Walk {
    walk(sregs, address, |at, len| {
        let mut bytes = [0; 8];
        let (part, _) = bytes.split_at_mut_checked(usize::try_from(len).ok()?)?;
        memory.read(GuestAddress(at), part).ok()?;
        Some(u64::from_le_bytes(bytes))
    })
}

/// Walks from `sregs.cr3` to `address`. `read` gets a physical address and a length of 4 or 8 bytes, and
/// returns the little-endian number there, or `None` where no memory is.
pub fn walk(
    sregs: &kvm_sregs,
    address: u64,
    mut read: impl FnMut(u64, u64) -> Option<u64>,
) -> Walk {
    let format = Format::of(sregs);
    let mut walk = Walk {
        address,
        format,
        steps: Vec::new(),
        end: End::Mapped(address),
    };
    if !format.is_canonical(address) {
        walk.end = End::NotCanonical;
        return walk;
    }
    let mut table = match format {
        // [sdm3] 4.4.1: a PAE CR3 points at 32 bytes.
        Format::Pae => sregs.cr3 & 0xffff_ffe0,
        _ => sregs.cr3 & ADDRESS,
    };
    for level in format.levels() {
        let index = address >> level.shift & ((1 << level.bits) - 1);
        let at = table.saturating_add(index * format.entry_size());
        let Some(raw) = read(at, format.entry_size()) else {
            walk.end = End::NoMemory(at);
            return walk;
        };
        let entry = Entry { raw, level: *level };
        walk.steps.push(Step { at, index, entry });
        if !entry.is_present() {
            walk.end = End::NotPresent;
            return walk;
        }
        if entry.is_page() {
            walk.end = End::Mapped(entry.address() + (address & (entry.reach() - 1)));
            return walk;
        }
        table = entry.address();
    }
    walk
}

impl Walk {
    /// A line for each step and one for the end.
    pub fn lines(&self) -> Vec<String> {
        let step = |step: &Step| {
            format!(
                "{:<4} entry {:>3} at {:#x}: {:#x}, {}",
                step.entry.level.table,
                step.index,
                step.at,
                step.entry.raw,
                step.entry.words()
            )
        };
        let end = match (self.end, self.format) {
            (End::Mapped(physical), Format::Off) => {
                format!("{physical:#x} is physical: paging is off")
            }
            (End::Mapped(physical), _) => format!("{:#x} is at {physical:#x}", self.address),
            (End::NotPresent, _) => format!("{:#x} is not mapped", self.address),
            (End::NoMemory(at), _) => format!("there is no memory at {at:#x}"),
            (End::NotCanonical, format) => {
                format!("{:#x} is no address with {format}", self.address)
            }
        };
        self.steps.iter().map(step).chain([end]).collect()
    }
}

/// "4 KiB", "2 MiB", "1 GiB": sizes of pages are powers of two.
pub fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 30 => format!("{} GiB", bytes >> 30),
        bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        bytes if bytes >= 1 << 10 => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sregs(cr0: u64, cr4: u64, efer: u64) -> kvm_sregs {
        kvm_sregs {
            cr0,
            cr3: 0x9000,
            cr4,
            efer,
            ..Default::default()
        }
    }

    fn long() -> kvm_sregs {
        sregs(0x8000_0011, 0x20, 0x500)
    }

    fn walk_in(sregs: &kvm_sregs, address: u64, memory: &[(u64, u64)]) -> Walk {
        let memory: BTreeMap<u64, u64> = memory.iter().copied().collect();
        walk(sregs, address, |at, _len| {
            (at < 0x10_0000).then(|| memory.get(&at).copied().unwrap_or(0))
        })
    }

    #[test]
    fn large_page_ends_the_walk_in_the_directory() {
        let memory = [(0x9000, 0xa003), (0xa000, 0xb003), (0xb008, 0x20_0083)];
        let walk = walk_in(&long(), 0x20_1234, &memory);
        assert_eq!(walk.end, End::Mapped(0x20_1234));
        assert_eq!(
            walk.lines(),
            [
                "PML4 entry   0 at 0x9000: 0xa003, table at 0xa000, writable",
                "PDPT entry   0 at 0xa000: 0xb003, table at 0xb000, writable",
                "PD   entry   1 at 0xb008: 0x200083, 2 MiB page at 0x200000, writable",
                "0x201234 is at 0x201234",
            ]
        );
    }

    #[test]
    fn kernel_address_goes_through_four_levels() {
        let memory = [
            (0x9ff8, 0xa063),
            (0xaff0, 0xb063),
            (0xb040, 0xc063),
            (0xc008, 0x8000_0000_0100_1163),
        ];
        let walk = walk_in(&long(), 0xffff_ffff_8100_1005, &memory);
        assert_eq!((walk.end, walk.steps.len()), (End::Mapped(0x100_1005), 4));
        assert_eq!(
            walk.steps[3].entry.words(),
            "4 KiB page at 0x1001000, writable, no execution, accessed, dirty, global"
        );
    }

    #[test]
    fn absent_entry_and_absent_memory_are_told_apart() {
        let walk = walk_in(&long(), 1 << 39, &[]);
        assert_eq!((walk.end, walk.steps.len()), (End::NotPresent, 1));
        assert_eq!(walk.lines()[1], "0x8000000000 is not mapped");
        let walk = walk_in(&long(), 0, &[(0x9000, 0x20_0003)]);
        assert_eq!(walk.end, End::NoMemory(0x20_0000));
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        let walk = walk_in(&long(), 1 << 47, &[]);
        assert_eq!(walk.end, End::NotCanonical);
        assert!(Format::Level5.is_canonical(1 << 47));
        assert!(Format::Level4.is_canonical(0xffff_8000_0000_0000));
        assert!(!Format::Bits32.is_canonical(1 << 32));
    }

    #[test]
    fn sdm_4_3_32_bit_paging_has_4_byte_entries_and_4_mib_pages() {
        let sregs = sregs(0x8000_0011, 0x10, 0);
        let walk = walk_in(&sregs, 0xc010_0000, &[(0x9c00, 0x83)]);
        assert_eq!(walk.steps[0].at, 0x9c00);
        assert_eq!(walk.end, End::Mapped(0x10_0000));
        assert_eq!(size(walk.steps[0].entry.reach()), "4 MiB");
    }

    #[test]
    fn sdm_4_4_pae_chooses_one_of_four_first() {
        let sregs = sregs(0x8000_0011, 0x20, 0);
        let memory = [(0x9018, 0xb001), (0xb000, 0x83)];
        assert_eq!(walk_in(&sregs, 0xc000_0004, &memory).end, End::Mapped(4));
    }

    #[test]
    fn without_paging_every_address_is_physical() {
        let walk = walk_in(&sregs(0x11, 0, 0), 0x1234, &[]);
        assert_eq!(walk.lines(), ["0x1234 is physical: paging is off"]);
    }
}
