//! What starting a virtual machine costs: `make bench`.
//!
//! The guests are a few instructions in ELF files, so what is measured is the VMM and KVM's calls,
//! not a kernel; any /dev/kvm will do, and the first line says which. All subjects take turns in
//! one process, so that a machine that slows down slows all; ratios are taken round by round.
//!
//! usage: cargo bench --bench start [-- RUNS]
//!
//! `benches/floor.c` is compiled on the way, and is left out where there is no C compiler; QEMU
//! takes part where it is installed and its microvm prints the byte.

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
use std::process::Command;

use common::footprint::Footprint;
use common::guest::{self, Guest};
use common::measure::{self, Run};
use common::subject::{Machine, Subject};
use common::{machine, stats};

/// Runs that are not counted: they fill the page cache.
const WARM_UP: usize = 5;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn main() {
    let number = std::env::args().find_map(|word| word.parse().ok());
    let runs: usize = number.unwrap_or(40);
    println!("{}", machine::description().expect("this needs /dev/kvm"));
    println!("n = {runs} after {WARM_UP} to warm up; times are median (min, p90) in ms");
    println!("ratios are of medians [middle half of the ratios round by round];");
    println!("? after one: that half reaches over 1, so this run tells no difference");

    let folder = std::env::temp_dir().join(format!("cottage-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let small = Guest::write(&folder, "small", guest::resetter(5 * KIB), 0);
    let large = Guest::write(&folder, "large", guest::resetter(9 * MIB), 2 * MIB);
    let asleep = Guest::write(&folder, "asleep", guest::sleeper(5 * KIB), 0);
    let subjects = subjects(&folder, &small);

    compare("a kernel of 5 KiB", &subjects, &small, runs);
    compare(
        "a kernel of 9 MiB, an initramfs of 2 MiB",
        &subjects,
        &large,
        runs,
    );
    irqchips(&subjects, &small, runs);
    furnished(&folder, &small, runs);
    by_size(&subjects[0], &small, runs);
    file_sizes(&subjects);
    footprints(&subjects, &asleep);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Cottage, and of the others those that work here.
fn subjects(folder: &Path, guest: &Guest) -> Vec<Subject> {
    // As it is released, if `make bench` says where that is; as cargo builds it by itself, if not.
    let cottage = std::env::var_os("COTTAGE_BIN");
    let cottage = cottage.unwrap_or_else(|| env!("CARGO_BIN_EXE_cottage").into());
    let mut subjects = vec![Subject::Cottage(PathBuf::from(cottage))];
    match floor(folder) {
        Ok(floor) => subjects.push(Subject::Floor(floor)),
        Err(reason) => println!("without the floor: {reason}"),
    }
    let qemu = Subject::Qemu(vec!["qemu-system-x86_64".to_owned()]);
    match measure::run(&mut qemu.command(&Machine::small(guest))) {
        Ok(_) => subjects.push(qemu),
        Err(reason) => println!("without QEMU: {reason}"),
    }
    subjects
}

/// Cottage against itself with devices that no driver touches.
fn furnished(folder: &Path, guest: &Guest, runs: usize) {
    let disk = folder.join("disk");
    std::fs::write(&disk, [0; KIB]).expect("writing a disk image");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_cottage"));
    let plain = Subject::Cottage(program.clone());
    let subjects = [plain, Subject::Furnished(program, disk)];
    compare(
        "a kernel of 5 KiB, without and with two disks and random numbers",
        &subjects,
        guest,
        runs,
    );
}

/// Compiles the floor. Static like cottage: the dynamic linker would be most of its time.
fn floor(folder: &Path) -> Result<PathBuf, String> {
    let program = folder.join("floor");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/floor.c");
    let status = Command::new("cc")
        .args(["-O2", "-static", "-Wall", "-Wextra", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    match status {
        Ok(status) if status.success() => Ok(program),
        Ok(status) => Err(format!("cc: {status}")),
        Err(error) => Err(format!("cc: {error}")),
    }
}

/// The runs of each command, all in turn; every second round backwards, so that each follows each
/// as often: what ran before leaves the processor's caches as it used them.
fn in_turn(commands: &mut [Command], runs: usize) -> Vec<Vec<Run>> {
    let mut samples = vec![Vec::new(); commands.len()];
    for round in 0..WARM_UP + runs {
        let mut order: Vec<usize> = (0..commands.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let run = measure::run(&mut commands[at]).expect("a VMM that worked a moment ago");
            if round >= WARM_UP {
                samples[at].push(run);
            }
        }
    }
    samples
}

/// Cottage against each of the others, one at a time: a large one would slow whatever follows it.
fn compare(what: &str, subjects: &[Subject], guest: &Guest, runs: usize) {
    println!("\n{what}; 128 MiB, 1 vCPU; from process start");
    println!("                  to first guest output       to process gone");
    for other in &subjects[1..] {
        let pair = [&subjects[0], other];
        let mut commands = pair.map(|subject| subject.command(&Machine::small(guest)));
        let samples = in_turn(&mut commands, runs);
        let [ours, theirs] = [0, 1].map(|at| Times::of(&samples[at]));
        for (subject, times) in pair.iter().zip([&ours, &theirs]) {
            println!("  {:14}{times}", subject.name());
        }
        println!(
            "  {:16}{:28}{}",
            "  the ratio",
            stats::ratio(&ours.first_output, &theirs.first_output),
            stats::ratio(&ours.gone, &theirs.gone)
        );
    }
}

/// The runs of one command, by moment.
struct Times {
    first_output: Vec<f64>,
    gone: Vec<f64>,
}

impl Times {
    fn of(runs: &[Run]) -> Self {
        Self {
            first_output: runs.iter().map(|run| run.first_output).collect(),
            gone: runs.iter().map(|run| run.gone).collect(),
        }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        let [first, gone] = [&self.first_output, &self.gone].map(|times| stats::summary(times));
        write!(to, "{first:28}{gone}")
    }
}

/// What the split irqchip saves: docs/adr/0003-split-irqchip.md.
fn irqchips(subjects: &[Subject], guest: &Guest, runs: usize) {
    for subject in subjects {
        if let Subject::Floor(program) = subject {
            let with = |name, flag| Subject::FloorWith(program.clone(), name, flag);
            let full = with("full irqchip", "--irqchip=full");
            let first = with("full, first", "--irqchip=first");
            let all = [subject.clone(), full, first];
            compare("the floor's irqchip, a kernel of 5 KiB", &all, guest, runs);
        }
    }
}

/// How cottage's start grows with vCPUs and with memory.
fn by_size(cottage: &Subject, guest: &Guest, runs: usize) {
    let cpus: Vec<Machine> = (1..=8).map(|cpus| sized(guest, 128, cpus)).collect();
    let times = table(cottage, &cpus, runs, |at| format!("{} vCPUs", at.cpus));
    let each = |moment: fn(&Times) -> &[f64]| {
        let of = |share| {
            let at = |row: usize| stats::quantile(moment(&times[row]), share);
            (at(7) - at(0)) / 7.0
        };
        format!("{:8.2} ({:.2})", of(0.5), of(0.0))
    };
    println!(
        "  {:14}{:28}{}",
        "each more",
        each(|times| &times.first_output),
        each(|times| &times.gone)
    );
    let sizes: Vec<Machine> = (0..8).map(|n| sized(guest, 128 << n, 1)).collect();
    table(cottage, &sizes, runs, |at| format!("{} MiB", at.memory_mib));
}

fn sized(guest: &Guest, memory_mib: u32, cpus: u32) -> Machine<'_> {
    Machine {
        memory_mib,
        cpus,
        ..Machine::small(guest)
    }
}

fn table(
    cottage: &Subject,
    machines: &[Machine],
    runs: usize,
    name: impl Fn(&Machine) -> String,
) -> Vec<Times> {
    let mut commands: Vec<_> = machines.iter().map(|of| cottage.command(of)).collect();
    let samples = in_turn(&mut commands, runs);
    let times: Vec<Times> = samples.iter().map(|runs| Times::of(runs)).collect();
    println!("\ncottage, a kernel of 5 KiB; from process start");
    println!("                  to first guest output       to process gone");
    for (machine, times) in machines.iter().zip(&times) {
        println!("  {:14}{times}", name(machine));
    }
    times
}

/// What each holds while its guest sleeps.
fn footprints(subjects: &[Subject], asleep: &Guest) {
    println!("\nwhile the guest sleeps, without guest memory");
    println!("                  resident KiB  private dirty KiB  threads");
    for subject in subjects {
        let machine = Machine::small(asleep);
        let mut child = measure::until_line(&mut subject.command(&machine), "S")
            .expect("a VMM that worked a moment ago")
            .0;
        let footprint = Footprint::of(child.id(), machine.memory_mib);
        measure::end(&mut child);
        println!(
            "  {:14} {:13} {:18} {:8}",
            subject.name(),
            footprint.resident_kib,
            footprint.private_dirty_kib,
            footprint.threads
        );
    }
}

fn file_sizes(subjects: &[Subject]) {
    println!("\nprogram file, stripped, without a guest");
    for subject in subjects {
        let (Subject::Cottage(program) | Subject::Floor(program)) = subject else {
            continue; // QEMU's is its distribution's, and most of it is in libraries
        };
        let file = std::fs::File::open(program).unwrap();
        // Pages of a file that was just built are dirty until they are on the disk; they must not
        // count below as what the VMM wrote to its memory.
        file.sync_all().unwrap();
        let size = file.metadata().unwrap().len();
        println!("  {:14} {:9} KiB", subject.name(), size / 1024);
    }
}
