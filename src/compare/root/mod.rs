//! The root file system that all sides get, and its digest.
//!
//! The tree of the built-in initramfs, busybox and its names, and the probe as `/probe`. It is read
//! into memory once, and every side's own form is made of that: the folder that most containers and the
//! floors are started in; an initramfs, which is the built-in one with the probe behind it; an image
//! for container engines; a disk. init is in all of them, though only a VM starts it.
//! Read next: [`tree`].

pub mod tree;
pub mod image;

use std::cell::OnceCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Serialize;

use super::command;
use super::scratch::Scratch;
use crate::boot::blob::Blob;
use crate::boot::newc::{self, Attributes, FILE};
use crate::bundle::{self, Bundle};
use tree::{ALIGNMENT, Kind, Malformed, Node, TRAILER, Tree};

/// Where the probe is in the tree.
const PROBE: &str = "probe";
/// Of a program that everybody may run.
const PROGRAM: u32 = 0o755;
/// The initramfs and the probe are smaller, by far.
const LIMIT: u64 = 256 << 20; // 256 MiB

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
    /// Names that are missing in the folder, for only root can make device nodes; in the other forms
    /// they are there.
    pub left_out: Vec<String>,
    #[serde(skip)]
    forms: Rc<Forms>,
}

/// What it is made of, and what was made of it until now.
#[derive(Debug)]
struct Forms {
    /// Of this comparison: names begin with it.
    tag: String,
    /// Where they are put.
    place: PathBuf,
    tree: Tree,
    /// The built-in initramfs with the probe behind it.
    cpio: Vec<u8>,
    initramfs: OnceCell<Result<PathBuf, String>>,
    image: OnceCell<Result<PathBuf, String>>,
    disk: OnceCell<Result<PathBuf, String>>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This program carries no guest.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// Its guest cannot be read.
    #[error(transparent)]
    Blob(#[from] crate::boot::blob::Error),
    /// Its guest makes no sense.
    #[error(transparent)]
    Tree(#[from] Malformed),
    /// A folder cannot be filled.
    #[error(
        "Cannot write {0:?}, a part of the root file system that all sides get; TMPDIR chooses \
         another place"
    )]
    Write(PathBuf, #[source] io::Error),
}

impl Root {
    /// Makes it in `scratch`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn make(scratch: &Scratch) -> Result<Self, Error> {
        let bundle = Bundle::open()?;
        let all = |blob: Blob| blob.read_vec(0, blob.len(), LIMIT);
        let mut cpio = all(bundle.initramfs()?)?;
        let probe = all(bundle.probe()?)?;
        let mut tree = Tree::parse(&cpio)?;
        behind(&mut cpio, &probe);
        let (kind, mode) = (Kind::File(probe), PROGRAM);
        tree.0.insert(PROBE.to_owned(), Node { kind, mode });
        let folder = scratch.folder().join("root");
        fs::create_dir(&folder).map_err(|error| Error::Write(folder.clone(), error))?;
        let left_out = tree.lay_out(&folder);
        let left_out = left_out.map_err(|(path, error)| Error::Write(path, error))?;
        Ok(Self {
            folder,
            digest: tree.digest(),
            bytes: tree.bytes(),
            left_out,
            forms: Rc::new(Forms {
                tag: scratch.tag().to_owned(),
                place: scratch.folder().to_owned(),
                tree,
                cpio,
                initramfs: OnceCell::new(),
                image: OnceCell::new(),
                disk: OnceCell::new(),
            }),
        })
    }

    /// The file to give to `--initramfs`.
    ///
    /// # Errors
    /// A sentence for the report; so for the other forms.
    pub fn initramfs(&self) -> Result<PathBuf, String> {
        let made = self.forms.initramfs.get_or_init(|| {
            let path = self.forms.place.join("root.cpio");
            write(&path, &self.forms.cpio)
        });
        made.clone()
    }

    /// What engines call the image.
    pub fn image_name(&self) -> String {
        format!("localhost/{}:latest", self.forms.tag)
    }

    /// The archive to load as that image.
    ///
    /// # Errors
    /// See above.
    pub fn image(&self) -> Result<PathBuf, String> {
        let made = self.forms.image.get_or_init(|| {
            let path = self.forms.place.join("image.tar");
            write(
                &path,
                &image::archive(&self.forms.tree, &self.image_name())?,
            )
        });
        made.clone()
    }

    /// The disk to give to `--rootfs`: an erofs image if there is a program that makes those, else
    /// ext4.
    ///
    /// # Errors
    /// See above.
    pub fn disk(&self) -> Result<PathBuf, String> {
        let made = self.forms.disk.get_or_init(|| self.make_disk());
        made.clone()
    }

    fn make_disk(&self) -> Result<PathBuf, String> {
        let path = self.forms.place.join("root.img");
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (image, folder) = (text(&path), text(&self.folder));
        // What the files take, their ends in blocks, and the tables; empty blocks cost nothing.
        let size = format!("{}k", self.bytes / 1024 * 5 / 4 + (8 << 10)); // 8 MiB
        let words = if let Some(program) = command::program("mkfs.erofs") {
            let flags = ["--quiet", "-T0", "--all-root"].map(str::to_owned);
            [&[text(&program)], &flags[..], &[image, folder]].concat()
        } else if let Some(program) = command::program("mke2fs") {
            let flags = ["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d"];
            let flags = flags.map(str::to_owned);
            [&[text(&program)], &flags[..], &[folder, image, size]].concat()
        } else {
            return Err(
                "neither mkfs.erofs nor mke2fs is installed (packages erofs-utils, e2fsprogs)"
                    .to_owned(),
            );
        };
        command::run(&words).map(|_said| path)
    }
}

/// Puts the probe behind an archive, as one of its own: Linux unpacks a chain of them.
fn behind(cpio: &mut Vec<u8>, probe: &[u8]) {
    let align = |bytes: &mut Vec<u8>| {
        let len = bytes.len().next_multiple_of(ALIGNMENT);
        bytes.resize(len, 0);
    };
    for (name, content) in [(PROBE, probe), (TRAILER, &[])] {
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let attributes = Attributes::of_root(FILE | PROGRAM);
        // A name that is ours, so that there is nothing to refuse.
        let header = newc::header(name.as_bytes(), &attributes, (1, 1), size).unwrap_or_default();
        align(cpio);
        cpio.extend(header);
        align(cpio);
        cpio.extend(content);
    }
    align(cpio);
}

fn write(path: &Path, bytes: &[u8]) -> Result<PathBuf, String> {
    let written = fs::write(path, bytes).map(|()| path.to_owned());
    written.map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_stands_behind_the_initramfs() {
        let mut cpio = Vec::new();
        behind(&mut cpio, b"first");
        let len = cpio.len();
        behind(&mut cpio, b"second");
        let first = Tree::parse(&cpio).unwrap();
        let second = Tree::parse(&cpio[len..]).unwrap();
        assert_eq!(first.0["probe"].kind, Kind::File(b"first".to_vec()));
        assert_eq!(second.0["probe"].kind, Kind::File(b"second".to_vec()));
        assert_eq!(second.0["probe"].mode, 0o755);
    }
}
