//! Devices' registers by name, and what their values mean.
//!
//! Pure: an access goes in, words come out. A few registers mean nothing without what was written before,
//! an index or a latch; that much is remembered here, beside the device, which is not asked. What a guest
//! writes is shown, never followed.
//!
//! Sources: `[ns]` National Semiconductor PC16550D datasheet; `[mc146818]` Motorola MC146818A datasheet;
//! `[ioapic]` Intel 82093AA datasheet; `[acpi]` ACPI 6.4, 4.8.3.7; `[pci]` PCI Local Bus 3.0, 3.2.2.3.2.
//! Read next: [`super::ioapic`].

use std::borrow::Cow;

use super::ioapic::IoApic;
use super::virtio::Windows;
use crate::devices::reset;
use crate::timeline::Stage;

/// One access of a guest's to a register.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// Who answers, as the bus has it.
    pub device: Option<&'static str>,
    /// Port or guest-physical address.
    pub address: u64,
    /// The same in the device.
    pub offset: u64,
    /// Written, not read.
    pub write: bool,
    /// Memory-mapped, not a port.
    pub mmio: bool,
    /// Bytes of one element.
    pub size: u8,
    /// What was written, or read: one element, or several of string I/O.
    pub data: &'a [u8],
}

impl Access<'_> {
    /// The first element as a number.
    pub fn value(&self) -> u64 {
        let first = self.data.iter().take(usize::from(self.size.min(8)));
        let high_first: Vec<_> = first.collect();
        high_first
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(**byte))
    }

    fn byte(&self) -> u8 {
        self.data.first().copied().unwrap_or(0)
    }
}

/// What an access is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The device, where the bus knows none.
    pub device: Option<&'static str>,
    /// The register.
    pub register: Cow<'static, str>,
    /// Which of several of that name.
    pub index: Option<u32>,
    /// What the value means.
    pub meaning: String,
    /// Characters that the guest prints by it.
    pub text: Option<Vec<u8>>,
    /// What the driver has done by it, where that is a step worth telling.
    pub story: Option<String>,
}

impl Named {
    /// A register, and what its value means.
    pub fn new(register: impl Into<Cow<'static, str>>, meaning: impl Into<String>) -> Self {
        Self {
            register: register.into(),
            meaning: meaning.into(),
            ..Self::default()
        }
    }
}

/// What has to be remembered to understand the next access.
#[derive(Debug, Default)]
pub struct Registers {
    /// DLAB, the UART's bit that makes two registers others.
    divisor_latch: bool,
    rtc_index: u8,
    pci_latch: u32,
    /// Public, because it also tells whose an interrupt is.
    pub ioapic: IoApic,
    virtio: Windows,
}

impl Registers {
    /// Says what `access` is.
    pub fn name(&mut self, access: &Access<'_>) -> Named {
        match access.device {
            Some("serial") => self.uart(access),
            Some("rtc") => self.rtc(access),
            Some("pci") => self.pci(access),
            Some("ioapic") => self.ioapic.name(access),
            Some("reset") => i8042(access),
            Some("acpi-sleep") => sleep(access),
            Some("mark") => Named::new("boot mark", Stage::Mark(access.byte()).to_string()),
            Some("exit-status") => {
                let status = access.byte();
                Named::new("status", format!("the command's exit status, {status}"))
            }
            Some("debug-exit") => Named::new("exit", "ends the run, with status value * 2 + 1"),
            Some(virtio) if access.mmio => self.virtio.name(virtio, access),
            Some(_) => Named::new(format!("+{:#x}", access.offset), ""),
            None => nobody(access),
        }
    }

    fn uart(&mut self, access: &Access<'_>) -> Named {
        let value = access.byte();
        let latch = self.divisor_latch;
        match (access.offset, access.write) {
            (0 | 1, _) if latch => {
                let (half, byte) = match access.offset {
                    0 => ("DLL", "low"),
                    _ => ("DLM", "high"),
                };
                Named::new(half, format!("divisor of the baud rate, {byte} byte"))
            }
            (0, true) => Named {
                text: Some(access.data.to_vec()),
                ..Named::new("THR", "")
            },
            (0, false) => Named::new("RBR", format!("received {}", quoted(access.data))),
            (1, _) => {
                let bits = [
                    (1, "received data"),
                    (2, "transmitter empty"),
                    (4, "line status"),
                ];
                let enabled = bits_of(value, &bits).or("no interrupts");
                Named::new("IER", format!("interrupts on: {enabled}"))
            }
            (2, true) => {
                let bits = [
                    (1, "FIFOs on"),
                    (2, "receiver cleared"),
                    (4, "transmitter cleared"),
                ];
                Named::new("FCR", bits_of(value, &bits).or("FIFOs off"))
            }
            (2, false) => Named::new("IIR", pending(value)),
            (3, true) => {
                self.divisor_latch = value & 0x80 != 0;
                Named::new("LCR", line_control(value))
            }
            (3, false) => Named::new("LCR", line_control(value)),
            (4, _) => {
                let bits = [
                    (1, "DTR"),
                    (2, "RTS"),
                    (4, "OUT1"),
                    (8, "OUT2 (interrupts reach the pin)"),
                    (0x10, "loopback"),
                ];
                Named::new("MCR", bits_of(value, &bits).or("all lines off"))
            }
            (5, false) => {
                let bits = [
                    (1, "data ready"),
                    (2, "overrun"),
                    (0x10, "break"),
                    (0x20, "transmitter empty"),
                    (0x40, "idle"),
                ];
                Named::new("LSR", bits_of(value, &bits).or("transmitter busy"))
            }
            (6, false) => {
                let bits = [(0x10, "CTS"), (0x20, "DSR"), (0x40, "RI"), (0x80, "DCD")];
                Named::new("MSR", bits_of(value, &bits).or("nobody at the other end"))
            }
            (7, _) => Named::new("SCR", "scratch: drivers probe for the chip by it"),
            (5, true) => Named::new("LSR", "read only: lost"),
            (6, true) => Named::new("MSR", "read only: lost"),
            (offset, _) => Named::new(format!("+{offset:#x}"), "no register"),
        }
    }

    fn rtc(&mut self, access: &Access<'_>) -> Named {
        if access.offset == 0 {
            if access.write {
                self.rtc_index = access.byte() & 0x7f;
            }
            return Named::new("index", cmos(self.rtc_index));
        }
        Named::new("data", cmos(self.rtc_index))
    }

    fn pci(&mut self, access: &Access<'_>) -> Named {
        if access.offset < 4 {
            let value = access.value();
            if access.write && access.size == 4 {
                self.pci_latch = u32::try_from(value).unwrap_or(0);
            }
            return Named::new("address", self.pci_place());
        }
        let all_ones = access.data.iter().all(|byte| *byte == 0xff);
        let mut meaning = self.pci_place();
        if !access.write && all_ones {
            meaning += ": nobody there";
        }
        Named::new("data", meaning)
    }

    fn pci_place(&self) -> String {
        let latch = self.pci_latch;
        let field = |shift: u32, mask: u32| latch >> shift & mask;
        if latch >> 31 == 0 {
            return "configuration space off".to_owned();
        }
        let (bus, device, function) = (field(16, 0xff), field(11, 0x1f), field(8, 7));
        format!(
            "{bus:02x}:{device:02x}.{function} register {:#04x}",
            field(0, 0xfc)
        )
    }
}

/// Names of the bits that are set, with commas between; or what there is to say of none.
struct Bits(String);

impl Bits {
    fn or(self, none: &str) -> String {
        if self.0.is_empty() {
            none.to_owned()
        } else {
            self.0
        }
    }
}

fn bits_of(value: u8, names: &[(u8, &str)]) -> Bits {
    let set = names.iter().filter(|(bit, _)| value & bit != 0);
    Bits(set.map(|(_, name)| *name).collect::<Vec<_>>().join(", "))
}

/// [ns] 8.6, table IV.
fn pending(value: u8) -> String {
    let cause = match value & 0x0f {
        0x1 => "nothing pending",
        0x2 => "transmitter empty",
        0x4 => "received data",
        0xc => "received data waits",
        0x6 => "line status",
        0x0 => "modem status",
        _ => "?",
    };
    let fifo = if value & 0xc0 == 0xc0 {
        ", FIFOs on"
    } else {
        ""
    };
    format!("{cause}{fifo}")
}

/// [ns] 8.1.
fn line_control(value: u8) -> String {
    let data = 5 + (value & 3);
    let stop = if value & 4 == 0 { 1 } else { 2 };
    let parity = match value >> 3 & 7 {
        1 => 'O',
        3 => 'E',
        5 => 'M',
        7 => 'S',
        _ => 'N',
    };
    let latch = if value & 0x80 == 0 {
        ""
    } else {
        ", divisor latch open"
    };
    let line_break = if value & 0x40 == 0 { "" } else { ", break" };
    format!("{data}{parity}{stop}{line_break}{latch}")
}

/// [mc146818]; beyond its registers, what PCs keep in the memory.
fn cmos(index: u8) -> String {
    let name = match index {
        0x00 => "seconds",
        0x01 | 0x03 | 0x05 => "alarm",
        0x02 => "minutes",
        0x04 => "hours",
        0x06 => "day of the week",
        0x07 => "day",
        0x08 => "month",
        0x09 => "year",
        0x0a => "status A (bit 7: update in progress)",
        0x0b => "status B (format of the digits)",
        0x0c => "status C (interrupts)",
        0x0d => "status D (battery)",
        0x0f => "shutdown code, for a processor's warm start",
        0x32 => "century",
        _ => "memory",
    };
    format!("register {index:#04x}, {name}")
}

fn i8042(access: &Access<'_>) -> Named {
    match (access.offset, access.write) {
        (0, _) => Named::new("i8042 data", "no keyboard here"),
        (1, _) => Named::new("port 0x61", "the PC's speaker; not here"),
        (4, true) if access.byte() == reset::PULSE_RESET => Named {
            story: Some("the guest resets the machine".into()),
            ..Named::new("i8042 command", "pulse the reset line")
        },
        (4, true) => Named::new("i8042 command", "not for the reset line: ignored"),
        (4, false) => Named::new("i8042 status", "both buffers empty"),
        (offset, _) => Named::new(format!("+{offset:#x}"), "nothing there"),
    }
}

/// [acpi] 4.8.3.7: SLP_TYP in bits 4:2, SLP_EN in bit 5.
fn sleep(access: &Access<'_>) -> Named {
    let value = access.byte();
    match (access.offset, access.write) {
        (0, true) if value & 0x20 != 0 => Named {
            story: Some("the guest powers off".into()),
            ..Named::new(
                "sleep control",
                format!("sleep now, type {}", value >> 2 & 7),
            )
        },
        (0, _) => Named::new("sleep control", format!("type {}", value >> 2 & 7)),
        _ => Named::new("sleep status", "awake"),
    }
}

/// Well-known places where cottage has nothing: reads are all ones, writes are lost.
fn nobody(access: &Access<'_>) -> Named {
    let port = if access.mmio {
        u64::MAX
    } else {
        access.address
    };
    let register = match port {
        0x20 | 0x21 | 0xa0 | 0xa1 => "PIC, which is absent here",
        0x40..=0x43 => "PIT, which is absent here",
        0x4d0 | 0x4d1 => "PIC trigger modes, absent here",
        0x80 => "POST code, used as a short delay",
        0x81..=0x8f => "DMA page register",
        0x92 => "fast A20 gate",
        0xf0 | 0xf1 => "coprocessor busy latch",
        0x1f0..=0x1f7 | 0x170..=0x177 | 0x3f6 | 0x376 => "IDE disk",
        0x2e8..=0x2ef => "COM4, no such port",
        0x2f8..=0x2ff => "COM2, no such port",
        0x3e8..=0x3ef => "COM3, no such port",
        0x3c0..=0x3df => "VGA",
        0x510 | 0x511 => "QEMU's fw_cfg",
        _ => "nobody's",
    };
    let meaning = if access.write {
        "lost"
    } else {
        "reads as ones"
    };
    Named {
        device: Some("-"),
        ..Named::new(register, meaning)
    }
}

/// Characters as in a string of C's, cut at a line's length.
pub fn quoted(text: &[u8]) -> String {
    const LONGEST: usize = 60;
    let shown = text.get(..LONGEST).unwrap_or(text);
    let rest = if shown.len() < text.len() { "..." } else { "" };
    format!("\"{}{rest}\"", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(registers: &mut Registers, device: &'static str, access: (u64, bool, u64)) -> String {
        let (offset, write, value) = access;
        let data = value.to_le_bytes();
        let size = if value > 0xff || device == "pci" {
            4
        } else {
            1
        };
        let named = registers.name(&Access {
            device: Some(device),
            address: offset,
            offset,
            write,
            mmio: false,
            size,
            data: &data[..usize::from(size)],
        });
        format!("{}: {}", named.register, named.meaning)
    }

    #[test]
    fn uart_registers_change_their_names_with_the_divisor_latch() {
        let mut registers = Registers::default();
        let mut uart = |access| named(&mut registers, "serial", access);
        assert_eq!(uart((5, false, 0x60)), "LSR: transmitter empty, idle");
        assert_eq!(uart((3, true, 0x83)), "LCR: 8N1, divisor latch open");
        assert!(uart((0, true, 1)).starts_with("DLL"));
        assert_eq!(uart((3, true, 3)), "LCR: 8N1");
        assert_eq!(uart((1, true, 0)), "IER: interrupts on: no interrupts");
        assert_eq!(uart((2, false, 0xc1)), "IIR: nothing pending, FIFOs on");
    }

    #[test]
    fn rtc_data_is_what_the_index_says() {
        let mut registers = Registers::default();
        let mut rtc = |access| named(&mut registers, "rtc", access);
        assert!(rtc((0, true, 0x8a)).contains("0x0a, status A"));
        assert!(rtc((1, false, 0x26)).contains("0x0a, status A"));
    }

    #[test]
    fn pci_address_is_bus_device_function() {
        let mut registers = Registers::default();
        let mut pci = |access| named(&mut registers, "pci", access);
        assert_eq!(
            pci((0, true, 0x8000_f908)),
            "address: 00:1f.1 register 0x08"
        );
        let absent = pci((4, false, 0xffff_ffff));
        assert_eq!(absent, "data: 00:1f.1 register 0x08: nobody there");
        assert_eq!(pci((0, true, 0)), "address: configuration space off");
    }

    #[test]
    fn every_register_of_every_port_device_has_a_name() {
        let mut registers = Registers::default();
        let devices = [
            "serial",
            "rtc",
            "reset",
            "acpi-sleep",
            "mark",
            "exit-status",
            "debug-exit",
        ];
        for device in devices {
            for offset in 0..8 {
                for (write, value) in [(true, 0), (false, 0xff)] {
                    let name = named(&mut registers, device, (offset, write, value));
                    assert!(name.len() > 3, "{device} {offset}: {name}");
                }
            }
        }
    }

    #[test]
    fn printed_control_characters_stay_text() {
        assert_eq!(quoted(b"a\x1b[2J\r\n"), r#""a\x1b[2J\r\n""#);
        assert!(quoted(&[b'x'; 100]).len() < 70);
    }
}
