//! `cottage bench`, as a user meets it: real runs of small guests beside real programs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use support::program::{Finished, Scratch, cottage, plain_program};
use support::pty::Terminal;
use support::tiny_kernel::{empty_initramfs, resetter, sleeper};

/// Flags that boot a guest which prints `text` and is gone.
fn guest(folder: &Scratch, text: &str) -> Vec<String> {
    boots(folder, &resetter(text))
}

fn boots(folder: &Scratch, kernel: &[u8]) -> Vec<String> {
    let initramfs = folder.file("initramfs", &empty_initramfs());
    vec![
        format!("--kernel={}", folder.file("kernel", kernel)),
        format!("--initramfs={initramfs}"),
    ]
}

fn bench(flags: &[&str], words: &[String]) -> Finished {
    let words = flags
        .iter()
        .copied()
        .chain(words.iter().map(String::as_str));
    let words: Vec<_> = ["bench"].into_iter().chain(words).collect();
    cottage(&words)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// The series of that name among `series`.
fn named<'a>(series: &'a Value, name: &str) -> &'a Value {
    let mut all = series.as_array().unwrap().iter();
    all.find(|one| one["until"] == name)
        .unwrap_or_else(|| panic!("no {name} in {series}"))
}

#[test]
fn report_has_every_round_and_ordered_figures() {
    if support::kvm().is_none() {
        return;
    }
    let folder = Scratch::new();
    let flags = ["--runs=4", "--warm-up=1", "--format=json"];
    let done = bench(&flags, &guest(&folder, "up\n")).expect_code(0);
    assert_eq!(done.stderr, "", "no terminal, no progress");
    let report = json(&done.text());
    let subject = &report["subjects"][0];
    for name in ["first output", "guest entered", "process gone"] {
        let span = named(&subject["spans"], name);
        assert_eq!(span["n"], 4, "{span}");
        assert_eq!(span["samples"].as_array().unwrap().len(), 4);
        let figures = ["min", "p10", "median", "p90", "p99", "max"].map(|f| span[f].as_u64());
        assert!(figures.is_sorted() && figures[0] > Some(0), "{span}");
    }
    for round in 0..4 {
        let at = |name: &str| named(&subject["spans"], name)["samples"][round].as_u64();
        assert!(at("guest entered") < at("first output"), "{subject}");
        assert!(at("first output") < at("process gone"), "{subject}");
        let intervals = subject["intervals"].as_array().unwrap().iter();
        let sum: u64 = intervals
            .filter_map(|i| i["took"]["samples"][round].as_u64())
            .sum();
        assert_eq!(Some(sum), at("process gone"), "no gaps and no overlaps");
    }
    // Three bytes and the reset.
    assert_eq!(subject["exits"]["median"], 4);
    assert!(subject["memory"]["private_dirty"].as_u64().unwrap() > 0);
    assert_eq!(report["partial"], false);
}

#[test]
fn report_says_what_was_measured_and_where() {
    if support::kvm().is_none() {
        return;
    }
    let folder = Scratch::new();
    let words = guest(&folder, "up");
    let done = bench(&["--runs=1", "--warm-up=0", "--format=json"], &words).expect_code(0);
    let report = json(&done.text());
    for fact in [
        "cpu",
        "kernel",
        "kvm",
        "huge_pages",
        "governor",
        "date",
        "load_before",
    ] {
        assert!(
            !report["machine"][fact].as_str().unwrap().is_empty(),
            "{fact}"
        );
    }
    let parts = report["parts"].as_array().unwrap();
    let kernel = parts.iter().find(|part| part["what"] == "kernel").unwrap();
    let path = folder.path("kernel");
    let sum = std::process::Command::new("sha256sum").arg(&path).output();
    // The testbed has no sha256sum; the size tells there.
    if let Ok(sum) = sum {
        let sum = String::from_utf8(sum.stdout).unwrap();
        assert!(sum.starts_with(kernel["sha256"].as_str().unwrap()), "{sum}");
    }
    assert_eq!(kernel["size"], std::fs::metadata(path).unwrap().len());
}

#[test]
fn slower_program_gets_a_ratio() {
    if support::kvm().is_none() {
        return;
    }
    let folder = Scratch::new();
    // Slower than any boot of a few instructions, also where that is emulated.
    let flags = [
        "--runs=3",
        "--warm-up=1",
        "--vs",
        "sh -c 'sleep 3; echo up'",
    ];
    let done = bench(&flags, &guest(&folder, "up\n")).expect_code(0);
    let text = done.text();
    let line = text.lines().find(|line| line.contains("process gone: "));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    let ratio: f64 = line.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(ratio > 1.0 && line.contains(" x the first's"), "{text}");
}

#[test]
fn overlapping_ranges_get_no_ratio() {
    let folder = Scratch::new();
    // Every second run takes longer, of both, so the ranges overlap on any machine.
    let moody = |name: &str| {
        let count = folder.path(name);
        format!(
            "sh -c 'echo >>{count}; \
             if [ $(($(wc -l <{count}) % 2)) -eq 0 ]; then sleep 0.4; fi; echo up'"
        )
    };
    let (one, other) = (moody("one"), moody("other"));
    let flags = ["--program", &one, "--runs=6", "--warm-up=0", "--vs", &other];
    let text = bench(&flags, &[]).expect_code(0).text();
    assert!(
        text.contains("process gone: no ratio: the ranges overlap"),
        "{text}"
    );
}

#[test]
fn until_waits_for_the_line_it_names() {
    let program = "sh -c 'echo one; sleep 0.2; echo two'";
    let flags = [
        "--program",
        program,
        "--runs=2",
        "--warm-up=0",
        "--until=^tw",
        "--format=json",
    ];
    let report = json(&bench(&flags, &[]).expect_code(0).text());
    let spans = &report["subjects"][0]["spans"];
    let first = named(spans, "first output")["min"].as_u64().unwrap();
    let matching = named(spans, "matching output")["min"].as_u64().unwrap();
    assert!(matching >= first + 150_000_000, "{first} {matching}");
}

#[test]
fn until_that_never_comes_is_an_error() {
    bench(&["--program=echo one", "--until=two"], &[])
        .expect_code(110)
        .expect_stderr("without a line of output that matches --until \"two\"");
}

#[test]
fn failing_program_is_no_measurement() {
    bench(&["--program", "sh -c 'echo why >&2; exit 3'"], &[])
        .expect_code(110)
        .expect_stderr("ended with status 3")
        .expect_stderr("why");
    let flags = ["--program=false", "--any-status", "--runs=2"];
    bench(&flags, &[]).expect_code(0);
}

#[test]
fn missing_program_is_named() {
    bench(&["--program=/no/such/program"], &[])
        .expect_code(110)
        .expect_stderr("Cannot start /no/such/program");
}

#[test]
fn failing_boot_ends_with_the_boots_status_and_words() {
    let folder = Scratch::new();
    let kernel = folder.file("kernel", b"no kernel at all");
    let initramfs = folder.file("initramfs", &empty_initramfs());
    bench(&["--kernel", &kernel, "--initramfs", &initramfs], &[])
        .expect_code(110)
        .expect_stderr("--kernel");
}

#[test]
fn endless_run_is_late_and_stopped() {
    bench(&["--program=sleep 1000", "--timeout=1"], &[])
        .expect_code(110)
        .expect_stderr("did not end within 1 s (--timeout)");
}

#[test]
fn endless_output_neither_fills_memory_nor_hides_the_limit() {
    bench(&["--program=yes", "--timeout=1", "--until=no"], &[])
        .expect_code(110)
        .expect_stderr("did not end within 1 s (--timeout)");
}

#[test]
fn wrong_flags_are_named_with_what_is_accepted() {
    let refused: [(&[&str], &str); 9] = [
        (&["--runs=0"], "'--runs <N>'"),
        (&["--format=pdf"], "'--format <FORMAT>'"),
        (&["--until=("], "--until \"(\""),
        (&["--pin=0-9999"], "--pin \"0-9999\""),
        (&["--vs='open"], "--vs \"'open\" is not well quoted"),
        (&["--program="], "--program \"\" is empty"),
        (&["--out=report.pdf"], ".txt, .json or .svg"),
        (&["--program=true", "--memory=1G"], "leave out --memory=1G"),
        (&["--memory=lots"], "--memory \"lots\""),
    ];
    for (flags, words) in refused {
        bench(flags, &[]).expect_code(110).expect_stderr(words);
    }
}

#[test]
fn files_get_the_format_of_their_ending() {
    let folder = Scratch::new();
    let paths = ["txt", "json", "svg"].map(|ending| folder.path(&format!("report.{ending}")));
    let outs = paths.clone().map(|path| format!("--out={path}"));
    bench(&["--program=true", "--runs=2"], &outs).expect_code(0);
    let [text, json_text, svg] = paths.map(|path| std::fs::read_to_string(path).unwrap());
    assert!(text.contains("process gone"), "{text}");
    assert_eq!(json(&json_text)["runs"], 2);
    assert!(svg.starts_with("<svg "), "{svg}");
}

#[test]
fn longer_report_of_before_leaves_nothing_behind() {
    let folder = Scratch::new();
    let path = folder.file("report.json", "x".repeat(100_000).as_bytes());
    bench(&["--program=true", "--runs=1", "--out", &path], &[]).expect_code(0);
    json(&std::fs::read_to_string(path).unwrap());
}

#[test]
fn pinned_and_cold_runs_say_so() {
    if support::kvm().is_none() {
        return;
    }
    let folder = Scratch::new();
    let flags = ["--runs=2", "--pin=0", "--cold"];
    let text = bench(&flags, &guest(&folder, "up")).expect_code(0).text();
    assert!(text.contains("kept to processors 0"), "{text}");
    assert!(text.contains("cold: dropped from the page cache"), "{text}");
    assert!(text.contains(&folder.path("kernel")), "{text}");
}

#[test]
fn pinned_program_sees_one_processor() {
    let folder = Scratch::new();
    let path = folder.path("seen");
    let program = format!("sh -c 'nproc >{path}'");
    bench(&["--program", &program, "--runs=1", "--pin=0"], &[]).expect_code(0);
    assert_eq!(std::fs::read_to_string(path).unwrap().trim(), "1");
}

/// Keys at a terminal end the rounds, and what was measured is told.
#[test]
fn ctrl_c_reports_what_there_is() {
    let folder = Scratch::new();
    let path = folder.path("report.json");
    let mut command = std::process::Command::new(plain_program());
    command.args([
        "bench",
        "--program",
        "sh -c 'sleep 0.1; echo up'",
        "--runs=1000",
    ]);
    command.args(["--warm-up=0", "--out", &path]);
    let mut user = Terminal::run(command);
    user.wait_for(" of 1000 runs");
    user.type_keys(b"\x03");
    user.ends_with(130);
    assert!(user.text().contains("PARTIAL"), "{}", user.text());
    let report = json(&std::fs::read_to_string(path).unwrap());
    assert_eq!(report["partial"], true);
    assert!(report["subjects"][0]["spans"][0]["n"].as_u64().unwrap() >= 1);
}

#[test]
fn ctrl_c_leaves_no_guest_behind() {
    if support::kvm().is_none() {
        return;
    }
    let folder = Scratch::new();
    let words = boots(&folder, &sleeper("up"));
    let mut command = std::process::Command::new(plain_program());
    command.arg("bench").args(&words);
    let mut user = Terminal::run(command);
    // A guest that sleeps for ever: its process is there, and then it is not.
    let is_there = || {
        let kernel = words[0].as_bytes();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
        let mut runs = lines.filter(|line| line.windows(12).any(|w| w == b"--record-fd="));
        runs.any(|line| line.windows(kernel.len()).any(|w| w == kernel))
    };
    support::pty::wait(|| is_there().then_some(())).unwrap();
    user.type_keys(b"\x03");
    user.ends_with(130);
    assert!(!is_there());
    assert!(user.text().contains("nothing to report"), "{}", user.text());
}
