//! PVH start info: what a kernel reads first when entered at its PVH entry point.
//!
//! ```text
//!  PVH_START_INFO ┌────────────────────┐
//!                 │ hvm_start_info     │ 56 bytes; %ebx points here
//!                 ├────────────────────┤
//!                 │ hvm_modlist_entry  │ 32 bytes: the initramfs, if there is one
//!                 ├────────────────────┤
//!                 │ hvm_memmap entries │ 24 bytes each
//!                 └────────────────────┘
//! ```
//!
//! [`start_info`] only makes the bytes; [`super::write_boot_info`] writes them.
//!
//! Sources: `[pvh]` Xen `docs/misc/pvh.pandoc` and `xen/include/public/arch-x86/hvm/start_info.h`.
//! Read next: [`super::newc`].

use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, GuestAddress};

use super::initramfs::InitramfsRange;
use super::memory_map::Entry;
use crate::memory::layout::{CMDLINE, PVH_START_INFO};

/// `[pvh]` Version 1 added the memory map.
const VERSION: u32 = 1;
/// Sizes of the two structures that stand before the memory map.
const START_INFO_SIZE: u64 = 56;
const MODULE_SIZE: u64 = 32;

/// Makes the bytes to write at [`PVH_START_INFO`].
pub fn start_info(
    map: &[Entry],
    initramfs: Option<InitramfsRange>,
    rsdp: Option<GuestAddress>,
) -> Vec<u8> {
    let modules = initramfs.map(|range| hvm_modlist_entry {
        paddr: range.start.0,
        size: range.len,
        ..Default::default()
    });
    let modules_at = PVH_START_INFO.0 + START_INFO_SIZE;
    let map_at = modules_at + MODULE_SIZE;
    // [pvh] An address of zero means not there.
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: modules.map_or(0, |_| 1),
        modlist_paddr: modules.map_or(0, |_| modules_at),
        cmdline_paddr: CMDLINE.0,
        rsdp_paddr: rsdp.map_or(0, |rsdp| rsdp.0),
        memmap_paddr: map_at,
        memmap_entries: u32::try_from(map.len()).unwrap_or(u32::MAX),
        ..Default::default()
    };
    let mut bytes = info.as_slice().to_vec();
    // Without an initramfs its entry stays zero and nobody points at it.
    bytes.extend_from_slice(modules.unwrap_or_default().as_slice());
    for entry in map {
        let entry = hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.len,
            type_: entry.kind,
            reserved: 0,
        };
        bytes.extend_from_slice(entry.as_slice());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::memory_map::memory_map;
    use super::*;

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    fn u32_at(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    #[test]
    fn start_info_of_the_largest_guest_stays_in_its_page() {
        let map = memory_map(crate::memory::layout::MAX_MEMORY);
        assert!(start_info(&map, None, None).len() <= 0x1000);
    }

    #[test]
    fn start_info_points_at_module_and_map() {
        let initramfs = InitramfsRange {
            start: GuestAddress(0x123_4000),
            len: 0x567,
        };
        let map = memory_map(128 << 20);
        let bytes = start_info(&map, Some(initramfs), Some(GuestAddress(0xe_0000)));
        assert_eq!((u32_at(&bytes, 0), u32_at(&bytes, 4)), (0x336e_c578, 1));
        assert_eq!((u32_at(&bytes, 12), u64_at(&bytes, 16)), (1, 0x6038));
        assert_eq!(
            (u64_at(&bytes, 24), u64_at(&bytes, 32)),
            (0x2_0000, 0xe_0000)
        );
        assert_eq!((u64_at(&bytes, 40), u32_at(&bytes, 48)), (0x6058, 3));
        assert_eq!(
            (u64_at(&bytes, 56), u64_at(&bytes, 64)),
            (0x123_4000, 0x567)
        );
        assert_eq!(
            (u64_at(&bytes, 88 + 24), u32_at(&bytes, 88 + 40)),
            (0x9_fc00, 2)
        );
    }

    #[test]
    fn without_initramfs_there_is_no_module() {
        let bytes = start_info(&[], None, None);
        assert_eq!((u32_at(&bytes, 12), u64_at(&bytes, 16)), (0, 0));
        assert_eq!(u64_at(&bytes, 32), 0);
    }

    #[test]
    fn structure_sizes_are_those_of_the_crate() {
        assert_eq!(
            hvm_start_info::default().as_slice().len() as u64,
            START_INFO_SIZE
        );
        assert_eq!(
            hvm_modlist_entry::default().as_slice().len() as u64,
            MODULE_SIZE
        );
    }
}
