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
//! One structure is linux-loader's; its loader is not used, because it seeks and copies through
//! `Read`, checks little, and drops the numbers an error message needs.
//!
//! Sources: `[elf]` System V ABI, chapters 4 and 5; Linux
//! `arch/x86/kernel/vmlinux.lds.S`, v6.12, for what a vmlinux contains.
//! Read next: [`super::elf_headers`].

use linux_loader::elf::{Elf64_Phdr, PT_LOAD, PT_NOTE};
use vm_memory::GuestAddress;

use super::blob::{self, Blob};
use super::elf_headers::Headers;
use super::notes;
use crate::memory::GuestMemory;
use crate::memory::layout::{HIGH_RAM_START, MMIO_GAP_START};

/// Most program headers we read; Linux has five.
pub const MAX_PROGRAM_HEADERS: u16 = 64;
/// The size of a 64-bit ELF header; a 32-bit one has 52 bytes.
const EHDR_SIZE: u64 = 64;

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
         {expected} bytes are expected"
    )]
    ProgramHeaders {
        /// e_phnum.
        count: u16,
        /// e_phentsize.
        size: u16,
        /// What it should be.
        expected: u16,
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
    /// A segment lies where this machine never has RAM.
    #[error(
        "Segment {index} wants guest-physical {start:#x} to {end:#x}, but RAM for kernels ends at \
         {:#x}, whatever --memory says", MMIO_GAP_START.0
    )]
    SegmentInGap {
        /// Which program header, from 0.
        index: usize,
        /// p_paddr.
        start: u64,
        /// p_paddr + p_memsz.
        end: u64,
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
    #[error(transparent)]
    Notes(#[from] notes::Error),
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
    /// That it is an x86 executable is known: [`super::identify`] said so.
    ///
    /// # Errors
    /// Every [`Error`] but [`Error::SegmentOutsideRam`].
    pub fn parse(file: &Blob, head: &[u8]) -> Result<Self, Error> {
        let header = Headers::read(head).ok_or(Error::Truncated {
            what: "ELF header",
            offset: 0,
            len: EHDR_SIZE,
            file: file.len(),
        })?;
        let headers = header.program_headers(file, head)?;
        let mut segments = Vec::with_capacity(headers.len());
        let mut pvh_entry = None;
        for (index, header) in headers.iter().enumerate() {
            match header.p_type {
                // An empty segment loads nothing wherever it claims to lie.
                PT_LOAD if header.p_memsz > 0 => segments.push(segment(index, header, file)?),
                PT_NOTE if pvh_entry.is_none() => pvh_entry = notes::pvh_entry(file, header)?,
                _ => {}
            }
        }
        let width = if header.wide { "64-bit" } else { "32-bit" };
        let count = header.programs.count;
        let mut elf = Self::of_segments(segments, count, (width, header.entry))?;
        elf.pvh_entry = pvh_entry
            .map(|at| check_pvh_entry(&elf.segments, at))
            .transpose()?;
        Ok(elf)
    }

    /// What `segments`, from among `count` headers, make together; `entry` has a name for messages.
    pub(super) fn of_segments(
        mut segments: Vec<Segment>,
        count: u16,
        (which, entry): (&'static str, u64),
    ) -> Result<Self, Error> {
        segments.sort_unstable_by_key(|segment| segment.physical);
        check_overlap(&segments)?;
        let first = segments.first().ok_or(Error::NothingToLoad { count })?;
        let start = first.physical;
        let end = segments.iter().map(|s| s.physical + s.memory_len).max();
        Ok(Self {
            entry: physical_entry(&segments, which, entry)?,
            pvh_entry: None,
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
            let (index, start) = (segment.index, segment.physical);
            let end = start + segment.memory_len;
            if end > MMIO_GAP_START.0 {
                return Err(Error::SegmentInGap { index, start, end });
            }
            if end > ram_end {
                return Err(Error::SegmentOutsideRam {
                    index,
                    start,
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

fn segment(index: usize, header: &Elf64_Phdr, file: &Blob) -> Result<Segment, Error> {
    let segment = Segment {
        index,
        file_offset: header.p_offset,
        file_len: header.p_filesz,
        physical: header.p_paddr,
        virtual_: header.p_vaddr,
        memory_len: header.p_memsz,
    };
    check_segment(segment, file)
}

/// Whether the segment is in the file and may be where it wants to be.
pub(super) fn check_segment(segment: Segment, file: &Blob) -> Result<Segment, Error> {
    let index = segment.index;
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
    for (low, high) in sorted.iter().zip(sorted.iter().skip(1)) {
        if low.physical + low.memory_len > high.physical {
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
/// `[elf]` e_entry is a virtual address, but Linux stores the physical address of startup_64 there
/// (arch/x86/kernel/vmlinux.lds.S: ENTRY(phys_startup_64)); others may follow `[elf]`. So the
/// physical reading goes first: Linux's per-CPU segment has virtual address 0 and would
/// otherwise catch low physical entries.
fn physical_entry(segments: &[Segment], which: &'static str, entry: u64) -> Result<u64, Error> {
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
            which,
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

#[cfg(test)]
mod tests {
    use super::super::testing::{self, elf, phdr, put, segment, small_elf};
    use super::*;

    fn parse(image: Vec<u8>) -> Result<Elf, Error> {
        let file = Blob::memory(image, "test kernel".into());
        let head = file.head(super::super::identify::HEAD).unwrap();
        Elf::parse(&file, &head)
    }

    /// The message for `small_elf` with `bytes` written at `offset`.
    fn refusal(offset: usize, bytes: &[u8]) -> String {
        let mut image = small_elf();
        put(&mut image, offset, bytes);
        parse(image).unwrap_err().to_string()
    }

    #[test]
    fn small_elf_is_understood() {
        let elf = parse(small_elf()).unwrap();
        assert_eq!((elf.entry, elf.pvh_entry), (0x20_0000, Some(0x20_0010)));
        assert_eq!((elf.start, elf.end), (0x20_0000, 0x20_0040));
    }

    #[test]
    fn segments_arrive_where_they_asked_and_bss_is_zero() {
        let mut bss = segment(0x21_0000, b"data");
        bss.memory_len = 0x100;
        let image = elf(0x20_0000, &[bss, segment(0x20_0000, b"text")], b"");
        let file = Blob::memory(image.clone(), "test kernel".into());
        let memory = GuestMemory::new(4 << 20).unwrap();
        let kernel = parse(image).unwrap();
        kernel.load(&file, &memory).unwrap();
        let mut bytes = [0; 8];
        memory.read(GuestAddress(0x21_0000), &mut bytes).unwrap();
        assert_eq!(&bytes, b"data\0\0\0\0");
        memory.read(GuestAddress(0x20_0000), &mut bytes).unwrap();
        assert_eq!(&bytes, b"text\0\0\0\0");
        assert_eq!((kernel.start, kernel.end), (0x20_0000, 0x21_0100));
    }

    #[test]
    fn virtual_entry_is_translated_to_physical() {
        let entry = 0xffff_ffff_8020_0008;
        let kernel = parse(elf(entry, &[segment(0x20_0000, &[0; 64])], b"")).unwrap();
        assert_eq!(kernel.entry, 0x20_0008);
    }

    #[test]
    fn physical_entry_wins_over_a_segment_with_low_virtual_addresses() {
        let mut percpu = segment(0x40_0000, &[0; 64]);
        percpu.virtual_ = 0x20_0000;
        let kernel = parse(elf(0x20_0000, &[percpu, segment(0x20_0000, &[0; 64])], b""));
        assert_eq!(kernel.unwrap().entry, 0x20_0000);
    }

    #[test]
    fn program_headers_beyond_the_head_are_read_from_the_file() {
        let mut image = small_elf();
        let table = image[64..64 + 2 * 56].to_vec();
        let at = image.len() as u64;
        image.extend(table);
        put(&mut image, 32, &at.to_le_bytes());
        put(&mut image, 64, &[0; 112]);
        assert_eq!(parse(image).unwrap().pvh_entry, Some(0x20_0010));
    }

    #[test]
    fn elf_cut_off_in_its_header_is_refused() {
        let error = parse(small_elf()[..63].to_vec()).unwrap_err().to_string();
        assert_eq!(
            error,
            "Cannot read the ELF header at 0x0 + 0x40: the file has 0x3f bytes"
        );
    }

    #[test]
    fn program_headers_outside_the_file_are_refused() {
        assert_eq!(
            refusal(32, &u64::MAX.to_le_bytes()),
            "Cannot read the program headers at 0xffffffffffffffff + 0x70: the file has 0x1070 \
             bytes"
        );
    }

    #[test]
    fn no_program_headers_are_refused() {
        assert_eq!(
            refusal(56, &0u16.to_le_bytes()),
            "Cannot use 0 program headers of 56 bytes: 1 to 64 of 56 bytes are expected"
        );
    }

    #[test]
    fn too_many_program_headers_are_refused() {
        assert!(refusal(56, &65u16.to_le_bytes()).starts_with("Cannot use 65 program headers"));
    }

    #[test]
    fn program_headers_of_32_bit_size_are_refused() {
        assert!(refusal(54, &32u16.to_le_bytes()).contains("headers of 32 bytes"));
    }

    #[test]
    fn elf_without_load_segment_is_refused() {
        assert_eq!(
            refusal(phdr(0, 0), &6u32.to_le_bytes()),
            "Cannot find a segment to load among 2 program headers"
        );
    }

    #[test]
    fn segment_beyond_the_file_is_refused() {
        assert_eq!(
            refusal(phdr(0, 1), &0x1060_u64.to_le_bytes()),
            "Segment 0 takes bytes 0x1060 + 0x40, but the file has 0x1070 (cut off?)"
        );
    }

    #[test]
    fn segment_whose_file_range_wraps_is_refused() {
        assert!(refusal(phdr(0, 1), &u64::MAX.to_le_bytes()).contains("0xffffffffffffffff + 0x40"));
    }

    #[test]
    fn segment_larger_in_the_file_than_in_memory_is_refused() {
        assert_eq!(
            refusal(phdr(0, 5), &0x3f_u64.to_le_bytes()),
            "Segment 0 has 0x40 bytes in the file, but only 0x3f in memory"
        );
    }

    #[test]
    fn segment_that_wraps_is_refused() {
        assert!(refusal(phdr(0, 3), &(u64::MAX - 8).to_le_bytes()).contains("0xfffffffffffffff7"));
        assert!(refusal(phdr(0, 5), &u64::MAX.to_le_bytes()).contains("+ 0xffffffffffffffff"));
    }

    #[test]
    fn segment_below_the_first_megabyte_is_refused() {
        assert_eq!(
            refusal(phdr(0, 3), &0x9_0000_u64.to_le_bytes()),
            "Segment 0 wants guest-physical 0x90000 + 0x40; kernels go above 0x100000"
        );
    }

    #[test]
    fn overlapping_segments_are_refused() {
        let two = [segment(0x20_0020, &[0; 64]), segment(0x20_0000, &[0; 64])];
        assert_eq!(
            parse(elf(0x20_0000, &two, b"")).unwrap_err().to_string(),
            "Segments 1 and 0 overlap at guest-physical 0x200020"
        );
    }

    #[test]
    fn segment_in_the_gap_is_refused_without_asking_for_memory() {
        let two = [segment(0x20_0000, &[0; 64]), segment(0x30_0000, &[0; 64])];
        let mut image = elf(0x20_0000, &two, b"");
        let physical = phdr(1, 3);
        image[physical..physical + 8].copy_from_slice(&0xd000_0000_u64.to_le_bytes());
        let file = Blob::memory(image.clone(), "test kernel".into());
        let memory = GuestMemory::new(4 << 20).unwrap();
        let error = parse(image).unwrap().load(&file, &memory).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Segment 1 wants guest-physical 0xd0000000 to 0xd0000040, but RAM for kernels ends at \
             0xc0000000, whatever --memory says"
        );
    }

    #[test]
    fn segment_outside_ram_is_refused_with_the_memory_it_needs() {
        let image = elf(0x20_0000, &[segment(0x20_0000, &[0; 64])], b"");
        let file = Blob::memory(image.clone(), "test kernel".into());
        let memory = GuestMemory::new(2 << 20).unwrap();
        let error = parse(image).unwrap().load(&file, &memory).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Segment 0 wants guest-physical 0x200000 to 0x200040, but guest memory below the gap \
             ends at 0x200000; this kernel needs at least 3 MiB"
        );
    }

    #[test]
    fn entry_outside_every_segment_is_refused() {
        assert_eq!(
            refusal(24, &0x30_0000_u64.to_le_bytes()),
            "The 64-bit entry 0x300000 lies in no loaded segment"
        );
    }

    #[test]
    fn entry_in_bss_is_refused() {
        let mut image = small_elf();
        put(&mut image, phdr(0, 5), &0x1000_u64.to_le_bytes());
        put(&mut image, 24, &0x20_0040_u64.to_le_bytes());
        let error = parse(image).unwrap_err().to_string();
        assert_eq!(error, "The 64-bit entry 0x200040 lies in no loaded segment");
    }

    #[test]
    fn pvh_entry_outside_every_segment_is_refused() {
        let notes = testing::note(b"Xen\0", 18, &0x10_u32.to_le_bytes());
        let image = elf(0x20_0000, &[segment(0x20_0000, &[0; 64])], &notes);
        let error = parse(image).unwrap_err().to_string();
        assert_eq!(error, "The PVH entry 0x10 lies in no loaded segment");
    }

    #[test]
    fn notes_outside_the_file_are_refused() {
        assert_eq!(
            refusal(phdr(1, 4), &0x1000_u64.to_le_bytes()),
            "Cannot read the notes at 0x1040 + 0x1000: the file has 0x1070 bytes"
        );
    }
}
