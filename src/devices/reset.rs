//! The i8042 keyboard controller, reduced to the one thing a PC without a keyboard needs of it:
//! the line that resets the processor. `reboot=k`, our default, makes Linux use it.
//!
//! Source: `[i8042]` Linux `drivers/input/serio/i8042.h` and `arch/x86/kernel/reboot.c`, v6.12.
//! Read next: [`super::sleep`].

use crate::bus::{PortDevice, Request};

/// Command and status port, relative to the data port 0x60.
pub const COMMAND: u16 = 4;
/// Pulse output line 0, which is wired to the processor's reset.
pub const PULSE_RESET: u8 = 0xfe;

/// The reset line.
#[derive(Debug)]
pub struct ResetLine;

impl PortDevice for ResetLine {
    fn name(&self) -> &'static str {
        "reset"
    }

    fn read(&self, _offset: u16) -> u8 {
        // Status: input and output buffers empty, so nobody waits for us. A kernel that probes
        // for a keyboard times out at once instead of after half a second.
        0
    }

    fn write(&self, offset: u16, value: u8) -> Option<Request> {
        (offset == COMMAND && value == PULSE_RESET).then_some(Request::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_at_the_command_port_resets() {
        assert_eq!(ResetLine.write(COMMAND, PULSE_RESET), Some(Request::Reset));
        assert_eq!(ResetLine.write(COMMAND, 0xd1), None);
        assert_eq!(ResetLine.write(0, PULSE_RESET), None);
        assert_eq!(
            ResetLine.write(1, PULSE_RESET),
            None,
            "port 0x61 is the speaker's"
        );
    }
}
