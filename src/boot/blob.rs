//! The bytes of a kernel or initramfs, wherever they are: in a file or in our memory.
//!
//! Every other part of this chapter takes a [`Blob`], so that the built-in kernel (a range of the
//! program's own file), a kernel of the user (a file) and an unpacked one (memory) go one way.
//! A file range is never buffered here: [`Blob::copy_to_guest`] is one pread(2) into guest memory.
//!
//! It knows nothing of formats; that starts in [`super::identify`].
//! Sources: pread(2), fifo(7).
//! Read next: [`super::identify`].

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use vm_memory::{ByteValued, GuestAddress};

use crate::memory::{GuestMemory, guest};

/// Most that is read from a pipe, whose length nobody knows beforehand.
pub const PIPE_MAX: u64 = 1 << 30; // 1 GiB

/// What can go wrong with the bytes themselves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// open(2) or fstat(2) failed.
    #[error("Cannot open {}", path.display())]
    Open {
        /// As the user gave it.
        path: PathBuf,
        /// Not found, no permission...
        source: io::Error,
    },
    /// The path leads to something that is no file.
    #[error("Cannot read {}: it is {what}, not a file", path.display())]
    NotAFile {
        /// As the user gave it.
        path: PathBuf,
        /// A directory, a device...
        what: &'static str,
    },
    /// A pipe that does not end.
    #[error("Cannot read {}: more than {PIPE_MAX} bytes come out of this pipe", path.display())]
    PipeTooLong {
        /// As the user gave it.
        path: PathBuf,
    },
    /// A read beyond the end.
    #[error("Cannot read {len:#x} bytes at {offset:#x} of {name}: it has {size:#x} bytes")]
    OutOfRange {
        /// Which blob.
        name: String,
        /// First byte wanted.
        offset: u64,
        /// Bytes wanted.
        len: u64,
        /// Bytes there are.
        size: u64,
    },
    /// A caller's bound on memory is exceeded.
    #[error("Cannot hold {len:#x} bytes of {name} in memory: the limit is {limit:#x}")]
    TooLong {
        /// Which blob.
        name: String,
        /// Bytes wanted.
        len: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// pread(2) failed; `UnexpectedEof` if the file shrank since it was opened.
    #[error("Cannot read {len:#x} bytes at {offset:#x} of {name}")]
    Read {
        /// Which blob.
        name: String,
        /// First byte wanted.
        offset: u64,
        /// Bytes wanted.
        len: u64,
        /// What the host said.
        source: io::Error,
    },
    /// The bytes do not fit guest memory, or could not be read into it.
    #[error("Cannot copy {len:#x} bytes at {offset:#x} of {name} into the guest")]
    Copy {
        /// Which blob.
        name: String,
        /// First byte wanted.
        offset: u64,
        /// Bytes wanted.
        len: u64,
        /// Where and why.
        source: guest::Error,
    },
}

/// A read-only run of bytes with a name for messages.
#[derive(Debug)]
pub struct Blob {
    name: String,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File { file: File, start: u64, len: u64 },
    Memory(Vec<u8>),
}

impl Blob {
    /// Opens the file at `path`; a pipe (`<(...)` in a shell) is read whole.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::NotAFile`] or [`Error::PipeTooLong`], all with the path.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Open {
            path: path.to_owned(),
            source,
        };
        let name = path.display().to_string();
        // Opening a FIFO waits for its writer, as everywhere on Unix.
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let kind = metadata.file_type();
        if kind.is_file() {
            return Ok(Self::file_range(file, 0, metadata.len(), name));
        }
        if kind.is_fifo() {
            let mut bytes = Vec::new();
            let mut bounded = file.take(PIPE_MAX + 1);
            bounded.read_to_end(&mut bytes).map_err(failed)?;
            if bytes.len() as u64 > PIPE_MAX {
                return Err(Error::PipeTooLong {
                    path: path.to_owned(),
                });
            }
            return Ok(Self::memory(bytes, name));
        }
        Err(Error::NotAFile {
            path: path.to_owned(),
            what: describe_type(kind),
        })
    }

    /// `len` bytes of an open file from `start`: how a kernel travels inside another file.
    pub fn file_range(file: File, start: u64, len: u64, name: String) -> Self {
        let bytes = Bytes::File { file, start, len };
        Self { name, bytes }
    }

    /// Bytes that are in memory already.
    pub fn memory(bytes: Vec<u8>, name: String) -> Self {
        let bytes = Bytes::Memory(bytes);
        Self { name, bytes }
    }

    /// What messages call it: the path, or words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match &self.bytes {
            Bytes::File { len, .. } => *len,
            Bytes::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if there are not that many, [`Error::Read`] if the host fails.
    pub fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let len = out.len() as u64;
        self.check(offset, len)?;
        match &self.bytes {
            Bytes::File { file, start, .. } => {
                let read = |source| self.read_error(offset, len, source);
                let at = start.checked_add(offset);
                let at = at.ok_or_else(|| read(io::ErrorKind::InvalidInput.into()))?;
                file.read_exact_at(out, at).map_err(read)
            }
            Bytes::Memory(_) => {
                let bytes = self.memory_slice(offset, len)?;
                out.copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Returns `len` bytes from `offset` on, if that is no more than `limit`.
    ///
    /// # Errors
    /// [`Error::TooLong`] above the limit; else as [`Self::read_exact_at`]. Nothing is allocated
    /// before both the limit and the blob's own length have been asked.
    pub fn read_vec(&self, offset: u64, len: u64, limit: u64) -> Result<Vec<u8>, Error> {
        self.check(offset, len)?;
        let too_long = || Error::TooLong {
            name: self.name.clone(),
            len,
            limit,
        };
        let size = usize::try_from(len).ok().filter(|_| len <= limit);
        let mut bytes = vec![0; size.ok_or_else(too_long)?];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Returns up to `len` bytes from the start: all there are if the blob is shorter.
    ///
    /// # Errors
    /// [`Error::Read`] if the host fails.
    pub fn head(&self, len: u64) -> Result<Vec<u8>, Error> {
        self.read_vec(0, len.min(self.len()), len)
    }

    /// Copies `len` bytes from `offset` on to guest-physical `gpa`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] and [`Error::Copy`].
    pub fn copy_to_guest(
        &self,
        offset: u64,
        len: u64,
        memory: &GuestMemory,
        gpa: GuestAddress,
    ) -> Result<(), Error> {
        self.check(offset, len)?;
        let copied = match &self.bytes {
            // `offset` is inside the file, so the sum stays below 2^64; pread refuses above 2^63.
            Bytes::File { file, start, .. } => {
                memory.read_from_file(gpa, file, start.saturating_add(offset), len)
            }
            Bytes::Memory(_) => memory.write(gpa, self.memory_slice(offset, len)?),
        };
        copied.map_err(|source| Error::Copy {
            name: self.name.clone(),
            offset,
            len,
            source,
        })
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), Error> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(Error::OutOfRange {
                name: self.name.clone(),
                offset,
                len,
                size: self.len(),
            }),
        }
    }

    /// The bytes of a memory blob; a file blob has none and yields the empty slice's error.
    fn memory_slice(&self, offset: u64, len: u64) -> Result<&[u8], Error> {
        let bytes: &[u8] = match &self.bytes {
            Bytes::File { .. } => &[],
            Bytes::Memory(bytes) => bytes,
        };
        usize::try_from(offset)
            .ok()
            .zip(usize::try_from(len).ok())
            .and_then(|(start, len)| bytes.get(start..start.checked_add(len)?))
            .ok_or_else(|| self.read_error(offset, len, io::ErrorKind::UnexpectedEof.into()))
    }

    fn read_error(&self, offset: u64, len: u64, source: io::Error) -> Error {
        Error::Read {
            name: self.name.clone(),
            offset,
            len,
            source,
        }
    }
}

/// Reads a C structure out of bytes; `None` if they end before it does.
pub(super) fn structure<T: ByteValued + Default>(bytes: &[u8], offset: usize) -> Option<T> {
    let mut value = T::default();
    let room = value.as_mut_slice();
    room.copy_from_slice(bytes.get(offset..offset.checked_add(room.len())?)?);
    Some(value)
}

fn describe_type(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_socket() => "a socket",
        _ => "something unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits() -> Blob {
        Blob::memory(b"0123456789".to_vec(), "digits".into())
    }

    /// A file with ten digits in it, of which the blob is the range 2..8.
    fn digits_in_file() -> Blob {
        let file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.write_all_at(b"0123456789", 0).unwrap();
        Blob::file_range(file, 2, 6, "digits".into())
    }

    #[test]
    fn missing_file_is_named() {
        let error = Blob::open(Path::new("/no/such/kernel")).unwrap_err();
        assert_eq!(error.to_string(), "Cannot open /no/such/kernel");
        let Error::Open { source, .. } = error else {
            panic!("not an open error");
        };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn directories_and_devices_are_refused() {
        let directory = Blob::open(Path::new("/")).unwrap_err();
        assert_eq!(
            directory.to_string(),
            "Cannot read /: it is a directory, not a file"
        );
        let device = Blob::open(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(
            device.to_string(),
            "Cannot read /dev/zero: it is a character device, not a file"
        );
    }

    #[test]
    fn pipe_is_read_whole() {
        use std::os::fd::AsRawFd;
        use std::process::{Command, Stdio};
        let mut printf = Command::new("printf");
        let mut child = printf.arg("kernel").stdout(Stdio::piped()).spawn().unwrap();
        let pipe = child.stdout.take().unwrap();
        let path = format!("/dev/fd/{}", pipe.as_raw_fd());
        let blob = Blob::open(Path::new(&path)).unwrap();
        child.wait().unwrap();
        assert_eq!(blob.read_vec(0, blob.len(), 100).unwrap(), b"kernel");
    }

    #[test]
    fn file_range_hides_the_rest_of_the_file() {
        let blob = digits_in_file();
        assert_eq!(blob.len(), 6);
        assert_eq!(blob.read_vec(1, 5, 5).unwrap(), b"34567");
        let error = blob.read_vec(1, 6, 6).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cannot read 0x6 bytes at 0x1 of digits: it has 0x6 bytes"
        );
    }

    #[test]
    fn read_that_wraps_is_refused() {
        let error = digits().read_exact_at(u64::MAX, &mut [0; 2]).unwrap_err();
        assert!(matches!(error, Error::OutOfRange { len: 2, .. }), "{error}");
    }

    #[test]
    fn read_above_the_limit_is_refused() {
        let error = digits().read_vec(0, 10, 9).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cannot hold 0xa bytes of digits in memory: the limit is 0x9"
        );
    }

    #[test]
    fn head_of_a_short_blob_is_all_of_it() {
        assert_eq!(digits().head(4096).unwrap(), b"0123456789");
        assert_eq!(digits().head(2).unwrap(), b"01");
    }

    #[test]
    fn file_that_shrank_is_an_error() {
        let blob = digits_in_file();
        let Bytes::File { file, .. } = &blob.bytes else {
            panic!("not a file");
        };
        file.set_len(5).unwrap();
        let error = blob.read_vec(0, 6, 6).unwrap_err();
        assert_eq!(error.to_string(), "Cannot read 0x6 bytes at 0x0 of digits");
    }

    #[test]
    fn memory_and_file_arrive_in_the_guest_alike() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let (low, high) = (GuestAddress(0x1000), GuestAddress(0x2000));
        digits_in_file().copy_to_guest(1, 3, &memory, low).unwrap();
        digits().copy_to_guest(3, 3, &memory, high).unwrap();
        let mut bytes = [[0; 4]; 2];
        memory.read(low, &mut bytes[0]).unwrap();
        memory.read(high, &mut bytes[1]).unwrap();
        assert_eq!(bytes, [*b"345\0"; 2]);
    }

    #[test]
    fn copy_outside_ram_is_refused() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let error = digits().copy_to_guest(0, 10, &memory, GuestAddress(2 << 20));
        assert_eq!(
            error.unwrap_err().to_string(),
            "Cannot copy 0xa bytes at 0x0 of digits into the guest"
        );
    }
}
