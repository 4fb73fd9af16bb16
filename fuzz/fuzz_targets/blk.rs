//! Requests to a disk of 64 KiB, in memory.
#![no_main]

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use cottage::config::disk;
use cottage::virtio::blk::Blk;
use cottage_fuzz::{Step, drive};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

libfuzzer_sys::fuzz_target!(|input: (bool, Vec<Step>)| {
    let (overlay, steps) = input;
    let file = memfd_create("disk", MemfdFlags::CLOEXEC).expect("a file in memory");
    ftruncate(&file, 64 << 10).expect("64 KiB");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut word = path.into_os_string();
    if overlay {
        word.push(",overlay");
    }
    let disks = disk::parse_all(None, &[word]).expect("a disk");
    let blk = Blk::open(&disks[0], |_| ()).expect("an image");
    drive(Arc::new(blk), &steps);
});
