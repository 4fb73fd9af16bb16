//! Names for addresses in a kernel: from its System.map, or from an ELF file's symbol table.
//!
//! Addresses are those the kernel was linked at. cottage unpacks kernels itself and they run there; one
//! that unpacks itself (`--unpack guest`) may move, with KASLR, and no name fits then.
//!
//! Only code is kept: what an instruction pointer can point to. Sources: `[elf]` System V ABI, chapter 4,
//! "Symbol Table"; nm(1) for the letters in a System.map.
//! Read next: [`gate`](super::gate).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// More than any kernel's file of symbols: an unstripped vmlinux with debug information is about 1 GiB.
const LARGEST: u64 = 2 << 30; // 2 GiB
/// Names longer than this are cut: a guest's kernel may come from anywhere.
const LONGEST_NAME: usize = 200;

// [elf] Elf64_Ehdr, Elf64_Shdr, Elf64_Sym; 32-bit files are read by the offsets of theirs.
const SHT_SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;
const STT_NOTYPE: u8 = 0;

/// Why there are no names.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("Cannot read symbols from {path:?}")]
    Read {
        /// As given.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The file has none.
    #[error(
        "Cannot use {path:?} for symbols: {why}; a System.map (lines such as `ffffffff81000000 T _text`) or \
         an ELF file with a symbol table (a vmlinux that is not stripped) will do"
    )]
    None {
        /// As given.
        path: PathBuf,
        /// What is in it instead.
        why: &'static str,
    },
}

/// Names of code, by address.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Ascending.
    all: Vec<(u64, Box<str>)>,
}

/// A place in named code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The function's name.
    pub name: &'a str,
    /// Bytes from its beginning.
    pub offset: u64,
}

impl Symbols {
    /// The symbols in `path`, a System.map or an ELF file.
    ///
    /// # Errors
    /// [`Error`], naming the file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = read(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let none = |why| Error::None {
            path: path.to_owned(),
            why,
        };
        if bytes.starts_with(b"\x7fELF") {
            return Self::from_elf(&bytes)
                .ok_or_else(|| none("it is an ELF file without a symbol table"));
        }
        let text = std::str::from_utf8(&bytes)
            .map_err(|_binary| none("it is neither text nor an ELF file"))?;
        Self::from_map(text).ok_or_else(|| none("no line of it names code"))
    }

    /// The symbols that lie about for `kernel`: in itself, in `System.map-VERSION` beside
    /// `vmlinuz-VERSION`, or in `System.map` or `vmlinux` beside it.
    pub fn beside(kernel: &Path) -> Option<Self> {
        let name = kernel.file_name()?.to_string_lossy();
        let version = name.split_once('-').map(|(_, version)| version);
        let map = version.map(|version| kernel.with_file_name(format!("System.map-{version}")));
        let others = [
            kernel.with_file_name("System.map"),
            kernel.with_file_name("vmlinux"),
        ];
        let is_elf = head(kernel).is_some_and(|head| head == *b"\x7fELF");
        let own = is_elf.then(|| kernel.to_owned());
        let candidates = own.into_iter().chain(map).chain(others);
        let mut found = candidates.filter(|file| file.is_file());
        found.find_map(|file| Self::read(&file).ok())
    }

    /// Whose code is at `address`.
    pub fn at(&self, address: u64) -> Option<Place<'_>> {
        let after = self.all.partition_point(|(start, _)| *start <= address);
        // Behind the last name there is no telling where its code ends.
        if after == self.all.len() {
            return None;
        }
        let (start, name) = self.all.get(after.checked_sub(1)?)?;
        Some(Place {
            name,
            offset: address - start,
        })
    }

    /// Where `name` begins.
    pub fn address(&self, name: &str) -> Option<u64> {
        let found = self.all.iter().find(|(_, known)| **known == *name);
        found.map(|(address, _)| *address)
    }

    fn of(mut all: Vec<(u64, Box<str>)>) -> Option<Self> {
        // Of several names for one address the first in the file.
        all.sort_by_key(|(address, _)| *address);
        all.dedup_by_key(|(address, _)| *address);
        (!all.is_empty()).then_some(Self { all })
    }

    fn from_map(text: &str) -> Option<Self> {
        let mut all = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            // t: code; w: code that another definition may replace; capitals: seen by other files.
            if matches!(kind, "t" | "T" | "w" | "W")
                && let Ok(address) = u64::from_str_radix(address, 16)
            {
                all.push((address, cut(name)));
            }
        }
        Self::of(all)
    }

    fn from_elf(file: &[u8]) -> Option<Self> {
        let wide = *file.get(4)? == 2;
        let (shoff, entry, count) = if wide {
            (
                word(file, 0x28, 8)?,
                word(file, 0x3a, 2)?,
                word(file, 0x3c, 2)?,
            )
        } else {
            (
                word(file, 0x20, 4)?,
                word(file, 0x2e, 2)?,
                word(file, 0x30, 2)?,
            )
        };
        let section = |index: u64| {
            let at = shoff.checked_add(index.checked_mul(entry)?)?;
            let (offset, size, link) = if wide {
                (0x18, 0x20, 0x28)
            } else {
                (0x10, 0x14, 0x18)
            };
            let width = if wide { 8 } else { 4 };
            let kind = u32::try_from(word(file, at.checked_add(4)?, 4)?).ok()?;
            let start = usize::try_from(word(file, at.checked_add(offset)?, width)?).ok()?;
            let len = usize::try_from(word(file, at.checked_add(size)?, width)?).ok()?;
            let link = word(file, at.checked_add(link)?, 4)?;
            Some((kind, file.get(start..start.checked_add(len)?)?, link))
        };
        let mut tables = (0..count).filter_map(section);
        let (_, symbols, names) = tables.find(|(kind, ..)| *kind == SHT_SYMTAB)?;
        let (_, names, _) = section(names)?;
        let size = if wide { 24 } else { 16 };
        let named = symbols.chunks_exact(size).filter_map(|symbol| {
            let (info, shndx, value) = if wide {
                (symbol.get(4)?, word(symbol, 6, 2)?, word(symbol, 8, 8)?)
            } else {
                (symbol.get(12)?, word(symbol, 14, 2)?, word(symbol, 4, 4)?)
            };
            let kind = info & 0xf;
            let is_code = shndx != 0 && (kind == STT_FUNC || (kind == STT_NOTYPE && value != 0));
            let name = names.get(usize::try_from(word(symbol, 0, 4)?).ok()?..)?;
            let name = name.split(|byte| *byte == 0).next()?;
            let name = std::str::from_utf8(name)
                .ok()
                .filter(|name| !name.is_empty())?;
            is_code.then(|| (value, cut(name)))
        });
        Self::of(named.collect())
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let len = fs::metadata(path)?.len();
    if len > LARGEST {
        let why = format!("its {} MiB are more than {} MiB", len >> 20, LARGEST >> 20);
        return Err(io::Error::other(why));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn head(path: &Path) -> Option<[u8; 4]> {
    let mut head = [0; 4];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    Some(head)
}

/// A name without what could upset a terminal, and not too long.
fn cut(name: &str) -> Box<str> {
    let harmless = name.chars().filter(|c| !c.is_control());
    harmless.take(LONGEST_NAME).collect::<String>().into()
}

/// A little-endian number of `len` bytes at `at`, if the file is so long.
fn word(bytes: &[u8], at: u64, len: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    let low_first = bytes.iter().rev();
    Some(low_first.fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "ffffffff81000000 T _text\nffffffff81000040 t helper\n\
                       ffffffff81000040 T alias\nffffffff82000000 D data\nffffffff81000100 W end\n";

    #[test]
    fn system_map_names_code_and_what_lies_between() {
        let symbols = Symbols::from_map(MAP).unwrap();
        let place = |address| symbols.at(address).map(|p| (p.name.to_owned(), p.offset));
        assert_eq!(place(0xffff_ffff_8100_0000), Some(("_text".into(), 0)));
        assert_eq!(place(0xffff_ffff_8100_0041), Some(("helper".into(), 1)));
        assert_eq!(place(0xffff_ffff_80ff_ffff), None, "before the first");
        assert_eq!(place(0xffff_ffff_8200_0000), None, "behind the last code");
        assert_eq!(symbols.address("end"), Some(0xffff_ffff_8100_0100));
    }

    /// An ELF file with one symbol, `go` at 0x1000, and one behind it.
    fn elf(wide: bool) -> Vec<u8> {
        let mut file = vec![0; 0x400];
        let mut put = |at: usize, value: u64, len: usize| {
            file[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        };
        let (width, header) = if wide { (8, 0x40) } else { (4, 0x28) };
        put(
            0,
            u64::from_le_bytes([0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1, 1, 0]),
            8,
        );
        let fields = if wide {
            [0x28, 0x3a, 0x3c]
        } else {
            [0x20, 0x2e, 0x30]
        };
        put(fields[0], 0x100, width);
        put(fields[1], header as u64, 2);
        put(fields[2], 3, 2);
        let shape = if wide {
            [0x18, 0x20, 0x28]
        } else {
            [0x10, 0x14, 0x18]
        };
        let size = if wide { 24 } else { 16 };
        for (section, kind, start, len) in [(1, 2, 0x300, 2 * size), (2, 3, 0x200, 16)] {
            let at = 0x100 + section * header;
            put(at + 4, kind, 4);
            put(at + shape[0], start, width);
            put(at + shape[1], len, width);
            put(at + shape[2], 2, 4);
        }
        put(0x201, u64::from_le_bytes(*b"go\0stop\0"), 8);
        for (number, (name, value)) in [(1, 0x1000), (4, 0x2000)].into_iter().enumerate() {
            let at = 0x300 + number * usize::try_from(size).unwrap();
            let (info, section, address) = if wide { (4, 6, 8) } else { (12, 14, 4) };
            put(at, name, 4);
            put(at + info, 2, 1);
            put(at + section, 1, 2);
            put(at + address, value, width);
        }
        file
    }

    #[test]
    fn elf_symbols_of_both_widths_are_found() {
        for wide in [true, false] {
            let symbols = Symbols::from_elf(&elf(wide)).unwrap();
            let at = symbols.at(0x1234).unwrap();
            assert_eq!((at.name, at.offset), ("go", 0x234));
        }
    }

    #[test]
    fn damaged_elf_files_have_no_symbols_and_no_panic() {
        let whole = elf(true);
        for len in 0..whole.len() {
            let _none_or_some = Symbols::from_elf(&whole[..len]);
        }
        for at in 0..0x180 {
            let mut broken = whole.clone();
            broken[at] = 0xff;
            let _none_or_some = Symbols::from_elf(&broken);
        }
    }

    #[test]
    fn names_cannot_upset_a_terminal() {
        let symbols = Symbols::from_map("1 T a\u{1b}[2J\n2 T b\n").unwrap();
        assert_eq!(symbols.at(1).unwrap().name, "a[2J");
    }
}
