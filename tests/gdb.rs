//! `run --gdb`: Debian's gdb and the bare protocol at guests of a few bytes, and gdb at a Linux.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use support::gdb::{Debugged, gdb};
use support::program::{Scratch, image, plain_program, program};
use support::tiny_kernel as tiny;

/// Calls `work` three times with ECX counting down, prints `d` and powers off.
const CALLER: &[u8] = &[
    0xbc, 0x00, 0x00, 0x09, 0x00, // 100000: mov esp, 0x90000
    0xb9, 0x03, 0x00, 0x00, 0x00, // 100005: mov ecx, 3
    0xe8, 0x18, 0x00, 0x00, 0x00, // 10000a: call work
    0xff, 0xc9, // 10000f: dec ecx
    0x75, 0xf7, // 100011: jne 10000a
    0x66, 0xba, 0xf8, 0x03, // 100013: mov dx, 0x3f8
    0xb0, b'd', // 100017: mov al, 'd'
    0xee, // 100019: out dx, al
    0xb0, b'\n', // 10001a: mov al, '\n'
    0xee,  // 10001c: out dx, al
    0x66, 0xba, 0x00, 0x06, // 10001d: mov dx, 0x600
    0xb0, 0x34, // 100021: mov al, 0x34
    0xee, // 100023: out dx, al
    0xf4, // 100024: hlt
    0xeb, 0xfd, // 100025: jmp 100024
    0x89, 0x0c, 0x25, 0x00, 0x00, 0x18, 0x00, // 100027: work: mov [0x180000], ecx
    0x90, // 10002e: nop
    0xc3, // 10002f: ret
];

/// Prints `r` and goes round for ever.
const ROUND: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'r', // mov al, 'r'
    0xee, // out dx, al
    0xff, 0xc0, // again: inc eax
    0xeb, 0xfc, // jmp again
];

/// A machine of a few bytes, under `--gdb`.
fn tiny_machine(kernel: &[u8], option: &str, words: &[&str]) -> Debugged {
    let scratch = Scratch::new();
    let kernel = scratch.file("kernel", kernel);
    let initramfs = scratch.file("initramfs", &tiny::empty_initramfs());
    let given = ["--kernel", &kernel, "--initramfs", &initramfs];
    let words: Vec<_> = given.into_iter().chain(words.iter().copied()).collect();
    Debugged::start(Command::new(plain_program()), scratch, option, &words)
}

/// Fails unless `text` has all `lines`, in their order.
#[track_caller]
fn expect_in_order(text: &str, lines: &[&str]) {
    let mut rest = text;
    for line in lines {
        let Some((_, behind)) = rest.split_once(line) else {
            panic!("{line:?} is not there, or not behind the others:\n{text}");
        };
        rest = behind;
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn gdb_breaks_steps_and_changes_registers_and_memory() {
    let Some(_) = support::kvm() else { return };
    let Some(gdb) = gdb() else {
        return support::skip("none", "there is no gdb").unwrap_or(());
    };
    let machine = tiny_machine(&tiny::elf(CALLER), "", &[]);
    let said = machine.gdb(
        gdb,
        None,
        "p/x $rip\n\
         p/x $cr0\n\
         break *0x100027\n\
         continue\n\
         p $rcx\n\
         x/2xb 0x100027\n\
         stepi\n\
         p/x $rip\n\
         p/x *(int *)0x180000\n\
         continue\n\
         p $rcx\n\
         set var $rcx = 1\n\
         set var $xmm3.uint128 = 7\n\
         set var *(char *)0x100018 = 0x65\n\
         delete\n\
         break *0x100013\n\
         continue\n\
         p/x *(int *)0x180000\n\
         p $xmm3.uint128\n\
         delete\n\
         continue\n",
    );
    expect_in_order(
        &said,
        &[
            "$1 = 0x100000",
            "$2 = 0x80000011",
            "Breakpoint 1, 0x0000000000100027 in ?? ()\n$3 = 3\n",
            "0x100027:\t0x89\t0x0c\n",
            "$4 = 0x10002e\n$5 = 0x3\n",
            "Breakpoint 1, 0x0000000000100027 in ?? ()\n$6 = 2\n",
            "Breakpoint 2, 0x0000000000100013 in ?? ()\n$7 = 0x1\n$8 = 7\n",
            "[Inferior 1 (process 1) exited normally]",
        ],
    );
    // The character was changed, too.
    machine.end().expect_code(0).expect_stdout("e\n");
}

#[test]
fn hardware_breakpoints_and_watchpoints_work_or_are_refused_with_the_reason() {
    let Some(_) = support::kvm() else { return };
    let Some(gdb) = gdb() else {
        return support::skip("none", "there is no gdb").unwrap_or(());
    };
    let machine = tiny_machine(&tiny::elf(CALLER), "", &[]);
    let said = machine.gdb(
        gdb,
        None,
        "monitor able\n\
         hbreak *0x100013\n\
         watch *(int *)0x180000\n\
         set var $unused = 1\n\
         continue\n\
         p/x $rip\n\
         delete\n\
         continue\n",
    );
    let has = |what: &str| said.contains(&format!("{what:<31}yes"));
    let (hardware, watch) = (
        has("hardware breakpoints (hbreak)"),
        has("watchpoints (watch, rwatch)"),
    );
    let end = machine.end().expect_code(0).expect_stdout("d\n");
    match (hardware, watch) {
        (true, true) => expect_in_order(
            &said,
            &["Hardware watchpoint 2", "New value = 3", "0x10002e"],
        ),
        // gdb sets all or none, and says which could not be.
        (_, false) => {
            expect_in_order(&said, &["Could not insert hardware watchpoint 2"]);
            assert!(
                end.stderr.contains("KVM here heeds no debug registers"),
                "{}",
                end.stderr
            );
            assert!(
                end.stderr.contains("watch: debug registers stop nothing"),
                "{}",
                end.stderr
            );
        }
        (false, true) => panic!("watchpoints without breakpoints: {said}"),
    }
}

#[test]
fn hbreak_stops_where_debug_registers_do() {
    let Some(_) = support::kvm() else { return };
    let machine = tiny_machine(&tiny::elf(CALLER), "", &[]);
    let mut client = machine.client();
    client.ask("?");
    let placed = client.ask("Z1,100013,1");
    let stopped = client.ask("vCont;c");
    let end = if stopped.starts_with('W') {
        machine.end()
    } else {
        assert_eq!(
            (placed.as_str(), client.ask("z1,100013,1").as_str()),
            ("OK", "OK")
        );
        assert!(stopped.contains("hwbreak:"), "{stopped}");
        assert_eq!(client.ask("vCont;c"), "W00");
        machine.end()
    };
    let told = end.stderr.contains("hbreak: debug registers stop nothing");
    assert_eq!(placed == "E16", told, "{placed}: {}", end.stderr);
    end.expect_code(0).expect_stdout("d\n");
}

#[test]
fn ctrl_c_stops_and_detach_lets_the_guest_go_on() {
    let Some(_) = support::kvm() else { return };
    let machine = tiny_machine(&tiny::elf(ROUND), ",nowait", &["--cpus", "2"]);
    let mut client = machine.client();
    assert!(client.ask("?").starts_with("T05thread:"));
    client.send("vCont;c");
    client.raw(b"\x03");
    let stopped = client.answer();
    assert!(stopped.starts_with("T02thread:"), "{stopped}");
    assert_eq!(client.ask("qfThreadInfo"), "m01,02");
    let second = client.ask("qThreadExtraInfo,02");
    assert_eq!(second, hex("vCPU 1, waits to be started"));
    assert_eq!(client.ask("D"), "OK");
    // The next gdb finds the guest running, and kills it.
    let mut next = machine.client();
    assert!(next.ask("?").starts_with("T05thread:"));
    assert!(machine.runs());
    next.send("vKill;1");
    assert_eq!(next.answer(), "OK");
    machine
        .end()
        .expect_code(0)
        .expect_stderr("gdb has gone; the guest goes on");
}

#[test]
fn second_gdb_is_sent_away_and_a_lost_one_leaves_no_breakpoints() {
    let Some(_) = support::kvm() else { return };
    let machine = tiny_machine(&tiny::elf(CALLER), "", &[]);
    let mut first = machine.client();
    first.ask("?");
    assert_eq!(machine.client().answer(), "closed");
    assert_eq!(first.ask("Z0,100027,1"), "OK");
    assert!(first.ask("vCont;c").contains("swbreak:"));
    drop(first);
    machine.end().expect_code(0).expect_stdout("d\n");
    assert!(!std::fs::exists(machine.socket()).unwrap());
}

#[test]
fn stop_at_a_breakpoint_is_told_once_and_the_step_leaves_it() {
    let Some(_) = support::kvm() else { return };
    let machine = tiny_machine(&tiny::elf(CALLER), "", &[]);
    let mut client = machine.client();
    client.ask("?");
    assert_eq!(client.ask("Z0,100027,1"), "OK");
    assert!(client.ask("vCont;c").contains("swbreak:"));
    // What gdb reads there is the guest's byte, not the breakpoint's.
    assert_eq!(client.ask("m100027,1"), "89");
    // Only one thread, as gdb steps over a breakpoint.
    assert_eq!(client.ask("z0,100027,1"), "OK");
    assert!(client.ask("vCont;s:1").starts_with("T05thread:"));
    let rip = client
        .ask("g")
        .chars()
        .skip(16 * 16)
        .take(16)
        .collect::<String>();
    assert_eq!(rip, "2e00100000000000");
    assert_eq!(client.ask("vCont;c"), "W00");
    machine.end().expect_code(0);
}

#[test]
fn crash_can_be_looked_at_before_it_ends_the_run() {
    let Some(_) = support::kvm() else { return };
    let machine = tiny_machine(&tiny::crasher("c"), "", &[]);
    let mut client = machine.client();
    client.ask("?");
    let crashed = client.ask("vCont;c");
    assert!(crashed.starts_with("T06thread:"), "{crashed}");
    assert_ne!(client.ask("g"), "E03");
    assert_eq!(client.ask("vCont;c"), "W70");
    machine.end().expect_code(112).expect_stderr("triple fault");
}

#[test]
fn physical_memory_is_read_as_with_qemu_and_by_monitor() {
    let Some(_) = support::kvm() else { return };
    let machine = tiny_machine(&tiny::elf(CALLER), "", &[]);
    let mut client = machine.client();
    client.ask("?");
    // The identity map of the boot protocol ends at 4 GiB.
    assert_eq!(client.ask("m100000001000,1"), "E0e");
    assert_eq!(client.ask("qqemu.PhyMemMode"), "0");
    assert_eq!(client.ask("Qqemu.PhyMemMode:1"), "OK");
    assert_eq!(client.ask("m100000,2"), "bc00");
    assert_eq!(client.ask("Qqemu.PhyMemMode:0"), "OK");
    let asked = client.ask(&format!("qRcmd,{}", hex("monitor")));
    assert!(asked.starts_with('O'), "{asked}");
    assert_eq!(client.answer(), "OK");
    let shown = client.ask(&format!("qRcmd,{}", hex("phys 0x100000 4")));
    assert!(shown.starts_with(&format!("O{}", hex("0x0000100000  bc 00 00 09"))));
    assert_eq!(client.answer(), "OK");
    client.send("k");
    machine.end().expect_code(0);
}

#[test]
fn hostile_client_harms_nobody() {
    let Some(_) = support::kvm() else { return };
    let machine = tiny_machine(&tiny::elf(ROUND), ",nowait", &[]);
    for bytes in [
        &b"\xff\xff\xff"[..],
        b"$",
        b"$#00",
        b"$g#00",
        b"$zz#zz",
        b"-",
        &[b'$'; 100_000],
        b"$vCont;s:ffffffff;c:0#00",
    ] {
        let mut client = machine.client();
        client.raw(bytes);
        drop(client);
    }
    for packet in [
        "m0,ffffffffffffffff",
        "mffffffffffffffff,2000",
        "Mffffffffffffffff,1:00",
        "Z0,ffffffffffffffff,1",
        "Z9,0,0",
        "Z2,1001,8",
        "Z2,0,7fffffffffffffff",
        "Hg7fffffff",
        "H",
        "vCont",
        "vCont;s:7fffffff",
        "T7fffffff",
        "G00",
        "X0,4:abcd",
        "qRcmd,ff",
        "qXfer:features:read:target.xml:ffffffff,ffffffff",
        "QTinit",
        "vFile:open:00",
    ] {
        let mut client = machine.client();
        client.send(packet);
        drop(client);
    }
    let mut client = machine.client();
    assert!(client.ask("?").starts_with("T05"));
    assert!(machine.runs());
    client.send("k");
    machine.end().expect_code(0);
}

#[test]
fn a_place_that_cannot_be_is_refused() {
    let scratch = Scratch::new();
    let file = scratch.file("taken", b"");
    for (value, told) in [
        (
            file.as_str(),
            "a file that is no socket is there; choose another path",
        ),
        ("65536", "--gdb 65536: a port is 0 to 65535"),
        ("1,wait", "\"wait\" is no option; there is one, nowait"),
    ] {
        let mut command = Command::new(plain_program());
        command.args(["run", "--gdb", value]);
        let refused = support::program::finish(command, b"");
        refused.expect_code(110).expect_stderr(told);
    }
}

/// docs/gdb.md's session: what was typed, and all of it.
fn recorded() -> (String, String) {
    let text = include_str!("../docs/gdb.md");
    let session = text.split("```\n").find(|part| part.starts_with("(gdb) "));
    let session = session.unwrap().to_owned();
    let typed = session
        .lines()
        .filter_map(|line| line.strip_prefix("(gdb) "));
    (typed.map(|line| format!("{line}\n")).collect(), session)
}

/// `text` without addresses and page table entries, which another build of the kernel has elsewhere.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("0x") {
        masked += before;
        masked += "0x";
        rest = behind.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    masked += rest;
    let lines = masked.lines().map(|line| match line.split_once(" entry ") {
        Some((table, rest)) => format!(
            "{table} entry {}",
            rest.trim_start_matches([' ', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
        ),
        None => line.trim_end().to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn session_of_the_documentation_happens_as_it_stands_there() {
    let Some(_) = support::linux_kvm() else {
        return;
    };
    let Some(gdb) = gdb() else {
        return support::skip("none", "there is no gdb").unwrap_or(());
    };
    let (typed, session) = recorded();
    let (kernel, symbols) = (image("full/vmlinux"), image("full/symbols"));
    let words = ["--cpus", "2", "--kernel", &kernel, "--", "uname", "-r"];
    let machine = Debugged::start(Command::new(program()), Scratch::new(), "", &words);
    // gdb says nothing of what is typed when it reads a script.
    let script: String = typed
        .lines()
        .map(|line| format!("echo (gdb) {line}\\n\n{line}\n"))
        .collect();
    let said = machine.gdb(gdb, Some(&symbols), &script);
    let end = machine.end();
    let (_, said) = said.split_once("(gdb) ").unwrap();
    let said = format!("(gdb) {said}");
    assert_eq!(masked(&said), masked(&session), "\n{said}\n{}", end.stderr);
    let release = end.expect_code(0).text();
    assert!(release.contains("-cottage-full"), "{release}");
}
