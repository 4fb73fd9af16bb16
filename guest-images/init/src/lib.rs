//! The parts of cottage's init that only compute, so that they are tested on the host.
//!
//! The program around them is `main.rs`.

#![cfg_attr(not(test), no_std)]

/// What the VMM asks init to run.
pub mod run_file;
/// Bytes and end-of-file out of a terminal that marks its line errors.
pub mod parmrk;
/// How a process ended, as one byte.
pub mod status;
/// Text put together without an allocator.
pub mod line;
