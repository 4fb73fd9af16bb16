//! `--disk FILE[,OPTION...]`: from words to a disk.
//!
//! The file's name comes first; a comma in it is written twice. That the file exists and is an
//! image is found out by [`crate::virtio::blk`].
//!
//! **Which format a file has** is nobody's guess. What a guest writes to a raw disk is the file's
//! content, so a guest could write a qcow2 header into its first sector, with the name of any file
//! of the host's as the one it builds on; a VMM that went by content would hand that file to the
//! guest at the next start (CVE-2008-2004 of QEMU's). So name and content must agree: a file is
//! taken for qcow2 if its name ends so *and* its content begins so, and one of which only one is
//! true is refused until `format=` says what it is.
//! Read next: [`super::net`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A serial number is as long as the answer to VIRTIO_BLK_T_GET_ID. `[virtio]` 5.2.6
pub const MAX_SERIAL: usize = 20;

/// The options, as messages name them.
const OPTIONS: &str = "ro, overlay, overlay=FILE, format=raw, format=qcow2, backing=any, \
                       serial=TEXT and id=NAME";

/// A mistake in the value of `--disk`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No file's name.
    #[error("--disk {0:?} names no file: give FILE[,OPTION...], with the options {OPTIONS}")]
    NoFile(OsString),
    /// An option that does not exist.
    #[error(
        "--disk {value:?} has the option {option:?}: there are {OPTIONS}; a comma in a file's \
         name is written twice"
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It goes to the image.
    Write,
    /// It is refused.
    ReadOnly,
    /// It goes to a layer that is gone when the machine is.
    Overlay,
    /// It goes to a layer in this file, which is made if it is missing.
    Layer(PathBuf),
}

/// What the bytes of a file mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// They are the disk's.
    Raw,
    /// Tables say which are the disk's.
    Qcow2,
}

impl Format {
    /// What the name of a file promises.
    pub fn of_name(path: &Path) -> Self {
        let qcow2 = path
            .extension()
            .is_some_and(|end| end.eq_ignore_ascii_case("qcow2"));
        if qcow2 { Self::Qcow2 } else { Self::Raw }
    }
}

/// A disk to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The image or block device.
    pub path: PathBuf,
    /// What its bytes mean, if that was said.
    pub format: Option<Format>,
    /// The files that an image builds on may stand anywhere, not only beside it.
    pub backing_anywhere: bool,
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
    let mut options = Options::default();
    for word in words {
        options.take(value, word)?;
    }
    let id = options.id.unwrap_or_else(|| format!("disk{number}"));
    Ok(Disk {
        path: path.into(),
        format: options.format,
        backing_anywhere: options.backing.is_some(),
        access: options.access.unwrap_or(Access::Write),
        serial: options.serial.unwrap_or_else(|| id.clone()),
        id,
    })
}

/// What stands behind the file's name.
#[derive(Default)]
struct Options {
    access: Option<Access>,
    format: Option<Format>,
    backing: Option<()>,
    id: Option<String>,
    serial: Option<String>,
}

impl Options {
    fn take(&mut self, value: &OsStr, word: OsString) -> Result<(), Error> {
        let bytes = word.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=');
        let (name, given) = match end {
            Some(at) => (bytes.get(..at), bytes.get(at + 1..)),
            None => (Some(bytes), None),
        };
        let twice = match (name.unwrap_or(bytes), given) {
            (b"ro", None) => return self.access(value, "ro", Access::ReadOnly),
            (b"overlay", None) => return self.access(value, "overlay", Access::Overlay),
            (b"overlay", Some(file)) if !file.is_empty() => {
                let file = PathBuf::from(OsString::from_vec(file.to_vec()));
                return self.access(value, "overlay", Access::Layer(file));
            }
            (b"format", Some(b"raw")) => set(&mut self.format, Format::Raw, "format"),
            (b"format", Some(b"qcow2")) => set(&mut self.format, Format::Qcow2, "format"),
            (b"backing", Some(b"any")) => set(&mut self.backing, (), "backing"),
            (b"serial", Some(given)) => {
                set(&mut self.serial, text(value, "serial", given)?, "serial")
            }
            (b"id", Some(given)) => set(&mut self.id, text(value, "id", given)?, "id"),
            _ => {
                return Err(Error::Option {
                    value: value.to_owned(),
                    option: word,
                });
            }
        };
        twice.map_err(|option| Error::Twice {
            value: value.to_owned(),
            option,
        })
    }

    fn access(&mut self, value: &OsStr, option: &'static str, to: Access) -> Result<(), Error> {
        let value = value.to_owned();
        match self.access.replace(to) {
            None => Ok(()),
            Some(was) if (was == Access::ReadOnly) == (option == "ro") => {
                Err(Error::Twice { value, option })
            }
            Some(_) => Err(Error::Both(value)),
        }
    }
}

/// Sets an option that may be there once; else says which was there twice.
fn set<T>(option: &mut Option<T>, to: T, name: &'static str) -> Result<(), &'static str> {
    match option.replace(to) {
        None => Ok(()),
        Some(_) => Err(name),
    }
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
            format: None,
            backing_anywhere: false,
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
        let access = [&all[0].access, &all[1].access];
        assert_eq!(access, [&Access::ReadOnly, &Access::Overlay]);
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
        let text = "--disk \",ro\" names no file: give FILE[,OPTION...], with the options ro, ";
        assert!(refusal(&[",ro"]).starts_with(text));
    }

    #[test]
    fn unknown_option_names_those_there_are() {
        let text = refusal(&["a.img,readonly"]);
        assert!(text.contains("\"readonly\": there are ro, overlay, overlay=FILE, format=raw"));
        assert!(refusal(&["a.img,"]).contains("the option \"\""));
        assert!(refusal(&["a.img,overlay="]).contains("the option \"overlay=\""));
        assert!(refusal(&["a.img,format=vmdk"]).contains("format=raw, format=qcow2"));
        assert!(refusal(&["a.img,ro=1"]).contains("the option \"ro=1\""));
    }

    #[test]
    fn layer_has_a_name_and_the_format_can_be_said() {
        let all = disks(&["a,overlay=b,,c=d,format=qcow2,backing=any"]).unwrap();
        assert_eq!(all[0].access, Access::Layer("b,c=d".into()));
        assert_eq!(all[0].format, Some(Format::Qcow2));
        assert!(all[0].backing_anywhere);
        assert_eq!(
            disks(&["a,format=raw"]).unwrap()[0].format,
            Some(Format::Raw)
        );
    }

    #[test]
    fn name_promises_a_format() {
        let of = |name: &str| Format::of_name(Path::new(name));
        assert_eq!(of("/x/a.qcow2"), Format::Qcow2);
        assert_eq!(of("a.QCOW2"), Format::Qcow2);
        assert_eq!(of("qcow2"), Format::Raw);
        assert_eq!(of("a.qcow2.img"), Format::Raw);
    }

    #[test]
    fn option_given_twice_is_refused() {
        assert!(refusal(&["a,ro,ro"]).ends_with("has the option ro twice"));
        assert!(refusal(&["a,overlay,overlay"]).ends_with("has the option overlay twice"));
        assert!(refusal(&["a,overlay,overlay=b"]).ends_with("has the option overlay twice"));
        assert!(refusal(&["a,format=raw,format=raw"]).ends_with("has the option format twice"));
        assert!(refusal(&["a,overlay,ro"]).contains("both ro and overlay"));
        assert!(refusal(&["a,ro,overlay=b"]).contains("both ro and overlay"));
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
