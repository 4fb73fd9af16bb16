//! Cold starts: the files a run needs are not in memory when it begins.
//!
//! Only those files are dropped from the page cache, with posix_fadvise(POSIX_FADV_DONTNEED); the
//! rest of the host stays as warm as it was, and no root is needed. Pages that are mapped stay: the
//! program this process itself runs from. So `--cold` runs cottage from a copy of its file that
//! nobody maps, without a name, in /var/tmp. Source: posix_fadvise(2).
//! Read next: [`super::host`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use crate::bundle::program;

/// On a disk by convention, unlike /tmp, which is the second choice. Source: Filesystem Hierarchy Standard 3.0, 5.15.
const FOLDER: &str = "/var/tmp";

/// Files to drop from the page cache.
#[derive(Debug)]
pub struct Cold(Vec<(PathBuf, File)>);

/// A copy of this program that no process runs from.
#[derive(Debug)]
pub struct Copy {
    file: File,
}

/// A file that cannot be dropped, or no copy of this program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There can be no copy.
    #[error("--cold cannot copy this program into {FOLDER} or $TMPDIR, to start it from there")]
    Copy(#[source] io::Error),
    /// A file cannot be opened.
    #[error("--cold cannot open {path:?}, to drop it from the page cache")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

impl Copy {
    /// Makes one.
    ///
    /// # Errors
    /// [`Error::Copy`] with what the host said.
    pub fn make() -> Result<Self, Error> {
        Self::try_make().map_err(Error::Copy)
    }

    fn try_make() -> io::Result<Self> {
        let name = format!("cottage-bench-{}", std::process::id());
        let create = |folder: &Path| {
            let path = folder.join(&name);
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create_new(true)
                .mode(0o700)
                .open(&path)?;
            Ok::<_, io::Error>((path, file))
        };
        let (path, mut copy) =
            create(Path::new(FOLDER)).or_else(|_none| create(&std::env::temp_dir()))?;
        // A file that is open for writing cannot be run. And no name: nothing to clean up later.
        let file = File::open(&path);
        fs::remove_file(&path)?;
        io::copy(&mut File::open(program())?, &mut copy)?;
        // On the disk, or its pages could not be dropped.
        copy.sync_all()?;
        Ok(Self { file: file? })
    }

    /// Where a child finds it, as long as this lives.
    pub fn path(&self) -> PathBuf {
        let (process, fd) = (std::process::id(), self.file.as_raw_fd());
        format!("/proc/{process}/fd/{fd}").into()
    }
}

impl Cold {
    /// Will drop `paths`.
    ///
    /// # Errors
    /// [`Error::Open`] for the first that does not open.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, Error> {
        let open = |path: PathBuf| match File::open(&path) {
            Ok(file) => Ok((path, file)),
            Err(source) => Err(Error::Open { path, source }),
        };
        paths
            .into_iter()
            .map(open)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Drops them. A page that is in use, or on a file system without a disk, stays.
    pub fn drop_pages(&self) {
        for (_, file) in &self.0 {
            let _still_written = file.sync_data();
            let _only_advice = fadvise(file, 0, None, Advice::DontNeed);
        }
    }

    /// Which files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(path, _)| path.as_path())
    }
}

/// The files that a command line names: the program, found as a shell would, and its arguments.
pub fn files_of(words: &[String]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Some(program) = words.first() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).filter(|_| !program.contains('/'));
        let mut places = folders.map(|folder| folder.join(program));
        let found = places.find(|place| place.is_file());
        files.push(found.unwrap_or_else(|| program.into()));
    }
    for word in words.iter().skip(1) {
        // --kernel=FILE as well as --kernel FILE.
        let value = word
            .split_once('=')
            .map_or(word.as_str(), |(_, value)| value);
        if fs::metadata(value).is_ok_and(|file| file.is_file()) {
            files.push(value.into());
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_words_and_in_the_path() {
        let words = ["sh", "--file=/etc/passwd", "/etc/group", "/etc", "no-file"];
        let files = files_of(&words.map(str::to_owned));
        assert!(files[0].ends_with("sh") && files[0].is_absolute());
        assert_eq!(files[1..], ["/etc/passwd", "/etc/group"].map(PathBuf::from));
    }

    #[test]
    fn missing_file_is_named() {
        let error = Cold::new(["/no/such/file".into()]).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
