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
use super::bzimage::has_payload;
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
        Some(_) | None if kind == Kind::BzImage => match has_payload(&head) {
            true => Nature::Linux,
            false => Nature::BareMetal(None),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::{
        bzimage, elf, lz4, multiboot_header, note, put, segment, small_elf, small_multiboot,
    };
    use crate::boot::{Options, load_kernel};
    use crate::memory::GuestMemory;

    fn blob(bytes: Vec<u8>) -> Blob {
        Blob::memory(bytes, "kernel".into())
    }

    fn nature(image: Vec<u8>, asked: Option<Protocol>) -> Result<Nature, String> {
        let chosen = choose(blob(image), asked);
        chosen.map(|(_, nature)| nature).map_err(|error| {
            let causes = std::iter::successors(std::error::Error::source(&error), |e| e.source());
            causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
        })
    }

    #[test]
    fn linux_is_taken_for_linux() {
        assert_eq!(nature(small_elf(), None), Ok(Nature::Linux));
        let image = bzimage(b"payload and size");
        assert_eq!(nature(image, None), Ok(Nature::Linux));
        assert_eq!(nature(lz4(&small_multiboot()), None), Ok(Nature::Linux));
        assert_eq!(nature(b"a text file\n".to_vec(), None), Ok(Nature::Linux));
    }

    #[test]
    fn multiboot_header_makes_a_multiboot_kernel() {
        let is_multiboot = |image| matches!(nature(image, None), Ok(Nature::Multiboot(_)));
        assert!(is_multiboot(small_multiboot()));
        let addresses = [0x10_0000, 0x10_0000, 0, 0, 0x10_0020];
        assert!(is_multiboot(multiboot_header(1 << 16, &addresses)));
        let code = multiboot_header(0, &[]);
        assert!(is_multiboot(elf(
            0x20_0000,
            &[segment(0x20_0000, &code)],
            b""
        )));
    }

    #[test]
    fn kernel_with_both_goes_by_pvh_unless_asked() {
        let note = note(b"Xen\0", 18, &0x20_0000_u32.to_le_bytes());
        let image = elf(
            0x20_0000,
            &[segment(0x20_0000, &multiboot_header(0, &[]))],
            &note,
        );
        let pvh = Nature::BareMetal(Some(Protocol::Pvh));
        assert_eq!(nature(image.clone(), None), Ok(pvh));
        assert_eq!(
            nature(image.clone(), Some(Protocol::Linux64)),
            Ok(Nature::Linux)
        );
        let asked = nature(image, Some(Protocol::Multiboot));
        assert!(matches!(asked, Ok(Nature::Multiboot(_))));
    }

    #[test]
    fn bzimage_with_nothing_packed_in_it_is_no_linux() {
        let mut image = bzimage(b"payload and size");
        put(&mut image, 0x248, &[0; 8]);
        assert_eq!(nature(image.clone(), None), Ok(Nature::BareMetal(None)));
        put(&mut image, 0x236, &[0; 2]); // xloadflags
        let memory = GuestMemory::new(4 << 20).unwrap();
        let kernel = load_kernel(&blob(image), &Options::default(), &memory).unwrap();
        assert_eq!(
            (kernel.protocol, kernel.entry.0),
            (Protocol::Linux32, 0x20_0000)
        );
    }

    #[test]
    fn packed_multiboot_kernel_is_unpacked_when_asked_for() {
        let asked = nature(lz4(&small_multiboot()), Some(Protocol::Multiboot));
        assert!(matches!(asked, Ok(Nature::Multiboot(_))));
    }

    #[test]
    fn multiboot_asked_of_a_kernel_without_is_refused() {
        assert_eq!(
            nature(small_elf(), Some(Protocol::Multiboot)).unwrap_err(),
            "Cannot boot multiboot kernel kernel: It has no multiboot header in its first 8192 bytes"
        );
    }

    #[test]
    fn multiboot2_only_is_refused_unless_it_has_another_way_in() {
        let mut code = 0xe852_50d6_u32.to_le_bytes().to_vec();
        code.resize(64, 0);
        let image = elf(0x20_0000, &[segment(0x20_0000, &code)], b"");
        assert!(
            nature(image, None)
                .unwrap_err()
                .contains("is of multiboot 2")
        );
        let note = note(b"Xen\0", 18, &0x20_0000_u32.to_le_bytes());
        let image = elf(0x20_0000, &[segment(0x20_0000, &code)], &note);
        let pvh = Nature::BareMetal(Some(Protocol::Pvh));
        assert_eq!(nature(image, None), Ok(pvh));
    }
}
