//! A port whose write ends the run with a status: `--debug-exit PORT`.
//!
//! What test programs without an operating system end with: the byte v written there makes the
//! process end with status `v << 1 | 1`, so never with 0. The status is eight bits wide, so of a
//! wider write only the lowest byte counts. Source: QEMU `hw/misc/debugexit.c`, v7.2,
//! `-device isa-debug-exit`.
//! Read next: [`crate::virtio`].

use crate::bus::{PortDevice, Request};

/// The port.
#[derive(Debug)]
pub struct DebugExit;

impl PortDevice for DebugExit {
    fn name(&self) -> &'static str {
        "debug-exit"
    }

    fn read(&self, _offset: u16) -> u8 {
        0
    }

    fn write(&self, offset: u16, value: u8) -> Option<Request> {
        // The other bytes of a wider write come after the lowest and change nothing.
        (offset == 0).then_some(Request::Exit(value << 1 | 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_becomes_an_odd_status() {
        assert_eq!(DebugExit.write(0, 0x10), Some(Request::Exit(33)));
        assert_eq!(DebugExit.write(0, 0), Some(Request::Exit(1)));
        assert_eq!(DebugExit.write(0, 0xff), Some(Request::Exit(255)));
        assert_eq!(DebugExit.write(1, 0x10), None);
    }
}
