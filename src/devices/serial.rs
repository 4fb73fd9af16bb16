//! COM1: the UART chip with its three wires: to the console's output, from its input, and to an
//! interrupt pin.
//!
//! The path of a byte the guest prints: `out` to 0x3f8, a VM exit, the run loop, the port bus,
//! here, the console's output: all on the vCPU's thread, so the byte has left before the guest
//! executes its next instruction. A typed byte comes the other way on the event loop's thread.
//!
//! Lock order: the chip's lock, then the output's or the I/O APIC's. Neither calls back.
//! Source: see [`super::uart`]. Read next: [`super::ioapic`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::uart::Uart;
use super::{Pins, lock};
use crate::bus::{PortDevice, Request};
use crate::console::output::{Output, Pushed};
use crate::control::Control;
use crate::outcome::Ending;

/// The console's serial port.
#[derive(Debug)]
pub struct SerialPort {
    uart: Mutex<Uart>,
    pins: Arc<dyn Pins>,
    gsi: u32,
    output: Arc<Output>,
    control: Arc<Control>,
    /// The event loop has bytes that did not fit and wants to know when there is room.
    sender_waits: AtomicBool,
}

impl SerialPort {
    /// A port whose interrupts arrive at pin `gsi`.
    pub fn new(pins: Arc<dyn Pins>, gsi: u32, output: Arc<Output>, control: Arc<Control>) -> Self {
        let uart = Mutex::new(Uart::new());
        Self {
            uart,
            pins,
            gsi,
            output,
            control,
            sender_waits: AtomicBool::new(false),
        }
    }

    /// Gives typed bytes to the guest; returns how many it took.
    ///
    /// When that is not all, the control's wake-up tells when to try again.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut uart = lock(&self.uart);
        let taken = uart.receive(bytes);
        self.sender_waits
            .store(taken < bytes.len(), Ordering::Relaxed);
        self.update_pin(&uart);
        taken
    }

    /// Sends a break; false while there is no room, and a wake-up follows.
    pub fn receive_break(&self) -> bool {
        let mut uart = lock(&self.uart);
        let taken = uart.receive_break();
        self.sender_waits.store(!taken, Ordering::Relaxed);
        self.update_pin(&uart);
        taken
    }

    /// The output has room again: goes on transmitting.
    pub fn resume_output(&self) {
        let mut uart = lock(&self.uart);
        self.transmit(&mut uart);
        self.update_pin(&uart);
    }

    fn transmit(&self, uart: &mut Uart) {
        while let Some(byte) = uart.outgoing() {
            match self.output.push(byte) {
                Pushed::Done => {}
                // The event loop waits for room in the output only while it knows of need.
                Pushed::FirstToWait => self.control.wake(),
                // The transmitter stays busy until the event loop has drained the backlog.
                Pushed::Refused => break,
                // As for any program in a pipeline: what cannot be written is no longer made.
                Pushed::Lost => self.control.stop(Ending::OutputLost),
            }
            uart.sent();
        }
    }

    /// With the chip's lock held, so that two threads cannot swap their levels.
    fn update_pin(&self, uart: &Uart) {
        self.pins.set_pin(self.gsi, uart.interrupt());
    }

    /// Wakes the event loop if it waits for room that now is there.
    fn wake_sender(&self, uart: &Uart) {
        // Half a FIFO would do for the room, but an empty one means that the guest has read what
        // its interrupt was about: it then has time for other work before the next interrupt.
        if self.sender_waits.load(Ordering::Relaxed)
            && uart.receiver_empty()
            && uart.receiver_room() > 0
        {
            self.sender_waits.store(false, Ordering::Relaxed);
            self.control.wake();
        }
    }
}

impl PortDevice for SerialPort {
    fn name(&self) -> &'static str {
        "serial"
    }

    fn read(&self, offset: u16) -> u8 {
        let mut uart = lock(&self.uart);
        let value = uart.read(offset);
        self.update_pin(&uart);
        self.wake_sender(&uart);
        value
    }

    fn write(&self, offset: u16, value: u8) -> Option<Request> {
        let mut uart = lock(&self.uart);
        uart.write(offset, value);
        self.transmit(&mut uart);
        self.update_pin(&uart);
        self.wake_sender(&uart);
        None
    }
}
