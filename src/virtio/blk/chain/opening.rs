//! From a disk's file to the chain it stands on: found, checked, locked, and put together.
//!
//! Files are opened from the top down, as each names the next, and handed to imago from the bottom
//! up. imago opens nothing by itself.
//!
//! Source: `[qcow2]` QEMU `docs/interop/qcow2.txt`, v7.2: "Backing file name".
//! Read next: [`crate::virtio::blk::lock`].

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};

use super::header::{self, Backing, Header};
use super::make::{self, Below};
use super::storage::ImageFile;
use super::zstd::Unpacker;
use super::{Chain, Shared};
use crate::config::disk::{Access, Disk, Format};
use crate::virtio::blk::open::{self, Named, Opened};

/// Most images in a chain, so that one that names itself comes to an end.
const MAX_DEPTH: usize = 32;

/// Why a chain cannot be used; each of these is the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image says something of itself that is in the way.
    #[error("Cannot use {file}")]
    Header {
        /// The image.
        file: Named,
        /// What is in the way.
        source: header::Error,
    },
    /// Tables that make no sense.
    #[error("Cannot use {file} as a qcow2 image; what is wrong with it says: qemu-img check")]
    Tables {
        /// The image.
        file: Named,
        /// What imago said.
        source: io::Error,
    },
    /// Too many, or one that builds on itself.
    #[error("Cannot use {0}: more than {MAX_DEPTH} images build on one another")]
    Depth(Named),
    /// A backing file elsewhere.
    #[error(
        "Cannot use {file}: it builds on {backing:?}, which is not in its directory. An image from \
         a stranger could show any file of yours to the guest this way; if it should be used, add \
         ,backing=any"
    )]
    Elsewhere {
        /// The image.
        file: Named,
        /// What it builds on.
        backing: PathBuf,
    },
    /// A backing file of a format that we do not read.
    #[error(
        "Cannot use {file}: it builds on a file of format {format:?}, and cottage reads raw and qcow2"
    )]
    BackingFormat {
        /// The image.
        file: Named,
        /// The format.
        format: String,
    },
    /// A backing file that may be raw or not.
    #[error(
        "Cannot use {file}: it begins as a qcow2 image does, and the image that builds on it does \
         not say whether it is one; write that down by: qemu-img rebase -u -F qcow2 -b BACKING \
         IMAGE, or with -F raw if a guest may have written that beginning"
    )]
    BackingUnclear {
        /// The backing file.
        file: Named,
    },
    /// Clusters that cannot be told from others once written.
    #[error(
        "Cannot write {0}: its clusters are packed with zstd, and cottage only reads such images; \
         add ,ro or ,overlay or ,overlay=FILE"
    )]
    WriteZstd(Named),
    /// A layer that belongs to another disk.
    #[error(
        "Cannot use {layer}: it builds on {backing:?}, not on --disk {disk:?}; give another FILE, \
         or the disk it belongs to"
    )]
    OtherDisk {
        /// The layer.
        layer: Named,
        /// What its header says, or empty.
        backing: String,
        /// The disk.
        disk: PathBuf,
    },
    /// A layer cannot be made.
    #[error("Cannot make {layer}")]
    Make {
        /// The layer.
        layer: Named,
        /// What the host said.
        source: io::Error,
    },
}

/// A file of the chain, before imago has it.
struct Link {
    opened: Opened,
    /// None for a raw file.
    header: Option<Header>,
}

impl Link {
    fn new(opened: Opened, format: Format) -> Result<Self, Error> {
        let header = match format {
            Format::Raw => None,
            Format::Qcow2 => Some(Header::read(&opened.file).map_err(|source| Error::Header {
                file: opened.name.clone(),
                source,
            })?),
        };
        Ok(Self { opened, header })
    }

    fn backing(&self) -> Option<&Backing> {
        self.header.as_ref()?.backing.as_ref()
    }

    fn size(&self) -> u64 {
        self.header.as_ref().map_or(self.opened.size, |h| h.size)
    }
}

impl Chain {
    /// The chain below `opened`, the file of `disk`, with a layer on top if the disk has one.
    ///
    /// # Errors
    /// [`open::Error`] with the file's name and what to do.
    pub fn open(opened: Opened, format: Format, disk: &Disk) -> Result<Self, open::Error> {
        let mut links = vec![Link::new(opened, format)?];
        while let Some(below) = next(&links, disk)? {
            links.push(below);
        }
        match &disk.access {
            Access::Write | Access::ReadOnly => {}
            Access::Overlay => links.insert(0, throw_away(&links, format, disk)?),
            Access::Layer(path) => links.insert(0, layer(&links, format, disk, path)?),
        }
        Ok(assemble(links, disk.access != Access::ReadOnly)?)
    }
}

/// The file that the last of `links` builds on.
fn next(links: &[Link], disk: &Disk) -> Result<Option<Link>, open::Error> {
    let Some((link, backing)) = links.last().and_then(|l| l.backing().map(|b| (l, b))) else {
        return Ok(None);
    };
    let file = link.opened.name.clone();
    if links.len() == MAX_DEPTH {
        return Err(Error::Depth(file).into());
    }
    let name = Named::Backing {
        path: resolved(file.path(), &backing.name),
        image: file.path().to_owned(),
    };
    let beside = || -> io::Result<bool> {
        let directory = fs::canonicalize(make::directory(file.path()))?;
        Ok(fs::canonicalize(name.path())?.starts_with(directory))
    };
    // A file that is not there is told below.
    if !disk.backing_anywhere && !beside().unwrap_or(true) {
        let backing = name.path().to_owned();
        return Err(Error::Elsewhere { file, backing }.into());
    }
    let opened = Opened::new(name, false)?;
    let format = match backing.format.as_deref() {
        Some("raw" | "file") => Format::Raw,
        Some("qcow2") => Format::Qcow2,
        Some(format) => {
            let format = format.to_owned();
            return Err(Error::BackingFormat { file, format }.into());
        }
        None if opened.magic => {
            let file = opened.name;
            return Err(Error::BackingUnclear { file }.into());
        }
        None => Format::Raw,
    };
    Ok(Some(Link::new(opened, format)?))
}

/// A backing file's name is relative to the image's directory.
fn resolved(image: &Path, backing: &str) -> PathBuf {
    make::directory(image).join(backing)
}

/// What a layer on top of the disk is on top of.
fn below<'a>(links: &[Link], format: Format, disk: &'a Disk) -> Below<'a> {
    Below {
        path: &disk.path,
        format,
        size: links.first().map_or(0, Link::size),
    }
}

/// A layer that is gone with the process.
fn throw_away(links: &[Link], format: Format, disk: &Disk) -> Result<Link, open::Error> {
    let below = below(links, format, disk);
    let made = make::nameless(&below);
    let file = made.map_err(|(directory, source)| open::Error::Layer {
        path: disk.path.clone(),
        directory,
        source,
    })?;
    Ok(made_link(Named::Disk(disk.path.clone()), file)?)
}

/// A layer that stays: the one at `path`, or a new one.
fn layer(links: &[Link], format: Format, disk: &Disk, path: &Path) -> Result<Link, open::Error> {
    let name = Named::Layer(path.to_owned());
    match Opened::new(name.clone(), true) {
        Ok(opened) => {
            let link = Link::new(opened, Format::Qcow2)?;
            return Ok(check_layer(link, links, &below(links, format, disk))?);
        }
        Err(open::Error::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Only what a disk can be: the layer would keep the size.
    if let Some(link) = links.first().filter(|link| link.header.is_none()) {
        link.opened.disk_size()?;
    }
    let layer = name.clone();
    let made = make::named(path, &below(links, format, disk));
    let file = made.map_err(|source| Error::Make { layer, source })?;
    Ok(made_link(name, file)?)
}

/// A layer that was just made.
fn made_link(name: Named, file: File) -> Result<Link, Error> {
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let opened = Opened {
        name,
        file,
        size,
        magic: true,
    };
    Link::new(opened, Format::Qcow2)
}

/// Refuses a layer that was made for another disk, or for this one when it was of another format.
fn check_layer(layer: Link, links: &[Link], below: &Below<'_>) -> Result<Link, Error> {
    let backing = layer.backing().cloned();
    let same_format = |format: &String| format == below.format_name();
    let fits = backing.as_ref().is_some_and(|backing| {
        let path = resolved(layer.opened.name.path(), &backing.name);
        let there = fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        let disk = links
            .first()
            .and_then(|link| link.opened.file.metadata().ok());
        there.is_some()
            && there == disk.map(|m| (m.dev(), m.ino()))
            && backing.format.as_ref().is_none_or(same_format)
    });
    if fits {
        return Ok(layer);
    }
    Err(Error::OtherDisk {
        layer: layer.opened.name,
        backing: backing.map_or_else(String::new, |backing| backing.name),
        disk: below.path.to_owned(),
    })
}

/// Hands the files to imago, the last first.
fn assemble(mut links: Vec<Link>, writes: bool) -> Result<Chain, Error> {
    let mut below: Option<Shared> = None;
    let mut packed = Vec::new();
    while links.len() > 1
        && let Some(link) = links.pop()
    {
        let unpacker = unpacker(&link)?;
        let image = Arc::new(image(link, below.take(), false)?);
        packed.extend(unpacker.map(|unpacker| (image.clone(), unpacker)));
        below = Some(image);
    }
    let top = links
        .pop()
        .ok_or_else(|| Error::Depth(Named::Disk(PathBuf::new())))?;
    if writes {
        header::check_counts(&top.opened.file).map_err(|source| Error::Header {
            file: top.opened.name.clone(),
            source,
        })?;
    }
    let packed_top = unpacker(&top)?;
    if writes && packed_top.is_some() {
        return Err(Error::WriteZstd(top.opened.name));
    }
    let (size, header) = (top.size(), top.header.clone());
    Ok(Chain {
        top: Mutex::new(image(top, below, writes)?),
        size,
        cluster: header.as_ref().map_or(1, |h| 1 << h.cluster_bits),
        has_zeros: header.is_some_and(|h| h.has_zeros),
        packed_top,
        packed,
    })
}

/// Who unpacks what imago cannot.
fn unpacker(link: &Link) -> Result<Option<Unpacker>, Error> {
    let Some(header) = link.header.as_ref().filter(|header| header.zstd) else {
        return Ok(None);
    };
    let file = link
        .opened
        .file
        .try_clone()
        .map_err(|source| Error::Tables {
            file: link.opened.name.clone(),
            source,
        })?;
    Ok(Some(Unpacker::new(file, header.clone())))
}

/// imago's view of one file.
fn image(
    link: Link,
    below: Option<Shared>,
    writes: bool,
) -> Result<FormatAccess<ImageFile>, Error> {
    let Link { opened, header } = link;
    let name = opened.name;
    let gate = DenyImplicitOpenGate::default();
    let made = match header {
        None => {
            let storage = ImageFile::new(opened.file, opened.size, 0);
            Raw::builder(storage).open(gate).map(FormatAccess::new)
        }
        Some(header) => {
            let storage = ImageFile::new(opened.file, opened.size, 1 << header.cluster_bits);
            let storage = match header.zstd {
                true => storage.without_compression(),
                false => storage,
            };
            Qcow2::<ImageFile, Shared>::builder(storage)
                .write(writes)
                .backing(below)
                .data_file(None)
                .open(gate)
                .map(FormatAccess::new)
        }
    };
    made.map_err(|source| Error::Tables { file: name, source })
}
