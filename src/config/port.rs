//! `--port NAME=PATH`: from words to a channel between guest and host.
//!
//! What PATH is, or becomes, is found out by [`crate::virtio::ports`].
//! Read next: [`super::balloon`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// As many as a virtio device of ours has queues for: two a port, two for port 0, which is a
/// console's, two to control them, 32 in all.
pub const MAX_PORTS: usize = 14;
/// Longest name. Linux has no limit below a page; file names have one.
const MAX_NAME: usize = 64;

/// A mistake in the value of `--port`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not of the form NAME=PATH.
    #[error(
        "--port {0:?} is no port: give NAME=PATH, such as agent=/tmp/agent.sock, and the guest has \
         /dev/virtio-ports/agent"
    )]
    Form(OsString),
    /// A name that would be no file's.
    #[error(
        "--port {0:?}: a name has 1 to {MAX_NAME} letters, digits, dots, dashes and underscores, and \
         does not begin with a dot"
    )]
    Name(OsString),
    /// Two ports of one name.
    #[error("--port: two ports have the name {0:?}")]
    SameName(String),
    /// Two ports at one path.
    #[error("--port: two ports lead to {0:?}")]
    SamePath(PathBuf),
    /// More than the device has queues for.
    #[error("--port is there {0} times: a guest can have {MAX_PORTS} ports")]
    TooMany(usize),
}

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// What the guest calls it.
    pub name: String,
    /// Where it is on the host.
    pub path: PathBuf,
}

/// The ports of all `--port` flags, in their order.
///
/// # Errors
/// [`Error`] with the value and what is accepted.
pub fn parse_all(values: &[OsString]) -> Result<Vec<Port>, Error> {
    let mut ports: Vec<Port> = Vec::with_capacity(values.len());
    if values.len() > MAX_PORTS {
        return Err(Error::TooMany(values.len()));
    }
    for value in values {
        let port = parse(value)?;
        if ports.iter().any(|other| other.name == port.name) {
            return Err(Error::SameName(port.name));
        }
        if ports.iter().any(|other| other.path == port.path) {
            return Err(Error::SamePath(port.path));
        }
        ports.push(port);
    }
    Ok(ports)
}

fn parse(value: &OsStr) -> Result<Port, Error> {
    let form = || Error::Form(value.to_owned());
    let bytes = value.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=');
    let (name, path) = bytes.split_at(at.ok_or_else(form)?);
    let path = path.get(1..).filter(|path| !path.is_empty());
    let path = PathBuf::from(OsString::from_vec(path.ok_or_else(form)?.to_vec()));
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
    let usable = (1..=MAX_NAME).contains(&name.len()) && name.iter().all(plain);
    if !usable || name.first() == Some(&b'.') {
        return Err(Error::Name(value.to_owned()));
    }
    let name = String::from_utf8_lossy(name).into_owned();
    Ok(Port { name, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(values: &[&str]) -> Result<Vec<Port>, Error> {
        let values: Vec<_> = values.iter().map(OsString::from).collect();
        parse_all(&values)
    }

    #[test]
    fn path_is_all_behind_the_first_equals_sign() {
        let port = |name: &str, path: &str| Port {
            name: name.to_owned(),
            path: path.into(),
        };
        assert_eq!(
            ports(&["org.qemu.ga-0=/a=b", "log=out"]),
            Ok(vec![port("org.qemu.ga-0", "/a=b"), port("log", "out")])
        );
    }

    #[test]
    fn value_without_a_name_or_a_path_shows_the_form() {
        for value in ["agent", "agent=", ""] {
            assert_eq!(ports(&[value]), Err(Error::Form(value.into())));
        }
    }

    #[test]
    fn name_that_is_no_file_name_is_refused() {
        let long = format!("{}=x", "a".repeat(65));
        for value in ["=x", "a/b=x", "..=x", "a b=x", "ä=x", &long] {
            assert_eq!(ports(&[value]), Err(Error::Name(value.into())));
        }
    }

    #[test]
    fn names_and_paths_are_each_ports_own() {
        assert_eq!(ports(&["a=x", "a=y"]), Err(Error::SameName("a".into())));
        assert_eq!(ports(&["a=x", "b=x"]), Err(Error::SamePath("x".into())));
    }

    #[test]
    fn one_port_more_than_there_are_queues_for_is_refused() {
        let values: Vec<_> = (0..15).map(|n| format!("p{n}=/{n}")).collect();
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        assert!(ports(&values[..14]).is_ok());
        assert_eq!(ports(&values), Err(Error::TooMany(15)));
    }
}
