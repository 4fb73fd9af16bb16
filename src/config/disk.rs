//! `--disk FILE[,ro|,overlay][,serial=TEXT][,id=NAME]`: from words to a disk.
//!
//! The file's name comes first; a comma in it is written twice. That the file exists and is an
//! image is found out by [`crate::virtio::blk`].
//! Read next: [`super::net`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A serial number is as long as the answer to VIRTIO_BLK_T_GET_ID. `[virtio]` 5.2.6
pub const MAX_SERIAL: usize = 20;

/// A mistake in the value of `--disk`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No file's name.
    #[error("--disk {0:?} names no file: give FILE[,ro|,overlay][,serial=TEXT][,id=NAME]")]
    NoFile(OsString),
    /// An option that does not exist.
    #[error(
        "--disk {value:?} has the option {option:?}: there are ro, overlay, serial=TEXT and \
         id=NAME; a comma in the file's name is written twice"
    )]
    Option {
        /// What was given.
        value: OsString,
        /// What is no option.
        option: OsString,
    },
    /// An option that is there twice.
    #[error("--disk {value:?} has the option {option} twice")]
    Twice {
        /// What was given.
        value: OsString,
        /// The option.
        option: &'static str,
    },
    /// Two options of which one makes the other pointless.
    #[error(
        "--disk {0:?} is both ro and overlay: what the guest writes is refused, or thrown away"
    )]
    Both(OsString),
    /// A text that a guest could not be told.
    #[error(
        "--disk {value:?}: {option} takes 1 to {MAX_SERIAL} letters, digits, dots, dashes and \
         underscores, not {text:?}"
    )]
    Text {
        /// What was given.
        value: OsString,
        /// `serial` or `id`.
        option: &'static str,
        /// Its text.
        text: OsString,
    },
    /// Two disks of one name.
    #[error(
        "--disk: two disks have the id {0:?}; by default a disk is called disk and its number, from 0"
    )]
    SameId(String),
}

/// What becomes of what a guest writes to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It goes to the image.
    Write,
    /// It is refused.
    ReadOnly,
    /// It goes to a layer that is gone when the machine is.
    Overlay,
}

/// A disk to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The raw image or block device.
    pub path: PathBuf,
    /// What becomes of the guest's writes.
    pub access: Access,
    /// What cottage calls it.
    pub id: String,
    /// What the guest finds as its serial number; the id, unless chosen.
    pub serial: String,
}

/// The root's disk, if it is one, and the disks of all `--disk` flags, in their order.
///
/// # Errors
/// [`Error`] with the value and what is accepted.
pub fn parse_all(root: Option<Disk>, values: &[OsString]) -> Result<Vec<Disk>, Error> {
    let mut disks: Vec<Disk> = root.into_iter().collect();
    for (number, value) in values.iter().enumerate() {
        let disk = parse(value, number)?;
        if disks.iter().any(|other| other.id == disk.id) {
            return Err(Error::SameId(disk.id));
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn parse(value: &OsStr, number: usize) -> Result<Disk, Error> {
    let mut words = split(value).into_iter();
    let path = words.next().filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| Error::NoFile(value.to_owned()))?;
    let (mut access, mut id, mut serial) = (Access::Write, None, None);
    let twice = |option| Error::Twice {
        value: value.to_owned(),
        option,
    };
    for word in words {
        let wanted = match word.as_bytes() {
            b"ro" => Some(Access::ReadOnly),
            b"overlay" => Some(Access::Overlay),
            _ => None,
        };
        if let Some(wanted) = wanted {
            match access {
                Access::Write => access = wanted,
                Access::ReadOnly if wanted == access => return Err(twice("ro")),
                Access::Overlay if wanted == access => return Err(twice("overlay")),
                _ => return Err(Error::Both(value.to_owned())),
            }
        } else if let Some(given) = word.as_bytes().strip_prefix(b"serial=") {
            if serial.replace(text(value, "serial", given)?).is_some() {
                return Err(twice("serial"));
            }
        } else if let Some(given) = word.as_bytes().strip_prefix(b"id=") {
            if id.replace(text(value, "id", given)?).is_some() {
                return Err(twice("id"));
            }
        } else {
            return Err(Error::Option {
                value: value.to_owned(),
                option: word,
            });
        }
    }
    let id = id.unwrap_or_else(|| format!("disk{number}"));
    Ok(Disk {
        path: path.into(),
        access,
        serial: serial.unwrap_or_else(|| id.clone()),
        id,
    })
}

/// Splits at single commas; two are one that belongs to the word.
pub(super) fn split(value: &OsStr) -> Vec<OsString> {
    let mut words = vec![Vec::new()];
    let mut bytes = value.as_bytes().iter().peekable();
    while let Some(byte) = bytes.next() {
        if *byte == b',' && bytes.next_if(|next| **next == b',').is_none() {
            words.push(Vec::new());
        } else if let Some(word) = words.last_mut() {
            word.push(*byte);
        }
    }
    words.into_iter().map(OsString::from_vec).collect()
}

/// What udev and shells take without quoting.
fn text(value: &OsStr, option: &'static str, given: &[u8]) -> Result<String, Error> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let fits = (1..=MAX_SERIAL).contains(&given.len()) && given.iter().all(plain);
    match str::from_utf8(given) {
        Ok(text) if fits => Ok(text.to_owned()),
        _ => Err(Error::Text {
            value: value.to_owned(),
            option,
            text: OsString::from_vec(given.to_vec()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(values: &[&str]) -> Result<Vec<Disk>, Error> {
        let values: Vec<_> = values.iter().map(OsString::from).collect();
        parse_all(None, &values)
    }

    fn refusal(values: &[&str]) -> String {
        disks(values).unwrap_err().to_string()
    }

    #[test]
    fn file_alone_is_a_writable_disk_with_a_number() {
        let all = disks(&["/a b.img", "c"]).unwrap();
        let c = Disk {
            path: "c".into(),
            access: Access::Write,
            id: "disk1".into(),
            serial: "disk1".into(),
        };
        assert_eq!(all[0].path.to_str(), Some("/a b.img"));
        assert_eq!(all[1], c);
    }

    #[test]
    fn options_come_in_any_order() {
        let all = disks(&["a,serial=S-1.x,ro,id=root", "b,id=data,overlay"]).unwrap();
        let access = [all[0].access, all[1].access];
        assert_eq!(access, [Access::ReadOnly, Access::Overlay]);
        assert_eq!((&*all[0].id, &*all[0].serial), ("root", "S-1.x"));
        assert_eq!(all[1].serial, "data", "the id, unless chosen");
    }

    #[test]
    fn comma_in_a_name_is_written_twice() {
        let all = disks(&["a,,ro,,,ro"]).unwrap();
        assert_eq!(all[0].path.to_str(), Some("a,ro,"));
        assert_eq!(all[0].access, Access::ReadOnly);
    }

    #[test]
    fn missing_file_is_refused() {
        let text = "--disk \",ro\" names no file: give FILE[,ro|,overlay][,serial=TEXT][,id=NAME]";
        assert_eq!(refusal(&[",ro"]), text);
    }

    #[test]
    fn unknown_option_names_those_there_are() {
        let text = refusal(&["a.img,readonly"]);
        assert!(text.contains("\"readonly\": there are ro, overlay, serial=TEXT and id=NAME"));
        assert!(refusal(&["a.img,"]).contains("the option \"\""));
    }

    #[test]
    fn option_given_twice_is_refused() {
        assert!(refusal(&["a,ro,ro"]).ends_with("has the option ro twice"));
        assert!(refusal(&["a,overlay,overlay"]).ends_with("has the option overlay twice"));
        assert!(refusal(&["a,overlay,ro"]).contains("both ro and overlay"));
        assert!(refusal(&["a,id=b,id=b"]).ends_with("has the option id twice"));
    }

    #[test]
    fn text_that_is_too_long_or_strange_is_refused() {
        assert!(disks(&["a,serial=01234567890123456789"]).is_ok());
        let text = refusal(&["a,serial=012345678901234567890"]);
        assert!(text.contains("serial takes 1 to 20 letters"), "{text}");
        assert!(refusal(&["a,id="]).contains("id takes 1 to 20"));
        assert!(refusal(&["a,id=x y"]).contains("not \"x y\""));
    }

    #[test]
    fn two_disks_of_one_name_are_refused() {
        assert!(refusal(&["a", "b,id=disk0"]).contains("two disks have the id \"disk0\""));
        let root = disks(&["a,id=root"]).unwrap().pop();
        let error = parse_all(root, &["b,id=root".into()]).unwrap_err();
        assert_eq!(error, Error::SameId("root".into()));
    }
}
