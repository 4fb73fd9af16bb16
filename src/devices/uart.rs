//! A 16550A UART: the chip alone, as a pure state machine.
//!
//! It knows eight registers, two FIFOs and the level of its interrupt line. It does not know who
//! sends or receives: [`super::serial`] wires it to a console and an interrupt pin. Bytes leave
//! it when the wire takes them, so a slow reader makes a slow transmitter, as on real hardware,
//! instead of a buffer that grows.
//!
//! Not emulated, because nothing here can see it: baud rate, word length and parity.
//!
//! Source: `[ns]` National Semiconductor PC16550D datasheet, section 8 "Registers".
//! Read next: [`super::serial`].

use std::collections::VecDeque;

/// Both FIFOs hold this many bytes. `[ns]` 8.4
pub const FIFO_SIZE: usize = 16;

// Register offsets. [ns] table II
/// Receiver buffer (read), transmitter holding (write); divisor low byte while DLAB is set.
const DATA: u16 = 0;
/// Interrupt enable; divisor high byte while DLAB is set.
const IER: u16 = 1;
/// Interrupt identification (read), FIFO control (write).
const IIR_FCR: u16 = 2;
/// Line control.
const LCR: u16 = 3;
/// Modem control.
const MCR: u16 = 4;
/// Line status.
const LSR: u16 = 5;
/// Modem status.
const MSR: u16 = 6;
/// Scratch.
const SCR: u16 = 7;

// Interrupt enable. [ns] 8.7
const IER_RECEIVED: u8 = 1 << 0;
const IER_THR_EMPTY: u8 = 1 << 1;
const IER_LINE_STATUS: u8 = 1 << 2;
const IER_MASK: u8 = 0x0f;

// Interrupt identification, highest priority first. [ns] 8.6
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_RECEIVED: u8 = 0x04;
const IIR_THR_EMPTY: u8 = 0x02;
const IIR_NONE: u8 = 0x01;
const IIR_FIFO_ENABLED: u8 = 0xc0;

// FIFO control. [ns] 8.5
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RX: u8 = 1 << 1;
const FCR_CLEAR_TX: u8 = 1 << 2;

/// Divisor latch access bit. [ns] 8.1
const LCR_DLAB: u8 = 1 << 7;

// Modem control. [ns] 8.8
const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
const MCR_MASK: u8 = 0x1f;

// Line status. [ns] 8.3
const LSR_DATA_READY: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_BREAK: u8 = 1 << 4;
const LSR_THR_EMPTY: u8 = 1 << 5;
const LSR_IDLE: u8 = 1 << 6;

// Modem status. [ns] 8.9
const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// 9600 baud at 1.8432 MHz, what most firmware leaves behind.
const DIVISOR_AFTER_RESET: u8 = 12;

/// What the receiver FIFO holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Received {
    byte: u8,
    /// A break condition rather than a byte.
    is_break: bool,
}

/// The chip.
#[derive(Debug)]
pub struct Uart {
    ier: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: [u8; 2],
    fifo_enabled: bool,
    overrun: bool,
    /// The transmitter has become empty and nobody was told yet.
    thr_empty_pending: bool,
    /// RTS was on at least once: this driver uses it.
    rts_seen: bool,
    rx: VecDeque<Received>,
    tx: VecDeque<u8>,
}

impl Uart {
    /// A chip after reset.
    pub fn new() -> Self {
        Self {
            ier: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            divisor: [DIVISOR_AFTER_RESET, 0],
            fifo_enabled: false,
            overrun: false,
            thr_empty_pending: false,
            rts_seen: false,
            rx: VecDeque::with_capacity(FIFO_SIZE),
            tx: VecDeque::with_capacity(FIFO_SIZE),
        }
    }

    /// Reads the register at `offset`; several reads have side effects.
    pub fn read(&mut self, offset: u16) -> u8 {
        let latch = self.lcr & LCR_DLAB != 0;
        match offset {
            DATA if latch => self.divisor[0],
            DATA => self.rx.pop_front().map_or(0, |received| received.byte),
            IER if latch => self.divisor[1],
            IER => self.ier,
            IIR_FCR => self.identify_interrupt(),
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => self.line_status(),
            MSR => self.modem_status(),
            SCR => self.scr,
            _ => 0xff,
        }
    }

    /// Writes the register at `offset`.
    pub fn write(&mut self, offset: u16, value: u8) {
        let latch = self.lcr & LCR_DLAB != 0;
        match offset {
            DATA if latch => self.divisor[0] = value,
            DATA => self.transmit(value),
            IER if latch => self.divisor[1] = value,
            IER => {
                // Enabling the interrupt while the transmitter is empty raises it at once; Linux
                // starts every transmission that way. [ns] 8.6, note to table IV
                let enabled = value & !self.ier & IER_THR_EMPTY != 0;
                self.thr_empty_pending |= enabled && self.tx.is_empty();
                self.ier = value & IER_MASK;
            }
            IIR_FCR => self.control_fifos(value),
            LCR => self.lcr = value,
            MCR => {
                self.mcr = value & MCR_MASK;
                self.rts_seen |= self.mcr & MCR_RTS != 0 && !self.loopback();
            }
            SCR => self.scr = value,
            _ => {}
        }
    }

    /// The level of the interrupt line.
    pub fn interrupt(&self) -> bool {
        // On a PC the line is wired through OUT2. Linux sets it; a guest that forgets would wait
        // for ever on real hardware too, but some hobby systems do forget, and QEMU forgives.
        self.pending_interrupt() != IIR_NONE
    }

    /// How many bytes the receiver takes now.
    ///
    /// None while nobody listens: a driver clears the FIFOs when it opens the port, and what was
    /// typed before would be lost. A driver listens when it has raised RTS or enabled the receive
    /// interrupt. Once it has used RTS, it holds us up by lowering it.
    pub fn receiver_room(&self) -> usize {
        let held = if self.rts_seen {
            self.mcr & MCR_RTS == 0
        } else {
            self.ier & IER_RECEIVED == 0
        };
        if held || self.loopback() {
            0
        } else {
            self.rx_capacity().saturating_sub(self.rx.len())
        }
    }

    /// Takes bytes from the wire, as many as there is room for; returns how many.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.receiver_room());
        self.rx.extend(bytes.iter().take(n).map(|&byte| Received {
            byte,
            is_break: false,
        }));
        n
    }

    /// Takes a break condition: the line held low for longer than a byte. Returns false, and
    /// takes nothing, while there is no room.
    pub fn receive_break(&mut self) -> bool {
        let room = self.receiver_room() > 0;
        if room {
            self.rx.push_back(Received {
                byte: 0,
                is_break: true,
            });
        }
        room
    }

    /// The byte that wants to leave.
    pub fn outgoing(&self) -> Option<u8> {
        self.tx.front().copied()
    }

    /// The wire has taken [`Self::outgoing`].
    pub fn sent(&mut self) {
        self.tx.pop_front();
        self.thr_empty_pending |= self.tx.is_empty();
    }

    /// Whether the guest has read all that was received.
    pub fn receiver_empty(&self) -> bool {
        self.rx.is_empty()
    }

    fn loopback(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn rx_capacity(&self) -> usize {
        if self.fifo_enabled { FIFO_SIZE } else { 1 }
    }

    fn transmit(&mut self, byte: u8) {
        self.thr_empty_pending = false;
        if self.loopback() {
            if self.rx.len() < self.rx_capacity() {
                self.rx.push_back(Received {
                    byte,
                    is_break: false,
                });
            } else {
                self.overrun = true;
            }
            self.thr_empty_pending = true;
        } else if self.tx.len() < FIFO_SIZE {
            self.tx.push_back(byte);
        }
        // A byte written to a full transmitter is lost, as on the chip: the guest did not look.
    }

    fn control_fifos(&mut self, value: u8) {
        let enable = value & FCR_ENABLE != 0;
        let switched = enable != self.fifo_enabled;
        self.fifo_enabled = enable;
        if switched || value & FCR_CLEAR_RX != 0 {
            self.rx.clear();
        }
        if value & FCR_CLEAR_TX != 0 {
            self.tx.clear();
        }
    }

    fn pending_interrupt(&self) -> u8 {
        let head_is_break = self.rx.front().is_some_and(|received| received.is_break);
        if self.ier & IER_LINE_STATUS != 0 && (self.overrun || head_is_break) {
            IIR_LINE_STATUS
        } else if self.ier & IER_RECEIVED != 0 && !self.rx.is_empty() {
            IIR_RECEIVED
        } else if self.ier & IER_THR_EMPTY != 0 && self.thr_empty_pending {
            IIR_THR_EMPTY
        } else {
            IIR_NONE
        }
    }

    fn identify_interrupt(&mut self) -> u8 {
        let pending = self.pending_interrupt();
        if pending == IIR_THR_EMPTY {
            // Reading it is the acknowledgement. [ns] table IV
            self.thr_empty_pending = false;
        }
        pending
            | if self.fifo_enabled {
                IIR_FIFO_ENABLED
            } else {
                0
            }
    }

    fn line_status(&mut self) -> u8 {
        let mut status = if self.tx.is_empty() {
            LSR_THR_EMPTY | LSR_IDLE
        } else {
            0
        };
        if let Some(head) = self.rx.front_mut() {
            status |= LSR_DATA_READY;
            if head.is_break {
                // Error bits belong to the byte at the head and clear when read. [ns] 8.3
                status |= LSR_BREAK;
                head.is_break = false;
            }
        }
        if std::mem::take(&mut self.overrun) {
            status |= LSR_OVERRUN;
        }
        status
    }

    fn modem_status(&self) -> u8 {
        if !self.loopback() {
            // The other end is always there and ready; nothing ever changes, so no delta bits.
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        // [ns] 8.8: in loopback the modem control outputs drive the modem status inputs.
        let wires = [
            (MCR_RTS, MSR_CTS),
            (MCR_DTR, MSR_DSR),
            (MCR_OUT1, MSR_RI),
            (MCR_OUT2, MSR_DCD),
        ];
        wires
            .iter()
            .filter(|(out, _)| self.mcr & out != 0)
            .fold(0, |msr, (_, input)| msr | input)
    }
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chip as Linux leaves it when a terminal is open.
    fn opened() -> Uart {
        let mut uart = Uart::new();
        uart.write(IIR_FCR, FCR_ENABLE | FCR_CLEAR_RX | FCR_CLEAR_TX);
        uart.write(MCR, MCR_DTR | MCR_RTS | MCR_OUT2);
        uart.write(IER, IER_RECEIVED | IER_LINE_STATUS);
        uart
    }

    #[test]
    fn write_with_dlab_set_changes_divisor() {
        let mut uart = Uart::new();
        uart.write(LCR, LCR_DLAB | 3);
        uart.write(DATA, 1);
        uart.write(IER, 2);
        assert_eq!((uart.read(DATA), uart.read(IER)), (1, 2));
        uart.write(LCR, 3);
        assert_eq!(uart.read(IER), 0);
        assert_eq!(uart.outgoing(), None);
    }

    #[test]
    fn transmitter_is_full_until_the_wire_takes_the_byte() {
        let mut uart = Uart::new();
        assert_eq!(uart.read(LSR), LSR_THR_EMPTY | LSR_IDLE);
        uart.write(DATA, b'x');
        assert_eq!(uart.read(LSR), 0);
        assert_eq!(uart.outgoing(), Some(b'x'));
        uart.sent();
        assert_eq!(uart.read(LSR), LSR_THR_EMPTY | LSR_IDLE);
    }

    #[test]
    fn seventeenth_byte_to_a_stuck_transmitter_is_lost() {
        let mut uart = Uart::new();
        (0..17).for_each(|byte| uart.write(DATA, byte));
        for byte in 0..16 {
            assert_eq!(uart.outgoing(), Some(byte));
            uart.sent();
        }
        assert_eq!(uart.outgoing(), None);
    }

    #[test]
    fn enabling_thr_interrupt_raises_it_and_reading_iir_clears_it() {
        let mut uart = opened();
        uart.write(IER, IER_THR_EMPTY);
        assert!(uart.interrupt());
        assert_eq!(uart.read(IIR_FCR), IIR_FIFO_ENABLED | IIR_THR_EMPTY);
        assert!(!uart.interrupt());
        assert_eq!(uart.read(IIR_FCR), IIR_FIFO_ENABLED | IIR_NONE);
        uart.write(IER, 0);
        uart.write(IER, IER_THR_EMPTY);
        assert!(uart.interrupt(), "Linux tests for chips that forget this");
    }

    #[test]
    fn thr_interrupt_waits_for_the_last_byte() {
        let mut uart = opened();
        uart.write(IER, IER_THR_EMPTY);
        uart.write(DATA, b'a');
        uart.write(DATA, b'b');
        assert!(!uart.interrupt());
        uart.sent();
        assert!(!uart.interrupt());
        uart.sent();
        assert!(uart.interrupt());
    }

    #[test]
    fn received_bytes_interrupt_until_read() {
        let mut uart = opened();
        assert_eq!(uart.receive(b"hi"), 2);
        assert!(uart.interrupt());
        assert_eq!(uart.read(IIR_FCR) & 0x0f, IIR_RECEIVED);
        assert_eq!(uart.read(LSR) & LSR_DATA_READY, LSR_DATA_READY);
        assert_eq!((uart.read(DATA), uart.read(DATA)), (b'h', b'i'));
        assert!(!uart.interrupt());
        assert_eq!(uart.read(DATA), 0);
    }

    #[test]
    fn receiver_takes_a_fifo_full_and_no_more() {
        let mut uart = opened();
        assert_eq!(uart.receive(&[7; 100]), FIFO_SIZE);
        assert_eq!(uart.receive(&[7; 100]), 0);
        uart.write(IIR_FCR, 0);
        assert_eq!(uart.receive(&[7; 100]), 1, "one byte without FIFO");
    }

    #[test]
    fn nothing_is_received_before_a_driver_listens() {
        let mut uart = Uart::new();
        assert_eq!(uart.receive(b"early"), 0);
        uart.write(MCR, MCR_LOOP | MCR_RTS);
        assert_eq!(uart.receive(b"probing"), 0);
        uart.write(MCR, 0);
        uart.write(IER, IER_RECEIVED);
        assert_eq!(uart.receive(b"x"), 1);
    }

    #[test]
    fn lowering_rts_holds_the_receiver() {
        let mut uart = opened();
        uart.write(MCR, MCR_DTR | MCR_OUT2);
        assert_eq!(uart.receive(b"x"), 0);
        assert!(!uart.receive_break());
        uart.write(MCR, MCR_DTR | MCR_RTS);
        assert_eq!(uart.receive(b"x"), 1);
    }

    #[test]
    fn break_is_a_zero_byte_with_a_line_status() {
        let mut uart = opened();
        assert_eq!(uart.receive(b"a"), 1);
        assert!(uart.receive_break());
        assert_eq!(uart.read(LSR) & LSR_BREAK, 0, "belongs to the second byte");
        assert_eq!(uart.read(DATA), b'a');
        assert_eq!(uart.read(IIR_FCR) & 0x0f, IIR_LINE_STATUS);
        assert_eq!(
            uart.read(LSR) & (LSR_BREAK | LSR_DATA_READY),
            LSR_BREAK | LSR_DATA_READY
        );
        assert_eq!(uart.read(LSR) & LSR_BREAK, 0, "clears when read");
        assert_eq!(uart.read(DATA), 0);
    }

    #[test]
    fn loopback_feeds_the_receiver_and_the_modem_status() {
        let mut uart = opened();
        uart.write(MCR, MCR_LOOP | MCR_OUT2 | MCR_RTS);
        assert_eq!(
            uart.read(MSR),
            MSR_DCD | MSR_CTS,
            "what Linux's autoconfig looks for"
        );
        uart.write(DATA, 0x55);
        assert_eq!(uart.outgoing(), None);
        assert_eq!(uart.read(DATA), 0x55);
        uart.write(MCR, MCR_RTS);
        assert_eq!(uart.read(MSR), MSR_CTS | MSR_DSR | MSR_DCD);
    }

    #[test]
    fn loopback_flood_overruns_and_does_not_grow() {
        let mut uart = opened();
        uart.write(MCR, MCR_LOOP);
        (0..1000).for_each(|_| uart.write(DATA, 1));
        assert_eq!(uart.rx.len(), FIFO_SIZE);
        assert_eq!(uart.read(LSR) & LSR_OVERRUN, LSR_OVERRUN);
        assert_eq!(uart.read(LSR) & LSR_OVERRUN, 0);
    }

    #[test]
    fn clearing_fifos_drops_what_they_hold() {
        let mut uart = opened();
        assert_eq!(uart.receive(b"x"), 1);
        uart.write(DATA, b'y');
        uart.write(IIR_FCR, FCR_ENABLE | FCR_CLEAR_RX | FCR_CLEAR_TX);
        assert!(uart.receiver_empty());
        assert_eq!(uart.outgoing(), None);
    }
}
