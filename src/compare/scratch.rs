//! Where a comparison works, and how it leaves nothing behind.
//!
//! Read next: [`super::root`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A folder of this comparison's own; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("Cannot make a folder to work in at {0:?}")]
pub struct Error(PathBuf, #[source] io::Error);

impl Scratch {
    /// Makes one where programs may be run from.
    ///
    /// # Errors
    /// [`Error`] with what the host said.
    pub fn make() -> Result<Self, Error> {
        let folder = std::env::temp_dir().join(format!("cottage-compare-{}", std::process::id()));
        fs::create_dir(&folder).map_err(|source| Error(folder.clone(), source))?;
        Ok(Self { folder })
    }

    /// Its path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _nothing_more_to_do = fs::remove_dir_all(&self.folder);
    }
}
