//! One entry of a cpio archive, in the format that Linux takes as initramfs.
//!
//! ```text
//!  070701 | 13 fields of 8 hexadecimal digits | name NUL | 0 to 3 zeros | data | 0 to 3 zeros
//! ```
//!
//! Source: `[buffer]` Linux `Documentation/driver-api/early-userspace/buffer-format.rst`, v6.12.
//! Read next: [`super::initramfs`].

/// Archives, names and data start on multiples of this, in bytes.
pub const ALIGNMENT: u64 = 4;
/// `[buffer]` c_mode of a directory and of a file.
pub const DIRECTORY: u32 = 0o040_000;
/// The same of a file.
pub const FILE: u32 = 0o100_000;

/// What an archive says of a file, besides its name and content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Kind and permissions, as in stat(2).
    pub mode: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Major and minor number of the device that it is.
    pub device: (u32, u32),
    /// If it has more than one name: its number, 0 at its first name, and how many there are.
    pub links: Option<(u32, u32)>,
}

impl Attributes {
    /// A file of root's, as those that cottage makes itself.
    pub fn of_root(mode: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            device: (0, 0),
            links: None,
        }
    }
}

/// All of an entry that comes before its data, without the zeros. `inode` is its number and how many
/// names have that: the kernel matches names of one file by it, and looks only at files that say they
/// have two or more.
///
/// # Errors
/// Why `path` cannot be a name.
pub fn header(
    path: &[u8],
    attributes: &Attributes,
    (inode, links): (u32, u32),
    size: u32,
) -> Result<Vec<u8>, &'static str> {
    // The kernel unpacks relative to its root; absolute names would do, but no tool makes any.
    let leading = path.iter().take_while(|byte| **byte == b'/').count();
    let name = path.get(leading..).unwrap_or_default();
    if name.is_empty() {
        return Err("it names nothing");
    }
    if name.contains(&0) {
        return Err("it contains a NUL");
    }
    // [buffer] The kernel skips names longer than PATH_MAX.
    let name_size = u32::try_from(name.len() + 1)
        .ok()
        .filter(|size| *size <= 4096);
    let name_size = name_size.ok_or("it is longer than 4095 bytes")?;
    let Attributes {
        mode,
        uid,
        gid,
        mtime,
        device: (major, minor),
        ..
    } = *attributes;
    // Fields in order: inode, mode, uid, gid, links, mtime, size, device of the file (2), device it
    // is (2), name size, checksum.
    let fields = [
        inode, mode, uid, gid, links, mtime, size, 0, 0, major, minor, name_size, 0,
    ];
    let digits: String = fields.iter().map(|field| format!("{field:08x}")).collect();
    Ok([b"070701", digits.as_bytes(), name, b"\0"].concat())
}
