//! Dependencies: licences, duplicate versions, a reason for each. What cargo-deny would check,
//! without a tool that takes minutes to build.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;

/// Licences that ask for nothing but their notice. A crate needs one of its alternatives here.
const LICENCES: [&str; 8] = [
    "Apache-2.0",
    "MIT",
    "BSD-3-Clause",
    "BSD-2-Clause",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
    "0BSD",
];
/// Also needed in full, beside others.
const ADDITIONAL: [&str; 1] = ["Unicode-3.0"];

/// Crates that may be there twice, and why.
const DUPLICATES: [(&str, &str); 2] = [
    ("bitflags", "vmm-sys-util is still on 1"),
    ("syn", "procedural macros, at build time only"),
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
            .any(|choice| LICENCES.contains(&choice) || ADDITIONAL.contains(&choice))
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

#[test]
fn no_crate_is_there_twice_without_a_reason() {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        let (name, version) = (text(&package, "name"), text(&package, "version"));
        versions
            .entry(name.to_owned())
            .or_default()
            .push(version.to_owned());
    }
    let allowed = |name: &str| DUPLICATES.iter().any(|(crate_name, _)| *crate_name == name);
    versions.retain(|name, versions| versions.len() > 1 && !allowed(name));
    assert!(versions.is_empty(), "{versions:#?}");
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let (mut inside, mut before, mut bare) = (false, "", Vec::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside
            && line.contains(" = ")
            && !line.starts_with('#')
            && !before.starts_with('#')
        {
            bare.push(line.to_owned());
        }
        before = line;
    }
    assert!(bare.is_empty(), "no reason above: {bare:#?}");
}
