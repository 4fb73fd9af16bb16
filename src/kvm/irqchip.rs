//! The pins of KVM's own interrupt controllers: two PICs and an I/O APIC ("full irqchip").
//!
//! Operating systems that expect a PC program the PICs and count the timer's ticks. For them
//! `--irqchip full` has both emulated in the host's kernel, and devices raise pins there. The default
//! is our own I/O APIC ([`crate::devices::ioapic`]), with neither PICs nor a timer: docs/adr/0003.
//!
//! By default KVM wires pin n of the I/O APIC to global interrupt n, and the first 16 to the PICs as
//! well. The timer, which is KVM's too, has pin 0; a PC has it at the I/O APIC's pin 2, but says so in
//! its tables, where ours say nothing ([`crate::platform`]).
//!
//! Source: `[kvm]` sections 4.24 (KVM_CREATE_IRQCHIP), 4.25 (KVM_IRQ_LINE), 4.71 (KVM_CREATE_PIT2).
//! Read next: [`super::debug`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};

use super::call::Ioctl;
use super::{Error, Vm};
use crate::devices::Pins;
use crate::memory::layout::IOAPIC_PINS;

/// The pins of a VM with the full irqchip.
#[derive(Debug)]
pub struct KernelPins {
    vm: Arc<Vm>,
    /// One bit a pin. Devices set their pin at each access; only a change is worth a system call.
    levels: AtomicU32,
}

const _: () = assert!(IOAPIC_PINS <= u32::BITS);

impl KernelPins {
    /// All low.
    pub fn new(vm: Arc<Vm>) -> Self {
        let levels = AtomicU32::new(0);
        Self { vm, levels }
    }
}

impl Vm {
    /// Puts all of a PC's interrupt controllers and its timer into KVM ("full irqchip").
    ///
    /// # Errors
    /// The host's refusal.
    pub fn full_irqchip(&self) -> Result<(), Error> {
        self.made(Ioctl::CreateIrqchip, || self.fd.create_irq_chip())?;
        // The "speaker" is port 0x61, without a sound: it opens the gate of the timer's channel 2
        // and shows its output, by which guests measure how fast their TSC counts.
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        self.made(Ioctl::CreatePit, || self.fd.create_pit2(pit))
    }

    /// Sets the level of a pin of the full irqchip.
    ///
    /// # Errors
    /// The host's refusal: there is no such pin, or no such chip.
    pub fn set_line(&self, gsi: u32, high: bool) -> Result<(), Error> {
        self.made(Ioctl::IrqLine { gsi, high }, || {
            self.fd.set_irq_line(gsi, high)
        })
    }
}

impl Pins for KernelPins {
    fn set_pin(&self, gsi: u32, high: bool) {
        let Some(bit) = 1_u32.checked_shl(gsi) else {
            return;
        };
        // A pin has one device, under whose lock this is called: nobody changes the same bit meanwhile.
        let before = if high {
            self.levels.fetch_or(bit, Ordering::Relaxed)
        } else {
            self.levels.fetch_and(!bit, Ordering::Relaxed)
        };
        if (before & bit != 0) != high {
            // KVM refuses only pins that are not there; ours are constants of memory/layout.rs.
            let _never = self.vm.set_line(gsi, high);
        }
    }
}
