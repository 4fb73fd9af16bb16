//! A driver that speaks FUSE by hand.

use std::fs;

use rustix::io::Errno;

use super::SharedFolder;
use super::folder::Folder;
use super::wire::{Body, IN_HEADER, OUT_HEADER, opcode::*};
use crate::virtio::testing::{Driver, Guest, Place, Scratch, read, write};

pub(super) const REQUEST: u64 = 0x1_0000;
pub(super) const ANSWER: u64 = 0x4_0000;
pub(super) const ROOM: u32 = 0x1_0000;
/// The queue of requests.
pub(super) const QUEUE: usize = 1;

/// A folder `in` with the file `file`, beside a file `secret` that is not shared.
pub(super) fn scratch() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("in")).unwrap();
    fs::write(scratch.path("in/file"), "content").unwrap();
    fs::write(scratch.path("secret"), "secret").unwrap();
    scratch
}

pub(super) fn device(scratch: &Scratch, read_only: bool, limit: usize) -> SharedFolder {
    let folder = Folder::open(&scratch.path("in"), read_only).unwrap();
    SharedFolder::new("tag", folder, limit)
}

/// An answer: errno and body.
pub(super) type Answered = Result<Vec<u8>, Errno>;

/// A driver that has begun a session.
#[derive(Debug)]
pub(super) struct Fuse<'a> {
    pub(super) guest: &'a Guest,
    pub(super) driver: Driver<'a>,
}

/// A driver that has left its machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left(Place);

impl Left {
    pub(super) fn again(self, guest: &Guest) -> Fuse<'_> {
        let driver = guest.driver_again(self.0);
        Fuse { guest, driver }
    }
}

impl<'a> Fuse<'a> {
    pub(super) fn left(self) -> Left {
        Left(self.driver.place())
    }

    pub(super) fn new(guest: &'a Guest) -> Self {
        let mut driver = guest.driver();
        driver.start_queue(QUEUE, 0);
        let mut fuse = Self { guest, driver };
        let init = Body::default().u32s(&[7, 38, 0, u32::MAX]);
        let answer = fuse.ask(INIT, 0, &init.0).unwrap();
        assert_eq!(answer.len(), 64);
        fuse
    }

    pub(super) fn ask(&mut self, opcode: u32, node: u64, args: &[u8]) -> Answered {
        self.ask_with_room(opcode, node, args, ROOM)
    }

    pub(super) fn ask_with_room(
        &mut self,
        opcode: u32,
        node: u64,
        args: &[u8],
        room: u32,
    ) -> Answered {
        let len = u32::try_from(IN_HEADER + args.len()).unwrap();
        let header = Body::default().u32s(&[len, opcode]).u64s(&[77, node, 0, 0]);
        self.guest.store(REQUEST, &header.0);
        self.guest.store(REQUEST + IN_HEADER as u64, args);
        self.driver.put(&[read(REQUEST, len), write(ANSWER, room)]);
        let done = self.driver.done();
        let head = self.guest.bytes(ANSWER, OUT_HEADER);
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!(
            done,
            [(0, word(0))],
            "what was written is what the answer says"
        );
        assert_eq!(word(8), 77);
        let body = self.guest.bytes(ANSWER + 16, word(0) as usize - OUT_HEADER);
        match word(4).cast_signed() {
            0 => Ok(body),
            errno => Err(Errno::from_raw_os_error(-errno)),
        }
    }

    pub(super) fn look_up(&mut self, parent: u64, name: &str) -> Result<u64, Errno> {
        self.ask(LOOKUP, parent, &text(name))
            .map(|entry| number(&entry, 0))
    }

    /// Opens `node`; returns the number of the open file.
    pub(super) fn open(&mut self, node: u64, flags: u32) -> Result<u64, Errno> {
        let args = Body::default().u32s(&[flags, 0]);
        self.ask(OPEN, node, &args.0).map(|open| number(&open, 0))
    }

    pub(super) fn read(&mut self, node: u64, open: u64, offset: u64, size: u32) -> Answered {
        let args = Body::default()
            .u64s(&[open, offset])
            .u32s(&[size, 0, 0, 0, 0, 0]);
        self.ask(READ, node, &args.0)
    }

    pub(super) fn write(&mut self, node: u64, open: u64, offset: u64, data: &[u8]) -> Answered {
        let size = u32::try_from(data.len()).unwrap();
        let mut args = Body::default()
            .u64s(&[open, offset])
            .u32s(&[size, 0, 0, 0, 0, 0]);
        args.0.extend_from_slice(data);
        self.ask(WRITE, node, &args.0)
    }
}

pub(super) fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

pub(super) fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Sends a request that has no answer.
pub(super) fn forget(fuse: &mut Fuse<'_>, opcode: u32, node: u64, args: &[u8]) {
    let len = u32::try_from(IN_HEADER + args.len()).unwrap();
    let header = Body::default().u32s(&[len, opcode]).u64s(&[0, node, 0, 0]);
    fuse.guest.store(REQUEST, &header.0);
    fuse.guest.store(REQUEST + IN_HEADER as u64, args);
    fuse.driver.put(&[read(REQUEST, len)]);
    assert_eq!(fuse.driver.done(), [(0, 0)]);
}
