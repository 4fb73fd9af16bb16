//! A root file system of the user's: mounted, and then entered for good.
//!
//! It is the first disk, a folder of the host's, or a directory's files that the initramfs brought. Between the two steps
//! the initramfs is still there: its programs set up the network ([`crate::network`]).
//!
//! Sources: switch_root(8); Linux `Documentation/filesystems/ramfs-rootfs-initramfs.rst`, v6.12,
//! for why it is a move and no pivot_root(2); `Documentation/filesystems/overlayfs.rst`.

use core::ffi::CStr;

use cottage_init::line::Line;
use cottage_init::run_file::{Root, RootMode};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdir, open, statat};
use rustix::io::{Errno, read, write};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move, mount_remount};
use rustix::process::{chdir, chroot};

use crate::console::complain;

/// The first virtio disk, which is the root's.
const DISK: &CStr = c"/dev/vda";
/// The tag of the folder that is the root: `TAG` in `src/config/rootfs.rs`.
const FOLDER: &CStr = c".root";
/// The file system of a folder.
const VIRTIOFS: &CStr = c"virtiofs";
/// Where the root is before it is entered; a directory's files are there already.
const ROOT: &CStr = c"/.cottage/root";
/// The image or folder under an overlay.
const LOWER: &CStr = c"/.cottage/lower";
/// What is written over it: memory.
const OVER: &CStr = c"/.cottage/over";

/// Mounts that go along: here, and there.
const MOVED: [(&CStr, &CStr); 4] = [
    (c"/dev", c"/.cottage/root/dev"),
    (c"/proc", c"/.cottage/root/proc"),
    (c"/sys", c"/.cottage/root/sys"),
    (c"/run", c"/.cottage/root/run"),
];

/// Mounts the root; false, after saying why, if it does not go.
pub fn attach(root: &Root) -> bool {
    let _ = mkdir(ROOT, Mode::from_raw_mode(0o755));
    let Some(kind) = root.kind else {
        // Only what is mounted can be moved.
        return report(ROOT, c"directory", mount_bind(ROOT, ROOT));
    };
    match root.mode {
        RootMode::Write => mount_device(ROOT, kind, MountFlags::empty()),
        RootMode::ReadOnly => mount_device(ROOT, kind, MountFlags::RDONLY),
        RootMode::Overlay => mount_overlay(kind),
    }
}

/// What the root is mounted from.
fn device(kind: &CStr) -> &'static CStr {
    if kind == VIRTIOFS { FOLDER } else { DISK }
}

fn mount_device(target: &CStr, kind: &CStr, flags: MountFlags) -> bool {
    let device = device(kind);
    let mounted = mount(device, target, kind, flags, c"");
    report(device, kind, mounted)
}

/// The image or folder below, memory above: for what may not be written.
fn mount_overlay(kind: &CStr) -> bool {
    for directory in [LOWER, OVER] {
        let _ = mkdir(directory, Mode::from_raw_mode(0o755));
    }
    if !mount_device(LOWER, kind, MountFlags::RDONLY) {
        return false;
    }
    let _ = mount(c"over", OVER, c"tmpfs", MountFlags::empty(), c"mode=0755");
    for directory in [c"/.cottage/over/upper", c"/.cottage/over/work"] {
        let _ = mkdir(directory, Mode::from_raw_mode(0o755));
    }
    let options =
        c"lowerdir=/.cottage/lower,upperdir=/.cottage/over/upper,workdir=/.cottage/over/work";
    let mounted = mount(c"root", ROOT, c"overlay", MountFlags::empty(), options);
    report(device(kind), c"overlay", mounted)
}

fn report(what: &CStr, kind: &CStr, result: rustix::io::Result<()>) -> bool {
    let Err(error) = result else { return true };
    let reason: &[u8] = match error {
        Errno::NODEV => b": the kernel has no such file system",
        Errno::NOENT | Errno::NXIO => b": there is no such disk; has the kernel a driver for it?",
        Errno::ROFS => b": its journal must be replayed, so it cannot be read only; try overlay",
        Errno::INVAL if kind == VIRTIOFS => b": there is no such folder; has the kernel a driver?",
        Errno::INVAL => b": it is damaged, or newer than the kernel",
        _ => b"",
    };
    let number = error.raw_os_error().unsigned_abs();
    let line = Line::<200>::new()
        .text(b"cannot be mounted as ")
        .text(kind.to_bytes())
        .text(reason)
        .text(b" (error ")
        .number(number.into())
        .text(b")");
    complain(what, line.as_bytes());
    false
}

/// Whether the root, before it is entered, has an init of its own.
///
/// The last link is not followed: it may be absolute, and lead to the right place only once the root
/// is entered.
pub fn has_init() -> bool {
    statat(CWD, c"/.cottage/root/sbin/init", AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Makes the root everybody's root. The initramfs stays below, unseen.
pub fn enter(root: &Root) {
    name_servers();
    for (here, there) in MOVED {
        move_mount(here, there);
    }
    // Programs expect to be able to write here; where the root can be written, its own is as good.
    if root.mode == RootMode::ReadOnly {
        move_mount(c"/tmp", c"/.cottage/root/tmp");
    }
    let moved = chdir(ROOT)
        .and_then(|()| mount_move(c".", c"/"))
        .and_then(|()| chroot(c"."))
        .and_then(|()| chdir(c"/"));
    if moved.is_err() {
        complain(ROOT, b"cannot be entered");
    }
}

/// Writes out what the root holds back and leaves it as after an orderly end: whoever reads the image
/// next need not replay its journal. A root in memory does not mind.
pub fn leave() {
    let _ = mount_remount(c"/", MountFlags::RDONLY, c"");
}

fn move_mount(here: &CStr, there: &CStr) {
    let _ = mkdir(there, Mode::from_raw_mode(0o755));
    if mount_move(here, there).is_err() {
        complain(here, b"has no directory in the root to be moved to");
    }
}

/// Shows the name servers of DHCP in the root, over its own list of them, which stays as it is.
fn name_servers() {
    let told = c"/etc/resolv.conf";
    let Ok(from) = open(told, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let Ok(to) = open(c"/run/resolv.conf", flags, Mode::from_raw_mode(0o644)) else {
        return;
    };
    copy(&from, &to);
    let theirs = c"/.cottage/root/etc/resolv.conf";
    // A root without the file gets one, if it can be written.
    let _ = open(
        theirs,
        OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::from_raw_mode(0o644),
    );
    let _ = mount_bind(c"/run/resolv.conf", theirs);
}

/// A few lines of text; more than the buffer holds nobody needs.
fn copy(from: &OwnedFd, to: &OwnedFd) {
    let mut buffer = [0; 4096];
    if let Ok(count) = read(from, &mut buffer[..]) {
        let _ = write(to, buffer.get(..count).unwrap_or_default());
    }
}
