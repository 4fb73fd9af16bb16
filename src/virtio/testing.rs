//! What the tests of this chapter share: a driver that can also break the rules.

mod echo;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::GuestAddress;

use super::Device;
use super::attach::{Sockets, attach};
use super::mmio::Transport;
use crate::bus::{MmioBus, MmioDevice};
use crate::control::Control;
use crate::devices::ioapic::{IoApic, MsiSink};
use crate::memory::GuestMemory;
use crate::memory::layout::{VIRTIO_ACPI, VIRTIO_CMDLINE, VIRTIO_GSI};
pub(in crate::virtio) use echo::Echo;

/// Counts interrupts.
#[derive(Debug, Default)]
pub(in crate::virtio) struct Sent(AtomicUsize);

impl Sent {
    pub(in crate::virtio) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl MsiSink for Sent {
    fn signal(&self, _address: u64, _data: u32) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// An I/O APIC whose pin `gsi` is unmasked, and where its interrupts arrive.
pub(in crate::virtio) fn pin(gsi: u32) -> (Arc<IoApic>, Arc<Sent>) {
    let sent = Arc::new(Sent::default());
    let ioapic = IoApic::new(1, 24, sent.clone());
    ioapic.write(0, &(0x10 + 2 * gsi).to_le_bytes());
    ioapic.write(0x10, &0x31_u32.to_le_bytes());
    (Arc::new(ioapic), sent)
}

/// Size of the test driver's queues, and where it puts the parts of queue 0.
pub(in crate::virtio) const SIZE: u16 = 8;
pub(in crate::virtio) const DESCRIPTORS: u64 = 0x1000;
pub(in crate::virtio) const AVAILABLE: u64 = 0x2000;
pub(in crate::virtio) const USED: u64 = 0x3000;

/// A machine with 2 MiB of RAM and one virtio device.
#[derive(Debug)]
pub(in crate::virtio) struct Guest {
    pub(in crate::virtio) bus: MmioBus,
    pub(in crate::virtio) memory: Arc<GuestMemory>,
    pub(in crate::virtio) transport: Arc<Transport>,
    pub(in crate::virtio) sent: Arc<Sent>,
    control: Arc<Control>,
}

/// A part of a request.
#[derive(Clone, Copy, Debug)]
pub(in crate::virtio) struct Part {
    pub(in crate::virtio) at: u64,
    pub(in crate::virtio) len: u32,
    pub(in crate::virtio) flags: u32,
}

/// One the device reads.
pub(in crate::virtio) fn read(at: u64, len: u32) -> Part {
    let flags = 0;
    Part { at, len, flags }
}

/// One the device writes.
pub(in crate::virtio) fn write(at: u64, len: u32) -> Part {
    let flags = VRING_DESC_F_WRITE;
    Part { at, len, flags }
}

impl Guest {
    pub(in crate::virtio) fn with(device: impl Device + 'static) -> Self {
        Self::with_shared(Arc::new(device))
    }

    /// With a device that the test keeps a hand on.
    pub(in crate::virtio) fn with_shared(device: Arc<dyn Device>) -> Self {
        Self::over(Arc::new(GuestMemory::new(2 << 20).unwrap()), device)
    }

    /// With memory that another machine had.
    pub(in crate::virtio) fn over(memory: Arc<GuestMemory>, device: Arc<dyn Device>) -> Self {
        let (ioapic, sent) = pin(VIRTIO_GSI);
        let control = Arc::new(Control::new().unwrap());
        let mut bus = MmioBus::new();
        let mut sockets = Sockets {
            mmio: &mut bus,
            ioapic,
            memory: memory.clone(),
            control: control.clone(),
            tell: |_| (),
        };
        let attached = attach(vec![device], &mut sockets).unwrap();
        Self {
            bus,
            memory,
            transport: attached[0].clone(),
            sent,
            control,
        }
    }

    /// A driver that found the device by ACPI.
    pub(in crate::virtio) fn driver(&self) -> Driver<'_> {
        Driver::at(self, VIRTIO_ACPI.0)
    }

    /// A driver that found it on the command line.
    pub(in crate::virtio) fn cmdline_driver(&self) -> Driver<'_> {
        Driver::at(self, VIRTIO_CMDLINE.0)
    }

    /// Another machine over the same memory, in which `device` goes on where this one's stopped.
    /// The state goes there as text.
    pub(in crate::virtio) fn moved(self, device: impl FnOnce() -> Arc<dyn Device>) -> Self {
        let text = serde_json::to_string(&self.transport.suspend()).unwrap();
        let memory = self.memory.clone();
        // First, as a disk can be written by one at a time.
        drop(self);
        let other = Self::over(memory, device());
        let state = serde_json::from_str(&text).unwrap();
        other.transport.resume(state).unwrap();
        other
    }

    /// A driver that does not know that it is in another machine.
    pub(in crate::virtio) fn driver_again(&self, place: Place) -> Driver<'_> {
        let Place(window, queue, next, seen) = place;
        Driver {
            guest: self,
            window,
            queue,
            next,
            seen,
        }
    }

    pub(in crate::virtio) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(GuestAddress(at), &mut bytes).unwrap();
        bytes
    }

    pub(in crate::virtio) fn store(&self, at: u64, bytes: &[u8]) {
        self.memory.write(GuestAddress(at), bytes).unwrap();
    }

    pub(in crate::virtio) fn u16_at(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.bytes(at, 2).try_into().unwrap())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.control.stop(crate::outcome::Ending::Quit);
        self.transport.server().shut_down();
    }
}

/// A driver.
#[derive(Debug)]
pub(in crate::virtio) struct Driver<'a> {
    guest: &'a Guest,
    window: u64,
    /// The queue that notifications are for.
    queue: u32,
    next: u16,
    seen: u16,
}

/// What a driver knows of its device: what it would have in guest memory.
#[derive(Clone, Copy, Debug)]
pub(in crate::virtio) struct Place(u64, u32, u16, u16);

impl Place {
    /// With new rings.
    pub(in crate::virtio) fn rewound(self) -> Self {
        Self(self.0, self.1, 0, 0)
    }
}

impl<'a> Driver<'a> {
    pub(in crate::virtio) fn place(&self) -> Place {
        Place(self.window, self.queue, self.next, self.seen)
    }

    fn at(guest: &'a Guest, window: u64) -> Self {
        let (next, seen) = (0, 0);
        let queue = 0;
        Self {
            guest,
            window,
            queue,
            next,
            seen,
        }
    }

    pub(in crate::virtio) fn get(&self, register: u32) -> u32 {
        let mut data = [0xee; 4];
        self.guest
            .bus
            .read(self.window + u64::from(register), &mut data);
        u32::from_le_bytes(data)
    }

    pub(in crate::virtio) fn set(&self, register: u32, value: u32) {
        let data = value.to_le_bytes();
        let request = self
            .guest
            .bus
            .write(self.window + u64::from(register), &data);
        assert_eq!(request, None);
    }

    /// The features that the device offers.
    pub(in crate::virtio) fn offered(&self) -> u64 {
        let words = [1, 0].map(|select| {
            self.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
            u64::from(self.get(VIRTIO_MMIO_DEVICE_FEATURES))
        });
        words[0] << 32 | words[1]
    }

    /// Up to FEATURES_OK, with VERSION_1 and `features`; returns the status.
    pub(in crate::virtio) fn negotiate(&self, features: u64) -> u32 {
        self.set(VIRTIO_MMIO_STATUS, 0);
        self.set(VIRTIO_MMIO_STATUS, 1);
        self.set(VIRTIO_MMIO_STATUS, 3);
        let features = (features | 1 << 32).to_le_bytes();
        for (select, word) in (0..).zip(features.chunks(4)) {
            self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            let word = u32::from_le_bytes(word.try_into().unwrap());
            self.set(VIRTIO_MMIO_DRIVER_FEATURES, word);
        }
        self.set(VIRTIO_MMIO_STATUS, 0xb);
        self.get(VIRTIO_MMIO_STATUS)
    }

    /// Sets up the queue with its parts at these places.
    pub(in crate::virtio) fn set_queue(&self, size: u32, parts: [u64; 3]) {
        self.set(VIRTIO_MMIO_QUEUE_SEL, self.queue);
        self.set(VIRTIO_MMIO_QUEUE_NUM, size);
        for (register, part) in (0x80..).step_by(0x10).zip(parts) {
            let bytes = part.to_le_bytes();
            let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            self.set(register, half(0));
            self.set(register + 4, half(4));
        }
        self.set(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    /// All the way to DRIVER_OK, with zeroed rings.
    pub(in crate::virtio) fn start(&mut self, features: u64) {
        assert_eq!(self.negotiate(features), 0xb);
        self.guest.store(DESCRIPTORS, &[0; 0x3000]);
        self.set_queue(SIZE.into(), [DESCRIPTORS, AVAILABLE, USED]);
        self.set(VIRTIO_MMIO_STATUS, 0xf);
        assert_eq!(self.get(VIRTIO_MMIO_STATUS), 0xf);
        (self.next, self.seen) = (0, 0);
    }

    /// The same for a device whose queue `queue` is to be tested.
    pub(in crate::virtio) fn start_queue(&mut self, queue: usize, features: u64) {
        self.queue = u32::try_from(queue).unwrap();
        self.start(features);
    }

    /// How many requests came back since the start.
    pub(in crate::virtio) fn used(&self) -> u16 {
        self.guest.u16_at(USED + 2)
    }

    /// Has seen all interrupts.
    pub(in crate::virtio) fn acknowledge(&self) {
        self.set(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    }

    /// Writes descriptor `index` as it is.
    pub(in crate::virtio) fn describe(&self, index: u16, part: Part, next: u16) {
        let mut bytes = part.at.to_le_bytes().to_vec();
        bytes.extend(part.len.to_le_bytes());
        bytes.extend(part.flags.to_le_bytes()[..2].iter());
        bytes.extend(next.to_le_bytes());
        self.guest
            .store(DESCRIPTORS + 16 * u64::from(index), &bytes);
    }

    /// Makes the chain that begins at `head` available, and notifies.
    pub(in crate::virtio) fn offer(&mut self, head: u16) {
        let slot = AVAILABLE + 4 + 2 * u64::from(self.next % SIZE);
        self.guest.store(slot, &head.to_le_bytes());
        self.next = self.next.wrapping_add(1);
        self.guest.store(AVAILABLE + 2, &self.next.to_le_bytes());
        self.set(VIRTIO_MMIO_QUEUE_NOTIFY, self.queue);
    }

    /// Puts one request of these parts into the queue, from descriptor 0 on.
    pub(in crate::virtio) fn put(&mut self, parts: &[Part]) {
        let last = parts.len() - 1;
        for (index, part) in (0..).zip(parts) {
            let mut part = *part;
            if usize::from(index) < last {
                part.flags |= VRING_DESC_F_NEXT;
            }
            self.describe(index, part, index + 1);
        }
        self.offer(0);
    }

    /// The requests that came back, as (head, bytes written), waiting for one at least.
    pub(in crate::virtio) fn done(&mut self) -> Vec<(u32, u32)> {
        wait(|| self.guest.u16_at(USED + 2) != self.seen);
        let mut done = Vec::new();
        while self.guest.u16_at(USED + 2) != self.seen {
            let at = USED + 4 + 8 * u64::from(self.seen % SIZE);
            let bytes = self.guest.bytes(at, 8);
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            done.push((word(0), word(4)));
            self.seen = self.seen.wrapping_add(1);
        }
        done
    }

    /// Fails unless the device gives up on this driver, tells it so, and comes back by a reset.
    #[track_caller]
    pub(in crate::virtio) fn expect_needs_reset(&self) {
        wait(|| self.get(VIRTIO_MMIO_STATUS) & 0x40 != 0);
        assert_eq!(self.guest.transport.server().faults().count(), 1);
        self.set(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(self.get(VIRTIO_MMIO_STATUS), 0);
        assert_eq!(self.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    }
}

/// Waits for what another thread does.
#[track_caller]
pub(in crate::virtio) fn wait(until: impl Fn() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < Duration::from_secs(10), "nothing came");
        std::thread::yield_now();
    }
}

/// A directory of a test's own; removed with the value.
#[derive(Debug)]
pub(in crate::virtio) struct Scratch(PathBuf);

impl Scratch {
    pub(in crate::virtio) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cottage-unit-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(in crate::virtio) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _nothing_left = std::fs::remove_dir_all(&self.0);
    }
}
