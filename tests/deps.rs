//! Dependencies: licences, duplicate versions, a reason for each. What cargo-deny would check,
//! without a tool that takes minutes to build.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Licences that ask for nothing but their notice. A crate needs one of its alternatives here.
const LICENCES: [&str; 6] = [
    "0BSD",
    "Apache-2.0",
    "MIT",
    "BSD-3-Clause",
    "Unicode-3.0",
    "bzip2-1.0.6",
];

/// Crates that may be there twice, and why.
const DUPLICATES: [(&str, &str); 2] = [
    ("bitflags", "vmm-sys-util is still on 1"),
    ("syn", "procedural macros, at build time only"),
];

/// The rust-vmm crates. Two versions of one would mean two types of the same name, and guest memory
/// that does not fit a device.
const RUST_VMM: [&str; 8] = [
    "acpi_tables",
    "kvm-bindings",
    "kvm-ioctls",
    "linux-loader",
    "virtio-bindings",
    "virtio-queue",
    "vm-memory",
    "vmm-sys-util",
];

/// The packages a release or test is built from.
fn packages() -> Vec<Value> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or("")
}

/// `(MIT OR Apache-2.0) AND Unicode-3.0`, `MIT/Apache-2.0`: every AND part has an allowed OR part.
fn is_allowed(licence: &str) -> bool {
    licence.split(" AND ").all(|part| {
        part.trim_matches(['(', ')'])
            .split(" OR ")
            .flat_map(|choice| choice.split('/'))
            .map(|choice| choice.trim_matches(['(', ')', ' ']))
            .any(|choice| LICENCES.contains(&choice))
    })
}

#[test]
fn every_licence_is_allowed() {
    let refused: Vec<_> = packages()
        .iter()
        .filter(|package| !is_allowed(text(package, "license")))
        .map(|package| format!("{}: {:?}", text(package, "name"), text(package, "license")))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn licence_check_refuses_what_it_should() {
    assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(is_allowed("GPL-3.0 OR MIT"));
    assert!(!is_allowed("GPL-3.0-or-later"));
    assert!(!is_allowed("MIT AND GPL-2.0"));
    assert!(!is_allowed(""));
}

/// Each crate with the versions of it.
fn versions() -> BTreeMap<String, Vec<String>> {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        let (name, version) = (text(&package, "name"), text(&package, "version"));
        versions
            .entry(name.to_owned())
            .or_default()
            .push(version.to_owned());
    }
    versions
}

#[test]
fn licence_list_names_none_in_vain() {
    let packages = packages();
    let used = |licence: &str| {
        packages
            .iter()
            .any(|package| text(package, "license").contains(licence))
    };
    let unused: Vec<_> = LICENCES.iter().filter(|licence| !used(licence)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn crates_there_twice_are_those_with_a_reason() {
    let twice = versions()
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1);
    let twice: Vec<_> = twice.map(|(name, _)| name).collect();
    assert_eq!(twice, DUPLICATES.map(|(name, _reason)| name));
}

#[test]
fn rust_vmm_crates_are_there_once_and_pinned() {
    let (versions, manifest) = (versions(), manifest("Cargo.toml"));
    for name in RUST_VMM {
        let [version] = versions[name].as_slice() else {
            panic!("{name}: {:?}", versions[name]);
        };
        let line = manifest
            .lines()
            .find(|line| line.starts_with(&format!("{name} = ")))
            .unwrap_or_else(|| panic!("{name} is no direct dependency"));
        assert!(line.contains(&format!("\"={version}\"")), "{line}");
    }
}

fn manifest(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Dependencies in a manifest without a comment line right above them.
fn without_reason(manifest: &str) -> Vec<&str> {
    let (mut inside, mut before, mut bare) = (false, "", Vec::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside
            && line.contains(" = ")
            && !line.starts_with(['#', ' '])
            && (!before.starts_with("# ") || before.starts_with("# ---"))
        {
            bare.push(line);
        }
        before = line;
    }
    bare
}

#[test]
fn every_direct_dependency_has_its_reason() {
    for path in [
        "Cargo.toml",
        "guest-images/init/Cargo.toml",
        "guest-images/probe/Cargo.toml",
    ] {
        let manifest = manifest(path);
        let bare = without_reason(&manifest);
        assert!(bare.is_empty(), "{path}: no reason above {bare:#?}");
    }
}

#[test]
fn search_for_reasons_finds_what_it_should() {
    let good = "[dependencies]\n# to count\na = \"1\"\n[profile.dev]\npanic = \"abort\"\n";
    assert!(without_reason(good).is_empty());
    let bad = "[dev-dependencies]\n# --- tests ---\na = \"1\"\nb = \"1\"\n";
    assert_eq!(without_reason(bad), ["a = \"1\"", "b = \"1\""]);
}
