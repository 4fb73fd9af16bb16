//! The host's end of the serial line: the user's terminal, or whatever stdin and stdout are.
//!
//! - `sink`: a stream that is written without waiting;
//! - [`output`]: where printed bytes go, with a bound on what waits;
//! - [`words`]: what cottage itself says;
//! - [`escape`]: keys for cottage;
//! - [`terminal`]: raw mode, and its end on every way out;
//! - [`panic_watch`]: recognises a panicking kernel by what it prints;
//! - [`coding`]: the end of a pipe, for a console that has no break;
//! - [`signals`]: SIGTERM and its like as a file descriptor.
//!
//! [`crate::event_loop`] moves bytes from here to the serial port or the virtio console.
//! Read next: `sink`, then the modules in this order.

pub(crate) mod sink;
pub mod output;
pub mod words;
pub mod escape;
pub mod terminal;
pub mod panic_watch;
pub mod coding;
pub mod signals;
