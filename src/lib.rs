//! cottage: the smallest house a Linux can live in.
//!
//! A virtual machine monitor (VMM) for KVM on x86-64. The modules stand in reading order: read
//! from top to bottom, they tell how a virtual machine boots.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("cottage runs on x86-64 Linux: it is built on that machine's KVM");

pub mod memory;
pub mod platform;
