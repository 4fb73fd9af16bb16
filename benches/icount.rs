//! Instructions and exits that booting a real kernel takes, cottage beside QEMU: `make bench-icount`.
//!
//! Runs inside the testbed, started by `benches/icount.sh`: QEMU then counts the emulated
//! processor's instructions and moves its clock by one nanosecond for each, so the milliseconds
//! measured here are millions of instructions, of the guest, the VMM and the outer kernel together.
//! They repeat where times do not. The subjects boot the same kernel, initramfs and command line in
//! turn, until the line that the guest's first command prints, and are ended then.
//!
//! usage: icount RUNS KERNEL INITRAMFS [QEMU-COMMAND...]

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking"
)]

#[path = "../tests/support/mod.rs"]
mod support;
mod common;

use std::path::{Path, PathBuf};

use common::guest::Guest;
use common::subject::{Machine, Subject};
use common::{measure, stats};

/// Runs that are not counted: a wait for the disk moves the clock as instructions do.
const WARM_UP: usize = 1;
/// What the guest's command prints, see `benches/icount.sh`.
const LINE: &str = "up";
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 quiet";
/// Counters of KVM: all exits, and those that reached the VMM for a port or for memory of a device.
/// [kvm] `arch/x86/kvm/x86.c`, v6.1: `kvm_vcpu_stats_desc`.
const COUNTERS: [&str; 3] = ["exits", "io_exits", "mmio_exits"];

/// One boot.
struct Boot {
    /// Until the line, in millions.
    instructions: f64,
    exits: [u64; COUNTERS.len()],
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Not cargo's `--bench`, which comes where somebody starts this outside of the testbed.
    let [runs, kernel, initramfs, qemu @ ..] = words.as_slice() else {
        println!("icount runs in the testbed: make bench-icount");
        return;
    };
    let runs: usize = runs.parse().expect("a number of runs");
    let guest = Guest {
        kernel: kernel.into(),
        initramfs: initramfs.into(),
    };
    let cottage = std::env::var_os("COTTAGE_BIN").expect("COTTAGE_BIN, set in the testbed");
    let mut subjects = vec![Subject::Cottage(PathBuf::from(cottage))];
    if !qemu.is_empty() {
        subjects.push(Subject::Qemu(qemu.to_vec()));
    }

    let machine = Machine {
        cmdline: Some(CMDLINE),
        ..Machine::small(&guest)
    };
    let mut boots: Vec<Vec<Boot>> = subjects.iter().map(|_| Vec::new()).collect();
    for round in 0..WARM_UP + runs {
        for (subject, boots) in subjects.iter().zip(&mut boots) {
            let boot = boot(subject, &machine);
            if round >= WARM_UP {
                boots.push(boot);
            }
        }
    }
    report(&subjects, &boots);
}

/// Boots and reads the counters while the machine lives: a machine that ends takes its share along.
fn boot(subject: &Subject, machine: &Machine) -> Boot {
    let booted = measure::until_line(&mut subject.command(machine), LINE);
    let (mut child, instructions) = match booted {
        Ok(booted) => booted,
        Err(error) => panic!("{} did not get to {LINE:?}: {error}", subject.name()),
    };
    let exits = COUNTERS.map(|name| {
        let path = Path::new("/sys/kernel/debug/kvm").join(name);
        let text = std::fs::read_to_string(path).expect("debugfs");
        text.trim().parse().unwrap()
    });
    measure::end(&mut child);
    Boot {
        instructions,
        exits,
    }
}

fn report(subjects: &[Subject], boots: &[Vec<Boot>]) {
    let runs = boots[0].len();
    println!("tiny kernel to the line of its first command, 128 MiB, 1 vCPU, n = {runs}");
    println!("                  M instructions (min to max)    exits   port   MMIO");
    let instructions = |at: usize| -> Vec<f64> {
        let boots = boots[at].iter();
        boots.map(|boot| boot.instructions).collect()
    };
    for (at, subject) in subjects.iter().enumerate() {
        let samples = instructions(at);
        let [all, port, mmio] = [0, 1, 2].map(|counter| {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let counts: Vec<f64> = boots[at].iter().map(|b| b.exits[counter] as f64).collect();
            stats::median(&counts)
        });
        let spread = format!(
            "({:.2} to {:.2})",
            stats::quantile(&samples, 0.0),
            stats::quantile(&samples, 1.0)
        );
        println!(
            "  {:14}{:8.2} {spread:20}{all:9.0}{port:7.0}{mmio:7.0}",
            subject.name(),
            stats::median(&samples)
        );
    }
    match subjects {
        [_, _] => println!(
            "  cottage is {:.2} of QEMU",
            stats::median(&instructions(0)) / stats::median(&instructions(1))
        ),
        _ => println!("  no QEMU in the testbed to compare with"),
    }
}
