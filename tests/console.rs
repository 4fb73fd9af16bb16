//! The console's promises, tested as a user would: the real program on a real terminal, or without.
//!
//! The first half brings guests of a few bytes and runs on every KVM; the second boots Linux.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use support::program::{Scratch, finish, plain_program, program};
use support::pty::{Terminal, exit_code, resident_kib, wait};
use support::tiny_kernel::{self as tiny, with};
use support::{kvm, linux_kvm};

const CTRL_A_X: &[u8] = b"\x01x";
const CTRL_C: &[u8] = b"\x03";
const CTRL_D: &[u8] = b"\x04";
const CTRL_Z: &[u8] = b"\x1a";
/// What a pipe and cottage's backlog hold, 64 KiB each, is far less.
const MEGABYTE: usize = 1 << 20;
/// Blocks of 4 KiB that a tiny guest prints: more than those hold too, but no more than a KVM that
/// emulates every instruction manages in some seconds.
const BLOCKS: u32 = 36;

// ---- tiny guests ------------------------------------------------------------------------------

/// The files of a tiny guest.
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

    /// `cottage run` of this guest.
    fn command(&self) -> Command {
        let mut command = Command::new(plain_program());
        command.args(["run", "--memory", "4M"]);
        command.args(["--kernel", &self.files.path("kernel")]);
        command.args(["--initramfs", &self.files.path("initramfs")]);
        command
    }

    /// Runs it on a terminal.
    fn on_terminal(&self) -> Terminal {
        Terminal::run(self.command())
    }

    /// Runs it on a terminal until it has said `ready`.
    fn ready_on_terminal(&self) -> Terminal {
        let mut terminal = self.on_terminal();
        terminal.wait_for("ready");
        terminal
    }
}

/// Lines of text, 64 bytes each, no two alike.
fn lines(bytes: usize) -> Vec<u8> {
    let line = |n: usize| format!("{n:08} {:.<54}\n", "the quick brown fox").into_bytes();
    (0..bytes / 64).flat_map(line).collect()
}

/// What a guest of [`BLOCKS`] blocks prints.
fn all_blocks() -> Vec<u8> {
    tiny::pattern_block().repeat(BLOCKS as usize)
}

/// Reads a stream to its end.
fn read_all(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn terminal_is_raw_while_the_guest_has_it() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = guest.ready_on_terminal();
    terminal.wait_raw();
    terminal.type_keys(CTRL_D);
    terminal.ends_with(0);
}

#[test]
fn typed_text_is_echoed_by_the_guest_alone() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = guest.ready_on_terminal();
    terminal.type_keys(b"hello");
    terminal.wait_for("hello");
    terminal.type_keys(CTRL_D);
    terminal.ends_with(0);
    assert_eq!(terminal.text(), "ready\nhello");
}

#[test]
fn control_keys_reach_the_guest_unchanged() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = guest.ready_on_terminal();
    // Interrupt, quit, suspend, stop, start, erase, kill, literal next, newline as carriage return.
    let keys = "\x03\x1c\x1a\x13\x11\x7f\x15\x16\r";
    terminal.type_keys(keys.as_bytes());
    terminal.wait_for(keys);
    terminal.type_keys(CTRL_D);
    terminal.ends_with(0);
}

#[test]
fn ctrl_a_x_quits_with_success() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::sleeper("ready"));
    let mut terminal = guest.ready_on_terminal();
    terminal.type_keys(CTRL_A_X);
    terminal.ends_with(0);
}

#[test]
fn ctrl_a_x_in_capitals_quits_too() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::sleeper("ready"));
    let mut terminal = guest.ready_on_terminal();
    terminal.type_keys(b"\x01X");
    terminal.ends_with(0);
}

#[test]
fn ctrl_a_h_prints_the_keys() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = guest.ready_on_terminal();
    terminal.type_keys(b"\x01h");
    terminal.wait_for("cottage: Ctrl-A x  quit");
    terminal.wait_for("go to the guest.\r\n");
    terminal.type_keys(CTRL_A_X);
    terminal.ends_with(0);
}

#[test]
fn ctrl_a_s_prints_a_status_line() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = guest.ready_on_terminal();
    terminal.type_keys(b"\x01s");
    terminal.wait_for("cottage: up ");
    terminal.wait_for("1 vCPU, 4 MiB of memory");
    terminal.wait_for("6 bytes printed\r\n");
    terminal.type_keys(CTRL_A_X);
    terminal.ends_with(0);
}

#[test]
fn ctrl_a_twice_sends_one_to_the_guest() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = guest.ready_on_terminal();
    terminal.type_keys(b"<\x01\x01>");
    terminal.wait_for("<\x01>");
    terminal.type_keys(CTRL_D);
    terminal.ends_with(0);
}

#[test]
fn paste_arrives_complete() {
    let Some(backend) = kvm() else { return };
    // Where the guest is emulated twice, a megabyte takes many minutes.
    let size = if backend.name == "testbed" {
        MEGABYTE / 8
    } else {
        MEGABYTE
    };
    let text = lines(size);
    let guest = Guest::new(&tiny::hasher());
    let mut terminal = guest.ready_on_terminal();
    terminal.paste([&text, CTRL_D].concat());
    terminal.wait_for(&tiny::hash(&text));
    terminal.ends_with(0);
}

#[test]
fn paste_that_the_guest_ignores_does_not_hide_ctrl_a_x() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::sleeper("ready"));
    let mut terminal = guest.ready_on_terminal();
    terminal.paste([&lines(MEGABYTE / 2), CTRL_A_X].concat());
    terminal.ends_with(0);
}

#[test]
fn ctrl_a_x_is_seen_while_the_guest_floods_the_terminal() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(u32::MAX));
    let mut terminal = guest.on_terminal();
    terminal.wait_for("abcdefghij");
    terminal.type_keys(CTRL_A_X);
    terminal.ends_with(0);
}

#[test]
fn ctrl_a_x_is_seen_while_nobody_looks_at_the_terminal() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(u32::MAX));
    let mut terminal = guest.on_terminal();
    terminal.wait_for("abcdefghij");
    let looking_away = terminal.look_away();
    std::thread::sleep(Duration::from_secs(2));
    terminal.type_keys(CTRL_A_X);
    drop(looking_away);
    terminal.ends_with(0);
}

#[test]
fn ctrl_a_x_is_seen_after_words_that_nobody_reads() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(u32::MAX));
    let mut terminal = guest.on_terminal();
    terminal.wait_for("abcdefghij");
    let looking_away = terminal.look_away();
    std::thread::sleep(Duration::from_secs(1)); // the terminal is full now
    terminal.type_keys(b"\x01h\x01s\x01h\x01s");
    std::thread::sleep(Duration::from_millis(100));
    terminal.type_keys(CTRL_A_X);
    terminal.ends_with(0);
    drop(looking_away);
}

#[test]
fn words_appear_when_the_user_looks_again() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(u32::MAX));
    let mut terminal = guest.on_terminal();
    terminal.wait_for("abcdefghij");
    let looking_away = terminal.look_away();
    std::thread::sleep(Duration::from_secs(1));
    terminal.type_keys(b"\x01h");
    std::thread::sleep(Duration::from_millis(100));
    drop(looking_away);
    terminal.wait_for("cottage: Ctrl-A x  quit");
    terminal.type_keys(CTRL_A_X);
    terminal.ends_with(0);
}

#[test]
fn sigterm_ends_cottage_while_nobody_looks_at_the_terminal() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(u32::MAX));
    let mut terminal = guest.on_terminal();
    terminal.wait_for("abcdefghij");
    let looking_away = terminal.look_away();
    std::thread::sleep(Duration::from_secs(1));
    terminal.signal(Signal::TERM);
    terminal.ends_with(143);
    drop(looking_away);
}

// ---- the terminal afterwards, and cottage's own words ------------------------------------------------------------------

/// Runs `kernel` on a terminal until it has said `ready`, then `signal` ends it with `code`.
#[track_caller]
fn signal_restores(signal: Signal, code: i32) {
    let guest = Guest::new(&tiny::sleeper("ready"));
    let mut terminal = guest.ready_on_terminal();
    terminal.wait_raw();
    terminal.signal(signal);
    terminal.ends_with(code);
}

#[test]
fn sigterm_ends_with_143_and_restores_the_terminal() {
    let Some(_) = kvm() else { return };
    signal_restores(Signal::TERM, 143);
}

#[test]
fn sighup_ends_with_129_and_restores_the_terminal() {
    let Some(_) = kvm() else { return };
    signal_restores(Signal::HUP, 129);
}

#[test]
fn sigint_ends_with_130_and_restores_the_terminal() {
    let Some(_) = kvm() else { return };
    signal_restores(Signal::INT, 130);
}

#[test]
fn sigquit_ends_with_131_and_restores_the_terminal() {
    let Some(_) = kvm() else { return };
    signal_restores(Signal::QUIT, 131);
}

#[test]
fn triple_fault_ends_with_112_and_restores_the_terminal() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::crasher("ready"));
    let mut terminal = guest.on_terminal();
    terminal.wait_for("ready");
    terminal.wait_for("cottage: the guest crashed with a triple fault:");
    // Where, depends: on AMD, KVM has reset the processor by now.
    terminal.wait_for("rip 0x");
    terminal.wait_for("code at rip:");
    terminal.ends_with(112);
}

#[test]
fn crash_after_the_status_is_told_and_leaves_the_status() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::crasher_after_status("ready\n", 7));
    finish(guest.command(), b"")
        .expect_code(7)
        .expect_stdout("ready\n")
        .expect_stderr("the guest crashed, but only after its command had ended, with status 7:");
}

#[test]
fn panic_ends_with_113_and_restores_the_terminal() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::resetter("Kernel panic - not syncing: boo\r\n"));
    let mut terminal = guest.on_terminal();
    terminal.wait_for("cottage: the guest's kernel panicked: Kernel panic - not syncing: boo");
    terminal.ends_with(113);
}

#[test]
fn reset_ends_with_success_and_restores_the_terminal() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::resetter("ready"));
    let mut terminal = guest.ready_on_terminal();
    terminal.ends_with(0);
}

#[test]
fn error_before_the_start_leaves_the_terminal_alone() {
    let guest = Guest::new(&with(tiny::echo(), tiny::E_MACHINE, &[183]));
    let mut terminal = guest.on_terminal();
    terminal.wait_for("an ELF file for ARM64");
    terminal.ends_with(110);
}

#[test]
fn closed_terminal_ends_with_sighups_status() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::sleeper("ready"));
    let terminal = guest.ready_on_terminal();
    assert_eq!(terminal.hang_up(), 129);
}

#[test]
fn closed_terminal_of_a_guest_that_prints_ends_with_sighups_status() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(u32::MAX));
    let mut terminal = guest.on_terminal();
    terminal.wait_for("abcdefghij");
    assert_eq!(terminal.hang_up(), 129);
}

#[test]
fn sigtstp_gives_the_terminal_back_and_sigcont_takes_it_again() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = guest.ready_on_terminal();
    terminal.wait_raw();
    terminal.signal(Signal::TSTP);
    terminal.wait_stopped();
    terminal.wait_restored();
    terminal.signal(Signal::CONT);
    terminal.wait_raw();
    terminal.type_keys(b"again");
    terminal.wait_for("again");
    terminal.type_keys(CTRL_D);
    terminal.ends_with(0);
}

#[test]
fn terminal_reset_during_sigstop_is_raw_again_after_sigcont() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = guest.ready_on_terminal();
    terminal.wait_raw();
    terminal.signal(Signal::STOP);
    terminal.wait_stopped();
    terminal.reset();
    terminal.signal(Signal::CONT);
    terminal.wait_raw();
    terminal.type_keys(CTRL_D);
    terminal.ends_with(0);
}

#[test]
fn help_in_a_file_has_plain_lines() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = Terminal::open();
    let mut command = guest.command();
    command.stdin(terminal.tty()).stdout(terminal.tty());
    command.stderr(Stdio::piped());
    terminal.start(command);
    terminal.wait_for("ready");
    terminal.type_keys(b"\x01h\x04");
    let help = read_all(terminal.child().stderr.take().unwrap());
    assert!(help.ends_with(b"go to the guest.\n"), "{help:?}");
    assert!(!help.contains(&b'\r'), "{help:?}");
    terminal.ends_with(0);
}

// ---- without a terminal, or with half of one --------------------------------------------------

#[test]
fn guest_runs_without_any_terminal() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::printer("hello\n"));
    let mut command = Command::new("setsid");
    command.arg(guest.command().get_program());
    command.args(guest.command().get_args());
    let run = finish(command, b"").expect_code(0);
    assert_eq!(run.stderr, "");
    run.expect_stdout("hello\n");
}

#[test]
fn piped_input_arrives_complete() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::hasher());
    let text = lines(MEGABYTE / 8);
    finish(guest.command(), &text)
        .expect_code(0)
        .expect_stdout(&format!("ready\n{}", tiny::hash(&text)));
}

/// Runs `guest` by a shell that does `redirection`.
fn redirected(guest: &Guest, redirection: &str) -> support::program::Finished {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec \"$@\" {redirection}"), "sh"]);
    command.arg(guest.command().get_program());
    command.args(guest.command().get_args());
    finish(command, b"")
}

#[test]
fn closed_stdin_is_an_empty_one() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::hasher());
    let empty = format!("ready\n{}", tiny::hash(b""));
    redirected(&guest, "<&-")
        .expect_code(0)
        .expect_stdout(&empty);
}

#[test]
fn closed_stdout_does_not_keep_the_guest_from_running() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(4));
    redirected(&guest, ">&-").expect_code(0).expect_stdout("");
}

#[test]
fn closed_stderr_does_not_change_the_status() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::crasher("x"));
    redirected(&guest, "2>&-")
        .expect_code(112)
        .expect_stdout("x");
}

#[test]
fn full_disk_ends_with_111_and_says_so() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::printer("hello\n"));
    redirected(&guest, ">/dev/full")
        .expect_code(111)
        .expect_stderr("console output was lost: cannot write to stdout: No space left");
}

#[test]
fn full_disk_ends_a_guest_that_would_print_for_ever() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(u32::MAX));
    redirected(&guest, ">/dev/full")
        .expect_code(111)
        .expect_stderr("No space left on device (os error 28); so the guest was ended");
}

#[test]
fn output_to_a_file_is_complete() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(BLOCKS));
    let path = guest.files.path("output");
    redirected(&guest, &format!(">{path}")).expect_code(0);
    assert!(std::fs::read(path).unwrap() == all_blocks());
}

#[test]
fn slow_reader_loses_nothing_and_nothing_grows() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(BLOCKS));
    let mut child = spawn(guest.command());
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut first = Vec::new();
    reader.read_until(b'\n', &mut first).unwrap();
    let status = format!("/proc/{}/status", child.id());
    let before = resident_kib(&status);
    std::thread::sleep(Duration::from_secs(6));
    let after = resident_kib(&status);
    first.extend(read_all(reader));
    assert!(first == all_blocks(), "{} bytes", first.len());
    assert_eq!(exit_code(&mut child), Some(0));
    // 64 KiB may wait for the reader, and a page here and there is touched for the first time.
    assert!(after < before + 512, "{before} KiB grew to {after} KiB");
}

#[test]
fn slow_reader_of_a_socket_loses_nothing() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(BLOCKS));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut command = guest.command();
    command.stdin(Stdio::null());
    command.stdout(std::os::fd::OwnedFd::from(theirs));
    let mut child = command.spawn().unwrap();
    drop(command); // it holds the other end
    std::thread::sleep(Duration::from_secs(1));
    assert!(read_all(ours) == all_blocks());
    assert_eq!(exit_code(&mut child), Some(0));
}

#[test]
fn slow_reader_of_a_terminal_loses_nothing() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(BLOCKS));
    let mut terminal = guest.on_terminal();
    terminal.wait_for("abcdefghij");
    let looking_away = terminal.look_away();
    std::thread::sleep(Duration::from_secs(2));
    drop(looking_away);
    terminal.ends_with(0);
    assert!(terminal.text().into_bytes() == all_blocks());
}

#[test]
fn reader_that_goes_away_neither_kills_nor_stops_the_guest() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(BLOCKS));
    let mut child = spawn(guest.command());
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_until(b'\n', &mut Vec::new()).unwrap();
    drop(reader);
    assert_eq!(exit_code(&mut child), Some(0));
    assert_eq!(read_all(child.stderr.take().unwrap()), b"");
}

#[test]
fn sigterm_is_seen_while_the_reader_sleeps() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(u32::MAX));
    let mut child = spawn(guest.command());
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_until(b'\n', &mut Vec::new()).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(exit_code(&mut child), Some(143));
}

#[test]
fn sigterm_is_seen_while_the_guest_has_ended_and_the_reader_sleeps() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(20)); // 80 KiB: a pipe holds 64, the rest waits
    let mut child = spawn(guest.command());
    let reader = child.stdout.take().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(child.try_wait().unwrap(), None, "it waits for the reader");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert!(exit_code(&mut child).is_some());
    drop(reader);
}

#[test]
fn ctrl_c_ends_cottage_while_the_reader_of_a_pipe_sleeps() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::pattern(u32::MAX));
    let mut terminal = Terminal::open();
    let mut command = guest.command();
    command.stdin(terminal.tty()).stdout(Stdio::piped());
    command.stderr(terminal.tty());
    terminal.start(command);
    let mut reader = BufReader::new(terminal.child().stdout.take().unwrap());
    reader.read_until(b'\n', &mut Vec::new()).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    terminal.type_keys(CTRL_C);
    terminal.ends_with(130);
}

#[test]
fn piped_input_with_output_on_a_terminal_leaves_the_terminal_cooked() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = Terminal::open();
    let mut command = guest.command();
    command.stdin(Stdio::piped()).stdout(terminal.tty());
    command.stderr(terminal.tty());
    terminal.start(command);
    terminal.wait_for("ready");
    terminal.wait_restored();
    let mut stdin = terminal.child().stdin.take().unwrap();
    stdin.write_all(b"hello\n\x01x").unwrap();
    terminal.wait_for("hello\r\n\x01x"); // Ctrl-A is data in a pipe
    drop(stdin);
    terminal.ends_with(0);
}

#[test]
fn keys_with_output_in_a_pipe_are_edited_by_the_terminal() {
    let Some(_) = kvm() else { return };
    let guest = Guest::new(&tiny::echo());
    let mut terminal = Terminal::open();
    let mut command = guest.command();
    command.stdin(terminal.tty()).stdout(Stdio::piped());
    command.stderr(terminal.tty());
    terminal.start(command);
    terminal.type_keys(b"hellp\x7fo\x01x\r\x04");
    let output = read_all(terminal.child().stdout.take().unwrap());
    assert_eq!(output, b"ready\nhello\x01x\n");
    terminal.ends_with(0);
}

// ---- Linux ------------------------------------------------------------------------------------

/// A promise that both consoles keep: two tests of one function that takes the console's name.
macro_rules! on_both_consoles {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn on_ttys0() {
                let Some(_) = super::linux_kvm() else { return };
                super::$name("ttyS0");
            }

            #[test]
            fn on_hvc0() {
                let Some(_) = super::linux_kvm() else { return };
                super::$name("hvc0");
            }
        }
    )+};
}

on_both_consoles!(
    typed_line_is_echoed_once_by_linux,
    ctrl_c_interrupts_the_guests_program,
    ctrl_z_suspends_the_guests_program,
    ctrl_d_ends_the_shell,
    ctrl_a_x_before_the_commands_status_is_114,
    window_size_arrives_in_linux,
    paste_into_linux_arrives_complete,
    output_of_linux_arrives_complete_at_a_slow_reader,
    panic_of_linux_restores_the_terminal,
    script_from_a_pipe_runs_with_its_output_on_a_terminal,
    keys_work_with_linux_output_in_a_pipe,
    every_byte_comes_out_of_a_pipe_as_it_went_in,
    end_of_an_empty_stdin_is_seen,
);

/// `cottage run WORDS` with the built-in guest.
fn linux(console: &str, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(["run", "--console", console]);
    command.args(words).env("TERM", "vt100");
    command
}

/// The built-in guest's shell on a terminal, at its prompt.
fn shell(console: &str) -> Terminal {
    let mut terminal = Terminal::run(linux(console, &[]));
    terminal.wait_for("# ");
    terminal
}

fn typed_line_is_echoed_once_by_linux(console: &str) {
    let mut terminal = shell(console);
    terminal.type_keys(b"echo o''nce; exit 3\r");
    terminal.ends_with(3);
    let text = terminal.text();
    assert_eq!(text.matches("o''nce").count(), 1, "{text}");
    assert_eq!(text.matches("\nonce\r\n").count(), 1, "{text}");
}

fn ctrl_c_interrupts_the_guests_program(console: &str) {
    let mut terminal = shell(console);
    terminal.type_keys(b"echo st''art; sleep 1000\r");
    terminal.wait_for("start");
    std::thread::sleep(Duration::from_secs(1));
    terminal.type_keys(CTRL_C);
    terminal.wait_for("# ");
    terminal.type_keys(b"exit $?\r");
    terminal.ends_with(130);
}

fn ctrl_z_suspends_the_guests_program(console: &str) {
    let mut terminal = shell(console);
    terminal.type_keys(b"echo st''art; sleep 1000\r");
    terminal.wait_for("start");
    std::thread::sleep(Duration::from_secs(1));
    terminal.type_keys(CTRL_Z);
    terminal.wait_for("# ");
    terminal.type_keys(b"jobs; kill %1\r");
    terminal.wait_for("Stopped");
    terminal.wait_for("# ");
    terminal.type_keys(b"exit\rexit\r");
    assert!(wait(|| terminal.child().try_wait().unwrap()).is_some());
}

fn ctrl_d_ends_the_shell(console: &str) {
    let mut terminal = shell(console);
    terminal.type_keys(CTRL_D);
    terminal.ends_with(0);
}

#[test]
fn ctrl_a_x_without_a_command_is_success() {
    let Some(_) = linux_kvm() else { return };
    let mut terminal = shell("ttyS0");
    terminal.type_keys(CTRL_A_X);
    terminal.ends_with(0);
}

fn ctrl_a_x_before_the_commands_status_is_114(console: &str) {
    let mut terminal = Terminal::run(linux(
        console,
        &["--", "sh", "-c", "echo st''art; sleep 1000"],
    ));
    terminal.wait_for("start");
    terminal.type_keys(CTRL_A_X);
    terminal.wait_for("cottage: you quit before the command's status was known");
    terminal.ends_with(114);
}

fn window_size_arrives_in_linux(console: &str) {
    let mut terminal = Terminal::run(linux(console, &["--", "stty", "size"]));
    terminal.wait_for("33 99");
    terminal.ends_with(0);
}

fn paste_into_linux_arrives_complete(console: &str) {
    // A quarter of a megabyte took a busy testbed more than 3 minutes: each byte is two exits of an
    // emulated guest. (paste_arrives_complete has a whole one where guests are faster.)
    let text = lines(MEGABYTE / 8);
    let script = "stty -echo; echo re''ady; head -c 131072 | md5sum";
    let mut terminal = Terminal::run(linux(console, &["--", "sh", "-c", script]));
    terminal.wait_for("ready");
    terminal.paste(text);
    terminal.wait_for(LINES_MD5);
    terminal.ends_with(0);
}

/// Of an eighth of a megabyte of [`lines`], by md5sum on a host.
const LINES_MD5: &str = "4b744d90208d5ca5c6557ef752986682";

fn output_of_linux_arrives_complete_at_a_slow_reader(console: &str) {
    // More than a pipe and cottage's backlog hold. cat makes blocks of the lines: a write to the console is worth three exits and more.
    let script = "yes abcdefghijklmno | head -c 163840 | cat";
    let mut child = spawn(linux(console, &["--", "sh", "-c", script]));
    std::thread::sleep(Duration::from_secs(3));
    let output = read_all(child.stdout.take().unwrap());
    assert!(output == b"abcdefghijklmno\n".repeat(163_840 / 16));
    assert_eq!(exit_code(&mut child), Some(0));
}

fn panic_of_linux_restores_the_terminal(console: &str) {
    let mut terminal = Terminal::run(linux(console, &["--append", "rdinit=/bin/false"]));
    terminal.wait_for("cottage: the guest's kernel panicked: Kernel panic - not syncing");
    terminal.ends_with(113);
}

#[test]
fn triple_fault_of_linux_restores_the_terminal() {
    let Some(_) = linux_kvm() else { return };
    let words = ["--append", "reboot=t", "--", "busybox", "reboot", "-f"];
    let mut terminal = Terminal::run(linux("ttyS0", &words));
    terminal.wait_for("cottage: the guest crashed with a triple fault");
    terminal.ends_with(112);
}

fn script_from_a_pipe_runs_with_its_output_on_a_terminal(console: &str) {
    let mut terminal = Terminal::open();
    let mut command = linux(console, &[]);
    command.stdin(Stdio::piped()).stdout(terminal.tty());
    command.stderr(terminal.tty());
    terminal.start(command);
    let mut stdin = terminal.child().stdin.take().unwrap();
    stdin.write_all(b"echo hel''lo; exit 7\n").unwrap();
    drop(stdin);
    terminal.wait_for("hello\r\n");
    terminal.ends_with(7);
}

fn keys_work_with_linux_output_in_a_pipe(console: &str) {
    let mut terminal = Terminal::open();
    let mut command = linux(console, &["--", "sh", "-c", "read line; echo \"<$line>\""]);
    command.stdin(terminal.tty()).stdout(Stdio::piped());
    command.stderr(terminal.tty());
    terminal.start(command);
    terminal.type_keys(b"hello\r");
    let output = read_all(terminal.child().stdout.take().unwrap());
    assert_eq!(String::from_utf8_lossy(&output), "<hello>\n");
    terminal.ends_with(0);
}

/// All bytes there are, and many of those that mark something on a console.
fn every_byte_comes_out_of_a_pipe_as_it_went_in(console: &str) {
    let all: Vec<u8> = (0..=255).collect();
    let marks = b"\xff\x00\x00\xff\x01\x0f\x0f\xff\xff\x04\x03\x11\x13\x0fh";
    let bytes = [&all.repeat(40)[..], &marks.repeat(200), &all].concat();
    let run = finish(linux(console, &["--", "cat"]), &bytes).expect_code(0);
    assert!(
        run.stdout == bytes,
        "{} of {} bytes",
        run.stdout.len(),
        bytes.len()
    );
}

fn end_of_an_empty_stdin_is_seen(console: &str) {
    finish(linux(console, &["--", "wc", "-c"]), b"")
        .expect_code(0)
        .expect_stdout("0\n");
}

#[test]
fn virtio_console_is_the_console_and_no_message_comes_twice() {
    let Some(_) = linux_kvm() else { return };
    let script = "cat /sys/class/tty/console/active; dmesg | grep -c .";
    let words = ["--append", "loglevel=8", "--", "sh", "-c", script];
    let run = finish(linux("hvc0", &words), b"").expect_code(0);
    let text = run.text();
    assert!(text.lines().any(|line| line.trim_end() == "hvc0"), "{text}");
    // By the early console, by the one that takes over from it, and by that when all is there.
    let once = |message| assert_eq!(text.matches(message).count(), 1, "{message}: {text}");
    once("Hypervisor detected: KVM");
    once("bootconsole [uart8250] disabled");
    once("Run /init as init process");
}

#[test]
fn size_of_the_terminal_is_followed_by_a_virtio_console() {
    let Some(_) = linux_kvm() else { return };
    let script = "stty size; until stty size | grep 120; do sleep 1; done; exit 7";
    let mut terminal = Terminal::run(linux("hvc0", &["--", "sh", "-c", script]));
    terminal.wait_for("33 99");
    terminal.resize(44, 120);
    terminal.wait_for("44 120");
    terminal.ends_with(7);
}

/// VM exits of a guest that prints `count` bytes.
fn exits(console: &str, count: u32) -> u32 {
    let script = format!("head -c {count} /dev/zero | tr '\\0' x");
    let files = Scratch::new();
    let report = files.path("report");
    let kernel = support::program::image("full/vmlinux");
    let words = ["--kernel", &kernel, "--exits", &report, "--", "sh", "-c"];
    let run = finish(linux(console, &[&words[..], &[&script]].concat()), b"");
    assert_eq!(run.expect_code(0).stdout.len(), count as usize);
    let report = std::fs::read_to_string(report).unwrap();
    let line = report.lines().find(|l| l.contains("VM exits reached"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.replace(',', "").parse().unwrap()
}

#[test]
fn megabyte_through_hvc0_costs_a_twentieth_of_the_exits_of_ttys0_or_less() {
    let Some(_) = linux_kvm() else { return };
    // A megabyte through ttyS0 takes the testbed a quarter of an hour: 4 KB stand for it.
    let hvc0 = exits("hvc0", 1_000_000) - exits("hvc0", 0);
    let ttys0 = 250 * (exits("ttyS0", 4000) - exits("ttyS0", 0));
    println!("1,000,000 bytes: {hvc0} exits by hvc0, {ttys0} by ttyS0");
    assert!(hvc0 * 20 <= ttys0, "hvc0 {hvc0}, ttyS0 {ttys0}");
}

#[test]
fn debug_exit_ends_with_the_guests_odd_status() {
    let Some(_) = kvm() else { return };
    let folder = support::program::Scratch::new();
    let kernel = folder.file("kernel", &tiny::debug_exiter("tested", 0x10));
    let initramfs = folder.file("initramfs", &tiny::empty_initramfs());
    let words = ["run", "--kernel", &kernel, "--initramfs", &initramfs];
    let done = support::program::cottage(&[&words[..], &["--debug-exit", "0xf4"]].concat());
    assert_eq!(done.expect_code(33).expect_stdout("tested").stderr, "");
}
