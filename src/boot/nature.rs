//! Whether a kernel file is a Linux, and if not, how it is entered.
//!
//! Linux gets an initramfs, our init and a command line, and needs no PC around it. Anything else gets
//! what it was given and nothing of ours, and a machine with the interrupt controllers and the timer of
//! a PC. What a file offers decides, in this order:
//!
//! ```text
//!  bzImage with a packed kernel in it            Linux
//!  bzImage without (memtest86+, boot sectors)    not Linux, entered as the header says
//!  ELF, multiboot header and PVH note            not Linux, entered by PVH
//!  multiboot header                              not Linux, entered by multiboot
//!  ELF without, packed files                     Linux
//! ```
//!
//! `--protocol` overrides the order. A multiboot kernel that is packed needs it, because what is inside
//! shows only when it is unpacked.
//!
//! Read next: [`crate::platform`].

use super::blob::Blob;
use super::identify::{Kind, identify};
use super::image::{Image, parse};
use super::load::unpack_whole;
use super::multiboot::{self, Header, SEARCH_2};
use super::{Error, Protocol};

/// What a kernel file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// A Linux, or what claims to be one.
    Linux,
    /// Something else, which is entered by this protocol; `None` leaves it to the loader.
    BareMetal(Option<Protocol>),
    /// Something else with this header.
    Multiboot(Header),
}

/// Says what `kernel` is, if the user asks for `protocol`; and unpacks it if that must be first.
///
/// # Errors
/// [`Error::Multiboot`]: asked for and not there, or a header that must be refused.
/// [`Error::Read`] and [`Error::Unpack`].
pub fn choose(mut kernel: Blob, protocol: Option<Protocol>) -> Result<(Blob, Nature), Error> {
    let mut head = head_of(&kernel)?;
    let kind = identify(&head);
    let nature = match protocol {
        Some(Protocol::Multiboot) => {
            if let Kind::Packed(algorithm) = kind {
                kernel = unpack_whole(&kernel, algorithm)?;
                head = head_of(&kernel)?;
            }
            Nature::Multiboot(header_of(&kernel, &head)?)
        }
        Some(_) | None if kind == Kind::BzImage => match parse(&kernel)? {
            Image::BzImage(image, _) if image.payload_len == 0 => Nature::BareMetal(None),
            _ => Nature::Linux,
        },
        Some(_) => Nature::Linux,
        None => of_other(&kernel, &head, &kind)?,
    };
    Ok((kernel, nature))
}

/// No bzImage, and no protocol asked for.
fn of_other(kernel: &Blob, head: &[u8], kind: &Kind) -> Result<Nature, Error> {
    use multiboot::header::Error as Header;
    if matches!(kind, Kind::Packed(_) | Kind::Cpio) {
        return Ok(Nature::Linux);
    }
    match multiboot::find(head) {
        Ok(_) | Err(Header::Multiboot2 { .. }) if offers_pvh(kernel, kind)? => {
            Ok(Nature::BareMetal(Some(Protocol::Pvh)))
        }
        Ok(header) => Ok(Nature::Multiboot(header)),
        // Four bytes in a vmlinux can look like a magic number.
        Err(Header::Checksum { .. } | Header::CutOff { .. }) if *kind == Kind::Elf => {
            Ok(Nature::Linux)
        }
        Err(Header::Absent) => Ok(Nature::Linux),
        Err(_) => header_of(kernel, head).map(Nature::Multiboot),
    }
}

fn offers_pvh(kernel: &Blob, kind: &Kind) -> Result<bool, Error> {
    if *kind != Kind::Elf {
        return Ok(false);
    }
    Ok(matches!(parse(kernel)?, Image::Elf(elf) if elf.pvh_entry.is_some()))
}

fn header_of(kernel: &Blob, head: &[u8]) -> Result<Header, Error> {
    multiboot::find(head).map_err(|source| Error::Multiboot {
        name: kernel.name().to_owned(),
        source: source.into(),
    })
}

fn head_of(kernel: &Blob) -> Result<Vec<u8>, Error> {
    kernel.head(SEARCH_2).map_err(|source| Error::Read {
        name: kernel.name().to_owned(),
        source,
    })
}
