//! The multiboot header: found by its magic number, trusted by its checksum.
//!
//! ```text
//!  +0 magic   +4 flags   +8 checksum: the three add up to 0
//!  with flag 16, for files that are no ELF files:
//!  +12 header_addr   +16 load_addr   +20 load_end_addr   +24 bss_end_addr   +28 entry_addr
//! ```
//!
//! It lies anywhere in the first 8192 bytes, on a multiple of 4. Flags 0 to 15 are requirements, and a
//! loader that cannot meet one must refuse; the rest it may ignore.
//!
//! Source: `[multiboot]` Multiboot Specification 0.6.96, 3.1; `[multiboot2]` Multiboot2 Specification
//! version 2.0, 3.1.1, for the header of the successor.
//! Read next: [`super::image`].

use super::super::blob::structure;

/// How much of a file is searched. `[multiboot]` 3.1
pub const SEARCH: usize = 8192;
/// The same for the successor's header. `[multiboot2]` 3.1
pub const SEARCH_2: u64 = 32_768;
const MAGIC: u32 = 0x1bad_b002;
const MAGIC_2: u32 = 0xe852_50d6;
/// The headers' alignment, in bytes.
const ALIGNMENT: usize = 4;
const ALIGNMENT_2: usize = 8;

// Flags. [multiboot] 3.1.2
/// Modules on pages: ours always are.
const PAGE_ALIGN: u32 = 1 << 0;
/// Memory sizes in the information: always there.
const MEMORY_INFO: u32 = 1 << 1;
/// A video mode.
const VIDEO_MODE: u32 = 1 << 2;
/// Those a loader must meet or refuse.
const REQUIREMENTS: u32 = 0xffff;
/// The header has the addresses to load to.
const ADDRESSES: u32 = 1 << 16;

/// What is wrong with a header, or with what it asks for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("It has no multiboot header in its first {SEARCH} bytes")]
    Absent,
    /// There is one of the successor's.
    #[error(
        "Its header at {offset:#x} is of multiboot 2, and cottage loads multiboot 1: many kernels can \
         be built with either header, or both"
    )]
    Multiboot2 {
        /// Where it is.
        offset: usize,
    },
    /// The magic number is there, but the sum is not zero.
    #[error(
        "The multiboot header at {offset:#x} is damaged: magic number, flags {flags:#x} and checksum \
         {checksum:#x} add up to {sum:#x} instead of 0"
    )]
    Checksum {
        /// Where it is.
        offset: usize,
        /// Its flags.
        flags: u32,
        /// Its checksum.
        checksum: u32,
        /// What the three numbers add up to.
        sum: u32,
    },
    /// The header goes on where nobody looks.
    #[error(
        "The multiboot header at {offset:#x} ends at {end:#x}: it must lie in the first {SEARCH} bytes \
         of a file, and this one has {file:#x}"
    )]
    CutOff {
        /// Where it is.
        offset: usize,
        /// Where it would end.
        end: usize,
        /// Bytes of the file that were searched.
        file: usize,
    },
    /// A display is needed.
    #[error(
        "The kernel requires a video mode (multiboot flag 2 of {flags:#x}): a guest of cottage has a \
         serial console and no display"
    )]
    VideoMode {
        /// The header's flags.
        flags: u32,
    },
    /// Something newer than the specification is needed.
    #[error(
        "The kernel requires what cottage does not know: multiboot flags {flags:#x}, of which {unknown:#x} \
         have no meaning in version 0.6.96"
    )]
    Requirement {
        /// The header's flags.
        flags: u32,
        /// Those nobody knows.
        unknown: u32,
    },
}

/// A header that adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it is in the file.
    pub offset: u32,
    /// Its flags.
    pub flags: u32,
    /// Where to load the file, if that does not stand in an ELF header.
    pub addresses: Option<Addresses>,
}

/// The address fields: guest-physical all of them. `[multiboot]` 3.1.3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where the header itself goes, which says what part of the file is meant.
    pub header: u32,
    /// Where the loaded part begins.
    pub load: u32,
    /// Where it ends; 0 means with the file.
    pub load_end: u32,
    /// Where the zeros after it end; 0 means that there are none.
    pub bss_end: u32,
    /// The first instruction.
    pub entry: u32,
}

impl Header {
    /// Refuses what a guest here cannot have.
    ///
    /// # Errors
    /// [`Error::VideoMode`], [`Error::Requirement`].
    pub fn check_requirements(&self) -> Result<(), Error> {
        let flags = self.flags;
        if flags & VIDEO_MODE != 0 {
            return Err(Error::VideoMode { flags });
        }
        match flags & REQUIREMENTS & !(PAGE_ALIGN | MEMORY_INFO) {
            0 => Ok(()),
            unknown => Err(Error::Requirement { flags, unknown }),
        }
    }
}

/// Finds the header in the first bytes of a file, [`SEARCH_2`] of them if there are so many.
///
/// # Errors
/// Why there is none: [`Error::Checksum`] and [`Error::CutOff`] if there almost is one,
/// [`Error::Multiboot2`], [`Error::Absent`].
pub fn find(head: &[u8]) -> Result<Header, Error> {
    let searched = head.get(..SEARCH).unwrap_or(head);
    let mut almost = None;
    for offset in places(searched, MAGIC, ALIGNMENT) {
        match read(searched, offset) {
            Ok(header) => return Ok(header),
            // Four bytes can look like a magic number; the right one may follow.
            Err(error) => almost = almost.or(Some(error)),
        }
    }
    let successor = places(head, MAGIC_2, ALIGNMENT_2).next();
    Err(match (successor, almost) {
        (Some(offset), _) => Error::Multiboot2 { offset },
        (None, Some(error)) => error,
        (None, None) => Error::Absent,
    })
}

/// Where `magic` stands.
fn places(bytes: &[u8], magic: u32, alignment: usize) -> impl Iterator<Item = usize> {
    let offsets = (0..bytes.len()).step_by(alignment);
    offsets.filter(move |offset| structure(bytes, *offset) == Some(magic))
}

fn read(searched: &[u8], offset: usize) -> Result<Header, Error> {
    let cut_off = |end| Error::CutOff {
        offset,
        end,
        file: searched.len(),
    };
    let Some([magic, flags, checksum]) = structure::<[u32; 3]>(searched, offset) else {
        return Err(cut_off(offset + 12));
    };
    let sum = magic.wrapping_add(flags).wrapping_add(checksum);
    if sum != 0 {
        return Err(Error::Checksum {
            offset,
            flags,
            checksum,
            sum,
        });
    }
    let addresses = if flags & ADDRESSES == 0 {
        None
    } else {
        let fields = structure::<[u32; 5]>(searched, offset + 12);
        let [header, load, load_end, bss_end, entry] = fields.ok_or(cut_off(offset + 32))?;
        Some(Addresses {
            header,
            load,
            load_end,
            bss_end,
            entry,
        })
    };
    Ok(Header {
        // Below 8192.
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
        flags,
        addresses,
    })
}
