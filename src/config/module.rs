//! `--module 'FILE[ WORDS]'`: a file for a multiboot kernel.
//!
//! As with the `-initrd` of `qemu -kernel`, the file's name ends at the first space, and the kernel is
//! told all of the text. A name with a space in it needs a link with another.
//! Read next: [`super::irqchip`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A mistake in a `--module`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no file's name.
    #[error(
        "--module {value:?} names no file: give one, and behind a space what the kernel is told of it, \
         such as --module 'disk.img root'"
    )]
    NoFile {
        /// What was given.
        value: OsString,
    },
}

/// A module, not opened yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Where its content is.
    pub file: PathBuf,
    /// What the kernel is told.
    pub string: Vec<u8>,
}

impl Module {
    /// A module of which the kernel is told the file's name.
    pub fn named(file: PathBuf) -> Self {
        let string = file.as_os_str().as_bytes().to_vec();
        Self { file, string }
    }
}

/// The modules, in their order.
///
/// # Errors
/// [`Error::NoFile`].
pub fn parse_all(values: &[OsString]) -> Result<Vec<Module>, Error> {
    values.iter().map(|value| parse(value)).collect()
}

fn parse(value: &OsStr) -> Result<Module, Error> {
    let string = value.as_bytes();
    let file = string.split(|byte| *byte == b' ').next();
    match file {
        Some(file) if !file.is_empty() => Ok(Module {
            file: PathBuf::from(OsStr::from_bytes(file)),
            string: string.to_vec(),
        }),
        _ => Err(Error::NoFile {
            value: value.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_ends_at_the_first_space_and_the_kernel_is_told_all() {
        let modules = parse_all(&["disk.img root  ro".into(), "data".into()]).unwrap();
        assert_eq!(modules[0].file, PathBuf::from("disk.img"));
        assert_eq!(modules[0].string, b"disk.img root  ro");
        assert_eq!(modules[1], Module::named("data".into()));
    }

    #[test]
    fn module_without_a_file_is_refused() {
        for value in ["", " words"] {
            let text = parse_all(&[value.into()]).unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("--module {value:?} names no file")),
                "{text}"
            );
        }
    }
}
