//! `probe identity`: whose kernel is this? One `key value` a line; a `-` where there is no value.

use core::mem::MaybeUninit;

use cottage_probe::fields::{self, Symbols};
use rustix::fs::RawDir;
use rustix::io::{Errno, read};
use rustix::process::getpid;
use rustix::system::uname;
use rustix::thread::sched_getaffinity;

use crate::say::{self, Text};

/// Where a memory limit stands, version 2 of cgroups first.
const MEMORY_LIMITS: [&core::ffi::CStr; 2] = [
    c"/sys/fs/cgroup/memory.max",
    c"/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// Prints all.
pub fn identity() -> u8 {
    let system = uname();
    say::file("boot_id", c"/proc/sys/kernel/random/boot_id");
    say::file("uptime", c"/proc/uptime");
    say::file("loadavg", c"/proc/loadavg");
    say::value("kernel_release", system.release().to_bytes());
    say::value("kernel_version", system.version().to_bytes());
    say::value("machine", system.machine().to_bytes());
    say::file("proc_version", c"/proc/version");
    field("mem_total", c"/proc/meminfo", b"MemTotal");
    memory_limit();
    say::file("cpus_online", c"/sys/devices/system/cpu/online");
    match sched_getaffinity(None) {
        Ok(processors) => say::number("cpus_usable", processors.count().into()),
        Err(reason) => say::nothing("cpus_usable", reason),
    }
    field("cpu_model", c"/proc/cpuinfo", b"model name");
    kernel_symbols();
    processes();
    say::value("hostname", system.nodename().to_bytes());
    let pid = getpid().as_raw_nonzero().get();
    say::number("pid", pid.unsigned_abs().into());
    say::file("init_comm", c"/proc/1/comm");
    0
}

/// Prints one field of a file that has many.
pub fn field(key: &str, path: &core::ffi::CStr, name: &[u8]) {
    let mut buffer = [0; 4096];
    match say::read_file(path, &mut buffer) {
        Ok(text) => match fields::value(text, name) {
            Some(value) => say::value(key, say::one_line(Text::new(), value).as_bytes()),
            None => say::nothing(key, Errno::NODATA),
        },
        Err(reason) => say::nothing(key, reason),
    }
}

/// The limit that the side's own files show, whichever are there.
fn memory_limit() {
    let mut buffer = [0; 64];
    for path in MEMORY_LIMITS {
        if let Ok(text) = say::read_file(path, &mut buffer) {
            return say::value("memory_limit", text.trim_ascii());
        }
    }
    say::nothing("memory_limit", Errno::NOENT);
}

/// `kernel_symbols WITH-ADDRESS TOTAL`.
fn kernel_symbols() {
    let file = match say::open_file(c"/proc/kallsyms") {
        Ok(file) => file,
        Err(reason) => return say::nothing("kernel_symbols", reason),
    };
    let mut symbols = Symbols::default();
    let mut buffer = [0; 32 << 10]; // 32 KiB
    loop {
        match read(&file, &mut buffer[..]) {
            Ok(0) => break,
            Ok(count) => symbols.take(buffer.get(..count).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(reason) => return say::nothing("kernel_symbols", reason),
        }
    }
    say::line(
        Text::new()
            .text(b"kernel_symbols ")
            .number(symbols.with_address)
            .text(b" ")
            .number(symbols.total),
    );
}

/// How many processes /proc shows.
fn processes() {
    let directory = match say::open_file(c"/proc") {
        Ok(directory) => directory,
        Err(reason) => return say::nothing("processes", reason),
    };
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut entries = RawDir::new(directory, &mut buffer);
    let (mut count, mut any) = (0, false);
    while let Some(entry) = entries.next() {
        let Ok(entry) = entry else { break };
        any |= entry.file_name() == c"self";
        let name = entry.file_name().to_bytes();
        count += u64::from(name.iter().all(u8::is_ascii_digit));
    }
    match any {
        true => say::number("processes", count),
        // A directory, but no proc is mounted there.
        false => say::nothing("processes", Errno::NOENT),
    }
}
