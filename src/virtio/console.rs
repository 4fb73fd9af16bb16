//! The user's terminal as a virtio device: a page of text for one exit.
//!
//! A serial port costs an exit a byte, and more to ask whether it is ready. Here the driver hands
//! over what it has, up to a page at a time with Linux, and one notification is the exit.
//!
//! ```text
//!  stdin ──▶ event loop ──▶ Port ──▶ input (bounded) ──▶ receiveq, queue 0 ──▶ guest
//!  guest ──▶ transmitq, queue 1 ──▶ Output ──▶ stdout
//!  SIGWINCH ──▶ event loop ──▶ Port ──▶ cols, rows ── configuration change ──▶ guest
//! ```
//!
//! Served on the vCPU's thread, and on the event loop's when that has input or has made room: it
//! never waits. While the output has no room, text stays in the driver's queue; nothing is lost
//! and nothing grows. (Linux's driver waits for that with interrupts off. QEMU throws text away
//! instead, to spare the guest this.)
//!
//! There is no break on this line, so the end of a pipe is coded: [`crate::console::coding`].
//!
//! Source: `[virtio]` 1.2, section 5.3 "Console Device", with one port.
//! Read next: [`super::ports`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::mmio::Transport;
use super::queue::Chain;
use super::state::{DeviceState, Unfit};
use super::{Broken, Buffers, Device, Inbox, Message, Request, stream};
use crate::console::output::{Output, Pushed};
use crate::control::Control;
use crate::memory::GuestMemory;
use crate::outcome::Ending;

/// VIRTIO_CONSOLE_F_SIZE, bit 0: cols and rows are valid. `[virtio]` 5.3.3
const F_SIZE: u64 = 1 << 0;
/// "receiveq(port0)". `[virtio]` 5.3.2
const RECEIVE: usize = 0;
/// "transmitq(port0)". `[virtio]` 5.3.2
const TRANSMIT: usize = 1;
/// Entries of each queue. Linux keeps a page in each of the receiveq's.
const QUEUE: u16 = 16;
/// Typed bytes that wait for the driver's buffers; beyond it they wait in the event loop.
const MAX_INPUT: usize = 4 << 10; // 4 KiB
/// Most text in one request. The specification has no limit; Linux has a page.
const MAX_TEXT: usize = 64 << 10; // 64 KiB

/// The console device.
#[derive(Debug)]
pub struct Console {
    output: Arc<Output>,
    control: Arc<Control>,
    state: Mutex<State>,
    /// The event loop has bytes that did not fit and wants to know when there is room. Changed with
    /// the state locked.
    sender_waits: AtomicBool,
    /// The text being printed; kept, so that a request costs no allocation.
    text: Mutex<Vec<u8>>,
}

/// What a console remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Typed bytes that wait for the driver's buffers.
    input: VecDeque<u8>,
    /// The terminal's rows and columns, if there is a terminal.
    size: Option<(u16, u16)>,
    /// How often they changed.
    changes: u32,
}

impl Console {
    /// A console that prints to `output`, and wakes the event loop by `control`.
    pub fn new(output: Arc<Output>, control: Arc<Control>, size: Option<(u16, u16)>) -> Self {
        Self {
            output,
            control,
            state: Mutex::new(State {
                input: VecDeque::new(),
                size,
                changes: 0,
            }),
            sender_waits: AtomicBool::new(false),
            text: Mutex::default(),
        }
    }
}

impl Device for Console {
    fn name(&self) -> &'static str {
        "virtio-console"
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        match lock(&self.state).size {
            Some(_) => F_SIZE,
            None => 0,
        }
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE, QUEUE]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        // 5.3.4: cols, rows. What follows belongs to features that are not offered.
        let (rows, columns) = lock(&self.state).size.unwrap_or_default();
        let config = [columns, rows].map(u16::to_le_bytes);
        let bytes = config.as_flattened().iter().skip(offset);
        data.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
    }

    fn config_generation(&self) -> u32 {
        lock(&self.state).changes
    }

    fn may_wait(&self) -> bool {
        false
    }

    fn ready(&self, _queue: usize) -> bool {
        self.output.has_room()
    }

    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken> {
        let mut text = lock(&self.text);
        stream::collect(request, MAX_TEXT, &mut text)?;
        match self.output.push_all(&text) {
            Pushed::Done => {}
            // The event loop waits for room in the output only while it knows of need.
            Pushed::FirstToWait => self.control.wake(),
            // As for any program in a pipeline: what cannot be written is no longer made.
            Pushed::Lost | Pushed::Refused => self.control.stop(Ending::OutputLost),
        }
        Ok(0)
    }

    fn save(&self) -> DeviceState {
        DeviceState::Console(lock(&self.state).clone())
    }

    /// The guest goes on with the terminal that there is; if there is none, with the one it knows.
    fn restore(&self, state: DeviceState) -> Result<(), Unfit> {
        let DeviceState::Console(saved) = state else {
            return Err(Unfit::Device("it was no console"));
        };
        if saved.input.len() > MAX_INPUT {
            return Err(Unfit::Device("more was typed than waits here"));
        }
        let mut state = lock(&self.state);
        let here = std::mem::replace(&mut *state, saved).size;
        state.resize(here);
        Ok(())
    }

    fn inbox(&self, queue: usize) -> Option<&dyn Inbox> {
        (queue == RECEIVE).then_some(self)
    }
}

impl Inbox for Console {
    /// Nobody waits for what is typed: the event loop brings it.
    fn listen(&self, _whether: bool) {}

    fn fetch(&self, _features: u64, _ready: &Buffers<'_>) -> Option<Message> {
        (!lock(&self.state).input.is_empty()).then_some(stream::SOME_BYTES)
    }

    fn deliver(
        &self,
        memory: &GuestMemory,
        chains: &[Chain],
        used: &mut Vec<(u16, u32)>,
    ) -> Result<(), Broken> {
        let mut state = lock(&self.state);
        stream::spread(memory, chains, &mut state.input, used)?;
        if state.input.is_empty() && self.sender_waits.swap(false, Ordering::Relaxed) {
            self.control.wake();
        }
        Ok(())
    }

    fn discard(&self) {
        lock(&self.state).input.clear();
    }
}

impl State {
    /// The terminal has this size now, if there is one; whether that is news to the guest.
    fn resize(&mut self, size: Option<(u16, u16)>) -> bool {
        // Without a size at the start the guest was not offered any.
        if self.size.is_none() || size.is_none() || self.size == size {
            return false;
        }
        self.size = size;
        self.changes = self.changes.wrapping_add(1);
        true
    }
}

/// The event loop's side of the console.
#[derive(Debug)]
pub struct Port {
    console: Arc<Console>,
    transport: Arc<Transport>,
}

impl Port {
    /// The port of `console`, whose registers are `transport`.
    pub fn new(console: Arc<Console>, transport: Arc<Transport>) -> Self {
        Self { console, transport }
    }

    /// Gives typed bytes to the guest; returns how many were taken.
    ///
    /// When that is not all, the control's wake-up tells when to try again.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.console.state);
        let taken = bytes.len().min(MAX_INPUT - state.input.len());
        state.input.extend(bytes.iter().take(taken));
        let waits = taken < bytes.len();
        self.console.sender_waits.store(waits, Ordering::Relaxed);
        drop(state);
        self.serve(RECEIVE);
        taken
    }

    /// The output has room again: goes on with what waits in the driver's queue.
    pub fn resume_output(&self) {
        self.serve(TRANSMIT);
    }

    /// The terminal has this size now.
    pub fn resize(&self, rows: u16, columns: u16) {
        let changed = lock(&self.console.state).resize(Some((rows, columns)));
        if changed {
            self.transport.server().config_changed();
        }
    }

    fn serve(&self, queue: usize) {
        // A guest could keep its queue full for ever: keys and signals must get through.
        if !self.transport.server().serve_a_turn(queue) {
            self.console.control.wake();
        }
    }
}

/// A poisoned lock means that a thread panicked, and a panic ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use virtio_bindings::virtio_mmio::{
        VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_INTERRUPT_STATUS,
        VIRTIO_MMIO_QUEUE_NOTIFY,
    };

    use super::*;
    use crate::virtio::interrupt::CONFIG;
    use crate::virtio::testing::{Guest, read, write};

    /// The device in a guest, the event loop's side of it, and what is printed.
    struct Set {
        guest: Guest,
        port: Port,
        output: Arc<Output>,
        control: Arc<Control>,
    }

    /// A terminal of 24 rows and 80 columns whose reader takes `room` bytes.
    fn set(room: usize) -> Set {
        let control = Arc::new(Control::new().unwrap());
        let output = Arc::new(Output::memory(room));
        let console = Console::new(output.clone(), control.clone(), Some((24, 80)));
        let console = Arc::new(console);
        let guest = Guest::with_shared(console.clone());
        let port = Port::new(console, guest.transport.clone());
        Set {
            guest,
            port,
            output,
            control,
        }
    }

    #[test]
    fn virtio_5_3_6_text_is_printed_in_the_order_of_its_parts() {
        let set = set(100);
        let mut driver = set.guest.driver();
        driver.start_queue(TRANSMIT, 0);
        set.guest.store(0x1_0000, b"hello");
        set.guest.store(0x2_0000, b", world");
        driver.put(&[read(0x1_0000, 5), read(0x2_0000, 7)]);
        assert_eq!(driver.done(), [(0, 0)]);
        assert_eq!(set.output.taken(), b"hello, world");
    }

    #[test]
    fn text_waits_in_the_queue_while_the_output_has_no_room() {
        let set = set(0);
        let mut driver = set.guest.driver();
        driver.start_queue(TRANSMIT, 0);
        for _ in 0..3 {
            driver.put(&[read(0x1_0000, 0x1_0000)]);
        }
        assert_eq!(driver.used(), 1, "64 KiB wait in the output, no more");
        set.output.give_room(1 << 20);
        assert!(set.output.drain());
        set.port.resume_output();
        assert_eq!(driver.used(), 3);
        assert_eq!(set.output.taken().len(), 3 << 16);
    }

    #[test]
    fn first_text_that_waits_wakes_who_drains() {
        let set = set(2);
        let mut driver = set.guest.driver();
        driver.start_queue(TRANSMIT, 0);
        set.control.acknowledge();
        driver.put(&[read(0x1_0000, 3)]);
        assert!(set.output.waiting());
        let mut counter = [0; 8];
        rustix::io::read(set.control.wake_fd(), &mut counter).unwrap();
        assert_eq!(u64::from_ne_bytes(counter), 1);
    }

    #[test]
    fn virtio_5_3_6_typed_bytes_fill_waiting_buffers() {
        let set = set(0);
        let mut driver = set.guest.driver();
        driver.start(0);
        driver.put(&[write(0x1_0000, 2), write(0x2_0000, 8)]);
        assert_eq!(set.port.receive(b"hello"), 5);
        assert_eq!(driver.done(), [(0, 5)]);
        assert_eq!(set.guest.bytes(0x1_0000, 3), b"he\0");
        assert_eq!(set.guest.bytes(0x2_0000, 4), b"llo\0");
    }

    #[test]
    fn typed_bytes_wait_for_a_buffer_up_to_a_bound() {
        let set = set(0);
        let mut driver = set.guest.driver();
        driver.start(0);
        assert_eq!(set.port.receive(&[b'x'; 5000]), MAX_INPUT);
        assert_eq!(set.port.receive(b"y"), 0);
        set.control.acknowledge();
        driver.put(&[write(0x1_0000, 0x1000)]);
        assert_eq!(driver.done(), [(0, 0x1000)]);
        let woken = rustix::io::read(set.control.wake_fd(), &mut [0; 8]);
        assert_eq!(woken, Ok(8), "the event loop learns that there is room");
        assert_eq!(set.port.receive(b"y"), 1);
    }

    #[test]
    fn virtio_5_3_6_1_part_to_read_in_the_receiveq_needs_a_reset() {
        let set = set(0);
        let mut driver = set.guest.driver();
        driver.start(0);
        driver.put(&[read(0x1_0000, 4), write(0x2_0000, 4)]);
        set.port.receive(b"x");
        driver.expect_needs_reset();
    }

    #[test]
    fn virtio_5_3_6_1_part_to_write_in_the_transmitq_needs_a_reset() {
        let set = set(0);
        let mut driver = set.guest.driver();
        driver.start_queue(TRANSMIT, 0);
        driver.put(&[read(0x1_0000, 4), write(0x2_0000, 4)]);
        driver.expect_needs_reset();
    }

    #[test]
    fn more_text_than_a_backlog_at_once_needs_a_reset() {
        let set = set(0);
        let mut driver = set.guest.driver();
        driver.start_queue(TRANSMIT, 0);
        driver.put(&[read(0x1_0000, 0x1_0001)]);
        driver.expect_needs_reset();
        assert!(!set.output.waiting());
    }

    #[test]
    fn buffers_without_room_do_not_hold_the_event_loop() {
        let set = set(0);
        let mut driver = set.guest.driver();
        driver.start(0);
        for _ in 0..8 {
            driver.put(&[write(0x1_0000, 0)]);
        }
        assert_eq!(set.port.receive(b"gone"), 4);
        assert_eq!(driver.used(), 0);
    }

    #[test]
    fn virtio_5_3_4_size_is_columns_then_rows() {
        let set = set(0);
        let mut driver = set.guest.driver();
        assert_eq!(driver.offered() & 0xff, F_SIZE);
        driver.start(F_SIZE);
        assert_eq!(driver.get(VIRTIO_MMIO_CONFIG), 24 << 16 | 80);
    }

    #[test]
    fn virtio_2_5_new_size_is_a_configuration_change_of_a_new_generation() {
        let set = set(0);
        let mut driver = set.guest.driver();
        driver.start(F_SIZE);
        let before = driver.get(VIRTIO_MMIO_CONFIG_GENERATION);
        set.port.resize(50, 132);
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), CONFIG);
        assert_eq!(driver.get(VIRTIO_MMIO_CONFIG), 50 << 16 | 132);
        assert_ne!(driver.get(VIRTIO_MMIO_CONFIG_GENERATION), before);
    }

    #[test]
    fn size_that_stays_or_comes_before_the_driver_is_no_interrupt() {
        let set = set(0);
        let mut driver = set.guest.driver();
        set.port.resize(50, 132);
        driver.start(F_SIZE);
        set.port.resize(50, 132);
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    }

    #[test]
    fn without_a_terminal_no_size_is_offered() {
        let output = Arc::new(Output::memory(0));
        let control = Arc::new(Control::new().unwrap());
        let guest = Guest::with(Console::new(output, control, None));
        assert_eq!(guest.driver().offered() & 0xff, 0);
    }

    /// The set with a machine and a terminal elsewhere.
    fn moved(set: Set, room: usize, size: Option<(u16, u16)>) -> Set {
        let control = Arc::new(Control::new().unwrap());
        let output = Arc::new(Output::memory(room));
        let console = Arc::new(Console::new(output.clone(), control.clone(), size));
        let Set { guest, port, .. } = set;
        drop(port);
        let guest = guest.moved(|| console.clone());
        let port = Port::new(console, guest.transport.clone());
        Set {
            guest,
            port,
            output,
            control,
        }
    }

    #[test]
    fn typed_bytes_and_text_that_wait_go_on_elsewhere() {
        let set = set(0);
        let mut driver = set.guest.driver();
        driver.start_queue(TRANSMIT, 0);
        // The first fills the output, the second stays in the queue.
        driver.put(&[read(0x2_0000, 0x1_0000)]);
        set.guest.store(0x1_0000, b"second");
        driver.describe(0, read(0x1_0000, 6), 0);
        driver.offer(0);
        assert_eq!((driver.used(), set.port.receive(b"typed")), (1, 5));
        let place = driver.place();
        let set = moved(set, 100, Some((24, 80)));
        assert_eq!(set.output.taken(), b"second");
        assert_eq!(set.guest.driver_again(place).used(), 2);
        // A driver that starts anew finds what was typed.
        let mut driver = set.guest.driver();
        driver.start(0);
        driver.put(&[write(0x3_0000, 16)]);
        assert_eq!(driver.done(), [(0, 5)]);
        assert_eq!(set.guest.bytes(0x3_0000, 5), b"typed");
    }

    #[test]
    fn terminal_of_another_size_is_a_configuration_change() {
        for (size, seen, told) in [
            (Some((24, 80)), 24 << 16 | 80, 0),
            (Some((50, 132)), 50 << 16 | 132, CONFIG),
            (None, 24 << 16 | 80, 0),
        ] {
            let set = set(0);
            let mut driver = set.guest.driver();
            driver.start(F_SIZE);
            let place = driver.place();
            let set = moved(set, 0, size);
            let driver = set.guest.driver_again(place);
            assert_eq!(driver.get(VIRTIO_MMIO_CONFIG), seen, "{size:?}");
            assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), told, "{size:?}");
        }
    }

    #[test]
    fn notifications_of_queues_that_do_not_exist_do_nothing() {
        let set = set(0);
        let mut driver = set.guest.driver();
        driver.start(0);
        driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 2);
        driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, u32::MAX);
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    }
}
