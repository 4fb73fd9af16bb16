//! A PCI bus with nothing on it but its host bridge: configuration mechanism #1.
//!
//! No device of cottage's is a PCI device. But kernels with PCI, and that is every
//! distribution's, look for a way to its configuration space, and when nothing answers they
//! complain on the console as of a fatal error, however quiet they were told to be. So two ports
//! answer: an address latch, and a window to the register it names. Every function but 0:0.0 reads
//! as ones, which means that nobody is there; writes are dropped.
//!
//! Source: `[pci]` PCI Local Bus Specification 3.0, sections 3.2.2.3.2 (the two ports) and 6.1 (the
//! header). Read next: [`super::reset`].

use std::sync::Mutex;

use super::lock;
use crate::bus::{PortDevice, Request};

/// Vendor and device number, as Cloud Hypervisor's and crosvm's host bridges have them: kernels
/// know it as a bridge that needs nothing done.
const ID: u32 = 0x0d57_8086;
/// Class 06 (bridge), subclass 00 (host), programming interface 00, revision 00.
const CLASS: u32 = 0x0600_0000;
/// Ports of the latch; those of the window follow.
const LATCH_PORTS: u16 = 4;
/// Bit 31 of the latch: the window shows configuration space.
const ENABLE: u32 = 1 << 31;

/// Ports 0xcf8 to 0xcff.
#[derive(Debug, Default)]
pub struct PciHostBridge(Mutex<[u8; LATCH_PORTS as usize]>);

impl PortDevice for PciHostBridge {
    fn name(&self) -> &'static str {
        "pci"
    }

    fn read(&self, offset: u16) -> u8 {
        let latch = *lock(&self.0);
        match latch.get(usize::from(offset)) {
            Some(byte) => *byte,
            None => window(u32::from_le_bytes(latch), offset - LATCH_PORTS),
        }
    }

    fn write(&self, offset: u16, value: u8) -> Option<Request> {
        // Strictly only a 32-bit access latches; nothing else is at these ports, so bytes may too.
        if let Some(byte) = lock(&self.0).get_mut(usize::from(offset)) {
            *byte = value;
        }
        None
    }
}

/// Byte `offset` of the register that `latch` names.
fn window(latch: u32, offset: u16) -> u8 {
    // Bits 23 to 8: bus, device, function.
    let is_bridge = latch & 0x00ff_ff00 == 0;
    if latch & ENABLE == 0 || !is_bridge {
        return 0xff;
    }
    let register = match latch & 0xfc {
        0x00 => ID,
        0x08 => CLASS,
        _ => 0,
    };
    let [byte, ..] = (register >> (8 * u32::from(offset & 3))).to_le_bytes();
    byte
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(bridge: &PciHostBridge, offset: u16) -> u32 {
        let byte = |n| u32::from(bridge.read(offset + n)) << (8 * u32::from(n));
        (0..4).map(byte).sum()
    }

    fn write32(bridge: &PciHostBridge, value: u32) {
        for (offset, byte) in (0..).zip(value.to_le_bytes()) {
            assert_eq!(bridge.write(offset, byte), None);
        }
    }

    #[test]
    fn linux_finds_mechanism_one_and_a_host_bridge() {
        // As pci_check_type1 and pci_sanity_check of Linux's arch/x86/pci/direct.c look for it.
        let bridge = PciHostBridge::default();
        bridge.write(3, 1);
        write32(&bridge, 0x8000_0000);
        assert_eq!(read32(&bridge, 0), 0x8000_0000);
        write32(&bridge, 0x8000_0008);
        assert_eq!(read32(&bridge, 4) >> 16, 0x0600);
        write32(&bridge, 0x8000_0000);
        assert_eq!(read32(&bridge, 4), ID);
    }

    #[test]
    fn nobody_else_is_on_the_bus() {
        let bridge = PciHostBridge::default();
        for function in [1, 7, 8, 0xff, 0x100, 0xffff] {
            write32(&bridge, ENABLE | function << 8);
            assert_eq!(read32(&bridge, 4), u32::MAX, "{function:#x}");
        }
        write32(&bridge, 0);
        assert_eq!(read32(&bridge, 4), u32::MAX, "the window is shut");
    }

    #[test]
    fn writes_through_the_window_change_nothing() {
        let bridge = PciHostBridge::default();
        write32(&bridge, ENABLE);
        for offset in 4..8 {
            bridge.write(offset, 0);
        }
        assert_eq!(read32(&bridge, 4), ID);
    }
}
