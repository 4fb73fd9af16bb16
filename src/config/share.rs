//! `--share HOSTDIR:TAG[,ro][,at=PATH]`: from words to a shared folder.
//!
//! The folder's name comes first; a comma in it is written twice, and it may hold colons, because
//! a tag cannot. That the folder exists is found out by [`crate::virtio::fs`].
//! Read next: [`super::pmem`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::disk::split;

/// What `--share` takes.
pub const SYNTAX: &str = "HOSTDIR:TAG[,ro][,at=PATH]";
/// Bytes of a tag. `[virtio]` 5.11.4
pub const MAX_TAG: usize = 36;

/// A mistake in the value of `--share`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No folder or no tag.
    #[error("--share {0:?} is no folder and tag: give {SYNTAX}, such as src:work")]
    Form(OsString),
    /// A tag that could not be typed in a guest.
    #[error(
        "--share {value:?}: the tag {tag:?} must be 1 to {MAX_TAG} letters, digits, dots, dashes \
         and underscores, and not begin with a dot"
    )]
    Tag {
        /// What was given.
        value: OsString,
        /// The part behind the colon.
        tag: OsString,
    },
    /// An option that does not exist.
    #[error(
        "--share {value:?} has the option {option:?}: there are ro and at=PATH; a comma in the \
         folder's name is written twice"
    )]
    Option {
        /// What was given.
        value: OsString,
        /// What is no option.
        option: OsString,
    },
    /// An option that is there twice.
    #[error("--share {value:?} has the option {option} twice")]
    Twice {
        /// What was given.
        value: OsString,
        /// The option.
        option: &'static str,
    },
    /// A place that is none.
    #[error(
        "--share {value:?}: at= takes a path in the guest that begins with /, without .. and not / itself"
    )]
    Place {
        /// What was given.
        value: OsString,
    },
    /// Two folders of one tag.
    #[error("--share: two folders have the tag {0:?}; the guest could not tell them apart")]
    SameTag(String),
    /// Two folders at one place.
    #[error("--share: two folders are to be at {0:?} in the guest; give one of them another at=")]
    SamePlace(OsString),
    /// A place was given, and nobody mounts.
    #[error(
        "--share with tag {0}: at= is for cottage's init, and --initramfs without a command starts \
         the guest's own: leave it out and run `mount -t virtiofs {0} DIR` there, or give a command"
    )]
    NobodyMounts(String),
}

/// A folder to share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The folder.
    pub path: PathBuf,
    /// What the guest mounts it by.
    pub tag: String,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Where our init mounts it, if the user chose.
    pub at: Option<OsString>,
}

impl Share {
    /// Where our init mounts it.
    pub fn place(&self) -> OsString {
        let default = || OsString::from(format!("/mnt/{}", self.tag));
        self.at.clone().unwrap_or_else(default)
    }
}

/// The root's folder, if it is one, and the folders of all `--share` flags, in their order.
///
/// # Errors
/// [`Error`] with the value and what is accepted.
pub fn parse_all(root: Option<Share>, values: &[OsString]) -> Result<Vec<Share>, Error> {
    let mut shares: Vec<Share> = root.into_iter().collect();
    for value in values {
        let share = parse(value)?;
        if shares.iter().any(|other| other.tag == share.tag) {
            return Err(Error::SameTag(share.tag));
        }
        if shares.iter().any(|other| other.place() == share.place()) {
            return Err(Error::SamePlace(share.place()));
        }
        shares.push(share);
    }
    Ok(shares)
}

/// Refuses a place where nobody mounts.
///
/// # Errors
/// [`Error::NobodyMounts`].
pub fn check_places(shares: &[Share]) -> Result<(), Error> {
    match shares.iter().find(|share| share.at.is_some()) {
        Some(share) => Err(Error::NobodyMounts(share.tag.clone())),
        None => Ok(()),
    }
}

fn parse(value: &OsStr) -> Result<Share, Error> {
    let mut words = split(value).into_iter();
    let first = words.next().unwrap_or_default();
    let form = || Error::Form(value.to_owned());
    let colon = first.as_bytes().iter().rposition(|byte| *byte == b':');
    let (path, tag) = colon
        .and_then(|at| first.as_bytes().split_at_checked(at))
        .filter(|(path, _)| !path.is_empty())
        .ok_or_else(form)?;
    let tag = tag.get(1..).unwrap_or(&[]);
    let (mut read_only, mut at) = (false, None);
    let twice = |option| Error::Twice {
        value: value.to_owned(),
        option,
    };
    for word in words {
        if word == "ro" {
            if std::mem::replace(&mut read_only, true) {
                return Err(twice("ro"));
            }
        } else if let Some(given) = word.as_bytes().strip_prefix(b"at=") {
            if at.replace(place(value, given)?).is_some() {
                return Err(twice("at"));
            }
        } else {
            return Err(Error::Option {
                value: value.to_owned(),
                option: word,
            });
        }
    }
    Ok(Share {
        path: OsString::from_vec(path.to_vec()).into(),
        tag: tag_text(value, tag)?,
        read_only,
        at,
    })
}

/// What shells and /etc/fstab take without quoting; and `/mnt/TAG` must be a path below /mnt.
fn tag_text(value: &OsStr, tag: &[u8]) -> Result<String, Error> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let fits = (1..=MAX_TAG).contains(&tag.len()) && tag.iter().all(plain);
    match str::from_utf8(tag) {
        Ok(text) if fits && !text.starts_with('.') => Ok(text.to_owned()),
        _ => Err(Error::Tag {
            value: value.to_owned(),
            tag: OsString::from_vec(tag.to_vec()),
        }),
    }
}

fn place(value: &OsStr, given: &[u8]) -> Result<OsString, Error> {
    let mut parts = given.split(|byte| *byte == b'/');
    let absolute = parts.next() == Some(b"");
    let mut parts = parts.filter(|part| !part.is_empty()).peekable();
    let somewhere = parts.peek().is_some();
    if absolute && somewhere && parts.all(|part| part != b"..") && !given.contains(&0) {
        return Ok(OsString::from_vec(given.to_vec()));
    }
    Err(Error::Place {
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(values: &[&str]) -> Result<Vec<Share>, Error> {
        let values: Vec<_> = values.iter().map(OsString::from).collect();
        parse_all(None, &values)
    }

    fn refusal(values: &[&str]) -> String {
        shares(values).unwrap_err().to_string()
    }

    #[test]
    fn folder_and_tag_are_a_writable_folder_below_mnt() {
        let all = shares(&["/a b:src"]).unwrap();
        let src = Share {
            path: "/a b".into(),
            tag: "src".into(),
            read_only: false,
            at: None,
        };
        assert_eq!(all, std::slice::from_ref(&src));
        assert_eq!(src.place(), "/mnt/src");
    }

    #[test]
    fn colons_and_commas_may_be_in_the_name() {
        let all = shares(&["a:b,,c:tag,at=/x/y,ro"]).unwrap();
        assert_eq!(all[0].path.to_str(), Some("a:b,c"));
        assert_eq!((&*all[0].tag, all[0].read_only), ("tag", true));
        assert_eq!(all[0].place(), "/x/y");
    }

    #[test]
    fn value_without_folder_or_tag_shows_the_form() {
        for value in ["src", ":src", ""] {
            let text = refusal(&[value]);
            assert!(text.contains("give HOSTDIR:TAG[,ro][,at=PATH]"), "{text}");
        }
    }

    #[test]
    fn strange_tag_is_refused() {
        let long = format!("a:{}", "x".repeat(37));
        for value in ["a:", "a:x y", "a:..", "a:.hidden", "a:x/y", &long] {
            let text = refusal(&[value]);
            assert!(text.contains("must be 1 to 36 letters"), "{text}");
        }
        assert!(shares(&[&long[..long.len() - 1]]).is_ok());
    }

    #[test]
    fn unknown_or_repeated_option_is_refused() {
        assert!(refusal(&["a:b,rw"]).contains("\"rw\": there are ro and at=PATH"));
        assert!(refusal(&["a:b,ro,ro"]).ends_with("has the option ro twice"));
        assert!(refusal(&["a:b,at=/x,at=/x"]).ends_with("has the option at twice"));
    }

    #[test]
    fn place_must_be_an_absolute_path() {
        for value in [
            "a:b,at=x",
            "a:b,at=/",
            "a:b,at=",
            "a:b,at=/x/../y",
            "a:b,at=//",
        ] {
            let text = refusal(&[value]);
            assert!(text.contains("a path in the guest that begins with /"));
        }
    }

    #[test]
    fn same_tag_or_place_twice_is_refused() {
        assert!(refusal(&["a:t", "b:t"]).contains("two folders have the tag \"t\""));
        assert!(refusal(&["a:t", "b:u,at=/mnt/t"]).contains("two folders are to be at"));
    }
}
