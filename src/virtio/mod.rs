//! Chapter 8, second half: virtio, devices made for guests that know they are guests.
//!
//! A real disk controller is hundreds of registers, each an exit. A virtio device is a handful of
//! registers to agree on features and queues, and from then on requests in guest memory:
//!
//! ```text
//!  driver ── registers ──▶ mmio: Transport ── started, notified, reset ──▶ server: Server
//!    ▲                       4.2, 2.1, 2.2                                  │ pops, pushes
//!    │                                                                      ▼
//!    └── interrupt: Line ◀── used ring ─────────────────────────── Device: rng, blk, net ...
//! ```
//!
//! - [`mmio`]: the transport, registers in memory ("virtio over MMIO", version 2, nothing legacy);
//! - [`queue`]: requests out of guest memory, each value read once and checked once;
//! - [`server`]: who serves a queue, on which thread, until when;
//! - [`interrupt`]: how a driver is told;
//! - [`rng`]: random numbers, the smallest device;
//! - [`blk`]: disks, from files and block devices;
//! - [`net`]: network cards, to tap devices and passt;
//! - [`vsock`]: sockets, between the guest's programs and the host's;
//! - `stream`: what the next two have in common;
//! - `bell`: how a thread sleeps that serves sockets;
//! - [`console`]: the user's terminal, a page of text at a time;
//! - [`ports`]: channels between programs of the guest's and of the host's;
//! - [`balloon`]: memory that the guest gives back;
//! - [`fs`]: folders of the host's;
//! - [`pmem`]: files that are memory;
//! - [`state`]: a device between two requests, as a value;
//! - [`attach`]: from the configuration to devices at their addresses.
//!
//! A [`Device`] sees one checked request at a time and nothing else: no register, no ring, no
//! thread, no interrupt. A driver that breaks a rule ([`Broken`]) is told that its device needs a
//! reset, by `[virtio]` 2.1.1, and counted ([`Faults`]); the guest goes on, and so do we.
//!
//! What a device remembers is a plain value apart from its resources ([`state`]): files, sockets
//! and threads stay behind when it goes on elsewhere.
//!
//! Source: `[virtio]` Virtual I/O Device (VIRTIO) 1.2, OASIS Committee Specification 01, July 2022.
//! Read next: [`mmio`].

pub mod mmio;
pub mod queue;
pub mod server;
pub mod interrupt;
pub mod rng;
pub mod blk;
pub mod net;
pub mod vsock;
mod stream;
mod bell;
pub mod console;
pub mod ports;
pub mod balloon;
pub mod fs;
pub mod pmem;
pub mod state;
pub mod attach;

#[cfg(test)]
mod testing;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};

use crate::memory::GuestMemory;
use crate::memory::transfer::Segment;
use queue::{Chain, QueueSetup};
use state::{DeviceState, Unfit};

/// A number that a guest tells, and what it is of.
pub type Figure = (&'static str, u64);

/// What makes a device one: its number, its features, its configuration, its answers.
pub trait Device: fmt::Debug + Send + Sync {
    /// What reports call it.
    fn name(&self) -> &'static str;
    /// Which one it is, for the user.
    fn label(&self) -> String {
        self.name().to_owned()
    }
    /// Its kind. `[virtio]` 5
    fn id(&self) -> u32;
    /// The feature bits of its kind that it offers; the transport adds those of every device.
    fn features(&self) -> u64;
    /// The most entries each of its queues can have.
    fn queues(&self) -> &'static [u16];
    /// Its configuration space, if that does not change while the guest runs.
    fn config(&self) -> &[u8] {
        &[]
    }
    /// Reads its configuration space from `offset` on; `data` is zero where that has nothing.
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let bytes = self.config().get(offset..).unwrap_or(&[]);
        data.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
    }
    /// The driver writes to its configuration space.
    fn write_config(&self, _offset: usize, _data: &[u8]) {}
    /// Another number after each change of its configuration space. `[virtio]` 2.5
    fn config_generation(&self) -> u32 {
        0
    }
    /// Whether serving a request can take longer than a vCPU should stand still.
    fn may_wait(&self) -> bool;
    /// Whether the request just served goes back into `queue`, as if not taken: the driver gets it
    /// when it is served again, as soon as the device is [`Device::ready`] for it.
    fn keeps(&self, _queue: usize) -> bool {
        false
    }
    /// What the driver's side says of itself, for the user.
    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }
    /// Serves one request; returns how many bytes it wrote to the guest.
    ///
    /// # Errors
    /// [`Broken`] for a request that this kind of device cannot answer, not even with a failure.
    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken>;

    /// What it remembers, of its driver and from outside: a value without resources. Between two
    /// requests, and before [`Device::stopped`] makes it forget.
    fn save(&self) -> DeviceState {
        DeviceState::Nothing
    }
    /// Remembers `state`, with resources of its own; before [`Device::started`].
    ///
    /// # Errors
    /// [`Unfit`] if it is another kind's, or not what these resources can go on from.
    fn restore(&self, state: DeviceState) -> Result<(), Unfit> {
        state.expect_nothing()
    }

    // The rest is for devices to which something happens that no driver asked for.

    /// A driver is at work, and agreed to `features`.
    fn started(&self, _features: u64) {}
    /// No driver is at work any more.
    fn stopped(&self) {}
    /// Whether a request from `queue` can be taken now. When that changes, [`Device::wait`] ends.
    fn ready(&self, _queue: usize) -> bool {
        true
    }
    /// What fills the buffers of `queue`, if its requests are not served but filled.
    fn inbox(&self, _queue: usize) -> Option<&dyn Inbox> {
        None
    }
    /// Lets the device's thread sleep until there may be something to do, or until
    /// [`Device::wake`]; returns the queues to look at, a bit each.
    fn wait(&self) -> u32 {
        thread::park();
        0
    }
    /// Ends [`Device::wait`], the next one if there is none now.
    fn wake(&self, thread: &Thread) {
        thread.unpark();
    }
}

/// What comes from outside, for buffers that a driver has put into a queue.
pub trait Inbox {
    /// Whether there are buffers, and messages should end [`Device::wait`].
    fn listen(&self, whether: bool);
    /// What there should be buffers for before the next message is fetched, as far as it is known:
    /// one at least.
    fn expects(&self, _features: u64) -> Message {
        Message {
            len: 1,
            spreads: false,
        }
    }
    /// The message that is next, if there is one. It stays until delivered or thrown away. It may be
    /// written to the buffers that are `ready` here already; they come first when it is delivered.
    fn fetch(&self, features: u64, ready: &Buffers<'_>) -> Option<Message>;
    /// Writes it to `chains`, which have room for it, and lists what was written to which.
    ///
    /// # Errors
    /// [`Broken`] if they left RAM.
    fn deliver(
        &self,
        memory: &GuestMemory,
        chains: &[Chain],
        used: &mut Vec<(u16, u32)>,
    ) -> Result<(), Broken>;
    /// Throws it away: no buffer will ever do.
    fn discard(&self);
}

/// A driver's buffers.
#[derive(Clone, Copy, Debug)]
pub struct Buffers<'a> {
    /// Where they are.
    pub memory: &'a GuestMemory,
    /// In the driver's order.
    pub chains: &'a [Chain],
}

/// A message as far as buffers are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its length in bytes.
    pub len: usize,
    /// It may be spread over several buffers.
    pub spreads: bool,
}

/// One request, checked as far as any device's is.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The queue it came through.
    pub queue: usize,
    /// What driver and device agreed on.
    pub features: u64,
    /// The request.
    pub chain: &'a Chain,
    /// Where its segments are.
    pub memory: &'a GuestMemory,
}

/// A rule of the specification that a driver broke.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// A queue that cannot be one.
    #[error(
        "the queue of {} entries with its parts at {:#x}, {:#x} and {:#x} cannot be: {reason}",
        setup.size, setup.descriptors, setup.available, setup.used
    )]
    Queue {
        /// As the driver set it up.
        setup: QueueSetup,
        /// What is wrong with it.
        reason: String,
    },
    /// A ring's index is impossible, or the ring is gone.
    #[error("the driver's ring is damaged: {0}")]
    Ring(virtio_queue::Error),
    /// A request that is no request.
    #[error("request {head} cannot be: {reason}")]
    Chain {
        /// Its first descriptor.
        head: u16,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A part of a request outside of RAM.
    #[error("request {head} has a part outside of RAM: {:#x} bytes at {:#x}", segment.len, segment.gpa.0)]
    Segment {
        /// Its first descriptor.
        head: u16,
        /// The part.
        segment: Segment,
    },
    /// A status that does not follow from the one before.
    #[error("the driver wrote device status {wrote:#x} over {was:#x}")]
    Status {
        /// What it was.
        was: u8,
        /// What the driver wrote.
        wrote: u32,
    },
    /// A queue was changed while in use.
    #[error("the driver changed queue {0} while the device was using it")]
    BusyQueue(u32),
    /// No thread to serve the device: the host's fault, not the driver's, with the same end.
    #[error("the host has no thread for it: {0}")]
    NoThread(std::io::Error),
}

/// How often the drivers of one device broke a rule.
#[derive(Debug)]
pub struct Faults {
    count: AtomicU64,
    tell: fn(&str),
}

impl Faults {
    /// None yet; the first is put into words and given to `tell`.
    pub fn new(tell: fn(&str)) -> Self {
        let count = AtomicU64::new(0);
        Self { count, tell }
    }

    /// Counts one. Only the first is told: a guest could make any number of them.
    pub fn note(&self, device: &dyn Device, broken: &Broken) {
        if self.count.fetch_add(1, Ordering::Relaxed) == 0 {
            let label = device.label();
            (self.tell)(&format!(
                "{label}: {broken}; it does nothing until the guest resets it"
            ));
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
