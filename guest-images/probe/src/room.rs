//! What only the probe has unsafe: memory of its own, system calls by number, a clock.
//!
//! Sources: [abi] System V ABI, AMD64 supplement, A.2.1 (system calls); Linux v6.12,
//! arch/x86/entry/syscalls/syscall_64.tbl; signalfd(2), prctl(2).
#![expect(
    unsafe_code,
    reason = "see the module's description; the rest of the program has none, besides bare"
)]

use core::arch::asm;
use core::ptr;
use core::slice;
use core::sync::atomic::AtomicU8;

use rustix::fd::{FromRawFd, OwnedFd};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::bare::{SignalSet, syscall};

const SYS_GETPPID: usize = 110;
const SYS_PRCTL: usize = 157;
const SYS_CLOCK_GETTIME: usize = 228;
const SYS_UNSHARE: usize = 272;
const SYS_SIGNALFD4: usize = 289;
const SYS_SYSLOG: usize = 103;
const SYS_IO_URING_SETUP: usize = 425;

const CLOCK_MONOTONIC: usize = 1;
const PR_SET_DUMPABLE: usize = 4;
const CLONE_NEWUSER: usize = 0x1000_0000;
/// SYSLOG_ACTION_READ_ALL: what the kernel has printed, left where it is.
const READ_ALL: usize = 3;
/// struct io_uring_params.
const IO_URING_PARAMS_SIZE: usize = 120;

/// Nanoseconds on the kernel's monotonic clock. By a system call: a guest may have no vDSO clock, and
/// whoever measures calls it twice a batch.
pub fn monotonic() -> u64 {
    let mut time = [0_u64; 2];
    // SAFETY: the address is that of a struct timespec, two 64-bit words, which outlives the call.
    unsafe {
        syscall(
            SYS_CLOCK_GETTIME,
            [CLOCK_MONOTONIC, time.as_mut_ptr() as usize, 0, 0, 0, 0],
        )
    };
    let [seconds, nanoseconds] = time;
    seconds
        .wrapping_mul(1_000_000_000)
        .wrapping_add(nanoseconds)
}

/// A system call as cheap as they come, which no C library and no vDSO answers from memory.
pub fn cheap_call() -> isize {
    // SAFETY: getppid(2) takes nothing and touches no memory.
    unsafe { syscall(SYS_GETPPID, [0; 6]) }
}

/// Makes a system call as the table of attempts says, in a process that may break.
pub fn attempt(number: usize, arguments: [usize; 6]) -> isize {
    // SAFETY: 1. no argument is the address of anything: the address with all bits set is the
    // kernel's, and calls fail with it. 2. what one does without addresses stays with this process,
    // which shares nothing but bytes with the rest of the program.
    unsafe { syscall(number, arguments) }
}

/// fork(2) or vfork(2), after which the new process ends at once: it must not return from here, for
/// vfork lends it our stack.
pub fn fork_and_end(number: usize) -> isize {
    let result;
    // SAFETY: 1. [abi] A.2.1: these registers change. 2. the new process touches no memory before
    // exit(2), number 60.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, 60",
            "xor edi, edi",
            "syscall",
            "2:",
            inlateout("rax") number => result,
            lateout("rdi") _, lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A system call with a stack pointer of 0, for those that read the stack: the kernel ends a process
/// whose stack it cannot read, unless it refuses the call itself.
pub fn without_stack(number: usize) -> isize {
    let result;
    // SAFETY: 1. [abi] A.2.1: these registers change. 2. signals, which would need the stack, end this
    // process when the kernel cannot write there. 3. the stack pointer is put back before any use.
    unsafe {
        asm!(
            "mov {kept}, rsp",
            "xor esp, esp",
            "syscall",
            "mov rsp, {kept}",
            kept = out(reg) _,
            inlateout("rax") number => result,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// Keeps the kernel from writing a core file when this process breaks.
pub fn leave_no_core() {
    // SAFETY: this option takes a number.
    unsafe { syscall(SYS_PRCTL, [PR_SET_DUMPABLE, 0, 0, 0, 0, 0]) };
}

/// Goes into a new user namespace; the result is 0 or an errno, negative.
pub fn new_user_namespace() -> isize {
    // SAFETY: unshare(2) takes a number and touches no memory.
    unsafe { syscall(SYS_UNSHARE, [CLONE_NEWUSER, 0, 0, 0, 0, 0]) }
}

/// Makes an io_uring of one entry; the result is a descriptor or an errno, negative.
pub fn new_io_uring() -> isize {
    let mut parameters = [0_u8; IO_URING_PARAMS_SIZE];
    // SAFETY: the address is that of a whole struct io_uring_params, which outlives the call.
    unsafe {
        syscall(
            SYS_IO_URING_SETUP,
            [1, parameters.as_mut_ptr() as usize, 0, 0, 0, 0],
        )
    }
}

/// Reads the newest of what the kernel has printed; the result is bytes or an errno, negative.
pub fn kernel_log(buffer: &mut [u8]) -> isize {
    let (start, length) = (buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: the kernel writes at most `length` bytes to the buffer, which outlives the call.
    unsafe { syscall(SYS_SYSLOG, [READ_ALL, start, length, 0, 0, 0]) }
}

/// A descriptor that can be read when one of the signals, which must be held back, has come.
pub fn signal_descriptor(signals: SignalSet) -> Option<OwnedFd> {
    let (none, size) = (usize::MAX, size_of_val(&signals));
    // SAFETY: the address is that of a 64-bit set that outlives the call.
    let result = unsafe {
        syscall(
            SYS_SIGNALFD4,
            [none, &raw const signals as usize, size, 0, 0, 0],
        )
    };
    let descriptor = i32::try_from(result).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just made it, so it is open and nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Memory of this program's own, zeros at first, given back in the end.
pub struct Pages {
    start: *mut AtomicU8,
    length: usize,
}

impl Pages {
    /// Maps `length` bytes, which is not 0. What is `shared` is the children's too.
    pub fn map(length: usize, shared: bool) -> Option<Self> {
        let flags = if shared {
            MapFlags::SHARED
        } else {
            MapFlags::PRIVATE
        };
        // SAFETY: 1. the kernel chooses an address where nothing is. 2. AtomicU8 may have any value.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        };
        let pages = Self {
            start: start.ok()?.cast(),
            length,
        };
        // Page by page is what is asked; a kernel without huge pages refuses, and need not be told.
        // SAFETY: the range is the mapping just made, and the advice changes no contents.
        let _ = unsafe { madvise(pages.start.cast(), length, Advice::LinuxNoHugepage) };
        Some(pages)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: `map` made `length` bytes, which stay until drop; atomics may be changed by others.
        unsafe { slice::from_raw_parts(self.start, self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made by `map`, and `bytes` lent it for our life only.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}
