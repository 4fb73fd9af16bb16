//! What a block driver asks for, out of the segments of a request.
//!
//! ```text
//!  readable:  header (16 bytes)  data to write ...
//!             type, priority, sector
//!  writable:  data read ...      status (1 byte, the last)
//! ```
//!
//! Where segments begin and end means nothing (`[virtio]` 2.7.4.1): a header may come in two and
//! share a segment with data. So the parts are cut out by counting bytes.
//!
//! Source: `[virtio]` 1.2, section 5.2.6 "Device Operation".
//! Read next: [`super::image`].

use std::borrow::Cow;

use vm_memory::GuestAddress;

use crate::memory::GuestMemory;
use crate::memory::transfer::Segment;
use crate::virtio::Broken;
use crate::virtio::queue::Chain;

/// Bytes of the header.
const HEADER: usize = 16;
/// Bytes of one range to discard or zero. `[virtio]` 5.2.6, struct virtio_blk_discard_write_zeroes
const RANGE: usize = 16;

/// A request, cut into its parts.
#[derive(Debug, PartialEq, Eq)]
pub struct BlkRequest<'a> {
    /// What to do: VIRTIO_BLK_T_*.
    pub kind: u32,
    /// Where, in sectors.
    pub sector: u64,
    /// What the driver wrote.
    pub output: Cow<'a, [Segment]>,
    /// Where to put what is read.
    pub input: Cow<'a, [Segment]>,
    /// Where the status goes.
    pub status: GuestAddress,
}

/// A range to discard or to fill with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First sector.
    pub sector: u64,
    /// Number of sectors.
    pub sectors: u32,
    /// VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP and reserved bits.
    pub flags: u32,
}

impl<'a> BlkRequest<'a> {
    /// Cuts `chain` into parts.
    ///
    /// # Errors
    /// [`Broken::Chain`] if there is no header or no room for a status: then the driver cannot even
    /// be told that its request failed.
    pub fn parse(chain: &'a Chain, memory: &GuestMemory) -> Result<Self, Broken> {
        let wrong = |reason| Broken::Chain {
            head: chain.head,
            reason,
        };
        let mut header = [0; HEADER];
        copy(&chain.readable, memory, &mut header)
            .ok_or_else(|| wrong("it has no whole header"))?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let room = len(&chain.writable);
        let input_len = room
            .checked_sub(1)
            .ok_or_else(|| wrong("it has no room for a status"))?;
        let (_, status) = cut(&chain.writable, input_len);
        Ok(Self {
            kind: u32::from_le_bytes([a, b, c, d]),
            sector: u64::from_le_bytes(sector),
            output: cut(&chain.readable, HEADER as u64).1,
            input: cut(&chain.writable, input_len).0,
            status: status
                .first()
                .map(|segment| segment.gpa)
                .ok_or_else(|| wrong("it has no room for a status"))?,
        })
    }

    /// The ranges of a request to discard or to zero, at most `max` of them.
    pub fn ranges(&self, memory: &GuestMemory, max: usize) -> Option<Vec<Range>> {
        let bytes = usize::try_from(len(&self.output)).ok()?;
        if bytes == 0 || !bytes.is_multiple_of(RANGE) || bytes > max * RANGE {
            return None;
        }
        let mut data = vec![0; bytes];
        copy(&self.output, memory, &mut data)?;
        let (ranges, _none) = data.as_chunks::<RANGE>();
        Some(ranges.iter().map(Range::from_bytes).collect())
    }
}

impl Range {
    fn from_bytes(bytes: &[u8; RANGE]) -> Self {
        let [s @ .., a, b, c, d, e, f, g, h] = *bytes;
        Self {
            sector: u64::from_le_bytes(s),
            sectors: u32::from_le_bytes([a, b, c, d]),
            flags: u32::from_le_bytes([e, f, g, h]),
        }
    }
}

/// Bytes in all.
pub fn len(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// Copies the first bytes of `segments` to `bytes`; `None` if there are fewer.
pub fn copy(segments: &[Segment], memory: &GuestMemory, mut bytes: &mut [u8]) -> Option<()> {
    for segment in segments {
        let step = bytes.len().min(segment.len as usize);
        let (now, later) = bytes.split_at_mut(step);
        memory.read(segment.gpa, now).ok()?;
        bytes = later;
    }
    bytes.is_empty().then_some(())
}

/// Writes `bytes` to `segments`; `None` if those have no room for all.
pub fn spread(mut bytes: &[u8], segments: &[Segment], memory: &GuestMemory) -> Option<()> {
    for segment in segments {
        let (now, later) = bytes.split_at(bytes.len().min(segment.len as usize));
        memory.write(segment.gpa, now).ok()?;
        bytes = later;
    }
    bytes.is_empty().then_some(())
}

/// Cuts `segments` into the first `at` bytes and the rest. Usually a segment ends there, and
/// nothing is copied.
pub fn cut(segments: &[Segment], at: u64) -> (Cow<'_, [Segment]>, Cow<'_, [Segment]>) {
    let mut left = at;
    for (index, segment) in segments.iter().enumerate() {
        let (before, rest) = segments.split_at(index);
        if left == 0 {
            return (before.into(), rest.into());
        }
        let Some(first_len) = u32::try_from(left).ok().filter(|left| *left < segment.len) else {
            left -= u64::from(segment.len);
            continue;
        };
        let first = Segment {
            len: first_len,
            ..*segment
        };
        let second = Segment {
            gpa: GuestAddress(segment.gpa.0 + left),
            len: segment.len - first_len,
        };
        let mut before = before.to_vec();
        before.push(first);
        let mut after = vec![second];
        after.extend(rest.iter().skip(1));
        return (before.into(), after.into());
    }
    (segments.into(), (&[]).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment(gpa: u64, len: u32) -> Segment {
        Segment {
            gpa: GuestAddress(gpa),
            len,
        }
    }

    fn memory() -> GuestMemory {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let bytes: Vec<u8> = (0..64).collect();
        memory.write(GuestAddress(0x1000), &bytes).unwrap();
        memory
    }

    fn chain(readable: &[Segment], writable: &[Segment]) -> Chain {
        Chain {
            head: 3,
            readable: readable.to_vec(),
            writable: writable.to_vec(),
        }
    }

    #[test]
    fn virtio_5_2_6_usual_request_is_not_copied() {
        let chain = chain(
            &[segment(0x1000, 16), segment(0x2000, 512)],
            &[segment(0x3000, 512), segment(0x4000, 1)],
        );
        let request = BlkRequest::parse(&chain, &memory()).unwrap();
        assert_eq!(request.kind, 0x0302_0100);
        assert_eq!(request.sector, 0x0f0e_0d0c_0b0a_0908);
        assert!(matches!(request.output, Cow::Borrowed([s]) if *s == segment(0x2000, 512)));
        assert!(matches!(request.input, Cow::Borrowed([s]) if *s == segment(0x3000, 512)));
        assert_eq!(request.status.0, 0x4000);
    }

    #[test]
    fn virtio_2_7_4_1_segments_may_end_anywhere() {
        let chain = chain(
            &[segment(0x1000, 5), segment(0x1005, 20), segment(0x1019, 3)],
            &[segment(0x3000, 2), segment(0x3002, 3)],
        );
        let request = BlkRequest::parse(&chain, &memory()).unwrap();
        assert_eq!(request.sector, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(*request.output, [segment(0x1010, 9), segment(0x1019, 3)]);
        assert_eq!(*request.input, [segment(0x3000, 2), segment(0x3002, 2)]);
        assert_eq!(request.status.0, 0x3004);
    }

    #[test]
    fn request_without_whole_header_is_refused() {
        let chain = chain(&[segment(0x1000, 15)], &[segment(0x3000, 1)]);
        let error = BlkRequest::parse(&chain, &memory()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "request 3 cannot be: it has no whole header"
        );
    }

    #[test]
    fn request_without_room_for_a_status_is_refused() {
        let chain = chain(&[segment(0x1000, 16)], &[segment(0x3000, 0)]);
        let error = BlkRequest::parse(&chain, &memory()).unwrap_err();
        assert!(error.to_string().ends_with("no room for a status"));
    }

    #[test]
    fn ranges_are_whole_and_limited() {
        let ranges = |len, max| {
            let chain = chain(
                &[segment(0x1000, 16), segment(0x1010, len)],
                &[segment(0x3000, 1)],
            );
            let request = BlkRequest::parse(&chain, &memory()).unwrap();
            request.ranges(&memory(), max)
        };
        let first = Range {
            sector: 0x1716_1514_1312_1110,
            sectors: 0x1b1a_1918,
            flags: 0x1f1e_1d1c,
        };
        assert_eq!(ranges(16, 1), Some(vec![first]));
        assert_eq!(ranges(32, 2).map(|all| all.len()), Some(2));
        assert_eq!(ranges(32, 1), None);
        assert_eq!(ranges(0, 1), None);
        assert_eq!(ranges(17, 2), None);
    }

    proptest! {
        /// Cut anywhere: no byte is lost, none is doubled, and the order stays.
        #[test]
        fn cut_keeps_every_byte(
            lens in prop::collection::vec(0_u32..5, 0..6),
            at in 0_u64..30,
        ) {
            let segments: Vec<_> = (0..).zip(&lens).map(|(n, len)| segment(n * 8, *len)).collect();
            let addresses = |segments: &[Segment]| -> Vec<u64> {
                segments.iter().flat_map(|s| s.gpa.0..s.gpa.0 + u64::from(s.len)).collect()
            };
            let (before, after) = cut(&segments, at);
            prop_assert_eq!(len(&before), at.min(len(&segments)));
            prop_assert_eq!([addresses(&before), addresses(&after)].concat(), addresses(&segments));
        }
    }
}
