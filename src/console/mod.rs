//! The host's end of the serial line: the user's terminal, or whatever stdin and stdout are.
//!
//! - `sink`: a stream that is written without waiting;
//! - [`output`]: where printed bytes go, with a bound on what waits;
//! - [`words`]: what cottage itself says;
//! - [`escape`]: keys for cottage;
//! - [`terminal`]: raw mode, and its end on every way out;
//! - [`panic_watch`]: recognises a panicking kernel by what it prints;
//! - [`signals`]: SIGTERM and its like as a file descriptor.
//!
//! Read next: [`crate::event_loop`], which moves bytes from here to the serial port.

mod sink;
pub mod output;
pub mod words;
pub mod escape;
pub mod terminal;
pub mod panic_watch;
pub mod signals;
