//! The I/O APIC's registers in words, and whose an interrupt is.
//!
//! Only a selected register shows through the window, so what was selected is remembered, and the vectors
//! that the guest gave to pins: an interrupt's message names a vector and nothing else.
//!
//! Source: `[ioapic]` Intel 82093AA datasheet, order no. 290566-001, 3.1 and 3.2; the message's fields:
//! `[sdm3]` Intel SDM vol. 3A, order no. 253668, "Message Signalled Interrupts".
//! Read next: [`super::virtio`].

use super::registers::{Access, Named};
use crate::memory::layout::{COM1_GSI, PIT_GSI, VIRTIO_GSI};

/// A select register has 8 bits, of which 0x10 to 0xff name halves of entries.
const ENTRIES: usize = 120;
const FIRST_ENTRY: u8 = 0x10;

/// What has been written.
#[derive(Debug)]
pub struct IoApic {
    select: u8,
    /// Low halves of the redirection entries, as last written.
    entries: [u32; ENTRIES],
}

impl Default for IoApic {
    fn default() -> Self {
        Self {
            select: 0,
            entries: [1 << 16; ENTRIES],
        }
    }
}

impl IoApic {
    /// Says what `access` is.
    pub fn name(&mut self, access: &Access<'_>) -> Named {
        let value = u32::try_from(access.value() & 0xffff_ffff).unwrap_or(0);
        match access.offset {
            0x00 => {
                if access.write {
                    self.select = access.data.first().copied().unwrap_or(0);
                }
                let (register, index) = register(self.select);
                Named {
                    index,
                    ..Named::new("IOREGSEL", format!("selects {register}"))
                }
            }
            0x10 => {
                let (register, index) = register(self.select);
                let low = index.is_some() && self.select.is_multiple_of(2);
                let mut story = None;
                if low && access.write {
                    story = self.program(index, value);
                }
                let meaning = match index {
                    Some(_) if low => entry(value),
                    Some(_) => format!("to CPU {}", value >> 24),
                    None => match self.select {
                        0 | 2 => format!("id {}", value >> 24 & 0xf),
                        1 => format!("{} pins", (value >> 16 & 0xff) + 1),
                        _ => String::new(),
                    },
                };
                Named {
                    index,
                    story,
                    ..Named::new(register, meaning)
                }
            }
            offset => Named::new(format!("+{offset:#x}"), "no register"),
        }
    }

    /// Remembers an entry's low half; tells when that gives a pin a vector.
    fn program(&mut self, pin: Option<u32>, value: u32) -> Option<String> {
        let pin = pin?;
        let entry = self.entries.get_mut(usize::try_from(pin).ok()?)?;
        let was = std::mem::replace(entry, value);
        let (masked, vector) = (value >> 16 & 1 != 0, value & 0xff);
        let changed = was != value && !masked;
        changed.then(|| format!("pin {pin} ({}) gets vector {vector:#04x}", wire(pin)))
    }

    /// The pin whose entry has `vector`, unmasked.
    pub fn pin_of(&self, vector: u8) -> Option<u32> {
        let mut entries = (0..).zip(self.entries);
        let found = entries.find(|(_, e)| e >> 16 & 1 == 0 && e & 0xff == u32::from(vector));
        found.map(|(pin, _)| pin)
    }
}

/// The register that `select` names; of a redirection entry, the pin.
fn register(select: u8) -> (&'static str, Option<u32>) {
    match (select, select.checked_sub(FIRST_ENTRY)) {
        (_, Some(half)) => {
            let name = if half % 2 == 0 {
                "redirection entry, low half"
            } else {
                "redirection entry, high half"
            };
            (name, Some(u32::from(half / 2)))
        }
        (0, _) => ("id", None),
        (1, _) => ("version", None),
        (2, _) => ("arbitration id", None),
        _ => ("no register", None),
    }
}

/// [ioapic] 3.2.4.
fn entry(value: u32) -> String {
    let mask = if value >> 16 & 1 == 0 { "" } else { "masked, " };
    let mode = match value >> 8 & 7 {
        0 => "fixed",
        1 => "lowest priority",
        2 => "SMI",
        4 => "NMI",
        5 => "INIT",
        7 => "ExtINT",
        _ => "reserved mode",
    };
    let trigger = if value >> 15 & 1 == 0 {
        "edge"
    } else {
        "level"
    };
    format!("{mask}vector {:#04x}, {trigger}, {mode}", value & 0xff)
}

/// What is wired to a pin.
pub fn wire(pin: u32) -> String {
    match pin {
        COM1_GSI => "COM1".to_owned(),
        PIT_GSI => "interval timer".to_owned(),
        pin if pin >= VIRTIO_GSI => format!("virtio device {}", pin - VIRTIO_GSI),
        _ => "nothing wired".to_owned(),
    }
}

/// The vector of a message's data and the processor of its address.
pub fn message(address: u64, data: u32) -> (u8, String) {
    let [vector, ..] = data.to_le_bytes();
    let destination = address >> 12 & 0xff;
    let to = match (destination, address >> 2 & 1) {
        (0xff, _) => "all CPUs".to_owned(),
        (set, 1) => format!("the CPUs of logical set {set:#x}"),
        (cpu, _) => format!("CPU {cpu}"),
    };
    (vector, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(ioapic: &mut IoApic, offset: u64, value: u32) -> Named {
        ioapic.name(&Access {
            device: Some("ioapic"),
            address: 0xfec0_0000 + offset,
            offset,
            write: true,
            mmio: true,
            size: 4,
            data: &value.to_le_bytes(),
        })
    }

    #[test]
    fn an_entry_is_named_by_pin_and_remembered_by_vector() {
        let mut ioapic = IoApic::default();
        let select = access(&mut ioapic, 0, 0x18);
        assert_eq!(select.meaning, "selects redirection entry, low half");
        assert_eq!(select.index, Some(4));
        let entry = access(&mut ioapic, 0x10, 0x24);
        assert_eq!(entry.meaning, "vector 0x24, edge, fixed");
        assert_eq!(
            entry.story.as_deref(),
            Some("pin 4 (COM1) gets vector 0x24")
        );
        assert_eq!(ioapic.pin_of(0x24), Some(4));
        assert_eq!(access(&mut ioapic, 0x10, 0x1_0024).story, None, "masked");
        assert_eq!(ioapic.pin_of(0x24), None);
    }

    #[test]
    fn every_select_value_has_a_register() {
        let mut ioapic = IoApic::default();
        for select in 0..=0xff {
            access(&mut ioapic, 0, select);
            assert!(!access(&mut ioapic, 0x10, u32::MAX).register.is_empty());
        }
        assert_eq!(access(&mut ioapic, 4, 0).meaning, "no register");
    }

    #[test]
    fn messages_name_vector_and_processor() {
        assert_eq!(message(0xfee0_3000, 0x24), (0x24, "CPU 3".to_owned()));
        assert_eq!(message(0xfeef_f000, 0x30).1, "all CPUs");
    }
}
