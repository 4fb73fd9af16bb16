//! An ELF file: header, segments, notes, and what its sections say about symbols.
//!
//! A loader needs the segments alone. Notes carry the PVH entry point, sections are for debuggers; both
//! are shown because people ask for them. Reading is [`crate::boot::elf_headers`]'s and
//! [`crate::boot::notes`]'s, as for booting.
//!
//! Sources: `[elf]` System V ABI, chapters 4 and 5; `[pvh]` Xen `xen/include/public/elfnote.h`; Linux
//! `include/linux/elfnote.h`, v6.12. Read next: [`super::multiboot`].

use linux_loader::elf::Elf64_Phdr;

use super::fields::{count, number, size, text};
use super::page::Section;
use crate::boot::Blob;
use crate::boot::elf::Elf;
use crate::boot::elf_headers::{self, Headers};
use crate::boot::identify::HEAD;
use crate::boot::notes::{MAX_NOTES, Note};

/// Most bytes of a section table or of names that are read.
const TABLE_MAX: u64 = 8 << 20; // 8 MiB
/// Most notes and sections that are listed.
const LIST_MAX: usize = 48;

/// What the protocols' table asks of an ELF file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether it is 64-bit.
    pub wide: bool,
    /// Guest-physical entry point, if it is in a segment.
    pub entry: Option<u64>,
    /// The same of PVH.
    pub pvh: Option<u64>,
}

/// Tells of an ELF file; `None` if its header is cut off.
pub fn explain(file: &Blob, section: &mut Section) -> Option<Facts> {
    let head = file.head(HEAD).ok()?;
    let header = Headers::read(&head)?;
    section.table(&["field", "value", "meaning"], header_rows(&head, &header));
    match header.program_headers(file, &head) {
        Ok(programs) => {
            let rows = programs.iter().enumerate().map(segment_row).collect();
            section.table(
                &[
                    "",
                    "type",
                    "file",
                    "bytes",
                    "physical",
                    "virtual",
                    "memory",
                    "flags and meaning",
                ],
                rows,
            );
            section.table(
                &["note", "type", "value", "meaning"],
                note_rows(file, &programs),
            );
        }
        Err(error) => section.say(format!("Its segments cannot be read: {error}.")),
    }
    section.say(symbols(file, &header));
    let elf = Elf::parse(file, &head).ok();
    Some(Facts {
        wide: header.wide,
        entry: elf.as_ref().map(|elf| elf.entry),
        pvh: elf.and_then(|elf| elf.pvh_entry),
    })
}

/// `[elf]` figure 4-3, the fields that say something about a kernel.
fn header_rows(head: &[u8], header: &Headers) -> Vec<Vec<String>> {
    let half = |at| number(head, at, 2).unwrap_or(0);
    let kind = match half(16) {
        1 => "relocatable: an object or module",
        2 => "executable",
        3 => "shared object or position-independent program",
        4 => "core dump",
        _ => "unknown",
    };
    let machine = match half(18) {
        3 => "Intel 80386",
        62 => "x86-64",
        _ => "another processor",
    };
    let width = if header.wide { "64-bit" } else { "32-bit" };
    let row = |name: &str, value: u64, meaning: String| {
        vec![name.to_owned(), format!("{value:#x}"), meaning]
    };
    vec![
        row("EI_CLASS", u64::from(header.wide) + 1, width.into()),
        row("e_type", half(16), kind.into()),
        row("e_machine", half(18), machine.into()),
        row(
            "e_entry",
            header.entry,
            "the entry point; Linux writes the physical address of startup_64 here".into(),
        ),
        row(
            "e_phoff",
            header.programs.offset,
            count(header.programs.count.into(), "program header"),
        ),
        row(
            "e_shoff",
            header.sections.offset,
            count(header.sections.count.into(), "section header"),
        ),
    ]
}

/// `[elf]` figure 5-1.
fn segment_row((index, program): (usize, &Elf64_Phdr)) -> Vec<String> {
    let bit = |mask: u32, letter| {
        if program.p_flags & mask == 0 {
            '-'
        } else {
            letter
        }
    };
    let flags: String = [bit(4, 'r'), bit(2, 'w'), bit(1, 'x')]
        .into_iter()
        .collect();
    let bss = program.p_memsz.saturating_sub(program.p_filesz);
    let (kind, meaning) = match program.p_type {
        1 if bss > 0 => (
            "LOAD",
            format!("{flags}; {} more are zero (BSS)", size(bss)),
        ),
        1 => ("LOAD", flags),
        4 => ("NOTE", format!("{flags}; notes, below")),
        0 => ("NULL", "not used".into()),
        7 => (
            "TLS",
            format!("{flags}; thread-local, of no use to a kernel"),
        ),
        0x6474_e551 => ("STACK", format!("{flags}; asks for nothing that is loaded")),
        other => ("other", format!("{flags}; type {other:#x}, not loaded")),
    };
    vec![
        index.to_string(),
        kind.into(),
        format!("{:#x}", program.p_offset),
        format!("{:#x}", program.p_filesz),
        format!("{:#x}", program.p_paddr),
        format!("{:#x}", program.p_vaddr),
        format!("{:#x}", program.p_memsz),
        meaning,
    ]
}

fn note_rows(file: &Blob, programs: &[Elf64_Phdr]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for program in programs.iter().filter(|program| program.p_type == 4) {
        let (offset, len) = (program.p_offset, program.p_filesz);
        let Ok(notes) = file.read_vec(offset, len, MAX_NOTES) else {
            rows.push(row_of_fault(
                "cannot be read: beyond the end of the file, or too long",
            ));
            continue;
        };
        let align = if program.p_align == 8 { 8 } else { 4 };
        let mut at = 0;
        while at < notes.len() && rows.len() < LIST_MAX {
            match Note::read(&notes, at, align) {
                Ok((note, next)) => {
                    rows.push(note_row(&note));
                    at = next;
                }
                Err((at, why)) => {
                    rows.push(row_of_fault(&format!("broken at {at:#x}: {why}")));
                    break;
                }
            }
        }
    }
    rows
}

fn row_of_fault(what: &str) -> Vec<String> {
    vec!["?".into(), String::new(), String::new(), what.to_owned()]
}

fn note_row(note: &Note<'_>) -> Vec<String> {
    let name = text(note.name);
    let (meaning, is_text) = note_meaning(&name, note.kind);
    let value = match note.value.len() {
        _ if is_text => format!("{:?}", text(note.value)),
        1..=8 => format!(
            "{:#x}",
            number(note.value, 0, note.value.len()).unwrap_or(0)
        ),
        _ => {
            let bytes = note.value.iter().take(20);
            bytes.map(|byte| format!("{byte:02x}")).collect()
        }
    };
    vec![name, note.kind.to_string(), value, meaning.to_owned()]
}

/// What a note is about, and whether its value is text. `[pvh]`; Linux's and GNU's own.
fn note_meaning(name: &str, kind: u32) -> (&'static str, bool) {
    match (name, kind) {
        ("Xen", 18) => ("PHYS32_ENTRY: the PVH entry point, 32-bit, physical", false),
        ("Xen", 19) => (
            "PHYS32_RELOC: PVH may move it: alignment, least, most address",
            false,
        ),
        ("Xen", 1) => (
            "ENTRY: where a paravirtual Xen guest is entered, virtual",
            false,
        ),
        ("Xen", 2) => ("HYPERCALL_PAGE, for paravirtual Xen", false),
        ("Xen", 3) => ("VIRT_BASE, for paravirtual Xen", false),
        ("Xen", 4) => ("PADDR_OFFSET, for paravirtual Xen", false),
        ("Xen", 5) => ("XEN_VERSION it was made for", true),
        ("Xen", 6) => ("GUEST_OS", true),
        ("Xen", 7) => ("GUEST_VERSION", true),
        ("Xen", 8) => ("LOADER", true),
        ("Xen", 9) => ("PAE_MODE, for paravirtual Xen", true),
        ("Xen", 10) => ("FEATURES, for Xen", true),
        ("Xen", 12) => ("HV_START_LOW, for paravirtual Xen", false),
        ("Xen", 13) => ("L1_MFN_VALID, for paravirtual Xen", false),
        ("Xen", 14) => ("SUSPEND_CANCEL, for Xen", false),
        ("Xen", 15) => ("INIT_P2M, for paravirtual Xen", false),
        ("Xen", 16) => ("MOD_START_PFN, for paravirtual Xen", false),
        ("Xen", 17) => ("SUPPORTED_FEATURES, for Xen", false),
        ("Xen", _) => ("for Xen", false),
        ("GNU", 3) => ("build id: a digest of the build, for debuggers", false),
        ("GNU", 1) => ("ABI tag", false),
        ("GNU", 5) => ("properties", false),
        ("Linux", 256) => ("BUILD_SALT: makes builds of one source differ", true),
        ("Linux", 257) => ("LTO_INFO: whether linked with optimisation", false),
        ("Linux", 0) => (
            "the kernel's version as a number: major, minor, patch",
            false,
        ),
        _ => ("", false),
    }
}

/// Whether a debugger finds names in it.
fn symbols(file: &Blob, header: &Headers) -> String {
    let sections = match sections(file, header) {
        Some(sections) if !sections.is_empty() => sections,
        Some(_) => {
            return "No sections: symbols were stripped, debuggers need the System.map of the build."
                .into();
        }
        None => return "Its sections cannot be read, so its symbols cannot either.".into(),
    };
    let find = |name: &str| sections.iter().find(|(found, _)| found == name);
    let symbols = match find(".symtab") {
        Some((_, table)) => format!("symbols ({})", size(table.len)),
        None => "no symbols (stripped: use the System.map of the build)".into(),
    };
    let debug = match find(".debug_info") {
        Some((_, table)) => format!("debug information ({})", size(table.len)),
        None => "no debug information".into(),
    };
    let names = sections.iter().filter(|(name, _)| !name.is_empty());
    let names: Vec<_> = names.map(|(name, _)| &**name).take(LIST_MAX).collect();
    format!(
        "Sections: {symbols}, {debug}. They are {}.",
        names.join(" ")
    )
}

/// All sections with their names; `None` if the table or the names are not in the file.
fn sections(file: &Blob, header: &Headers) -> Option<Vec<(String, elf_headers::Section)>> {
    let table = header.sections;
    if table.count == 0 {
        return Some(Vec::new());
    }
    let entry_size = usize::from(table.entry_size);
    let len = u64::from(table.count) * u64::from(table.entry_size);
    let bytes = file.read_vec(table.offset, len, TABLE_MAX).ok()?;
    let entries: Vec<_> = (0..usize::from(table.count))
        .filter_map(|index| bytes.get(index * entry_size..(index + 1) * entry_size))
        .collect();
    let read = |entry: &[u8]| elf_headers::Section::read(entry, header.wide);
    let names = read(entries.get(usize::from(header.names))?)?;
    let names = file.read_vec(names.offset, names.len, TABLE_MAX).ok()?;
    let named = |entry: &&[u8]| {
        let at = usize::try_from(number(entry, 0, 4)?).ok()?;
        let name = names.get(at..)?.iter().take(64).copied();
        Some((text(&name.collect::<Vec<_>>()), read(entry)?))
    };
    Some(entries.iter().filter_map(named).collect())
}
