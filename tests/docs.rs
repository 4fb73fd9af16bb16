//! The documents agree with the code.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use cottage::cli::Cli;
use cottage::console::escape;
use cottage::memory::layout;
use cottage::outcome::EXIT_STATUS_HELP;
use vm_memory::GuestAddress;

/// Production lines a file may have: those before its tests.
const MAX_LINES: usize = 400;
/// What every decision record has, in this order.
const RECORD_PARTS: [&str; 6] = [
    "\nDate: ",
    "Status: ",
    "\n**Context.** ",
    "\n**Decision.** ",
    "\n**Alternatives.** ",
    "\n**Consequences.** ",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Files below `folder` with this extension.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found
}

/// Each document with its text: those beside README, and everything under docs/.
fn documents() -> Vec<(PathBuf, String)> {
    let tops = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    let with_text = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    };
    let paths = tops.into_iter().chain(files("docs", "md"));
    paths.map(with_text).collect()
}

/// What stands between single backquotes, outside of drawings and transcripts.
fn quoted(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split('`').skip(1).step_by(2))
        .collect()
}

fn is_source_path(word: &str) -> bool {
    ["src/", "tests/", "docs/", "benches/", "guest-images/"]
        .iter()
        .any(|top| word.starts_with(top))
        && !word.contains([' ', '*'])
        && !word.starts_with("guest-images/out")
}

/// Every source path or `path::function` in the documents for which `is_wrong`.
fn references(is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (document, text) in documents() {
        let words = quoted(&text);
        let paths = words.into_iter().filter(|word| is_source_path(word));
        let bad = paths.filter(|word| is_wrong(word));
        wrong.extend(bad.map(|word| format!("{}: {word}", document.display())));
    }
    wrong
}

#[test]
fn paths_named_in_documents_exist() {
    let path = |word: &str| word.split("::").next().unwrap().to_owned();
    let missing = references(|word| !root().join(path(word)).exists());
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Whether `text` defines a function of exactly this name.
fn defines(text: &str, function: &str) -> bool {
    ["(", "<"]
        .iter()
        .any(|end| text.contains(&format!("fn {function}{end}")))
}

#[test]
fn functions_named_in_documents_exist() {
    let missing = references(|word| {
        word.split_once("::")
            .is_some_and(|(path, function)| !defines(&read(path), function))
    });
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn function_search_takes_whole_names_only() {
    assert!(defines("pub fn load(self) {}", "load"));
    assert!(defines("fn load<T>(of: T) {}", "load"));
    assert!(!defines("fn load_kernel() {}", "load"));
    assert!(!defines("load(); // fn", "load"));
}

#[test]
fn relative_links_lead_somewhere() {
    let mut broken = Vec::new();
    for (document, text) in documents() {
        for rest in text.split("](").skip(1) {
            let link = rest.split(')').next().unwrap();
            let target = link.split('#').next().unwrap();
            let path = document.parent().unwrap().join(target);
            if !link.contains("://") && !target.is_empty() && !path.exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The anchors of a page: its headings, as mdBook and GitHub make them.
fn anchors(text: &str) -> Vec<String> {
    let prose = text.split("\n```").step_by(2);
    let lines = prose.flat_map(str::lines);
    let headings = lines.filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            });
            kept.collect()
        })
        .collect()
}

#[test]
fn anchors_of_links_exist() {
    let mut broken = Vec::new();
    for (document, text) in documents() {
        for rest in text.split("](").skip(1) {
            let link = rest.split(')').next().unwrap();
            let Some((page, anchor)) = link.split_once('#') else {
                continue;
            };
            if link.contains("://") {
                continue;
            }
            let page = match page {
                "" => document.clone(),
                page => document.parent().unwrap().join(page),
            };
            let known = fs::read_to_string(page).map(|text| anchors(&text));
            if !known.is_ok_and(|known| known.iter().any(|known| known == anchor)) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn anchors_are_headings_without_punctuation() {
    let text = "# What, a `virtio` console\n```\n# no\n```\n## It-s_1\n";
    assert_eq!(anchors(text), ["what-a-virtio-console", "it-s_1"]);
}

/// The pages that the book's table of contents names.
fn pages_of_the_book() -> Vec<PathBuf> {
    let summary = read("docs/SUMMARY.md");
    let links = summary.split("](").skip(1);
    links
        .map(|rest| root().join("docs").join(rest.split(')').next().unwrap()))
        .collect()
}

#[test]
fn every_page_of_docs_is_in_the_book() {
    let (listed, summary) = (pages_of_the_book(), root().join("docs/SUMMARY.md"));
    let all = files("docs", "md").into_iter();
    let missing: Vec<_> = all
        .filter(|page| *page != summary && !listed.contains(page))
        .collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md lacks {missing:#?}");
    // mdBook refuses a page that is named twice.
    let mut once = listed.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), listed.len(), "docs/SUMMARY.md has a page twice");
}

#[test]
fn links_of_the_book_stay_in_the_book() {
    let mut out = Vec::new();
    for page in pages_of_the_book() {
        let text = fs::read_to_string(&page).unwrap();
        for rest in text.split("](").skip(1) {
            let link = rest.split([')', '#']).next().unwrap();
            let target = page.parent().unwrap().join(link);
            let inside = || {
                let target = target.canonicalize().unwrap();
                target.starts_with(root().join("docs").canonicalize().unwrap())
            };
            // mdBook makes index.html of README.md, and does not tell the links.
            let is_lost = |link: &str| link.ends_with("README.md");
            if !link.is_empty() && !link.contains("://") && (!inside() || is_lost(link)) {
                out.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(out.is_empty(), "{out:#?}");
}

/// Constants of the layout that a line names beside addresses, none of which is theirs.
fn misquoted(line: &str) -> Vec<String> {
    let constants = constants();
    let word = |c: char| !c.is_alphanumeric() && c != '_';
    let words: Vec<_> = line.split(word).collect();
    let numbers: Vec<_> = words
        .iter()
        .filter(|word| word.starts_with("0x"))
        .filter_map(|word| number(&word.replace('_', "")))
        .collect();
    let named = words
        .iter()
        .filter_map(|word| constants.get_key_value(*word));
    named
        .filter(|(_, value)| !numbers.is_empty() && !numbers.contains(value))
        .map(|(name, value)| format!("{name} is {value:#x}: {line}"))
        .collect()
}

#[test]
fn addresses_beside_a_constant_are_its_value() {
    let mut wrong = Vec::new();
    for page in pages_of_the_book() {
        let text = fs::read_to_string(&page).unwrap();
        // Records of decisions keep what was true then; the map has a test of its own.
        if page.starts_with(root().join("docs/book")) {
            wrong.extend(text.lines().flat_map(misquoted));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn address_that_is_not_its_constant_is_found() {
    assert!(misquoted("│ 0x0000_7000 │ zero page ZERO_PAGE").is_empty());
    assert!(misquoted("the ZERO_PAGE").is_empty());
    assert_eq!(misquoted("ZERO_PAGE, 0x8000").len(), 1);
}

/// An address, port, number or size, as a number.
trait Value {
    fn value(self) -> u64;
}

impl Value for GuestAddress {
    fn value(self) -> u64 {
        self.0
    }
}

impl Value for u16 {
    fn value(self) -> u64 {
        self.into()
    }
}

impl Value for u32 {
    fn value(self) -> u64 {
        self.into()
    }
}

impl Value for u64 {
    fn value(self) -> u64 {
        self
    }
}

macro_rules! values {
    ($($name:ident),* $(,)?) => {
        BTreeMap::from([$((stringify!($name).to_owned(), layout::$name.value())),*])
    };
}

/// Every constant of layout.rs; [`list_of_constants_is_complete`] keeps it so.
#[expect(clippy::too_many_lines, reason = "a list")]
fn constants() -> BTreeMap<String, u64> {
    values![
        BIOS_DATA,
        BIOS_DATA_SIZE,
        BOOT_GDT,
        PVH_START_INFO,
        ZERO_PAGE,
        BOOT_STACK,
        PML4,
        PDPT,
        PAGE_DIRECTORIES,
        PAGE_DIRECTORIES_SIZE,
        MULTIBOOT_INFO,
        MULTIBOOT_INFO_MAX_SIZE,
        CMDLINE,
        CMDLINE_MAX_SIZE,
        EBDA,
        ACPI_TABLES,
        ACPI_TABLES_MAX_SIZE,
        MP_TABLE,
        MP_TABLE_MAX_SIZE,
        HIGH_RAM_START,
        MMIO_GAP_START,
        VIRTIO_ACPI,
        VIRTIO_CMDLINE,
        VIRTIO_WINDOW_SIZE,
        IOAPIC,
        IOAPIC_SIZE,
        LOCAL_APIC,
        KVM_IDENTITY_MAP,
        KVM_TSS,
        MMIO_GAP_END,
        PIC_1_PORT,
        PIC_2_PORT,
        PIC_TRIGGER_PORT,
        PIC_PORTS,
        PIT_PORT,
        PIT_PORTS,
        I8042_PORT,
        I8042_PORTS,
        RTC_PORT,
        RTC_PORTS,
        COM1_PORT,
        COM1_PORTS,
        ACPI_SLEEP_PORT,
        ACPI_SLEEP_PORTS,
        PCI_CONFIG_PORT,
        PCI_CONFIG_PORTS,
        BOOT_MARK_PORT,
        BOOT_MARK_PORTS,
        EXIT_STATUS_PORT,
        EXIT_STATUS_PORTS,
        PIT_GSI,
        COM1_GSI,
        VIRTIO_GSI,
        VIRTIO_SLOTS,
        IOAPIC_PINS,
        MIN_MEMORY,
        MAX_MEMORY,
        PMEM_START_ALIGN,
        PMEM_SIZE_ALIGN,
    ]
}

#[test]
fn list_of_constants_is_complete() {
    let layout = read("src/memory/layout.rs");
    let mut defined: Vec<_> = layout
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
        .collect();
    defined.sort_unstable();
    assert!(constants().keys().eq(defined.iter()), "{defined:?}");
}

/// `0x1000`, or `24`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The rows of all tables in memory-map.md, without headings.
fn memory_map_rows() -> Vec<Vec<String>> {
    let text = read("docs/memory-map.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.map(|row| {
        row.trim_end_matches(" |")
            .split(" | ")
            .map(|cell| cell.trim().to_owned())
            .collect::<Vec<_>>()
    });
    cells.filter(|cells| cells[0] != "constant").collect()
}

#[test]
fn memory_map_tables_equal_the_layout() {
    let mut documented = BTreeMap::new();
    for row in memory_map_rows() {
        let start = number(&row[1]).unwrap_or_else(|| panic!("no number: {row:?}"));
        documented.insert(row[0].clone(), start);
        // The size's own constant stands behind it: `0x1000 IOAPIC_SIZE`.
        if let Some((size, constant)) = row[2].split_once(' ')
            && let Some(size) = number(size)
        {
            documented.insert(constant.to_owned(), size);
        }
    }
    assert_eq!(documented, constants());
}

#[test]
fn memory_map_ranges_ascend_and_keep_apart() {
    let mut end = 0;
    let memory = read("docs/memory-map.md");
    let memory = memory.split("## I/O ports").next().unwrap();
    for row in memory_map_rows() {
        if !memory.contains(&format!("| {} ", row[0])) {
            continue;
        }
        let start = number(&row[1]).unwrap();
        assert!(start >= end, "{} begins below {end:#x}", row[0]);
        let size = row[2].split(' ').next().and_then(number).unwrap_or(0);
        end = start + size;
    }
    assert_eq!(end, layout::MMIO_GAP_END.0);
}

/// The long flags of a sub-command.
fn flags_of(command: &str) -> Vec<String> {
    let mut cli = Cli::command();
    cli.build();
    let command = cli.find_subcommand(command).unwrap();
    command
        .get_arguments()
        // Hidden flags are between cottage and its own child processes.
        .filter(|argument| !argument.is_hide_set())
        .filter_map(|argument| argument.get_long())
        .map(|flag| format!("--{flag}"))
        .filter(|flag| flag != "--help")
        .collect()
}

/// The flags in README's table for a sub-command.
fn flags_in_readme(command: &str) -> Vec<String> {
    let readme = read("README.md");
    let (_, table) = readme
        .split_once(&format!("\n| flag of `{command}` |"))
        .unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `--"));
    rows.map(|row| format!("--{}", row.split([' ', '`', '[']).next().unwrap()))
        .filter(|flag| flag != "--")
        .collect()
}

#[test]
fn readme_names_every_flag_of_run() {
    assert_eq!(flags_in_readme("run"), flags_of("run"));
}

#[test]
fn readme_names_every_flag_of_bench() {
    let mut expected = flags_of("bench");
    let machine = flags_of("run");
    expected.retain(|flag| !machine.contains(flag));
    let mut named = flags_in_readme("bench");
    expected.sort();
    named.sort();
    assert_eq!(named, expected);
}

#[test]
fn readme_names_every_flag_of_explain() {
    let mut expected = flags_of("explain");
    let machine = flags_of("run");
    expected.retain(|flag| !machine.contains(flag));
    assert_eq!(flags_in_readme("explain"), expected);
}

#[test]
fn readme_names_every_flag_of_compare() {
    assert_eq!(flags_in_readme("compare"), flags_of("compare"));
}

#[test]
fn flags_in_examples_exist() {
    let mut unknown = Vec::new();
    for (name, flags) in ["run", "bench", "compare", "explain"].map(|name| (name, flags_of(name))) {
        for (document, text) in documents() {
            for command in text.split(&format!("cottage {name} ")).skip(1) {
                let command = command.split(['\n', '`', '"', '#', '\'']).next().unwrap();
                let ours = command.split(" -- ").next().unwrap();
                let words = ours.split_whitespace().filter(|word| *word != "--");
                let names = words.map(|word| word.split('=').next().unwrap());
                let bad = names.filter(|name| name.starts_with("--"));
                let bad = bad.filter(|name| !flags.iter().any(|flag| flag == name));
                unknown.extend(bad.map(|word| format!("{}: {word}", document.display())));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn readme_has_the_exit_status_table_of_help() {
    assert!(
        read("README.md").contains(EXIT_STATUS_HELP),
        "README lacks:\n{EXIT_STATUS_HELP}"
    );
}

#[test]
fn readme_names_every_key() {
    let readme = read("README.md");
    let table = readme.split_once("| keys | |").unwrap().1;
    let table = table.split("\n\n").next().unwrap();
    let keys = escape::HELP
        .lines()
        .filter(|line| line.starts_with("Ctrl-A"));
    let missing: Vec<_> = keys
        .map(|line| line.split("  ").next().unwrap())
        .filter(|key| !table.contains(&format!("\n| `{key}` | ")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn readme_lists_the_modules_in_reading_order() {
    let readme = read("README.md");
    let section = readme.split_once("## How to read the source\n").unwrap().1;
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: Vec<_> = rows.map(|row| row.split('`').next().unwrap()).collect();
    let lib = read("src/lib.rs");
    let modules: Vec<_> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(listed, modules);
}

/// Modules below `file` in reading order, each with its file: a module's own modules follow it.
fn modules_below(file: &Path, path: &str) -> Vec<(String, PathBuf)> {
    let text = fs::read_to_string(file).unwrap();
    let declared = text.lines().filter_map(|line| {
        let name = line.strip_prefix("pub ").unwrap_or(line);
        name.strip_prefix("mod ")?.strip_suffix(';')
    });
    let mut found = Vec::new();
    // What only tests use is no part of the story.
    for name in declared.filter(|name| !["testing", "tests"].contains(name)) {
        let folder = file.parent().unwrap();
        let alone = folder.join(name).with_extension("rs");
        let with_more = folder.join(name).join("mod.rs");
        let own = if alone.exists() { alone } else { with_more };
        let below = modules_below(&own, &format!("{path}::{name}"));
        found.push((format!("{path}::{name}"), own));
        found.extend(below);
    }
    found
}

/// Where the head of `file`, module `path`, says to go on; `None` if it does not say.
fn read_next(path: &str, file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let head: Vec<_> = lines.map(str::trim).collect();
    let head = head.join(" ");
    let target = head.split_once("Read next: ")?.1.split('`').nth(1)?;
    let target = target.trim_start_matches("mod@");
    let parent = path.rsplit_once("::").unwrap().0;
    Some(match target.split_once("::") {
        Some(("crate", _)) => target.to_owned(),
        Some(("super", name)) => format!("{parent}::{name}"),
        _ => format!("{path}::{target}"),
    })
}

#[test]
fn read_next_leads_from_module_to_module_in_reading_order() {
    let modules = modules_below(&root().join("src/lib.rs"), "crate");
    let mut wrong = Vec::new();
    for pair in modules.windows(2) {
        let (path, file) = &pair[0];
        let told = read_next(path, file);
        if told.as_ref() != Some(&pair[1].0) {
            wrong.push(format!("{path} leads to {told:?}, not to {}", pair[1].0));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn reading_order_goes_into_a_module_before_the_next() {
    let modules = modules_below(&root().join("src/lib.rs"), "crate");
    let at = |wanted: &str| modules.iter().position(|(path, _)| path == wanted).unwrap();
    assert_eq!(at("crate::memory::layout"), at("crate::memory") + 1);
    assert!(at("crate::memory::guest") < at("crate::loading"));
}

/// Targets of the Makefile.
fn make_targets() -> Vec<String> {
    let makefile = read("Makefile");
    let rules = makefile
        .lines()
        .filter(|line| line.contains(": ") && line.contains("## "));
    rules
        .map(|line| line.split(':').next().unwrap().to_owned())
        .collect()
}

#[test]
fn make_targets_and_benches_named_in_documents_exist() {
    let (targets, manifest) = (make_targets(), read("Cargo.toml"));
    let exists = |words: &[&str]| match words {
        ["make", target] => targets.iter().any(|known| known == target),
        ["--bench", name] => manifest.contains(&format!("[[bench]]\nname = \"{name}\"")),
        _ => true,
    };
    let mut unknown = Vec::new();
    for (document, text) in documents() {
        for code in quoted(&text) {
            let words: Vec<_> = code.split_whitespace().collect();
            let bad = words.windows(2).filter(|pair| !exists(pair));
            unknown.extend(bad.map(|pair| format!("{}: {pair:?}", document.display())));
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// The decision records with their texts.
fn records() -> Vec<(String, String)> {
    let all = files("docs/adr", "md").into_iter();
    all.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    })
    .filter(|(name, _)| name != "README.md")
    .collect()
}

#[test]
fn decision_records_are_all_listed_by_their_titles() {
    let list = read("docs/adr/README.md");
    for (name, text) in records() {
        let title = text.lines().next().unwrap().trim_start_matches("# ");
        let line = format!("- [{title}]({name})");
        assert!(list.contains(&line), "docs/adr/README.md lacks: {line}");
    }
}

#[test]
fn decision_records_have_all_parts_in_order() {
    for (name, text) in records() {
        let mut rest = text.as_str();
        for part in RECORD_PARTS {
            let found = rest.split_once(part);
            rest = found.unwrap_or_else(|| panic!("{name} lacks {part:?}")).1;
        }
    }
}

/// Lines before the tests, which stand last in a file.
fn production_lines(text: &str) -> usize {
    let tests = "#[cfg(test)]\nmod tests {";
    text.split(tests).next().unwrap().lines().count()
}

#[test]
fn source_files_fit_a_sitting() {
    let lines = |path: &PathBuf| production_lines(&fs::read_to_string(path).unwrap());
    let long: Vec<_> = files("src", "rs")
        .into_iter()
        .map(|path| (lines(&path), path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn test_only_items_do_not_end_the_production_lines() {
    let text = "#[cfg(test)]\nmod testing;\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(production_lines(text), 3);
}
