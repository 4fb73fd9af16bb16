//! Chapter 4: guest memory, the one thing a guest and its VMM share.
//!
//! [`layout`] says what lies where; [`guest`] is the only way to touch it.
//! Read next: [`layout`].

pub mod layout;
pub mod guest;

pub use guest::GuestMemory;
