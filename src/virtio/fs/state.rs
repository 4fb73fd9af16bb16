//! What a guest holds of a folder, as a value: numbers and paths instead of descriptors.
//!
//! A file's path below the folder is what /proc/self/fd says; it is gone through again name by name,
//! as the guest did ([`super::folder`]), and must lead to the same file. Where it does not, because
//! the file was deleted, replaced or came to be under a mount, the guest's number stands for nothing
//! any more: it gets ESTALE for the file and EBADF for what it had open. Linux looks names up again
//! then; what it had open is lost to it.
//!
//! Source: proc_pid_fd(5). Read next: [`crate::virtio::pmem`].

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, readlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::contents::OPEN_FLAGS;
use super::session::Session;
use super::table::Open;
use super::wire::ROOT;
use crate::virtio::state::Unfit;

/// What a guest holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// A driver has begun a session.
    pub begun: bool,
    /// The files it knows.
    pub known: Vec<Known>,
    /// The files it has open.
    pub open: Vec<OpenFile>,
    /// The next number of either.
    pub next: u64,
}

/// A file that a guest knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// By this number.
    pub number: u64,
    /// Where it is in the folder; a file without a path has none.
    pub path: Option<Vec<u8>>,
    /// The device and number it has on the host.
    pub host: (u64, u64),
    /// How often the guest was told of it.
    pub told: u64,
}

/// A file or directory that a guest has open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenFile {
    /// By this number.
    pub number: u64,
    /// Which of those it knows.
    pub node: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// The flags of open(2), those that last.
    pub flags: u32,
}

impl Session {
    pub(super) fn save(&self) -> State {
        let root = self.path(self.folder.root());
        let known = self.table.known().map(|(number, file, host, told)| Known {
            number,
            path: root.as_deref().and_then(|root| self.path_below(root, file)),
            host,
            told,
        });
        let open = self.table.open_files().map(|(number, open)| OpenFile {
            number,
            node: open.node,
            directory: open.directory,
            flags: fcntl_getfl(&*open.file).map_or(0, |flags| (flags & OPEN_FLAGS).bits()),
        });
        State {
            begun: self.begun,
            known: known.collect(),
            open: open.collect(),
            next: self.table.next(),
        }
    }

    /// Where the host has `file`.
    fn path(&self, file: BorrowedFd<'_>) -> Option<Vec<u8>> {
        let (descriptors, name) = self.folder.by_descriptor(file);
        Some(readlinkat(descriptors, name, Vec::new()).ok()?.into_bytes())
    }

    /// Where it is below `root`.
    fn path_below(&self, root: &[u8], file: BorrowedFd<'_>) -> Option<Vec<u8>> {
        let path = self.path(file)?;
        // The host's own root ends in the slash that others lack.
        let root = root.strip_suffix(b"/").unwrap_or(root);
        Some(path.strip_prefix(root)?.strip_prefix(b"/")?.to_vec())
    }

    pub(super) fn take_over(&mut self, state: State) -> Result<(), Unfit> {
        self.end();
        self.begun = state.begun;
        for known in state.known {
            if known.number <= ROOT || known.number >= state.next {
                return Err(Unfit::Device("a file has a number that none has"));
            }
            if let Some(file) = self.find_again(&known) {
                let told = self.table.tell_again(known.number, file, known.told);
                told.map_err(|_full| Unfit::Device("more files than this folder may hold"))?;
            }
        }
        for open in state.open {
            if open.number <= ROOT || open.number >= state.next {
                return Err(Unfit::Device("an open file has a number that none has"));
            }
            if let Ok(file) = self.open_again(&open) {
                let kept = self.table.keep_again(open.number, file);
                kept.map_err(|_full| Unfit::Device("more open files than this folder may hold"))?;
            }
        }
        self.table.count_from(state.next);
        Ok(())
    }

    fn find_again(&self, known: &Known) -> Option<OwnedFd> {
        let mut file: Option<OwnedFd> = None;
        for name in known.path.as_ref()?.split(|byte| *byte == b'/') {
            let name = CString::new(name).ok()?;
            let directory = file.as_ref().map_or(self.folder.root(), AsFd::as_fd);
            file = Some(self.folder.find(directory, &name).ok()?);
        }
        let stat = fstat(file.as_ref()?).ok()?;
        file.filter(|_| (stat.st_dev, stat.st_ino) == known.host)
    }

    fn open_again(&self, open: &OpenFile) -> Result<Open, Errno> {
        let (kind, flags) = match open.directory {
            true => (FileType::Directory, OFlags::DIRECTORY),
            // What was thrown away at opening has been; checked as when the guest opened it.
            false => (
                FileType::RegularFile,
                self.flags(open.flags)? - OFlags::TRUNC,
            ),
        };
        let file = self.table.file(open.node, self.folder.root())?;
        if self.table.kind(open.node)? != kind {
            return Err(Errno::BADF);
        }
        let file: File = self.folder.reopen(file, flags)?;
        Ok(Open {
            file: Arc::new(file),
            node: open.node,
            directory: open.directory,
        })
    }
}
