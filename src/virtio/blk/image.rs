//! The host's half of a disk: a raw image or a block device, or a chain of images.
//!
//! Everything goes through the host's page cache, so what was written is in the file, for every
//! reader, when the request is answered. It is on the medium when a flush is answered. That is
//! what a disk with a write cache promises, and what survives if cottage is killed or the host
//! loses power.
//!
//! Sources: fallocate(2), fdatasync(2), Linux `block/fops.c`, v6.12, for fallocate(2) of block
//! devices. Read next: [`super::open`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::chain::Chain;
use super::layer::Layer;
use super::open::{Error, Named, Opened};
use crate::config::disk::{Access, Disk, Format};
use crate::memory::GuestMemory;
use crate::memory::transfer::Segment;

/// Bytes of a sector, virtio's unit whatever the medium has. `[virtio]` 5.2.4
pub const SECTOR: u64 = 512;
/// Zeros are written in pieces of this many bytes where the host has no better way.
const ZEROS: usize = 64 << 10; // 64 KiB

/// An open image.
#[derive(Debug)]
pub struct Image {
    size: u64,
    access: Access,
    content: Content,
}

/// Where the bytes are.
#[derive(Debug)]
enum Content {
    /// In a raw image, at their place.
    Raw(File),
    /// There, or in a throw-away layer if the guest wrote them.
    Layered(File, Layer),
    /// In one of several files; tables say where.
    Chain(Chain),
}

impl Image {
    /// Opens and locks the image of `disk`.
    ///
    /// # Errors
    /// [`Error`] with the file's name and what to do.
    pub fn open(disk: &Disk) -> Result<Self, Error> {
        let writable = disk.access == Access::Write;
        let opened = Opened::new(Named::Disk(disk.path.clone()), writable)?;
        let (size, content) = match (opened.format(disk)?, &disk.access) {
            (Format::Raw, Access::Write | Access::ReadOnly) => {
                (opened.disk_size()?, Content::Raw(opened.file))
            }
            (Format::Raw, Access::Overlay) => {
                let size = opened.disk_size()?;
                let layer = Layer::new(size).map_err(|(directory, source)| Error::Layer {
                    path: disk.path.clone(),
                    directory,
                    source,
                })?;
                (size, Content::Layered(opened.file, layer))
            }
            (format, _) => {
                let chain = Chain::open(opened, format, disk)?;
                (chain.size(), Content::Chain(chain))
            }
        };
        Ok(Self {
            size,
            access: disk.access.clone(),
            content,
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

    /// Bytes of the pieces in which space can be given back; a multiple of [`SECTOR`].
    pub fn discard_unit(&self) -> u64 {
        match &self.content {
            Content::Raw(_) | Content::Layered(..) => SECTOR,
            Content::Chain(chain) => chain.cluster_size(),
        }
    }

    /// Fills the guest's segments from `offset` on.
    ///
    /// # Errors
    /// What the host says.
    pub fn read(&self, memory: &GuestMemory, offset: u64, to: &[Segment]) -> io::Result<()> {
        match &self.content {
            Content::Raw(file) => memory.fill_from(file, offset, to),
            Content::Layered(file, layer) => layer.read(file, memory, offset, to),
            Content::Chain(chain) => chain.read(memory, offset, to),
        }
    }

    /// Writes the guest's segments to `offset` on.
    ///
    /// # Errors
    /// What the host says.
    pub fn write(&self, memory: &GuestMemory, offset: u64, from: &[Segment]) -> io::Result<()> {
        match &self.content {
            Content::Raw(file) => memory.drain_to(file, offset, from),
            Content::Layered(file, layer) => layer.write(file, memory, offset, from),
            Content::Chain(chain) => chain.write(memory, offset, from),
        }
    }

    /// Returns when all that was written is on the medium.
    ///
    /// # Errors
    /// What the host says; what was written may then be lost.
    pub fn flush(&self) -> io::Result<()> {
        match (&self.access, &self.content) {
            (Access::ReadOnly | Access::Overlay, _) => Ok(()),
            // The size never changes, so the data is all there is.
            (_, Content::Raw(file) | Content::Layered(file, _)) => file.sync_data(),
            (_, Content::Chain(chain)) => chain.flush(),
        }
    }

    /// Puts what was written where other programs find it; it need not be on the medium.
    ///
    /// # Errors
    /// What the host says.
    pub fn settle(&self) -> io::Result<()> {
        match (&self.access, &self.content) {
            (Access::Write | Access::Layer(_), Content::Chain(chain)) => chain.settle(),
            _ => Ok(()),
        }
    }

    /// Gives the space of a range back, to the host or, within an image of several clusters, for
    /// the disk's next bytes; it reads as zeros then, but for ends that fill no cluster.
    ///
    /// # Errors
    /// `Unsupported` if the file system or the image cannot; else what the host says.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match &self.content {
            Content::Raw(file) => allocate(file, FallocateFlags::PUNCH_HOLE, offset, len),
            Content::Layered(file, layer) => layer.zero(file, offset, len),
            Content::Chain(chain) => chain.discard(offset, len),
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
        match &self.content {
            Content::Raw(file) => allocate_or_write_zeros(file, flags, offset, len),
            Content::Layered(file, layer) => layer.zero(file, offset, len),
            Content::Chain(chain) => chain.zero(offset, len, unmap),
        }
    }
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
