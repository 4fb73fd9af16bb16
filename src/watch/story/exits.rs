//! The last exits in words.
//! Read next: [`super::mistakes`].

use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN,
};

use crate::kvm::internal_error_name;
use crate::kvm::last::LastExit;
use crate::memory::layout::{
    ACPI_SLEEP_PORT, ACPI_SLEEP_PORTS, BOOT_MARK_PORT, COM1_PORT, COM1_PORTS, EXIT_STATUS_PORT,
    I8042_PORT, I8042_PORTS, IOAPIC, IOAPIC_SIZE, LOCAL_APIC, PCI_CONFIG_PORT, PCI_CONFIG_PORTS,
    PIC_1_PORT, PIC_2_PORT, PIC_PORTS, PIT_PORT, PIT_PORTS, RTC_PORT, RTC_PORTS, VIRTIO_ACPI,
};

/// The last exits, a line each; the same again is counted.
pub fn exits(exits: &[LastExit]) -> Vec<String> {
    if exits.is_empty() {
        return vec!["last exits: none, the guest has never come back".into()];
    }
    let mut lines = vec!["last exits, oldest first:".to_owned()];
    lines.extend(exits.iter().map(|exit| {
        let at = match exit.rip {
            0 => String::new(),
            rip => format!("  at rip {rip:#x}"),
        };
        format!("  #{} {}{at}", exit.number, exit_words(exit))
    }));
    lines
}

/// "out 0x3f8 = 0x72 'r' (COM1)".
pub fn exit_words(exit: &LastExit) -> String {
    let value = value_words(exit);
    let device = |name: Option<&str>| name.map_or(String::new(), |name| format!(" ({name})"));
    match exit.reason {
        KVM_EXIT_IO => {
            let word = if exit.write { "out" } else { "in " };
            let name = device(port_name(exit.address));
            let many = match exit.len / u32::from(exit.size.max(1)) {
                0 | 1 => String::new(),
                count => format!(", {count} elements"),
            };
            format!("{word} {:#x} = {value}{many}{name}", exit.address)
        }
        KVM_EXIT_MMIO => {
            let word = if exit.write { "store" } else { "load " };
            let name = device(mmio_name(exit.address));
            format!(
                "{word} {} bytes at {:#x} = {value}{name}",
                exit.len, exit.address
            )
        }
        KVM_EXIT_HLT => "halt".into(),
        KVM_EXIT_SHUTDOWN => "shutdown: triple fault".into(),
        KVM_EXIT_INTR => "a signal for cottage".into(),
        KVM_EXIT_DEBUG => "breakpoint or step".into(),
        KVM_EXIT_IOAPIC_EOI => format!("end of interrupt, vector {:#x}", exit.address),
        KVM_EXIT_FAIL_ENTRY => format!("entry failed, hardware reason {:#x}", exit.data),
        KVM_EXIT_INTERNAL_ERROR => {
            let suberror = u32::try_from(exit.data).unwrap_or(u32::MAX);
            format!(
                "internal error {suberror}: {}",
                internal_error_name(suberror)
            )
        }
        reason => format!("KVM exit reason {reason}"),
    }
}

fn value_words(exit: &LastExit) -> String {
    let printable = u8::try_from(exit.data)
        .ok()
        .map(char::from)
        .filter(|c| exit.len == 1 && (c.is_ascii_graphic() || *c == ' '));
    match printable {
        Some(c) => format!("{:#x} '{c}'", exit.data),
        None => format!("{:#x}", exit.data),
    }
}

fn port_name(port: u64) -> Option<&'static str> {
    let port = u16::try_from(port).ok()?;
    let within = |start: u16, len: u16| port >= start && port - start < len;
    let names = [
        (within(COM1_PORT, COM1_PORTS), "COM1"),
        (within(I8042_PORT, I8042_PORTS), "i8042, reset"),
        (within(RTC_PORT, RTC_PORTS), "clock"),
        (
            within(PCI_CONFIG_PORT, PCI_CONFIG_PORTS),
            "PCI configuration",
        ),
        (within(ACPI_SLEEP_PORT, ACPI_SLEEP_PORTS), "ACPI sleep"),
        (port == BOOT_MARK_PORT, "boot mark"),
        (port == EXIT_STATUS_PORT, "exit status"),
        (port == 0x80, "POST code, nobody's"),
        (
            within(PIC_1_PORT, PIC_PORTS) || within(PIC_2_PORT, PIC_PORTS),
            "interrupt controller",
        ),
        (within(PIT_PORT, PIT_PORTS), "timer"),
    ];
    names.iter().find(|(here, _)| *here).map(|(_, name)| *name)
}

fn mmio_name(gpa: u64) -> Option<&'static str> {
    let within = |start: u64, len: u64| gpa >= start && gpa - start < len;
    let names = [
        (within(IOAPIC.0, IOAPIC_SIZE), "I/O APIC"),
        (within(LOCAL_APIC.0, 0x1000), "local APIC"),
        (within(VIRTIO_ACPI.0, 0x2_0000), "virtio"),
    ];
    names.iter().find(|(here, _)| *here).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_told_by_device_and_value() {
        let io = LastExit {
            reason: KVM_EXIT_IO,
            write: true,
            size: 1,
            len: 1,
            address: 0x3f8,
            data: 0x72,
            ..LastExit::default()
        };
        assert_eq!(exit_words(&io), "out 0x3f8 = 0x72 'r' (COM1)");
        let string = LastExit {
            size: 2,
            len: 8,
            write: false,
            address: 0x1234,
            ..io
        };
        assert_eq!(exit_words(&string), "in  0x1234 = 0x72, 4 elements");
        let mmio = LastExit {
            reason: KVM_EXIT_MMIO,
            len: 4,
            address: 0xfec0_0010,
            data: 0x31,
            ..io
        };
        assert_eq!(
            exit_words(&mmio),
            "store 4 bytes at 0xfec00010 = 0x31 (I/O APIC)"
        );
        assert_eq!(exit_words(&LastExit::default()), "KVM exit reason 0");
    }
}
