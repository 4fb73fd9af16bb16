//! A tree as the archive that container engines load: one layer, its description, a list.
//!
//! That is the format of `docker save`, which docker, podman and containerd's ctr all read. Everything
//! in the layer is root's and dated 1970, as in the initramfs.
//!
//! Sources: `[ustar]` POSIX.1-2017, pax, "ustar Interchange Format"; `[image]` Docker Image
//! Specification v1.2.0, "Combined Image JSON + Filesystem Changeset Format".
//! Read next: [`crate::compare::session`].

use serde_json::json;
use sha2::{Digest, Sha256};

use super::tree::{Kind, Node, Tree, hex};

/// `[ustar]` The unit of an archive, in bytes.
const BLOCK: usize = 512;
/// `[ustar]` Bytes for a name, and for where a link leads.
const NAME: usize = 100;

/// The archive that an engine loads as the image `name`.
///
/// # Errors
/// The name that the format has no room for.
pub fn archive(tree: &Tree, name: &str) -> Result<Vec<u8>, String> {
    let layer = layer(tree)?;
    let digest = format!("sha256:{}", hex(&Sha256::digest(&layer)));
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [digest] },
    });
    let manifest = json!([{
        "Config": "config.json",
        "RepoTags": [name],
        "Layers": ["layer.tar"],
    }]);
    let mut files = Tree::default();
    let parts = [
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer),
        ("manifest.json", manifest.to_string().into_bytes()),
    ];
    for (name, content) in parts {
        let (kind, mode) = (Kind::File(content), 0o644);
        files.0.insert(name.to_owned(), Node { kind, mode });
    }
    self::layer(&files)
}

/// The tree as a tar archive.
///
/// # Errors
/// The name that the format has no room for.
pub fn layer(tree: &Tree) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for (name, node) in &tree.0 {
        bytes.extend(header(name, node)?);
        if let Kind::File(content) = &node.kind {
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
    }
    // [ustar] Two empty blocks end it.
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    Ok(bytes)
}

/// `[ustar]` The block before a file, field by field.
fn header(name: &str, node: &Node) -> Result<Vec<u8>, String> {
    let (flag, link, size, (major, minor)) = match &node.kind {
        Kind::File(content) => (b'0', "", content.len() as u64, (0, 0)),
        Kind::Link(first) => (b'1', first.as_str(), 0, (0, 0)),
        Kind::Symlink(target) => (b'2', target.as_str(), 0, (0, 0)),
        Kind::Device { major, minor } => (b'3', "", 0, (*major, *minor)),
        Kind::Directory => (b'5', "", 0, (0, 0)),
    };
    let too_long = [name, link].into_iter().find(|text| text.len() > NAME);
    if let Some(text) = too_long {
        return Err(format!("{text:?} is longer than {NAME} bytes"));
    }
    if size >= 1 << 33 {
        return Err(format!("{name:?} is larger than 8 GiB"));
    }
    let mut block = Vec::with_capacity(BLOCK);
    let mut field = |bytes: &[u8], len: usize| {
        block.extend(bytes);
        block.resize(block.len() + len - bytes.len(), 0);
    };
    field(name.as_bytes(), NAME);
    field(format!("{:07o}", node.mode).as_bytes(), 8);
    field(b"0000000", 8); // user
    field(b"0000000", 8); // group
    field(format!("{size:011o}").as_bytes(), 12);
    field(b"00000000000", 12); // date
    let sum_at = 148;
    // The sum counts its own field as blanks.
    field(b"        ", 8);
    field(&[flag], 1);
    field(link.as_bytes(), NAME);
    field(b"ustar\x0000", 8);
    field(b"root", 32);
    field(b"root", 32);
    field(format!("{major:07o}").as_bytes(), 8);
    field(format!("{minor:07o}").as_bytes(), 8);
    field(b"", BLOCK - 345); // prefix of the name, and the rest
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    let sum = format!("{sum:06o}\0 ");
    block.splice(sum_at..sum_at + 8, sum.bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn tree() -> Tree {
        let node = |kind, mode| Node { kind, mode };
        Tree(
            [
                ("bin", node(Kind::Directory, 0o755)),
                ("bin/a", node(Kind::File(b"x".repeat(513)), 0o4755)),
                ("bin/b", node(Kind::Link("bin/a".to_owned()), 0o4755)),
                ("bin/c", node(Kind::Symlink("/bin/a".to_owned()), 0o777)),
                ("console", node(Kind::Device { major: 5, minor: 1 }, 0o600)),
            ]
            .map(|(name, node)| (name.to_owned(), node))
            .into(),
        )
    }

    fn tar(words: &[&str], input: &[u8]) -> String {
        let mut tar = Command::new("tar");
        let tar = tar.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = tar.env("TZ", "UTC").spawn().unwrap();
        process.stdin.take().unwrap().write_all(input).unwrap();
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn tar_lists_what_was_put_in() {
        let listed = tar(&["-tv", "--numeric-owner", "-f-"], &layer(&tree()).unwrap());
        let lines: Vec<_> = listed.lines().map(|line| line.split_whitespace()).collect();
        let lines: Vec<Vec<_>> = lines.into_iter().map(Iterator::collect).collect();
        let of = |line: usize| (lines[line][0], lines[line][1], lines[line][2]);
        assert_eq!(of(0), ("drwxr-xr-x", "0/0", "0"));
        assert_eq!(of(1), ("-rwsr-xr-x", "0/0", "513"));
        assert!(listed.contains("bin/b link to bin/a"), "{listed}");
        assert!(listed.contains("bin/c -> /bin/a"), "{listed}");
        assert_eq!(of(4), ("crw-------", "0/0", "5,1"));
    }

    #[test]
    fn image_describes_its_layer() {
        let whole = archive(&tree(), "localhost/x:latest").unwrap();
        let manifest = tar(&["-xO", "-f-", "manifest.json"], &whole);
        assert!(manifest.contains("\"localhost/x:latest\""), "{manifest}");
        let config = tar(&["-xO", "-f-", "config.json"], &whole);
        let digest = hex(&Sha256::digest(layer(&tree()).unwrap()));
        assert!(config.contains(&digest), "{config}");
    }

    #[test]
    fn names_without_room_are_refused() {
        let mut tree = Tree::default();
        let (kind, mode) = (Kind::Directory, 0o755);
        tree.0.insert("x".repeat(101), Node { kind, mode });
        assert!(layer(&tree).unwrap_err().contains("100 bytes"));
    }
}
