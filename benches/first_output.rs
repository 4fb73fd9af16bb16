//! Time from the start of the process to the guest's first byte on stdout, and to the end of the
//! process: `cargo bench --bench first_output [-- RUNS]`.
//!
//! The guest is an ELF file of a few KiB that writes one byte to COM1 and resets, so what is
//! measured is the VMM and KVM, not a kernel. Works on any /dev/kvm; the first line says which.
//! The clock is this program's: before fork to the byte's arrival, so process creation is in it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::tiny_kernel::{empty_initramfs, resetter};

/// Runs that are not counted: they fill the page cache.
const WARM_UP: usize = 5;

fn main() {
    let runs = std::env::args()
        .filter_map(|word| word.parse().ok())
        .next()
        .unwrap_or(40);
    let backend = support::backend().expect("this benchmark needs /dev/kvm");
    let folder = std::env::temp_dir().join(format!("cottage-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (kernel, initramfs) = (folder.join("kernel"), folder.join("initramfs"));
    let mut image = resetter("R");
    image.resize(image.len().max(5 << 10), 0); // 5 KiB, as the peers were given
    std::fs::write(&kernel, image).unwrap();
    std::fs::write(&initramfs, empty_initramfs()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cottage"));
    command
        .arg("run")
        .arg("--kernel")
        .arg(&kernel)
        .arg("--initramfs")
        .arg(&initramfs);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut floor = Command::new(env!("CARGO_BIN_EXE_cottage"));
    floor
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());

    let (mut first, mut gone, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..WARM_UP + runs {
        let (output, end) = measure(&mut command);
        // In turn, so that a machine that slows down slows both: a process that does nothing.
        let (_, nothing) = measure(&mut floor);
        if run >= WARM_UP {
            first.push(output);
            gone.push(end);
            bare.push(nothing);
        }
    }
    println!("KVM back end: {}; n = {runs}", backend.name);
    report("process start to first guest output", &mut first);
    report("process start to process gone", &mut gone);
    report("the same program printing its version, gone", &mut bare);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Spawn to first byte, spawn to exit.
fn measure(command: &mut Command) -> (Duration, Duration) {
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut byte = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut byte)
        .expect("the guest printed nothing");
    let first = start.elapsed();
    child.wait().unwrap();
    (first, start.elapsed())
}

fn report(name: &str, samples: &mut [Duration]) {
    samples.sort();
    let ms = |at: usize| samples[at].as_secs_f64() * 1000.0;
    let last = samples.len() - 1;
    println!(
        "{name}: median {:.2} ms, min {:.2}, p90 {:.2}, max {:.2}",
        ms(last / 2),
        ms(0),
        ms(last * 9 / 10),
        ms(last)
    );
}
