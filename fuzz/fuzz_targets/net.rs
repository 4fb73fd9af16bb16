//! Frames from a driver, and bytes from the other end of the cable, which is not trusted either.
#![no_main]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use cottage::virtio::net::Card;
use cottage_fuzz::{Step, drive};

libfuzzer_sys::fuzz_target!(|input: (Vec<u8>, Vec<Step>)| {
    let (incoming, steps) = input;
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    theirs.set_nonblocking(true).expect("a socket");
    let _more_than_a_socket_holds = theirs.write(&incoming);
    ours.set_nonblocking(true).expect("a socket");
    drive(Arc::new(Card::played(ours).expect("a card")), &steps);
});
