//! The socket at PATH, and the rules for what stands there already.
//!
//! - Something that is no socket is not touched: the path is a mistake.
//! - A socket at which somebody listens belongs to a machine at work.
//! - A socket at which nobody listens was left behind by a machine that was killed. It is replaced.
//!
//! Only the user who started the machine may connect (mode 0600; chmod(1) changes that). The socket
//! goes with the machine, by whatever orderly way that ends, unless another file stands in its
//! place by then. Between the look at a socket that was left behind and its removal a second
//! machine for the same path, started in that instant, could lose its own.
//!
//! Sources: unix(7); Linux v6.12, net/unix/af_unix.c, unix_bind_bsd, for the mode.
//! Read next: [`super::host`].

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};

/// Connections that may wait to be accepted, while no driver is at work for example.
const BACKLOG: i32 = 64;

/// Why there is no socket at PATH; each of these is the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something else is there.
    #[error("Cannot use --vsock {0:?}: a file that is no socket is there; choose another path")]
    Occupied(PathBuf),
    /// Somebody listens there.
    #[error(
        "Cannot use --vsock {0:?}: a running program listens there, another machine perhaps; choose \
         another path"
    )]
    InUse(PathBuf),
    /// The host refuses.
    #[error("Cannot make the socket of --vsock {path:?}")]
    Host {
        /// Its path.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// A socket that listens at PATH.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<OwnedFd>,
    path: PathBuf,
    /// Device and inode of the file, by which it is known again.
    file: (u64, u64),
}

impl Listener {
    /// Makes the socket.
    ///
    /// # Errors
    /// [`Error`] with the path.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let host = |errno: Errno| Error::Host {
            path: path.to_owned(),
            source: errno.into(),
        };
        clear(path)?;
        let address = SocketAddrUnix::new(path).map_err(host)?;
        let socket = socket().map_err(host)?;
        // A socket's file is made with the mode of the socket.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(host)?;
        bind(&socket, &address).map_err(host)?;
        let file = identity(path).map_err(|source| Error::Host {
            path: path.to_owned(),
            source,
        })?;
        let listener = Self {
            socket: Arc::new(socket),
            path: path.to_owned(),
            file,
        };
        listen(&listener.socket, BACKLOG).map_err(host)?;
        Ok(listener)
    }

    /// The next program's socket, if one is there.
    ///
    /// # Errors
    /// When the host has no descriptor left, for example.
    pub fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        loop {
            match accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => return Ok(Some(socket)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The socket, for poll(2).
    pub fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Calls the program that listens for the guest's connections to `port`.
    ///
    /// # Errors
    /// When nobody does, or too many wait there already.
    pub fn call(&self, port: u32) -> Result<OwnedFd, Errno> {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        let address = SocketAddrUnix::new(Path::new(&path))?;
        let socket = socket()?;
        connect(&socket, &address)?;
        Ok(socket)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _gone_meanwhile = fs::remove_file(&self.path);
        }
    }
}

/// A socket that never waits.
fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Removes a socket that a dead machine left at `path`.
fn clear(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Host {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(Error::Occupied(path.to_owned())),
        Ok(_) => {}
    }
    let address = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
    let probe = socket().map_err(|e| failed(e.into()))?;
    match connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        // EAGAIN: so many wait there that no more can.
        Ok(()) | Err(Errno::AGAIN) => Err(Error::InUse(path.to_owned())),
        // A datagram socket, say, or one that is not ours to connect to.
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A path of a test's own.
    fn path() -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cottage-listener-{}-{number}", std::process::id());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn socket_is_the_users_alone_and_goes_with_its_listener() {
        let path = path();
        let listener = Listener::new(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let _client = UnixStream::connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_some());
        assert!(listener.accept().unwrap().is_none());
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn socket_that_nobody_listens_at_is_replaced() {
        let path = path();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let _listener = Listener::new(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn socket_of_a_running_machine_is_not_taken() {
        let path = path();
        let _first = Listener::new(&path).unwrap();
        let error = Listener::new(&path).unwrap_err();
        assert!(matches!(error, Error::InUse(_)), "{error}");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_listening_socket_is_left_alone() {
        let file = path();
        fs::write(&file, b"precious").unwrap();
        let error = Listener::new(&file).unwrap_err();
        assert!(matches!(error, Error::Occupied(_)), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        fs::remove_file(file).unwrap();
        let path = path();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(Listener::new(&path), Err(Error::Host { .. })));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn file_that_took_the_sockets_place_stays() {
        let path = path();
        let listener = Listener::new(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"another's").unwrap();
        drop(listener);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn call_reaches_who_listens_at_the_port_and_nobody_else() {
        let path = path();
        let listener = Listener::new(&path).unwrap();
        assert_eq!(listener.call(52).unwrap_err(), Errno::NOENT);
        let there = path.with_file_name(format!("{}_52", path.file_name().unwrap().display()));
        let server = UnixListener::bind(&there).unwrap();
        listener.call(52).unwrap();
        server.accept().unwrap();
        fs::remove_file(there).unwrap();
    }
}
