//! virtio's registers in words: how a driver and a device come to terms.
//!
//! As in [`super::registers`], what selects is remembered a window. The story that comes out is the one of
//! `[virtio]` 3.1.1: reset, acknowledge, features, queues, DRIVER_OK.
//!
//! Source: `[virtio]` 1.2, 4.2.2 (registers), 2.1 (status), 5 (device types and their features), 6
//! (features of all). Read next: [`super::calls`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::registers::{Access, Named};

/// Where the device's own configuration begins.
const CONFIG: u64 = 0x100;
/// Drivers of no device of ours set up more; what lies beyond is not kept.
const QUEUES: u32 = 64;

/// What drivers wrote, by the address of the window.
#[derive(Debug, Default)]
pub struct Windows(BTreeMap<u64, Window>);

#[derive(Debug, Default)]
struct Window {
    device_word: u32,
    driver_word: u32,
    features: u64,
    status: u32,
    queue: u32,
    /// Of the selected queue: size, and three addresses in the order of their registers.
    size: u32,
    places: [u64; 3],
}

impl Windows {
    /// Says what `access` to a window of `device` is.
    pub fn name(&mut self, device: &'static str, access: &Access<'_>) -> Named {
        if access.offset >= CONFIG {
            let register = format!("config +{:#x}", access.offset - CONFIG);
            return Named::new(
                register,
                format!("{} bytes of the device's own", access.size),
            );
        }
        // Only devices have windows, so there are no more keys than windows.
        let window = self.0.entry(access.address - access.offset).or_default();
        let value = u32::try_from(access.value() & 0xffff_ffff).unwrap_or(0);
        if access.write {
            window.written(device, access.offset, value)
        } else {
            window.read(device, access.offset, value)
        }
    }
}

impl Window {
    fn read(&self, device: &str, offset: u64, value: u32) -> Named {
        let meaning = match offset {
            0x000 if value == 0x7472_6976 => "\"virt\"".to_owned(),
            0x008 if value == 0 => {
                "a placeholder: the device is in use by its other window".to_owned()
            }
            0x008 => format!("type {value}, {device}"),
            0x010 => features(device, u64::from(value) << (32 * self.device_word.min(1))),
            0x034 => format!("queue {}: up to {value} entries", self.queue),
            0x044 => format!(
                "queue {}: {}",
                self.queue,
                yes(value, "ready", "not in use")
            ),
            0x060 => interrupt(value),
            0x070 => status(value),
            0x0b0..=0x0bc => yes(value ^ u32::MAX, "shared memory", "no such region").to_owned(),
            0x0fc => format!("configuration, edition {value}"),
            _ => String::new(),
        };
        Named::new(register(offset), meaning)
    }

    fn written(&mut self, device: &str, offset: u64, value: u32) -> Named {
        let mut story = None;
        let meaning = match offset {
            0x014 => {
                self.device_word = value;
                format!("features {} and up", value.saturating_mul(32))
            }
            0x020 => {
                let shift = 32 * self.driver_word.min(1);
                self.features = self.features & !(0xffff_ffff << shift) | u64::from(value) << shift;
                features(device, u64::from(value) << shift)
            }
            0x024 => {
                self.driver_word = value;
                format!("features {} and up", value.saturating_mul(32))
            }
            0x030 => {
                self.queue = value;
                (self.size, self.places) = (0, [0; 3]);
                queue_name(device, value)
            }
            0x038 => {
                self.size = value;
                format!("queue {}: {value} entries", self.queue)
            }
            0x044 => {
                story = (value == 1 && self.queue < QUEUES).then(|| self.queue_story(device));
                format!(
                    "queue {}: {}",
                    self.queue,
                    yes(value, "ready", "no longer in use")
                )
            }
            0x050 => format!("{} has requests", queue_name(device, value)),
            0x064 => format!("seen: {}", interrupt(value)),
            0x070 => {
                story = self.step(device, value);
                status(value)
            }
            0x080 | 0x084 => self.place(0, offset, value),
            0x090 | 0x094 => self.place(1, offset, value),
            0x0a0 | 0x0a4 => self.place(2, offset, value),
            _ => String::new(),
        };
        Named {
            story,
            ..Named::new(register(offset), meaning)
        }
    }

    /// Half of an address of the selected queue's.
    fn place(&mut self, which: usize, offset: u64, value: u32) -> String {
        let Some(place) = self.places.get_mut(which) else {
            return String::new();
        };
        let shift = if offset & 4 == 0 { 0 } else { 32 };
        *place = *place & !(0xffff_ffff << shift) | u64::from(value) << shift;
        format!("queue {}: now {place:#x}", self.queue)
    }

    fn queue_story(&self, device: &str) -> String {
        let [descriptors, available, used] = self.places;
        format!(
            "{device}: {} is ready: {} entries, descriptors at {descriptors:#x}, available ring at \
             {available:#x}, used ring at {used:#x}",
            queue_name(device, self.queue),
            self.size
        )
    }

    /// What a write to Status is a step of. `[virtio]` 3.1.1
    fn step(&mut self, device: &str, value: u32) -> Option<String> {
        let set = value & !self.status;
        self.status = value;
        let step = match set {
            _ if value == 0 => {
                *self = Self::default();
                "the driver resets the device".to_owned()
            }
            _ if value & 0x80 != 0 => "the driver gives up".to_owned(),
            1 => "the guest has found the device".to_owned(),
            2 | 3 => "the guest has a driver for it".to_owned(),
            8 => format!("agreed on {}", features(device, self.features)),
            4 => "the driver is ready: requests may come".to_owned(),
            _ => return None,
        };
        Some(format!("{device}: {step}"))
    }
}

fn register(offset: u64) -> Cow<'static, str> {
    Cow::Borrowed(match offset {
        0x000 => "MagicValue",
        0x004 => "Version",
        0x008 => "DeviceID",
        0x00c => "VendorID",
        0x010 => "DeviceFeatures",
        0x014 => "DeviceFeaturesSel",
        0x020 => "DriverFeatures",
        0x024 => "DriverFeaturesSel",
        0x030 => "QueueSel",
        0x034 => "QueueNumMax",
        0x038 => "QueueNum",
        0x044 => "QueueReady",
        0x050 => "QueueNotify",
        0x060 => "InterruptStatus",
        0x064 => "InterruptACK",
        0x070 => "Status",
        0x080 => "QueueDescLow",
        0x084 => "QueueDescHigh",
        0x090 => "QueueDriverLow",
        0x094 => "QueueDriverHigh",
        0x0a0 => "QueueDeviceLow",
        0x0a4 => "QueueDeviceHigh",
        0x0ac => "SHMSel",
        0x0b0 => "SHMLenLow",
        0x0b4 => "SHMLenHigh",
        0x0b8 => "SHMBaseLow",
        0x0bc => "SHMBaseHigh",
        0x0fc => "ConfigGeneration",
        _ => return Cow::Owned(format!("+{offset:#x}, no register")),
    })
}

fn yes(value: u32, yes: &'static str, no: &'static str) -> &'static str {
    if value == 0 { no } else { yes }
}

/// `[virtio]` 4.2.2, InterruptStatus.
fn interrupt(value: u32) -> String {
    match value & 3 {
        1 => "requests are done",
        2 => "the configuration has changed",
        3 => "requests are done, the configuration has changed",
        _ => "nothing",
    }
    .to_owned()
}

/// `[virtio]` 2.1.
fn status(value: u32) -> String {
    const BITS: [(u32, &str); 6] = [
        (1, "ACKNOWLEDGE"),
        (2, "DRIVER"),
        (8, "FEATURES_OK"),
        (4, "DRIVER_OK"),
        (0x40, "DEVICE_NEEDS_RESET"),
        (0x80, "FAILED"),
    ];
    let set = BITS.iter().filter(|(bit, _)| value & bit != 0);
    let names: Vec<_> = set.map(|(_, name)| *name).collect();
    if names.is_empty() {
        "reset".to_owned()
    } else {
        names.join(" ")
    }
}

/// `[virtio]` 5, "Virtqueues" of each device type.
fn queue_name(device: &str, queue: u32) -> String {
    let names: &[&str] = match device {
        "virtio-blk" | "virtio-rng" | "virtio-pmem" => &["requests"],
        "virtio-net" | "virtio-console" => &["to the guest", "from the guest"],
        "virtio-ports" => &["port 0 in", "port 0 out", "control in", "control out"],
        "virtio-vsock" => &["to the guest", "from the guest", "events"],
        "virtio-balloon" => &["inflate", "deflate", "statistics", "free pages"],
        "virtio-fs" => &["urgent requests", "requests"],
        _ => &[],
    };
    let index = usize::try_from(queue).unwrap_or(usize::MAX);
    match names.get(index) {
        Some(name) => format!("queue {queue} ({name})"),
        None => format!("queue {queue}"),
    }
}

/// The features in `bits`, by name where there is one.
fn features(device: &str, bits: u64) -> String {
    const COMMON: [(u32, &str); 8] = [
        (28, "INDIRECT_DESC"),
        (29, "EVENT_IDX"),
        (32, "VERSION_1"),
        (33, "ACCESS_PLATFORM"),
        (34, "RING_PACKED"),
        (35, "IN_ORDER"),
        (36, "ORDER_PLATFORM"),
        (38, "NOTIFICATION_DATA"),
    ];
    let own: &[(u32, &str)] = match device {
        "virtio-blk" => &[
            (1, "SIZE_MAX"),
            (2, "SEG_MAX"),
            (4, "GEOMETRY"),
            (5, "RO"),
            (6, "BLK_SIZE"),
            (9, "FLUSH"),
            (10, "TOPOLOGY"),
            (11, "CONFIG_WCE"),
            (12, "MQ"),
            (13, "DISCARD"),
            (14, "WRITE_ZEROES"),
        ],
        "virtio-net" => &[
            (0, "CSUM"),
            (1, "GUEST_CSUM"),
            (3, "MTU"),
            (5, "MAC"),
            (7, "GUEST_TSO4"),
            (8, "GUEST_TSO6"),
            (11, "HOST_TSO4"),
            (12, "HOST_TSO6"),
            (15, "MRG_RXBUF"),
            (16, "STATUS"),
            (17, "CTRL_VQ"),
        ],
        "virtio-console" | "virtio-ports" => &[(0, "SIZE"), (1, "MULTIPORT"), (2, "EMERG_WRITE")],
        "virtio-vsock" => &[(0, "STREAM"), (1, "SEQPACKET")],
        "virtio-balloon" => &[
            (0, "MUST_TELL_HOST"),
            (1, "STATS_VQ"),
            (2, "DEFLATE_ON_OOM"),
            (3, "FREE_PAGE_HINT"),
            (4, "PAGE_POISON"),
            (5, "REPORTING"),
        ],
        _ => &[],
    };
    let name = |bit: u32| {
        let mut known = own.iter().chain(&COMMON);
        let found = known.find(|(number, _)| *number == bit);
        found.map_or_else(|| format!("bit {bit}"), |(_, name)| (*name).to_owned())
    };
    let set = (0..u64::BITS).filter(|bit| bits >> bit & 1 != 0);
    let names: Vec<_> = set.map(name).collect();
    if names.is_empty() {
        "none of these".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(windows: &mut Windows, offset: u64, write: bool, value: u32) -> Named {
        let access = Access {
            device: Some("virtio-blk"),
            address: 0xc001_0000 + offset,
            offset,
            write,
            mmio: true,
            size: 4,
            data: &value.to_le_bytes(),
        };
        windows.name("virtio-blk", &access)
    }

    /// `[virtio]` 3.1.1, as Linux does it.
    #[test]
    fn a_driver_and_a_device_come_to_terms() {
        let mut windows = Windows::default();
        let mut story = Vec::new();
        for (offset, value) in [
            (0x070, 0),
            (0x070, 1),
            (0x070, 3),
            (0x024, 1),
            (0x020, 1),
            (0x024, 0),
            (0x020, 0x3000_0200),
            (0x070, 0xb),
            (0x030, 0),
            (0x038, 128),
            (0x080, 0x5000),
            (0x084, 1),
            (0x044, 1),
            (0x070, 0xf),
        ] {
            story.extend(access(&mut windows, offset, true, value).story);
        }
        let told: Vec<_> = story
            .iter()
            .map(|line| line.strip_prefix("virtio-blk: ").unwrap())
            .collect();
        assert_eq!(
            told,
            [
                "the driver resets the device",
                "the guest has found the device",
                "the guest has a driver for it",
                "agreed on FLUSH, INDIRECT_DESC, EVENT_IDX, VERSION_1",
                "queue 0 (requests) is ready: 128 entries, descriptors at 0x100005000, available ring at \
                 0x0, used ring at 0x0",
                "the driver is ready: requests may come",
            ]
        );
    }

    #[test]
    fn notification_names_the_queue() {
        let notify = access(&mut Windows::default(), 0x050, true, 0);
        assert_eq!(
            (&*notify.register, &*notify.meaning),
            ("QueueNotify", "queue 0 (requests) has requests")
        );
    }

    #[test]
    fn every_offset_and_value_has_a_name_and_no_panic() {
        let mut windows = Windows::default();
        for offset in 0..0x200 {
            for value in [0, 1, u32::MAX] {
                for write in [true, false] {
                    assert!(
                        !access(&mut windows, offset, write, value)
                            .register
                            .is_empty()
                    );
                }
            }
        }
        assert_eq!(windows.0.len(), 1);
    }
}
