//! Packets of a guest, most of them with a header that fits, while a program of the host's asks to be
//! connected.
#![no_main]

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use arbitrary::Arbitrary;
use cottage::config::vsock;
use cottage::virtio::vsock::Vsock;
use cottage_fuzz::{Part, Step, drive};

#[derive(Arbitrary, Debug)]
enum Act {
    Say {
        op: u8,
        ports: (u8, u8),
        flags: u8,
        credit: (u32, u32),
        payload: Vec<u8>,
        wrong: Option<(u8, u8)>,
    },
    Listen(u16),
    Any(Step),
}

impl Act {
    fn step(self) -> Step {
        match self {
            Self::Any(step) => step,
            Self::Listen(room) => Step::Request {
                queue: 0,
                parts: vec![Part::writable(u32::from(room))],
            },
            Self::Say {
                op,
                ports,
                flags,
                credit,
                payload,
                wrong,
            } => {
                let mut bytes = 3_u64.to_le_bytes().to_vec();
                bytes.extend(2_u64.to_le_bytes());
                bytes.extend((u32::from(ports.0 % 4) + 1000).to_le_bytes());
                bytes.extend((u32::from(ports.1 % 4) + 5000).to_le_bytes());
                bytes.extend((payload.len() as u32).to_le_bytes());
                bytes.extend(1_u16.to_le_bytes());
                bytes.extend(u16::from(op % 9).to_le_bytes());
                bytes.extend(u32::from(flags % 5).to_le_bytes());
                bytes.extend(credit.0.to_le_bytes());
                bytes.extend(credit.1.to_le_bytes());
                if let Some((at, value)) = wrong {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] = value;
                }
                bytes.extend(payload);
                Step::Request {
                    queue: 1,
                    parts: vec![Part::readable(bytes)],
                }
            }
        }
    }
}

libfuzzer_sys::fuzz_target!(|input: (Vec<u8>, Vec<Act>)| {
    let (greeting, acts) = input;
    let path = PathBuf::from(format!("/dev/shm/cottage-fuzz-{}", std::process::id()));
    let served = PathBuf::from(format!("{}_5001", path.display()));
    let _not_there = std::fs::remove_file(&served);
    let listener = UnixListener::bind(&served).expect("a socket");
    let config = vsock::parse(path.as_os_str()).expect("a path");
    let device = Arc::new(Vsock::open(&config).expect("a socket"));
    let client = UnixStream::connect(&path).expect("it listens");
    client.set_nonblocking(true).expect("a socket");
    let _more_than_it_takes = (&client).write(&greeting);
    let steps: Vec<Step> = acts.into_iter().map(Act::step).collect();
    drive(device, &steps);
    drop(listener);
});
