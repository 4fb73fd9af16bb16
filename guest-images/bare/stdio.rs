//! The three descriptors that a program starts with.

use rustix::fd::BorrowedFd;

/// Standard error. A terminal's only descriptor too, in a guest.
pub fn complaints() -> BorrowedFd<'static> {
    // SAFETY: descriptor 2 is open from the start, or from where the program opens a console, and is
    // never closed. If it is not open at all, calls on it fail without harm.
    unsafe { rustix::stdio::stderr() }
}

/// Standard input. As for [`complaints`].
pub fn input() -> BorrowedFd<'static> {
    // SAFETY: descriptor 0 is open from the start and is never closed; if it is not open at all, calls
    // on it fail without harm.
    unsafe { rustix::stdio::stdin() }
}

/// Standard output. As for [`complaints`].
pub fn output() -> BorrowedFd<'static> {
    // SAFETY: as for `input`, with descriptor 1.
    unsafe { rustix::stdio::stdout() }
}
