//! stdout and stderr, written without ever waiting for who reads them.
//!
//! Their own descriptions must not become non-blocking: the shell that started us shares them. So
//! terminals and pipes are opened a second time; files are written directly, they never block.
//! [`super::output`] writes the guest's bytes by this, [`super::words`] cottage's own.
//!
//! Read next: [`super::output`].

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};

/// What one write to a descriptor that may block is limited to: poll(2) promises a pipe as much.
const CAUTIOUS_WRITE: usize = 512;

/// Where bytes go.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Writes at once or says EAGAIN: our own description, or a file.
    Ready(File),
    /// The stream itself, asked with poll(2) before each write.
    Shared(BorrowedFd<'static>),
    /// The test suite's.
    #[cfg(test)]
    Memory {
        /// What was written.
        taken: Vec<u8>,
        /// How much more is taken.
        room: usize,
    },
}

impl Sink {
    /// A sink for stdout or stderr.
    pub(crate) fn of(stream: BorrowedFd<'static>) -> Self {
        let kind = rustix::fs::fstat(stream).map(|s| FileType::from_raw_mode(s.st_mode));
        let own = match kind {
            Ok(FileType::Fifo | FileType::CharacterDevice) => reopen(stream),
            Ok(FileType::RegularFile | FileType::BlockDevice) => {
                stream.try_clone_to_owned().ok().map(File::from)
            }
            _ => None,
        };
        // A socket cannot be opened again, and another user's terminal may not: ask before
        // writing, then.
        own.map_or(Self::Shared(stream), Self::Ready)
    }

    /// Writes a prefix of `bytes` and returns its length.
    ///
    /// # Errors
    /// EAGAIN when nothing is taken now, and what write(2) says.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Ready(file) => file.write(bytes),
            Self::Shared(stream) => {
                let mut fds = [PollFd::from_borrowed_fd(*stream, PollFlags::OUT)];
                if rustix::event::poll(&mut fds, Some(&Timespec::default()))? == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let cautious = bytes.get(..CAUTIOUS_WRITE).unwrap_or(bytes);
                Ok(rustix::io::write(*stream, cautious)?)
            }
            #[cfg(test)]
            Self::Memory { taken, room } => {
                let n = bytes.len().min(*room);
                taken.extend_from_slice(&bytes[..n]);
                *room -= n;
                if n == 0 {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(n)
                }
            }
        }
    }

    /// Whether this is a character device; of those, terminals can be written and closed.
    pub(crate) fn is_device(&self) -> bool {
        rustix::fs::fstat(self.fd())
            .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice)
    }

    /// For poll(2).
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Ready(file) => file.as_fd(),
            Self::Shared(stream) => *stream,
            #[cfg(test)]
            Self::Memory { .. } => rustix::stdio::stdout(),
        }
    }
}

/// A description of our own for what `stream` is.
fn reopen(stream: BorrowedFd<'_>) -> Option<File> {
    let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .ok()
        .map(File::from)
}
