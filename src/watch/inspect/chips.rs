//! Interrupt controllers and devices in words, read without changing them.
//!
//! The local APIC is KVM's, which shows its registers as they are. Devices are read as the guest reads
//! them, through the buses, but only registers whose reading has no side effect; those of the I/O APIC
//! stand behind a window, whose selector is put back. All processors stand meanwhile.
//!
//! Sources: `[sdm3]` Intel SDM vol. 3A, order no. 253668, table 10-1 (local APIC registers), 10.5.1 (local
//! vector table); `[ioapic]` Intel 82093AA, order no. 290566; `[ns]` National Semiconductor PC16550D, 8;
//! `[virtio]` Virtio 1.2, 4.2.2.
//! Read next: [`crate::trace`].

use crate::bus::{MmioBus, PortBus};
use crate::memory::layout::IOAPIC;
use crate::watch::Stand;

/// Local APIC registers, each 16 bytes from the next.
const APIC_ID: usize = 0x20;
const APIC_TASK_PRIORITY: usize = 0x80;
const APIC_SPURIOUS: usize = 0xf0;
const APIC_IN_SERVICE: usize = 0x100;
const APIC_REQUESTED: usize = 0x200;
const APIC_INITIAL_COUNT: usize = 0x380;
const APIC_CURRENT_COUNT: usize = 0x390;
const LOCAL_VECTORS: [(&str, usize); 4] = [
    ("timer", 0x320),
    ("LINT0", 0x350),
    ("LINT1", 0x360),
    ("error", 0x370),
];
const APIC_ENABLED: u32 = 1 << 8;
const MASKED: u64 = 1 << 16;

/// Interrupts of the processor that stands: its local APIC, and the I/O APIC.
pub fn interrupts(stand: &mut Stand<'_>) -> Vec<String> {
    let mut lines = match stand.vcpu.fd().get_lapic() {
        Ok(apic) => {
            let bytes = apic.regs.map(i8::cast_unsigned);
            local_apic(&bytes)
        }
        Err(error) => vec![format!("local APIC: KVM does not tell: {error}")],
    };
    if stand.board.mmio.name(IOAPIC.0) == Some("ioapic") {
        lines.extend(io_apic(&stand.board.mmio));
    } else {
        lines.push("I/O APIC and PICs: in KVM (--irqchip full), and not shown".into());
    }
    lines
}

fn local_apic(bytes: &[u8]) -> Vec<String> {
    let register = |at: usize| {
        let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
        word.map_or(0, |word| u32::from_le_bytes(*word))
    };
    // 256 vectors, 32 in each of 8 registers.
    let vectors = |at: usize| {
        let set = (0..256_usize).filter(|v| register(at + v / 32 * 16) >> (v % 32) & 1 == 1);
        let names: Vec<_> = set.map(|vector| format!("{vector:#x}")).collect();
        match names.len() {
            0 => "none".to_owned(),
            _ => names.join(" "),
        }
    };
    let spurious = register(APIC_SPURIOUS);
    let state = if spurious & APIC_ENABLED == 0 {
        "disabled by software"
    } else {
        "enabled"
    };
    let mut lines = vec![
        format!(
            "local APIC {}: {state}, task priority {:#x}, spurious vector {:#x}",
            register(APIC_ID) >> 24,
            register(APIC_TASK_PRIORITY),
            spurious & 0xff
        ),
        format!("  requested: {}", vectors(APIC_REQUESTED)),
        format!("  in service: {}", vectors(APIC_IN_SERVICE)),
    ];
    for (name, at) in LOCAL_VECTORS {
        let entry = u64::from(register(at));
        let mode = match (name, entry >> 17 & 0b11) {
            ("timer", 0) => ", once",
            ("timer", 1) => ", periodic",
            ("timer", 2) => ", at a TSC value (TSC-deadline)",
            _ => "",
        };
        lines.push(format!("  {name}: {}{mode}", delivery(entry)));
    }
    lines.push(format!(
        "  timer count: {:#x} of {:#x}",
        register(APIC_CURRENT_COUNT),
        register(APIC_INITIAL_COUNT)
    ));
    lines
}

/// "vector 0x30, fixed, masked"; the low bits of a redirection or a local entry are alike.
fn delivery(entry: u64) -> String {
    let mode = match entry >> 8 & 0b111 {
        0 => "fixed",
        1 => "lowest priority",
        2 => "SMI",
        4 => "NMI",
        5 => "INIT",
        7 => "ExtINT, from a PIC",
        _ => "reserved mode",
    };
    let masked = if entry & MASKED == 0 { "" } else { ", masked" };
    format!("vector {:#x}, {mode}{masked}", entry & 0xff)
}

/// The pins that are not as after a reset.
fn io_apic(mmio: &MmioBus) -> Vec<String> {
    const SELECT: u64 = 0;
    const WINDOW: u64 = 0x10;
    const VERSION: u32 = 1;
    const REDIRECTION: u32 = 0x10;
    let read = |offset| {
        let mut bytes = [0; 4];
        mmio.read(IOAPIC.0 + offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    let select = |register: u32| {
        // The selector asks nothing of the machine.
        let _no_request = mmio.write(IOAPIC.0 + SELECT, &register.to_le_bytes());
    };
    let selected = read(SELECT);
    let register = |number| {
        select(number);
        read(WINDOW)
    };
    let pins = (register(VERSION) >> 16 & 0xff) + 1;
    let entry = |pin: u32| {
        let half = |n| u64::from(register(REDIRECTION + 2 * pin + n));
        half(0) | half(1) << 32
    };
    let entries: Vec<_> = (0..pins).map(|pin| (pin, entry(pin))).collect();
    select(selected);
    let used = entries.iter().filter(|(_, entry)| *entry != MASKED);
    let used = used.map(|(pin, entry)| {
        let level = if entry >> 15 & 1 == 1 {
            "level"
        } else {
            "edge"
        };
        let to = entry >> 56;
        format!(
            "  pin {pin}: {}, {level}, to processor {to:#x}",
            delivery(*entry)
        )
    });
    let head = format!("I/O APIC: {pins} pins; those not shown are masked as after a reset");
    std::iter::once(head).chain(used).collect()
}

/// Every device and what its registers say.
pub fn devices(ports: &PortBus, mmio: &MmioBus) -> Vec<String> {
    let mut lines = Vec::new();
    for (start, len, name) in ports.claims() {
        lines.push(format!(
            "{name}, ports {start:#x} to {:#x}",
            start + len - 1
        ));
        if name == "serial" {
            lines.extend(serial(ports, start));
        }
    }
    for (start, len, name) in mmio.claims() {
        lines.push(format!(
            "{name}, memory {start:#x} to {:#x}",
            start + len - 1
        ));
        if name.starts_with("virtio") {
            lines.extend(virtio(mmio, start));
        }
    }
    lines
}

/// The registers of a 16550 that can be read without consequence: not the data, interrupt
/// identification and line status registers, whose reading takes what it tells.
fn serial(ports: &PortBus, start: u64) -> Vec<String> {
    const LCR_DIVISOR: u8 = 1 << 7;
    let register = |offset| {
        let mut byte = [0];
        let port = u16::try_from(start + offset).unwrap_or(u16::MAX);
        ports.read(port, 1, &mut byte);
        byte[0]
    };
    let (lcr, mcr) = (register(3), register(4));
    let mut lines = Vec::new();
    if lcr & LCR_DIVISOR == 0 {
        let names = [
            "data received",
            "transmitter empty",
            "line status",
            "modem status",
        ];
        lines.push(format!(
            "  interrupts (IER): {}",
            names_of(register(1), &names)
        ));
    } else {
        lines.push("  the divisor is in sight instead of data and IER (LCR.DLAB)".into());
    }
    let parity = if lcr & 1 << 3 == 0 {
        "no parity"
    } else {
        "parity"
    };
    lines.push(format!("  line (LCR): {} bits, {parity}", 5 + (lcr & 0b11)));
    let names = ["DTR", "RTS", "OUT1", "interrupts on (OUT2)", "loopback"];
    lines.push(format!("  modem lines (MCR): {}", names_of(mcr, &names)));
    lines
}

/// A virtio device's identity and status.
fn virtio(mmio: &MmioBus, start: u64) -> Vec<String> {
    const DEVICE_ID: u64 = 0x8;
    const INTERRUPT_STATUS: u64 = 0x60;
    const STATUS: u64 = 0x70;
    const STATUS_NAMES: [&str; 7] = [
        "seen (ACKNOWLEDGE)",
        "driver found (DRIVER)",
        "driver ready (DRIVER_OK)",
        "features agreed (FEATURES_OK)",
        "",
        "",
        "needs a reset (DEVICE_NEEDS_RESET)",
    ];
    let read = |offset| {
        let mut bytes = [0; 4];
        mmio.read(start + offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    if read(DEVICE_ID) == 0 {
        return vec!["  the driver uses the device's other window".into()];
    }
    let [status, ..] = read(STATUS).to_le_bytes();
    let [interrupt, ..] = read(INTERRUPT_STATUS).to_le_bytes();
    let failed = if status & 1 << 7 == 0 {
        ""
    } else {
        ", driver gave up (FAILED)"
    };
    vec![
        format!("  status: {}{failed}", names_of(status, &STATUS_NAMES)),
        format!(
            "  interrupt: {}",
            names_of(interrupt, &["queue used", "configuration changed"])
        ),
    ]
}

/// The names of the bits that are set, lowest first.
fn names_of(value: u8, names: &[&str]) -> String {
    let set = (0_u32..)
        .zip(names)
        .filter(|(bit, _)| value >> bit & 1 == 1);
    let set: Vec<_> = set
        .map(|(_, name)| *name)
        .filter(|n| !n.is_empty())
        .collect();
    if set.is_empty() {
        return "none".into();
    }
    set.join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bus::MmioDevice;
    use crate::devices::ioapic::{IoApic, MsiSink};
    use crate::memory::layout::IOAPIC_SIZE;

    #[derive(Debug)]
    struct Nobody;

    impl MsiSink for Nobody {
        fn signal(&self, _address: u64, _data: u32) {}
    }

    #[test]
    fn io_apic_is_read_and_its_selector_put_back() {
        let chip = Arc::new(IoApic::new(1, 24, Arc::new(Nobody)));
        let mut mmio = MmioBus::new();
        mmio.claim(IOAPIC.0, IOAPIC_SIZE, chip.clone()).unwrap();
        assert_eq!(chip.write(0, &[0x18, 0, 0, 0]), None);
        assert_eq!(chip.write(0x10, &[0x31, 0, 0, 0]), None);
        let lines = io_apic(&mmio);
        assert!(lines[0].starts_with("I/O APIC: 24 pins"), "{lines:?}");
        assert_eq!(
            lines[1..],
            ["  pin 4: vector 0x31, fixed, edge, to processor 0x0"]
        );
        let mut selected = [0; 4];
        chip.read(0, &mut selected);
        assert_eq!(selected, [0x18, 0, 0, 0]);
    }

    #[test]
    fn local_apic_tells_vectors_and_timer() {
        let mut bytes = [0; 1024];
        bytes[APIC_REQUESTED + 16] = 1 << 4; // vector 0x24
        bytes[0x320..0x324].copy_from_slice(&(0x4_00ec_u32 | 1 << 16).to_le_bytes());
        let lines = local_apic(&bytes);
        assert_eq!(lines[1], "  requested: 0x24");
        assert_eq!(
            lines[3],
            "  timer: vector 0xec, fixed, masked, at a TSC value (TSC-deadline)"
        );
    }
}
