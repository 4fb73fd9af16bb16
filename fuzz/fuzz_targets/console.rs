//! Ports of the guest's: names, openings, bytes.
#![no_main]

use std::ffi::OsString;
use std::sync::Arc;

use cottage::config::port;
use cottage::virtio::ports::Ports;
use cottage_fuzz::{Step, drive};

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| {
    let id = std::process::id();
    let words: Vec<OsString> = ["a", "b"]
        .map(|name| format!("{name}=/dev/shm/cottage-fuzz-{id}-{name}").into())
        .to_vec();
    let ports = port::parse_all(&words).expect("two ports");
    drive(
        Arc::new(Ports::open(&ports, |_| ()).expect("two sockets")),
        &steps,
    );
});
