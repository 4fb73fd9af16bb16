//! Loading: a kernel file's bytes go into guest memory, unpacked on the way if need be.
//!
//! ```text
//!  vmlinux          load_elf                         no copy in our memory
//!  packed vmlinux   unpack_part, then as above       one copy
//!  bzImage          unpack_payload, then load_elf    one copy ([`Unpack::Host`])
//!  bzImage          load_packed                      none; the guest unpacks ([`Unpack::Guest`])
//! ```
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12; `[lib]` Linux
//! `scripts/Makefile.lib`, size_append. Read next: [`super::memory_map`].

use linux_loader::bootparam::setup_header;
use vm_memory::GuestAddress;

use super::blob::Blob;
use super::bzimage::BzImage;
use super::elf::Elf;
use super::identify::{HEAD, Kind, identify};
use super::image::{Image, bzimage_error, elf_error, parse};
use super::multiboot::{self, SEARCH_2};
use super::unpack::{self, Algorithm, Size};
use super::{Error, LoadedKernel, Options, Protocol, Unpack};
use crate::memory::GuestMemory;
use crate::memory::layout::{CMDLINE_MAX_SIZE, MMIO_GAP_START};

/// Most bytes a packed vmlinux may unpack to: with debug information it is several hundred MiB.
const UNPACKED_MAX: u64 = 1 << 30; // 1 GiB
/// Linux keeps 2048 bytes of command line on x86 (COMMAND_LINE_SIZE), the NUL included. A bzImage
/// says so itself; for a bare vmlinux we know it.
const LINUX_CMDLINE_MAX: u64 = 2047;
/// Size of the unpacked length at the end of a payload.
const TRAILER: u64 = 4;

/// Loads the kernel into guest memory.
///
/// # Errors
/// [`Error`], with the file's name and the numbers that do not fit.
pub fn load_kernel(
    kernel: &Blob,
    options: &Options,
    memory: &GuestMemory,
) -> Result<LoadedKernel, Error> {
    load_seen(kernel, (options, &mut |_unpacked| {}), memory)
}

/// Who is shown what came out of a packed kernel, before it is judged.
pub type Onlooker<'a> = &'a mut dyn FnMut(&Blob);

/// The same, with somebody who looks on while it is unpacked.
///
/// # Errors
/// As [`load_kernel`].
pub fn load_seen(
    kernel: &Blob,
    (options, seen): (&Options, Onlooker<'_>),
    memory: &GuestMemory,
) -> Result<LoadedKernel, Error> {
    let image = parse(kernel)?;
    let Image::Packed(algorithm) = image else {
        return load_image(kernel, &image, (options, seen), memory);
    };
    let inner = unpack_whole(kernel, algorithm)?;
    seen(&inner);
    let wrong = |what| Error::NotAKernel {
        name: kernel.name().to_owned(),
        what: format!("a file packed with {algorithm} with {what} in it"),
    };
    let image = match parse(&inner) {
        // Nobody packs twice; whoever does may unpack once.
        Ok(Image::Packed(again)) => return Err(wrong(format!("another one packed with {again}"))),
        Err(Error::NotAKernel { what, .. }) => return Err(wrong(what)),
        image => image?,
    };
    if options.protocol.is_none() && matches!(&image, Image::Elf(elf) if elf.pvh_entry.is_none()) {
        refuse_packed_multiboot(&inner)?;
    }
    let mut loaded = load_image(&inner, &image, (options, seen), memory)?;
    loaded.summary = format!("{algorithm} of {}", loaded.summary);
    Ok(loaded)
}

/// Unpacks a file that is packed as a whole.
pub(super) fn unpack_whole(kernel: &Blob, algorithm: Algorithm) -> Result<Blob, Error> {
    let size = Size {
        limit: UNPACKED_MAX,
        expected: None,
    };
    unpack_part(kernel, (0, kernel.len()), algorithm, size)
}

/// Loads an ELF file or bzImage.
fn load_image(
    kernel: &Blob,
    image: &Image,
    (options, seen): (&Options, Onlooker<'_>),
    memory: &GuestMemory,
) -> Result<LoadedKernel, Error> {
    let loaded = match image {
        Image::Elf(elf) => load_elf(kernel, elf, options, memory)?,
        Image::BzImage(bzimage, algorithm) => match options.unpack {
            // Nothing in it is packed: there is one way only.
            _ if bzimage.payload_len == 0 => load_packed(kernel, bzimage, options, memory)?,
            Unpack::Host => {
                let vmlinux = unpack_payload(kernel, bzimage, *algorithm, memory)?;
                seen(&vmlinux);
                load_unpacked(&vmlinux, bzimage, options, memory)?
            }
            Unpack::Guest => load_packed(kernel, bzimage, options, memory)?,
        },
        Image::Packed(algorithm) => {
            return Err(Error::NotAKernel {
                name: kernel.name().to_owned(),
                what: Kind::Packed(*algorithm).phrase(),
            });
        }
    };
    let version = match image {
        Image::BzImage(bzimage, _) => bzimage.version.as_deref(),
        _ => None,
    };
    // "6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP ..."
    let version = version.and_then(|text| text.split(' ').next());
    Ok(LoadedKernel {
        version: version.map(str::to_owned),
        summary: image.to_string(),
        ..loaded
    })
}

/// What is a multiboot kernel must be known before the machine around it is made.
fn refuse_packed_multiboot(inner: &Blob) -> Result<(), Error> {
    let head = inner.head(SEARCH_2).map_err(|source| Error::Read {
        name: inner.name().to_owned(),
        source,
    })?;
    if multiboot::find(&head).is_err() {
        return Ok(());
    }
    Err(Error::NotOffered {
        name: inner.name().to_owned(),
        asked: Protocol::Linux64,
        offered: "multiboot, which must be asked for, by --protocol multiboot, where the file is packed",
    })
}

/// Loads a vmlinux. The default boot takes this path, and no other memory than the guest's.
fn load_elf(
    kernel: &Blob,
    elf: &Elf,
    options: &Options,
    memory: &GuestMemory,
) -> Result<LoadedKernel, Error> {
    let (protocol, entry) = match (options.protocol, elf.pvh_entry) {
        (None | Some(Protocol::Linux64), _) => (Protocol::Linux64, elf.entry),
        (Some(Protocol::Pvh), Some(entry)) => (Protocol::Pvh, entry),
        (Some(asked), _) => {
            return Err(Error::NotOffered {
                name: kernel.name().to_owned(),
                asked,
                offered: "only the Linux 64-bit boot protocol (built without CONFIG_PVH?)",
            });
        }
    };
    elf.load(kernel, memory)
        .map_err(|source| elf_error(kernel, source))?;
    Ok(LoadedKernel {
        entry: GuestAddress(entry),
        protocol,
        start: GuestAddress(elf.start),
        end: GuestAddress(elf.end),
        setup_header: None,
        // A 64-bit kernel takes its initramfs anywhere in RAM; ours goes below the gap.
        initramfs_max: MMIO_GAP_START.0,
        cmdline_max: LINUX_CMDLINE_MAX,
        version: None,
        summary: String::new(),
    })
}

/// Loads the vmlinux that was the payload of a bzImage.
fn load_unpacked(
    vmlinux: &Blob,
    image: &BzImage,
    options: &Options,
    memory: &GuestMemory,
) -> Result<LoadedKernel, Error> {
    let head = vmlinux.head(HEAD).map_err(|source| Error::Read {
        name: vmlinux.name().to_owned(),
        source,
    })?;
    match identify(&head) {
        Kind::Elf => {}
        other => {
            return Err(Error::NotAKernel {
                name: vmlinux.name().to_owned(),
                what: other.phrase(),
            });
        }
    }
    let elf = Elf::parse(vmlinux, &head).map_err(|source| elf_error(vmlinux, source))?;
    let loaded = load_elf(vmlinux, &elf, options, memory)?;
    Ok(with_header(loaded, &image.header))
}

/// Loads a bzImage that unpacks itself.
fn load_packed(
    kernel: &Blob,
    image: &BzImage,
    options: &Options,
    memory: &GuestMemory,
) -> Result<LoadedKernel, Error> {
    if let Some(asked @ (Protocol::Pvh | Protocol::Multiboot)) = options.protocol {
        return Err(Error::NotOffered {
            name: kernel.name().to_owned(),
            asked,
            offered: match image.payload_len {
                0 => "only the Linux boot protocol, which `--protocol auto` takes",
                _ => "only the Linux 64-bit boot protocol while packed; leave out --unpack guest",
            },
        });
    }
    let placed = image.load(kernel, memory);
    let placed = placed.map_err(|source| bzimage_error(kernel, source))?;
    if let (Protocol::Linux32, Some(asked)) = (placed.protocol, options.protocol) {
        return Err(Error::NotOffered {
            name: kernel.name().to_owned(),
            asked,
            offered: "only the Linux 32-bit boot protocol, which `--protocol auto` takes",
        });
    }
    let loaded = LoadedKernel {
        entry: placed.entry,
        protocol: placed.protocol,
        start: placed.start,
        end: placed.end,
        setup_header: None,
        initramfs_max: MMIO_GAP_START.0,
        cmdline_max: LINUX_CMDLINE_MAX,
        version: None,
        summary: String::new(),
    };
    Ok(with_header(loaded, &image.header))
}

/// Takes over the limits the setup header states.
fn with_header(loaded: LoadedKernel, header: &setup_header) -> LoadedKernel {
    // [boot] initrd_addr_max: the highest address the initramfs may occupy.
    let highest = u64::from(header.initrd_addr_max);
    // [boot] cmdline_size: "maximum size of the command line without the terminating zero".
    let cmdline = u64::from(header.cmdline_size);
    LoadedKernel {
        setup_header: Some(*header),
        initramfs_max: loaded.initramfs_max.min(highest + 1),
        cmdline_max: cmdline.min(CMDLINE_MAX_SIZE - 1),
        ..loaded
    }
}

fn unpack_payload(
    kernel: &Blob,
    image: &BzImage,
    algorithm: Option<Algorithm>,
    memory: &GuestMemory,
) -> Result<Blob, Error> {
    let algorithm = algorithm.ok_or_else(|| Error::NotAKernel {
        name: kernel.name().to_owned(),
        what: "a bzImage packed in a way we do not know".into(),
    })?;
    let (start, len) = (image.payload_offset, image.payload_len);
    let mut trailer = [0; 4];
    let at = (start + len).saturating_sub(TRAILER);
    kernel
        .read_exact_at(at, &mut trailer)
        .map_err(|source| Error::Read {
            name: kernel.name().to_owned(),
            source,
        })?;
    // [lib] size_append. A vmlinux larger than guest memory cannot be loaded; and the kernel's
    // own unpacker believes the same number.
    let unpacked = u64::from(u32::from_le_bytes(trailer));
    if unpacked > memory.size() {
        return Err(Error::LargerThanMemory {
            name: kernel.name().to_owned(),
            unpacked,
            memory: memory.size(),
        });
    }
    let size = Size {
        limit: UNPACKED_MAX.min(memory.size()),
        expected: Some(unpacked).filter(|unpacked| *unpacked > 0),
    };
    // gzip ends with that size itself; to the others it was appended.
    let len = match algorithm {
        Algorithm::Gzip => len,
        _ => len.saturating_sub(TRAILER),
    };
    unpack_part(kernel, (start, len), algorithm, size)
}

fn unpack_part(
    kernel: &Blob,
    (start, len): (u64, u64),
    algorithm: Algorithm,
    size: Size,
) -> Result<Blob, Error> {
    let bytes = unpack::unpack(kernel, start, len, algorithm, size);
    let bytes = bytes.map_err(|source| Error::Unpack {
        name: kernel.name().to_owned(),
        source,
    })?;
    Ok(Blob::memory(bytes, format!("{} (unpacked)", kernel.name())))
}
