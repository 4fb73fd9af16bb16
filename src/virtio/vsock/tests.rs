//! A socket device between a driver and programs that do as they should.

mod hostile;

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;

use super::RECEIVE;
use super::packet::{Header, Op, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND};
use super::testing::{CID, Machine, SIZE, packet, rest, take};

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
fn guest_that_does_not_answer_is_given_up() {
    let machine = Machine::new();
    let mut driver = machine.driver();
    driver.give(SIZE, 0x1000);
    let mut program = machine.program("CONNECT 52\n");
    driver.expect(Op::Request, 52, 1 << 30);
    assert_eq!(rest(&mut program), b"");
    driver.expect(Op::Reset, 52, 1 << 30);
}
