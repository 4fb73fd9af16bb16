//! Lab 18: a virtqueue by hand, and one sector of a disk.
//!
//! The guest is a driver in twenty instructions: it writes a list of registers, and then looks at memory
//! until the device is done. Device, transport and queue are cottage's own ([`crate::virtio`]); they get
//! the guest's exits from here. Source: `[virtio]` 1.2: 3.1.1, "Driver Requirements: Device
//! Initialization"; 2.7, "Split Virtqueues"; 4.2, "Virtio Over MMIO"; 5.2.6, "Device Operation".
//! Read next: [`super::lab18_virtio_driver`].

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::GuestAddress;

use super::lab18_virtio_driver::{DATA, GUEST, REGISTERS, TEXT, USED, register, write_request};
use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{Rig, quietly, run as enter};
use super::tale::{Stop, Tale, host};
use crate::bus::MmioBus;
use crate::config::disk::{Access, Disk, Format};
use crate::console::words::say;
use crate::control::Control;
use crate::devices::Pins;
use crate::memory::layout::VIRTIO_ACPI;
use crate::outcome::Ending;
use crate::virtio::attach::{Sockets, attach};
use crate::virtio::blk::Blk;

pub(super) const LAB: Lab = Lab {
    name: "virtio",
    title: "a virtqueue by hand: one sector of a disk",
    page: include_str!("../../docs/labs/18-virtio.md"),
    linux: false,
    guests: &[GUEST],
    variants: &[
        Variant {
            name: "no-driver-ok",
            what: "the driver never sets DRIVER_OK",
            recognise: "everything is in memory, the notification arrives, and nothing happens: used.idx stays \
                        0. A device does not touch its queues before DRIVER_OK",
        },
        Variant {
            name: "no-version-1",
            what: "the driver does not accept VIRTIO_F_VERSION_1",
            recognise: "the device does not keep FEATURES_OK: a driver that reads Status back sees 0x3 instead \
                        of 0xb, and should stop. One that goes on has no queues",
        },
    ],
    answer: Answer {
        right: &["3", "three"],
        why: "the header, which the device reads; the sector, which it writes; the status byte, which it \
              writes too: one buffer has one direction",
    },
    run,
};

/// The interrupt's way, of which this driver has no use: it polls.
#[derive(Debug)]
struct NoPins;

impl Pins for NoPins {
    fn set_pin(&self, _gsi: u32, _high: bool) {}
}

fn run(tale: &mut Tale) -> Result<(), Stop> {
    // 1. The host's side.
    let device = disk(tale)?;

    // 2. The machine, and the device at its address.
    let rig = Rig::new(tale)?;
    let mut bus = MmioBus::new();
    let control = Arc::new(Control::new().map_err(host("make an eventfd"))?);
    let mut sockets = Sockets {
        mmio: &mut bus,
        ioapic: Arc::new(NoPins),
        memory: rig.memory.clone(),
        control: control.clone(),
        tell: say,
    };
    let attached = attach(vec![Arc::new(device)], &mut sockets);
    let attached = attached.map_err(host("attach the disk"))?;
    tale.say(format!(
        "cottage's virtio-blk: its registers are at {:#x}",
        VIRTIO_ACPI.0
    ));

    // 3. The driver: its request in memory, and its list of registers to write.
    rig.load(tale, &GUEST)?;
    write_request(tale, &rig)?;
    let list = registers(tale);
    rig.memory.write(GuestAddress(0x2000), &list)?;
    let mut vcpu = rig.real_mode(tale)?;
    let mut sregs = quietly(tale, "KVM_GET_SREGS", vcpu.get_sregs())?;
    sregs.es.base = VIRTIO_ACPI.0;
    tale.call(
        "KVM_SET_SREGS",
        "ES begins at the registers",
        vcpu.set_sregs(&sregs),
    )?;

    // 4. Run; exits at the registers go to the device.
    if tale.is_broken() {
        tale.expect_hang();
    }
    let ended = drive(tale, &mut vcpu, &bus);
    let mut used = [0; 2];
    rig.memory.read(GuestAddress(USED + 2), &mut used)?;
    tale.say(format!("used.idx is {}", u16::from_le_bytes(used)));
    let mut status = [0; 4];
    bus.read(VIRTIO_ACPI.0 + 0x070, &mut status);
    tale.say(format!("Status reads {:#x}", u32::from_le_bytes(status)));
    control.stop(Ending::PowerOff);
    for transport in attached {
        transport.server().shut_down();
    }
    ended
}

/// A disk of 8 sectors, of which number 7 has a text.
fn disk(tale: &mut Tale) -> Result<Blk, Stop> {
    let disk = memfd_create("disk", MemfdFlags::CLOEXEC).map_err(host("make a file in memory"))?;
    let mut disk = std::fs::File::from(disk);
    let sectors = [vec![0; 7 * 512], TEXT.to_vec(), vec![0; 512 - TEXT.len()]].concat();
    disk.write_all(&sectors).map_err(host("write the disk"))?;
    tale.say(format!(
        "a disk of 8 sectors; number 7 begins with {:?}",
        String::from_utf8_lossy(TEXT)
    ));
    let description = Disk {
        path: format!("/proc/self/fd/{}", disk.as_raw_fd()).into(),
        format: Some(Format::Raw),
        backing_anywhere: false,
        access: Access::ReadOnly,
        id: "lab".into(),
        serial: "lab".into(),
    };
    Blk::open(&description, |_| ()).map_err(host("open the disk"))
}

/// What the driver will write, as its list in memory.
fn registers(tale: &Tale) -> Vec<u8> {
    let mut list = Vec::new();
    for (offset, value) in REGISTERS {
        let skipped = tale.breaks("no-driver-ok") && value == 0xf;
        let refused = tale.breaks("no-version-1") && offset == 0x020;
        if !skipped {
            list.extend(offset.to_le_bytes());
            list.extend(if refused { 0 } else { value }.to_le_bytes());
        }
    }
    list.extend(u32::MAX.to_le_bytes());
    list
}

/// Runs the driver; its exits at the registers go to the device.
fn drive(tale: &mut Tale, vcpu: &mut VcpuFd, bus: &MmioBus) -> Result<(), Stop> {
    let mut printed = Vec::new();
    tale.say("KVM_RUN, again and again");
    loop {
        match enter(tale, vcpu)? {
            VcpuExit::MmioWrite(at, data) => {
                let value = data
                    .iter()
                    .rev()
                    .fold(0, |all, byte| all << 8 | u32::from(*byte));
                tale.say(format!(
                    "  exit KVM_EXIT_MMIO: {}",
                    register(at.wrapping_sub(VIRTIO_ACPI.0), value)
                ));
                bus.write(at, data);
            }
            VcpuExit::IoOut(0x41, &[status]) => {
                tale.say(format!(
                    "  the request's status: {status}; the sector begins at {DATA:#x}"
                ));
            }
            VcpuExit::IoOut(0x3f8, data) => printed.extend_from_slice(data),
            VcpuExit::Hlt => {
                tale.exit(&VcpuExit::Hlt);
                break;
            }
            VcpuExit::Intr if tale.is_broken() => {
                tale.say(
                    "  KVM_RUN does not return; after a while a signal ends it, KVM_EXIT_INTR",
                );
                break;
            }
            exit => return Err(tale.unexpected(&exit)),
        }
    }
    tale.say(format!(
        "the guest has printed {:?}",
        String::from_utf8_lossy(&printed)
    ));
    Ok(())
}
