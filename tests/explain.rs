//! `cottage explain` over kernels: those of Debian, ours, memtest86+, and a few of some hundred bytes.
//!
//! The small ones are made here, so that every word about them is known: `tests/explain/small-*.txt` are
//! whole pages. Of real kernels the stable parts are compared: the ways in and the processor's state, with
//! entry points masked, because those change with a build; header fields with the bytes of the file. What stands there was looked at by a
//! person; `COTTAGE_BLESS=1 cargo test -p cottage --test explain` writes what is said now.
//!
//! None of it needs KVM.
//!
//! Fixtures: `small_elf()` of `src/boot/testing.rs`, packed as `tests/images.rs` says of its sample.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;
#[cfg(test)]
#[path = "../src/boot/testing.rs"]
mod testing;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use cottage::boot::Blob;
use cottage::cli::Cli;
use cottage::config::VmConfig;
use cottage::explain::explain;
use cottage::explain::page::Page;
use proptest::prelude::*;
use regex_lite::Regex;
use serde_json::Value;
use support::program::{Finished, Scratch, finish, image, plain_program};
use testing::{
    bzimage, elf, elf32, lz4_payload, multiboot_header, put, segment, small_elf, small_multiboot,
};

/// An archive with nothing in it but its trailer: what a kernel of a few bytes gets.
fn empty_archive() -> Vec<u8> {
    let fields = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0];
    let digits: String = fields.iter().map(|field| format!("{field:08x}")).collect();
    format!("070701{digits}TRAILER!!!\0\0\0\0").into_bytes()
}

/// Runs `cottage explain WORDS`, in `folder`.
fn explained(folder: &Path, words: &[&str]) -> Finished {
    let mut command = Command::new(plain_program());
    command.current_dir(folder).arg("explain").args(words);
    finish(command, b"")
}

/// Compares with a file in tests/explain, or writes it.
#[track_caller]
fn compare(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/explain")
        .join(format!("{name}.txt"));
    if std::env::var_os("COTTAGE_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = expected.lines().zip(text.lines()).enumerate();
    for (number, (expected, said)) in lines {
        assert_eq!(said, expected, "{}, line {}", path.display(), number + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{text}");
}

/// The whole page about a kernel of a few bytes.
#[track_caller]
fn whole_page(name: &str, kernel: &[u8], words: &[&str]) {
    let files = Scratch::new();
    files.file("kernel", kernel);
    files.file("empty.cpio", &empty_archive());
    let folder = PathBuf::from(files.path("."));
    let words = [&["kernel", "--initramfs=empty.cpio", "--memory=8M"], words].concat();
    let page = explained(&folder, &words).expect_code(0).text();
    // On a processor that QEMU emulates, the command line has one word more.
    compare(name, &page.replace("nohz=off ", ""));
}

#[test]
fn vmlinux_is_explained_from_file_to_first_instruction() {
    whole_page("small-elf", &small_elf(), &["--cmdline=console=ttyS0"]);
}

#[test]
fn vmlinux_by_pvh_is_explained_with_its_start_info() {
    let words = ["--protocol=pvh", "--cmdline=quiet", "--rng", "--cpus=2"];
    whole_page("small-pvh", &small_elf(), &words);
}

#[test]
fn bzimage_is_explained_with_what_is_packed_in_it() {
    let kernel = bzimage(&lz4_payload(&small_elf()));
    whole_page("small-bzimage", &kernel, &["--cmdline=quiet"]);
}

#[test]
fn multiboot_kernel_is_explained_with_its_modules() {
    whole_page(
        "small-multiboot",
        &small_multiboot(),
        &["--append=words for it"],
    );
}

/// The same explanation for programs.
fn as_json(words: &[&str]) -> Value {
    let words = [&["--format=json"], words].concat();
    let page = explained(Path::new("."), &words).expect_code(0).text();
    serde_json::from_str(&page).unwrap()
}

/// Each row of a page's tables and each paragraph as a line; where a kernel is entered is masked.
fn masked(page: &Value) -> String {
    let numbers = Regex::new(r"0x[0-9a-f]+").unwrap();
    let mut lines = Vec::new();
    for section in page["sections"].as_array().unwrap() {
        lines.push(format!("[{}]", section["topic"].as_str().unwrap()));
        for part in section["parts"].as_array().unwrap() {
            if let Some(rows) = part["table"].as_array() {
                let cells = |row: &Value| {
                    let cells = row.as_object().unwrap().values();
                    let texts: Vec<_> = cells.map(|cell| cell.as_str().unwrap()).collect();
                    texts.join(" | ")
                };
                lines.extend(rows.iter().map(cells));
            }
            lines.extend(part["prose"].as_str().map(str::to_owned));
        }
    }
    let text = lines.iter().map(|line| {
        if line.contains(" at 0x") || line.contains(" | RIP | ") {
            format!("{}\n", numbers.replace_all(line, "#"))
        } else {
            format!("{line}\n")
        }
    });
    text.collect()
}

/// The ways into it, and the processor: what no rebuild changes.
#[track_caller]
fn real_kernel(name: &str, file: &str, words: &[&str]) -> Value {
    let (kernel, initramfs) = (image(file), image("initramfs.cpio"));
    let machine = ["--memory=512M", "--initramfs", &initramfs, &kernel];
    let page = as_json(&[&machine[..], words].concat());
    assert_eq!(page["refused"], Value::Null);
    let stable = ["protocols", "paging", "gdt", "registers"];
    let mut shown = page.clone();
    let sections = shown["sections"].as_array_mut().unwrap();
    sections.retain(|section| stable.contains(&section["topic"].as_str().unwrap()));
    compare(name, &masked(&shown));
    page
}

/// All rows of a topic's tables.
fn rows(page: &Value, topic: &str) -> Vec<Value> {
    let sections = page["sections"].as_array().unwrap().iter();
    let mut parts = sections
        .filter(|section| section["topic"] == topic)
        .flat_map(|section| section["parts"].as_array().unwrap());
    let tables = parts.by_ref().filter_map(|part| part["table"].as_array());
    tables.flatten().cloned().collect()
}

/// The value of a setup header's field.
fn field(page: &Value, topic: &str, name: &str) -> String {
    let rows = rows(page, topic);
    let row = rows.iter().find(|row| row["field"] == name);
    row.unwrap_or_else(|| panic!("no {name}"))["value"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The number in the file itself, which the page must repeat.
fn in_file(file: &str, at: usize, size: usize) -> String {
    let bytes = std::fs::read(image(file)).unwrap();
    let digits = bytes[at..at + size].iter().rev();
    format!(
        "{:#x}",
        digits.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    )
}

/// The prose of a topic.
fn prose(page: &Value, topic: &str) -> String {
    let sections = page["sections"].as_array().unwrap().iter();
    let parts = sections
        .filter(|section| section["topic"] == topic)
        .flat_map(|section| section["parts"].as_array().unwrap());
    parts.filter_map(|part| part["prose"].as_str()).collect()
}

/// A Linux of Debian's: packed so, of this version.
#[track_caller]
fn debian(name: &str, file: &str, packing: &str, version: &str) {
    let page = real_kernel(name, file, &[]);
    let text = prose(&page, "file");
    assert!(
        text.contains(&format!("Compression: {packing}, ")),
        "{text}"
    );
    assert!(text.contains(&format!("Version: {version}")), "{text}");
    for (field_name, at, size) in [("init_size", 0x260, 4), ("xloadflags", 0x236, 2)] {
        assert_eq!(field(&page, "file", field_name), in_file(file, at, size));
        // The zero page has the header of the file.
        assert_eq!(field(&page, "info", field_name), in_file(file, at, size));
    }
    assert!(prose(&page, "inside").starts_with("It is a 64-bit x86 ELF program, "));
    assert!(prose(&page, "initramfs").contains("The kernel starts /init, which is there"));
}

#[test]
fn debian_12_cloud_kernel_is_explained() {
    let packing = packing_of("debian-cloud/vmlinuz");
    debian("linux-packed", "debian-cloud/vmlinuz", &packing, "6.");
}

#[test]
fn debian_12_generic_kernel_is_explained() {
    debian(
        "linux-packed",
        "kernels/debian12-generic",
        "xz",
        "6.1.0-56-amd64 (",
    );
}

#[test]
fn debian_13_cloud_kernel_is_explained() {
    let version = "6.12.107+deb13-cloud-amd64 (";
    debian(
        "linux-packed",
        "kernels/debian13-cloud",
        &packing_of("kernels/debian13-cloud"),
        version,
    );
}

#[test]
fn debian_13_generic_kernel_is_explained() {
    let version = "6.12.107+deb13-amd64 (";
    debian(
        "linux-packed",
        "kernels/debian13-generic",
        &packing_of("kernels/debian13-generic"),
        version,
    );
}

/// As the payload's first bytes say, by Linux's documentation of payload_offset.
fn packing_of(file: &str) -> String {
    let bytes = std::fs::read(image(file)).unwrap();
    let offset = u32::from_le_bytes(bytes[0x248..0x24c].try_into().unwrap());
    let at = (usize::from(bytes[0x1f1]) + 1) * 512 + usize::try_from(offset).unwrap();
    let magics: [(&[u8], &str); 6] = [
        (b"\x1f\x8b", "gzip"),
        (b"BZ", "bzip2"),
        (b"\x5d\0", "lzma"),
        (b"\xfd7z", "xz"),
        (b"\x02\x21", "lz4"),
        (b"\x28\xb5", "zstd"),
    ];
    let found = magics
        .iter()
        .find(|(magic, _)| bytes[at..].starts_with(magic));
    found.unwrap().1.to_owned()
}

#[test]
fn tiny_kernel_is_explained_packed_and_not() {
    let packed = real_kernel("tiny-bzimage", "tiny/bzImage", &[]);
    let plain = real_kernel("tiny-vmlinux", "tiny/vmlinux", &[]);
    let entry = |page: &Value| rows(page, "registers")[0]["value"].clone();
    assert_eq!(entry(&packed), entry(&plain));
    assert!(prose(&packed, "file").contains("6.12."));
    assert!(prose(&plain, "inside").is_empty());
}

#[test]
fn full_kernel_is_explained_packed_and_not() {
    let packed = real_kernel("full-bzimage", "full/bzImage", &["--rng"]);
    let plain = real_kernel("full-vmlinux", "full/vmlinux", &["--rng", "--protocol=pvh"]);
    assert!(prose(&packed, "protocols").contains("Why the 64-bit entry"));
    assert!(prose(&plain, "protocols").contains("Why PVH"));
    assert_eq!(field(&plain, "info", "magic"), "0x336ec578");
}

#[test]
fn kernel_that_unpacks_itself_is_entered_in_its_unpacker() {
    let page = real_kernel("tiny-unpack-guest", "tiny/bzImage", &["--unpack=guest"]);
    let header = |name: &str| field(&page, "file", name);
    let number = |text: &str| u64::from_str_radix(&text[2..], 16).unwrap();
    let entry = rows(&page, "registers")[0]["value"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(number(&entry), number(&header("pref_address")) + 0x200);
}

#[test]
fn memtest86plus_is_explained_as_no_linux() {
    let page = real_kernel("memtest-x64", "memtest86plus/x64.bin", &[]);
    assert!(prose(&page, "file").contains("it is no Linux"));
    let page = real_kernel("memtest-ia32", "memtest86plus/ia32.bin", &[]);
    assert!(prose(&page, "protocols").contains("Why the 32-bit entry"));
    assert!(prose(&page, "paging").starts_with("None: "));
}

/// A bzImage of `small_elf` packed by a real tool: the payload is found, named, unpacked and explained.
#[track_caller]
fn packed_by(tool: &str, packed: &[u8]) {
    let mut payload = packed.to_vec();
    if tool != "gzip" {
        // As a kernel's build appends it; gzip ends with that itself.
        payload.extend(u32::try_from(small_elf().len()).unwrap().to_le_bytes());
    }
    let (page, refused) = explanation(bzimage(&payload), &[]);
    assert_eq!(refused, None);
    let page = serde_json::to_value(&page).unwrap();
    let text = prose(&page, "file");
    assert!(text.contains(&format!("Compression: {tool}, ")), "{text}");
    assert!(text.contains("; 4.1 KiB unpacked"), "{text}");
    assert_eq!(rows(&page, "registers")[0]["value"], "0x200000");
}

#[test]
fn kernels_of_each_compression_are_explained() {
    packed_by("gzip", include_bytes!("fixtures/packed/elf.gz"));
    packed_by("bzip2", include_bytes!("fixtures/packed/elf.bz2"));
    packed_by("lzma", include_bytes!("fixtures/packed/elf.lzma"));
    packed_by("xz", include_bytes!("fixtures/packed/elf.xz"));
    packed_by("lzo", include_bytes!("fixtures/packed/elf.lzo"));
    packed_by("lz4", include_bytes!("fixtures/packed/elf.lz4"));
    packed_by("zstd", include_bytes!("fixtures/packed/elf.zst"));
}

/// Explains bytes in this process; returns the page and what `run` would refuse.
fn explanation(kernel: Vec<u8>, words: &[&str]) -> (Page, Option<String>) {
    let files = Scratch::new();
    let initramfs = files.file("empty.cpio", &empty_archive());
    // The file is not opened: the bytes are here.
    let always = [
        "cottage",
        "explain",
        "--memory=8M",
        "--kernel=k",
        "--initramfs",
        &initramfs,
    ];
    let words = always.iter().chain(words);
    let cottage::cli::Command::Explain(args) = Cli::try_parse_from(words).unwrap().command else {
        panic!("not explain");
    };
    let config = VmConfig::from_args(args.machine).unwrap();
    let (page, refusal) = explain(Blob::memory(kernel, "k".into()), &config, &args.only);
    let words = refusal.map(|refusal| refusal.to_string());
    (page, words)
}

#[test]
fn elf_without_pvh_note_says_so() {
    let kernel = elf(0x20_0000, &[segment(0x20_0000, &[0x90; 64])], b"");
    let (page, refused) = explanation(kernel, &[]);
    assert_eq!(refused, None);
    let page = serde_json::to_value(&page).unwrap();
    let ways = rows(&page, "protocols");
    let pvh = ways.iter().find(|way| way["entry"] == "PVH").unwrap();
    assert_eq!(
        pvh["this kernel"],
        "no: no such note (built without CONFIG_PVH?)"
    );
}

/// Explains a broken kernel by the program: what is known on stdout, and the words of `run`, status 110.
#[track_caller]
fn broken(kernel: &[u8], known: &str, refusal: &str) {
    let files = Scratch::new();
    let kernel = files.file("broken", kernel);
    let initramfs = files.file("empty.cpio", &empty_archive());
    let words = [
        "--memory=8M",
        "--initramfs",
        &initramfs,
        "--kernel",
        &kernel,
    ];
    let explained = explained(Path::new("."), &words)
        .expect_code(110)
        .expect_stderr(refusal);
    assert!(explained.text().contains(known), "{}", explained.text());
    // `run` refuses it too, in the same words; it says nothing on stdout.
    let mut command = Command::new(plain_program());
    command.arg("run").args(words);
    let run = finish(command, b"").expect_code(110);
    assert_eq!(run.stderr, explained.stderr);
}

#[test]
fn bzimage_that_is_cut_off_shows_its_header() {
    let kernel = std::fs::read(image("tiny/bzImage")).unwrap();
    let refusal = "Cannot find the protected-mode kernel: it ends at";
    broken(&kernel[..0x4_0000], "boot protocol 2.15", refusal);
    broken(
        &kernel[..0x220],
        "0x210   type_of_loader",
        "Cannot find the setup header",
    );
}

#[test]
fn payload_that_is_damaged_shows_all_but_what_is_in_it() {
    let mut kernel = bzimage(&lz4_payload(&small_elf()));
    put(&mut kernel, 0x80c, &[0xff; 32]);
    broken(&kernel, "Compression: lz4", "Cannot unpack");
}

#[test]
fn elf_that_is_cut_off_shows_its_segments() {
    let kernel = small_elf();
    broken(
        &kernel[..0x1010],
        "LOAD",
        "Segment 0 takes bytes 0x1000 + 0x40, but the file has 0x1010",
    );
    broken(
        &kernel[..0x30],
        "a 64-bit x86 ELF program, 48 bytes",
        "Cannot read the ELF header",
    );
}

#[test]
fn what_is_no_kernel_is_named() {
    broken(
        b"console=ttyS0\n",
        "is a text file, 14 bytes",
        "is a text file, not a kernel",
    );
    broken(b"", "is an empty file", "is an empty file, not a kernel");
    broken(&[0x93; 4096], "of no known format", "of no known format");
}

#[test]
fn kernel_too_large_for_the_machine_is_explained_and_refused() {
    let mut kernel = segment(0x20_0000, &[0x90; 64]);
    kernel.memory_len = 64 << 20;
    let kernel = elf(0x20_0000, &[kernel], b"");
    broken(
        &kernel,
        "63.9 MiB more are zero (BSS)",
        "this kernel needs at least 66 MiB",
    );
}

#[test]
fn only_what_is_asked_for_is_told() {
    let (page, refused) = explanation(small_elf(), &["--only=gdt,file"]);
    assert_eq!(refused, None);
    let titles: Vec<_> = page
        .sections
        .iter()
        .map(|section| &*section.title)
        .collect();
    assert_eq!(titles, ["The file", "Segment descriptors: the GDT"]);
    // A kernel that does not load has a header all the same, and nothing else was asked for.
    let (page, refused) = explanation(small_elf()[..0x1010].to_vec(), &["--only=file"]);
    assert_eq!((refused, page.sections.len()), (None, 1));
}

#[test]
fn initramfs_without_init_is_told_why_that_matters() {
    let (page, _) = explanation(small_elf(), &["--only=initramfs"]);
    let text = page.to_string();
    assert!(
        text.contains("There is no /init. Linux then looks for a root file system"),
        "{text}"
    );
}

#[test]
fn page_goes_to_a_reader_that_stops() {
    let files = Scratch::new();
    let kernel = files.file("kernel", &small_elf());
    let initramfs = files.file("empty.cpio", &empty_archive());
    let line = format!(
        "{} explain {kernel} --initramfs {initramfs} --memory 8M | head -n 1; exit ${{PIPESTATUS[0]}}",
        plain_program().display()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &line]);
    finish(command, b"")
        .expect_code(0)
        .expect_stdout("The file\n");
}

/// An interesting number in place of some field.
fn field_value() -> impl Strategy<Value = (usize, u64)> {
    let numbers = prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(1 << 63),
        Just(u64::from(u32::MAX)),
        any::<u64>(),
        0_u64..0x3000,
    ];
    let places = prop_oneof![3 => 0_usize..0x300, 1 => 0x1000_usize..0x1100];
    (places, numbers)
}

/// Damaged kernels of each kind; what is said of them is of no matter here.
fn explain_damaged(images: &[Vec<u8>], at: usize, number: u64, len: usize) {
    for image in images {
        let mut image = image.clone();
        if at + 8 <= image.len() {
            put(&mut image, at, &number.to_le_bytes());
        }
        image.truncate(len);
        for words in [
            &[][..],
            &["--protocol=pvh"],
            &["--protocol=multiboot"],
            &["--unpack=guest"],
        ] {
            let (page, _refused) = explanation(image.clone(), words);
            assert!(!page.to_string().is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

    #[test]
    fn broken_kernels_never_panic(
        (at, number) in field_value(), len in prop_oneof![Just(usize::MAX), 0_usize..0x1200],
    ) {
        let mut code = multiboot_header(3, &[]);
        code.extend([0xf4; 32]);
        let sections: [(u32, u32, &[u8]); 3] = [(0, 0, b""), (2, 0, b"symbols"), (3, 0, b"strings")];
        let with_symbols = elf32(0x10_0010, &[(0x10_0000, &code)], &sections);
        let images = [small_elf(), bzimage(&lz4_payload(&small_elf())), with_symbols];
        explain_damaged(&images, at, number, len);
    }
}
