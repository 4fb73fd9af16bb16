//! What a program without libc and std needs from the first instruction on.
//!
//! Part of cottage's init and of its probe, which take it in by `#[path]`. It is no crate: a library
//! with `_start` and memcpy in it would give them to every test program that links it.
//!
//! Here is all that both have unsafe; each adds a room of its own.
#![expect(
    unsafe_code,
    reason = "see the module's description; the rest of the program has none, besides its own room"
)]

/// Where the program begins and ends.
mod entry;
/// Standard input, output and error.
mod stdio;
/// fork(2), execve(2), exit(2), signals.
mod calls;
/// memcpy(3) and its kin.
mod memory;

pub use calls::{
    Fork, PointerList, SignalSet, block_signals, execve, exit, fork, syscall, wait_for_signal,
};
pub use entry::Strings;
pub use stdio::{complaints, input, output};
