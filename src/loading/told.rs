//! What was put where, told to who looks on ([`crate::watch`]).
//!
//! Read next: [`crate::bundle`].

use vm_memory::GuestAddress;

use crate::boot::{InitramfsRange, LoadedKernel, Protocol};
use crate::memory::layout::{
    BOOT_GDT, CMDLINE, MP_TABLE, MULTIBOOT_INFO_MAX_SIZE, PAGE_DIRECTORIES, PAGE_DIRECTORIES_SIZE,
    PML4,
};
use crate::platform::acpi::AcpiImage;
use crate::timeline::Timeline;
use crate::vcpu::entry_state::GDT_BYTES;
use crate::watch::Placed;

/// Bytes of the zero page, and of PVH's.
const PAGE: u64 = 0x1000;

pub(super) fn kernel(timeline: &Timeline, kernel: &LoadedKernel) {
    let len = kernel.end.0.saturating_sub(kernel.start.0);
    placed(timeline, "kernel", (kernel.start.0, len), &kernel.summary);
}

pub(super) fn initramfs(timeline: &Timeline, range: Option<InitramfsRange>) {
    if let Some(range) = range {
        let at = (range.start.0, range.len);
        placed(timeline, "initramfs", at, "a cpio archive");
    }
}

pub(super) fn boot_info(timeline: &Timeline, by: Protocol, info: GuestAddress, cmdline: &str) {
    let with_nul = cmdline.len() as u64 + 1;
    placed(timeline, "command line", (CMDLINE.0, with_nul), cmdline);
    let what = match by {
        Protocol::Pvh => "PVH start info",
        _ => "zero page",
    };
    let more = "memory map; where command line and initramfs are";
    placed(timeline, what, (info.0, PAGE), more);
}

pub(super) fn multiboot(timeline: &Timeline, entry: GuestAddress, info: GuestAddress) {
    placed(
        timeline,
        "multiboot kernel",
        (entry.0, 0),
        "its entry point",
    );
    let at = (info.0, MULTIBOOT_INFO_MAX_SIZE);
    placed(timeline, "multiboot information", at, "");
}

pub(super) fn platform(timeline: &Timeline, acpi: &AcpiImage, mp: usize) {
    let more = "processors, I/O APIC, devices, for kernels with ACPI";
    let at = (acpi.rsdp.0, acpi.bytes.len() as u64);
    placed(timeline, "ACPI tables", at, more);
    let at = (MP_TABLE.0, mp as u64);
    placed(timeline, "MP table", at, "the same for kernels without");
}

pub(super) fn tables(timeline: &Timeline, protocol: Protocol) {
    let more = "null, unused, code, data, task state";
    placed(timeline, "boot GDT", (BOOT_GDT.0, GDT_BYTES), more);
    if protocol == Protocol::Linux64 {
        let len = PAGE_DIRECTORIES.0 + PAGE_DIRECTORIES_SIZE - PML4.0;
        let more = "0x0..0x100000000 one to one, in 2 MiB pages";
        placed(timeline, "page tables", (PML4.0, len), more);
    }
}

fn placed(timeline: &Timeline, what: &'static str, (at, len): (u64, u64), more: &str) {
    let placed = Placed {
        what,
        at,
        len,
        more,
    };
    timeline.watch().each(|by| by.placed(&placed));
}
