//! lz4's legacy format, the only one kernels are packed with.
//!
//! ```text
//!  4 bytes  magic 0x184C2102, little-endian
//!  4 bytes  packed size of a chunk ┐ repeated to the end
//!  n bytes  chunk                  ┘ each unpacks to at most 8 MiB
//! ```
//!
//! There is no end mark: the chunks run to the end of the input, so a kernel's appended size
//! must be cut off before. The chunks themselves are lz4_flex's business.
//!
//! Sources: `[frame]` lz4 `doc/lz4_Frame_format.md`, "Legacy frame". Read next: [`super::lzo`].

use std::io::{self, BufRead};

use super::{Input, Output, invalid, take};

/// `[frame]` The magic number, as bytes.
pub const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// `[frame]` "Uncompressed size is 8 MB", the last chunk less.
const CHUNK_MAX: usize = 8 << 20; // 8 MiB

/// Unpacks all chunks.
pub(super) fn decode(input: &mut Input<'_>, output: &mut Output) -> io::Result<()> {
    if take(input)? != MAGIC {
        return Err(invalid("the lz4 magic is missing"));
    }
    let mut packed = Vec::new();
    while !input.fill_buf()?.is_empty() {
        let word = take(input)?;
        // [frame] Frames may follow each other, each with its magic.
        if word == MAGIC {
            continue;
        }
        let size = usize::try_from(u32::from_le_bytes(word)).unwrap_or(usize::MAX);
        if size > lz4_flex::block::get_maximum_output_size(CHUNK_MAX) {
            return Err(invalid("an lz4 chunk is longer than 8 MiB can get"));
        }
        packed.resize(size, 0);
        io::Read::read_exact(input, &mut packed)?;
        // The size of the last chunk is not told: give it all the room the limit leaves, and one
        // byte more than none, so that too much is noticed.
        let room = CHUNK_MAX.min((output.limit - output.filled).saturating_add(1));
        let n = lz4_flex::block::decompress_into(&packed, output.room(room));
        match n {
            Ok(n) => output.take(n)?,
            Err(_) if room < CHUNK_MAX => return Err(output.overflow()),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
    Ok(())
}
