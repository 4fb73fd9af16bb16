//! Channels to programs of the host's: their names under /dev/virtio-ports.
//!
//! The kernel calls a port vport1p1 or the like, and tells its name in a file; links by that name
//! are left to user space, where udev makes them. Here we do. The kernel learns of ports by
//! messages, so they may come a moment after us.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use cottage_init::line::Line;
use cottage_init::run_file::RunFile;
use rustix::fs::{CWD, Mode, OFlags, RawDir, mkdir, open, symlinkat};
use rustix::io::read;
use rustix::thread::{NanosleepRelativeResult, Timespec, nanosleep};

use crate::console::complain;

/// Between two looks.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};
/// After so many looks a port does not come: the kernel has no driver.
const LOOKS: usize = 2000;
/// Longest name that the VMM gives a port, and a line's end.
const NAME: usize = 65;

/// Links the names that the VMM gave to the kernel's.
pub fn name(run: &RunFile) {
    if run.ports().next().is_none() {
        return;
    }
    let _ = mkdir(c"/dev/virtio-ports", Mode::from_raw_mode(0o755));
    for _ in 0..LOOKS {
        link_all();
        if run.ports().all(is_there) {
            return;
        }
        // No signal is let through here.
        let NanosleepRelativeResult::Ok = nanosleep(&PAUSE) else {
            continue;
        };
    }
    for port in run.ports().filter(|port| !is_there(port)) {
        complain(port, b"this kernel shows no port of this name");
    }
}

fn is_there(port: &CStr) -> bool {
    let path = Line::<96>::new()
        .text(b"/dev/virtio-ports/")
        .text(port.to_bytes());
    path.as_c_str()
        .is_some_and(|path| rustix::fs::lstat(path).is_ok())
}

/// Links what the kernel shows by now.
fn link_all() {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(class) = open(c"/sys/class/virtio-ports", flags, Mode::empty()) else {
        return;
    };
    let mut buffer = [const { MaybeUninit::uninit() }; 2048];
    let mut entries = RawDir::new(class, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        link(entry.file_name());
    }
}

fn link(kernels_name: &CStr) -> Option<()> {
    let device = kernels_name.to_bytes();
    if device.starts_with(b".") {
        return None;
    }
    let path = Line::<96>::new().text(b"/sys/class/virtio-ports/");
    let path = path.text(device).text(b"/name");
    let file = open(
        path.as_c_str()?,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let mut buffer = [0; NAME];
    let count = read(file, &mut buffer[..]).ok()?;
    let name = buffer.get(..count)?.trim_ascii_end();
    let link = Line::<96>::new().text(b"/dev/virtio-ports/").text(name);
    let target = Line::<96>::new().text(b"../").text(device);
    symlinkat(target.as_c_str()?, CWD, link.as_c_str()?).ok()
}
