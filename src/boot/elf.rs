//! vmlinux: an ELF file whose segments are copied to the physical addresses they name.
//!
//! [`Elf::parse`] reads and judges the headers, [`Elf::load`] copies. [`super::load_kernel`] calls
//! both, for a vmlinux of the user as for one that came out of a bzImage.
//!
//! ```text
//!  file                                  guest-physical memory
//!  ┌─────────────┐
//!  │ ELF header  │  entry ────────────┐
//!  │ program hdrs│  PT_LOAD: p_paddr ─┼──► ┌───────────┐
//!  ├─────────────┤                    └──► │ p_filesz  │  copied
//!  │ segment     │ ───────────────────────►│           │
//!  │ ...         │                         ├───────────┤
//!  └─────────────┘                         │ the rest  │  p_memsz - p_filesz: BSS, see below
//!                                          └───────────┘
//! ```
//!
//! BSS is not cleared: guest RAM is fresh from the host, hence zero, and nothing writes above the
//! first megabyte before the kernel is loaded. Writing zeros would only touch pages.
//!
//! The structures are linux-loader's; its loader is not used, because it seeks and copies through
//! `Read`, checks little, and drops the numbers an error message needs.
//!
//! Sources: [elf] System V ABI, chapters 4 and 5; [boot] Linux `Documentation/arch/x86/boot.rst`,
//! v6.12; [pvh] Xen `docs/misc/pvh.pandoc` and `xen/include/public/elfnote.h`.
//! Read next: [`super::bzimage`].

use linux_loader::elf::{Elf64_Ehdr, Elf64_Nhdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use vm_memory::{ByteValued, GuestAddress};

use super::blob::{self, Blob, structure};
use crate::memory::GuestMemory;
use crate::memory::layout::HIGH_RAM_START;

/// Most program headers we read; Linux has five.
pub const MAX_PROGRAM_HEADERS: u16 = 64;
/// Most bytes of one note segment we read; Linux has half a KiB.
pub const MAX_NOTES: u64 = 64 << 10; // 64 KiB
/// [pvh] Type of the Xen note with the 32-bit PVH entry point.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// Sizes [elf] gives the two headers.
const EHDR_SIZE: u64 = 64;
const PHDR_SIZE: u16 = 56;

/// Why an ELF file cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A header lies beyond the end of the file.
    #[error("Cannot read the {what} at {offset:#x} + {len:#x}: the file has {file:#x} bytes")]
    Truncated {
        /// Which header.
        what: &'static str,
        /// Where it should be.
        offset: u64,
        /// How long it should be.
        len: u64,
        /// Length of the file.
        file: u64,
    },
    /// The program header table has a strange shape.
    #[error(
        "Cannot use {count} program headers of {size} bytes: 1 to {MAX_PROGRAM_HEADERS} of \
         {PHDR_SIZE} bytes are expected"
    )]
    ProgramHeaders {
        /// e_phnum.
        count: u16,
        /// e_phentsize.
        size: u16,
    },
    /// Nothing to load.
    #[error("Cannot find a segment to load among {count} program headers")]
    NothingToLoad {
        /// e_phnum.
        count: u16,
    },
    /// A segment's bytes are not all in the file.
    #[error(
        "Segment {index} takes bytes {offset:#x} + {len:#x}, but the file has {file:#x} (cut off?)"
    )]
    SegmentOutsideFile {
        /// Which program header, from 0.
        index: usize,
        /// p_offset.
        offset: u64,
        /// p_filesz.
        len: u64,
        /// Length of the file.
        file: u64,
    },
    /// A segment has more bytes in the file than in memory.
    #[error(
        "Segment {index} has {in_file:#x} bytes in the file, but only {in_memory:#x} in memory"
    )]
    SegmentSizes {
        /// Which program header, from 0.
        index: usize,
        /// p_filesz.
        in_file: u64,
        /// p_memsz.
        in_memory: u64,
    },
    /// A segment lies below the first megabyte or reaches beyond the last address.
    #[error(
        "Segment {index} wants guest-physical {start:#x} + {len:#x}; kernels go above {:#x}",
        HIGH_RAM_START.0
    )]
    SegmentAddress {
        /// Which program header, from 0.
        index: usize,
        /// p_paddr.
        start: u64,
        /// p_memsz.
        len: u64,
    },
    /// A segment does not fit guest memory.
    #[error(
        "Segment {index} wants guest-physical {start:#x} to {end:#x}, but guest memory below the \
         gap ends at {ram_end:#x}; this kernel needs at least {needed_mib} MiB"
    )]
    SegmentOutsideRam {
        /// Which program header, from 0.
        index: usize,
        /// p_paddr.
        start: u64,
        /// p_paddr + p_memsz.
        end: u64,
        /// First address after RAM.
        ram_end: u64,
        /// Memory size that would hold the segment, in MiB.
        needed_mib: u64,
    },
    /// Two segments want the same memory.
    #[error("Segments {first} and {second} overlap at guest-physical {at:#x}")]
    SegmentsOverlap {
        /// The one that starts lower.
        first: usize,
        /// The one that starts inside it.
        second: usize,
        /// Where the second starts.
        at: u64,
    },
    /// The kernel would be entered where nothing was loaded.
    #[error("The {which} entry {address:#x} lies in no loaded segment")]
    EntryOutside {
        /// Which entry point.
        which: &'static str,
        /// Its address.
        address: u64,
    },
    /// The note segment does not hold what it announces.
    #[error("The notes at {offset:#x} + {len:#x} are broken at {at:#x}: {why}")]
    BrokenNotes {
        /// p_offset.
        offset: u64,
        /// p_filesz.
        len: u64,
        /// Offset in the notes.
        at: usize,
        /// What is wrong there.
        why: &'static str,
    },
    /// The bytes could not be read or copied.
    #[error(transparent)]
    Blob(#[from] blob::Error),
}

/// A PT_LOAD segment that passed every check that needs no guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which program header, from 0.
    pub index: usize,
    /// First byte in the file.
    pub file_offset: u64,
    /// Bytes in the file.
    pub file_len: u64,
    /// Guest-physical address.
    pub physical: u64,
    /// Virtual address the kernel will map it at.
    pub virtual_: u64,
    /// Bytes in memory; those beyond `file_len` are zero.
    pub memory_len: u64,
}

/// A kernel ELF file, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// What to load, lowest physical address first; never empty.
    pub segments: Vec<Segment>,
    /// Guest-physical 64-bit entry point (startup_64).
    pub entry: u64,
    /// Guest-physical 32-bit PVH entry point, if the kernel offers one.
    pub pvh_entry: Option<u64>,
    /// First guest-physical address of the kernel.
    pub start: u64,
    /// First guest-physical address after it, BSS included.
    pub end: u64,
}

impl Elf {
    /// Reads and checks the headers of an ELF file whose first bytes are `head`.
    ///
    /// That it is a 64-bit x86 executable is known: [`super::identify`] said so.
    ///
    /// # Errors
    /// Every [`Error`] but [`Error::SegmentOutsideRam`].
    pub fn parse(file: &Blob, head: &[u8]) -> Result<Self, Error> {
        let header: Elf64_Ehdr = structure(head, 0).ok_or(Error::Truncated {
            what: "ELF header",
            offset: 0,
            len: EHDR_SIZE,
            file: file.len(),
        })?;
        let headers = program_headers(file, head, &header)?;
        let mut segments = Vec::with_capacity(headers.len());
        let mut pvh_entry = None;
        for (index, header) in headers.iter().enumerate() {
            match header.p_type {
                // An empty segment loads nothing wherever it claims to lie.
                PT_LOAD if header.p_memsz > 0 => segments.push(segment(index, header, file)?),
                PT_NOTE if pvh_entry.is_none() => pvh_entry = pvh_note(file, header)?,
                _ => {}
            }
        }
        segments.sort_unstable_by_key(|segment| segment.physical);
        check_overlap(&segments)?;
        let count = header.e_phnum;
        let start = segments
            .first()
            .ok_or(Error::NothingToLoad { count })?
            .physical;
        let end = segments.iter().map(|s| s.physical + s.memory_len).max();
        Ok(Self {
            entry: physical_entry(&segments, header.e_entry)?,
            pvh_entry: pvh_entry
                .map(|at| check_pvh_entry(&segments, at))
                .transpose()?,
            start,
            end: end.unwrap_or(start),
            segments,
        })
    }

    /// Copies every segment into guest memory.
    ///
    /// # Errors
    /// [`Error::SegmentOutsideRam`] before anything is copied; [`Error::Blob`] if reading fails.
    pub fn load(&self, file: &Blob, memory: &GuestMemory) -> Result<(), Error> {
        let ram_end = memory.low_end().0;
        for segment in &self.segments {
            let end = segment.physical + segment.memory_len;
            if end > ram_end {
                return Err(Error::SegmentOutsideRam {
                    index: segment.index,
                    start: segment.physical,
                    end,
                    ram_end,
                    needed_mib: self.end.div_ceil(1 << 20), // 1 MiB
                });
            }
        }
        for segment in &self.segments {
            // BSS alone: nothing to copy.
            if segment.file_len > 0 {
                let to = GuestAddress(segment.physical);
                file.copy_to_guest(segment.file_offset, segment.file_len, memory, to)?;
            }
        }
        Ok(())
    }
}

/// [elf] The table of e_phnum headers at e_phoff; from `head` if it is there, else read.
fn program_headers(
    file: &Blob,
    head: &[u8],
    header: &Elf64_Ehdr,
) -> Result<Vec<Elf64_Phdr>, Error> {
    let (count, size, offset) = (header.e_phnum, header.e_phentsize, header.e_phoff);
    if count == 0 || count > MAX_PROGRAM_HEADERS || size != PHDR_SIZE {
        return Err(Error::ProgramHeaders { count, size });
    }
    let len = u64::from(count) * u64::from(size);
    if offset.checked_add(len).is_none_or(|end| end > file.len()) {
        return Err(Error::Truncated {
            what: "program headers",
            offset,
            len,
            file: file.len(),
        });
    }
    let in_head = usize::try_from(offset).ok().and_then(|start| {
        let end = start.checked_add(usize::from(count) * usize::from(size))?;
        head.get(start..end)
    });
    let table = match in_head {
        Some(table) => table.to_vec(),
        None => file.read_vec(offset, len, len)?,
    };
    let headers = table.chunks_exact(usize::from(size));
    Ok(headers.filter_map(|bytes| structure(bytes, 0)).collect())
}

fn segment(index: usize, header: &Elf64_Phdr, file: &Blob) -> Result<Segment, Error> {
    let segment = Segment {
        index,
        file_offset: header.p_offset,
        file_len: header.p_filesz,
        physical: header.p_paddr,
        virtual_: header.p_vaddr,
        memory_len: header.p_memsz,
    };
    let file_end = segment.file_offset.checked_add(segment.file_len);
    if file_end.is_none_or(|end| end > file.len()) {
        return Err(Error::SegmentOutsideFile {
            index,
            offset: segment.file_offset,
            len: segment.file_len,
            file: file.len(),
        });
    }
    if segment.file_len > segment.memory_len {
        return Err(Error::SegmentSizes {
            index,
            in_file: segment.file_len,
            in_memory: segment.memory_len,
        });
    }
    // The first megabyte holds our tables and what a PC has there (memory/layout.rs).
    let wraps = segment.physical.checked_add(segment.memory_len).is_none();
    if wraps || segment.physical < HIGH_RAM_START.0 {
        return Err(Error::SegmentAddress {
            index,
            start: segment.physical,
            len: segment.memory_len,
        });
    }
    Ok(segment)
}

/// Neighbours in address order must not touch: two segments in one place are never meant.
fn check_overlap(sorted: &[Segment]) -> Result<(), Error> {
    for pair in sorted.windows(2) {
        if let [low, high] = pair
            && low.physical + low.memory_len > high.physical
        {
            return Err(Error::SegmentsOverlap {
                first: low.index,
                second: high.index,
                at: high.physical,
            });
        }
    }
    Ok(())
}

/// Where e_entry is in guest-physical memory.
///
/// [elf] e_entry is a virtual address, but Linux stores the physical address of startup_64 there
/// (arch/x86/kernel/vmlinux.lds.S: ENTRY(phys_startup_64)); other kernels may follow [elf]. So the
/// physical reading goes first: Linux's per-CPU segment has virtual address 0 and would
/// otherwise catch low physical entries.
fn physical_entry(segments: &[Segment], entry: u64) -> Result<u64, Error> {
    let inside = |base: u64, segment: &Segment| {
        entry
            .checked_sub(base)
            .filter(|offset| *offset < segment.file_len)
    };
    if segments.iter().any(|s| inside(s.physical, s).is_some()) {
        return Ok(entry);
    }
    segments
        .iter()
        .find_map(|s| inside(s.virtual_, s).map(|offset| s.physical + offset))
        .ok_or(Error::EntryOutside {
            which: "64-bit",
            address: entry,
        })
}

fn check_pvh_entry(segments: &[Segment], address: u64) -> Result<u64, Error> {
    let end = |s: &Segment| s.physical + s.file_len;
    if segments
        .iter()
        .any(|s| (s.physical..end(s)).contains(&address))
    {
        return Ok(address);
    }
    Err(Error::EntryOutside {
        which: "PVH",
        address,
    })
}

/// Looks for the PVH entry point in one note segment.
fn pvh_note(file: &Blob, header: &Elf64_Phdr) -> Result<Option<u64>, Error> {
    let (offset, len) = (header.p_offset, header.p_filesz);
    if offset.checked_add(len).is_none_or(|end| end > file.len()) {
        return Err(Error::Truncated {
            what: "notes",
            offset,
            len,
            file: file.len(),
        });
    }
    let broken = |(at, why)| Error::BrokenNotes {
        offset,
        len,
        at,
        why,
    };
    if len > MAX_NOTES {
        return Err(broken((0, "too long")));
    }
    let bytes = file.read_vec(offset, len, MAX_NOTES)?;
    // [elf] Notes are aligned to 4 bytes; a segment that says 8 means it.
    let align = if header.p_align == 8 { 8 } else { 4 };
    find_pvh_entry(&bytes, align).map_err(broken)
}

/// [elf] "Note Section": name and descriptor follow the header, each padded to `align`.
///
/// Fails with the offset and what is wrong there. All sizes are at most [`MAX_NOTES`] + 2^33,
/// so additions cannot overflow.
fn find_pvh_entry(notes: &[u8], align: usize) -> Result<Option<u64>, (usize, &'static str)> {
    let mut at = 0;
    while at < notes.len() {
        let note: Elf64_Nhdr = structure(notes, at).ok_or((at, "a header is cut off"))?;
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX / 4);
        let name_start = at + note.as_slice().len();
        let name_end = name_start + size(note.n_namesz);
        let name = notes
            .get(name_start..name_end)
            .ok_or((at, "a name is cut off"))?;
        let start = name_end.next_multiple_of(align);
        let end = start + size(note.n_descsz);
        let value = notes.get(start..end).ok_or((at, "a value is cut off"))?;
        if note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && name == b"Xen\0" {
            return pvh_address(value)
                .map(Some)
                .ok_or((at, "the PVH entry is no 32-bit address"));
        }
        at = end.next_multiple_of(align);
    }
    Ok(None)
}

/// [pvh] The entry runs in 32-bit mode, but Linux stores its address in 4 or 8 bytes.
fn pvh_address(value: &[u8]) -> Option<u64> {
    let address = match value.len() {
        4 => u64::from(u32::from_le_bytes(value.try_into().ok()?)),
        8 => u64::from_le_bytes(value.try_into().ok()?),
        _ => return None,
    };
    u32::try_from(address).is_ok().then_some(address)
}
