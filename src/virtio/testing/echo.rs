//! A device that any request can be made of.

use std::sync::{Arc, Mutex};

use crate::virtio::queue::Chain;
use crate::virtio::{Broken, Device, Request};

/// A device that remembers what it was asked: it writes one byte of 7 to each request.
#[derive(Debug, Default)]
pub(in crate::virtio) struct Echo {
    pub(in crate::virtio) threaded: bool,
    pub(in crate::virtio) seen: Arc<Mutex<Vec<Chain>>>,
}

impl Device for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn id(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        1 << 5 | 1 << 40
    }

    fn queues(&self) -> &'static [u16] {
        &[64, 8]
    }

    fn config(&self) -> &[u8] {
        b"abcdef"
    }

    fn may_wait(&self) -> bool {
        self.threaded
    }

    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken> {
        self.seen.lock().unwrap().push(request.chain.clone());
        let Some(segment) = request.chain.writable.first() else {
            return Ok(0);
        };
        request.memory.write(segment.gpa, &[7]).unwrap();
        Ok(1)
    }
}
