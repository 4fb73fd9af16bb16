//! The host's half of a disk: a raw image or a block device.
//!
//! Everything goes through the host's page cache, so what was written is in the file, for every
//! reader, when the request is answered. It is on the medium when a flush is answered. That is
//! what a disk with a write cache promises, and what survives if cottage is killed or the host
//! loses power.
//!
//! Sources: fallocate(2), fdatasync(2), Linux `block/fops.c`, v6.12, for fallocate(2) of block
//! devices. Read next: [`super::layer`].

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::layer::Layer;
use super::lock;
use crate::config::disk::{Access, Disk};
use crate::memory::GuestMemory;
use crate::memory::transfer::Segment;

/// Bytes of a sector, virtio's unit whatever the medium has. `[virtio]` 5.2.4
pub const SECTOR: u64 = 512;
/// Zeros are written in pieces of this many bytes where the host has no better way.
const ZEROS: usize = 64 << 10; // 64 KiB

/// Why a disk cannot be attached; each of these is the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not open.
    #[error("Cannot open --disk {path:?}{hint}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What may help, or empty.
        hint: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// It is something else.
    #[error("Cannot use --disk {path:?}: it is {what}; give a raw image or a block device")]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It is an image of a kind that cottage does not read.
    #[error(
        "Cannot use --disk {path:?}: it is a qcow2 image, and cottage reads raw ones; convert it \
         by: qemu-img convert -O raw OLD NEW"
    )]
    Qcow2 {
        /// The file.
        path: PathBuf,
    },
    /// It has a size that no disk has.
    #[error(
        "Cannot use --disk {path:?}: it has {size} bytes, and a disk has at least {SECTOR} and a \
         multiple of that; mend it by: truncate -s {wanted} FILE"
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The next one that works.
        wanted: u64,
    },
    /// Another process has it.
    #[error(
        "Cannot use --disk {path:?}: it is in use, by another virtual machine or as another disk of this one{hint}"
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// What may help, or empty.
        hint: &'static str,
    },
    /// The layer for the guest's writes cannot be had.
    #[error(
        "Cannot make a temporary file for the overlay of --disk {path:?} in {directory:?}; TMPDIR names another directory"
    )]
    Layer {
        /// The image.
        path: PathBuf,
        /// Where the layer was to be.
        directory: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The host cannot lock it.
    #[error("Cannot lock --disk {path:?}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// An open image.
#[derive(Debug)]
pub struct Image {
    file: File,
    size: u64,
    access: Access,
    /// With [`Access::Overlay`]: where the guest's writes are.
    layer: Option<Layer>,
}

impl Image {
    /// Opens and locks the image of `disk`.
    ///
    /// # Errors
    /// [`Error`] with the file's name and what to do.
    pub fn open(disk: &Disk) -> Result<Self, Error> {
        let file = open(disk)?;
        let size = size(disk, &file)?;
        lock(disk, &file)?;
        let layer = match disk.access {
            Access::Overlay => Some(Layer::new(size)),
            Access::Write | Access::ReadOnly => None,
        };
        let layer = layer
            .transpose()
            .map_err(|(directory, source)| Error::Layer {
                path: disk.path.clone(),
                directory,
                source,
            })?;
        Ok(Self {
            file,
            size,
            access: disk.access,
            layer,
        })
    }

    /// Its size in bytes, a multiple of [`SECTOR`].
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the guest must not write it.
    pub fn read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    /// Fills the guest's segments from `offset` on.
    ///
    /// # Errors
    /// What the host says.
    pub fn read(&self, memory: &GuestMemory, offset: u64, to: &[Segment]) -> io::Result<()> {
        match &self.layer {
            Some(layer) => layer.read(&self.file, memory, offset, to),
            None => memory.fill_from(&self.file, offset, to),
        }
    }

    /// Writes the guest's segments to `offset` on.
    ///
    /// # Errors
    /// What the host says.
    pub fn write(&self, memory: &GuestMemory, offset: u64, from: &[Segment]) -> io::Result<()> {
        match &self.layer {
            Some(layer) => layer.write(&self.file, memory, offset, from),
            None => memory.drain_to(&self.file, offset, from),
        }
    }

    /// Returns when all that was written is on the medium.
    ///
    /// # Errors
    /// What the host says; what was written may then be lost.
    pub fn flush(&self) -> io::Result<()> {
        match self.access {
            // The size never changes, so the data is all there is.
            Access::Write => self.file.sync_data(),
            Access::ReadOnly | Access::Overlay => Ok(()),
        }
    }

    /// Gives the space of a range back to the host; it reads as zeros then.
    ///
    /// # Errors
    /// `Unsupported` if the file system cannot; else what the host says.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match &self.layer {
            Some(layer) => layer.zero(&self.file, offset, len),
            None => allocate(&self.file, FallocateFlags::PUNCH_HOLE, offset, len),
        }
    }

    /// Makes a range read as zeros, and keeps its space unless `unmap`.
    ///
    /// # Errors
    /// What the host says.
    pub fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let flags = if unmap {
            FallocateFlags::PUNCH_HOLE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        match &self.layer {
            Some(layer) => layer.zero(&self.file, offset, len),
            None => allocate_or_write_zeros(&self.file, flags, offset, len),
        }
    }
}

/// Opens what can be a disk.
fn open(disk: &Disk) -> Result<File, Error> {
    let path = || disk.path.clone();
    let opened = OpenOptions::new()
        .read(true)
        .write(disk.access == Access::Write)
        .open(&disk.path);
    let opened = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = opened.map_err(|source| Error::Open {
        path: path(),
        hint: hint(disk, &source),
        source,
    })?;
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() || kind.is_block_device() => return Ok(file),
        () if kind.is_dir() => "a directory",
        () if kind.is_char_device() => "a character device",
        () => "neither a file nor a block device",
    };
    Err(Error::Kind { path: path(), what })
}

/// The size of a raw image.
fn size(disk: &Disk, mut file: &File) -> Result<u64, Error> {
    let path = || disk.path.clone();
    let unreadable = |source| Error::Open {
        path: path(),
        hint: "",
        source,
    };
    // A block device's metadata has no size.
    let size = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
    if size == 0 || !size.is_multiple_of(SECTOR) {
        return Err(Error::Size {
            path: path(),
            size,
            wanted: size.max(1).next_multiple_of(SECTOR),
        });
    }
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).map_err(unreadable)?;
    if &magic == b"QFI\xfb" {
        return Err(Error::Qcow2 { path: path() });
    }
    Ok(size)
}

/// Keeps others from writing it, and from reading it if it will be written.
fn lock(disk: &Disk, file: &File) -> Result<(), Error> {
    let path = disk.path.clone();
    let alone = disk.access == Access::Write;
    lock::take(file, alone).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock if alone => Error::InUse {
            path,
            hint: "; several can share it if all have it with ,ro or ,overlay",
        },
        io::ErrorKind::WouldBlock => Error::InUse { path, hint: "" },
        _ => Error::Lock { path, source },
    })
}

/// fallocate(2) that leaves the size alone.
fn allocate(file: &File, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
    loop {
        match fallocate(file, flags | FallocateFlags::KEEP_SIZE, offset, len) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Makes a range read as zeros, by fallocate(2) with `flags`, or by writing where the file system
/// does not know that.
pub(super) fn allocate_or_write_zeros(
    file: &File,
    flags: FallocateFlags,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    match allocate(file, flags, offset, len) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => write_zeros(file, offset, len),
        result => result,
    }
}

fn write_zeros(file: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    while len > 0 {
        let step = len.min(ZEROS as u64);
        let piece = usize::try_from(step).ok().and_then(|n| zeros.get(..n));
        file.write_all_at(piece.unwrap_or(&zeros), offset)?;
        offset += step;
        len -= step;
    }
    Ok(())
}

/// What may help if a file does not open for writing.
fn hint(disk: &Disk, error: &io::Error) -> &'static str {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match error.kind() {
        PermissionDenied | ReadOnlyFilesystem if disk.access == Access::Write => {
            " for writing; add ,ro or ,overlay behind it if reading is enough"
        }
        _ => "",
    }
}
