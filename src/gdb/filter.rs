//! What comes from gdb, before the protocol's crate sees it.
//!
//! Three things that [`gdbstub`] does not do: packets of QEMU's, by which gdb's users have memory read by
//! physical address; a limit to how much one packet may ask for, because the crate would go on until 2^64
//! bytes are read; and a limit to a packet's size that is no error.
//!
//! Source: gdb's manual, appendix E "Remote Protocol"; QEMU `docs/system/gdb.rst`, "Examining physical
//! memory".
//! Read next: [`super::target`].

/// The longest packet, told to gdb, which then asks for no more memory than fits the answer.
pub const PACKET: usize = 16 << 10; // 16 KiB
/// `$`, `#` and two digits around it.
const FRAME: usize = 4;

/// What is to be done about what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// For the protocol, byte by byte.
    Pass(Vec<u8>),
    /// Addresses are physical from now on, or virtual.
    Physical(bool),
    /// Whether they are.
    AskPhysical,
    /// A packet that asks for too much.
    Refused,
}

/// Cuts a stream into packets.
#[derive(Debug, Default)]
pub struct Filter {
    packet: Vec<u8>,
    /// Packets are no longer acknowledged.
    pub unacknowledged: bool,
}

impl Filter {
    /// Takes what came; what is no whole packet yet is kept.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        for byte in bytes {
            if self.packet.is_empty() && *byte != b'$' {
                items.push(Item::Pass(vec![*byte]));
                continue;
            }
            self.packet.push(*byte);
            let whole =
                self.packet.len() >= FRAME && self.packet.get(self.packet.len() - 3) == Some(&b'#');
            if whole {
                let packet = std::mem::take(&mut self.packet);
                items.push(self.judge(packet));
            } else if self.packet.len() > PACKET {
                // gdb was told the limit: this is no gdb. The protocol ends the session.
                items.push(Item::Pass(std::mem::take(&mut self.packet)));
            }
        }
        items
    }

    fn judge(&mut self, packet: Vec<u8>) -> Item {
        let text = packet.get(1..packet.len() - 3).unwrap_or(&[]);
        match text {
            b"Qqemu.PhyMemMode:1" => Item::Physical(true),
            b"Qqemu.PhyMemMode:0" => Item::Physical(false),
            b"qqemu.PhyMemMode" => Item::AskPhysical,
            b"QStartNoAckMode" => {
                self.unacknowledged = true;
                Item::Pass(packet)
            }
            [b'm', asked @ ..] if length(asked).is_none_or(|len| len > PACKET / 2) => Item::Refused,
            _ => Item::Pass(packet),
        }
    }
}

/// The number of bytes that `addr,length` asks for.
fn length(asked: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(asked).ok()?;
    usize::from_str_radix(text.split_once(',')?.1, 16).ok()
}

/// A packet with this in it.
pub fn framed(text: &str) -> String {
    let sum = text.bytes().fold(0_u8, |sum, byte| sum.wrapping_add(byte));
    format!("${text}#{sum:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(text: &str) -> Item {
        Item::Pass(text.as_bytes().to_vec())
    }

    #[test]
    fn packets_pass_whole_and_other_bytes_by_themselves() {
        let mut filter = Filter::default();
        assert_eq!(filter.take(b"+$g#6"), [pass("+")]);
        assert_eq!(filter.take(b"7\x03"), [pass("$g#67"), pass("\x03")]);
        assert_eq!(filter.take(framed("QStartNoAckMode").as_bytes()).len(), 1);
        assert!(filter.unacknowledged);
    }

    #[test]
    fn qemus_packets_are_ours() {
        let mut filter = Filter::default();
        let mut take = |text| filter.take(framed(text).as_bytes());
        assert_eq!(take("Qqemu.PhyMemMode:1"), [Item::Physical(true)]);
        assert_eq!(take("Qqemu.PhyMemMode:0"), [Item::Physical(false)]);
        assert_eq!(take("qqemu.PhyMemMode"), [Item::AskPhysical]);
    }

    #[test]
    fn memory_beyond_an_answers_size_is_refused() {
        let mut filter = Filter::default();
        let mut take = |text| filter.take(framed(text).as_bytes());
        assert_eq!(take("m1000,2000"), [pass(&framed("m1000,2000"))]);
        for text in ["m1000,2001", "m0,ffffffffffffffff", "m0", "m0,x"] {
            assert_eq!(take(text), [Item::Refused], "{text}");
        }
    }

    #[test]
    fn a_packet_without_an_end_is_not_kept() {
        let mut filter = Filter::default();
        let items = filter.take(&[b'$'; 10 * PACKET]);
        assert_eq!(items.len(), 9);
        assert!(filter.packet.len() <= PACKET);
    }
}
