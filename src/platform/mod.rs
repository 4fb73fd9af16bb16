//! Chapter 5: what the machine tells the guest about itself.
//!
//! A kernel cannot probe for processors, interrupt pins or a power switch; firmware leaves it
//! tables. [`acpi`] writes the modern ones, [`mptable`] the ones of 1994, for kernels built
//! without ACPI. Both describe the same machine and a kernel that finds both uses ACPI.
//!
//! Everything here is pure: counts in, bytes out. The loader copies the bytes to where
//! [`crate::memory::layout`] says.
//! Read next: [`acpi`].

use vm_memory::GuestAddress;

use crate::config::Irqchip;
use crate::memory::layout::{COM1_GSI, IOAPIC_PINS, PIT_GSI, VIRTIO_GSI};

pub mod acpi;
pub mod mptable;
pub mod bios_data;

/// The largest id a local APIC can have in the 8-bit fields of both kinds of table; 0xff means
/// "all of them".
const LAST_XAPIC_ID: u32 = 0xfe;

/// Interrupt lines that a device is wired to, as global system interrupts, in a machine with this
/// irqchip and this many virtio devices.
///
/// The MP table names these and no others: Linux gives each line it is told of a descriptor and
/// a directory in sysfs, used or not.
pub fn lines(chip: Irqchip, virtio_devices: usize) -> Vec<u32> {
    let timer = (chip == Irqchip::Full).then_some(PIT_GSI);
    let virtio = (VIRTIO_GSI..).take(virtio_devices);
    let lines = timer.into_iter().chain([COM1_GSI]).chain(virtio);
    lines.collect()
}

/// The fewest pins an I/O APIC has here.
///
/// Linux with ACPI looks for the pins of the 16 ISA interrupts, and complains on the console of
/// each that is missing. `[linux]` `arch/x86/kernel/acpi/boot.c`, v6.12:
/// `mp_config_acpi_legacy_irqs`.
const FEWEST_PINS: u32 = 16;
const _: () = assert!(FEWEST_PINS <= IOAPIC_PINS);

/// How many pins the I/O APIC has in a machine with these `lines`.
///
/// No more than it takes: Linux saves every pin's entry before it turns on x2APIC, and writes it
/// back afterwards, which makes eight exits a pin.
pub fn ioapic_pins(lines: &[u32]) -> u32 {
    let used = lines.iter().max().map_or(0, |last| last + 1);
    used.max(FEWEST_PINS)
}

/// The id of the I/O APIC in a machine of `vcpus` processors.
///
/// Processors have the ids from 0, so the next one is free. The field has 8 bits: in a larger
/// machine the id is 0xff, which no processor has in these tables. Nothing is addressed by it; an
/// MP table's interrupt entries name it, and they read 0xff as "every I/O APIC", which is ours.
pub fn ioapic_id(vcpus: u32) -> u8 {
    u8::try_from(vcpus).unwrap_or(u8::MAX)
}

/// The byte that makes the sum of `bytes` and itself zero modulo 256.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

/// The low half of a guest-physical address, little-endian, for the tables' 32-bit fields. What
/// they point to lies below 4 GiB: the assertions in `memory::layout` keep it there.
fn low_half(address: GuestAddress) -> [u8; 4] {
    let [a, b, c, d, ..] = address.0.to_le_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioapic_id_is_the_first_one_no_processor_has() {
        assert_eq!(ioapic_id(1), 1);
        assert_eq!(ioapic_id(254), 254);
    }

    #[test]
    fn ioapic_id_of_a_machine_too_large_for_8_bits_is_0xff() {
        assert_eq!(ioapic_id(255), 0xff);
        assert_eq!(ioapic_id(1024), 0xff);
    }

    #[test]
    fn ioapic_has_the_pins_of_isa_or_as_many_as_are_wired() {
        assert_eq!(ioapic_pins(&[4]), 16);
        assert_eq!(ioapic_pins(&[15, 4]), 16);
        assert_eq!(ioapic_pins(&[4, 16]), 17);
        assert_eq!(ioapic_pins(&[]), 16);
    }

    #[test]
    fn timer_has_a_line_only_with_the_full_irqchip() {
        assert_eq!(lines(Irqchip::Split, 1), [4, 10]);
        assert_eq!(lines(Irqchip::Full, 1), [0, 4, 10]);
    }

    #[test]
    fn checksum_makes_the_sum_zero() {
        assert_eq!(checksum(&[1, 2, 3]), 0xfa);
        assert_eq!(checksum(&[]), 0);
    }
}
