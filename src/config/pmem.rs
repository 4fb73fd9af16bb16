//! `--pmem FILE[,ro|,rw]`: from words to persistent memory.
//!
//! The file's name comes first; a comma in it is written twice. That it is a file, and how long,
//! is found out by [`crate::memory::mapped`].
//! Read next: [`super::rootfs`].

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::disk::split;

/// What `--pmem` takes.
pub const SYNTAX: &str = "FILE[,ro|,rw]";

/// A mistake in the value of `--pmem`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No file's name.
    #[error("--pmem {0:?} names no file: give {SYNTAX}")]
    NoFile(OsString),
    /// An option that does not exist.
    #[error(
        "--pmem {value:?} has the option {option:?}: there are ro, which is the default, and rw; a \
         comma in the file's name is written twice"
    )]
    Option {
        /// What was given.
        value: OsString,
        /// What is no option.
        option: OsString,
    },
    /// More than one of them.
    #[error("--pmem {0:?} has more than one of the options ro and rw")]
    Several(OsString),
}

/// A file to map into the guest's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pmem {
    /// The file.
    pub path: PathBuf,
    /// Whether what the guest writes goes to the file; otherwise it can write nothing.
    pub writable: bool,
}

/// The files of all `--pmem` flags, in their order.
///
/// # Errors
/// [`Error`] with the value and what is accepted.
pub fn parse_all(values: &[OsString]) -> Result<Vec<Pmem>, Error> {
    values.iter().map(|value| parse(value)).collect()
}

fn parse(value: &OsStr) -> Result<Pmem, Error> {
    let mut words = split(value).into_iter();
    let path = words.next().filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| Error::NoFile(value.to_owned()))?;
    let mut writable = None;
    for word in words {
        let wanted = match word.to_str() {
            Some("ro") => false,
            Some("rw") => true,
            _ => {
                return Err(Error::Option {
                    value: value.to_owned(),
                    option: word,
                });
            }
        };
        if writable.replace(wanted).is_some() {
            return Err(Error::Several(value.to_owned()));
        }
    }
    Ok(Pmem {
        path: path.into(),
        writable: writable.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(value: &str) -> String {
        parse(value.as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn file_is_read_only_unless_told_otherwise() {
        let values = ["a", "b,ro", "c,,d,rw"].map(OsString::from);
        let all = parse_all(&values).unwrap();
        let writable: Vec<_> = all.iter().map(|pmem| pmem.writable).collect();
        assert_eq!(writable, [false, false, true]);
        assert_eq!(all[2].path.to_str(), Some("c,d"));
    }

    #[test]
    fn mistakes_name_what_there_is() {
        assert!(refusal("").contains("names no file: give FILE[,ro|,rw]"));
        assert!(refusal("a,overlay").contains("\"overlay\": there are ro, which is"));
        assert!(refusal("a,ro,ro").contains("more than one of the options"));
        assert!(refusal("a,ro,rw").contains("more than one of the options"));
    }
}
