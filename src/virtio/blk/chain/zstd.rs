//! Clusters packed with zstd, which imago cannot unpack.
//!
//! ```text
//!  entry of a level 2 table:   63     62        61 ... x          x - 1 ... 0
//!                              0      packed    sectors, less 1   where in the file
//! ```
//!
//! imago says that a cluster is packed, not where it is. So we look it up again, in tables on the
//! host's disk. That is right for images that nobody writes, and only those are read this way.
//!
//! Source: `[qcow2]` QEMU `docs/interop/qcow2.txt`, v7.2: "Compressed Clusters Descriptor".
//! Read next: [`super::opening`].

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use zstd::stream::read::Decoder;

use super::header::Header;
use crate::virtio::blk::image::SECTOR;

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Of an entry of level 1: where the table of level 2 is.
const L2_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Of an entry of level 2: the cluster is packed.
const PACKED: u64 = 1 << 62;

/// An image with such clusters, which nobody writes.
#[derive(Debug)]
pub struct Unpacker {
    file: File,
    header: Header,
}

impl Unpacker {
    /// Unpacks clusters of `file`, which has this header.
    pub fn new(file: File, header: Header) -> Self {
        Self { file, header }
    }

    /// The bytes from `offset` on, up to the end of its cluster, of the disk that this image
    /// describes.
    ///
    /// # Errors
    /// What the host says; `InvalidData` if that cluster is not packed, or damaged.
    pub fn read(&self, offset: u64) -> io::Result<Vec<u8>> {
        let cluster = 1_u64 << self.header.cluster_bits;
        let entries = cluster / ENTRY;
        let index = offset / cluster;
        let (l1, l2) = (index / entries, index % entries);
        if l1 >= u64::from(self.header.l1_entries) {
            return Err(damaged("its first table is too short"));
        }
        let table = self.entry(self.header.l1_offset, l1)? & L2_OFFSET;
        let entry = self.entry(table, l2)?;
        if table == 0 || entry & PACKED == 0 {
            return Err(damaged("a cluster is not packed any more"));
        }
        let x = 62 - (self.header.cluster_bits - 8);
        let at = entry & ((1 << x) - 1);
        let sectors = ((entry & (PACKED - 1)) >> x) + 1;
        let len = usize::try_from(sectors * SECTOR - at % SECTOR).map_err(io::Error::other)?;
        let mut packed = vec![0; len];
        let len = read_up_to(&self.file, at, &mut packed)?;
        packed.truncate(len);
        let mut bytes = vec![0; usize::try_from(cluster).map_err(io::Error::other)?];
        Decoder::with_buffer(packed.as_slice())?
            .single_frame()
            .read_exact(&mut bytes)?;
        let start = usize::try_from(offset % cluster).map_err(io::Error::other)?;
        Ok(bytes.split_off(start))
    }

    fn entry(&self, table: u64, index: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        let at = table.checked_add(index * ENTRY);
        let at = at.ok_or_else(|| damaged("a table is nowhere"))?;
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_be_bytes(bytes))
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("image damaged: {what}"))
}

/// Fills `bytes` as far as the file goes: the last sector may be cut short. Returns how far.
fn read_up_to(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
