//! One socket to a program of the host's, and the guest's bytes that it has not taken yet.
//!
//! No call waits. What a socket does not take at once is kept, at most
//! [`super::connection::BUFFER`] bytes, because the guest may not send more before it was told to.
//!
//! Read next: [`super::listener`].

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};

use super::connection::BUFFER;

/// A socket with a program at its other end.
#[derive(Debug)]
pub struct Stream {
    /// Shared with the thread that polls it, so that it can be dropped meanwhile.
    socket: Arc<OwnedFd>,
    pending: VecDeque<u8>,
    /// The guest sends no more: when all is written, the program is told so.
    ends: bool,
    /// When the guest must have answered, if it has not.
    pub answer_by: Option<Instant>,
}

/// What reading found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, one at least.
    Bytes(usize),
    /// None for now.
    Nothing,
    /// The program sends no more.
    End,
    /// It is gone, in the middle.
    Broken,
}

impl Stream {
    /// One over `socket`, which never waits.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Arc::new(socket),
            pending: VecDeque::new(),
            ends: false,
            answer_by: None,
        }
    }

    /// The socket, for poll(2).
    pub fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Whether the socket is to take something that it has not.
    pub fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes `bytes`, or keeps those that the socket does not take; returns how many it took.
    ///
    /// # Errors
    /// When the program takes no more.
    pub fn give(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut taken = 0;
        if self.pending.is_empty() {
            taken = self.write(bytes)?;
        }
        if let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            // All the room there will ever be: growing step by step can end at twice as much.
            let room = (BUFFER as usize).saturating_sub(self.pending.len());
            self.pending.reserve_exact(room);
            self.pending.extend(rest);
        }
        Ok(taken)
    }

    /// Writes what was kept; returns how many bytes the socket took.
    ///
    /// # Errors
    /// When the program takes no more.
    pub fn flush(&mut self) -> Result<usize, Errno> {
        let mut taken = 0;
        while self.is_behind() {
            let (first, _) = self.pending.as_slices();
            match self.write(first)? {
                0 => return Ok(taken),
                count => {
                    self.pending.drain(..count);
                    taken += count;
                }
            }
        }
        self.end_if_all_is_written();
        Ok(taken)
    }

    /// Throws away what was kept; returns how much that was.
    pub fn discard(&mut self) -> usize {
        let count = self.pending.len();
        self.pending = VecDeque::new();
        count
    }

    /// Nothing more will be given.
    pub fn end(&mut self) {
        self.ends = true;
        self.end_if_all_is_written();
    }

    /// Nothing more will be read.
    pub fn refuse_more(&self) {
        let _gone_already = shutdown(&self.socket, Shutdown::Read);
    }

    /// Reads what the program has sent, as far as it fits into `buffer`.
    pub fn read(&self, buffer: &mut [u8]) -> Read {
        loop {
            match rustix::io::read(&self.socket, &mut *buffer) {
                Ok(0) => return Read::End,
                Ok(count) => return Read::Bytes(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Read::Nothing,
                Err(_) => return Read::Broken,
            }
        }
    }

    fn end_if_all_is_written(&mut self) {
        if self.ends && self.pending.is_empty() {
            let _gone_already = shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// Writes as much as the socket takes, perhaps nothing.
    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Stream::new(ours.into()), theirs)
    }

    #[test]
    fn what_a_full_socket_does_not_take_follows_in_order() {
        let (mut stream, mut program) = pair();
        let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
        let mut taken = stream.give(&bytes).unwrap();
        assert!(taken < bytes.len() && stream.is_behind());
        stream.end();
        let mut got = vec![0; bytes.len()];
        let mut at = 0;
        while at < bytes.len() {
            at += program.read(&mut got[at..]).unwrap();
            taken += stream.flush().unwrap();
        }
        assert!(got == bytes && taken == bytes.len());
        assert_eq!(program.read(&mut [0]).unwrap(), 0, "the end comes last");
    }

    #[test]
    fn program_that_went_away_is_noticed_without_a_signal() {
        let (mut stream, program) = pair();
        drop(program);
        assert_eq!(stream.give(b"x"), Err(Errno::PIPE));
        assert_eq!(stream.read(&mut [0; 8]), Read::End);
    }
}
