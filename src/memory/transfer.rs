//! From a file straight into guest memory and back, by many pieces at once.
//!
//! A disk request names up to a few hundred pieces of guest memory. One preadv(2) or pwritev(2)
//! moves them all: the host kernel copies between its page cache and the guest, no buffer of ours
//! in between.
//!
//! This is one of the rooms where `unsafe` is allowed. Who calls it: [`crate::virtio::blk`],
//! [`crate::virtio::fs`], [`crate::virtio::net`].
//! Sources: preadv(2), IOV_MAX in limits.h(0p).
//! Read next: [`crate::loading`], which fills this memory.
#![expect(
    unsafe_code,
    reason = "lets the host kernel move bytes between files and guest memory"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::GuestMemory;

/// Pieces that one call may have: Linux's IOV_MAX.
const MAX_PIECES: usize = 1024;

/// A piece of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First guest-physical address.
    pub gpa: GuestAddress,
    /// Length in bytes.
    pub len: u32,
}

/// preadv(2) or pwritev(2).
type Call = unsafe extern "C" fn(
    libc::c_int,
    *const libc::iovec,
    libc::c_int,
    libc::off_t,
) -> libc::ssize_t;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug)]
enum Direction {
    ToGuest,
    FromGuest,
}

impl GuestMemory {
    /// Fills the guest's `segments`, one after the other, from `file` at `offset`.
    ///
    /// # Errors
    /// What the host says; `UnexpectedEof` if the file is shorter.
    pub fn fill_from(&self, file: &File, offset: u64, segments: &[Segment]) -> io::Result<()> {
        let moved = self.transfer(Direction::ToGuest, file, offset, segments)?;
        all(moved, segments, io::ErrorKind::UnexpectedEof)
    }

    /// The same, as far as the file goes; returns how many bytes came.
    ///
    /// # Errors
    /// What the host says.
    pub fn fill_up_to_end(
        &self,
        file: &File,
        offset: u64,
        segments: &[Segment],
    ) -> io::Result<u64> {
        self.transfer(Direction::ToGuest, file, offset, segments)
    }

    /// Writes the guest's `segments`, one after the other, to `file` at `offset`.
    ///
    /// # Errors
    /// What the host says.
    pub fn drain_to(&self, file: &File, offset: u64, segments: &[Segment]) -> io::Result<()> {
        let moved = self.transfer(Direction::FromGuest, file, offset, segments)?;
        all(moved, segments, io::ErrorKind::WriteZero)
    }

    /// Writes `head` and behind it the guest's `segments` to `file`, by one writev(2), as a device that
    /// takes whole messages wants it. There may be at most IOV_MAX - 1 segments.
    ///
    /// # Errors
    /// What the host says.
    pub fn send_to(&self, file: impl AsFd, head: &[u8], segments: &[Segment]) -> io::Result<usize> {
        let mut pieces = vec![libc::iovec {
            iov_base: head.as_ptr().cast_mut().cast(),
            iov_len: head.len(),
        }];
        self.add_pieces(segments, &mut pieces)?;
        let count = i32::try_from(pieces.len()).map_err(io::Error::other)?;
        loop {
            let file = file.as_fd().as_raw_fd();
            // SAFETY: 1. `pieces` holds `count` entries. 2. The first is `head`, which lives until the
            // end of this function and is only read. 3. Of the others add_pieces proved that each one's
            // bytes lie in one RAM mapping, and `self` keeps the mappings alive; no Rust reference to
            // them exists.
            let moved = unsafe { libc::writev(file, pieces.as_ptr(), count) };
            match usize::try_from(moved) {
                Ok(moved) => return Ok(moved),
                Err(_negative) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
    }

    /// Reads a message of at most `whole.len()` bytes from `file`, by one readv(2), as a device that
    /// gives whole messages wants it: to the guest's `segments`, at most IOV_MAX - 1 of them, and what
    /// goes beyond these to its place in `whole`. Returns how long the message is, and how much of it
    /// the segments have room for.
    ///
    /// # Errors
    /// What the host says.
    pub fn receive_from<'a>(
        &self,
        file: impl AsFd,
        segments: impl IntoIterator<Item = &'a Segment>,
        whole: &mut [u8],
    ) -> io::Result<(usize, usize)> {
        let mut pieces = Vec::new();
        self.add_pieces(segments.into_iter().take(MAX_PIECES - 1), &mut pieces)?;
        let room = pieces.iter().map(|piece| piece.iov_len).sum::<usize>();
        let beyond = whole.get_mut(room..).unwrap_or(&mut []);
        pieces.push(libc::iovec {
            iov_base: beyond.as_mut_ptr().cast(),
            iov_len: beyond.len(),
        });
        let count = i32::try_from(pieces.len()).map_err(io::Error::other)?;
        loop {
            let file = file.as_fd().as_raw_fd();
            // SAFETY: 1. `pieces` holds `count` entries. 2. The last is `beyond`, a part of `whole` that
            // lives until the end of this function and that nobody else can reach. 3. Of the others
            // add_pieces proved that each one's bytes lie in one RAM mapping, and `self` keeps the
            // mappings alive; no Rust reference to them exists.
            let moved = unsafe { libc::readv(file, pieces.as_ptr(), count) };
            match usize::try_from(moved) {
                Ok(moved) => return Ok((moved, room)),
                Err(_negative) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
    }

    /// Adds where `segments` are in this process to `pieces`.
    fn add_pieces<'a>(
        &self,
        segments: impl IntoIterator<Item = &'a Segment>,
        pieces: &mut Vec<libc::iovec>,
    ) -> io::Result<()> {
        let segments = segments.into_iter();
        pieces.reserve(segments.size_hint().0);
        let others = pieces.len();
        for segment in segments.filter(|segment| segment.len > 0) {
            let len = segment.len as usize;
            let slice = self.backend().get_slice(segment.gpa, len);
            let slice = slice.map_err(io::Error::other)?;
            let start: *mut libc::c_void = slice.ptr_guard_mut().as_ptr().cast();
            match pieces.get_mut(others..).and_then(<[_]>::last_mut) {
                // Next to the one before, as the buffers of a Linux network card often are.
                Some(last) if last.iov_base.wrapping_byte_add(last.iov_len) == start => {
                    last.iov_len += len;
                }
                _ => pieces.push(libc::iovec {
                    iov_base: start,
                    iov_len: len,
                }),
            }
        }
        Ok(())
    }

    /// Calls the host until all bytes are moved, or it moves none; returns how many were.
    fn transfer(
        &self,
        direction: Direction,
        file: &File,
        offset: u64,
        segments: &[Segment],
    ) -> io::Result<u64> {
        let call = match direction {
            Direction::ToGuest => libc::preadv as Call,
            Direction::FromGuest => libc::pwritev as Call,
        };
        let mut done = 0;
        let mut pieces = Vec::new();
        self.add_pieces(segments, &mut pieces)?;
        let mut pieces = pieces.as_mut_slice();
        while !pieces.is_empty() {
            let count = i32::try_from(pieces.len().min(MAX_PIECES)).map_err(io::Error::other)?;
            let at = libc::off_t::try_from(offset.saturating_add(done))
                .map_err(|_too_far| io::Error::from_raw_os_error(libc::EINVAL))?;
            // SAFETY: 1. `pieces` holds at least `count` entries. 2. add_pieces proved that each
            // one's bytes lie in one RAM mapping, and `self` keeps the mappings alive. 3. The
            // memory belongs to the guest: no Rust reference to it exists, so the host's kernel
            // may read and write it at any time.
            let moved = unsafe { call(file.as_raw_fd(), pieces.as_ptr(), count, at) };
            match usize::try_from(moved) {
                Ok(0) => break,
                Ok(moved) => {
                    done += moved as u64;
                    pieces = advance(pieces, moved);
                }
                Err(_negative) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e => return Err(e),
                },
            }
        }
        Ok(done)
    }
}

/// Succeeds if `moved` is all there is in `segments`.
fn all(moved: u64, segments: &[Segment], short: io::ErrorKind) -> io::Result<()> {
    let wanted: u64 = segments.iter().map(|segment| u64::from(segment.len)).sum();
    if moved < wanted {
        return Err(short.into());
    }
    Ok(())
}

/// Takes the first `moved` bytes off `pieces`.
fn advance(pieces: &mut [libc::iovec], mut moved: usize) -> &mut [libc::iovec] {
    let mut done = 0;
    for piece in pieces.iter_mut() {
        if moved < piece.iov_len {
            piece.iov_len -= moved;
            piece.iov_base = piece.iov_base.wrapping_byte_add(moved);
            break;
        }
        moved -= piece.iov_len;
        done += 1;
    }
    pieces.split_at_mut(done).1
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn segment(gpa: u64, len: u32) -> Segment {
        Segment {
            gpa: GuestAddress(gpa),
            len,
        }
    }

    /// A nameless file with `content`.
    fn file(content: &[u8]) -> File {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn bytes_go_to_pieces_in_their_order_and_back() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let pieces = [segment(0x2000, 3), segment(0x9000, 0), segment(0x1000, 2)];
        memory.fill_from(&file(b"..abcde"), 2, &pieces).unwrap();
        let mut bytes = [0; 3];
        memory.read(GuestAddress(0x2000), &mut bytes).unwrap();
        assert_eq!(&bytes, b"abc");
        let back = file(b"");
        memory.drain_to(&back, 1, &pieces).unwrap();
        let mut text = [9; 6];
        std::os::unix::fs::FileExt::read_exact_at(&back, &mut text, 0).unwrap();
        assert_eq!(&text, b"\0abcde");
    }

    #[test]
    fn more_pieces_than_one_call_takes_are_moved_by_several() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let content: Vec<u8> = (0..3000_u16).map(|n| (n % 251).to_le_bytes()[0]).collect();
        let pieces: Vec<_> = (0..3000).map(|n| segment(0x1000 + 2 * n, 1)).collect();
        memory.fill_from(&file(&content), 0, &pieces).unwrap();
        let mut bytes = [0; 6000];
        memory.read(GuestAddress(0x1000), &mut bytes).unwrap();
        let odd: Vec<u8> = bytes.iter().step_by(2).copied().collect();
        assert_eq!(odd, content);
    }

    #[test]
    fn message_goes_to_pieces_and_what_goes_beyond_to_its_place_in_the_whole() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        // The first two are neighbours.
        let pieces = [
            segment(0x1000, 2),
            segment(0x1002, 1),
            segment(0x9000, 0),
            segment(0x2000, 1),
        ];
        let mut whole = [b'.'; 8];
        theirs.send(b"abcdef").unwrap();
        let got = memory.receive_from(&ours, &pieces, &mut whole).unwrap();
        assert_eq!(got, (6, 4));
        let mut bytes = [0; 4];
        memory.read(GuestAddress(0x1000), &mut bytes).unwrap();
        assert_eq!(&bytes, b"abc\0");
        memory.read(GuestAddress(0x2000), &mut bytes).unwrap();
        assert_eq!((&bytes, &whole), (b"d\0\0\0", b"....ef.."));
        // More room than the whole has.
        theirs.send(b"ghi").unwrap();
        let got = memory.receive_from(&ours, &[segment(0x1000, 100)], &mut whole);
        assert_eq!(got.unwrap(), (3, 100));
        memory.read(GuestAddress(0x1000), &mut bytes).unwrap();
        assert_eq!((&bytes, &whole), (b"ghi\0", b"....ef.."));
    }

    #[test]
    fn file_that_ends_early_is_an_error() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let error = memory.fill_from(&file(b"abc"), 1, &[segment(0, 3)]);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn piece_outside_of_ram_moves_nothing() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let pieces = [segment(0x1000, 1), segment((2 << 20) - 1, 2)];
        assert!(memory.fill_from(&file(b"abc"), 0, &pieces).is_err());
        let mut byte = [9];
        memory.read(GuestAddress(0x1000), &mut byte).unwrap();
        assert_eq!(byte, [0]);
    }

    #[test]
    fn advance_stops_inside_a_piece() {
        let piece = |len| libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: len,
        };
        let mut pieces = [piece(2), piece(5), piece(1)];
        let rest = advance(&mut pieces, 3);
        assert_eq!(rest.iter().map(|p| p.iov_len).collect::<Vec<_>>(), [4, 1]);
        assert_eq!(rest[0].iov_base as usize, 1);
    }
}
