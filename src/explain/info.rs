//! What the kernel is told: zero page, PVH start info or multiboot information, read from guest memory.
//!
//! [`read`] finds in any of the three what all kernels want to know, [`explain`] shows it field by field.
//! Bytes of the zero page that are set and have no field here are told of by their place: nothing that a
//! kernel gets is hidden.
//!
//! Sources: `[boot]` and `[zero]` Linux `Documentation/arch/x86/boot.rst` and `zero-page.rst`, v6.12;
//! `[pvh]` Xen `xen/include/public/arch-x86/hvm/start_info.h`; `[multiboot]` Multiboot Specification
//! 0.6.96, 3.3; `[acpi]` ACPI 6.4, table 15.4.
//! Read next: [`super::map`].

use super::fields::{COLUMNS, Field, rows, size};
use super::guest::Guest;
use super::page::Section;
use super::setup_header;
use crate::boot::Protocol;
use crate::boot::memory_map::Entry;

/// What all three tell.
#[derive(Debug, Default)]
pub struct Told {
    /// Where the command line is.
    pub cmdline: Option<u64>,
    /// Initramfs or modules: start and length.
    pub modules: Vec<(u64, u64)>,
    /// Where the ACPI tables begin.
    pub rsdp: Option<u64>,
    /// RAM and what is reserved.
    pub map: Vec<Entry>,
    /// Bytes of it in memory.
    pub len: u64,
}

/// `[zero]`, without the setup header, which [`setup_header`] has.
const ZERO_PAGE: &[Field] = &[
    Field::new(0x070, 8, "acpi_rsdp_addr", "where the ACPI tables begin"),
    Field::new(
        0x0c0,
        4,
        "ext_ramdisk_image",
        "high half of the initramfs's address",
    ),
    Field::new(0x0c4, 4, "ext_ramdisk_size", "high half of its length"),
    Field::new(
        0x0c8,
        4,
        "ext_cmd_line_ptr",
        "high half of the command line's address",
    ),
    Field::new(
        0x1e8,
        1,
        "e820_entries",
        "ranges in the memory map at 0x2d0",
    ),
];
/// `[zero]` The memory map in it: 20 bytes a range.
const E820: usize = 0x2d0;
const E820_ENTRY: usize = 20;
const PAGE: u64 = 4096;

/// `[pvh]` hvm_start_info.
const START_INFO: &[Field] = &[
    Field::new(
        0,
        4,
        "magic",
        "0x336ec578: \"xEn3\" with its highest bit set",
    ),
    Field::new(4, 4, "version", "1: has a memory map"),
    Field::new(8, 4, "flags", "none: not the first domain of a Xen"),
    Field::new(
        12,
        4,
        "nr_modules",
        "entries of the module list: the initramfs",
    ),
    Field::new(16, 8, "modlist_paddr", "where that list is"),
    Field::new(24, 8, "cmdline_paddr", "where the command line is"),
    Field::new(32, 8, "rsdp_paddr", "where the ACPI tables begin"),
    Field::new(40, 8, "memmap_paddr", "where the memory map is"),
    Field::new(48, 4, "memmap_entries", "ranges in it"),
    Field::new(52, 4, "reserved", "0"),
];

/// `[multiboot]` 3.3
const MULTIBOOT: &[Field] = &[
    Field::bits(0, 4, "flags", MULTIBOOT_FLAGS),
    Field::of(4, 4, "mem_lower", kib),
    Field::of(8, 4, "mem_upper", kib),
    Field::new(16, 4, "cmdline", "where the command line is"),
    Field::new(20, 4, "mods_count", "modules"),
    Field::new(24, 4, "mods_addr", "where their list is"),
    Field::new(28, 4, "syms[0]", "ELF section headers"),
    Field::new(32, 4, "syms[1]", "bytes of one"),
    Field::new(36, 4, "syms[2]", "where they are"),
    Field::new(40, 4, "syms[3]", "which one has their names"),
    Field::new(44, 4, "mmap_length", "bytes of the memory map"),
    Field::new(48, 4, "mmap_addr", "where it is"),
    Field::new(64, 4, "boot_loader_name", "where the loader's name is"),
];

/// `[multiboot]` 3.3: which fields are valid.
const MULTIBOOT_FLAGS: &[(u64, &str)] = &[
    (1 << 0, "memory sizes"),
    (1 << 2, "command line"),
    (1 << 3, "modules"),
    (1 << 5, "ELF sections"),
    (1 << 6, "memory map"),
    (1 << 9, "loader's name"),
];

fn kib(value: u64) -> String {
    format!("in KiB: {}", size(value << 10))
}

/// Reads what `guest` is told.
pub fn read(guest: &Guest<'_>) -> Told {
    let at = guest.filled.info.0;
    let number = |offset: u64, len| guest.number(at + offset, len).unwrap_or(0);
    let some = |value: u64| Some(value).filter(|value| *value != 0);
    match guest.filled.protocol {
        Protocol::Linux64 | Protocol::Linux32 => {
            let joined = |low, high| number(low, 4) | number(high, 4) << 32;
            let ramdisk = (joined(0x218, 0x0c0), joined(0x21c, 0x0c4));
            Told {
                cmdline: some(joined(0x228, 0x0c8)),
                modules: Some(ramdisk)
                    .filter(|(start, _)| *start != 0)
                    .into_iter()
                    .collect(),
                rsdp: some(number(0x070, 8)),
                map: map(
                    guest,
                    (at + E820 as u64, E820_ENTRY as u64, 0),
                    number(0x1e8, 1),
                ),
                len: PAGE,
            }
        }
        Protocol::Pvh => {
            let (list, count) = (number(16, 8), number(12, 4).min(16));
            let modules = (0..count).filter_map(|index| {
                let entry = list.checked_add(index * 32)?;
                Some((guest.number(entry, 8)?, guest.number(entry + 8, 8)?))
            });
            let (map_at, entries) = (number(40, 8), number(48, 4));
            Told {
                cmdline: some(number(24, 8)),
                modules: modules.collect(),
                rsdp: some(number(32, 8)),
                map: map(guest, (map_at, 24, 0), entries),
                len: (map_at + entries * 24).saturating_sub(at),
            }
        }
        Protocol::Multiboot => {
            let (list, count) = (number(24, 4), number(20, 4));
            let modules = (0..count).filter_map(|index| {
                let entry = list + index * 16;
                let (start, end) = (guest.number(entry, 4)?, guest.number(entry + 4, 4)?);
                Some((start, end.saturating_sub(start)))
            });
            let (map_len, map_at) = (number(44, 4), number(48, 4));
            let name = number(64, 4);
            Told {
                cmdline: some(number(16, 4)),
                modules: modules.collect(),
                rsdp: None,
                map: map(guest, (map_at, 24, 4), map_len / 24),
                len: (name + guest.text(name).len() as u64 + 1).saturating_sub(at),
            }
        }
    }
}

/// Reads `count` ranges at `at`, each of `step` bytes, after the first `skip` of which start, length and
/// type follow.
fn map(guest: &Guest<'_>, (at, step, skip): (u64, u64, u64), count: u64) -> Vec<Entry> {
    let entry = |index: u64| {
        let at = at + index * step + skip;
        Some(Entry {
            start: guest.number(at, 8)?,
            len: guest.number(at + 8, 8)?,
            kind: u32::try_from(guest.number(at + 16, 4)?).ok()?,
        })
    };
    (0..count.min(128)).filter_map(entry).collect()
}

/// What a range of the memory map is. `[acpi]` table 15.4
pub fn kind_words(kind: u32) -> &'static str {
    match kind {
        1 => "RAM",
        2 => "reserved",
        3 => "ACPI tables, RAM afterwards",
        4 => "ACPI memory that sleeping keeps",
        5 => "broken RAM",
        7 => "persistent memory",
        _ => "of unknown type, hence reserved",
    }
}

/// Shows it.
pub fn explain(guest: &Guest<'_>, section: &mut Section) {
    let at = guest.filled.info.0;
    let told = guest.told();
    let bytes = guest.bytes(at, PAGE).unwrap_or_default();
    match guest.filled.protocol {
        Protocol::Linux64 | Protocol::Linux32 => {
            let pointer = match guest.filled.protocol {
                Protocol::Linux64 => "%rsi",
                _ => "%esi",
            };
            section.say(format!(
                "The zero page (struct boot_params) at {at:#x}; {pointer} points at it. Fields that are \
                 not listed are zero."
            ));
            let mut table = rows(ZERO_PAGE, &bytes, |_, value| value != 0);
            table.extend(setup_header::in_zero_page(&bytes));
            section.table(COLUMNS, table);
            let unknown = unexplained(&bytes, told.map.len());
            if !unknown.is_empty() {
                section.say(format!(
                    "Bytes that are set and have no field here: {unknown}."
                ));
            }
        }
        Protocol::Pvh => {
            section.say(format!(
                "The PVH start info (struct hvm_start_info) at {at:#x}; %ebx points at it."
            ));
            section.table(COLUMNS, rows(START_INFO, &bytes, |_, _| true));
        }
        Protocol::Multiboot => {
            section.say(format!(
                "The multiboot information at {at:#x}; %ebx points at it, and %eax holds 0x2badb002."
            ));
            section.table(COLUMNS, rows(MULTIBOOT, &bytes, |_, value| value != 0));
            modules(guest, &told, section);
        }
    }
    section.say("The memory map in it (e820 on a PC; addresses in no range are free for devices):");
    let row = |entry: &Entry| {
        let end = entry.start.saturating_add(entry.len);
        vec![
            format!("{:#x}", entry.start),
            format!("{end:#x}"),
            entry.kind.to_string(),
            format!("{}, {}", kind_words(entry.kind), size(entry.len)),
        ]
    };
    section.table(
        &["from", "to", "type", "meaning"],
        told.map.iter().map(row).collect(),
    );
}

fn modules(guest: &Guest<'_>, told: &Told, section: &mut Section) {
    let list = guest.number(guest.filled.info.0 + 24, 4).unwrap_or(0);
    let row = |(index, (start, len)): (u64, &(u64, u64))| {
        let string = guest.number(list + index * 16 + 8, 4).unwrap_or(0);
        vec![
            format!("{start:#x}"),
            format!("{:#x}", start + len),
            guest.text(string),
        ]
    };
    let rows = (0..).zip(&told.modules).map(row).collect();
    section.table(&["module from", "to", "string"], rows);
}

/// Offsets of bytes in a zero page that are set and that no field or range here covers.
fn unexplained(page: &[u8], ranges: usize) -> String {
    let mut known = vec![false; page.len()];
    let header = setup_header::FIELDS.iter().map(|(_, field)| field);
    let fields = ZERO_PAGE.iter().chain(header);
    let places = fields.map(|field| (field.at, field.size));
    for (at, len) in places.chain([(E820, ranges * E820_ENTRY)]) {
        for covered in known.iter_mut().skip(at).take(len) {
            *covered = true;
        }
    }
    let set = page.iter().zip(known).enumerate();
    let unknown = set.filter(|(_, (byte, known))| **byte != 0 && !known);
    let places: Vec<_> = unknown.map(|(at, _)| format!("{at:#x}")).take(16).collect();
    places.join(" ")
}

#[cfg(test)]
mod tests {
    use linux_loader::bootparam::boot_params;
    use linux_loader::start_info::hvm_start_info;
    use vm_memory::ByteValued;

    use super::super::fields::number;
    use super::*;

    #[test]
    fn zero_page_fields_are_those_of_the_structure() {
        let mut page = boot_params {
            acpi_rsdp_addr: 0xe_0000,
            ext_cmd_line_ptr: 7,
            e820_entries: 3,
            ..Default::default()
        };
        page.hdr.cmd_line_ptr = 0x2_0000;
        let table = rows(ZERO_PAGE, page.as_slice(), |_, value| value != 0);
        let named: Vec<_> = table.iter().map(|row| (&*row[1], &*row[2])).collect();
        let expected = [
            ("acpi_rsdp_addr", "0xe0000"),
            ("ext_cmd_line_ptr", "0x7"),
            ("e820_entries", "0x3"),
        ];
        assert_eq!(named, expected);
        assert_eq!(unexplained(page.as_slice(), 0), "");
    }

    #[test]
    fn byte_without_a_field_is_told_of() {
        let mut page = boot_params::default();
        page.e820_table[0].size = 1;
        page.sentinel = 1;
        assert_eq!(unexplained(page.as_slice(), 1), "0x1ef");
        assert_eq!(unexplained(page.as_slice(), 0), "0x1ef 0x2d8");
    }

    #[test]
    fn start_info_fields_cover_the_structure() {
        let end = START_INFO.last().map(|field| field.at + field.size);
        assert_eq!(end, Some(hvm_start_info::default().as_slice().len()));
        let mut at = 0;
        for field in START_INFO {
            assert_eq!(field.at, at, "{}", field.name);
            at += field.size;
        }
        let info = hvm_start_info {
            rsdp_paddr: 0xe_0000,
            memmap_entries: 3,
            ..Default::default()
        };
        let value = |name: &str| {
            let field = START_INFO.iter().find(|field| field.name == name).unwrap();
            number(info.as_slice(), field.at, field.size)
        };
        assert_eq!(value("rsdp_paddr"), Some(0xe_0000));
        assert_eq!(value("memmap_entries"), Some(3));
    }
}
