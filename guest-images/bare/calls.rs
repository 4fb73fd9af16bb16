//! System calls that have no safe wrapper elsewhere.
//!
//! Sources: [abi] System V ABI, AMD64 supplement, A.2.1 (system calls); Linux v6.12,
//! arch/x86/entry/syscalls/syscall_64.tbl.

use core::arch::asm;
use core::ffi::{CStr, c_char};
use core::ptr;

const SYS_RT_SIGPROCMASK: usize = 14;
const SYS_FORK: usize = 57;
const SYS_EXECVE: usize = 59;
const SYS_EXIT: usize = 60;
const SYS_RT_SIGTIMEDWAIT: usize = 128;

/// `how` of rt_sigprocmask(2): the mask is replaced.
const SIG_SETMASK: usize = 2;
/// The kernel's signal set is one 64-bit word.
const SIGNAL_SET_SIZE: usize = 8;

/// Makes a system call.
///
/// # Safety
/// The arguments must be what the call asks for, and what it does must not break memory safety.
pub unsafe fn syscall(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result;
    // SAFETY: [abi] A.2.1 gives these registers; the kernel changes rax, rcx and r11 only, besides
    // what the caller vouches for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Ends this process.
pub fn exit(status: u8) -> ! {
    // SAFETY: 1. exit(2) takes a number. 2. it does not return.
    unsafe { syscall(SYS_EXIT, [usize::from(status), 0, 0, 0, 0, 0]) };
    loop {
        core::hint::spin_loop();
    }
}

/// Which process fork(2) returned in.
pub enum Fork {
    /// The new process.
    Child,
    /// The old one; the number is the new process's.
    Parent(i32),
    /// No new process could be made.
    Failed,
}

/// Makes a copy of this process.
pub fn fork() -> Fork {
    // SAFETY: fork(2) takes nothing and copies all memory; this program has one thread and no locks.
    let result = unsafe { syscall(SYS_FORK, [0; 6]) };
    match i32::try_from(result) {
        Ok(0) => Fork::Child,
        Ok(pid) if pid > 0 => Fork::Parent(pid),
        _ => Fork::Failed,
    }
}

/// Pointers to C strings for execve(2), at most `SLOTS` - 1 of them, null-terminated.
pub struct PointerList<'a, const SLOTS: usize> {
    pointers: [*const c_char; SLOTS],
    used: usize,
    strings: core::marker::PhantomData<&'a CStr>,
}

impl<'a, const SLOTS: usize> PointerList<'a, SLOTS> {
    /// An empty list.
    pub fn new() -> Self {
        Self {
            pointers: [ptr::null(); SLOTS],
            used: 0,
            strings: core::marker::PhantomData,
        }
    }

    /// Adds a string; false if the list is full.
    pub fn push(&mut self, string: &'a CStr) -> bool {
        if self.used + 1 >= SLOTS {
            return false;
        }
        if let Some(slot) = self.pointers.get_mut(self.used) {
            *slot = string.as_ptr();
            self.used += 1;
        }
        true
    }
}

/// Why execve(2) failed: an errno value.
pub type Errno = i32;

/// Becomes another program. Returns only if that fails.
pub fn execve<const A: usize, const E: usize>(
    path: &CStr,
    arguments: &PointerList<A>,
    environment: &PointerList<E>,
) -> Errno {
    let path = path.as_ptr() as usize;
    let arguments = arguments.pointers.as_ptr() as usize;
    let environment = environment.pointers.as_ptr() as usize;
    // SAFETY: 1. the path ends with NUL. 2. `push` keeps the last slot of both lists null. 3. the
    // lists' lifetimes keep the strings in place.
    let result = unsafe { syscall(SYS_EXECVE, [path, arguments, environment, 0, 0, 0]) };
    i32::try_from(-result).unwrap_or(i32::MAX)
}

/// Signals held back, one bit each; signal 1 is bit 0.
pub type SignalSet = u64;

/// Sets which signals are held back from this process.
pub fn block_signals(set: SignalSet) {
    let set_address = &raw const set as usize;
    // SAFETY: 1. the address is that of a 64-bit set that outlives the call. 2. a null pointer for
    // the old set is allowed.
    unsafe {
        syscall(
            SYS_RT_SIGPROCMASK,
            [SIG_SETMASK, set_address, 0, SIGNAL_SET_SIZE, 0, 0],
        )
    };
}

/// Waits for a held-back signal of `set` and takes it; 0 if none came within `timeout_ms`.
pub fn wait_for_signal(set: SignalSet, timeout_ms: Option<u32>) -> i32 {
    let timeout = timeout_ms.map(|ms| [i64::from(ms / 1000), i64::from(ms % 1000) * 1_000_000]);
    let timeout_address = timeout.as_ref().map_or(0, |time| time.as_ptr() as usize);
    let set_address = &raw const set as usize;
    // SAFETY: 1. set and timeout (two 64-bit words, or null for none) outlive the call. 2. a null
    // pointer for the signal's details is allowed.
    let result = unsafe {
        syscall(
            SYS_RT_SIGTIMEDWAIT,
            [set_address, 0, timeout_address, SIGNAL_SET_SIZE, 0, 0],
        )
    };
    i32::try_from(result).unwrap_or(0).max(0)
}
