//! All connections: which packet belongs to which, and what the guest is told next.
//!
//! ```text
//!  a packet of the guest's ──▶ receive() ──▶ Effect: what the host's side has to do
//!  what happened there ──▶ ask(), open(), forwarded(), shut(), break_off()
//!                                       next_packet() ──▶ a packet for the guest
//! ```
//!
//! A packet that belongs to no connection is answered by RST. Those answers wait here, and a guest
//! that fetches none could make any number of them: when [`MAX_REPLIES`] wait, its packets stay in
//! its queue, as `[virtio]` 5.10.6.1 has it. All else that the guest is told waits as flags of its
//! connection. So what a guest can make us remember is bounded.
//!
//! A plain value: no socket, no clock.
//!
//! Source: `[virtio]` 1.2, 5.10.6.2 "Addressing", 5.10.6.4 "Receive and Transmit".
//! Read next: [`super::greeting`].

use std::collections::{BTreeMap, VecDeque};

use super::connection::{Connection, Heard, Key};
use super::packet::{HOST_CID, Header, Op, STREAM};

/// The most connections at a time. With [`super::connection::BUFFER`] for each it is 16 MiB that a
/// guest can make us keep.
pub const MAX_CONNECTIONS: usize = 256;
/// The most answers that wait for the guest to fetch them.
pub const MAX_REPLIES: usize = 256;
/// The first port given to a program of the host's: those below may have a meaning.
const FIRST_PORT: u32 = 1 << 30;

/// What the host's side has to do about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// Call whoever listens at the host's port, then [`Hub::open`] or [`Hub::refuse`].
    Call(Key),
    /// As for the connection.
    Heard(Key, Heard),
}

/// The guest's connections.
#[derive(Clone, Debug)]
pub struct Hub {
    cid: u32,
    connections: BTreeMap<Key, Connection>,
    /// Refusals of what belongs to no connection.
    replies: VecDeque<Header>,
    /// The connections that have something to say, each once.
    due: VecDeque<Key>,
    /// The port last given to a program of the host's.
    pub(super) last_port: u32,
}

impl Hub {
    /// One without connections, of the guest `cid`.
    pub fn new(cid: u32) -> Self {
        Self {
            cid,
            connections: BTreeMap::new(),
            replies: VecDeque::new(),
            due: VecDeque::new(),
            last_port: FIRST_PORT - 1,
        }
    }

    /// Forgets all connections.
    pub fn clear(&mut self) {
        self.connections.clear();
        self.replies.clear();
        self.due.clear();
    }

    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.connections.len()
    }

    /// Whether a packet of the guest's can be taken: there is room for its answer.
    pub fn has_room(&self) -> bool {
        self.replies.len() < MAX_REPLIES
    }

    /// Takes in a packet of the guest's.
    pub fn receive(&mut self, packet: &Header) -> Effect {
        // 5.10.6.4.1: the guest's own id. Another's cannot be answered: it would not get it.
        if packet.src_cid != u64::from(self.cid) {
            return Effect::Nothing;
        }
        // 5.10.6.4.2 for the type; no other id than the host's is behind this device.
        if packet.kind != STREAM || packet.dst_cid != HOST_CID {
            self.refuse(packet);
            return Effect::Nothing;
        }
        let key = Key {
            host: packet.dst_port,
            guest: packet.src_port,
        };
        let Some(connection) = self.connections.get_mut(&key) else {
            if packet.op == Op::Request as u16 {
                return Effect::Call(key);
            }
            self.refuse(packet);
            return Effect::Nothing;
        };
        let heard = connection.hear(packet);
        if packet.op == Op::Reset as u16 {
            self.forget(key);
        } else {
            self.look_at(key);
        }
        Effect::Heard(key, heard)
    }

    /// Answers `packet` by RST, unless it is one: that would never end.
    pub fn refuse(&mut self, packet: &Header) {
        if packet.op != Op::Reset as u16 {
            self.replies.push_back(packet.reset());
        }
    }

    /// Accepts the connection that the guest asked for by `request`.
    pub fn open(&mut self, key: Key, request: &Header) {
        self.connections.insert(key, Connection::accepted(request));
        self.look_at(key);
    }

    /// Asks the guest for a connection to its port `guest`.
    pub fn ask(&mut self, guest: u32) -> Key {
        // A port nobody has: of so many that cannot take more steps than there are connections.
        loop {
            self.last_port = self.last_port.wrapping_add(1).max(FIRST_PORT);
            let host = self.last_port;
            // The highest is "any".
            if host != u32::MAX && self.connections.keys().all(|key| key.host != host) {
                let key = Key { host, guest };
                self.connections.insert(key, Connection::asked_for());
                self.look_at(key);
                return key;
            }
        }
    }

    /// How many bytes may be sent to the guest on `key`.
    pub fn credit(&self, key: Key) -> u32 {
        self.connections.get(&key).map_or(0, Connection::credit)
    }

    /// Whether what the guest sends on `key` is still for somebody.
    pub fn has_reader(&self, key: Key) -> bool {
        self.connections
            .get(&key)
            .is_some_and(Connection::has_reader)
    }

    /// Whether the guest still takes what is sent on `key`.
    pub fn has_listener(&self, key: Key) -> bool {
        self.connections
            .get(&key)
            .is_some_and(Connection::has_listener)
    }

    /// The host's program has taken `len` bytes.
    pub fn forwarded(&mut self, key: Key, len: u32) {
        self.change(key, |connection| connection.forwarded(len));
    }

    /// The host's program sends or receives no more.
    pub fn shut(&mut self, key: Key, ways: u32) {
        self.change(key, |connection| connection.host_shuts(ways));
    }

    /// Ends a connection.
    pub fn break_off(&mut self, key: Key) {
        self.change(key, Connection::break_off);
    }

    /// Whether there is something to tell the guest.
    pub fn has_packet(&self) -> bool {
        !self.replies.is_empty() || !self.due.is_empty()
    }

    /// What to tell the guest next.
    pub fn next_packet(&mut self) -> Option<Header> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        let key = self.due.pop_front()?;
        let cid = self.cid;
        let packet = self.connections.get_mut(&key)?.next(key, cid);
        self.look_at(key);
        packet
    }

    /// The header of `len` bytes of the host's, at most [`Hub::credit`], which are on their way.
    pub fn data(&mut self, key: Key, len: u32) -> Option<Header> {
        let connection = self.connections.get_mut(&key)?;
        let packet = connection.data(key, self.cid, len);
        self.look_at(key);
        Some(packet)
    }

    fn change(&mut self, key: Key, how: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.connections.get_mut(&key) {
            how(connection);
            self.look_at(key);
        }
    }

    /// Puts a connection that has something to say into the row of those, and none that has not.
    fn look_at(&mut self, key: Key) {
        let Some(connection) = self.connections.get(&key) else {
            return;
        };
        let queued = self.due.contains(&key);
        if connection.is_settled() {
            self.forget(key);
        } else if connection.has_due() && !queued {
            self.due.push_back(key);
        } else if queued && !connection.has_due() {
            self.due.retain(|other| *other != key);
        }
    }

    fn forget(&mut self, key: Key) {
        self.connections.remove(&key);
        self.due.retain(|other| *other != key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::virtio::vsock::connection::BUFFER;
    use crate::virtio::vsock::packet::SHUT_BOTH;

    const CID: u32 = 3;

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

    fn ops(hub: &mut Hub) -> Vec<Op> {
        let packets = std::iter::from_fn(|| hub.next_packet());
        packets.map(|p| Op::from_number(p.op).unwrap()).collect()
    }

    #[test]
    fn virtio_5_10_6_5_request_calls_the_host() {
        let mut hub = Hub::new(CID);
        let request = packet(Op::Request, 5, 80);
        let key = Key { host: 80, guest: 5 };
        assert_eq!(hub.receive(&request), Effect::Call(key));
        hub.open(key, &request);
        assert_eq!(ops(&mut hub), [Op::Response]);
        assert_eq!((hub.count(), hub.credit(key)), (1, 1000));
    }

    #[test]
    fn virtio_5_10_6_5_refused_request_gets_a_reset() {
        let mut hub = Hub::new(CID);
        let request = packet(Op::Request, 5, 80);
        assert!(matches!(hub.receive(&request), Effect::Call(_)));
        hub.refuse(&request);
        assert_eq!(hub.next_packet(), Some(request.reset()));
        assert_eq!(hub.count(), 0);
    }

    #[test]
    fn virtio_5_10_6_4_2_unknown_type_gets_a_reset() {
        let mut hub = Hub::new(CID);
        let seqpacket = Header {
            kind: 2,
            ..packet(Op::Request, 5, 80)
        };
        assert_eq!(hub.receive(&seqpacket), Effect::Nothing);
        assert_eq!(hub.next_packet(), Some(seqpacket.reset()));
    }

    #[test]
    fn packet_of_no_connection_gets_a_reset_and_a_reset_gets_none() {
        let mut hub = Hub::new(CID);
        for op in [Op::Data, Op::Response, Op::Shutdown, Op::CreditUpdate] {
            hub.receive(&packet(op, 5, 80));
            assert_eq!(ops(&mut hub), [Op::Reset]);
        }
        hub.receive(&packet(Op::Reset, 5, 80));
        assert_eq!(ops(&mut hub), []);
    }

    #[test]
    fn packet_to_another_guest_is_refused_and_from_one_ignored() {
        let mut hub = Hub::new(CID);
        let to = Header {
            dst_cid: 9,
            ..packet(Op::Request, 5, 80)
        };
        assert_eq!(hub.receive(&to), Effect::Nothing);
        assert_eq!(hub.next_packet().unwrap().src_cid, 9);
        let from = Header {
            src_cid: 9,
            ..packet(Op::Request, 5, 80)
        };
        assert_eq!(hub.receive(&from), Effect::Nothing);
        assert_eq!(ops(&mut hub), []);
    }

    #[test]
    fn asked_for_connections_get_ports_of_their_own() {
        let mut hub = Hub::new(CID);
        let [first, second] = [hub.ask(22), hub.ask(22)];
        assert_eq!(first.host + 1, second.host);
        // After the last port the first comes again, and those in use are left out.
        hub.last_port = u32::MAX - 1;
        assert_eq!(hub.ask(22).host, second.host + 1);
    }

    #[test]
    fn reset_connection_is_forgotten_with_what_it_had_to_say() {
        let mut hub = Hub::new(CID);
        let request = packet(Op::Request, 5, 80);
        let key = Key { host: 80, guest: 5 };
        for _ in 0..1000 {
            hub.receive(&request);
            hub.open(key, &request);
            let heard = hub.receive(&packet(Op::Reset, 5, 80));
            assert_eq!(heard, Effect::Heard(key, Heard::Broken));
        }
        assert_eq!((hub.count(), hub.due.len()), (0, 0));
    }

    #[test]
    fn connection_broken_off_stays_until_the_guest_was_told() {
        let mut hub = Hub::new(CID);
        let request = packet(Op::Request, 5, 80);
        let key = Key { host: 80, guest: 5 };
        hub.open(key, &request);
        hub.break_off(key);
        assert_eq!(hub.count(), 1);
        assert_eq!(ops(&mut hub), [Op::Reset]);
        assert_eq!(hub.count(), 0);
    }

    /// Something that happens to a hub.
    #[derive(Clone, Debug)]
    enum Event {
        Packet(Header),
        Ask(u32),
        Forwarded(usize, u32),
        Sent(usize),
        Shut(usize, u32),
        BreakOff(usize),
        Next,
    }

    /// Few ports and numbers near limits, so that events meet.
    fn events() -> impl Strategy<Value = Event> {
        let number = prop_oneof![Just(0), Just(1), Just(BUFFER), Just(u32::MAX), any::<u32>()];
        let cid = prop_oneof![8 => Just(u64::from(CID)), 1 => any::<u64>()];
        let addresses = (
            cid,
            0..4_u32,
            0..4_u32,
            prop_oneof![9 => Just(1_u16), 1 => any::<u16>()],
        );
        let rest = (0..9_u16, 0..8_u32, number.clone(), number.clone(), number);
        let packets = (addresses, rest).prop_map(|((cid, guest, host, kind), rest)| {
            let (op, flags, len, buf_alloc, fwd_cnt) = rest;
            Event::Packet(Header {
                src_cid: cid,
                dst_cid: HOST_CID,
                src_port: guest,
                dst_port: host,
                len,
                kind,
                op,
                flags,
                buf_alloc,
                fwd_cnt,
            })
        });
        prop_oneof![
            8 => packets,
            1 => (0..4_u32).prop_map(Event::Ask),
            2 => (0..8_usize, any::<u32>()).prop_map(|(n, len)| Event::Forwarded(n, len)),
            2 => (0..8_usize).prop_map(Event::Sent),
            1 => (0..8_usize, 1..=SHUT_BOTH).prop_map(|(n, ways)| Event::Shut(n, ways)),
            1 => (0..8_usize).prop_map(Event::BreakOff),
            4 => Just(Event::Next),
        ]
    }

    proptest! {
        /// Whatever guest and host do: each byte the guest may send has a place, nothing is sent
        /// without credit, each connection is in the row once, and in the end all is told.
        #[test]
        fn any_course_of_events_keeps_the_books(events in prop::collection::vec(events(), 0..200)) {
            let mut hub = Hub::new(CID);
            let mut waiting: BTreeMap<Key, u32> = BTreeMap::new();
            for event in events {
                let nth = |n: usize| hub.connections.keys().nth(n).copied();
                match event {
                    Event::Packet(packet) => match hub.receive(&packet) {
                        Effect::Call(key) => {
                            hub.open(key, &packet);
                            waiting.insert(key, 0);
                        }
                        Effect::Heard(key, Heard::Data(len)) => {
                            let all = waiting.entry(key).or_default();
                            *all += len;
                            prop_assert!(*all <= BUFFER);
                        }
                        Effect::Heard(..) | Effect::Nothing => {}
                    },
                    Event::Ask(port) => {
                        let key = hub.ask(port);
                        waiting.insert(key, 0);
                    }
                    Event::Forwarded(n, len) => if let Some(key) = nth(n) {
                        let all = waiting.entry(key).or_default();
                        let len = len.min(*all);
                        *all -= len;
                        hub.forwarded(key, len);
                    },
                    Event::Sent(n) => if let Some(key) = nth(n) {
                        let credit = hub.credit(key);
                        prop_assert!(hub.data(key, credit).is_some());
                        prop_assert_eq!(hub.credit(key), 0);
                    },
                    Event::Shut(n, ways) => if let Some(key) = nth(n) {
                        hub.shut(key, ways);
                    },
                    Event::BreakOff(n) => if let Some(key) = nth(n) {
                        hub.break_off(key);
                        prop_assert_eq!(hub.credit(key), 0);
                    },
                    Event::Next => {
                        let had = hub.has_packet();
                        prop_assert_eq!(hub.next_packet().is_some(), had);
                    }
                }
                let mut row: Vec<_> = hub.due.iter().collect();
                row.sort();
                row.dedup();
                prop_assert_eq!(row.len(), hub.due.len());
                for key in row {
                    prop_assert!(hub.connections[key].has_due());
                }
            }
            while hub.next_packet().is_some() {}
            prop_assert!(hub.connections.values().all(|connection| !connection.has_due()));
        }
    }
}
