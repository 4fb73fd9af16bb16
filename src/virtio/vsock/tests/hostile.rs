//! The same with drivers and programs that flood, lie or say nothing.

use std::io::Write as _;
use std::time::Duration;

use proptest::prelude::*;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;

use crate::virtio::testing::{read, wait, write};
use crate::virtio::vsock::connection::BUFFER;
use crate::virtio::vsock::hub::{MAX_CONNECTIONS, MAX_REPLIES};
use crate::virtio::vsock::packet::{HEADER, Header, Op, SHUT_BOTH};
use crate::virtio::vsock::testing::{Driver, Machine, PACKET, SIZE, packet, patient, rest, take};
use crate::virtio::vsock::{RECEIVE, TRANSMIT};

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
    driver.offer_packet(&header.to_bytes(), 44 + 5);
    wait(|| driver.used(TRANSMIT) == driver.next[TRANSMIT]);
    driver.offer_packet(&header.to_bytes(), 44 + 4);
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
    // Before there is anything to put into it.
    driver.describe(RECEIVE, 0, write((2 << 20) - 1, 100));
    driver.offer(RECEIVE, 0);
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
