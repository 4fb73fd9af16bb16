//! Standard input from a file or pipe on the host.
//!
//! A process of its own reads the terminal and writes what it means into a pipe, which is the
//! command's standard input. Both sides block, so the pipe's capacity limits what is on the way.

use cottage_init::parmrk::{Decoder, Event};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, setsid};

use crate::bare::{self, Fork};
use crate::room;
use crate::supervise::signal_bit;

/// Bytes read at once: what the terminal can hold.
const CHUNK: usize = 4096;

/// Starts the relay; gives the pipe's end to read from.
pub fn start() -> Option<OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).ok()?;
    match bare::fork() {
        Fork::Parent(_) => Some(reader),
        Fork::Failed => None,
        Fork::Child => {
            drop(reader);
            // A write that nobody will read must fail, not kill.
            bare::block_signals(signal_bit(Signal::PIPE));
            // Out of the session: its background processes may not read the terminal.
            let _ = setsid();
            relay(writer);
            bare::exit(0)
        }
    }
}

/// Moves bytes until the end of file, then goes on reading: input left over must not stop the line.
fn relay(writer: OwnedFd) {
    let mut pipe = Some(writer);
    let mut decoder = Decoder::default();
    let mut input = [0; CHUNK];
    let mut output = [0; CHUNK];
    loop {
        let count = match read(room::terminal(), &mut input[..]) {
            Ok(0) => return,
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        let mut ended = false;
        let mut places = output.iter_mut();
        let events = input
            .iter()
            .take(count)
            .filter_map(|&byte| decoder.push(byte));
        for event in events {
            match event {
                Event::Byte(byte) => {
                    // There are no more events than bytes, so there is always a place.
                    if let Some(place) = places.next() {
                        *place = byte;
                    }
                }
                Event::Break => {
                    ended = true;
                    break;
                }
            }
        }
        let left = places.len();
        let data = output.get(..CHUNK - left).unwrap_or_default();
        if let Some(writer) = pipe.take() {
            // Dropping the writer closes the pipe: the command reads end-of-file.
            pipe = (write_all(&writer, data) && !ended).then_some(writer);
        }
    }
}

/// Writes everything; false if nobody reads any more.
fn write_all(pipe: &OwnedFd, mut data: &[u8]) -> bool {
    while !data.is_empty() {
        match write(pipe, data) {
            Ok(count) => data = data.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
