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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::virtio::fs::testing::*;
    use crate::virtio::fs::wire::{Body, opcode::*};
    use crate::virtio::testing::{Guest, Scratch};

    const RDWR: u32 = 2;
    const APPEND: u32 = 0o2000;

    fn guest(scratch: &Scratch) -> Guest {
        fs::create_dir(scratch.path("in/dir")).unwrap();
        Guest::with(device(scratch, false, 100))
    }

    /// The same guest elsewhere.
    fn moved<'a>(guest: &'a mut Option<Guest>, scratch: &Scratch, fuse: Left) -> Fuse<'a> {
        let old = guest.take().unwrap();
        let new = old.moved(|| Arc::new(device(scratch, false, 100)));
        fuse.again(guest.insert(new))
    }

    #[test]
    fn open_file_goes_on_where_it_was_also_under_another_name() {
        let scratch = scratch();
        let mut guest = Some(guest(&scratch));
        let mut fuse = Fuse::new(guest.as_ref().unwrap());
        let dir = fuse.look_up(ROOT, "dir").unwrap();
        let file = fuse.look_up(ROOT, "file").unwrap();
        let open = fuse.open(file, RDWR | APPEND).unwrap();
        assert_eq!(fuse.read(file, open, 0, 3).unwrap(), b"con");
        let names = [text("file"), text("other")].concat();
        let args = [Body::default().u64s(&[dir]).0, names].concat();
        fuse.ask(RENAME, ROOT, &args).unwrap();
        let left = fuse.left();
        let mut fuse = moved(&mut guest, &scratch, left);
        assert_eq!(fuse.read(file, open, 3, 100).unwrap(), b"tent");
        // Opened for appending, as before.
        fuse.write(file, open, 0, b"!").unwrap();
        assert_eq!(fs::read(scratch.path("in/dir/other")).unwrap(), b"content!");
        // Known by the same number, told of twice now, and new files get other numbers.
        assert_eq!(fuse.look_up(dir, "other").unwrap(), file);
        fs::write(scratch.path("in/new"), "").unwrap();
        let new = fuse.look_up(ROOT, "new").unwrap();
        assert!(![dir, file, open].contains(&new));
        forget(&mut fuse, FORGET, file, &1_u64.to_le_bytes());
        assert!(fuse.open(file, RDWR).is_ok());
        forget(&mut fuse, FORGET, file, &1_u64.to_le_bytes());
        assert_eq!(fuse.open(file, RDWR), Err(Errno::STALE));
    }

    #[test]
    fn open_directory_is_listed_on() {
        let scratch = scratch();
        let mut guest = Some(guest(&scratch));
        let mut fuse = Fuse::new(guest.as_ref().unwrap());
        let open = number(&fuse.ask(OPENDIR, ROOT, &[0; 8]).unwrap(), 0);
        let list = |fuse: &mut Fuse<'_>| {
            let args = Body::default()
                .u64s(&[open, 0])
                .u32s(&[4096, 0, 0, 0, 0, 0]);
            fuse.ask(READDIR, ROOT, &args.0)
        };
        let before = list(&mut fuse).unwrap();
        let left = fuse.left();
        let mut fuse = moved(&mut guest, &scratch, left);
        assert_eq!(list(&mut fuse).unwrap(), before);
    }

    #[test]
    fn file_that_was_deleted_or_replaced_is_gone() {
        let scratch = scratch();
        fs::write(scratch.path("in/second"), "old").unwrap();
        let mut guest = Some(guest(&scratch));
        let mut fuse = Fuse::new(guest.as_ref().unwrap());
        let file = fuse.look_up(ROOT, "file").unwrap();
        let second = fuse.look_up(ROOT, "second").unwrap();
        let open = [file, second].map(|file| fuse.open(file, RDWR).unwrap());
        fs::remove_file(scratch.path("in/file")).unwrap();
        // Made while the old one is still there, so that it is another file.
        fs::write(scratch.path("in/third"), "new").unwrap();
        fs::rename(scratch.path("in/third"), scratch.path("in/second")).unwrap();
        let left = fuse.left();
        let mut fuse = moved(&mut guest, &scratch, left);
        for (file, open) in [file, second].into_iter().zip(open) {
            assert_eq!(fuse.read(file, open, 0, 9), Err(Errno::BADF));
            assert_eq!(fuse.open(file, RDWR), Err(Errno::STALE));
        }
        let new = fuse.look_up(ROOT, "second").unwrap();
        assert_ne!(new, second);
        let open = fuse.open(new, RDWR).unwrap();
        assert_eq!(fuse.read(new, open, 0, 9).unwrap(), b"new");
    }

    #[test]
    fn state_that_leads_out_or_writes_where_nobody_may_is_of_no_use() {
        let scratch = scratch();
        let secret = fs::metadata(scratch.path("secret")).unwrap();
        let known = |path: &str| {
            use std::os::unix::fs::MetadataExt;
            Known {
                number: 2,
                path: Some(path.into()),
                host: (secret.dev(), secret.ino()),
                told: 1,
            }
        };
        let state = |known, open| State {
            begun: true,
            known,
            open,
            next: 9,
        };
        for path in ["../secret", "/secret", "dir/../../secret", "", "."] {
            let device = device(&scratch, false, 100);
            let mut session = device.session();
            session.take_over(state(vec![known(path)], vec![])).unwrap();
            assert_eq!(session.table.kind(2), Err(Errno::STALE), "{path}");
        }
        let device = device(&scratch, true, 100);
        let mut session = device.session();
        let file = fs::metadata(scratch.path("in/file")).unwrap();
        let mut file_known = known("file");
        file_known.host = {
            use std::os::unix::fs::MetadataExt;
            (file.dev(), file.ino())
        };
        let open = |number, flags| OpenFile {
            number,
            node: 2,
            directory: false,
            flags,
        };
        let open = vec![open(3, 0), open(4, RDWR), open(5, 0o1000)];
        session.take_over(state(vec![file_known], open)).unwrap();
        let opened = [3, 4, 5].map(|open| session.table.opened(2, open, false).is_ok());
        assert_eq!(opened, [true, false, false]);
    }

    #[test]
    fn numbers_and_counts_that_cannot_be_are_refused() {
        let scratch = scratch();
        let open = |number| OpenFile {
            number,
            node: ROOT,
            directory: true,
            flags: 0,
        };
        let state = |open| State {
            begun: true,
            known: vec![],
            open,
            next: 9,
        };
        for number in [0, ROOT, 9, u64::MAX] {
            let device = device(&scratch, false, 2);
            let taken = device.session().take_over(state(vec![open(number)]));
            assert!(taken.is_err(), "{number}");
        }
        let device = device(&scratch, false, 2);
        let taken = device
            .session()
            .take_over(state([2, 3, 4].map(open).to_vec()));
        let error = taken.unwrap_err().to_string();
        assert!(error.contains("more open files"), "{error}");
    }
}
