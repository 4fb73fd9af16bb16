//! The zero page (`struct boot_params`): what Linux reads first under its own boot protocol.
//!
//! [`zero_page`] only fills the structure; [`super::write_boot_info`] puts it into the guest and
//! the vCPU's %rsi points at it. The structure is linux-loader's.
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12; `[zero]` `zero-page.rst`
//! beside it. Read next: [`super::pvh`], the same for the other protocol.

use linux_loader::bootparam::{
    E820_MAX_ENTRIES_ZEROPAGE, KASLR_FLAG, LOADED_HIGH, boot_e820_entry, boot_params, setup_header,
};
use vm_memory::GuestAddress;

use super::initramfs::InitramfsRange;
use super::memory_map::Entry;
use crate::memory::layout::CMDLINE;

/// `[boot]` boot_flag.
const BOOT_FLAG: u16 = 0xaa55;
/// `[boot]` header: "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `[boot]` The protocol version we follow: 2.15.
const PROTOCOL: u16 = 0x020f;
/// `[boot]` type_of_loader: 0xff for a loader without an assigned number.
const UNDEFINED_LOADER: u8 = 0xff;

/// Makes the zero page.
///
/// `header` is the setup header of the bzImage the kernel came in; a bare vmlinux has none, and
/// the few fields the kernel proper looks at are made up. `cmdline_len` is without the NUL.
pub fn zero_page(
    header: Option<setup_header>,
    cmdline_len: u64,
    map: &[Entry],
    initramfs: Option<InitramfsRange>,
    rsdp: Option<GuestAddress>,
) -> boot_params {
    // All that is not set here is zero, as [boot] wants it: "64-bit Boot Protocol".
    let mut page = boot_params {
        hdr: header.unwrap_or(setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: PROTOCOL,
            ..Default::default()
        }),
        ..Default::default()
    };
    page.hdr.type_of_loader = UNDEFINED_LOADER;
    // KASLR_FLAG is how the unpacker tells the kernel proper that it moved it; [boot] loaders
    // must not set it, and a file must not either.
    page.hdr.loadflags = (page.hdr.loadflags | LOADED_HIGH) & !KASLR_FLAG;
    // A list head in guest memory; the file's value would be followed blindly.
    page.hdr.setup_data = 0;

    (page.hdr.cmd_line_ptr, page.ext_cmd_line_ptr) = halves(CMDLINE.0);
    // [boot] cmdline_size is the kernel's maximum for a file's header; for a made one, what is
    // there is what fits.
    if header.is_none() {
        page.hdr.cmdline_size = halves(cmdline_len).0;
    }
    // [boot] ramdisk_image stays 0 if there is none. We place below 4 GiB, so the ext_ halves
    // are 0; they are written so that nobody has to know.
    let (start, len) = initramfs.map_or((0, 0), |range| (range.start.0, range.len));
    (page.hdr.ramdisk_image, page.ext_ramdisk_image) = halves(start);
    (page.hdr.ramdisk_size, page.ext_ramdisk_size) = halves(len);
    page.acpi_rsdp_addr = rsdp.map_or(0, |rsdp| rsdp.0);

    let mut count = 0;
    for (slot, entry) in page.e820_table.iter_mut().zip(map) {
        *slot = boot_e820_entry {
            addr: entry.start,
            size: entry.len,
            r#type: entry.kind,
        };
        count += 1;
    }
    page.e820_entries = count;
    page
}

// The count above is a byte.
const _: () = assert!(E820_MAX_ENTRIES_ZEROPAGE <= 255);

/// Splits into low and high 32 bits, the way the zero page stores addresses.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

#[cfg(test)]
mod tests {
    use vm_memory::ByteValued;

    use super::super::memory_map::memory_map;
    use super::*;

    /// The bytes of a page at the offsets `[zero]` and `[boot]` give.
    fn bytes_at<const N: usize>(page: &boot_params, offset: usize) -> [u8; N] {
        page.as_slice()[offset..offset + N].try_into().unwrap()
    }

    fn full_page(header: Option<setup_header>) -> boot_params {
        let initramfs = InitramfsRange {
            start: GuestAddress(0x123_4000),
            len: 0x567,
        };
        let map = memory_map(128 << 20);
        zero_page(
            header,
            7,
            &map,
            Some(initramfs),
            Some(GuestAddress(0xe_0000)),
        )
    }

    #[test]
    fn page_is_one_page() {
        assert_eq!(full_page(None).as_slice().len(), 4096);
    }

    #[test]
    fn made_header_has_the_magic_numbers() {
        let page = full_page(None);
        assert_eq!(bytes_at(&page, 0x1fe), 0xaa55_u16.to_le_bytes());
        assert_eq!(bytes_at(&page, 0x202), *b"HdrS");
        assert_eq!(bytes_at(&page, 0x210), [0xff, 0x01]);
    }

    #[test]
    fn addresses_stand_where_the_kernel_looks() {
        let page = full_page(None);
        assert_eq!(bytes_at(&page, 0x070), 0xe_0000_u64.to_le_bytes());
        assert_eq!(bytes_at(&page, 0x218), 0x123_4000_u32.to_le_bytes());
        assert_eq!(bytes_at(&page, 0x21c), 0x567_u32.to_le_bytes());
        assert_eq!(bytes_at(&page, 0x228), 0x2_0000_u32.to_le_bytes());
        assert_eq!(bytes_at(&page, 0x0c0), [0; 12]);
    }

    #[test]
    fn e820_table_holds_the_memory_map() {
        let page = full_page(None);
        assert_eq!(bytes_at(&page, 0x1e8), [3]);
        assert_eq!(bytes_at(&page, 0x2d0 + 20), 0x9_fc00_u64.to_le_bytes());
        assert_eq!(bytes_at(&page, 0x2d0 + 20 + 16), 2u32.to_le_bytes());
        assert_eq!(bytes_at(&page, 0x2d0 + 40), 0x10_0000_u64.to_le_bytes());
    }

    #[test]
    fn file_header_is_kept_but_for_what_the_loader_must_set() {
        let header = setup_header {
            init_size: 0x77,
            cmdline_size: 255,
            setup_data: 0xdead,
            loadflags: KASLR_FLAG,
            ..Default::default()
        };
        let page = full_page(Some(header));
        assert_eq!(bytes_at(&page, 0x260), 0x77_u32.to_le_bytes());
        assert_eq!(bytes_at(&page, 0x238), 255_u32.to_le_bytes());
        assert_eq!(bytes_at(&page, 0x250), [0; 8]);
        assert_eq!(bytes_at(&page, 0x211), [LOADED_HIGH]);
    }

    #[test]
    fn nothing_there_means_zero() {
        let page = zero_page(None, 0, &[], None, None);
        assert_eq!(bytes_at(&page, 0x070), [0; 8]);
        assert_eq!(bytes_at(&page, 0x218), [0; 8]);
        assert_eq!(bytes_at(&page, 0x1e8), [0]);
    }

    #[test]
    fn halves_of_an_address_above_4_gib() {
        assert_eq!(halves(0x12_3456_789a), (0x3456_789a, 0x12));
    }
}
