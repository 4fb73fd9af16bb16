//! File systems that programs expect.
//!
//! Failures are passed over: a small kernel lacks some of these, and a user's own initramfs may
//! have mounted others. What is really missing is noticed by whoever needs it.

use core::ffi::CStr;

use cottage_init::run_file::{RunFile, Share};
use rustix::fs::{AtFlags, CWD, Mode, mkdir, symlinkat, unlinkat};
use rustix::mount::{MountFlags, mount};

use crate::console::complain;

/// Linux's longest path, with its NUL.
const PATH_MAX: usize = 4096;

struct Entry {
    target: &'static CStr,
    kind: &'static CStr,
    flags: MountFlags,
    options: &'static CStr,
}

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const NO_PROGRAMS: MountFlags = PLAIN.union(MountFlags::NOEXEC);
const DEVICES: MountFlags = MountFlags::NOSUID;

const fn entry(
    target: &'static CStr,
    kind: &'static CStr,
    flags: MountFlags,
    options: &'static CStr,
) -> Entry {
    Entry {
        target,
        kind,
        flags,
        options,
    }
}

/// In order: a mount point may lie in the file system before it.
const TABLE: [Entry; 8] = [
    entry(c"/proc", c"proc", NO_PROGRAMS, c""),
    entry(c"/sys", c"sysfs", NO_PROGRAMS, c""),
    entry(c"/sys/fs/cgroup", c"cgroup2", NO_PROGRAMS, c""),
    entry(c"/dev", c"devtmpfs", DEVICES, c"mode=0755"),
    // Group 5 is "tty" in every distribution.
    entry(
        c"/dev/pts",
        c"devpts",
        DEVICES,
        c"gid=5,mode=0620,ptmxmode=0666",
    ),
    entry(c"/dev/shm", c"tmpfs", PLAIN, c"mode=1777"),
    entry(c"/run", c"tmpfs", PLAIN, c"mode=0755"),
    entry(c"/tmp", c"tmpfs", PLAIN, c"mode=1777"),
];

/// What devtmpfs leaves to user space.
const LINKS: [(&CStr, &CStr); 4] = [
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
];

/// Mounts what is not mounted, making mount points on the way.
pub fn mount_all() {
    for Entry {
        target,
        kind,
        flags,
        options,
    } in TABLE
    {
        if kind == c"tmpfs" && holds_files(target) {
            continue;
        }
        let _ = mkdir(target, Mode::from_raw_mode(0o755));
        let _ = mount(kind, target, kind, flags, options);
    }
    for (to, link) in LINKS {
        let _ = symlinkat(to, CWD, link);
    }
}

/// Mounts the folders that the host shares. One that cannot be is told on the console and passed
/// over: the command can still run.
pub fn mount_shares(run: &RunFile) {
    for Share { tag, at, read_only } in run.shares() {
        make_directories(at);
        let mut flags = PLAIN;
        if read_only {
            flags |= MountFlags::RDONLY;
        }
        if mount(tag, at, c"virtiofs", flags, c"").is_err() {
            complain(tag, b"cannot be mounted: has the kernel virtiofs?");
        }
    }
}

/// Makes the directory `path` and those above it, as far as they are missing.
fn make_directories(path: &CStr) {
    let mut buffer = [0; PATH_MAX];
    let bytes = path.to_bytes_with_nul();
    for (at, byte) in bytes.iter().enumerate() {
        let ends = at > 0 && matches!(byte, b'/' | 0);
        // Behind what was copied the buffer is zero: a C string ends there.
        if ends && let Ok(directory) = CStr::from_bytes_until_nul(&buffer) {
            let _ = mkdir(directory, Mode::from_raw_mode(0o755));
        }
        if let Some(place) = buffer.get_mut(at) {
            *place = *byte;
        }
    }
}

/// Whether an initramfs brought files for this directory, which a mount would hide.
///
/// Tries to remove it, which the kernel does only if it is empty; the caller makes it again.
fn holds_files(directory: &CStr) -> bool {
    unlinkat(CWD, directory, AtFlags::REMOVEDIR) == Err(rustix::io::Errno::NOTEMPTY)
}
