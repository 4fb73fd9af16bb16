//! Tap devices: network devices of the host's whose cable ends in a program.
//!
//! This is one of the rooms where `unsafe` is allowed: a tap device is set up by ioctl(2), and the
//! calls have no safe wrapper.
//!
//! Sources: `[linux]` `Documentation/networking/tuntap.rst`, `include/uapi/linux/if_tun.h`, v6.12;
//! netdevice(7). Read next: [`super::passt`].
#![expect(unsafe_code, reason = "TUNSETIFF and its kin have no safe wrappers")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
};
use vm_memory::GuestAddress;

use super::link::Received;
use super::{HEADER, MAX_FRAME, left_ram};
use crate::memory::transfer::Segment;
use crate::virtio::{Broken, Buffers, Request};

/// Where tap devices are connected to.
const DEVICE: &str = "/dev/net/tun";

// if_tun.h
const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNSETOFFLOAD: Opcode = 0x4004_54d0;
const TUNSETVNETHDRSZ: Opcode = 0x4004_54d8;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: usize = 0x01;
const TUN_F_TSO4: usize = 0x02;
const TUN_F_TSO6: usize = 0x04;
const TUN_F_TSO_ECN: usize = 0x08;
// sockios.h
const SIOCGIFMTU: Opcode = 0x8921;

/// Why a tap device is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no such devices, or not for us.
    #[error("Cannot open {DEVICE} for --net tap={name}{hint}")]
    Open {
        /// The tap device.
        name: String,
        /// What may help, or empty.
        hint: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// It is not there.
    #[error(
        "Cannot use --net tap={0}: there is no such device; make it by: ip tuntap add {0} mode tap \
         user $USER && ip link set {0} up"
    )]
    Missing(String),
    /// It cannot be connected to.
    #[error("Cannot use --net tap={name}{hint}")]
    Connect {
        /// The tap device.
        name: String,
        /// What may help, or empty.
        hint: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// struct ifreq: a name, and what is asked of or told by the device.
#[repr(C)]
#[derive(Debug)]
struct Ifreq {
    name: [u8; 16],
    value: [u8; 24],
}

/// A tap device, connected.
#[derive(Debug)]
pub struct Tap {
    name: String,
    file: File,
    mtu: Option<u16>,
}

impl Tap {
    /// Connects to the tap device `name`, which must exist.
    ///
    /// # Errors
    /// [`Error`] with its name and what to do.
    pub fn open(name: &str) -> Result<Self, Error> {
        let mtu = look_up(name).map_err(|e| match e {
            Errno::NODEV => Error::Missing(name.to_owned()),
            e => refused(name, e),
        })?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(DEVICE)
            .map_err(|source| Error::Open {
                name: name.to_owned(),
                hint: match source.kind() {
                    io::ErrorKind::NotFound => "; load the module tun: modprobe tun",
                    io::ErrorKind::PermissionDenied => {
                        "; its owner and mode say who may (usually everybody)"
                    }
                    _ => "",
                },
                source,
            })?;
        connect(&file, name).map_err(|e| refused(name, e))?;
        Ok(Self {
            name: name.to_owned(),
            file,
            mtu: u16::try_from(mtu).ok(),
        })
    }

    /// The program's end of a device that a test plays by the other end of `socket`.
    #[cfg(test)]
    pub(super) fn played(socket: std::os::unix::net::UnixDatagram) -> Self {
        Self {
            name: "played".into(),
            file: File::from(std::os::fd::OwnedFd::from(socket)),
            mtu: None,
        }
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's, if a driver could be told.
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// Lets the host leave to the guest what the driver agreed to do itself.
    ///
    /// # Errors
    /// What the host says.
    pub fn set_offloads(&self, features: u64) -> io::Result<()> {
        let offloads = offloads(features);
        // SAFETY: TUNSETOFFLOAD takes the flags in place of an address and touches no memory.
        let request = unsafe { IntegerSetter::<TUNSETOFFLOAD>::new_usize(offloads) };
        // SAFETY: as above; the descriptor is a tap device's.
        Ok(unsafe { ioctl(&self.file, request) }?)
    }
}

impl Tap {
    /// Reads a frame: to the buffers that are `ready`, and what goes beyond them to its place in
    /// `buffer`.
    ///
    /// # Errors
    /// What the host says.
    pub fn receive(&self, ready: &Buffers<'_>, buffer: &mut [u8]) -> io::Result<Received> {
        let read = if ready.chains.is_empty() {
            rustix::io::read(self, buffer)
                .map(|len| (len, 0))
                .map_err(io::Error::from)
        } else {
            let parts = ready.chains.iter().flat_map(|chain| &chain.writable);
            ready.memory.receive_from(self, parts, buffer)
        };
        match read {
            Ok((len, room)) if len > HEADER => Ok(Received::Frame {
                len,
                there: room.min(len),
            }),
            Ok(_) => Ok(Received::Nothing),
            // Whoever was interrupted will be back: poll(2) says at once that there is a frame.
            Err(e) => match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Received::Nothing),
                _ => Err(e),
            },
        }
    }

    /// Passes on a guest's frame, which the device takes out of guest memory or refuses.
    ///
    /// # Errors
    /// [`Broken`] if it left RAM.
    pub fn pass_on(&self, request: &Request<'_>) -> Result<(), Broken> {
        let mut header = [0; HEADER];
        let Some(rest) = split_off_header(request, &mut header)? else {
            return Ok(());
        };
        if request.features & (1 << VIRTIO_NET_F_CSUM) == 0 {
            header.fill(0); // 5.1.6.2: who did not agree to it says nothing there.
        }
        // Its header is wrong, the device is down, its queue is full: frames get lost.
        let _refused = request.memory.send_to(self, &header, &rest);
        Ok(())
    }
}

/// Reads the header of a frame, wherever its parts begin and end; returns what is behind it, or `None`
/// if it is no frame.
fn split_off_header(
    request: &Request<'_>,
    header: &mut [u8; HEADER],
) -> Result<Option<Vec<Segment>>, Broken> {
    let parts = &request.chain.readable;
    let len = parts.iter().map(|part| part.len as usize).sum::<usize>();
    if len <= HEADER || len > HEADER + MAX_FRAME {
        return Ok(None);
    }
    let mut missing = header.as_mut_slice();
    let mut rest = Vec::with_capacity(parts.len());
    for part in parts {
        let (now, later) = missing.split_at_mut((part.len as usize).min(missing.len()));
        let read = request.memory.read(part.gpa, now);
        read.map_err(|_numbers| left_ram(request.chain))?;
        // At most the header's length.
        let taken = u32::try_from(now.len()).unwrap_or(part.len);
        if taken < part.len {
            rest.push(Segment {
                gpa: GuestAddress(part.gpa.0 + u64::from(taken)),
                len: part.len - taken,
            });
        }
        missing = later;
    }
    Ok(Some(rest))
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The host's words for what a driver agreed to. `[virtio]` 5.1.3.1: the others need checksums.
fn offloads(features: u64) -> usize {
    let agreed = |bit: u32| features & (1 << bit) != 0;
    if !agreed(VIRTIO_NET_F_GUEST_CSUM) {
        return 0;
    }
    let cuts = [
        (VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4),
        (VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6),
    ];
    let cuts = cuts.into_iter().filter(|(bit, _)| agreed(*bit));
    let cuts = cuts.fold(0, |flags, (_, flag)| flags | flag);
    let ecn = agreed(VIRTIO_NET_F_GUEST_ECN) && cuts != 0;
    TUN_F_CSUM | cuts | if ecn { TUN_F_TSO_ECN } else { 0 }
}

fn ifreq(device: &str) -> Ifreq {
    let mut name = [0; 16];
    // One byte less: a NUL ends it. The configuration excludes longer ones.
    for (to, from) in name.iter_mut().take(15).zip(device.bytes()) {
        *to = from;
    }
    let value = [0; 24];
    Ifreq { name, value }
}

/// The MTU of the device `name`, which must exist: TUNSETIFF would make one that nobody set up.
fn look_up(name: &str) -> rustix::io::Result<i32> {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    name_to_index(&socket, name)?;
    let mut asked = ifreq(name);
    // SAFETY: SIOCGIFMTU reads and writes one struct ifreq, which `Ifreq` has the layout of.
    let request = unsafe { Updater::<SIOCGIFMTU, Ifreq>::new(&mut asked) };
    // SAFETY: as above; any socket will do.
    unsafe { ioctl(&socket, request) }?;
    let [a, b, c, d, ..] = asked.value;
    Ok(i32::from_ne_bytes([a, b, c, d]))
}

fn connect(file: &File, name: &str) -> rustix::io::Result<()> {
    let mut wanted = ifreq(name);
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    let place = wanted.value.iter_mut();
    place
        .zip(flags.to_ne_bytes())
        .for_each(|(to, from)| *to = from);
    // SAFETY: TUNSETIFF reads and writes one struct ifreq, which `Ifreq` has the layout of.
    let request = unsafe { Updater::<TUNSETIFF, Ifreq>::new(&mut wanted) };
    // SAFETY: as above.
    unsafe { ioctl(file, request) }?;
    let size = i32::try_from(HEADER).unwrap_or(0);
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    let request = unsafe { Setter::<TUNSETVNETHDRSZ, i32>::new(size) };
    // SAFETY: as above.
    unsafe { ioctl(file, request) }
}

fn refused(name: &str, errno: Errno) -> Error {
    let hint = match errno {
        Errno::PERM => {
            "; it is another user's: ip tuntap add ... user $USER makes one that is yours"
        }
        Errno::BUSY => "; another program is connected to it",
        Errno::INVAL => "; it is no tap device, or one with several queues (multi_queue)",
        _ => "",
    };
    Error::Connect {
        name: name.to_owned(),
        hint,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtio_5_1_3_1_offloads_need_those_below() {
        let features = |bits: &[u32]| bits.iter().fold(0, |set, bit| set | 1 << bit);
        let (csum, tso4, tso6, ecn) = (1, 7, 8, 9);
        assert_eq!(offloads(0), 0);
        assert_eq!(offloads(features(&[tso4, tso6, ecn])), 0);
        assert_eq!(offloads(features(&[csum, ecn])), TUN_F_CSUM);
        assert_eq!(offloads(features(&[csum, tso6, ecn])), 0b1101);
        assert_eq!(offloads(features(&[csum, tso4, tso6, ecn])), 0b1111);
    }

    #[test]
    fn device_that_is_missing_is_said_to_be() {
        let text = Tap::open("no-such-tap").unwrap_err().to_string();
        assert!(
            text.starts_with("Cannot use --net tap=no-such-tap: there is no such"),
            "{text}"
        );
    }

    #[test]
    fn device_of_another_kind_is_refused() {
        // Without the right to connect it ends a step earlier.
        let text = Tap::open("lo").unwrap_err().to_string();
        assert!(
            text.starts_with("Cannot use --net tap=lo; ") || text.contains(DEVICE),
            "{text}"
        );
    }
}
