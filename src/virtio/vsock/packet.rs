//! Packets: a header of 44 bytes, and behind it what one side has to say.
//!
//! ```text
//!   0 src_cid   8 dst_cid   16 src_port  20 dst_port
//!  24 len      28 type, op  32 flags     36 buf_alloc   40 fwd_cnt    44 payload ...
//! ```
//!
//! All numbers are little-endian. The last two tell the other side how much it may send: they are
//! in every packet of a connection, whatever it is about.
//!
//! Source: `[virtio]` 1.2, 5.10.6 "Device Operation".
//! Read next: [`super::connection`].

/// struct virtio_vsock_hdr.
pub const HEADER: usize = 44;
/// The host's context id. `[virtio]` 5.10.4
pub const HOST_CID: u64 = 2;
/// VIRTIO_VSOCK_TYPE_STREAM. `[virtio]` 5.10.6.2
pub const STREAM: u16 = 1;

/// VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: who says it will receive no more. `[virtio]` 5.10.6.5
pub const SHUT_RECEIVE: u32 = 1 << 0;
/// VIRTIO_VSOCK_SHUTDOWN_F_SEND: who says it will send no more.
pub const SHUT_SEND: u32 = 1 << 1;
/// Both of them: the connection is over.
pub const SHUT_BOTH: u32 = SHUT_RECEIVE | SHUT_SEND;

/// What a packet is about. `[virtio]` 5.10.6, enum virtio_vsock_op
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Accepts it.
    Response = 2,
    /// Refuses or ends it at once.
    Reset = 3,
    /// Ends one direction or both.
    Shutdown = 4,
    /// Carries bytes.
    Data = 5,
    /// Tells how much the other side may send.
    CreditUpdate = 6,
    /// Asks to be told.
    CreditRequest = 7,
}

impl Op {
    /// The operation of that number, if there is one.
    pub fn from_number(number: u16) -> Option<Self> {
        let all = [
            Self::Request,
            Self::Response,
            Self::Reset,
            Self::Shutdown,
            Self::Data,
            Self::CreditUpdate,
            Self::CreditRequest,
        ];
        all.into_iter().find(|op| *op as u16 == number)
    }
}

/// A packet's header; of a guest's packet, nothing in it has been checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Who sends.
    pub src_cid: u64,
    /// To whom.
    pub dst_cid: u64,
    /// From which port.
    pub src_port: u32,
    /// To which port.
    pub dst_port: u32,
    /// Bytes behind the header.
    pub len: u32,
    /// Kind of socket, the field "type".
    pub kind: u16,
    /// An [`Op`], or nothing that exists.
    pub op: u16,
    /// The operation's flags.
    pub flags: u32,
    /// Size of the sender's buffer for what it receives.
    pub buf_alloc: u32,
    /// Bytes that have left that buffer since the connection was made, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads one.
    pub fn from_bytes(bytes: &[u8; HEADER]) -> Self {
        let u16_at = |at| u16::from_le_bytes(part(bytes, at));
        let u32_at = |at| u32::from_le_bytes(part(bytes, at));
        let u64_at = |at| u64::from_le_bytes(part(bytes, at));
        Self {
            src_cid: u64_at(0),
            dst_cid: u64_at(8),
            src_port: u32_at(16),
            dst_port: u32_at(20),
            len: u32_at(24),
            kind: u16_at(28),
            op: u16_at(30),
            flags: u32_at(32),
            buf_alloc: u32_at(36),
            fwd_cnt: u32_at(40),
        }
    }

    /// As it travels.
    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let fields: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        let fields = fields.into_iter().flatten();
        bytes
            .iter_mut()
            .zip(fields)
            .for_each(|(to, from)| *to = *from);
        bytes
    }

    /// The refusal of this packet, which needs no connection.
    pub fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Reset as u16,
            ..Self::default()
        }
    }
}

/// `N` bytes of a header, which is longer than `at` + `N`.
fn part<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut part = [0; N];
    let from = bytes.iter().skip(at);
    part.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn virtio_5_10_6_fields_stand_in_their_places() {
        let header = Header {
            src_cid: 0x0101,
            dst_cid: 0x0202,
            src_port: 0x03,
            dst_port: 0x04,
            len: 0x05,
            kind: 0x06,
            op: 0x07,
            flags: 0x08,
            buf_alloc: 0x09,
            fwd_cnt: 0x0a,
        };
        let bytes = header.to_bytes();
        let places = [(0, 1), (1, 1), (8, 2), (9, 2), (16, 3), (20, 4), (24, 5)];
        let more = [(28, 6), (30, 7), (32, 8), (36, 9), (40, 10)];
        let mut expected = [0; HEADER];
        places
            .iter()
            .chain(&more)
            .for_each(|(at, byte)| expected[*at] = *byte);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn virtio_5_10_6_operations_have_their_numbers() {
        let numbers: Vec<_> = (0..10).filter(|n| Op::from_number(*n).is_some()).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(Op::from_number(3), Some(Op::Reset));
        assert_eq!(Op::from_number(5), Some(Op::Data));
    }

    #[test]
    fn refusal_goes_back_to_where_it_came_from() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 10,
            dst_port: 20,
            len: 7,
            kind: 9,
            op: 1,
            ..Header::default()
        };
        let reset = header.reset();
        assert_eq!((reset.src_cid, reset.dst_cid), (2, 3));
        assert_eq!((reset.src_port, reset.dst_port), (20, 10));
        assert_eq!((reset.len, reset.kind, reset.op), (0, 9, 3));
    }

    proptest! {
        #[test]
        fn any_header_survives_the_way(bytes in prop::array::uniform32(any::<u8>()), rest in prop::array::uniform12(any::<u8>())) {
            let bytes: [u8; HEADER] = [&bytes[..], &rest].concat().try_into().unwrap();
            prop_assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
        }
    }
}
