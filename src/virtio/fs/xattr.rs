//! Extended attributes: values that a file has by name, beside its content.
//!
//! A guest reads and writes those whose names begin with `user.`, which mean something to programs
//! alone. It sees one more, `security.capability`, for which its kernel asks before a program runs and
//! before a file is written: the rights that the program comes with. It can neither give nor take
//! them, since the program would have them on the host too; the host takes them away by itself when
//! the file is written. All else, labels of security modules and lists of who may do what, speaks of
//! this host's users and rules: EOPNOTSUPP, with which Linux does without.
//!
//! Only regular files and directories are asked: by xattr(7) nothing else has attributes of users, and
//! nothing else may be opened ([`super::contents`]).
//!
//! Sources: `[fuse]`; xattr(7); for what Linux sends, `fs/fuse/xattr.c`, v6.12.
//! Read next: [`super::state`].

use std::ffi::CStr;
use std::fs::File;

use rustix::fs::{
    FileType, OFlags, XattrFlags, fgetxattr, fgetxattr_query, flistxattr, fremovexattr, fsetxattr,
};
use rustix::io::Errno;

use super::session::{Answer, Session, done};
use super::wire::{Args, Body, Header, opcode};

/// Most bytes of a value, and of a list of names: Linux's XATTR_SIZE_MAX and XATTR_LIST_MAX.
pub const MAX_VALUE: usize = 64 << 10; // 64 KiB
/// Longest name: Linux's XATTR_NAME_MAX.
const MAX_NAME: usize = 255;
/// What the names begin with that guests read and write.
const OWN: &[u8] = b"user.";
/// What they only read.
const CAPABILITY: &[u8] = b"security.capability";

impl Session {
    /// Answers what concerns extended attributes.
    pub(super) fn answer_xattr(
        &self,
        header: &Header,
        mut args: Args<'_>,
    ) -> Result<Answer, Errno> {
        let node = header.node;
        match header.opcode {
            // struct fuse_getxattr_in, for both.
            opcode::GETXATTR | opcode::LISTXATTR => {
                let room = args.u32()? as usize;
                args.skip::<4>()?;
                if header.opcode == opcode::LISTXATTR {
                    return self.list_xattrs(node, room);
                }
                self.get_xattr(node, name(&mut args)?, room)
            }
            opcode::SETXATTR => self.set_xattr(node, args),
            _ => self.remove_xattr(node, args),
        }
    }

    fn get_xattr(&self, node: u64, name: &CStr, room: usize) -> Result<Answer, Errno> {
        if !is_seen(name.to_bytes()) {
            return Err(Errno::OPNOTSUPP);
        }
        let file = self.bearer(node)?.ok_or(Errno::NODATA)?;
        if room == 0 {
            return Ok(size(fgetxattr_query(&file, name)?));
        }
        let mut value = vec![0; room.min(MAX_VALUE)];
        let len = fgetxattr(&file, name, value.as_mut_slice())?;
        value.truncate(len);
        Ok(Body(value).into())
    }

    /// The names that a guest sees, each with its NUL.
    fn list_xattrs(&self, node: u64, room: usize) -> Result<Answer, Errno> {
        let Some(file) = self.bearer(node)? else {
            return Ok(if room == 0 { size(0) } else { done() });
        };
        let mut all = vec![0; MAX_VALUE];
        let len = flistxattr(&file, all.as_mut_slice())?;
        all.truncate(len);
        let mut names = Vec::new();
        for name in all.split_inclusive(|byte| *byte == 0) {
            if is_seen(name.strip_suffix(b"\0").unwrap_or(name)) {
                names.extend_from_slice(name);
            }
        }
        match room {
            0 => Ok(size(names.len())),
            room if names.len() > room => Err(Errno::RANGE),
            _ => Ok(Body(names).into()),
        }
    }

    /// struct fuse_setxattr_in, as it is without FUSE_SETXATTR_EXT: the value ends the request.
    fn set_xattr(&self, node: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let (len, flags) = (args.u32()?, args.u32()?);
        let name = own_name(&mut args)?;
        let Args(value) = args;
        if value.len() != len as usize {
            return Err(Errno::INVAL);
        }
        let file = self.bearer(node)?.ok_or(Errno::PERM)?;
        // A flag that it does not know the host refuses.
        let flags = XattrFlags::from_bits_retain(flags);
        fsetxattr(file, name, value, flags)?;
        Ok(done())
    }

    fn remove_xattr(&self, node: u64, mut args: Args<'_>) -> Result<Answer, Errno> {
        let name = own_name(&mut args)?;
        let file = self.bearer(node)?.ok_or(Errno::PERM)?;
        fremovexattr(file, name)?;
        Ok(done())
    }

    /// The file, open; none if it is of a kind that has no attributes of users.
    fn bearer(&self, node: u64) -> Result<Option<File>, Errno> {
        let kind = self.table.kind(node)?;
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok(None);
        }
        let file = self.table.file(node, self.folder.root())?;
        self.folder.reopen(file, OFlags::RDONLY).map(Some)
    }
}

/// struct fuse_getxattr_out: how much room is needed.
fn size(len: usize) -> Answer {
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    Body::default().u32s(&[len, 0]).into()
}

/// The next name of an attribute.
fn name<'a>(args: &mut Args<'a>) -> Result<&'a CStr, Errno> {
    let name = args.text()?;
    if name.count_bytes() > MAX_NAME {
        return Err(Errno::RANGE);
    }
    Ok(name)
}

/// The next name, of an attribute that guests may change.
fn own_name<'a>(args: &mut Args<'a>) -> Result<&'a CStr, Errno> {
    let name = name(args)?;
    if name.to_bytes().starts_with(OWN) {
        return Ok(name);
    }
    Err(Errno::OPNOTSUPP)
}

fn is_seen(name: &[u8]) -> bool {
    name.starts_with(OWN) || name == CAPABILITY
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::*;
    use super::super::wire::{ROOT, opcode::*};
    use super::*;
    use crate::virtio::testing::{Guest, Scratch};

    fn get(fuse: &mut Fuse<'_>, node: u64, name: &str, room: u32) -> Answered {
        let args = Body::default().u32s(&[room, 0]).0;
        fuse.ask(GETXATTR, node, &[args, text(name)].concat())
    }

    fn list(fuse: &mut Fuse<'_>, node: u64, room: u32) -> Answered {
        fuse.ask(LISTXATTR, node, &Body::default().u32s(&[room, 0]).0)
    }

    fn set(fuse: &mut Fuse<'_>, node: u64, name: &str, value: &[u8], flags: u32) -> Answered {
        let len = u32::try_from(value.len()).unwrap();
        let args = Body::default().u32s(&[len, flags]).0;
        fuse.ask(SETXATTR, node, &[args, text(name), value.to_vec()].concat())
    }

    fn remove(fuse: &mut Fuse<'_>, node: u64, name: &str) -> Answered {
        fuse.ask(REMOVEXATTR, node, &text(name))
    }

    fn on_host(scratch: &Scratch, name: &str) -> Result<Vec<u8>, Errno> {
        let mut value = vec![0; 100];
        let file = scratch.path("in/file");
        let len = rustix::fs::getxattr(&file, name, value.as_mut_slice())?;
        value.truncate(len);
        Ok(value)
    }

    #[test]
    fn attribute_of_the_user_is_set_read_listed_and_removed() {
        let scratch = scratch();
        let guest = Guest::with(device(&scratch, false, 100));
        let mut fuse = Fuse::new(&guest);
        let file = fuse.look_up(ROOT, "file").unwrap();
        for node in [file, ROOT] {
            assert_eq!(set(&mut fuse, node, "user.a", b"value", 0), Ok(vec![]));
            assert_eq!(set(&mut fuse, node, "user.empty", b"", 0), Ok(vec![]));
            assert_eq!(get(&mut fuse, node, "user.a", 64).unwrap(), b"value");
            assert_eq!(get(&mut fuse, node, "user.empty", 64).unwrap(), b"");
            let names = list(&mut fuse, node, 64).unwrap();
            assert_eq!(names.len(), b"user.a\0user.empty\0".len());
        }
        assert_eq!(on_host(&scratch, "user.a").unwrap(), b"value");
        assert_eq!(remove(&mut fuse, file, "user.a"), Ok(vec![]));
        assert_eq!(get(&mut fuse, file, "user.a", 64), Err(Errno::NODATA));
        assert_eq!(list(&mut fuse, file, 64).unwrap(), b"user.empty\0");
        assert_eq!(on_host(&scratch, "user.a"), Err(Errno::NODATA));
    }

    #[test]
    fn room_is_asked_for_and_too_little_refused() {
        let scratch = scratch();
        let guest = Guest::with(device(&scratch, false, 100));
        let mut fuse = Fuse::new(&guest);
        let file = fuse.look_up(ROOT, "file").unwrap();
        set(&mut fuse, file, "user.a", b"value", 0).unwrap();
        assert_eq!(number(&get(&mut fuse, file, "user.a", 0).unwrap(), 0), 5);
        assert_eq!(number(&list(&mut fuse, file, 0).unwrap(), 0), 7);
        assert_eq!(get(&mut fuse, file, "user.a", 4), Err(Errno::RANGE));
        assert_eq!(list(&mut fuse, file, 6), Err(Errno::RANGE));
        // What a guest says it has room for is no reason to take so much memory.
        assert_eq!(get(&mut fuse, file, "user.a", u32::MAX).unwrap(), b"value");
    }

    #[test]
    fn create_and_replace_are_the_hosts_to_refuse() {
        let scratch = scratch();
        let guest = Guest::with(device(&scratch, false, 100));
        let mut fuse = Fuse::new(&guest);
        let file = fuse.look_up(ROOT, "file").unwrap();
        let mut set = |value: &[u8], flags| set(&mut fuse, file, "user.a", value, flags);
        assert_eq!(set(b"a", 2), Err(Errno::NODATA));
        assert_eq!(set(b"a", 1), Ok(vec![]));
        assert_eq!(set(b"b", 1), Err(Errno::EXIST));
        assert_eq!(set(b"b", 1 << 31), Err(Errno::INVAL));
        assert_eq!(on_host(&scratch, "user.a").unwrap(), b"a");
    }

    #[test]
    fn attributes_of_the_host_are_neither_shown_nor_set() {
        let scratch = scratch();
        let path = scratch.path("in/file");
        // Only who may set such, and only there, shows that it is not listed.
        let trusted = rustix::fs::setxattr(&path, "trusted.a", b"x", XattrFlags::empty());
        assert!(trusted.is_ok() || trusted == Err(Errno::PERM));
        let guest = Guest::with(device(&scratch, false, 100));
        let mut fuse = Fuse::new(&guest);
        let file = fuse.look_up(ROOT, "file").unwrap();
        for name in [
            "trusted.a",
            "security.selinux",
            "system.posix_acl_access",
            "user",
        ] {
            assert_eq!(get(&mut fuse, file, name, 64), Err(Errno::OPNOTSUPP));
            assert_eq!(set(&mut fuse, file, name, b"x", 0), Err(Errno::OPNOTSUPP));
            assert_eq!(remove(&mut fuse, file, name), Err(Errno::OPNOTSUPP));
        }
        assert_eq!(list(&mut fuse, file, 64).unwrap(), b"");
    }

    #[test]
    fn rights_of_a_program_are_seen_and_not_changed() {
        let scratch = scratch();
        let guest = Guest::with(device(&scratch, false, 100));
        let mut fuse = Fuse::new(&guest);
        let file = fuse.look_up(ROOT, "file").unwrap();
        let name = "security.capability";
        assert_eq!(get(&mut fuse, file, name, 64), Err(Errno::NODATA));
        // capabilities(7): version 2, effective, CAP_NET_RAW.
        let mut raw = [0; 20];
        (raw[0], raw[3], raw[5]) = (1, 2, 0x20);
        assert_eq!(set(&mut fuse, file, name, &raw, 0), Err(Errno::OPNOTSUPP));
        assert_eq!(on_host(&scratch, name), Err(Errno::NODATA));
        let path = scratch.path("in/file");
        match rustix::fs::setxattr(&path, name, &raw, XattrFlags::empty()) {
            // Only root sets them.
            Err(error) => assert_eq!(error, Errno::PERM),
            Ok(()) => {
                assert_eq!(get(&mut fuse, file, name, 64).unwrap(), raw);
                assert_eq!(list(&mut fuse, file, 64).unwrap(), text(name));
                assert_eq!(remove(&mut fuse, file, name), Err(Errno::OPNOTSUPP));
                assert_eq!(on_host(&scratch, name).unwrap(), raw);
                let open = fuse.open(file, 1).unwrap();
                fuse.write(file, open, 0, b"x").unwrap();
                assert_eq!(on_host(&scratch, name), Err(Errno::NODATA));
            }
        }
    }

    #[test]
    fn read_only_folder_shows_attributes_and_takes_none() {
        let scratch = scratch();
        let path = scratch.path("in/file");
        rustix::fs::setxattr(&path, "user.a", b"x", XattrFlags::empty()).unwrap();
        let guest = Guest::with(device(&scratch, true, 100));
        let mut fuse = Fuse::new(&guest);
        let file = fuse.look_up(ROOT, "file").unwrap();
        assert_eq!(get(&mut fuse, file, "user.a", 64).unwrap(), b"x");
        assert_eq!(set(&mut fuse, file, "user.a", b"y", 0), Err(Errno::ROFS));
        assert_eq!(remove(&mut fuse, file, "user.a"), Err(Errno::ROFS));
        assert_eq!(on_host(&scratch, "user.a").unwrap(), b"x");
    }

    #[test]
    fn link_and_pipe_have_none_and_are_not_opened() {
        let scratch = scratch();
        std::os::unix::fs::symlink("../secret", scratch.path("in/link")).unwrap();
        let secret = scratch.path("secret");
        rustix::fs::setxattr(&secret, "user.a", b"x", XattrFlags::empty()).unwrap();
        let guest = Guest::with(device(&scratch, false, 100));
        let mut fuse = Fuse::new(&guest);
        let pipe = [Body::default().u32s(&[0o010_644, 0, 0, 0]).0, text("pipe")].concat();
        let pipe = number(&fuse.ask(MKNOD, ROOT, &pipe).unwrap(), 0);
        for node in [fuse.look_up(ROOT, "link").unwrap(), pipe] {
            assert_eq!(get(&mut fuse, node, "user.a", 64), Err(Errno::NODATA));
            assert_eq!(list(&mut fuse, node, 64).unwrap(), b"");
            assert_eq!(number(&list(&mut fuse, node, 0).unwrap(), 0), 0);
            assert_eq!(set(&mut fuse, node, "user.a", b"y", 0), Err(Errno::PERM));
            assert_eq!(remove(&mut fuse, node, "user.a"), Err(Errno::PERM));
        }
        assert_eq!(fs::read(secret).unwrap(), b"secret");
    }

    #[test]
    fn names_and_values_have_a_limit() {
        let scratch = scratch();
        let guest = Guest::with(device(&scratch, false, 100));
        let mut fuse = Fuse::new(&guest);
        let long = format!("user.{}", "x".repeat(MAX_NAME));
        assert_eq!(get(&mut fuse, ROOT, &long, 64), Err(Errno::RANGE));
        assert_eq!(set(&mut fuse, ROOT, &long, b"", 0), Err(Errno::RANGE));
        let large = vec![b'x'; MAX_VALUE + 1];
        assert_eq!(
            set(&mut fuse, ROOT, "user.a", &large, 0),
            Err(Errno::TOOBIG)
        );
        // A value of another length than said, and a name without an end.
        let args = [Body::default().u32s(&[2, 0]).0, text("user.a"), vec![1]].concat();
        assert_eq!(fuse.ask(SETXATTR, ROOT, &args), Err(Errno::INVAL));
        assert_eq!(fuse.ask(REMOVEXATTR, ROOT, b"user.a"), Err(Errno::INVAL));
        assert_eq!(fuse.ask(GETXATTR, ROOT, &[0; 7]), Err(Errno::INVAL));
        assert_eq!(list(&mut fuse, ROOT, 64).unwrap(), b"");
    }
}
