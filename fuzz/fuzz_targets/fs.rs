//! FUSE requests to a folder in memory, most of them with a header that fits.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arbitrary::Arbitrary;
use cottage::config::share;
use cottage::virtio::fs::SharedFolder;
use cottage_fuzz::{Part, Step, drive};

#[derive(Arbitrary, Debug)]
enum Act {
    Ask {
        queue: bool,
        opcode: u8,
        node: u8,
        arguments: Vec<u8>,
        name: Option<u8>,
        room: u16,
    },
    Any(Step),
}

/// Names that mean something, here or anywhere.
const NAMES: [&[u8]; 8] = [
    b"file\0", b"dir\0", b"link\0", b"..\0", b".\0", b"a/b\0", b"\0", b"new\0",
];

impl Act {
    fn step(self) -> Step {
        match self {
            Self::Any(step) => step,
            Self::Ask {
                queue,
                opcode,
                node,
                arguments,
                name,
                room,
            } => {
                let name = name.map_or(&b""[..], |at| NAMES[usize::from(at) % NAMES.len()]);
                let len = 40 + arguments.len() + name.len();
                let mut bytes = (len as u32).to_le_bytes().to_vec();
                bytes.extend(u32::from(opcode % 54).to_le_bytes());
                bytes.extend(7_u64.to_le_bytes());
                bytes.extend(u64::from(node % 8).to_le_bytes());
                bytes.extend([0; 16]);
                bytes.extend(arguments);
                bytes.extend(name);
                let parts = vec![Part::readable(bytes), Part::writable(room.into())];
                Step::Request {
                    queue: u8::from(queue),
                    parts,
                }
            }
        }
    }
}

libfuzzer_sys::fuzz_target!(|input: (bool, Vec<Act>)| {
    let (read_only, acts) = input;
    let folder = PathBuf::from(format!("/dev/shm/cottage-fuzz-{}", std::process::id()));
    let _not_there = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("dir")).expect("a folder in memory");
    fs::write(folder.join("file"), b"content").expect("a file");
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).expect("a link");
    let mut word = folder.clone().into_os_string();
    word.push(if read_only { ":tag,ro" } else { ":tag" });
    let shares = share::parse_all(None, &[word]).expect("a share");
    let steps: Vec<Step> = acts.into_iter().map(Act::step).collect();
    drive(
        Arc::new(SharedFolder::open(&shares[0], 1).expect("a folder")),
        &steps,
    );
    let _next_input_does_it = fs::remove_dir_all(&folder);
});
