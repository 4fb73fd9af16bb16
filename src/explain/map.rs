//! Guest-physical memory as a drawing: what lies where at the first instruction.
//!
//! RAM is as the kernel is told; into it go the things that other modules found in it.
//! Read next: [`super::tables`].

use super::fields::{count, size};
use super::guest::Guest;
use super::info::kind_words;
use super::page::{Part, Range, Section};
use super::{paging, tables};
use crate::boot::Protocol;
use crate::config::Irqchip;
use crate::memory::layout::{
    IOAPIC, IOAPIC_SIZE, LOCAL_APIC, MMIO_GAP_START, VIRTIO_ACPI, VIRTIO_CMDLINE,
    VIRTIO_WINDOW_SIZE,
};

/// Draws the memory of `guest`.
pub fn explain(guest: &Guest<'_>, section: &mut Section) {
    section.say(format!(
        "{} of RAM. Addresses are guest-physical; to the host it is one mapping of cottage's, untouched \
         but where something lies.",
        size(guest.memory.size())
    ));
    let mut ranges = borders(guest);
    ranges.extend(things(guest));
    // What begins together: the outer one first.
    ranges.sort_by_key(|range| (range.start, !range.border, u64::MAX - range.end));
    section.parts.push(Part::Map(ranges));
    let overlaps = overlaps(guest);
    if !overlaps.is_empty() {
        section.say(format!("These overlap, which is wrong: {overlaps}."));
    }
}

fn range(start: u64, end: u64, what: impl Into<String>) -> Range {
    Range {
        start,
        end,
        what: what.into(),
        border: false,
    }
}

/// Where RAM and devices begin and end.
fn borders(guest: &Guest<'_>) -> Vec<Range> {
    let told = guest.told();
    let ram = told.map.iter().map(|entry| {
        let end = entry.start.saturating_add(entry.len);
        let what = format!("{}, {}", kind_words(entry.kind), size(entry.len));
        range(entry.start, end, what)
    });
    let mut ranges: Vec<_> = ram.collect();
    ranges.push(range(
        MMIO_GAP_START.0.max(guest.memory.low_end().0),
        LOCAL_APIC.0 + 0x1000,
        "no RAM: an access here is an exit to cottage or KVM",
    ));
    for range in &mut ranges {
        range.border = true;
    }
    let windows = guest.config.virtio_devices() as u64;
    if windows > 0 {
        for (base, who) in [
            (VIRTIO_ACPI.0, "by ACPI"),
            (VIRTIO_CMDLINE.0, "by the command line"),
        ] {
            let devices = count(windows, "virtio device");
            let what = format!("registers of {devices}, found {who}");
            ranges.push(range(base, base + windows * VIRTIO_WINDOW_SIZE, what));
        }
    }
    let who = match guest.kernel.chip {
        Irqchip::Split => "in cottage",
        Irqchip::Full => "in KVM",
    };
    let ioapic = format!("I/O APIC ({who})");
    ranges.push(range(IOAPIC.0, IOAPIC.0 + IOAPIC_SIZE, ioapic));
    ranges.push(range(
        LOCAL_APIC.0,
        LOCAL_APIC.0 + 0x1000,
        "local APIC (in KVM)",
    ));
    ranges
}

/// What was laid into RAM.
fn things(guest: &Guest<'_>) -> Vec<Range> {
    let told = guest.told();
    let gdt = guest.sregs.gdt;
    let info = match guest.filled.protocol {
        Protocol::Linux64 | Protocol::Linux32 => "zero page: what the kernel is told",
        Protocol::Pvh => "PVH start info: what the kernel is told",
        Protocol::Multiboot => "multiboot information: what the kernel is told",
    };
    let at = guest.filled.info.0;
    let mut things = vec![
        range(gdt.base, gdt.base + u64::from(gdt.limit) + 1, "GDT"),
        range(at, at + told.len, info),
    ];
    things.extend(paging::tables(guest).into_iter().map(|(at, name)| {
        let what = format!("page table: {name}");
        range(at, at + 0x1000, what)
    }));
    if let Some(at) = told.cmdline {
        let len = guest.text(at).len() as u64 + 1;
        things.push(range(at, at + len, "command line"));
    }
    let tables = tables::find(guest);
    things.extend(tables.iter().map(|table| {
        range(
            table.at,
            table.at + table.len,
            format!("table {}", table.name),
        )
    }));
    let kernel = &guest.filled.kernel;
    let what = format!(
        "kernel, {}, its BSS included",
        size(kernel.end - kernel.start)
    );
    things.push(range(kernel.start, kernel.end, what));
    let module = match guest.filled.initramfs {
        Some(_) => "initramfs",
        None => "module",
    };
    things.extend(
        told.modules
            .iter()
            .map(|(start, len)| range(*start, start + len, format!("{module}, {}", size(*len)))),
    );
    things
}

/// Which of the things overlap their neighbours.
fn overlaps(guest: &Guest<'_>) -> String {
    let mut things = things(guest);
    things.sort_by_key(|thing| thing.start);
    let pairs = things.iter().zip(things.iter().skip(1));
    let wrong = pairs.filter(|(low, high)| low.end > high.start);
    let words = wrong.map(|(low, high)| format!("{} and {}", low.what, high.what));
    words.collect::<Vec<_>>().join("; ")
}
