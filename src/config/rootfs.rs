//! `--rootfs DIR|IMAGE[,shared][,ro|,overlay]` and `--init PATH`: the root file system of a guest.
//!
//! What is there decides what machine it is: an image becomes the first disk, a directory is packed
//! into the initramfs by [`crate::boot::pack`], or becomes the first shared folder. So this is the one flag for which the configuration
//! looks at a file, and only at its first bytes: a file system is recognised by its content, as
//! everything else ([`crate::boot::identify`]).
//!
//! Read next: [`super::module`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::disk::{Access, Disk, Format, split};
use super::share::Share;
use crate::boot::identify::{FileSystem, HEAD, Kind, identify};

/// What the root's disk is called, and its serial number in the guest.
const ID: &str = "root";
/// What the root's folder is called, if it is one. A user's tag does not begin with a dot, so no other
/// folder can have it. `FOLDER` in `guest-images/init/src/root.rs` is the same.
pub const TAG: &str = ".root";

/// A mistake in `--rootfs` or `--init`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No file's name.
    #[error("--rootfs {0:?} names nothing: give DIR|IMAGE[,shared][,ro|,overlay]")]
    NoFile(OsString),
    /// An option that does not exist, or two.
    #[error(
        "--rootfs {value:?} has the option {option:?}: there is shared, for directories, and one of ro \
         and overlay, each once; a comma in the name is written twice"
    )]
    Option {
        /// What was given.
        value: OsString,
        /// What is no option.
        option: OsString,
    },
    /// It cannot be looked at.
    #[error("Cannot use --rootfs {}: {why}", path.display())]
    Open {
        /// As given.
        path: PathBuf,
        /// The host's answer.
        why: String,
    },
    /// It is something else.
    #[error(
        "--rootfs {} is {what}: a root is a directory, or an image of an ext4, erofs or squashfs file \
         system{hint}", path.display()
    )]
    NotARoot {
        /// As given.
        path: PathBuf,
        /// A phrase from [`identify`].
        what: String,
        /// What may help, or nothing.
        hint: &'static str,
    },
    /// An option that says nothing of a directory that is copied.
    #[error(
        "--rootfs {path} is a directory, and {option} is for what the guest sees itself: a directory's \
         files are copied into the guest's memory, it stays as it is anyway; or give {path},shared,{option}",
        path = path.display()
    )]
    DirectoryOption {
        /// As given.
        path: PathBuf,
        /// `ro` or `overlay`.
        option: &'static str,
    },
    /// An image is no folder.
    #[error(
        "--rootfs {} is no directory, and shared is for directories: an image is a disk of the guest's, \
         which sees what is in it anyway", .0.display()
    )]
    SharedImage(PathBuf),
    /// All of this host's files, to be written.
    #[error(
        "--rootfs {}: this is the root of this host, and a guest that shares it could change every file \
         that you can: give shared,overlay or shared,ro", .0.display()
    )]
    SharedHost(PathBuf),
    /// `--init` is no path in the root.
    #[error(
        "--init {0:?} is no path in the root: give one that begins with a slash, such as /sbin/init"
    )]
    Init(OsString),
    /// Two programs to start.
    #[error(
        "--init {0:?} is the guest's first process, and so there is nobody to run a command: leave \
         out one of them"
    )]
    InitAndCommand(OsString),
}

/// What the guest's init does with the first disk or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Mounts it to be written.
    Write,
    /// Mounts it to be read.
    ReadOnly,
    /// Mounts it to be read, and memory over it that takes what is written.
    OverlayInGuest,
}

/// A root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// Its files are packed into the initramfs.
    Directory(PathBuf),
    /// It is the first shared folder.
    Shared(Mode),
    /// It is the first disk.
    Image(FileSystem, Mode),
}

/// A root and the device that it comes by; nothing of it if there is no `--rootfs`.
#[derive(Debug, Default)]
pub struct Given {
    /// The root.
    pub root: Option<Root>,
    /// Its disk, if it is an image.
    pub disk: Option<Disk>,
    /// Its folder, if it is shared.
    pub share: Option<Share>,
}

/// The root that `value` names.
///
/// # Errors
/// [`Error`] with the value and what is accepted.
pub fn parse(value: &OsStr) -> Result<Given, Error> {
    let mut words = split(value).into_iter();
    let path = words.next().filter(|path| !path.is_empty());
    let path = PathBuf::from(path.ok_or_else(|| Error::NoFile(value.to_owned()))?);
    let (mut shared, mut mode) = (false, Mode::Write);
    for word in words {
        match (word.as_bytes(), shared, mode) {
            (b"shared", false, _) => shared = true,
            (b"ro", _, Mode::Write) => mode = Mode::ReadOnly,
            (b"overlay", _, Mode::Write) => mode = Mode::OverlayInGuest,
            _ => {
                return Err(Error::Option {
                    value: value.to_owned(),
                    option: word,
                });
            }
        }
    }
    match (look(&path)?, shared, mode) {
        (Some(_), true, _) => Err(Error::SharedImage(path)),
        (Some(system), false, _) => Ok(image(path, system, mode)),
        (None, true, _) => folder(path, mode),
        (None, false, Mode::Write) => Ok(Given {
            root: Some(Root::Directory(path)),
            ..Given::default()
        }),
        (None, false, Mode::ReadOnly) => Err(Error::DirectoryOption { path, option: "ro" }),
        (None, false, Mode::OverlayInGuest) => Err(Error::DirectoryOption {
            path,
            option: "overlay",
        }),
    }
}

/// `value` as a path in the root; `command` is what else was given to run.
///
/// # Errors
/// [`Error::Init`] and [`Error::InitAndCommand`].
pub fn parse_init(value: OsString, command: &[OsString]) -> Result<Vec<u8>, Error> {
    let bytes = value.as_bytes();
    if !bytes.starts_with(b"/") || bytes.contains(&0) {
        return Err(Error::Init(value));
    }
    if !command.is_empty() {
        return Err(Error::InitAndCommand(value));
    }
    Ok(bytes.to_vec())
}

/// A folder, which the host lets be written only if the guest may.
fn folder(path: PathBuf, mode: Mode) -> Result<Given, Error> {
    let is_root = std::fs::canonicalize(&path).is_ok_and(|path| path == Path::new("/"));
    if is_root && mode == Mode::Write {
        return Err(Error::SharedHost(path));
    }
    let share = Share {
        path,
        tag: TAG.to_owned(),
        read_only: mode != Mode::Write,
        at: Some("/".into()),
    };
    Ok(Given {
        root: Some(Root::Shared(mode)),
        disk: None,
        share: Some(share),
    })
}

fn image(path: PathBuf, system: FileSystem, mode: Mode) -> Given {
    let (mode, access) = match (system, mode) {
        // The layer that cottage keeps is as large as the disk; where nothing is ever written below,
        // the guest's own does.
        (FileSystem::Erofs | FileSystem::Squashfs, Mode::OverlayInGuest) => {
            (Mode::OverlayInGuest, Access::ReadOnly)
        }
        (FileSystem::Erofs | FileSystem::Squashfs, _) | (_, Mode::ReadOnly) => {
            (Mode::ReadOnly, Access::ReadOnly)
        }
        (FileSystem::Ext4, Mode::OverlayInGuest) => (Mode::Write, Access::Overlay),
        (FileSystem::Ext4, Mode::Write) => (Mode::Write, Access::Write),
    };
    let disk = Disk {
        path,
        // The file system was recognised where a raw image has it.
        format: Some(Format::Raw),
        backing_anywhere: false,
        access,
        id: ID.to_owned(),
        serial: ID.to_owned(),
    };
    Given {
        root: Some(Root::Image(system, mode)),
        disk: Some(disk),
        share: None,
    }
}

/// The file system in the image at `path`; `None` if it is a directory.
fn look(path: &Path) -> Result<Option<FileSystem>, Error> {
    let head = head(path).map_err(|error| Error::Open {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    let Some(head) = head else { return Ok(None) };
    let kind = identify(&head);
    match kind {
        Kind::FileSystem(system) => Ok(Some(system)),
        other => {
            let what = other.phrase();
            let hint = match other {
                Kind::Packed(_) => "; unpack it first",
                Kind::Cpio => "; give it as --initramfs",
                _ if what.contains("tar archive") => "; unpack it into a directory",
                _ if what.starts_with("a disk image") => {
                    "; take one of its partitions out, or give the whole as --disk"
                }
                _ if what.contains("disk image") => {
                    "; `qemu-img convert -O raw` makes a raw one of it"
                }
                _ => "",
            };
            Err(Error::NotARoot {
                path: path.to_owned(),
                what,
                hint,
            })
        }
    }
}

/// The first bytes of a file or block device; `None` for a directory.
fn head(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Asked before it is opened: opening a pipe would wait for its writer.
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Ok(None);
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("it is no directory, file or block device"));
    }
    let mut head = Vec::new();
    File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with `bytes` at `offset`.
    fn file(name: &str, offset: usize, bytes: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cottage-{}-{name}", std::process::id()));
        let mut content = vec![0; offset];
        content.extend_from_slice(bytes);
        content.resize(8192, 0);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn given(path: &Path, options: &str) -> Result<Given, Error> {
        let mut value = path.as_os_str().to_owned();
        value.push(options);
        parse(&value)
    }

    fn parsed(path: &Path, options: &str) -> Result<(Root, Option<Disk>), Error> {
        given(path, options).map(|given| (given.root.unwrap(), given.disk))
    }

    #[test]
    fn ext4_image_is_a_disk_with_the_mode_asked_for() {
        let path = file("root-ext4", 0x438, b"\x53\xef");
        let (root, disk) = parsed(&path, "").unwrap();
        assert_eq!(root, Root::Image(FileSystem::Ext4, Mode::Write));
        let disk = disk.unwrap();
        assert_eq!((disk.access, &*disk.id), (Access::Write, "root"));
        let (root, disk) = parsed(&path, ",ro").unwrap();
        assert_eq!(root, Root::Image(FileSystem::Ext4, Mode::ReadOnly));
        assert_eq!(disk.unwrap().access, Access::ReadOnly);
        let (root, disk) = parsed(&path, ",overlay").unwrap();
        assert_eq!(root, Root::Image(FileSystem::Ext4, Mode::Write));
        assert_eq!(disk.unwrap().access, Access::Overlay);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn erofs_and_squashfs_are_only_read() {
        let erofs = file("root-erofs", 0x400, b"\xe2\xe1\xf5\xe0");
        let (root, disk) = parsed(&erofs, "").unwrap();
        assert_eq!(root, Root::Image(FileSystem::Erofs, Mode::ReadOnly));
        assert_eq!(disk.unwrap().access, Access::ReadOnly);
        let squashfs = file("root-squashfs", 0, b"hsqs");
        let (root, disk) = parsed(&squashfs, ",overlay").unwrap();
        assert_eq!(
            root,
            Root::Image(FileSystem::Squashfs, Mode::OverlayInGuest)
        );
        assert_eq!(disk.unwrap().access, Access::ReadOnly);
        std::fs::remove_file(erofs).unwrap();
        std::fs::remove_file(squashfs).unwrap();
    }

    #[test]
    fn directory_that_is_copied_takes_no_options() {
        let directory = std::env::temp_dir();
        assert_eq!(
            parsed(&directory, "").unwrap(),
            (Root::Directory(directory.clone()), None)
        );
        let text = parsed(&directory, ",ro").unwrap_err().to_string();
        assert!(
            text.contains("is a directory, and ro is for what the guest sees itself")
                && text.ends_with(&format!("or give {},shared,ro", directory.display())),
            "{text}"
        );
    }

    #[test]
    fn shared_directory_is_a_folder_with_the_mode_asked_for() {
        let directory = std::env::temp_dir();
        for (options, mode, read_only) in [
            (",shared", Mode::Write, false),
            (",shared,ro", Mode::ReadOnly, true),
            (",overlay,shared", Mode::OverlayInGuest, true),
        ] {
            let given = given(&directory, options).unwrap();
            assert_eq!(given.root, Some(Root::Shared(mode)));
            assert_eq!(given.disk, None);
            let share = given.share.unwrap();
            assert_eq!((&*share.tag, share.read_only), (TAG, read_only));
            assert_eq!(share.path, directory);
        }
    }

    #[test]
    fn image_is_not_shared_and_the_hosts_root_not_written() {
        let path = file("root-shared", 0x438, b"\x53\xef");
        let text = parsed(&path, ",shared").unwrap_err().to_string();
        assert!(text.contains("is no directory, and shared is for directories"));
        std::fs::remove_file(path).unwrap();
        for root in ["/", "/tmp/.."] {
            let text = parsed(Path::new(root), ",shared").unwrap_err().to_string();
            assert!(text.ends_with("give shared,overlay or shared,ro"), "{text}");
            assert!(given(Path::new(root), ",shared,overlay").is_ok());
        }
    }

    #[test]
    fn something_else_is_named_with_a_hint() {
        let packed = file("root.gz", 0, b"\x1f\x8b\x08");
        let text = parsed(&packed, "").unwrap_err().to_string();
        assert!(
            text.contains("is a file packed with gzip: a root is a directory, or an image")
                && text.ends_with("; unpack it first"),
            "{text}"
        );
        let whole = file("root-gpt", 0x200, b"EFI PART");
        let text = parsed(&whole, "").unwrap_err().to_string();
        assert!(
            text.contains("a GPT partition table") && text.ends_with("give the whole as --disk"),
            "{text}"
        );
        std::fs::remove_file(packed).unwrap();
        std::fs::remove_file(whole).unwrap();
    }

    #[test]
    fn words_that_make_no_sense_are_refused() {
        let refusal = |value: &str| parse(OsStr::new(value)).unwrap_err().to_string();
        assert!(refusal(",ro").contains("names nothing"));
        assert!(refusal("a,rw").contains("has the option \"rw\""));
        assert!(refusal("a,ro,overlay").contains("has the option \"overlay\""));
        assert!(refusal("a,shared,shared").contains("has the option \"shared\""));
        assert_eq!(
            refusal("/nowhere/at/all"),
            "Cannot use --rootfs /nowhere/at/all: No such file or directory (os error 2)"
        );
        assert!(refusal("/dev/null").ends_with("it is no directory, file or block device"));
    }

    #[test]
    fn init_is_a_path_and_excludes_a_command() {
        assert_eq!(parse_init("/sbin/init".into(), &[]).unwrap(), b"/sbin/init");
        let text = parse_init("init".into(), &[]).unwrap_err().to_string();
        assert!(text.contains("begins with a slash"), "{text}");
        let text = parse_init("/i".into(), &["ls".into()]).unwrap_err();
        assert!(text.to_string().contains("leave out one of them"));
    }
}
