//! `probe echo`: sends back what comes, one connection after the other, until a signal ends it.

use core::ffi::CStr;
use core::net::{Ipv4Addr, SocketAddrV4};

use rustix::fd::OwnedFd;
use rustix::io::{Errno, read};
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketFlags, SocketType, acceptfrom_with, bind, listen,
    socket_with, sockopt,
};
use rustix::process::Signal;

use crate::bare;
use crate::hold::bit;
use crate::say;

/// Says READY when it listens, and serves; `None` if the word is no address.
pub fn echo(word: Option<&CStr>) -> Option<u8> {
    let address = address(word?.to_str().ok()?)?;
    // A peer that goes away is no reason to end.
    bare::block_signals(bit(Signal::PIPE));
    let Err(reason) = serve(address);
    Some(say::failed("echo", reason))
}

/// `PORT`, on all addresses, or `ADDRESS:PORT`.
fn address(word: &str) -> Option<SocketAddrV4> {
    let everywhere = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    word.parse().map(everywhere).or_else(|_| word.parse()).ok()
}

fn serve(address: SocketAddrV4) -> Result<core::convert::Infallible, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    bind(&listener, &address)?;
    listen(&listener, 16)?;
    say::write_all(bare::output(), b"READY\n");
    loop {
        match acceptfrom_with(&listener, flags) {
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(reason) => return Err(reason),
            // A port that is open to everybody answers those near only.
            Ok((_, peer)) if !is_near(peer.as_ref()) => {}
            Ok((connection, _)) => {
                sockopt::set_tcp_nodelay(&connection, true)?;
                answer(&connection);
            }
        }
    }
}

/// Whether somebody is on this machine or in a network that is not the world's.
fn is_near(peer: Option<&SocketAddrAny>) -> bool {
    peer.and_then(|peer| SocketAddrV4::try_from(peer.clone()).ok())
        .is_some_and(|peer| peer.ip().is_loopback() || peer.ip().is_private())
}

/// Answers one connection to its end. Nothing but these two calls for each round trip: they are what
/// is measured.
fn answer(connection: &OwnedFd) {
    let mut buffer = [0; 4096];
    loop {
        match read(connection, &mut buffer[..]) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return,
            Ok(count) => say::write_all(connection, buffer.get(..count).unwrap_or_default()),
        }
    }
}
