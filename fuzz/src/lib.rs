//! A driver that does what the fuzzer's bytes say, to any virtio device.
//!
//! The bytes become a list of steps: plain writes to registers, writes to guest memory, and whole
//! requests. A device is started as a driver does it before the first step, or next to nothing
//! would get past the negotiation; a step can take that back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use cottage::bus::MmioBus;
use cottage::control::Control;
use cottage::devices::ioapic::{IoApic, MsiSink};
use cottage::memory::GuestMemory;
use cottage::memory::layout::VIRTIO_ACPI;
use cottage::outcome::Ending;
use cottage::virtio::attach::{Sockets, attach};
use cottage::virtio::{Device, mmio::Transport};
use vm_memory::GuestAddress;

/// Guest RAM, in bytes.
const MEMORY: u64 = 2 << 20;
/// Entries of each queue.
const SIZE: u16 = 16;
/// Where queue 0 has its parts; each further queue has them 64 KiB above.
const RINGS: u64 = 0x1_0000;
/// Where requests' bytes are.
const BUFFERS: u64 = 0x10_0000;
/// How long a device is waited for after a request. Waiting for ever would make each input that a
/// device rightly does not answer a hang.
const PATIENCE: Duration = Duration::from_micros(500);

// [virtio] 4.2.2, table 4.1
const DRIVER_FEATURES_SEL: u64 = 0x24;
const DRIVER_FEATURES: u64 = 0x20;
const QUEUE_SEL: u64 = 0x30;
const QUEUE_NUM: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const STATUS: u64 = 0x70;
const QUEUE_DESC: u64 = 0x80;

/// One thing a driver does.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// Writes a register, or between registers.
    Set {
        /// Where in the window.
        offset: u16,
        /// What.
        value: u64,
        /// How many bytes of it: 1, 2, 4 or 8.
        width: u8,
    },
    /// Reads one.
    Get {
        /// Where in the window.
        offset: u16,
        /// How many bytes: 1, 2, 4 or 8.
        width: u8,
    },
    /// Writes to guest memory, near the rings and buffers.
    Store {
        /// Above the rings' start.
        at: u32,
        /// What.
        bytes: Vec<u8>,
    },
    /// Makes a request available and notifies.
    Request {
        /// Which queue.
        queue: u8,
        /// Its parts.
        parts: Vec<Part>,
    },
    /// Notifies without one.
    Notify(u8),
    /// Starts again, as a driver does.
    Start {
        /// Features of those offered.
        features: u64,
    },
}

/// A descriptor.
#[derive(Arbitrary, Debug)]
pub struct Part {
    /// The device writes it.
    pub writable: bool,
    /// Its content, if there is one; it is as long as that, and `more` bytes.
    pub bytes: Vec<u8>,
    /// Length without content.
    pub more: u32,
    /// Its address is this one, not a good one.
    pub at: Option<u64>,
    /// Its next descriptor and its flags are these, not good ones.
    pub wild: Option<(u16, u16)>,
}

impl Part {
    /// A good descriptor of bytes that the device reads.
    pub fn readable(bytes: Vec<u8>) -> Self {
        let (at, wild) = (None, None);
        Self {
            writable: false,
            bytes,
            more: 0,
            at,
            wild,
        }
    }

    /// A good descriptor of room that it writes.
    pub fn writable(room: u32) -> Self {
        let (at, wild) = (None, None);
        Self {
            writable: true,
            bytes: Vec::new(),
            more: room,
            at,
            wild,
        }
    }
}

struct Nowhere;

impl MsiSink for Nowhere {
    fn signal(&self, _address: u64, _data: u32) {}
}

impl std::fmt::Debug for Nowhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nowhere")
    }
}

struct Driver {
    bus: MmioBus,
    memory: Arc<GuestMemory>,
    transport: Arc<Transport>,
    available: Vec<u16>,
}

/// Does all `steps` to `device`, and ends it.
pub fn drive(device: Arc<dyn Device>, steps: &[Step]) {
    let memory = Arc::new(GuestMemory::new(MEMORY).expect("2 MiB"));
    let control = Arc::new(Control::new().expect("an eventfd"));
    let mut bus = MmioBus::new();
    let queues = device.queues().len();
    let mut sockets = Sockets {
        mmio: &mut bus,
        ioapic: Arc::new(IoApic::new(1, 24, Arc::new(Nowhere))),
        memory: memory.clone(),
        control: control.clone(),
        tell: |_| (),
    };
    let attached = attach(vec![device], &mut sockets).expect("a free address");
    let mut driver = Driver {
        bus,
        memory,
        transport: attached[0].clone(),
        available: vec![0; queues],
    };
    driver.start(u64::MAX);
    for step in steps.iter().take(64) {
        driver.act(step);
    }
    control.stop(Ending::Quit);
    driver.transport.server().shut_down();
}

impl Driver {
    fn set(&self, register: u64, value: u32) {
        self.bus
            .write(VIRTIO_ACPI.0 + register, &value.to_le_bytes());
    }

    fn get(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.bus.read(VIRTIO_ACPI.0 + register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Guest memory has an end; a write beyond it is the fuzzer's own and without effect.
    fn store(&self, at: u64, bytes: &[u8]) {
        let _beyond = self.memory.write(GuestAddress(at), bytes);
    }

    fn start(&mut self, features: u64) {
        self.set(STATUS, 0);
        self.set(STATUS, 3);
        let device = self.transport.server().device().features();
        let agreed = (device & features) | 1 << 32 | (features & 1 << 29);
        for (select, word) in [(0, agreed), (1, agreed >> 32)] {
            self.set(DRIVER_FEATURES_SEL, select);
            self.set(DRIVER_FEATURES, word as u32);
        }
        self.set(STATUS, 0xb);
        for queue in 0..self.available.len() as u32 {
            let rings = RINGS + u64::from(queue) * 0x1_0000;
            self.store(rings, &[0; 0x3000]);
            self.set(QUEUE_SEL, queue);
            self.set(QUEUE_NUM, SIZE.into());
            for (number, part) in [rings, rings + 0x1000, rings + 0x2000]
                .into_iter()
                .enumerate()
            {
                self.set(QUEUE_DESC + 0x10 * number as u64, part as u32);
                self.set(QUEUE_DESC + 0x10 * number as u64 + 4, 0);
            }
            self.set(QUEUE_READY, 1);
        }
        self.set(STATUS, 0xf);
        self.available.fill(0);
    }

    fn act(&mut self, step: &Step) {
        match step {
            Step::Set {
                offset,
                value,
                width,
            } => {
                let at = VIRTIO_ACPI.0 + u64::from(offset & 0xfff);
                self.bus.write(at, &value.to_le_bytes()[..width_of(*width)]);
            }
            Step::Get { offset, width } => {
                let at = VIRTIO_ACPI.0 + u64::from(offset & 0xfff);
                self.bus.read(at, &mut [0; 8][..width_of(*width)]);
            }
            Step::Store { at, bytes } => self.store(RINGS + u64::from(at & 0x1f_ffff), bytes),
            Step::Request { queue, parts } => self.request(*queue, parts),
            Step::Notify(queue) => self.set(QUEUE_NOTIFY, (*queue).into()),
            Step::Start { features } => self.start(*features),
        }
    }

    fn request(&mut self, queue: u8, parts: &[Part]) {
        let queue = usize::from(queue) % self.available.len();
        let rings = RINGS + queue as u64 * 0x1_0000;
        let head = self.available[queue] % SIZE;
        let count = parts.len().min(usize::from(SIZE)) as u16;
        let mut at = BUFFERS;
        for (part, number) in parts.iter().zip(0..count) {
            let index = (head + number) % SIZE;
            let len = (part.bytes.len() as u32).wrapping_add(part.more);
            let gpa = part.at.unwrap_or(at);
            self.store(gpa, &part.bytes);
            at += u64::from(len.min(0x1_0000));
            let mut flags = u16::from(part.writable) << 1;
            let mut next = (index + 1) % SIZE;
            if number + 1 < count {
                flags |= 1;
            }
            if let Some(wild) = part.wild {
                (flags, next) = wild;
            }
            let mut descriptor = gpa.to_le_bytes().to_vec();
            descriptor.extend(len.to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend(next.to_le_bytes());
            self.store(rings + 16 * u64::from(index), &descriptor);
        }
        let available = &mut self.available[queue];
        let slot = rings + 0x1004 + 2 * u64::from(*available % SIZE);
        *available = available.wrapping_add(1);
        let index = *available;
        self.store(slot, &head.to_le_bytes());
        self.store(rings + 0x1002, &index.to_le_bytes());
        self.set(QUEUE_NOTIFY, queue as u32);
        self.wait(rings, index);
    }

    /// Until the device's thread has seen the request, or gave up.
    fn wait(&self, rings: u64, index: u16) {
        if !self.transport.server().device().may_wait() {
            return;
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE && self.get(STATUS) & 0x40 == 0 {
            let mut used = [0; 2];
            let _there = self.memory.read(GuestAddress(rings + 0x2002), &mut used);
            if u16::from_le_bytes(used) == index {
                return;
            }
            std::thread::yield_now();
        }
    }
}

fn width_of(bits: u8) -> usize {
    1 << (bits & 3)
}
