//! The reference compiler's opinion of our ACPI tables.
//!
//! `iasl` (Debian package acpica-tools) takes each table apart and compiles the DSDT again; it
//! must have nothing to complain of. It does not know what Linux makes of them: tests/boot.rs does.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test helper that cannot go on fails the test"
)]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use cottage::config::Irqchip;
use cottage::memory::layout::ACPI_TABLES;
use cottage::platform::acpi::{self, MmioDevice};

/// What iasl printed, both streams; `None` if there is no iasl.
fn iasl(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("iasl")
        .args(arguments)
        .current_dir(directory)
        .output()
        .ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The table at `offset` and its signature.
fn table(bytes: &[u8], offset: usize) -> (String, &[u8]) {
    let table = &bytes[offset..];
    let length = u32::from_le_bytes(table[4..8].try_into().unwrap());
    let signature = String::from_utf8_lossy(&table[..4]).into_owned();
    (signature, &table[..usize::try_from(length).unwrap()])
}

/// The offset that the 8 bytes at `at` point to.
fn pointer(bytes: &[u8], at: usize) -> usize {
    let address = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    usize::try_from(address - ACPI_TABLES.0).unwrap()
}

#[test]
fn iasl_finds_no_fault_in_any_table() {
    let directory = std::env::temp_dir().join(format!("cottage-acpi-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    if iasl(&directory, &["-v"]).is_none() {
        // Straight to the stream: the test harness swallows what eprintln! writes.
        let mut stderr = std::io::stderr();
        writeln!(
            stderr,
            "skipped: no iasl (Debian: apt-get install acpica-tools)"
        )
        .unwrap();
        return;
    }
    let disk = MmioDevice {
        base: 0xc000_0000,
        size: 0x1000,
        gsi: 16,
    };
    // 300 processors, so that both kinds of processor entry are there.
    let image = acpi::build(300, Irqchip::Full, &[disk]).unwrap();
    let bytes = &image.bytes;
    let xsdt = pointer(bytes, 24);
    let fadt = pointer(bytes, xsdt + 36);
    let offsets = [
        xsdt,
        fadt,
        pointer(bytes, xsdt + 44),
        pointer(bytes, fadt + 140),
    ];

    for (name, table) in offsets.iter().map(|offset| table(bytes, *offset)) {
        let file = format!("{name}.aml");
        std::fs::write(directory.join(&file), table).unwrap();
        let said = iasl(&directory, &["-d", &file]).unwrap();
        let source = std::fs::read_to_string(directory.join(format!("{name}.dsl"))).unwrap();
        for text in [&said, &source] {
            let lower = text.to_lowercase();
            assert!(
                !lower.contains("error") && !lower.contains("warning"),
                "{name}: {text}"
            );
            assert!(
                !lower.contains("invalid") && !lower.contains("incorrect"),
                "{name}: {text}"
            );
        }
    }
    let said = iasl(&directory, &["-we", "-p", "again", "DSDT.dsl"]).unwrap();
    assert!(said.contains("0 Errors, 0 Warnings"), "{said}");
    std::fs::remove_dir_all(&directory).unwrap();
}
