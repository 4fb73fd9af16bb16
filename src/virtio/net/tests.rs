//! A card with a test at the other end of its cable, in the place of passt.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;

use super::link::Received;
use super::*;
use crate::virtio::testing::{AVAILABLE, Driver, Guest, SIZE, read, wait, write};

const MERGE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const EVENT_INDEX: u64 = 1 << 29;
const BUFFER: u64 = 0x1_0000;
const FRAME: u64 = 0x5_0000;

/// A guest with a card, and the other end of its cable.
fn guest() -> (Guest, UnixStream) {
    let (socket, theirs) = UnixStream::pair().unwrap();
    theirs
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket.set_nonblocking(true).unwrap();
    let card = Card::played(socket).unwrap();
    (Guest::with(card), theirs)
}

/// A frame as it travels to and from passt.
fn wrapped(frame: &[u8]) -> Vec<u8> {
    let len = u32::try_from(frame.len()).unwrap();
    [&len.to_be_bytes()[..], frame].concat()
}

/// What is behind the header of a frame in guest memory.
fn content(guest: &Guest, at: u64, len: usize) -> Vec<u8> {
    guest.bytes(at + HEADER as u64, len)
}

/// Offers a buffer of `len` bytes for each of `heads`, at its own place.
fn buffers(driver: &mut Driver<'_>, heads: std::ops::Range<u16>, len: u32) {
    for head in heads {
        let at = BUFFER + u64::from(head) * 0x1000;
        driver.describe(head, write(at, len), 0);
        driver.offer(head);
    }
}

#[test]
fn virtio_5_1_4_configuration_has_the_address() {
    let (guest, _cable) = guest();
    let driver = guest.driver();
    assert_eq!(driver.get(0x100), 2);
    assert_eq!(driver.get(0x104).to_le_bytes()[..2], [0, 1]);
    // No checksums: passt has no header to ask for them. No MTU: it does not say.
    assert_eq!(driver.offered() & 0xffff, 1 << 5 | 1 << 15);
}

#[test]
fn virtio_5_1_6_2_frame_is_sent_without_its_header() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start_queue(TRANSMIT, 0);
    guest.store(
        FRAME,
        &[[0xff; HEADER].as_slice(), b"hello, world"].concat(),
    );
    // Where parts begin and end means nothing.
    driver.put(&[read(FRAME, 5), read(FRAME + 5, 19)]);
    assert_eq!(driver.done(), [(0, 0)]);
    let mut bytes = [0; 16];
    cable.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, *wrapped(b"hello, world"));
}

#[test]
fn what_is_no_frame_is_dropped_and_the_next_is_sent() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start_queue(TRANSMIT, 0);
    guest.store(FRAME + HEADER as u64, b"a");
    for len in [0, 12, 1 << 20] {
        driver.put(&[read(FRAME, len)]);
        assert_eq!(driver.done(), [(0, 0)]);
    }
    driver.put(&[read(FRAME, 13)]);
    let mut bytes = [0; 5];
    cable.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, *wrapped(b"a"));
}

#[test]
fn slow_reader_makes_frames_wait_and_loses_none() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start_queue(TRANSMIT, 0);
    let frame = [7; 0x8000];
    guest.store(FRAME, &[0; HEADER]);
    guest.store(FRAME + HEADER as u64, &frame);
    driver.describe(0, read(FRAME, 0x8000 + 12), 0);
    for _ in 0..SIZE {
        driver.offer(0);
    }
    // More than a socket holds: not all come back before somebody reads.
    let mut bytes = vec![0; usize::from(SIZE) * (4 + frame.len())];
    cable.read_exact(&mut bytes).unwrap();
    assert!(
        bytes
            .chunks(4 + frame.len())
            .all(|got| got == wrapped(&frame))
    );
    wait(|| driver.used() == SIZE);
}

#[test]
fn virtio_5_1_6_4_1_frame_fills_one_buffer() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start(0);
    buffers(&mut driver, 0..1, 100);
    cable.write_all(&wrapped(b"frame")).unwrap();
    assert_eq!(driver.done(), [(0, 12 + 5)]);
    assert_eq!(content(&guest, BUFFER, 5), b"frame");
    // num_buffers is 1, though nothing was agreed on.
    assert_eq!(
        guest.bytes(BUFFER, HEADER),
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    );
}

#[test]
fn virtio_5_1_6_4_1_large_frame_is_spread_over_buffers() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start(MERGE | EVENT_INDEX);
    // Around the ring's end; and used_event asks for an interrupt after the first of the three.
    for round in 0_u16..4 {
        let used_event = (3 * round).to_le_bytes();
        guest.store(AVAILABLE + 4 + 2 * u64::from(SIZE), &used_event);
        let interrupts = guest.sent.count();
        driver.acknowledge();
        buffers(&mut driver, 0..3, 100);
        let frame: Vec<u8> = (0..250).collect();
        cable.write_all(&wrapped(&frame)).unwrap();
        assert_eq!(driver.done(), [(0, 100), (1, 100), (2, 62)]);
        let parts = [
            content(&guest, BUFFER, 88),
            guest.bytes(BUFFER + 0x1000, 100),
            guest.bytes(BUFFER + 0x2000, 62),
        ];
        assert_eq!(parts.concat(), frame);
        assert_eq!(guest.bytes(BUFFER + 10, 2), [3, 0]);
        wait(|| guest.sent.count() > interrupts);
    }
}

#[test]
fn virtio_2_7_7_2_frame_over_several_buffers_makes_no_interrupt_before_the_event_index() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start(MERGE | EVENT_INDEX);
    // used_event asks for an interrupt after the fourth entry.
    guest.store(AVAILABLE + 4 + 2 * u64::from(SIZE), &[3, 0]);
    buffers(&mut driver, 0..4, 100);
    cable.write_all(&wrapped(&[3; 250])).unwrap();
    assert_eq!(driver.done(), [(0, 100), (1, 100), (2, 62)]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.sent.count(), 0);
    cable.write_all(&wrapped(b"next")).unwrap();
    assert_eq!(driver.done(), [(3, 16)]);
    wait(|| guest.sent.count() == 1);
}

#[test]
fn frame_waits_for_more_buffers() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start(MERGE);
    buffers(&mut driver, 0..2, 100);
    cable.write_all(&wrapped(&[3; 250])).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(driver.used(), 0);
    buffers(&mut driver, 2..3, 100);
    assert_eq!(driver.done(), [(0, 100), (1, 100), (2, 62)]);
}

#[test]
fn frame_too_large_for_any_buffer_is_dropped() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start(0);
    buffers(&mut driver, 0..2, 100);
    cable.write_all(&wrapped(&[3; 89])).unwrap();
    cable.write_all(&wrapped(b"small")).unwrap();
    assert_eq!(driver.done(), [(0, 17)]);
}

#[test]
fn frames_are_not_fetched_without_buffers() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start(0);
    cable
        .set_write_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    // The sender finds its socket full, and nobody's memory grows.
    let frame = wrapped(&[1; 60_000]);
    let sent = (0..1000)
        .take_while(|_| cable.write_all(&frame).is_ok())
        .count();
    assert!(sent < 100, "{sent} frames");
    buffers(&mut driver, 0..1, 0x1_0000);
    assert_eq!(driver.done(), [(0, 60_012)]);
}

#[test]
fn frame_that_comes_in_pieces_is_put_together() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start(0);
    buffers(&mut driver, 0..2, 100);
    for byte in wrapped(b"abc") {
        cable.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(driver.done(), [(0, 15)]);
    assert_eq!(content(&guest, BUFFER, 3), b"abc");
}

#[test]
fn frame_longer_than_any_cuts_the_cable_and_nothing_else() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start(0);
    buffers(&mut driver, 0..1, 100);
    cable.write_all(&u32::MAX.to_be_bytes()).unwrap();
    cable.write_all(&wrapped(b"late")).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(driver.used(), 0);
    assert_eq!(driver.get(0x70), 0xf, "the driver did nothing wrong");
}

#[test]
fn card_goes_on_after_a_reset() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    for features in [0, MERGE] {
        driver.start(features);
        buffers(&mut driver, 0..1, 100);
        cable.write_all(&wrapped(b"frame")).unwrap();
        assert_eq!(driver.done(), [(0, 17)]);
    }
}

#[test]
fn buffer_out_of_ram_needs_a_reset() {
    let (guest, mut cable) = guest();
    let mut driver = guest.driver();
    driver.start(0);
    driver.describe(0, write((2 << 20) - 1, 100), 0);
    driver.offer(0);
    cable.write_all(&wrapped(b"frame")).unwrap();
    driver.expect_needs_reset();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any buffers, any frame: it arrives whole or not at all, and the thread goes on.
    #[test]
    fn frames_arrive_whole_or_not(
        lens in prop::collection::vec(0_u32..200, 1..8),
        frame in 1_usize..600,
        merge in any::<bool>(),
    ) {
        let (guest, mut cable) = guest();
        let mut driver = guest.driver();
        driver.start(if merge { MERGE } else { 0 });
        for (head, len) in (0..).zip(&lens) {
            driver.describe(head, write(BUFFER + u64::from(head) * 0x1000, *len), 0);
            driver.offer(head);
        }
        let bytes: Vec<u8> = (0..=255).cycle().take(frame).collect();
        cable.write_all(&wrapped(&bytes)).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        let room = if merge { lens.iter().sum() } else { lens[0] } as usize;
        if room >= HEADER + frame {
            let got = driver.done();
            let all: Vec<u8> = got.iter()
                .flat_map(|(head, len)| guest.bytes(BUFFER + u64::from(*head) * 0x1000, *len as usize))
                .collect();
            prop_assert_eq!(&all[HEADER..], &bytes);
        } else {
            prop_assert_eq!(driver.used(), 0);
        }
        driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    }
}

/// What follows needs the program; the release's tests install it (guest-images/need.sh).
#[test]
fn passt_answers_a_question_for_an_address() {
    let started = passt::Passt::start(&[]);
    let passt = match started {
        Err(passt::Error::Start { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            eprintln!("skipped: passt is not installed");
            return;
        }
        other => other.unwrap(),
    };
    let link = Link::User(passt, link::Stream::default());
    let mut frame = [&[0; HEADER][..], &discover()].concat();
    let mut sent = link.wrap(&mut frame);
    link.send(&frame, &mut sent);
    let mut buffer = vec![0; HEADER + MAX_FRAME];
    let memory = GuestMemory::new(2 << 20).unwrap();
    let none = Buffers {
        memory: &memory,
        chains: &[],
    };
    let end = Instant::now() + Duration::from_secs(10);
    // An offer among what else it may say: from UDP port 67 to 68, and a reply.
    loop {
        assert!(Instant::now() < end, "no offer");
        match link.receive(&none, &mut buffer) {
            Received::Nothing => std::thread::sleep(Duration::from_millis(1)),
            Received::Gone(error) => panic!("{error}"),
            Received::Frame { len, .. } => {
                let frame = &buffer[HEADER..len];
                let from_server = len > 60 && frame[34..38] == [0, 67, 0, 68];
                if frame[12..14] == [8, 0] && from_server && frame[42] == 2 {
                    break;
                }
            }
        }
    }
}

/// DHCPDISCOVER in UDP in IPv4 in Ethernet. RFC 2131, RFC 951.
fn discover() -> Vec<u8> {
    let mut dhcp = vec![1, 1, 6, 0, 1, 2, 3, 4];
    dhcp.resize(28, 0);
    dhcp.extend([2, 0, 0, 0, 0, 1]);
    dhcp.resize(236, 0);
    dhcp.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    dhcp.resize(300, 0);
    let length = |more: usize| u16::try_from(dhcp.len() + more).unwrap().to_be_bytes();
    let mut ip = vec![
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255,
    ];
    ip[2..4].copy_from_slice(&length(28));
    let sum: u32 = ip
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend(ip);
    frame.extend([0, 68, 0, 67]);
    frame.extend(length(8));
    frame.extend([0, 0]); // no checksum
    frame.extend(dhcp);
    frame
}
