//! Lab 17: an initramfs by hand, and a process 1 of 191 bytes.
//!
//! The first program of a Linux is a file in an archive that the loader has put into memory. Archive and
//! program are made here byte by byte; `cottage run` boots them. Source: `[buffer]` Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`, v6.12; `[elf]` System V ABI, "Object
//! Files". Read next: [`super::lab18_virtio`].

use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{Guest, listed, op};
use super::tale::{Stop, Tale, host};
use crate::bundle;
use crate::timeline::child::exit_code;
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "initramfs",
    title: "an initramfs by hand, with a process 1 of our own",
    page: include_str!("../../docs/labs/17-initramfs.md"),
    linux: true,
    guests: &[INIT],
    variants: &[Variant {
        name: "mode",
        what: "/init has mode 0644: nobody may execute it",
        recognise: "a kernel panic that says it has no working init, or could not mount a root: it looks for \
                    another root where it cannot execute /init. Status 113",
    }],
    answer: Answer {
        right: &["4"],
        why: "names and data are filled up to a multiple of 4 bytes",
    },
    run,
};

/// Where the ELF file says it wants to be, and where its code is in it: behind the two headers.
const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// [`BASE`] + [`HEADERS`]: what runs first.
#[rustfmt::skip]
const INIT: Guest = Guest {
    at: BASE + HEADERS,
    width: Width::Bits64,
    ops: &[
        op(&[0xb8, 0x01, 0x00, 0x00, 0x00], "mov eax, 1", "write("),
        op(&[0xbf, 0x01, 0x00, 0x00, 0x00], "mov edi, 1", "1, the console,"),
        op(&[0x48, 0x8d, 0x35, 0x1d, 0x00, 0x00, 0x00], "lea rsi, [0x4000a6]", "the text,"),
        op(&[0xba, 0x19, 0x00, 0x00, 0x00], "mov edx, 0x19", "its length)"),
        op(&[0x0f, 0x05], "syscall", "ask the kernel"),
        op(&[0xb8, 0xa9, 0x00, 0x00, 0x00], "mov eax, 0xa9", "reboot("),
        op(&[0xbf, 0xad, 0xde, 0xe1, 0xfe], "mov edi, 0xfee1dead", "LINUX_REBOOT_MAGIC1,"),
        op(&[0xbe, 0x69, 0x19, 0x12, 0x28], "mov esi, 0x28121969", "LINUX_REBOOT_MAGIC2,"),
        op(&[0xba, 0x67, 0x45, 0x23, 0x01], "mov edx, 0x1234567", "LINUX_REBOOT_CMD_RESTART)"),
        op(&[0x0f, 0x05], "syscall", "ask the kernel"),
    ],
};
const TEXT: &[u8] = b"hello from lab 17's init\n";

fn run(tale: &mut Tale) -> Result<(), Stop> {
    super::needs_linux()?;
    let init = elf(&[&INIT.bytes(), TEXT].concat());
    tale.say(format!(
        "a program: ELF header, program header, code and text, {} bytes",
        init.len()
    ));
    if !tale.is_broken() {
        for (line, comment) in INIT.lines() {
            tale.say(listed(&line, comment));
        }
    }
    let mode = if tale.breaks("mode") {
        0o100_644
    } else {
        0o100_755
    };
    let archive = [
        entry(1, "init", mode, &init),
        entry(0, "TRAILER!!!", 0, &[]),
    ]
    .concat();
    tale.say(format!(
        "an archive: /init with mode {mode:o}, and a trailer, {} bytes",
        archive.len()
    ));

    // A file without a name, which the child finds by the number of our descriptor.
    let file = memfd_create("initramfs", MemfdFlags::empty());
    let mut file = std::fs::File::from(file.map_err(host("make a file in memory"))?);
    file.write_all(&archive)
        .map_err(host("write the archive"))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());

    tale.say("cottage run --initramfs FILE");
    let mut child = Command::new(bundle::program());
    child
        .args(["run", "--initramfs", &path])
        .stdin(Stdio::null());
    let output = child.output().map_err(host("start cottage"))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // The kernel's panic, but not its stack.
        if line.contains("hello") || line.contains("Kernel panic") {
            tale.say(format!("  console: {}", line.trim_end()));
        }
    }
    tale.say(format!("  its exit status: {}", exit_code(output.status)));
    Ok(())
}

/// An ELF file with one segment: all of it. [elf] figures 4-3 and 5-1
fn elf(code: &[u8]) -> Vec<u8> {
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec(); // 64 bits, little-endian, version 1
    file.resize(16, 0);
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes()); // an executable, for x86-64
    }
    file.extend(1_u32.to_le_bytes()); // version
    for word in [BASE + HEADERS, 64, 0] {
        file.extend(word.to_le_bytes()); // entry, program headers' place, no section headers
    }
    file.extend(0_u32.to_le_bytes()); // flags
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes()); // sizes of the headers, one program header, no sections
    }
    for word in [1_u32, 5] {
        file.extend(word.to_le_bytes()); // PT_LOAD, readable and executable
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(word.to_le_bytes()); // from 0 of the file to BASE, all of it, on a page
    }
    [&file, code].concat()
}

/// A file in the archive: 6 letters, 13 numbers of 8 digits, the name, the data. [buffer]
fn entry(inode: u32, name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let len = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    // Inode, mode, owner, group, links, time, size, device (2), device it is (2), length of the name
    // with its NUL, checksum.
    let fields = [
        inode,
        mode,
        0,
        0,
        1,
        0,
        len(data.len()),
        0,
        0,
        0,
        0,
        len(name.len() + 1),
        0,
    ];
    let mut bytes = b"070701".to_vec();
    bytes.extend(
        fields
            .iter()
            .flat_map(|field| format!("{field:08x}").into_bytes()),
    );
    bytes.extend(name.bytes().chain([0]));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
