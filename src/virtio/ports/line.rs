//! One port: what is between the host's end and the guest's queues.
//!
//! Connections change only on the device's thread; a reset, on a vCPU's, forgets what the guest
//! has said and been told.
//! Read next: [`super::state`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::PollFlags;
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Received};
use super::{PORT_ADD, PORT_NAME, PORT_OPEN};
use crate::memory::GuestMemory;
use crate::virtio::queue::Chain;
use crate::virtio::{Broken, Buffers, Inbox, Message, stream};

/// Bytes read at once from the host.
pub(super) const CHUNK: usize = 16 << 10; // 16 KiB

/// A port.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) tell: fn(&str),
    pub(super) state: Mutex<Line>,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) channel: Channel,
    pub(super) guest: Guest,
    /// What was read from the host and waits for buffers of the guest's.
    pub(super) incoming: VecDeque<u8>,
    /// The host's end sends no more, but may still read.
    pub(super) input_ended: bool,
    /// The host's end is gone; what it sent waits until the guest wants it.
    pub(super) left: bool,
    /// The guest was told of another connection, which is not ours, and has not been told of its
    /// end.
    pub(super) other_before: bool,
    /// The request last taken, and how much of it the host's end has.
    pub(super) outgoing: Vec<u8>,
    pub(super) sent: usize,
}

/// What the guest has said, and been told, since its driver is at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// It is to be told of the port.
    pub(super) add: bool,
    /// It is to be told the port's name.
    pub(super) name: bool,
    /// It knows the port.
    pub(super) ready: bool,
    /// It was told that the host's end is open.
    pub(super) told_open: bool,
    /// A program has the port open.
    pub(super) open: bool,
    /// There are buffers to be filled.
    pub(super) listening: bool,
}

impl Line {
    /// What the guest is to be told next: an event and its value.
    pub(super) fn news(&self) -> Option<(u16, bool)> {
        let connected = self.connected();
        match &self.guest {
            guest if guest.add => Some((PORT_ADD, true)),
            guest if guest.name => Some((PORT_NAME, true)),
            guest if guest.ready && guest.told_open != connected => Some((PORT_OPEN, connected)),
            _ => None,
        }
    }

    /// It has been told.
    pub(super) fn told(&mut self, event: u16) {
        match event {
            PORT_ADD => self.guest.add = false,
            PORT_NAME => self.guest.name = false,
            _ => {
                self.guest.told_open = self.connected();
                self.other_before = false;
            }
        }
    }

    /// Whether there is a connection that the guest may be told of.
    fn connected(&self) -> bool {
        self.channel.stream().is_some() && !self.other_before
    }

    /// Whether bytes of the host's would be delivered at once.
    fn wants_input(&self) -> bool {
        let Guest {
            told_open,
            open,
            listening,
            ..
        } = self.guest;
        let guest = told_open && open && listening && !self.other_before;
        guest && self.incoming.is_empty() && self.channel.is_socket() && !self.input_ended
    }

    /// What to wait for.
    pub(super) fn watched(&self) -> Option<(Arc<OwnedFd>, PollFlags)> {
        let Some(stream) = self.channel.stream() else {
            let listener = self.channel.listener().filter(|_| !self.guest.told_open)?;
            return Some((listener.clone(), PollFlags::IN));
        };
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.wants_input());
        wanted.set(PollFlags::OUT, self.sent < self.outgoing.len());
        // Of a connection for which nothing is wanted the end is still awaited.
        let end = self.channel.is_socket() && (!self.left || self.input_ended);
        (end || !wanted.is_empty()).then(|| (stream.clone(), wanted))
    }

    /// Something happened to what [`Self::watched`] named; whether the guest is to be told.
    pub(super) fn happened(&mut self, events: PollFlags) -> bool {
        if self.channel.stream().is_none() {
            return self.channel.accept();
        }
        let gone = events.intersects(PollFlags::HUP | PollFlags::ERR);
        if gone && !self.wants_input() {
            if self.input_ended || !self.channel.holds_bytes() {
                self.disconnect();
                return true;
            }
            self.left = true;
        }
        false
    }

    fn disconnect(&mut self) {
        self.channel.disconnect();
        (self.input_ended, self.left) = (false, false);
        self.outgoing.clear();
        self.sent = 0;
    }

    /// Writes what the host's end takes of `outgoing`.
    fn send(&mut self) -> io::Result<()> {
        while let Some(rest) = self.outgoing.get(self.sent..).filter(|r| !r.is_empty()) {
            match self.channel.write(rest)? {
                0 => break,
                count => self.sent += count,
            }
        }
        Ok(())
    }
}

impl Port {
    pub(super) fn lock(&self) -> MutexGuard<'_, Line> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waits; true if nothing waits any more.
    pub(super) fn send(&self, state: &mut Line) -> bool {
        if let Err(error) = state.send() {
            // Who does not read loses what is sent, and may still send. A file has no other side.
            if !state.channel.is_socket() {
                let name = &self.name;
                (self.tell)(&format!(
                    "--port {name}: {error}; the guest finds it closed"
                ));
                state.disconnect();
            }
            state.sent = state.outgoing.len();
        }
        state.sent == state.outgoing.len()
    }
}

/// A port's receiveq.
impl Inbox for Port {
    fn listen(&self, whether: bool) {
        self.lock().guest.listening = whether;
    }

    fn fetch(&self, _features: u64, _ready: &Buffers<'_>) -> Option<Message> {
        let state = &mut *self.lock();
        if state.wants_input() {
            let mut buffer = [0; CHUNK];
            match state.channel.read(&mut buffer) {
                Received::Bytes(count) => state.incoming.extend(buffer.iter().take(count)),
                Received::Nothing => {}
                Received::End => state.input_ended = true,
            }
        }
        (!state.incoming.is_empty()).then_some(stream::SOME_BYTES)
    }

    fn deliver(
        &self,
        memory: &GuestMemory,
        chains: &[Chain],
        used: &mut Vec<(u16, u32)>,
    ) -> Result<(), Broken> {
        stream::spread(memory, chains, &mut self.lock().incoming, used)
    }

    fn discard(&self) {
        self.lock().incoming.clear();
    }
}
