//! Multiboot kernels: hobby operating systems, test programs, anything that GRUB or `qemu -kernel`
//! enters in 32-bit protected mode with a table of what the machine has.
//!
//! ```text
//!  file: a header in its first 8 KiB              guest-physical memory
//!  ┌─────────────┐
//!  │ magic flags │──► Header ──► image::parse       1 MiB  kernel: ELF segments, or the part the
//!  │ checksum    │                 │                       header's addresses name
//!  └─────────────┘                 └─► load ──────►        symbols: ELF section headers and tables
//!                                                          modules, each on a page
//!                                     info ───────► MULTIBOOT_INFO: where all that is
//! ```
//!
//! Version 1 of the specification; a kernel that knows only version 2 is told of by name. The header's
//! requirements are met or refused: pages for modules and memory sizes we have, a video mode we do not.
//!
//! As with `qemu -kernel`, the command line begins with the kernel's file name, and a module's string is
//! the whole text of its `--module`: test programs skip the first word.
//!
//! Source: `[multiboot]` Multiboot Specification version 0.6.96, Free Software Foundation.
//! Read next: [`header`], then the modules in this order.

pub mod header;
pub mod image;
pub mod symbols;
pub mod info;
#[cfg(test)]
mod tests;

use vm_memory::GuestAddress;

use super::blob::{self, Blob};
use super::{elf, memory_map};
use crate::memory::layout::{CMDLINE, CMDLINE_MAX_SIZE, MULTIBOOT_INFO, MULTIBOOT_INFO_MAX_SIZE};
use crate::memory::{GuestMemory, guest};

pub use header::{Header, SEARCH_2, find};

/// `[multiboot]` 3.1.2, flag 0: modules are aligned to pages. Ours always are.
const PAGE: u64 = 4096;

/// Why a multiboot kernel cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The header is no good, or asks for what there is not.
    #[error(transparent)]
    Header(#[from] header::Error),
    /// The segments are no good.
    #[error(transparent)]
    Elf(#[from] elf::Error),
    /// The section headers are no good.
    #[error(transparent)]
    Symbols(#[from] symbols::Error),
    /// There is not enough RAM.
    #[error(
        "Cannot place {what} of {len:#x} bytes: what stands before it ends at {from:#x}, guest memory \
         below the gap at {ram_end:#x}; {needed_mib} MiB of memory would do"
    )]
    NoRam {
        /// Which module or table.
        what: String,
        /// Its length in bytes.
        len: u64,
        /// First address it may have.
        from: u64,
        /// First address after RAM.
        ram_end: u64,
        /// Memory size that would hold it, in MiB.
        needed_mib: u64,
    },
    /// Too many modules, or their strings are too long.
    #[error(
        "Cannot tell the kernel of {modules} modules: with their strings the table has {len:#x} bytes, \
         the memory map has room for {MULTIBOOT_INFO_MAX_SIZE:#x}"
    )]
    InfoTooLong {
        /// How many.
        modules: usize,
        /// What the information would take, in bytes.
        len: u64,
    },
    /// The command line does not fit.
    #[error(
        "Cannot pass a command line of {len} bytes, the kernel's file name included: at most {} fit",
        CMDLINE_MAX_SIZE - 1
    )]
    CmdlineTooLong {
        /// Its length.
        len: usize,
    },
    /// A module's bytes could not be read or copied.
    #[error("Cannot load module {name}")]
    Module {
        /// The file.
        name: String,
        /// Why.
        source: blob::Error,
    },
    /// The kernel's bytes could not be read or copied.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// Guest memory refused the tables.
    #[error("Cannot write the multiboot information into the guest")]
    Write(#[from] guest::Error),
}

/// A file for the kernel, which knows what to do with it.
#[derive(Debug)]
pub struct Module {
    /// Its content.
    pub blob: Blob,
    /// What the kernel is told of it.
    pub string: Vec<u8>,
}

/// Where a module is in guest memory, and its string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedModule {
    /// First guest-physical address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What the kernel is told of it.
    pub string: Vec<u8>,
}

/// A kernel in guest memory, ready to be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Guest-physical address of the first instruction.
    pub entry: GuestAddress,
    /// Guest-physical address of the information.
    pub info: GuestAddress,
    /// First guest-physical address of the kernel.
    pub start: GuestAddress,
    /// First address after it, its symbols included.
    pub end: GuestAddress,
}

/// Loads `kernel`, which has this `header`, with its modules, and writes what it is told.
///
/// # Errors
/// [`Error`], with the numbers that do not fit.
pub fn load(
    kernel: &Blob,
    header: &Header,
    modules: &[Module],
    cmdline: &[u8],
    memory: &GuestMemory,
) -> Result<Loaded, Error> {
    header.check_requirements()?;
    let image = image::parse(kernel, header)?;
    if cmdline.len() as u64 >= CMDLINE_MAX_SIZE {
        let len = cmdline.len();
        return Err(Error::CmdlineTooLong { len });
    }
    image.elf.load(kernel, memory)?;
    let (symbols, end) = match &image.sections {
        Some(sections) => {
            let (table, end) = sections.load(kernel, image.elf.end, memory)?;
            (Some(table), end)
        }
        None => (None, image.elf.end),
    };
    let placed = place_modules(modules, end, memory)?;
    let told = info::Told {
        map: &memory_map::memory_map(memory.size()),
        low_end: memory.low_end().0,
        modules: &placed,
        symbols,
    };
    let bytes = told.bytes();
    if bytes.len() as u64 > MULTIBOOT_INFO_MAX_SIZE {
        return Err(Error::InfoTooLong {
            modules: modules.len(),
            len: bytes.len() as u64,
        });
    }
    memory.write(MULTIBOOT_INFO, &bytes)?;
    // The NUL at its end is there already: guest RAM starts as zeros.
    memory.write(CMDLINE, cmdline)?;
    Ok(Loaded {
        entry: GuestAddress(image.elf.entry),
        info: MULTIBOOT_INFO,
        start: GuestAddress(image.elf.start),
        end: GuestAddress(end),
    })
}

/// Copies the modules behind each other, the first on the page after `end`.
fn place_modules(
    modules: &[Module],
    end: u64,
    memory: &GuestMemory,
) -> Result<Vec<PlacedModule>, Error> {
    let mut at = end;
    let mut placed = Vec::with_capacity(modules.len());
    for module in modules {
        let name = || module.blob.name().to_owned();
        let len = module.blob.len();
        let start = room(&format!("module {}", name()), len, (at, PAGE), memory)?;
        let to = GuestAddress(start);
        let copied = module.blob.copy_to_guest(0, len, memory, to);
        copied.map_err(|source| Error::Module {
            name: name(),
            source,
        })?;
        at = start + len;
        placed.push(PlacedModule {
            start,
            end: at,
            string: module.string.clone(),
        });
    }
    Ok(placed)
}

/// The first address from `from` on that is a multiple of `align`, if `len` bytes of RAM follow it.
fn room(
    what: &str,
    len: u64,
    (from, align): (u64, u64),
    memory: &GuestMemory,
) -> Result<u64, Error> {
    let ram_end = memory.low_end().0;
    let start = from.checked_next_multiple_of(align);
    let end = start.and_then(|start| start.checked_add(len));
    match (start, end) {
        (Some(start), Some(end)) if end <= ram_end => Ok(start),
        (_, end) => Err(Error::NoRam {
            what: what.to_owned(),
            len,
            from,
            ram_end,
            needed_mib: end.unwrap_or(u64::MAX).div_ceil(1 << 20), // 1 MiB
        }),
    }
}
