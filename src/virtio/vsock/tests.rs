//! A socket device between a driver of ours and programs of ours.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_STATUS,
};

use super::hub::{MAX_CONNECTIONS, MAX_REPLIES};
use super::packet::{HOST_CID, Op, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND, STREAM};
use super::*;
use crate::virtio::testing::{Guest, Part, read, wait, write};

const CID: u32 = 3;
/// Entries of each of the driver's queues, and where it has their parts.
const SIZE: u16 = 8;
const DESCRIPTORS: [u64; 2] = [0x1000, 0x4000];
const AVAILABLE: [u64; 2] = [0x2000, 0x5000];
const USED: [u64; 2] = [0x3000, 0x6000];
/// Where it has its buffers, a page each, and the packet it sends.
const BUFFERS: u64 = 0x1_0000;
const PACKET: u64 = 0x10_0000;

/// A guest with a socket device; the files of its sockets go with it.
struct Machine {
    path: PathBuf,
    guest: Guest,
}

impl Machine {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cottage-vsock-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let config = Config {
            path: path.clone(),
            cid: CID,
        };
        let guest = Guest::with(Vsock::open(&config).unwrap());
        Self { path, guest }
    }

    fn driver(&self) -> Driver<'_> {
        Driver::start(&self.guest)
    }

    /// A program that says these words first.
    fn program(&self, words: &str) -> UnixStream {
        let mut program = UnixStream::connect(&self.path).unwrap();
        patient(&program);
        program.write_all(words.as_bytes()).unwrap();
        program
    }

    /// A program that listens for what the guest sends to `port`.
    fn listener(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.at_port(port)).unwrap()
    }

    fn at_port(&self, port: u32) -> PathBuf {
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

fn patient(program: &UnixStream) {
    let limit = Some(Duration::from_secs(10));
    program.set_read_timeout(limit).unwrap();
    program.set_write_timeout(limit).unwrap();
}

/// Reads `len` bytes.
fn take(program: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    program.read_exact(&mut bytes).unwrap();
    bytes
}

/// What is left to read until the other side ends.
fn rest(program: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    program.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A driver of both queues.
struct Driver<'a> {
    guest: &'a Guest,
    next: [u16; 2],
    seen: [u16; 2],
}

impl<'a> Driver<'a> {
    fn start(guest: &'a Guest) -> Self {
        let driver = guest.driver();
        assert_eq!(driver.negotiate(F_STREAM), 0xb);
        guest.store(DESCRIPTORS[0], &[0; 0x6000]);
        for queue in [RECEIVE, TRANSMIT] {
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
        let (next, seen) = ([0; 2], [0; 2]);
        Self { guest, next, seen }
    }

    fn describe(&self, queue: usize, index: u16, part: Part) {
        let mut bytes = part.at.to_le_bytes().to_vec();
        bytes.extend(part.len.to_le_bytes());
        bytes.extend(&part.flags.to_le_bytes()[..2]);
        bytes.extend([0, 0]);
        let at = DESCRIPTORS[queue] + 16 * u64::from(index);
        self.guest.store(at, &bytes);
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let slot = AVAILABLE[queue] + 4 + 2 * u64::from(self.next[queue] % SIZE);
        self.guest.store(slot, &head.to_le_bytes());
        self.next[queue] = self.next[queue].wrapping_add(1);
        let index = self.next[queue].to_le_bytes();
        self.guest.store(AVAILABLE[queue] + 2, &index);
        let number = u32::try_from(queue).unwrap();
        self.guest.driver().set(VIRTIO_MMIO_QUEUE_NOTIFY, number);
    }

    /// Gives `count` buffers of `len` bytes.
    fn give(&mut self, count: u16, len: u32) {
        for head in 0..count {
            let at = BUFFERS + u64::from(head) * 0x1000;
            self.describe(RECEIVE, head, write(at, len));
            self.offer(RECEIVE, head);
        }
    }

    fn used(&self, queue: usize) -> u16 {
        self.guest.u16_at(USED[queue] + 2)
    }

    /// Offers the bytes of a packet, as many as the descriptor says.
    fn offer_packet(&mut self, bytes: &[u8], len: u32) {
        self.guest.store(PACKET, bytes);
        self.describe(TRANSMIT, 0, read(PACKET, len));
        self.offer(TRANSMIT, 0);
    }

    /// Sends a packet and waits until the device has read it.
    fn send(&mut self, header: &Header, payload: &[u8]) {
        let bytes = [&header.to_bytes()[..], payload].concat();
        self.offer_packet(&bytes, u32::try_from(bytes.len()).unwrap());
        wait(|| self.used(TRANSMIT) == self.next[TRANSMIT]);
    }

    fn say(&mut self, op: Op, guest: u32, host: u32) {
        self.send(&packet(op, guest, host), &[]);
    }

    fn say_bytes(&mut self, guest: u32, host: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap();
        let header = Header {
            len,
            ..packet(Op::Data, guest, host)
        };
        self.send(&header, payload);
    }

    fn shut(&mut self, guest: u32, host: u32, flags: u32) {
        let header = packet(Op::Shutdown, guest, host);
        self.send(&Header { flags, ..header }, &[]);
    }

    /// The next packet from the host; its buffer is given back.
    #[track_caller]
    fn hear(&mut self) -> (Header, Vec<u8>) {
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
    fn expect(&mut self, op: Op, guest: u32, host: u32) -> Header {
        let (header, payload) = self.hear();
        let got = (Op::from_number(header.op), header.dst_port, header.src_port);
        assert_eq!((got, payload), ((Some(op), guest, host), Vec::new()));
        header
    }

    /// The bytes of the next `count` packets, which must be nothing else.
    #[track_caller]
    fn expect_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let (header, payload) = self.hear();
            assert_eq!(Op::from_number(header.op), Some(Op::Data));
            bytes.extend(payload);
        }
        bytes
    }

    /// Connects from port `guest` to `listener` at port 80.
    fn connect(&mut self, listener: &UnixListener, guest: u32) -> UnixStream {
        self.say(Op::Request, guest, 80);
        self.expect(Op::Response, guest, 80);
        let program = listener.accept().unwrap().0;
        patient(&program);
        program
    }
}

/// A packet of the guest's, with room for 1000 bytes in its buffer.
fn packet(op: Op, guest: u32, host: u32) -> Header {
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

#[test]
fn virtio_5_10_4_configuration_has_the_context_id() {
    let machine = Machine::new();
    let driver = machine.guest.driver();
    assert_eq!((driver.get(0x100), driver.get(0x104)), (CID, 0));
    assert_eq!(driver.offered() & 0xffff, 1, "stream sockets");
    assert_eq!(driver.get(0x8), 19);
}

#[test]
fn virtio_5_10_6_5_program_reaches_a_port_of_the_guests() {
    let machine = Machine::new();
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    // What follows the greeting is for the guest.
    let mut program = machine.program("CONNECT 52\nhello");
    let port = 1 << 30;
    driver.expect(Op::Request, 52, port);
    driver.say(Op::Response, 52, port);
    assert_eq!(take(&mut program, 14), b"OK 1073741824\n");
    assert_eq!(driver.expect_bytes(5), b"hello");
    driver.say_bytes(52, port, b"good day");
    assert_eq!(take(&mut program, 8), b"good day");
}

#[test]
fn virtio_5_10_6_5_refused_program_finds_its_socket_closed() {
    let machine = Machine::new();
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let mut program = machine.program("CONNECT 52\n");
    driver.expect(Op::Request, 52, 1 << 30);
    driver.say(Op::Reset, 52, 1 << 30);
    assert_eq!(rest(&mut program), b"");
}

#[test]
fn virtio_5_10_6_5_guest_reaches_who_listens_at_its_port() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let mut program = driver.connect(&listener, 7);
    driver.say_bytes(7, 80, b"GET /");
    assert_eq!(take(&mut program, 5), b"GET /");
    program.write_all(b"200").unwrap();
    assert_eq!(driver.expect_bytes(3), b"200");
}

#[test]
fn virtio_5_10_6_5_port_where_nobody_listens_is_refused() {
    let machine = Machine::new();
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    driver.say(Op::Request, 7, 80);
    driver.expect(Op::Reset, 7, 80);
    // And a socket that its program left behind.
    drop(machine.listener(81));
    driver.say(Op::Request, 7, 81);
    driver.expect(Op::Reset, 7, 81);
}

#[test]
fn virtio_5_10_6_5_halves_end_one_by_one() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let mut program = driver.connect(&listener, 7);
    driver.say_bytes(7, 80, b"all I have");
    driver.shut(7, 80, SHUT_SEND);
    assert_eq!(rest(&mut program), b"all I have");
    program.write_all(b"an answer").unwrap();
    assert_eq!(driver.expect_bytes(9), b"an answer");
    program.shutdown(Shutdown::Write).unwrap();
    let shutdown = driver.expect(Op::Shutdown, 7, 80);
    assert_eq!(shutdown.flags, SHUT_SEND);
    driver.shut(7, 80, SHUT_BOTH);
    driver.expect(Op::Reset, 7, 80);
}

#[test]
fn virtio_5_10_6_5_guest_that_receives_no_more_stops_the_program() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let mut program = driver.connect(&listener, 7);
    driver.shut(7, 80, SHUT_RECEIVE);
    let error = program.write_all(b"too late").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    driver.say_bytes(7, 80, b"but I talk on");
    assert_eq!(take(&mut program, 13), b"but I talk on");
}

#[test]
fn program_that_went_away_ends_both_halves() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    drop(driver.connect(&listener, 7));
    assert_eq!(driver.expect(Op::Shutdown, 7, 80).flags, SHUT_SEND);
    driver.say_bytes(7, 80, b"anybody?");
    assert_eq!(driver.expect(Op::Shutdown, 7, 80).flags, SHUT_BOTH);
    // What was on its way is thrown away, not held against the guest.
    driver.say_bytes(7, 80, b"hello?");
    driver.say(Op::Reset, 7, 80);
    driver.say_bytes(7, 80, b"new");
    driver.expect(Op::Reset, 7, 80);
}

#[test]
fn virtio_5_10_6_3_no_more_is_sent_than_the_guest_has_room_for() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let mut program = driver.connect(&listener, 7);
    program.write_all(&[9; 2500]).unwrap();
    assert_eq!(driver.expect_bytes(1000).len(), 1000);
    driver.expect(Op::CreditRequest, 7, 80);
    let header = packet(Op::CreditUpdate, 7, 80);
    driver.send(
        &Header {
            fwd_cnt: 900,
            ..header
        },
        &[],
    );
    assert_eq!(driver.expect_bytes(900).len(), 900);
    driver.expect(Op::CreditRequest, 7, 80);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(driver.used(RECEIVE), driver.seen[RECEIVE], "nothing more");
}

#[test]
fn virtio_5_10_6_4_packets_fit_into_the_guests_buffers() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 100);
    let mut program = driver.connect(&listener, 7);
    let bytes: Vec<u8> = (0..250).collect();
    program.write_all(&bytes).unwrap();
    assert_eq!(driver.expect_bytes(250), bytes);
}

#[test]
fn buffers_too_small_for_a_header_end_the_connection_and_no_more() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 43);
    driver.say(Op::Request, 7, 80);
    let mut program = listener.accept().unwrap().0;
    patient(&program);
    program.write_all(b"hello").unwrap();
    assert_eq!(driver.used(RECEIVE), 0);
    assert_eq!(machine.guest.driver().get(0x70), 0xf);
}

/// A flow of bytes to a program that does not read.
#[derive(Default)]
struct Flood {
    sent: usize,
    forwarded: usize,
}

impl Flood {
    /// Sends as much as the guest was promised room for, until it is promised no more.
    fn rise(&mut self, driver: &mut Driver<'_>, guest: u32) {
        loop {
            while self.sent < self.forwarded + BUFFER as usize {
                let room = self.forwarded + BUFFER as usize - self.sent;
                let now = room.min(0x8000);
                driver.say_bytes(guest, 80, &vec![5; now]);
                self.sent += now;
            }
            driver.say(Op::CreditRequest, guest, 80);
            let mut told = driver.hear().0.fwd_cnt;
            // Updates that were on their way, and the answer.
            std::thread::sleep(Duration::from_millis(20));
            while driver.used(RECEIVE) != driver.seen[RECEIVE] {
                told = driver.hear().0.fwd_cnt;
            }
            if told as usize == self.forwarded {
                return;
            }
            self.forwarded = told as usize;
        }
    }
}

#[test]
fn guest_that_floods_a_slow_program_is_held_by_its_credit_and_holds_nobody() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let mut slow = driver.connect(&listener, 7);
    let mut other = driver.connect(&listener, 8);
    let mut flood = Flood::default();
    flood.rise(&mut driver, 7);
    // The host's own buffer, and ours.
    assert!(flood.sent < (1 << 20), "{}", flood.sent);
    driver.say_bytes(8, 80, b"meanwhile");
    assert_eq!(take(&mut other, 9), b"meanwhile");
    let before = flood.sent;
    assert_eq!(take(&mut slow, before), vec![5; before]);
    flood.rise(&mut driver, 7);
    // And now without credit.
    driver.say_bytes(7, 80, &[6]);
    driver.expect(Op::Reset, 7, 80);
    assert!(rest(&mut slow).len() <= flood.sent - before);
}

#[test]
fn what_a_slow_program_has_not_read_outlives_the_connection() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let mut slow = driver.connect(&listener, 7);
    let mut flood = Flood::default();
    flood.rise(&mut driver, 7);
    driver.shut(7, 80, SHUT_BOTH);
    driver.expect(Op::Reset, 7, 80);
    assert_eq!(rest(&mut slow).len(), flood.sent);
}

#[test]
fn virtio_5_10_6_1_packets_wait_when_their_answers_are_not_fetched() {
    let machine = Machine::new();
    let mut driver = machine.driver();
    let header = packet(Op::CreditRequest, 7, 80);
    driver.guest.store(PACKET, &header.to_bytes());
    driver.describe(TRANSMIT, 0, read(PACKET, 44));
    let limit = u16::try_from(MAX_REPLIES).unwrap();
    for sent in 1..=limit {
        driver.offer(TRANSMIT, 0);
        wait(|| driver.used(TRANSMIT) == sent);
    }
    driver.offer(TRANSMIT, 0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(driver.used(TRANSMIT), limit);
    driver.give(SIZE, 0x1000);
    for _ in 0..=limit {
        driver.expect(Op::Reset, 7, 80);
    }
    assert_eq!(driver.used(TRANSMIT), limit + 1);
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let limit = u32::try_from(MAX_CONNECTIONS).unwrap();
    let programs: Vec<_> = (0..limit)
        .map(|port| driver.connect(&listener, port))
        .collect();
    driver.say(Op::Request, limit, 80);
    driver.expect(Op::Reset, limit, 80);
    assert_eq!(rest(&mut machine.program("CONNECT 52\n")), b"");
    driver.say(Op::Reset, 0, 80);
    let _one_more = driver.connect(&listener, limit);
    drop(programs);
}

#[test]
fn programs_that_say_nothing_or_nonsense_keep_nobody_out() {
    let machine = Machine::new();
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    assert_eq!(rest(&mut machine.program("GET /\n")), b"");
    let silent: Vec<_> = (0..20).map(|_| machine.program("CONN")).collect();
    let _program = machine.program("CONNECT 52\n");
    driver.expect(Op::Request, 52, 1 << 30);
    drop(silent);
}

#[test]
fn guest_that_does_not_answer_is_given_up() {
    let machine = Machine::new();
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let mut program = machine.program("CONNECT 52\n");
    driver.expect(Op::Request, 52, 1 << 30);
    assert_eq!(rest(&mut program), b"");
    driver.expect(Op::Reset, 52, 1 << 30);
}

#[test]
fn reset_closes_all_connections_and_the_device_goes_on() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    for _ in 0..2 {
        let mut driver = machine.driver();
        driver.give(SIZE, 0x1000);
        let mut program = driver.connect(&listener, 7);
        machine.guest.driver().set(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(rest(&mut program), b"");
    }
}

#[test]
fn programs_wait_for_a_driver() {
    let machine = Machine::new();
    let _program = machine.program("CONNECT 52\n");
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    driver.expect(Op::Request, 52, 1 << 30);
}

#[test]
fn packet_shorter_than_its_header_needs_a_reset() {
    let machine = Machine::new();
    let mut driver = machine.driver();
    driver.offer_packet(&[0; HEADER], 43);
    machine.guest.driver().expect_needs_reset();
}

#[test]
fn packet_that_says_to_be_longer_than_it_is_needs_a_reset() {
    let machine = Machine::new();
    let listener = machine.listener(80);
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let _program = driver.connect(&listener, 7);
    let header = Header {
        len: 5,
        ..packet(Op::Data, 7, 80)
    };
    driver.offer_packet(&header.to_bytes(), 48);
    std::thread::sleep(Duration::from_millis(5));
    driver.offer_packet(&header.to_bytes(), 47);
    machine.guest.driver().expect_needs_reset();
}

#[test]
fn packet_with_a_part_to_write_needs_a_reset() {
    let machine = Machine::new();
    let mut driver = machine.driver();
    driver.describe(TRANSMIT, 0, write(PACKET, 44));
    driver.offer(TRANSMIT, 0);
    machine.guest.driver().expect_needs_reset();
}

#[test]
fn buffer_out_of_ram_needs_a_reset() {
    let machine = Machine::new();
    let mut driver = machine.driver();
    driver.describe(RECEIVE, 0, write((2 << 20) - 1, 100));
    driver.offer(RECEIVE, 0);
    driver.say(Op::Data, 7, 80);
    machine.guest.driver().expect_needs_reset();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any packets, any lengths: the device goes on, or asks for a reset and goes on then.
    #[test]
    fn any_packets_leave_a_working_device(
        packets in prop::collection::vec((0..9_u16, 0..4_u32, prop::num::u32::ANY, 0..300_u32, 0..300_u32), 1..40),
    ) {
        let machine = Machine::new();
        let listener = machine.listener(80);
        let mut driver = machine.driver();
        driver.give(SIZE, 0x1000);
        let broken = |driver: &Driver<'_>| driver.guest.driver().get(0x70) & 0x40 != 0;
        for (op, guest, number, len, said) in packets {
            let header = Header {
                op,
                flags: number & 3,
                len: if number % 5 == 0 { number } else { said },
                buf_alloc: number,
                fwd_cnt: number.rotate_left(7),
                ..packet(Op::Data, guest, 80)
            };
            let bytes = [&header.to_bytes()[..], &[7; 300]].concat();
            driver.offer_packet(&bytes, len + if number % 7 == 0 { 0 } else { 44 });
            wait(|| broken(&driver) || driver.used(TRANSMIT) == driver.next[TRANSMIT]);
            while !broken(&driver) && driver.used(RECEIVE) != driver.seen[RECEIVE] {
                driver.hear();
            }
        }
        machine.guest.driver().set(VIRTIO_MMIO_STATUS, 0);
        // Those that nobody accepted.
        listener.set_nonblocking(true).unwrap();
        while listener.accept().is_ok() {}
        listener.set_nonblocking(false).unwrap();
        let mut driver = machine.driver();
        driver.give(SIZE, 0x1000);
        let mut program = driver.connect(&listener, 7);
        driver.say_bytes(7, 80, b"still there");
        prop_assert_eq!(take(&mut program, 11), b"still there");
    }
}
