//! The initramfs: cpio archives, one after the other, and where they go in guest memory.
//!
//! Linux unpacks a chain of archives, packed or not, into its first root file system. Ours is what
//! the user brings, then a segment with the few files cottage adds. A later file replaces an
//! earlier one of the same name, so ours win.
//!
//! ```text
//!  kernel's end, page-aligned
//!  ├───────────────┬──────────────┬──────────────────────────────────────┤
//!  │ user's blob   │ 0 to 3 zeros │ our cpio: header name data ... TRAILER │
//! ```
//!
//! Sources: `[buffer]` Linux `Documentation/driver-api/early-userspace/buffer-format.rst`, v6.12;
//! `[boot]` `Documentation/arch/x86/boot.rst`, initrd_addr_max.
//! Read next: [`super::pack`].

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vm_memory::GuestAddress;

use super::blob::{self, Blob};
use super::identify::{HEAD, Kind, identify};
use super::newc::{self, ALIGNMENT, Attributes, DIRECTORY, FILE};
use crate::memory::GuestMemory;
use crate::memory::layout::MMIO_GAP_START;

/// `[boot]` The kernel frees the initramfs in pages; 4 KiB on x86.
const PAGE: u64 = 4096;
/// Why an initramfs cannot be made or placed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user's file is something else.
    #[error("{name} is {what}; an initramfs is a cpio archive (`cpio -H newc`), packed or not")]
    NotAnInitramfs {
        /// The file.
        name: String,
        /// A phrase from [`identify`].
        what: String,
    },
    /// A path cannot be a name in the archive.
    #[error("Cannot put {path:?} into the initramfs: {why}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file is too large for the archive format.
    #[error("Cannot put {path:?} into the initramfs: {len:#x} bytes do not fit 32 bits")]
    FileTooLong {
        /// The path.
        path: String,
        /// Its length.
        len: u64,
    },
    /// A directory that no memory would do for.
    #[error(
        "Cannot put {} into the guest's memory: more than {} MiB of files do not fit below the gap, \
         whatever --memory; make an image of them: mke2fs -t ext4 -d {} root.img SIZE",
        path.display(), limit >> 20, path.display()
    )]
    DirectoryTooLarge {
        /// The directory.
        path: PathBuf,
        /// The most there can be, in bytes.
        limit: u64,
    },
    /// There is not enough RAM.
    #[error(
        "Cannot place an initramfs of {len:#x} bytes: the kernel ends at {kernel_end:#x}, guest \
         memory below the gap at {ram_end:#x}; {needed_mib} MiB of memory would do"
    )]
    NoRam {
        /// Its length in bytes.
        len: u64,
        /// First address after the kernel.
        kernel_end: u64,
        /// First address after RAM.
        ram_end: u64,
        /// Memory size that would hold it, in MiB.
        needed_mib: u64,
    },
    /// The kernel does not look that high for it.
    #[error(
        "Cannot place an initramfs of {len:#x} bytes: the kernel ends at {kernel_end:#x} and takes \
         an initramfs only below {max:#x}"
    )]
    TooHigh {
        /// Its length in bytes.
        len: u64,
        /// First address after the kernel.
        kernel_end: u64,
        /// First address it does not take it at.
        max: u64,
    },
    /// A file that was packed by its name.
    #[error("Cannot read {}{hint}", path.display())]
    Open {
        /// Its path on the host.
        path: PathBuf,
        /// What may help, or nothing.
        hint: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The bytes could not be read or copied.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// The archive headers could not be written.
    #[error("Cannot write the initramfs into the guest")]
    Write(#[source] crate::memory::guest::Error),
}

/// Where the initramfs is in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitramfsRange {
    /// First guest-physical address.
    pub start: GuestAddress,
    /// Length in bytes.
    pub len: u64,
}

/// An initramfs in the making: pieces in order, copied only once, into the guest.
#[derive(Debug, Default)]
pub struct Initramfs<'a> {
    pieces: Vec<Piece<'a>>,
    len: u64,
    inodes: u32,
}

#[derive(Debug)]
enum Piece<'a> {
    Bytes(Vec<u8>),
    Blob(&'a Blob),
    /// A file that is opened when its turn comes: a directory can have more than a process can have
    /// open.
    File(PathBuf, u64),
}

impl<'a> Initramfs<'a> {
    /// Starts with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a whole archive, packed or not, as the user brought it.
    ///
    /// # Errors
    /// [`Error::NotAnInitramfs`] if its first bytes say that it is something else.
    pub fn archive(&mut self, blob: &'a Blob) -> Result<(), Error> {
        match identify(&blob.head(HEAD)?) {
            Kind::Cpio | Kind::Packed(_) => {}
            other => {
                return Err(Error::NotAnInitramfs {
                    name: blob.name().to_owned(),
                    what: other.phrase(),
                });
            }
        }
        self.push_blob(blob);
        self.pad();
        Ok(())
    }

    /// Adds a file for a kernel that is no Linux, whatever it is.
    pub fn anything(&mut self, blob: &'a Blob) {
        self.push_blob(blob);
    }

    /// Adds a directory; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), Error> {
        self.header(path.as_bytes(), Attributes::of_root(DIRECTORY | mode), 0)?;
        Ok(())
    }

    /// Adds a file with `bytes` in it; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`Error::Path`] and [`Error::FileTooLong`].
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<(), Error> {
        self.entry(path.as_bytes(), Attributes::of_root(FILE | mode), bytes)?;
        Ok(())
    }

    /// Adds anything, with `bytes` as its content: a symbolic link's are where it leads. Returns its
    /// number in the archive, for other names of the same file.
    ///
    /// # Errors
    /// [`Error::Path`] and [`Error::FileTooLong`].
    pub fn entry(
        &mut self,
        path: &[u8],
        attributes: Attributes,
        bytes: &[u8],
    ) -> Result<u32, Error> {
        let number = self.header(path, attributes, bytes.len() as u64)?;
        self.push(bytes);
        self.pad();
        Ok(number)
    }

    /// Adds a file whose content are the first `len` bytes of the host's file `from`, which are read
    /// when they are copied into the guest. Returns its number.
    ///
    /// # Errors
    /// [`Error::Path`] and [`Error::FileTooLong`].
    pub fn file_from_path(
        &mut self,
        path: &[u8],
        attributes: Attributes,
        (from, len): (PathBuf, u64),
    ) -> Result<u32, Error> {
        let number = self.header(path, attributes, len)?;
        if len > 0 {
            self.len += len;
            self.pieces.push(Piece::File(from, len));
        }
        self.pad();
        Ok(number)
    }

    /// Adds a file whose content is a blob; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`Error::Path`] and [`Error::FileTooLong`].
    pub fn file_from_blob(&mut self, path: &str, mode: u32, blob: &'a Blob) -> Result<(), Error> {
        let attributes = Attributes::of_root(FILE | mode);
        self.header(path.as_bytes(), attributes, blob.len())?;
        self.push_blob(blob);
        self.pad();
        Ok(())
    }

    /// Ends the archive that [`Self::directory`] and the others added to; call it once, last.
    ///
    /// # Errors
    /// None in practice: the trailer's name is a good one.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.header(b"TRAILER!!!", Attributes::of_root(0), 0)?;
        Ok(())
    }

    /// Length in bytes, as it will be in the guest.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies all pieces into guest memory from `start` on.
    ///
    /// # Errors
    /// [`Error::Blob`] and [`Error::Write`].
    pub fn load(&self, start: GuestAddress, memory: &GuestMemory) -> Result<(), Error> {
        let mut at = start.0;
        for piece in &self.pieces {
            let to = GuestAddress(at);
            at += match piece {
                Piece::Bytes(bytes) => {
                    memory.write(to, bytes).map_err(Error::Write)?;
                    bytes.len() as u64
                }
                Piece::Blob(blob) => {
                    blob.copy_to_guest(0, blob.len(), memory, to)?;
                    blob.len()
                }
                Piece::File(path, len) => {
                    open(path, *len)?.copy_to_guest(0, *len, memory, to)?;
                    *len
                }
            };
        }
        Ok(())
    }

    /// The entry's header and its zeros; returns its number.
    fn header(&mut self, path: &[u8], attributes: Attributes, len: u64) -> Result<u32, Error> {
        let path_text = || String::from_utf8_lossy(path).into_owned();
        let size = u32::try_from(len).map_err(|_too_long| Error::FileTooLong {
            path: path_text(),
            len,
        })?;
        let (inode, links) = match attributes.links {
            Some((0, count)) => (self.next_inode(), count),
            Some((known, count)) => (known, count),
            None => (self.next_inode(), 1),
        };
        let header = newc::header(path, &attributes, (inode, links), size);
        let header = header.map_err(|why| Error::Path {
            path: path_text(),
            why,
        })?;
        self.push(&header);
        self.pad();
        Ok(inode)
    }

    fn next_inode(&mut self) -> u32 {
        self.inodes = self.inodes.saturating_add(1);
        self.inodes
    }

    fn push(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        match self.pieces.last_mut() {
            Some(Piece::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.pieces.push(Piece::Bytes(bytes.to_vec())),
        }
    }

    fn push_blob(&mut self, blob: &'a Blob) {
        self.len += blob.len();
        self.pieces.push(Piece::Blob(blob));
    }

    /// Pads with zeros, which Linux skips between archives as in them.
    fn pad(&mut self) {
        for _ in self.len..self.len.next_multiple_of(ALIGNMENT) {
            self.push(&[0]);
        }
    }
}

/// Opens a file to be packed. What has become a link or a pipe since it was looked at is refused, or
/// fails to be read.
fn open(path: &Path, len: u64) -> Result<Blob, Error> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|source| cannot_read(path, source))?;
    Ok(Blob::file_range(file, 0, len, path.display().to_string()))
}

/// That the host does not let us read `path`, with what may help.
pub fn cannot_read(path: &Path, source: io::Error) -> Error {
    let hint = match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; a root with files that are not yours takes root's rights (sudo), or an image of it"
        }
        _ => "",
    };
    Error::Open {
        path: path.to_owned(),
        hint,
        source,
    }
}

/// Chooses where `len` bytes of initramfs go.
///
/// Right above the kernel, on the next page: there it shares the huge page the kernel ends in,
/// and the next ones are touched once by both. (High in memory, where boot loaders of old put it,
/// would cost page faults of its own.) So the lowest place is the only one worth trying: if it
/// does not fit there, it fits nowhere below the limits.
///
/// # Errors
/// [`Error::NoRam`] or [`Error::TooHigh`], with all numbers.
pub fn place(
    len: u64,
    kernel_end: GuestAddress,
    max: u64,
    memory: &GuestMemory,
) -> Result<InitramfsRange, Error> {
    let ram_end = memory.low_end().0;
    let start = kernel_end.0.next_multiple_of(PAGE);
    let end = start.saturating_add(len);
    let kernel_end = kernel_end.0;
    // The RAM below the gap cannot grow beyond it, so a limit above it is no limit.
    if end > max.min(MMIO_GAP_START.0) {
        let max = max.min(MMIO_GAP_START.0);
        return Err(Error::TooHigh {
            len,
            kernel_end,
            max,
        });
    }
    if end > ram_end {
        return Err(Error::NoRam {
            len,
            kernel_end,
            ram_end,
            needed_mib: end.div_ceil(1 << 20), // 1 MiB
        });
    }
    Ok(InitramfsRange {
        start: GuestAddress(start),
        len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpio() -> Blob {
        Blob::memory(b"070701 and more".to_vec(), "user.cpio".into())
    }

    fn bytes_of(initramfs: &Initramfs<'_>) -> Vec<u8> {
        let memory = GuestMemory::new(4 << 20).unwrap();
        initramfs.load(GuestAddress(0x10_0000), &memory).unwrap();
        let mut bytes = vec![0; usize::try_from(initramfs.len()).unwrap()];
        memory.read(GuestAddress(0x10_0000), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn file_is_written_as_newc_says() {
        let mut initramfs = Initramfs::new();
        initramfs.file("/init", 0o755, b"#!x").unwrap();
        let expected = "070701\
            00000001000081ed00000000000000000000000100000000000000030000000000000000\
            00000000000000000000000500000000init\0";
        let mut expected = expected.as_bytes().to_vec();
        expected.resize(116, 0);
        expected.extend(b"#!x\0");
        assert_eq!(bytes_of(&initramfs), expected);
    }

    #[test]
    fn own_segment_starts_aligned_behind_the_users() {
        let user = cpio();
        let mut initramfs = Initramfs::new();
        initramfs.archive(&user).unwrap();
        initramfs.directory("etc", 0o755).unwrap();
        initramfs.finish().unwrap();
        let bytes = bytes_of(&initramfs);
        assert_eq!(&bytes[..22], b"070701 and more\x00070701");
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn file_from_a_blob_carries_its_bytes() {
        let blob = cpio();
        let mut initramfs = Initramfs::new();
        initramfs.file_from_blob("a", 0o644, &blob).unwrap();
        assert_eq!(&bytes_of(&initramfs)[112..], b"070701 and more\0");
    }

    #[test]
    fn archive_that_is_something_else_is_refused() {
        let blob = Blob::memory(b"root=/dev/vda\n".to_vec(), "notes.txt".into());
        assert_eq!(
            Initramfs::new().archive(&blob).unwrap_err().to_string(),
            "notes.txt is a text file; an initramfs is a cpio archive (`cpio -H newc`), packed or \
             not"
        );
    }

    #[test]
    fn empty_archive_is_refused() {
        let blob = Blob::memory(Vec::new(), "empty".into());
        let error = Initramfs::new().archive(&blob).unwrap_err().to_string();
        assert!(error.starts_with("empty is an empty file;"), "{error}");
    }

    #[test]
    fn kernel_as_initramfs_is_refused() {
        let image = super::super::testing::small_elf();
        let blob = Blob::memory(image, "vmlinux".into());
        let error = Initramfs::new().archive(&blob).unwrap_err().to_string();
        assert!(
            error.starts_with("vmlinux is a 64-bit x86 ELF program;"),
            "{error}"
        );
    }

    #[test]
    fn impossible_names_are_refused() {
        let refusal = |path: &str| {
            Initramfs::new()
                .directory(path, 0o755)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refusal("/"),
            "Cannot put \"/\" into the initramfs: it names nothing"
        );
        assert_eq!(
            refusal("a\0b"),
            "Cannot put \"a\\0b\" into the initramfs: it contains a NUL"
        );
        assert!(refusal(&"x".repeat(4096)).ends_with("it is longer than 4095 bytes"));
    }

    #[test]
    fn file_that_may_not_be_read_is_named_with_what_helps() {
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        let text = cannot_read(Path::new("/root/x"), refused).to_string();
        assert!(text.starts_with("Cannot read /root/x; a root with files that are not yours"));
        let gone = io::Error::from(io::ErrorKind::NotFound);
        let text = cannot_read(Path::new("/root/x"), gone).to_string();
        assert_eq!(text, "Cannot read /root/x");
    }

    #[test]
    fn initramfs_starts_on_the_page_after_the_kernel() {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let range = place(0x10_0000, GuestAddress(0x20_0001), u64::MAX, &memory).unwrap();
        assert_eq!(range.start, GuestAddress(0x20_1000));
    }

    #[test]
    fn initramfs_may_end_with_ram() {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let range = place(0x20_0000, GuestAddress(0x20_0000), 0x40_0000, &memory);
        assert_eq!(range.unwrap().len, 0x20_0000);
    }

    #[test]
    fn initramfs_beyond_ram_is_refused_with_the_memory_it_needs() {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let error = place(0x20_0001, GuestAddress(0x20_0000), u64::MAX, &memory).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cannot place an initramfs of 0x200001 bytes: the kernel ends at 0x200000, guest \
             memory below the gap at 0x400000; 5 MiB of memory would do"
        );
    }

    #[test]
    fn initramfs_above_the_kernels_limit_is_refused() {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let error = place(0x1000, GuestAddress(0x20_0000), 0x20_0800, &memory).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cannot place an initramfs of 0x1000 bytes: the kernel ends at 0x200000 and takes an \
             initramfs only below 0x200800"
        );
    }

    #[test]
    fn length_that_wraps_is_refused() {
        let memory = GuestMemory::new(4 << 20).unwrap();
        assert!(place(u64::MAX, GuestAddress(0x20_0000), u64::MAX, &memory).is_err());
    }
}
