//! A report as a comparison may give it: made-up values of the sizes that real ones have.

use super::{Report, RootInfo, SideInfo};
use crate::bench::host::Host;
use crate::compare::finding::{Figure, Findings, Line, Point, Row, Table, Unit, Value};
use crate::compare::session::Plan;
use crate::compare::side::{Absent, Kind};

/// Name, kind, version, median and most of a start in microseconds, parts of a hundred of it.
type Made = (&'static str, Kind, &'static str, u64, u64, [u64; 3]);

const SIDES: [Made; 10] = [
    ("process", Kind::Floor, "", 102, 190, [60, 0, 40]),
    (
        "unshare",
        Kind::Floor,
        "util-linux 2.38.1",
        2300,
        4800,
        [95, 0, 5],
    ),
    ("bwrap", Kind::Container, "0.8.0", 3900, 10_600, [97, 0, 3]),
    ("crun", Kind::Container, "1.8.1", 7700, 11_200, [98, 0, 2]),
    ("runc", Kind::Container, "1.1.5", 22_000, 38_000, [99, 0, 1]),
    (
        "podman, no network",
        Kind::Container,
        "4.3.1",
        99_000,
        122_000,
        [99, 0, 1],
    ),
    (
        "docker, no network",
        Kind::Container,
        "20.10.24",
        216_000,
        263_000,
        [99, 0, 1],
    ),
    (
        "docker, bridge",
        Kind::Container,
        "20.10.24",
        251_000,
        336_000,
        [99, 0, 1],
    ),
    (
        "cottage, tiny kernel",
        Kind::Vm,
        "0.1.0",
        61_000,
        75_000,
        [4, 70, 26],
    ),
    (
        "cottage, full kernel, disk",
        Kind::Vm,
        "0.1.0",
        118_000,
        141_000,
        [3, 80, 17],
    ),
];
const ROUNDS: u64 = 20;

/// The report.
pub(in crate::compare) fn report() -> Report {
    Report {
        command: "cottage compare --claims --out report".to_owned(),
        host: Host {
            date: "2026-11-21T17:00:00Z".to_owned(),
            cpu: "AMD EPYC <made up>".to_owned(),
            cpus: 2,
            kernel: "6.18.0".to_owned(),
            kvm: "kvm_amd, hardware".to_owned(),
            huge_pages: "madvise".to_owned(),
            governor: "none visible".to_owned(),
        },
        load: ("0.10".to_owned(), "0.85".to_owned()),
        warnings: vec!["other programs used 0.40 processors on average meanwhile".to_owned()],
        partial: false,
        root: RootInfo {
            digest: "5d41402abc4b2a76b9719d911017c592ae1f1c3d2c0d7f3f0f9f8a1b2c3d4e5f".to_owned(),
            bytes: 2_049_128,
            left_out: Vec::new(),
        },
        sides: SIDES.iter().map(info).collect(),
        absent: vec![Absent {
            name: "ctr".to_owned(),
            kind: Kind::Container,
            reason: "no engine answers on /run/containerd/containerd.sock".to_owned(),
        }],
        plan: Plan {
            runs: 20,
            warm_up: 2,
            quick: false,
            limit: 60_000_000_000,
            pin: None,
            emulated: None,
            instructions: false,
            testbed: false,
        },
        findings: vec![start(), memory(), disk(), isolation(), cost()],
        claims: Vec::new(),
    }
}

/// A figure of it.
pub(in crate::compare) fn figure<'a>(report: &'a Report, key: &str) -> &'a Figure {
    let figures = report.findings.iter().flat_map(|f| &f.figures);
    figures.into_iter().find(|f| f.key == key).unwrap()
}

fn info(made: &Made) -> SideInfo {
    SideInfo {
        name: made.0.to_owned(),
        kind: made.1,
        version: made.2.to_owned(),
        command: format!("{} COMMAND", made.0),
        notes: Vec::new(),
    }
}

/// Values around `median`, the most of them `most`, different on every call's `seed`.
fn rounds(median: u64, most: u64, seed: u64) -> Value {
    let value = |round: u64| {
        let spread = (most - median) / 4;
        // Source: Knuth, MMIX, multiplier and increment of its linear congruential generator.
        let random = (round + 97 * seed)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407)
            >> 40;
        let value = median - spread / 2 + random % spread.max(1);
        Some(if round == 7 { most } else { value })
    };
    Value::Samples((0..ROUNDS).map(value).collect())
}

fn lines(value: impl Fn(&Made, u64) -> Value) -> Vec<Line> {
    let line = |(seed, made): (u64, &Made)| Line {
        side: made.0.to_owned(),
        kind: made.1,
        value: value(made, seed),
    };
    let mut lines: Vec<_> = (0..).zip(&SIDES).map(line).collect();
    lines.insert(
        8,
        Line {
            side: "ctr".to_owned(),
            kind: Kind::Container,
            value: Value::NotRun("no engine answers on /run/containerd/containerd.sock".to_owned()),
        },
    );
    lines
}

fn made(key: &str, title: &str, end_points: &str, unit: Unit, lines: Vec<Line>) -> Figure {
    Figure {
        key: key.to_owned(),
        title: title.to_owned(),
        end_points: end_points.to_owned(),
        unit,
        part_of: None,
        lines,
    }
}

fn part(key: &str, title: &str, index: usize) -> Figure {
    let value = |made: &Made, seed| {
        let share = |all: u64| all * 10 * made.5[index];
        rounds(share(made.3), share(made.4), seed)
    };
    Figure {
        part_of: Some("start.first-output".to_owned()),
        ..made(
            key,
            title,
            "between two instants",
            Unit::Nanoseconds,
            lines(value),
        )
    }
}

fn start() -> Findings {
    Findings {
        topic: "start",
        question: "How long does it take until the program inside runs?",
        figures: vec![
            made(
                "start.first-output",
                "Start to first output",
                "from just before the runtime's command line is spawned to the arrival of the first \
                 byte that the program inside prints",
                Unit::Nanoseconds,
                lines(|made, seed| rounds(1000 * made.3, 1000 * made.4, seed)),
            ),
            made(
                "start.gone",
                "Start to exit",
                "from the same spawn to the moment the runtime's process is found gone",
                Unit::Nanoseconds,
                lines(|made, seed| rounds(1300 * made.3, 1300 * made.4, seed + 50)),
            ),
            part("start.runtime", "of it: runtime or VMM", 0),
            part("start.kernel", "of it: guest's kernel", 1),
            part("start.userspace", "of it: processes inside", 2),
        ],
        tables: Vec::new(),
        notes: vec!["20 rounds after 2 to warm up; in each every side had its turn".to_owned()],
    }
}

fn memory() -> Findings {
    let curve = |made: &Made, _| {
        let each = 200 * 1024 + made.3 * 10;
        let point = |instances| Point {
            instances,
            value: 3_000_000 + instances * each + (instances % 7) * each / 5,
        };
        Value::Curve([1, 10, 50].map(point).to_vec())
    };
    Findings {
        topic: "memory",
        question: "What does one more instance take of the host's memory?",
        figures: vec![made(
            "memory.host",
            "Memory, as the host's kernel accounts for it",
            "change of AnonPages, Slab, PageTables, KernelStack, Percpu and Shmem",
            Unit::Bytes,
            lines(curve),
        )],
        tables: Vec::new(),
        notes: Vec::new(),
    }
}

fn disk() -> Findings {
    let engine = |made: &Made, _| match made.1 {
        Kind::Floor => Value::Exact(0),
        Kind::Container => Value::Exact(136_000 + made.3 * made.3 / 300),
        Kind::Vm => Value::Exact(9_400_000),
    };
    Findings {
        topic: "disk",
        question: "What has to be on the disk?",
        figures: vec![made(
            "disk.engine",
            "Engine or VMM, with what it needs",
            "bytes of its files, without the root file system",
            Unit::Bytes,
            lines(engine),
        )],
        tables: Vec::new(),
        notes: Vec::new(),
    }
}

fn isolation() -> Findings {
    let syscalls = |made: &Made, _| match made.0 {
        "process" | "unshare" => Value::Exact(332),
        "crun" | "runc" | "bwrap" => Value::Exact(319),
        "podman, no network" => Value::Exact(276),
        name if name.starts_with("docker") => Value::Exact(264),
        _ => Value::NotComparable("the calls reach the guest's kernel, not the host's".to_owned()),
    };
    let row = |name: &str, host: &str, vm: &str, remark: &str| Row {
        name: name.to_owned(),
        cells: SIDES
            .iter()
            .map(|made| if made.1 == Kind::Vm { vm } else { host }.to_owned())
            .collect(),
        remark: remark.to_owned(),
    };
    Findings {
        topic: "isolation",
        question: "Whose kernel is it, and what of the host can a program inside reach?",
        figures: vec![made(
            "isolation.syscalls",
            "System calls past the gate",
            "of 359 numbers, those that do not end in ENOSYS or EPERM before the host's kernel looks",
            Unit::Count,
            lines(syscalls),
        )],
        tables: vec![Table {
            key: "isolation.identity".to_owned(),
            title: "Identity: whose kernel is this".to_owned(),
            columns: SIDES.iter().map(|made| made.0.to_owned()).collect(),
            rows: vec![
                row("kernel release", "6.18.0", "6.12.117-cottage-tiny", ""),
                row(
                    "boot id",
                    "c1d0f4a2",
                    "differs from run to run",
                    "the same as the host's \
                     means: the same kernel, booted once for all",
                ),
                row(
                    "MemTotal",
                    "24001 MiB",
                    "116 MiB",
                    "a container sees the host's memory even \
                     where its cgroup limits it",
                ),
            ],
        }],
        notes: Vec::new(),
    }
}

fn cost() -> Findings {
    let syscall = |made: &Made, seed| match made.1 {
        Kind::Vm => Value::NotComparable("guest kernel code is emulated on this host".to_owned()),
        _ => rounds(140 + made.3 % 50, 200 + made.3 % 50, seed),
    };
    Findings {
        topic: "cost",
        question: "What does work cost inside?",
        figures: vec![made(
            "cost.syscall",
            "A system call",
            "one getppid, a 100,000th of the time between the lines BEGIN and END",
            Unit::Nanoseconds,
            lines(syscall),
        )],
        tables: Vec::new(),
        notes: vec!["Where all ranges overlap, no difference was resolved.".to_owned()],
    }
}
