//! Virtio devices, driven by the drivers of a real kernel.
//!
//! What a driver may do wrong is tested beside the source, in `src/virtio/`. Here are the ways of
//! bytes: from a guest to a file and back, whatever becomes of the machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use flate2::read::GzDecoder;
use support::linux_kvm;
use support::program::{Finished, Scratch, cottage, program};
use support::pty::{Terminal, exit_code, resident_kib, wait};

const MIB: usize = 1 << 20;

/// Bytes that nobody would write by accident, and that differ by `seed`.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        // Knuth's MMIX generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    bytes
}

/// Runs a shell line in the built-in kernel that has drivers, with `flags`.
fn guest(flags: &[&str], line: &str) -> Finished {
    let machine = ["run", "--memory", "256M"];
    cottage(&[&machine, flags, &["--", "sh", "-c", line]].concat())
}

#[test]
fn guest_copies_one_disk_to_another_byte_for_byte() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let content = pattern(1, 3 * MIB + 512);
    let from = files.file("from", &content);
    let to = files.file("to", &vec![0; 4 * MIB]);
    guest(
        &["--disk", &format!("{from},ro"), "--disk", &to],
        "dd if=/dev/vda of=/dev/vdb bs=40k conv=fsync 2>/dev/null",
    )
    .expect_code(0)
    .expect_stdout("");
    let copied = fs::read(to).unwrap();
    assert!(copied.starts_with(&content));
    assert!(copied.iter().skip(content.len()).all(|byte| *byte == 0));
    assert!(fs::read(from).unwrap() == content);
}

/// An empty ext4 file system, as mke2fs 1.47.0 makes it: truncate -s 8M ext4;
/// mke2fs -t ext4 -E lazy_itable_init=1 ext4; gzip -9n ext4
const EXT4: &[u8] = include_bytes!("fixtures/disk/ext4.gz");

fn ext4(files: &Scratch) -> String {
    let mut bytes = Vec::new();
    GzDecoder::new(EXT4).read_to_end(&mut bytes).unwrap();
    files.file("ext4", &bytes)
}

#[test]
fn file_system_outlives_the_machine() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let disk = ext4(&files);
    let written = guest(
        &["--disk", &disk],
        "mount -t ext4 /dev/vda /mnt && cp /bin/busybox /mnt/copy && umount /mnt && \
         md5sum < /bin/busybox",
    )
    .expect_code(0);
    guest(
        &["--disk", &format!("{disk},ro")],
        "mount -t ext4 -o ro /dev/vda /mnt && md5sum < /mnt/copy",
    )
    .expect_code(0)
    .expect_stdout(&written.text());
}

/// Runs a shell line in the full kernel until it prints its first line, and kills the VMM then.
fn killed_after_a_line(flags: &[&str], line: &str) -> String {
    let mut child = Command::new(program())
        .args(["run", "--memory", "256M"])
        .args(flags)
        .args(["--", "sh", "-c", line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next().map(Result::unwrap);
    child.kill().unwrap();
    child.wait().unwrap();
    line.unwrap_or_default()
}

#[test]
fn what_was_synced_outlives_a_vmm_that_is_killed() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let disk = ext4(&files);
    let sum = killed_after_a_line(
        &["--disk", &disk],
        "mount -t ext4 /dev/vda /mnt && cp /bin/busybox /mnt/copy && sync && \
         md5sum < /mnt/copy; sleep 1000",
    );
    // The lock is gone with the process, and the journal brings the file system in order.
    guest(
        &["--disk", &disk],
        "mount -t ext4 /dev/vda /mnt && md5sum < /mnt/copy",
    )
    .expect_code(0)
    .expect_last_line(&sum);
}

#[test]
fn guest_sees_size_serial_number_and_write_protection() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let one = files.file("one", &vec![0; MIB]);
    let two = files.file("two", &[0; 512]);
    guest(
        &[
            "--disk",
            &format!("{one},serial=S-1"),
            "--disk",
            &format!("{two},ro,id=data"),
        ],
        "for disk in vda vdb; do cd /sys/block/$disk; echo $(cat size) $(cat serial) $(cat ro); done",
    )
    .expect_code(0)
    .expect_stdout("2048 S-1 0\n1 data 1\n");
}

#[test]
fn read_only_disk_cannot_be_written() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let content = pattern(2, MIB);
    let disk = files.file("disk", &content);
    guest(
        &["--disk", &format!("{disk},ro")],
        "blockdev --setrw /dev/vda; dd if=/dev/zero of=/dev/vda count=1 conv=fsync 2>/dev/null; \
         mount -t tmpfs none /mnt && md5sum < /dev/vda >/dev/null && echo readable",
    )
    .expect_code(0)
    .expect_last_line("readable");
    assert!(fs::read(disk).unwrap() == content);
}

#[test]
fn overlay_is_gone_with_the_machine() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let disk = ext4(&files);
    let content = fs::read(&disk).unwrap();
    // Both at once: each has a layer of its own.
    let overlaid = format!("{disk},overlay");
    guest(
        &["--disk", &overlaid, "--disk", &overlaid],
        "mount -t ext4 /dev/vda /mnt && cp /bin/busybox /mnt/copy && umount /mnt && \
         mount -t ext4 /dev/vda /mnt && cmp /bin/busybox /mnt/copy && umount /mnt && \
         mount -t ext4 /dev/vdb /mnt && ls /mnt",
    )
    .expect_code(0)
    .expect_stdout("lost+found\n");
    assert!(fs::read(&disk).unwrap() == content);
}

#[test]
fn discarded_blocks_are_the_hosts_again() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let disk = files.file("disk", &pattern(4, 4 * MIB));
    let before = fs::metadata(&disk).unwrap().blocks();
    guest(
        &["--disk", &disk],
        "blkdiscard -o 1048576 -l 2097152 /dev/vda && \
         dd if=/dev/vda bs=1M skip=1 count=2 2>/dev/null | tr -d '\\0' | wc -c",
    )
    .expect_code(0)
    .expect_stdout("0\n");
    let freed = before - fs::metadata(&disk).unwrap().blocks();
    assert_eq!(freed, 2 * 2048, "blocks of 512 bytes");
    assert!(fs::read(&disk).unwrap().starts_with(&pattern(4, MIB)));
}

#[test]
fn two_processors_write_two_disks_at_once() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let content = pattern(5, 2 * MIB);
    let from = files.file("from", &content);
    let to = ["one", "two"].map(|name| files.file(name, &vec![0; 2 * MIB]));
    guest(
        &[
            "--cpus",
            "2",
            "--disk",
            &to[0],
            "--disk",
            &to[1],
            "--disk",
            &format!("{from},ro"),
        ],
        "copy() { dd if=/dev/vdc of=/dev/$1 bs=4k oflag=direct conv=fsync 2>/dev/null; }; \
         copy vda & copy vdb; wait",
    )
    .expect_code(0);
    for disk in to {
        assert!(fs::read(&disk).unwrap() == content, "{disk}");
    }
}

#[test]
fn kernel_without_acpi_finds_devices_by_its_command_line() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let disk = files.file("disk", &pattern(6, MIB));
    let by_acpi = guest(
        &["--disk", &disk],
        "md5sum < /dev/vda; ls /sys/bus/virtio/devices",
    );
    let by_cmdline = guest(
        &["--append", "acpi=off", "--disk", &disk],
        "md5sum < /dev/vda; ls /sys/bus/virtio/devices",
    );
    // Each finds one device, not two.
    let found = by_acpi.expect_code(0).text();
    assert_eq!(found.lines().count(), 2, "{found}");
    // Without ACPI the kernel looks for a keyboard, too, and says so.
    let text = by_cmdline.expect_code(0).text();
    assert!(text.ends_with(&found), "{text}");
}

#[test]
fn every_place_for_a_device_can_be_used() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let names: Vec<_> = (0..13_u8)
        .map(|n| files.file(&n.to_string(), &[b'a' + n; 512]))
        .collect();
    let mut flags = vec!["--rng"];
    for name in &names {
        flags.extend(["--disk", name]);
    }
    guest(
        &flags,
        "for disk in /dev/vd?; do head -c 1 $disk; done; ls /sys/bus/virtio/devices | wc -l",
    )
    .expect_code(0)
    .expect_stdout("abcdefghijklm14\n");
}

#[test]
fn random_numbers_come_from_the_host() {
    let Some(_) = linux_kvm() else { return };
    let line = "cat /sys/class/misc/hw_random/rng_current; \
                head -c 10000 /dev/hwrng | gzip -c | wc -c";
    let run = guest(&["--rng"], line).expect_code(0);
    let text = run.text();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("virtio_rng"), "{text}");
    let packed: u32 = lines.next().unwrap().parse().unwrap();
    assert!(packed > 9900, "10000 bytes pack to {packed}");
}

// ---- ports ------------------------------------------------------------------------------------

/// The full kernel, running in the background: it runs a shell line with `flags`.
fn started(flags: &[&str], line: &str) -> Child {
    let machine = ["run", "--memory", "256M"];
    Command::new(program())
        .args([&machine, flags, &["--", "sh", "-c", line]].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Connects as soon as somebody listens.
fn connect(path: &str) -> UnixStream {
    wait(|| UnixStream::connect(path).ok()).unwrap()
}

#[test]
fn port_carries_bytes_both_ways_and_tells_the_end() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let path = files.path("socket");
    let line = "exec 3<>/dev/virtio-ports/echo; cat <&3 >&3; echo first over; head -n 1 <&3";
    let mut child = started(&["--port", &format!("echo={path}")], line);
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let content = pattern(2, 300_000);
    let mut stream = connect(&path);
    let mut writer = stream.try_clone().unwrap();
    let sent = content.clone();
    let sending = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut echoed = vec![0; content.len()];
    stream.read_exact(&mut echoed).unwrap();
    sending.join().unwrap();
    assert!(echoed == content);
    drop(stream);
    assert_eq!(output.next().unwrap().unwrap(), "first over");
    connect(&path).write_all(b"second connection\n").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "second connection");
    assert_eq!(exit_code(&mut child), Some(0));
    assert!(
        !fs::exists(path).unwrap(),
        "the socket goes with the machine"
    );
}

#[test]
fn ports_have_names_and_keep_apart() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let (one, two) = (files.file("one", b""), files.file("two", b"before\n"));
    let flags = [format!("--port=one={one}"), format!("--port=two={two}")];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let line = "cd /dev/virtio-ports; echo 1 > one; echo 2 > two; ls | tr '\\n' ' '";
    guest(&flags, line).expect_code(0).expect_stdout("one two ");
    assert_eq!(fs::read_to_string(one).unwrap(), "1\n");
    assert_eq!(fs::read_to_string(two).unwrap(), "before\n2\n");
}

// ---- the balloon ------------------------------------------------------------------------------

/// Resident memory of cottage while its guest is at these three points: before 96 MiB are written
/// to files in memory, when they are, and when they are deleted and enough time has gone by.
fn resident_before_with_and_after(flags: &[&str]) -> [u64; 3] {
    let line = "echo before; sleep 3; dd if=/dev/zero of=/tmp/file bs=1M count=96 2>/dev/null; echo with; sleep 2; \
                rm /tmp/file; echo after; sleep 1000";
    let mut child = started(flags, line);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let status = format!("/proc/{}/status", child.id());
    let resident = ["before", "with", "after"].map(|point| {
        assert_eq!(lines.next().unwrap().unwrap(), point);
        if point == "after" {
            // Linux reports what is free every two seconds, a part at a time.
            let with = resident_kib(&status);
            wait(|| (resident_kib(&status) + (64 << 10) < with).then_some(()));
        }
        resident_kib(&status)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    resident
}

#[test]
fn memory_that_the_guest_frees_is_the_hosts_again() {
    let Some(_) = linux_kvm() else { return };
    let [before, with, after] = resident_before_with_and_after(&["--balloon"]);
    println!("resident: {before} KiB, then {with} KiB, then {after} KiB");
    // Some of the 96 MiB the guest had touched before.
    assert!(with > before + (80 << 10), "{before} KiB, then {with} KiB");
    assert!(after + (64 << 10) < with, "{with} KiB, then {after} KiB");
}

#[test]
fn balloon_of_a_size_is_filled_and_given_back_when_memory_is_short() {
    let Some(_) = linux_kvm() else { return };
    // Of 256 MiB the balloon takes 128. 150 MiB of files do not fit beside it, unless it shrinks.
    let line = "until [ $(awk '/MemFree/ {print $2}' /proc/meminfo) -lt 130000 ]; do sleep 1; done; \
                mount -t tmpfs -o size=200M tmpfs /mnt; dd if=/dev/zero of=/mnt/file bs=1M count=150 2>/dev/null; \
                wc -c < /mnt/file";
    guest(&["--balloon=128M"], line)
        .expect_code(0)
        .expect_stdout("157286400\n");
}

/// The kernel's figure of that name, of the lines of /proc/meminfo in `text`, in bytes.
fn meminfo(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn guest_tells_how_its_memory_is_used_up_to_its_end() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let path = files.file("report", b"");
    // What is taken after the driver's start shows only if the guest is asked again.
    let line =
        "dd if=/dev/zero of=/tmp/file bs=1M count=100 2>/dev/null; sleep 3; cat /proc/meminfo";
    let done = guest(&["--balloon", "--timeline=json", &path], line).expect_code(0);
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let figure = |name: &str| report["figures"][name].as_u64().unwrap();
    let text = done.text();
    println!("figures: {}", report["figures"]);
    assert_eq!(figure("total"), meminfo(&text, "MemTotal:"));
    for (name, line) in [("free", "MemFree:"), ("available", "MemAvailable:")] {
        let difference = figure(name).abs_diff(meminfo(&text, line));
        assert!(difference < 16 << 20, "{name}: {}\n{text}", figure(name));
    }
    // Faults are not among them: this kernel does not count them (CONFIG_VM_EVENT_COUNTERS).
    assert!(figure("caches") > 100 << 20);
}

#[test]
fn status_line_says_how_much_memory_the_guest_has_free() {
    let Some(_) = linux_kvm() else { return };
    let mut command = Command::new(program());
    let line = "echo st''art; sleep 1000";
    command.args([
        "run",
        "--memory",
        "256M",
        "--balloon",
        "--",
        "sh",
        "-c",
        line,
    ]);
    let mut terminal = Terminal::run(command);
    terminal.wait_for("start");
    terminal.type_keys(b"\x01s");
    terminal.wait_for(", the guest says ");
    terminal.wait_for(" MiB are free");
    terminal.type_keys(b"\x01x");
    terminal.ends_with(114);
}
