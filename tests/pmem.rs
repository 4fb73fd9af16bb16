//! Files as memory of a real guest, and of two at once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use support::linux_kvm;
use support::program::{Finished, Scratch, cottage, image, program};

/// A file system with one file, `numbers`, as mkfs.erofs 1.5 makes it: seq 20000 > dir/numbers;
/// mkfs.erofs -T0 -U 00000000-0000-0000-0000-000000000001 --all-root erofs dir; gzip -9n erofs
const EROFS: &[u8] = include_bytes!("fixtures/pmem/erofs.gz");
/// An empty ext4 file system; how it was made stands in tests/virtio.rs.
const EXT4: &[u8] = include_bytes!("fixtures/disk/ext4.gz");

fn unpacked(files: &Scratch, packed: &[u8]) -> String {
    let mut bytes = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    files.file("image", &bytes)
}

/// What is in `numbers`.
fn numbers() -> String {
    (1..=20_000).fold(String::new(), |mut text, number| {
        writeln!(text, "{number}").unwrap();
        text
    })
}

/// The beginning of the command line of a machine with the file `pmem`.
fn machine(pmem: &str) -> Vec<String> {
    let words = [
        "run",
        "--kernel",
        &image("full/vmlinux"),
        "--memory",
        "256M",
    ];
    let words = words.into_iter().chain(["--pmem", pmem]);
    words.map(str::to_owned).collect()
}

/// Runs a shell line in the full kernel, with the file `pmem`.
fn guest(pmem: &str, line: &str) -> Finished {
    let words = machine(pmem);
    let words = words.iter().map(String::as_str);
    let words: Vec<_> = words.chain(["--", "sh", "-c", line]).collect();
    cottage(&words)
}

const MOUNT: &str = "mount -t erofs -o ro,dax=always /dev/pmem0 /mnt";

#[test]
fn file_system_is_read_from_the_hosts_page_cache() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let image = unpacked(&files, EROFS);
    let size = fs::metadata(&image).unwrap().len();
    assert_ne!(size % (2 << 20), 0, "the driver wants a multiple of 2 MiB");
    let digest = Sha256::digest(numbers());
    let sum = digest.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    });
    guest(
        &image,
        &format!(
            "{MOUNT} && mount | grep -o dax=always; sha256sum < /mnt/numbers; \
             cat /sys/block/pmem0/size"
        ),
    )
    .expect_code(0)
    .expect_stdout(&format!("dax=always\n{sum}  -\n4096\n"));
}

#[test]
fn what_a_guest_writes_to_a_read_only_file_is_lost() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let image = unpacked(&files, EROFS);
    let before = fs::read(&image).unwrap();
    // Whether the guest survives it is its own matter.
    let run = guest(
        &image,
        "dd if=/dev/zero of=/dev/pmem0 bs=512 count=1 oflag=direct 2>/dev/null; echo tried",
    );
    assert!(run.code == 0 || run.code == 112, "{}", run.stderr);
    assert!(fs::read(&image).unwrap() == before);
}

#[test]
fn writable_file_keeps_what_the_guest_wrote() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let image = unpacked(&files, EXT4);
    let written = guest(
        &format!("{image},rw"),
        "mount -t ext4 /dev/pmem0 /mnt && cp /bin/busybox /mnt/copy && sync && umount /mnt && \
         md5sum < /bin/busybox",
    )
    .expect_code(0);
    guest(
        &image,
        "mount -t ext4 -o ro,noload /dev/pmem0 /mnt && md5sum < /mnt/copy",
    )
    .expect_code(0)
    .expect_last_line(written.text().lines().last().unwrap());
}

/// A machine that has read all of `numbers` and now sleeps.
fn sleeper(image: &str) -> Child {
    let line = format!("{MOUNT} && cat /mnt/numbers > /dev/null && echo ready; sleep 1000");
    let mut child = Command::new(program())
        .args(machine(image))
        .args(["--", "sh", "-c", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut first).unwrap();
    assert_eq!(first.trim_end(), "ready");
    child
}

/// KiB of the file that are in memory for process `id`, and its share of them.
fn resident(id: u32, path: &str) -> [u64; 2] {
    let maps = fs::read_to_string(format!("/proc/{id}/smaps")).unwrap();
    let lines = maps.lines().skip_while(|line| !line.ends_with(path));
    ["Rss:", "Pss:"].map(|field| {
        let line = lines.clone().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    })
}

#[test]
fn two_machines_share_the_pages_of_one_file() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let image = unpacked(&files, EROFS);
    let machines = [sleeper(&image), sleeper(&image)];
    let shares = machines
        .each_ref()
        .map(|child| resident(child.id(), &image));
    for mut machine in machines {
        machine.kill().unwrap();
        machine.wait().unwrap();
    }
    for [resident, share] in shares {
        assert!(resident >= 100, "{shares:?}");
        assert!(share * 2 <= resident + 4, "half of it each: {shares:?}");
    }
}
