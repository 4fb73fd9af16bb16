//! Ports without the host's ends: what their guest was told, and bytes on their way.
//!
//! Another cottage opens its own channels. Of a connection that was there the guest is told the end,
//! and then of the new one if there is one: two are never taken for one. A file or FIFO is the same
//! one as before, so what the guest wrote to it still goes there.
//! Read next: [`crate::virtio::balloon`].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::line::{CHUNK, Guest, Port};
use super::{MAX_REQUEST, Ports};
use crate::virtio::state::{DeviceState, Unfit};

/// A port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Its name, which the guest knows.
    pub name: String,
    /// What the guest has said, and been told.
    pub guest: Guest,
    /// Bytes for the guest.
    pub incoming: VecDeque<u8>,
    /// Bytes of the guest's that the host's end has not taken.
    pub outgoing: Vec<u8>,
}

impl Port {
    pub(super) fn save(&self) -> State {
        let line = self.lock();
        State {
            name: self.name.clone(),
            guest: line.guest,
            incoming: line.incoming.clone(),
            outgoing: line.outgoing.iter().skip(line.sent).copied().collect(),
        }
    }
}

impl Ports {
    pub(super) fn take_over(&self, state: DeviceState) -> Result<(), Unfit> {
        let DeviceState::Ports(states) = state else {
            return Err(Unfit::Device("it had no ports"));
        };
        let names = states.iter().map(|state| &state.name);
        if !names.eq(self.ports.iter().map(|port| &port.name)) {
            return Err(Unfit::Device("its ports had other names"));
        }
        for (state, port) in states.into_iter().zip(&self.ports) {
            if state.incoming.len() > CHUNK || state.outgoing.len() > MAX_REQUEST {
                return Err(Unfit::Device("more bytes waited in a port than can"));
            }
            let line = &mut *port.lock();
            line.guest = state.guest;
            line.incoming = state.incoming;
            line.other_before = line.channel.is_socket() && line.guest.told_open;
            line.sent = 0;
            line.outgoing = state.outgoing;
            if line.channel.is_socket() {
                // They were for whoever was connected.
                line.outgoing.clear();
            }
        }
        Ok(())
    }
}
