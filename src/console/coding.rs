//! Bytes of a pipe and their end, for a console that has no break.
//!
//! On the serial line the end of stdin is a break, which the guest's terminal marks among the
//! bytes as termios(3) says of PARMRK: `377 0 0`, and the byte 377 as `377 377` (octal). A virtio
//! console carries bytes and nothing else, so the same marks are made here, and our init reads
//! both consoles by one decoder (`guest-images/init/src/parmrk.rs`).
//!
//! One mark is new: 017, Ctrl-O, travels as `377 1`. Kernels with CONFIG_MAGIC_SYSRQ take that
//! byte from a virtio console for themselves, and do with the next what it says.
//!
//! Source: Linux `drivers/tty/hvc/hvc_console.c`, v6.12, `__hvc_poll`.
//! Read next: [`super::signals`].

use std::collections::VecDeque;

/// Begins what is not a byte of data.
const MARK: u8 = 0o377;
/// Ctrl-O.
const SYSRQ: u8 = 0o017;
/// What stands behind a mark for [`SYSRQ`].
const SYSRQ_CODE: u8 = 1;

/// The end.
pub const END: [u8; 3] = [MARK, 0, 0];

/// Appends `bytes` to what the guest gets.
pub fn encode(bytes: &[u8], guest: &mut VecDeque<u8>) {
    for &byte in bytes {
        match byte {
            MARK => guest.extend([MARK, MARK]),
            SYSRQ => guest.extend([MARK, SYSRQ_CODE]),
            byte => guest.push_back(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_ctrl_o_are_coded_and_nothing_else() {
        let mut coded = VecDeque::new();
        encode(b"a\0\x01\x0e\x0f\x10\xfe\xff", &mut coded);
        assert_eq!(Vec::from(coded), b"a\0\x01\x0e\xff\x01\x10\xfe\xff\xff");
    }
}
