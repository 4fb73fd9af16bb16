//! Ports: channels of bytes between programs of the guest's and of the host's, by name.
//!
//! - [`channel`]: the host's end, a Unix socket, a file or a FIFO;
//! - `line`: what is between that and the guest: bytes that wait, and who knows what;
//! - [`state`]: the same as a value, without the host's end.
//!
//! ```text
//!  queue 2, to the guest:    PORT_ADD, PORT_NAME; PORT_OPEN when somebody connects, and leaves
//!  queue 3, to the device:   DEVICE_READY, PORT_READY; PORT_OPEN when a program opens, and closes
//!  queues 2n+2 and 2n+3:     bytes of port n; n counts from 1, 0 would be a console
//! ```
//!
//! This is the device of section 5.3 with VIRTIO_CONSOLE_F_MULTIPORT and no console in it. That one is
//! a device of its own ([`super::console`]): it needs no thread, and works before messages do.
//!
//! What waits is bounded: one read for each port, one request of the guest's, and no queue of
//! messages at all, because each follows from what the guest has been told and what is so. While
//! no program in the guest has a port open, nothing is read for it. A connection that ends is told
//! before the next is accepted, so that two are never taken for one.
//!
//! Source: `[virtio]` 1.2, section 5.3. Read next: [`channel`].

pub mod channel;
mod line;
pub mod state;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::bell::Bell;
use super::queue::Chain;
use super::state::{DeviceState, Unfit};
use super::{Broken, Buffers, Device, Inbox, Message, Request, stream};
use crate::config::port::{self, MAX_PORTS};
use crate::memory::GuestMemory;
use channel::Channel;
use line::{Guest, Line, Port};

/// VIRTIO_CONSOLE_F_MULTIPORT, bit 1. `[virtio]` 5.3.3
const F_MULTIPORT: u64 = 1 << 1;
/// "control receiveq". `[virtio]` 5.3.2
const CONTROL_RECEIVE: usize = 2;
/// "control transmitq". `[virtio]` 5.3.2
const CONTROL_TRANSMIT: usize = 3;
/// Entries of each queue. Linux keeps a page in each of a receiveq's.
const QUEUE: u16 = 16;
/// Most queues: those of port 0, of the control, and of each port.
const QUEUES: [u16; 4 + 2 * MAX_PORTS] = [QUEUE; 4 + 2 * MAX_PORTS];
/// struct virtio_console_control: id, event, value. `[virtio]` 5.3.6.2
const CONTROL: usize = 8;
/// Most bytes in one request; Linux has 32 KiB for write(2), and a pipe's for splice(2).
const MAX_REQUEST: usize = 1 << 20; // 1 MiB
// Events of control messages. `[virtio]` 5.3.6.2
const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// Why there are no ports; the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of them cannot be.
    #[error(transparent)]
    Channel(#[from] channel::Error),
    /// The process has no file descriptor left.
    #[error("Cannot make an eventfd for --port")]
    Wake(#[source] io::Error),
}

/// The device with all ports.
#[derive(Debug)]
pub struct Ports {
    ports: Vec<Port>,
    /// struct virtio_console_config: cols and rows, which nothing here has, then max_nr_ports.
    config: [u8; 8],
    bell: Bell,
    /// There may be a message for the guest.
    news: AtomicBool,
}

impl Ports {
    /// Opens the host's ends of `ports`; `tell` passes on what the user should know.
    ///
    /// # Errors
    /// [`Error`] with the port's name and path.
    pub fn open(ports: &[port::Port], tell: fn(&str)) -> Result<Self, Error> {
        let open = |port: &port::Port| {
            let state = Line {
                channel: Channel::open(port)?,
                guest: Guest::default(),
                incoming: VecDeque::new(),
                input_ended: false,
                left: false,
                other_before: false,
                outgoing: Vec::new(),
                sent: 0,
            };
            Ok::<_, Error>(Port {
                name: port.name.clone(),
                tell,
                state: Mutex::new(state),
            })
        };
        let [low, high, ..] = (ports.len() + 1).to_le_bytes();
        Ok(Self {
            ports: ports.iter().map(open).collect::<Result<_, _>>()?,
            config: [0, 0, 0, 0, low, high, 0, 0],
            bell: Bell::new().map_err(Error::Wake)?,
            news: AtomicBool::new(false),
        })
    }

    /// The port that `queue` belongs to.
    fn port(&self, queue: usize) -> Option<&Port> {
        // Queues 4 and 5 are port 1's, which is the first.
        self.ports.get((queue / 2).checked_sub(2)?)
    }

    /// What the driver says.
    fn hear(&self, text: &[u8]) {
        let Some(&[a, b, c, d, e, f, g, h]) = text.first_chunk::<CONTROL>() else {
            return;
        };
        let (id, event) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
        let yes = u16::from_le_bytes([g, h]) != 0;
        let index = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        let port = index.and_then(|index| self.ports.get(index));
        match (event, port) {
            (DEVICE_READY, _) => self
                .ports
                .iter()
                .for_each(|port| port.lock().guest.add = yes),
            (PORT_READY, Some(port)) => {
                let guest = &mut port.lock().guest;
                (guest.ready, guest.name) = (yes, yes);
            }
            (PORT_OPEN, Some(port)) => {
                let state = &mut *port.lock();
                state.guest.open = yes;
                // It was for the program that has gone.
                state.incoming.clear();
            }
            // An event that drivers do not send, or of a port that does not exist.
            _ => {}
        }
    }

    /// What the guest is to be told next, and of which port.
    fn next_message(&self) -> Option<(&Port, Vec<u8>, u16)> {
        (1_u32..).zip(&self.ports).find_map(|(id, port)| {
            let (event, value) = port.lock().news()?;
            let mut text = id.to_le_bytes().to_vec();
            text.extend(event.to_le_bytes());
            text.extend(u16::from(value).to_le_bytes());
            if event == PORT_NAME {
                text.extend(port.name.as_bytes());
            }
            Some((port, text, event))
        })
    }
}

impl Device for Ports {
    fn name(&self) -> &'static str {
        "virtio-ports"
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        F_MULTIPORT
    }

    fn queues(&self) -> &'static [u16] {
        QUEUES.get(..4 + 2 * self.ports.len()).unwrap_or(&QUEUES)
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn stopped(&self) {
        for port in &self.ports {
            let state = &mut *port.lock();
            state.guest = Guest::default();
            state.incoming.clear();
        }
    }

    fn save(&self) -> DeviceState {
        DeviceState::Ports(self.ports.iter().map(Port::save).collect())
    }

    fn restore(&self, state: DeviceState) -> Result<(), Unfit> {
        self.take_over(state)
    }

    fn ready(&self, queue: usize) -> bool {
        match self.port(queue) {
            Some(port) => port.send(&mut port.lock()),
            // The console that there is not: its queues stay as they are.
            None => queue == CONTROL_TRANSMIT,
        }
    }

    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken> {
        if request.queue == CONTROL_TRANSMIT {
            let mut text = Vec::new();
            stream::collect(request, MAX_REQUEST, &mut text)?;
            self.hear(&text);
            self.news.store(true, Ordering::Release);
        } else if let Some(port) = self.port(request.queue) {
            let state = &mut *port.lock();
            stream::collect(request, MAX_REQUEST, &mut state.outgoing)?;
            state.sent = 0;
            port.send(state);
        }
        Ok(0)
    }

    fn inbox(&self, queue: usize) -> Option<&dyn Inbox> {
        match queue {
            CONTROL_RECEIVE => Some(self),
            // An even number above it.
            _ if queue.is_multiple_of(2) => self.port(queue).map(|port| port as &dyn Inbox),
            _ => None,
        }
    }

    fn wait(&self) -> u32 {
        if self.news.swap(false, Ordering::AcqRel) {
            return 1 << CONTROL_RECEIVE;
        }
        let (mut numbers, mut watched) = (Vec::new(), Vec::new());
        for (number, port) in self.ports.iter().enumerate() {
            if let Some(fd) = port.lock().watched() {
                numbers.push(number);
                watched.push(fd);
            }
        }
        let mut queues = 0;
        let watched = watched.iter().map(|(fd, wanted)| (fd.as_fd(), *wanted));
        for (number, events) in numbers.into_iter().zip(self.bell.sleep(watched, None)) {
            let Some(port) = self.ports.get(number).filter(|_| !events.is_empty()) else {
                continue;
            };
            let state = &mut *port.lock();
            if state.happened(events) {
                queues |= 1 << CONTROL_RECEIVE;
            }
            // Here too, or without a driver who would ask [`Device::ready`] it would never be gone.
            port.send(state);
            // Both of its queues: queue 4, and 5, are the first port's.
            queues |= 0b11 << (4 + 2 * number);
        }
        queues
    }

    fn wake(&self, _thread: &Thread) {
        self.bell.ring();
    }
}

/// The control receiveq.
impl Inbox for Ports {
    fn listen(&self, _whether: bool) {}

    fn fetch(&self, _features: u64, _ready: &Buffers<'_>) -> Option<Message> {
        let (_, text, _) = self.next_message()?;
        let len = text.len();
        let spreads = false;
        Some(Message { len, spreads })
    }

    fn deliver(
        &self,
        memory: &GuestMemory,
        chains: &[Chain],
        used: &mut Vec<(u16, u32)>,
    ) -> Result<(), Broken> {
        if let Some((port, text, event)) = self.next_message() {
            stream::spread(memory, chains, &mut text.into(), used)?;
            port.lock().told(event);
        }
        Ok(())
    }

    /// A driver with buffers too small for a name does without.
    fn discard(&self) {
        if let Some((port, _, event)) = self.next_message() {
            port.lock().told(event);
        }
    }
}

#[cfg(test)]
mod tests;
