//! The shared folder: virtio-fs, which is FUSE over virtqueues.
//!
//! - [`wire`] for requests and answers as bytes;
//! - [`folder`] for the host's folder and the only ways into it;
//! - [`table`] for what the guest holds, with a limit;
//! - [`session`] for names;
//! - [`contents`] for what is in files and directories;
//! - [`xattr`] for attributes that files have by name;
//! - [`state`] for what the guest holds, as a value.
//!
//! ```text
//!  guest:  open("/mnt/TAG/a/b") ─▶ VFS ─▶ FUSE ─▶ LOOKUP a, LOOKUP b, OPEN, READ ... ─▶ queue 1
//!  here:                                            find, find, reopen, preadv ◀──────────┘
//! ```
//!
//! One thread serves a folder's two queues. Queue 0 is for what must not wait behind the rest, which
//! is forgetting. The guest's kernel checks modes and owners; the host's checks what the user who
//! runs cottage may, and cottage never changes who it is.
//!
//! A request without a whole header, with a wrong length or without room for an answer is a
//! rule broken ([`Broken`]); all else is answered, if need be with an errno. `ro` is enforced
//! here, before a request is looked at further ([`wire::Header::changes`]), and by files not being
//! open for writing.
//!
//! Why our own server: docs/adr/0015.
//! Source: `[virtio]` 1.2, section 5.11 "File System Device". Read next: [`wire`].

pub mod wire;
pub mod folder;
pub mod table;
pub mod session;
pub mod contents;
pub mod xattr;
pub mod state;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;

use super::blk::request::{copy, cut, len, spread};
use super::state::{DeviceState, Unfit};
use super::{Broken, Device, Request};
use crate::config::share::{MAX_TAG, Share};
use crate::memory::GuestMemory;
use crate::memory::transfer::Segment;
use contents::Data;
use folder::Folder;
use session::{Answer, Session};
use wire::{Args, Body, Header, IN_HEADER, OUT_HEADER, WRITE_IN, opcode};

/// Entries of the queue for what must not wait, and of the queue for requests: one of
/// [`session::MAX_DATA`] in single pages has 256 parts and a few more.
const QUEUES: [u16; 2] = [16, 512];
/// Bytes of the configuration space: the tag and the number of request queues. `[virtio]` 5.11.4
const CONFIG: usize = MAX_TAG + 4;
/// Most bytes of arguments, data to write apart: an attribute's value with its name, or what is
/// forgotten at once.
const MAX_ARGS: u64 = xattr::MAX_VALUE as u64 + 512;
/// Most files that one folder's guest can know or have open, if the host lets us have as many.
const MAX_FILES: u64 = 256 << 10;
/// Descriptors kept for everything else in the process.
const OTHER_FILES: u64 = 256;

/// A shared folder.
#[derive(Debug)]
pub struct SharedFolder {
    tag: String,
    config: [u8; CONFIG],
    session: Mutex<Session>,
}

impl SharedFolder {
    /// Opens the folder that `share` describes, one of `count`.
    ///
    /// # Errors
    /// [`folder::Error`] with the path and what to do.
    pub fn open(share: &Share, count: usize) -> Result<Self, folder::Error> {
        let folder = Folder::open(&share.path, share.read_only)?;
        Ok(Self::new(&share.tag, folder, file_limit(count)))
    }

    fn new(tag: &str, folder: Folder, limit: usize) -> Self {
        let mut config = [0; CONFIG];
        // The tag, filled up with zeros, and 1 in little-endian.
        let bytes = tag.bytes().chain(std::iter::repeat(0)).take(MAX_TAG);
        let bytes = bytes.chain(1_u32.to_le_bytes());
        config
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
        Self {
            tag: tag.to_owned(),
            config,
            session: Mutex::new(Session::new(folder, limit)),
        }
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request whose header is `header` and whose rest is `body`.
    fn answer(
        &self,
        header: &Header,
        body: &[Segment],
        input: &[Segment],
        memory: &GuestMemory,
    ) -> Result<Answer, Errno> {
        let args_len = match header.opcode {
            opcode::WRITE => len(body).min(WRITE_IN as u64),
            _ => len(body),
        };
        if args_len > MAX_ARGS {
            return Err(Errno::TOOBIG);
        }
        let mut args = vec![0; usize::try_from(args_len).unwrap_or(0)];
        copy(body, memory, &mut args).ok_or(Errno::FAULT)?;
        let (_, output) = cut(body, args_len);
        let data = Data {
            memory,
            output: &output,
            input,
        };
        let answer = self.session().answer(header, Args(&args), &data)?;
        match &answer {
            // The guest asks for less than there is to say.
            Answer::Body(Body(bytes)) if bytes.len() as u64 > len(input) => Err(Errno::INVAL),
            _ => Ok(answer),
        }
    }
}

impl Device for SharedFolder {
    fn name(&self) -> &'static str {
        "virtio-fs"
    }

    fn label(&self) -> String {
        format!("virtio-fs {}", self.tag)
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &'static [u16] {
        &QUEUES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken> {
        let (chain, memory) = (request.chain, request.memory);
        let wrong = |reason| Broken::Chain {
            head: chain.head,
            reason,
        };
        let mut header = [0; IN_HEADER];
        copy(&chain.readable, memory, &mut header)
            .ok_or_else(|| wrong("it has no whole FUSE header"))?;
        let header = Header::parse(&header);
        if u64::from(header.len) != len(&chain.readable) {
            return Err(wrong("its FUSE header says another length"));
        }
        if !header.is_silent() && len(&chain.writable) < OUT_HEADER as u64 {
            return Err(wrong("it has no room for a FUSE answer"));
        }
        let (_, body) = cut(&chain.readable, IN_HEADER as u64);
        let (place, input) = cut(&chain.writable, OUT_HEADER as u64);
        let answer = self.answer(&header, &body, &input, memory);
        if header.is_silent() {
            return Ok(0);
        }
        let (written, errno) = match answer {
            Ok(Answer::Written(written)) => (written, 0),
            Ok(Answer::Body(Body(bytes))) => {
                spread(&bytes, &input, memory).ok_or_else(|| wrong("it left RAM"))?;
                (bytes.len(), 0)
            }
            Err(errno) => (0, errno.raw_os_error()),
        };
        let head = wire::out_header(written, errno, header.unique);
        spread(&head, &place, memory).ok_or_else(|| wrong("it left RAM"))?;
        Ok(u32::try_from(OUT_HEADER + written).unwrap_or(u32::MAX))
    }

    fn save(&self) -> DeviceState {
        DeviceState::Fs(self.session().save())
    }

    fn restore(&self, state: DeviceState) -> Result<(), Unfit> {
        let DeviceState::Fs(state) = state else {
            return Err(Unfit::Device("it was no folder"));
        };
        self.session().take_over(state)
    }

    fn stopped(&self) {
        self.session().end();
    }
}

/// How many files and open files each of `count` folders can have. The process may have more than
/// at its start: as many as the user may choose (setrlimit(2)).
fn file_limit(count: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let ours = now.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES);
    let each = (ours / count.max(1) as u64).clamp(1, MAX_FILES);
    usize::try_from(each).unwrap_or(1)
}
