//! Section headers for the kernel: with them it finds its symbols, to name what it was doing when it
//! fell.
//!
//! `[multiboot]` 3.3 wants the table of section headers in memory and all sections with it; those of
//! no segment get an address where they were loaded to. We load symbol and string tables and leave
//! out the rest, which is debug information, often larger than the kernel: its address stays 0.
//!
//! Sources: `[multiboot]` Multiboot Specification 0.6.96, 3.3, flag 5; `[elf]` System V ABI, chapter 4.
//! Read next: [`super::info`].

use vm_memory::GuestAddress;

use super::header::Addresses;
use super::{Error as MultibootError, room};
use crate::boot::blob::{self, Blob};
use crate::boot::elf_headers::{Headers, Section};
use crate::memory::GuestMemory;

/// Most section headers we read; a Linux with debug information has sixty.
pub const MAX_SECTIONS: u16 = 4096;
// sh_type. [elf] figure 4-9
const SYMBOLS: u32 = 2;
const STRINGS: u32 = 3;
/// The largest alignment a table may ask for: a page.
const MAX_ALIGN: u64 = 4096;
/// Where the table of headers goes, and tables that ask for less.
const MIN_ALIGN: u64 = 16;

/// Why a file's parts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither an ELF file nor one with addresses.
    #[error(
        "It has a multiboot header, but is no ELF program for x86, and the header has no addresses \
         (flag 16) to load it to"
    )]
    NotElf,
    /// The header's addresses contradict each other or the file.
    #[error(
        "The multiboot header's addresses contradict each other: {why} (header {:#x}, load {:#x} to {:#x}, \
         zeros to {:#x})",
        addresses.header, addresses.load, addresses.load_end, addresses.bss_end
    )]
    Addresses {
        /// What cannot be.
        why: &'static str,
        /// What the header says.
        addresses: Addresses,
    },
    /// The section headers have a strange shape.
    #[error(
        "Cannot use {count} section headers of {size} bytes: up to {MAX_SECTIONS} of {expected} bytes \
         are expected"
    )]
    SectionHeaders {
        /// e_shnum.
        count: u16,
        /// e_shentsize.
        size: u16,
        /// What it should be.
        expected: u16,
    },
    /// Something is not all in the file.
    #[error("{what} takes bytes {offset:#x} + {len:#x}, but the file has {file:#x} (cut off?)")]
    OutsideFile {
        /// What.
        what: String,
        /// Where it should be.
        offset: u64,
        /// How long it should be.
        len: u64,
        /// Length of the file.
        file: u64,
    },
    /// A table's alignment is none.
    #[error(
        "Section {index} wants to be aligned to {align:#x}: a power of two up to {MAX_ALIGN:#x} is expected"
    )]
    Align {
        /// Which section, from 0.
        index: usize,
        /// sh_addralign.
        align: u64,
    },
    /// The bytes could not be read.
    #[error(transparent)]
    Blob(#[from] blob::Error),
}

/// The section headers of an ELF file, and which sections are to be loaded beside its segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sections {
    wide: bool,
    count: u16,
    entry_size: u16,
    names: u16,
    table: Vec<u8>,
    /// Symbol and string tables, with their numbers.
    wanted: Vec<(usize, Section)>,
}

/// Where the table is: `[multiboot]` 3.3, the fields of flag 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Entries.
    pub count: u32,
    /// Bytes of an entry.
    pub entry_size: u32,
    /// Guest-physical address.
    pub address: u64,
    /// Which section has the names.
    pub names: u32,
}

impl Sections {
    /// Reads the section headers of the ELF file that begins with `head`; `None` if it has none.
    ///
    /// # Errors
    /// [`Error`], all but the first two.
    pub fn parse(file: &Blob, head: &[u8]) -> Result<Option<Self>, Error> {
        let Some(header) = Headers::read(head).filter(|header| header.sections.count > 0) else {
            return Ok(None);
        };
        let (count, size) = (header.sections.count, header.sections.entry_size);
        let expected = if header.wide { 64 } else { 40 };
        if count > MAX_SECTIONS || size != expected {
            return Err(Error::SectionHeaders {
                count,
                size,
                expected,
            });
        }
        let (offset, len) = (header.sections.offset, u64::from(count) * u64::from(size));
        inside(file, offset, len, || "The table of section headers".into())?;
        let table = file.read_vec(offset, len, len)?;
        let mut wanted = Vec::new();
        for (index, entry) in table.chunks_exact(usize::from(size)).enumerate() {
            let Some(section) = Section::read(entry, header.wide) else {
                continue;
            };
            // Those in a segment have an address, and are loaded with it.
            if matches!(section.kind, SYMBOLS | STRINGS) && section.address == 0 && section.len > 0
            {
                wanted.push((index, check(file, index, section)?));
            }
        }
        Ok(Some(Self {
            wide: header.wide,
            count,
            entry_size: size,
            names: header.names,
            table,
            wanted,
        }))
    }

    /// Copies headers and tables to guest memory from `end` on; returns where, and the new end.
    ///
    /// # Errors
    /// [`MultibootError::NoRam`] with the numbers.
    pub fn load(
        &self,
        file: &Blob,
        end: u64,
        memory: &GuestMemory,
    ) -> Result<(Table, u64), MultibootError> {
        let len = self.table.len() as u64;
        let address = room(
            "the table of section headers",
            len,
            (end, MIN_ALIGN),
            memory,
        )?;
        let mut end = address + len;
        let mut table = self.table.clone();
        let (field, width) = Section::address_field(self.wide);
        for (index, section) in &self.wanted {
            let what = format!("section {index}");
            let align = section.align.max(MIN_ALIGN);
            let start = room(&what, section.len, (end, align), memory)?;
            file.copy_to_guest(section.offset, section.len, memory, GuestAddress(start))?;
            end = start + section.len;
            let at = index * usize::from(self.entry_size) + field;
            if let Some(room) = table.get_mut(at..at + width) {
                // RAM is below 4 GiB here, so a narrow field holds it.
                for (to, from) in room.iter_mut().zip(start.to_le_bytes()) {
                    *to = from;
                }
            }
        }
        memory.write(GuestAddress(address), &table)?;
        let table = Table {
            count: self.count.into(),
            entry_size: self.entry_size.into(),
            address,
            names: self.names.into(),
        };
        Ok((table, end))
    }
}

fn check(file: &Blob, index: usize, section: Section) -> Result<Section, Error> {
    inside(file, section.offset, section.len, || {
        format!("Section {index}")
    })?;
    let align = section.align;
    // [elf] "sh_addralign": 0 and 1 mean that there is no constraint.
    if align > MAX_ALIGN || (align > 0 && !align.is_power_of_two()) {
        return Err(Error::Align { index, align });
    }
    Ok(section)
}

fn inside(file: &Blob, offset: u64, len: u64, what: impl Fn() -> String) -> Result<(), Error> {
    match offset.checked_add(len) {
        Some(end) if end <= file.len() => Ok(()),
        _ => Err(Error::OutsideFile {
            what: what(),
            offset,
            len,
            file: file.len(),
        }),
    }
}
