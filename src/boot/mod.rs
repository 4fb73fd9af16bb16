//! Chapter 5: from a kernel file to a guest whose memory is ready to be entered.
//!
//! ```text
//!  Blob ──► identify ──► elf::parse ───────────────────────► elf::load ──► LoadedKernel
//!   (bytes)     │                        ▲                                     ▲
//!               ├─► unpack ──────────────┤  packed vmlinux                     │
//!               └─► bzimage::parse ──► unpack (on the host) ... or load as it is ┘
//!
//!  LoadedKernel ──► place_initramfs ──► write_boot_info: zero page or PVH start info
//! ```
//!
//! [`crate::machine`] calls three functions in this order: [`load_kernel`], [`place_initramfs`],
//! [`write_boot_info`]. What they return is all the vCPU's entry state needs. The first megabyte is
//! ours (see [`crate::memory::layout`]), the kernel goes where it asks to be, and the initramfs
//! right above it.
//!
//! Reading is kept apart from loading: [`parse`] says what a kernel is without any guest.
//!
//! A kernel unpacked here runs where it was linked: no KASLR. Who wants KASLR uses
//! [`Unpack::Guest`] and pays for it in boot time.
//!
//! Sources: [boot] Linux `Documentation/arch/x86/boot.rst`, v6.12; [pvh] Xen `docs/misc/pvh.pandoc`.
//! Read next: [`blob`], then the modules in this order.

pub mod blob;
pub mod identify;
pub mod elf;
pub mod bzimage;
pub mod unpack;
pub mod memory_map;
pub mod zero_page;
pub mod pvh;
pub mod initramfs;

use std::fmt;

use linux_loader::bootparam::setup_header;
use vm_memory::{ByteValued, GuestAddress};

use crate::memory::layout::{CMDLINE, CMDLINE_MAX_SIZE, PVH_START_INFO, ZERO_PAGE};
use crate::memory::{GuestMemory, guest};
use bzimage::BzImage;
use elf::Elf;
use identify::{HEAD, Kind, identify};
use unpack::{Algorithm, Size};

pub use blob::Blob;
pub use initramfs::{Initramfs, InitramfsRange};

/// Most bytes a packed vmlinux may unpack to: with debug information it is several hundred MiB.
const UNPACKED_MAX: u64 = 1 << 30; // 1 GiB
/// Linux keeps 2048 bytes of command line on x86 (COMMAND_LINE_SIZE), the NUL included. A bzImage
/// says so itself; for a bare vmlinux we know it.
const LINUX_CMDLINE_MAX: u64 = 2047;
/// Size of the unpacked length at the end of a payload.
const TRAILER: u64 = 4;

/// Why a guest cannot be prepared for boot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is something else.
    #[error("{name} is {what}, not a kernel; vmlinux (ELF) and bzImage files boot, packed or not")]
    NotAKernel {
        /// The file.
        name: String,
        /// A phrase from [`identify`].
        what: String,
    },
    /// The file could not be read.
    #[error("Cannot read kernel {name}")]
    Read {
        /// The file.
        name: String,
        /// Why.
        source: blob::Error,
    },
    /// It is an ELF file, but...
    #[error("Cannot boot ELF kernel {name}")]
    Elf {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: elf::Error,
    },
    /// It is a bzImage, but...
    #[error("Cannot boot bzImage {name}")]
    BzImage {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: bzimage::Error,
    },
    /// It is packed, but...
    #[error("Cannot unpack kernel {name}")]
    Unpack {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: unpack::Error,
    },
    /// The protocol the user wants is not one the kernel has.
    #[error("Kernel {name} cannot be entered by {asked}: it offers {offered}")]
    NotOffered {
        /// The file.
        name: String,
        /// What was asked for.
        asked: Protocol,
        /// What there is.
        offered: &'static str,
    },
    /// The kernel would cut the command line off.
    #[error("Cannot pass a command line of {len} bytes: this kernel takes at most {max}")]
    CmdlineTooLong {
        /// Its length.
        len: u64,
        /// The kernel's limit.
        max: u64,
    },
    /// The kernel would stop reading in the middle.
    #[error("Cannot pass a command line with a NUL in it (byte {at})")]
    CmdlineNul {
        /// Where.
        at: usize,
    },
    /// The initramfs is no good or does not fit.
    #[error(transparent)]
    Initramfs(#[from] initramfs::Error),
    /// Guest memory refused the tables.
    #[error("Cannot write the boot tables into the guest")]
    Write(#[source] guest::Error),
}

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// [boot] "64-bit Boot Protocol": long mode, %rsi holds the zero page.
    Linux64,
    /// [pvh] 32-bit protected mode without paging, %ebx holds the start info.
    Pvh,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux64 => "the Linux 64-bit boot protocol",
            Self::Pvh => "PVH",
        })
    }
}

/// Who unpacks a bzImage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unpack {
    /// We do, before the guest runs: faster, no KASLR.
    #[default]
    Host,
    /// The kernel's own unpacker does, as on a PC. Other kernel files are not affected.
    Guest,
}

/// What the user may choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The entry protocol; if `None`, Linux's own.
    pub protocol: Option<Protocol>,
    /// Who unpacks a bzImage.
    pub unpack: Unpack,
}

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

/// A kernel in guest memory, and all that the steps after loading must know of it.
#[derive(Clone, Debug)]
pub struct LoadedKernel {
    /// Guest-physical address of the first instruction.
    pub entry: GuestAddress,
    /// In which state the vCPU must be there.
    pub protocol: Protocol,
    /// First guest-physical address of the kernel.
    pub start: GuestAddress,
    /// First address after the memory the kernel uses before it knows its memory map.
    pub end: GuestAddress,
    /// The setup header, if it came in a bzImage.
    pub setup_header: Option<setup_header>,
    /// The initramfs must end at or below this address.
    pub initramfs_max: u64,
    /// Longest command line in bytes, without its NUL.
    pub cmdline_max: u64,
    /// What the kernel is, in words.
    pub summary: String,
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

/// Loads the kernel into guest memory.
///
/// # Errors
/// [`Error`], with the file's name and the numbers that do not fit.
pub fn load_kernel(
    kernel: &Blob,
    options: &Options,
    memory: &GuestMemory,
) -> Result<LoadedKernel, Error> {
    let image = parse(kernel)?;
    let Image::Packed(algorithm) = image else {
        return load_image(kernel, &image, options, memory);
    };
    let size = Size {
        limit: UNPACKED_MAX,
        expected: None,
    };
    let inner = unpack_part(kernel, (0, kernel.len()), algorithm, size)?;
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
    let mut loaded = load_image(&inner, &image, options, memory)?;
    loaded.summary = format!("{algorithm} of {}", loaded.summary);
    Ok(loaded)
}

/// Loads an ELF file or bzImage.
fn load_image(
    kernel: &Blob,
    image: &Image,
    options: &Options,
    memory: &GuestMemory,
) -> Result<LoadedKernel, Error> {
    let loaded = match image {
        Image::Elf(elf) => load_elf(kernel, elf, options, memory)?,
        Image::BzImage(bzimage, algorithm) => match options.unpack {
            Unpack::Host => load_unpacked(kernel, bzimage, *algorithm, (options, memory))?,
            Unpack::Guest => load_packed(kernel, bzimage, options, memory)?,
        },
        Image::Packed(algorithm) => {
            return Err(Error::NotAKernel {
                name: kernel.name().to_owned(),
                what: Kind::Packed(*algorithm).phrase(),
            });
        }
    };
    Ok(LoadedKernel {
        summary: image.to_string(),
        ..loaded
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
        (Some(asked @ Protocol::Pvh), None) => {
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
        initramfs_max: memory.low_end().0,
        cmdline_max: LINUX_CMDLINE_MAX,
        summary: String::new(),
    })
}

/// Unpacks the payload of a bzImage and loads the vmlinux in it.
fn load_unpacked(
    kernel: &Blob,
    image: &BzImage,
    algorithm: Option<Algorithm>,
    (options, memory): (&Options, &GuestMemory),
) -> Result<LoadedKernel, Error> {
    let vmlinux = unpack_payload(kernel, image, algorithm, memory)?;
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
    let elf = Elf::parse(&vmlinux, &head).map_err(|source| elf_error(&vmlinux, source))?;
    let loaded = load_elf(&vmlinux, &elf, options, memory)?;
    Ok(with_header(loaded, &image.header))
}

/// Loads a bzImage that unpacks itself.
fn load_packed(
    kernel: &Blob,
    image: &BzImage,
    options: &Options,
    memory: &GuestMemory,
) -> Result<LoadedKernel, Error> {
    if let Some(asked @ Protocol::Pvh) = options.protocol {
        return Err(Error::NotOffered {
            name: kernel.name().to_owned(),
            asked,
            offered: "only the Linux 64-bit boot protocol while packed; unpack it on the host",
        });
    }
    let placed = image.load(kernel, memory);
    let placed = placed.map_err(|source| bzimage_error(kernel, source))?;
    let loaded = LoadedKernel {
        entry: placed.entry,
        protocol: Protocol::Linux64,
        start: placed.start,
        end: placed.end,
        setup_header: None,
        initramfs_max: memory.low_end().0,
        cmdline_max: LINUX_CMDLINE_MAX,
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
    // A vmlinux larger than guest memory cannot be loaded anyway.
    let limit = UNPACKED_MAX.min(memory.size());
    let size = Size {
        limit,
        expected: Some(u64::from(u32::from_le_bytes(trailer))).filter(|size| *size <= limit),
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

fn elf_error(kernel: &Blob, source: elf::Error) -> Error {
    Error::Elf {
        name: kernel.name().to_owned(),
        source,
    }
}

fn bzimage_error(kernel: &Blob, source: bzimage::Error) -> Error {
    Error::BzImage {
        name: kernel.name().to_owned(),
        source,
    }
}

/// Copies the initramfs into guest memory, right above the kernel.
///
/// # Errors
/// [`Error::Initramfs`], with all the numbers if it does not fit.
pub fn place_initramfs(
    initramfs: &Initramfs<'_>,
    kernel: &LoadedKernel,
    memory: &GuestMemory,
) -> Result<InitramfsRange, Error> {
    let range = initramfs::place(initramfs.len(), kernel.end, kernel.initramfs_max, memory)?;
    initramfs.load(range.start, memory)?;
    Ok(range)
}

/// Writes the command line and what the kernel's protocol wants to know of the machine.
///
/// Returns the address the vCPU passes on: %rsi for [`Protocol::Linux64`], %ebx for
/// [`Protocol::Pvh`].
///
/// # Errors
/// [`Error::CmdlineTooLong`], [`Error::CmdlineNul`]; [`Error::Write`] if the guest has no first
/// megabyte.
pub fn write_boot_info(
    memory: &GuestMemory,
    kernel: &LoadedKernel,
    cmdline: &[u8],
    initramfs: Option<InitramfsRange>,
    rsdp: Option<GuestAddress>,
) -> Result<GuestAddress, Error> {
    let len = cmdline.len() as u64;
    let max = kernel.cmdline_max.min(CMDLINE_MAX_SIZE - 1);
    if len > max {
        return Err(Error::CmdlineTooLong { len, max });
    }
    if let Some(at) = cmdline.iter().position(|byte| *byte == 0) {
        return Err(Error::CmdlineNul { at });
    }
    // The NUL at its end is there already: guest RAM starts as zeros.
    memory.write(CMDLINE, cmdline).map_err(Error::Write)?;
    let map = memory_map::memory_map(memory.size());
    let at = match kernel.protocol {
        Protocol::Linux64 => {
            let page = zero_page::zero_page(kernel.setup_header, len, &map, initramfs, rsdp);
            memory
                .write(ZERO_PAGE, page.as_slice())
                .map_err(Error::Write)?;
            ZERO_PAGE
        }
        Protocol::Pvh => {
            let bytes = pvh::start_info(&map, initramfs, rsdp);
            memory.write(PVH_START_INFO, &bytes).map_err(Error::Write)?;
            PVH_START_INFO
        }
    };
    Ok(at)
}
