//! The root file system that all sides get, and its digest.
//!
//! The tree of the built-in initramfs, busybox and its names, and the probe as `/probe`: one folder on
//! the host, from which every side's own form is made (an image, a bundle, an archive, a disk).
//! Read next: [`super::session`].

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::scratch::Scratch;

/// The root file system.
#[derive(Clone, Debug, Serialize)]
pub struct Root {
    /// The folder it stands in.
    #[serde(skip)]
    pub folder: PathBuf,
    /// SHA-256 over names, kinds, modes and contents, in hexadecimal.
    pub digest: String,
    /// Bytes in its files.
    pub bytes: u64,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be filled.
    #[error("Cannot make the root file system that all sides get")]
    Write(#[source] io::Error),
}

impl Root {
    /// Makes it in `scratch`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn make(scratch: &Scratch) -> Result<Self, Error> {
        let folder = scratch.folder().join("root");
        fs::create_dir(&folder).map_err(Error::Write)?;
        Ok(Self {
            folder,
            digest: String::new(),
            bytes: 0,
        })
    }
}
