//! Streams of bytes, out of a driver's requests and into its buffers.
//!
//! What consoles and ports have in common: neither has records, so a request's bytes may be cut
//! anywhere, and any buffer has room enough for a part.
//! Read next: `super::bell`.

use std::collections::VecDeque;

use super::queue::Chain;
use super::{Broken, Message, Request};
use crate::memory::GuestMemory;

/// Something to deliver, in as much room as there is.
pub(super) const SOME_BYTES: Message = Message {
    len: 1,
    spreads: true,
};

/// Copies a request's bytes to `text`, which is emptied first.
///
/// # Errors
/// [`Broken`] for a request with a part to be written, which a transmitq must not hold
/// (`[virtio]` 5.3.6.1), and for one of more than `most` bytes.
pub(super) fn collect(
    request: &Request<'_>,
    most: usize,
    text: &mut Vec<u8>,
) -> Result<(), Broken> {
    let head = request.chain.head;
    let wrong = |reason| Broken::Chain { head, reason };
    if !request.chain.writable.is_empty() {
        return Err(wrong("it has a part to write in a queue of what is sent"));
    }
    let parts = &request.chain.readable;
    if parts.iter().map(|part| part.len as usize).sum::<usize>() > most {
        return Err(wrong("it sends more than this device takes at once"));
    }
    text.clear();
    for part in parts {
        let start = text.len();
        text.resize(start + part.len as usize, 0);
        let place = text.get_mut(start..).unwrap_or_default();
        let read = request.memory.read(part.gpa, place);
        read.map_err(|_numbers| wrong("it left RAM"))?;
    }
    Ok(())
}

/// Moves `bytes` to the buffers `chains`, as far as they have room, and lists what was written to
/// which.
///
/// # Errors
/// [`Broken`] for a buffer with a part to be read, which a receiveq must not hold
/// (`[virtio]` 5.3.6.1).
pub(super) fn spread(
    memory: &GuestMemory,
    chains: &[Chain],
    bytes: &mut VecDeque<u8>,
    used: &mut Vec<(u16, u32)>,
) -> Result<(), Broken> {
    for chain in chains {
        let head = chain.head;
        let wrong = |reason| Broken::Chain { head, reason };
        if !chain.readable.is_empty() {
            return Err(wrong(
                "it has a part to read in a queue of what is received",
            ));
        }
        let before = bytes.len();
        for part in &chain.writable {
            let count = bytes.len().min(part.len as usize);
            let text = bytes.make_contiguous().get(..count).unwrap_or_default();
            let written = memory.write(part.gpa, text);
            written.map_err(|_numbers| wrong("it left RAM"))?;
            bytes.drain(..count);
        }
        let written = u32::try_from(before - bytes.len()).unwrap_or(0);
        used.push((head, written));
    }
    Ok(())
}
