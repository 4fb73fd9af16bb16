//! Bytes and end-of-file out of a terminal that marks its line errors (PARMRK).
//!
//! A serial line carries bytes and one thing that is not a byte: the BREAK condition. The VMM uses
//! it for end-of-file, for then every byte value stays free for data. With PARMRK set a terminal
//! delivers BREAK as `377 0 0` and the byte 377 as `377 377` (octal). See termios(3).
//!
//! A virtio console has no BREAK. There the VMM makes these marks, and one more, `377 1` for Ctrl-O,
//! which some kernels take from a virtio console for themselves (`src/console/coding.rs`).

const MARK: u8 = 0o377;
const CTRL_O: u8 = 0o017;

/// What one more byte read from the terminal completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A byte of data.
    Byte(u8),
    /// The line's BREAK: end of file.
    Break,
}

/// Remembers the beginning of a mark between reads, which may cut it anywhere.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Data,
    AfterMark,
    AfterMarkAndZero,
}

impl Decoder {
    /// Takes the next byte read; gives what it completed, if anything.
    pub fn push(&mut self, byte: u8) -> Option<Event> {
        let (next, event) = match (self.state, byte) {
            (State::Data, MARK) => (State::AfterMark, None),
            (State::AfterMark, 1) => (State::Data, Some(Event::Byte(CTRL_O))),
            (State::AfterMark, 0) => (State::AfterMarkAndZero, None),
            (State::AfterMarkAndZero, 0) => (State::Data, Some(Event::Break)),
            // Data as it is; 377 after its mark; or a byte that came with a parity or framing
            // error, which no virtual line has: kept, as it would be without PARMRK.
            (_, byte) => (State::Data, Some(Event::Byte(byte))),
        };
        self.state = next;
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Vec<Event> {
        let mut decoder = Decoder::default();
        bytes
            .iter()
            .filter_map(|&byte| decoder.push(byte))
            .collect()
    }

    #[test]
    fn plain_bytes_pass() {
        assert_eq!(
            decode(b"a\0\x03"),
            [Event::Byte(b'a'), Event::Byte(0), Event::Byte(3)]
        );
    }

    #[test]
    fn doubled_mark_is_one_byte() {
        assert_eq!(decode(&[255, 255, 0]), [Event::Byte(255), Event::Byte(0)]);
    }

    #[test]
    fn mark_and_two_zeros_are_a_break() {
        assert_eq!(
            decode(&[1, 255, 0, 0, 2]),
            [Event::Byte(1), Event::Break, Event::Byte(2)]
        );
    }

    #[test]
    fn byte_255_before_break_is_not_taken_for_its_mark() {
        assert_eq!(
            decode(&[255, 255, 255, 0, 0]),
            [Event::Byte(255), Event::Break]
        );
    }

    #[test]
    fn mark_and_one_are_ctrl_o() {
        assert_eq!(decode(&[255, 1, 1]), [Event::Byte(0o017), Event::Byte(1)]);
    }

    #[test]
    fn unfinished_mark_waits() {
        assert_eq!(decode(&[255, 0]), []);
    }

    #[test]
    fn byte_with_framing_error_is_kept() {
        assert_eq!(decode(&[255, 0, 7]), [Event::Byte(7)]);
    }
}
