//! `--irqchip`: which of a PC's interrupt controllers KVM emulates.
//!
//! Why there are two answers: docs/adr/0003. What is behind them: [`crate::devices::ioapic`] and
//! [`crate::kvm::irqchip`].
//! Read next: [`super::gdb`].

use clap::ValueEnum;

/// Values of `--irqchip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Irqchip {
    /// Local APICs in KVM, the I/O APIC in cottage; no PIC, no PIT
    Split,
    /// All in KVM: local APICs, I/O APIC, two PICs and the PIT
    Full,
}

impl Irqchip {
    /// The word for it on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Full => "full",
        }
    }
}
