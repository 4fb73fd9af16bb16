//! What a file is, told by its content; its name is never asked.
//!
//! A user who passes the wrong file wants to read what it is, not that a magic number is missing:
//! "rootfs.img is an ext4 file system, not a kernel". [`super::parse`] asks for kernels,
//! [`super::initramfs`] for initramfs. Nothing is validated here beyond the first bytes.
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12; `[elf]` System V ABI,
//! chapter 4;
//! `[initramfs]` Linux `Documentation/driver-api/early-userspace/buffer-format.rst`;
//! the magic numbers of the others are those their own documentation gives (also in file(1)).
//! Read next: [`super::elf`].

use super::unpack::Algorithm;

/// How many bytes from the start of a file [`identify`] wants to see (all, if it is shorter).
///
/// Enough for every signature below, for a kernel's setup header and, nearly always, for the
/// program headers of an ELF file: the loader then needs no further read for them.
pub const HEAD: u64 = 4096;

/// File systems that can be a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// And its ancestors, which the same driver reads.
    Ext4,
    /// Read only by nature.
    Erofs,
    /// Read only by nature.
    Squashfs,
}

impl FileSystem {
    /// Its name for mount(2), and its module's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
        }
    }
}

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ELF file that could be a 64-bit x86 kernel.
    Elf,
    /// A Linux kernel image with a setup header.
    BzImage,
    /// Something packed that we can unpack.
    Packed(Algorithm),
    /// A cpio archive in the format Linux takes as initramfs.
    Cpio,
    /// A file system that a guest can have as its root.
    FileSystem(FileSystem),
    /// Something else: a phrase that fits after "it is".
    Other(String),
}

impl Kind {
    /// A phrase that fits after "it is".
    pub fn phrase(&self) -> String {
        match self {
            Kind::Elf => "a 64-bit x86 ELF program".into(),
            Kind::BzImage => "a bzImage kernel".into(),
            Kind::Packed(algorithm) => format!("a file packed with {algorithm}"),
            Kind::Cpio => "a cpio archive".into(),
            Kind::FileSystem(FileSystem::Ext4) => "an ext2, ext3 or ext4 file system".into(),
            Kind::FileSystem(FileSystem::Erofs) => "an erofs file system".into(),
            Kind::FileSystem(FileSystem::Squashfs) => "a squashfs file system".into(),
            Kind::Other(phrase) => phrase.clone(),
        }
    }
}

/// Says what a file is that starts with `head`.
pub fn identify(head: &[u8]) -> Kind {
    if head.is_empty() {
        return Kind::Other("an empty file".into());
    }
    if has(head, 0, b"\x7fELF") {
        return elf_kind(head);
    }
    if is_bzimage(head) {
        return Kind::BzImage;
    }
    if let Some(algorithm) = Algorithm::detect(head) {
        return Kind::Packed(algorithm);
    }
    // [initramfs] buffer format: 070701 without, 070702 with checksums.
    if has(head, 0, b"070701") || has(head, 0, b"070702") {
        return Kind::Cpio;
    }
    let system = FILE_SYSTEMS
        .iter()
        .find(|(offset, magic, _)| has(head, *offset, magic));
    if let Some((_, _, system)) = system {
        return Kind::FileSystem(*system);
    }
    let known = SIGNATURES
        .iter()
        .find(|(offset, magic, _)| has(head, *offset, magic))
        .map(|(_, _, phrase)| (*phrase).to_owned());
    Kind::Other(known.unwrap_or_else(|| without_signature(head)))
}

/// Offset, magic bytes, file system.
const FILE_SYSTEMS: &[(usize, &[u8], FileSystem)] = &[
    (0, b"hsqs", FileSystem::Squashfs),
    (0x400, b"\xe2\xe1\xf5\xe0", FileSystem::Erofs),
    (0x438, b"\x53\xef", FileSystem::Ext4),
];

/// Offset, magic bytes, phrase. The first that matches wins, so the more specific stand first.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0x38, b"ARM\x64", "an ARM64 kernel image"),
    (0x30, b"RISCV\0\0\0", "a RISC-V kernel image"),
    (0, b"\x27\x05\x19\x56", "a U-Boot uImage"),
    (
        0,
        b"MZ",
        "a PE (EFI or Windows) program without a Linux setup header",
    ),
    (
        0,
        b"\x04\x22\x4d\x18",
        "an lz4 archive in the frame format (kernels use `lz4 -l`)",
    ),
    (
        0,
        b"070707",
        "a cpio archive in the old format (initramfs wants `cpio -H newc`)",
    ),
    (
        0,
        b"\xc7\x71",
        "a binary cpio archive (initramfs wants `cpio -H newc`)",
    ),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"KDMV", "a VMDK disk image"),
    (0, b"vhdxfile", "a VHDX disk image"),
    (0, b"XFSB", "an XFS file system"),
    (0, b"!<arch>\ndebian-binary", "a Debian package (.deb)"),
    (0, b"!<arch>\n", "a static library (ar archive)"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"#!", "a script"),
    (
        0x200,
        b"EFI PART",
        "a disk image with a GPT partition table",
    ),
    (0x1fe, b"\x55\xaa", "a disk image with a boot sector"),
];

fn has(head: &[u8], offset: usize, magic: &[u8]) -> bool {
    head.get(offset..).is_some_and(|at| at.starts_with(magic))
}

/// `[boot]` "The Real-Mode Kernel Header": boot_flag 0xAA55 at 0x1fe, "HdrS" at 0x202.
fn is_bzimage(head: &[u8]) -> bool {
    has(head, 0x1fe, b"\x55\xaa") && has(head, 0x202, b"HdrS")
}

/// `[elf]` "ELF Identification" and "ELF Header": class, byte order, type, machine.
fn elf_kind(head: &[u8]) -> Kind {
    let Some(&[class, order]) = head.get(4..6) else {
        return Kind::Other("an ELF file cut off in its first 6 bytes".into());
    };
    let half = |offset| {
        let bytes: [u8; 2] = head.get(offset..offset + 2)?.try_into().ok()?;
        Some(match order {
            2 => u16::from_be_bytes(bytes),
            _ => u16::from_le_bytes(bytes),
        })
    };
    let (Some(kind), Some(machine)) = (half(16), half(18)) else {
        return Kind::Other("an ELF file cut off in its header".into());
    };
    let what = match (machine, class, order, kind) {
        (62, 2, 1, 2) => return Kind::Elf,
        (62, 2, 1, 1) => "an ELF object or module (relocatable), not an executable".into(),
        (62, 2, 1, 3) => "an ELF shared object or position-independent program".into(),
        (62, 2, 1, 4) => "an ELF core dump".into(),
        (62 | 3, 1, _, _) => {
            "a 32-bit x86 ELF file (--protocol multiboot enters one that has a multiboot header)"
                .into()
        }
        (62, _, _, _) => format!("an ELF file of unknown type {kind}"),
        _ => format!("an ELF file for {}", machine_name(machine)),
    };
    Kind::Other(what)
}

/// `[elf]` e_machine; the few whose kernels people have lying about.
fn machine_name(machine: u16) -> String {
    let name = match machine {
        8 => "MIPS",
        20 | 21 => "PowerPC",
        22 => "s390",
        40 => "32-bit ARM",
        183 => "ARM64",
        243 => "RISC-V",
        258 => "LoongArch",
        other => return format!("another machine (number {other})"),
    };
    name.into()
}

fn without_signature(head: &[u8]) -> String {
    if head.iter().all(|byte| *byte == 0) {
        return format!("{} zero bytes at least", head.len());
    }
    if is_text(head) {
        return "a text file".into();
    }
    format!(
        "of no known format (it starts with {})",
        hex(head.get(..8).unwrap_or(head))
    )
}

fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // `head` may end in the middle of a character.
        Err(error) if error.error_len().is_none() => {
            let valid = head.get(..error.valid_up_to()).unwrap_or_default();
            std::str::from_utf8(valid).unwrap_or_default()
        }
        Err(_) => return false,
    };
    text.chars()
        .all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r'))
}

fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bzimage, put, small_elf};
    use super::*;

    /// The phrase for a page that starts with zeros and has `magic` at `offset`.
    fn phrase(offset: usize, magic: &[u8]) -> String {
        let mut page = vec![0; 4096];
        put(&mut page, offset, magic);
        identify(&page).phrase()
    }

    /// The phrase for `small_elf` with `bytes` at `offset`.
    fn elf_phrase(offset: usize, bytes: &[u8]) -> String {
        let mut image = small_elf();
        put(&mut image, offset, bytes);
        identify(&image).phrase()
    }

    #[test]
    fn kernels_are_recognized() {
        assert_eq!(identify(&small_elf()), Kind::Elf);
        assert_eq!(identify(&bzimage(b"payload and size")), Kind::BzImage);
    }

    #[test]
    fn packed_files_are_recognized() {
        assert_eq!(phrase(0, b"\x1f\x8b\x08"), "a file packed with gzip");
        assert_eq!(phrase(0, b"BZh9"), "a file packed with bzip2");
        assert_eq!(phrase(0, b"\xfd7zXZ\0"), "a file packed with xz");
        assert_eq!(phrase(0, b"\x5d\0\0\x80\0"), "a file packed with lzma");
        assert_eq!(phrase(0, b"\x89LZO\0\r\n\x1a\n"), "a file packed with lzo");
        assert_eq!(phrase(0, b"\x02\x21\x4c\x18"), "a file packed with lz4");
        assert_eq!(phrase(0, b"\x28\xb5\x2f\xfd"), "a file packed with zstd");
    }

    #[test]
    fn archives_are_named() {
        assert_eq!(phrase(0, b"070701"), "a cpio archive");
        assert!(phrase(0, b"070707").starts_with("a cpio archive in the old format"));
        assert!(phrase(0, b"\x04\x22\x4d\x18").starts_with("an lz4 archive in the frame format"));
        assert_eq!(phrase(257, b"ustar"), "a tar archive");
        assert_eq!(phrase(0, b"PK\x03\x04"), "a zip archive");
        assert_eq!(
            phrase(0, b"!<arch>\ndebian-binary"),
            "a Debian package (.deb)"
        );
    }

    #[test]
    fn disk_images_and_file_systems_are_named() {
        assert_eq!(
            phrase(0x438, b"\x53\xef"),
            "an ext2, ext3 or ext4 file system"
        );
        assert_eq!(phrase(0, b"hsqs"), "a squashfs file system");
        assert_eq!(phrase(0x400, b"\xe2\xe1\xf5\xe0"), "an erofs file system");
        assert_eq!(phrase(0, b"QFI\xfb"), "a qcow2 disk image");
        assert_eq!(
            phrase(0x200, b"EFI PART"),
            "a disk image with a GPT partition table"
        );
        assert_eq!(
            phrase(0x1fe, b"\x55\xaa"),
            "a disk image with a boot sector"
        );
    }

    #[test]
    fn kernels_of_other_kinds_are_named() {
        assert_eq!(phrase(0x38, b"ARM\x64"), "an ARM64 kernel image");
        assert_eq!(phrase(0x30, b"RISCV\0\0\0"), "a RISC-V kernel image");
        assert_eq!(phrase(0, b"\x27\x05\x19\x56"), "a U-Boot uImage");
        assert!(phrase(0, b"MZ").starts_with("a PE (EFI or Windows) program"));
    }

    #[test]
    fn elf_files_that_are_no_kernels_are_named() {
        assert_eq!(
            elf_phrase(16, &[3]),
            "an ELF shared object or position-independent program"
        );
        assert!(elf_phrase(16, &[1]).starts_with("an ELF object or module"));
        assert_eq!(elf_phrase(16, &[4]), "an ELF core dump");
        assert_eq!(elf_phrase(16, &[9]), "an ELF file of unknown type 9");
        assert_eq!(elf_phrase(18, &[183]), "an ELF file for ARM64");
        assert_eq!(elf_phrase(18, &[243]), "an ELF file for RISC-V");
        assert_eq!(
            elf_phrase(18, &[7]),
            "an ELF file for another machine (number 7)"
        );
        let mut small = small_elf();
        put(&mut small, 4, &[1]);
        put(&mut small, 18, &[3]);
        assert_eq!(
            identify(&small).phrase(),
            "a 32-bit x86 ELF file (--protocol multiboot enters one that has a multiboot header)"
        );
    }

    #[test]
    fn big_endian_elf_is_read_as_such() {
        let mut image = small_elf();
        put(&mut image, 5, &[2]);
        put(&mut image, 16, &[0, 2, 0, 22]);
        assert_eq!(identify(&image).phrase(), "an ELF file for s390");
    }

    #[test]
    fn elf_cut_off_early_is_named() {
        assert_eq!(
            identify(b"\x7fELF").phrase(),
            "an ELF file cut off in its first 6 bytes"
        );
        assert_eq!(
            identify(b"\x7fELF\x02\x01").phrase(),
            "an ELF file cut off in its header"
        );
    }

    #[test]
    fn files_without_signature_are_described() {
        assert_eq!(identify(b"").phrase(), "an empty file");
        assert_eq!(identify(&[0; 4096]).phrase(), "4096 zero bytes at least");
        assert_eq!(identify(b"console=ttyS0\n").phrase(), "a text file");
        assert_eq!(
            identify("text \u{fc}".as_bytes().split_last().unwrap().1).phrase(),
            "a text file"
        );
        assert_eq!(identify(b"#!/bin/sh\n").phrase(), "a script");
        assert_eq!(
            identify(&[1, 2, 3]).phrase(),
            "of no known format (it starts with 01 02 03)"
        );
    }
}
