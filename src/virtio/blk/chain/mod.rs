//! A chain of images: a qcow2 image, what it builds on, what that builds on.
//!
//! ```text
//!  the guest writes ─▶ top      qcow2   only clusters that were written   locked alone
//!                       │ else            tables say where they are
//!                       ▼
//!                      backing  qcow2   never written                     shared
//!                       │ else
//!                       ▼
//!                      base     raw     never written                     shared
//! ```
//!
//! The tables are imago's business: it finds the place of a range, makes room for a new one, and
//! counts references. Bytes go between that place and the guest by the host's kernel, as they do
//! for raw images. All of it is one thread's work, the disk's.
//!
//! - [`header`]: what an image says of itself, in words if it cannot be used;
//! - [`storage`]: a file of the chain, as imago wants it;
//! - [`make`]: a new layer, for `overlay=FILE`, or for `overlay` on top of an image of this kind;
//! - [`zstd`]: what imago cannot unpack;
//! - [`opening`]: from a file to the chain it stands on.
//!
//! **Whom it trusts.** An image is a program for these tables. One from a stranger could name any
//! file of the user's as its backing file and so show it to the guest. So backing files stand
//! beside their image or below that, or the user says `backing=any`. A backing file whose format
//! nobody wrote down is raw, or refused if its content says otherwise ([`crate::config::disk`]).
//!
//! **What is kept in memory:** imago keeps 128 tables of level 2 and 32 blocks of reference counts
//! an image, each as large as a cluster: 10 MiB with the usual clusters of 64 KiB.
//!
//! Source: `[qcow2]` QEMU `docs/interop/qcow2.txt`, v7.2. Read next: [`header`].

pub mod header;
pub mod storage;
pub mod make;
pub mod zstd;
pub mod opening;

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imago::{FormatAccess, Mapping};

use super::request::{cut, len};
use crate::memory::GuestMemory;
use crate::memory::transfer::Segment;
pub use opening::Error;
use storage::{ImageFile, fill_with_zeros};
use zstd::Unpacker;

/// Most bytes that are unpacked or zeroed at once: the largest cluster.
const MAX_PIECE: u64 = 2 << 20; // 2 MiB

/// An image below another, shared by the chain and by who unpacks it.
type Shared = Arc<FormatAccess<ImageFile>>;

/// A chain of images.
#[derive(Debug)]
pub struct Chain {
    top: Mutex<FormatAccess<ImageFile>>,
    size: u64,
    cluster: u64,
    /// The top can have zeros that are not written.
    has_zeros: bool,
    /// The top is unpacked by this.
    packed_top: Option<Unpacker>,
    /// Images below the top that are unpacked by others than imago.
    packed: Vec<(Shared, Unpacker)>,
}

impl Chain {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a cluster of the top image.
    pub fn cluster_size(&self) -> u64 {
        self.cluster
    }

    /// Fills the guest's segments from `offset` on.
    ///
    /// # Errors
    /// What the host says, or imago of the tables.
    pub fn read(&self, memory: &GuestMemory, offset: u64, to: &[Segment]) -> io::Result<()> {
        let top = self.lock();
        in_pieces(offset, to, |at, left, rest| {
            let (mapping, found) = top.get_mapping(at, left)?;
            let found = found.min(left);
            match mapping {
                Mapping::Raw {
                    storage, offset, ..
                } => {
                    storage.fill(memory, offset, &cut(rest, found).0)?;
                    Ok(found)
                }
                Mapping::Zero { .. } | Mapping::Eof { .. } => {
                    let found = if found == 0 { left } else { found };
                    fill_with_zeros(memory, &cut(rest, found).0)?;
                    Ok(found)
                }
                packed => {
                    let bytes = self.unpack(&top, &packed, at, found.min(MAX_PIECE))?;
                    write_out(memory, &bytes, rest)?;
                    Ok(bytes.len() as u64)
                }
            }
        })
    }

    /// Writes the guest's segments to `offset` on.
    ///
    /// # Errors
    /// What the host says, or imago of the tables.
    pub fn write(&self, memory: &GuestMemory, offset: u64, from: &[Segment]) -> io::Result<()> {
        let top = self.lock();
        self.copy_up_ends(&top, offset, len(from))?;
        in_pieces(offset, from, |at, left, rest| {
            let place = top.prepare_data_mapping(at, left, true)?;
            let (storage, offset, found) = (place.storage(), place.offset(), place.length());
            storage.drain(memory, offset, &cut(rest, found).0)?;
            top.commit_data_mapping(place)?;
            Ok(found)
        })
    }

    /// Returns when all that was written is on the medium.
    ///
    /// # Errors
    /// What the host says; what was written may then be lost.
    pub fn flush(&self) -> io::Result<()> {
        let top = self.lock();
        top.flush()?;
        top.sync()
    }

    /// Writes the tables out; they need not be on the medium.
    ///
    /// # Errors
    /// What the host says.
    pub fn settle(&self) -> io::Result<()> {
        self.lock().flush()
    }

    /// Gives whole clusters of a range back to the image, which read as zeros then.
    ///
    /// # Errors
    /// `Unsupported` if the image is of version 2; else what the host says.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.lock().discard_to_any(offset, len)
    }

    /// Makes a range read as zeros, and gives its clusters back if `unmap`.
    ///
    /// # Errors
    /// What the host says.
    pub fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let mut top = self.lock();
        let end = offset + len;
        // Whole clusters become zeros by their entries in the tables. The last may be cut short.
        let (mut first, mut last) = (end, end);
        if self.has_zeros {
            first = offset.next_multiple_of(self.cluster).min(end);
            last = if end == self.size {
                end
            } else {
                (end - end % self.cluster).max(first)
            };
        }
        self.write_zeros(&top, offset..first)?;
        if first < last && unmap {
            top.discard_to_zero(first, last - first)?;
        } else if first < last {
            top.write_zeroes(first, last - first)?;
        }
        self.write_zeros(&top, last..end)
    }

    /// Writes zeros, where there is something else.
    fn write_zeros(&self, top: &FormatAccess<ImageFile>, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let len = range.end - range.start;
        self.copy_up_ends(top, range.start, len)?;
        let zeros = vec![0; usize::try_from(len.min(MAX_PIECE)).map_err(io::Error::other)?];
        let mut at = range.start;
        while at < range.end {
            let (mapping, found) = top.get_mapping(at, range.end - at)?;
            let step = found.min(range.end - at).min(zeros.len() as u64).max(1);
            if !matches!(mapping, Mapping::Zero { .. }) {
                let piece = usize::try_from(step).ok().and_then(|n| zeros.get(..n));
                top.write(piece.unwrap_or(&zeros), at)?;
            }
            at += step;
        }
        Ok(())
    }

    /// imago copies the rest of a cluster that a change covers in part, which it cannot if that is
    /// packed in a way of which it knows nothing. So we do that before.
    fn copy_up_ends(&self, top: &FormatAccess<ImageFile>, offset: u64, len: u64) -> io::Result<()> {
        if self.packed.is_empty() || len == 0 {
            return Ok(());
        }
        let end = offset + len;
        for at in [offset, end - 1] {
            let start = at - at % self.cluster;
            let stop = (start + self.cluster).min(self.size);
            if offset <= start && stop <= end {
                continue;
            }
            let mut bytes = Vec::new();
            let mut packed = false;
            while start + (bytes.len() as u64) < stop {
                let from = start + bytes.len() as u64;
                let (mapping, found) = top.get_mapping(from, stop - from)?;
                packed |= matches!(mapping, Mapping::Special { .. });
                let found = found.min(stop - from).max(1);
                bytes.extend(self.unpack(top, &mapping, from, found)?);
            }
            if packed {
                top.write(bytes.as_slice(), start)?;
            }
        }
        Ok(())
    }

    /// At least one and at most `len` bytes of the disk from `at` on, which are at `mapping`.
    fn unpack(
        &self,
        top: &FormatAccess<ImageFile>,
        mapping: &Mapping<'_, ImageFile>,
        at: u64,
        len: u64,
    ) -> io::Result<Vec<u8>> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        if let Mapping::Special { layer, offset, .. } = mapping
            && let Some(unpacker) = self.unpacker(top, layer)
        {
            let mut bytes = unpacker.read(*offset)?;
            bytes.truncate(len);
            return Ok(bytes);
        }
        let mut bytes = vec![0; len];
        top.read(bytes.as_mut_slice(), at)?;
        Ok(bytes)
    }

    /// Who unpacks clusters of `layer`, if not imago.
    fn unpacker(
        &self,
        top: &FormatAccess<ImageFile>,
        layer: &FormatAccess<ImageFile>,
    ) -> Option<&Unpacker> {
        if ptr::eq(layer, top) {
            return self.packed_top.as_ref();
        }
        let mut below = self.packed.iter();
        let found = below.find(|(image, _)| ptr::eq(layer, &raw const **image));
        found.map(|(_, unpacker)| unpacker)
    }

    fn lock(&self) -> MutexGuard<'_, FormatAccess<ImageFile>> {
        self.top.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls `act` with the place, the bytes left and their segments, until it has dealt with all; it
/// says how many bytes it dealt with.
fn in_pieces(
    offset: u64,
    segments: &[Segment],
    mut act: impl FnMut(u64, u64, &[Segment]) -> io::Result<u64>,
) -> io::Result<()> {
    let mut rest = Cow::Borrowed(segments);
    let end = offset + len(segments);
    let mut at = offset;
    while at < end {
        let done = act(at, end - at, &rest)?;
        if done == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += done;
        rest = Cow::Owned(cut(&rest, done).1.into_owned());
    }
    Ok(())
}

/// Writes `bytes` to the first of the guest's segments, which have room for them.
fn write_out(memory: &GuestMemory, bytes: &[u8], to: &[Segment]) -> io::Result<()> {
    let mut bytes = bytes;
    for segment in to {
        let (now, later) = bytes.split_at(bytes.len().min(segment.len as usize));
        memory.write(segment.gpa, now).map_err(io::Error::other)?;
        bytes = later;
    }
    Ok(())
}
