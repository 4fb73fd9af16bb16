//! Connections between this guest and its host, for a shell: `vsock`.
//!
//! ```text
//! vsock connect CID PORT           joins a connection with standard input and output
//! vsock listen PORT                takes one connection, and does the same
//! vsock listen PORT -- COMMAND     runs COMMAND for each connection, joined to it, for ever
//! ```
//!
//! The end of standard input ends one direction; the program ends when both have ended. The host
//! is context id 2. The kernel must have CONFIG_VIRTIO_VSOCKETS.
//!
//! Source: vsock(7).

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, read, write};
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, accept_with, bind, connect, listen, shutdown,
    socket_with,
};
use rustix::process::{Pid, Signal, WaitOptions, wait, waitpid};
use rustix::stdio::{dup2_stdin, dup2_stdout};

use crate::bare::{self, Fork, PointerList, Strings};
use crate::power::complain;
use crate::room::{self, VsockAddress};
use crate::supervise::signal_bit;

/// VMADDR_CID_ANY: this guest's, whichever that is.
const ANY_CID: u32 = u32::MAX;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// How long the other side has to answer. The kernel's own 2 seconds are short for a guest that is
/// emulated.
const CONNECT_SECONDS: i64 = 30;
/// Bytes moved at once.
const CHUNK: usize = 16 << 10; // 16 KiB
/// One more than the number of words in a command line for the shell.
const WORDS: usize = 256;

/// Runs as `vsock`; the status is that of the command.
pub fn command(mut arguments: Strings, environment: Strings) -> u8 {
    let result = match arguments.next() {
        Some(word) if word == c"connect" => {
            match (number(&mut arguments), number(&mut arguments)) {
                (Some(cid), Some(port)) if arguments.next().is_none() => call(cid, port),
                _ => return usage(),
            }
        }
        Some(word) if word == c"listen" => {
            let port = number(&mut arguments);
            match (port, arguments.next()) {
                (Some(port), None) => accept_one(port),
                (Some(port), Some(dashes)) if dashes == c"--" && { arguments }.next().is_some() => {
                    serve(port, arguments, environment)
                }
                _ => return usage(),
            }
        }
        _ => return usage(),
    };
    let reason: &[u8] = match result {
        Ok(status) => return status,
        Err(Errno::CONNRESET | Errno::CONNREFUSED) => b": nobody listens there\n",
        Err(Errno::TIMEDOUT) => b": no answer\n",
        Err(Errno::ADDRINUSE) => b": another program listens at this port\n",
        Err(Errno::ACCESS) => b": ports below 1024 are for root\n",
        Err(Errno::NODEV | Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
            b": there is no socket device, or no driver for it\n"
        }
        Err(_) => b": no connection\n",
    };
    complain(b"vsock", reason)
}

fn number(arguments: &mut Strings) -> Option<u32> {
    arguments.next()?.to_str().ok()?.parse().ok()
}

fn usage() -> u8 {
    complain(
        b"vsock",
        b": usage: vsock connect CID PORT, or vsock listen PORT [-- COMMAND...]\n",
    )
}

fn call(cid: u32, port: u32) -> Result<u8, Errno> {
    let socket = stream()?;
    room::set_connect_timeout(socket.as_fd(), CONNECT_SECONDS);
    connect(&socket, &VsockAddress::new(cid, port))?;
    join(&socket)
}

fn accept_one(port: u32) -> Result<u8, Errno> {
    let connection = accept(&listener(port)?)?;
    join(&connection)
}

/// Runs the command in `words` for each connection.
fn serve(port: u32, words: Strings, environment: Strings) -> Result<u8, Errno> {
    let listener = listener(port)?;
    loop {
        let connection = accept(&listener)?;
        // Those that have ended since the last connection.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        match bare::fork() {
            Fork::Parent(_) => {}
            Fork::Failed => return Err(Errno::NOMEM),
            Fork::Child => {
                let _ = dup2_stdin(&connection);
                let _ = dup2_stdout(&connection);
                bare::exit(execute(words, environment))
            }
        }
    }
}

/// Becomes the command, by way of the shell, which looks for it and says what is wrong.
fn execute(words: Strings, environment: Strings) -> u8 {
    let mut arguments = PointerList::<WORDS>::new();
    let shell = [c"sh", c"-c", c"exec \"$0\" \"$@\""];
    let mut variables = PointerList::<WORDS>::new();
    let all = shell.into_iter().chain(words).all(|w| arguments.push(w)) && { environment }
        .all(|variable| variables.push(variable));
    if !all {
        return complain(b"vsock", b": too many words\n");
    }
    bare::execve(c"/bin/sh", &arguments, &variables);
    complain(b"vsock", b": there is no /bin/sh\n")
}

fn stream() -> Result<OwnedFd, Errno> {
    let (family, kind) = (AddressFamily::VSOCK, SocketType::STREAM);
    socket_with(family, kind, SocketFlags::CLOEXEC, None)
}

fn listener(port: u32) -> Result<OwnedFd, Errno> {
    let socket = stream()?;
    bind(&socket, &VsockAddress::new(ANY_CID, port))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn accept(listener: &OwnedFd) -> Result<OwnedFd, Errno> {
    loop {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            // Gone before it was accepted.
            Err(Errno::INTR | Errno::CONNABORTED | Errno::CONNRESET) => {}
            result => return result,
        }
    }
}

/// Moves bytes both ways: a process for each, so that neither waits for the other.
fn join(socket: &OwnedFd) -> Result<u8, Errno> {
    // A write that nobody will read must fail, not kill.
    bare::block_signals(signal_bit(Signal::PIPE));
    let reader = match bare::fork() {
        Fork::Failed => return Err(Errno::NOMEM),
        Fork::Child => bare::exit(u8::from(!copy(socket, bare::output()))),
        Fork::Parent(reader) => Pid::from_raw(reader),
    };
    let sent = copy(bare::input(), socket);
    let _ = shutdown(socket, Shutdown::Write);
    let received = loop {
        match waitpid(reader, WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(Some((_, status))) => break status.exit_status() == Some(0),
            _ => break false,
        }
    };
    Ok(u8::from(!(sent && received)))
}

/// Moves bytes until the end; false if that came too early.
fn copy(from: impl AsFd, to: impl AsFd) -> bool {
    let mut buffer = [0; CHUNK];
    loop {
        let count = match read(&from, &mut buffer[..]) {
            Ok(0) => return true,
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(_) => return false,
        };
        let mut data = buffer.get(..count).unwrap_or_default();
        while !data.is_empty() {
            match write(&to, data) {
                Ok(count) => data = data.get(count..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}
