//! Files as guest memory: what `--pmem` puts above RAM.
//!
//! ```text
//!  the file       │ content ....................... │
//!  our mapping    │ the file's pages, shared        │ zeros │   a multiple of 2 MiB
//!  the guest      │ a memory slot at layout::pmem_start ... │
//! ```
//!
//! The guest's pages are the host's page cache: nothing is read before the guest touches it, and
//! any number of machines with the same file share one copy. It is mapped without the right to write
//! unless `rw` is asked for, and then KVM is told so too; a guest that writes all the same
//! writes to nothing.
//!
//! Linux's driver takes memory in steps of 2 MiB. A read-only file of another length ends in zeros.
//! A writable one must fit, or what a guest writes to the zeros would be lost.
//!
//! If somebody makes the file shorter while a guest uses it, pages are missing, and KVM ends the
//! run at the first that the guest touches. cottage itself touches none.
//!
//! This is one of the rooms where `unsafe` is allowed. Who uses it: [`crate::kvm`] as a slot,
//! [`crate::virtio::pmem`] as a device. Source: mmap(2).
//! Read next: [`super::transfer`].
#![expect(unsafe_code, reason = "maps files at addresses of its own")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};
use vm_memory::GuestAddress;

use super::layout::{PMEM_SIZE_ALIGN, after_pmem, pmem_start};
use crate::config::pmem::Pmem;

/// Why a file cannot be mapped; each of these is the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("Cannot open --pmem {0:?}")]
    Open(PathBuf, #[source] io::Error),
    /// It is a directory, a device, a pipe.
    #[error("--pmem {0:?} is no regular file")]
    Kind(PathBuf),
    /// There is nothing in it.
    #[error("--pmem {0:?} is empty")]
    Empty(PathBuf),
    /// A writable file that does not end at a boundary.
    #[error(
        "--pmem {path:?},rw has {size} bytes, and a writable file needs a multiple of 2 MiB: \
         `truncate -s %2M` makes it longer"
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The host has no room for it.
    #[error("Cannot map --pmem {path:?} of {size} bytes")]
    Map {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// What mmap(2) said.
        source: io::Error,
    },
}

/// A file in guest memory; unmapped on drop.
#[derive(Debug)]
pub struct MappedFile {
    file: File,
    path: PathBuf,
    /// Where mmap(2) put it, and how much: the file, zeros, and the slack that alignment needs.
    mapped: (*mut libc::c_void, usize),
    /// First boundary in it; the file starts here.
    base: usize,
    start: GuestAddress,
    len: u64,
    writable: bool,
}

// SAFETY: the pointer is only an address to unmap and to tell KVM; nothing here reads or writes
// through it.
unsafe impl Send for MappedFile {}
// SAFETY: as above; a shared reference offers no access to the memory.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// Maps the file at `path`, for a guest that finds it at `start`.
    ///
    /// # Errors
    /// [`Error`] with the path and what is wrong.
    pub fn new(path: &Path, writable: bool, start: GuestAddress) -> Result<Self, Error> {
        let name = || path.to_owned();
        let access = if writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        // Without waiting for a writer, if it is a pipe.
        let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = open(path, flags, Mode::empty());
        let file = File::from(opened.map_err(|e| Error::Open(name(), e.into()))?);
        let about = file.metadata().map_err(|e| Error::Open(name(), e))?;
        let size = about.len();
        if !about.is_file() {
            return Err(Error::Kind(name()));
        }
        if size == 0 {
            return Err(Error::Empty(name()));
        }
        if writable && !size.is_multiple_of(PMEM_SIZE_ALIGN) {
            let path = name();
            return Err(Error::Size { path, size });
        }
        let mut mapped = Self {
            file,
            path: name(),
            mapped: (std::ptr::null_mut(), 0),
            base: 0,
            start,
            len: size.checked_next_multiple_of(PMEM_SIZE_ALIGN).unwrap_or(0),
            writable,
        };
        mapped.map(size).map_err(|source| Error::Map {
            path: name(),
            size,
            source,
        })?;
        Ok(mapped)
    }

    /// Maps zeros, and over their beginning `size` bytes of the file.
    fn map(&mut self, size: u64) -> io::Result<()> {
        let bytes = |len: u64| usize::try_from(len).map_err(io::Error::other);
        let (size, len, align) = (bytes(size)?, bytes(self.len)?, bytes(PMEM_SIZE_ALIGN)?);
        let slack = len.checked_add(align).filter(|_| len > 0);
        let total = slack.ok_or(io::ErrorKind::OutOfMemory)?;
        let protection = if self.writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let zeros = unsafe { libc::mmap(std::ptr::null_mut(), total, protection, flags, -1, 0) };
        if zeros == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.mapped = (zeros, total);
        self.base = (zeros as usize).next_multiple_of(align);
        let at = self.base as *mut libc::c_void;
        let fd = self.file.as_raw_fd();
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: base .. base + size lies inside the mapping made above, which is ours alone and
        // which nothing points into.
        let file = unsafe { libc::mmap(at, size, protection, flags, fd, 0) };
        if file == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the guest finds it.
    pub fn start(&self) -> GuestAddress {
        self.start
    }

    /// How many bytes the guest finds there: a multiple of 2 MiB.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a file without content is refused.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// First address behind it.
    pub fn end(&self) -> u64 {
        self.start.0.saturating_add(self.len)
    }

    /// Where the host has it.
    pub fn host(&self) -> u64 {
        self.base as u64
    }

    /// Whether the guest can write to it.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Waits until what the guest wrote is on the host's disk.
    ///
    /// # Errors
    /// What fdatasync(2) says. It covers what was written through mappings as well.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        let (start, len) = self.mapped;
        if len > 0 {
            // SAFETY: this is what mmap(2) returned and got; the VM that used it is gone, because
            // it owns a share of this value.
            unsafe { libc::munmap(start, len) };
        }
    }
}

/// Maps the files of `wanted`, each behind the one before, above `ram` bytes of guest RAM.
///
/// # Errors
/// [`Error`] for the first that cannot be mapped.
pub fn map_all(wanted: &[Pmem], ram: u64) -> Result<Vec<Arc<MappedFile>>, Error> {
    let mut start = pmem_start(ram);
    let mut files = Vec::with_capacity(wanted.len());
    for pmem in wanted {
        let file = MappedFile::new(&pmem.path, pmem.writable, start)?;
        start = after_pmem(file.end());
        files.push(Arc::new(file));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: GuestAddress = GuestAddress(0x1_0000_0000);

    /// A file of `size` bytes, named by its descriptor.
    fn file(size: u64) -> (File, PathBuf) {
        let fd = rustix::fs::memfd_create("pmem", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(size).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        (file, path)
    }

    #[test]
    fn length_is_rounded_up_to_2_mib_and_place_to_a_boundary() {
        let (_keep, path) = file(5000);
        let mapped = MappedFile::new(&path, false, START).unwrap();
        assert_eq!((mapped.len(), mapped.end()), (2 << 20, 0x1_0020_0000));
        assert_eq!(mapped.host() % (2 << 20), 0);
        assert!(!mapped.writable());
    }

    #[test]
    fn files_stand_one_behind_the_other_above_ram() {
        let ((_a, first), (_b, second)) = (file(3 << 20), file(1));
        let wanted = [first, second].map(|path| Pmem {
            path,
            writable: false,
        });
        let files = map_all(&wanted, 128 << 20).unwrap();
        let starts: Vec<_> = files.iter().map(|file| file.start().0).collect();
        assert_eq!(starts, [0x1_0000_0000, 0x1_4000_0000]);
    }

    #[test]
    fn writable_file_must_fit() {
        let (_keep, path) = file((2 << 20) + 1);
        let error = MappedFile::new(&path, true, START).unwrap_err();
        assert!(error.to_string().contains("2097153 bytes"), "{error}");
        let (_keep, path) = file(4 << 20);
        let mapped = MappedFile::new(&path, true, START).unwrap();
        assert!(mapped.writable() && mapped.sync().is_ok());
    }

    #[test]
    fn what_is_no_file_or_empty_is_refused() {
        let refusal = |path: &Path| MappedFile::new(path, false, START).unwrap_err();
        let (_keep, empty) = file(0);
        assert!(matches!(refusal(&empty), Error::Empty(_)));
        assert!(matches!(refusal(Path::new("/dev/null")), Error::Kind(_)));
        assert!(matches!(refusal(Path::new("/")), Error::Kind(_)));
        assert!(matches!(refusal(Path::new("/no/file")), Error::Open(..)));
    }
}
