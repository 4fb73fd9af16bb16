//! The program's one unsafe room: entry point, what libc would give, and system calls and
//! instructions that have no safe wrapper.
//!
//! Sources: [abi] System V ABI, AMD64 supplement, 3.4.1 "Initial Stack and Register State" and
//! A.2.1 (system calls); Linux v6.12, arch/x86/entry/syscalls/syscall_64.tbl.
#![expect(
    unsafe_code,
    reason = "see the module's description; the rest of the program has none"
)]

use core::arch::{asm, global_asm};
use core::ffi::{CStr, c_char};
use core::ptr;

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::net::AddressFamily;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

const SYS_RT_SIGPROCMASK: usize = 14;
const SYS_SETSOCKOPT: usize = 54;
const SYS_FORK: usize = 57;
const SYS_EXECVE: usize = 59;
const SYS_EXIT: usize = 60;
const SYS_RT_SIGTIMEDWAIT: usize = 128;
const SYS_IOPERM: usize = 173;

/// `how` of rt_sigprocmask(2): the mask is replaced.
const SIG_SETMASK: usize = 2;
/// The kernel's signal set is one 64-bit word.
const SIGNAL_SET_SIZE: usize = 8;

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

/// A bug in this program. Ends the process; as process 1 that ends the guest with a kernel panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    let _ = rustix::io::write(terminal(), b"cottage-init: internal error\r\n");
    exit(101)
}

/// The terminal. Standard error, for that one is never anything else.
pub fn terminal() -> BorrowedFd<'static> {
    // SAFETY: descriptor 2 is open from the start, or from console::take, and is never closed. If it
    // is not open at all, calls on it fail without harm.
    unsafe { rustix::stdio::stderr() }
}

/// Standard input. As for [`terminal`].
pub fn input() -> BorrowedFd<'static> {
    // SAFETY: descriptor 0 is open from the start and is never closed; if it is not open at all, calls
    // on it fail without harm.
    unsafe { rustix::stdio::stdin() }
}

/// Standard output. As for [`terminal`].
pub fn output() -> BorrowedFd<'static> {
    // SAFETY: as for `input`, with descriptor 1.
    unsafe { rustix::stdio::stdout() }
}

/// A port of a virtual machine or its host. Source: vsock(7), struct sockaddr_vm.
#[repr(C)]
pub struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

/// Its size.
const SOCKADDR_VM_SIZE: SocketAddrLen = 16;
const _: () = assert!(size_of::<VsockAddress>() == SOCKADDR_VM_SIZE as usize);

impl VsockAddress {
    /// Port `port` of whoever has the context id `cid`.
    pub fn new(cid: u32, port: u32) -> Self {
        Self {
            family: AddressFamily::VSOCK.as_raw(),
            reserved: 0,
            port,
            cid,
            flags: 0,
            zero: [0; 3],
        }
    }
}

/// SO_VM_SOCKETS_CONNECT_TIMEOUT, an option at the level AF_VSOCK. Source: vsock(7).
const CONNECT_TIMEOUT: usize = 6;

/// Sets how long connect(2) on a socket of AF_VSOCK waits for an answer.
pub fn set_connect_timeout(socket: BorrowedFd<'_>, seconds: i64) {
    let time = [seconds, 0];
    let fd = socket.as_raw_fd().cast_unsigned() as usize;
    let level = usize::from(AddressFamily::VSOCK.as_raw());
    // SAFETY: the address is that of a struct timeval, two 64-bit words, which outlives the call.
    unsafe {
        syscall(
            SYS_SETSOCKOPT,
            [
                fd,
                level,
                CONNECT_TIMEOUT,
                time.as_ptr() as usize,
                size_of_val(&time),
            ],
        )
    };
}

// SAFETY: `with_sockaddr` gives a pointer to a whole sockaddr_vm that outlives the call: the structure
// has its layout and no padding.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f((&raw const *self).cast(), SOCKADDR_VM_SIZE)
    }
}

/// Makes a system call.
///
/// # Safety
/// The arguments must be what the call asks for, and what it does must not break memory safety.
unsafe fn syscall(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result;
    // SAFETY: [abi] A.2.1 gives these registers; the kernel changes rax, rcx and r11 only, besides
    // what the caller vouches for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Ends this process.
pub fn exit(status: u8) -> ! {
    // SAFETY: 1. exit(2) takes a number. 2. it does not return.
    unsafe { syscall(SYS_EXIT, [usize::from(status), 0, 0, 0, 0]) };
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
    let result = unsafe { syscall(SYS_FORK, [0; 5]) };
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
    let result = unsafe { syscall(SYS_EXECVE, [path, arguments, environment, 0, 0]) };
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
            [SIG_SETMASK, set_address, 0, SIGNAL_SET_SIZE, 0],
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
            [set_address, 0, timeout_address, SIGNAL_SET_SIZE, 0],
        )
    };
    i32::try_from(result).unwrap_or(0).max(0)
}

/// Leave to use I/O ports, given by the kernel.
#[derive(Clone, Copy)]
pub struct PortLeave {
    first: u16,
    count: u16,
}

impl PortLeave {
    /// Asks for `count` ports from `first` on; `None` if the kernel lacks ioperm(2) or refuses.
    pub fn ask(first: u16, count: u16) -> Option<Self> {
        // SAFETY: ioperm(2) takes numbers; it permits instructions and touches no memory.
        let result = unsafe { syscall(SYS_IOPERM, [first.into(), count.into(), 1, 0, 0]) };
        (result == 0).then_some(Self { first, count })
    }

    /// Gives the ports back, as a child does before it runs a program not ours.
    pub fn give_back(self) {
        // SAFETY: as in `ask`.
        unsafe { syscall(SYS_IOPERM, [self.first.into(), self.count.into(), 0, 0, 0]) };
    }

    /// Writes a byte to one of the ports.
    pub fn write(self, port: u16, byte: u8) {
        if !(self.first..self.first + self.count).contains(&port) {
            return;
        }
        // SAFETY: 1. the kernel has permitted this port. 2. the ports are the VMM's own registers,
        // behind which nothing reads or writes guest memory.
        unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack)) };
    }
}

// The compiler calls these four by name. `rep movsb` is as good as any copy loop on processors of
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
