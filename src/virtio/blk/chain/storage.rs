//! One file of a chain, as imago wants it: read here, written there, put on the medium.
//!
//! imago reads and writes its tables through this. The guest's data does not come this way:
//! imago only says where it is, and the host's kernel moves it between file and guest
//! ([`ImageFile::fill`], [`ImageFile::drain`]).
//!
//! **In which order.** A table must not be on the medium before what it points to, or a host that
//! loses power in between leaves an image in which two parts of the disk share a cluster. imago
//! writes in the right order, reference counts before the tables that use them; a host may still
//! write its page cache out in another. So before each write of a table, all earlier ones are
//! forced out. A table is what imago writes as one entry or as whole clusters; the rest is data
//! that it copies from a backing file. Tables are written when the guest flushes, and seldom else.
//!
//! Source: `imago::Storage`. Read next: [`super::make`].
#![expect(
    unsafe_code,
    reason = "imago declares these functions as unsafe for those who call them; none does \
              anything unsafe"
)]

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use rustix::fs::FallocateFlags;

use crate::memory::GuestMemory;
use crate::memory::transfer::Segment;
use crate::virtio::blk::image::allocate_or_write_zeros;
use crate::virtio::blk::request::{cut, len};

/// Bytes of a table's entry.
const ENTRY: u64 = 8;
/// Where the incompatible features are, and in which of its bytes the bit for compression is.
const COMPRESSION: u64 = 79;
const COMPRESSION_BIT: u8 = 1 << 3;

/// One file of a chain.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    /// Up to where there is something; beyond are zeros.
    end: AtomicU64,
    /// Bytes of a cluster; 0 for a raw file, which has no tables.
    cluster: u64,
    /// imago is not to know that compressed clusters are not zlib's: we unpack them ourselves.
    hide_compression: bool,
    /// Something was written that may not be on the medium.
    unsynced: AtomicBool,
    helper: CommonStorageHelper,
}

impl ImageFile {
    /// A file of `size` bytes. What another process wrote before may not be on the medium yet.
    pub fn new(file: File, size: u64, cluster: u64) -> Self {
        Self {
            file,
            end: AtomicU64::new(size),
            cluster,
            hide_compression: false,
            unsynced: AtomicBool::new(true),
            helper: CommonStorageHelper::default(),
        }
    }

    /// The same, for an image whose compressed clusters imago cannot unpack.
    pub fn without_compression(self) -> Self {
        Self {
            hide_compression: true,
            ..self
        }
    }

    /// Fills the guest's segments from `offset` on, with zeros beyond the end.
    ///
    /// # Errors
    /// What the host says.
    pub fn fill(&self, memory: &GuestMemory, offset: u64, to: &[Segment]) -> io::Result<()> {
        let there = self.end.load(Ordering::Relaxed).saturating_sub(offset);
        if there >= len(to) {
            return memory.fill_from(&self.file, offset, to);
        }
        let (now, beyond) = cut(to, there);
        memory.fill_from(&self.file, offset, &now)?;
        fill_with_zeros(memory, &beyond)
    }

    /// Writes the guest's segments to `offset` on.
    ///
    /// # Errors
    /// What the host says.
    pub fn drain(&self, memory: &GuestMemory, offset: u64, from: &[Segment]) -> io::Result<()> {
        self.unsynced.store(true, Ordering::Relaxed);
        memory.drain_to(&self.file, offset, from)?;
        self.end.fetch_max(offset + len(from), Ordering::Relaxed);
        Ok(())
    }

    /// Returns when all that was written is on the medium.
    fn settle(&self) -> io::Result<()> {
        if self.unsynced.swap(false, Ordering::Relaxed) {
            let synced = self.file.sync_data();
            return synced.inspect_err(|_| self.unsynced.store(true, Ordering::Relaxed));
        }
        Ok(())
    }

    fn is_table(&self, offset: u64, len: u64) -> bool {
        let whole = |n: u64| self.cluster != 0 && n.is_multiple_of(self.cluster);
        len <= ENTRY || (whole(offset) && whole(len))
    }
}

/// Makes the guest's segments zeros.
///
/// # Errors
/// If they leave RAM.
pub fn fill_with_zeros(memory: &GuestMemory, to: &[Segment]) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    for segment in to {
        let mut rest = *segment;
        while rest.len > 0 {
            let step = rest.len.min(4096);
            let zeros = ZEROS.get(..step as usize).unwrap_or(&ZEROS);
            memory.write(rest.gpa, zeros).map_err(io::Error::other)?;
            rest.gpa.0 += u64::from(step);
            rest.len -= step;
        }
    }
    Ok(())
}

impl fmt::Display for ImageFile {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:?}", self.file)
    }
}

impl Storage for ImageFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.end.load(Ordering::Relaxed))
    }

    unsafe fn pure_readv(&self, to: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        for mut piece in to.into_inner() {
            let mut done = 0;
            while let Some(rest) = piece.get_mut(done..).filter(|rest| !rest.is_empty()) {
                match self.file.read_at(rest, offset + done as u64) {
                    Ok(0) => {
                        rest.fill(0);
                        break;
                    }
                    Ok(count) => done += count,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            let hidden = COMPRESSION
                .checked_sub(offset)
                .filter(|_| self.hide_compression);
            let hidden = hidden.and_then(|at| usize::try_from(at).ok());
            if let Some(byte) = hidden.and_then(|at| piece.get_mut(at)) {
                *byte &= !COMPRESSION_BIT;
            }
            offset += piece.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, from: IoVector<'_>, mut offset: u64) -> io::Result<()> {
        if self.is_table(offset, from.len()) {
            self.settle()?;
        }
        self.unsynced.store(true, Ordering::Relaxed);
        for piece in from.into_inner() {
            self.file.write_all_at(&piece, offset)?;
            offset += piece.len() as u64;
            self.end.fetch_max(offset, Ordering::Relaxed);
        }
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.unsynced.store(true, Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let there = end.saturating_sub(offset).min(length);
        if there > 0 {
            allocate_or_write_zeros(&self.file, FallocateFlags::PUNCH_HOLE, offset, there)?;
        }
        // Other programs should find whole clusters.
        if offset + length > end {
            self.file.set_len(offset + length)?;
            self.end.fetch_max(offset + length, Ordering::Relaxed);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.settle()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }
}
