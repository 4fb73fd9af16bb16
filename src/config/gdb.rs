//! `--gdb PORT|PATH[,nowait]`: from words to a place where gdb may come.
//!
//! What is done there: [`crate::gdb`].
//! Read next: [`crate::outcome`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Behind the place: the machine does not wait for gdb.
const NOWAIT: &[u8] = b",nowait";

/// A mistake in the value of `--gdb`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing there.
    #[error(
        "--gdb {0:?} is no place: give a port, 0 for any, such as --gdb 1234, or the path of a socket to be \
         made, such as --gdb /tmp/gdb.sock; behind either, `,nowait` has the guest start without gdb"
    )]
    NoPlace(OsString),
    /// A number, and none of a port.
    #[error("--gdb {0}: a port is 0 to 65535; a socket whose name is a number is written ./{0}")]
    NoPort(String),
    /// Another word behind a comma.
    #[error("--gdb {value:?}: {word:?} is no option; there is one, nowait")]
    NoOption {
        /// All of it.
        value: OsString,
        /// What stands behind the last comma.
        word: String,
    },
}

/// Where gdb may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A TCP port of this machine's own; 0: any.
    Port(u16),
    /// A Unix socket.
    Path(PathBuf),
}

/// The value of `--gdb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gdb {
    /// Where.
    pub place: Place,
    /// Whether the machine waits before the guest's first instruction.
    pub wait: bool,
}

impl Gdb {
    /// Takes the value of the flag apart.
    ///
    /// # Errors
    /// [`Error`] with the value and what is accepted.
    pub fn parse(value: &OsStr) -> Result<Self, Error> {
        let all = value.as_bytes();
        let place = all.strip_suffix(NOWAIT);
        let (place, wait) = (place.unwrap_or(all), place.is_none());
        if place.is_empty() {
            return Err(Error::NoPlace(value.to_owned()));
        }
        let digits = place.iter().all(u8::is_ascii_digit);
        if let (true, Ok(text)) = (digits, std::str::from_utf8(place)) {
            let port = text.parse().map_err(|_large| Error::NoPort(text.into()))?;
            let place = Place::Port(port);
            return Ok(Self { place, wait });
        }
        // A path may have commas, but not as the beginning of what was meant as an option.
        let last = place.rsplit(|byte| *byte == b',').next();
        if let Some(word) = last.filter(|word| word.len() < place.len() && !word.contains(&b'/')) {
            return Err(Error::NoOption {
                value: value.to_owned(),
                word: String::from_utf8_lossy(word).into_owned(),
            });
        }
        let place = Place::Path(PathBuf::from(OsString::from_vec(place.to_vec())));
        Ok(Self { place, wait })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<(Place, bool), String> {
        let gdb = Gdb::parse(OsStr::new(value));
        gdb.map(|gdb| (gdb.place, gdb.wait))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_number_is_a_port_and_all_else_a_path() {
        assert_eq!(parse("1234"), Ok((Place::Port(1234), true)));
        assert_eq!(parse("0,nowait"), Ok((Place::Port(0), false)));
        assert_eq!(parse("/a,b/c"), Ok((Place::Path("/a,b/c".into()), true)));
        assert_eq!(parse("./1,nowait"), Ok((Place::Path("./1".into()), false)));
    }

    #[test]
    fn mistakes_are_told_with_what_is_accepted() {
        for (value, told) in [
            ("", "no place"),
            (",nowait", "no place"),
            ("65536", "0 to 65535"),
            ("1234,wait", "\"wait\" is no option; there is one, nowait"),
            ("/tmp/s,nowiat", "\"nowiat\" is no option"),
        ] {
            let error = parse(value).unwrap_err();
            assert!(error.contains(told), "{value}: {error}");
        }
    }
}
