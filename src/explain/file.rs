//! What a kernel file is: the first section, and that of what came out of it.
//!
//! Read next: [`super::protocols`].

use super::fields::size;
use super::page::Section;
use super::{bzimage, elf, multiboot};
use crate::boot::Blob;
use crate::boot::identify::{HEAD, Kind, identify};

/// What a file offers, as far as it can be told without unpacking it.
#[derive(Debug, Default)]
pub struct Offers {
    /// It has a setup header.
    pub bzimage: Option<bzimage::Facts>,
    /// It is an ELF file for x86, or one came out of it.
    pub elf: Option<elf::Facts>,
    /// It has a multiboot header; or one that is of no use, for this reason.
    pub multiboot: Option<Result<(), String>>,
}

/// Tells what `file` is; `words` begin the paragraph.
pub fn explain(file: &Blob, words: &str, section: &mut Section) -> Offers {
    let mut offers = Offers::default();
    let head = match file.head(HEAD) {
        Ok(head) => head,
        Err(error) => {
            section.say(format!("{words} cannot be read: {error}."));
            return offers;
        }
    };
    let kind = identify(&head);
    section.say(format!(
        "{words} is {}, {}.",
        kind.phrase(),
        size(file.len())
    ));
    match kind {
        Kind::BzImage => offers.bzimage = Some(bzimage::explain(file, &head, section)),
        Kind::Packed(_) => section.say("What is in it shows only when it is unpacked, below."),
        _ if head.starts_with(b"\x7fELF") => offers.elf = elf::explain(file, section),
        _ => {}
    }
    offers.multiboot = match multiboot::explain(file, section) {
        multiboot::Found::None => None,
        multiboot::Found::Header => Some(Ok(())),
        // Four bytes in a vmlinux can look like a magic number.
        multiboot::Found::Bad(_) if kind == Kind::Elf || kind == Kind::BzImage => None,
        multiboot::Found::Bad(why) => Some(Err(why)),
    };
    offers
}
