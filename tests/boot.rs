//! Real kernels, booted to a command by the real program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::linux_kvm;
use support::program::{cottage, cottage_with_input, image};

/// The type of boot loader a kernel saw. Source: Linux `arch/x86/kernel/setup.c` (0xff,
/// undefined) and `arch/x86/platform/pvh/enlighten.c` (0xb << 4, PVH without Xen).
const LOADER: &str = "/proc/sys/kernel/bootloader_type";

#[test]
fn command_output_is_stdout_and_nothing_else() {
    let Some(_) = linux_kvm() else { return };
    let run = cottage(&["run", "--", "echo", "a  b", "c\"d'e"]).expect_code(0);
    assert_eq!(run.stderr, "");
    run.expect_stdout("a  b c\"d'e\n");
}

#[test]
fn exit_status_of_the_command_is_cottages() {
    let Some(_) = linux_kvm() else { return };
    cottage(&["run", "--", "sh", "-c", "exit 77"]).expect_code(77);
}

#[test]
fn command_killed_by_a_signal_ends_with_128_and_its_number() {
    let Some(_) = linux_kvm() else { return };
    cottage(&["run", "--", "sh", "-c", "kill -9 $$"]).expect_code(137);
}

#[test]
fn missing_command_is_127_as_in_a_shell() {
    let Some(_) = linux_kvm() else { return };
    let run = cottage(&["run", "--", "no-such-command"]).expect_code(127);
    assert!(run.text().contains("no-such-command"), "{}", run.text());
}

#[test]
fn elf_kernel_enters_by_the_64_bit_protocol() {
    let Some(_) = linux_kvm() else { return };
    let kernel = image("tiny/vmlinux");
    cottage(&[
        "run",
        "--kernel",
        &kernel,
        "--protocol",
        "linux64",
        "--",
        "cat",
        LOADER,
    ])
    .expect_code(0)
    .expect_stdout("255\n");
}

#[test]
fn elf_kernel_enters_by_pvh() {
    let Some(_) = linux_kvm() else { return };
    let kernel = image("tiny/vmlinux");
    cottage(&[
        "run",
        "--kernel",
        &kernel,
        "--protocol",
        "pvh",
        "--",
        "cat",
        LOADER,
    ])
    .expect_code(0)
    .expect_stdout("176\n");
}

#[test]
fn bzimage_is_unpacked_on_the_host() {
    let Some(_) = linux_kvm() else { return };
    let kernel = image("tiny/bzImage");
    cottage(&["run", "--kernel", &kernel, "--", "echo", "up"])
        .expect_code(0)
        .expect_stdout("up\n");
}

#[test]
fn bzimage_unpacks_itself_in_the_guest() {
    let Some(_) = linux_kvm() else { return };
    let kernel = image("tiny/bzImage");
    cottage(&[
        "run", "--kernel", &kernel, "--unpack", "guest", "--", "echo", "up",
    ])
    .expect_code(0)
    .expect_stdout("up\n");
}

#[test]
fn debians_stock_cloud_kernel_boots_to_our_init() {
    let Some(_) = linux_kvm() else { return };
    let kernel = image("debian-cloud/vmlinuz");
    let run = cottage(&[
        "run", "--kernel", &kernel, "--memory", "256M", "--", "uname", "-r",
    ]);
    let run = run.expect_code(0);
    assert!(
        run.text().trim_end().ends_with("cloud-amd64"),
        "{}",
        run.text()
    );
}

#[test]
fn stock_kernel_powers_off_through_acpi() {
    let Some(_) = linux_kvm() else { return };
    let kernel = image("debian-cloud/vmlinuz");
    // busybox's own, by its name: it calls reboot(2) and leaves the rest to the kernel.
    let words = [
        "run", "--kernel", &kernel, "--memory", "256M", "--", "busybox", "poweroff", "-f",
    ];
    cottage(&words)
        .expect_code(114)
        .expect_stderr("the guest powered off before");
}

#[test]
fn tick_goes_on_in_idle_only_where_qemu_emulates_the_processor() {
    let Some(backend) = linux_kvm() else { return };
    let run = cottage(&["run", "--", "cat", "/proc/cmdline"]).expect_code(0);
    let told = run.text().split(' ').any(|word| word == "nohz=off");
    assert_eq!(told, backend.name == "testbed", "{}", run.text());
}

fn processors(count: &str) {
    cottage(&["run", "--cpus", count, "--", "nproc"])
        .expect_code(0)
        .expect_stdout(&format!("{count}\n"));
}

#[test]
fn guest_has_2_processors() {
    let Some(_) = linux_kvm() else { return };
    processors("2");
}

#[test]
fn guest_has_4_processors() {
    let Some(_) = linux_kvm() else { return };
    processors("4");
}

#[test]
fn guest_has_16_processors() {
    let Some(_) = linux_kvm() else { return };
    processors("16");
}

#[test]
fn stock_kernel_finds_processors_by_acpi() {
    let Some(_) = linux_kvm() else { return };
    let kernel = image("debian-cloud/vmlinuz");
    cottage(&[
        "run", "--kernel", &kernel, "--memory", "256M", "--cpus", "2", "--", "nproc",
    ])
    .expect_code(0)
    .expect_stdout("2\n");
}

/// Runs a shell script in the full kernel, and expects these lines and no others.
#[track_caller]
fn full_kernel_says(script: &str, lines: &str) {
    let kernel = image("full/vmlinux");
    cottage(&[
        "run", "--kernel", &kernel, "--memory", "256M", "--", "sh", "-c", script,
    ])
    .expect_code(0)
    .expect_stdout(lines);
}

#[test]
fn full_kernel_runs_a_command() {
    let Some(_) = linux_kvm() else { return };
    full_kernel_says("uname -r | grep -o full; nproc", "full\n1\n");
}

#[test]
fn full_kernel_has_what_containers_are_made_of() {
    let Some(_) = linux_kvm() else { return };
    let script = "mkdir -p /m/l /m/u /m/w /m/o /cg && mount -t tmpfs none /m \
        && mkdir /m/l /m/u /m/w /m/o && echo below >/m/l/file \
        && mount -t overlay -o lowerdir=/m/l,upperdir=/m/u,workdir=/m/w none /m/o && cat /m/o/file \
        && mount -t cgroup2 none /cg && mkdir /cg/flat && grep -o pids /cg/cgroup.controllers \
        && unshare -m -u -i -p -f sh -c 'hostname flat; hostname'; hostname";
    full_kernel_says(script, "below\npids\nflat\ncottage\n");
}

#[test]
fn full_kernel_powers_off_through_acpi() {
    let Some(_) = linux_kvm() else { return };
    let kernel = image("full/vmlinux");
    cottage(&[
        "run", "--kernel", &kernel, "--memory", "256M", "--", "busybox", "poweroff", "-f",
    ])
    .expect_code(114)
    .expect_stderr("the guest powered off before");
}

/// Total memory as Linux counts it, in MiB: less than the machine has, by kernel and firmware.
#[track_caller]
fn memory_is(size: &str, at_least_mib: u64, at_most_mib: u64) {
    let words = [
        "run",
        "--memory",
        size,
        "--",
        "awk",
        "/MemTotal/ { print $2 }",
        "/proc/meminfo",
    ];
    let run = cottage(&words).expect_code(0);
    let mib = run.text().trim().parse::<u64>().unwrap() / 1024;
    assert!(
        (at_least_mib..=at_most_mib).contains(&mib),
        "{mib} MiB of {size}"
    );
}

#[test]
fn guest_has_64_mib() {
    let Some(_) = linux_kvm() else { return };
    memory_is("64M", 48, 64);
}

#[test]
fn guest_has_128_mib() {
    let Some(_) = linux_kvm() else { return };
    memory_is("128M", 110, 128);
}

#[test]
fn guest_has_4_gib_around_the_gap() {
    let Some(_) = linux_kvm() else { return };
    memory_is("4G", 3900, 4096);
}

#[test]
fn script_from_a_pipe_runs_and_its_status_is_cottages() {
    let Some(_) = linux_kvm() else { return };
    cottage_with_input(&["run"], b"echo one\nexit 3\n")
        .expect_code(3)
        .expect_stdout("one\n");
}

#[test]
fn end_of_piped_stdin_ends_the_shell() {
    let Some(_) = linux_kvm() else { return };
    cottage_with_input(&["run"], b"echo one")
        .expect_code(0)
        .expect_stdout("one\n");
}

#[test]
fn binary_input_arrives_exactly() {
    let Some(_) = linux_kvm() else { return };
    // Every byte value after many others: 16 KiB, which an emulated guest reads in seconds.
    let bytes: Vec<u8> = (0..64)
        .flat_map(|a| (0..=u8::MAX).map(move |b| a ^ b))
        .collect();
    cottage_with_input(&["run", "--", "md5sum"], &bytes)
        .expect_code(0)
        .expect_stdout("dea82c122046f6679922a495aec89ed1  -\n"); // by md5sum on a host
}

#[test]
fn binary_output_arrives_exactly() {
    let Some(_) = linux_kvm() else { return };
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(10_000).collect();
    let run = cottage_with_input(&["run", "--", "cat"], &bytes).expect_code(0);
    assert!(run.stdout == bytes, "{} bytes came back", run.stdout.len());
}

#[test]
fn users_initramfs_runs_a_command_by_our_init() {
    let Some(_) = linux_kvm() else { return };
    let initramfs = image("initramfs.cpio");
    cottage(&[
        "run",
        "--initramfs",
        &initramfs,
        "--",
        "cat",
        "/proc/1/comm",
    ])
    .expect_code(0)
    .expect_stdout("init\n");
}

#[test]
fn power_off_without_command_is_success() {
    let Some(_) = linux_kvm() else { return };
    cottage_with_input(&["run"], b"poweroff\nsleep 100\n").expect_code(0);
}

#[test]
fn reset_before_the_status_is_reported() {
    let Some(_) = linux_kvm() else { return };
    cottage(&["run", "--", "busybox", "reboot", "-f"])
        .expect_code(114)
        .expect_stderr("the guest reset itself before the command's status was known");
}

#[test]
fn kernel_panic_is_reported_with_its_line() {
    let Some(_) = linux_kvm() else { return };
    cottage(&["run", "--append", "rdinit=/bin/false"])
        .expect_code(113)
        .expect_stderr("the guest's kernel panicked: Kernel panic - not syncing: Attempted");
}

#[test]
fn triple_fault_is_reported_with_registers() {
    let Some(_) = linux_kvm() else { return };
    cottage(&[
        "run", "--append", "reboot=t", "--", "busybox", "reboot", "-f",
    ])
    .expect_code(112)
    .expect_stderr("triple fault")
    .expect_stderr("rip 0x");
}

#[test]
fn panic_text_printed_by_a_user_is_no_panic() {
    let Some(_) = linux_kvm() else { return };
    cottage(&["run", "--", "echo", "Kernel panic - not syncing: a joke"]).expect_code(0);
}
