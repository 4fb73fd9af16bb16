//! A directory of the host's as files of an initramfs: `--rootfs DIRECTORY`.
//!
//! Kept are kinds, permissions, owners, times, device numbers, hard and symbolic links. Left out are
//! sockets, which are nothing without the process that listens, extended attributes, for which the
//! format has no place, and what is mounted below: its mount point becomes an empty directory.
//!
//! Here is only looked at names; files are read when they are copied into the guest
//! ([`super::initramfs`]). Symbolic links are never followed.
//!
//! Sources: `[buffer]` Linux `Documentation/driver-api/early-userspace/buffer-format.rst`, v6.12;
//! `[initramfs]` Linux `init/initramfs.c`, v6.12, maybe_link: a file's content comes with its first
//! name, the others are empty.
//! Read next: [`super::multiboot`].

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::initramfs::{Error, Initramfs, cannot_read};
use super::newc::Attributes;
use crate::memory::layout::MMIO_GAP_START;

/// Memory comes in pages, files in memory too.
const PAGE: u64 = 4096;

/// What was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// How many names, of any kind.
    pub names: u64,
    /// Bytes the files take in the guest's memory, once unpacked.
    pub unpacked: u64,
    /// Sockets left out.
    pub sockets: u64,
    /// Directories that are empty in the guest, for another file system is mounted there.
    pub mounts: u64,
}

/// Adds `directory` and all that is in it to `archive`, as `name`.
///
/// # Errors
/// [`Error::DirectoryTooLarge`]; [`Error::Open`] for a directory or link that cannot be read; the archive's own for a name or file
/// that is too long.
pub fn pack(directory: &Path, name: &str, archive: &mut Initramfs<'_>) -> Result<Packed, Error> {
    // The one link that is followed is the one the user gave.
    let top = fs::metadata(directory).map_err(|source| cannot_read(directory, source))?;
    let mut packing = Packing {
        device: top.dev(),
        linked: HashMap::new(),
        packed: Packed::default(),
    };
    packing.add(directory, name.as_bytes(), &top, archive)?;
    let mut waiting = vec![(directory.to_owned(), name.as_bytes().to_vec())];
    while let Some((path, name)) = waiting.pop() {
        for (path, name) in children(&path, &name)? {
            let metadata =
                fs::symlink_metadata(&path).map_err(|source| cannot_read(&path, source))?;
            if packing.add(&path, &name, &metadata, archive)? == Go::Inside {
                waiting.push((path, name));
            }
            // Whoever names a whole system by mistake is told at once, not when all is counted.
            if archive.len() > MMIO_GAP_START.0 {
                return Err(Error::DirectoryTooLarge {
                    path: directory.to_owned(),
                    limit: MMIO_GAP_START.0,
                });
            }
        }
    }
    Ok(packing.packed)
}

/// What is in a directory: paths on the host and names in the archive, always in the same order.
fn children(path: &Path, name: &[u8]) -> Result<Vec<(PathBuf, Vec<u8>)>, Error> {
    let failed = |source| cannot_read(path, source);
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = [name, b"/", entry.file_name().as_bytes()].concat();
        found.push((entry.path(), name));
    }
    found.sort();
    Ok(found)
}

/// Whether there is more below.
#[derive(PartialEq, Eq)]
enum Go {
    Inside,
    On,
}

/// What is remembered between files.
struct Packing {
    /// The file system that is packed.
    device: u64,
    /// Files with several names that were met: the host's number, and the archive's.
    linked: HashMap<u64, u32>,
    packed: Packed,
}

impl Packing {
    fn add(
        &mut self,
        path: &Path,
        name: &[u8],
        metadata: &Metadata,
        archive: &mut Initramfs<'_>,
    ) -> Result<Go, Error> {
        let kind = metadata.file_type();
        if kind.is_socket() {
            self.packed.sockets += 1;
            return Ok(Go::On);
        }
        self.packed.names += 1;
        let mut attributes = attributes(metadata);
        if kind.is_dir() {
            archive.entry(name, attributes, b"")?;
            if metadata.dev() == self.device {
                return Ok(Go::Inside);
            }
            self.packed.mounts += 1;
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|source| cannot_read(path, source))?;
            archive.entry(name, attributes, target.as_os_str().as_bytes())?;
        } else {
            let known = self.linked.get(&metadata.ino()).copied();
            if metadata.nlink() > 1 {
                let count = u32::try_from(metadata.nlink()).unwrap_or(u32::MAX);
                attributes.links = Some((known.unwrap_or(0), count));
            }
            // [initramfs] Only the first name has content; devices and pipes have none.
            let len = match known {
                None if kind.is_file() => metadata.len(),
                _ => 0,
            };
            let number = archive.file_from_path(name, attributes, (path.to_owned(), len))?;
            self.packed.unpacked += len.next_multiple_of(PAGE);
            if metadata.nlink() > 1 {
                self.linked.insert(metadata.ino(), number);
            }
        }
        Ok(Go::On)
    }
}

fn attributes(metadata: &Metadata) -> Attributes {
    let device = metadata.rdev();
    // [buffer] Times are 32 bits, unsigned; outside of them is as good as unknown.
    let mtime = u32::try_from(metadata.mtime()).unwrap_or(0);
    Attributes {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime,
        device: (libc::major(device), libc::minor(device)),
        links: None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use vm_memory::GuestAddress;

    use super::*;
    use crate::memory::GuestMemory;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cottage-{}-{name}", std::process::id()));
        let _left_over = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Name, mode, links, size and content of all entries.
    fn entries(archive: &Initramfs<'_>) -> Vec<(String, u32, u32, String)> {
        let memory = GuestMemory::new(4 << 20).unwrap();
        archive.load(GuestAddress(0x10_0000), &memory).unwrap();
        let mut bytes = vec![0; usize::try_from(archive.len()).unwrap()];
        memory.read(GuestAddress(0x10_0000), &mut bytes).unwrap();
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let field = |number: usize| {
                let digits = &rest[6 + number * 8..14 + number * 8];
                usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            let text = |range: &[u8]| String::from_utf8(range.to_vec()).unwrap();
            let start = (110 + name_size).next_multiple_of(4);
            found.push((
                text(&rest[110..109 + name_size]),
                u32::try_from(field(1)).unwrap(),
                u32::try_from(field(4)).unwrap(),
                text(&rest[start..start + size]),
            ));
            rest = &rest[(start + size).next_multiple_of(4)..];
        }
        found
    }

    fn entry(name: &str, mode: u32, links: u32, content: &str) -> (String, u32, u32, String) {
        (name.to_owned(), mode, links, content.to_owned())
    }

    #[test]
    fn files_links_and_directories_are_kept_and_sockets_left_out() {
        let top = directory("pack");
        fs::create_dir(top.join("d")).unwrap();
        fs::write(top.join("d/f"), "text").unwrap();
        fs::set_permissions(top.join("d/f"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("/no/where", top.join("link")).unwrap();
        let _socket = UnixListener::bind(top.join("socket")).unwrap();
        fs::set_permissions(&top, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(top.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
        let mut archive = Initramfs::new();
        let packed = pack(&top, "root", &mut archive).unwrap();
        let expected = Packed {
            names: 4,
            unpacked: 4096,
            sockets: 1,
            mounts: 0,
        };
        assert_eq!(packed, expected);
        assert_eq!(
            entries(&archive),
            [
                entry("root", 0o040_755, 1, ""),
                entry("root/d", 0o040_700, 1, ""),
                entry("root/link", 0o120_777, 1, "/no/where"),
                entry("root/d/f", 0o104_711, 1, "text"),
            ]
        );
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn content_comes_with_the_first_of_several_names() {
        let top = directory("pack-links");
        fs::write(top.join("a"), "once").unwrap();
        fs::hard_link(top.join("a"), top.join("b")).unwrap();
        fs::set_permissions(top.join("a"), fs::Permissions::from_mode(0o644)).unwrap();
        let mut archive = Initramfs::new();
        pack(&top, "r", &mut archive).unwrap();
        assert_eq!(
            entries(&archive)[1..],
            [
                entry("r/a", 0o100_644, 2, "once"),
                entry("r/b", 0o100_644, 2, ""),
            ]
        );
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn more_than_any_memory_holds_is_refused_without_being_read() {
        let top = directory("pack-large");
        // Holes: they take no place on this disk, and would in the guest.
        let file = fs::File::create(top.join("a")).unwrap();
        file.set_len(MMIO_GAP_START.0 + 1).unwrap();
        let error = pack(&top, "r", &mut Initramfs::new()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("more than 3072 MiB of files do not fit"),
            "{text}"
        );
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn file_that_shrank_since_it_was_looked_at_is_an_error() {
        let top = directory("pack-shrank");
        fs::write(top.join("a"), "long enough").unwrap();
        let mut archive = Initramfs::new();
        pack(&top, "r", &mut archive).unwrap();
        fs::write(top.join("a"), "short").unwrap();
        let memory = GuestMemory::new(4 << 20).unwrap();
        let error = archive.load(GuestAddress(0), &memory).unwrap_err();
        assert!(
            error.to_string().starts_with("Cannot copy 0xb bytes"),
            "{error}"
        );
        fs::remove_dir_all(top).unwrap();
    }
}
