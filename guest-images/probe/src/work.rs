//! The measurements themselves: what one operation is.

use core::ffi::CStr;
use core::hint::black_box;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::sync::atomic::Ordering;
use core::time::Duration;

use cottage_init::line::Line;
use cottage_probe::fields::default_gateway;
use cottage_probe::settings::{Peer, Settings};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, fstatfs, fsync, open, unlink};
use rustix::io::{Errno, pwrite, read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use rustix::pipe::pipe;
use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use crate::bare::{self, Fork, PointerList};
use crate::cost::measure;
use crate::room::{self, Pages};
use crate::say;

const PAGE_SIZE: usize = 4096;
/// Pages are mapped, touched and given back in pieces of this size.
const PIECE: usize = 4 << 20; // 4 MiB

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// All, those first that say the same twice.
pub const NAMES: [&str; 7] = [
    "syscall",
    "arith",
    "pagetouch",
    "forkexec",
    "ctxsw",
    "fsync",
    "tcp",
];

/// Runs the measurement called `name`; `None` if there is none, or it lacks what it needs.
///
/// The numbers of operations make a batch some 10 to 30 ms long on a processor of this decade, much
/// longer than a line takes to arrive.
pub fn run(name: &str, program: &CStr, settings: &Settings) -> Option<Result<(), Errno>> {
    Some(match name {
        "syscall" => measure((name, b""), settings, 100_000, &mut syscalls),
        "arith" => measure((name, b""), settings, 5_000_000, &mut arithmetic),
        "pagetouch" => measure((name, b""), settings, 8_192, &mut touch_pages),
        "forkexec" => measure((name, b""), settings, 50, &mut |count| {
            start_programs(program, count)
        }),
        "ctxsw" => switch(name, settings),
        "fsync" => write_and_sync(name, settings),
        "tcp" => round_trips(name, settings)?,
        _ => return None,
    })
}

/// One system call.
#[expect(clippy::unnecessary_wraps, reason = "as the others")]
fn syscalls(count: u64) -> Result<(), Errno> {
    for _ in 0..count {
        room::cheap_call();
    }
    Ok(())
}

/// One step of a random number generator and of a floating-point product, each of which needs the
/// result of the step before: nothing that a processor could do at the same time, and no memory.
#[expect(clippy::unnecessary_wraps, reason = "as the others")]
fn arithmetic(count: u64) -> Result<(), Errno> {
    let (mut whole, mut real) = (black_box(1_u64), black_box(1.0_f64));
    for _ in 0..count {
        // Constants of Knuth's MMIX.
        whole = whole
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        real = real * 0.999_999 + 0.000_001;
    }
    black_box((whole, real));
    Ok(())
}

/// A page of 4 KiB, mapped, written to and given back.
fn touch_pages(count: u64) -> Result<(), Errno> {
    let mut left = usize::try_from(count).or(Err(Errno::INVAL))?;
    while left > 0 {
        let pages = left.min(PIECE / PAGE_SIZE);
        let piece = Pages::map(pages * PAGE_SIZE, false).ok_or(Errno::NOMEM)?;
        for page in piece.bytes().chunks_exact(PAGE_SIZE) {
            if let Some(byte) = page.first() {
                byte.store(1, Ordering::Relaxed);
            }
        }
        left -= pages;
    }
    Ok(())
}

/// A program started and waited for: this one, which does nothing.
fn start_programs(program: &CStr, count: u64) -> Result<(), Errno> {
    for _ in 0..count {
        match bare::fork() {
            Fork::Failed => return Err(Errno::AGAIN),
            Fork::Child => {
                let mut arguments = PointerList::<3>::new();
                arguments.push(program);
                arguments.push(c"nothing");
                bare::execve(program, &arguments, &PointerList::<1>::new());
                bare::exit(127)
            }
            Fork::Parent(pid) => {
                let ended = waitpid(Pid::from_raw(pid), WaitOptions::empty())?;
                let status = ended.and_then(|(_, status)| status.exit_status());
                if status != Some(0) {
                    return Err(Errno::NOENT);
                }
            }
        }
    }
    Ok(())
}

/// A byte to another process and back, through two pipes: two switches, if both are on one processor.
fn switch(name: &str, settings: &Settings) -> Result<(), Errno> {
    let (there_out, there_in) = pipe()?;
    let (back_out, back_in) = pipe()?;
    match bare::fork() {
        Fork::Failed => return Err(Errno::AGAIN),
        Fork::Child => {
            drop((there_in, back_out));
            while read_byte(&there_out).is_ok() && write_byte(&back_in).is_ok() {}
            bare::exit(0)
        }
        Fork::Parent(_) => drop((there_out, back_in)),
    }
    measure((name, b""), settings, 5_000, &mut |count| {
        for _ in 0..count {
            write_byte(&there_in)?;
            read_byte(&back_out)?;
        }
        Ok(())
    })
}

/// 4 KiB over the same place of a file, and waiting until the disk has it.
fn write_and_sync(name: &str, settings: &Settings) -> Result<(), Errno> {
    let path = Line::<4096>::new().text(settings.directory.to_bytes());
    // No other probe's: its number is its own in a namespace, and so are the files.
    let path = path
        .text(b"/probe-")
        .number(getpid().as_raw_nonzero().get().unsigned_abs().into());
    let path = path.text(b".tmp");
    let path = path.as_c_str().ok_or(Errno::NAMETOOLONG)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::RUSR | Mode::WUSR)?;
    // Whoever reads this knows by it whether there was a disk to wait for.
    let system = fstatfs(&file)?.f_type.unsigned_abs();
    let about = Line::<32>::new().text(b" fs=").hexadecimal(system);
    let result = measure((name, about.as_bytes()), settings, 16, &mut |count| {
        for _ in 0..count {
            if pwrite(&file, &[b'x'; PAGE_SIZE], 0)? != PAGE_SIZE {
                return Err(Errno::NOSPC);
            }
            fsync(&file)?;
        }
        Ok(())
    });
    let _ = unlink(path);
    result
}

/// A byte to `probe echo` and back, over TCP; `None` if it was not told where that is.
fn round_trips(name: &str, settings: &Settings) -> Option<Result<(), Errno>> {
    let peer = settings.peer?;
    let connected = match peer {
        Peer::At(address) => connected(address).map(|socket| (socket, &b""[..])),
        Peer::Host(port) => connected_to_host(port),
    };
    let (socket, about) = match connected {
        Ok(connected) => connected,
        Err(reason) => return Some(Err(reason)),
    };
    Some(measure((name, about), settings, 500, &mut |count| {
        for _ in 0..count {
            write_byte(&socket)?;
            read_byte(&socket)?;
        }
        Ok(())
    }))
}

/// Reaches the host: on the host itself, by its loopback; else it is where packets for the world go.
///
/// In this order, lest a probe on the host knock at the next router.
fn connected_to_host(port: u16) -> Result<(OwnedFd, &'static [u8]), Errno> {
    if let Ok(socket) = connected(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
        return Ok((socket, b" via=loopback"));
    }
    let mut buffer = [0; 4096];
    let table = say::read_file(c"/proc/net/route", &mut buffer);
    let gateway = table.ok().and_then(default_gateway);
    let gateway = gateway.ok_or(Errno::NETUNREACH)?;
    let socket = connected(SocketAddrV4::new(gateway, port))?;
    Ok((socket, b" via=gateway"))
}

fn connected(address: SocketAddrV4) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    // Where a filter drops what we send, connect(2) would wait for minutes.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
    connect(&socket, &address)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

fn write_byte(to: impl AsFd) -> Result<(), Errno> {
    write(to, b"x").map(|_| ())
}

/// An end is an error here: nothing that is read ends by itself.
fn read_byte(from: impl AsFd) -> Result<(), Errno> {
    match read(from, &mut [0; 1])? {
        0 => Err(Errno::PIPE),
        _ => Ok(()),
    }
}
