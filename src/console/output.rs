//! Where the guest's console output goes: cottage's stdout.
//!
//! A vCPU thread writes each byte at once and never waits: a terminal that is held with Ctrl-S or
//! a pipe whose reader sleeps would otherwise stop the guest in the middle of an instruction and
//! make it deaf to Ctrl-A x. What the reader does not take waits here, up to a bound; beyond it
//! the UART's transmitter stays busy and the guest waits, as with any slow serial line. Nothing
//! is lost, nothing grows.
//!
//! Read next: [`super::words`].

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::panic_watch::PanicWatch;
use super::sink::Sink;
use crate::timeline::{Stage, Timeline};

/// Bytes that wait for a slow reader before the guest has to.
const MAX_BACKLOG: usize = 64 << 10; // 64 KiB

/// The console's output.
#[derive(Debug)]
pub struct Output(Mutex<State>);

/// What became of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was written, or waits behind others.
    Done,
    /// It waits, and before it nothing did: whoever drains must be told.
    FirstToWait,
    /// There is no room; to be tried again after a drain.
    Refused,
    /// It is lost: stdout cannot be written, [`Output::lost`] tells why.
    Lost,
}

#[derive(Debug)]
struct State {
    timeline: Arc<Timeline>,
    sink: Sink,
    backlog: VecDeque<u8>,
    watch: PanicWatch,
    written: u64,
    /// Why a write failed; output is thrown away from then on.
    error: Option<io::Error>,
}

impl Output {
    /// Output to stdout; the first byte is noted in `timeline`.
    pub fn stdout(timeline: Arc<Timeline>) -> Self {
        Self::to(Sink::of(rustix::stdio::stdout()), timeline)
    }

    fn to(sink: Sink, timeline: Arc<Timeline>) -> Self {
        Self(Mutex::new(State {
            timeline,
            sink,
            backlog: VecDeque::new(),
            watch: PanicWatch::default(),
            written: 0,
            error: None,
        }))
    }

    /// Writes `byte`, or keeps it for later if there is room.
    pub fn push(&self, byte: u8) -> Pushed {
        let mut state = self.lock();
        let waiting = state.backlog.len();
        if waiting >= MAX_BACKLOG {
            return Pushed::Refused;
        }
        state.watch.see(byte);
        state.written += 1;
        let done = waiting == 0 && state.write(&[byte]) == 1;
        if state.written == 1 {
            state.timeline.note(Stage::FirstByte);
        }
        if done {
            return match state.lost() {
                Some(_) => Pushed::Lost,
                None => Pushed::Done,
            };
        }
        state.backlog.push_back(byte);
        if waiting == 0 {
            Pushed::FirstToWait
        } else {
            Pushed::Done
        }
    }

    /// Whether [`Self::push_all`] may be called.
    pub fn has_room(&self) -> bool {
        self.lock().backlog.len() < MAX_BACKLOG
    }

    /// Writes `bytes`, and keeps what the reader does not take now. Callers ask
    /// [`Self::has_room`] first and bound `bytes`, so the backlog exceeds its bound by one call's.
    pub fn push_all(&self, bytes: &[u8]) -> Pushed {
        let mut state = self.lock();
        let waiting = !state.backlog.is_empty();
        let first = state.written == 0 && !bytes.is_empty();
        bytes.iter().for_each(|byte| state.watch.see(*byte));
        state.written += bytes.len() as u64;
        let mut rest = bytes;
        while !waiting && !rest.is_empty() {
            let taken = state.write(rest);
            if taken == 0 {
                break;
            }
            rest = rest.get(taken..).unwrap_or(&[]);
        }
        if first {
            state.timeline.note(Stage::FirstByte);
        }
        state.backlog.extend(rest);
        match state.lost() {
            Some(_) => Pushed::Lost,
            None if waiting || rest.is_empty() => Pushed::Done,
            None => Pushed::FirstToWait,
        }
    }

    /// Writes what waits, as far as the reader takes it; true when nothing waits any more.
    pub fn drain(&self) -> bool {
        let mut state = self.lock();
        while !state.backlog.is_empty() {
            let backlog = std::mem::take(&mut state.backlog);
            let n = state.write(backlog.as_slices().0);
            state.backlog = backlog;
            if n == 0 {
                return false;
            }
            state.backlog.drain(..n);
        }
        true
    }

    /// Whether bytes wait for the reader.
    pub fn waiting(&self) -> bool {
        !self.lock().backlog.is_empty()
    }

    /// Waits up to `timeout` for the reader; true when it takes bytes again.
    pub fn wait(&self, timeout: &Timespec) -> bool {
        // A second handle, so that the lock is not held while waiting.
        let Ok(fd) = self.lock().sink.fd().try_clone_to_owned() else {
            return true;
        };
        let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
        !matches!(rustix::event::poll(&mut fds, Some(timeout)), Ok(0))
    }

    /// A handle for poll(2).
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn poll_fd(&self) -> io::Result<std::os::fd::OwnedFd> {
        self.lock().sink.fd().try_clone_to_owned()
    }

    /// Bytes the guest has printed.
    pub fn written(&self) -> u64 {
        self.lock().written
    }

    /// The line with which the guest's kernel panicked, if it did.
    pub fn panic_line(&self) -> Option<String> {
        self.lock().watch.line()
    }

    /// The error that made output be lost, a full disk, say.
    pub fn lost(&self) -> Option<String> {
        self.lock().lost().map(io::Error::to_string)
    }

    /// Whether stdout is gone or broken, so that output is thrown away.
    pub fn closed(&self) -> bool {
        self.lock().error.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The error, if it cost somebody something.
    fn lost(&self) -> Option<&io::Error> {
        let error = self.error.as_ref()?;
        (!reader_left(error, || self.sink.is_device())).then_some(error)
    }

    /// Writes a prefix of `bytes` and returns its length; 0 means that the reader takes no more
    /// now. After an error everything counts as written: it is thrown away.
    fn write(&mut self, bytes: &[u8]) -> usize {
        if self.error.is_some() {
            return bytes.len();
        }
        loop {
            match self.sink.write(bytes) {
                Ok(n) => return n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return 0,
                Err(e) => {
                    self.error = Some(e);
                    return bytes.len();
                }
            }
        }
    }
}

/// Whether the error says that the reader went away, who lost nothing that was wanted: EPIPE of a
/// pipe, ECONNRESET of a socket, EIO of a terminal that was closed.
fn reader_left(error: &io::Error, is_device: impl FnOnce() -> bool) -> bool {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => true,
        _ => error.raw_os_error() == Some(libc::EIO) && is_device(),
    }
}

/// What tests print to.
#[cfg(test)]
impl Output {
    /// An output whose reader takes `room` bytes.
    pub(crate) fn memory(room: usize) -> Self {
        let taken = Vec::new();
        Self::to(Sink::Memory { taken, room }, Arc::new(Timeline::new()))
    }

    /// What the reader took.
    pub(crate) fn taken(&self) -> Vec<u8> {
        match &self.lock().sink {
            Sink::Memory { taken, .. } => taken.clone(),
            _ => Vec::new(),
        }
    }

    /// The reader takes `more` bytes.
    pub(crate) fn give_room(&self, more: usize) {
        if let Sink::Memory { room, .. } = &mut self.lock().sink {
            *room += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(room: usize) -> Output {
        Output::memory(room)
    }

    fn taken(output: &Output) -> Vec<u8> {
        output.taken()
    }

    fn give_room(output: &Output, more: usize) {
        output.give_room(more);
    }

    #[test]
    fn text_as_a_whole_waits_behind_what_waits() {
        let output = memory(3);
        assert_eq!(output.push_all(b"abcde"), Pushed::FirstToWait);
        assert_eq!(output.push_all(b"fg"), Pushed::Done);
        assert_eq!(taken(&output), b"abc");
        give_room(&output, 10);
        assert!(output.drain());
        assert_eq!(output.push_all(b"h"), Pushed::Done);
        assert_eq!(
            (taken(&output), output.written()),
            (b"abcdefgh".to_vec(), 8)
        );
    }

    #[test]
    fn text_that_meets_a_full_disk_is_a_loss() {
        let output = memory(10);
        output.lock().error = Some(io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(output.push_all(b"xyz"), Pushed::Lost);
        assert!(output.has_room() && !output.waiting());
    }

    #[test]
    fn bytes_leave_at_once_and_in_order() {
        let output = memory(3);
        let pushed = b"abcde".map(|byte| output.push(byte));
        assert_eq!(pushed[3], Pushed::FirstToWait, "somebody must drain");
        assert_eq!([pushed[2], pushed[4]], [Pushed::Done; 2]);
        assert_eq!(taken(&output), b"abc");
        assert!(output.waiting() && !output.drain());
        give_room(&output, 10);
        assert!(output.drain() && !output.waiting());
        assert_eq!(taken(&output), b"abcde");
    }

    #[test]
    fn backlog_is_bounded_and_nothing_is_lost() {
        let output = memory(0);
        let mut accepted = 0;
        while output.push(b'x') != Pushed::Refused {
            accepted += 1;
        }
        assert_eq!(accepted, MAX_BACKLOG);
        give_room(&output, 1 << 20);
        assert!(output.drain());
        assert_eq!(output.push(b'y'), Pushed::Done);
        assert_eq!(taken(&output).len(), MAX_BACKLOG + 1);
    }

    #[test]
    fn broken_pipe_throws_away_and_is_no_loss() {
        let output = memory(10);
        output.lock().error = Some(io::ErrorKind::BrokenPipe.into());
        assert_eq!(output.push(b'x'), Pushed::Done);
        assert!(!output.waiting() && output.closed());
        assert_eq!(output.lost(), None);
    }

    #[test]
    fn full_disk_is_a_loss() {
        let output = memory(10);
        output.lock().error = Some(io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(output.push(b'x'), Pushed::Lost);
        assert!(output.lost().unwrap().contains("No space left"));
    }

    #[test]
    fn input_output_error_is_a_loss_unless_a_terminal_was_closed() {
        let error = |errno| io::Error::from_raw_os_error(errno);
        assert!(!reader_left(&error(libc::EIO), || false));
        assert!(reader_left(&error(libc::EIO), || true));
        assert!(reader_left(&error(libc::ECONNRESET), || false));
        assert!(!reader_left(&error(libc::ENOSPC), || true));
    }

    #[test]
    fn panic_is_seen_even_while_nobody_reads() {
        let output = memory(0);
        assert!(
            b"Kernel panic - not syncing: x\n"
                .iter()
                .all(|b| output.push(*b) != Pushed::Refused)
        );
        assert_eq!(
            output.panic_line().unwrap(),
            "Kernel panic - not syncing: x"
        );
    }
}
