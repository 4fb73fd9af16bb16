//! Random numbers from the host: virtio's smallest device.
//!
//! The driver hands over memory to be filled. There is no configuration and no feature. Linux
//! takes what comes as seed for its own generator.
//!
//! Served on the vCPU's thread: getrandom(2) does not wait once the host has booted. A request of
//! any size is answered by at most `MAX_BYTES`, which the specification allows and drivers
//! expect, so a guest cannot keep a thread of ours busy by one request.
//!
//! Source: `[virtio]` 1.2, section 5.4 "Entropy Device".
//! Read next: [`super::blk`].

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::{Broken, Device, Request};

/// Most bytes for one request; Linux asks for 64 at a time, and reads of /dev/hwrng for a page.
const MAX_BYTES: usize = 4 << 10; // 4 KiB

/// The entropy device.
#[derive(Debug)]
pub struct Rng;

impl Device for Rng {
    fn name(&self) -> &'static str {
        "virtio-rng"
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &'static [u16] {
        // One request waits at a time.
        &[8]
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn may_wait(&self) -> bool {
        false
    }

    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken> {
        let wrong = |reason| Broken::Chain {
            head: request.chain.head,
            reason,
        };
        // 5.4.6.1: the driver must not put device-readable buffers into the queue.
        if !request.chain.readable.is_empty() {
            return Err(wrong("it has a part to read for a device that only writes"));
        }
        let mut bytes = [0; MAX_BYTES];
        let mut written = 0;
        for segment in &request.chain.writable {
            let wanted = (segment.len as usize).min(MAX_BYTES - written);
            let got = bytes.get_mut(..wanted).map_or(0, random);
            let bytes = bytes.get(..got).unwrap_or(&[]);
            if request.memory.write(segment.gpa, bytes).is_err() {
                return Err(wrong("it left RAM"));
            }
            written += got;
        }
        Ok(u32::try_from(written).unwrap_or(0))
    }
}

/// Fills `bytes`, or their beginning: a signal can cut getrandom(2) short. Returns how many.
fn random(bytes: &mut [u8]) -> usize {
    loop {
        match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            got => return got.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Guest, read, write};

    #[test]
    fn virtio_5_4_6_a_request_is_filled_with_random_bytes() {
        let guest = Guest::with(Rng);
        let mut driver = guest.driver();
        driver.start(0);
        driver.put(&[write(0x1_0000, 64), write(0x2_0000, 32)]);
        assert_eq!(driver.done(), [(0, 96)]);
        let [first, second] = [0x1_0000, 0x2_0000].map(|at| guest.bytes(at, 32));
        assert!(first != second && first.iter().any(|byte| *byte != 0));
    }

    #[test]
    fn large_request_is_answered_in_part() {
        let guest = Guest::with(Rng);
        let mut driver = guest.driver();
        driver.start(0);
        driver.put(&[write(0x1_0000, 4000), write(0x2_0000, 0x1_0000)]);
        assert_eq!(driver.done(), [(0, 4096)]);
        assert_eq!(guest.bytes(0x2_0000 + 96, 16), [0; 16]);
    }

    #[test]
    fn virtio_5_4_6_1_request_with_a_part_to_read_needs_a_reset() {
        let guest = Guest::with(Rng);
        let mut driver = guest.driver();
        driver.start(0);
        driver.put(&[read(0x1_0000, 4), write(0x2_0000, 4)]);
        driver.expect_needs_reset();
    }
}
