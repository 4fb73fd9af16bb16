//! The network card.
//!
//! - [`link`]: where its cable leads, a tap device or passt;
//! - [`tap`]: frames from and to the host's network;
//! - [`passt`]: frames from and to a program that needs no rights;
//! - [`incoming`]: the frame that came, and where it is;
//! - [`state`]: frames on their way, as a value.
//!
//! ```text
//!  transmit:  request ── writev(2) ──▶ tap device
//!             request ── copied once ──▶ outgoing ── write(2) ──▶ passt, when it has room
//!  receive:   tap device ── readv(2) ──▶ the guest's buffers
//!             passt ── read(2) ──▶ incoming: one frame ── spread over buffers ──▶ guest
//! ```
//!
//! One thread serves a card's two queues, and sleeps in poll(2). Frames are fetched only when the
//! guest has given buffers, one at a time: a guest that gives none makes the host's own queue run
//! full, as a slow card would. A frame too large for the guest's buffers is dropped, as is one
//! that the host does not take: networks may lose frames.
//!
//! In front of each frame stands a header of 12 bytes, by which checksums and the cutting of large
//! frames are left to the other side (5.1.6.1). A tap device understands it, and the host's
//! kernel checks what a guest wrote there. passt does not; then nothing of this is offered.
//!
//! Source: `[virtio]` 1.2, section 5.1 "Network Device". Read next: [`link`].

pub mod link;
pub mod tap;
pub mod passt;
pub mod incoming;
pub mod state;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};

use super::queue::Chain;
use super::state::{DeviceState, Unfit};
use super::{Broken, Buffers, Device, Inbox, Message, Request};
use crate::config::net::Net;
use crate::memory::GuestMemory;
use incoming::Incoming;
use link::Link;

/// Number of the queue of buffers to be filled. `[virtio]` 5.1.2
const RECEIVE: usize = 0;
/// Number of the queue of frames to be sent.
const TRANSMIT: usize = 1;
/// Entries of each queue.
const QUEUE: u16 = 256;
/// struct virtio_net_hdr, with num_buffers. `[virtio]` 5.1.6
pub const HEADER: usize = 12;
/// num_buffers' place in it.
const NUM_BUFFERS: usize = 10;
/// Largest frame: an IP packet of 64 KiB behind an Ethernet header with a VLAN tag.
pub const MAX_FRAME: usize = (64 << 10) + 18;
/// Bytes of the configuration space that features of ours give a meaning. `[virtio]` 5.1.4
const CONFIG: usize = 12;

/// What only a host that understands headers can do.
const OFFLOADS: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN;

/// Why a network card cannot be attached; each of these is the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tap device is not to be had.
    #[error(transparent)]
    Tap(#[from] tap::Error),
    /// passt is not.
    #[error(transparent)]
    Passt(#[from] passt::Error),
    /// The process has no file descriptor left.
    #[error("Cannot make an eventfd for --net")]
    Wake(#[source] io::Error),
}

/// A network card.
#[derive(Debug)]
pub struct Card {
    label: String,
    config: [u8; CONFIG],
    features: u64,
    link: Link,
    wake: OwnedFd,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
    tell: fn(&str),
}

/// The way from the guest.
#[derive(Debug)]
struct Outgoing {
    /// The frame last sent.
    buffer: Vec<u8>,
    /// From where on the link has not taken it yet.
    sent: usize,
}

impl Card {
    /// Connects the card that `net` describes; `tell` is used once, if its cable is cut.
    ///
    /// # Errors
    /// [`Error`] with the device's or program's name and what to do.
    pub fn open(net: &Net, tell: fn(&str)) -> Result<Self, Error> {
        let link = Link::open(net)?;
        let label = format!("virtio-net {}", link.name());
        Self::new(label, net.mac.0, link, tell)
    }

    /// A card whose cable leads to a test by `socket`, which waits for nothing.
    ///
    /// # Errors
    /// [`Error::Wake`].
    #[cfg(any(test, fuzzing))]
    pub fn played(socket: std::os::unix::net::UnixStream) -> Result<Self, Error> {
        let link = Link::User(passt::Passt::played(socket), link::Stream::default());
        Self::new("card".into(), [2, 0, 0, 0, 0, 1], link, |_| ())
    }

    fn new(label: String, mac: [u8; 6], link: Link, tell: fn(&str)) -> Result<Self, Error> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|e| Error::Wake(e.into()))?;
        let mut features = 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MRG_RXBUF;
        if link.understands_headers() {
            features |= OFFLOADS;
        }
        let mtu = link.mtu();
        if mtu.is_some() {
            features |= 1 << VIRTIO_NET_F_MTU;
        }
        Ok(Self {
            label,
            config: config(mac, mtu.unwrap_or(0)),
            features,
            link,
            wake,
            incoming: Mutex::default(),
            outgoing: Mutex::new(Outgoing {
                buffer: Vec::new(),
                sent: 0,
            }),
            tell,
        })
    }

    /// Copies a frame out of guest memory, header and all; false if it is none.
    fn collect(&self, request: &Request<'_>, frame: &mut Vec<u8>) -> Result<bool, Broken> {
        let parts = &request.chain.readable;
        let len = parts.iter().map(|part| part.len as usize).sum::<usize>();
        frame.clear();
        if len <= HEADER || len > HEADER + MAX_FRAME {
            return Ok(false);
        }
        frame.resize(len, 0);
        let mut rest = frame.as_mut_slice();
        for part in parts {
            let (now, later) = rest.split_at_mut((part.len as usize).min(rest.len()));
            request
                .memory
                .read(part.gpa, now)
                .map_err(|_numbers| left_ram(request.chain))?;
            rest = later;
        }
        // 5.1.6.2: a driver that did not agree to it says nothing in the header, and is not heard.
        if request.features & (1 << VIRTIO_NET_F_CSUM) == 0 {
            frame.iter_mut().take(HEADER).for_each(|byte| *byte = 0);
        }
        Ok(true)
    }

    fn cut(&self, incoming: &mut Incoming, error: &io::Error) {
        incoming.gone = true;
        (self.tell)(&format!(
            "{}: the network is gone: {error}; the guest goes on without",
            self.label
        ));
    }
}

fn left_ram(chain: &Chain) -> Broken {
    Broken::Chain {
        head: chain.head,
        reason: "it left RAM",
    }
}

/// struct virtio_net_config. Fields without a feature of ours stay zero.
fn config(mac: [u8; 6], mtu: u16) -> [u8; CONFIG] {
    let [a, b, c, d, e, f] = mac;
    let [low, high] = mtu.to_le_bytes();
    [a, b, c, d, e, f, 0, 0, 0, 0, low, high]
}

impl Device for Card {
    fn name(&self) -> &'static str {
        "virtio-net"
    }

    fn label(&self) -> String {
        self.label.clone()
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE, QUEUE]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn started(&self, features: u64) {
        let mut incoming = lock(&self.incoming);
        incoming.start();
        if let Err(error) = self.link.set_offloads(features) {
            self.cut(&mut incoming, &error);
        }
    }

    fn stopped(&self) {
        lock(&self.incoming).stop();
    }

    fn save(&self) -> DeviceState {
        DeviceState::Net(self.state())
    }

    fn restore(&self, state: DeviceState) -> Result<(), Unfit> {
        self.take_over(state)
    }

    fn ready(&self, _queue: usize) -> bool {
        let Outgoing { buffer, sent } = &mut *lock(&self.outgoing);
        self.link.send(buffer, sent);
        *sent == buffer.len()
    }

    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken> {
        if let Link::Tap(tap) = &self.link {
            return tap.pass_on(request).map(|()| 0);
        }
        let Outgoing { buffer, sent } = &mut *lock(&self.outgoing);
        *sent = 0;
        match self.collect(request, buffer) {
            Ok(true) => {
                *sent = self.link.wrap(buffer);
                self.link.send(buffer, sent);
                Ok(0)
            }
            other => {
                buffer.clear();
                other.map(|_no_frame| 0)
            }
        }
    }

    fn inbox(&self, queue: usize) -> Option<&dyn Inbox> {
        (queue == RECEIVE).then_some(self)
    }

    fn wait(&self) -> u32 {
        let (gone, hears) = {
            let incoming = lock(&self.incoming);
            let hears = incoming.waiting() == 0 && incoming.listening;
            (incoming.gone, hears)
        };
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, hears && !gone);
        wanted.set(PollFlags::OUT, lock(&self.outgoing).is_behind() && !gone); // not locked asleep
        let mut fds = [
            PollFd::new(&self.wake, PollFlags::IN),
            PollFd::from_borrowed_fd(self.link.as_fd(), wanted),
        ];
        // A link that is asked for nothing reports its end nevertheless, for ever.
        let used = if wanted.is_empty() { 1 } else { 2 };
        let _interrupted = poll(fds.split_at_mut(used).0, None);
        let [wake, link] = fds.map(|fd| fd.revents());
        if !wake.is_empty() {
            let _none_left = rustix::io::read(&self.wake, &mut [0; 8]);
        }
        if link.is_empty() {
            return 0;
        }
        1 << RECEIVE | 1 << TRANSMIT
    }

    fn wake(&self, _thread: &Thread) {
        // The only failure is a counter at its limit of 2^64 - 2: then it is awake anyway.
        let _awake_already = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Inbox for Card {
    fn listen(&self, whether: bool) {
        lock(&self.incoming).listening = whether;
    }

    fn expects(&self, features: u64) -> Message {
        Message {
            len: lock(&self.incoming).expects(&self.link),
            spreads: spreads(features),
        }
    }

    fn fetch(&self, features: u64, ready: &Buffers<'_>) -> Option<Message> {
        let mut incoming = lock(&self.incoming);
        if !incoming.gone
            && let Err(error) = incoming.fetch(&self.link, ready)
        {
            self.cut(&mut incoming, &error);
        }
        (incoming.waiting() > 0).then_some(Message {
            len: incoming.waiting(),
            spreads: spreads(features),
        })
    }

    fn deliver(
        &self,
        memory: &GuestMemory,
        chains: &[Chain],
        used: &mut Vec<(u16, u32)>,
    ) -> Result<(), Broken> {
        lock(&self.incoming).deliver(memory, chains, used)
    }

    fn discard(&self) {
        lock(&self.incoming).discard();
    }
}

/// Whether a frame may be spread over several buffers.
fn spreads(features: u64) -> bool {
    features & (1 << VIRTIO_NET_F_MRG_RXBUF) != 0
}

/// A poisoned lock means that a thread panicked, and a panic ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
