//! A folder of the host's, and the only ways into it.
//!
//! A file is held by a descriptor opened with O_PATH: it names exactly this file, whatever becomes
//! of its name, and can neither be read nor written. It comes from [`Folder::find`] alone, one
//! name below a directory that is held already. There the host's kernel is told not to leave the
//! directory, not to follow a link and not to enter what is mounted in it (openat2(2)). So a
//! guest's `..`, a link to `/etc` and a link put in place between two requests all end inside: a
//! link is a file with a text in it, which the guest's kernel reads and follows among its own
//! files.
//!
//! Why nothing that is mounted in the folder is entered: shared `/` would bring `/proc` along,
//! and with it cottage's own memory as a file.
//!
//! What O_PATH cannot do goes by /proc/self/fd/N ([`Folder::reopen`]), which leads back to the
//! same file without a name being looked up, as open(2) says of O_PATH.
//!
//! Sources: openat2(2), open(2), user_namespaces(7) for how owners are shown.
//! Read next: [`super::table`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Stat, chmodat, fchmod,
    fstat, fstatfs, openat, openat2,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

/// Bits of a mode that a guest can set. Not set-user-id and set-group-id: the file would be the
/// user's own on the host, and run with the user's rights for whoever starts it there.
const MODE_BITS: u32 = 0o1777;
/// Set-user-id and set-group-id.
const SET_ID_BITS: u32 = 0o6000;
/// The owner "somebody else", as user namespaces show it.
const NOBODY: u32 = 65_534;
/// The guest's root, and the host's.
const ROOT_ID: u32 = 0;

/// Why a folder cannot be shared; each of these is the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("Cannot share the folder {0:?}: it must be a directory that you may enter")]
    Open(PathBuf, #[source] io::Error),
    /// It is the kernel's.
    #[error(
        "Cannot share the folder {0:?}: it is of the file system proc, by which a guest could change \
         cottage itself"
    )]
    Proc(PathBuf),
    /// There is no /proc.
    #[error(
        "Sharing a folder needs /proc/self/fd on this host, to open files by their descriptors"
    )]
    NoProc(#[source] io::Error),
    /// A kernel before 5.6, or a filter.
    #[error(
        "Sharing a folder needs the system call openat2, by which nothing outside of {0:?} is reached: \
         Linux 5.6 or later, and no filter that forbids it"
    )]
    NoOpenat2(PathBuf, #[source] io::Error),
}

/// How owners look from the other side.
///
/// As in a user namespace with one user: who runs cottage is the guest's root, all others are
/// nobody. For the host's root they are what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owners {
    uid: u32,
    gid: u32,
}

impl Owners {
    fn of_this_process() -> Self {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        Self { uid, gid }
    }

    /// Owner and group of a file, for the guest.
    pub fn shown(self, stat: &Stat) -> [u32; 2] {
        let show = |id, own| match id {
            id if self.uid == ROOT_ID => id,
            id if id == own => ROOT_ID,
            _ => NOBODY,
        };
        [show(stat.st_uid, self.uid), show(stat.st_gid, self.gid)]
    }

    /// Owner and group that the guest wants, for the host; none if they are not to be had.
    pub fn meant(self, [uid, gid]: [Option<u32>; 2]) -> Option<[Option<u32>; 2]> {
        let mean = |id: Option<u32>, own| match id {
            Some(id) if self.uid != ROOT_ID && id != ROOT_ID => None,
            Some(_) if self.uid != ROOT_ID => Some(Some(own)),
            id => Some(id),
        };
        Some([mean(uid, self.uid)?, mean(gid, self.gid)?])
    }
}

/// A shared folder.
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
    /// The directory /proc/self/fd.
    descriptors: OwnedFd,
    /// Nothing in it may be changed.
    pub read_only: bool,
    /// How owners look to the guest.
    pub owners: Owners,
}

impl Folder {
    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// [`Error`] with the path and what to do.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from);
        let root = open(path).map_err(|e| Error::Open(path.to_owned(), e))?;
        let statfs = fstatfs(&root).map_err(|e| Error::Open(path.to_owned(), e.into()))?;
        if statfs.f_type == PROC_SUPER_MAGIC {
            return Err(Error::Proc(path.to_owned()));
        }
        let descriptors = open(Path::new("/proc/self/fd")).map_err(Error::NoProc)?;
        let folder = Self {
            root,
            descriptors,
            read_only,
            owners: Owners::of_this_process(),
        };
        match folder.find(folder.root(), c".") {
            Ok(_itself) => Ok(folder),
            Err(e) if e == Errno::ACCESS => Err(Error::Open(path.to_owned(), e.into())),
            Err(e) => Err(Error::NoOpenat2(path.to_owned(), e.into())),
        }
    }

    /// The folder itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The file `name` in `directory`, which is not followed if it is a link.
    ///
    /// # Errors
    /// The host's; EXDEV where something is mounted.
    pub fn find(&self, directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
        self.open_below(directory, name, OFlags::PATH, 0)
    }

    /// Makes the file `name` in `directory` and opens it.
    ///
    /// # Errors
    /// The host's; EEXIST if there is one.
    pub fn create(
        &self,
        directory: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        flags: OFlags,
        mode: u32,
    ) -> Result<File, Errno> {
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        let file = self.open_below(directory, name, flags, mode & MODE_BITS)?;
        Ok(File::from(file))
    }

    fn open_below(
        &self,
        directory: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        flags: OFlags,
        mode: u32,
    ) -> Result<OwnedFd, Errno> {
        openat2(
            directory,
            name,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
        )
    }

    /// Opens a file that is held, to read or write it. The caller has made sure that it is a regular
    /// file or a directory: anything else could block or be a device.
    ///
    /// # Errors
    /// The host's; EPERM for writing to a file that runs with its owner's rights. Linux takes the bits
    /// away from such a file when it is written, but not if root writes, as who cottage may be.
    pub fn reopen(&self, file: impl AsFd, flags: OFlags) -> Result<File, Errno> {
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        if writes && fstat(&file)?.st_mode & SET_ID_BITS != 0 {
            return Err(Errno::PERM);
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let name = name_of(&file);
        openat(&self.descriptors, name, flags, Mode::empty()).map(File::from)
    }

    /// Takes set-user-id and set-group-id from a file that is open, as Linux does when somebody writes to
    /// it who may not keep them. Here the host's kernel does not, where cottage is root.
    ///
    /// # Errors
    /// The host's.
    pub fn clear_set_id(&self, file: &File) -> Result<(), Errno> {
        let mode = fstat(file)?.st_mode;
        if mode & SET_ID_BITS == 0 {
            return Ok(());
        }
        fchmod(file, Mode::from_raw_mode(mode & MODE_BITS))
    }

    /// /proc/self/fd and the name there, for calls that take a path and not an O_PATH descriptor.
    pub fn by_descriptor(&self, file: impl AsFd) -> (BorrowedFd<'_>, String) {
        (self.descriptors.as_fd(), name_of(&file))
    }

    /// Sets the mode, as far as a guest may.
    ///
    /// # Errors
    /// The host's.
    pub fn set_mode(&self, file: impl AsFd, mode: u32) -> Result<(), Errno> {
        let (directory, name) = self.by_descriptor(file);
        let mode = Mode::from_raw_mode(mode & MODE_BITS);
        chmodat(directory, name, mode, AtFlags::empty())
    }

    /// Sets the mode of a file just made, if the host's umask made it another than asked for: the
    /// guest's kernel has applied its own.
    ///
    /// # Errors
    /// The host's.
    pub fn correct_mode(&self, file: impl AsFd, mode: u32) -> Result<(), Errno> {
        let is = fstat(&file)?.st_mode;
        let link = FileType::from_raw_mode(is) == FileType::Symlink;
        if link || is & MODE_BITS == mode & MODE_BITS {
            return Ok(());
        }
        self.set_mode(file, mode)
    }
}

/// A descriptor's name in /proc/self/fd.
fn name_of(file: &impl AsFd) -> String {
    file.as_fd().as_raw_fd().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn stat_of(uid: u32, gid: u32) -> Stat {
        let mut stat = rustix::fs::stat("/").unwrap();
        (stat.st_uid, stat.st_gid) = (uid, gid);
        stat
    }

    #[test]
    fn user_is_the_guests_root_and_others_are_nobody() {
        let owners = Owners {
            uid: 1000,
            gid: 100,
        };
        assert_eq!(owners.shown(&stat_of(1000, 100)), [0, 0]);
        assert_eq!(owners.shown(&stat_of(0, 1000)), [NOBODY, NOBODY]);
        assert_eq!(owners.meant([Some(0), None]), Some([Some(1000), None]));
        assert_eq!(owners.meant([None, Some(0)]), Some([None, Some(100)]));
        assert_eq!(owners.meant([Some(1000), None]), None);
    }

    #[test]
    fn root_sees_owners_as_they_are() {
        let owners = Owners { uid: 0, gid: 0 };
        assert_eq!(owners.shown(&stat_of(7, 8)), [7, 8]);
        assert_eq!(owners.meant([Some(7), None]), Some([Some(7), None]));
    }

    #[test]
    fn nothing_outside_is_found() {
        let scratch = crate::virtio::testing::Scratch::new();
        fs::create_dir(scratch.path("in")).unwrap();
        fs::write(scratch.path("secret"), "x").unwrap();
        symlink("/", scratch.path("in/link")).unwrap();
        let folder = Folder::open(&scratch.path("in"), false).unwrap();
        let outside = folder.find(folder.root(), c"..");
        assert_eq!(outside.unwrap_err(), Errno::XDEV);
        for path in [c"/", c"/etc", c"../secret", c"link/etc"] {
            let found = folder.find(folder.root(), path);
            assert!(found.is_err(), "{path:?}");
        }
        let link = folder.find(folder.root(), c"link").unwrap();
        let kind = FileType::from_raw_mode(fstat(&link).unwrap().st_mode);
        assert_eq!(kind, FileType::Symlink, "the link itself");
    }

    #[test]
    fn proc_is_refused() {
        let error = Folder::open(Path::new("/proc/sys"), true).unwrap_err();
        assert!(matches!(error, Error::Proc(_)), "{error}");
        let root = Folder::open(Path::new("/"), true).unwrap();
        let proc = root.find(root.root(), c"proc");
        assert_eq!(proc.unwrap_err(), Errno::XDEV, "mounted in a shared /");
    }

    #[test]
    fn file_is_no_folder() {
        let error = Folder::open(Path::new("/etc/passwd"), true).unwrap_err();
        assert!(error.to_string().contains("it must be a directory"));
    }
}
