//! `run --inspect-at` and `--silence`: a guest is stopped, shown, asked about, and goes on.

mod support;

use std::process::Command;

use support::program::{Scratch, cottage, finish, plain_program};
use support::pty::Terminal;
use support::tiny_kernel as tiny;
use support::{kvm, linux_kvm};

/// `cottage run WORDS` of a guest of a few bytes.
fn run(files: &Scratch, kernel: &[u8], words: &[&str]) -> Command {
    let mut command = Command::new(plain_program());
    command.args(["run", "--memory", "4M"]);
    command.args(["--kernel", &files.file("kernel", kernel)]);
    command.args([
        "--initramfs",
        &files.file("initramfs", &tiny::empty_initramfs()),
    ]);
    command.args(words);
    command
}

#[test]
fn without_a_terminal_the_page_is_printed_and_the_guest_goes_on() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let words = ["--inspect-at", "exit:3"];
    finish(run(&files, &tiny::printer("hello\n"), &words), b"")
        .expect_code(0)
        .expect_stdout("hello\n")
        .expect_stderr("cottage: stopped at exit 3\n")
        .expect_stderr("processor 0, long mode: 64-bit code, paging; running, ring 0")
        .expect_stderr("#3 out 0x3f8 = 0x6c 'l' (COM1)  at rip 0x1000");
}

#[test]
fn mark_is_a_place_to_stop_at() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    for (words, told) in [
        (["--inspect-at", "init"], "stopped at mark 1, init\n"),
        (
            ["--inspect-at=mark:1", "--cpus=1"],
            "stopped at mark 1, init\n",
        ),
        (
            ["--inspect-at", "ready"],
            "the guest never came to mark 2, ready (--inspect-at)",
        ),
    ] {
        finish(run(&files, &tiny::marker(1, "up"), &words), b"")
            .expect_code(0)
            .expect_stdout("up")
            .expect_stderr(told);
    }
}

#[test]
fn the_end_is_a_place_to_stop_at() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let words = ["--inspect-at", "end"];
    finish(run(&files, &tiny::printer("x"), &words), b"")
        .expect_code(0)
        .expect_stderr("stopped at the end: the guest powered off");
    finish(run(&files, &tiny::crasher("x"), &words), b"")
        .expect_code(112)
        .expect_stderr("stopped at the end: the guest crashed with a triple fault");
}

#[test]
fn address_is_met_where_breakpoints_fire_and_told_of_where_not() {
    let Some(backend) = kvm() else { return };
    let files = Scratch::new();
    // Behind the first letter: mov dx (4 bytes), mov al, out.
    let words = ["--inspect-at", "0x100007"];
    let end = finish(run(&files, &tiny::printer("ab"), &words), b"")
        .expect_code(0)
        .expect_stdout("ab");
    if backend.name == "testbed" {
        end.expect_stderr("the guest never came to address 0x100007")
            .expect_stderr("whose breakpoints do not fire");
    } else {
        end.expect_stderr("stopped at address 0x100007")
            .expect_stderr("0x100007  b0 62                     mov al, 0x62");
    }
}

#[test]
fn wrong_place_is_refused_with_what_is_accepted() {
    let files = Scratch::new();
    for (place, told) in [
        (
            "exit:0",
            "--inspect-at \"exit:0\" is no place to stop at: it takes init, ready",
        ),
        ("start_kernel", "would be a symbol, but there are none"),
    ] {
        finish(
            run(&files, &tiny::printer("x"), &["--inspect-at", place]),
            b"",
        )
        .expect_code(110)
        .expect_stdout("")
        .expect_stderr(told);
    }
}

#[test]
fn silence_is_told_of_once_and_the_guest_goes_on() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let mut terminal = Terminal::run(run(&files, &tiny::echo(), &["--silence", "1"]));
    terminal.wait_for("ready");
    terminal.wait_for("cottage: the guest has printed nothing for 1 s (--silence)");
    terminal.wait_for("last exits, oldest first");
    terminal.type_keys(b"still there?");
    terminal.wait_for("still there?");
    terminal.type_keys(b"\x04");
    terminal.ends_with(0);
}

#[test]
fn prompt_answers_in_a_cooked_terminal_and_continue_gives_it_back_to_the_guest() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let kernel = tiny::echo();
    let mut terminal = Terminal::run(run(&files, &kernel, &["--inspect-at", "exit:3"]));
    terminal.wait_for("cottage: stopped at exit 3");
    terminal.wait_for("(inspect) ");
    terminal.wait_restored();
    for (typed, answer) in [
        ("regs", "rip 0x1000"),
        ("segments", "64-bit code, execute and read"),
        ("walk rip", "2 MiB page at 0x0"),
        ("mem 0x100000 4", "0x100000  66 ba fa 03"),
        ("mem phys:0x100000 4", "0x100000  66 ba fa 03"),
        ("dis 0x100000 1", "mov dx, 0x3fa"),
        ("irq", "local APIC 0:"),
        ("devices", "serial, ports 0x3f8 to 0x3ff"),
        ("exits", "#1 out 0x3fa = 0x1"),
        ("cpu 7", "no processor 7 stands here"),
        ("fly", "\"fly\" is no command"),
        ("help", "walk ADDR"),
    ] {
        terminal.type_keys(format!("{typed}\n").as_bytes());
        terminal.wait_for(answer);
        terminal.wait_for("(inspect) ");
    }
    terminal.type_keys(b"continue\n");
    terminal.wait_for("eady"); // the r was the third exit
    terminal.wait_raw();
    terminal.type_keys(b"abc");
    terminal.wait_for("abc");
    terminal.type_keys(b"\x04");
    terminal.ends_with(0);
}

#[test]
fn prompt_steps_runs_until_a_place_and_quits() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let kernel = tiny::printer("hello");
    let mut terminal = Terminal::run(run(&files, &kernel, &["--inspect-at", "exit:1"]));
    terminal.wait_for("(inspect) ");
    terminal.type_keys(b"dis rip 1\n");
    terminal.wait_for("mov al, 0x65");
    terminal.wait_for("(inspect) ");
    terminal.type_keys(b"step\n");
    terminal.wait_for("0x100009  ee");
    terminal.wait_for("(inspect) ");
    terminal.type_keys(b"step 2\n");
    // Where a step over `out` does not come back by itself, it is one with the next.
    terminal.wait_for("  ee    ");
    terminal.wait_for("(inspect) ");
    terminal.type_keys(b"until exit:1\n");
    terminal.wait_for("exit 1 is past: the last was ");
    terminal.wait_for("(inspect) ");
    terminal.type_keys(b"until exit:5\n");
    terminal.wait_for("cottage: stopped at exit 5");
    terminal.wait_for("(inspect) ");
    terminal.type_keys(b"quit\n");
    terminal.ends_with(0);
}

#[test]
fn end_of_the_prompts_input_and_ctrl_c_end_the_guest() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    for (keys, code) in [(b"\x04", 0), (b"\x03", 130)] {
        let words = ["--inspect-at", "exit:1"];
        let mut terminal = Terminal::run(run(&files, &tiny::echo(), &words));
        terminal.wait_for("(inspect) ");
        terminal.type_keys(keys);
        terminal.ends_with(code);
    }
}

#[test]
fn linux_stops_when_its_init_starts() {
    let Some(_) = linux_kvm() else { return };
    cottage(&["run", "--inspect-at", "init", "--", "echo", "hello"])
        .expect_code(0)
        .expect_stdout("hello\n")
        .expect_stderr("cottage: stopped at mark 1, init\n")
        .expect_stderr("out 0x700 = 0x1 (boot mark)")
        .expect_stderr("by 4-level paging");
}

#[test]
fn linux_is_asked_at_the_prompt_and_runs_on() {
    let Some(_) = linux_kvm() else { return };
    let mut command = Command::new(support::program::program());
    command.args([
        "run",
        "--inspect-at",
        "init",
        "--cpus",
        "2",
        "--",
        "echo",
        "hel''lo",
    ]);
    let mut terminal = Terminal::run(command);
    terminal.wait_for("(inspect) ");
    terminal.type_keys(b"irq\n");
    terminal.wait_for("pin 4: vector");
    terminal.wait_for("(inspect) ");
    terminal.type_keys(b"cpu 1\n");
    terminal.wait_for("processor 1");
    terminal.wait_for("(inspect) ");
    terminal.type_keys(b"regs\n");
    terminal.wait_for("processor 1, long mode");
    terminal.wait_for("(inspect) ");
    terminal.type_keys(b"c\n");
    terminal.wait_for("hel");
    terminal.ends_with(0);
}
