//! Each word of the probe, run on this machine.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Output, Stdio};

fn probe(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cottage-probe"));
    command.args(words).stdin(Stdio::null());
    command
}

fn output(words: &[&str]) -> Output {
    probe(words).output().unwrap()
}

/// What a run that succeeds prints.
fn printed(words: &[&str]) -> String {
    let output = output(words);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// The value of a key in `key value` lines.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {key} in {text}"))
}

/// A run with pipes, and its first line.
fn started(words: &[&str], stdin: Stdio) -> (Child, BufReader<std::process::ChildStdout>, String) {
    let mut child = probe(words)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    (child, stdout, line)
}

fn terminate(child: &Child) {
    let status = Command::new("kill").arg(child.id().to_string()).status();
    assert!(status.unwrap().success());
}

#[test]
fn ready_says_so_and_nothing_else() {
    assert_eq!(printed(&["ready"]), "READY\n");
    assert_eq!(printed(&["nothing"]), "");
}

#[test]
fn stamp_is_the_monotonic_clock() {
    let stamp = || {
        let line = printed(&["stamp"]);
        line.trim_end()
            .strip_prefix("READY ")
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let (first, second) = (stamp(), stamp());
    assert!(first < second, "{first} {second}");
    // Less than a minute apart: nanoseconds.
    assert!(second - first < 60_000_000_000, "{first} {second}");
}

#[test]
fn hold_ends_with_its_input() {
    let (mut child, _, line) = started(&["hold", "touch=8"], Stdio::piped());
    assert_eq!(line, "READY\n");
    assert_eq!(child.try_wait().unwrap(), None);
    let status = std::fs::read_to_string(format!("/proc/{}/statm", child.id())).unwrap();
    let resident: u64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(resident >= 8 << 20 >> 12, "{status}");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn hold_without_input_ends_by_a_signal() {
    let (mut child, mut stdout, line) = started(&["hold"], Stdio::null());
    assert_eq!(line, "READY\n");
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn identity_is_that_of_this_kernel() {
    let text = printed(&["identity"]);
    let file = |path| std::fs::read_to_string(path).unwrap();
    assert_eq!(
        value(&text, "boot_id"),
        file("/proc/sys/kernel/random/boot_id").trim()
    );
    assert_eq!(
        value(&text, "kernel_release"),
        file("/proc/sys/kernel/osrelease").trim()
    );
    assert_eq!(
        value(&text, "hostname"),
        file("/proc/sys/kernel/hostname").trim()
    );
    let total = file("/proc/meminfo");
    let total = total
        .lines()
        .next()
        .unwrap()
        .split_ascii_whitespace()
        .nth(1);
    assert_eq!(value(&text, "mem_total").split(' ').next(), total);
    assert!(value(&text, "processes").parse::<u32>().unwrap() > 1);
}

#[test]
fn surface_accounts_for_every_number() {
    let text = printed(&["surface"]);
    let count = |key: &str| {
        value(&text, key)
            .split(' ')
            .next()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    let kinds = ["past", "eperm", "enosys", "killed", "skipped"];
    let sum: u32 = kinds
        .iter()
        .map(|kind| count(&format!("syscalls_{kind}")))
        .sum();
    assert_eq!(sum, count("syscalls_probed"));
    assert_eq!(value(&text, "syscalls_skipped"), "1 sync");
    // What every kernel that can run this test has.
    assert!(count("syscalls_past") > 250, "{text}");
    assert!(
        value(&text, "syscalls_enosys").ends_with("unassigned:87"),
        "{text}"
    );
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(value(&text, "ns_pid"), namespace.to_str().unwrap());
    assert!(
        value(&text, "device_nodes").contains(" /dev/null"),
        "{text}"
    );
}

#[test]
fn surface_sees_what_missing_rights_take_away() {
    let mut command = Command::new("setpriv");
    command.arg("--no-new-privs");
    // Who is not root has none to begin with.
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.args(["--bounding-set", "-all", "--inh-caps", "-all"]);
    }
    command.args([env!("CARGO_BIN_EXE_cottage-probe"), "surface"]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(value(&text, "no_new_privs"), "1");
    assert_eq!(value(&text, "cap_effective"), "0");
    let refused = value(&text, "syscalls_eperm");
    for name in ["reboot", "chroot"] {
        // chroot looks at the path first, reboot at the rights.
        assert_eq!(
            refused.split(' ').any(|word| word == name),
            name == "reboot",
            "{refused}"
        );
    }
}

/// Checks the lines of a measurement of three batches.
fn check_cost(name: &str, words: &[&str]) {
    let mut all = vec!["cost", name, "batches=3"];
    all.extend(words);
    let text = printed(&all);
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with(&format!("BEGIN {name} ops=")),
        "{text}"
    );
    assert!(lines[0].contains(" batches=3"), "{text}");
    assert_eq!(lines[0].contains(" fs="), name == "fsync", "{text}");
    assert_eq!(lines[1..5], [".", ".", ".", "END"], "{text}");
    assert_eq!(lines.len(), 8, "{text}");
    for line in &lines[5..] {
        let sample: f64 = line.strip_prefix("sample ").unwrap().parse().unwrap();
        assert!(sample > 0.0, "{text}");
    }
}

#[test]
fn costs_are_measured() {
    check_cost("syscall", &["ops=1000"]);
    check_cost("arith", &["ops=100000"]);
    check_cost("pagetouch", &["ops=1500"]);
    check_cost("forkexec", &["ops=2"]);
    check_cost("ctxsw", &["ops=10", "pin=no"]);
}

#[test]
fn all_goes_on_after_what_fails() {
    let text = printed(&[
        "cost",
        "all",
        "batches=1",
        "divide=1000",
        "dir=/does/not/exist",
    ]);
    let begun = text.lines().filter_map(|line| line.strip_prefix("BEGIN "));
    let begun: Vec<_> = begun.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(
        begun,
        ["syscall", "arith", "pagetouch", "forkexec", "ctxsw"]
    );
    assert!(text.contains("BEGIN syscall ops=100 batches=1\n"), "{text}");
    assert!(text.ends_with("FAILED fsync errno 2\n"), "{text}");
}

#[test]
fn fsync_writes_where_it_is_told_and_leaves_nothing() {
    let directory = std::env::temp_dir().join(format!("probe-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    check_cost("fsync", &["ops=1", &format!("dir={}", directory.display())]);
    // Fails if there is anything in it.
    std::fs::remove_dir(&directory).unwrap();
    let output = output(&["cost", "fsync", &format!("dir={}", directory.display())]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(complaint, "probe: fsync: errno 2\n");
}

#[test]
fn echo_answers_one_after_the_other() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    drop(port);
    let (mut server, _, line) = started(&["echo", &address], Stdio::null());
    assert_eq!(line, "READY\n");
    for _ in 0..2 {
        check_cost("tcp", &["ops=5", &format!("to={address}")]);
    }
    let port = address.split_once(':').unwrap().1;
    let text = printed(&["cost", "tcp", "ops=5", &format!("to=host:{port}")]);
    assert!(
        text.starts_with("BEGIN tcp ops=5 batches=20 via=loopback\n"),
        "{text}"
    );
    terminate(&server);
    server.wait().unwrap();
}

#[test]
fn wrong_words_are_refused() {
    for words in [
        &[][..],
        &["reddy"],
        &["hold", "touch=x"],
        &["cost"],
        &["cost", "flight"],
        &["cost", "syscall", "ops=0"],
        &["cost", "tcp"],
        &["cost", "all", "divide=x"],
        &["echo"],
        &["echo", "localhost:1"],
    ] {
        let output = output(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let usage = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(usage.contains("usage:"), "{words:?}: {usage}");
    }
}
