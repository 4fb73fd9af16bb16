//! Events: what the guest is told apart from its connections.
//!
//! There is one, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: the guest goes on in another cottage, or later,
//! and the programs that it talked to are not there. A driver closes its connections and asks for its
//! context id again; sockets that listen stay.
//!
//! Source: `[virtio]` 1.2, 5.10.6.7 "Device Events". Read next: `crate::virtio::stream`.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::memory::GuestMemory;
use crate::virtio::queue::Chain;
use crate::virtio::{Broken, Inbox, Message};

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, as struct virtio_vsock_event: its only field, an id.
const TRANSPORT_RESET: [u8; 4] = 0_u32.to_le_bytes();

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

    fn fetch(&self, _features: u64) -> Option<Message> {
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
            let mut rest = &TRANSPORT_RESET[..];
            for part in &chain.writable {
                let (now, later) = rest.split_at(rest.len().min(part.len as usize));
                let written = memory.write(part.gpa, now);
                written.map_err(|_numbers| Broken::Chain {
                    head: chain.head,
                    reason: "it left RAM",
                })?;
                rest = later;
            }
            used.push((chain.head, TRANSPORT_RESET.len() as u32));
        }
        self.clear();
        Ok(())
    }

    /// A driver with buffers too small for it does not want to know.
    fn discard(&self) {
        self.clear();
    }
}
