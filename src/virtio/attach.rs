//! From devices to addresses: each gets two register windows and a pin.
//!
//! The windows' places follow from a device's number alone. So the tables and the command line
//! that announce them can be written before there are devices, or KVM.
//!
//! Sources: `[linux]` `drivers/virtio/virtio_mmio.c`, v6.12, for `virtio_mmio.device=`.
//! Why there are two windows: [`super::mmio`]. Read next: [`crate::console`].

use std::fmt::Write;
use std::sync::Arc;

use super::Device;
use super::balloon::Balloon;
use super::blk::{self, Blk};
use super::fs::{SharedFolder, folder};
use super::interrupt::Line;
use super::mmio::{Announced, Transport, Window};
use super::net::{self, Card};
use super::pmem::Pmem;
use super::ports::{self, Ports};
use super::rng::Rng;
use super::server::Server;
use super::vsock::{self, Vsock};
use crate::bus::{MmioBus, Overlap};
use crate::config::VmConfig;
use crate::control::Control;
use crate::devices::Pins;
use crate::memory::GuestMemory;
use crate::memory::layout::{VIRTIO_ACPI, VIRTIO_CMDLINE, VIRTIO_GSI, VIRTIO_WINDOW_SIZE};
use crate::memory::mapped::MappedFile;
use crate::platform::acpi;

/// Why a device cannot be had; the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A disk.
    #[error(transparent)]
    Disk(#[from] blk::open::Error),
    /// A network card.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// The socket device.
    #[error(transparent)]
    Vsock(#[from] vsock::Error),
    /// A port.
    #[error(transparent)]
    Ports(#[from] ports::Error),
    /// A shared folder.
    #[error(transparent)]
    Share(#[from] folder::Error),
}

/// What devices are attached to.
#[derive(Debug)]
pub struct Sockets<'a> {
    /// Where their registers are.
    pub mmio: &'a mut MmioBus,
    /// Where their interrupts go.
    pub ioapic: Arc<dyn Pins>,
    /// Where their requests are.
    pub memory: Arc<GuestMemory>,
    /// The end of the run.
    pub control: Arc<Control>,
    /// Passes on what the user should know.
    pub tell: fn(&str),
}

/// Attaches `devices`, in their order.
///
/// # Errors
/// [`Overlap`] if there are more than `layout::VIRTIO_SLOTS`, which the configuration excludes.
pub fn attach(
    devices: Vec<Arc<dyn Device>>,
    sockets: &mut Sockets<'_>,
) -> Result<Vec<Arc<Transport>>, Overlap> {
    let mut attached = Vec::with_capacity(devices.len());
    for (number, device) in (0..).zip(devices) {
        let line = Line::new(sockets.ioapic.clone(), VIRTIO_GSI + number);
        let (memory, control) = (sockets.memory.clone(), sockets.control.clone());
        let server = Server::new(device, memory, control, line, sockets.tell);
        let transport = Arc::new(Transport::new(Arc::new(server)));
        for announced in [Announced::Acpi, Announced::Cmdline] {
            let window = Arc::new(Window::new(transport.clone(), announced));
            let start = window_start(announced, number);
            sockets.mmio.claim(start, VIRTIO_WINDOW_SIZE, window)?;
        }
        attached.push(transport);
    }
    Ok(attached)
}

/// The devices that `config` asks for, with `files` mapped for it, in the order in which the guest
/// finds them, but for the console, which is for who has the output to make.
///
/// # Errors
/// [`Error`] for a disk, a network, a folder or a port that cannot be used.
pub fn open(
    config: &VmConfig,
    files: &[Arc<MappedFile>],
    tell: fn(&str),
) -> Result<Vec<Arc<dyn Device>>, Error> {
    let mut devices: Vec<Arc<dyn Device>> = Vec::with_capacity(config.virtio_devices());
    for disk in &config.disks {
        devices.push(Arc::new(Blk::open(disk, tell)?));
    }
    for net in &config.nets {
        devices.push(Arc::new(Card::open(net, tell)?));
    }
    for share in &config.shares {
        devices.push(Arc::new(SharedFolder::open(share, config.shares.len())?));
    }
    for file in files {
        devices.push(Arc::new(Pmem::new(file.clone(), tell)));
    }
    if config.rng {
        devices.push(Arc::new(Rng));
    }
    if let Some(vsock) = &config.vsock {
        devices.push(Arc::new(Vsock::open(vsock)?));
    }
    if !config.ports.is_empty() {
        devices.push(Arc::new(Ports::open(&config.ports, tell)?));
    }
    if let Some(bytes) = config.balloon {
        devices.push(Arc::new(Balloon::new(bytes)));
    }
    Ok(devices)
}

/// What the DSDT says of `count` devices.
pub fn in_acpi(count: usize) -> Vec<acpi::MmioDevice> {
    let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    (0..)
        .take(count)
        .map(|number| acpi::MmioDevice {
            base: low(window_start(Announced::Acpi, number)),
            size: low(VIRTIO_WINDOW_SIZE),
            gsi: VIRTIO_GSI + number,
        })
        .collect()
}

/// What the kernel command line says of `count` devices: `virtio_mmio.device=SIZE@ADDRESS:IRQ`
/// for each, with a space behind it.
pub fn on_cmdline(count: usize) -> String {
    let mut words = String::new();
    for number in (0..).take(count) {
        let start = window_start(Announced::Cmdline, number);
        let size = VIRTIO_WINDOW_SIZE >> 10;
        let gsi = VIRTIO_GSI + number;
        let _infallible = write!(words, "virtio_mmio.device={size}K@{start:#x}:{gsi} ");
    }
    words
}

fn window_start(announced: Announced, number: u32) -> u64 {
    let first = match announced {
        Announced::Acpi => VIRTIO_ACPI,
        Announced::Cmdline => VIRTIO_CMDLINE,
    };
    first.0 + u64::from(number) * VIRTIO_WINDOW_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_names_other_windows_than_the_dsdt() {
        assert_eq!(
            on_cmdline(2),
            "virtio_mmio.device=4K@0xc0010000:10 virtio_mmio.device=4K@0xc0011000:11 "
        );
        let windows = in_acpi(2).into_iter().map(|d| (d.base, d.size, d.gsi));
        assert_eq!(
            windows.collect::<Vec<_>>(),
            [(0xc000_0000, 0x1000, 10), (0xc000_1000, 0x1000, 11)]
        );
        assert_eq!(on_cmdline(0), "");
    }
}
