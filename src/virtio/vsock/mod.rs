//! The socket device: connections between programs of the host's and of the guest's, without a
//! network.
//!
//! - [`packet`]: the header that everything is said with;
//! - [`connection`]: one connection's state, as numbers;
//! - [`hub`]: all of them, and what the guest is told next;
//! - [`greeting`]: how a program of the host's says what it wants;
//! - [`stream`]: a socket of the host's, and what waits to be written to it;
//! - [`listener`]: the socket at PATH;
//! - [`host`]: all sockets;
//! - [`exchange`]: from a queue to a socket and back;
//! - [`events`]: what the guest is told apart from its connections.
//!
//! ```text
//!  guest ── transmit queue ──▶ serve() ──▶ Hub ──▶ Host ── write(2) ──▶ program
//!  guest ◀── receive queue ─── deliver() ◀── Hub ◀── Host ◀── read(2) ── program
//! ```
//!
//! The convention is Firecracker's: a program of the host's connects to PATH and asks for a port
//! of the guest's; what the guest connects to, at port P of the host, is whoever listens at PATH_P.
//!
//! The other way to do it, the host's kernel at the far end of the queues (/dev/vhost-vsock), would
//! move bytes with fewer copies. It needs rights, a context id that no other guest of the host's
//! has, and an ioeventfd (docs/adr/0013); and every user of the host could connect to the guest. The
//! packets' format is small enough to stand here whole, so the crate virtio-vsock is not used.
//!
//! One thread does it all, and sleeps in poll(2). It reads a program's bytes only when the guest
//! has given buffers and has room in that connection, so they wait in the program's own socket.
//! The guest's bytes are written at once, or wait in a buffer of the connection's: one slow reader
//! makes no other wait.
//!
//! The third queue is for one event: that the guest was moved elsewhere.
//!
//! Source: `[virtio]` 1.2, section 5.10 "Socket Device". Read next: [`packet`].

pub mod packet;
pub mod connection;
pub mod hub;
pub mod greeting;
pub mod stream;
pub mod listener;
pub mod host;
pub mod exchange;
pub mod events;

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::bell::Bell;
use super::queue::Chain;
use super::state::{DeviceState, Unfit};
use super::{Broken, Buffers, Device, Inbox, Message, Request};
use crate::config::vsock::Vsock as Config;
use crate::memory::GuestMemory;
use connection::BUFFER;
use events::Events;
use exchange::Exchange;
use host::Watch;
use listener::Listener;
use packet::HEADER;

/// Number of the queue of buffers to be filled. `[virtio]` 5.10.2
const RECEIVE: usize = 0;
/// Number of the queue of the guest's packets.
const TRANSMIT: usize = 1;
/// Number of the queue for events.
const EVENT: usize = 2;
/// Entries of each of them.
const QUEUES: [u16; 3] = [256, 256, 8];
/// VIRTIO_VSOCK_F_STREAM: stream sockets, what there is. `[virtio]` 5.10.3
const F_STREAM: u64 = 1 << 0;

/// Why there is no socket device; each of these is the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its socket cannot be had.
    #[error(transparent)]
    Listener(#[from] listener::Error),
    /// The process has no file descriptor left.
    #[error("Cannot make an eventfd for --vsock")]
    Wake(#[source] io::Error),
}

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    config: [u8; 8],
    bell: Bell,
    state: Mutex<Exchange>,
    events: Events,
}

/// What a socket device remembers. Connections it cannot: programs of another host, or of another
/// time, are not at their other ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// A driver was at work.
    active: bool,
    /// The port last given to a program of the host's: the guest may still believe in connections
    /// of ports before it.
    last_port: u32,
}

impl Vsock {
    /// Makes the device that `config` describes.
    ///
    /// # Errors
    /// [`Error`] with the path and what to do.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let listener = Listener::new(&config.path)?;
        Ok(Self {
            // 5.10.4: the upper half is reserved, and zero.
            config: u64::from(config.cid).to_le_bytes(),
            bell: Bell::new().map_err(Error::Wake)?,
            state: Mutex::new(Exchange::new(config.cid, listener)),
            events: Events::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Exchange> {
        // A poisoned lock means that a thread panicked, and a panic ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for Vsock {
    fn name(&self) -> &'static str {
        "virtio-vsock"
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        F_STREAM
    }

    fn queues(&self) -> &'static [u16] {
        &QUEUES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn started(&self, _features: u64) {
        self.lock().start();
    }

    /// A driver that is gone has no connections: their programs find them closed.
    fn stopped(&self) {
        self.lock().stop();
        self.events.clear();
        // The thread may hold the sockets in poll(2).
        self.bell.ring();
    }

    fn save(&self) -> DeviceState {
        let Exchange { active, hub, .. } = &*self.lock();
        let (active, last_port) = (*active, hub.last_port);
        DeviceState::Vsock(State { active, last_port })
    }

    fn restore(&self, state: DeviceState) -> Result<(), Unfit> {
        let DeviceState::Vsock(state) = state else {
            return Err(Unfit::Device("it was no socket device"));
        };
        self.lock().hub.last_port = state.last_port;
        if state.active {
            self.events.connections_are_gone();
        }
        Ok(())
    }

    fn ready(&self, queue: usize) -> bool {
        if queue != TRANSMIT {
            return false;
        }
        let mut state = self.lock();
        state.stalled = !state.hub.has_room();
        !state.stalled
    }

    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken> {
        let head = request.chain.head;
        let wrong = |reason| Broken::Chain { head, reason };
        // 5.10.6.4: what a driver transmits is for the device to read.
        if !request.chain.writable.is_empty() {
            return Err(wrong("it has a part to write for a device that only reads"));
        }
        let state = &mut *self.lock();
        state.received.clear();
        for part in &request.chain.readable {
            let start = state.received.len();
            // More than fits into a connection's buffer is not for anybody.
            let room = HEADER + BUFFER as usize - start;
            state
                .received
                .resize(start + room.min(part.len as usize), 0);
            let place = state.received.get_mut(start..).unwrap_or(&mut []);
            let read = request.memory.read(part.gpa, place);
            read.map_err(|_numbers| wrong("it left RAM"))?;
        }
        state.take_in(head)?;
        Ok(0)
    }

    fn inbox(&self, queue: usize) -> Option<&dyn Inbox> {
        match queue {
            RECEIVE => Some(self),
            EVENT => Some(&self.events),
            _ => None,
        }
    }

    fn wait(&self) -> u32 {
        let watch = {
            let mut state = self.lock();
            match state.work() {
                0 if state.active => state.host.watch(&state.hub, state.listening),
                0 => Watch {
                    sockets: Vec::new(),
                    until: None,
                },
                queues => return queues,
            }
        };
        let sockets = watch.sockets.iter();
        let sockets = sockets.map(|(_, socket, wanted)| (socket.as_fd(), *wanted));
        let happened = self.bell.sleep(sockets, watch.until);
        let happened = watch.sockets.iter().zip(happened);
        let events: Vec<_> = happened
            .filter(|(_, happened)| !happened.is_empty())
            .map(|((who, ..), happened)| (*who, happened))
            .collect();
        let state = &mut *self.lock();
        if state.active {
            state.host.look(&mut state.hub, &events);
            state.unstage();
        }
        state.work()
    }

    fn wake(&self, _thread: &Thread) {
        self.bell.ring();
    }
}

impl Inbox for Vsock {
    fn listen(&self, whether: bool) {
        self.lock().listening = whether;
    }

    fn fetch(&self, _features: u64, _ready: &Buffers<'_>) -> Option<Message> {
        let state = &mut *self.lock();
        if state.staged.is_none() && state.packet.is_none() && !state.hub.has_packet() {
            state.fetch_bytes();
        }
        state.packet = state.packet.take().or_else(|| state.hub.next_packet());
        let len = match (&state.packet, &state.staged) {
            (Some(_), _) => HEADER,
            // A byte at least, and as many as there is room for.
            (None, Some(_)) => HEADER + 1,
            (None, None) => return None,
        };
        // 5.10.6.4: a packet is in one buffer.
        let spreads = false;
        Some(Message { len, spreads })
    }

    fn deliver(
        &self,
        memory: &GuestMemory,
        chains: &[Chain],
        used: &mut Vec<(u16, u32)>,
    ) -> Result<(), Broken> {
        let state = &mut *self.lock();
        let Some(chain) = chains.first() else {
            return Ok(());
        };
        let room = chain.writable.iter().map(|part| part.len as usize).sum();
        // A reset in between leaves nothing, and the queue is gone then too.
        let range = state.next_packet(room).unwrap_or(0..0);
        let mut rest = state.stage.get(range).unwrap_or(&[]);
        let written = u32::try_from(rest.len()).unwrap_or(0);
        for part in &chain.writable {
            let (now, later) = rest.split_at((part.len as usize).min(rest.len()));
            memory
                .write(part.gpa, now)
                .map_err(|_numbers| Broken::Chain {
                    head: chain.head,
                    reason: "it left RAM",
                })?;
            rest = later;
        }
        used.push((chain.head, written));
        Ok(())
    }

    /// A guest whose buffers hold no header hears nothing; its connections cannot go on.
    fn discard(&self) {
        let state = &mut *self.lock();
        if state.packet.take().is_none()
            && let Some((key, _)) = state.staged.take()
        {
            state.host.close(key);
            state.hub.break_off(key);
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
