//! Where the program begins and ends, and what the kernel gave it.
//!
//! Source: [abi] System V ABI, AMD64 supplement, 3.4.1 "Initial Stack and Register State".

use core::arch::global_asm;
use core::ffi::{CStr, c_char};

use super::calls::exit;
use super::stdio::complaints;

// [abi] At entry rsp points at the argument count, and rbp should be cleared to end backtraces.
// A function's stack is 16-byte aligned before its call.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {enter}",
    "ud2",
    enter = sym enter,
);

/// Strings the kernel gave this program: arguments or environment.
#[derive(Clone, Copy)]
pub struct Strings {
    first: *const *const c_char,
}

impl Iterator for Strings {
    type Item = &'static CStr;

    fn next(&mut self) -> Option<&'static CStr> {
        // SAFETY: 1. `first` points into the kernel's array, which ends with a null pointer. 2. it
        // moves on only past an entry that was not null.
        let string = unsafe { self.first.read() };
        if string.is_null() {
            return None;
        }
        // SAFETY: the entry just read was not the last.
        self.first = unsafe { self.first.add(1) };
        // SAFETY: the kernel's strings end with NUL and stay for the life of the process.
        Some(unsafe { CStr::from_ptr(string) })
    }
}

/// Takes the initial stack apart and runs the program.
extern "C" fn enter(stack: *const usize) -> ! {
    // SAFETY: [abi] the stack starts with the argument count.
    let count = unsafe { stack.read() };
    // SAFETY: [abi] the arguments' pointers follow it.
    let arguments = unsafe { stack.add(1) };
    // SAFETY: [abi] a null pointer ends the arguments, and the environment follows that.
    let environment = unsafe { arguments.add(count + 1) };
    crate::program(
        Strings {
            first: arguments.cast(),
        },
        Strings {
            first: environment.cast(),
        },
    )
}

/// A bug in this program. Ends the process; process 1 takes its guest along, by a kernel panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    let name = concat!(env!("CARGO_PKG_NAME"), ": internal error\r\n");
    let _ = rustix::io::write(complaints(), name.as_bytes());
    exit(101)
}
