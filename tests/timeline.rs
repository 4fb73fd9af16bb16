//! `cottage run --timeline` and `--exits`, as a user meets them: real runs of small guests.

mod support;

use support::program::{Scratch, cottage, plain_program};
use support::tiny_kernel::{empty_initramfs, printer, resetter};

/// A guest that prints `text` and is gone.
fn guest(text: &str) -> (Scratch, Vec<String>) {
    let folder = Scratch::new();
    let words = vec![
        format!("--kernel={}", folder.file("kernel", &resetter(text))),
        format!(
            "--initramfs={}",
            folder.file("initramfs", &empty_initramfs())
        ),
    ];
    (folder, words)
}

fn run(flags: &[&str], words: &[String]) -> support::program::Finished {
    let words = flags
        .iter()
        .copied()
        .chain(words.iter().map(String::as_str));
    let words: Vec<_> = ["run"].into_iter().chain(words).collect();
    cottage(&words)
}

/// The instants in a text timeline: (ms at its end, ms it took, the rest of the line).
fn instants(text: &str) -> Vec<(f64, f64, &str)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let at = words.next()?.parse().ok()?;
            let took = words.next()?.parse().ok()?;
            Some((at, took, line))
        })
        .filter(|(.., line)| line.contains(['▒', '█', '▓', '░']))
        .collect()
}

fn assert_in_order(told: &str, names: &[&str]) {
    let place = |name: &&str| {
        told.find(*name)
            .unwrap_or_else(|| panic!("no {name}:\n{told}"))
    };
    assert!(names.iter().map(place).is_sorted(), "{told}");
}

#[test]
fn text_timeline_names_the_instants_in_order_on_stderr() {
    if support::kvm().is_none() {
        return;
    }
    let (_folder, words) = guest("hi");
    let done = run(&["--timeline"], &words)
        .expect_code(0)
        .expect_stdout("hi");
    let told = &done.stderr;
    // One thread loads while another makes the VM: each has its order, and between the two is none.
    let loading = [
        "guest memory mapped",
        "kernel loaded",
        "initramfs loaded",
        "boot tables written",
        "guest entered",
    ];
    let making = [
        "main entered",
        "flags checked",
        "guest memory mapped",
        "/dev/kvm opened",
        "VM created",
        "memory given to KVM",
        "vCPUs ready",
        "guest entered",
        "first exit",
        "first serial byte",
        "guest ended",
        "VM destroyed",
        "process gone",
    ];
    assert_in_order(told, &loading);
    assert_in_order(told, &making);
    let instants = instants(told);
    let (mut before, mut sum) = (0.0, 0.0);
    for (at, took, line) in &instants {
        assert!(*at >= before, "{line}");
        before = *at;
        sum += took;
    }
    // Each of the figures is cut to a microsecond.
    let rounding = 0.001 * (instants.len() as f64 + 1.0);
    assert!(
        (sum - before).abs() <= rounding,
        "{sum} of {before}\n{told}"
    );
    assert!(told.contains("memory: cottage "), "{told}");
}

#[test]
fn exits_are_counted_by_port_with_their_device() {
    if support::kvm().is_none() {
        return;
    }
    let (_folder, words) = guest("twelve bytes");
    let done = run(&["--exits"], &words).expect_code(0);
    let told = &done.stderr;
    assert!(told.contains("VM exits reached cottage"), "{told}");
    let line = told.lines().find(|line| line.contains("0x3f8")).unwrap();
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    assert_eq!(words[0], "12", "{line}");
    assert!(line.ends_with("serial") && line.contains(" out "), "{line}");
    assert!(told.lines().any(|line| line.ends_with("reset")), "{told}");
}

#[test]
fn report_goes_to_the_file_and_nowhere_else() {
    if support::kvm().is_none() {
        return;
    }
    let (folder, words) = guest("hi");
    let path = folder.path("report");
    let done = run(&["--timeline", "--exits", &path], &words)
        .expect_code(0)
        .expect_stdout("hi");
    assert_eq!(done.stderr, "");
    let report = std::fs::read_to_string(path).unwrap();
    assert!(report.contains("process gone") && report.contains("VM exits reached"));
}

#[test]
fn json_has_every_instant_in_nanoseconds() {
    if support::kvm().is_none() {
        return;
    }
    let (_folder, words) = guest("hi");
    let done = run(&["--timeline=json"], &words)
        .expect_code(0)
        .expect_stdout("hi");
    let json: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    let intervals = json["intervals"].as_array().unwrap();
    let ends: Vec<_> = intervals.iter().map(|i| i["end"].as_u64()).collect();
    assert!(ends.is_sorted() && ends.last() == Some(&json["total"].as_u64()));
    let spent = json["spent"].as_object().unwrap().values();
    assert_eq!(
        spent.filter_map(|ns| ns.as_u64()).sum::<u64>(),
        json["total"]
    );
    let serial = json["exits"].as_array().unwrap().iter();
    let serial = serial.clone().find(|line| line["device"] == "serial");
    assert_eq!(serial.unwrap()["count"], 2);
    assert!(json["memory"]["resident"].as_u64().unwrap() > 0);
}

#[test]
fn svg_is_a_picture_of_its_own() {
    if support::kvm().is_none() {
        return;
    }
    let (folder, words) = guest("hi");
    let path = folder.path("boot.svg");
    run(&["--timeline=svg", &path], &words).expect_code(0);
    let svg = std::fs::read_to_string(path).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains(">guest entered<") && !svg.contains("<script"));
    let elsewhere = svg.matches("http").count();
    assert_eq!(elsewhere, 1, "only the name space: {svg}");
}

#[test]
fn a_file_that_cannot_be_written_is_known_before_the_guest_runs() {
    let folder = Scratch::new();
    let path = folder.path("no such folder/report");
    run(&["--timeline", &path, "--kernel=/dev/null"], &[])
        .expect_code(110)
        .expect_stderr("Cannot write the report to")
        .expect_stdout("");
}

#[test]
fn the_guests_own_status_and_cottages_errors_pass_through() {
    let folder = Scratch::new();
    let kernel = folder.file("kernel", b"no kernel at all");
    let initramfs = folder.file("initramfs", &empty_initramfs());
    let done = run(
        &["--timeline", "--kernel", &kernel, "--initramfs", &initramfs],
        &[],
    )
    .expect_code(110);
    let told = &done.stderr;
    assert!(
        told.contains("--kernel") || told.contains("kernel"),
        "{told}"
    );
}

#[test]
fn a_file_without_a_report_is_refused_with_a_hint() {
    run(&["vmlinux"], &[])
        .expect_code(110)
        .expect_stderr("did you mean `--kernel vmlinux`");
}

#[test]
fn a_record_to_no_descriptor_is_an_error() {
    if support::kvm().is_none() {
        return;
    }
    let folder = Scratch::new();
    let kernel = folder.file("kernel", &printer("x"));
    let initramfs = folder.file("initramfs", &empty_initramfs());
    run(
        &[
            "--record-fd=77",
            "--kernel",
            &kernel,
            "--initramfs",
            &initramfs,
        ],
        &[],
    )
    .expect_code(111)
    .expect_stderr("--record-fd");
}

#[test]
fn a_signal_to_the_waiting_process_ends_the_guest() {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    if support::kvm().is_none() {
        return;
    }
    let folder = Scratch::new();
    let kernel = folder.file("kernel", &support::tiny_kernel::sleeper("up"));
    let initramfs = folder.file("initramfs", &empty_initramfs());
    let mut command = Command::new(plain_program());
    command
        .args([
            "run",
            "--timeline",
            "--kernel",
            &kernel,
            "--initramfs",
            &initramfs,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut two = [0; 2];
    std::io::Read::read_exact(process.stdout.as_mut().unwrap(), &mut two).unwrap();
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "it goes on");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(143), "{:?}", status.signal());
    let mut told = String::new();
    std::io::Read::read_to_string(process.stderr.as_mut().unwrap(), &mut told).unwrap();
    assert!(
        told.contains("ended by SIGTERM") && told.contains("process gone"),
        "{told}"
    );
}

#[test]
fn marks_of_a_linux_guest_are_on_the_timeline() {
    if support::linux_kvm().is_none() {
        return;
    }
    let done = cottage(&["run", "--timeline", "--exits", "--", "true"]).expect_code(0);
    let told = &done.stderr;
    for name in [
        "mark 1: init started",
        "mark 2: ready",
        "mark 3: command done",
        "first use of ioapic",
        "guest userspace",
    ] {
        assert!(told.contains(name), "no {name}:\n{told}");
    }
}

#[test]
fn a_shell_line_marks_a_stage_of_the_guests_own() {
    if support::linux_kvm().is_none() {
        return;
    }
    let script = "mark 9; echo $?; mark 3; echo $?; mark; mark 9 9; mark 256; mark x";
    let done = cottage(&["run", "--timeline", "--", "sh", "-c", script]).expect_code(1);
    let refused = "mark: give a number from 4 to 255\n";
    let told = format!("0\n{refused}1\n{}", refused.repeat(4));
    let done = done.expect_stdout(&told);
    let marks = done.stderr.matches(" mark 9").count();
    assert_eq!(marks, 1, "{}", done.stderr);
    assert_eq!(done.stderr.matches("mark 3").count(), 1, "init's own alone");
}
