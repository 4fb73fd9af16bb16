//! Opening the files that disks are kept in: what they are, who else has them, what can go wrong.
//!
//! Sources: `[qcow2]` QEMU `docs/interop/qcow2.txt`, v7.2, for the magic number.
//! Read next: [`super::layer`].

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use super::image::SECTOR;
use super::{chain, lock};
use crate::config::disk::{Disk, Format};

/// The first bytes of a qcow2 image.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// A file, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The file of a `--disk`.
    Disk(PathBuf),
    /// The file of an `overlay=`.
    Layer(PathBuf),
    /// A file that an image builds on.
    Backing {
        /// The file.
        path: PathBuf,
        /// The image.
        image: PathBuf,
    },
}

impl Named {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Disk(path) | Self::Layer(path) | Self::Backing { path, .. } => path,
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(path) => write!(to, "--disk {path:?}"),
            Self::Layer(path) => write!(to, "overlay={path:?} of a --disk"),
            Self::Backing { path, image } => {
                write!(to, "{path:?}, the backing file of {image:?}")
            }
        }
    }
}

/// Why a disk cannot be attached; each of these is the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not open.
    #[error("Cannot open {file}{hint}")]
    Open {
        /// The file.
        file: Named,
        /// What may help, or empty.
        hint: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// It is something else.
    #[error("Cannot use {file}: it is {what}; give an image or a block device")]
    Kind {
        /// The file.
        file: Named,
        /// What it is.
        what: &'static str,
    },
    /// Name and content do not agree on the format.
    #[error("Cannot use {file}: {why}")]
    Format {
        /// The file.
        file: Named,
        /// What each says, and what helps.
        why: &'static str,
    },
    /// It has a size that no disk has.
    #[error(
        "Cannot use {file}: it has {size} bytes, and a disk has at least {SECTOR} and a \
         multiple of that; mend it by: truncate -s {wanted} FILE"
    )]
    Size {
        /// The file.
        file: Named,
        /// Its size.
        size: u64,
        /// The next one that works.
        wanted: u64,
    },
    /// Another process has it.
    #[error(
        "Cannot use {file}: it is in use, by another virtual machine or as another disk of this one{hint}"
    )]
    InUse {
        /// The file.
        file: Named,
        /// What may help, or empty.
        hint: &'static str,
    },
    /// The layer for the guest's writes cannot be had.
    #[error(
        "Cannot make a temporary file for the overlay of --disk {path:?} in {directory:?}; TMPDIR names another directory"
    )]
    Layer {
        /// The image.
        path: PathBuf,
        /// Where the layer was to be.
        directory: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The host cannot lock it.
    #[error("Cannot lock {file}")]
    Lock {
        /// The file.
        file: Named,
        /// What the host said.
        source: io::Error,
    },
    /// Something about a qcow2 image.
    #[error(transparent)]
    Chain(#[from] chain::Error),
}

/// An open file that is locked.
#[derive(Debug)]
pub struct Opened {
    /// How messages name it.
    pub name: Named,
    /// The file.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it begins as a qcow2 image does.
    pub magic: bool,
}

impl Opened {
    /// Opens and locks the file `name`; a writer has it alone.
    ///
    /// # Errors
    /// [`Error`] with the file's name and what to do.
    pub fn new(name: Named, writable: bool) -> Result<Self, Error> {
        let file = open(&name, writable)?;
        lock(&name, &file, writable)?;
        let found = look(&file).map_err(|source| Error::Open {
            file: name.clone(),
            hint: "",
            source,
        });
        let (size, magic) = found?;
        Ok(Self {
            name,
            file,
            size,
            magic,
        })
    }

    /// What the file's bytes mean to `disk`: what the user said, or what name and content agree on.
    /// Why neither of them decides alone: [`crate::config::disk`].
    ///
    /// # Errors
    /// [`Error::Format`].
    pub fn format(&self, disk: &Disk) -> Result<Format, Error> {
        let why = match (disk.format, Format::of_name(&disk.path), self.magic) {
            (Some(format), ..) => return Ok(format),
            (None, Format::Raw, false) => return Ok(Format::Raw),
            (None, Format::Qcow2, true) => return Ok(Format::Qcow2),
            (None, Format::Raw, true) => {
                "it begins as a qcow2 image does, and its name does not end in .qcow2; add \
                 ,format=qcow2 if it is one, or ,format=raw if it is a raw image into which a \
                 guest may have written that beginning"
            }
            (None, Format::Qcow2, false) => {
                "its name ends in .qcow2, and it does not begin as such an image does; add \
                 ,format=raw if it is a raw image"
            }
        };
        let file = self.name.clone();
        Err(Error::Format { file, why })
    }

    /// The size of a raw image, or of the disk that tables describe, if a disk can have it.
    ///
    /// # Errors
    /// [`Error::Size`].
    pub fn disk_size(&self) -> Result<u64, Error> {
        let size = self.size;
        if size != 0 && size.is_multiple_of(SECTOR) {
            return Ok(size);
        }
        Err(Error::Size {
            file: self.name.clone(),
            size,
            wanted: size.max(1).next_multiple_of(SECTOR),
        })
    }
}

/// Opens what can be a disk.
fn open(name: &Named, writable: bool) -> Result<File, Error> {
    let opened = OpenOptions::new()
        .read(true)
        .write(writable)
        .open(name.path());
    let opened = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = opened.map_err(|source| Error::Open {
        file: name.clone(),
        hint: hint(name, writable, &source),
        source,
    })?;
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() || kind.is_block_device() => return Ok(file),
        () if kind.is_dir() => "a directory",
        () if kind.is_char_device() => "a character device",
        () => "neither a file nor a block device",
    };
    let file = name.clone();
    Err(Error::Kind { file, what })
}

/// The size in bytes, and whether the beginning is that of a qcow2 image.
fn look(mut file: &File) -> io::Result<(u64, bool)> {
    // A block device's metadata has no size.
    let size = file.seek(SeekFrom::End(0))?;
    let mut magic = [0; MAGIC.len()];
    if size >= magic.len() as u64 {
        file.read_exact_at(&mut magic, 0)?;
    }
    Ok((size, magic == MAGIC))
}

/// Keeps others from writing it, and from reading it if it will be written.
fn lock(name: &Named, file: &File, alone: bool) -> Result<(), Error> {
    lock::take(file, alone).map_err(|source| {
        let file = name.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock if alone => Error::InUse {
                file,
                hint: "; several can share it if all have it with ,ro or ,overlay",
            },
            io::ErrorKind::WouldBlock => Error::InUse { file, hint: "" },
            _ => Error::Lock { file, source },
        }
    })
}

/// What may help if a file does not open for writing.
fn hint(name: &Named, writable: bool, error: &io::Error) -> &'static str {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match (name, error.kind()) {
        (Named::Disk(_), PermissionDenied | ReadOnlyFilesystem) if writable => {
            " for writing; add ,ro or ,overlay behind it if reading is enough"
        }
        _ => "",
    }
}
