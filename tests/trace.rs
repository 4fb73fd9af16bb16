//! `run --trace`: what it tells of guests whose every exit is known, and of one Linux boot.
//!
//! Times and host addresses are left out of comparisons; everything else is compared.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::program::{Finished, Scratch, cottage, finish, plain_program};
use support::pty::{Terminal, exit_code, resident_kib, wait};
use support::tiny_kernel as tiny;
use support::{kvm, linux_kvm};

/// What a traced guest left.
struct Traced {
    run: Finished,
    trace: String,
}

/// The files of a tiny guest, and its trace.
struct Guest {
    files: Scratch,
}

impl Guest {
    fn new(kernel: &[u8]) -> Self {
        let files = Scratch::new();
        files.file("kernel", kernel);
        files.file("initramfs", &tiny::empty_initramfs());
        Self { files }
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(plain_program());
        command.args(["run", "--memory", "4M"]).args(flags);
        command.args(["--kernel", &self.files.path("kernel")]);
        command.args(["--initramfs", &self.files.path("initramfs")]);
        command
    }

    /// Runs it to its end with a trace in the file `name`.
    fn traced(&self, flags: &[&str], name: &str) -> Traced {
        let mut command = self.command(flags);
        command.args(["--trace-file", &self.files.path(name)]);
        let run = finish(command, b"");
        let trace = std::fs::read_to_string(self.files.path(name)).unwrap_or_default();
        Traced { run, trace }
    }
}

/// A line without its time, and without how long it took.
fn stable(line: &str) -> String {
    let line = line.get(12..).unwrap_or("");
    let Some((what, rest)) = line.split_once("  [") else {
        return line.to_owned();
    };
    format!("{what}{}", rest.split_once(']').unwrap().1)
}

/// The lines of a text trace that `who` stands in front of.
fn lines_of(trace: &str, who: &str) -> Vec<String> {
    let lines = trace.lines().skip(1).map(stable);
    let own = lines.filter_map(|line| Some(line.strip_prefix(who)?.trim_start().to_owned()));
    own.collect()
}

/// One access of each kind, at addresses that everybody knows; then power-off.
const ACCESSES: &[u8] = &[
    0x66, 0xba, 0xfb, 0x03, // mov dx, 0x3fb
    0xb0, 0x03, 0xee, // mov al, 3; out dx, al: LCR
    0x66, 0xba, 0xfd, 0x03, 0xec, // mov dx, 0x3fd; in al, dx: LSR
    0xb0, 0x0a, 0xe6, 0x70, // mov al, 0x0a; out 0x70, al: RTC index
    0xe4, 0x71, // in al, 0x71: RTC data
    0xe6, 0x80, // out 0x80, al: nobody
    0xb8, 0x00, 0x00, 0xc0, 0xfe, // mov eax, 0xfec00000
    0xc7, 0x00, 0x18, 0x00, 0x00, 0x00, // mov dword [rax], 0x18: IOREGSEL
    0xc7, 0x40, 0x10, 0x24, 0x00, 0x00, 0x00, // mov dword [rax+0x10], 0x24: entry 4
    0x8b, 0x58, 0x10, // mov ebx, [rax+0x10]
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'h', 0xee, 0xb0, b'i', 0xee, 0xb0, b'\n', 0xee, // "hi\n"
    0x66, 0xba, 0x00, 0x07, 0xb0, 0x09, 0xee, // mark 9
    0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, // power off
];

#[test]
fn each_access_is_told_by_device_register_meaning_and_instruction() {
    let Some(_) = kvm() else { return };
    let traced = Guest::new(&tiny::elf(ACCESSES)).traced(&["--trace=exits"], "t");
    traced.run.expect_code(0).expect_stdout("hi\n");
    let expected = [
        "serial LCR written 0x3: 8N1  0x100006: out dx, al",
        "serial LSR read 0x60: transmitter empty, idle  0x10000b: in al, dx",
        "rtc index written 0xa: register 0x0a, status A (bit 7: update in progress)  0x10000e: out 0x70, al",
        "rtc data read 0x26: register 0x0a, status A (bit 7: update in progress)  0x100010: in al, 0x71",
        "port 0x80 (POST code, used as a short delay) written 0x26: lost  0x100012: out 0x80, al",
        "ioapic IOREGSEL 4 written 0x18: selects redirection entry, low half  0x100019: mov dword ptr [rax], 0x18",
        "ioapic redirection entry, low half 4 written 0x24: vector 0x24, edge, fixed  0x10001f: mov dword ptr [rax+0x10], 0x24",
        "ioapic redirection entry, low half 4 read 0x24: vector 0x24, edge, fixed  0x100026: mov ebx, [rax+0x10]",
        "serial THR written: \"hi\\n\" 3 bytes  x 3  0x10002f: out dx, al",
        "mark boot mark written 0x9: mark 9  0x10003c: out dx, al",
        "acpi-sleep sleep control written 0x34: sleep now, type 5  0x100043: out dx, al",
    ];
    assert_eq!(lines_of(&traced.trace, "vcpu0"), expected);
}

#[test]
fn machine_is_told_from_the_first_call_to_the_end() {
    let Some(_) = kvm() else { return };
    let traced = Guest::new(&tiny::printer("x")).traced(&["--trace"], "t");
    traced.run.expect_code(0);
    let calls = lines_of(&traced.trace, "kvm");
    let names: Vec<_> = calls
        .iter()
        .map(|call| call.split(": ").next().unwrap())
        .filter(|name| !name.starts_with("KVM_CHECK_EXTENSION") && *name != "KVM_SET_MSRS")
        // Intel's alone.
        .filter(|name| !name.ends_with("_ADDR"))
        .collect();
    assert_eq!(
        names,
        [
            "open(/dev/kvm)",
            "KVM_GET_API_VERSION",
            "KVM_CREATE_VM",
            "KVM_SET_USER_MEMORY_REGION",
            "KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)",
            "KVM_GET_SUPPORTED_CPUID",
            "KVM_CREATE_VCPU",
            "KVM_SET_CPUID2",
            "KVM_GET_SREGS",
            "KVM_SET_SREGS",
            "KVM_SET_REGS",
        ]
    );
    let slot = calls.iter().find(|call| call.contains("slot 0")).unwrap();
    assert!(
        slot.contains("guest 0x0..0x400000 (4 MiB) is host memory 0x"),
        "{slot}"
    );
    let memory = lines_of(&traced.trace, "memory").join("\n");
    for what in [
        "kernel at 0x100000..",
        "initramfs at 0x",
        "command line at 0x20000..",
        "zero page at 0x7000..0x8000 (4 KiB)",
        "ACPI tables at 0xe0000..",
        "MP table at 0xf0000..",
        "boot GDT at 0x500..0x528 (40 bytes)",
        "page tables at 0x9000..0xf000 (24 KiB)",
    ] {
        assert!(memory.contains(what), "no {what:?} in\n{memory}");
    }
    let boot = lines_of(&traced.trace, "boot").join(", ");
    let order = [
        "VM created",
        "guest entered",
        "first serial byte",
        "guest ended",
        "VM destroyed",
    ];
    let places = order.map(|stage| {
        boot.find(stage)
            .unwrap_or_else(|| panic!("{stage}: {boot}"))
    });
    assert!(places.is_sorted(), "{boot}");
    assert!(boot.contains("the end: the guest powered off"), "{boot}");
    let device = lines_of(&traced.trace, "device");
    assert_eq!(device, ["the guest powers off"]);
}

#[test]
fn interrupt_is_told_with_pin_vector_and_processor() {
    let Some(_) = kvm() else { return };
    let code = [
        &[0xb8, 0x00, 0x00, 0xc0, 0xfe][..], // mov eax, 0xfec00000
        &[0xc7, 0x00, 0x18, 0x00, 0x00, 0x00],
        &[0xc7, 0x40, 0x10, 0x24, 0x00, 0x00, 0x00], // pin 4: vector 0x24
        &[0x66, 0xba, 0xf9, 0x03, 0xb0, 0x02, 0xee], // IER: transmitter empty, which it is
        &[0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee], // power off
    ];
    let traced = Guest::new(&tiny::elf(&code.concat())).traced(&["--trace=irq,devices"], "t");
    traced.run.expect_code(0);
    let all: Vec<_> = traced.trace.lines().skip(1).map(stable).collect();
    assert_eq!(all.len(), 4, "{}", traced.trace);
    assert_eq!(all[0], "device  pin 4 (COM1) gets vector 0x24");
    // Its local APIC is off after reset: the message is lost, and that is said too.
    assert!(
        all[1].starts_with("irq     pin 4 (COM1): vector 0x24 to CPU 0, "),
        "{}",
        all[1]
    );
    assert_eq!(all[2], "device  the guest powers off");
    assert_eq!(
        all[3], "boot    the end: the guest powered off",
        "whatever the topics"
    );
}

#[test]
fn polling_and_printing_in_turn_folds() {
    let Some(_) = kvm() else { return };
    let traced = Guest::new(&tiny::pattern(1)).traced(&["--trace=exits"], "t");
    traced.run.expect_code(0);
    let lines = lines_of(&traced.trace, "vcpu0");
    assert!(lines.len() < 6, "{}", traced.trace);
    let poll = &lines[0];
    assert!(
        poll.starts_with("serial LSR read 0x60: transmitter empty, idle  x "),
        "{poll}"
    );
    assert!(
        traced
            .trace
            .contains("\n   in turn  vcpu0   serial THR written: \"00 abcdefghij")
    );
    assert!(traced.trace.contains("... 4096 bytes"), "{}", traced.trace);
}

#[test]
fn symbols_name_the_function() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::printer("x"));
    let map = b"0000000000100000 T start\n0000000000100005 t say\n0000000000200000 T after\n";
    let map = guest.files.file("map", map);
    let traced = guest.traced(&["--trace=exits", "--symbols", &map], "t");
    traced.run.expect_code(0);
    let first = &lines_of(&traced.trace, "vcpu0")[0];
    assert_eq!(
        first,
        "serial THR written: \"x\" 1 byte  say+0x1: out dx, al"
    );
}

#[test]
fn json_lines_have_every_exit_with_its_number() {
    let Some(_) = kvm() else { return };
    let traced = Guest::new(&tiny::elf(ACCESSES)).traced(&["--trace"], "t.jsonl");
    traced.run.expect_code(0);
    let objects: Vec<Value> = traced
        .trace
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let exits: Vec<_> = objects.iter().filter(|o| o["topic"] == "exits").collect();
    let numbers: Vec<_> = exits.iter().map(|o| o["exit"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=13).collect::<Vec<_>>());
    let lsr = exits[1];
    for (field, value) in [
        ("kind", "in"),
        ("address", "0x3fd"),
        ("device", "serial"),
        ("register", "LSR"),
        ("value", "0x60"),
        ("meaning", "transmitter empty, idle"),
        ("rip", "0x10000b"),
        ("instruction", "in al, dx"),
    ] {
        assert_eq!(lsr[field], value, "{lsr}");
    }
    assert!(lsr["guest"].as_u64().unwrap() > 0 && lsr["took"].as_u64().unwrap() > 0);
    for topic in ["ioctls", "memory", "devices", "boot"] {
        assert!(objects.iter().any(|o| o["topic"] == topic), "no {topic}");
    }
}

/// Checks what ui.perfetto.dev needs: one array, named tracks, slices that lie side by side.
fn check_picture(text: &str) -> Vec<Value> {
    let events: Vec<Value> = serde_json::from_str(text).unwrap();
    let mut tracks = BTreeMap::new();
    let mut ends: BTreeMap<u64, f64> = BTreeMap::new();
    for event in &events {
        let phase = event["ph"].as_str().unwrap();
        assert_eq!(event["pid"], 1, "{event}");
        if event["name"] == "process_name" {
            continue;
        }
        let track = event["tid"].as_u64().unwrap();
        match phase {
            "M" => {
                let name = event["args"]["name"].as_str().unwrap().to_owned();
                assert!(tracks.insert(track, name).is_none(), "{event}");
            }
            "X" => {
                let start = event["ts"].as_f64().unwrap();
                let before = ends.insert(track, start + event["dur"].as_f64().unwrap());
                // A nanosecond is 0.001, and sums of such are not exact.
                assert!(before.unwrap_or(0.0) <= start + 0.0005, "overlap: {event}");
            }
            "i" => assert!(event["ts"].as_f64().unwrap() >= 0.0),
            other => panic!("{other}"),
        }
        assert!(
            tracks.contains_key(&track),
            "a track without a name: {event}"
        );
    }
    events
}

#[test]
fn picture_has_tracks_for_processor_and_devices() {
    let Some(_) = kvm() else { return };
    let traced = Guest::new(&tiny::elf(ACCESSES)).traced(&["--trace"], "t.json");
    traced.run.expect_code(0);
    let events = check_picture(&traced.trace);
    let tracks: Vec<_> = events
        .iter()
        .filter(|event| event["name"] == "thread_name")
        .map(|event| event["args"]["name"].as_str().unwrap())
        .collect();
    for track in [
        "KVM",
        "vCPU 0",
        "serial, vCPU 0",
        "ioapic, vCPU 0",
        "boot",
        "memory",
    ] {
        assert!(tracks.contains(&track), "no {track} in {tracks:?}");
    }
}

#[test]
fn full_disk_ends_the_trace_and_not_the_guest() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(4));
    let mut command = guest.command(&["--trace", "--trace-format", "jsonl"]);
    command.args(["--trace-file", "/dev/full"]);
    let run = finish(command, b"");
    assert_eq!(run.stdout, tiny::pattern_block().repeat(4));
    run.expect_code(111)
        .expect_stderr("Cannot write the trace to /dev/full any more")
        .expect_stderr("No space left on device");
}

#[test]
fn ctrl_c_leaves_a_whole_file_and_the_terminal_as_it_was() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut command = guest.command(&["--trace", "--trace-file", &guest.files.path("t.json")]);
    let mut terminal = Terminal::open();
    // stdout elsewhere: then Ctrl-C is for cottage.
    command.stdin(terminal.tty()).stderr(terminal.tty());
    command.stdout(std::fs::File::create(guest.files.path("out")).unwrap());
    terminal.start(command);
    let out = guest.files.path("out");
    let printed = wait(|| (std::fs::read(&out).ok()? == b"ready\n").then_some(()));
    assert!(printed.is_some(), "{}", terminal.text());
    terminal.type_keys(b"\x03");
    terminal.ends_with(130);
    let trace = std::fs::read_to_string(guest.files.path("t.json")).unwrap();
    check_picture(&trace);
    assert!(trace.contains("serial THR"), "{trace}");
}

#[test]
fn live_trace_begins_lines_of_its_own_on_the_guests_terminal() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = Terminal::run(guest.command(&["--trace=exits"]));
    terminal.wait_for("serial THR written: \"ready\\n\" 6 bytes");
    terminal.wait_raw();
    terminal.type_keys(b"\x01x");
    terminal.ends_with(0);
    let text = terminal.text();
    let traced = text.lines().filter(|line| line.contains("vcpu0 "));
    // Each begins with its time, not behind what the guest has printed.
    let begins = |line: &str| {
        let first = line.trim_start();
        first.starts_with(|c: char| c.is_ascii_digit()) || first.starts_with("in turn")
    };
    let wrong: Vec<_> = traced.filter(|line| !begins(line)).collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{text}");
}

#[test]
fn guest_that_exits_for_ever_does_not_grow_cottage() {
    let Some(_) = kvm() else { return };
    // again: out 0x80, al; in al, 0x71; jmp again
    let storm = [0xe6, 0x80, 0xe4, 0x71, 0xeb, 0xfa];
    for format in ["text", "jsonl", "perfetto"] {
        let guest = Guest::new(&tiny::elf(&storm));
        let mut command = guest.command(&["--trace", "--trace-format", format]);
        let file = guest.files.path("t");
        command.args(["--trace-file", &file]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let runs = || std::fs::read_to_string(&file).ok()?.find("0x80");
        assert!(wait(runs).is_some(), "{format}: the guest never ran");
        std::thread::sleep(Duration::from_secs(1));
        let early = resident_kib(&status);
        std::thread::sleep(Duration::from_secs(2));
        let late = resident_kib(&status);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(exit_code(&mut child), Some(143));
        assert!(late < early + 512, "{format}: {early} KiB, then {late} KiB");
    }
}

#[test]
fn triple_fault_is_the_last_exit() {
    let Some(_) = kvm() else { return };
    let traced = Guest::new(&tiny::crasher("x")).traced(&["--trace=exits"], "t");
    traced.run.expect_code(112);
    let lines = lines_of(&traced.trace, "vcpu0");
    assert!(
        lines.last().unwrap().starts_with("shutdown: triple fault"),
        "{lines:?}"
    );
}

#[test]
fn mistakes_are_refused_before_anything_runs() {
    let refused = |words: &[&str], said: &str| {
        let mut command = Command::new(plain_program());
        command.arg("run").args(words);
        finish(command, b"").expect_code(110).expect_stderr(said);
    };
    refused(
        &["--trace", "--trace-file", "/nowhere/t"],
        "--trace-file \"/nowhere/t\"",
    );
    refused(
        &["--trace", "--trace-format", "perfetto"],
        "add --trace-file",
    );
    refused(
        &["--trace", "--symbols", "/dev/null"],
        "for symbols: no line of it names code",
    );
    refused(&["--trace=exitz"], "a similar value exists: 'exits'");
}

#[test]
fn quiet_boot_of_linux_is_told_in_200_lines_with_every_device_named() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let trace = files.path("t");
    cottage(&["run", "--trace", "--trace-file", &trace, "--", "true"]).expect_code(0);
    let trace = std::fs::read_to_string(trace).unwrap();
    println!("{trace}");
    let count = trace.lines().count();
    assert!(count <= 200, "{count} lines:\n{trace}");
    let exits = lines_of(&trace, "vcpu0");
    let unnamed: Vec<_> = exits
        .iter()
        .filter(|line| line.contains("(nobody's)") || line.contains("no register"))
        .collect();
    assert!(unnamed.is_empty(), "{unnamed:#?}");
    for told in ["mark 1: init started", "ioapic", "serial", "exit-status"] {
        assert!(trace.contains(told), "no {told} in\n{trace}");
    }
}
