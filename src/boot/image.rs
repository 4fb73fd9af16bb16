//! A kernel file, understood: the step between bytes and loading.
//!
//! [`parse`] puts the readers of this chapter together and needs no guest: whoever only wants to
//! know what a file is (and why it would be refused) stops here. [`super::load`] goes on.
//!
//! Read next: [`super::load`].

use std::fmt;

use super::Error;
use super::blob::Blob;
use super::bzimage::{self, BzImage};
use super::elf::{self, Elf};
use super::identify::{HEAD, Kind, identify};
use super::unpack::Algorithm;

/// A kernel file, understood but not loaded.
#[derive(Clone, Debug, PartialEq)]
pub enum Image {
    /// A vmlinux.
    Elf(Elf),
    /// A bzImage and what its payload is packed with, if we know it.
    BzImage(Box<BzImage>, Option<Algorithm>),
    /// A file packed as a whole; what is in it shows only when it is unpacked.
    Packed(Algorithm),
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(elf) => {
                let pvh = if elf.pvh_entry.is_some() { ", PVH" } else { "" };
                write!(f, "vmlinux, {} segments{pvh}", elf.segments.len())
            }
            Self::BzImage(image, algorithm) => {
                let version = image.version.as_deref().unwrap_or("version unknown");
                match algorithm {
                    Some(algorithm) => write!(f, "bzImage, {algorithm}, {version}"),
                    None => write!(f, "bzImage, {version}"),
                }
            }
            Self::Packed(algorithm) => write!(f, "packed with {algorithm}"),
        }
    }
}

/// Says what kind of kernel `kernel` is and checks all that needs no guest.
///
/// # Errors
/// [`Error::NotAKernel`], or what is wrong with the kernel.
pub fn parse(kernel: &Blob) -> Result<Image, Error> {
    let name = || kernel.name().to_owned();
    let read = |source| Error::Read {
        name: name(),
        source,
    };
    let head = kernel.head(HEAD).map_err(read)?;
    match identify(&head) {
        Kind::Elf => {
            let elf = Elf::parse(kernel, &head).map_err(|source| elf_error(kernel, source))?;
            Ok(Image::Elf(elf))
        }
        Kind::BzImage => {
            let image = BzImage::parse(kernel, &head);
            let image = image.map_err(|source| bzimage_error(kernel, source))?;
            let len = image.payload_len.min(HEAD);
            let payload = kernel
                .read_vec(image.payload_offset, len, HEAD)
                .map_err(read)?;
            Ok(Image::BzImage(Box::new(image), Algorithm::detect(&payload)))
        }
        Kind::Packed(algorithm) => Ok(Image::Packed(algorithm)),
        other => Err(Error::NotAKernel {
            name: name(),
            what: other.phrase(),
        }),
    }
}

pub(super) fn elf_error(kernel: &Blob, source: elf::Error) -> Error {
    Error::Elf {
        name: kernel.name().to_owned(),
        source,
    }
}

pub(super) fn bzimage_error(kernel: &Blob, source: bzimage::Error) -> Error {
    Error::BzImage {
        name: kernel.name().to_owned(),
        source,
    }
}
