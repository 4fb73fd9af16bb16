//! A bzImage: its parts, its setup header, what is packed in it and how.
//!
//! [`crate::boot::bzimage`] reads the header for booting; what it makes of it is shown beside the raw
//! fields, and where it refuses, the raw fields still stand.
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12; `[pe]` Microsoft PE Format, "MS-DOS
//! Stub". Read next: [`super::elf`].

use super::fields::{number, size};
use super::page::Section;
use super::setup_header;
use crate::boot::bzimage::BzImage;
use crate::boot::{Blob, Image, parse};

/// What the protocols' table asks of a bzImage.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `[boot]` xloadflags.
    pub xloadflags: u64,
    /// Whether it begins as an EFI program does.
    pub efi: bool,
}

/// Tells of `kernel`, which begins with `head` and has a setup header.
pub fn explain(kernel: &Blob, head: &[u8], section: &mut Section) -> Facts {
    let facts = Facts {
        xloadflags: number(head, 0x236, 2).unwrap_or(0),
        efi: head.starts_with(b"MZ"),
    };
    match parse(kernel) {
        Ok(Image::BzImage(image, algorithm)) => {
            if let Some(version) = &image.version {
                section.say(format!("Version: {version}"));
            }
            let packing = match (image.payload_len, algorithm) {
                (0, _) => "nothing is packed in it: it is no Linux, but is entered like one".into(),
                (_, Some(algorithm)) => packing(kernel, &image, &algorithm.to_string()),
                (_, None) => "what is packed in it begins with no known signature".into(),
            };
            section.say(format!("Compression: {packing}."));
            section.table(&["from", "to", "part of the file"], parts(kernel, &image));
        }
        Ok(_) => {}
        Err(_told_at_the_end) => section.say(
            "Its parts cannot be told apart: the header contradicts itself or the file. As it stands:",
        ),
    }
    section.table(super::fields::COLUMNS, setup_header::in_file(head));
    facts
}

/// "xz, 5.2 MiB, 24.1 MiB unpacked".
fn packing(kernel: &Blob, image: &BzImage, algorithm: &str) -> String {
    let mut trailer = [0; 4];
    let at = (image.payload_offset + image.payload_len).saturating_sub(4);
    let packed = size(image.payload_len);
    match kernel.read_exact_at(at, &mut trailer) {
        Ok(()) => format!(
            "{algorithm}, {packed}; {} unpacked, as the last 4 bytes of it say",
            size(u64::from(u32::from_le_bytes(trailer)))
        ),
        Err(_cut_off) => format!("{algorithm}, {packed}"),
    }
}

/// Where its parts lie in the file.
fn parts(kernel: &Blob, image: &BzImage) -> Vec<Vec<String>> {
    let end = image.kernel_offset + image.kernel_len;
    let payload_end = image.payload_offset + image.payload_len;
    let boot_sector = if image.kernel_offset > 0x200 {
        0x200
    } else {
        image.kernel_offset
    };
    let mut parts = vec![
        (
            0,
            boot_sector,
            "boot sector, with the setup header from 0x1f1 on",
        ),
        (
            boot_sector,
            image.kernel_offset,
            "16-bit setup code: never run here",
        ),
    ];
    if image.payload_len > 0 {
        parts.extend([
            (
                image.kernel_offset,
                image.payload_offset,
                "unpacker: 32-bit code, 64-bit entry 0x200 in",
            ),
            (image.payload_offset, payload_end, "packed vmlinux"),
            (payload_end, end, "rest of the unpacker"),
        ]);
    } else {
        parts.push((image.kernel_offset, end, "protected-mode code"));
    }
    parts.push((
        end,
        kernel.len(),
        "behind it: a signature or padding, not loaded",
    ));
    let there = parts.into_iter().filter(|(start, end, _)| start < end);
    let row = |(start, end, what): (u64, u64, &str)| {
        vec![
            format!("{start:#x}"),
            format!("{end:#x}"),
            format!("{what} ({})", size(end - start)),
        ]
    };
    there.map(row).collect()
}
