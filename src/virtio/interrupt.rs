//! How a driver is told: an interrupt status register and a pin of the I/O APIC.
//!
//! Our I/O APIC has edge-triggered pins only. The pin is high while the status is not zero, so a
//! second event before the driver has looked costs no second interrupt. When the driver
//! acknowledges one event and another is left, the pin falls and rises: the edge for the other one
//! was made while the pin was high, and nobody saw it.
//!
//! Lock order: this lock, then the I/O APIC's. Source: `[virtio]` 4.2.2, InterruptStatus and
//! InterruptACK.
//! Read next: [`super::rng`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::devices::Pins;

/// "Used Buffer Notification", bit 0 of InterruptStatus. `[virtio]` 4.2.2
pub const USED: u32 = 1 << 0;
/// "Configuration Change Notification", bit 1 of InterruptStatus. `[virtio]` 4.2.2
pub const CONFIG: u32 = 1 << 1;

/// A device's way to its driver.
#[derive(Debug)]
pub struct Line {
    state: Mutex<State>,
    ioapic: Arc<dyn Pins>,
    gsi: u32,
}

/// What the driver has been told: a plain value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Events that the driver has not acknowledged.
    pub pending: u32,
    /// The device gave up on its driver.
    pub needs_reset: bool,
}

impl Line {
    /// A silent line at pin `gsi`.
    pub fn new(ioapic: Arc<dyn Pins>, gsi: u32) -> Self {
        Self {
            state: Mutex::default(),
            ioapic,
            gsi,
        }
    }

    /// What the driver has not acknowledged.
    pub fn pending(&self) -> u32 {
        self.lock().pending
    }

    /// Whether the device gave up on its driver.
    pub fn needs_reset(&self) -> bool {
        self.lock().needs_reset
    }

    /// Tells the driver of `event`.
    pub fn raise(&self, event: u32) {
        let mut state = self.lock();
        state.pending |= event;
        // With the lock held, here and below, so that two threads cannot swap their levels.
        self.ioapic.set_pin(self.gsi, true);
    }

    /// The driver has seen `events`.
    pub fn acknowledge(&self, events: u32) {
        let mut state = self.lock();
        state.pending &= !events;
        self.ioapic.set_pin(self.gsi, false);
        if state.pending != 0 {
            self.ioapic.set_pin(self.gsi, true);
        }
    }

    /// Gives up on the driver, and tells it so if it is `listening`. `[virtio]` 2.1.2: a device
    /// that needs a reset says so by a configuration change, once DRIVER_OK is set.
    pub fn give_up(&self, listening: bool) {
        self.lock().needs_reset = true;
        if listening {
            self.raise(CONFIG);
        }
    }

    /// Back to silence.
    pub fn reset(&self) {
        self.restore(State::default());
    }

    /// What the driver has been told.
    pub fn state(&self) -> State {
        *self.lock()
    }

    /// Goes on from `told`. Whether the driver's interrupt for what it has not acknowledged got
    /// through is the I/O APIC's to know; here there is one more, rather than none.
    pub fn restore(&self, told: State) {
        let mut state = self.lock();
        *state = told;
        self.ioapic.set_pin(self.gsi, false);
        if told.pending != 0 {
            self.ioapic.set_pin(self.gsi, true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::pin;

    #[test]
    fn second_event_before_the_driver_looked_costs_no_second_interrupt() {
        let (ioapic, sent) = pin(10);
        let line = Line::new(ioapic, 10);
        line.raise(USED);
        line.raise(USED);
        assert_eq!((line.pending(), sent.count()), (USED, 1));
        line.acknowledge(USED);
        assert_eq!((line.pending(), sent.count()), (0, 1));
        line.raise(USED);
        assert_eq!(sent.count(), 2);
    }

    #[test]
    fn event_left_over_after_an_acknowledgement_interrupts_again() {
        let (ioapic, sent) = pin(10);
        let line = Line::new(ioapic, 10);
        line.raise(USED);
        line.raise(CONFIG);
        line.acknowledge(USED);
        assert_eq!((line.pending(), sent.count()), (CONFIG, 2));
    }

    #[test]
    fn giving_up_interrupts_only_a_driver_that_listens() {
        let (ioapic, sent) = pin(10);
        let line = Line::new(ioapic, 10);
        line.give_up(false);
        assert_eq!((line.needs_reset(), sent.count()), (true, 0));
        line.reset();
        assert!(!line.needs_reset());
        line.give_up(true);
        assert_eq!((line.pending(), sent.count()), (CONFIG, 1));
    }
}
