//! Crashes tell their story: mistakes made on purpose, each by a guest of a few bytes, and the page that
//! names them.
//!
//! The page depends on what the host's KVM leaves of a processor: on AMD, the testbed's too, a triple fault
//! resets it, and then the page must say so and show the last exits.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::program::{Finished, Scratch, cottage, finish, plain_program};
use support::tiny_kernel as tiny;
use support::{Backend, kvm, linux_kvm};

/// By then the guest runs, in an emulated host too.
const UNDERWAY: Duration = Duration::from_secs(8);

/// `cottage run` of a guest of a few bytes.
fn run(files: &Scratch, kernel: &[u8]) -> Command {
    let mut command = Command::new(plain_program());
    command.args(["run", "--memory", "4M"]);
    command.args(["--kernel", &files.file("kernel", kernel)]);
    command.args([
        "--initramfs",
        &files.file("initramfs", &tiny::empty_initramfs()),
    ]);
    command
}

/// A guest that says `x` and then makes a mistake that ends in a triple fault.
#[track_caller]
fn triple_fault(backend: &Backend, mistake: &[u8], named: &str) {
    let files = Scratch::new();
    let kernel = tiny::printer_then("x", mistake);
    let end = finish(run(&files, &kernel), b"")
        .expect_code(112)
        .expect_stdout("x")
        .expect_stderr("cottage: the guest crashed with a triple fault: an exception")
        .expect_stderr("out 0x3f8 = 0x78 'x' (COM1)");
    let amd = backend.name == "testbed" || backend.name == "hardware svm";
    if amd {
        end.expect_stderr("on AMD, KVM resets a processor that shuts down")
            .expect_stderr("code at rip: gone; at the last exit, 0x10000");
    } else {
        end.expect_stderr(named).expect_stderr("code at rip:");
    }
}

#[test]
fn far_return_to_a_segment_without_l_is_named() {
    let Some(backend) = kvm() else { return };
    let mistake = [
        // A GDT of its own, on the stack: null, and 32-bit code.
        0x48, 0xb8, 0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0,    // mov rax, 0x00cf9b000000ffff
        0x50, // push rax
        0x6a, 0x00, // push 0
        0x54, // push rsp: the base ...
        0x66, 0x6a, 0x0f, // push word 15: ... behind the limit
        0x0f, 0x01, 0x14, 0x24, // lgdt [rsp]
        0x6a, 0x08, // push 8: cs
        0x48, 0x8d, 0x05, 0x03, 0, 0, 0,    // lea rax, [rip + 3]
        0x50, // push rax
        0x48, 0xcb, // retfq
        0x66, 0xb8, 0x50, 0x00, // mov ax, 0x50
        0x8e, 0xd8, // mov ds, ax: beyond the GDT, a fault
    ];
    triple_fault(
        &backend,
        &mistake,
        "the GDT entry for CS (0x8) has L=0 while EFER.LMA is set",
    );
}

#[test]
fn page_tables_outside_memory_are_named() {
    let Some(backend) = kvm() else { return };
    let mistake = [
        0xb8, 0x00, 0x00, 0x00, 0x80, // mov eax, 0x80000000
        0x0f, 0x22, 0xd8, // mov cr3, rax
        0x90, // nop
    ];
    triple_fault(
        &backend,
        &mistake,
        "CR3 points to 0x80000000, outside memory",
    );
}

#[test]
fn jump_to_an_unmapped_address_is_named() {
    let Some(backend) = kvm() else { return };
    let mistake = [
        0x48, 0xb8, 0, 0, 0, 0, 0, 1, 0, 0, // mov rax, 1 << 40
        0xff, 0xe0, // jmp rax
    ];
    triple_fault(&backend, &mistake, "RIP 0x10000000000 is in no mapped page");
}

#[test]
fn stack_that_was_never_set_is_named() {
    let Some(backend) = kvm() else { return };
    let mistake = [
        0x31, 0xe4, // xor esp, esp
        0x50, // push rax
    ];
    triple_fault(
        &backend,
        &mistake,
        "RSP is 0x0 and there is no stack below it: it was never set",
    );
}

#[test]
fn empty_interrupt_table_is_named() {
    let Some(backend) = kvm() else { return };
    let mistake = [
        0x6a, 0x00, // push 0
        0x6a, 0x00, // push 0
        0x0f, 0x01, 0x1c, 0x24, // lidt [rsp]
        0x48, 0xb8, 0, 0, 0, 0, 0, 1, 0, 0, // mov rax, 1 << 40
        0x48, 0x8b, 0x18, // mov rbx, [rax]
    ];
    triple_fault(
        &backend,
        &mistake,
        "the IDT's limit is 0x0, no room for the gates of faults",
    );
}

#[test]
fn missing_gates_are_named_with_the_faulting_address_and_its_walk() {
    let Some(backend) = kvm() else { return };
    let mistake = [
        0x68, 0x00, 0x00, 0x20, 0x00, // push 0x200000: the base, zeros ...
        0x66, 0x68, 0xff, 0x0f, // push word 0xfff: ... behind the limit
        0x0f, 0x01, 0x1c, 0x24, // lidt [rsp]
        0x48, 0xb8, 0, 0, 0, 0, 0, 1, 0, 0, // mov rax, 1 << 40
        0x48, 0x8b, 0x18, // mov rbx, [rax]
    ];
    let named = "the IDT at 0x200000 has no gates: an exception without a handler becomes a triple fault; \
                 the last page fault was for 0x10000000000";
    triple_fault(&backend, &mistake, named);
    triple_fault(&backend, &mistake, "0x10000000000 is not mapped");
    triple_fault(&backend, &mistake, "mov rbx, [rax]");
}

#[test]
fn jump_into_empty_memory_is_named() {
    let Some(backend) = kvm() else { return };
    let mistake = [
        0x48, 0xb8, 0, 0, 0, 0, 0, 1, 0, 0, // mov rax, 1 << 40, to which zeros add
        0xb9, 0x00, 0x00, 0x20, 0x00, // mov ecx, 0x200000
        0xff, 0xe1, // jmp rcx
    ];
    triple_fault(
        &backend,
        &mistake,
        "RIP 0x200000 is in empty memory, all zeros",
    );
}

#[test]
fn jump_into_a_devices_registers_is_named() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let mistake = [
        0xb8, 0x00, 0x00, 0xc0, 0xfe, // mov eax, 0xfec00000
        0xff, 0xe0, // jmp rax
    ];
    finish(run(&files, &tiny::printer_then("x", &mistake)), b"")
        .expect_code(112)
        .expect_stderr("cottage: the guest crashed: KVM internal error")
        .expect_stderr("RIP 0xfec00000 leads to physical 0xfec00000, where no memory is");
}

#[test]
fn instruction_that_this_kvm_lacks_is_named() {
    let Some(backend) = kvm() else { return };
    let files = Scratch::new();
    let code = [
        0xbe, 0x00, 0x00, 0x20, 0x00, // mov esi, 0x200000
        0xf0, 0x48, 0x0f, 0xc7, 0x0e, // lock cmpxchg16b [rsi]
        0xb0, 0xfe, // mov al, 0xfe
        0xe6, 0x64, // out 0x64, al: reset
    ];
    let end = finish(run(&files, &tiny::printer_then("x", &code)), b"");
    if backend.name == "pvm" {
        end.expect_code(112)
            .expect_stderr("(kvm_pvm), cannot emulate `lock cmpxchg16b")
            .expect_stderr("clearcpuid=cx16");
    } else {
        end.expect_code(0);
    }
}

#[test]
fn panic_for_want_of_a_root_is_explained_by_what_was_given() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let line = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n";
    finish(run(&files, &tiny::resetter(line)), b"")
        .expect_code(113)
        .expect_stderr("cottage: the guest's kernel panicked: Kernel panic - not syncing: VFS:")
        .expect_stderr("the initramfs that was given did not unpack, or has no /init")
        .expect_stderr("the command line was: ")
        .expect_stderr("console=ttyS0");
}

#[test]
fn guest_that_was_ended_before_it_printed_anything_is_wondered_about() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let silent = ended(run(&files, &tiny::sleeper("")));
    silent
        .expect_code(143)
        .expect_stderr("ended by SIGTERM; the guest had printed nothing")
        .expect_stderr("it has halted with interrupts off");
    let loud = ended(run(&files, &tiny::sleeper("up")));
    assert_eq!(loud.stderr, "cottage: ended by SIGTERM\n");
}

/// Lets it run for a while, then ends it.
fn ended(mut command: Command) -> Finished {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(UNDERWAY);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let code = output
        .status
        .code()
        .or(output.status.signal().map(|s| 128 + s));
    Finished {
        code: code.unwrap(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn guests_control_characters_do_not_reach_the_page() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let line = "Kernel panic - not syncing: \x1b[31mred\r\n";
    let end = finish(run(&files, &tiny::resetter(line)), b"").expect_code(113);
    assert!(!end.stderr.contains('\x1b'), "{:?}", end.stderr);
    assert!(end.stderr.contains("[31mred"), "{}", end.stderr);
}

#[test]
fn hidden_command_of_the_tools_refuses_what_is_no_report() {
    let mut command = Command::new(plain_program());
    command.arg("tell-crash");
    finish(command, b"nonsense")
        .expect_code(110)
        .expect_stderr("this sub-command is for cottage itself");
}

#[test]
fn panic_of_linux_is_explained() {
    let Some(_) = linux_kvm() else { return };
    cottage(&["run", "--append", "rdinit=/nowhere init=/nowhere"])
        .expect_code(113)
        .expect_stderr("the guest's kernel panicked: Kernel panic - not syncing:")
        .expect_stderr("the command line was: ");
}
