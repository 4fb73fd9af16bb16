//! Kernels of a few bytes, for tests that need a guest but no Linux.
//!
//! They are real ELF files that enter by the 64-bit protocol, so the program loads and runs them as
//! any kernel; and they run on every KVM. Beside them: a bzImage header and an empty initramfs, good
//! ones that a test may then break.
//!
//! Sources: [elf] System V ABI, chapters 4 and 5; [boot] Linux `Documentation/arch/x86/boot.rst`,
//! v6.12; [buffer] `Documentation/driver-api/early-userspace/buffer-format.rst`.

#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

// Where fields stand in [`elf`]'s output. [elf] Elf64_Ehdr, then the first Elf64_Phdr.
pub(crate) const E_IDENT_CLASS: usize = 4;
pub(crate) const E_TYPE: usize = 0x10;
pub(crate) const E_MACHINE: usize = 0x12;
pub(crate) const E_ENTRY: usize = 0x18;
pub(crate) const E_PHOFF: usize = 0x20;
pub(crate) const E_PHENTSIZE: usize = 0x36;
pub(crate) const E_PHNUM: usize = 0x38;
pub(crate) const P_TYPE: usize = 0x40;
pub(crate) const P_OFFSET: usize = 0x48;
pub(crate) const P_PADDR: usize = 0x58;
pub(crate) const P_FILESZ: usize = 0x60;
pub(crate) const P_MEMSZ: usize = 0x68;
/// Elf64_Phdr's size: the second program header's fields are this much further.
pub(crate) const PHDR_SIZE: usize = 0x38;

// Where fields stand in [`bzimage`]'s output. [boot] "The Real-Mode Kernel Header"
pub(crate) const SYSSIZE: usize = 0x1f4;
pub(crate) const VERSION: usize = 0x206;
pub(crate) const LOADFLAGS: usize = 0x211;
pub(crate) const KERNEL_ALIGNMENT: usize = 0x230;
pub(crate) const XLOADFLAGS: usize = 0x236;
pub(crate) const CMDLINE_SIZE: usize = 0x238;
pub(crate) const PAYLOAD_OFFSET: usize = 0x248;
pub(crate) const PREF_ADDRESS: usize = 0x258;
pub(crate) const INIT_SIZE: usize = 0x260;

/// Where the code is loaded, and its address in the file.
pub(crate) const CODE: u64 = 0x10_0000;
const CODE_IN_FILE: usize = 0x1000;
/// Where [`pattern`]'s bytes are loaded.
const DATA: u64 = CODE + 0x1000;

/// FIFO on, receive interrupt on: the UART takes typed bytes from now on.
const LISTEN: &[u8] = &[
    0x66, 0xba, 0xfa, 0x03, // mov dx, 0x3fa
    0xb0, 0x01, // mov al, 1
    0xee, // out dx, al
    0x66, 0xba, 0xf9, 0x03, // mov dx, 0x3f9
    0xee, // out dx, al
];
const POWER_OFF: &[u8] = &[
    0x66, 0xba, 0x00, 0x06, // mov dx, 0x600
    0xb0, 0x34, // mov al, 0x34
    0xee, // out dx, al
];

/// Prints `text` and powers off.
pub(crate) fn printer(text: &str) -> Vec<u8> {
    elf(&[&print(text), POWER_OFF].concat())
}

/// Prints `text` and resets the machine.
pub(crate) fn resetter(text: &str) -> Vec<u8> {
    let reset = [
        0xb0, 0xfe, // mov al, 0xfe
        0xe6, 0x64, // out 0x64, al
    ];
    elf(&[&print(text)[..], &reset].concat())
}

/// Prints `text` and reads an address that is not mapped, without an interrupt table: a triple
/// fault. (ud2 would be shorter, but a software back end does not know it.)
pub(crate) fn crasher(text: &str) -> Vec<u8> {
    let fault = [
        0x48, 0xb8, 0, 0, 0, 0, 0, 1, 0, 0, // mov rax, 1 << 40
        0x48, 0x8b, 0x18, // mov rbx, [rax]
    ];
    elf(&[&print(text)[..], &fault].concat())
}

/// Prints `text`, reports `status`, then fetches an instruction from the I/O APIC's registers: KVM
/// can run nothing there.
pub(crate) fn crasher_after_status(text: &str, status: u8) -> Vec<u8> {
    let report_and_jump = [
        0x66, 0xba, 0x04, 0x07, // mov dx, 0x704
        0xb0, status, // mov al, status
        0xee,   // out dx, al
        0xb8, 0x00, 0x00, 0xc0, 0xfe, // mov eax, 0xfec00000
        0xff, 0xe0, // jmp rax
    ];
    elf(&[&print(text)[..], &report_and_jump].concat())
}

/// Prints `text` and writes `value`, 32 bits wide, to port 0xf4.
pub(crate) fn debug_exiter(text: &str, value: u8) -> Vec<u8> {
    let exit = [
        0xb8, value, 0, 0, 0, // mov eax, value
        0xe7, 0xf4, // out 0xf4, eax
    ];
    elf(&[&print(text)[..], &exit].concat())
}

/// Prints `text` and sleeps for ever, without looking at its input.
pub(crate) fn sleeper(text: &str) -> Vec<u8> {
    let sleep = [
        0xfa, // cli
        0xf4, // again: hlt
        0xeb, 0xfd, // jmp again
    ];
    elf(&[&print(text)[..], &sleep].concat())
}

/// Prints `ready`, then every byte it receives; Ctrl-D powers off.
pub(crate) fn echo() -> Vec<u8> {
    let echo = [
        0x66, 0xba, 0xfd, 0x03, // next: mov dx, 0x3fd
        0xec, // wait: in al, dx
        0xa8, 0x01, // test al, 1
        0x74, 0xfb, // je wait
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xec, // in al, dx
        0x3c, 0x04, // cmp al, 4
        0x74, 0x03, // je end
        0xee, // out dx, al
        0xeb, 0xeb, // jmp next
    ];
    elf(&[LISTEN, &print("ready\n"), &echo, POWER_OFF].concat())
}

/// Prints `ready`, receives until Ctrl-D, prints [`hash`] of what came and powers off.
pub(crate) fn hasher() -> Vec<u8> {
    let receive = [
        0x31, 0xdb, // xor ebx, ebx
        0x66, 0xba, 0xfd, 0x03, // next: mov dx, 0x3fd
        0xec, // wait: in al, dx
        0xa8, 0x01, // test al, 1
        0x74, 0xfb, // je wait
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xec, // in al, dx
        0x3c, 0x04, // cmp al, 4
        0x74, 0x0c, // je end
        0x0f, 0xb6, 0xc0, // movzx eax, al
        0x48, 0x6b, 0xdb, 0x1f, // imul rbx, rbx, 31
        0x48, 0x01, 0xc3, // add rbx, rax
        0xeb, 0xe2, // jmp next
    ];
    let print_hex = [
        0xb9, 0x10, 0x00, 0x00, 0x00, // end: mov ecx, 16
        0x48, 0xc1, 0xc3, 0x04, // digit: rol rbx, 4
        0x88, 0xd8, // mov al, bl
        0x24, 0x0f, // and al, 15
        0x04, 0x30, // add al, '0'
        0x3c, 0x3a, // cmp al, '9' + 1
        0x72, 0x02, // jb print
        0x04, 0x27, // add al, 'a' - '9' - 1
        0xee, // print: out dx, al
        0xff, 0xc9, // dec ecx
        0x75, 0xeb, // jne digit
    ];
    elf(&[LISTEN, &print("ready\n"), &receive, &print_hex, POWER_OFF].concat())
}

/// What [`hasher`] prints for `bytes`.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0_u64, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    format!("{hash:016x}")
}

/// Prints [`pattern_block`] `blocks` times, at its own speed, and powers off.
pub(crate) fn pattern(blocks: u32) -> Vec<u8> {
    let [a, b, c, d] = blocks.to_le_bytes();
    let code = [
        0xbb, a, b, c, d, // mov ebx, blocks
        0xbe, 0x00, 0x10, 0x10, 0x00, // block: mov esi, DATA
        0x66, 0xba, 0xfd, 0x03, // burst: mov dx, 0x3fd
        0xec, // wait: in al, dx
        0xa8, 0x20, // test al, 0x20
        0x74, 0xfb, // je wait
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb9, 0x10, 0x00, 0x00, 0x00, // mov ecx, 16
        0xf3, 0x6e, // rep outsb
        0x81, 0xfe, 0x00, 0x20, 0x10, 0x00, // cmp esi, DATA + 4096
        0x72, 0xe4, // jb burst
        0xff, 0xcb, // dec ebx
        0x75, 0xdb, // jne block
    ];
    let mut code = [&code[..], POWER_OFF].concat();
    code.resize(usize::try_from(DATA - CODE).unwrap_or_default(), 0);
    code.extend(pattern_block());
    elf(&code)
}

/// 64 lines of 64 bytes, each different.
pub(crate) fn pattern_block() -> Vec<u8> {
    let line = |n: u32| format!("{n:02} {:-<60}\n", "abcdefghij".repeat(4));
    (0..64).flat_map(|n| line(n).into_bytes()).collect()
}

/// Instructions that write `text` to COM1.
fn print(text: &str) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code
}

/// An ELF kernel of one segment, entered at its first byte.
pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
    elf_at(code, CODE)
}

/// The same, entered at `entry`.
pub(crate) fn elf_at(code: &[u8], entry: u64) -> Vec<u8> {
    let mut file = vec![0; CODE_IN_FILE];
    let len = code.len() as u64;
    put(&mut file, 0, b"\x7fELF\x02\x01\x01"); // 64-bit, little-endian, version 1
    put(&mut file, E_TYPE, &2_u16.to_le_bytes()); // ET_EXEC
    put(&mut file, E_MACHINE, &62_u16.to_le_bytes()); // EM_X86_64
    put(&mut file, 0x14, &1_u32.to_le_bytes()); // e_version
    put(&mut file, E_ENTRY, &entry.to_le_bytes());
    put(&mut file, E_PHOFF, &0x40_u64.to_le_bytes());
    put(&mut file, 0x34, &0x40_u16.to_le_bytes()); // e_ehsize
    put(&mut file, E_PHENTSIZE, &0x38_u16.to_le_bytes());
    put(&mut file, E_PHNUM, &1_u16.to_le_bytes());
    put(&mut file, P_TYPE, &1_u32.to_le_bytes()); // PT_LOAD
    put(&mut file, P_OFFSET, &(CODE_IN_FILE as u64).to_le_bytes());
    put(&mut file, 0x50, &CODE.to_le_bytes()); // p_vaddr
    put(&mut file, P_PADDR, &CODE.to_le_bytes());
    put(&mut file, P_FILESZ, &len.to_le_bytes());
    put(&mut file, P_MEMSZ, &len.to_le_bytes());
    file.extend_from_slice(code);
    file
}

/// A bzImage around `payload`, which is packed and ends with its unpacked size.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    const KERNEL: usize = 1024; // one sector of setup code behind the boot sector
    const PAYLOAD: u32 = 0x300;
    let mut file = vec![0; KERNEL + PAYLOAD as usize];
    file.extend_from_slice(payload);
    file.resize(file.len().next_multiple_of(16), 0);
    let paragraphs = (file.len() - KERNEL) / 16;
    put(&mut file, 0x1f1, &[1]); // setup_sects
    put(&mut file, SYSSIZE, &size(paragraphs));
    put(&mut file, 0x1fe, b"\x55\xaa\xeb\x66HdrS"); // boot_flag, jump over the header, magic
    put(&mut file, VERSION, &0x20f_u16.to_le_bytes());
    put(&mut file, LOADFLAGS, &[1]); // LOADED_HIGH
    put(&mut file, 0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(&mut file, KERNEL_ALIGNMENT, &0x20_0000_u32.to_le_bytes());
    put(&mut file, 0x234, &[1]); // relocatable_kernel
    put(&mut file, XLOADFLAGS, &1_u16.to_le_bytes()); // XLF_KERNEL_64
    put(&mut file, CMDLINE_SIZE, &2047_u32.to_le_bytes());
    put(&mut file, PAYLOAD_OFFSET, &PAYLOAD.to_le_bytes());
    put(&mut file, PAYLOAD_OFFSET + 4, &size(payload.len()));
    put(&mut file, PREF_ADDRESS, &0x10_0000_u64.to_le_bytes());
    put(&mut file, INIT_SIZE, &0x10_0000_u32.to_le_bytes());
    file
}

/// A cpio archive with nothing in it. [buffer] "cpio_trailer"
pub(crate) fn empty_initramfs() -> Vec<u8> {
    let mut archive = b"070701".to_vec();
    for field in 0..13 {
        let value = if field == 11 { 11 } else { 0 }; // c_namesize
        archive.extend(format!("{value:08x}").bytes());
    }
    archive.extend(b"TRAILER!!!\0\0\0\0");
    archive
}

/// `file` with `bytes` at `offset`.
pub(crate) fn with(mut file: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    put(&mut file, offset, bytes);
    file
}

fn put(file: &mut [u8], offset: usize, bytes: &[u8]) {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn size(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

/// Prints `text` and goes on with `code`.
pub(crate) fn printer_then(text: &str, code: &[u8]) -> Vec<u8> {
    elf(&[&print(text)[..], code].concat())
}

/// Writes `number` to the mark port, prints `text` and powers off.
pub(crate) fn marker(number: u8, text: &str) -> Vec<u8> {
    let mark = [
        0x66, 0xba, 0x00, 0x07, // mov dx, 0x700
        0xb0, number, // mov al, number
        0xee,   // out dx, al
    ];
    elf(&[&mark[..], &print(text), POWER_OFF].concat())
}
