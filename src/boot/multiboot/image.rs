//! What of a multiboot kernel goes where: its ELF segments, or what the header's addresses say.
//!
//! A 64-bit ELF file is entered in 32-bit mode like any other and finds its own way up. The addresses of
//! flag 16, which were made for a.out files, count more than an ELF header. They name one piece of the
//! file, which becomes a segment here; so one loader, with its checks, serves both.
//!
//! Source: `[multiboot]` Multiboot Specification 0.6.96, 3.1.3.
//! Read next: [`super::symbols`].

use super::Error as MultibootError;
use super::header::{Addresses, Header, SEARCH_2};
use super::symbols::{self, Sections};
use crate::boot::blob::Blob;
use crate::boot::elf::{self, Elf, Segment};

/// A kernel that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its segments; one, with the header's addresses.
    pub elf: Elf,
    /// Its section headers, if it is loaded as an ELF file that has some.
    pub sections: Option<Sections>,
}

/// Reads what `header`, which was found in `kernel`, leads to.
///
/// # Errors
/// What is wrong with the file, with the numbers.
pub fn parse(kernel: &Blob, header: &Header) -> Result<Image, MultibootError> {
    if let Some(addresses) = header.addresses {
        let elf = one_segment(kernel, header.offset, addresses)?;
        return Ok(Image {
            elf,
            sections: None,
        });
    }
    let head = kernel.head(SEARCH_2)?;
    if !is_elf(&head) {
        return Err(symbols::Error::NotElf.into());
    }
    Ok(Image {
        elf: Elf::parse(kernel, &head)?,
        sections: Sections::parse(kernel, &head)?,
    })
}

/// Whether it is a little-endian ELF program for x86, 32-bit or 64-bit. `[elf]` "ELF Header"
pub fn is_elf(head: &[u8]) -> bool {
    const EXECUTABLE: [u8; 2] = [2, 0];
    const LITTLE_ENDIAN: u8 = 1;
    head.starts_with(b"\x7fELF")
        && head.get(5) == Some(&LITTLE_ENDIAN)
        && head.get(16..18) == Some(&EXECUTABLE)
        && match (head.get(4), head.get(18..20)) {
            (Some(1), Some(machine)) => machine == [3, 0], // EM_386
            (Some(2), Some(machine)) => machine == [62, 0], // EM_X86_64
            _ => false,
        }
}

/// `[multiboot]` 3.1.3: the header stands `header - load` bytes into the piece that is loaded.
fn one_segment(
    kernel: &Blob,
    header_offset: u32,
    addresses: Addresses,
) -> Result<Elf, MultibootError> {
    let wrong = |why| symbols::Error::Addresses { why, addresses };
    let Addresses {
        header,
        load,
        load_end,
        bss_end,
        entry,
    } = addresses;
    let into = header
        .checked_sub(load)
        .ok_or_else(|| wrong("the header would lie before what is loaded"))?;
    let file_offset = header_offset
        .checked_sub(into)
        .ok_or_else(|| wrong("what is loaded would begin before the file does"))?;
    let file_offset = u64::from(file_offset);
    let file_len = match load_end {
        0 => kernel.len().saturating_sub(file_offset),
        end => end
            .checked_sub(load)
            .ok_or_else(|| wrong("what is loaded would end before it begins"))?
            .into(),
    };
    let memory_len = match bss_end {
        0 => file_len,
        end => u64::from(end)
            .checked_sub(u64::from(load))
            .filter(|len| *len >= file_len)
            .ok_or_else(|| wrong("the zeros would end before they begin"))?,
    };
    let segment = Segment {
        index: 0,
        file_offset,
        file_len,
        physical: load.into(),
        virtual_: load.into(),
        memory_len,
    };
    let segment = elf::check_segment(segment, kernel)?;
    Ok(Elf::of_segments(
        vec![segment],
        1,
        ("multiboot", entry.into()),
    )?)
}
