//! A tree of files as an initramfs has it: read from its archive, described by a digest, laid out in a
//! folder.
//!
//! The archive is our own, from this program's file. It is checked all the same: a name that leads out
//! of the folder must not be written, whoever made it.
//!
//! Source: `[buffer]` Linux `Documentation/driver-api/early-userspace/buffer-format.rst`, v6.12.
//! Read next: [`super::image`].

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use sha2::{Digest, Sha256};

/// `[buffer]` "070701" and 13 fields of 8 digits.
const HEADER: usize = 110;
/// `[buffer]` Entries and their contents begin at multiples of this.
pub const ALIGNMENT: usize = 4;
/// The name of an archive's last entry.
pub const TRAILER: &str = "TRAILER!!!";

/// What a name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file, with its content.
    File(Vec<u8>),
    /// Another name of a file in the tree.
    Link(String),
    /// A symbolic link, and where it leads.
    Symlink(String),
    /// A character device.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// What stands behind a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Its permissions.
    pub mode: u32,
}

/// Names, without a slash in front, and what stands behind them; directories before what is in them,
/// for that is how names sort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Node>);

/// Why an archive is no tree.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("The built-in initramfs cannot be laid out: {what} at byte {at:#x}; build cottage again")]
pub struct Malformed {
    what: &'static str,
    at: usize,
}

impl Tree {
    /// Reads one archive that is not packed.
    ///
    /// # Errors
    /// [`Malformed`] says what and where.
    pub fn parse(archive: &[u8]) -> Result<Self, Malformed> {
        let mut tree = Self::default();
        // Files with several names: by the archive's number, the first name.
        let mut first_names: HashMap<u32, String> = HashMap::new();
        let mut at = 0;
        loop {
            let start = at;
            let wrong = |what| Malformed { what, at: start };
            let entry = Entry::parse(archive, at).map_err(wrong)?;
            if entry.name == TRAILER {
                return Ok(tree);
            }
            at = entry.end;
            let name = entry.name.trim_end_matches('/').to_owned();
            if name == "." {
                continue;
            }
            if !is_inside(&name) {
                return Err(wrong("a name that leads out of the tree"));
            }
            let mut kind = entry.kind().map_err(wrong)?;
            if entry.links > 1
                && let Kind::File(content) = &kind
            {
                if let Some(first) = first_names.get(&entry.inode) {
                    // Some tools give the content with the last name.
                    if let (false, Some(node)) = (content.is_empty(), tree.0.get_mut(first)) {
                        node.kind = kind;
                    }
                    kind = Kind::Link(first.clone());
                } else {
                    first_names.insert(entry.inode, name.clone());
                }
            }
            let mode = entry.mode & 0o7777;
            tree.0.insert(name, Node { kind, mode });
        }
    }

    /// Bytes in its files, each counted once.
    pub fn bytes(&self) -> u64 {
        let len = |node: &Node| match &node.kind {
            Kind::File(content) => content.len() as u64,
            _ => 0,
        };
        self.0.values().map(len).sum()
    }

    /// SHA-256 over names, kinds, modes and contents, in hexadecimal.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, node) in &self.0 {
            let (kind, content) = match &node.kind {
                Kind::Directory => ("directory", Vec::new()),
                Kind::File(content) => ("file", content.clone()),
                Kind::Link(first) => ("link", first.clone().into_bytes()),
                Kind::Symlink(target) => ("symlink", target.clone().into_bytes()),
                Kind::Device { major, minor } => {
                    ("device", format!("{major}:{minor}").into_bytes())
                }
            };
            // Lengths stand before what they belong to, so that no two trees read alike.
            let head = format!("{} {kind} {:o} {} ", name.len(), node.mode, content.len());
            hash.update(head.as_bytes());
            hash.update(name.as_bytes());
            hash.update(&content);
        }
        hex(&hash.finalize())
    }

    /// Lays it out in `folder`, which is there and empty. Returns what could not be made: devices,
    /// which take root.
    ///
    /// # Errors
    /// The path, and what the host said.
    pub fn lay_out(&self, folder: &Path) -> Result<Vec<String>, (PathBuf, io::Error)> {
        let mut left_out = Vec::new();
        for (name, node) in &self.0 {
            let path = folder.join(name);
            match self.make(folder, &path, node) {
                Err(error)
                    if matches!(node.kind, Kind::Device { .. })
                        && error.kind() == io::ErrorKind::PermissionDenied =>
                {
                    left_out.push(name.clone());
                }
                made => made.map_err(|error| (path, error))?,
            }
        }
        Ok(left_out)
    }

    fn make(&self, folder: &Path, path: &Path, node: &Node) -> io::Result<()> {
        match &node.kind {
            // Whoever cleans up later has to be able to look into it.
            Kind::Directory => DirBuilder::new().mode(0o700).create(path)?,
            Kind::File(content) => {
                let mut options = File::options();
                let mut file = options
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)?;
                file.write_all(content)?;
            }
            Kind::Link(first) => return fs::hard_link(folder.join(first), path),
            Kind::Symlink(target) => return symlink(target, path),
            Kind::Device { major, minor } => {
                let device = makedev(*major, *minor);
                mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), device)?;
            }
        }
        // Not by the call that made it: the process's umask would take some away.
        fs::set_permissions(path, Permissions::from_mode(node.mode))
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a name, taken relative to a folder, stays in it.
fn is_inside(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.split('/').all(part)
}

/// One entry of an archive.
struct Entry<'a> {
    inode: u32,
    mode: u32,
    links: u32,
    device: (u32, u32),
    name: &'a str,
    content: &'a [u8],
    /// Where the next one begins.
    end: usize,
}

impl<'a> Entry<'a> {
    fn parse(archive: &'a [u8], at: usize) -> Result<Self, &'static str> {
        let rest = archive.get(at..).unwrap_or_default();
        let header = rest.get(..HEADER).ok_or("an end in the middle")?;
        let digits = header
            .strip_prefix(b"070701")
            .ok_or("no header of an entry")?;
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(digits.chunks_exact(8)) {
            let digits = std::str::from_utf8(digits).ok();
            let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            *field = number.ok_or("a field that is no number")?;
        }
        let [
            inode,
            mode,
            _,
            _,
            links,
            _,
            size,
            _,
            _,
            major,
            minor,
            name_size,
            _,
        ] = fields;
        let (name_size, size) = (name_size as usize, size as usize);
        let name = rest.get(HEADER..HEADER + name_size);
        let name = name.and_then(|name| name.strip_suffix(b"\0"));
        let name = std::str::from_utf8(name.ok_or("a name that does not end")?);
        let name = name.ok().ok_or("a name that is no text")?;
        // The archive begins at a multiple of the alignment, so that places in it align as well.
        let start = align(at + HEADER + name_size);
        let content = archive.get(start..start + size);
        Ok(Self {
            inode,
            mode,
            links,
            device: (major, minor),
            name,
            content: content.ok_or("a file that goes beyond the end")?,
            end: align(start + size),
        })
    }

    fn kind(&self) -> Result<Kind, &'static str> {
        // The kernel's own gen_init_cpio ends them with a NUL.
        let target = self.content.strip_suffix(b"\0").unwrap_or(self.content);
        let text = || std::str::from_utf8(target).map(str::to_owned);
        match FileType::from_raw_mode(self.mode) {
            FileType::Directory => Ok(Kind::Directory),
            FileType::RegularFile => Ok(Kind::File(self.content.to_vec())),
            FileType::Symlink => text()
                .map(Kind::Symlink)
                .map_err(|_not_utf8| "a link that is no text"),
            FileType::CharacterDevice => {
                let (major, minor) = self.device;
                Ok(Kind::Device { major, minor })
            }
            _ => Err("a file of another kind"),
        }
    }
}

fn align(at: usize) -> usize {
    at.next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::newc::{Attributes, header};

    /// An archive of these: name, mode, number, number of names, content.
    fn archive(entries: &[(&str, u32, u32, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let end = (TRAILER, 0, 0, 1, &b""[..]);
        for (name, mode, inode, links, content) in entries.iter().copied().chain([end]) {
            let mut attributes = Attributes::of_root(mode);
            attributes.device = (5, 1);
            let size = u32::try_from(content.len()).unwrap();
            bytes.extend(header(name.as_bytes(), &attributes, (inode, links), size).unwrap());
            bytes.resize(align(bytes.len()), 0);
            bytes.extend(content);
            bytes.resize(align(bytes.len()), 0);
        }
        bytes
    }

    const ALL: [(&str, u32, u32, u32, &[u8]); 6] = [
        ("bin", 0o040_755, 1, 2, b""),
        ("bin/a", 0o100_755, 2, 2, b"program"),
        ("bin/b", 0o100_755, 2, 2, b""),
        ("bin/c", 0o120_777, 3, 1, b"/bin/a\0"),
        ("tmp", 0o041_777, 4, 2, b""),
        ("console", 0o020_600, 5, 1, b""),
    ];

    #[test]
    fn every_kind_is_read_and_laid_out() {
        let tree = Tree::parse(&archive(&ALL)).unwrap();
        assert_eq!(tree.bytes(), 7);
        assert_eq!(tree.0["bin/b"].kind, Kind::Link("bin/a".to_owned()));
        assert_eq!(tree.0["console"].kind, Kind::Device { major: 5, minor: 1 });
        let name = format!("cottage-tree-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let left_out = tree.lay_out(&folder);
        let seen = |name: &str| fs::symlink_metadata(folder.join(name)).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(seen("bin/a").ino(), seen("bin/b").ino());
        assert_eq!(fs::read(folder.join("bin/b")).unwrap(), b"program");
        assert_eq!(
            fs::read_link(folder.join("bin/c")).unwrap(),
            Path::new("/bin/a")
        );
        assert_eq!(seen("tmp").mode() & 0o7777, 0o1777);
        let made = folder.join("console").exists();
        fs::remove_dir_all(&folder).unwrap();
        assert_ne!(made, left_out.unwrap() == ["console"]);
    }

    #[test]
    fn content_may_come_with_the_last_name() {
        let mut other = ALL;
        (other[1].4, other[2].4) = (b"", b"program");
        let trees = [ALL, other].map(|entries| Tree::parse(&archive(&entries)).unwrap());
        assert_eq!(trees[0], trees[1]);
    }

    #[test]
    fn digest_tells_trees_apart_by_name_kind_mode_and_content() {
        let digest = |entries: &[_]| Tree::parse(&archive(entries)).unwrap().digest();
        let mut seen = vec![digest(&ALL)];
        assert_eq!(seen, [digest(&ALL)]);
        for change in [
            ("bin/d", 0o120_777, 3, 1, &b"/bin/a"[..]),
            ("bin/c", 0o100_777, 3, 1, b"/bin/a"),
            ("bin/c", 0o120_755, 3, 1, b"/bin/a"),
            ("bin/c", 0o120_777, 3, 1, b"/bin/b"),
        ] {
            let mut entries = ALL;
            entries[3] = change;
            seen.push(digest(&entries));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../a", "a/../../b", "..", "a//b", "/../a"] {
            let error = Tree::parse(&archive(&[(name, 0o100_644, 1, 1, b"x")])).unwrap_err();
            assert_eq!(error.what, "a name that leads out of the tree", "{name}");
        }
    }

    #[test]
    fn damage_is_told_and_does_no_harm() {
        let whole = archive(&ALL);
        for len in 0..whole.len() - 4 {
            // Some places are between entries, where the trailer is missing.
            Tree::parse(&whole[..len]).unwrap_err();
        }
        let mut wrong = whole.clone();
        wrong[6] = b'x';
        assert_eq!(
            Tree::parse(&wrong).unwrap_err().what,
            "a field that is no number"
        );
        let huge = archive(&[("a", 0o100_644, 1, 1, b"")]);
        let huge = String::from_utf8(huge).unwrap();
        // The seventh field is the size.
        let at = 6 + 6 * 8;
        let huge = format!("{}ffffffff{}", &huge[..at], &huge[at + 8..]);
        let error = Tree::parse(huge.as_bytes()).unwrap_err();
        assert_eq!(error.what, "a file that goes beyond the end");
    }
}
