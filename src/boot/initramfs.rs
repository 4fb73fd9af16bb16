//! The initramfs: cpio archives, one after the other, and where they go in guest memory.
//!
//! Linux unpacks a chain of archives, packed or not, into its first root file system. Ours is what
//! the user brings, then a segment with the few files cottage adds. A later file replaces an earlier
//! one of the same name, so ours win.
//!
//! ```text
//!  kernel's end, page-aligned
//!  ├───────────────┬──────────────┬──────────────────────────────────────┤
//!  │ user's blob   │ 0 to 3 zeros │ our cpio: header name data ... TRAILER │
//! ```
//!
//! Sources: [buffer] Linux `Documentation/driver-api/early-userspace/buffer-format.rst`, v6.12;
//! [boot] `Documentation/arch/x86/boot.rst`, initrd_addr_max.

use vm_memory::GuestAddress;

use super::blob::{self, Blob};
use super::identify::{HEAD, Kind, identify};
use crate::memory::GuestMemory;

/// Archives, names and data start on multiples of this, in bytes ([buffer], newc).
const ALIGNMENT: u64 = 4;
/// [boot] The kernel frees the initramfs in pages; 4 KiB on x86.
const PAGE: u64 = 4096;
/// [buffer] c_mode of a directory and of a file.
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

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
    /// There is no room.
    #[error(
        "Cannot place an initramfs of {len:#x} bytes: the kernel ends at {kernel_end:#x}, guest \
         memory below the gap at {ram_end:#x}, and the kernel takes it below {max:#x}; {needed_mib} \
         MiB of memory would do"
    )]
    DoesNotFit {
        /// Its length in bytes.
        len: u64,
        /// First address after the kernel.
        kernel_end: u64,
        /// First address after RAM.
        ram_end: u64,
        /// First address the kernel does not take it at.
        max: u64,
        /// Memory size that would hold it, in MiB.
        needed_mib: u64,
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

    /// Adds a directory; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), Error> {
        self.header(path, DIRECTORY | mode, 0)
    }

    /// Adds a file with `bytes` in it; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`Error::Path`] and [`Error::FileTooLong`].
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<(), Error> {
        self.header(path, FILE | mode, bytes.len() as u64)?;
        self.push(bytes);
        self.pad();
        Ok(())
    }

    /// Adds a file whose content is a blob; `mode` is its permission bits.
    ///
    /// # Errors
    /// [`Error::Path`] and [`Error::FileTooLong`].
    pub fn file_from_blob(&mut self, path: &str, mode: u32, blob: &'a Blob) -> Result<(), Error> {
        self.header(path, FILE | mode, blob.len())?;
        self.push_blob(blob);
        self.pad();
        Ok(())
    }

    /// Ends the archive that [`Self::directory`] and the others added to; call it once, last.
    ///
    /// # Errors
    /// None in practice: the trailer's name is a good one.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.header("TRAILER!!!", 0, 0)
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
            };
        }
        Ok(())
    }

    /// [buffer] "cpio_header": magic and 13 fields of 8 hexadecimal digits, then the name with its
    /// NUL, padded so that the data starts on a multiple of 4.
    fn header(&mut self, path: &str, mode: u32, len: u64) -> Result<(), Error> {
        let refused = |why| Error::Path {
            path: path.to_owned(),
            why,
        };
        // The kernel unpacks relative to its root; an absolute name would do, but no tool makes one.
        let name = path.trim_start_matches('/');
        if name.is_empty() {
            return Err(refused("it names nothing"));
        }
        if name.contains('\0') {
            return Err(refused("it contains a NUL"));
        }
        // [buffer] The kernel skips names longer than PATH_MAX.
        let name_size = u32::try_from(name.len() + 1)
            .ok()
            .filter(|size| *size <= 4096);
        let name_size = name_size.ok_or_else(|| refused("it is longer than 4095 bytes"))?;
        let size = u32::try_from(len).map_err(|_too_long| Error::FileTooLong {
            path: path.to_owned(),
            len,
        })?;
        // Fields in order: inode, mode, uid, gid, links, mtime, size, device of the file (2),
        // device it is (2), name size, checksum. One link: two would mean hard links to match up.
        self.inodes += 1;
        let fields = [
            self.inodes,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        let digits: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        self.push(b"070701");
        self.push(digits.as_bytes());
        self.push(name.as_bytes());
        self.push(b"\0");
        self.pad();
        Ok(())
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

/// Chooses where `len` bytes of initramfs go.
///
/// Right above the kernel, on the next page: there it shares the huge page the kernel ends in,
/// and the next ones are touched once by both. (High in memory, where boot loaders of old put it,
/// would cost page faults of its own.) So the lowest place is the only one worth trying: if it
/// does not fit there, it fits nowhere below the limits.
///
/// # Errors
/// [`Error::DoesNotFit`] with all numbers.
pub fn place(
    len: u64,
    kernel_end: GuestAddress,
    max: u64,
    memory: &GuestMemory,
) -> Result<InitramfsRange, Error> {
    let ram_end = memory.low_end().0;
    let start = kernel_end.0.next_multiple_of(PAGE);
    let end = start.checked_add(len);
    match end {
        Some(end) if end <= ram_end.min(max) => Ok(InitramfsRange {
            start: GuestAddress(start),
            len,
        }),
        _ => Err(Error::DoesNotFit {
            len,
            kernel_end: kernel_end.0,
            ram_end,
            max,
            needed_mib: start.saturating_add(len).div_ceil(1 << 20), // 1 MiB
        }),
    }
}
