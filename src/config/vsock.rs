//! `--vsock PATH[,cid=N]`: from words to a socket device.
//!
//! PATH comes first; a comma in it is written twice. What stands at PATH is looked at by
//! [`crate::virtio::vsock`].
//! Read next: [`super::port`].

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::disk::split;

/// Context ids that a guest can have. Below are the hypervisor's, the local one and the host's,
/// above is "any". `[virtio]` 5.10.4
pub const CIDS: RangeInclusive<u32> = 3..=u32::MAX - 1;
/// The smallest of them, as everybody else's guests have it. It need not be unique: no two guests
/// are behind one PATH.
const DEFAULT_CID: u32 = 3;
/// Longest PATH: that of the guest's connections, PATH_4294967295, must fit into an address with
/// its NUL. Source: unix(7), `sun_path`.
const MAX_PATH: usize = 108 - 1 - "_4294967295".len();

/// A mistake in the value of `--vsock`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No path.
    #[error("--vsock {0:?} names no socket: give PATH[,cid=N]")]
    NoPath(OsString),
    /// A path that does not fit.
    #[error(
        "--vsock {path:?} is {len} bytes long: a socket's path has room for {MAX_PATH}, and _PORT \
         behind it; use a shorter directory, or one relative to where you are"
    )]
    LongPath {
        /// What was given.
        path: OsString,
        /// Its length.
        len: usize,
    },
    /// An option that does not exist.
    #[error(
        "--vsock {value:?} has the option {option:?}: there is cid=N; a comma in PATH is written twice"
    )]
    Option {
        /// What was given.
        value: OsString,
        /// What is no option.
        option: OsString,
    },
    /// An option that is there twice.
    #[error("--vsock {0:?} has the option cid twice")]
    Twice(OsString),
    /// No context id.
    #[error(
        "--vsock {value:?}: cid takes a number from {} to {}, not {text:?}", CIDS.start(), CIDS.end()
    )]
    Cid {
        /// What was given.
        value: OsString,
        /// What stands for the number.
        text: OsString,
    },
}

/// A socket device to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vsock {
    /// The socket that the host's programs connect to; with `_PORT`, one that the guest's do.
    pub path: PathBuf,
    /// The guest's context id.
    pub cid: u32,
}

/// The device of `--vsock`.
///
/// # Errors
/// [`Error`] with the value and what is accepted.
pub fn parse(value: &OsStr) -> Result<Vsock, Error> {
    let mut words = split(value).into_iter();
    let path = words.next().filter(|path| !path.is_empty());
    // An address ends at a NUL; no argument of a program has one.
    let path = path.ok_or_else(|| Error::NoPath(value.to_owned()))?;
    let len = path.len();
    if len > MAX_PATH {
        return Err(Error::LongPath { path, len });
    }
    let mut cid = None;
    for word in words {
        let Some(text) = word.as_bytes().strip_prefix(b"cid=") else {
            return Err(Error::Option {
                value: value.to_owned(),
                option: word,
            });
        };
        let number = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        let number = number.filter(|number| CIDS.contains(number));
        let number = number.ok_or_else(|| Error::Cid {
            value: value.to_owned(),
            text: OsStr::from_bytes(text).to_owned(),
        })?;
        if cid.replace(number).is_some() {
            return Err(Error::Twice(value.to_owned()));
        }
    }
    Ok(Vsock {
        path: path.into(),
        cid: cid.unwrap_or(DEFAULT_CID),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vsock(value: &str) -> Result<Vsock, Error> {
        parse(OsStr::new(value))
    }

    fn refusal(value: &str) -> String {
        vsock(value).unwrap_err().to_string()
    }

    #[test]
    fn path_alone_is_a_guest_with_cid_3() {
        let (path, cid) = (PathBuf::from("v.sock"), 3);
        assert_eq!(vsock("v.sock"), Ok(Vsock { path, cid }));
    }

    #[test]
    fn cid_is_what_was_given() {
        assert_eq!(vsock("a,cid=52").unwrap().cid, 52);
        assert_eq!(vsock("a,cid=4294967294").unwrap().cid, u32::MAX - 1);
    }

    #[test]
    fn comma_in_a_path_is_written_twice() {
        assert_eq!(vsock("a,,b").unwrap().path.to_str(), Some("a,b"));
    }

    #[test]
    fn reserved_cids_and_no_numbers_are_refused() {
        let text = "--vsock \"a,cid=2\": cid takes a number from 3 to 4294967294, not \"2\"";
        assert_eq!(refusal("a,cid=2"), text);
        assert!(refusal("a,cid=4294967295").ends_with("not \"4294967295\""));
        assert!(refusal("a,cid=").ends_with("not \"\""));
        assert!(refusal("a,cid=x").ends_with("not \"x\""));
    }

    #[test]
    fn options_that_are_unknown_or_twice_are_refused() {
        assert!(refusal("a,uds=b").contains("has the option \"uds=b\": there is cid=N"));
        assert!(refusal("a,cid=3,cid=4").ends_with("has the option cid twice"));
    }

    #[test]
    fn path_must_be_there_and_leave_room_for_a_port() {
        assert!(refusal(",cid=4").contains("names no socket: give PATH[,cid=N]"));
        assert!(vsock(&"p".repeat(96)).is_ok());
        assert!(
            refusal(&"p".repeat(97)).contains("is 97 bytes long: a socket's path has room for 96")
        );
    }
}
