//! Between queues and sockets: a packet of the guest's is taken in, one for it is put together.
//!
//! Two packets can wait for a buffer of the guest's: one that only says something, and a program's
//! bytes, read as many as the guest has room for and cut to its buffers one by one. The bytes stand
//! where they were read; each header is written in front of what is left of them.
//!
//! Read next: [`super::events`].

use std::ops::Range;

use super::connection::{Heard, Key};
use super::host::Host;
use super::hub::{Effect, Hub};
use super::listener::Listener;
use super::packet::{HEADER, Header};
use super::{RECEIVE, TRANSMIT};
use crate::virtio::Broken;

/// Bytes that are read from a program at once.
const STAGE: usize = 64 << 10; // 64 KiB

/// All that is remembered while the guest runs.
#[derive(Debug)]
pub struct Exchange {
    /// The connections, as numbers.
    pub hub: Hub,
    /// Their sockets.
    pub host: Host,
    /// A driver is at work.
    pub active: bool,
    /// The guest has given buffers.
    pub listening: bool,
    /// The guest's packets wait until it has fetched our answers.
    pub stalled: bool,
    /// The packet that waits for a buffer of the guest's.
    pub packet: Option<Header>,
    /// A program's bytes that wait for buffers, in `stage`.
    pub staged: Option<(Key, Range<usize>)>,
    /// Room for a header, and a program's bytes behind it.
    pub stage: Vec<u8>,
    /// The guest's packet last looked at.
    pub received: Vec<u8>,
}

impl Exchange {
    /// One for the guest `cid`, at rest.
    pub fn new(cid: u32, listener: Listener) -> Self {
        Self {
            hub: Hub::new(cid),
            host: Host::new(listener),
            active: false,
            listening: false,
            stalled: false,
            packet: None,
            staged: None,
            stage: Vec::new(),
            received: Vec::new(),
        }
    }

    /// A driver is at work.
    pub fn start(&mut self) {
        self.active = true;
        self.stage.resize(HEADER + STAGE, 0);
    }

    /// None is, and so there are no connections.
    pub fn stop(&mut self) {
        self.hub.clear();
        self.host.clear();
        (self.active, self.listening, self.stalled) = (false, false, false);
        (self.packet, self.staged) = (None, None);
    }

    /// The queues to look at now, a bit each.
    pub fn work(&mut self) -> u32 {
        let waiting = self.packet.is_some() || self.staged.is_some();
        let mut queues = 0;
        if self.listening && (waiting || self.hub.has_packet() || self.host.is_readable()) {
            queues |= 1 << RECEIVE;
        }
        if self.stalled && self.hub.has_room() {
            self.stalled = false;
            queues |= 1 << TRANSMIT;
        }
        queues
    }

    /// Takes in the packet in `received`.
    pub fn take_in(&mut self, head: u16) -> Result<(), Broken> {
        let wrong = |reason| Broken::Chain { head, reason };
        let (header, payload) = self
            .received
            .split_first_chunk::<HEADER>()
            .ok_or(wrong("it is shorter than a packet's header"))?;
        let header = Header::from_bytes(header);
        match self.hub.receive(&header) {
            Effect::Nothing => {}
            Effect::Call(key) if self.host.call(&self.hub, key) => self.hub.open(key, &header),
            Effect::Call(_) => self.hub.refuse(&header),
            Effect::Heard(key, Heard::Data(len)) => {
                let payload = payload.get(..len as usize);
                let payload = payload.ok_or(wrong("its packet says to be longer than it is"))?;
                self.host.give(&mut self.hub, key, payload);
            }
            Effect::Heard(key, heard) => self.heard(key, heard),
        }
        self.unstage();
        Ok(())
    }

    fn heard(&mut self, key: Key, heard: Heard) {
        match heard {
            Heard::Nothing | Heard::Data(_) => {}
            Heard::Answered => self.host.answer(&mut self.hub, key),
            Heard::Shut(ways) => self.host.guest_shuts(key, ways),
            Heard::Finished => self.host.finish(key),
            Heard::Broken => self.host.close(key),
        }
    }

    /// Throws away what nobody listens for any more.
    pub fn unstage(&mut self) {
        let hub = &self.hub;
        self.staged.take_if(|(key, _)| !hub.has_listener(*key));
    }

    /// Reads what a program has sent, if there is room in the guest.
    pub fn fetch_bytes(&mut self) {
        let place = self.stage.get_mut(HEADER..).unwrap_or(&mut []);
        let read = self.host.read(&mut self.hub, place);
        self.staged = read.map(|(key, len)| (key, HEADER..HEADER + len));
    }

    /// The next packet, as it travels, for a buffer of `room` bytes: the range of `stage`.
    pub fn next_packet(&mut self, room: usize) -> Option<Range<usize>> {
        let (header, start, end) = if let Some(header) = self.packet.take() {
            // In front of what is staged, as below: there is always room for a header.
            let start = self
                .staged
                .as_ref()
                .map_or(HEADER, |(_, bytes)| bytes.start);
            (header, start, start)
        } else {
            let (key, bytes) = self.staged.take()?;
            let end = bytes.end.min(bytes.start + room.saturating_sub(HEADER));
            let len = u32::try_from(end - bytes.start).unwrap_or(0);
            let header = self.hub.data(key, len)?;
            if end < bytes.end {
                self.staged = Some((key, end..bytes.end));
            }
            (header, bytes.start, end)
        };
        let from = start - HEADER;
        let place = self.stage.get_mut(from..start)?;
        place.copy_from_slice(&header.to_bytes());
        Some(from..end)
    }
}
