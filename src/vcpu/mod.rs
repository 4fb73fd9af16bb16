//! Chapter 6: a processor: what state it starts in, what it may know of itself, and its run loop.
//!
//! - [`entry_state`]: boot protocol to registers and tables, as data;
//! - [`cpuid`], [`msr`]: what the guest sees of the processor, with the reason for each change;
//! - [`identity`]: both, given to a vCPU;
//! - [`run`]: enter the guest, match the exit, answer, again;
//! - [`crash`]: what to say when that is over for a bad reason.
//!
//! Read next: [`entry_state`].

pub mod entry_state;
pub mod cpuid;
pub mod msr;
pub mod identity;
pub mod run;
pub mod crash;
