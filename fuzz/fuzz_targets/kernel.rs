//! A file given as --kernel: identified, unpacked, loaded, and its boot information written.
#![no_main]

use cottage::boot::blob::Blob;
use cottage::boot::{self, Options, Protocol, Unpack};
use cottage::memory::GuestMemory;

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (choice, bytes) = input;
    let options = Options {
        protocol: (choice & 1 != 0).then_some(Protocol::Pvh),
        unpack: if choice & 2 == 0 {
            Unpack::Host
        } else {
            Unpack::Guest
        },
    };
    let blob = Blob::memory(bytes.to_vec(), "kernel".into());
    let memory = GuestMemory::new(16 << 20).expect("16 MiB");
    if let Ok(kernel) = boot::load_kernel(&blob, &options, &memory) {
        let _refused = boot::write_boot_info(&memory, &kernel, b"console=ttyS0", None, None);
    }
});
