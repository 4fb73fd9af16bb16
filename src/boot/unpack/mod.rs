//! Every compression a kernel may be packed with, undone on the host.
//!
//! A bzImage's payload is a stream of one of seven algorithms with the unpacked size in its last
//! four bytes; a user may also pass a packed vmlinux. [`unpack`] turns both into bytes in memory.
//!
//! The packed bytes are not to be trusted more than any download, hence: output is bounded by
//! the caller and grows only as data really comes; a decoder gets a bounded dictionary; nothing
//! is believed because a header says so. All decoders are Rust but zstd's, which is the C library:
//! it unpacks a known size straight into the output (`zstd_at_once`), however large the window
//! that `zstd --ultra -22` asks for.
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12, payload_offset;
//! `[lib]` Linux `scripts/Makefile.lib`, which packs kernels and appends the size.
//! Read next: [`lz4`] and [`lzo`], whose containers no crate reads the way kernels use them.

pub mod lz4;
pub mod lzo;

use std::fmt;
use std::io::{self, BufReader, Read};

use super::blob::Blob;

/// Bytes read from the blob at a time.
const INPUT_BUFFER: usize = 256 << 10; // 256 KiB
/// Bytes the output grows by.
const OUTPUT_STEP: usize = 1 << 20; // 1 MiB
/// Dictionary and window sizes allowed: `zstd --ultra -22` and `xz -9e` of huge dictionaries stay
/// below; a hostile header cannot ask for more.
const DICTIONARY_MAX_LOG: u32 = 28; // 256 MiB
/// The same for the xz and lzma decoders, which count in KiB and add their tables.
const DICTIONARY_MAX_KIB: u32 = (1 << (DICTIONARY_MAX_LOG - 10)) + 1024;

/// Why packed bytes cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The decoder stumbled, or the bytes end too early.
    #[error(
        "Cannot unpack {algorithm} data: broken near byte {offset:#x}, after {produced:#x} unpacked \
         bytes"
    )]
    Broken {
        /// What it is packed with.
        algorithm: Algorithm,
        /// Offset in the blob; the decoder reads ahead, so the fault lies at or before it.
        offset: u64,
        /// Good bytes so far.
        produced: u64,
        /// What the decoder said.
        source: io::Error,
    },
    /// More comes out than allowed.
    #[error("Cannot unpack {algorithm} data: more than {limit:#x} bytes come out")]
    TooLong {
        /// What it is packed with.
        algorithm: Algorithm,
        /// Bytes allowed.
        limit: u64,
    },
    /// Less came out than announced.
    #[error(
        "Cannot unpack {algorithm} data: {produced:#x} bytes came out, {expected:#x} were announced"
    )]
    TooShort {
        /// What it is packed with.
        algorithm: Algorithm,
        /// Bytes that came.
        produced: u64,
        /// Bytes the payload's trailer promised.
        expected: u64,
    },
}

/// A way to pack bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// gzip, RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The old .lzma format.
    Lzma,
    /// .xz, with or without the x86 filter.
    Xz,
    /// lzop's container around LZO1X.
    Lzo,
    /// lz4's legacy frames (`lz4 -l`).
    Lz4,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Algorithm {
    /// Which algorithm `head` starts a stream of.
    pub fn detect(head: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 7] = [
            (b"\x1f\x8b\x08", Self::Gzip),
            (b"BZh", Self::Bzip2),
            (b"\xfd7zXZ\0", Self::Xz),
            (&lzo::MAGIC, Self::Lzo),
            (&lz4::MAGIC, Self::Lz4),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
            // .lzma has no magic: these are its usual parameters and a dictionary of 64 KiB up.
            (b"\x5d\0\0", Self::Lzma),
        ];
        let found = magics.iter().find(|(magic, _)| head.starts_with(magic));
        found.map(|(_, algorithm)| *algorithm)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzo => "lzo",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// How many bytes may and must come out.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Never more than this.
    pub limit: u64,
    /// Exactly this many, if known.
    pub expected: Option<u64>,
}

/// Unpacks `len` bytes of `blob` from `offset` on.
///
/// # Errors
/// [`Error`]; the partial output is dropped.
pub fn unpack(
    blob: &Blob,
    offset: u64,
    len: u64,
    algorithm: Algorithm,
    size: Size,
) -> Result<Vec<u8>, Error> {
    let limit = size.expected.unwrap_or(size.limit).min(size.limit);
    let window = Window {
        blob,
        at: offset,
        end: offset.saturating_add(len),
    };
    let mut input = BufReader::with_capacity(INPUT_BUFFER, window);
    let mut output = Output::new(limit, size.expected.is_some());
    let result = decode(algorithm, &mut input, &mut output);
    if output.overflowed {
        return Err(Error::TooLong { algorithm, limit });
    }
    let produced = output.filled as u64;
    result.map_err(|source| Error::Broken {
        algorithm,
        offset: input.get_ref().at - input.buffer().len() as u64,
        produced,
        source,
    })?;
    match size.expected {
        Some(expected) if produced != expected => Err(Error::TooShort {
            algorithm,
            produced,
            expected,
        }),
        _ => Ok(output.finish()),
    }
}

/// Runs one decoder to the end of its stream. Bytes behind the stream are left alone.
fn decode(algorithm: Algorithm, input: &mut Input<'_>, output: &mut Output) -> io::Result<()> {
    match algorithm {
        Algorithm::Gzip => output.pump(flate2::bufread::GzDecoder::new(input)),
        Algorithm::Bzip2 => output.pump(bzip2::bufread::BzDecoder::new(input)),
        Algorithm::Lzma => output.pump(lzma_rust2::LzmaReader::new_mem_limit(
            input,
            DICTIONARY_MAX_KIB,
            None,
        )?),
        Algorithm::Xz => output.pump(lzma_rust2::XzReader::new_mem_limit(
            input,
            false,
            DICTIONARY_MAX_KIB,
        )),
        Algorithm::Zstd if output.exact => zstd_at_once(input, output),
        Algorithm::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?.single_frame();
            decoder.window_log_max(DICTIONARY_MAX_LOG)?;
            output.pump(decoder)
        }
        Algorithm::Lzo => lzo::decode(input, output),
        Algorithm::Lz4 => lz4::decode(input, output),
    }
}

/// Unpacks zstd straight into the output, whose length is known.
///
/// The stream would copy everything through a window of up to 128 MiB first, and zstd is what many
/// distributions pack with. `cottage run --timeline --kernel FILE` shows what loading takes.
fn zstd_at_once(input: &mut Input<'_>, output: &mut Output) -> io::Result<()> {
    let mut packed = Vec::new();
    input.read_to_end(&mut packed)?;
    let room = output.room(output.limit);
    let n = zstd::bulk::decompress_to_buffer(&packed, room)?;
    output.take(n)
}

/// What the decoders read from.
type Input<'a> = BufReader<Window<'a>>;

/// A part of a blob, read from front to back.
struct Window<'a> {
    blob: &'a Blob,
    at: u64,
    end: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let n = out.len().min(left);
        let Some(out) = out.get_mut(..n) else {
            return Ok(0);
        };
        self.blob
            .read_exact_at(self.at, out)
            .map_err(io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Bounded bytes that grow as they come.
struct Output {
    /// The first `filled` are data, the rest is room.
    bytes: Vec<u8>,
    filled: usize,
    limit: usize,
    /// Whether `limit` is what should come, not only what may.
    exact: bool,
    overflowed: bool,
}

impl Output {
    fn new(limit: u64, exact: bool) -> Self {
        Self {
            bytes: Vec::new(),
            filled: 0,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            exact,
            overflowed: false,
        }
    }

    /// Takes all that `stream` yields, until it ends or the limit is passed.
    fn pump(&mut self, mut stream: impl Read) -> io::Result<()> {
        loop {
            // One byte of room beyond the limit tells "exactly full" from "too much".
            let wanted = OUTPUT_STEP.min((self.limit - self.filled).saturating_add(1));
            let n = stream.read(self.room(wanted))?;
            if n == 0 {
                return Ok(());
            }
            self.take(n)?;
        }
    }

    /// Room for `len` bytes behind the data; what is written there counts after [`Self::take`].
    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.filled.saturating_add(len);
        if self.bytes.is_empty() {
            // Zeros by mmap(2): address space only, until a decoder really writes there.
            self.bytes = vec![0; end];
        } else if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(self.filled..end).unwrap_or_default()
    }

    /// Room for a block that announces `len` bytes, if the limit allows it.
    fn block(&mut self, len: usize) -> io::Result<&mut [u8]> {
        if len > self.limit - self.filled {
            return Err(self.overflow());
        }
        Ok(self.room(len))
    }

    /// Counts `n` bytes of the room as data.
    fn take(&mut self, n: usize) -> io::Result<()> {
        if n > self.limit - self.filled {
            return Err(self.overflow());
        }
        self.filled += n;
        Ok(())
    }

    fn overflow(&mut self) -> io::Error {
        self.overflowed = true;
        io::ErrorKind::FileTooLarge.into()
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.truncate(self.filled);
        self.bytes
    }
}

/// Bytes that break a format's rules.
fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads `N` bytes.
fn take<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}
