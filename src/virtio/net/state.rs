//! What a card remembers: two frames at most, each on its way to one side.
//!
//! What the host's kernel or passt holds stays there. A frame that passt has got in part goes to
//! another one from its beginning: it has not seen that part.
//! Read next: [`crate::virtio::vsock`].

use serde::{Deserialize, Serialize};

use super::{Card, HEADER, Incoming, MAX_FRAME, Outgoing, lock};
use crate::virtio::state::{DeviceState, Unfit};

/// Frames with their headers, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The frame that waits for buffers of the guest's.
    pub incoming: Vec<u8>,
    /// The guest's frame that the link has not taken, or not to its end.
    pub outgoing: Vec<u8>,
}

impl Card {
    pub(super) fn state(&self) -> State {
        let Incoming {
            buffer, waiting, ..
        } = &*lock(&self.incoming);
        let incoming = buffer.get(..*waiting).unwrap_or(&[]).to_vec();
        let Outgoing { buffer, sent } = &*lock(&self.outgoing);
        let outgoing = match *sent < buffer.len() {
            true => buffer.clone(),
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
        let way = &mut *lock(&self.incoming);
        // As long as ever when the driver starts ([`super::Device::started`]).
        (way.waiting, way.buffer) = (incoming.len(), incoming);
        let way = &mut *lock(&self.outgoing);
        way.sent = match outgoing.is_empty() {
            true => 0,
            false => self.link.wrap(&mut outgoing),
        };
        way.buffer = outgoing;
        Ok(())
    }
}
