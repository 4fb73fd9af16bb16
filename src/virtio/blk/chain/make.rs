//! A new layer: an empty qcow2 image on top of a disk.
//!
//! It is made without a name and gets one when it is whole and on the medium: a layer that can be
//! found can be used, also if cottage was killed meanwhile. One without a name is gone with the
//! process.
//!
//! Sources: open(2), O_TMPFILE; linkat(2).
//! Read next: [`super::zstd`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use imago::FormatCreateBuilder;
use imago::qcow2::Qcow2;
use rustix::fs::{AtFlags, CWD, linkat};

use super::storage::ImageFile;
use crate::config::disk::Format;
use crate::virtio::blk::lock;

/// Bytes of a cluster: QEMU's default.
pub const CLUSTER: u64 = 64 << 10; // 64 KiB

/// What the layer is on top of.
#[derive(Debug)]
pub struct Below<'a> {
    /// The file.
    pub path: &'a Path,
    /// What its bytes mean.
    pub format: Format,
    /// Size of the disk in bytes.
    pub size: u64,
}

impl Below<'_> {
    /// What the layer's header calls the format.
    pub fn format_name(&self) -> &'static str {
        match self.format {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// A layer without a name, in the directory for temporary files.
///
/// # Errors
/// The directory, and what the host said.
pub fn nameless(below: &Below<'_>) -> Result<File, (PathBuf, io::Error)> {
    let directory = std::env::temp_dir();
    let made = temporary(&directory, 0o600)
        .and_then(|file| format(&file, below, "the disk").map(|()| file));
    made.map_err(|error| (directory, error))
}

/// A layer at `path`, locked.
///
/// # Errors
/// What the host says; `AlreadyExists` if somebody was faster.
pub fn named(path: &Path, below: &Below<'_>) -> io::Result<File> {
    let directory = directory(path);
    let file = temporary(directory, 0o666)?;
    lock::take(&file, true)?;
    format(&file, below, &backing_name(directory, below.path)?)?;
    file.sync_all()?;
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, source, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
    // Or the name, and with it all that the guest has synced, could be missing after a power loss.
    File::open(directory)?.sync_all()?;
    Ok(file)
}

/// The directory a file is in.
pub fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// What the layer calls the file below: its bare name if both are in one directory, which can be
/// moved then.
fn backing_name(directory: &Path, below: &Path) -> io::Result<String> {
    let below = fs::canonicalize(below)?;
    let beside = fs::canonicalize(directory)?;
    let name = match below.file_name() {
        Some(name) if below.parent() == Some(&beside) => PathBuf::from(name),
        _ => below,
    };
    let text = name.into_os_string().into_string();
    text.map_err(|_name| io::Error::other("the disk's name is not UTF-8, as qcow2 wants it"))
}

/// A file without a name.
fn temporary(directory: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(mode)
        .open(directory)
}

/// Writes an image without clusters to `file`, which is empty.
fn format(file: &File, below: &Below<'_>, name: &str) -> io::Result<()> {
    let storage = ImageFile::new(file.try_clone()?, 0, CLUSTER);
    Qcow2::<ImageFile>::create_builder(storage)
        .size(below.size)
        .backing(name.to_owned(), below.format_name().to_owned())
        .create()
}
