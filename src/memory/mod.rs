//! Chapter 4: guest memory, the one thing a guest and its VMM share.
//!
//! [`layout`] says what lies where; [`guest`] is the way to touch it; [`mapped`] are files beside RAM;
//! [`transfer`] lets the host kernel touch it, between a file and the guest.
//! Read next: [`layout`].

pub mod layout;
pub mod guest;
pub mod mapped;
pub mod transfer;

pub use guest::GuestMemory;
