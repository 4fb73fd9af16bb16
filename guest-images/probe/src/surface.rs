//! `probe surface`: what a program here can reach. One `key value` a line; `-` where there is no value.
//!
//! No score comes out of this: what is reachable is listed, and the host is a side like any other.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use cottage_probe::capabilities;
use cottage_probe::fields;
use cottage_probe::outcome::Outcome;
use cottage_probe::syscalls::{COUNT, name};
use rustix::fd::OwnedFd;
use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, RawDir, StatVfsMountFlags, accessat, openat,
    readlinkat_raw, statfs, statvfs,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::bare::{self, Fork};
use crate::gate;
use crate::room::{self, Pages};
use crate::say::{self, Text};

/// Directories below /dev and /proc/sys are not followed any deeper.
const DEPTH_MAX: usize = 10;

/// Bytes of names of devices that are told.
const PATHS_MAX: usize = 3 << 10; // 3 KiB

// Source: Linux v6.12, include/uapi/linux/magic.h.
const PROC: u64 = 0x9fa0;
const SYSFS: u64 = 0x6265_6572;

const NAMESPACES: [(&str, &CStr); 8] = [
    ("ns_cgroup", c"/proc/self/ns/cgroup"),
    ("ns_ipc", c"/proc/self/ns/ipc"),
    ("ns_mnt", c"/proc/self/ns/mnt"),
    ("ns_net", c"/proc/self/ns/net"),
    ("ns_pid", c"/proc/self/ns/pid"),
    ("ns_time", c"/proc/self/ns/time"),
    ("ns_user", c"/proc/self/ns/user"),
    ("ns_uts", c"/proc/self/ns/uts"),
];

/// Prints all.
pub fn surface() -> u8 {
    let notes = match gate::try_all() {
        Ok(notes) => notes,
        Err(reason) => return say::failed("cannot try system calls", reason),
    };
    say::number("syscalls_probed", COUNT as u64);
    for (outcome, word) in Outcome::NAMED {
        syscalls(&notes, outcome, word);
    }
    status();
    say::file("uid_map", c"/proc/self/uid_map");
    say::file("gid_map", c"/proc/self/gid_map");
    for (key, path) in NAMESPACES {
        namespace(key, path);
    }
    device_nodes();
    writable_settings();
    mounted("proc_sys", c"/proc/sys", PROC);
    mounted("sys", c"/sys", SYSFS);
    kernel_log();
    say::value("kvm", reachable(c"/dev/kvm"));
    in_child("new_user_namespace", room::new_user_namespace);
    in_child("new_io_uring", room::new_io_uring);
    in_child("packet_socket", packet_socket);
    0
}

/// `syscalls_WORD COUNT NAMES...`; those past the gate are the many, and are not named.
fn syscalls(notes: &Pages, wanted: Outcome, word: &str) {
    let numbers = || (0..COUNT).filter(|&at| gate::outcome(notes, at) == wanted);
    let mut text = Text::new()
        .text(b"syscalls_")
        .text(word.as_bytes())
        .text(b" ")
        .number(numbers().count() as u64);
    let named = numbers().filter(|_| wanted != Outcome::Past);
    for name in named.filter_map(name) {
        text = text.text(b" ").text(name.as_bytes());
    }
    let nameless = numbers().filter(|&at| name(at).is_none()).count();
    if nameless > 0 {
        text = text.text(b" unassigned:").number(nameless as u64);
    }
    say::line(text);
}

/// What /proc/self/status says of rights.
fn status() {
    let mut buffer = [0; 4096];
    let text = match say::read_file(c"/proc/self/status", &mut buffer) {
        Ok(text) => text,
        Err(reason) => return say::nothing("status", reason),
    };
    for (key, name) in [
        ("uid", "Uid"),
        ("gid", "Gid"),
        ("seccomp_mode", "Seccomp"),
        ("no_new_privs", "NoNewPrivs"),
    ] {
        match fields::value(text, name.as_bytes()) {
            Some(value) => say::value(key, say::one_line(Text::new(), value).as_bytes()),
            None => say::nothing(key, Errno::NODATA),
        }
    }
    for (key, name) in [("cap_effective", "CapEff"), ("cap_bounding", "CapBnd")] {
        let set = fields::value(text, name.as_bytes()).unwrap_or_default();
        let mut line = Text::new().text(key.as_bytes()).text(b" ");
        line = line.number(capabilities::names(set).count() as u64);
        for name in capabilities::names(set) {
            line = line.text(b" ").text(name.as_bytes());
        }
        say::line(line);
    }
}

/// A namespace's name, which tells it from all others that exist at the same time.
fn namespace(key: &str, path: &CStr) {
    let mut buffer = [const { MaybeUninit::uninit() }; 64];
    match readlinkat_raw(rustix::fs::CWD, path, &mut buffer) {
        Ok((target, _)) => say::value(key, target),
        Err(reason) => say::nothing(key, reason),
    }
}

/// `device_nodes COUNT PATHS...`, as many paths as a line takes.
fn device_nodes() {
    let (mut count, mut paths) = (0, Text::new());
    let walked = walk(c"/dev", &mut |_, path, kind| {
        if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            count += 1;
            if paths.as_bytes().len() + path.len() < PATHS_MAX {
                paths = core::mem::take(&mut paths).text(b" ").text(path);
            }
        }
    });
    match walked {
        Ok(()) => {
            let text = Text::new().text(b"device_nodes ").number(count);
            say::line(text.text(paths.as_bytes()));
        }
        Err(reason) => say::nothing("device_nodes", reason),
    }
}

/// `kernel_settings WRITABLE TOTAL`: files below /proc/sys. Whether they are writable is what the kernel
/// says to access(2); nothing is written.
fn writable_settings() {
    let (mut writable, mut total) = (0, 0);
    let walked = walk(c"/proc/sys", &mut |directory, path, kind| {
        if kind == FileType::RegularFile {
            total += 1;
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
            let allowed = accessat(directory, name, Access::WRITE_OK, AtFlags::empty());
            writable += u64::from(allowed.is_ok());
        }
    });
    match walked {
        Ok(()) => say::line(
            Text::new()
                .text(b"kernel_settings ")
                .number(writable)
                .text(b" ")
                .number(total),
        ),
        Err(reason) => say::nothing("kernel_settings", reason),
    }
}

/// Calls `visit` with directory, path and kind of everything below `top`.
fn walk(top: &CStr, visit: &mut dyn FnMut(&OwnedFd, &[u8], FileType)) -> Result<(), Errno> {
    let directory = say::open_file(top)?;
    below(
        &directory,
        &Text::new().text(top.to_bytes()),
        DEPTH_MAX,
        visit,
    );
    Ok(())
}

fn below(
    directory: &OwnedFd,
    path: &Text,
    depth: usize,
    visit: &mut dyn FnMut(&OwnedFd, &[u8], FileType),
) {
    let mut buffer = [const { MaybeUninit::uninit() }; 2048];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let here = Text::new().text(path.as_bytes()).text(b"/");
        let here = here.text(name.to_bytes());
        visit(directory, here.as_bytes(), entry.file_type());
        if entry.file_type() == FileType::Directory && depth > 0 {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // One that may not be read hides what is in it from every program like us.
            if let Ok(inner) = openat(directory, name, flags, Mode::empty()) {
                below(&inner, &here, depth - 1, visit);
            }
        }
    }
}

/// Whether a file system is there and can be written, by how it is mounted.
fn mounted(key: &str, path: &CStr, magic: u64) {
    let there = statfs(path).and_then(|system| match system.f_type.unsigned_abs() {
        kind if kind == magic => statvfs(path),
        _ => Err(Errno::NOENT),
    });
    let state: &[u8] = match there {
        Err(reason) => return say::nothing(key, reason),
        Ok(system) if system.f_flag.contains(StatVfsMountFlags::RDONLY) => b"read-only",
        Ok(_) => b"read-write",
    };
    say::value(key, state);
}

/// What the kernel has printed, which tells addresses and devices.
fn kernel_log() {
    let mut buffer = [0; 256];
    result("kernel_log", room::kernel_log(&mut buffer));
}

/// Whether a device can be opened.
fn reachable(path: &CStr) -> &'static [u8] {
    match rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => b"opens",
        Err(Errno::NOENT) => b"absent",
        Err(_) => b"refused",
    }
}

fn packet_socket() -> isize {
    let flags = SocketFlags::CLOEXEC;
    match socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None) {
        Ok(_) => 0,
        Err(reason) => isize::try_from(-reason.raw_os_error()).unwrap_or(-1),
    }
}

/// Tries something in a child, which takes what it changed along when it ends.
fn in_child(key: &str, what: fn() -> isize) {
    match bare::fork() {
        Fork::Failed => say::nothing(key, Errno::AGAIN),
        Fork::Child => {
            result(key, what());
            bare::exit(0)
        }
        Fork::Parent(pid) => {
            let status = waitpid(Pid::from_raw(pid), WaitOptions::empty());
            if !matches!(status, Ok(Some((_, status))) if status.exited()) {
                say::value(key, b"killed");
            }
        }
    }
}

/// `key allowed`, or why not.
fn result(key: &str, result: isize) {
    match i32::try_from(result) {
        Ok(error @ ..=-1) => say::nothing(key, Errno::from_raw_os_error(-error)),
        _ => say::value(key, b"allowed"),
    }
}
