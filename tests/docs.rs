//! The documents agree with the code.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use cottage::cli::Cli;
use cottage::outcome::EXIT_STATUS_HELP;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// README and everything under docs/.
fn documents() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// What stands between single backquotes.
fn quoted(text: &str) -> Vec<&str> {
    let prose: Vec<&str> = text.split("```").step_by(2).collect();
    prose
        .into_iter()
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

#[test]
fn paths_named_in_documents_exist() {
    let mut missing = Vec::new();
    for document in documents() {
        for word in quoted(&fs::read_to_string(&document).unwrap()) {
            let path = word.split("::").next().unwrap();
            if is_source_path(word) && !root().join(path).exists() {
                missing.push(format!("{}: {word}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn functions_named_in_documents_exist() {
    let mut missing = Vec::new();
    for document in documents() {
        for word in quoted(&fs::read_to_string(&document).unwrap()) {
            let Some((path, function)) = word.split_once("::") else {
                continue;
            };
            if is_source_path(word) && !read(path).contains(&format!("fn {function}")) {
                missing.push(format!("{}: {word}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn relative_links_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = link.split('#').next().unwrap();
            let path = document.parent().unwrap().join(target);
            if !link.contains("://") && !target.is_empty() && !path.exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// `pub const NAME: TYPE = VALUE` of layout.rs for addresses, ports and GSIs, sizes left out.
fn layout_constants() -> BTreeMap<String, u64> {
    read("src/memory/layout.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("pub const "))
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| {
            !["_SIZE", "_PORTS", "_PINS", "_MEMORY"]
                .iter()
                .any(|s| name.ends_with(s))
        })
        .map(|(name, rest)| (name.to_owned(), number(rest.split_once("= ").unwrap().1)))
        .collect()
}

/// `0x12_34;`, `GuestAddress(0x1234);` or `4;`
fn number(text: &str) -> u64 {
    let text = text.trim_start_matches("GuestAddress(").replace('_', "");
    let digits = text.trim_end_matches([')', ';']);
    match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
        None => digits.parse().unwrap(),
    }
}

#[test]
fn memory_map_tables_equal_the_layout() {
    let documented: BTreeMap<String, u64> = read("docs/memory-map.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .map(|line| line.split(" | ").collect::<Vec<_>>())
        .filter(|cells| {
            cells[0]
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        })
        .map(|cells| (cells[0].to_owned(), number(cells[1])))
        .collect();
    assert_eq!(documented, layout_constants());
}

#[test]
fn readme_names_every_flag_of_run() {
    let readme = read("README.md");
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").unwrap();
    let missing: Vec<_> = run
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .filter(|flag| !readme.contains(&format!("--{flag}")))
        .collect();
    assert_eq!(
        missing,
        ["help"],
        "of all flags only --help need not be in README"
    );
}

#[test]
fn readme_has_the_exit_status_table_of_help() {
    let readme = read("README.md");
    let table = EXIT_STATUS_HELP.split_once('\n').unwrap().1;
    assert!(readme.contains(table), "README lacks:\n{table}");
}

#[test]
fn readme_lists_the_modules_in_reading_order() {
    let lib = read("src/lib.rs");
    let modules = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let readme = read("README.md");
    let mut rest = readme.split_once("## How to read the source").unwrap().1;
    for module in modules {
        let name = format!("`{module}`");
        let at = rest.find(&name);
        rest = rest
            .split_at(at.unwrap_or_else(|| panic!("{name} is missing or out of order")))
            .1;
    }
}

#[test]
fn decision_records_are_all_listed() {
    let list = read("docs/adr/README.md");
    for entry in fs::read_dir(root().join("docs/adr")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "README.md" || list.contains(&name),
            "{name} is not listed"
        );
    }
}

#[test]
fn source_files_fit_a_sitting() {
    let mut long = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let lines = text
                .lines()
                .take_while(|line| !line.contains("#[cfg(test)]"))
                .count();
            if lines > 400 {
                long.push(format!("{}: {lines}", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}
