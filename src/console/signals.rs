//! Signals that end a run, as a file descriptor.
//!
//! They are blocked in all threads and read by the event loop, so that what follows a SIGTERM is
//! ordinary code: stop the vCPUs, restore the terminal, leave with 128 plus the number.
//! SIGTSTP and SIGCONT come the same way: a stopped cottage must not keep the terminal raw. So does
//! SIGWINCH, which tells that the terminal has another size.
//!
//! Source: signalfd(2). An alternative, a handler that writes to a pipe, needs as much unsafe
//! code and a place to run it in.
//! Read next: [`crate::control`].
#![expect(
    unsafe_code,
    reason = "signalfd(2) and sigset_t have no safe wrapper here"
)]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

/// Signals that ask the process to end.
const ENDING: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];
/// Stop and continue, and another size of the terminal.
const TERMINAL: [libc::c_int; 3] = [libc::SIGTSTP, libc::SIGCONT, libc::SIGWINCH];

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Leave; the signal's number.
    End(u8),
    /// Give the terminal back and stop.
    Stop,
    /// Take the terminal again.
    Continue,
    /// Look how large the terminal is.
    Resize,
}

/// The blocked signals.
#[derive(Debug)]
pub struct Signals(File);

impl Signals {
    /// Blocks the signals for this thread and those it starts, and opens the descriptor.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the whole set it is given.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for signal in ENDING.into_iter().chain(TERMINAL) {
            // SAFETY: the set was initialised above and the numbers are valid signals.
            unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
        }
        // SAFETY: initialised above.
        let set = unsafe { set.assume_init() };
        // SAFETY: set is valid; no old set is asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        let flags = libc::SFD_NONBLOCK | libc::SFD_CLOEXEC;
        // SAFETY: set is valid; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// The next signal, if one came.
    pub fn read(&mut self) -> Option<Event> {
        // struct signalfd_siginfo starts with the number, 32 bits, native order.
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let n = self.0.read(&mut info).ok()?;
        let number = info
            .get(..n)?
            .first_chunk()
            .map(|b| u32::from_ne_bytes(*b))?;
        let signal = libc::c_int::try_from(number).ok()?;
        match signal {
            libc::SIGTSTP => Some(Event::Stop),
            libc::SIGCONT => Some(Event::Continue),
            libc::SIGWINCH => Some(Event::Resize),
            _ => Some(Event::End(u8::try_from(number).unwrap_or(u8::MAX))),
        }
    }

    /// For poll(2).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Stops this process, as SIGTSTP would have if it were not blocked; returns when continued.
pub fn stop_self() {
    // SAFETY: raise has no conditions; SIGSTOP cannot be handled, so no handler runs.
    unsafe { libc::raise(libc::SIGSTOP) };
}
