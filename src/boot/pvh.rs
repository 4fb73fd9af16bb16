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
//! Sources: [pvh] Xen `docs/misc/pvh.pandoc` and `xen/include/public/arch-x86/hvm/start_info.h`.
//! Read next: [`super::initramfs`].

use linux_loader::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, GuestAddress};

use super::initramfs::InitramfsRange;
use super::memory_map::Entry;
use crate::memory::layout::{CMDLINE, PVH_START_INFO};

/// [pvh] Version 1 added the memory map.
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
