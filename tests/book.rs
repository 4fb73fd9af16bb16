//! The book's commands that boot Linux, each chapter a test. How they are written in the chapters, and
//! what is masked, stands at the head of `tests/support/book.rs`. The others:
//! `tests/book_host.rs`.

#[path = "support/book.rs"]
mod book;
mod support;

use book::{Needs, differences};

/// One test a chapter that boots Linux.
macro_rules! boots_linux {
    ($($test:ident: $chapter:literal),* $(,)?) => {$(
        #[test]
        fn $test() {
            if support::linux_kvm().is_some() {
                let wrong = differences($chapter, Needs::Linux);
                assert!(wrong.is_empty(), "{}", wrong.join("\n"));
            }
        }
    )*};
}

boots_linux! {
    one_boot: "01-one-boot.md",
    memory: "02-memory.md",
    boot_protocols: "03-boot-protocols.md",
    zero_page: "04-zero-page.md",
    exits: "05-exits.md",
    interrupts: "06-interrupts.md",
    serial: "07-serial.md",
    virtio: "08-virtio.md",
    time: "09-time.md",
    smp: "10-smp.md",
    containers: "11-containers.md",
    why_slow: "12-why-slow.md",
}
