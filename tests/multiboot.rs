//! Guests that are no Linux: multiboot kernels, and what expects a PC around it.
//!
//! The kernels of a few bytes run on every KVM. What does not, memtest86+ and Linux with the full
//! irqchip, needs a KVM that runs stock kernels.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use support::program::{Finished, LIMIT, Scratch, cottage_with_input, image, program};
use support::{kvm, linux_kvm, tiny_kernel, tiny_multiboot as tiny};

/// Runs `kernel` with these flags, and this on stdin.
fn run(files: &Scratch, kernel: &[u8], flags: &[&str], input: &[u8]) -> Finished {
    let kernel = files.file("kernel", kernel);
    let words = [&["run", "--kernel", &kernel, "--debug-exit", "0xf4"], flags].concat();
    cottage_with_input(&words, input)
}

/// What [`tiny::pc`] prints.
fn pc_prints(files: &Scratch) -> String {
    let (kernel, module) = (files.path("kernel"), files.path("module"));
    format!("{kernel} a=1 b\ncontent {module} one two\n")
}

/// Runs a kernel that does what [`tiny::pc`] does, with one module.
fn run_pc(files: &Scratch, kernel: &[u8], flags: &[&str]) -> Finished {
    let module = format!("{} one two", files.file("module", b"content "));
    let own = ["--cmdline", "a=1 b", "--module", &module];
    run(files, kernel, &[&own, flags].concat(), b"")
}

#[test]
fn multiboot_kernel_has_a_pc_its_command_line_and_its_module() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let done = run_pc(&files, &tiny::pc(), &[]);
    let done = done.expect_code(33).expect_stdout(&pc_prints(&files));
    assert_eq!(done.stderr, "");
}

#[test]
fn kernel_that_is_no_elf_file_goes_where_its_header_says() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let done = run_pc(
        &files,
        &tiny::flat_pc(),
        &["--cpus", "2", "--memory", "64M"],
    );
    done.expect_code(33).expect_stdout(&pc_prints(&files));
}

#[test]
fn initramfs_is_the_first_module() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let initramfs = files.file("initramfs", b"any file ");
    let flags = ["--initramfs", &initramfs, "--append", "a"];
    let done = run(&files, &tiny::pc(), &flags, b"").expect_code(33);
    let kernel = files.path("kernel");
    done.expect_stdout(&format!("{kernel} a\nany file {initramfs}\n"));
}

#[test]
fn kernel_of_64_bits_begins_in_32_and_climbs() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let done = run(&files, &tiny::climber(), &[], b"").expect_code(65);
    done.expect_stdout(&files.path("kernel"));
}

#[test]
fn typed_bytes_interrupt_through_the_pic() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let text = "typed bytes, more than a FIFO holds.";
    let done = run(&files, &tiny::listener(), &[], text.as_bytes()).expect_code(97);
    done.expect_stdout(text);
}

#[test]
fn split_irqchip_has_no_timer_to_measure_by() {
    let Some(_) = kvm() else { return };
    // The kernel would wait for ever: port 0x61 answers ones. The full irqchip is chosen for multiboot
    // kernels, and this shows that the flag overrides it.
    let files = Scratch::new();
    let kernel = files.file("kernel", &tiny::pc());
    let mut command = Command::new(program());
    command.args(["run", "--kernel", &kernel, "--irqchip", "split"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn small_kernels_run_with_either_irqchip() {
    let Some(_) = kvm() else { return };
    let files = Scratch::new();
    let kernel = tiny_kernel::debug_exiter("either", 0x10);
    let initramfs = files.file("initramfs", &tiny_kernel::empty_initramfs());
    for chip in ["split", "full"] {
        let flags = ["--initramfs", &initramfs, "--irqchip", chip];
        let done = run(&files, &kernel, &flags, b"").expect_code(33);
        done.expect_stdout("either");
    }
}

#[test]
fn linux_runs_with_the_full_irqchip() {
    let Some(_) = linux_kvm() else { return };
    let script = "cat /proc/interrupts; head -c 8 /dev/hwrng | wc -c; read line; echo \"<$line>\"";
    let kernel = image("full/vmlinux");
    let words = [
        "run",
        "--kernel",
        &kernel,
        "--irqchip",
        "full",
        "--cpus",
        "2",
        "--rng",
    ];
    let words = [&words[..], &["--", "sh", "-c", script]].concat();
    let done = cottage_with_input(&words, b"typed\n").expect_code(0);
    let done = done.expect_last_line("<typed>");
    let text = done.text();
    assert!(text.contains("IO-APIC   4-edge      ttyS0"), "{text}");
    assert!(text.lines().any(|line| line.trim() == "8"), "{text}");
}

#[test]
fn built_in_kernel_which_knows_no_acpi_runs_with_the_full_irqchip() {
    let Some(_) = linux_kvm() else { return };
    let words = ["run", "--irqchip", "full", "--cpus", "2", "--", "nproc"];
    let done = cottage_with_input(&words, b"").expect_code(0);
    done.expect_stdout("2\n");
}

/// Starts memtest86+ and waits until its screen says that part of a pass is done, without errors.
fn memtest_tests_memory(file: &str) {
    let mut command = Command::new(program());
    let kernel = image(file);
    command.args(["run", "--kernel", &kernel, "--memory", "16M"]);
    command.args(["--cmdline", "console=ttyS0,115200"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let (found, waiting) = mpsc::channel();
    std::thread::spawn(move || {
        let mut screen = String::new();
        let mut reader = BufReader::new(stdout);
        let mut piece = Vec::new();
        while reader.read_until(b'%', &mut piece).is_ok_and(|len| len > 0) {
            screen.push_str(&String::from_utf8_lossy(&piece));
            piece.clear();
            if percent_of_pass(&screen).is_some_and(|percent| percent > 0) {
                break;
            }
        }
        found.send(screen)
    });
    let screen = waiting.recv_timeout(LIMIT);
    child.kill().unwrap();
    child.wait().unwrap();
    let screen = screen.unwrap();
    for wanted in ["Memtest86+ v", "Status: Testing", "Errors: 0", "16MB"] {
        assert!(
            screen.contains(wanted),
            "{wanted} is not on the screen:\n{screen}"
        );
    }
    assert!(percent_of_pass(&screen) > Some(0), "{screen}");
}

/// How far the pass is, if the screen ends with that: line 2, column 35.
fn percent_of_pass(screen: &str) -> Option<u8> {
    let (_, number) = screen.rsplit_once("\x1b[2;35H\x1b[0m")?;
    number.strip_suffix('%')?.trim().parse().ok()
}

#[test]
fn memtest86plus_tests_memory_and_shows_it_on_the_console() {
    let Some(_) = linux_kvm() else { return };
    memtest_tests_memory("memtest86plus/x64.bin");
}

#[test]
fn memtest86plus_of_32_bits_does_too() {
    let Some(_) = linux_kvm() else { return };
    memtest_tests_memory("memtest86plus/ia32.bin");
}
