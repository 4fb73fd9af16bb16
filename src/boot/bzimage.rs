//! bzImage: the packed kernel with a setup header in front.
//!
//! ```text
//!  file offset
//!  0                 boot sector, with the setup header at 0x1f1
//!  0x200             16-bit setup code: we never run it
//!  (setup_sects+1)*512 ┬ protected-mode kernel: an unpacker (32-bit entry at +0, 64-bit entry
//!                      │ at +0x200) ...
//!   + payload_offset   │   ... and the packed vmlinux, its unpacked size in the last 4 bytes
//!   + syssize*16     ──┴ end; a signature may follow
//! ```
//!
//! There are two ways to boot one ([`super::Unpack`]): unpack the payload here, on the host, with
//! the host's full speed; or load the protected-mode kernel and let it unpack itself in the
//! guest, which costs guest time and memory but gives KASLR. [`BzImage::parse`] serves both,
//! [`BzImage::load`] is the second.
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12. Read next: [`super::unpack`].

use linux_loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use vm_memory::{ByteValued, GuestAddress};

use super::Protocol;
use super::blob::{self, Blob};
use crate::memory::GuestMemory;
use crate::memory::layout::{HIGH_RAM_START, MMIO_GAP_START};

/// `[boot]` Where the setup header starts in the file, and where "HdrS" is.
const SETUP_HEADER: usize = 0x1f1;
/// `[boot]` The byte at 0x201 counts the header's bytes from 0x202 on.
const HEADER_LENGTH: usize = 0x201;
const SECTOR: u64 = 512;
/// `[boot]` payload_offset and payload_length appear in protocol 2.08.
const PROTOCOL_WITH_PAYLOAD: u16 = 0x0208;
/// `[boot]` xloadflags, hence the 64-bit entry point, appears in protocol 2.12.
const PROTOCOL_WITH_64_BIT: u16 = 0x020c;
/// `[boot]` "64-bit Boot Protocol": the entry point is 0x200 bytes into the kernel.
const ENTRY_64: u64 = 0x200;
/// The version string is shorter; we stop looking after this many bytes.
const VERSION_MAX: usize = 256;

/// Why a bzImage cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file ends too early.
    #[error(
        "Cannot find the {what}: it ends at {end:#x}, but the file has {file:#x} bytes (cut off?)"
    )]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where the part ends.
        end: u64,
        /// Length of the file.
        file: u64,
    },
    /// A kernel older than what is asked of it.
    #[error(
        "Cannot use boot protocol {}.{:02}: to {purpose}, {}.{:02} is needed",
        version >> 8, version & 0xff, needed >> 8, needed & 0xff
    )]
    OldProtocol {
        /// The kernel's protocol version.
        version: u16,
        /// The version that introduced what is needed.
        needed: u16,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// loadflags without LOADED_HIGH.
    #[error(
        "Cannot boot a zImage (loadflags {loadflags:#04x}): its kernel goes below the first \
         megabyte"
    )]
    NotHigh {
        /// The header's field.
        loadflags: u8,
    },
    /// xloadflags without XLF_KERNEL_64.
    #[error(
        "Cannot enter this kernel in 64-bit mode (xloadflags {xloadflags:#06x}): it is a 32-bit \
         kernel"
    )]
    Not64Bit {
        /// The header's field.
        xloadflags: u16,
    },
    /// The packed kernel is not inside the protected-mode part.
    #[error(
        "Payload {offset:#x} + {len:#x} lies outside the protected-mode kernel of {kernel:#x} bytes"
    )]
    Payload {
        /// payload_offset.
        offset: u32,
        /// payload_length.
        len: u32,
        /// Bytes of protected-mode kernel in the file.
        kernel: u64,
    },
    /// A field has a value that makes no sense.
    #[error("Setup header field {field} is {value:#x}: {rule}")]
    Field {
        /// The field's name in `[boot]`.
        field: &'static str,
        /// What the file says.
        value: u64,
        /// What would be right.
        rule: &'static str,
    },
    /// Guest memory is too small to unpack in.
    #[error(
        "The kernel needs guest-physical {start:#x} to {end:#x} to unpack itself (init_size \
         {init_size:#x}), but guest memory below the gap ends at {ram_end:#x}; give it at least \
         {needed_mib} MiB"
    )]
    DoesNotFit {
        /// Load address.
        start: u64,
        /// Load address + init_size.
        end: u64,
        /// The header's field.
        init_size: u32,
        /// First address after RAM.
        ram_end: u64,
        /// Memory size that would do, in MiB.
        needed_mib: u64,
    },
    /// The bytes could not be read or copied.
    #[error(transparent)]
    Blob(#[from] blob::Error),
}

/// A bzImage, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct BzImage {
    /// The setup header as in the file; absent tail fields of old versions are zero.
    pub header: setup_header,
    /// The kernel's own version text ("6.12.1 (builder@...) #1 SMP ..."), if it has one.
    pub version: Option<String>,
    /// Where the protected-mode kernel starts in the file.
    pub kernel_offset: u64,
    /// Its length in the file.
    pub kernel_len: u64,
    /// Where the packed vmlinux starts in the file.
    pub payload_offset: u64,
    /// Its length, the 4 bytes of unpacked size included; 0 if nothing is packed.
    pub payload_len: u64,
}

/// Where [`BzImage::load`] put things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The protected-mode kernel.
    pub start: GuestAddress,
    /// Its entry point.
    pub entry: GuestAddress,
    /// Which one that is.
    pub protocol: Protocol,
    /// First address after the memory it unpacks itself in.
    pub end: GuestAddress,
}

impl BzImage {
    /// Reads and checks the setup header of a file whose first bytes are `head`.
    ///
    /// That "HdrS" and the boot flag are there is known: [`super::identify`] said so.
    ///
    /// # Errors
    /// [`Error`], for what both ways of booting need.
    pub fn parse(file: &Blob, head: &[u8]) -> Result<Self, Error> {
        let header = setup_header_of(head).ok_or(Error::Truncated {
            what: "setup header",
            end: 0x268, // [boot] end of kernel_info_offset, the last field we know
            file: file.len(),
        })?;
        let version = header.version;
        need(version, PROTOCOL_WITH_PAYLOAD, "find the packed kernel")?;
        let loadflags = header.loadflags;
        if loadflags & LOADED_HIGH == 0 {
            return Err(Error::NotHigh { loadflags });
        }
        // [boot] setup_sects: "For backwards compatibility, if the setup_sects field contains 0,
        // the real value is 4."
        let sectors = if header.setup_sects == 0 {
            4
        } else {
            header.setup_sects
        };
        let kernel_offset = (u64::from(sectors) + 1) * SECTOR;
        let kernel_len = kernel_len(&header, kernel_offset, file.len())?;
        let (offset, len) = (header.payload_offset, header.payload_length);
        let payload_end = u64::from(offset) + u64::from(len);
        // Both are 0 if nothing is packed: then it is no Linux, but enters like one.
        if payload_end > kernel_len || (len == 0 && offset != 0) {
            return Err(Error::Payload {
                offset,
                len,
                kernel: kernel_len,
            });
        }
        Ok(Self {
            header,
            version: version_text(file, header.kernel_version)?,
            kernel_offset,
            kernel_len,
            payload_offset: kernel_offset + u64::from(offset),
            payload_len: u64::from(len),
        })
    }

    /// Loads the protected-mode kernel, which will unpack itself in the guest.
    ///
    /// # Errors
    /// [`Error::OldProtocol`], [`Error::Not64Bit`], [`Error::DoesNotFit`]...
    pub fn load(&self, file: &Blob, memory: &GuestMemory) -> Result<Placed, Error> {
        let placed = self.place(memory.low_end().0)?;
        file.copy_to_guest(self.kernel_offset, self.kernel_len, memory, placed.start)?;
        Ok(placed)
    }

    /// Chooses the load address in RAM that ends at `ram_end`.
    fn place(&self, ram_end: u64) -> Result<Placed, Error> {
        let header = self.header;
        need(
            header.version,
            PROTOCOL_WITH_64_BIT,
            "enter it in 64-bit mode",
        )?;
        let xloadflags = header.xloadflags;
        let (protocol, into) = match (xloadflags & XLF_KERNEL_64, self.payload_len) {
            // [boot] "32-bit Boot Protocol": the entry point is the first byte.
            (0, 0) => (Protocol::Linux32, 0),
            (0, _) => return Err(Error::Not64Bit { xloadflags }),
            _ => (Protocol::Linux64, ENTRY_64),
        };
        let start = load_address(&header)?;
        let init_size = header.init_size;
        // [boot] init_size: "the amount of linear contiguous memory starting at the kernel runtime
        // start address that the kernel needs before it is capable of examining its memory map".
        let reserved = u64::from(init_size);
        if reserved < self.kernel_len {
            return Err(Error::Field {
                field: "init_size",
                value: reserved,
                rule: "the packed kernel alone is larger",
            });
        }
        if start.saturating_add(reserved) > MMIO_GAP_START.0 {
            return Err(Error::Field {
                field: "pref_address",
                value: start,
                rule: "from there, init_size reaches beyond the RAM below the gap at 3 GiB",
            });
        }
        let end = start.checked_add(reserved).filter(|end| *end <= ram_end);
        let end = end.ok_or_else(|| Error::DoesNotFit {
            start,
            end: start.saturating_add(reserved),
            init_size,
            ram_end,
            needed_mib: start.saturating_add(reserved).div_ceil(1 << 20), // 1 MiB
        })?;
        Ok(Placed {
            start: GuestAddress(start),
            entry: GuestAddress(start + into),
            protocol,
            end: GuestAddress(end),
        })
    }
}

/// `[boot]` pref_address: "A relocating bootloader should attempt to load at this address if
/// possible." Zero means no preference: then the lowest aligned address above the first megabyte.
///
/// We never move a kernel that does not fit at its preferred address: a relocatable kernel loaded
/// lower unpacks itself to the preferred address all the same, and higher needs more RAM still.
fn load_address(header: &setup_header) -> Result<u64, Error> {
    let preferred = header.pref_address;
    if preferred != 0 {
        if preferred < HIGH_RAM_START.0 {
            return Err(Error::Field {
                field: "pref_address",
                value: preferred,
                rule: "kernels go above the first megabyte",
            });
        }
        return Ok(preferred);
    }
    let alignment = u64::from(header.kernel_alignment);
    if header.relocatable_kernel == 0 {
        // [boot] "Memory Layout": a bzImage that cannot move wants 1 MiB.
        return Ok(HIGH_RAM_START.0);
    }
    if !alignment.is_power_of_two() {
        return Err(Error::Field {
            field: "kernel_alignment",
            value: alignment,
            rule: "it must be a power of two",
        });
    }
    Ok(HIGH_RAM_START.0.next_multiple_of(alignment))
}

/// Whether a packed kernel is announced in the setup header of a file that begins with `head`.
pub fn has_payload(head: &[u8]) -> bool {
    setup_header_of(head).is_none_or(|header| {
        let (offset, len) = (header.payload_offset, header.payload_length);
        header.version < PROTOCOL_WITH_PAYLOAD || offset != 0 || len != 0
    })
}

fn need(version: u16, needed: u16, purpose: &'static str) -> Result<(), Error> {
    if version >= needed {
        return Ok(());
    }
    Err(Error::OldProtocol {
        version,
        needed,
        purpose,
    })
}

/// `[boot]` "64-bit Boot Protocol": the header is at 0x1f1, its end is 0x202 + the byte at 0x201.
/// `None` if `head` ends before the header does.
fn setup_header_of(head: &[u8]) -> Option<setup_header> {
    let end = HEADER_LENGTH + 1 + usize::from(*head.get(HEADER_LENGTH)?);
    let bytes = head.get(SETUP_HEADER..end)?;
    let mut header = setup_header::default();
    // Newer kernels may know more fields than we do, older ones fewer.
    let room = header.as_mut_slice();
    for (to, from) in room.iter_mut().zip(bytes) {
        *to = *from;
    }
    Some(header)
}

/// Bytes of protected-mode kernel in the file.
///
/// `[boot]` syssize is in units of 16 bytes, rounded up: the file may be up to 15 bytes shorter.
/// What lies behind it (a signature, say) is not loaded.
fn kernel_len(header: &setup_header, offset: u64, file: u64) -> Result<u64, Error> {
    const PARAGRAPH: u64 = 16;
    let len = u64::from(header.syssize) * PARAGRAPH;
    if len == 0 {
        return Err(Error::Field {
            field: "syssize",
            value: 0,
            rule: "there must be a kernel",
        });
    }
    let there = file.saturating_sub(offset);
    if there.next_multiple_of(PARAGRAPH) < len {
        return Err(Error::Truncated {
            what: "protected-mode kernel",
            end: offset + len,
            file,
        });
    }
    Ok(len.min(there))
}

/// `[boot]` kernel_version: "contains a pointer to a NUL-terminated human-readable kernel version
/// number string, less 0x200"; zero means none. Only for people: one that makes no sense is none.
fn version_text(file: &Blob, pointer: u16) -> Result<Option<String>, Error> {
    let start = u64::from(pointer) + 0x200;
    if pointer == 0 || start >= file.len() {
        return Ok(None);
    }
    let len = (file.len() - start).min(VERSION_MAX as u64);
    let bytes = file.read_vec(start, len, len)?;
    let text: String = bytes
        .iter()
        .map_while(|byte| (byte.is_ascii_graphic() || *byte == b' ').then_some(char::from(*byte)))
        .collect();
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bzimage, put};
    use super::*;

    fn parse(image: Vec<u8>) -> Result<BzImage, Error> {
        let file = Blob::memory(image, "test kernel".into());
        let head = file.head(super::super::identify::HEAD).unwrap();
        BzImage::parse(&file, &head)
    }

    /// A bzImage with `bytes` written at `offset`.
    fn changed(offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut image = bzimage(b"payload and size");
        put(&mut image, offset, bytes);
        image
    }

    fn refusal(offset: usize, bytes: &[u8]) -> String {
        parse(changed(offset, bytes)).unwrap_err().to_string()
    }

    fn misplaced(offset: usize, bytes: &[u8]) -> String {
        let image = parse(changed(offset, bytes)).unwrap();
        image.place(16 << 20).unwrap_err().to_string()
    }

    #[test]
    fn bzimage_is_understood() {
        let image = parse(bzimage(b"payload and size")).unwrap();
        assert_eq!((image.kernel_offset, image.kernel_len), (0x400, 0x410));
        assert_eq!((image.payload_offset, image.payload_len), (0x800, 16));
        assert_eq!(image.version.unwrap(), "6.12.0-test (cottage)");
    }

    #[test]
    fn setup_sects_of_zero_means_four() {
        let mut image = bzimage(b"payload and size");
        image.splice(0x400..0x400, [0; 3 * 512]);
        put(&mut image, 0x1f1, &[0]);
        assert_eq!(parse(image).unwrap().kernel_offset, 5 * 512);
    }

    #[test]
    fn packed_kernel_goes_to_its_preferred_address() {
        let image = parse(bzimage(b"payload and size")).unwrap();
        let placed = Placed {
            start: GuestAddress(0x20_0000),
            entry: GuestAddress(0x20_0200),
            protocol: Protocol::Linux64,
            end: GuestAddress(0x30_0000),
        };
        assert_eq!(image.place(0x30_0000).unwrap(), placed);
    }

    #[test]
    fn kernel_without_preference_goes_to_the_first_aligned_address() {
        let mut image = changed(0x258, &0u64.to_le_bytes());
        put(&mut image, 0x230, &0x100_0000_u32.to_le_bytes());
        let placed = parse(image).unwrap().place(64 << 20).unwrap();
        assert_eq!(placed.start, GuestAddress(0x100_0000));
    }

    #[test]
    fn signature_behind_the_kernel_is_not_loaded() {
        let mut image = bzimage(b"payload and size");
        image.extend([0xff; 100]);
        assert_eq!(parse(image).unwrap().kernel_len, 0x410);
    }

    #[test]
    fn setup_header_that_is_cut_off_is_refused() {
        let error = parse(bzimage(b"payload and size")[..0x240].to_vec()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cannot find the setup header: it ends at 0x268, but the file has 0x240 bytes (cut \
             off?)"
        );
    }

    #[test]
    fn kernel_that_is_cut_off_is_refused() {
        let error = parse(bzimage(b"payload and size")[..0x700].to_vec()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cannot find the protected-mode kernel: it ends at 0x810, but the file has 0x700 bytes \
             (cut off?)"
        );
    }

    #[test]
    fn protocol_without_payload_fields_is_refused() {
        assert_eq!(
            refusal(0x206, &0x207_u16.to_le_bytes()),
            "Cannot use boot protocol 2.07: to find the packed kernel, 2.08 is needed"
        );
    }

    #[test]
    fn zimage_is_refused() {
        assert!(refusal(0x211, &[0]).starts_with("Cannot boot a zImage (loadflags 0x00)"));
    }

    #[test]
    fn empty_kernel_is_refused() {
        let text = refusal(0x1f4, &0u32.to_le_bytes());
        assert_eq!(
            text,
            "Setup header field syssize is 0x0: there must be a kernel"
        );
    }

    #[test]
    fn payload_outside_the_kernel_is_refused() {
        assert_eq!(
            refusal(0x248, &0x401_u32.to_le_bytes()),
            "Payload 0x401 + 0x10 lies outside the protected-mode kernel of 0x410 bytes"
        );
        assert!(refusal(0x24c, &u32::MAX.to_le_bytes()).contains("0x400 + 0xffffffff"));
        assert!(refusal(0x24c, &0u32.to_le_bytes()).contains("0x400 + 0x0"));
    }

    #[test]
    fn packed_kernel_of_an_old_protocol_is_refused() {
        assert_eq!(
            misplaced(0x206, &0x20b_u16.to_le_bytes()),
            "Cannot use boot protocol 2.11: to enter it in 64-bit mode, 2.12 is needed"
        );
    }

    #[test]
    fn packed_32_bit_kernel_is_refused() {
        assert!(misplaced(0x236, &0x7e_u16.to_le_bytes()).contains("(xloadflags 0x007e)"));
    }

    #[test]
    fn packed_kernel_that_does_not_fit_names_the_memory_it_needs() {
        assert_eq!(
            misplaced(0x260, &0xff_0000_u32.to_le_bytes()),
            "The kernel needs guest-physical 0x200000 to 0x11f0000 to unpack itself (init_size \
             0xff0000), but guest memory below the gap ends at 0x1000000; give it at least 18 MiB"
        );
    }

    #[test]
    fn init_size_smaller_than_the_kernel_is_refused() {
        let text = misplaced(0x260, &0x400_u32.to_le_bytes());
        assert_eq!(
            text,
            "Setup header field init_size is 0x400: the packed kernel alone is larger"
        );
    }

    #[test]
    fn preferred_address_below_the_first_megabyte_is_refused() {
        assert!(
            misplaced(0x258, &0x1000_u64.to_le_bytes())
                .starts_with("Setup header field pref_address is 0x1000")
        );
    }

    #[test]
    fn preferred_address_that_wraps_is_refused() {
        assert!(misplaced(0x258, &u64::MAX.to_le_bytes()).contains("0xffffffffffffffff"));
    }

    #[test]
    fn alignment_that_is_no_power_of_two_is_refused() {
        let mut image = changed(0x258, &0u64.to_le_bytes());
        put(&mut image, 0x230, &3u32.to_le_bytes());
        let error = parse(image)
            .unwrap()
            .place(16 << 20)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "Setup header field kernel_alignment is 0x3: it must be a power of two"
        );
    }
}
