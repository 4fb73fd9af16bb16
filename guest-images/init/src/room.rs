//! What only init has unsafe: its terminal, addresses of AF_VSOCK, and I/O ports.
//!
//! Sources: Linux v6.12, arch/x86/entry/syscalls/syscall_64.tbl; vsock(7); ioperm(2).
#![expect(
    unsafe_code,
    reason = "see the module's description; the rest of the program has none, besides bare"
)]

use core::arch::asm;

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::net::AddressFamily;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

/// The terminal. Standard error, for that one is never anything else.
pub use crate::bare::complaints as terminal;
use crate::bare::syscall;

const SYS_SETSOCKOPT: usize = 54;
const SYS_IOPERM: usize = 173;

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
                0,
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
        let result = unsafe { syscall(SYS_IOPERM, [first.into(), count.into(), 1, 0, 0, 0]) };
        (result == 0).then_some(Self { first, count })
    }

    /// Gives the ports back, as a child does before it runs a program not ours.
    pub fn give_back(self) {
        // SAFETY: as in `ask`.
        unsafe {
            syscall(
                SYS_IOPERM,
                [self.first.into(), self.count.into(), 0, 0, 0, 0],
            )
        };
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
