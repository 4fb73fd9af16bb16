//! Kernels made by hand, a few hundred bytes long, for the tests of this chapter.
//!
//! Only bytes and the standard library here: `tests/images.rs` includes this file too.
//! Offsets are those of `[elf]` and `[boot]` as cited in the modules under test.

/// Where the first segment of [`elf`] lies in its file.
pub(crate) const FILE_OFFSET: usize = 0x1000;

/// A segment for [`elf`].
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) physical: u64,
    pub(crate) virtual_: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) memory_len: u64,
}

/// A segment at a physical address, mapped high as Linux does.
pub(crate) fn segment(physical: u64, bytes: &[u8]) -> Segment {
    Segment {
        physical,
        virtual_: 0xffff_ffff_8000_0000 + physical,
        bytes: bytes.to_vec(),
        memory_len: bytes.len() as u64,
    }
}

/// An ELF file with these segments and, if there are any, these notes.
pub(crate) fn elf(entry: u64, segments: &[Segment], notes: &[u8]) -> Vec<u8> {
    let count = segments.len() + usize::from(!notes.is_empty());
    let mut image = vec![0; FILE_OFFSET];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &2u16.to_le_bytes()); // ET_EXEC
    put(&mut image, 18, &62u16.to_le_bytes()); // EM_X86_64
    put(&mut image, 20, &1u32.to_le_bytes());
    put(&mut image, 24, &entry.to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes()); // e_phoff
    put(&mut image, 52, &64u16.to_le_bytes());
    put(&mut image, 54, &56u16.to_le_bytes());
    put(&mut image, 56, &u16::try_from(count).unwrap().to_le_bytes());
    for (index, segment) in segments.iter().enumerate() {
        let fields = [
            image.len() as u64,
            segment.virtual_,
            segment.physical,
            segment.bytes.len() as u64,
            segment.memory_len,
            0x20_0000,
        ];
        program_header(&mut image, index, 1, fields);
        image.extend_from_slice(&segment.bytes);
    }
    if !notes.is_empty() {
        let len = notes.len() as u64;
        let fields = [image.len() as u64, 0, 0, len, len, 4];
        program_header(&mut image, segments.len(), 4, fields);
        image.extend_from_slice(notes);
    }
    image
}

/// Offset in the file of field number `field` (p_offset is 1) of a program header.
pub(crate) fn phdr(index: usize, field: usize) -> usize {
    64 + index * 56 + field * 8
}

fn program_header(image: &mut [u8], index: usize, kind: u32, fields: [u64; 6]) {
    put(image, phdr(index, 0), &kind.to_le_bytes());
    put(image, phdr(index, 0) + 4, &5u32.to_le_bytes());
    for (number, field) in fields.iter().enumerate() {
        put(image, phdr(index, number + 1), &field.to_le_bytes());
    }
}

/// One note, padded to 4 bytes.
pub(crate) fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend_from_slice(&le32(name.len()));
    note.extend_from_slice(&le32(value.len()));
    note.extend_from_slice(&kind.to_le_bytes());
    note.extend_from_slice(name);
    note.resize(note.len().next_multiple_of(4), 0);
    note.extend_from_slice(value);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// The smallest kernel: 64 bytes at 2 MiB, entered at their start, PVH entry 16 bytes on.
pub(crate) fn small_elf() -> Vec<u8> {
    let mut notes = note(b"GNU\0", 3, b"build id");
    notes.extend(note(b"Xen\0", 18, &0x20_0010_u64.to_le_bytes()));
    elf(0x20_0000, &[segment(0x20_0000, &[0x90; 64])], &notes)
}

/// A bzImage around `payload` as it is in the file (its trailer included).
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut kernel = vec![0xcc; 0x400]; // the unpacker; the payload follows it
    kernel.extend_from_slice(payload);
    kernel.resize(kernel.len().next_multiple_of(16), 0);
    let mut image = vec![0; 0x400]; // boot sector and one sector of setup
    put(&mut image, 0x1f1, &[1]); // setup_sects
    put(&mut image, 0x1f4, &le32(kernel.len() / 16)); // syssize
    put(&mut image, 0x1fe, &0xaa55_u16.to_le_bytes());
    put(&mut image, 0x200, &[0xeb, 0x66]); // jump over the header: it ends at 0x268
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x20f_u16.to_le_bytes()); // version
    put(&mut image, 0x20e, &0x100_u16.to_le_bytes()); // kernel_version, less 0x200
    put(&mut image, 0x211, &[1]); // loadflags: LOADED_HIGH
    put(&mut image, 0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(&mut image, 0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    put(&mut image, 0x234, &[1, 21]); // relocatable_kernel, min_alignment
    put(&mut image, 0x236, &1u16.to_le_bytes()); // xloadflags: XLF_KERNEL_64
    put(&mut image, 0x238, &2047u32.to_le_bytes()); // cmdline_size
    put(&mut image, 0x248, &0x400_u32.to_le_bytes()); // payload_offset
    put(&mut image, 0x24c, &le32(payload.len()));
    put(&mut image, 0x258, &0x20_0000_u64.to_le_bytes()); // pref_address
    put(&mut image, 0x260, &0x10_0000_u32.to_le_bytes()); // init_size: 1 MiB
    put(&mut image, 0x300, b"6.12.0-test (cottage)\0");
    image.extend_from_slice(&kernel);
    image
}

/// `unpacked` as an lz4 payload: one chunk of literals, and the trailer.
pub(crate) fn lz4_payload(unpacked: &[u8]) -> Vec<u8> {
    let mut payload = lz4(unpacked);
    payload.extend_from_slice(&le32(unpacked.len()));
    payload
}

/// `unpacked` as `lz4 -l` might store it: one chunk, one run of literals.
pub(crate) fn lz4(unpacked: &[u8]) -> Vec<u8> {
    let mut chunk = vec![0xf0]; // token: 15 literals or more
    let mut rest = unpacked.len() - 15;
    while rest >= 255 {
        chunk.push(255);
        rest -= 255;
    }
    chunk.push(u8::try_from(rest).unwrap());
    chunk.extend_from_slice(unpacked);
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    packed.extend_from_slice(&le32(chunk.len()));
    packed.extend_from_slice(&chunk);
    packed
}

/// Overwrites bytes at an offset.
pub(crate) fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn le32(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap().to_le_bytes()
}

/// A multiboot header with these flags and the fields behind the checksum.
pub(crate) fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002_u32;
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let words = [&[magic, flags, checksum], addresses].concat();
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// A 32-bit ELF file with these segments at [`FILE_OFFSET`], and `sections`: type, address, content.
pub(crate) fn elf32(
    entry: u32,
    segments: &[(u32, &[u8])],
    sections: &[(u32, u32, &[u8])],
) -> Vec<u8> {
    let half = |number: usize| u16::try_from(number).unwrap().to_le_bytes();
    let mut image = vec![0; FILE_OFFSET];
    put(&mut image, 0, b"\x7fELF\x01\x01\x01");
    put(&mut image, 16, &[2, 0, 3, 0, 1]); // ET_EXEC, EM_386, version 1
    put(&mut image, 24, &entry.to_le_bytes());
    put(&mut image, 28, &52u32.to_le_bytes()); // e_phoff
    put(&mut image, 40, &[52, 0, 32, 0]); // e_ehsize, e_phentsize
    put(&mut image, 42, &half(32));
    put(&mut image, 44, &half(segments.len()));
    for (index, (address, bytes)) in segments.iter().enumerate() {
        let (offset, len) = (le32(image.len()), le32(bytes.len()));
        let address = address.to_le_bytes();
        let fields = [
            le32(1),
            offset,
            address,
            address,
            len,
            len,
            le32(7),
            le32(4),
        ];
        put(&mut image, 52 + index * 32, fields.as_flattened());
        image.extend_from_slice(bytes);
    }
    if sections.is_empty() {
        return image;
    }
    let mut table = Vec::new();
    for (kind, address, bytes) in sections {
        let (offset, len) = (le32(image.len()), le32(bytes.len()));
        let (kind, address) = (kind.to_le_bytes(), address.to_le_bytes());
        let zero = le32(0);
        let fields = [
            zero,
            kind,
            zero,
            address,
            offset,
            len,
            zero,
            zero,
            le32(1),
            zero,
        ];
        table.extend_from_slice(fields.as_flattened());
        image.extend_from_slice(bytes);
    }
    let offset = le32(image.len());
    put(&mut image, 32, &offset); // e_shoff
    put(&mut image, 46, &half(40));
    put(&mut image, 48, &half(sections.len()));
    put(&mut image, 50, &half(sections.len() - 1));
    image.extend(table);
    image
}

/// The smallest multiboot kernel: a header, and a byte to enter at, at 1 MiB.
pub(crate) fn small_multiboot() -> Vec<u8> {
    let mut code = multiboot_header(3, &[]);
    code.push(0xf4); // hlt
    elf32(0x10_000c, &[(0x10_0000, &code)], &[])
}
