//! The way to the guest: the frame that came, and where it is.
//!
//! ```text
//!  a small one   link ── read(2) ──▶ our buffer ── copied ──▶ the guest's
//!  a large one   tap device ── readv(2) ──┬───────────────────▶ the guest's
//!                                         └──▶ our buffer, what goes beyond them
//! ```
//!
//! How long a frame is, no tap device tells before it is read. It is thought to be about as long as
//! the one before. To copy a small one costs less than to find out where its buffer is; so it goes
//! by way of ours, as each of passt's does. For a large one as many buffers stand ready as the largest
//! needs, and when it is read there is nothing left to write but its num_buffers. If they had no room
//! for all of it, what is in them is fetched back, and the frame waits in ours for more. The guest
//! could change what is fetched back: that is its own frame, and the length is ours.
//!
//! Source: `[virtio]` 1.2, 5.1.6.3 "Setting Up Receive Buffers" and 5.1.6.4 "Processing of Incoming
//! Packets". Read next: [`super::state`].

use std::io;

use vm_memory::GuestAddress;

use super::link::{Link, Received};
use super::{HEADER, MAX_FRAME, NUM_BUFFERS, left_ram};
use crate::memory::GuestMemory;
use crate::virtio::queue::Chain;
use crate::virtio::{Broken, Buffers};

/// A frame longer than this is a large one: it needs several buffers, if the driver is Linux.
const LARGE: usize = 4096;

/// The way to the guest.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Room for the largest frame, with its header.
    buffer: Vec<u8>,
    /// Bytes of the frame that waits for buffers of the guest's, with header; 0: none waits.
    waiting: usize,
    /// It is in the guest's buffers already.
    there: bool,
    /// The last frame was a large one.
    large: bool,
    /// The guest has given buffers.
    pub listening: bool,
    /// The cable is cut.
    pub gone: bool,
}

impl Incoming {
    /// A driver is at work.
    pub fn start(&mut self) {
        self.buffer.resize(HEADER + MAX_FRAME, 0);
    }

    /// It is not any more.
    pub fn stop(&mut self) {
        self.listening = false;
        self.waiting = 0;
    }

    /// Bytes of the frame that waits, 0 if there is none.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The frame that waits, with its header.
    pub fn frame(&self) -> &[u8] {
        self.buffer.get(..self.waiting).unwrap_or(&[])
    }

    /// `frame`, which waited elsewhere, waits here; an empty one is none.
    pub fn take_over(&mut self, frame: Vec<u8>) {
        // The buffer is as long as ever when the driver starts.
        (self.waiting, self.buffer) = (frame.len(), frame);
        self.there = false;
    }

    /// Throws it away.
    pub fn discard(&mut self) {
        self.waiting = 0;
    }

    /// How much room is to be ready for the next frame, if `link` can make use of it.
    pub fn expects(&self, link: &Link) -> usize {
        match link {
            Link::Tap(_) if self.large => HEADER + MAX_FRAME,
            _ => 1,
        }
    }

    /// Reads a frame if none waits and there is one.
    ///
    /// # Errors
    /// What the host says: there will be no more.
    pub fn fetch(&mut self, link: &Link, ready: &Buffers<'_>) -> io::Result<()> {
        if self.waiting != 0 {
            return Ok(());
        }
        let ready = Buffers {
            chains: if self.large { ready.chains } else { &[] },
            ..*ready
        };
        let (len, there) = match link.receive(&ready, &mut self.buffer) {
            Received::Frame { len, there } => (len, there),
            Received::Nothing => return Ok(()),
            Received::Gone(error) => return Err(error),
        };
        self.waiting = len;
        self.large = len > LARGE;
        self.there = there == len;
        if !self.there {
            self.fetch_back(&ready, there);
        }
        Ok(())
    }

    /// Copies the first `count` bytes of the frame from the guest's buffers to ours.
    fn fetch_back(&mut self, ready: &Buffers<'_>, count: usize) {
        let mut rest = self.buffer.get_mut(..count).unwrap_or(&mut []);
        for part in ready.chains.iter().flat_map(|chain| &chain.writable) {
            let (now, later) = rest.split_at_mut((part.len as usize).min(rest.len()));
            if ready.memory.read(part.gpa, now).is_err() {
                self.waiting = 0; // It was RAM when it was written to. Frames may get lost.
                return;
            }
            rest = later;
        }
    }

    /// Hands the frame that waits to `chains`, which have room for it.
    ///
    /// # Errors
    /// [`Broken`] if they left RAM.
    pub fn deliver(
        &mut self,
        memory: &GuestMemory,
        chains: &[Chain],
        used: &mut Vec<(u16, u32)>,
    ) -> Result<(), Broken> {
        // 5.1.6.4.1: 1 also where frames are not spread.
        let count = u16::try_from(chains.len()).unwrap_or(u16::MAX);
        let place = self.buffer.iter_mut().skip(NUM_BUFFERS);
        place
            .zip(count.to_le_bytes())
            .for_each(|(to, from)| *to = from);
        // Where the frame is there already, that is all there is to write.
        let (start, end) = if self.there {
            (NUM_BUFFERS, HEADER)
        } else {
            (0, self.waiting)
        };
        let mut at = 0;
        for chain in chains {
            let before = at;
            for part in &chain.writable {
                let next = (at + part.len as usize).min(self.waiting);
                let from = at.max(start);
                if let Some(bytes) = self.buffer.get(from..next.min(end)) {
                    let place = GuestAddress(part.gpa.0 + (from - at) as u64);
                    let written = memory.write(place, bytes);
                    written.map_err(|_numbers| left_ram(chain))?;
                }
                at = next;
            }
            used.push((chain.head, u32::try_from(at - before).unwrap_or(0)));
        }
        self.waiting = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::super::tap::Tap;
    use super::*;
    use crate::memory::transfer::Segment;

    /// A tap device, played by a test, which has sent a frame of 5000 bytes that went through our
    /// buffer: the next one is thought to be as large.
    fn after_a_large_one() -> (Incoming, Link, UnixDatagram, GuestMemory) {
        let (socket, theirs) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let link = Link::Tap(Tap::played(socket));
        let memory = GuestMemory::new(2 << 20).unwrap();
        let mut incoming = Incoming::default();
        incoming.start();
        assert_eq!(incoming.expects(&link), 1);
        theirs.send(&frame(1)).unwrap();
        incoming.fetch(&link, &buffers(&memory, &[])).unwrap();
        assert_eq!(incoming.waiting(), 5000);
        let mut used = Vec::new();
        let chain = chain(7, &[(0x1000, 0x2000)]);
        incoming.deliver(&memory, &[chain], &mut used).unwrap();
        assert_eq!(used, [(7, 5000)]);
        assert_eq!(incoming.expects(&link), HEADER + MAX_FRAME);
        (incoming, link, theirs, memory)
    }

    /// A header of zeros, and bytes that differ from one `seed` to the other.
    fn frame(seed: u8) -> Vec<u8> {
        let bytes = (0..=250).cycle().map(|n: u8| n.wrapping_add(seed));
        [0; HEADER].into_iter().chain(bytes).take(5000).collect()
    }

    fn chain(head: u16, parts: &[(u64, u32)]) -> Chain {
        let segment = |(gpa, len): &(u64, u32)| Segment {
            gpa: GuestAddress(*gpa),
            len: *len,
        };
        Chain {
            head,
            writable: parts.iter().map(segment).collect(),
            ..Chain::default()
        }
    }

    fn buffers<'a>(memory: &'a GuestMemory, chains: &'a [Chain]) -> Buffers<'a> {
        Buffers { memory, chains }
    }

    /// What is in guest memory at `places`, one after the other.
    fn content(memory: &GuestMemory, places: &[(u64, usize)]) -> Vec<u8> {
        let piece = |(gpa, len): &(u64, usize)| {
            let mut bytes = vec![0; *len];
            memory.read(GuestAddress(*gpa), &mut bytes).unwrap();
            bytes
        };
        places.iter().flat_map(piece).collect()
    }

    #[test]
    fn large_frame_after_a_large_one_is_read_where_it_belongs() {
        let (mut incoming, link, tap, memory) = after_a_large_one();
        // The header ends in the middle of num_buffers.
        let chains = [
            chain(1, &[(0x8000, 11), (0x9000, 1989)]),
            chain(2, &[(0xb000, 2000), (0xa000, 0)]),
            chain(3, &[(0xc000, 0x1_0000)]),
        ];
        let places = [(0x8000, 11), (0x9000, 1989), (0xb000, 2000), (0xc000, 1000)];
        tap.send(&frame(2)).unwrap();
        let ready = buffers(&memory, &chains);
        incoming.fetch(&link, &ready).unwrap();
        assert_eq!(content(&memory, &places), frame(2));
        let mut used = Vec::new();
        incoming.deliver(&memory, &chains, &mut used).unwrap();
        assert_eq!(used, [(1, 2000), (2, 2000), (3, 1000)]);
        let mut wanted = frame(2);
        wanted[NUM_BUFFERS] = 3;
        assert_eq!(content(&memory, &places), wanted);
        assert_eq!(incoming.waiting(), 0);
    }

    #[test]
    fn large_frame_that_finds_too_little_room_waits_for_more_and_arrives_whole() {
        let (mut incoming, link, tap, memory) = after_a_large_one();
        let chains = [
            chain(1, &[(0x8000, 100)]),
            chain(2, &[(0x9000, 1900)]),
            chain(3, &[(0xb000, 0x1_0000)]),
        ];
        tap.send(&frame(3)).unwrap();
        let ready = buffers(&memory, &chains[..2]);
        incoming.fetch(&link, &ready).unwrap();
        assert_eq!(incoming.waiting(), 5000);
        // It stays, whatever the guest does with its buffers meanwhile.
        memory.write(GuestAddress(0x8000), &[0xff; 100]).unwrap();
        tap.send(&frame(4)).unwrap();
        incoming.fetch(&link, &ready).unwrap();
        let mut used = Vec::new();
        incoming.deliver(&memory, &chains, &mut used).unwrap();
        assert_eq!(used, [(1, 100), (2, 1900), (3, 3000)]);
        let mut wanted = frame(3);
        wanted[NUM_BUFFERS] = 3;
        let places = [(0x8000, 100), (0x9000, 1900), (0xb000, 3000)];
        assert_eq!(content(&memory, &places), wanted);
    }

    #[test]
    fn tap_device_without_a_frame_gives_none() {
        let (mut incoming, link, tap, memory) = after_a_large_one();
        let chains = [chain(1, &[(0x8000, 0x1_1000)])];
        let ready = buffers(&memory, &chains);
        incoming.fetch(&link, &ready).unwrap();
        assert_eq!(incoming.waiting(), 0);
        // A header with nothing behind it is no frame.
        tap.send(&[0; HEADER]).unwrap();
        incoming.fetch(&link, &ready).unwrap();
        assert_eq!(incoming.waiting(), 0);
    }
}
