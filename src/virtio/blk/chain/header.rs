//! The header of a qcow2 image: what it says before any table is looked at.
//!
//! ```text
//!   0  magic  version     8  backing file: offset, length   20  cluster bits   24  size of the disk
//!  32  encryption        36  level 1 table, reference counts, snapshots: for imago
//!  72  incompatible features (from version 3 on, as all below)      100  length of this header
//! 104  kind of compression    then extensions: type, length, bytes;  then the backing file's name
//! ```
//!
//! imago reads all this again, for its own. Here it is read for what imago leaves open or says in
//! words that help nobody: what the image builds on, and what is in it that we do not know.
//!
//! Source: `[qcow2]` QEMU `docs/interop/qcow2.txt`, v7.2.
//! Read next: [`super::storage`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::virtio::blk::image::SECTOR;
use crate::virtio::blk::open::MAGIC;

/// Bytes of the header in version 2, where extensions begin then.
const V2_LEN: u64 = 72;
/// The largest cluster, 2 MiB, and the smallest, 512 bytes.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The longest name of a backing file.
const MAX_NAME: u32 = 1023;
/// Most extensions to look at; QEMU writes five.
const MAX_EXTENSIONS: usize = 32;
/// Extension: the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Log2 of the bits of a reference count in version 2.
const V2_COUNT_ORDER: u32 = 4;
/// Of an entry of the table of reference counts: where the block is.
const REFBLOCK_OFFSET: u64 = !0x1ff;
/// Extension: the last.
const END: u32 = 0;

/// What is in the way, for each bit of the incompatible features that is known. `[qcow2]` "Header"
const FEATURES: [(u32, &str); 4] = [
    (
        0,
        "it was not closed and its reference counts are out of date; mend it by: qemu-img check -r all",
    ),
    (
        1,
        "it is marked as corrupt; mend it by: qemu-img check -r all",
    ),
    (
        2,
        "its data is in another file, and cottage reads images of one; convert it by: qemu-img convert -O qcow2 OLD NEW",
    ),
    (
        4,
        "it has clusters with parts, which cottage does not read; convert it by: qemu-img convert -O qcow2 OLD NEW",
    ),
];
/// Compressed clusters are not zlib's.
const OTHER_COMPRESSION: u64 = 1 << 3;
/// The kinds of compression.
const ZLIB: u8 = 0;
const ZSTD: u8 = 1;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, or ends too early.
    #[error("its header cannot be read")]
    Read(#[from] io::Error),
    /// It is something else.
    #[error("it is no qcow2 image: it does not begin as one does; if it is raw, say format=raw")]
    NoQcow2,
    /// A version that does not exist yet.
    #[error("it is of version {0} of the format, and cottage reads 2 and 3")]
    Version(u32),
    /// It can be read by those who have a key.
    #[error("it is encrypted, and cottage has no keys; convert it by: qemu-img convert")]
    Encrypted,
    /// Something in it that cannot be passed over.
    #[error("{0}")]
    Feature(&'static str),
    /// Something in it that nobody knew when this was written.
    #[error("it has features that cottage does not know: bits {0:#x}")]
    UnknownFeature(u64),
    /// Its reference counts are lost: imago would put new data over the header.
    #[error(
        "it is damaged: it does not count its own header as used; mend it by: qemu-img check -r all"
    )]
    Uncounted,
    /// A field with an impossible value.
    #[error("it is damaged: {what} is {value:#x}")]
    Damaged {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

/// The file an image builds on, as its header has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// The file, relative to the image's directory.
    pub name: String,
    /// Its format, if that is written down.
    pub format: Option<String>,
}

/// What we use of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Log2 of the bytes of a cluster.
    pub cluster_bits: u32,
    /// Where the level 1 table is.
    pub l1_offset: u64,
    /// Entries of the level 1 table.
    pub l1_entries: u32,
    /// Whether ranges can be zeros without being written: from version 3 on.
    pub has_zeros: bool,
    /// Whether compressed clusters are zstd's.
    pub zstd: bool,
    /// What it builds on.
    pub backing: Option<Backing>,
}

impl Header {
    /// Reads and checks the header of `file`.
    ///
    /// # Errors
    /// [`Error`] in words for the user.
    pub fn read(file: &File) -> Result<Self, Error> {
        let read = Fields(file);
        if read.bytes::<4>(0)? != MAGIC {
            return Err(Error::NoQcow2);
        }
        let version = read.u32(4)?;
        if !(2..=3).contains(&version) {
            return Err(Error::Version(version));
        }
        let damaged = |what, value| Error::Damaged { what, value };
        let cluster_bits = read.u32(20)?;
        if !CLUSTER_BITS.contains(&cluster_bits) {
            let value = u64::from(cluster_bits);
            return Err(damaged("the number of cluster bits", value));
        }
        let size = read.u64(24)?;
        let l1_entries = read.u32(36)?;
        // A table of level 2 is a cluster of entries of 8 bytes, each for a cluster.
        let covered = u128::from(l1_entries) << (2 * cluster_bits - 3);
        if size == 0 || !size.is_multiple_of(SECTOR) || covered < u128::from(size) {
            return Err(damaged("the size of the disk", size));
        }
        if read.u32(32)? != 0 {
            return Err(Error::Encrypted);
        }
        let (zstd, len) = match version {
            2 => (false, V2_LEN),
            _ => (read.features()?, u64::from(read.u32(100)?)),
        };
        Ok(Self {
            size,
            cluster_bits,
            l1_offset: read.u64(40)?,
            l1_entries,
            has_zeros: version >= 3,
            zstd,
            backing: read.backing(len, 1 << cluster_bits)?,
        })
    }
}

/// Checks that the image in `file` counts its first cluster, its header, as used. What is written
/// to an image that does not would go there.
///
/// # Errors
/// [`Error::Uncounted`].
pub fn check_counts(file: &File) -> Result<(), Error> {
    let read = Fields(file);
    let order = match read.u32(4)? {
        2 => V2_COUNT_ORDER,
        _ => read.u32(96)?,
    };
    // [qcow2] "Host cluster management": a table of blocks, the lowest bits first within a byte.
    let block = read.u64(read.u64(48)?)? & REFBLOCK_OFFSET;
    let bits = 1_u32.checked_shl(order).unwrap_or(u32::MAX);
    let counted = match bits {
        1..8 => u64::from(read.bytes::<1>(block)?[0]) & ((1 << bits) - 1),
        8..=64 => read.u64(block)? >> (64 - bits),
        _ => 0,
    };
    if block == 0 || counted == 0 {
        return Err(Error::Uncounted);
    }
    Ok(())
}

/// Big-endian fields of a file.
struct Fields<'a>(&'a File);

impl Fields<'_> {
    fn bytes<const LEN: usize>(&self, at: u64) -> io::Result<[u8; LEN]> {
        let mut bytes = [0; LEN];
        self.0.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    fn u32(&self, at: u64) -> io::Result<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    fn u64(&self, at: u64) -> io::Result<u64> {
        self.bytes(at).map(u64::from_be_bytes)
    }

    /// Checks the incompatible features; returns whether compressed clusters are zstd's.
    fn features(&self) -> Result<bool, Error> {
        let features = self.u64(72)?;
        if let Some((_, text)) = FEATURES.iter().find(|(bit, _)| features >> bit & 1 != 0) {
            return Err(Error::Feature(text));
        }
        match features {
            0 => Ok(false),
            OTHER_COMPRESSION => match self.bytes::<1>(104)? {
                [ZLIB] => Ok(false),
                [ZSTD] => Ok(true),
                [kind] => Err(Error::Damaged {
                    what: "the kind of compression",
                    value: u64::from(kind),
                }),
            },
            _ => Err(Error::UnknownFeature(features & !OTHER_COMPRESSION)),
        }
    }

    /// The backing file. All of it stands in the first cluster.
    fn backing(&self, header: u64, cluster: u64) -> Result<Option<Backing>, Error> {
        let (at, len) = (self.u64(8)?, self.u32(16)?);
        if at == 0 {
            return Ok(None);
        }
        let damaged = |what, value| Error::Damaged { what, value };
        let end = at.checked_add(u64::from(len));
        if end.is_none_or(|end| end > cluster) || len == 0 || len > MAX_NAME {
            return Err(damaged("the place of the backing file's name", at));
        }
        let name = self.text(at, len)?;
        let mut format = None;
        let mut next = header;
        for _ in 0..MAX_EXTENSIONS {
            let (kind, len) = (self.u32(next)?, self.u32(next + 4)?);
            let end = next + 8 + u64::from(len);
            if kind == END || end > cluster {
                break;
            }
            if kind == BACKING_FORMAT {
                format = Some(self.text(next + 8, len)?);
            }
            next = end.next_multiple_of(8);
        }
        Ok(Some(Backing { name, format }))
    }

    /// `len` bytes of text, no more than a cluster's.
    fn text(&self, at: u64, len: u32) -> Result<String, Error> {
        let mut bytes = vec![0; len as usize];
        self.0.read_exact_at(&mut bytes, at)?;
        let not_text = |_error| Error::Feature("its backing file has a name that is not UTF-8");
        String::from_utf8(bytes).map_err(not_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    /// A header of version 3 for a disk of 1 MiB, with a backing file of format raw.
    fn header() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(4, &3_u32.to_be_bytes());
        put(8, &128_u64.to_be_bytes());
        put(16, &4_u32.to_be_bytes());
        put(20, &16_u32.to_be_bytes());
        put(24, &SIZE.to_be_bytes());
        put(36, &1_u32.to_be_bytes());
        put(40, &0x3_0000_u64.to_be_bytes());
        put(100, &104_u32.to_be_bytes());
        put(104, &BACKING_FORMAT.to_be_bytes());
        put(108, &3_u32.to_be_bytes());
        put(112, b"raw");
        put(128, b"base");
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Header, Error> {
        let fd = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.write_all_at(bytes, 0).unwrap();
        Header::read(&file)
    }

    /// What is said of a header with `field` at `at`.
    fn refusal(at: usize, field: &[u8]) -> String {
        let mut bytes = header();
        bytes[at..at + field.len()].copy_from_slice(field);
        read(&bytes).unwrap_err().to_string()
    }

    #[test]
    fn header_tells_what_it_builds_on() {
        let backing = Backing {
            name: "base".into(),
            format: Some("raw".into()),
        };
        let wanted = Header {
            size: SIZE,
            cluster_bits: 16,
            l1_offset: 0x3_0000,
            l1_entries: 1,
            has_zeros: true,
            zstd: false,
            backing: Some(backing),
        };
        assert_eq!(read(&header()).unwrap(), wanted);
    }

    #[test]
    fn what_cannot_be_read_is_told_in_words() {
        assert!(refusal(0, b"X").contains("no qcow2 image"));
        assert!(refusal(4, &4_u32.to_be_bytes()).contains("version 4"));
        assert!(refusal(32, &2_u32.to_be_bytes()).contains("encrypted"));
        assert!(refusal(79, &[1]).contains("not closed"));
        assert!(refusal(79, &[2]).contains("marked as corrupt"));
        assert!(refusal(79, &[4]).contains("in another file"));
        assert!(refusal(79, &[16]).contains("qemu-img convert -O qcow2"));
        assert!(refusal(78, &[1]).contains("bits 0x100"));
    }

    #[test]
    fn damage_names_the_field() {
        assert!(refusal(20, &22_u32.to_be_bytes()).ends_with("cluster bits is 0x16"));
        assert!(refusal(24, &513_u64.to_be_bytes()).ends_with("size of the disk is 0x201"));
        let large = (1_u64 << 40).to_be_bytes();
        assert!(refusal(24, &large).contains("size of the disk"));
        assert!(refusal(8, &0xffff_u64.to_be_bytes()).contains("backing file's name"));
        assert!(refusal(16, &0x1000_u32.to_be_bytes()).contains("backing file's name"));
        assert!(refusal(16, &u32::MAX.to_be_bytes()).contains("backing file's name"));
        let short = read(&header()[..20]).unwrap_err();
        assert!(matches!(short, Error::Read(_)), "{short}");
    }

    #[test]
    fn extensions_without_end_come_to_one() {
        let mut bytes = header();
        // Of a length that leads nowhere, and one of none, again and again.
        bytes[104..112].copy_from_slice(&[0xff; 8]);
        assert_eq!(read(&bytes).unwrap().backing.unwrap().format, None);
        bytes.resize(4096, 1);
        for at in (104..128).chain(132..4096).step_by(8) {
            bytes[at..at + 4].copy_from_slice(&[1; 4]);
        }
        bytes[108..112].fill(0);
        let _any = read(&bytes);
    }
}
