//! Where gdb comes to, and the line to it.
//!
//! A port is 127.0.0.1's: whoever speaks to a debugger owns the machine, and other machines must not. A
//! Unix socket is the user's alone, by the same rules as a vsock device's.
//! Read next: [`super::filter`].

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gdbstub::conn::Connection;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::config::gdb::Place;
use crate::virtio::vsock::listener;

/// A gdb that takes nothing for so long is gone.
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Why gdb cannot come; the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something else is at PATH.
    #[error("Cannot use --gdb {0:?}: a file that is no socket is there; choose another path")]
    Occupied(PathBuf),
    /// Somebody listens at PATH.
    #[error(
        "Cannot use --gdb {0:?}: a running program listens there, another machine perhaps; choose another \
         path"
    )]
    InUse(PathBuf),
    /// The host refuses the socket.
    #[error("Cannot make the socket of --gdb {path:?}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The host refuses the port.
    #[error("Cannot listen at port {port} (--gdb); 0 takes any that is free")]
    Port {
        /// As asked for.
        port: u16,
        /// What the host said.
        source: io::Error,
    },
}

/// A place that is open.
#[derive(Debug)]
pub enum Door {
    /// A port.
    Port(TcpListener),
    /// A socket, removed with the value.
    Path(listener::Listener, PathBuf),
}

impl Door {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error`] with the place.
    pub fn open(place: &Place) -> Result<Self, Error> {
        match place {
            Place::Port(port) => listen(*port).map(Self::Port).map_err(|source| Error::Port {
                port: *port,
                source,
            }),
            Place::Path(path) => socket(path).map(|socket| Self::Path(socket, path.clone())),
        }
    }

    /// What gdb's `target remote` takes.
    pub fn name(&self) -> String {
        match self {
            Self::Port(listener) => match listener.local_addr() {
                Ok(address) => format!("localhost:{}", address.port()),
                Err(_) => "localhost".to_owned(),
            },
            Self::Path(_, path) => path.display().to_string(),
        }
    }

    /// Who stands there, if anybody does.
    pub fn accept(&self) -> Option<Line> {
        let socket = match self {
            // gdb sends small packets and waits: without delay, or each would take 40 ms.
            Self::Port(listener) => {
                let (stream, _) = listener.accept().ok()?;
                stream.set_nodelay(true).ok()?;
                stream.set_nonblocking(true).ok()?;
                stream.into()
            }
            Self::Path(listener, _) => listener.accept().ok()??,
        };
        Some(Line {
            socket,
            waiting: VecDeque::new(),
        })
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Port(listener) => listener.as_fd(),
            Self::Path(listener, _) => listener.as_fd(),
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn socket(path: &Path) -> Result<listener::Listener, Error> {
    listener::Listener::new(path).map_err(|error| match error {
        listener::Error::Occupied(path) => Error::Occupied(path),
        listener::Error::InUse(path) => Error::InUse(path),
        listener::Error::Host { path, source } => Error::Socket { path, source },
    })
}

/// A connection to one gdb.
#[derive(Debug)]
pub struct Line {
    socket: OwnedFd,
    waiting: VecDeque<u8>,
}

impl Line {
    /// What has come; `None` when gdb is gone.
    pub fn read(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 4096];
        match rustix::io::read(&self.socket, &mut bytes) {
            Ok(0) => None,
            Ok(n) => {
                bytes.truncate(n);
                Some(bytes)
            }
            Err(Errno::AGAIN | Errno::INTR) => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// A second descriptor, for poll(2) while the line belongs to the protocol.
    ///
    /// # Errors
    /// When the process has none left.
    pub fn second(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Reads from a descriptor of [`Line::second`].
    pub fn on(socket: OwnedFd) -> Self {
        Self {
            socket,
            waiting: VecDeque::new(),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            match rustix::io::write(&self.socket, self.waiting.as_slices().0) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
                    if poll(&mut fds, Some(&PATIENCE))? == 0 {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection for Line {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.waiting.push_back(byte);
        // An acknowledgement must not wait for the answer: to `continue` that may be hours.
        match self.waiting.len() == 1 && byte == b'+' {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
