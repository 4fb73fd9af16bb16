//! The host's end of a port: what is at its path.
//!
//! | at PATH | cottage | the guest's port is open |
//! |---|---|---|
//! | nothing | listens on a Unix socket, one connection at a time, and removes it at the end | while somebody is connected |
//! | a socket somebody listens on | connects to it | until the other side leaves, for good |
//! | a socket nobody listens on | takes it for one left behind, and listens in its place | |
//! | a file, a FIFO | writes there what the guest writes | always |
//!
//! Nothing here waits, save for the disk behind a file. A FIFO is opened for reading too, so that
//! it holds what is written while nobody reads.
//!
//! Source: unix(7), fifo(7). Read next: `super::line`.

use std::fs::{self, File, FileType};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};

use crate::config::port::Port;

/// Why a port cannot be; the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused.
    #[error("Cannot {what} for --port {name}={path:?}")]
    Host {
        /// What cottage wanted.
        what: &'static str,
        /// The port.
        name: String,
        /// Where.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// Something else is there.
    #[error(
        "Cannot use --port {name}={path:?}: it is neither a socket nor a file nor a FIFO; for a new \
         socket, name a path where nothing is"
    )]
    Kind {
        /// The port.
        name: String,
        /// Where.
        path: PathBuf,
    },
}

/// What came from the host.
#[derive(Debug)]
pub(super) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever again, over this connection.
    End,
}

/// The host's end.
#[derive(Debug)]
pub(super) struct Channel {
    /// Where connections are awaited.
    listener: Option<Listener>,
    /// The connection, or the file.
    stream: Option<Arc<OwnedFd>>,
    is_socket: bool,
}

/// A socket of our own; its file goes with it.
#[derive(Debug)]
struct Listener {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _removed_by_others = fs::remove_file(&self.path);
    }
}

impl Channel {
    /// Opens what is at `port`'s path, or makes it.
    pub(super) fn open(port: &Port) -> Result<Self, Error> {
        let host = |what| {
            move |source| Error::Host {
                what,
                name: port.name.clone(),
                path: port.path.clone(),
                source,
            }
        };
        let kind = match fs::metadata(&port.path) {
            Ok(metadata) => metadata.file_type(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return listen(&port.path).map_err(host("listen"));
            }
            Err(e) => return Err(host("look at what is there")(e)),
        };
        if kind.is_socket() {
            return connect_or_listen(&port.path).map_err(host("connect"));
        }
        if !kind.is_file() && !kind.is_fifo() {
            let (name, path) = (port.name.clone(), port.path.clone());
            return Err(Error::Kind { name, path });
        }
        let file = open_to_write(&port.path, kind).map_err(host("open it to write"))?;
        Ok(Self {
            listener: None,
            stream: Some(Arc::new(file.into())),
            is_socket: false,
        })
    }

    /// The connection or file, if there is one.
    pub(super) fn stream(&self) -> Option<&Arc<OwnedFd>> {
        self.stream.as_ref()
    }

    /// Where connections are awaited, if there can be one more.
    pub(super) fn listener(&self) -> Option<&Arc<OwnedFd>> {
        let listener = self.listener.as_ref().filter(|_| self.stream.is_none());
        listener.map(|listener| &listener.fd)
    }

    /// Whether anything can come from there.
    pub(super) fn is_socket(&self) -> bool {
        self.is_socket
    }

    /// Takes the connection that waits; false if it went away.
    pub(super) fn accept(&mut self) -> bool {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accepted = self.listener().map(|fd| accept_with(fd, flags));
        if let Some(Ok(stream)) = accepted {
            self.stream = Some(Arc::new(stream));
        }
        self.stream.is_some()
    }

    /// Ends the connection.
    pub(super) fn disconnect(&mut self) {
        self.stream = None;
    }

    /// Reads what came.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Received {
        let Some(stream) = self.stream.as_ref().filter(|_| self.is_socket) else {
            return Received::Nothing;
        };
        match rustix::io::read(stream, buffer) {
            Ok(0) => Received::End,
            Ok(count) => Received::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Err(_reset) => Received::End,
        }
    }

    /// Whether something came that was not read.
    pub(super) fn holds_bytes(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peek = |stream: &Arc<OwnedFd>| recv(stream, &mut [0_u8; 1], flags);
        let peeked = self.stream.as_ref().map(peek);
        peeked.is_some_and(|result| result.is_ok_and(|(_, count)| count > 0))
    }

    /// Writes a prefix of `bytes`, and returns its length; 0 means that no more is taken now.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(stream) = &self.stream else {
            return Ok(bytes.len());
        };
        match rustix::io::write(stream, bytes) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            other => Ok(other?),
        }
    }
}

fn listen(path: &Path) -> io::Result<Channel> {
    let socket = UnixListener::bind(path)?;
    socket.set_nonblocking(true)?;
    let listener = Listener {
        fd: Arc::new(OwnedFd::from(socket)),
        path: path.to_owned(),
    };
    Ok(Channel {
        listener: Some(listener),
        stream: None,
        is_socket: true,
    })
}

fn connect_or_listen(path: &Path) -> io::Result<Channel> {
    match UnixStream::connect(path) {
        Ok(stream) => {
            stream.set_nonblocking(true)?;
            Ok(Channel {
                listener: None,
                stream: Some(Arc::new(stream.into())),
                is_socket: true,
            })
        }
        // Whoever made it was killed.
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path)?;
            listen(path)
        }
        Err(e) => Err(e),
    }
}

fn open_to_write(path: &Path, kind: FileType) -> io::Result<File> {
    File::options()
        .append(true)
        .read(kind.is_fifo())
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}
