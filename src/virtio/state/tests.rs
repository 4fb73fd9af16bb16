//! Devices that stop in the middle and go on elsewhere; those with things of their own are tested
//! beside them.

use std::sync::Arc;

use proptest::prelude::*;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_SEL,
    VIRTIO_MMIO_STATUS,
};

use super::*;
use crate::virtio::queue::QueueSetup;
use crate::virtio::rng::Rng;
use crate::virtio::testing::{
    AVAILABLE, DESCRIPTORS, Driver, Echo, Guest, SIZE, USED, wait, write,
};

const EVENT_INDEX: u64 = 1 << 29;

fn echo(threaded: bool) -> Echo {
    Echo {
        threaded,
        ..Echo::default()
    }
}

/// Makes a request available without telling the device.
fn offer_in_silence(guest: &Guest, driver: &mut Driver<'_>, count: u16) {
    driver.describe(0, write(0x7000, 1), 0);
    let index = guest.u16_at(AVAILABLE + 2);
    for number in index..index + count {
        let slot = AVAILABLE + 4 + 2 * u64::from(number % SIZE);
        guest.store(slot, &[0, 0]);
    }
    guest.store(AVAILABLE + 2, &(index + count).to_le_bytes());
}

#[test]
fn driver_between_features_and_queues_goes_on_with_its_setup() {
    let guest = Guest::with(echo(false));
    let driver = guest.driver();
    assert_eq!(driver.negotiate(1 << 5), 0xb);
    driver.set_queue(SIZE.into(), [DESCRIPTORS, AVAILABLE, USED]);
    driver.set(VIRTIO_MMIO_QUEUE_SEL, 1);
    let (place, registers) = (driver.place(), guest.transport.state());
    let guest = guest.moved(|| Arc::new(echo(false)));
    assert_eq!(guest.transport.state(), registers);
    let mut driver = guest.driver_again(place);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_SEL), 0, "cannot be read");
    driver.set(VIRTIO_MMIO_STATUS, 0xf);
    driver.put(&[write(0x7000, 1)]);
    assert_eq!(driver.done(), [(0, 1)]);
}

#[test]
fn requests_that_wait_are_served_elsewhere_once_each() {
    for threaded in [false, true] {
        let guest = Guest::with(echo(threaded));
        let mut driver = guest.driver();
        driver.start(EVENT_INDEX);
        // Further than once around the rings.
        for _ in 0..SIZE + 3 {
            driver.put(&[write(0x7000, 1)]);
            assert_eq!(driver.done(), [(0, 1)]);
        }
        offer_in_silence(&guest, &mut driver, 5);
        let place = driver.place();
        let other = echo(threaded);
        let seen = other.seen.clone();
        let guest = guest.moved(|| Arc::new(other));
        let mut driver = guest.driver_again(place);
        wait(|| driver.used() == SIZE + 8);
        assert_eq!(driver.done(), [(0, 1); 5], "threaded: {threaded}");
        assert_eq!(seen.lock().unwrap().len(), 5);
    }
}

#[test]
fn interrupt_that_was_not_acknowledged_is_there_elsewhere() {
    let guest = Guest::with(echo(false));
    let mut driver = guest.driver();
    driver.start(0);
    driver.put(&[write(0x7000, 1)]);
    let place = driver.place();
    let guest = guest.moved(|| Arc::new(echo(false)));
    let driver = guest.driver_again(place);
    assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    assert_eq!(guest.sent.count(), 1);
}

#[test]
fn device_that_gave_up_stays_so_until_it_is_reset() {
    let guest = Guest::with(echo(true));
    let mut driver = guest.driver();
    driver.start(0);
    driver.offer(SIZE + 1);
    wait(|| driver.get(VIRTIO_MMIO_STATUS) & 0x40 != 0);
    let place = driver.place();
    let guest = guest.moved(|| Arc::new(echo(true)));
    let driver = guest.driver_again(place);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 0x4f);
    driver.set(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn suspended_device_touches_nothing_until_it_is_resumed() {
    for threaded in [false, true] {
        let guest = Guest::with(echo(threaded));
        let mut driver = guest.driver();
        driver.start(0);
        let state = guest.transport.suspend();
        driver.put(&[write(0x7000, 1)]);
        driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        assert_eq!((driver.used(), guest.bytes(0x7000, 1)[0]), (0, 0));
        guest.transport.resume(state).unwrap();
        assert_eq!(driver.done(), [(0, 1)]);
    }
}

#[test]
fn random_numbers_go_on() {
    let guest = Guest::with(Rng);
    let mut driver = guest.driver();
    driver.start(0);
    driver.describe(0, write(0x1_0000, 32), 0);
    offer_in_silence(&guest, &mut driver, 1);
    guest.store(0x1_0000, &[0; 32]);
    driver.describe(0, write(0x1_0000, 32), 0);
    let place = driver.place();
    let guest = guest.moved(|| Arc::new(Rng));
    assert_eq!(guest.driver_again(place).done(), [(0, 32)]);
    assert_ne!(guest.bytes(0x1_0000, 32), [0; 32]);
}

/// What a driver at work with a device is like.
fn running() -> State {
    let guest = Guest::with(echo(false));
    guest.driver().start(1 << 5);
    guest.transport.suspend()
}

#[track_caller]
fn refused(change: impl FnOnce(&mut State), words: &str) {
    let mut state = running();
    change(&mut state);
    let guest = Guest::with(echo(false));
    let error = guest.transport.resume(state).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
    // As if nothing had been tried.
    let mut driver = guest.driver();
    driver.start(0);
    driver.put(&[write(0x7000, 1)]);
    assert_eq!(driver.done(), [(0, 1)]);
}

#[test]
fn state_of_another_device_is_refused() {
    refused(|state| state.id = 4, "of kind 4, this one is of kind 42");
    refused(
        |state| state.registers.driver_features |= 1 << 6,
        "agreed to features 0x100000060",
    );
    refused(|state| state.config[0] = b'b', "configuration space");
    refused(
        |state| state.device = DeviceState::Net(Default::default()),
        "remembers nothing",
    );
    refused(|state| state.registers.queues.truncate(1), "with 2 of them");
    refused(|state| state.queues = Some(vec![None]), "with 2 of them");
    refused(|state| state.registers.status = 0xb, "with 2 of them");
    refused(
        |state| state.registers.queues[0].size = 3,
        "the queue of 3 entries",
    );
    refused(
        |state| state.registers.queues[0].used = 2 << 20,
        "0x200000 cannot be",
    );
}

#[test]
fn position_that_does_not_fit_the_drivers_needs_a_reset() {
    let mut state = running();
    let position = Position {
        next_avail: 1000,
        next_used: 0,
    };
    state.queues = Some(vec![Some(position), None]);
    let guest = Guest::with(echo(false));
    guest.transport.resume(state).unwrap();
    guest.driver().expect_needs_reset();
}

fn setups() -> impl Strategy<Value = QueueSetup> {
    let place = prop_oneof![
        0..0x4000_u64,
        (0..2_u64 << 20).prop_map(|a| a & !0xfff),
        any::<u64>()
    ];
    let size = prop_oneof![Just(8_u32), any::<u32>()];
    (size, any::<bool>(), [place.clone(), place.clone(), place]).prop_map(|(size, ready, parts)| {
        let [descriptors, available, used] = parts;
        QueueSetup {
            size,
            ready,
            descriptors,
            available,
            used,
        }
    })
}

proptest! {
    /// A state that nobody made is refused or gone on from: what follows is a driver's fault.
    #[test]
    fn any_state_is_taken_or_refused(
        setups in [setups(), setups()],
        at in prop::option::of(prop::collection::vec(
            prop::option::of((any::<u16>(), any::<u16>())), 1..4)),
        (status, features) in (any::<u32>(), any::<u64>()),
        (pending, needs_reset) in (any::<u32>(), any::<bool>()),
    ) {
        let mut state = running();
        state.registers.queues = setups.to_vec();
        (state.registers.status, state.registers.driver_features) = (status, features);
        state.line = interrupt::State { pending, needs_reset };
        let position = |(next_avail, next_used)| Position { next_avail, next_used };
        let position = |at: Option<_>| at.map(position);
        state.queues = at.map(|at| at.into_iter().map(position).collect());
        let guest = Guest::with(echo(false));
        let _refused = guest.transport.resume(state);
        let mut driver = guest.driver();
        driver.start(0);
        driver.put(&[write(0x7000, 1)]);
        prop_assert_eq!(driver.done(), [(0, 1)]);
    }
}
