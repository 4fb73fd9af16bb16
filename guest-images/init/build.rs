//! Linker arguments for a program without libc.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let arguments = [
        // We bring our own _start.
        "-nostartfiles",
        // A fixed address: a position-independent program would have to relocate itself first.
        "-static",
        "-no-pie",
        // Code and data in as few pages as possible; the program is unpacked and loaded at each boot.
        "-Wl,-z,noseparate-code,-z,norelro,--build-id=none",
    ];
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
