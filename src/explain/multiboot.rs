//! A multiboot header, if a kernel has one.
//!
//! Source: `[multiboot]` Multiboot Specification 0.6.96, 3.1. Read next: [`super::file`].

use super::fields::{COLUMNS, Field, rows};
use super::page::Section;
use crate::boot::Blob;
use crate::boot::multiboot::header::Error;
use crate::boot::multiboot::{SEARCH_2, find};

/// `[multiboot]` 3.1.1
const FIELDS: &[Field] = &[
    Field::new(0, 4, "magic", "0x1badb002: a multiboot header is here"),
    Field::bits(4, 4, "flags", FLAGS),
    Field::new(8, 4, "checksum", "makes the sum of the three 0"),
];

/// The rest, if flag 16 is set.
const ADDRESSES: &[Field] = &[
    Field::new(12, 4, "header_addr", "where the header itself goes"),
    Field::new(16, 4, "load_addr", "where the loaded part begins"),
    Field::new(20, 4, "load_end_addr", "where it ends; 0: with the file"),
    Field::new(24, 4, "bss_end_addr", "where the zeros after it end"),
    Field::new(28, 4, "entry_addr", "the first instruction"),
];

/// `[multiboot]` 3.1.2
const FLAGS: &[(u64, &str)] = &[
    (1 << 0, "modules on pages, which ours are"),
    (1 << 1, "wants memory sizes, which it gets"),
    (1 << 2, "wants a video mode, which is not to be had"),
    (1 << 16, "addresses follow, in place of ELF segments"),
];

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No header, or four bytes that only look like one.
    None,
    /// A good one.
    Header,
    /// One that is of no use, and why.
    Bad(String),
}

/// Tells of the header in `kernel`.
pub fn explain(kernel: &Blob, section: &mut Section) -> Found {
    let Ok(head) = kernel.head(SEARCH_2) else {
        return Found::None;
    };
    let header = match find(&head) {
        Ok(header) => header,
        Err(Error::Absent) => return Found::None,
        Err(error) => return Found::Bad(error.to_string()),
    };
    section.say(format!(
        "It has a multiboot header at {:#x}, from which offsets count here:",
        header.offset
    ));
    let at = usize::try_from(header.offset).unwrap_or(usize::MAX);
    let bytes = head.get(at..).unwrap_or_default();
    let mut table = rows(FIELDS, bytes, |_, _| true);
    if header.addresses.is_some() {
        table.extend(rows(ADDRESSES, bytes, |_, _| true));
    }
    section.table(COLUMNS, table);
    Found::Header
}
