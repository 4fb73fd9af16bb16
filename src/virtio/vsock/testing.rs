//! A driver of both queues of a socket device, and programs at its sockets.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_STATUS,
};

use super::packet::{HEADER, HOST_CID, Header, Op, STREAM};
use super::{Config, EVENT, F_STREAM, RECEIVE, TRANSMIT, Vsock};
use crate::virtio::testing::{Guest, Part, read, wait, write};

pub(super) const CID: u32 = 3;
/// Entries of each of the driver's queues, and where it has their parts.
pub(super) const SIZE: u16 = 8;
pub(super) const DESCRIPTORS: [u64; 3] = [0x1000, 0x4000, 0x7000];
pub(super) const AVAILABLE: [u64; 3] = [0x2000, 0x5000, 0x8000];
pub(super) const USED: [u64; 3] = [0x3000, 0x6000, 0x9000];
/// Where it has its buffer for an event.
pub(super) const EVENT_BUFFER: u64 = 0xa000;
/// Where it has its buffers, a page each, and the packet it sends.
pub(super) const BUFFERS: u64 = 0x1_0000;
pub(super) const PACKET: u64 = 0x10_0000;

/// A guest with a socket device; the files of its sockets go with it.
pub(super) struct Machine {
    pub(super) path: PathBuf,
    pub(super) guest: Guest,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self::with(Guest::with)
    }

    /// The same guest in another machine, with another path.
    pub(super) fn moved(self) -> Self {
        let text = serde_json::to_string(&self.guest.transport.suspend()).unwrap();
        let memory = self.guest.memory.clone();
        let other = Self::with(|vsock| Guest::over(memory, Arc::new(vsock)));
        let state = serde_json::from_str(&text).unwrap();
        other.guest.transport.resume(state).unwrap();
        other
    }

    fn with(make: impl FnOnce(Vsock) -> Guest) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cottage-vsock-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let config = Config {
            path: path.clone(),
            cid: CID,
        };
        let guest = make(Vsock::open(&config).unwrap());
        Self { path, guest }
    }

    pub(super) fn driver(&self) -> Driver<'_> {
        Driver::start(&self.guest)
    }

    /// A driver that was in another machine.
    pub(super) fn driver_again(&self, next: [u16; 3], seen: [u16; 3]) -> Driver<'_> {
        let guest = &self.guest;
        Driver { guest, next, seen }
    }

    /// A program that says these words first.
    pub(super) fn program(&self, words: &str) -> UnixStream {
        let mut program = UnixStream::connect(&self.path).unwrap();
        patient(&program);
        program.write_all(words.as_bytes()).unwrap();
        program
    }

    /// A program that listens for what the guest sends to `port`.
    pub(super) fn listener(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.at_port(port)).unwrap()
    }

    pub(super) fn at_port(&self, port: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        path.into()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for port in [80, 81] {
            let _not_there = fs::remove_file(self.at_port(port));
        }
    }
}

pub(super) fn patient(program: &UnixStream) {
    let limit = Some(Duration::from_secs(10));
    program.set_read_timeout(limit).unwrap();
    program.set_write_timeout(limit).unwrap();
}

/// Reads `len` bytes.
pub(super) fn take(program: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    program.read_exact(&mut bytes).unwrap();
    bytes
}

/// What is left to read until the other side ends.
pub(super) fn rest(program: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    program.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A driver of all queues.
pub(super) struct Driver<'a> {
    pub(super) guest: &'a Guest,
    pub(super) next: [u16; 3],
    pub(super) seen: [u16; 3],
}

impl<'a> Driver<'a> {
    pub(super) fn start(guest: &'a Guest) -> Self {
        let driver = guest.driver();
        assert_eq!(driver.negotiate(F_STREAM), 0xb);
        guest.store(DESCRIPTORS[0], &[0; 0x9000]);
        for queue in [RECEIVE, TRANSMIT, EVENT] {
            driver.set(VIRTIO_MMIO_QUEUE_SEL, u32::try_from(queue).unwrap());
            driver.set(VIRTIO_MMIO_QUEUE_NUM, SIZE.into());
            let parts = [DESCRIPTORS[queue], AVAILABLE[queue], USED[queue]];
            for (register, part) in (0x80..).step_by(0x10).zip(parts) {
                driver.set(register, u32::try_from(part).unwrap());
                driver.set(register + 4, 0);
            }
            driver.set(VIRTIO_MMIO_QUEUE_READY, 1);
        }
        driver.set(VIRTIO_MMIO_STATUS, 0xf);
        let (next, seen) = ([0; 3], [0; 3]);
        Self { guest, next, seen }
    }

    /// Gives a buffer for an event.
    pub(super) fn give_event_buffer(&mut self) {
        self.describe(EVENT, 0, write(EVENT_BUFFER, 8));
        self.offer(EVENT, 0);
    }

    pub(super) fn describe(&self, queue: usize, index: u16, part: Part) {
        let mut bytes = part.at.to_le_bytes().to_vec();
        bytes.extend(part.len.to_le_bytes());
        bytes.extend(&part.flags.to_le_bytes()[..2]);
        bytes.extend([0, 0]);
        let at = DESCRIPTORS[queue] + 16 * u64::from(index);
        self.guest.store(at, &bytes);
    }

    pub(super) fn offer(&mut self, queue: usize, head: u16) {
        let slot = AVAILABLE[queue] + 4 + 2 * u64::from(self.next[queue] % SIZE);
        self.guest.store(slot, &head.to_le_bytes());
        self.next[queue] = self.next[queue].wrapping_add(1);
        let index = self.next[queue].to_le_bytes();
        self.guest.store(AVAILABLE[queue] + 2, &index);
        let number = u32::try_from(queue).unwrap();
        self.guest.driver().set(VIRTIO_MMIO_QUEUE_NOTIFY, number);
    }

    /// Gives `count` buffers of `len` bytes.
    pub(super) fn give(&mut self, count: u16, len: u32) {
        for head in 0..count {
            let at = BUFFERS + u64::from(head) * 0x1000;
            self.describe(RECEIVE, head, write(at, len));
            self.offer(RECEIVE, head);
        }
    }

    pub(super) fn used(&self, queue: usize) -> u16 {
        self.guest.u16_at(USED[queue] + 2)
    }

    /// Offers the bytes of a packet, as many as the descriptor says.
    pub(super) fn offer_packet(&mut self, bytes: &[u8], len: u32) {
        self.guest.store(PACKET, bytes);
        self.describe(TRANSMIT, 0, read(PACKET, len));
        self.offer(TRANSMIT, 0);
    }

    /// Sends a packet and waits until the device has read it.
    pub(super) fn send(&mut self, header: &Header, payload: &[u8]) {
        let bytes = [&header.to_bytes()[..], payload].concat();
        self.offer_packet(&bytes, u32::try_from(bytes.len()).unwrap());
        wait(|| self.used(TRANSMIT) == self.next[TRANSMIT]);
    }

    pub(super) fn say(&mut self, op: Op, guest: u32, host: u32) {
        self.send(&packet(op, guest, host), &[]);
    }

    pub(super) fn say_bytes(&mut self, guest: u32, host: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap();
        let header = Header {
            len,
            ..packet(Op::Data, guest, host)
        };
        self.send(&header, payload);
    }

    pub(super) fn shut(&mut self, guest: u32, host: u32, flags: u32) {
        let header = packet(Op::Shutdown, guest, host);
        self.send(&Header { flags, ..header }, &[]);
    }

    /// The next packet from the host; its buffer is given back.
    #[track_caller]
    pub(super) fn hear(&mut self) -> (Header, Vec<u8>) {
        wait(|| self.used(RECEIVE) != self.seen[RECEIVE]);
        let at = USED[RECEIVE] + 4 + 8 * u64::from(self.seen[RECEIVE] % SIZE);
        let head = self.guest.u16_at(at);
        let len = usize::from(self.guest.u16_at(at + 4));
        self.seen[RECEIVE] = self.seen[RECEIVE].wrapping_add(1);
        let bytes = self.guest.bytes(BUFFERS + u64::from(head) * 0x1000, len);
        let (header, payload) = bytes.split_first_chunk::<HEADER>().unwrap();
        let header = Header::from_bytes(header);
        assert_eq!(header.len as usize, payload.len());
        assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID.into()));
        let payload = payload.to_vec();
        self.offer(RECEIVE, head);
        (header, payload)
    }

    /// The next packet must be this one, without bytes.
    #[track_caller]
    pub(super) fn expect(&mut self, op: Op, guest: u32, host: u32) -> Header {
        let (header, payload) = self.hear();
        let got = (Op::from_number(header.op), header.dst_port, header.src_port);
        assert_eq!((got, payload), ((Some(op), guest, host), Vec::new()));
        header
    }

    /// The bytes of the next `count` packets, which must be nothing else.
    #[track_caller]
    pub(super) fn expect_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let (header, payload) = self.hear();
            assert_eq!(Op::from_number(header.op), Some(Op::Data));
            bytes.extend(payload);
        }
        bytes
    }

    /// Connects from port `guest` to `listener` at port 80.
    pub(super) fn connect(&mut self, listener: &UnixListener, guest: u32) -> UnixStream {
        self.say(Op::Request, guest, 80);
        self.expect(Op::Response, guest, 80);
        let program = listener.accept().unwrap().0;
        patient(&program);
        program
    }
}

/// A packet of the guest's, with room for 1000 bytes in its buffer.
pub(super) fn packet(op: Op, guest: u32, host: u32) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: HOST_CID,
        src_port: guest,
        dst_port: host,
        kind: STREAM,
        op: op as u16,
        buf_alloc: 1000,
        ..Header::default()
    }
}
