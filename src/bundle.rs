//! The guest, and the tools, that travel inside the program file.
//!
//! `make cottage` adds the default kernel, initramfs, init and the tools to the release binary as ELF
//! sections that are never mapped. They are read from `/proc/self/exe`, the guest straight into its
//! memory: no copy of ours, no page faults on a mapping, and the program stays one file.
//! `readelf -S cottage` shows them.
//!
//! Source: `[elf]` System V ABI, chapter 4, "Sections".
//! Read next: [`crate::boot`].

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::boot::blob::Blob;

/// Section of the default kernel, the tiny one.
pub const KERNEL: &str = ".cottage.kernel";
/// Section of the kernel with drivers for virtio devices, the full one.
pub const FULL_KERNEL: &str = ".cottage.kernel-full";
/// Section of the default initramfs.
pub const INITRAMFS: &str = ".cottage.initramfs";
/// Section of our init alone, for initramfs files of the user's.
pub const INIT: &str = ".cottage.init";
/// Section of the program that `compare` runs on every side.
pub const PROBE: &str = ".cottage.probe";
/// Section of the program that `cottage` becomes for all but plain `run` ([`crate::tools`]).
pub const TOOLS: &str = ".cottage.tools";

/// This process's program file: also found after it was replaced or moved.
pub const SELF: &str = "/proc/self/exe";

/// The file that stands for cottage where this process is another program.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// The file that is cottage: VMM, guest and tools. This process's own, unless it is a tool.
pub fn program() -> &'static Path {
    PROGRAM.get().map_or(Path::new(SELF), PathBuf::as_path)
}

/// Says, once and first of all, which file is cottage: this process's own has no guest.
pub fn stand_for(program: PathBuf) {
    let _said_already = PROGRAM.set(program);
}

// [elf] figure 4-3, Elf64_Ehdr, and figure 4-8, Elf64_Shdr
const EHDR_SIZE: usize = 64;
const E_SHOFF: usize = 0x28;
const E_SHENTSIZE: usize = 0x3a;
const E_SHNUM: usize = 0x3c;
const E_SHSTRNDX: usize = 0x3e;
const SHDR_SIZE: u16 = 64;
const SH_OFFSET: usize = 0x18;
const SH_SIZE: usize = 0x20;

/// Why there is nothing to take from the program file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("Cannot read the guest inside {}", program().display())]
    Read(#[from] io::Error),
    /// A build without guest.
    #[error(
        "This cottage carries no {what}: run `make {target}` in cottage's source, which builds one \
         that does, or {instead}"
    )]
    Absent {
        /// Kernel, initramfs, init or probe.
        what: &'static str,
        /// Which target of our Makefile builds a program with it.
        target: &'static str,
        /// What the user can do without one.
        instead: &'static str,
    },
    /// The file's section table cannot be right.
    #[error(
        "{} is damaged: {what} {value:#x} cannot be right; copy the program again",
        program().display()
    )]
    Damaged {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

/// The section table of the program file.
#[derive(Debug)]
pub struct Bundle {
    file: File,
    len: u64,
    headers: Vec<u8>,
    names: Vec<u8>,
}

impl Bundle {
    /// Reads the program's own section table.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Damaged`].
    pub fn open() -> Result<Self, Error> {
        Self::of_file(File::open(program())?)
    }

    fn of_file(file: File) -> Result<Self, Error> {
        let len = file.metadata()?.len();
        let mut ehdr = [0; EHDR_SIZE];
        file.read_exact_at(&mut ehdr, 0)?;
        let count = u16_at(&ehdr, E_SHNUM);
        if count > 0 && u16_at(&ehdr, E_SHENTSIZE) != SHDR_SIZE {
            let value = u64::from(u16_at(&ehdr, E_SHENTSIZE));
            return Err(Error::Damaged {
                what: "section header size",
                value,
            });
        }
        let mut headers = vec![0; usize::from(count) * usize::from(SHDR_SIZE)];
        file.read_exact_at(&mut headers, u64_at(&ehdr, E_SHOFF))?;
        let mut bundle = Self {
            file,
            len,
            headers,
            names: Vec::new(),
        };
        let index = usize::from(u16_at(&ehdr, E_SHSTRNDX));
        let names = bundle
            .headers()
            .nth(index)
            .map(|header| bundle.range(header))
            .transpose()?;
        if let Some((offset, size)) = names {
            // Names of a program's sections fill a few hundred bytes.
            let size = usize::try_from(size).ok().filter(|size| *size <= 1 << 20);
            let size = size.ok_or(Error::Damaged {
                what: "section name size",
                value: u64::MAX,
            })?;
            let mut names = vec![0; size];
            bundle.file.read_exact_at(&mut names, offset)?;
            bundle.names = names;
        }
        Ok(bundle)
    }

    /// The built-in kernel for a machine with virtio devices, or the one for a machine without.
    ///
    /// Two, because drivers that find nothing to drive cost every boot (guest-images/README.md).
    ///
    /// # Errors
    /// [`Error::Absent`] in a build without that kernel, [`Error::Damaged`].
    pub fn kernel(&self, with_virtio: bool) -> Result<Blob, Error> {
        let instead = "pass --kernel FILE";
        if with_virtio {
            let what = "kernel with drivers for virtio devices (--disk, --net, ...)";
            return self.section(FULL_KERNEL, what, "full", instead);
        }
        self.section(KERNEL, "kernel", "cottage", instead)
    }

    /// The default initramfs.
    ///
    /// # Errors
    /// As [`Self::kernel`].
    pub fn initramfs(&self) -> Result<Blob, Error> {
        self.section(INITRAMFS, "initramfs", "cottage", "pass --initramfs FILE")
    }

    /// Our init.
    ///
    /// # Errors
    /// As [`Self::kernel`].
    pub fn init(&self) -> Result<Blob, Error> {
        self.section(
            INIT,
            "init",
            "cottage",
            "leave out the command, so that your initramfs runs its own init",
        )
    }

    /// The program that `compare` runs on every side.
    ///
    /// # Errors
    /// As [`Self::kernel`].
    pub fn probe(&self) -> Result<Blob, Error> {
        let instead = "compare with that one: it runs this same program on all sides";
        self.section(PROBE, "probe", "cottage", instead)
    }

    /// The tools as a program file, ready to be read; `None` in a build without.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Damaged`].
    pub fn tools(&self) -> Result<Option<impl Read + use<>>, Error> {
        let Some(header) = self.header(TOOLS) else {
            return Ok(None);
        };
        let (offset, size) = self.range(header)?;
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Some(file.take(size)))
    }

    fn section(
        &self,
        name: &str,
        what: &'static str,
        target: &'static str,
        instead: &'static str,
    ) -> Result<Blob, Error> {
        let header = self.header(name).ok_or(Error::Absent {
            what,
            target,
            instead,
        })?;
        let (offset, size) = self.range(header)?;
        Ok(Blob::file_range(
            self.file.try_clone()?,
            offset,
            size,
            format!("the built-in {what}"),
        ))
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers()
            .find(|header| self.name(header) == name.as_bytes())
    }

    fn headers(&self) -> impl Iterator<Item = &[u8]> {
        self.headers.chunks_exact(usize::from(SHDR_SIZE))
    }

    fn name(&self, header: &[u8]) -> &[u8] {
        let start = usize::try_from(u32_at(header, 0)).unwrap_or(usize::MAX);
        let from = self.names.get(start..).unwrap_or(&[]);
        from.split(|byte| *byte == 0).next().unwrap_or(&[])
    }

    /// Offset and size of a section, inside the file.
    fn range(&self, header: &[u8]) -> Result<(u64, u64), Error> {
        let (offset, size) = (u64_at(header, SH_OFFSET), u64_at(header, SH_SIZE));
        match offset.checked_add(size) {
            Some(end) if end <= self.len => Ok((offset, size)),
            _ => Err(Error::Damaged {
                what: "section end",
                value: offset.saturating_add(size),
            }),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_program_carries_no_guest_and_says_what_to_do() {
        let bundle = Bundle::open().unwrap();
        let text = bundle.kernel(false).unwrap_err().to_string();
        assert!(
            text.contains("no kernel") && text.contains("make cottage"),
            "{text}"
        );
        assert!(text.contains("--kernel FILE"), "{text}");
        let text = bundle.kernel(true).unwrap_err().to_string();
        assert!(
            text.contains("virtio") && text.contains("make full"),
            "{text}"
        );
        let text = bundle.probe().unwrap_err().to_string();
        assert!(
            text.contains("no probe") && text.contains("make cottage"),
            "{text}"
        );
    }

    #[test]
    fn ordinary_sections_are_found_by_name() {
        let bundle = Bundle::open().unwrap();
        assert!(bundle.section(".text", "text", "", "").unwrap().len() > 1000);
    }
}
