//! What is in files and directories: open, read, write, list.
//!
//! Only regular files and directories are opened. A named pipe could keep cottage waiting for ever
//! and a device is the host's; a guest's kernel serves both by itself and never asks for them.
//!
//! Data goes straight between the host's page cache and the guest's pages. With O_APPEND it is the
//! host that finds the end of the file, so that guests that share a folder can append to one file.
//!
//! Source: `[fuse]`; for what Linux sends, `fs/fuse/file.c` and `fs/fuse/readdir.c`, v6.12.
//! Read next: [`super::xattr`].

use std::ffi::CStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{
    FallocateFlags, FileType, Mode, OFlags, RawDir, SeekFrom, fallocate, fdatasync, fsync, openat,
    seek,
};
use rustix::io::Errno;

use super::session::{Answer, MAX_DATA, Session, done};
use super::table::Open;
use super::wire::{self, Args, Body, Header, opcode};
use crate::memory::GuestMemory;
use crate::memory::transfer::Segment;
use crate::virtio::blk::request::{cut, len};

/// Most bytes of a directory's entries in one answer, and what is read of one at a time.
const MAX_LIST: usize = 64 << 10; // 64 KiB
const LIST_STEP: usize = 32 << 10; // 32 KiB
/// FSYNC's flag: contents, and of the rest only what is needed to find them.
const FSYNC_DATA_ONLY: u32 = 1 << 0;
/// The flags of open(2) that mean something here; O_EXCL and O_CREAT are taken care of before.
pub(super) const OPEN_FLAGS: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC)
    .union(OFlags::SYNC);
/// lseek(2)'s SEEK_DATA and SEEK_HOLE; the guest's kernel does the others by itself.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// Data too large to be copied twice: pieces of guest memory.
#[derive(Debug)]
pub struct Data<'a> {
    /// Where they are.
    pub memory: &'a GuestMemory,
    /// What the guest writes, behind the arguments.
    pub output: &'a [Segment],
    /// Room for an answer, behind its header.
    pub input: &'a [Segment],
}

impl Session {
    /// Answers what concerns contents, and what nobody here answers.
    pub(super) fn answer_contents(
        &mut self,
        header: &Header,
        args: Args<'_>,
        data: &Data<'_>,
    ) -> Result<Answer, Errno> {
        let node = header.node;
        match header.opcode {
            opcode::OPEN => self.open(node, args),
            opcode::CREATE => self.create(node, args),
            opcode::READ => self.read(node, args, data),
            opcode::WRITE => self.write(node, args, data),
            opcode::FSYNC => self.sync(node, args, false),
            opcode::FALLOCATE => self.allocate(node, args),
            opcode::LSEEK => self.seek(node, args),
            opcode::OPENDIR => self.open_directory(node),
            opcode::READDIR => self.list(node, args, data, false),
            opcode::READDIRPLUS => self.list(node, args, data, true),
            opcode::FSYNCDIR => self.sync(node, args, true),
            opcode::RELEASE | opcode::RELEASEDIR => self.release(args),
            _ => Err(Errno::NOSYS),
        }
    }

    /// Keeps an open file and tells the guest its number: struct fuse_open_out.
    fn kept(&mut self, node: u64, file: File, directory: bool) -> Result<Body, Errno> {
        let file = Arc::new(file);
        let open = Open {
            file,
            node,
            directory,
        };
        let number = self.table.keep(open)?;
        Ok(Body::default().u64s(&[number, 0]))
    }

    /// The flags for the host, of those the guest gave; refused if they write where nobody may.
    pub(super) fn flags(&self, flags: u32) -> Result<OFlags, Errno> {
        let flags = OFlags::from_bits_retain(flags) & OPEN_FLAGS;
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        if writes && self.folder.read_only {
            return Err(Errno::ROFS);
        }
        Ok(flags)
    }

    /// struct fuse_open_in.
    fn open(&mut self, node: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let flags = self.flags(args.u32()?)?;
        if self.table.kind(node)? != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let file = self.table.file(node, self.folder.root())?;
        let file = self.folder.reopen(file, flags)?;
        Ok(self.kept(node, file, false)?.into())
    }

    /// struct fuse_create_in.
    fn create(&mut self, parent: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let (wanted, mode) = (args.u32()?, args.u32()?);
        args.skip::<8>()?;
        let name = args.name()?;
        let flags = self.flags(wanted)?;
        let directory = self.table.file(parent, self.folder.root())?;
        // Made first for the user alone, so that no mode is ever wider than asked for.
        let created = match self.folder.create(directory, name, flags, mode & 0o700) {
            Err(Errno::EXIST) if wanted & OFlags::EXCL.bits() == 0 => None,
            created => Some(created?),
        };
        // The file that was made, whoever has its name by now.
        let held = match &created {
            Some(file) => {
                self.folder.correct_mode(file, mode)?;
                let (descriptors, number) = self.folder.by_descriptor(file);
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                openat(descriptors, number, flags, Mode::empty())?
            }
            None => self.folder.find(directory, name)?,
        };
        let (node, stat) = self.table.tell(held)?;
        let opened = match created {
            Some(file) => self.kept(node, file, false).map(Answer::from),
            None => self.open(node, Args(&wanted.to_le_bytes())),
        };
        match opened {
            Ok(Answer::Body(open)) => {
                let owner = self.folder.owners.shown(&stat);
                let mut body = Body::default().entry_out(node, &stat, owner);
                body.0.extend(open.0);
                Ok(body.into())
            }
            // The guest will not know of the file, so it cannot forget it.
            other => {
                self.table.forget(node, 1);
                other
            }
        }
    }

    /// struct fuse_read_in.
    fn read(&self, node: u64, mut args: Args<'_>, data: &Data<'_>) -> Result<Answer, Errno> {
        let (open, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let file = self.table.opened(node, open, false)?;
        let room = u64::from(size.min(MAX_DATA)).min(len(data.input));
        let (input, _) = cut(data.input, room);
        let moved = data.memory.fill_up_to_end(&file, offset, &input);
        let moved = moved.map_err(|e| errno(&e))?;
        Ok(Answer::Written(usize::try_from(moved).unwrap_or(0)))
    }

    /// struct fuse_write_in, struct fuse_write_out.
    fn write(&self, node: u64, mut args: Args<'_>, data: &Data<'_>) -> Result<Answer, Errno> {
        let (open, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let flags = args.u32()?;
        let file = self.table.opened(node, open, false)?;
        if size > MAX_DATA || u64::from(size) > len(data.output) {
            return Err(Errno::INVAL);
        }
        if flags & wire::WRITE_BY_ANYBODY != 0 {
            self.folder.clear_set_id(&file)?;
        }
        let (output, _) = cut(data.output, size.into());
        let moved = data.memory.drain_to(&file, offset, &output);
        moved.map_err(|e| errno(&e))?;
        Ok(Body::default().u32s(&[size, 0]).into())
    }

    /// struct fuse_fsync_in.
    fn sync(&self, node: u64, mut args: Args<'_>, directory: bool) -> Result<Answer, Errno> {
        let (open, flags) = (args.u64()?, args.u32()?);
        let file = self.table.opened(node, open, directory)?;
        if flags & FSYNC_DATA_ONLY != 0 {
            fdatasync(&*file)?;
        } else {
            fsync(&*file)?;
        }
        Ok(done())
    }

    /// struct fuse_fallocate_in.
    fn allocate(&self, node: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let (open, offset, length) = (args.u64()?, args.u64()?, args.u64()?);
        let mode = FallocateFlags::from_bits_retain(args.u32()?);
        let known =
            FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !known.contains(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        let file = self.table.opened(node, open, false)?;
        fallocate(&*file, mode, offset, length)?;
        Ok(done())
    }

    /// struct fuse_lseek_in.
    fn seek(&self, node: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let (open, offset, whence) = (args.u64()?, args.u64()?, args.u32()?);
        let to = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let file = self.table.opened(node, open, false)?;
        // Nothing else uses the descriptor's own position.
        let at = seek(&*file, to)?;
        Ok(Body::default().u64s(&[at]).into())
    }

    fn open_directory(&mut self, node: u64) -> Result<Answer, Errno> {
        let file = self.table.file(node, self.folder.root())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let file = self.folder.reopen(file, flags)?;
        Ok(self.kept(node, file, true)?.into())
    }

    /// struct fuse_release_in.
    fn release(&mut self, mut args: Args<'_>) -> Result<Answer, Errno> {
        self.table.close(args.u64()?);
        Ok(done())
    }

    /// struct fuse_read_in for a directory. `offset` is a place that the host's file system gave
    /// with the entry before.
    fn list(
        &mut self,
        node: u64,
        mut args: Args<'_>,
        data: &Data<'_>,
        plus: bool,
    ) -> Result<Answer, Errno> {
        let (open, offset, size) = (args.u64()?, args.u64()?, args.u32()?);
        let directory = self.table.opened(node, open, true)?;
        let room = usize::try_from(len(data.input)).unwrap_or(0);
        let room = room.min(size as usize).min(MAX_LIST);
        seek(&*directory, SeekFrom::Start(offset))?;
        let mut buffer = vec![MaybeUninit::uninit(); LIST_STEP];
        let mut entries = RawDir::new(&*directory, &mut buffer);
        let mut body = Body::default();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if body.0.len() + wire::dirent_size(name.count_bytes(), plus) > room {
                break;
            }
            if plus {
                body = self.described(&directory, name, body);
            }
            let next = entry.next_entry_cookie();
            body = body.dirent(entry.ino(), next, entry.file_type(), name);
        }
        Ok(body.into())
    }

    /// What READDIRPLUS says of a name: the same as LOOKUP, or nothing.
    fn described(&mut self, directory: &File, name: &CStr, body: Body) -> Body {
        if matches!(name.to_bytes(), b"." | b"..") {
            return body.no_entry();
        }
        let file = self.folder.find(directory.as_fd(), name);
        match file.and_then(|file| self.table.tell(file)) {
            Ok((number, stat)) => body.entry_out(number, &stat, self.folder.owners.shown(&stat)),
            // It may be gone, or a mount point: the guest finds out when it asks for it.
            Err(_) => body.no_entry(),
        }
    }
}

/// The host's word for what went wrong.
fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::super::testing::*;
    use super::super::wire::{ROOT, opcode::*};
    use super::*;
    use crate::virtio::testing::Guest;

    #[test]
    fn set_user_id_bits_that_appear_are_taken_away_when_anybody_writes() {
        let scratch = scratch();
        let path = scratch.path("in/file");
        let bits = || fs::metadata(&path).unwrap().mode() & 0o7777;
        let set = || fs::set_permissions(&path, PermissionsExt::from_mode(0o6755)).unwrap();
        let guest = Guest::with(device(&scratch, false, 100));
        let mut fuse = Fuse::new(&guest);
        let file = fuse.look_up(ROOT, "file").unwrap();
        let open = fuse.open(file, 2).unwrap();
        set();
        let mut write = Body::default().u64s(&[open, 0]);
        write = write.u32s(&[1, wire::WRITE_BY_ANYBODY, 0, 0, 0, 0]);
        write.0.push(b'C');
        assert!(fuse.ask(WRITE, file, &write.0).is_ok());
        assert_eq!(bits(), 0o755);
        set();
        let valid = wire::SET_SIZE | wire::SET_BY_HANDLE | wire::SET_BY_ANYBODY;
        let mut args = Body::default().u32s(&[valid, 0]).u64s(&[open, 3]).0;
        args.resize(88, 0);
        assert!(fuse.ask(SETATTR, file, &args).is_ok());
        assert_eq!(bits(), 0o755);
        assert_eq!(fs::read(&path).unwrap(), b"Con");
    }
}
