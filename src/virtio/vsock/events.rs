//! Events: what the guest is told apart from its connections.
//!
//! There is one, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: the guest goes on in another cottage, or later,
//! and the programs that it talked to are not there. A driver closes its connections and asks for its
//! context id again; sockets that listen stay.
//!
//! Source: `[virtio]` 1.2, 5.10.6.7 "Device Events". Read next: `crate::virtio::stream`.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::memory::GuestMemory;
use crate::virtio::blk::request::spread;
use crate::virtio::queue::Chain;
use crate::virtio::{Broken, Buffers, Inbox, Message};

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, as struct virtio_vsock_event: its only field, an id.
const TRANSPORT_RESET: [u8; EVENT_LEN as usize] = 0_u32.to_le_bytes();
/// Its length.
const EVENT_LEN: u32 = 4;

/// The event, if it is to be told.
#[derive(Debug, Default)]
pub struct Events(AtomicBool);

impl Events {
    /// To be told at the next opportunity.
    pub fn connections_are_gone(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Nobody is there to be told.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Inbox for Events {
    fn listen(&self, _whether: bool) {}

    fn fetch(&self, _features: u64, _ready: &Buffers<'_>) -> Option<Message> {
        let len = TRANSPORT_RESET.len();
        let spreads = false;
        let due = self.0.load(Ordering::Relaxed);
        due.then_some(Message { len, spreads })
    }

    fn deliver(
        &self,
        memory: &GuestMemory,
        chains: &[Chain],
        used: &mut Vec<(u16, u32)>,
    ) -> Result<(), Broken> {
        for chain in chains {
            let written = spread(&TRANSPORT_RESET, &chain.writable, memory);
            written.ok_or(Broken::Chain {
                head: chain.head,
                reason: "it left RAM",
            })?;
            used.push((chain.head, EVENT_LEN));
        }
        self.clear();
        Ok(())
    }

    /// A driver with buffers too small for it does not want to know.
    fn discard(&self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use crate::virtio::testing::wait;
    use crate::virtio::vsock::EVENT;
    use crate::virtio::vsock::packet::Op;
    use crate::virtio::vsock::testing::{EVENT_BUFFER, Machine, SIZE, rest, take};

    #[test]
    fn virtio_5_10_6_7_guest_elsewhere_is_told_that_its_connections_are_gone() {
        let first = Machine::new();
        let listener = first.listener(80);
        let mut driver = first.driver();
        driver.give(SIZE, 0x1000);
        driver.give_event_buffer();
        first.guest.store(EVENT_BUFFER, &[0xee; 8]);
        let mut program = driver.connect(&listener, 7);
        // In the middle of a stream, which the program has read a part of.
        driver.say_bytes(7, 80, b"half of a");
        assert_eq!(take(&mut program, 4), b"half");
        assert_eq!(driver.used(EVENT), 0);
        let (next, seen) = (driver.next, driver.seen);
        let second = first.moved();
        assert_eq!(rest(&mut program), b" of a", "what was sent, and the end");
        let mut driver = second.driver_again(next, seen);
        wait(|| driver.used(EVENT) == 1);
        let event = second.guest.bytes(EVENT_BUFFER, 8);
        assert_eq!(event, [0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee]);
        // What is still sent there is for nobody; what begins anew is for who listens here.
        driver.say_bytes(7, 80, b" word");
        driver.expect(Op::Reset, 7, 80);
        let listener = second.listener(80);
        let mut program = driver.connect(&listener, 8);
        driver.say_bytes(8, 80, b"again");
        assert_eq!(take(&mut program, 5), b"again");
        driver.give_event_buffer();
        assert_eq!(driver.used(EVENT), 1, "told once");
    }

    #[test]
    fn ports_given_out_before_are_not_given_out_elsewhere() {
        let first = Machine::new();
        let mut driver = first.driver();
        driver.give(SIZE, 0x1000);
        let _program = first.program("CONNECT 52\n");
        driver.expect(Op::Request, 52, 1 << 30);
        driver.say(Op::Response, 52, 1 << 30);
        let (next, seen) = (driver.next, driver.seen);
        let second = first.moved();
        let mut driver = second.driver_again(next, seen);
        let _program = second.program("CONNECT 52\n");
        driver.expect(Op::Request, 52, (1 << 30) + 1);
    }
}
