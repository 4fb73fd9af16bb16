//! `cottage compare` where it can run VMs: they are sides like the others, and what only they can do is
//! done. Containers have tests of their own, in tests/compare.rs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::process::Command;

use serde_json::Value;
use support::linux_kvm;
use support::program::{Scratch, finish, program};

/// The report of a comparison with these words, in which VMs and floors are sides.
fn report(words: &[&str]) -> Value {
    let folder = Scratch::new();
    let mut command = Command::new(program());
    command
        .args(["compare", "--with", "unshare", "--warm-up", "0", "--out"])
        .arg(folder.path("out"))
        .args(words)
        .env("TMPDIR", folder.path(""));
    finish(command, b"").expect_code(0);
    let left: Vec<_> = fs::read_dir(folder.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["out"], "left behind");
    serde_json::from_str(&fs::read_to_string(folder.path("out/report.json")).unwrap()).unwrap()
}

/// What a topic has under `key`, among its `figures` or `tables`.
fn found<'a>(report: &'a Value, kind: &str, key: &str) -> &'a Value {
    let topics = report["findings"].as_array().unwrap().iter();
    let mut all = topics.flat_map(|topic| topic[kind].as_array().unwrap());
    let found = all.find(|one| one["key"] == key);
    found.unwrap_or_else(|| panic!("no {key}: {report}"))
}

/// The values of `side`, none missing.
fn samples(figure: &Value, side: &str) -> Vec<u64> {
    let mut lines = figure["lines"].as_array().unwrap().iter();
    let line = lines.find(|line| line["side"] == side);
    let line = line.unwrap_or_else(|| panic!("no {side}: {figure}"));
    let samples = line["samples"].as_array();
    let samples = samples.unwrap_or_else(|| panic!("no samples: {line}"));
    samples
        .iter()
        .map(|sample| sample.as_u64().unwrap())
        .collect()
}

#[test]
fn vms_are_sides_and_start_in_parts_that_add_up() {
    if linux_kvm().is_none() {
        return;
    }
    let report = report(&["start", "--runs", "3"]);
    let whole = found(&report, "figures", "start.first-output");
    for side in [
        "cottage, tiny kernel, initramfs",
        "cottage, full kernel, initramfs",
    ] {
        let whole = samples(whole, side);
        assert_eq!(whole.len(), 3, "{side}");
        let figures = report["findings"][0]["figures"].as_array().unwrap();
        let parts = figures.iter();
        let parts: Vec<Vec<u64>> = parts
            .filter(|figure| figure["part_of"] == "start.first-output")
            .map(|figure| samples(figure, side))
            .collect();
        assert_eq!(parts.len(), 3, "{side}");
        for (round, whole) in whole.iter().enumerate() {
            let sum: u64 = parts.iter().filter_map(|part| part.get(round)).sum();
            assert_eq!(sum, *whole, "{side}, round {round}");
        }
        // A guest's kernel takes time; a container has none.
        assert!(parts.iter().all(|part| part.iter().all(|value| *value > 0)));
    }
    assert!(samples(whole, "process") < samples(whole, "cottage, tiny kernel, initramfs"));
}

#[test]
fn two_kernels_run_and_one_panics_beside_the_other() {
    if linux_kvm().is_none() {
        return;
    }
    let report = report(&["kernels", "--runs", "1"]);
    let table = found(&report, "tables", "kernels.releases");
    let column = |name: &str| {
        let names = table["columns"].as_array().unwrap();
        names.iter().position(|column| column == name).unwrap()
    };
    let columns = [
        "this machine",
        "cottage, tiny kernel",
        "cottage, full kernel",
    ]
    .map(column);
    let mut rows = table["rows"].as_array().unwrap().iter();
    let row = rows.find(|found| found["name"] == "whose boot");
    let cells = &row.unwrap_or_else(|| panic!("{table}"))["cells"];
    let [host, tiny, full] = columns.map(|column| cells[column].as_str().unwrap());
    assert!(host != tiny && host != full && tiny != full, "{cells}");
    assert!(![host, tiny, full].contains(&""), "{cells}");
    let neighbour = found(&report, "figures", "kernels.neighbour");
    for when in [
        "before the panic",
        "until the other machine was gone",
        "after it",
    ] {
        assert!(!samples(neighbour, &format!("neighbour, {when}")).is_empty());
    }
}
