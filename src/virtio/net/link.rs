//! Where a card's cable leads.
//!
//! Both ends of either kind of cable are descriptors that never make us wait. A tap device takes
//! and gives whole frames with their headers. passt has a stream of bytes: a length of 4 bytes,
//! the highest first, and a frame without a header. What its socket does not take at once waits
//! here, and the guest's next frame waits in its queue.
//!
//! Source: passt(1), option `--fd`; QEMU's `net/stream.c` has the same format.
//! Read next: [`super::tap`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::passt::Passt;
use super::tap::Tap;
use super::{Error, HEADER, MAX_FRAME};
use crate::config::net::{Kind, Net};
use crate::virtio::Buffers;

/// Bytes of a frame's length in a stream.
const LENGTH: usize = 4;

/// The cable.
#[derive(Debug)]
pub enum Link {
    /// To a tap device.
    Tap(Tap),
    /// To passt.
    User(Passt, Stream),
}

/// What a look at the link found.
#[derive(Debug)]
pub enum Received {
    /// A frame.
    Frame {
        /// Its bytes, with its header.
        len: usize,
        /// How many of them are in the guest's buffers; the others are at their place in ours.
        there: usize,
    },
    /// Nothing, or not a whole frame yet.
    Nothing,
    /// There will be nothing more.
    Gone(io::Error),
}

/// How far the frame is that is coming out of a stream.
#[derive(Debug, Default)]
pub struct Stream(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    length: [u8; LENGTH],
    /// Bytes read, of length and frame.
    got: usize,
}

impl Link {
    /// Opens the tap device or starts passt.
    ///
    /// # Errors
    /// Those of either.
    pub fn open(net: &Net) -> Result<Self, Error> {
        match &net.kind {
            Kind::Tap(name) => Ok(Self::Tap(Tap::open(name)?)),
            Kind::User(forwards) => Ok(Self::User(Passt::start(forwards)?, Stream::default())),
        }
    }

    /// What the user called it.
    pub fn name(&self) -> &str {
        match self {
            Self::Tap(tap) => tap.name(),
            Self::User(..) => "user",
        }
    }

    /// Whether the other side computes checksums and cuts frames, as a header asks for it.
    pub fn understands_headers(&self) -> bool {
        matches!(self, Self::Tap(_))
    }

    /// The largest packet the other side takes, where it says so.
    pub fn mtu(&self) -> Option<u16> {
        match self {
            Self::Tap(tap) => tap.mtu(),
            Self::User(..) => None,
        }
    }

    /// Tells the other side what the driver takes, by the features agreed on.
    ///
    /// # Errors
    /// What the host says.
    pub fn set_offloads(&self, features: u64) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap.set_offloads(features),
            Self::User(..) => Ok(()),
        }
    }

    /// Looks for a frame; it goes to `buffer`, which has room for the largest. What the buffers that
    /// are `ready` have room for may go there instead.
    pub fn receive(&self, ready: &Buffers<'_>, buffer: &mut [u8]) -> Received {
        match self {
            Self::Tap(tap) => tap.receive(ready, buffer).unwrap_or_else(Received::Gone),
            Self::User(passt, stream) => {
                let mut progress = stream.0.lock().unwrap_or_else(PoisonError::into_inner);
                progress
                    .advance(passt.as_fd(), buffer)
                    .unwrap_or_else(Received::Gone)
            }
        }
    }

    /// Gives `frame`, with a header, the form in which it travels; returns where that begins.
    pub fn wrap(&self, frame: &mut [u8]) -> usize {
        let Self::User(..) = self else { return 0 };
        let start = HEADER - LENGTH;
        let length = u32::try_from(frame.len().saturating_sub(HEADER)).unwrap_or(0);
        let place = frame.iter_mut().skip(start);
        place
            .zip(length.to_be_bytes())
            .for_each(|(to, from)| *to = from);
        start
    }

    /// Sends what is behind `sent` of `frame`, as far as the other side takes it.
    pub fn send(&self, frame: &[u8], sent: &mut usize) {
        while let Some(rest) = frame.get(*sent..).filter(|rest| !rest.is_empty()) {
            match (rustix::io::write(self, rest), self) {
                (Ok(count), Self::User(..)) => *sent += count,
                (Err(Errno::INTR), _) => {}
                (Err(Errno::AGAIN), Self::User(..)) => return,
                // A tap device takes a frame or refuses it: its header is wrong, it is down, its
                // queue is full. And who is gone takes nothing any more.
                _ => *sent = frame.len(),
            }
        }
    }
}

impl Progress {
    /// Reads on.
    fn advance(&mut self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            let missing = self.length.get_mut(self.got..).unwrap_or(&mut []);
            let (place, end) = if missing.is_empty() {
                let len = u32::from_be_bytes(self.length) as usize;
                if len == 0 || len > MAX_FRAME {
                    let text = format!("passt announced a frame of {len} bytes");
                    return Err(io::Error::other(text));
                }
                let from = HEADER + self.got - LENGTH;
                (buffer.get_mut(from..HEADER + len), LENGTH + len)
            } else {
                (Some(missing), 0)
            };
            match read(socket, place.unwrap_or(&mut []))? {
                None => return Ok(Received::Nothing),
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(count) => self.got += count,
            }
            if self.got == end {
                self.got = 0;
                buffer.iter_mut().take(HEADER).for_each(|byte| *byte = 0);
                return Ok(Received::Frame {
                    len: HEADER + end - LENGTH,
                    there: 0,
                });
            }
        }
    }
}

/// Reads what there is; `None` if there is nothing yet.
fn read(from: BorrowedFd<'_>, to: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match rustix::io::read(from, &mut *to) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tap(tap) => tap.as_fd(),
            Self::User(passt, _) => passt.as_fd(),
        }
    }
}
