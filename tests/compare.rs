//! `cottage compare`, as a user meets it: real runtimes, broken ones, Ctrl-C, a full disk; and nothing
//! that stays.
//!
//! Each test works in a folder of its own, which is the comparison's TMPDIR: what is there afterwards
//! was left behind. Runtimes that misbehave are scripts in front of PATH.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cottage::bench::stats::{Comparison, compare as compare_series};
use serde_json::Value;
use support::program::{Finished, LIMIT, Scratch, finish, program};

/// What a runtime's script begins with: it says a version, and loads images.
const GOOD_MANNERS: &str = "case $1 in\n\
    --version) echo fake 1.0; exit;;\n\
    load|rmi|ps|rm) exit;;\nesac\n";

/// A place for one comparison.
struct Place {
    folder: Scratch,
}

impl Place {
    fn new() -> Self {
        let folder = Scratch::new();
        for name in ["tmp", "bin"] {
            fs::create_dir(folder.path(name)).unwrap();
        }
        fs::set_permissions(folder.path("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        Self { folder }
    }

    /// Puts a script in front of PATH.
    fn fake(&self, name: &str, script: &str) {
        let path = self.folder.file(
            &format!("bin/{name}"),
            format!("#!/bin/sh\n{script}\n").as_bytes(),
        );
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.folder.path(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("compare").args(words);
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.path("bin")));
        command.env("TMPDIR", self.path("tmp"));
    }

    fn run(&self, words: &[&str]) -> Finished {
        finish(self.command(words), b"")
    }

    /// The report of a run with `words`, which ends with `code`.
    fn report(&self, words: &[&str], code: i32) -> Value {
        let out = self.path("out");
        let done = self.run(&[words, &["--out", &out]].concat());
        done.expect_code(code);
        self.written()
    }

    fn written(&self) -> Value {
        let text = fs::read_to_string(self.path("out/report.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Fails if something is there still.
    #[track_caller]
    fn expect_nothing_left(&self) {
        let left = fs::read_dir(self.path("tmp")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [] as [&Path; 0]);
        let mentions = processes_with(&self.path(""));
        assert_eq!(mentions, [] as [&str; 0]);
    }
}

/// Command lines and variables of processes that contain `text`.
fn processes_with(text: &str) -> Vec<String> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let numbers =
        numbers.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let said = numbers.flat_map(|entry| {
        // The variables too: a comparison's children have its TMPDIR.
        ["cmdline", "environ"].map(|file| fs::read(entry.path().join(file)).unwrap_or_default())
    });
    let said = said.map(|said| String::from_utf8_lossy(&said).replace('\0', " "));
    said.filter(|said| said.contains(text)).collect()
}

/// Mounts, network namespaces and cgroups that bear the tag of comparisons of `process`.
fn traces(process: u32) -> Vec<String> {
    let tag = format!("cottage-compare-{process}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<_> = mounts.lines().map(str::to_owned).collect();
    found.retain(|line| line.contains(&tag));
    let mut waiting = ["/sys/fs/cgroup", "/run/netns", "/run/docker/netns"]
        .map(str::to_owned)
        .to_vec();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path().to_string_lossy().into_owned();
            if path.contains(&tag) {
                found.push(path.clone());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(path);
            }
        }
    }
    found
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|one| one["name"].as_str().unwrap()).collect()
}

/// Why a side is not there.
fn reason<'a>(report: &'a Value, name: &str) -> &'a str {
    let mut absent = report["absent"].as_array().unwrap().iter();
    let found = absent.find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is there: {report}"))["reason"]
        .as_str()
        .unwrap()
}

fn samples(report: &Value, key: &str, side: &str) -> Vec<Option<u64>> {
    let topics = report["findings"].as_array().unwrap().iter();
    let mut figures = topics.flat_map(|topic| topic["figures"].as_array().unwrap());
    let figure = figures.find(|figure| figure["key"] == key).unwrap();
    let mut lines = figure["lines"].as_array().unwrap().iter();
    let line = lines.find(|line| line["side"] == side);
    let line = line.unwrap_or_else(|| panic!("no {side} in {figure}"));
    let samples = line["samples"].as_array();
    let samples = samples.unwrap_or_else(|| panic!("no samples in {line}"));
    samples.iter().map(Value::as_u64).collect()
}

/// Waits for `ready`, which a comparison is about to bring about.
#[track_caller]
fn wait_until(mut ready: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < LIMIT, "it does not come");
        sleep(Duration::from_millis(20));
    }
}

/// The same, and the comparison goes on until then.
#[track_caller]
fn wait_while(running: &mut Child, mut ready: impl FnMut() -> bool) {
    wait_until(|| {
        let ended = running.try_wait().unwrap();
        assert!(ended.is_none(), "it ended with {ended:?}");
        ready()
    });
}

fn send(signal: &str, process: u32) {
    let words = [format!("-{signal}"), process.to_string()];
    assert!(Command::new("kill").args(words).status().unwrap().success());
}

#[test]
fn real_runtimes_run_the_same_program_and_leave_nothing() {
    let place = Place::new();
    let report = place.report(
        &[
            "start",
            "--runs=3",
            "--warm-up=0",
            "--with=bwrap,crun,runc,unshare",
        ],
        0,
    );
    for side in ["process", "unshare", "bwrap", "crun", "runc"] {
        assert!(
            names(&report["sides"]).contains(&side),
            "{side}: {}",
            report["absent"]
        );
        let firsts = samples(&report, "start.first-output", side);
        let gone = samples(&report, "start.gone", side);
        assert_eq!(firsts.len(), 3);
        let ordered = firsts
            .iter()
            .zip(&gone)
            .all(|(first, gone)| first.is_some() && first < gone);
        assert!(ordered, "{side}: {firsts:?} {gone:?}");
    }
    assert_eq!(report["root"]["digest"].as_str().unwrap().len(), 64);
    place.expect_nothing_left();
}

#[test]
fn same_runtime_twice_shows_no_difference() {
    let place = Place::new();
    let report = place.report(&["start", "--runs=15", "--with=unshare,unshare"], 0);
    let of = |side| samples(&report, "start.first-output", side);
    let compared = compare_series(&of("unshare"), &of("unshare, again")).unwrap();
    assert!(
        matches!(compared, Comparison::Overlap { .. }),
        "{compared:?}"
    );
    place.expect_nothing_left();
}

#[test]
fn broken_runtimes_are_told_apart() {
    let place = Place::new();
    place.fake("docker", "exec sleep 1000");
    place.fake("crun", "echo no cgroups here >&2; exit 1");
    let garbage = "printf '\\033[2J\\377\\000\\001garbage\\n'";
    place.fake("podman", &format!("{GOOD_MANNERS}{garbage}"));
    place.fake("bwrap", &format!("{GOOD_MANNERS}sleep 30; echo READY"));
    let words = [
        "start",
        "--runs=1",
        "--warm-up=0",
        "--with=docker,crun,podman,bwrap",
    ];
    let report = place.report(&words, 0);
    let docker = reason(&report, "docker");
    assert!(docker.contains("did not end within 5 s"), "{docker}");
    let crun = reason(&report, "crun");
    assert!(
        crun.ends_with("it ended with status 1; it said: no cgroups here"),
        "{crun}"
    );
    let podman = reason(&report, "podman, no network");
    assert!(
        podman.starts_with("it ran, but not our program") && podman.contains("garbage"),
        "{podman}"
    );
    assert!(!podman.contains(char::is_control), "{podman:?}");
    let bwrap = reason(&report, "bwrap");
    assert!(bwrap.contains("did not end within 10 s"), "{bwrap}");
    assert!(names(&report["sides"]).contains(&"process"));
    place.expect_nothing_left();
}

#[test]
fn client_without_an_engine_is_no_docker() {
    let place = Place::new();
    let no_engine = "echo 'Cannot connect to the Docker daemon' >&2; exit 1";
    place.fake(
        "docker",
        &format!("case $* in --version) echo fake;; *) {no_engine};; esac"),
    );
    let report = place.report(&["start", "--runs=1", "--warm-up=0", "--with=docker"], 0);
    let docker = reason(&report, "docker");
    assert!(
        docker.starts_with("no engine answers") && docker.contains("Cannot connect"),
        "{docker}"
    );
}

#[test]
fn what_a_runtime_leaves_running_is_ended() {
    let place = Place::new();
    let log = place.path("left");
    // In a session of its own, as daemons are.
    let leave = format!("setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >>{log}");
    place.fake("bwrap", &format!("{GOOD_MANNERS}{leave}\necho READY"));
    let report = place.report(&["start", "--runs=2", "--warm-up=0", "--with=bwrap"], 0);
    assert!(names(&report["sides"]).contains(&"bwrap"));
    let left = fs::read_to_string(&log).unwrap();
    assert_eq!(left.lines().count(), 3, "one to try and two rounds");
    place.expect_nothing_left();
}

#[test]
fn interrupted_comparison_reports_what_it_has_and_leaves_nothing() {
    let place = Place::new();
    let count = place.path("count");
    // To try, one round, and then it hangs.
    let script =
        format!("echo >>{count}\n[ $(wc -l <{count}) -lt 3 ] || exec sleep 1000\necho READY");
    place.fake("bwrap", &format!("{GOOD_MANNERS}{script}"));
    let out = place.path("out");
    let words = [
        "start",
        "--runs=5",
        "--warm-up=0",
        "--with=crun,bwrap",
        "--out",
        &out,
    ];
    let mut command = place.command(&words);
    let mut running = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let hangs = || {
        fs::read_to_string(&count)
            .unwrap_or_default()
            .lines()
            .count()
            == 3
    };
    wait_while(&mut running, hangs);
    send("INT", running.id());
    let status = running.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let report = place.written();
    assert_eq!(report["partial"], true);
    let bwrap = samples(&report, "start.first-output", "bwrap");
    assert!(bwrap[0].is_some(), "{bwrap:?}");
    place.expect_nothing_left();
    assert_eq!(traces(running.id()), [] as [&str; 0]);
}

#[test]
fn interrupted_search_ends_at_once() {
    let place = Place::new();
    let begun = place.path("begun");
    place.fake("docker", &format!("touch {begun}; exec sleep 1000"));
    let mut command = place.command(&["start", "--with=docker"]);
    let mut running = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_while(&mut running, || Path::new(&begun).exists());
    send("TERM", running.id());
    assert_eq!(running.wait().unwrap().code(), Some(143));
    place.expect_nothing_left();
}

#[test]
fn next_comparison_cleans_up_after_one_that_was_killed() {
    let place = Place::new();
    let (tried, hangs) = (place.path("tried"), place.path("hangs"));
    // Not by exec: a runtime's command line names the root file system as long as it runs.
    let script =
        format!("[ -e {tried} ] && touch {hangs} && sleep 1000; touch {tried}; echo READY");
    place.fake("bwrap", &format!("{GOOD_MANNERS}{script}"));
    let mut command = place.command(&["start", "--with=crun,bwrap", "--warm-up=0"]);
    let mut running = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_while(&mut running, || Path::new(&hangs).exists());
    send("KILL", running.id());
    running.wait().unwrap();
    let left = format!("tmp/cottage-compare-{}", running.id());
    assert!(Path::new(&place.path(&left)).exists());
    // An orphan that bears the name, as a runtime's helper would.
    let folder = place.path(&left);
    let orphan = format!("setsid sh -c 'read _ </dev/zero' helper {folder} >/dev/null 2>&1 &");
    Command::new("sh").args(["-c", &orphan]).status().unwrap();
    wait_until(|| !processes_with(&format!("helper {folder}")).is_empty());
    place
        .run(&["start", "--runs=1", "--warm-up=0", "--with=unshare"])
        .expect_code(0);
    assert!(!Path::new(&folder).exists());
    wait_until(|| processes_with(&place.path("")).is_empty());
    assert_eq!(traces(running.id()), [] as [&str; 0]);
}

#[test]
fn nobody_can_compare() {
    let place = Place::new();
    let inside = [
        program().to_str().unwrap(),
        "compare",
        "start",
        "--runs=2",
        "--warm-up=0",
    ]
    .map(str::to_owned);
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
    } else {
        Command::new("env")
    };
    command.args(inside).args(["--with", "unshare,crun,docker"]);
    place.surround(&mut command);
    let done = finish(command, b"").expect_code(0);
    assert!(done.text().contains("process"), "{}", done.text());
    place.expect_nothing_left();
}

/// Runs a line of shell where mounts are of no consequence, as root of a user namespace.
fn in_private(place: &Place, line: &str) -> Finished {
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        line,
        "sh",
    ]);
    command.arg(program());
    place.surround(&mut command);
    finish(command, b"")
}

#[test]
fn place_that_is_too_small_or_forbids_programs_is_refused() {
    let place = Place::new();
    let mount = |options: &str| {
        format!("mount -t tmpfs -o {options} tmpfs $TMPDIR && exec $1 compare start --with unshare")
    };
    let small = in_private(&place, &mount("size=1m")).expect_code(110);
    small.expect_stderr("64 MiB are needed; TMPDIR chooses another place");
    let forbidden = in_private(&place, &mount("noexec")).expect_code(110);
    forbidden.expect_stderr("where no programs may run (noexec)");
}

#[test]
fn disk_that_is_full_in_the_middle_costs_only_what_needs_it() {
    let place = Place::new();
    place.fake(
        "bwrap",
        &format!("{GOOD_MANNERS}head -c 100m /dev/zero >$TMPDIR/fill 2>/dev/null; echo READY"),
    );
    let line = "mount -t tmpfs -o size=80m tmpfs $TMPDIR && \
                $1 compare start --with unshare,bwrap,crun --runs 2 --warm-up 0; \
                status=$?; ls $TMPDIR; exit $status";
    let done = in_private(&place, line).expect_code(0);
    for (side, why) in [("crun", "no room left"), ("tiny kernel", "No space left")] {
        let mut lines = done.stderr.lines();
        let told = lines.find(|line| line.contains(side) && line.contains("not run"));
        assert!(told.unwrap_or_default().contains(why), "{}", done.stderr);
    }
    assert_eq!(
        done.text().lines().last(),
        Some("fill"),
        "only the fake's own"
    );
}

#[test]
fn report_that_does_not_fit_is_told() {
    let place = Place::new();
    let out = place.path("out");
    let line = format!(
        "mkdir {out} && mount -t tmpfs -o size=4k tmpfs {out} && \
         exec $1 compare start --with unshare --runs 2 --warm-up 0 --out {out}"
    );
    let done = in_private(&place, &line).expect_code(111);
    assert!(
        done.text().contains("process"),
        "the terminal has it all the same"
    );
    done.expect_stderr("Cannot write the report");
    place.expect_nothing_left();
}

#[test]
fn wrong_words_are_answered_before_anything_is_made() {
    let place = Place::new();
    let topic = place.run(&["speed"]).expect_code(110);
    topic.expect_stderr("isolation");
    let runtime = place.run(&["start", "--with=crun,lxc"]).expect_code(110);
    runtime.expect_stderr("there is no runtime \"lxc\"");
    let out = place
        .run(&["start", "--out=/proc/no/such"])
        .expect_code(110);
    out.expect_stderr("--out \"/proc/no/such\" cannot be used");
    place.expect_nothing_left();
}
