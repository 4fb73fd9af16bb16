//! A lock on a disk image, so that two machines cannot write it at once.
//!
//! "Open file description" locks: they belong to the open file and not, as POSIX's do, to the
//! process, so one image cannot be given to one machine twice either. The lock covers every byte,
//! so a writer also excludes QEMU, which locks single bytes of an image, and is excluded by it. A
//! reader does not notice a QEMU that writes: both locks are shared ones. The lock is gone when
//! the file is closed, however the process ended.
//!
//! Locks are advice: `cp` and `mkfs` do not ask.
//!
//! Source: fcntl_locking(2), "Open file description locks".
//! Read next: [`crate::virtio::net`].
#![expect(unsafe_code, reason = "F_OFD_SETLK has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Takes the lock on `file`, shared with other readers or for a writer alone, without waiting.
///
/// # Errors
/// `WouldBlock` if somebody holds a lock that excludes this one; else what the host says.
pub fn take(file: &File, alone: bool) -> io::Result<()> {
    let kind = if alone { libc::F_WRLCK } else { libc::F_RDLCK };
    let word = |value| i16::try_from(value).map_err(io::Error::other);
    let lock = libc::flock {
        l_type: word(kind)?,
        l_whence: word(libc::SEEK_SET)?,
        l_start: 0,
        l_len: 0, // to the end, wherever that will be
        l_pid: 0, // as the manual demands
    };
    // SAFETY: the call reads one struct flock at the address, which outlives it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
