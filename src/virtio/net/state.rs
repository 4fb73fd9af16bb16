//! What a card remembers: two frames at most, each on its way to one side.
//!
//! What the host's kernel or passt holds stays there. A frame that passt has got in part goes to
//! another one from its beginning: it has not seen that part.
//! Read next: [`crate::virtio::vsock`].

use serde::{Deserialize, Serialize};

use super::{Card, HEADER, MAX_FRAME, Outgoing, lock};
use crate::virtio::state::{DeviceState, Unfit};

/// Frames with their headers, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The frame that waits for buffers of the guest's.
    pub incoming: Vec<u8>,
    /// The guest's frame that the link has not taken, or not to its end.
    pub outgoing: Vec<u8>,
}

impl Outgoing {
    /// Whether the link has not taken all of the frame.
    pub(super) fn is_behind(&self) -> bool {
        self.sent < self.buffer.len()
    }
}

impl Card {
    pub(super) fn state(&self) -> State {
        let incoming = lock(&self.incoming).frame().to_vec();
        let way = lock(&self.outgoing);
        let outgoing = match way.is_behind() {
            true => way.buffer.clone(),
            false => Vec::new(),
        };
        State { incoming, outgoing }
    }

    pub(super) fn take_over(&self, state: DeviceState) -> Result<(), Unfit> {
        let DeviceState::Net(state) = state else {
            return Err(Unfit::Device("it was no network card"));
        };
        let (incoming, mut outgoing) = (state.incoming, state.outgoing);
        let can_be = |frame: &[u8]| {
            let lengths = HEADER + 1..=HEADER + MAX_FRAME;
            frame.is_empty() || lengths.contains(&frame.len())
        };
        if !can_be(&incoming) || !can_be(&outgoing) {
            return Err(Unfit::Device("a frame of a length that none has"));
        }
        lock(&self.incoming).take_over(incoming);
        let way = &mut *lock(&self.outgoing);
        way.sent = match outgoing.is_empty() {
            true => 0,
            false => self.link.wrap(&mut outgoing),
        };
        way.buffer = outgoing;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::virtio::Device;
    use crate::virtio::net::{RECEIVE, TRANSMIT};
    use crate::virtio::testing::{Guest, SIZE, read, wait, write};

    const MERGE: u64 = 1 << 15;
    const FRAME: u64 = 0x5_0000;

    /// A card, and the other end of its cable.
    fn card() -> (Arc<dyn Device>, UnixStream) {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let patience = Some(Duration::from_secs(10));
        theirs.set_read_timeout(patience).unwrap();
        socket.set_nonblocking(true).unwrap();
        (Arc::new(Card::played(socket).unwrap()), theirs)
    }

    fn wrapped(frame: &[u8]) -> Vec<u8> {
        let len = u32::try_from(frame.len()).unwrap();
        [&len.to_be_bytes()[..], frame].concat()
    }

    #[test]
    fn frame_that_waits_for_buffers_comes_elsewhere() {
        let (first, mut cable) = card();
        let guest = Guest::with_shared(first.clone());
        let mut driver = guest.driver();
        driver.start_queue(RECEIVE, MERGE);
        // Room for a part of it.
        driver.describe(0, write(0x1_0000, 100), 0);
        driver.offer(0);
        cable.write_all(&wrapped(&[7; 120])).unwrap();
        let waits = |saved| matches!(saved, DeviceState::Net(net) if net.incoming.len() == 132);
        wait(|| waits(first.save()));
        let place = driver.place();
        let (second, _cable) = card();
        let guest = guest.moved(|| second);
        let mut driver = guest.driver_again(place);
        driver.describe(1, write(0x2_0000, 100), 0);
        driver.offer(1);
        assert_eq!(driver.done(), [(0, 100), (1, 32)]);
        assert_eq!(guest.bytes(0x1_0000 + 12, 88), [7; 88]);
        assert_eq!(guest.bytes(0x2_0000, 33), [&[7; 32][..], &[0]].concat());
    }

    #[test]
    fn frame_that_was_not_sent_to_its_end_is_sent_whole_elsewhere_and_then_the_next() {
        let (first, mut old_cable) = card();
        let guest = Guest::with_shared(first.clone());
        let mut driver = guest.driver();
        driver.start_queue(TRANSMIT, 0);
        // As a rule its first part is what fills the socket.
        let frame = [7; 0xfff0];
        guest.store(FRAME + HEADER as u64, &frame);
        driver.describe(0, read(FRAME, 0xfff0 + 12), 0);
        // More than a socket holds.
        (0..SIZE).for_each(|_| driver.offer(0));
        wait(|| matches!(first.save(), DeviceState::Net(net) if !net.outgoing.is_empty()));
        let place = driver.place();
        let (second, mut cable) = card();
        let guest = guest.moved(|| second);
        let mut before = Vec::new();
        drop(first);
        old_cable.read_to_end(&mut before).unwrap();
        let whole = before.len() / (4 + frame.len());
        assert!(
            before.len() > whole * (4 + frame.len()),
            "cut in the middle"
        );
        // Those not sent whole come again, each once.
        let mut bytes = vec![0; (usize::from(SIZE) - whole) * (4 + frame.len())];
        cable.read_exact(&mut bytes).unwrap();
        let mut frames = bytes.chunks(4 + frame.len());
        assert!(frames.all(|got| got == wrapped(&frame)));
        wait(|| guest.driver_again(place).used() == SIZE);
        cable.set_nonblocking(true).unwrap();
        assert!(cable.read(&mut [0]).is_err(), "nothing more");
    }

    #[test]
    fn frames_that_cannot_be_are_refused() {
        for len in [1, HEADER, HEADER + MAX_FRAME + 1] {
            for incoming in [true, false] {
                let (frame, none) = (vec![0; len], Vec::new());
                let (incoming, outgoing) = if incoming {
                    (frame, none)
                } else {
                    (none, frame)
                };
                let state = DeviceState::Net(State { incoming, outgoing });
                assert!(card().0.restore(state).is_err(), "{len}");
            }
        }
    }
}
