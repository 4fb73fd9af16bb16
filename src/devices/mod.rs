//! Chapter 8: the devices of the smallest PC that Linux boots on.
//!
//! Each knows its register offsets and what it talks to, and neither its address nor KVM:
//! - [`uart`], [`serial`]: the console, a 16550A; the chip, then its wires;
//! - [`ioapic`]: interrupt pins to messages;
//! - [`rtc`]: the clock and CMOS ports, which a kernel would spin on if they did not answer;
//! - [`pci`]: an empty PCI bus, for kernels that insist on one;
//! - [`reset`]: the i8042's reset line and nothing else of it;
//! - [`sleep`]: ACPI power-off;
//! - [`report`]: two ports of our own: boot marks and the exit status of the guest's command.
//!
//! Read next: [`uart`], then the modules in this order.

pub mod uart;
pub mod serial;
pub mod ioapic;
pub mod rtc;
pub mod pci;
pub mod reset;
pub mod sleep;
pub mod report;
pub mod debug_exit;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Interrupt pins, as a device sees them: those of [`ioapic`], or of KVM's own interrupt controllers
/// ([`crate::kvm::irqchip`]).
pub trait Pins: fmt::Debug + Send + Sync {
    /// Sets the level of pin `gsi`. Each pin has one device, which never sets it twice at a time.
    fn set_pin(&self, gsi: u32, high: bool);
}

/// Locks a device.
///
/// A poisoned lock means that a thread panicked, and a panic ends the process
/// ([`crate::console::terminal`]); until that has happened the state may be used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
