//! Chapter 7: from an address to a device and an offset in it.
//!
//! Two buses, as on a PC: I/O ports and memory-mapped I/O. A device is told offsets, never
//! addresses, so it can be tested without a bus and moved without being touched.
//!
//! Port accesses wider than a byte are split into bytes on consecutive ports, as the ISA bridge
//! of a PC does for 8-bit devices: `outw` to 0x3f8 writes two UART registers. Addresses nobody
//! claims read as ones and swallow writes, as an empty bus does.
//!
//! Who calls it: the run loop ([`crate::vcpu::run`]), from every vCPU thread at once; devices
//! lock themselves. Read next: [`crate::devices`].

use std::fmt;
use std::sync::Arc;

/// What a device asks of the machine after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// ACPI power-off.
    PowerOff,
    /// The reset line was pulled.
    Reset,
    /// The guest asks for this exit status.
    Exit(u8),
}

/// A device on the port bus: byte-wide registers.
pub trait PortDevice: fmt::Debug + Send + Sync {
    /// What reports call it.
    fn name(&self) -> &'static str;
    /// Reads the register at `offset`.
    fn read(&self, offset: u16) -> u8;
    /// Writes the register at `offset`.
    fn write(&self, offset: u16, value: u8) -> Option<Request>;
}

/// A device in guest-physical memory: accesses of 1 to 8 bytes.
pub trait MmioDevice: fmt::Debug + Send + Sync {
    /// What reports call it.
    fn name(&self) -> &'static str;
    /// Fills `data` from the registers at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes `data` to the registers at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> Option<Request>;
}

/// Two devices claim one address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Bus range {start:#x} + {len:#x} overlaps {other_start:#x} + {other_len:#x}")]
pub struct Overlap {
    start: u64,
    len: u64,
    other_start: u64,
    other_len: u64,
}

/// A claimed range and who claims it.
#[derive(Debug)]
struct Slot<D: ?Sized> {
    start: u64,
    len: u64,
    device: Arc<D>,
}

/// Claimed ranges; a handful, so a linear search beats anything clever.
#[derive(Debug)]
struct Ranges<D: ?Sized>(Vec<Slot<D>>);

impl<D: ?Sized> Ranges<D> {
    fn claim(&mut self, start: u64, len: u64, device: Arc<D>) -> Result<(), Overlap> {
        let end = start.saturating_add(len);
        match self
            .0
            .iter()
            .find(|s| s.start < end && start < s.start + s.len)
        {
            Some(s) => Err(Overlap {
                start,
                len,
                other_start: s.start,
                other_len: s.len,
            }),
            None => {
                self.0.push(Slot { start, len, device });
                Ok(())
            }
        }
    }

    fn find(&self, address: u64) -> Option<(&D, u64)> {
        self.0.iter().find_map(|slot| {
            let offset = address.checked_sub(slot.start)?;
            (offset < slot.len).then_some((&*slot.device, offset))
        })
    }
}

/// The I/O port bus: 65,536 byte-wide ports.
#[derive(Debug)]
pub struct PortBus(Ranges<dyn PortDevice>);

impl PortBus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self(Ranges(Vec::new()))
    }

    /// Gives `len` ports from `start` to `device`.
    ///
    /// # Errors
    /// [`Overlap`] when another device has one of them.
    pub fn claim(
        &mut self,
        start: u16,
        len: u16,
        device: Arc<dyn PortDevice>,
    ) -> Result<(), Overlap> {
        self.0.claim(u64::from(start), u64::from(len), device)
    }

    /// `in` and `rep ins`: fills `data` with elements of `size` bytes, each from `port`.
    pub fn read(&self, port: u16, size: u8, data: &mut [u8]) {
        for element in data.chunks_mut(usize::from(size.max(1))) {
            for (port, byte) in (u64::from(port)..).zip(element) {
                *byte = self
                    .find(port)
                    .map_or(0xff, |(device, offset)| device.read(offset));
            }
        }
    }

    /// `out` and `rep outs`: writes each element of `size` bytes in `data` to `port`.
    ///
    /// Stops at the first byte that asks something of the machine.
    pub fn write(&self, port: u16, size: u8, data: &[u8]) -> Option<Request> {
        data.chunks(usize::from(size.max(1))).find_map(|element| {
            (u64::from(port)..).zip(element).find_map(|(port, byte)| {
                let (device, offset) = self.find(port)?;
                device.write(offset, *byte)
            })
        })
    }

    /// Who answers at `port`.
    pub fn name(&self, port: u64) -> Option<&'static str> {
        Some(self.0.find(port)?.0.name())
    }

    /// The same with the offset of its register.
    pub fn place(&self, port: u64) -> Option<(&'static str, u64)> {
        let (device, offset) = self.0.find(port)?;
        Some((device.name(), offset))
    }

    fn find(&self, port: u64) -> Option<(&dyn PortDevice, u16)> {
        let (device, offset) = self.0.find(port)?;
        Some((device, u16::try_from(offset).ok()?))
    }
}

impl Default for PortBus {
    fn default() -> Self {
        Self::new()
    }
}

/// The memory-mapped bus: guest-physical addresses without RAM.
#[derive(Debug)]
pub struct MmioBus(Ranges<dyn MmioDevice>);

impl MmioBus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self(Ranges(Vec::new()))
    }

    /// Gives `len` bytes from guest-physical `start` to `device`.
    ///
    /// # Errors
    /// [`Overlap`] when another device has one of them.
    pub fn claim(
        &mut self,
        start: u64,
        len: u64,
        device: Arc<dyn MmioDevice>,
    ) -> Result<(), Overlap> {
        self.0.claim(start, len, device)
    }

    /// Fills `data` from `gpa`; all ones where nobody answers.
    pub fn read(&self, gpa: u64, data: &mut [u8]) {
        match self.0.find(gpa) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Who answers at `gpa`.
    pub fn name(&self, gpa: u64) -> Option<&'static str> {
        Some(self.0.find(gpa)?.0.name())
    }

    /// The same with the offset of its register.
    pub fn place(&self, gpa: u64) -> Option<(&'static str, u64)> {
        let (device, offset) = self.0.find(gpa)?;
        Some((device.name(), offset))
    }

    /// Writes `data` to `gpa`.
    pub fn write(&self, gpa: u64, data: &[u8]) -> Option<Request> {
        let (device, offset) = self.0.find(gpa)?;
        device.write(offset, data)
    }
}

impl Default for MmioBus {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Remembers writes, answers reads with the offset.
    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<(u16, u8)>>);

    impl PortDevice for Recorder {
        fn name(&self) -> &'static str {
            "recorder"
        }
        fn read(&self, offset: u16) -> u8 {
            u8::try_from(offset).unwrap()
        }
        fn write(&self, offset: u16, value: u8) -> Option<Request> {
            self.0.lock().unwrap().push((offset, value));
            (value == 0xfe).then_some(Request::Reset)
        }
    }

    fn bus() -> (PortBus, Arc<Recorder>) {
        let device = Arc::new(Recorder::default());
        let mut bus = PortBus::new();
        bus.claim(0x3f8, 8, device.clone()).unwrap();
        (bus, device)
    }

    #[test]
    fn word_access_touches_two_ports() {
        let (bus, device) = bus();
        assert_eq!(bus.write(0x3f9, 2, &[1, 2]), None);
        assert_eq!(*device.0.lock().unwrap(), [(1, 1), (2, 2)]);
    }

    #[test]
    fn repeated_byte_access_touches_one_port() {
        let (bus, device) = bus();
        assert_eq!(bus.write(0x3f8, 1, b"ab"), None);
        assert_eq!(*device.0.lock().unwrap(), [(0, b'a'), (0, b'b')]);
        let mut data = [9; 3];
        bus.read(0x3fa, 1, &mut data);
        assert_eq!(data, [2, 2, 2]);
    }

    #[test]
    fn unclaimed_port_reads_as_ones_and_swallows_writes() {
        let (bus, device) = bus();
        let mut data = [0; 4];
        bus.read(0x3fe, 4, &mut data);
        assert_eq!(
            data,
            [6, 7, 0xff, 0xff],
            "the last two ports are past the device"
        );
        assert_eq!(bus.write(0x80, 4, &[0xfe; 4]), None);
        assert!(device.0.lock().unwrap().is_empty());
    }

    #[test]
    fn port_numbers_do_not_wrap_past_the_last() {
        let (bus, _device) = bus();
        let mut data = [0; 4];
        bus.read(0xffff, 4, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn request_stops_a_string_write() {
        let (bus, device) = bus();
        assert_eq!(bus.write(0x3f8, 1, &[1, 0xfe, 3]), Some(Request::Reset));
        assert_eq!(device.0.lock().unwrap().len(), 2);
    }

    #[test]
    fn overlapping_claim_is_refused_with_both_ranges() {
        let (mut bus, device) = bus();
        let error = bus.claim(0x3ff, 1, device).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Bus range 0x3ff + 0x1 overlaps 0x3f8 + 0x8"
        );
    }

    #[test]
    fn unclaimed_mmio_reads_as_ones() {
        let mut data = [0; 8];
        MmioBus::new().read(0xfee0_0000, &mut data);
        assert_eq!(data, [0xff; 8]);
    }
}
