//! Linker arguments for a program without libc: cottage's init and its probe.

fn main() {
    println!("cargo::rerun-if-changed=../bare/build.rs");
    let arguments = [
        // We bring our own _start.
        "-nostartfiles",
        // A fixed address: a position-independent program would have to relocate itself first.
        "-static",
        "-no-pie",
        // Code and data in as few pages as possible; the program is unpacked and loaded at each boot.
        "-Wl,-z,noseparate-code,-z,norelro,--build-id=none",
        // Nothing unwinds here, but `core` was compiled for programs that do; a build that is not
        // optimised as a whole still names this.
        "-Wl,--defsym=rust_eh_personality=0",
    ];
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
