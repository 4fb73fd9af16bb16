//! One guest's conversation with its folder: from a request to what the host is asked.
//!
//! Names are in this file, contents in [`super::contents`], attributes in [`super::xattr`]. Every
//! answer is bytes or an errno of the host's; nothing here fails otherwise. A request that we do not
//! know, locks among them, is answered with ENOSYS, which makes Linux do without.
//!
//! Source: `[fuse]`; for what Linux sends, `fs/fuse/dir.c`, v6.12.
//! Read next: [`super::contents`].

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    Uid, chownat, fstat, fstatvfs, ftruncate, linkat, mkdirat, mknodat, readlinkat, renameat_with,
    symlinkat, syncfs, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::contents::Data;
use super::folder::Folder;
use super::table::Table;
use super::wire::{self, Args, Body, Header, opcode};

/// Most bytes of data in one request: 256 pages of a guest's.
pub const MAX_DATA: u32 = 1 << 20; // 1 MiB
/// The same in pages.
const MAX_PAGES: u32 = MAX_DATA >> 12;

/// A guest's session: begun by INIT, ended by DESTROY or a reset of the device.
#[derive(Debug)]
pub struct Session {
    pub(super) folder: Folder,
    pub(super) table: Table,
    pub(super) begun: bool,
}

/// What a request is answered with: a body, or so many bytes that are in the guest already.
#[derive(Debug)]
pub enum Answer {
    /// To be written.
    Body(Body),
    /// Written.
    Written(usize),
}

impl From<Body> for Answer {
    fn from(body: Body) -> Self {
        Self::Body(body)
    }
}

/// An answer without a body.
pub(super) fn done() -> Answer {
    Answer::Body(Body::default())
}

impl Session {
    /// A session with nobody, for at most `limit` files and open files.
    pub fn new(folder: Folder, limit: usize) -> Self {
        Self {
            folder,
            table: Table::new(limit),
            begun: false,
        }
    }

    /// Forgets the guest.
    pub fn end(&mut self) {
        self.begun = false;
        self.table.clear();
    }

    /// Answers one request. `args` is what stands behind its header, `data` what is too large for
    /// that.
    ///
    /// # Errors
    /// What the guest is told.
    pub fn answer(
        &mut self,
        header: &Header,
        args: Args<'_>,
        data: &Data<'_>,
    ) -> Result<Answer, Errno> {
        if header.opcode == opcode::INIT {
            return self.init(args);
        }
        if !self.begun {
            return Err(Errno::IO);
        }
        if self.folder.read_only && header.changes() {
            return Err(Errno::ROFS);
        }
        let node = header.node;
        match header.opcode {
            opcode::LOOKUP => self.lookup(node, args),
            opcode::FORGET => self.forget(node, args),
            opcode::BATCH_FORGET => self.batch_forget(args),
            opcode::GETATTR => self.attributes(node),
            opcode::SETATTR => self.set_attributes(node, args),
            opcode::READLINK => self.read_link(node),
            opcode::SYMLINK => self.symlink(node, args),
            opcode::MKNOD => self.make_node(node, args),
            opcode::MKDIR => self.make_directory(node, args),
            opcode::UNLINK => self.remove(node, args, AtFlags::empty()),
            opcode::RMDIR => self.remove(node, args, AtFlags::REMOVEDIR),
            opcode::RENAME => self.rename(node, args, false),
            opcode::RENAME2 => self.rename(node, args, true),
            opcode::LINK => self.link(node, args),
            opcode::STATFS => Ok(Body::default()
                .statfs(&fstatvfs(self.folder.root())?)
                .into()),
            opcode::SYNCFS => self.sync_all(),
            opcode::INTERRUPT => Ok(done()),
            opcode::DESTROY => {
                self.end();
                Ok(done())
            }
            opcode::GETXATTR | opcode::SETXATTR | opcode::LISTXATTR | opcode::REMOVEXATTR => {
                self.answer_xattr(header, args)
            }
            _ => self.answer_contents(header, args, data),
        }
    }

    /// struct fuse_init_in, struct fuse_init_out.
    fn init(&mut self, mut args: Args<'_>) -> Result<Answer, Errno> {
        let (major, minor) = (args.u32()?, args.u32()?);
        let (readahead, offered) = (args.u32()?, args.u32()?);
        if major < wire::MAJOR || (major == wire::MAJOR && minor < wire::OLDEST_MINOR) {
            return Err(Errno::PROTO);
        }
        self.end();
        // A newer major number is asked to come again with ours.
        self.begun = major == wire::MAJOR;
        let body = Body::default()
            .u32s(&[
                wire::MAJOR,
                wire::MINOR,
                readahead,
                offered & wire::FEATURES,
            ])
            // Background requests as many as the guest likes; times in nanoseconds.
            .u32s(&[0, MAX_DATA, 1, MAX_PAGES])
            .u32s(&[0; 8]);
        Ok(body.into())
    }

    /// The answer to all that make or find a file.
    fn entry(&mut self, file: OwnedFd) -> Result<Answer, Errno> {
        let (number, stat) = self.table.tell(file)?;
        let owner = self.folder.owners.shown(&stat);
        Ok(Body::default().entry_out(number, &stat, owner).into())
    }

    fn lookup(&mut self, parent: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let name = args.name()?;
        let parent = self.table.file(parent, self.folder.root())?;
        let file = self.folder.find(parent, name)?;
        self.entry(file)
    }

    fn forget(&mut self, node: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        self.table.forget(node, args.u64()?);
        Ok(done())
    }

    /// struct fuse_batch_forget_in; the arguments end before a number that is too large counts.
    fn batch_forget(&mut self, mut args: Args<'_>) -> Result<Answer, Errno> {
        let count = args.u32()?;
        args.skip::<4>()?;
        for _ in 0..count {
            let (node, times) = (args.u64()?, args.u64()?);
            self.table.forget(node, times);
        }
        Ok(done())
    }

    fn attributes(&self, node: u64) -> Result<Answer, Errno> {
        let stat = fstat(self.table.file(node, self.folder.root())?)?;
        let owner = self.folder.owners.shown(&stat);
        Ok(Body::default().attr_out(&stat, owner).into())
    }

    /// struct fuse_setattr_in.
    fn set_attributes(&self, node: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let valid = args.u32()?;
        args.skip::<4>()?;
        let (open, size) = (args.u64()?, args.u64()?);
        args.skip::<8>()?; // lock_owner
        let times = [args.u64()?, args.u64()?];
        args.skip::<8>()?; // ctime, which is the host's to set
        let nanos = [args.u32()?, args.u32()?];
        args.skip::<4>()?;
        let mode = args.u32()?;
        args.skip::<4>()?;
        let owner = [args.u32()?, args.u32()?];

        let file = self.table.file(node, self.folder.root())?;
        let wants = |bit: u32| valid & bit != 0;
        if wants(wire::SET_MODE) {
            self.folder.set_mode(file, mode)?;
        }
        if wants(wire::SET_UID | wire::SET_GID) {
            let [uid, gid] = owner;
            let uid = wants(wire::SET_UID).then_some(uid);
            let gid = wants(wire::SET_GID).then_some(gid);
            self.set_owner(file, [uid, gid])?;
        }
        if wants(wire::SET_SIZE) {
            let open = wants(wire::SET_BY_HANDLE).then_some(open);
            let anybody = wants(wire::SET_BY_ANYBODY);
            self.set_size(node, (open, anybody), size)?;
        }
        if wants(wire::SET_ATIME | wire::SET_MTIME) {
            let bits = [
                (wire::SET_ATIME, wire::SET_ATIME_NOW),
                (wire::SET_MTIME, wire::SET_MTIME_NOW),
            ];
            let time = |(set, now), seconds: u64, nanos: u32| Timespec {
                tv_sec: seconds.cast_signed(),
                tv_nsec: match (wants(set), wants(now)) {
                    (false, _) => UTIME_OMIT,
                    (true, true) => UTIME_NOW,
                    (true, false) => nanos.into(),
                },
            };
            let times = Timestamps {
                last_access: time(bits[0], times[0], nanos[0]),
                last_modification: time(bits[1], times[1], nanos[1]),
            };
            let (directory, name) = self.folder.by_descriptor(file);
            utimensat(directory, name, &times, AtFlags::empty())?;
        }
        self.attributes(node)
    }

    fn set_owner(&self, file: impl AsFd, owner: [Option<u32>; 2]) -> Result<(), Errno> {
        let [uid, gid] = self.folder.owners.meant(owner).ok_or(Errno::PERM)?;
        let uid = uid.map(Uid::from_raw_unchecked);
        let gid = gid.map(Gid::from_raw_unchecked);
        chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    fn set_size(
        &self,
        node: u64,
        (open, anybody): (Option<u64>, bool),
        size: u64,
    ) -> Result<(), Errno> {
        if let Some(open) = open {
            let file = self.table.opened(node, open, false)?;
            if anybody {
                self.folder.clear_set_id(&file)?;
            }
            return ftruncate(&*file, size);
        }
        if self.table.kind(node)? != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let file = self.table.file(node, self.folder.root())?;
        ftruncate(self.folder.reopen(file, OFlags::WRONLY)?, size)
    }

    fn read_link(&self, node: u64) -> Result<Answer, Errno> {
        let file = self.table.file(node, self.folder.root())?;
        let text = readlinkat(file, c"", Vec::new())?;
        Ok(Body(text.into_bytes()).into())
    }

    /// The file just made as `name` in `parent`.
    fn made(&mut self, parent: u64, name: &CStr, mode: Option<u32>) -> Result<Answer, Errno> {
        let directory = self.table.file(parent, self.folder.root())?;
        let file = self.folder.find(directory, name)?;
        if let Some(mode) = mode {
            self.folder.correct_mode(&file, mode)?;
        }
        self.entry(file)
    }

    fn symlink(&mut self, parent: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let (name, text) = (args.name()?, args.text()?);
        let directory = self.table.file(parent, self.folder.root())?;
        symlinkat(text, directory, name)?;
        self.made(parent, name, None)
    }

    /// struct fuse_mknod_in. Devices are not made: they would be the host's.
    fn make_node(&mut self, parent: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let mode = args.u32()?;
        args.skip::<12>()?;
        let name = args.name()?;
        let kind = FileType::from_raw_mode(mode);
        if !matches!(
            kind,
            FileType::RegularFile | FileType::Fifo | FileType::Socket
        ) {
            return Err(Errno::PERM);
        }
        let directory = self.table.file(parent, self.folder.root())?;
        let first = Mode::from_raw_mode(mode & 0o700);
        mknodat(directory, name, kind, first, 0)?;
        self.made(parent, name, Some(mode))
    }

    /// struct fuse_mkdir_in.
    fn make_directory(&mut self, parent: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let mode = args.u32()?;
        args.skip::<4>()?;
        let name = args.name()?;
        let directory = self.table.file(parent, self.folder.root())?;
        mkdirat(directory, name, Mode::from_raw_mode(mode & 0o700))?;
        self.made(parent, name, Some(mode))
    }

    fn remove(&self, parent: u64, mut args: Args<'_>, flags: AtFlags) -> Result<Answer, Errno> {
        let name = args.name()?;
        let directory = self.table.file(parent, self.folder.root())?;
        unlinkat(directory, name, flags)?;
        Ok(done())
    }

    /// struct fuse_rename_in, and struct fuse_rename2_in with flags.
    fn rename(&self, parent: u64, mut args: Args<'_>, flagged: bool) -> Result<Answer, Errno> {
        let new_parent = args.u64()?;
        let mut flags = RenameFlags::empty();
        if flagged {
            let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
            flags = RenameFlags::from_bits_retain(args.u32()?);
            args.skip::<4>()?;
            // What would leave a device behind (RENAME_WHITEOUT) is not for guests.
            if !known.contains(flags) {
                return Err(Errno::INVAL);
            }
        }
        let (name, new_name) = (args.name()?, args.name()?);
        let from = self.table.file(parent, self.folder.root())?;
        let to = self.table.file(new_parent, self.folder.root())?;
        renameat_with(from, name, to, new_name, flags)?;
        Ok(done())
    }

    /// struct fuse_link_in.
    fn link(&mut self, parent: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let (node, name) = (args.u64()?, args.name()?);
        let file = self.table.file(node, self.folder.root())?;
        let directory = self.table.file(parent, self.folder.root())?;
        let (descriptors, number) = self.folder.by_descriptor(file);
        // The link that is followed is the one in /proc/self/fd, and it leads to the file itself.
        let flags = AtFlags::SYMLINK_FOLLOW;
        linkat(descriptors, number, directory, name, flags)?;
        self.made(parent, name, None)
    }

    /// sync(2) in the guest: the host's file system writes out what it has.
    fn sync_all(&self) -> Result<Answer, Errno> {
        let root = self
            .folder
            .reopen(self.folder.root(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        syncfs(root)?;
        Ok(done())
    }
}
