//! `--console`: which console, and what the kernel is told of it.
//!
//! What they are: [`crate::devices::serial`] and [`mod@crate::virtio::console`].
//! Read next: [`super::share`].

use clap::ValueEnum;

/// What cottage tells a kernel that has a virtio console, besides what it tells others. Until its driver is there the serial port is the kernel's early
/// console: a kernel that panics before is heard, and nothing is printed twice, because the kernel
/// leaves an early console by itself. `quiet` stands first, or what it silences is printed there.
pub const VIRTIO_CMDLINE: &str = "quiet earlycon=uart8250,io,0x3f8 console=hvc0 reboot=k panic=-1";

/// Values of `--console`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsoleArg {
    /// The serial port
    #[value(name = "ttyS0")]
    TtyS0,
    /// A virtio console
    Hvc0,
}

impl ConsoleArg {
    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::TtyS0 => "ttyS0",
            Self::Hvc0 => "hvc0",
        }
    }
}
