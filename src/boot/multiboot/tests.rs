//! The multiboot loader against `[multiboot]`, and against files that lie.

use super::*;
use crate::boot::testing::{elf, elf32, multiboot_header, put, segment, small_multiboot};

const MIB: u32 = 1 << 20;

fn blob(bytes: Vec<u8>) -> Blob {
    Blob::memory(bytes, "kernel".into())
}

fn module(content: &[u8], string: &[u8]) -> Module {
    Module {
        blob: Blob::memory(content.to_vec(), "module file".into()),
        string: string.to_vec(),
    }
}

fn load_with(image: Vec<u8>, modules: &[Module]) -> Result<(Loaded, GuestMemory), Error> {
    let memory = GuestMemory::new(4 << 20).unwrap();
    let kernel = blob(image);
    let header = find(&kernel.head(SEARCH_2).unwrap())?;
    load(&kernel, &header, modules, b"kernel a=b", &memory).map(|loaded| (loaded, memory))
}

fn refusal(image: Vec<u8>) -> String {
    load_with(image, &[]).unwrap_err().to_string()
}

fn u32_at(memory: &GuestMemory, address: u64) -> u32 {
    let mut bytes = [0; 4];
    memory.read(GuestAddress(address), &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn bytes_at<const N: usize>(memory: &GuestMemory, address: u32) -> [u8; N] {
    let mut bytes = [0; N];
    memory
        .read(GuestAddress(address.into()), &mut bytes)
        .unwrap();
    bytes
}

/// A field of the structure in guest memory, by its offset in `[multiboot]` 3.3.
fn field(memory: &GuestMemory, offset: u64) -> u32 {
    u32_at(memory, MULTIBOOT_INFO.0 + offset)
}

/// A kernel that is no ELF file: 32 bytes of header at offset 16 of the file.
fn flat([header, load, load_end, bss_end, entry]: [u32; 5]) -> Vec<u8> {
    let mut image = vec![0x90; 16];
    image.extend(multiboot_header(
        1 << 16,
        &[header, load, load_end, bss_end, entry],
    ));
    image.extend([0xf4; 16]);
    image
}

fn good_flat() -> [u32; 5] {
    [MIB + 16, MIB, MIB + 64, MIB + 0x3000, MIB + 48]
}

#[test]
fn small_kernel_is_loaded_and_told_of_its_machine() {
    let (loaded, memory) = load_with(small_multiboot(), &[]).unwrap();
    assert_eq!((loaded.entry.0, loaded.info), (0x10_000c, MULTIBOOT_INFO));
    assert_eq!(bytes_at(&memory, MIB + 12), [0xf4]);
    // Memory, command line, modules, memory map, loader's name.
    assert_eq!(field(&memory, 0), 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9);
    assert_eq!((field(&memory, 4), field(&memory, 8)), (639, 3 << 10));
    assert_eq!(bytes_at(&memory, field(&memory, 16)), *b"kernel a=b\0");
    assert_eq!(field(&memory, 20), 0);
    assert_eq!(bytes_at(&memory, field(&memory, 64)), *b"cottage ");
}

#[test]
fn memory_map_entries_begin_with_the_size_of_the_rest() {
    let (_, memory) = load_with(small_multiboot(), &[]).unwrap();
    assert_eq!(field(&memory, 44), 3 * 24);
    let map = u64::from(field(&memory, 48));
    let entry = |number: u64| [0, 4, 12, 20].map(|at| u32_at(&memory, map + number * 24 + at));
    assert_eq!(entry(0), [20, 0, 0x9_fc00, 1]);
    assert_eq!(entry(1), [20, 0x9_fc00, 0x6_0400, 2]);
    assert_eq!(entry(2), [20, MIB, 3 * MIB, 1]);
}

#[test]
fn modules_stand_on_pages_behind_the_kernel_with_their_strings() {
    let modules = [
        module(b"first", b"a b c"),
        module(&[7; 5000], b""),
        module(b"", b"e"),
    ];
    let (_, memory) = load_with(small_multiboot(), &modules).unwrap();
    assert_eq!(field(&memory, 20), 3);
    let list = u64::from(field(&memory, 24));
    let entry = |number: u64| [0, 4, 12].map(|at| u32_at(&memory, list + number * 16 + at));
    assert_eq!(entry(0), [MIB + 0x1000, MIB + 0x1005, 0]);
    assert_eq!(entry(1), [MIB + 0x2000, MIB + 0x2000 + 5000, 0]);
    assert_eq!(entry(2), [MIB + 0x4000, MIB + 0x4000, 0]);
    let string = |number: u64| u32_at(&memory, list + number * 16 + 8);
    assert_eq!(bytes_at(&memory, string(0)), *b"a b c\0");
    assert_eq!(bytes_at(&memory, string(1)), *b"\0e\0");
    assert_eq!(bytes_at(&memory, MIB + 0x1000), *b"first\0");
    assert_eq!(bytes_at(&memory, MIB + 0x2000 + 4999), [7, 0]);
}

#[test]
fn symbols_get_addresses_behind_the_kernel_and_debug_information_none() {
    let code = multiboot_header(0, &[]);
    let sections: [(u32, u32, &[u8]); 5] = [
        (0, 0, b""),
        (1, MIB, b"in a segment"),
        (1, 0, b"debug"),
        (2, 0, b"symbols"),
        (3, 0, b"strings"),
    ];
    let image = elf32(MIB, &[(MIB, &code)], &sections);
    let (_, memory) = load_with(image, &[module(b"m", b"")]).unwrap();
    assert_eq!(field(&memory, 0) & 1 << 5, 1 << 5);
    let table = field(&memory, 36);
    assert_eq!([28, 32, 40].map(|at| field(&memory, at)), [5, 40, 4]);
    assert_eq!(table, MIB + 16);
    let address = |number: u32| u32_at(&memory, u64::from(table + number * 40 + 12));
    assert_eq!([1, 2].map(address), [MIB, 0]);
    assert_eq!(bytes_at(&memory, address(3)), *b"symbols");
    assert_eq!(bytes_at(&memory, address(4)), *b"strings");
    let first_module = u32_at(&memory, field(&memory, 24).into());
    assert_eq!(first_module, MIB + 0x1000);
}

#[test]
fn file_of_64_bits_is_entered_like_one_of_32() {
    let mut code = multiboot_header(0, &[]);
    code.extend([0xf4; 4]);
    let image = elf(0x20_000c, &[segment(0x20_0000, &code)], b"");
    let (loaded, _) = load_with(image, &[]).unwrap();
    assert_eq!(loaded.entry.0, 0x20_000c);
}

#[test]
fn addresses_of_the_header_load_any_file() {
    let (loaded, memory) = load_with(flat(good_flat()), &[module(b"m", b"")]).unwrap();
    assert_eq!(loaded.entry.0, 0x10_0030);
    assert_eq!(bytes_at(&memory, MIB), [0x90]);
    assert_eq!(bytes_at(&memory, MIB + 63), [0xf4, 0]);
    assert_eq!(u32_at(&memory, field(&memory, 24).into()), MIB + 0x3000);
}

#[test]
fn addresses_of_zero_mean_the_whole_file_and_no_zeros() {
    let image = flat([MIB + 16, MIB, 0, 0, MIB + 48]);
    let (_, memory) = load_with(image, &[module(b"m", b"")]).unwrap();
    assert_eq!(bytes_at(&memory, MIB + 63), [0xf4, 0]);
    assert_eq!(u32_at(&memory, field(&memory, 24).into()), MIB + 0x1000);
}

#[test]
fn addresses_that_contradict_each_other_are_refused_with_all_of_them() {
    let with = |index: usize, value: u32| {
        let mut fields = good_flat();
        fields[index] = value;
        refusal(flat(fields))
    };
    assert_eq!(
        with(0, MIB - 1),
        "The multiboot header's addresses contradict each other: the header would lie before what is \
         loaded (header 0xfffff, load 0x100000 to 0x100040, zeros to 0x103000)"
    );
    assert!(with(0, MIB + 17).contains("begin before the file does"));
    assert!(with(2, MIB - 1).contains("would end before it begins"));
    assert!(with(3, MIB + 63).contains("the zeros would end before they begin"));
    assert!(with(2, MIB + 65).contains("takes bytes 0x0 + 0x41, but the file has 0x40"));
    assert!(with(4, MIB + 64).contains("The multiboot entry 0x100040 lies in no loaded segment"));
    assert!(with(3, 0xffff_ffff).contains("0xffffffff, but RAM for kernels ends at 0xc0000000"));
    let low = flat([0x8010, 0x8000, 0, 0, 0x8010]);
    assert!(refusal(low).contains("0x8000 + 0x40; kernels go above 0x100000"));
}

#[test]
fn header_may_be_anywhere_in_the_first_8_kib() {
    let image = |offset: usize| {
        let mut image = vec![0; offset];
        image.extend(multiboot_header(0, &[]));
        image
    };
    assert_eq!(find(&image(8180)).unwrap().offset, 8180);
    let error = find(&image(8184)).unwrap_err().to_string();
    assert_eq!(
        error,
        "The multiboot header at 0x1ff8 ends at 0x2004: it must lie in the first 8192 bytes of a file, \
         and this one has 0x2000"
    );
    assert_eq!(find(&image(8192)).unwrap_err(), header::Error::Absent);
    assert_eq!(find(&image(2)).unwrap_err(), header::Error::Absent);
}

#[test]
fn wrong_checksum_is_refused_unless_a_right_header_follows() {
    let mut head = multiboot_header(3, &[]);
    put(&mut head, 8, &[0; 4]);
    assert_eq!(
        find(&head).unwrap_err().to_string(),
        "The multiboot header at 0x0 is damaged: magic number, flags 0x3 and checksum 0x0 add up to \
         0x1badb005 instead of 0"
    );
    head.extend(multiboot_header(3, &[]));
    assert_eq!(find(&head).unwrap().offset, 12);
}

#[test]
fn addresses_cut_off_by_the_end_of_the_file_are_refused() {
    let error = find(&multiboot_header(1 << 16, &[0; 4])).unwrap_err();
    assert!(error.to_string().contains("ends at 0x20"), "{error}");
}

#[test]
fn header_of_the_successor_is_named() {
    let mut head = vec![0; 16_384];
    put(&mut head, 16_000, &0xe852_50d6_u32.to_le_bytes());
    let error = find(&head).unwrap_err().to_string();
    assert!(
        error.starts_with("Its header at 0x3e80 is of multiboot 2"),
        "{error}"
    );
    head.splice(0..0, multiboot_header(0, &[0]));
    assert_eq!(find(&head).unwrap().offset, 0, "it has both");
}

#[test]
fn multiboot_3_1_2_requirements_that_cannot_be_met_are_refused() {
    let flags = |flags: u32| {
        let code = multiboot_header(flags, &[0; 9]);
        refusal(elf32(MIB, &[(MIB, &code)], &[]))
    };
    assert!(flags(4).contains("video mode (multiboot flag 2 of 0x4)"));
    assert!(flags(0x8003).contains("flags 0x8003, of which 0x8000"));
    let code = multiboot_header(0xfffe_0003, &[]);
    load_with(elf32(MIB, &[(MIB, &code)], &[]), &[]).unwrap();
}

#[test]
fn header_without_an_elf_file_or_addresses_is_refused() {
    let error = refusal(multiboot_header(0, &[]));
    assert!(
        error.contains("is no ELF program for x86, and the header has no addresses"),
        "{error}"
    );
    let mut object = small_multiboot();
    put(&mut object, 16, &[1]);
    assert!(refusal(object).contains("is no ELF program for x86"));
}

#[test]
fn segments_that_overlap_wrap_or_lie_outside_ram_are_refused_with_numbers() {
    let code = multiboot_header(0, &[]);
    let two = |second| elf32(MIB, &[(MIB, &code), (second, &code)], &[]);
    assert_eq!(
        refusal(two(MIB + 4)),
        "Segments 0 and 1 overlap at guest-physical 0x100004"
    );
    assert!(
        refusal(two(0xffff_fff8)).contains("0xfffffff8 to 0x100000004, but RAM for kernels ends")
    );
    assert!(refusal(two(8 * MIB)).contains("this kernel needs at least 9 MiB"));
    assert!(refusal(two(0x7c00)).contains("0x7c00 + 0xc; kernels go above 0x100000"));
}

#[test]
fn module_that_does_not_fit_is_refused_with_what_would_do() {
    let error = load_with(small_multiboot(), &[module(&vec![1; 3 << 20], b"")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Cannot place module module file of 0x300000 bytes: what stands before it ends at 0x10000d, \
         guest memory below the gap at 0x400000; 5 MiB of memory would do"
    );
}

#[test]
fn more_strings_than_there_is_room_for_are_refused() {
    let modules = [module(b"", &[b'a'; 0x1_0000])];
    let error = load_with(small_multiboot(), &modules)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("Cannot tell the kernel of 1 modules"),
        "{error}"
    );
}

#[test]
fn section_headers_that_lie_are_refused_with_numbers() {
    let image = |kind: u32| {
        let code = multiboot_header(0, &[]);
        elf32(MIB, &[(MIB, &code)], &[(kind, 0, b"symbols")])
    };
    let at = image(2).len() - 40;
    let broken = |offset: usize, value: u32| {
        let mut image = image(2);
        put(&mut image, offset, &value.to_le_bytes());
        refusal(image)
    };
    assert!(broken(32, u32::MAX).contains("section headers takes bytes 0xffffffff + 0x28"));
    assert!(broken(46, 1 << 16 | 41).contains("1 section headers of 41 bytes: up to 4096 of 40"));
    assert!(broken(at + 16, 0x2000).contains("Section 0 takes bytes 0x2000 + 0x7, but the file"));
    assert!(broken(at + 20, u32::MAX).contains("+ 0xffffffff, but the file has"));
    assert!(broken(at + 32, 3).contains("Section 0 wants to be aligned to 0x3"));
    assert!(broken(at + 32, 1 << 13).contains("aligned to 0x2000"));
    load_with(image(1), &[]).unwrap();
}
