//! ELF notes: small labelled values in a kernel; one of them is the PVH entry point.
//!
//! ```text
//!  4 bytes name size, 4 bytes value size, 4 bytes type, name, padding, value, padding; next note
//! ```
//!
//! [`super::elf`] finds the note segment and calls [`pvh_entry`].
//!
//! Sources: `[elf]` System V ABI, chapter 5; `[pvh]` Xen `docs/misc/pvh.pandoc` and
//! `xen/include/public/elfnote.h`. Read next: [`super::bzimage`].

use linux_loader::elf::{Elf64_Nhdr, Elf64_Phdr};
use vm_memory::ByteValued;

use super::blob::{self, Blob, structure};

/// Most bytes of one note segment we read; Linux has half a KiB.
pub const MAX_NOTES: u64 = 64 << 10; // 64 KiB
/// `[pvh]` Type of the Xen note with the 32-bit PVH entry point.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// Why notes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The segment is not all in the file.
    #[error("Cannot read the notes at {offset:#x} + {len:#x}: the file has {file:#x} bytes")]
    Truncated {
        /// p_offset.
        offset: u64,
        /// p_filesz.
        len: u64,
        /// Length of the file.
        file: u64,
    },
    /// The segment does not hold what it announces.
    #[error("The notes at {offset:#x} + {len:#x} are broken at {at:#x}: {why}")]
    Broken {
        /// p_offset.
        offset: u64,
        /// p_filesz.
        len: u64,
        /// Offset in the notes.
        at: usize,
        /// What is wrong there.
        why: &'static str,
    },
    /// The bytes could not be read.
    #[error(transparent)]
    Blob(#[from] blob::Error),
}

/// Looks for the PVH entry point in the note segment `header` describes.
///
/// # Errors
/// [`Error`], if any note up to the one looked for is broken.
pub fn pvh_entry(file: &Blob, header: &Elf64_Phdr) -> Result<Option<u64>, Error> {
    let (offset, len) = (header.p_offset, header.p_filesz);
    if offset.checked_add(len).is_none_or(|end| end > file.len()) {
        return Err(Error::Truncated {
            offset,
            len,
            file: file.len(),
        });
    }
    let broken = |(at, why)| Error::Broken {
        offset,
        len,
        at,
        why,
    };
    if len > MAX_NOTES {
        return Err(broken((0, "longer than 64 KiB")));
    }
    let bytes = file.read_vec(offset, len, MAX_NOTES)?;
    // [elf] Notes are aligned to 4 bytes; a segment that says 8 means it.
    let align = if header.p_align == 8 { 8 } else { 4 };
    find_pvh_entry(&bytes, align).map_err(broken)
}

/// `[elf]` "Note Section": name and descriptor follow the header, each padded to `align`.
///
/// Fails with the offset and what is wrong there. All sizes are at most [`MAX_NOTES`] + 2^33,
/// so additions cannot overflow.
fn find_pvh_entry(notes: &[u8], align: usize) -> Result<Option<u64>, Fault> {
    let mut at = 0;
    while at < notes.len() {
        let (note, next) = Note::read(notes, at, align)?;
        if note.kind == XEN_ELFNOTE_PHYS32_ENTRY && note.name == b"Xen\0" {
            return pvh_address(note.value)
                .map(Some)
                .ok_or((at, "the PVH entry is no 32-bit address"));
        }
        at = next;
    }
    Ok(None)
}

/// Where notes are broken, and how.
pub type Fault = (usize, &'static str);

/// One note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// Who defines it, with its NUL.
    pub name: &'a [u8],
    /// What it is, to those.
    pub kind: u32,
    /// What it says.
    pub value: &'a [u8],
}

impl<'a> Note<'a> {
    /// Reads the note at offset `at`; also returns where the next one is.
    ///
    /// # Errors
    /// [`Fault`], for a note that is cut off.
    pub fn read(notes: &'a [u8], at: usize, align: usize) -> Result<(Self, usize), Fault> {
        let header: Elf64_Nhdr = structure(notes, at).ok_or((at, "a header is cut off"))?;
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX / 4);
        let name_start = at + header.as_slice().len();
        let name_end = name_start + size(header.n_namesz);
        let name = notes
            .get(name_start..name_end)
            .ok_or((at, "a name is cut off"))?;
        let start = name_end.next_multiple_of(align);
        let end = start + size(header.n_descsz);
        let value = notes.get(start..end).ok_or((at, "a value is cut off"))?;
        let kind = header.n_type;
        Ok((Self { name, kind, value }, end.next_multiple_of(align)))
    }
}

/// `[pvh]` The entry runs in 32-bit mode, but Linux stores its address in 4 or 8 bytes.
fn pvh_address(value: &[u8]) -> Option<u64> {
    let address = match value.len() {
        4 => u64::from(u32::from_le_bytes(value.try_into().ok()?)),
        8 => u64::from_le_bytes(value.try_into().ok()?),
        _ => return None,
    };
    u32::try_from(address).is_ok().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::super::testing::note;
    use super::*;

    #[test]
    fn pvh_note_is_found_behind_others() {
        let mut notes = note(b"GNU\0", 18, b"not ours");
        notes.extend(note(b"Xen\0", 6, b"linux\0"));
        notes.extend(note(b"Xen\0", 18, &0x100_0000_u32.to_le_bytes()));
        assert_eq!(find_pvh_entry(&notes, 4), Ok(Some(0x100_0000)));
    }

    #[test]
    fn notes_aligned_to_8_are_walked_in_steps_of_8() {
        let mut notes = note(b"GNU\0", 5, &[0; 12]);
        notes.resize(32, 0);
        notes.extend(note(b"Xen\0", 18, &8u64.to_le_bytes()));
        assert_eq!(find_pvh_entry(&notes, 8), Ok(Some(8)));
    }

    #[test]
    fn notes_without_pvh_offer_nothing() {
        assert_eq!(find_pvh_entry(&note(b"GNU\0", 3, b"id"), 4), Ok(None));
        assert_eq!(find_pvh_entry(b"", 4), Ok(None));
    }

    #[test]
    fn cut_off_notes_are_refused_with_the_place() {
        let good = note(b"Xen\0", 18, &[0; 8]);
        assert_eq!(
            find_pvh_entry(&good[..11], 4),
            Err((0, "a header is cut off"))
        );
        assert_eq!(
            find_pvh_entry(&good[..14], 4),
            Err((0, "a name is cut off"))
        );
        assert_eq!(
            find_pvh_entry(&good[..20], 4),
            Err((0, "a value is cut off"))
        );
    }

    #[test]
    fn note_with_huge_sizes_is_refused() {
        assert_eq!(
            find_pvh_entry(&[0xff; 12], 4),
            Err((0, "a name is cut off"))
        );
    }

    #[test]
    fn pvh_entry_that_is_no_32_bit_address_is_refused() {
        let wide = note(b"Xen\0", 18, &(1u64 << 32).to_le_bytes());
        let odd = note(b"Xen\0", 18, b"abc");
        let why = "the PVH entry is no 32-bit address";
        assert_eq!(find_pvh_entry(&wide, 4), Err((0, why)));
        assert_eq!(find_pvh_entry(&odd, 4), Err((0, why)));
    }
}
