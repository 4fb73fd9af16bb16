//! One connection: what both sides have said so far, as numbers.
//!
//! No byte of anybody's is here, only counts of them. So the rules can be read, and tested, apart
//! from sockets and queues.
//!
//! ```text
//!            guest ───── received ────▶ our buffer ───── forwarded ────▶ the host's program
//!   buf_alloc, fwd_cnt ◀──── told ───────┘
//!            guest ◀──── sent ────────────────────────────────────────── the host's program
//!   its buf_alloc, fwd_cnt ─────────────▶ credit
//! ```
//!
//! **Credit.** Each side tells the size of its buffer and how many bytes have left it; the other
//! sends no more than fits. The guest's numbers are not trusted: whatever they are, they say how
//! much is sent to the guest, which is its own business. If it sends more than our buffer holds,
//! the connection is broken off.
//!
//! **The end.** A side that will send no more, or receive no more, says so by SHUTDOWN. When one
//! has said both, the other answers RST and the connection is over. RST at any other time breaks
//! it off.
//!
//! Source: `[virtio]` 1.2, 5.10.6.3 "Buffer Space Management", 5.10.6.5 "Stream Sockets".
//! Read next: [`super::hub`].

use super::packet::{HOST_CID, Header, Op, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND, STREAM};

/// Bytes of the guest's that wait, at most, for the host's program to read them.
pub const BUFFER: u32 = 64 << 10; // 64 KiB
/// When the guest's idea of our buffer is so far behind, it is told: often enough that it never
/// waits for a buffer that is empty.
const TELL_AFTER: u32 = BUFFER / 2;

/// By which a connection is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The port at the host's end.
    pub host: u32,
    /// The port at the guest's end.
    pub guest: u32,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A program of the host's asked for it, and the guest has not answered.
    Asked,
    /// Bytes can go both ways.
    Open,
    /// Over, as soon as the guest has been told.
    Over,
}

/// What the guest is to be told, the most urgent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Due {
    reset: bool,
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
    shutdown: bool,
}

/// What a packet of the guest's means for the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing.
    Nothing,
    /// The guest accepted the connection.
    Answered,
    /// That many bytes for the host's program, which fit.
    Data(u32),
    /// The guest receives or sends no more; never both.
    Shut(u32),
    /// The guest is done. What it sent is still for the host's program.
    Finished,
    /// The connection is broken off.
    Broken,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    phase: Phase,
    due: Due,
    /// Bytes from the guest, modulo 2^32 as all counts here.
    received: u32,
    /// Those that the host's program has taken.
    forwarded: u32,
    /// Those that the guest knows it has taken.
    told: u32,
    /// Bytes to the guest.
    sent: u32,
    /// Size of the guest's buffer, as it says.
    peer_alloc: u32,
    /// Bytes that have left it, as it says.
    peer_forwarded: u32,
    /// The guest was asked for credit, and has not answered.
    credit_asked: bool,
    /// What the guest said by SHUTDOWN. It cannot be taken back.
    guest_shut: u32,
    /// What the host's side has ended.
    host_shut: u32,
}

impl Connection {
    fn new(phase: Phase, due: Due) -> Self {
        Self {
            phase,
            due,
            received: 0,
            forwarded: 0,
            told: 0,
            sent: 0,
            peer_alloc: 0,
            peer_forwarded: 0,
            credit_asked: false,
            guest_shut: 0,
            host_shut: 0,
        }
    }

    /// One that a program of the host's asks for.
    pub fn asked_for() -> Self {
        let request = true;
        let due = Due {
            request,
            ..Due::default()
        };
        Self::new(Phase::Asked, due)
    }

    /// One that the guest asked for by `request`, and that was accepted.
    pub fn accepted(request: &Header) -> Self {
        let response = true;
        let due = Due {
            response,
            ..Due::default()
        };
        let mut connection = Self::new(Phase::Open, due);
        connection.learn(request);
        connection
    }

    /// Takes in a packet of the guest's.
    pub fn hear(&mut self, packet: &Header) -> Heard {
        self.learn(packet);
        match (self.phase, Op::from_number(packet.op)) {
            // What it had said it would finish is finished: a guest gets tired of waiting for RST.
            (_, Some(Op::Reset)) if self.guest_shut & SHUT_SEND != 0 => Heard::Finished,
            (_, Some(Op::Reset)) => Heard::Broken,
            (Phase::Over, _) | (Phase::Open, Some(Op::CreditUpdate)) => Heard::Nothing,
            (Phase::Open, Some(Op::CreditRequest)) => {
                self.due.credit_update = true;
                Heard::Nothing
            }
            (Phase::Asked, Some(Op::Response)) => {
                self.phase = Phase::Open;
                Heard::Answered
            }
            (Phase::Open, Some(Op::Data)) => self.hear_data(packet.len),
            (Phase::Open, Some(Op::Shutdown)) => self.hear_shutdown(packet.flags),
            // What is out of order, or unknown.
            _ => {
                self.break_off();
                Heard::Broken
            }
        }
    }

    fn hear_data(&mut self, len: u32) -> Heard {
        let waiting = self.received.wrapping_sub(self.forwarded);
        if self.guest_shut & SHUT_SEND != 0 || len > BUFFER.saturating_sub(waiting) {
            self.break_off();
            return Heard::Broken;
        }
        self.received = self.received.wrapping_add(len);
        Heard::Data(len)
    }

    fn hear_shutdown(&mut self, flags: u32) -> Heard {
        let new = flags & SHUT_BOTH & !self.guest_shut;
        self.guest_shut |= new;
        if self.guest_shut == SHUT_BOTH {
            self.break_off();
            return Heard::Finished;
        }
        match new {
            0 => Heard::Nothing,
            new => Heard::Shut(new),
        }
    }

    /// The guest's numbers, which are in each of its packets.
    fn learn(&mut self, packet: &Header) {
        self.peer_alloc = packet.buf_alloc;
        self.peer_forwarded = packet.fwd_cnt;
        if self.credit() > 0 {
            self.credit_asked = false;
        }
    }

    /// How many bytes the host's program may send now.
    pub fn credit(&self) -> u32 {
        if !self.has_listener() || self.host_shut & SHUT_SEND != 0 {
            return 0;
        }
        // A guest that has taken more than it got has made its window small.
        self.peer_alloc
            .saturating_sub(self.sent.wrapping_sub(self.peer_forwarded))
    }

    /// Whether the guest takes what it is sent.
    pub fn has_listener(&self) -> bool {
        self.phase == Phase::Open && self.guest_shut & SHUT_RECEIVE == 0
    }

    /// Whether what the guest sends is still for somebody.
    pub fn has_reader(&self) -> bool {
        self.host_shut & SHUT_RECEIVE == 0
    }

    /// The host's program has taken `len` bytes of those that were received.
    pub fn forwarded(&mut self, len: u32) {
        self.forwarded = self.forwarded.wrapping_add(len);
        if self.forwarded.wrapping_sub(self.told) >= TELL_AFTER && self.phase == Phase::Open {
            self.due.credit_update = true;
        }
    }

    /// The host's program sends or receives no more.
    pub fn host_shuts(&mut self, ways: u32) {
        let new = ways & !self.host_shut;
        self.host_shut |= new;
        self.due.shutdown |= new != 0 && self.phase == Phase::Open;
    }

    /// Ends the connection. The guest is told, unless it has never heard of it.
    pub fn break_off(&mut self) {
        let reset = !self.due.request;
        self.phase = Phase::Over;
        self.due = Due {
            reset,
            ..Due::default()
        };
    }

    /// Whether there is something to tell the guest.
    pub fn has_due(&self) -> bool {
        self.due != Due::default()
    }

    /// Whether it is over, and the guest knows.
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Over && !self.has_due()
    }

    /// What to tell the guest now, as a packet between `key`'s ports to `cid`.
    pub fn next(&mut self, key: Key, cid: u32) -> Option<Header> {
        let due = &mut self.due;
        let take = |flag: &mut bool, op: Op| std::mem::take(flag).then_some(op);
        let op = take(&mut due.reset, Op::Reset)
            .or_else(|| take(&mut due.request, Op::Request))
            .or_else(|| take(&mut due.response, Op::Response))
            .or_else(|| take(&mut due.credit_update, Op::CreditUpdate))
            .or_else(|| take(&mut due.credit_request, Op::CreditRequest))
            .or_else(|| take(&mut due.shutdown, Op::Shutdown))?;
        Some(self.packet(key, cid, op, 0))
    }

    /// The header of `len` bytes of the host's program, which were at most [`Connection::credit`].
    pub fn data(&mut self, key: Key, cid: u32, len: u32) -> Header {
        self.sent = self.sent.wrapping_add(len);
        if self.credit() == 0 && !self.credit_asked {
            self.credit_asked = true;
            self.due.credit_request = true;
        }
        self.packet(key, cid, Op::Data, len)
    }

    fn packet(&mut self, key: Key, cid: u32, op: Op, len: u32) -> Header {
        // Any packet tells.
        self.told = self.forwarded;
        self.due.credit_update = false;
        Header {
            src_cid: HOST_CID,
            dst_cid: cid.into(),
            src_port: key.host,
            dst_port: key.guest,
            len,
            kind: STREAM,
            op: op as u16,
            flags: if op == Op::Shutdown {
                self.host_shut
            } else {
                0
            },
            buf_alloc: BUFFER,
            fwd_cnt: self.forwarded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { host: 1, guest: 2 };

    fn packet(op: Op) -> Header {
        Header {
            kind: STREAM,
            op: op as u16,
            buf_alloc: 1000,
            ..Header::default()
        }
    }

    fn data(len: u32) -> Header {
        let op = packet(Op::Data);
        Header { len, ..op }
    }

    fn shutdown(flags: u32) -> Header {
        let op = packet(Op::Shutdown);
        Header { flags, ..op }
    }

    fn open() -> Connection {
        let mut connection = Connection::accepted(&packet(Op::Request));
        assert_eq!(connection.next(KEY, 3).unwrap().op, Op::Response as u16);
        connection
    }

    /// What the connection says now: operations.
    fn said(connection: &mut Connection) -> Vec<Op> {
        let next = || connection.next(KEY, 3);
        let ops = std::iter::from_fn(next).map(|header| Op::from_number(header.op).unwrap());
        ops.collect()
    }

    #[test]
    fn virtio_5_10_6_5_request_is_answered_and_bytes_flow() {
        let mut connection = Connection::accepted(&packet(Op::Request));
        let response = connection.next(KEY, 7).unwrap();
        assert_eq!((response.src_cid, response.dst_cid), (2, 7));
        assert_eq!((response.src_port, response.dst_port), (1, 2));
        assert_eq!((response.kind, response.op), (1, 2));
        assert_eq!((response.buf_alloc, response.fwd_cnt), (BUFFER, 0));
        assert_eq!(connection.hear(&data(10)), Heard::Data(10));
        assert_eq!(connection.credit(), 1000);
    }

    #[test]
    fn virtio_5_10_6_5_asked_for_connection_opens_by_a_response() {
        let mut connection = Connection::asked_for();
        assert_eq!(said(&mut connection), [Op::Request]);
        assert_eq!(connection.credit(), 0);
        assert_eq!(connection.hear(&packet(Op::Response)), Heard::Answered);
        assert_eq!(connection.credit(), 1000);
    }

    #[test]
    fn virtio_5_10_6_5_asked_for_connection_is_refused_by_a_reset() {
        let mut connection = Connection::asked_for();
        said(&mut connection);
        assert_eq!(connection.hear(&packet(Op::Reset)), Heard::Broken);
    }

    #[test]
    fn virtio_5_10_6_3_credit_is_what_the_guest_has_room_for() {
        let mut connection = open();
        connection.data(KEY, 3, 600);
        assert_eq!(connection.credit(), 400);
        connection.data(KEY, 3, 400);
        assert_eq!(connection.credit(), 0);
        assert_eq!(said(&mut connection), [Op::CreditRequest]);
        let update = Header {
            fwd_cnt: 700,
            ..packet(Op::CreditUpdate)
        };
        assert_eq!(connection.hear(&update), Heard::Nothing);
        assert_eq!(connection.credit(), 700);
    }

    #[test]
    fn virtio_5_10_6_3_counts_go_around() {
        let mut connection = open();
        for round in 1..=9_u32 {
            let fwd_cnt = round.wrapping_mul(1 << 30);
            connection.data(KEY, 3, 1 << 30);
            connection.hear(&Header {
                fwd_cnt,
                ..packet(Op::CreditUpdate)
            });
            assert_eq!(connection.credit(), 1000);
        }
    }

    #[test]
    fn credit_that_cannot_be_is_none() {
        let mut connection = open();
        connection.data(KEY, 3, 10);
        // More left its buffer than was ever in it; and a buffer that shrank.
        for (fwd_cnt, buf_alloc) in [(11, 1000), (1 << 31, 1000), (0, 5), (0, 0)] {
            connection.hear(&Header {
                fwd_cnt,
                buf_alloc,
                ..packet(Op::CreditUpdate)
            });
            assert_eq!(connection.credit(), 0, "{fwd_cnt} {buf_alloc}");
        }
    }

    #[test]
    fn virtio_5_10_6_3_credit_is_told_when_asked() {
        let mut connection = open();
        connection.hear(&data(100));
        connection.forwarded(60);
        assert_eq!(said(&mut connection), []);
        connection.hear(&packet(Op::CreditRequest));
        let update = connection.next(KEY, 3).unwrap();
        assert_eq!((update.op, update.fwd_cnt), (Op::CreditUpdate as u16, 60));
    }

    #[test]
    fn guest_is_told_of_room_before_it_has_none() {
        let mut connection = open();
        connection.hear(&data(BUFFER));
        connection.forwarded(TELL_AFTER - 1);
        assert_eq!(said(&mut connection), []);
        connection.forwarded(1);
        assert_eq!(said(&mut connection), [Op::CreditUpdate]);
        assert_eq!(connection.hear(&data(TELL_AFTER)), Heard::Data(TELL_AFTER));
    }

    #[test]
    fn guest_that_sends_more_than_fits_is_broken_off() {
        let mut connection = open();
        assert_eq!(connection.hear(&data(BUFFER)), Heard::Data(BUFFER));
        assert_eq!(connection.hear(&data(1)), Heard::Broken);
        assert_eq!(said(&mut connection), [Op::Reset]);
        assert!(connection.is_settled());
    }

    #[test]
    fn virtio_5_10_6_5_halves_end_one_by_one() {
        let mut connection = open();
        assert_eq!(
            connection.hear(&shutdown(SHUT_SEND)),
            Heard::Shut(SHUT_SEND)
        );
        assert_eq!(connection.credit(), 1000, "the other way is open");
        // Once said it cannot be taken back.
        assert_eq!(connection.hear(&shutdown(0)), Heard::Nothing);
        assert_eq!(connection.hear(&shutdown(SHUT_RECEIVE)), Heard::Finished);
        assert_eq!(said(&mut connection), [Op::Reset]);
        assert!(connection.is_settled());
    }

    #[test]
    fn virtio_5_10_6_5_guest_that_receives_no_more_gets_no_more() {
        let mut connection = open();
        assert_eq!(connection.hear(&shutdown(SHUT_RECEIVE)), Heard::Shut(1));
        assert_eq!(connection.credit(), 0);
        assert_eq!(connection.hear(&data(1)), Heard::Data(1));
    }

    #[test]
    fn data_after_the_end_breaks_the_connection_off() {
        let mut connection = open();
        connection.hear(&shutdown(SHUT_SEND));
        assert_eq!(connection.hear(&data(1)), Heard::Broken);
    }

    #[test]
    fn virtio_5_10_6_5_host_that_ends_says_so_once() {
        let mut connection = open();
        connection.host_shuts(SHUT_SEND);
        connection.host_shuts(SHUT_SEND);
        let first = connection.next(KEY, 3).unwrap();
        assert_eq!((first.op, first.flags), (Op::Shutdown as u16, SHUT_SEND));
        assert_eq!(said(&mut connection), []);
        assert_eq!(connection.credit(), 0);
        connection.host_shuts(SHUT_RECEIVE);
        assert_eq!(connection.next(KEY, 3).unwrap().flags, SHUT_BOTH);
    }

    #[test]
    fn reset_after_the_last_byte_is_no_loss() {
        let mut connection = open();
        connection.hear(&data(5));
        connection.hear(&shutdown(SHUT_SEND));
        assert_eq!(connection.hear(&packet(Op::Reset)), Heard::Finished);
    }

    #[test]
    fn what_the_guest_never_heard_of_ends_in_silence() {
        let mut connection = Connection::asked_for();
        connection.break_off();
        assert!(connection.is_settled());
        assert_eq!(said(&mut connection), []);
    }

    #[test]
    fn out_of_order_packets_break_the_connection_off() {
        for op in [Op::Request, Op::Response] {
            let mut connection = open();
            assert_eq!(connection.hear(&packet(op)), Heard::Broken);
            assert_eq!(said(&mut connection), [Op::Reset]);
        }
        for op in [Op::Request, Op::Data, Op::Shutdown, Op::CreditRequest] {
            let mut connection = Connection::asked_for();
            said(&mut connection);
            assert_eq!(connection.hear(&packet(op)), Heard::Broken);
        }
        let unknown = Header {
            op: 99,
            ..packet(Op::Data)
        };
        assert_eq!(open().hear(&unknown), Heard::Broken);
    }
}
