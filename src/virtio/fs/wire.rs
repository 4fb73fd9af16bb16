//! FUSE as it travels: numbers, layouts, and the arguments of a request.
//!
//! ```text
//!  readable:  header (40 bytes)  arguments   data to write ...
//!             len, opcode, unique, node
//!  writable:  header (16 bytes)  answer      data read ...
//!             len, -errno, unique
//! ```
//!
//! All of it is pure: bytes in, values or an errno out. A name is one component of a path and
//! nothing else ([`Args::name`]); that is the first of two reasons why no request leads out of a
//! shared folder. The second: [`super::folder`].
//!
//! Source: `[fuse]` Linux `include/uapi/linux/fuse.h`, protocol 7.38 (Linux 6.1).
//! Read next: [`super::folder`].

use std::ffi::CStr;

use rustix::fs::{FileType, Stat, StatVfs};
use rustix::io::Errno;

/// The version that we speak.
pub const MAJOR: u32 = 7;
/// Its minor number: that of Linux 6.1.
pub const MINOR: u32 = 38;
/// The oldest minor number with virtio-fs, Linux 5.4's.
pub const OLDEST_MINOR: u32 = 31;

/// struct fuse_in_header.
pub const IN_HEADER: usize = 40;
/// struct fuse_out_header.
pub const OUT_HEADER: usize = 16;
/// struct fuse_attr.
const ATTR: usize = 88;
/// struct fuse_entry_out.
pub const ENTRY_OUT: usize = 40 + ATTR;
/// struct fuse_dirent without the name.
const DIRENT: usize = 24;
/// struct fuse_write_in: arguments before data.
pub const WRITE_IN: usize = 40;

/// The number of the root.
pub const ROOT: u64 = 1;
/// Longest name: Linux's NAME_MAX.
const MAX_NAME: usize = 255;
/// Seconds for which a guest may believe what it was told of a name or a file. Others change the
/// folder too; virtiofsd has the same by default.
const VALID_SECONDS: u64 = 1;

/// enum fuse_opcode: those that are answered by something else than ENOSYS.
pub mod opcode {
    #![expect(missing_docs, reason = "the names are those of fuse.h")]
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const SYNCFS: u32 = 50;
}

/// Bits of INIT's flags: several requests at once, writes of more than a page, contents thrown away
/// when size or time changed, attributes with a directory's names, requests of `max_pages`, and
/// set-user-id bits taken away by us: else a guest would ask for a file's rights before each write.
pub const FEATURES: u32 =
    1 << 0 | 1 << 5 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 15 | 1 << 18 | 1 << 22 | 1 << 28;

// Bits of SETATTR's `valid`.
/// FATTR_MODE.
pub const SET_MODE: u32 = 1 << 0;
/// FATTR_UID.
pub const SET_UID: u32 = 1 << 1;
/// FATTR_GID.
pub const SET_GID: u32 = 1 << 2;
/// FATTR_SIZE.
pub const SET_SIZE: u32 = 1 << 3;
/// FATTR_ATIME.
pub const SET_ATIME: u32 = 1 << 4;
/// FATTR_MTIME.
pub const SET_MTIME: u32 = 1 << 5;
/// FATTR_FH.
pub const SET_BY_HANDLE: u32 = 1 << 6;
/// FATTR_ATIME_NOW.
pub const SET_ATIME_NOW: u32 = 1 << 7;
/// FATTR_MTIME_NOW.
pub const SET_MTIME_NOW: u32 = 1 << 8;

/// FATTR_KILL_SUIDGID: who changes the size may not keep set-user-id bits.
pub const SET_BY_ANYBODY: u32 = 1 << 11;
/// FUSE_WRITE_KILL_SUIDGID, the same of WRITE's flags.
pub const WRITE_BY_ANYBODY: u32 = 1 << 2;

/// What every request begins with, as far as we use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the request, with this.
    pub len: u32,
    /// What is asked.
    pub opcode: u32,
    /// What the answer repeats.
    pub unique: u64,
    /// Of which file.
    pub node: u64,
}

impl Header {
    /// Reads it.
    pub fn parse(bytes: &[u8; IN_HEADER]) -> Self {
        let mut args = Args(bytes);
        // 40 bytes hold all of them.
        Self {
            len: args.u32().unwrap_or(0),
            opcode: args.u32().unwrap_or(0),
            unique: args.u64().unwrap_or(0),
            node: args.u64().unwrap_or(0),
        }
    }

    /// Whether the request has no answer.
    pub fn is_silent(&self) -> bool {
        use opcode::{BATCH_FORGET, FORGET, INTERRUPT};
        matches!(self.opcode, FORGET | BATCH_FORGET | INTERRUPT)
    }

    /// Whether the request changes the folder, whatever its arguments are.
    pub fn changes(&self) -> bool {
        use opcode::{
            CREATE, FALLOCATE, LINK, MKDIR, MKNOD, REMOVEXATTR, RENAME, RENAME2, RMDIR, SETATTR,
            SETXATTR, SYMLINK, UNLINK, WRITE,
        };
        matches!(
            self.opcode,
            SETATTR
                | SYMLINK
                | MKNOD
                | MKDIR
                | UNLINK
                | RMDIR
                | RENAME
                | LINK
                | WRITE
                | CREATE
                | FALLOCATE
                | RENAME2
                | SETXATTR
                | REMOVEXATTR
        )
    }
}

/// The answer's header.
pub fn out_header(len: usize, errno: i32, unique: u64) -> [u8; OUT_HEADER] {
    let mut header = [0; OUT_HEADER];
    let len = u32::try_from(OUT_HEADER + len).unwrap_or(u32::MAX);
    let fields = [len.to_le_bytes(), (-errno).to_le_bytes()];
    let bytes = fields.as_flattened().iter().copied();
    let bytes = bytes.chain(unique.to_le_bytes());
    header
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = from);
    header
}

/// Arguments of a request, taken from front to back. What is missing is EINVAL.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a>(pub &'a [u8]);

impl<'a> Args<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// The next 32 bits.
    ///
    /// # Errors
    /// EINVAL.
    pub fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_le_bytes)
    }

    /// The next 64 bits.
    ///
    /// # Errors
    /// EINVAL.
    pub fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_le_bytes)
    }

    /// Passes over `N` bytes that mean nothing to us.
    ///
    /// # Errors
    /// EINVAL.
    pub fn skip<const N: usize>(&mut self) -> Result<(), Errno> {
        self.take::<N>().map(drop)
    }

    /// The next text, with its NUL.
    ///
    /// # Errors
    /// EINVAL if it has none, or is empty.
    pub fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_no_nul| Errno::INVAL)?;
        self.0 = self.0.get(text.count_bytes() + 1..).unwrap_or(&[]);
        if text.is_empty() {
            return Err(Errno::INVAL);
        }
        Ok(text)
    }

    /// The next name: one component of a path, neither `.` nor `..`.
    ///
    /// # Errors
    /// EINVAL, ENAMETOOLONG.
    pub fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text()?;
        let bytes = name.to_bytes();
        if bytes.len() > MAX_NAME {
            return Err(Errno::NAMETOOLONG);
        }
        if bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        Ok(name)
    }
}

/// An answer's body, field by field.
#[derive(Debug, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    /// Adds 32-bit fields.
    #[must_use]
    pub fn u32s(mut self, fields: &[u32]) -> Self {
        self.0
            .extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        self
    }

    /// Adds 64-bit fields.
    #[must_use]
    pub fn u64s(mut self, fields: &[u64]) -> Self {
        self.0
            .extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        self
    }

    /// struct fuse_attr.
    #[must_use]
    pub fn attr(self, stat: &Stat, [uid, gid]: [u32; 2]) -> Self {
        let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        // Times before 1970 travel as the two's complement they are.
        let times = [stat.st_atime, stat.st_mtime, stat.st_ctime].map(i64::cast_unsigned);
        let [size, blocks, blksize] =
            [stat.st_size, stat.st_blocks, stat.st_blksize].map(i64::cast_unsigned);
        let nanos = [stat.st_atime_nsec, stat.st_mtime_nsec, stat.st_ctime_nsec].map(low);
        self.u64s(&[stat.st_ino, size, blocks])
            .u64s(&times)
            .u32s(&nanos)
            .u32s(&[stat.st_mode, low(stat.st_nlink), uid, gid])
            // A device's number means nothing in another machine.
            .u32s(&[0, low(blksize), 0])
    }

    /// struct fuse_attr_out.
    #[must_use]
    pub fn attr_out(self, stat: &Stat, owner: [u32; 2]) -> Self {
        self.u64s(&[VALID_SECONDS, 0]).attr(stat, owner)
    }

    /// struct fuse_entry_out. Numbers of files are never used again, so there is one generation.
    #[must_use]
    pub fn entry_out(self, node: u64, stat: &Stat, owner: [u32; 2]) -> Self {
        self.u64s(&[node, 0, VALID_SECONDS, VALID_SECONDS, 0])
            .attr(stat, owner)
    }

    /// struct fuse_entry_out of a name that was not looked up.
    #[must_use]
    pub fn no_entry(self) -> Self {
        self.u64s(&[0; ENTRY_OUT / 8])
    }

    /// struct fuse_dirent.
    #[must_use]
    pub fn dirent(self, ino: u64, next: u64, kind: FileType, name: &CStr) -> Self {
        let bytes = name.to_bytes();
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // DT_*: the bits of a mode that say of which kind a file is. Unknown is 0.
        let kind = match kind {
            FileType::Unknown => 0,
            known => known.as_raw_mode() >> 12,
        };
        let mut body = self.u64s(&[ino, next]).u32s(&[len, kind]);
        body.0.extend_from_slice(bytes);
        body.0.resize(body.0.len().next_multiple_of(8), 0);
        body
    }

    /// struct fuse_statfs_out.
    #[must_use]
    pub fn statfs(self, stat: &StatVfs) -> Self {
        let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        self.u64s(&[stat.f_blocks, stat.f_bfree, stat.f_bavail])
            .u64s(&[stat.f_files, stat.f_ffree])
            .u32s(&[stat.f_bsize, stat.f_namemax, stat.f_frsize].map(low))
            .u32s(&[0; 7])
    }
}

/// Bytes of a directory's entry with a name of `name` bytes.
pub fn dirent_size(name: usize, plus: bool) -> usize {
    let entry = if plus { ENTRY_OUT } else { 0 };
    entry + (DIRENT + name).next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_has_its_fields_where_fuse_h_has_them() {
        let bytes: Vec<u8> = (0..40).collect();
        let header = Header::parse(bytes.as_slice().try_into().unwrap());
        assert_eq!(header.len, 0x0302_0100);
        assert_eq!(header.opcode, 0x0706_0504);
        assert_eq!(header.unique, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(header.node, 0x1716_1514_1312_1110);
    }

    #[test]
    fn answer_carries_a_negative_errno() {
        let header = out_header(8, 2, 7);
        assert_eq!(
            header,
            [24, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 7, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for name in ["..", ".", "a/b", "/etc", "../x", "/", ""] {
            let bytes = [name.as_bytes(), b"\0"].concat();
            assert_eq!(Args(&bytes).name(), Err(Errno::INVAL), "{name:?}");
        }
        assert_eq!(Args(b"no end").name(), Err(Errno::INVAL));
        let long = [&[b'x'; 256][..], b"\0"].concat();
        assert_eq!(Args(&long).name(), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn names_come_one_after_the_other() {
        let mut args = Args(b"...\0b c\0");
        assert_eq!(args.name().unwrap(), c"...");
        assert_eq!(args.name().unwrap(), c"b c");
        assert_eq!(args.name(), Err(Errno::INVAL));
    }

    #[test]
    fn bodies_have_the_sizes_of_fuse_h() {
        let stat = rustix::fs::stat("/").unwrap();
        let size = |body: Body| body.0.len();
        assert_eq!(size(Body::default().attr(&stat, [0; 2])), ATTR);
        assert_eq!(size(Body::default().attr_out(&stat, [0; 2])), 104);
        assert_eq!(size(Body::default().entry_out(1, &stat, [0; 2])), ENTRY_OUT);
        assert_eq!(size(Body::default().no_entry()), ENTRY_OUT);
        let vfs = rustix::fs::statvfs("/").unwrap();
        assert_eq!(size(Body::default().statfs(&vfs)), 80);
        let dirent = Body::default().dirent(1, 2, FileType::Directory, c"abc");
        assert_eq!(dirent.0.len(), dirent_size(3, false));
        assert_eq!(dirent.0[20], 4, "DT_DIR");
    }

    proptest! {
        #[test]
        fn a_name_is_one_component_or_refused(bytes: Vec<u8>) {
            if let Ok(name) = Args(&bytes).name() {
                let name = name.to_bytes();
                prop_assert!(!name.contains(&b'/') && !name.is_empty() && name.len() <= 255);
                prop_assert!(name != b"." && name != b"..");
            }
        }
    }
}
