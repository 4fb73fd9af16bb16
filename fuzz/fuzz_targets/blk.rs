//! Requests to a disk of 64 KiB, in memory.
#![no_main]

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use arbitrary::Arbitrary;
use cottage::config::disk;
use cottage::virtio::blk::Blk;
use cottage_fuzz::{Part, Step, drive};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// What a driver does.
#[derive(Arbitrary, Debug)]
enum Act {
    Ask {
        kind: u8,
        sector: u64,
        bytes: Vec<u8>,
        room: u16,
    },
    Any(Step),
}

impl Act {
    fn step(self) -> Step {
        match self {
            Self::Any(step) => step,
            Self::Ask {
                kind,
                sector,
                bytes,
                room,
            } => {
                let mut header = u32::from(kind % 15).to_le_bytes().to_vec();
                header.extend([0; 4]);
                header.extend((sector % 130).to_le_bytes());
                let parts = vec![
                    Part::readable(header),
                    Part::readable(bytes),
                    Part::writable(room.into()),
                    Part::writable(1),
                ];
                Step::Request { queue: 0, parts }
            }
        }
    }
}

libfuzzer_sys::fuzz_target!(|input: (bool, Vec<Act>)| {
    let (overlay, acts) = input;
    let steps: Vec<Step> = acts.into_iter().map(Act::step).collect();
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
