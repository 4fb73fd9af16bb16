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
//! The machine chapter calls three functions in this order: [`load_kernel`], [`place_initramfs`],
//! [`write_boot_info`]. What they return is all the vCPU's entry state needs. The first megabyte is
//! ours (see [`crate::memory::layout`]), the kernel goes where it asks to be, and the initramfs
//! right above it.
//!
//! Not every guest is a Linux: [`choose`] tells, and [`multiboot`] has a loader of its own.
//!
//! Reading is kept apart from loading: [`parse`] says what a kernel is without any guest.
//!
//! A kernel unpacked here runs where it was linked: no KASLR. Who wants KASLR uses
//! [`Unpack::Guest`] and pays for it in boot time.
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12; `[pvh]` Xen
//! `docs/misc/pvh.pandoc`.
//! Read next: [`blob`], then the modules in this order.

#[cfg(test)]
pub(crate) mod testing;
pub mod blob;
pub mod identify;
pub mod elf;
pub mod elf_headers;
pub mod notes;
pub mod bzimage;
pub mod unpack;
pub mod image;
pub mod load;
pub mod memory_map;
pub mod zero_page;
pub mod pvh;
pub mod newc;
pub mod initramfs;
pub mod pack;
pub mod multiboot;
pub mod nature;

use std::fmt;

use linux_loader::bootparam::setup_header;
use vm_memory::{ByteValued, GuestAddress};

use crate::memory::layout::{CMDLINE, CMDLINE_MAX_SIZE, PVH_START_INFO, ZERO_PAGE};
use crate::memory::{GuestMemory, guest};

pub use blob::Blob;
pub use image::{Image, parse};
pub use initramfs::{Initramfs, InitramfsRange};
pub use load::{load_kernel, load_seen};
pub use nature::{Nature, choose};

/// Why a guest cannot be prepared for boot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is something else.
    #[error(
        "{name} is {what}, not a kernel; vmlinux (ELF) and bzImage files boot, packed or not, and \
         multiboot kernels"
    )]
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
    /// It is packed, and what is in it is larger than the guest.
    #[error("Kernel {name} unpacks to {unpacked:#x} bytes, guest memory has {memory:#x}")]
    LargerThanMemory {
        /// The file.
        name: String,
        /// What its payload's trailer says.
        unpacked: u64,
        /// Guest memory size.
        memory: u64,
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
    #[error(
        "Cannot pass a command line of {len} bytes: this kernel takes at most {max}; shorten \
         --cmdline or --append"
    )]
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
    /// It is a multiboot kernel, or was asked to be one, but...
    #[error("Cannot boot multiboot kernel {name}")]
    Multiboot {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: multiboot::Error,
    },
    /// Guest memory refused the tables.
    #[error("Cannot write the boot tables into the guest")]
    Write(#[source] guest::Error),
}

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `[boot]` "64-bit Boot Protocol": long mode, %rsi holds the zero page.
    Linux64,
    /// `[boot]` "32-bit Boot Protocol": %esi holds the zero page. Only for what cannot do better.
    Linux32,
    /// `[pvh]` 32-bit protected mode without paging, %ebx holds the start info.
    Pvh,
    /// The same, %ebx holds the information of [`multiboot`].
    Multiboot,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux64 => "the Linux 64-bit boot protocol",
            Self::Linux32 => "the Linux 32-bit boot protocol",
            Self::Pvh => "PVH",
            Self::Multiboot => "multiboot",
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
    /// Its version as `uname -r` has it, if its file says so, as a bzImage does.
    pub version: Option<String>,
    /// What the kernel is, in words.
    pub summary: String,
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
        Protocol::Linux64 | Protocol::Linux32 => {
            let page = zero_page::zero_page(kernel.setup_header, len, &map, initramfs, rsdp);
            memory
                .write(ZERO_PAGE, page.as_slice())
                .map_err(Error::Write)?;
            ZERO_PAGE
        }
        // A multiboot kernel's are written by `multiboot::load`.
        Protocol::Pvh | Protocol::Multiboot => {
            let bytes = pvh::start_info(&map, initramfs, rsdp);
            memory.write(PVH_START_INFO, &bytes).map_err(Error::Write)?;
            PVH_START_INFO
        }
    };
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::testing::{bzimage, elf, lz4, lz4_payload, put, segment, small_elf};
    use super::*;

    fn load(image: Vec<u8>, options: Options) -> Result<(LoadedKernel, GuestMemory), Error> {
        let memory = GuestMemory::new(8 << 20).unwrap();
        let kernel = Blob::memory(image, "vmlinuz".into());
        load_kernel(&kernel, &options, &memory).map(|loaded| (loaded, memory))
    }

    /// The message and its causes, the way the program prints them.
    fn refusal(image: Vec<u8>, options: Options) -> String {
        let error = load(image, options).unwrap_err();
        let causes = std::iter::successors(std::error::Error::source(&error), |e| e.source());
        causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
    }

    fn guest() -> Options {
        Options {
            unpack: Unpack::Guest,
            ..Options::default()
        }
    }

    fn pvh() -> Options {
        Options {
            protocol: Some(Protocol::Pvh),
            ..Options::default()
        }
    }

    #[test]
    fn vmlinux_is_entered_by_the_linux_protocol_unless_asked() {
        let (kernel, _) = load(small_elf(), Options::default()).unwrap();
        assert_eq!(
            (kernel.protocol, kernel.entry.0),
            (Protocol::Linux64, 0x20_0000)
        );
        assert_eq!(kernel.summary, "vmlinux, 1 segments, PVH");
        let (kernel, _) = load(small_elf(), pvh()).unwrap();
        assert_eq!(
            (kernel.protocol, kernel.entry.0),
            (Protocol::Pvh, 0x20_0010)
        );
    }

    #[test]
    fn bzimage_is_unpacked_on_the_host() {
        let (kernel, memory) =
            load(bzimage(&lz4_payload(&small_elf())), Options::default()).unwrap();
        assert_eq!(kernel.entry.0, 0x20_0000);
        assert_eq!(kernel.initramfs_max, 0x8000_0000);
        assert_eq!(kernel.summary, "bzImage, lz4, 6.12.0-test (cottage)");
        assert_eq!(kernel.version.as_deref(), Some("6.12.0-test"));
        let mut byte = [0];
        memory.read(GuestAddress(0x20_003f), &mut byte).unwrap();
        assert_eq!(byte, [0x90]);
    }

    #[test]
    fn bzimage_may_unpack_itself() {
        let (kernel, memory) = load(bzimage(&lz4_payload(&small_elf())), guest()).unwrap();
        assert_eq!((kernel.entry.0, kernel.end.0), (0x20_0200, 0x30_0000));
        let mut byte = [0];
        memory.read(GuestAddress(0x20_03ff), &mut byte).unwrap();
        assert_eq!(byte, [0xcc]);
    }

    #[test]
    fn packed_vmlinux_is_unpacked() {
        let (kernel, _) = load(lz4(&small_elf()), Options::default()).unwrap();
        assert_eq!(kernel.summary, "lz4 of vmlinux, 1 segments, PVH");
    }

    #[test]
    fn packed_bzimage_is_unpacked_twice() {
        let image = lz4(&bzimage(&lz4_payload(&small_elf())));
        let (kernel, _) = load(image, Options::default()).unwrap();
        assert_eq!(kernel.entry.0, 0x20_0000);
    }

    #[test]
    fn file_that_is_no_kernel_is_named() {
        assert_eq!(
            refusal(b"console=ttyS0\n".to_vec(), Options::default()),
            "vmlinuz is a text file, not a kernel; vmlinux (ELF) and bzImage files boot, packed or \
             not, and multiboot kernels"
        );
    }

    #[test]
    fn archive_without_kernel_is_named_with_its_content() {
        let text = refusal(lz4(b"just some text in an archive\n"), Options::default());
        assert!(text.starts_with("vmlinuz is a file packed with lz4 with a text file in it, not"));
    }

    #[test]
    fn kernel_packed_twice_is_refused() {
        let text = refusal(lz4(&lz4(&small_elf())), Options::default());
        assert!(
            text.contains("with another one packed with lz4 in it"),
            "{text}"
        );
    }

    #[test]
    fn pvh_of_a_kernel_without_it_is_refused() {
        let image = elf(0x20_0000, &[segment(0x20_0000, &[0x90; 64])], b"");
        assert_eq!(
            refusal(image, pvh()),
            "Kernel vmlinuz cannot be entered by PVH: it offers only the Linux 64-bit boot \
             protocol (built without CONFIG_PVH?)"
        );
    }

    #[test]
    fn pvh_of_a_packed_kernel_is_refused() {
        let options = Options {
            unpack: Unpack::Guest,
            ..pvh()
        };
        let text = refusal(bzimage(&lz4_payload(&small_elf())), options);
        assert!(
            text.ends_with("while packed; leave out --unpack guest"),
            "{text}"
        );
    }

    #[test]
    fn payload_of_unknown_packing_is_refused() {
        let text = refusal(bzimage(b"what is this? \0\0\0\0"), Options::default());
        assert!(
            text.starts_with("vmlinuz is a bzImage packed in a way we do not know"),
            "{text}"
        );
    }

    #[test]
    fn payload_that_is_no_elf_is_refused() {
        let text = refusal(
            bzimage(&lz4_payload(b"just some text instead")),
            Options::default(),
        );
        assert!(
            text.starts_with("vmlinuz (unpacked) is a text file, not a kernel"),
            "{text}"
        );
    }

    #[test]
    fn payload_larger_than_memory_is_refused_before_unpacking() {
        let mut payload = lz4_payload(&small_elf());
        let at = payload.len() - 4;
        put(&mut payload, at, &0x80_0001_u32.to_le_bytes());
        assert_eq!(
            refusal(bzimage(&payload), Options::default()),
            "Kernel vmlinuz unpacks to 0x800001 bytes, guest memory has 0x800000"
        );
    }

    #[test]
    fn payload_longer_than_its_trailer_says_is_refused() {
        let mut payload = lz4_payload(&small_elf());
        let at = payload.len() - 4;
        put(&mut payload, at, &16_u32.to_le_bytes());
        assert_eq!(
            refusal(bzimage(&payload), Options::default()),
            "Cannot unpack kernel vmlinuz: Cannot unpack lz4 data: more than 0x10 bytes come out"
        );
    }

    #[test]
    fn payload_shorter_than_its_trailer_says_is_refused() {
        let mut payload = lz4_payload(&small_elf());
        let at = payload.len() - 4;
        put(&mut payload, at, &0x2000_u32.to_le_bytes());
        assert_eq!(
            refusal(bzimage(&payload), Options::default()),
            "Cannot unpack kernel vmlinuz: Cannot unpack lz4 data: 0x1070 bytes came out, 0x2000 \
             were announced"
        );
    }

    #[test]
    fn broken_elf_in_a_bzimage_is_named_as_unpacked() {
        let mut image = small_elf();
        put(&mut image, 24, &[0; 8]);
        assert_eq!(
            refusal(bzimage(&lz4_payload(&image)), Options::default()),
            "Cannot boot ELF kernel vmlinuz (unpacked): The 64-bit entry 0x0 lies in no loaded \
             segment"
        );
    }

    #[test]
    fn boot_info_goes_where_the_protocol_wants_it() {
        let (kernel, memory) = load(small_elf(), Options::default()).unwrap();
        let at = write_boot_info(&memory, &kernel, b"quiet", None, None).unwrap();
        assert_eq!(at, ZERO_PAGE);
        let mut magic = [0; 4];
        memory.read(GuestAddress(at.0 + 0x202), &mut magic).unwrap();
        assert_eq!(&magic, b"HdrS");
        let mut cmdline = [1; 6];
        memory.read(CMDLINE, &mut cmdline).unwrap();
        assert_eq!(&cmdline, b"quiet\0");
        let (kernel, memory) = load(small_elf(), pvh()).unwrap();
        let at = write_boot_info(&memory, &kernel, b"quiet", None, None).unwrap();
        assert_eq!(at, PVH_START_INFO);
    }

    #[test]
    fn command_line_longer_than_the_kernel_takes_is_refused() {
        let (kernel, memory) = load(small_elf(), Options::default()).unwrap();
        write_boot_info(&memory, &kernel, &[b'a'; 2047], None, None).unwrap();
        let error = write_boot_info(&memory, &kernel, &[b'a'; 2048], None, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cannot pass a command line of 2048 bytes: this kernel takes at most 2047; shorten \
             --cmdline or --append"
        );
    }

    #[test]
    fn bzimage_states_its_own_command_line_limit() {
        let mut image = bzimage(&lz4_payload(&small_elf()));
        put(&mut image, 0x238, &10u32.to_le_bytes());
        let (kernel, memory) = load(image, Options::default()).unwrap();
        let error = write_boot_info(&memory, &kernel, b"panic=-1 ro", None, None).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("of 11 bytes: this kernel takes at most 10;")
        );
    }

    #[test]
    fn command_line_with_a_nul_is_refused() {
        let (kernel, memory) = load(small_elf(), Options::default()).unwrap();
        let error = write_boot_info(&memory, &kernel, b"a\0b", None, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cannot pass a command line with a NUL in it (byte 1)"
        );
    }

    #[test]
    fn initramfs_follows_the_kernel() {
        let (kernel, memory) = load(small_elf(), Options::default()).unwrap();
        let mut initramfs = Initramfs::new();
        initramfs.file("init", 0o755, b"x").unwrap();
        let range = place_initramfs(&initramfs, &kernel, &memory).unwrap();
        assert_eq!(range.start, GuestAddress(0x20_1000));
        let mut magic = [0; 6];
        memory.read(range.start, &mut magic).unwrap();
        assert_eq!(&magic, b"070701");
    }
}
