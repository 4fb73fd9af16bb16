//! Persistent memory: a file that is guest memory.
//!
//! The device is nothing but an announcement of where the memory is, and one request: FLUSH, by which
//! a guest makes sure that what it wrote is on the disk. Reading and writing are loads and stores;
//! with `-o dax` the guest's programs map the host's page cache and the guest caches nothing.
//!
//! Memory of this kind is for processors, not for devices: a request of another device's whose
//! data lies in it is refused, as it would be outside of RAM. Linux makes such a request only for
//! direct I/O from a file that is mapped with DAX.
//!
//! Why read-only, and what it costs: docs/adr/0016.
//! Source: `[virtio]` 1.2, section 5.19 "PMEM Device". Read next: [`super::state`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;

use super::blk::request::{copy, len};
use super::{Broken, Device, Request};
use crate::memory::mapped::MappedFile;

/// VIRTIO_PMEM_REQ_TYPE_FLUSH. `[virtio]` 5.19.6
const FLUSH: u32 = 0;
/// The answer's success, and its failure. `[virtio]` 5.19.6
const OK: u32 = 0;
const FAILED: u32 = 1;
/// Bytes of the answer.
const ANSWER: usize = 4;
/// Bytes of the configuration space: start and size. `[virtio]` 5.19.4
const CONFIG: usize = 16;

/// The device.
#[derive(Debug)]
pub struct Pmem {
    file: Arc<MappedFile>,
    config: [u8; CONFIG],
    tell: fn(&str),
    told: AtomicBool,
}

impl Pmem {
    /// Announces `file`; `tell` is used once, if it cannot be flushed.
    pub fn new(file: Arc<MappedFile>, tell: fn(&str)) -> Self {
        let mut config = [0; CONFIG];
        let fields = [file.start().0, file.len()].map(u64::to_le_bytes);
        let bytes = fields.as_flattened();
        config
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        let told = AtomicBool::new(false);
        Self {
            file,
            config,
            tell,
            told,
        }
    }

    fn flush(&self) -> u32 {
        // Nothing can have been written to what is read-only.
        let flushed = if self.file.writable() {
            self.file.sync()
        } else {
            Ok(())
        };
        match flushed {
            Ok(()) => OK,
            Err(error) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    let label = self.label();
                    (self.tell)(&format!("{label}: a flush of the guest's failed: {error}"));
                }
                FAILED
            }
        }
    }
}

impl Device for Pmem {
    fn name(&self) -> &'static str {
        "virtio-pmem"
    }

    fn label(&self) -> String {
        format!("virtio-pmem {}", self.file.path().display())
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_PMEM
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &'static [u16] {
        // Each waiting flush has one request.
        &[64]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken> {
        let (chain, memory) = (request.chain, request.memory);
        let wrong = |reason| Broken::Chain {
            head: chain.head,
            reason,
        };
        let mut kind = [0; 4];
        copy(&chain.readable, memory, &mut kind).ok_or_else(|| wrong("it has no whole type"))?;
        // 5.19.6: the answer is one field; no driver cuts it in two.
        let place = chain
            .writable
            .first()
            .filter(|_| len(&chain.writable) >= ANSWER as u64);
        let place = place.filter(|place| place.len as usize >= ANSWER);
        let place = place.ok_or_else(|| wrong("it has no room for an answer"))?;
        let answer = match u32::from_le_bytes(kind) {
            FLUSH => self.flush(),
            _ => FAILED,
        };
        memory
            .write(place.gpa, &answer.to_le_bytes())
            .map_err(|_numbers| wrong("its answer left RAM"))?;
        Ok(4)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;
    use vm_memory::GuestAddress;

    use super::*;
    use crate::virtio::testing::{Guest, Scratch, read, write};

    fn guest(writable: bool) -> (Scratch, Guest) {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        fs::write(&path, vec![0; 2 << 20]).unwrap();
        let file = MappedFile::new(&path, writable, GuestAddress(0x1_4000_0000)).unwrap();
        let guest = Guest::with(Pmem::new(Arc::new(file), |_| ()));
        (scratch, guest)
    }

    #[test]
    fn virtio_5_19_4_configuration_is_start_and_size() {
        let (_scratch, guest) = guest(false);
        let driver = guest.driver();
        let config = [0, 4, 8, 12].map(|at| driver.get(VIRTIO_MMIO_CONFIG + at));
        assert_eq!(config, [0x4000_0000, 1, 2 << 20, 0]);
    }

    #[test]
    fn virtio_5_19_6_flush_succeeds_and_anything_else_fails() {
        for writable in [false, true] {
            let (_scratch, guest) = guest(writable);
            let mut driver = guest.driver();
            driver.start(0);
            for (kind, answer) in [(0_u32, 0_u8), (1, 1)] {
                guest.store(0x5000, &kind.to_le_bytes());
                guest.store(0x6000, &[0xee; 4]);
                driver.put(&[read(0x5000, 4), write(0x6000, 4)]);
                assert_eq!(driver.done(), [(0, 4)]);
                assert_eq!(guest.bytes(0x6000, 4), [answer, 0, 0, 0]);
            }
        }
    }

    #[test]
    fn request_without_type_or_room_needs_a_reset() {
        for (readable, room) in [(3, 4), (4, 3)] {
            let (_scratch, guest) = guest(false);
            let mut driver = guest.driver();
            driver.start(0);
            driver.put(&[read(0x5000, readable), write(0x6000, room)]);
            driver.expect_needs_reset();
        }
    }

    #[test]
    fn addresses_in_it_are_no_ram_for_requests() {
        let (_scratch, guest) = guest(true);
        let mut driver = guest.driver();
        driver.start(0);
        driver.put(&[read(0x5000, 4), write(0x1_4000_0000, 4)]);
        driver.expect_needs_reset();
    }
}
