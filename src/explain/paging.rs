//! Page tables, from CR3 on: which tables there are, and what they map.
//!
//! A table of 512 entries that differ by 2 MiB is one fact: runs of pages that follow each other both in
//! virtual and physical memory, with the same rights, are told together. What the bits of an entry mean is
//! [`crate::watch::paging`]'s.
//! Read next: [`super::processor`].

use super::fields::count;
use super::guest::Guest;
use super::page::{Part, Section};
use crate::watch::paging::{Entry, Format, size, walk};

/// Tables that are looked at: ours has six, and a loop in them would not end.
const TABLES_MAX: usize = 64;

/// A present entry, and which addresses it is for.
struct Found {
    /// The table's address and place in it.
    table: u64,
    index: u64,
    /// The first virtual address it is for.
    address: u64,
    entry: Entry,
}

/// Pages that follow each other.
struct Run {
    address: u64,
    physical: u64,
    pages: u64,
    first: Entry,
}

/// All present entries, table by table.
fn entries(guest: &Guest<'_>) -> Vec<Found> {
    let format = Format::of(&guest.sregs);
    let mut found = Vec::new();
    // Which tables to look at: level, address, the first virtual address.
    let mut tables = vec![(0, guest.sregs.cr3 & !0xfff, 0)];
    let mut at = 0;
    while let Some((level, table, base)) = tables.get(at).copied() {
        at += 1;
        let Some(rules) = format.levels().get(level) else {
            continue;
        };
        for index in 0..1_u64 << rules.bits {
            let size = format.entry_size();
            let Some(raw) = guest.number(table + index * size, size) else {
                break;
            };
            let entry = Entry { raw, level: *rules };
            if !entry.is_present() {
                continue;
            }
            let address = base + index * entry.reach();
            if !entry.is_page() && tables.len() < TABLES_MAX {
                tables.push((level + 1, entry.address(), address));
            }
            found.push(Found {
                table,
                index,
                address,
                entry,
            });
        }
    }
    found
}

/// Where tables are, and the name of each: lowest level last.
pub fn tables(guest: &Guest<'_>) -> Vec<(u64, &'static str)> {
    let mut tables: Vec<(u64, &'static str)> = Vec::new();
    for found in entries(guest) {
        if tables.last().is_none_or(|(at, _)| *at != found.table) {
            tables.push((found.table, found.entry.level.table));
        }
    }
    tables
}

/// Pages that follow each other, joined.
fn runs(entries: &[Found]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for found in entries.iter().filter(|found| found.entry.is_page()) {
        let entry = found.entry;
        let reach = entry.reach();
        if let Some(run) = runs.last_mut()
            && run.first.level == entry.level
            && run.first.flags() == entry.flags()
            && run.address + run.pages * reach == found.address
            && run.physical + run.pages * reach == entry.address()
        {
            run.pages += 1;
            continue;
        }
        runs.push(Run {
            address: found.address,
            physical: entry.address(),
            pages: 1,
            first: entry,
        });
    }
    runs
}

/// Shows them.
pub fn explain(guest: &Guest<'_>, section: &mut Section) {
    let format = Format::of(&guest.sregs);
    if format == Format::Off {
        section.say(
            "None: this protocol enters the kernel with CR0.PG clear, addresses are physical, and the \
             kernel builds its own page tables.",
        );
        return;
    }
    section.say(format!(
        "{format}, from CR3 ({:#x}) on. The kernel replaces these tables by its own, soon after its start.",
        guest.sregs.cr3
    ));
    let entries = entries(guest);
    let row = |found: &Found| {
        vec![
            format!("{} {:#x}", found.entry.level.table, found.table),
            found.index.to_string(),
            format!("{:#x}", found.entry.raw),
            found.entry.words(),
        ]
    };
    // Of tables full of pages, the first entry shows how they all are.
    let shown = entries
        .iter()
        .filter(|found| !found.entry.is_page() || found.index == 0);
    section.table(
        &["table", "entry", "value", "meaning"],
        shown.map(row).collect(),
    );
    section.say("Together they map:");
    let row = |run: &Run| {
        let len = run.pages * run.first.reach();
        let same = if run.address == run.physical {
            ", one to one"
        } else {
            ""
        };
        vec![
            format!("{:#x}", run.address),
            format!("{:#x}", run.address.saturating_add(len)),
            format!("{:#x}", run.physical),
            format!(
                "{} of {}, {}{same}",
                count(run.pages, "page"),
                size(run.first.reach()),
                run.first.flags().join(", ")
            ),
        ]
    };
    let rows = runs(&entries).iter().map(row).collect();
    section.table(&["virtual from", "to", "physical", "how"], rows);
    section.say("The way to the first instruction, as the processor goes it:");
    let walk = walk(&guest.sregs, guest.regs.rip, |at, len| {
        guest.number(at, len)
    });
    section.parts.push(Part::Verbatim(walk.lines()));
}
