//! How threads tell the machine that it is over, and wake the one that waits for it.
//!
//! ```text
//!   vCPU 0 ─┐ stop(reason)                      ┌─ run loops: stopping()?
//!   vCPU n ─┼──────────────▶ Control ───────────┤
//!   devices ┘ wake()            │ eventfd       └─ event loop: poll, then ending()
//! ```
//!
//! The first reason wins: when one vCPU resets the machine, others may fault on the way down.
//! Read next: [`crate::event_loop`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::outcome::Ending;

/// Shared by everything that runs while the guest runs.
#[derive(Debug)]
pub struct Control {
    wake: OwnedFd,
    stopping: AtomicBool,
    /// Somebody else reads the terminal.
    input_held: AtomicBool,
    ending: Mutex<Option<Ending>>,
}

impl Control {
    /// Nothing has ended yet.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self {
            wake,
            stopping: AtomicBool::new(false),
            input_held: AtomicBool::new(false),
            ending: Mutex::new(None),
        })
    }

    /// Ends the run; later reasons are dropped.
    pub fn stop(&self, ending: Ending) {
        self.ending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(ending);
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether vCPUs should leave their run loops.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Why the run ended, once it has.
    pub fn take_ending(&self) -> Option<Ending> {
        if !self.stopping() {
            return None;
        }
        self.ending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Keeps the event loop from reading stdin, while a person types to somebody else; or no more.
    pub fn hold_input(&self, hold: bool) {
        self.input_held.store(hold, Ordering::Release);
        self.wake();
    }

    /// Whether stdin is somebody else's now.
    pub fn input_held(&self) -> bool {
        self.input_held.load(Ordering::Acquire)
    }

    /// Makes the event loop look around.
    pub fn wake(&self) {
        // The only failure is a counter at its limit of 2^64 - 2: then it is awake anyway.
        let _awake_already = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Forgets the wake-ups so far; to be called before looking around.
    pub fn acknowledge(&self) {
        let _none_pending = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// For poll(2).
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
