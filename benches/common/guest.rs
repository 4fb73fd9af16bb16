//! Guests that any of the VMMs can start: an ELF file with a PVH note for QEMU, whose few
//! instructions mean the same in 32-bit mode, where PVH enters, as in 64-bit mode.
//!
//! Source: [pvh] Xen `docs/misc/pvh.pandoc` and `xen/include/public/elfnote.h`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::tiny_kernel::{self, E_PHNUM, P_TYPE, PHDR_SIZE};

/// Where the note stands in the file: behind the program headers, in the page before the code.
const NOTE_IN_FILE: u64 = 0x200;
// Elf64_Phdr
const PT_NOTE: u32 = 4;
/// [pvh] XEN_ELFNOTE_PHYS32_ENTRY
const PHYS32_ENTRY: u32 = 18;

/// A kernel file and an initramfs file.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl Guest {
    /// Writes files of these sizes to `folder`. What makes them large is loaded and never run; it
    /// is not zero, which would let a clever loader do less.
    pub(crate) fn write(folder: &Path, name: &str, elf: Vec<u8>, initramfs: usize) -> Self {
        let guest = Self {
            kernel: folder.join(format!("{name}.elf")),
            initramfs: folder.join(format!("{name}.cpio")),
        };
        let mut archive = tiny_kernel::empty_initramfs();
        // The kernel passes over zeros between archives, so these at the end make it no other one.
        archive.resize(archive.len().max(initramfs), 0);
        fs::write(&guest.kernel, with_note(elf)).expect("writing the kernel");
        fs::write(&guest.initramfs, archive).expect("writing the initramfs");
        guest
    }
}

/// Prints one byte and resets. The file has at least `size` bytes, all of them loaded.
pub(crate) fn resetter(size: usize) -> Vec<u8> {
    padded(&tiny_kernel::resetter("R"), size)
}

/// Prints one byte and sleeps until it is killed.
pub(crate) fn sleeper(size: usize) -> Vec<u8> {
    padded(&tiny_kernel::sleeper("S"), size)
}

/// The same kernel with more behind its code, in the one segment it has.
fn padded(elf: &[u8], size: usize) -> Vec<u8> {
    let head = tiny_kernel::elf(&[]).len();
    let mut code = elf[head..].to_vec();
    code.resize(code.len().max(size.saturating_sub(head)), 0xcc);
    tiny_kernel::elf(&code)
}

/// Adds a program header and the note it leads to.
fn with_note(elf: Vec<u8>) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4, 8, PHYS32_ENTRY] {
        note.extend(word.to_le_bytes()); // sizes of name and value, and the type
    }
    note.extend(b"Xen\0");
    note.extend(tiny_kernel::CODE.to_le_bytes());
    let (len, at) = (note.len() as u64, NOTE_IN_FILE);
    let mut header = PT_NOTE.to_le_bytes().to_vec();
    header.extend(0_u32.to_le_bytes()); // p_flags
    // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    for field in [at, at, at, len, len, 4] {
        header.extend(field.to_le_bytes());
    }
    let elf = tiny_kernel::with(elf, E_PHNUM, &2_u16.to_le_bytes());
    let elf = tiny_kernel::with(elf, P_TYPE + PHDR_SIZE, &header);
    tiny_kernel::with(elf, usize::try_from(at).unwrap(), &note)
}
