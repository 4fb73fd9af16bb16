//! Lab 18's other half: the driver, which is the guest's.
//!
//! ```text
//!  0x4000 descriptors        0x5000 available ring      0x6000 used ring
//!  0: 0x7000, 16, NEXT       flags 0                    flags
//!  1: 0x7200, 512, WRITE     idx 1   (what is offered)  idx 0, until the device is done
//!     and NEXT               ring[0] = 0: chain at 0    ring[0]
//!  2: 0x7010, 1, WRITE
//! ```
//!
//! Source: as [`super::lab18_virtio`]. Read next: [`super::lab19_dirty_pages`].

use vm_memory::GuestAddress;

use super::rig::{CODE, Guest, Rig, op};
use super::tale::{Stop, Tale};
use crate::watch::code::Width;

const DESCRIPTORS: u64 = 0x4000;
const AVAILABLE: u64 = 0x5000;
pub(super) const USED: u64 = 0x6000;
const HEADER: u64 = 0x7000;
const STATUS: u64 = 0x7010;
pub(super) const DATA: u64 = 0x7200;
// A descriptor's flags. [virtio] 2.7.5
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// What the guest prints of the sector.
pub(super) const TEXT: &[u8] = b"sector seven";

#[rustfmt::skip]
pub(super) const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &[
        op(&[0xbe, 0x00, 0x20], "mov si, 0x2000", "the list: register, value"),
        op(&[0x66, 0xad], "lodsd [si]", "a register's offset"),
        op(&[0x66, 0x85, 0xc0], "test eax, eax", "negative ends the list"),
        op(&[0x78, 0x0a], "js short 0x1014", "then wait"),
        op(&[0x89, 0xc7], "mov di, ax", ""),
        op(&[0x66, 0xad], "lodsd [si]", "what to write there"),
        op(&[0x26, 0x66, 0x89, 0x05], "mov es:[di], eax", "an exit"),
        op(&[0xeb, 0xef], "jmp short 0x1003", "next"),
        op(&[0x83, 0x3e, 0x02, 0x60, 0x00], "cmp word ptr [0x6002], 0", "used.idx: is it done?"),
        op(&[0x74, 0xf9], "je short 0x1014", "not yet; this is no exit"),
        op(&[0xa0, 0x10, 0x70], "mov al, [0x7010]", "the request's status byte"),
        op(&[0xe6, 0x41], "out 0x41, al", "show it"),
        op(&[0xbe, 0x00, 0x72], "mov si, 0x7200", "what was read"),
        op(&[0xb9, 0x0c, 0x00], "mov cx, 0xc", "twelve letters of it"),
        op(&[0xba, 0xf8, 0x03], "mov dx, 0x3f8", ""),
        op(&[0xac], "lodsb [si]", "a letter"),
        op(&[0xee], "out dx, al", "printed"),
        op(&[0xe2, 0xfc], "loop 0x1029", "all of them"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

/// What the driver writes, in this order. [virtio] 3.1.1, 4.2.3.2
pub(super) const REGISTERS: [(u32, u32); 18] = [
    (0x070, 0x0),    // Status: reset
    (0x070, 0x1),    // ACKNOWLEDGE: there is a device
    (0x070, 0x3),    // and DRIVER: somebody drives it
    (0x024, 1),      // DriverFeaturesSel: bits 63:32
    (0x020, 1),      // DriverFeatures: bit 32, VIRTIO_F_VERSION_1
    (0x070, 0xb),    // and FEATURES_OK
    (0x030, 0),      // QueueSel
    (0x038, 8),      // QueueNum: entries
    (0x080, 0x4000), // QueueDesc
    (0x084, 0),
    (0x090, 0x5000), // QueueDriver, the available ring
    (0x094, 0),
    (0x0a0, 0x6000), // QueueDevice, the used ring
    (0x0a4, 0),
    (0x044, 1),   // QueueReady
    (0x070, 0xf), // and DRIVER_OK: go
    (0x050, 0),   // QueueNotify: look at queue 0
    (0x064, 0),   // InterruptACK: none, this driver polls
];

/// Puts one request into memory, ready to be found: read sector 7.
pub(super) fn write_request(tale: &mut Tale, rig: &Rig) -> Result<(), Stop> {
    let put = |at: u64, bytes: &[u8]| rig.memory.write(GuestAddress(at), bytes);
    // A descriptor: address, length, flags, next one's number.
    let chain = [
        (HEADER, 16_u32, NEXT, 1_u16),
        (DATA, 512, NEXT | WRITE, 2),
        (STATUS, 1, WRITE, 0),
    ];
    for (number, (address, len, flags, next)) in (0..).zip(chain) {
        let at = DESCRIPTORS + number * 16;
        put(at, &address.to_le_bytes())?;
        put(at + 8, &len.to_le_bytes())?;
        put(at + 12, &flags.to_le_bytes())?;
        put(at + 14, &next.to_le_bytes())?;
        let who = if flags & WRITE == 0 {
            "device reads"
        } else {
            "device writes"
        };
        tale.say(format!(
            "memory at {at:#x}: descriptor {number}, {len} bytes at {address:#x}, {who}"
        ));
    }
    // VIRTIO_BLK_T_IN, reserved, sector. The status starts as something that is none.
    put(HEADER, &[0_u32.to_le_bytes(), [0; 4]].concat())?;
    put(HEADER + 8, &7_u64.to_le_bytes())?;
    put(STATUS, &[0xff])?;
    // The available ring: no flags, one chain offered, which begins at descriptor 0.
    put(
        AVAILABLE,
        [0_u16, 1, 0].map(u16::to_le_bytes).as_flattened(),
    )?;
    tale.say(format!(
        "memory at {AVAILABLE:#x}: available ring, idx 1, chain at descriptor 0"
    ));
    Ok(())
}

/// A write to a register, by name.
pub(super) fn register(offset: u64, value: u32) -> String {
    let name = match offset {
        0x020 => "DriverFeatures",
        0x024 => "DriverFeaturesSel",
        0x030 => "QueueSel",
        0x038 => "QueueNum",
        0x044 => "QueueReady",
        0x050 => "QueueNotify",
        0x064 => "InterruptACK",
        0x070 => "Status",
        0x080 => "QueueDescLow",
        0x084 => "QueueDescHigh",
        0x090 => "QueueDriverLow",
        0x094 => "QueueDriverHigh",
        0x0a0 => "QueueDeviceLow",
        0x0a4 => "QueueDeviceHigh",
        _ => "a register this driver does not know",
    };
    format!("{name} = {value:#x}")
}
