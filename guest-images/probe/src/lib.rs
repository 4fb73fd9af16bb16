//! The parts of cottage's probe that only compute, so that they are tested on the host.
//!
//! The program around them is `main.rs`.

#![cfg_attr(not(test), no_std)]

/// System calls: their names, and arguments that do no harm.
pub mod syscalls;
/// How a system call that was tried went.
pub mod outcome;
/// Names of the bits of a capability set.
pub mod capabilities;
/// Values out of the kernel's text files.
pub mod fields;
/// What a measurement is told, and how its figures are written.
pub mod settings;
