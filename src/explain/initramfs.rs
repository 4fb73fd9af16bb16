//! What is in the initramfs, and whether the program that the kernel looks for is there.
//!
//! It is read back from guest memory, where the user's archive and what cottage adds lie one behind the
//! other, and walked as Linux does: archives, packed or not, zeros between them. Contents are not read,
//! but for the first bytes of the program that becomes process 1.
//!
//! Sources: `[buffer]` Linux `Documentation/driver-api/early-userspace/buffer-format.rst`, v6.12; Linux
//! `init/main.c`, kernel_init_freeable, for what is looked for.
//! Read next: [`super::guest`].

use super::fields::{size, text};
use super::guest::Guest;
use super::page::Section;
use crate::boot::Blob;
use crate::boot::identify::identify;
use crate::boot::newc::{ALIGNMENT, FILE};
use crate::boot::unpack::{Algorithm, Size, unpack};

/// Most bytes a packed archive may unpack to.
const UNPACKED_MAX: u64 = 1 << 30; // 1 GiB
/// `[buffer]` Bytes of an entry's header: a magic number of 6 and 13 fields of 8 digits.
const HEADER: u64 = 110;
/// `[buffer]` Names longer than PATH_MAX are no names.
const NAME_MAX: u64 = 4096;
/// The kind in c_mode, and the kind of a symbolic link.
const KIND: u64 = 0o170_000;
const LINK: u64 = 0o120_000;

/// Where an archive is read from: guest memory, or memory of ours after unpacking.
enum Source<'a> {
    Guest(&'a Guest<'a>, u64),
    Bytes(&'a [u8]),
}

impl Source<'_> {
    fn read(&self, at: u64, len: u64) -> Option<Vec<u8>> {
        match self {
            Self::Guest(guest, base) => guest.bytes(base.checked_add(at)?, len),
            Self::Bytes(bytes) => {
                let start = usize::try_from(at).ok()?;
                let end = start.checked_add(usize::try_from(len).ok()?)?;
                bytes.get(start..end).map(<[u8]>::to_vec)
            }
        }
    }
}

/// What was found on the way.
#[derive(Debug, Default)]
struct Found {
    /// A row for each archive: from, to, what.
    rows: Vec<Vec<String>>,
    /// The last entry of the name that is looked for.
    init: Option<Init>,
}

/// The program that becomes process 1.
#[derive(Debug)]
struct Init {
    mode: u64,
    len: u64,
    /// Its first bytes; a link's are where it leads.
    head: Vec<u8>,
}

/// Tells of the initramfs of a guest that is loaded.
pub fn explain(guest: &Guest<'_>, section: &mut Section) {
    let Some(range) = guest.filled.initramfs else {
        section.say(
            "There is none: this kernel is no Linux, and gets what it is given. A multiboot kernel's \
             modules stand in its information.",
        );
        return;
    };
    let wanted = wanted(&guest.cmdline());
    let source = Source::Guest(guest, range.start.0);
    let mut found = Found::default();
    let given = guest.filled.given.min(range.len);
    walk(&source, (0, given), &wanted, &mut found);
    let ours = given.next_multiple_of(ALIGNMENT);
    if ours < range.len {
        walk(&source, (ours, range.len), &wanted, &mut found);
    }
    section.say(format!(
        "{} at {:#x}: {} as given{}.",
        size(range.len),
        range.start.0,
        size(given),
        match range.len.saturating_sub(ours) {
            0 => String::new(),
            more => format!(", and {} that cottage adds for its init", size(more)),
        }
    ));
    section.table(&["offset", "bytes", "what"], found.rows);
    if !guest.kernel.linux {
        section.say("What it has to be is the kernel's business, which is no Linux.");
        return;
    }
    section.say(
        found
            .init
            .map_or_else(|| absent(&wanted), |init| present(&wanted, &init)),
    );
}

/// The path of the program that the kernel starts first, without the leading slash.
fn wanted(cmdline: &str) -> String {
    // What stands behind `--` is for init, not for the kernel.
    let kernels = cmdline.split_whitespace().take_while(|word| *word != "--");
    let named = kernels.filter_map(|word| word.strip_prefix("rdinit="));
    let path = named.last().unwrap_or("/init");
    path.trim_start_matches('/').to_owned()
}

fn absent(wanted: &str) -> String {
    format!(
        "There is no /{wanted}. Linux then looks for a root file system by the word root= of the command \
         line, and panics if it finds none (\"Unable to mount root fs\"). An archive is packed from inside \
         the directory: `cd DIR; find . | cpio -o -H newc`."
    )
}

fn present(wanted: &str, init: &Init) -> String {
    let kind = match init.mode & KIND {
        LINK => format!("a symbolic link to {}", text(&init.head)),
        kind if kind == u64::from(FILE) => match init.head.strip_prefix(b"#!") {
            Some(line) => {
                let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
                format!(
                    "a script for {}, which must be there too",
                    text(line).trim()
                )
            }
            None => identify(&init.head).phrase(),
        },
        _ => "no file".into(),
    };
    let executable = match init.mode & 0o111 {
        0 => ", but nobody may execute it: Linux will fail to start it",
        _ => "",
    };
    format!(
        "The kernel starts /{wanted}, which is there: {kind}, {}, mode {:04o}{executable}.",
        size(init.len),
        init.mode & 0o7777
    )
}

/// Walks the archives from `at` to `end`.
fn walk(source: &Source<'_>, (mut at, end): (u64, u64), wanted: &str, found: &mut Found) {
    loop {
        at = skip_zeros(source, at, end);
        let Some(head) = source.read(at, (end - at).min(16)).filter(|_| at < end) else {
            return;
        };
        if is_entry(&head) {
            let (next, what) = archive(source, (at, end), wanted, found);
            found.rows.push(row(at, next - at, what));
            // An archive that stands still would be walked for ever.
            at = next.max(at + 1);
        } else if let Some(algorithm) = Algorithm::detect(&head) {
            packed(source, (at, end), algorithm, (wanted, found));
            return;
        } else {
            let what = "no cpio archive and nothing packed: the kernel stops here";
            found.rows.push(row(at, end - at, what.into()));
            return;
        }
    }
}

fn row(at: u64, len: u64, what: String) -> Vec<String> {
    vec![format!("{at:#x}"), format!("{len:#x}"), what]
}

/// The first byte from `at` on that is not zero, or `end`.
fn skip_zeros(source: &Source<'_>, mut at: u64, end: u64) -> u64 {
    while at < end {
        let step = (end - at).min(4096);
        let Some(bytes) = source.read(at, step) else {
            return end;
        };
        match bytes.iter().position(|byte| *byte != 0) {
            Some(place) => return at + place as u64,
            None => at += step,
        }
    }
    end
}

fn is_entry(head: &[u8]) -> bool {
    head.starts_with(b"070701") || head.starts_with(b"070702")
}

/// What is packed from `at` to `end`, and the archives in it.
fn packed(
    source: &Source<'_>,
    (at, end): (u64, u64),
    algorithm: Algorithm,
    (wanted, found): (&str, &mut Found),
) {
    let len = end - at;
    let Some(bytes) = source.read(at, len) else {
        return;
    };
    let blob = Blob::memory(bytes, "initramfs".into());
    let limit = Size {
        limit: UNPACKED_MAX,
        expected: None,
    };
    match unpack(&blob, 0, len, algorithm, limit) {
        Ok(bytes) => {
            let what = format!(
                "packed with {algorithm}; {} unpacked:",
                size(bytes.len() as u64)
            );
            found.rows.push(row(at, len, what));
            // Packed again in there would be walked too, but that is bounded: it only gets shorter.
            let inner = Source::Bytes(&bytes);
            let mut inside = Found::default();
            walk_inside(&inner, bytes.len() as u64, wanted, &mut inside);
            found.rows.extend(inside.rows);
            found.init = inside.init.or(found.init.take());
        }
        Err(error) => {
            let what = format!("packed with {algorithm}, but: {error}");
            found.rows.push(row(at, len, what));
        }
    }
}

/// The archives in what was unpacked, which is not unpacked again.
fn walk_inside(source: &Source<'_>, end: u64, wanted: &str, found: &mut Found) {
    let mut at = skip_zeros(source, 0, end);
    while at < end {
        let head = source.read(at, (end - at).min(6)).unwrap_or_default();
        if !is_entry(&head) {
            let what = "  no cpio archive: the kernel stops here".into();
            found.rows.push(row(at, end - at, what));
            return;
        }
        let (next, what) = archive(source, (at, end), wanted, found);
        found.rows.push(row(at, next - at, format!("  {what}")));
        at = skip_zeros(source, next.max(at + 1), end);
    }
}

/// One archive; returns where it ends, and what is in it.
fn archive(
    source: &Source<'_>,
    (start, end): (u64, u64),
    wanted: &str,
    found: &mut Found,
) -> (u64, String) {
    let (mut at, mut entries, mut bytes) = (start, 0, 0_u64);
    let mut tops: Vec<String> = Vec::new();
    let told = |entries: u64, bytes: u64, tops: &[String], how: &str| {
        let names = if tops.is_empty() {
            String::new()
        } else {
            format!(": {}", tops.join(" "))
        };
        let entries = match entries {
            1 => "1 entry".to_owned(),
            _ => format!("{entries} entries"),
        };
        format!(
            "cpio archive, {entries}, {} of content{how}{names}",
            size(bytes)
        )
    };
    while let Some(entry) = Entry::read(source, at, end) {
        at = entry.next;
        if entry.name == "TRAILER!!!" {
            return (at.min(end), told(entries, bytes, &tops, ""));
        }
        entries += 1;
        bytes = bytes.saturating_add(entry.len);
        let name = entry.name.trim_start_matches("./").trim_start_matches('/');
        let top = name.split('/').next().unwrap_or_default();
        if !top.is_empty() && top != "." && tops.len() < 16 && !tops.iter().any(|t| t == top) {
            tops.push(top.to_owned());
        }
        if name == wanted {
            let head = source.read(entry.data, entry.len.min(4096));
            found.init = Some(Init {
                mode: entry.mode,
                len: entry.len,
                head: head.unwrap_or_default(),
            });
        }
    }
    (end, told(entries, bytes, &tops, ", cut off or broken"))
}

/// An entry's header.
struct Entry {
    name: String,
    mode: u64,
    len: u64,
    /// Where its content is.
    data: u64,
    /// Where the next entry is.
    next: u64,
}

impl Entry {
    /// `None` if there is none at `at`, or if it reaches beyond `end`.
    fn read(source: &Source<'_>, at: u64, end: u64) -> Option<Self> {
        let header = source.read(at, HEADER).filter(|_| at + HEADER <= end)?;
        if !is_entry(&header) {
            return None;
        }
        // [buffer] Fields in order: inode, mode, uid, gid, links, mtime, size, 4 of devices, name size.
        let field = |number: usize| {
            let start = 6 + number * 8;
            let digits = std::str::from_utf8(header.get(start..start + 8)?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let (mode, len, name_len) = (field(1)?, field(6)?, field(11)?);
        if name_len == 0 || name_len > NAME_MAX {
            return None;
        }
        let name = source.read(at + HEADER, name_len)?;
        let data = (at + HEADER + name_len).next_multiple_of(ALIGNMENT);
        let next = (data + len).next_multiple_of(ALIGNMENT);
        if data + len > end {
            return None;
        }
        Some(Self {
            name: text(&name),
            mode,
            len,
            data,
            next,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::newc::{Attributes, header};

    fn entry(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
        let size = u32::try_from(content.len()).unwrap();
        let mut bytes = header(name.as_bytes(), &Attributes::of_root(mode), (1, 1), size).unwrap();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn trailer() -> Vec<u8> {
        entry("TRAILER!!!", 0, b"")
    }

    fn walked(bytes: &[u8]) -> Found {
        let mut found = Found::default();
        walk(
            &Source::Bytes(bytes),
            (0, bytes.len() as u64),
            "init",
            &mut found,
        );
        found
    }

    #[test]
    fn init_is_found_in_the_second_archive() {
        let mut bytes = [entry("early/microcode", 0o100_644, b"x"), trailer()].concat();
        bytes.resize(bytes.len() + 512, 0);
        bytes.extend([entry("./init", 0o100_755, b"#!/bin/sh\n"), trailer()].concat());
        let found = walked(&bytes);
        assert_eq!(found.rows.len(), 2);
        assert_eq!(
            found.rows[0][2],
            "cpio archive, 1 entry, 1 byte of content: early"
        );
        let words = present("init", &found.init.unwrap());
        assert_eq!(
            words,
            "The kernel starts /init, which is there: a script for /bin/sh, which must be there too, 10 \
             bytes, mode 0755."
        );
    }

    #[test]
    fn later_init_replaces_an_earlier_one() {
        let bytes = [
            entry("init", 0o100_755, b"one"),
            entry("init", 0o100_644, b"second"),
            trailer(),
        ];
        let init = walked(&bytes.concat()).init.unwrap();
        assert_eq!(init.head, b"second");
        assert!(present("init", &init).contains("nobody may execute it"));
    }

    #[test]
    fn archive_that_is_cut_off_is_told_so() {
        let mut bytes = [entry("a", 0o100_644, b""), entry("b", 0o100_644, &[1; 100])].concat();
        bytes.truncate(bytes.len() - 50);
        let found = walked(&bytes);
        assert!(found.rows[0][2].contains("1 entry") && found.rows[0][2].contains("cut off"));
        assert!(found.init.is_none());
    }

    #[test]
    fn bytes_that_are_no_archive_are_told_so() {
        assert!(walked(b"just some text here").rows[0][2].starts_with("no cpio archive"));
        assert!(walked(&[0; 600]).rows.is_empty());
    }

    #[test]
    fn program_that_is_looked_for_may_be_named() {
        assert_eq!(wanted("quiet rdinit=/bin/sh -- rdinit=/x"), "bin/sh");
        assert_eq!(wanted("quiet"), "init");
        assert!(absent("init").starts_with("There is no /init. Linux then looks"));
    }

    #[test]
    fn packed_archive_is_walked_inside() {
        let inner = [entry("init", 0o120_777, b"/sbin/init"), trailer()].concat();
        let found = walked(&crate::boot::testing::lz4(&inner));
        assert!(found.rows[0][2].starts_with("packed with lz4"));
        assert!(found.rows[1][2].starts_with("  cpio archive, 1 entry"));
        let words = present("init", &found.init.unwrap());
        assert!(words.contains("a symbolic link to /sbin/init"), "{words}");
    }

    proptest::proptest! {
        #[test]
        fn broken_archives_never_panic_or_go_on_for_ever(
            damage in proptest::collection::vec((0_usize..300, proptest::num::u8::ANY), 1..6),
            len in 0_usize..400,
        ) {
            let mut bytes = [entry("init", 0o100_755, b"#!x"), entry("b", 0o100_644, &[1; 50]), trailer()];
            for (at, byte) in damage {
                if let Some(place) = bytes[0].get_mut(at) {
                    *place = byte;
                }
            }
            let mut bytes = bytes.concat();
            bytes.truncate(len);
            let _found = walked(&bytes);
        }
    }
}
