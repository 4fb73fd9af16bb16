//! The functions that compilers call by name, which libc would bring.
//!
//! Source: the C standard's string functions, as rustc's `core` asks for them.

use core::arch::asm;
use core::ffi::c_char;

// `rep movsb` is as good as any copy loop on processors of
// the last ten years, and it cannot be turned back into a call of the function it stands in.

/// See memcpy(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for `count` bytes at both places.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _,
            options(nostack, preserves_flags));
    }
    to
}

/// See memmove(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: no byte is overwritten before it is read when going upwards.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: 1. the caller vouches for `count` bytes at both places. 2. the ranges overlap with
    // `to` above `from`, so going downwards reads each byte in time; `count` is not 0 here. 3. the
    // direction flag is cleared again, as [abi] demands.
    unsafe {
        asm!("std", "rep movsb", "cld",
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
            inout("rcx") count => _, options(nostack));
    }
    to
}

/// See memset(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for `count` bytes.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, in("eax") byte, inout("rcx") count => _,
            options(nostack, preserves_flags));
    }
    to
}

/// See memcmp(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: the caller vouches for `count` bytes. Volatile, lest this loop be recognised.
        let left = unsafe { left.wrapping_add(at).read_volatile() };
        // SAFETY: as above.
        let right = unsafe { right.wrapping_add(at).read_volatile() };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// As memcmp, but only for equality.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, count) }
}

/// The length of a C string, see strlen(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(string: *const c_char) -> usize {
    let mut length = 0;
    // SAFETY: the caller vouches for a NUL at the end. Volatile, lest this loop be recognised.
    while unsafe { string.wrapping_add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
