//! The I/O APIC: interrupt pins, each with a redirection entry that says which message a local APIC
//! gets when the pin rises. It has as many as the machine needs, for a kernel looks at each.
//!
//! It lives here and not in KVM because an in-kernel one makes closing the VM slow
//! (docs/adr/0003). A message goes to the local APICs, which are in KVM, by KVM_SIGNAL_MSI.
//!
//! Limits: pins are edge-triggered. An entry programmed as level-triggered works as long as the
//! device lowers its line before raising it again, which the only user of a pin, the UART, does.
//! A pin that rises while masked is remembered and delivered when unmasked, if it is still high.
//!
//! Sources: `[ioapic]` Intel 82093AA datasheet, order no. 290566-001; `[sdm3]` Intel SDM vol. 3A,
//! order no. 253668, section "Message Signalled Interrupts".
//! Read next: [`super::rtc`].

use std::fmt;
use std::sync::{Arc, Mutex};

use super::{Pins, lock};
use crate::bus::{MmioDevice, Request};

/// Where messages go.
pub trait MsiSink: fmt::Debug + Send + Sync {
    /// Delivers `data` to the local APICs that `address` names.
    fn signal(&self, address: u64, data: u32);
}

// Register windows. [ioapic] 3.1
/// IOREGSEL: which register the window shows.
const SELECT: u64 = 0x00;
/// IOWIN: the window.
const WINDOW: u64 = 0x10;

// Registers behind the window. [ioapic] 3.2
/// Bits 27:24 hold the identification.
const REG_ID: u8 = 0x00;
/// Version and number of pins.
const REG_VERSION: u8 = 0x01;
/// Arbitration number; reads as the identification.
const REG_ARBITRATION: u8 = 0x02;
/// First redirection entry, low half; the high half follows, then the next entry.
const REG_REDIRECTION: u8 = 0x10;

/// Version 0x20: an I/O APIC as found since the ICH; 0x11 would be the 82093AA itself.
const VERSION: u32 = 0x20;
/// The version register names the last pin in bits 23:16.
const LAST_PIN_SHIFT: u32 = 16;
/// Identification bits of register 0.
const ID_MASK: u32 = 0x0f << 24;

// Redirection entry. [ioapic] 3.2.4
const VECTOR: u64 = 0xff;
const DELIVERY_MODE: u64 = 0b111 << 8;
const LOGICAL_DESTINATION: u64 = 1 << 11;
/// Read-only: delivery status (12) and remote IRR (14).
const READ_ONLY: u64 = 1 << 12 | 1 << 14;
const MASKED: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;

// Message address and data. [sdm3] "Message Address Register Format"
const MSI_ADDRESS: u64 = 0xfee0_0000;
const MSI_DESTINATION_SHIFT: u32 = 12;
const MSI_LOGICAL: u64 = 1 << 2;

/// The I/O APIC, shared by the vCPUs that program it and the devices that raise pins.
#[derive(Debug)]
pub struct IoApic {
    state: Mutex<State>,
    sink: Arc<dyn MsiSink>,
}

#[derive(Debug)]
struct State {
    select: u8,
    id: u32,
    pins: Vec<Pin>,
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    entry: u64,
    high: bool,
    /// Rose while masked.
    missed: bool,
}

impl Pin {
    /// The message to send now, if the entry lets it through.
    fn message(&mut self) -> Option<(u64, u32)> {
        if self.entry & MASKED != 0 {
            self.missed = true;
            return None;
        }
        self.missed = false;
        let destination = self.entry >> DESTINATION_SHIFT;
        let logical = if self.entry & LOGICAL_DESTINATION == 0 {
            0
        } else {
            MSI_LOGICAL
        };
        let address = MSI_ADDRESS | destination << MSI_DESTINATION_SHIFT | logical;
        // Bits 7:0 and 10:8 mean the same in both formats. Trigger mode stays 0, edge: KVM would
        // otherwise wait for an end-of-interrupt that this model does not track.
        let data = u32::try_from(self.entry & (VECTOR | DELIVERY_MODE)).unwrap_or(0);
        Some((address, data))
    }
}

impl IoApic {
    /// An I/O APIC of `pins` pins, all masked, as after reset.
    pub fn new(id: u8, pins: u32, sink: Arc<dyn MsiSink>) -> Self {
        let pin = Pin {
            entry: MASKED,
            high: false,
            missed: false,
        };
        let id = u32::from(id) << 24 & ID_MASK;
        Self {
            state: Mutex::new(State {
                select: 0,
                id,
                pins: vec![pin; pins as usize],
            }),
            sink,
        }
    }

    /// Outside the lock: the sink is a system call.
    fn send(&self, message: Option<(u64, u32)>) {
        if let Some((address, data)) = message {
            self.sink.signal(address, data);
        }
    }
}

impl Pins for IoApic {
    /// The rising edge sends the message.
    fn set_pin(&self, gsi: u32, high: bool) {
        let mut state = lock(&self.state);
        let Some(pin) = state.pins.get_mut(gsi as usize) else {
            return;
        };
        let rose = high && !pin.high;
        pin.high = high;
        let message = if rose { pin.message() } else { None };
        drop(state);
        self.send(message);
    }
}

impl State {
    fn read(&self) -> u32 {
        match self.select {
            REG_ID | REG_ARBITRATION => self.id,
            REG_VERSION => VERSION | self.last_pin() << LAST_PIN_SHIFT,
            register => match self.pin_of(register) {
                Some((pin, high_half)) => half(pin.entry, high_half),
                None => 0,
            },
        }
    }

    /// Writes the selected register; returns a message that unmasking set free.
    fn write(&mut self, value: u32) -> Option<(u64, u32)> {
        if self.select == REG_ID {
            self.id = value & ID_MASK;
            return None;
        }
        let index = self.select.checked_sub(REG_REDIRECTION)?;
        let pin = self.pins.get_mut(usize::from(index / 2))?;
        let value = u64::from(value);
        pin.entry = if index % 2 == 0 {
            (pin.entry & !0xffff_ffff | value) & !READ_ONLY
        } else {
            pin.entry & 0xffff_ffff | value << 32
        };
        if pin.missed && pin.high {
            pin.message()
        } else {
            None
        }
    }

    fn last_pin(&self) -> u32 {
        u32::try_from(self.pins.len().saturating_sub(1)).unwrap_or(0)
    }

    fn pin_of(&self, register: u8) -> Option<(&Pin, bool)> {
        let index = register.checked_sub(REG_REDIRECTION)?;
        self.pins
            .get(usize::from(index / 2))
            .map(|pin| (pin, index % 2 == 1))
    }
}

fn half(entry: u64, high: bool) -> u32 {
    let shifted = if high {
        entry >> 32
    } else {
        entry & 0xffff_ffff
    };
    u32::try_from(shifted).unwrap_or(0)
}

impl MmioDevice for IoApic {
    fn name(&self) -> &'static str {
        "ioapic"
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = lock(&self.state);
        let value = match offset {
            SELECT => u32::from(state.select),
            WINDOW => state.read(),
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Option<Request> {
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        let mut state = lock(&self.state);
        let message = match offset {
            SELECT => {
                state.select = bytes[0];
                None
            }
            WINDOW => state.write(u32::from_le_bytes(bytes)),
            _ => None,
        };
        drop(state);
        self.send(message);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Sent(Mutex<Vec<(u64, u32)>>);

    impl MsiSink for Sent {
        fn signal(&self, address: u64, data: u32) {
            self.0.lock().unwrap().push((address, data));
        }
    }

    fn ioapic() -> (IoApic, Arc<Sent>) {
        let sent = Arc::new(Sent::default());
        (IoApic::new(1, 16, sent.clone()), sent)
    }

    fn write(ioapic: &IoApic, register: u8, value: u32) {
        assert_eq!(ioapic.write(SELECT, &[register, 0, 0, 0]), None);
        assert_eq!(ioapic.write(WINDOW, &value.to_le_bytes()), None);
    }

    fn read(ioapic: &IoApic, register: u8) -> u32 {
        assert_eq!(ioapic.write(SELECT, &[register, 0, 0, 0]), None);
        let mut data = [0; 4];
        ioapic.read(WINDOW, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn version_register_tells_the_last_pin() {
        assert_eq!(read(&ioapic().0, REG_VERSION), 0x000f_0020);
    }

    #[test]
    fn pins_are_masked_after_reset() {
        let (ioapic, sent) = ioapic();
        ioapic.set_pin(4, true);
        assert!(sent.0.lock().unwrap().is_empty());
        assert_eq!(read(&ioapic, 0x18), 1 << 16);
    }

    #[test]
    fn rising_edge_sends_vector_to_destination() {
        let (ioapic, sent) = ioapic();
        write(&ioapic, 0x19, 3 << 24);
        write(&ioapic, 0x18, 0x31 | 1 << 11);
        ioapic.set_pin(4, true);
        ioapic.set_pin(4, true);
        assert_eq!(*sent.0.lock().unwrap(), [(0xfee0_3004, 0x31)]);
        ioapic.set_pin(4, false);
        ioapic.set_pin(4, true);
        assert_eq!(sent.0.lock().unwrap().len(), 2);
    }

    #[test]
    fn edge_missed_while_masked_is_delivered_on_unmask_only_if_still_high() {
        let (ioapic, sent) = ioapic();
        ioapic.set_pin(4, true);
        write(&ioapic, 0x18, 0x31);
        assert_eq!(sent.0.lock().unwrap().len(), 1);
        write(&ioapic, 0x18, 0x31 | 1 << 16);
        ioapic.set_pin(4, false);
        ioapic.set_pin(4, true);
        ioapic.set_pin(4, false);
        write(&ioapic, 0x18, 0x31);
        assert_eq!(sent.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn read_only_bits_stay_clear() {
        let (ioapic, _sent) = ioapic();
        write(&ioapic, 0x10, u32::MAX);
        assert_eq!(read(&ioapic, 0x10), !(1 << 12 | 1 << 14));
    }

    #[test]
    fn registers_and_pins_that_do_not_exist_are_harmless() {
        let (ioapic, _sent) = ioapic();
        write(&ioapic, 0x30, 7);
        assert_eq!(read(&ioapic, 0x30), 0);
        assert_eq!(read(&ioapic, 0xff), 0);
        ioapic.set_pin(16, true);
        let mut data = [9; 8];
        ioapic.read(0x800, &mut data);
        assert_eq!(data, [0; 8]);
    }
}
