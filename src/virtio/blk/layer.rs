//! A throw-away layer: what a guest writes to an image that stays as it is.
//!
//! ```text
//!  layer   ....[####]........[#]....      a nameless temporary file, sparse, as large as the image
//!  image   ################## #####      only read, and shared with others
//!              └ cluster written: read from the layer from now on
//! ```
//!
//! A bit for each cluster of 4 KiB says where its bytes are. A write that covers a cluster in part
//! copies the rest up first; file systems write whole ones. The file has no name, so it is gone
//! with the process, however that ends.
//!
//! Source: open(2), O_TMPFILE. Read next: [`super::chain`].

use std::borrow::Cow;
use std::env;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::image::{SECTOR, allocate_or_write_zeros};
use super::request::cut;
use crate::memory::GuestMemory;
use crate::memory::transfer::Segment;
use rustix::fs::FallocateFlags;

/// Bytes of a cluster: what file systems write at once.
const CLUSTER: u64 = 4 << 10; // 4 KiB
/// Clusters that a word of the map has room for.
const PER_WORD: u64 = 64;

const _: () = assert!(CLUSTER.is_multiple_of(SECTOR));

/// A layer over an image.
#[derive(Debug)]
pub struct Layer {
    file: File,
    size: u64,
    /// A bit for each cluster that is in `file`.
    written: Mutex<Vec<u64>>,
}

impl Layer {
    /// An empty layer over an image of `size` bytes, in the directory for temporary files.
    ///
    /// # Errors
    /// The directory, and what the host said.
    pub fn new(size: u64) -> Result<Self, (PathBuf, io::Error)> {
        let directory = env::temp_dir();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .mode(0o600)
            .open(&directory)
            .and_then(|file| file.set_len(size).map(|()| file))
            .map_err(|error| (directory, error))?;
        let words = size.div_ceil(CLUSTER * PER_WORD);
        let words = usize::try_from(words).unwrap_or(usize::MAX);
        Ok(Self {
            file,
            size,
            written: Mutex::new(vec![0; words]),
        })
    }

    /// Fills the guest's segments from `offset` on.
    ///
    /// # Errors
    /// What the host says.
    pub fn read(
        &self,
        image: &File,
        memory: &GuestMemory,
        offset: u64,
        to: &[Segment],
    ) -> io::Result<()> {
        let written = self.lock();
        let mut rest = Cow::Borrowed(to);
        let end = offset + super::request::len(to);
        let mut at = offset;
        while at < end {
            let here = is_set(&written, at / CLUSTER);
            let mut stop = (at / CLUSTER + 1) * CLUSTER;
            while stop < end && is_set(&written, stop / CLUSTER) == here {
                stop += CLUSTER;
            }
            let stop = stop.min(end);
            let (now, later) = cut(&rest, stop - at);
            let file = if here { &self.file } else { image };
            memory.fill_from(file, at, &now)?;
            let later = later.into_owned();
            rest = later.into();
            at = stop;
        }
        Ok(())
    }

    /// Writes the guest's segments to `offset` on.
    ///
    /// # Errors
    /// What the host says.
    pub fn write(
        &self,
        image: &File,
        memory: &GuestMemory,
        offset: u64,
        from: &[Segment],
    ) -> io::Result<()> {
        let range = offset..offset + super::request::len(from);
        self.change(image, range, |file| memory.drain_to(file, offset, from))
    }

    /// Makes a range read as zeros.
    ///
    /// # Errors
    /// What the host says.
    pub fn zero(&self, image: &File, offset: u64, len: u64) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE;
        self.change(image, offset..offset + len, |file| {
            allocate_or_write_zeros(file, hole, offset, len)
        })
    }

    /// Copies up what `range` covers in part, has it changed, and reads it from the layer then.
    fn change(
        &self,
        image: &File,
        range: Range<u64>,
        act: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut written = self.lock();
        let (first, last) = (range.start / CLUSTER, (range.end - 1) / CLUSTER);
        for cluster in [first, last] {
            let start = cluster * CLUSTER;
            let end = (start + CLUSTER).min(self.size);
            let whole = range.start <= start && end <= range.end;
            if !whole && !is_set(&written, cluster) {
                self.copy_up(image, start..end)?;
                set(&mut written, cluster);
            }
        }
        act(&self.file)?;
        for cluster in first..=last {
            set(&mut written, cluster);
        }
        Ok(())
    }

    /// Copies one cluster from the image.
    fn copy_up(&self, image: &File, range: Range<u64>) -> io::Result<()> {
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        image.read_exact_at(&mut bytes, range.start)?;
        self.file.write_all_at(&bytes, range.start)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The word and the bit of `cluster`.
fn place(cluster: u64) -> (usize, u64) {
    let word = usize::try_from(cluster / PER_WORD).unwrap_or(usize::MAX);
    (word, 1 << (cluster % PER_WORD))
}

fn is_set(map: &[u64], cluster: u64) -> bool {
    let (word, bit) = place(cluster);
    map.get(word).is_some_and(|word| word & bit != 0)
}

fn set(map: &mut [u64], cluster: u64) {
    let (word, bit) = place(cluster);
    if let Some(word) = map.get_mut(word) {
        *word |= bit;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::GuestAddress;

    use super::*;

    const SIZE: usize = 10 * 4096 + 512;
    const BUFFER: u64 = 0x10_0000;

    fn image() -> (File, Vec<u8>) {
        let fd = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        let content: Vec<u8> = (0..SIZE).map(|n| (n / 512).to_le_bytes()[0] + 1).collect();
        file.write_all_at(&content, 0).unwrap();
        (file, content)
    }

    fn part(at: u64, len: usize) -> Segment {
        Segment {
            gpa: GuestAddress(at),
            len: u32::try_from(len).unwrap(),
        }
    }

    fn all_of(layer: &Layer, image: &File, memory: &GuestMemory) -> Vec<u8> {
        let parts = [part(BUFFER, 1000), part(BUFFER + 1000, SIZE - 1000)];
        layer.read(image, memory, 0, &parts).unwrap();
        let mut bytes = vec![0; SIZE];
        memory.read(GuestAddress(BUFFER), &mut bytes).unwrap();
        bytes
    }

    #[derive(Clone, Debug)]
    enum Change {
        Write(u8),
        Zero,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        /// The layer and its image read as one disk that was written, and the image stays.
        #[test]
        fn layer_reads_as_what_was_written(
            changes in prop::collection::vec(
                (0_usize..81, 0_usize..40, prop_oneof![Just(Change::Zero), any::<u8>().prop_map(Change::Write)]),
                0..12),
        ) {
            let memory = GuestMemory::new(2 << 20).unwrap();
            let (image, original) = image();
            let layer = Layer::new(SIZE as u64).unwrap();
            let mut model = original.clone();
            for (sector, sectors, change) in changes {
                let start = sector * 512;
                let len = (sectors * 512).min(SIZE - start);
                let byte = match change {
                    Change::Write(byte) => {
                        memory.write(GuestAddress(BUFFER), &vec![byte; len]).unwrap();
                        let parts = [part(BUFFER, len / 3), part(BUFFER + len as u64 / 3, len - len / 3)];
                        layer.write(&image, &memory, start as u64, &parts).unwrap();
                        byte
                    }
                    Change::Zero => {
                        layer.zero(&image, start as u64, len as u64).unwrap();
                        0
                    }
                };
                model[start..start + len].fill(byte);
            }
            prop_assert!(all_of(&layer, &image, &memory) == model);
            let mut now = vec![0; SIZE];
            image.read_exact_at(&mut now, 0).unwrap();
            prop_assert!(now == original);
        }
    }

    #[test]
    fn failed_write_leaves_what_was_there() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let (image, original) = image();
        let layer = Layer::new(SIZE as u64).unwrap();
        let outside = part((2 << 20) - 1, 1024);
        assert!(layer.write(&image, &memory, 512, &[outside]).is_err());
        assert!(all_of(&layer, &image, &memory) == original);
    }
}
