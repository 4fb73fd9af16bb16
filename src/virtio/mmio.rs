//! The transport: a device's registers in memory, and the state machine behind them.
//!
//! ```text
//!  offset  register                      offset  register
//!  0x000   MagicValue, Version,          0x070   Status
//!          DeviceID, VendorID            0x080   QueueDesc, QueueDriver, QueueDevice:
//!  0x010   DeviceFeatures and -Sel               low and high halves
//!  0x020   DriverFeatures and -Sel       0x0ac   SHMSel, SHMLen, SHMBase
//!  0x030   QueueSel, QueueNumMax,        0x0fc   ConfigGeneration
//!          QueueNum, QueueReady          0x100   configuration space, the device's own
//!  0x050   QueueNotify
//!  0x060   InterruptStatus, InterruptACK
//! ```
//!
//! **Two windows.** A kernel learns of a device from ACPI or from its command line, and one that
//! knows both would take one device for two. So each device has two register windows, one for
//! either announcement. The first that a driver writes to is the device; the other says from then
//! on that it is "a placeholder", DeviceID 0, which `[virtio]` 4.2.2.2 tells drivers to pass over
//! without a word (docs/adr/0012).
//!
//! **Leniency.** Registers are 32 bits wide and aligned (4.2.2.2); any other access reads zeros and
//! writes nothing. So do registers that do not exist or are not readable. A driver that breaks a
//! rule by which a device could be used wrongly finds DEVICE_NEEDS_RESET set.
//!
//! Lock order: the state's, then [`super::server`]'s, then the interrupt line's.
//! Source: `[virtio]` 1.2: 4.2 "Virtio Over MMIO", 2.1 "Device Status Field", 2.2 "Feature Bits".
//! Read next: [`super::queue`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS,
    VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY,
    VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW,
    VIRTIO_MMIO_SHM_BASE_HIGH, VIRTIO_MMIO_SHM_BASE_LOW, VIRTIO_MMIO_SHM_LEN_HIGH,
    VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::Broken;
use super::queue::{Position, QueueSetup, RequestQueue};
use super::server::{Active, Server};
use crate::bus::{MmioDevice, Request};

/// "virt" in little-endian.
const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface, which has 1.
const VERSION: u32 = 2;
/// Nobody's number in particular; drivers do not ask. In ASCII: "ctge".
const VENDOR: u32 = 0x6567_7463;
/// DeviceID of a window without a device. `[virtio]` 4.2.2
const PLACEHOLDER: u32 = 0;
/// What SHMLen and SHMBase read of a region that does not exist. `[virtio]` 4.2.2
const NO_REGION: u32 = u32::MAX;

/// What every device of ours can do. The queues' two save exits and interrupts, and descriptors.
const COMMON_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

// Status bits; the bindings have them as u32.
pub(super) const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
pub(super) const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
/// Those a driver sets.
const DRIVERS_BITS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | FEATURES_OK
    | DRIVER_OK
    | VIRTIO_CONFIG_S_FAILED;

/// By which announcement a window is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Announced {
    /// The DSDT.
    Acpi,
    /// The kernel command line.
    Cmdline,
}

/// What the registers hold: a plain value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The driver's bits of Status; DEVICE_NEEDS_RESET is the interrupt line's.
    pub status: u32,
    /// DeviceFeaturesSel.
    pub device_features_sel: u32,
    /// DriverFeaturesSel.
    pub driver_features_sel: u32,
    /// DriverFeatures, words 0 and 1.
    pub driver_features: u64,
    /// The driver set a feature bit above those, where we offer none.
    pub driver_features_beyond: bool,
    /// QueueSel.
    pub queue_sel: u32,
    /// The queues, as set up so far.
    pub queues: Vec<QueueSetup>,
    /// The window that the driver uses.
    pub window: Option<Announced>,
}

/// A device's registers.
#[derive(Debug)]
pub struct Transport {
    state: Mutex<State>,
    server: Arc<Server>,
}

impl Transport {
    /// The registers of a device that no driver has touched.
    pub fn new(server: Arc<Server>) -> Self {
        let queues = vec![QueueSetup::default(); server.device().queues().len()];
        let state = Mutex::new(State {
            queues,
            ..State::default()
        });
        Self { state, server }
    }

    /// Who serves the device.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// What the registers hold.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn offered(&self) -> u64 {
        COMMON_FEATURES | self.server.device().features()
    }

    fn read_register(&self, offset: u32, through: Announced) -> u32 {
        let state = self.lock();
        let selected = usize::try_from(state.queue_sel).ok();
        let queue = selected.and_then(|index| state.queues.get(index));
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID if state.window.is_some_and(|w| w != through) => PLACEHOLDER,
            VIRTIO_MMIO_DEVICE_ID => self.server.device().id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => word(self.offered(), state.device_features_sel),
            VIRTIO_MMIO_QUEUE_NUM_MAX => selected
                .and_then(|index| self.server.device().queues().get(index))
                .map_or(0, |max| u32::from(*max)),
            VIRTIO_MMIO_QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.ready)),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.server.line().pending(),
            VIRTIO_MMIO_STATUS if self.server.line().needs_reset() => state.status | NEEDS_RESET,
            VIRTIO_MMIO_STATUS => state.status,
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => NO_REGION,
            VIRTIO_MMIO_CONFIG_GENERATION => self.server.device().config_generation(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u32, value: u32, through: Announced) {
        let mut state = self.lock();
        if *state.window.get_or_insert(through) != through {
            return;
        }
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => state.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => state.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES => state.set_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => state.queue_sel = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                let running = state.status & DRIVER_OK != 0;
                // A request may be served in here; registers must answer meanwhile.
                drop(state);
                if running {
                    self.server.notify(value as usize);
                }
            }
            VIRTIO_MMIO_INTERRUPT_ACK => self.server.line().acknowledge(value),
            VIRTIO_MMIO_STATUS => self.write_status(&mut state, value),
            VIRTIO_MMIO_QUEUE_NUM..=VIRTIO_MMIO_QUEUE_USED_HIGH => {
                self.write_queue(&mut state, offset, value);
            }
            _ => {}
        }
    }

    /// The driver that uses the other window is not this device's.
    fn write_config(&self, offset: usize, data: &[u8], through: Announced) {
        if self.lock().window == Some(through) {
            self.server.device().write_config(offset, data);
        }
    }

    /// `[virtio]` 2.1 and 3.1: the driver's way from reset to DRIVER_OK.
    fn write_status(&self, state: &mut State, value: u32) {
        if value == 0 {
            self.server.reset();
            state.reset();
            return;
        }
        let was = state.status;
        let set = value & DRIVERS_BITS & !was;
        // 2.1.1: the driver must not clear a bit, and must not set DRIVER_OK before FEATURES_OK.
        let too_early = set & DRIVER_OK != 0 && was & FEATURES_OK == 0;
        if was & !value != 0 || too_early {
            let was = u8::try_from(was).unwrap_or(u8::MAX);
            return self.server.give_up(&Broken::Status { was, wrote: value });
        }
        state.status = was | set;
        if set & FEATURES_OK != 0 && !self.accepts(state) {
            // 2.2.2: a device that cannot go on with the driver's choice leaves the bit clear.
            state.status &= !FEATURES_OK;
        }
        if set & DRIVER_OK != 0 && !self.server.line().needs_reset() {
            self.start(state)
                .unwrap_or_else(|broken| self.server.give_up(&broken));
        }
    }

    /// Whether the device can work with the features that the driver chose.
    fn accepts(&self, state: &State) -> bool {
        let modern = state.driver_features & (1 << VIRTIO_F_VERSION_1) != 0;
        let only_offered = state.driver_features & !self.offered() == 0;
        modern && only_offered && !state.driver_features_beyond
    }

    fn start(&self, state: &State) -> Result<(), Broken> {
        let ready = state.queues.iter().map(|queue| queue.ready);
        let positions: Vec<_> = ready.map(|r| r.then(Position::default)).collect();
        self.server.start(self.queues(state, &positions)?)
    }

    /// The queues as they are set up, each from its position on, if it has one.
    pub(super) fn queues(&self, state: &State, at: &[Option<Position>]) -> Result<Active, Broken> {
        let event_index = state.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let maxima = self.server.device().queues();
        let mut queues = Vec::with_capacity(maxima.len());
        for ((setup, max), at) in state.queues.iter().zip(maxima).zip(at) {
            let memory = self.server.memory();
            let queue = at.map(|at| RequestQueue::new(setup, *max, event_index, at, memory));
            queues.push(queue.transpose()?);
        }
        Ok(Active::new(state.driver_features, queues))
    }

    /// `[virtio]` 4.2.3.2: the registers that describe the selected queue.
    fn write_queue(&self, state: &mut State, offset: u32, value: u32) {
        let (number, status) = (state.queue_sel, state.status);
        let Ok(index) = usize::try_from(number) else {
            return;
        };
        let (Some(queue), Some(max)) = (
            state.queues.get_mut(index),
            self.server.device().queues().get(index),
        ) else {
            return;
        };
        if offset == VIRTIO_MMIO_QUEUE_READY && value == 0 {
            queue.ready = false;
            return self.server.stop_queue(index);
        }
        // 4.2.2.2: no change while the queue is ready; and 3.1.1: all queues before DRIVER_OK.
        if queue.ready || status & DRIVER_OK != 0 {
            return self.server.give_up(&Broken::BusyQueue(number));
        }
        match offset {
            VIRTIO_MMIO_QUEUE_NUM => queue.size = value,
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut queue.available, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut queue.available, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut queue.used, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut queue.used, value),
            VIRTIO_MMIO_QUEUE_READY => {
                let (start, memory) = (Position::default(), self.server.memory());
                match RequestQueue::new(queue, *max, false, start, memory) {
                    Ok(_usable) => queue.ready = true,
                    Err(broken) => self.server.give_up(&broken),
                }
            }
            _ => {}
        }
    }
}

impl State {
    /// What a reset leaves: which window the driver uses, and nothing else.
    pub(super) fn reset(&mut self) {
        let queues = vec![QueueSetup::default(); self.queues.len()];
        *self = Self {
            queues,
            window: self.window,
            ..Self::default()
        };
    }

    fn set_driver_features(&mut self, value: u32) {
        // 2.2.1: what was agreed on stays so.
        if self.status & FEATURES_OK != 0 {
            return;
        }
        match self.driver_features_sel {
            0 => set_low(&mut self.driver_features, value),
            1 => set_high(&mut self.driver_features, value),
            _ => self.driver_features_beyond |= value != 0,
        }
    }
}

/// 32-bit word `select` of `bits`, 0 beyond them.
fn word(bits: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = bits.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_low(register: &mut u64, value: u32) {
    *register = *register & !0xffff_ffff | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = *register & 0xffff_ffff | u64::from(value) << 32;
}

/// One of a device's two register windows.
#[derive(Debug)]
pub struct Window {
    transport: Arc<Transport>,
    announced: Announced,
}

impl Window {
    /// The window for those who know the device by `announced`.
    pub fn new(transport: Arc<Transport>, announced: Announced) -> Self {
        Self {
            transport,
            announced,
        }
    }
}

impl MmioDevice for Window {
    fn name(&self) -> &'static str {
        self.transport.server.device().name()
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(from) = config_offset(offset) {
            // 4.2.2.2: the configuration space may be read in any width.
            self.transport.server.device().read_config(from, data);
        } else if let (Some(register), Ok(data)) =
            (register(offset), <&mut [u8; 4]>::try_from(data))
        {
            let value = self.transport.read_register(register, self.announced);
            *data = value.to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Option<Request> {
        if let Some(from) = config_offset(offset) {
            self.transport.write_config(from, data, self.announced);
        } else if let (Some(register), Ok(data)) = (register(offset), <[u8; 4]>::try_from(data)) {
            let value = u32::from_le_bytes(data);
            self.transport
                .write_register(register, value, self.announced);
        }
        None
    }
}

/// Where `offset` is in the configuration space, if it is.
fn config_offset(offset: u64) -> Option<usize> {
    let from = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG))?;
    usize::try_from(from).ok()
}

/// The register at `offset`, if there can be one.
fn register(offset: u64) -> Option<u32> {
    let offset = u32::try_from(offset).ok()?;
    (offset < VIRTIO_MMIO_CONFIG && offset.is_multiple_of(4)).then_some(offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_bindings::virtio_mmio::{
        VIRTIO_MMIO_GUEST_PAGE_SIZE, VIRTIO_MMIO_QUEUE_PFN, VIRTIO_MMIO_SHM_SEL,
    };

    use super::*;
    use crate::memory::layout::VIRTIO_ACPI;
    use crate::virtio::testing::{AVAILABLE, DESCRIPTORS, Echo, Guest, SIZE, USED, write};

    /// A guest with the echo device.
    fn guest() -> Guest {
        Guest::with(Echo::default())
    }

    #[test]
    fn virtio_4_2_2_registers_identify_the_device() {
        let guest = guest();
        let driver = guest.driver();
        let registers = [0, 4, 8, 0xc].map(|register| driver.get(register));
        assert_eq!(registers, [0x7472_6976, 2, 42, VENDOR]);
        assert_eq!(driver.get(VIRTIO_MMIO_CONFIG_GENERATION), 0);
    }

    #[test]
    fn virtio_4_2_2_1_device_features_come_in_words_and_are_zero_beyond() {
        let guest = guest();
        let driver = guest.driver();
        assert_eq!(
            driver.offered(),
            1 << 5 | 1 << 40 | 1 << 32 | 1 << 29 | 1 << 28
        );
        driver.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
        assert_eq!(driver.get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    }

    #[test]
    fn virtio_4_2_2_shared_memory_that_does_not_exist_has_length_minus_one() {
        let guest = guest();
        let driver = guest.driver();
        driver.set(VIRTIO_MMIO_SHM_SEL, 0);
        let registers = [0xb0, 0xb4, 0xb8, 0xbc].map(|register| driver.get(register));
        assert_eq!(registers, [u32::MAX; 4]);
    }

    #[test]
    fn virtio_4_2_2_2_configuration_space_is_read_in_any_width() {
        let guest = guest();
        let (mut two, mut eight) = ([9; 2], [9; 8]);
        guest.bus.read(VIRTIO_ACPI.0 + 0x101, &mut two);
        guest.bus.read(VIRTIO_ACPI.0 + 0x100, &mut eight);
        assert_eq!((&two, &eight), (b"bc", b"abcdef\0\0"));
        guest.bus.read(VIRTIO_ACPI.0 + 0xff8, &mut eight);
        assert_eq!(eight, [0; 8]);
    }

    #[test]
    fn virtio_4_2_2_2_narrow_and_unaligned_accesses_do_nothing() {
        let guest = guest();
        let driver = guest.driver();
        guest.bus.write(VIRTIO_ACPI.0 + 0x70, &[1]);
        guest.bus.write(VIRTIO_ACPI.0 + 0x70, &[1; 8]);
        guest.bus.write(VIRTIO_ACPI.0 + 0x72, &[1; 4]);
        let mut bytes = [9; 2];
        guest.bus.read(VIRTIO_ACPI.0, &mut bytes);
        assert_eq!((driver.get(VIRTIO_MMIO_STATUS), bytes), (0, [0; 2]));
    }

    #[test]
    fn virtio_4_2_2_queue_that_does_not_exist_has_no_size() {
        let guest = guest();
        let driver = guest.driver();
        let sizes = [0, 1, 2, u32::MAX].map(|queue| {
            driver.set(VIRTIO_MMIO_QUEUE_SEL, queue);
            driver.set(VIRTIO_MMIO_QUEUE_NUM, 4);
            driver.get(VIRTIO_MMIO_QUEUE_NUM_MAX)
        });
        assert_eq!(sizes, [64, 8, 0, 0]);
    }

    #[test]
    fn virtio_4_2_4_legacy_registers_are_not_there() {
        let guest = guest();
        let driver = guest.driver();
        driver.set(VIRTIO_MMIO_GUEST_PAGE_SIZE, 4096);
        driver.set(VIRTIO_MMIO_QUEUE_PFN, 1);
        assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_PFN), 0);
    }

    #[test]
    fn virtio_2_2_2_subset_of_the_features_is_accepted() {
        let guest = guest();
        assert_eq!(guest.driver().negotiate(1 << 5), 0xb);
    }

    #[test]
    fn virtio_2_2_2_feature_that_was_not_offered_leaves_features_ok_clear() {
        let guest = guest();
        assert_eq!(guest.driver().negotiate(1 << 6), 3);
    }

    #[test]
    fn virtio_6_1_driver_without_version_1_is_refused() {
        let guest = guest();
        let driver = guest.driver();
        driver.set(VIRTIO_MMIO_STATUS, 3);
        driver.set(VIRTIO_MMIO_STATUS, 0xb);
        assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 3);
    }

    #[test]
    fn virtio_2_2_feature_words_that_do_not_exist_are_refused() {
        let guest = guest();
        let driver = guest.driver();
        driver.set(VIRTIO_MMIO_STATUS, 3);
        for (select, word) in [(1, 1), (2, 1)] {
            driver.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            driver.set(VIRTIO_MMIO_DRIVER_FEATURES, word);
        }
        driver.set(VIRTIO_MMIO_STATUS, 0xb);
        assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 3);
    }

    #[test]
    fn virtio_2_2_1_features_are_fixed_after_features_ok() {
        let guest = guest();
        let driver = guest.driver();
        driver.negotiate(1 << 5);
        driver.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
        driver.set(VIRTIO_MMIO_DRIVER_FEATURES, 0);
        let agreed = guest.transport.state().driver_features;
        assert_eq!(agreed, 1 << 32 | 1 << 5);
    }

    #[test]
    fn virtio_2_1_1_status_bit_cannot_be_cleared() {
        let guest = guest();
        let driver = guest.driver();
        driver.set(VIRTIO_MMIO_STATUS, 3);
        driver.set(VIRTIO_MMIO_STATUS, 2);
        driver.expect_needs_reset();
    }

    #[test]
    fn virtio_3_1_1_driver_ok_before_features_ok_is_refused() {
        let guest = guest();
        let driver = guest.driver();
        driver.set(VIRTIO_MMIO_STATUS, 3);
        driver.set(VIRTIO_MMIO_STATUS, 7);
        driver.expect_needs_reset();
    }

    #[test]
    fn virtio_2_1_2_device_is_silent_before_driver_ok() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.negotiate(0);
        driver.set_queue(SIZE.into(), [DESCRIPTORS, AVAILABLE, USED]);
        driver.put(&[write(0x7000, 1)]);
        assert_eq!(guest.u16_at(USED + 2), 0);
    }

    #[test]
    fn reset_forgets_all_but_the_window() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start(1 << 5);
        driver.put(&[write(0x7000, 1)]);
        driver.set(VIRTIO_MMIO_STATUS, 0);
        let mut fresh = guest.transport.state();
        assert_eq!(fresh.window, Some(Announced::Acpi));
        fresh.window = None;
        let unused = Guest::with(Echo::default());
        assert_eq!(fresh, unused.transport.state());
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    }

    #[test]
    fn virtio_4_2_2_2_second_window_is_a_placeholder_once_the_first_is_used() {
        let guest = guest();
        let (acpi, cmdline) = (guest.driver(), guest.cmdline_driver());
        assert_eq!(cmdline.get(VIRTIO_MMIO_DEVICE_ID), 42);
        acpi.set(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(cmdline.get(VIRTIO_MMIO_MAGIC_VALUE), MAGIC);
        assert_eq!(cmdline.get(VIRTIO_MMIO_DEVICE_ID), PLACEHOLDER);
        cmdline.set(VIRTIO_MMIO_STATUS, 1);
        assert_eq!(acpi.get(VIRTIO_MMIO_STATUS), 0);
        assert_eq!(acpi.get(VIRTIO_MMIO_DEVICE_ID), 42);
    }

    #[test]
    fn kernel_that_knows_the_command_line_only_gets_the_device_there() {
        let guest = guest();
        let mut driver = guest.cmdline_driver();
        driver.start(0);
        driver.put(&[write(0x7000, 1)]);
        assert_eq!(driver.done(), [(0, 1)]);
        assert_eq!(guest.driver().get(VIRTIO_MMIO_DEVICE_ID), PLACEHOLDER);
    }

    /// A queue set up like this must make the device ask for a reset.
    fn refused(size: u32, parts: [u64; 3]) {
        let guest = guest();
        let driver = guest.driver();
        driver.negotiate(0);
        driver.set_queue(size, parts);
        assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
        driver.expect_needs_reset();
    }

    #[test]
    fn virtio_2_7_queue_size_that_is_no_power_of_two_is_refused() {
        refused(7, [DESCRIPTORS, AVAILABLE, USED]);
    }

    #[test]
    fn queue_of_no_entries_is_refused() {
        refused(0, [DESCRIPTORS, AVAILABLE, USED]);
    }

    #[test]
    fn virtio_4_2_2_2_queue_larger_than_the_maximum_is_refused() {
        refused(128, [DESCRIPTORS, AVAILABLE, USED]);
    }

    #[test]
    fn queue_size_that_is_no_u16_is_refused() {
        refused(0x1_0008, [DESCRIPTORS, AVAILABLE, USED]);
    }

    #[test]
    fn virtio_2_7_unaligned_descriptor_table_is_refused() {
        refused(8, [DESCRIPTORS + 8, AVAILABLE, USED]);
    }

    #[test]
    fn virtio_2_7_unaligned_available_ring_is_refused() {
        refused(8, [DESCRIPTORS, AVAILABLE + 1, USED]);
    }

    #[test]
    fn virtio_2_7_unaligned_used_ring_is_refused() {
        refused(8, [DESCRIPTORS, AVAILABLE, USED + 2]);
    }

    #[test]
    fn used_ring_whose_event_index_lies_outside_of_ram_is_refused() {
        refused(8, [DESCRIPTORS, AVAILABLE, (2 << 20) - 68]);
    }

    #[test]
    fn queue_address_that_wraps_is_refused() {
        refused(8, [u64::MAX - 15, AVAILABLE, USED]);
    }

    #[test]
    fn virtio_4_2_2_2_ready_queue_cannot_be_moved() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start(0);
        driver.set(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x5000);
        driver.expect_needs_reset();
    }

    #[test]
    fn queue_taken_back_is_no_longer_served() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start(0);
        driver.set(VIRTIO_MMIO_QUEUE_READY, 0);
        assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
        driver.put(&[write(0x7000, 1)]);
        assert_eq!(guest.u16_at(USED + 2), 0);
        assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 0xf);
    }

    #[test]
    fn notification_of_a_queue_that_does_not_exist_does_nothing() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start(0);
        for queue in [1, 2, 31, 32, u32::MAX] {
            driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
        }
        assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 0xf);
    }

    proptest! {
        /// Whatever is written to the registers, and in which order: no panic, no hang.
        #[test]
        fn random_register_accesses_are_survived(
            writes in prop::collection::vec(
                (prop_oneof![0_u32..0x120, Just(0x70)], any::<u32>() , 0_u32..16), 1..200),
        ) {
            let guest = guest();
            let driver = guest.driver();
            for (register, wild, tame) in writes {
                driver.set(register & !3, if wild & 1 == 0 { wild } else { tame });
                driver.get(register & !3);
            }
        }
    }
}
