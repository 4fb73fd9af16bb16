//! The multiboot information: what a kernel finds where %ebx points.
//!
//! ```text
//!  MULTIBOOT_INFO ┌───────────────────────┐
//!                 │ the structure         │ 120 bytes
//!                 ├───────────────────────┤
//!                 │ memory map            │ 24 bytes a range
//!                 ├───────────────────────┤
//!                 │ module list           │ 16 bytes a module
//!                 ├───────────────────────┤
//!                 │ modules' strings,     │ NUL-terminated
//!                 │ the loader's name     │
//!                 └───────────────────────┘
//! ```
//!
//! [`Told::bytes`] only makes the bytes; [`super::load`] writes them. Flags for what a guest here does not
//! have stay clear: boot device, drives, BIOS configuration, APM, video.
//!
//! Source: `[multiboot]` Multiboot Specification 0.6.96, 3.3.
//! Read next: [`crate::boot::nature`].

use super::PlacedModule;
use super::symbols::Table;
use crate::boot::memory_map::Entry;
use crate::memory::layout::{CMDLINE, EBDA, HIGH_RAM_START, MULTIBOOT_INFO};

/// What loaders call themselves.
const NAME: &str = concat!("cottage ", env!("CARGO_PKG_VERSION"), "\0");

// Flags: which fields are valid.
const MEMORY: u32 = 1 << 0;
const COMMAND_LINE: u32 = 1 << 2;
const MODULES: u32 = 1 << 3;
const ELF_SECTIONS: u32 = 1 << 5;
const MEMORY_MAP: u32 = 1 << 6;
const LOADER_NAME: u32 = 1 << 9;

/// Bytes of the structure, the frame buffer's fields at its end included, to a multiple of 8.
const SIZE: usize = 120;
const MAP_ENTRY_SIZE: usize = 24;
const MODULE_SIZE: usize = 16;

/// What the kernel is told.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// RAM and what is reserved.
    pub map: &'a [Entry],
    /// Where the RAM that starts at 1 MiB ends.
    pub low_end: u64,
    /// The modules.
    pub modules: &'a [PlacedModule],
    /// The section headers.
    pub symbols: Option<Table>,
}

impl Told<'_> {
    /// Makes the bytes to write at [`MULTIBOOT_INFO`].
    pub fn bytes(&self) -> Vec<u8> {
        let map_at = SIZE;
        let modules_at = map_at + self.map.len() * MAP_ENTRY_SIZE;
        let strings_at = modules_at + self.modules.len() * MODULE_SIZE;
        let mut strings = Vec::new();
        let mut list = Vec::with_capacity(strings_at - modules_at);
        for module in self.modules {
            let string = address(strings_at + strings.len());
            // [multiboot] 3.3: start, end, string, and a reserved field of 0.
            list.extend([low(module.start), low(module.end), string, 0]);
            strings.extend_from_slice(&module.string);
            strings.push(0);
        }
        let name = address(strings_at + strings.len());
        let mut bytes = self.structure([map_at, modules_at], name);
        for entry in self.map {
            // [multiboot] 3.3: the first field is the size of what follows it.
            bytes.extend(20_u32.to_le_bytes());
            bytes.extend(entry.start.to_le_bytes());
            bytes.extend(entry.len.to_le_bytes());
            bytes.extend(entry.kind.to_le_bytes());
        }
        bytes.extend(list.into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(strings);
        bytes.extend(NAME.bytes());
        bytes
    }

    /// The structure itself, field by field.
    fn structure(&self, [map_at, modules_at]: [usize; 2], name: u32) -> Vec<u8> {
        let flags = MEMORY | COMMAND_LINE | MODULES | MEMORY_MAP | LOADER_NAME;
        let (flags, symbols) = match self.symbols {
            Some(table) => {
                let Table {
                    count,
                    entry_size,
                    address,
                    names,
                } = table;
                (
                    flags | ELF_SECTIONS,
                    [count, entry_size, low(address), names],
                )
            }
            None => (flags, [0; 4]),
        };
        let kib = |bytes: u64| low(bytes >> 10);
        let [first, second, third, fourth] = symbols;
        let fields = [
            flags,
            kib(EBDA.0),                          // mem_lower
            kib(self.low_end - HIGH_RAM_START.0), // mem_upper
            0,                                    // boot_device: not valid
            low(CMDLINE.0),
            count(self.modules.len()),
            address(modules_at),
            first,
            second,
            third,
            fourth,
            count(self.map.len() * MAP_ENTRY_SIZE),
            address(map_at),
            0, // drives_length and drives_addr: not valid
            0,
            0, // config_table: not valid
            name,
        ];
        let mut bytes: Vec<u8> = fields.into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.resize(SIZE, 0);
        bytes
    }
}

/// The guest-physical address of an offset in the bytes.
fn address(offset: usize) -> u32 {
    low(MULTIBOOT_INFO.0 + offset as u64)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// All of it lies below 4 GiB: tables in the first megabyte, modules below the gap.
fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}
