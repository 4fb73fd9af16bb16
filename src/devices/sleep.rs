//! ACPI power-off for hardware-reduced machines: one register.
//!
//! The FADT ([`crate::platform::acpi`]) points at it, so a stock kernel's `poweroff` ends here.
//! Our init writes it directly, which also works in a kernel without ACPI.
//!
//! Source: `[acpi]` ACPI 6.4, section 4.8.3.7 "Sleep Control and Status Registers".
//! Read next: [`super::report`].

use crate::bus::{PortDevice, Request};

/// Sleep control register; the status register is the next one.
const CONTROL: u16 = 0;
/// SLP_TYPx, bits 4:2.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE: u8 = 0b111 << SLEEP_TYPE_SHIFT;
/// SLP_EN, bit 5.
const SLEEP_ENABLE: u8 = 1 << 5;
/// The type "soft off". Any number from 0 to 7 would do: the DSDT's \_S5 object tells guests
/// which it is.
pub const SLEEP_TYPE_S5: u8 = 5;
/// What a guest writes to power off.
const POWER_OFF: u8 = SLEEP_TYPE_S5 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE;

/// Sleep control and status.
#[derive(Debug)]
pub struct SleepControl;

impl PortDevice for SleepControl {
    fn name(&self) -> &'static str {
        "acpi-sleep"
    }

    fn read(&self, _offset: u16) -> u8 {
        // Status: WAK_STS clear; this machine never slept.
        0
    }

    fn write(&self, offset: u16, value: u8) -> Option<Request> {
        let asked = value & (SLEEP_TYPE | SLEEP_ENABLE);
        (offset == CONTROL && asked == POWER_OFF).then_some(Request::PowerOff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acpi_4_8_3_7_only_s5_with_enable_powers_off() {
        assert_eq!(POWER_OFF, 0x34);
        assert_eq!(SleepControl.write(0, POWER_OFF), Some(Request::PowerOff));
        assert_eq!(SleepControl.write(0, 0x14), None, "SLP_EN is clear");
        assert_eq!(SleepControl.write(0, 0x24), None, "another sleep type");
        assert_eq!(SleepControl.write(1, 0x34), None, "the status register");
    }
}
