//! Keys that are for cottage and not for the guest: Ctrl-A, then one more.
//!
//! In raw mode every key, Ctrl-C included, belongs to the guest; one must be left to get out.
//! Ctrl-A is what kvmtool and QEMU use. The second key may be a capital, which QEMU does not take:
//! with Caps Lock on, a user must not be locked in.
//!
//! Read next: [`super::terminal`].

use std::collections::VecDeque;

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// What `Ctrl-A h` prints.
pub const HELP: &str = "\
Ctrl-A x  quit: end the guest at once and leave
Ctrl-A s  show a status line
Ctrl-A a  send Ctrl-A to the guest (so does Ctrl-A Ctrl-A)
Ctrl-A h  this help
Capitals do the same. All other keys, Ctrl-C and Ctrl-Z included, go to the guest.";

/// A key meant for cottage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Leave.
    Quit,
    /// Print [`HELP`].
    Help,
    /// Print the status line.
    Status,
}

/// Sorts typed bytes; remembers a Ctrl-A across reads.
#[derive(Debug, Default)]
pub struct KeyFilter {
    armed: bool,
}

impl KeyFilter {
    /// Appends the guest's bytes of `typed` to `guest` and returns the commands in order.
    pub fn sort(&mut self, typed: &[u8], guest: &mut VecDeque<u8>) -> Vec<Command> {
        let mut commands = Vec::new();
        for &byte in typed {
            match (std::mem::take(&mut self.armed), byte) {
                (false, ESCAPE) => self.armed = true,
                (false, _) => guest.push_back(byte),
                (true, b'x' | b'X') => commands.push(Command::Quit),
                (true, b'h' | b'H' | b'?') => commands.push(Command::Help),
                (true, b's' | b'S') => commands.push(Command::Status),
                (true, b'a' | b'A' | ESCAPE) => guest.push_back(ESCAPE),
                // Not for us after all: a shell user's Ctrl-A (start of line) keeps working.
                (true, _) => guest.extend([ESCAPE, byte]),
            }
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sort(parts: &[&[u8]]) -> (Vec<u8>, Vec<Command>) {
        let (mut filter, mut guest, mut commands) =
            (KeyFilter::default(), VecDeque::new(), Vec::new());
        for part in parts {
            commands.extend(filter.sort(part, &mut guest));
        }
        (guest.into(), commands)
    }

    #[test]
    fn ctrl_c_and_ctrl_z_go_to_the_guest() {
        assert_eq!(sort(&[b"\x03\x1a\x04"]), (b"\x03\x1a\x04".to_vec(), vec![]));
    }

    #[test]
    fn ctrl_a_is_remembered_across_reads() {
        assert_eq!(
            sort(&[b"a\x01", b"xb"]),
            (b"ab".to_vec(), vec![Command::Quit])
        );
    }

    #[test]
    fn ctrl_a_twice_sends_one() {
        assert_eq!(sort(&[b"\x01\x01\x01a"]), (b"\x01\x01".to_vec(), vec![]));
    }

    #[test]
    fn capitals_do_the_same() {
        let lower = sort(&[b"\x01x\x01s\x01h\x01a"]);
        assert_eq!(sort(&[b"\x01X\x01S\x01H\x01A"]), lower);
        assert_eq!(lower.0, b"\x01");
    }

    #[test]
    fn other_keys_after_ctrl_a_are_not_eaten() {
        assert_eq!(sort(&[b"\x01b"]), (b"\x01b".to_vec(), vec![]));
    }

    #[test]
    fn help_and_status_are_commands() {
        assert_eq!(
            sort(&[b"\x01h\x01s\x01?"]).1,
            [Command::Help, Command::Status, Command::Help]
        );
    }
}
