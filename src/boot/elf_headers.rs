//! The tables in an ELF file: where they are, and their entries, 32-bit ones in 64-bit form.
//!
//! Linux's vmlinux is 64-bit; multiboot kernels mostly are 32-bit files, whatever they become later.
//! Whoever reads on, [`super::elf`] and [`super::multiboot`], need not know which.
//!
//! Source: `[elf]` System V ABI, chapters 4 and 5, and its draft of 2013 for the 64-bit structures.
//! Read next: [`super::notes`].

use linux_loader::elf::Elf64_Phdr;

use super::blob::{Blob, structure};
use super::elf::{Error, MAX_PROGRAM_HEADERS};

/// EI_CLASS, and its value for 64-bit files.
const CLASS: usize = 4;
const CLASS_64: u8 = 2;

/// Where a table is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Offset in the file.
    pub offset: u64,
    /// Entries.
    pub count: u16,
    /// Bytes of an entry.
    pub entry_size: u16,
}

/// The ELF header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Whether it is a 64-bit file.
    pub wide: bool,
    /// e_entry.
    pub entry: u64,
    /// Program headers.
    pub programs: Table,
    /// Section headers.
    pub sections: Table,
    /// e_shstrndx: the section with the sections' names.
    pub names: u16,
}

/// Reads numbers of a structure that has two forms.
struct Fields<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl Fields<'_> {
    /// An address, offset or size: 4 bytes at the first place, or 8 at the second.
    fn word(&self, narrow: usize, wide: usize) -> Option<u64> {
        if self.wide {
            structure(self.bytes, wide)
        } else {
            structure::<u32>(self.bytes, narrow).map(u64::from)
        }
    }

    /// A 32-bit number.
    fn number(&self, narrow: usize, wide: usize) -> Option<u32> {
        structure(self.bytes, if self.wide { wide } else { narrow })
    }

    /// A 16-bit number.
    fn half(&self, narrow: usize, wide: usize) -> Option<u16> {
        structure(self.bytes, if self.wide { wide } else { narrow })
    }
}

impl Headers {
    /// Reads the header at the start of `head`; `None` if it is cut off.
    pub fn read(head: &[u8]) -> Option<Self> {
        let wide = *head.get(CLASS)? == CLASS_64;
        let fields = Fields { bytes: head, wide };
        // [elf] figure 4-3: Elf32_Ehdr, Elf64_Ehdr.
        Some(Self {
            wide,
            entry: fields.word(24, 24)?,
            programs: Table {
                offset: fields.word(28, 32)?,
                entry_size: fields.half(42, 54)?,
                count: fields.half(44, 56)?,
            },
            sections: Table {
                offset: fields.word(32, 40)?,
                entry_size: fields.half(46, 58)?,
                count: fields.half(48, 60)?,
            },
            names: fields.half(50, 62)?,
        })
    }

    /// `[elf]` The table of e_phnum headers at e_phoff; from `head` if it is there, else read.
    ///
    /// # Errors
    /// [`Error::ProgramHeaders`] for a table of a strange shape, [`Error::Truncated`].
    pub fn program_headers(&self, file: &Blob, head: &[u8]) -> Result<Vec<Elf64_Phdr>, Error> {
        let Table {
            offset,
            count,
            entry_size: size,
        } = self.programs;
        let expected = if self.wide { 56 } else { 32 };
        if count == 0 || count > MAX_PROGRAM_HEADERS || size != expected {
            return Err(Error::ProgramHeaders {
                count,
                size,
                expected,
            });
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
        Ok(headers.filter_map(|entry| self.program(entry)).collect())
    }

    /// `[elf]` figure 5-1: Elf32_Phdr has its flags nearly last, Elf64_Phdr second.
    fn program(&self, entry: &[u8]) -> Option<Elf64_Phdr> {
        let fields = Fields {
            bytes: entry,
            wide: self.wide,
        };
        Some(Elf64_Phdr {
            p_type: fields.number(0, 0)?,
            p_flags: fields.number(24, 4)?,
            p_offset: fields.word(4, 8)?,
            p_vaddr: fields.word(8, 16)?,
            p_paddr: fields.word(12, 24)?,
            p_filesz: fields.word(16, 32)?,
            p_memsz: fields.word(20, 40)?,
            p_align: fields.word(28, 48)?,
        })
    }
}

/// What is wanted of a section header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// sh_type.
    pub kind: u32,
    /// sh_addr: 0 if it is in no segment.
    pub address: u64,
    /// sh_offset.
    pub offset: u64,
    /// sh_size.
    pub len: u64,
    /// sh_addralign.
    pub align: u64,
}

impl Section {
    /// Where sh_addr stands in an entry, and how many bytes it has.
    pub fn address_field(wide: bool) -> (usize, usize) {
        if wide { (16, 8) } else { (12, 4) }
    }

    /// Reads one entry; `None` if it is cut off. `[elf]` figure 4-8.
    pub fn read(entry: &[u8], wide: bool) -> Option<Self> {
        let fields = Fields { bytes: entry, wide };
        Some(Self {
            kind: fields.number(4, 4)?,
            address: fields.word(12, 16)?,
            offset: fields.word(16, 24)?,
            len: fields.word(20, 32)?,
            align: fields.word(32, 48)?,
        })
    }
}
