//! What a program of the host's says first: `CONNECT <port>` and a newline.
//!
//! The same words as with Firecracker, so what connects to its guests connects to ours. Upper
//! case, one space, a decimal number and nothing else. Behind the newline may follow at once what
//! is for the guest, so no byte more is read than belongs to the line.
//!
//! Source: Firecracker, docs/vsock.md, "Host-Initiated Connections".
//! Read next: [`super::stream`].

/// The word before the port.
const WORD: &[u8] = b"CONNECT ";
/// The longest line, with its newline.
const MAX_LINE: usize = WORD.len() + "4294967295\n".len();

/// The line as far as it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting(Vec<u8>);

/// What is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Not enough.
    Unfinished,
    /// The guest's port that is wanted.
    Port(u32),
    /// It is no greeting.
    Nonsense,
}

impl Greeting {
    /// Takes in the next byte.
    pub fn hear(&mut self, byte: u8) -> Said {
        if byte == b'\n' {
            return port(&self.0).map_or(Said::Nonsense, Said::Port);
        }
        self.0.push(byte);
        if self.0.len() < MAX_LINE {
            Said::Unfinished
        } else {
            Said::Nonsense
        }
    }
}

/// What a program is told when the guest has accepted; `port` is its own.
pub fn answer(port: u32) -> String {
    format!("OK {port}\n")
}

fn port(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(WORD)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = str::from_utf8(digits).ok()?.parse().ok()?;
    // The highest is "any", not a port.
    (port != u32::MAX).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of `text`, and how many bytes that took.
    fn heard(text: &str) -> (Said, usize) {
        let mut greeting = Greeting::default();
        let mut taken = 0;
        for byte in text.bytes() {
            taken += 1;
            match greeting.hear(byte) {
                Said::Unfinished => {}
                said => return (said, taken),
            }
        }
        (Said::Unfinished, taken)
    }

    #[test]
    fn greeting_names_a_port_and_leaves_what_follows() {
        assert_eq!(heard("CONNECT 52\nhello"), (Said::Port(52), 11));
        assert_eq!(heard("CONNECT 4294967294\n").0, Said::Port(u32::MAX - 1));
        assert_eq!(heard("CONNECT 5").0, Said::Unfinished);
    }

    #[test]
    fn what_is_no_greeting_is_nonsense() {
        for text in [
            "\n",
            "CONNECT\n",
            "CONNECT \n",
            "connect 5\n",
            "CONNECT 5 \n",
            "CONNECT +5\n",
            "CONNECT 5\r\n",
            "CONNECT -1\n",
            "CONNECT 4294967295\n",
            "CONNECT 99999999999",
        ] {
            assert_eq!(heard(text).0, Said::Nonsense, "{text:?}");
        }
    }

    #[test]
    fn endless_line_is_not_kept() {
        assert_eq!(heard(&"x".repeat(1000)), (Said::Nonsense, MAX_LINE));
    }
}
