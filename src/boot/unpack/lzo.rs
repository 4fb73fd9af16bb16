//! LZO1X in the container of lzop.
//!
//! The decoder is our own: it is a page long, works on checked slices, and the crates there are
//! either trust their input's distances, wrap C, or carry a licence we cannot take.
//!
//! ```text
//!  9 bytes magic; version, library version, version needed: 2 bytes each; method, level: 1 each
//!  flags, mode, mtime low, mtime high: 4 each; name length: 1; name; header checksum: 4
//!  blocks: unpacked size: 4 (0 ends); packed size: 4; checksums as flags say: 4 each; data
//! ```
//!
//! All numbers are big-endian. Checksums are skipped: what comes out is parsed with suspicion.
//!
//! Sources: `[lzo]` Linux `Documentation/staging/lzo.rst`; `[unlzo]` Linux `lib/decompress_unlzo.c`
//! (what kernels accept of the container).
//! Read next: [`crate::boot::image`].

use std::io::{self, Read};

use super::{Input, Output, invalid, take};

/// `[unlzo]` The first nine bytes of an lzop file.
pub const MAGIC: [u8; 9] = [0x89, b'L', b'Z', b'O', 0, b'\r', b'\n', 0x1a, b'\n'];
/// `[unlzo]` Kernels refuse larger blocks; so the tools that pack kernels make none.
const BLOCK_MAX: usize = 256 << 10; // 256 KiB
/// `[unlzo]` Since this version the header has "version needed", a level and a longer mtime.
const VERSION_LONG: u16 = 0x0940;

// [unlzo] Header flags: which checksums follow, whether there is a filter.
const ADLER32_UNPACKED: u32 = 1 << 0;
const ADLER32_PACKED: u32 = 1 << 1;
const EXTRA_FIELD: u32 = 1 << 6;
const CRC32_UNPACKED: u32 = 1 << 8;
const CRC32_PACKED: u32 = 1 << 9;
const FILTER: u32 = 1 << 11;

/// Unpacks all blocks.
pub(super) fn decode(input: &mut Input<'_>, output: &mut Output) -> io::Result<()> {
    let flags = skip_header(input)?;
    let count = |flag: u32, mask: u32| usize::from(flag & mask != 0);
    let unpacked_sums = count(flags, ADLER32_UNPACKED) + count(flags, CRC32_UNPACKED);
    let packed_sums = count(flags, ADLER32_PACKED) + count(flags, CRC32_PACKED);
    let mut packed = Vec::new();
    loop {
        let unpacked_size = be32(input)?;
        if unpacked_size == 0 {
            return Ok(());
        }
        let packed_size = be32(input)?;
        if unpacked_size > BLOCK_MAX || packed_size > unpacked_size {
            return Err(invalid("an lzo block has an impossible size"));
        }
        // A block that does not shrink is stored, and has no checksum of packed bytes.
        let stored = packed_size == unpacked_size;
        let sums = unpacked_sums + if stored { 0 } else { packed_sums };
        for _ in 0..sums {
            take::<4>(input)?;
        }
        let room = output.block(unpacked_size)?;
        if stored {
            input.read_exact(room)?;
        } else {
            packed.resize(packed_size, 0);
            input.read_exact(&mut packed)?;
            let mut block = Block::new(&packed, room);
            block
                .run()
                .ok_or_else(|| invalid("an lzo block is broken"))?;
        }
        output.take(unpacked_size)?;
    }
}

fn be32(input: &mut Input<'_>) -> io::Result<usize> {
    let number = u32::from_be_bytes(take(input)?);
    usize::try_from(number).map_err(io::Error::other)
}

/// `[unlzo]` Reads past the header and returns its flags.
fn skip_header(input: &mut Input<'_>) -> io::Result<u32> {
    if take(input)? != MAGIC {
        return Err(invalid("the lzop magic is missing"));
    }
    let long = u16::from_be_bytes(take(input)?) >= VERSION_LONG;
    take::<2>(input)?; // library version
    if long {
        take::<2>(input)?; // version needed
    }
    take::<1>(input)?; // method: LZO1X at any effort unpacks the same way
    if long {
        take::<1>(input)?; // level
    }
    let flags = u32::from_be_bytes(take(input)?);
    if flags & (FILTER | EXTRA_FIELD) != 0 {
        return Err(invalid("lzop filters and extra fields are not for kernels"));
    }
    take::<8>(input)?; // mode, mtime
    if long {
        take::<4>(input)?; // more mtime
    }
    let [name_len] = take(input)?;
    for _ in 0..name_len {
        take::<1>(input)?;
    }
    take::<4>(input)?; // header checksum
    Ok(flags)
}

/// One block being unpacked. Every step is `None` when it would leave `packed` or `out`.
struct Block<'a> {
    packed: std::slice::Iter<'a, u8>,
    out: &'a mut [u8],
    filled: usize,
}

impl<'a> Block<'a> {
    fn new(packed: &'a [u8], out: &'a mut [u8]) -> Self {
        Self {
            packed: packed.iter(),
            out,
            filled: 0,
        }
    }

    /// Unpacks the block; `out` must be full at its end.
    fn run(&mut self) -> Option<()> {
        // [lzo] "First byte encoding": 18 and up is a run of literals.
        let mut state = 0;
        let mut first = None;
        match self.byte()? {
            byte @ 18.. => {
                let literals = byte - 17;
                self.literals(literals)?;
                state = literals.min(4);
            }
            // 17 starts a version of the format that only zram and friends write.
            17 => return None,
            byte => first = Some(byte),
        }
        loop {
            let instruction = match first.take() {
                Some(byte) => byte,
                None => self.byte()?,
            };
            if instruction < 16 && state == 0 {
                let literals = 3 + self.length(instruction, 15)?;
                self.literals(literals)?;
                state = 4;
                continue;
            }
            let (len, distance, literals) = self.copy(instruction, state)?;
            if distance == END_OF_STREAM {
                return (self.filled == self.out.len()).then_some(());
            }
            self.repeat(len, distance)?;
            self.literals(literals)?;
            state = literals;
        }
    }

    /// `[lzo]` "Byte sequences": decodes a copy instruction to length, distance, and the number of
    /// literals that follow. `state` is the number of literals copied last, 4 for more than 3.
    fn copy(&mut self, instruction: usize, state: usize) -> Option<(usize, usize, usize)> {
        let low = instruction & 3;
        Some(match instruction {
            0..16 => {
                let (len, base) = if state == 4 { (3, 2049) } else { (2, 1) };
                let distance = (self.byte()? << 2) + (instruction >> 2) + base;
                (len, distance, low)
            }
            16..32 => {
                let len = 2 + self.length(instruction & 7, 7)?;
                let word = self.word()?;
                // [lzo] "distance = 16384 + (H << 14) + D [...] end of stream if distance == 16384"
                let distance = match ((instruction & 8) << 11) + (word >> 2) {
                    0 => END_OF_STREAM,
                    beyond => 16384 + beyond,
                };
                (len, distance, word & 3)
            }
            32..64 => {
                let len = 2 + self.length(instruction & 31, 31)?;
                let word = self.word()?;
                (len, (word >> 2) + 1, word & 3)
            }
            64.. => {
                let len = if instruction < 128 {
                    3 + (instruction >> 5 & 1)
                } else {
                    5 + (instruction >> 5 & 3)
                };
                let distance = (self.byte()? << 3) + (instruction >> 2 & 7) + 1;
                (len, distance, low)
            }
        })
    }

    /// `[lzo]` A length that does not fit its `mask` is 0 there and goes on in bytes: each zero
    /// byte adds 255, the first other ends it.
    fn length(&mut self, bits: usize, mask: usize) -> Option<usize> {
        if bits != 0 {
            return Some(bits);
        }
        let mut length = mask;
        loop {
            match self.byte()? {
                0 => length += 255,
                byte => return Some(length + byte),
            }
        }
    }

    fn byte(&mut self) -> Option<usize> {
        self.packed.next().copied().map(usize::from)
    }

    fn word(&mut self) -> Option<usize> {
        Some(self.byte()? | self.byte()? << 8)
    }

    /// Copies `len` bytes from the packed side.
    fn literals(&mut self, len: usize) -> Option<()> {
        let (from, rest) = self.packed.as_slice().split_at_checked(len)?;
        let end = self.filled + len;
        self.out.get_mut(self.filled..end)?.copy_from_slice(from);
        self.packed = rest.iter();
        self.filled = end;
        Some(())
    }

    /// Copies `len` bytes from `distance` back in the output; they may overlap what they make.
    fn repeat(&mut self, len: usize, distance: usize) -> Option<()> {
        let start = self.filled.checked_sub(distance)?;
        let end = self.filled + len;
        if end > self.out.len() {
            return None;
        }
        // What was copied repeats what lies before it, so each step may be longer than the last.
        while self.filled < end {
            let step = (self.filled - start).min(end - self.filled);
            self.out.copy_within(start..start + step, self.filled);
            self.filled += step;
        }
        Some(())
    }
}

/// What [`Block::copy`] gives as distance for the end mark: no copy has distance 0. (16384, which
/// the mark stands for in the stream, is a distance that other instructions can express.)
const END_OF_STREAM: usize = 0;
