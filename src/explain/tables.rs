//! The tables that describe the machine, found as a kernel finds them: by a pointer, or by a scan.
//!
//! Sources: `[acpi]` ACPI 6.4, 5.2.5 (RSDP), 5.2.6 (headers), 5.2.12 (MADT); `[mp]` Intel MultiProcessor
//! Specification 1.4, 4.1 and 4.2.
//! Read next: [`super::paging`].

use super::fields::{count, text};
use super::guest::Guest;
use super::page::Section;
use crate::memory::layout::{BIOS_DATA, BIOS_DATA_SIZE, HIGH_RAM_START};

/// Where a kernel scans if nobody tells it: the BIOS's part of the first megabyte.
const SCAN_START: u64 = 0xe_0000;
/// Both pointers stand on this boundary.
const SCAN_STEP: u64 = 16;

/// A table in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its signature.
    pub name: String,
    /// Where it is.
    pub at: u64,
    /// Bytes of it.
    pub len: u64,
    /// What it says.
    pub meaning: String,
    /// Whether the sum of its bytes is zero; tables without a sum have none.
    pub sum: Option<bool>,
}

/// Finds all tables, in the order in which a kernel meets them.
pub fn find(guest: &Guest<'_>) -> Vec<Table> {
    let mut tables = Vec::new();
    let rsdp = guest.told().rsdp.or_else(|| scan(guest, b"RSD PTR "));
    if let Some(at) = rsdp {
        acpi(guest, at, &mut tables);
    }
    if let Some(at) = scan(guest, b"_MP_") {
        mp(guest, at, &mut tables);
    }
    let bios_data = guest.bytes(BIOS_DATA.0, BIOS_DATA_SIZE).unwrap_or_default();
    if bios_data.iter().any(|byte| *byte != 0) {
        tables.push(Table {
            name: "BIOS data".into(),
            at: BIOS_DATA.0,
            len: BIOS_DATA_SIZE,
            meaning: "serial ports and conventional memory, as a PC's firmware leaves them".into(),
            sum: None,
        });
    }
    tables
}

/// The first place from [`SCAN_START`] on that begins with `signature`.
fn scan(guest: &Guest<'_>, signature: &[u8]) -> Option<u64> {
    let bytes = guest.bytes(SCAN_START, HIGH_RAM_START.0 - SCAN_START)?;
    let step = usize::try_from(SCAN_STEP).ok()?;
    let mut places = bytes.chunks(step);
    let index = places.position(|place| place.starts_with(signature))?;
    Some(SCAN_START + index as u64 * SCAN_STEP)
}

fn sum_is_zero(guest: &Guest<'_>, at: u64, len: u64) -> Option<bool> {
    let bytes = guest.bytes(at, len)?;
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    Some(sum == 0)
}

/// RSDP, XSDT, and what that lists; the FADT leads to one more.
fn acpi(guest: &Guest<'_>, rsdp: u64, tables: &mut Vec<Table>) {
    let len = guest.number(rsdp + 20, 4).unwrap_or(0).min(64);
    let xsdt = guest.number(rsdp + 24, 8).unwrap_or(0);
    tables.push(Table {
        name: "RSDP".into(),
        at: rsdp,
        len,
        meaning: format!("ACPI begins here: the XSDT is at {xsdt:#x}"),
        sum: sum_is_zero(guest, rsdp, len),
    });
    let Some(table) = header(guest, xsdt) else {
        return;
    };
    let listed = (36..table.len).step_by(8);
    let listed: Vec<_> = listed.filter_map(|at| guest.number(xsdt + at, 8)).collect();
    tables.push(Table {
        meaning: format!("lists {}", count(listed.len() as u64, "table")),
        ..table
    });
    for at in listed {
        let Some(table) = header(guest, at) else {
            continue;
        };
        let meaning = match &*table.name {
            "FACP" => "FADT: no legacy hardware here; how to power off and reset".into(),
            "APIC" => madt(guest, &table),
            _ => "of no name known here".into(),
        };
        let dsdt = (table.name == "FACP")
            .then(|| guest.number(at + 140, 8))
            .flatten();
        tables.push(Table { meaning, ..table });
        // [acpi] 5.2.9: X_DSDT.
        tables.extend(dsdt.and_then(|at| header(guest, at)).map(|table| Table {
            meaning: "devices that cannot be probed, in AML".into(),
            ..table
        }));
    }
}

/// `[acpi]` 5.2.6: signature, length.
fn header(guest: &Guest<'_>, at: u64) -> Option<Table> {
    let len = guest.number(at.checked_add(4)?, 4)?;
    // Ours all lie in the first megabyte.
    if !(36..=HIGH_RAM_START.0).contains(&len) {
        return None;
    }
    Some(Table {
        name: text(&guest.bytes(at, 4)?),
        at,
        len,
        meaning: String::new(),
        sum: sum_is_zero(guest, at, len),
    })
}

/// `[acpi]` 5.2.12: 44 bytes, then entries that begin with type and length.
fn madt(guest: &Guest<'_>, table: &Table) -> String {
    let bytes = guest.bytes(table.at, table.len).unwrap_or_default();
    let (mut at, mut processors, mut ioapics) = (44, 0, 0);
    while let Some([kind, len]) = bytes.get(at..at + 2) {
        match kind {
            0 | 9 => processors += 1,
            1 => ioapics += 1,
            _ => {}
        }
        // An entry that says it has no bytes would be met for ever.
        at += usize::from(*len).max(2);
    }
    let processors = count(processors, "processor");
    format!("MADT: {processors}, {}", count(ioapics, "I/O APIC"))
}

/// `[mp]` 4.1: the pointer; 4.2: the table.
fn mp(guest: &Guest<'_>, at: u64, tables: &mut Vec<Table>) {
    let table = guest.number(at + 4, 4).unwrap_or(0);
    tables.push(Table {
        name: "_MP_".into(),
        at,
        len: SCAN_STEP,
        meaning: format!("the MP table, for kernels without ACPI, is at {table:#x}"),
        sum: sum_is_zero(guest, at, SCAN_STEP),
    });
    let len = guest.number(table + 4, 2).unwrap_or(0);
    let entries = guest.number(table + 34, 2).unwrap_or(0);
    tables.push(Table {
        name: text(&guest.bytes(table, 4).unwrap_or_default()),
        at: table,
        len,
        meaning: format!(
            "processors, buses and interrupts: {}",
            match entries {
                1 => "1 entry".to_owned(),
                entries => format!("{entries} entries"),
            }
        ),
        sum: sum_is_zero(guest, table, len),
    });
}

/// Shows them.
pub fn explain(guest: &Guest<'_>, section: &mut Section) {
    section.say(
        "A kernel cannot probe for processors, interrupt pins or a power switch: firmware leaves tables, \
         and here cottage does. They are found from the RSDP, whose address the kernel is told, or by a \
         scan of the last 128 KiB below 1 MiB.",
    );
    let row = |table: &Table| {
        let sum = match table.sum {
            Some(true) => "right",
            Some(false) => "WRONG",
            None => "none",
        };
        vec![
            table.name.clone(),
            format!("{:#x}", table.at),
            format!("{:#x}", table.len),
            sum.to_owned(),
            table.meaning.clone(),
        ]
    };
    let rows = find(guest).iter().map(row).collect();
    section.table(&["table", "at", "bytes", "checksum", "meaning"], rows);
}
