//! A multiboot kernel with a module: header, segments, section headers, boot information.
#![no_main]

use cottage::boot::blob::Blob;
use cottage::boot::{Nature, Protocol, choose, multiboot};
use cottage::memory::GuestMemory;

libfuzzer_sys::fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (module, mut bytes) = input;
    // The magic number and its checksum are not to be guessed.
    if let Some(place) = bytes.get_mut(..12) {
        let flags = u32::from_le_bytes([place[4], place[5], place[6] & 1, 0]);
        let sum = 0_u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
        place[..4].copy_from_slice(&0x1bad_b002_u32.to_le_bytes());
        place[4..8].copy_from_slice(&flags.to_le_bytes());
        place[8..].copy_from_slice(&sum.to_le_bytes());
    }
    let kernel = Blob::memory(bytes, "kernel".into());
    let memory = GuestMemory::new(16 << 20).expect("16 MiB");
    let Ok((kernel, Nature::Multiboot(header))) = choose(kernel, Some(Protocol::Multiboot)) else {
        return;
    };
    let module = multiboot::Module {
        blob: Blob::memory(module, "module".into()),
        string: b"module words".to_vec(),
    };
    let _refused = multiboot::load(&kernel, &header, &[module], b"kernel words", &memory);
});
