//! Kernels as the real tools pack them, and kernels no tool would make.
//!
//! The first half unpacks one sample packed by the seven tools a kernel build calls, with the
//! options it gives them. The second half damages kernels and packed files at random and
//! asks for three things: no panic, no more memory than allowed, an end.
//!
//! Fixtures: `sample()` below, packed with `gzip -n -9`, `bzip2 -9`, `lzma -9`, `lzop -9`,
//! `xz --check=crc32 --x86 --lzma2=dict=32MiB`, `lz4 -l -9`, `zstd -22 --ultra` (from a pipe:
//! hence a window of 128 MiB).
#![expect(
    unsafe_code,
    reason = "an allocator that remembers the largest request; Rust has no safe way to be one"
)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use cottage::boot::multiboot::{self, Module};
use cottage::boot::unpack::{Algorithm, Error, Size, unpack};
use cottage::boot::{Blob, Nature, Options, Protocol, Unpack, choose, load_kernel, parse};
use cottage::memory::GuestMemory;
use proptest::prelude::*;

#[cfg(test)]
#[path = "../src/boot/testing.rs"]
mod testing;

use testing::{bzimage, elf32, lz4_payload, multiboot_header, put, small_elf, small_multiboot};

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, remembering the largest request of each thread.
struct Remembering;

// SAFETY: every call goes to System unchanged; the note taken beside it allocates nothing.
unsafe impl GlobalAlloc for Remembering {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps alloc's contract, which is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Remembering = Remembering;

fn note(size: usize) {
    // A thread that ends has no note any more; nobody asks for it either.
    let _ended = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

/// Runs `work` and returns the size of its largest allocation in bytes.
fn largest_allocation(work: impl FnOnce()) -> usize {
    LARGEST.set(0);
    work();
    LARGEST.get()
}

/// 20 times the same 16 KiB of two-bit noise, each time with one byte changed: copies at a
/// distance of exactly 16384, runs, literals, and 0xe8 bytes for the x86 filter of xz.
fn sample() -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        [0xe8, 0x00, 0x41, 0xff][usize::try_from(state >> 30).unwrap()]
    };
    let block: Vec<u8> = (0..16_384).map(next).collect();
    let mut sample = Vec::new();
    for round in 0..20 {
        sample.extend_from_slice(&block);
        let at = sample.len() - 1 - usize::from(round) * 700;
        sample[at] = round;
    }
    sample
}

fn unpacked(packed: &[u8], algorithm: Algorithm, limit: u64) -> Result<Vec<u8>, Error> {
    let blob = Blob::memory(packed.to_vec(), "fixture".into());
    let size = Size {
        limit,
        expected: None,
    };
    unpack(&blob, 0, blob.len(), algorithm, size)
}

/// Packed by the real tool, it comes back; behind it stands what a kernel build appends.
fn comes_back(packed: &[u8], algorithm: Algorithm) {
    assert_eq!(Algorithm::detect(packed), Some(algorithm));
    assert!(unpacked(packed, algorithm, 1 << 20).unwrap() == sample());
    let exact = unpacked(packed, algorithm, sample().len() as u64);
    assert!(exact.unwrap() == sample());
    let error = unpacked(packed, algorithm, sample().len() as u64 - 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Cannot unpack {algorithm} data: more than 0x4ffff bytes come out")
    );
    let half = unpacked(&packed[..packed.len() / 2], algorithm, 1 << 20).unwrap_err();
    let text = half.to_string();
    let beginning = format!("Cannot unpack {algorithm} data: broken near byte 0x");
    assert!(text.starts_with(&beginning), "{text}");
}

const GZIP: &[u8] = include_bytes!("fixtures/packed/sample.gz");
const BZIP2: &[u8] = include_bytes!("fixtures/packed/sample.bz2");
const LZMA: &[u8] = include_bytes!("fixtures/packed/sample.lzma");
const XZ: &[u8] = include_bytes!("fixtures/packed/sample.xz");
const LZO: &[u8] = include_bytes!("fixtures/packed/sample.lzo");
const LZ4: &[u8] = include_bytes!("fixtures/packed/sample.lz4");
const ZSTD: &[u8] = include_bytes!("fixtures/packed/sample.zst");

#[test]
fn gzip_of_the_real_tool_comes_back() {
    comes_back(GZIP, Algorithm::Gzip);
}

#[test]
fn bzip2_of_the_real_tool_comes_back() {
    comes_back(BZIP2, Algorithm::Bzip2);
}

#[test]
fn lzma_of_the_real_tool_comes_back() {
    comes_back(LZMA, Algorithm::Lzma);
}

#[test]
fn xz_with_x86_filter_of_the_real_tool_comes_back() {
    comes_back(XZ, Algorithm::Xz);
}

#[test]
fn lzop_of_the_real_tool_comes_back() {
    comes_back(LZO, Algorithm::Lzo);
}

#[test]
fn legacy_lz4_of_the_real_tool_comes_back() {
    comes_back(LZ4, Algorithm::Lz4);
}

#[test]
fn zstd_with_128_mib_window_of_the_real_tool_comes_back() {
    comes_back(ZSTD, Algorithm::Zstd);
}

#[test]
fn zstd_of_known_size_comes_back_at_once() {
    let blob = Blob::memory(ZSTD.to_vec(), "fixture".into());
    let at_once = |expected| {
        let size = Size {
            limit: 1 << 20,
            expected: Some(expected),
        };
        unpack(&blob, 0, blob.len(), Algorithm::Zstd, size)
    };
    let len = sample().len() as u64;
    assert!(at_once(len).unwrap() == sample());
    assert!(matches!(at_once(len - 1), Err(Error::Broken { .. })));
    assert!(matches!(at_once(len + 1), Err(Error::TooShort { .. })));
}

#[test]
fn lzma_header_asking_for_4_gib_of_dictionary_is_refused() {
    let mut packed = LZMA.to_vec();
    put(&mut packed, 1, &u32::MAX.to_le_bytes());
    let largest = largest_allocation(|| {
        unpacked(&packed, Algorithm::Lzma, 1 << 20).unwrap_err();
    });
    assert!(largest < 4 << 20, "{largest:#x}");
}

/// Where to damage an image: mostly in its first KiB, where the headers are.
fn damage() -> impl Strategy<Value = Vec<(usize, u8)>> {
    let place = prop_oneof![4 => 0_usize..0x400, 1 => 0_usize..0x2000];
    prop::collection::vec((place, any::<u8>()), 1..8)
}

/// An interesting number in place of some header field.
fn field() -> impl Strategy<Value = (usize, u64)> {
    let numbers = prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(1 << 63),
        Just(u64::from(u32::MAX)),
        Just(0x10_0000),
        any::<u64>(),
        0_u64..0x3000,
    ];
    (0_usize..0x300, numbers)
}

/// Damages, sets a field, cuts off.
fn broken(
    mut image: Vec<u8>,
    damage: &[(usize, u8)],
    (at, number): (usize, u64),
    len: usize,
) -> Vec<u8> {
    for (place, byte) in damage {
        let place = place % image.len();
        image[place] = *byte;
    }
    put(&mut image, at, &number.to_le_bytes());
    image.truncate(len);
    image
}

/// Parses and loads in every way; returns the largest allocation.
fn load_every_way(image: &[u8]) -> usize {
    let kernel = Blob::memory(image.to_vec(), "broken".into());
    let memory = GuestMemory::new(4 << 20).unwrap();
    largest_allocation(|| {
        let _described = parse(&kernel).map(|image| image.to_string());
        for protocol in [None, Some(Protocol::Multiboot)] {
            let again = Blob::memory(image.to_vec(), "broken".into());
            if let Ok((kernel, Nature::Multiboot(header))) = choose(again, protocol) {
                let module = Module {
                    blob: Blob::memory(vec![1; 5000], "module".into()),
                    string: b"module a b".to_vec(),
                };
                let loaded = multiboot::load(&kernel, &header, &[module], b"words", &memory);
                let _loaded = loaded.map_err(|e| e.to_string());
            }
        }
        for protocol in [None, Some(Protocol::Pvh)] {
            for unpack in [Unpack::Host, Unpack::Guest] {
                let options = Options { protocol, unpack };
                let _loaded = load_kernel(&kernel, &options, &memory).map_err(|e| e.to_string());
            }
        }
    })
}

/// A multiboot kernel with symbols.
fn multiboot_elf() -> Vec<u8> {
    let mut code = multiboot_header(3, &[]);
    code.extend([0xf4; 32]);
    let sections: [(u32, u32, &[u8]); 3] = [(0, 0, b""), (2, 0, b"symbols"), (3, 0, b"strings")];
    elf32(0x10_0010, &[(0x10_0000, &code)], &sections)
}

#[test]
fn multiboot_kernel_that_is_damaged_here_is_a_good_one() {
    let kernel = Blob::memory(multiboot_elf(), "whole".into());
    let (kernel, nature) = choose(kernel, None).unwrap();
    let Nature::Multiboot(header) = nature else {
        panic!("{nature:?}");
    };
    let memory = GuestMemory::new(4 << 20).unwrap();
    multiboot::load(&kernel, &header, &[], b"", &memory).unwrap();
}

/// What loading may allocate at once: an lz4 chunk and the output, both bounded by small numbers
/// here (a chunk by 8 MiB, the output by guest memory or a chunk), and growth by doubling.
const LOAD_MAX: usize = 32 << 20; // 32 MiB

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn broken_elf_never_panics_or_eats_memory(
        damage in damage(), field in field(), len in 0_usize..0x1100,
    ) {
        let largest = load_every_way(&broken(small_elf(), &damage, field, len));
        prop_assert!(largest < LOAD_MAX, "{largest:#x}");
    }

    #[test]
    fn elf_with_one_strange_field_never_panics_or_eats_memory(field in field()) {
        let largest = load_every_way(&broken(small_elf(), &[], field, usize::MAX));
        prop_assert!(largest < LOAD_MAX, "{largest:#x}");
    }

    #[test]
    fn broken_bzimage_never_panics_or_eats_memory(
        damage in damage(), field in field(), len in 0_usize..0x2000,
    ) {
        let image = bzimage(&lz4_payload(&small_elf()));
        let largest = load_every_way(&broken(image, &damage, field, len));
        prop_assert!(largest < LOAD_MAX, "{largest:#x}");
    }

    #[test]
    fn bzimage_with_one_strange_field_never_panics_or_eats_memory(
        at in 0x1f1_usize..0x268, number in any::<u64>(),
    ) {
        let image = bzimage(&lz4_payload(&small_elf()));
        let largest = load_every_way(&broken(image, &[], (at, number), usize::MAX));
        prop_assert!(largest < LOAD_MAX, "{largest:#x}");
    }

    #[test]
    fn broken_multiboot_elf_never_panics_or_eats_memory(
        damage in damage(), field in field(), len in 0_usize..0x1200,
    ) {
        for image in [multiboot_elf(), small_multiboot()] {
            let largest = load_every_way(&broken(image, &damage, field, len));
            prop_assert!(largest < LOAD_MAX, "{largest:#x}");
        }
    }

    #[test]
    fn multiboot_elf_with_strange_headers_never_panics_or_eats_memory(
        at in prop_oneof![0_usize..0x34, 0x34_usize..0x54, 0x1030_usize..0x10c0],
        number in any::<u64>(),
    ) {
        let image = multiboot_elf();
        let at = at.min(image.len() - 8);
        let largest = load_every_way(&broken(image, &[], (at, number), usize::MAX));
        prop_assert!(largest < LOAD_MAX, "{largest:#x}");
    }

    #[test]
    fn multiboot_header_with_any_addresses_never_panics_or_eats_memory(
        offset in 0_usize..0x40,
        addresses in prop::array::uniform5(prop_oneof![
            Just(0), 0x10_0000_u32..0x10_0080, Just(u32::MAX), any::<u32>(),
        ]),
    ) {
        let mut image = vec![0; offset * 4];
        image.extend(multiboot_header(1 << 16, &addresses));
        image.extend([0xf4; 64]);
        prop_assert!(load_every_way(&image) < LOAD_MAX);
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..0x800)) {
        prop_assert!(load_every_way(&bytes) < LOAD_MAX);
    }
}

/// A dictionary of the size we allow, with the decoder's tables.
const DICTIONARY_MAX: usize = (256 << 20) + (2 << 20); // 258 MiB

proptest! {
    // Few: each unpacks up to 320 KiB without optimization.
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn broken_packed_file_never_panics_or_eats_memory(
        which in 0_usize..7,
        damage in prop::collection::vec((0_usize..0x9000, any::<u8>()), 1..4),
        head in prop::option::of((0_usize..64, any::<u8>())),
    ) {
        let fixtures = [GZIP, BZIP2, LZMA, XZ, LZO, LZ4, ZSTD];
        let mut packed = fixtures[which].to_vec();
        let algorithm = Algorithm::detect(&packed).unwrap();
        for (place, byte) in damage.into_iter().chain(head) {
            let place = place % packed.len();
            packed[place] = byte;
        }
        let limit = 512 << 10; // 512 KiB
        let largest = largest_allocation(|| {
            let result = unpacked(&packed, algorithm, limit);
            assert!(result.is_err() || result.unwrap().len() as u64 <= limit);
        });
        prop_assert!(largest < DICTIONARY_MAX, "{largest:#x}");
    }
}
