//! passt: a network without rights on the host.
//!
//! The program passt(1) is at the other end of a socket and makes the guest's connections as its
//! own, by ordinary system calls of the user's. It is started with the card and ends when the
//! socket is closed, however cottage ends. It also gives out addresses by DHCP.
//!
//! Source: passt(1). Read next: [`super::incoming`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::config::net::Forward;

/// Why there is no passt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not installed, or does not start.
    #[error("Cannot start passt for --net user{hint}")]
    Start {
        /// What may help, or empty.
        hint: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// No socket to reach it by.
    #[error("Cannot make a socket for --net user")]
    Socket(#[from] io::Error),
}

/// passt at work, and our end of the socket.
#[derive(Debug)]
pub struct Passt {
    socket: UnixStream,
    child: Option<Child>,
}

impl Passt {
    /// Starts passt with these ports forwarded.
    ///
    /// # Errors
    /// [`Error`] that names the package.
    pub fn start(forwards: &[Forward]) -> Result<Self, Error> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        // It must outlive exec. No other program is started meanwhile that could inherit it.
        fcntl_setfd(&theirs, FdFlags::empty()).map_err(io::Error::from)?;
        let child = Command::new("passt")
            .args(arguments(forwards, theirs.as_raw_fd()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Ctrl-C in a pipeline is cottage's business, and passt ends after it.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Start {
                hint: match source.kind() {
                    io::ErrorKind::NotFound => "; install the package passt: apt install passt",
                    _ => "",
                },
                source,
            })?;
        let child = Some(child);
        Ok(Self { socket, child })
    }

    /// Our end of `socket`, which waits for nothing, with a test at the other.
    #[cfg(any(test, fuzzing))]
    pub(super) fn played(socket: UnixStream) -> Self {
        let child = None;
        Self { socket, child }
    }
}

impl AsFd for Passt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It ends by itself when the socket is closed; this is for one that hangs.
            let _ended_already = child.kill();
            let _never_ours_to_report = child.wait();
        }
    }
}

fn arguments(forwards: &[Forward], socket: i32) -> Vec<String> {
    let mut words = ["--foreground", "--quiet", "--fd"]
        .map(str::to_owned)
        .to_vec();
    words.push(socket.to_string());
    for Forward { udp, host, guest } in forwards {
        let flag = if *udp { "--udp-ports" } else { "--tcp-ports" };
        words.extend([flag.to_owned(), format!("{host}:{guest}")]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_become_arguments() {
        let ports = |udp, host, guest| Forward { udp, host, guest };
        let words = arguments(&[ports(false, 8080, 80), ports(true, 53, 5353)], 7);
        assert_eq!(
            words.join(" "),
            "--foreground --quiet --fd 7 --tcp-ports 8080:80 --udp-ports 53:5353"
        );
    }
}
