//! Network cards: switched on, and given addresses by programs of busybox's.
//!
//! A guest without a network never comes past the first look. What fails is told on the console
//! and passed over: the command can still run.

use core::ffi::CStr;

use cottage_init::run_file::{NetworkStep, RunFile};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::bare::{self, Fork, PointerList};
use crate::console::complain;

/// One more than the number of words of any command here.
const WORDS: usize = 16;

/// Where a program may be that goes by the first of its words.
const IP: [&CStr; 6] = [
    c"/sbin/ip",
    c"/usr/sbin/ip",
    c"/bin/ip",
    c"/usr/bin/ip",
    c"/bin/busybox",
    c"/.cottage/busybox",
];
const UDHCPC: [&CStr; 4] = [
    c"/sbin/udhcpc",
    c"/usr/sbin/udhcpc",
    c"/bin/busybox",
    c"/.cottage/busybox",
];

/// Does what the VMM asked for.
pub fn set_up(run: &RunFile) {
    for step in run.network() {
        let (card, done) = match step {
            NetworkStep::Up { card } => {
                let words = [c"ip", c"link", c"set", c"dev", card, c"up"];
                (card, command(&IP, &words))
            }
            NetworkStep::Address { card, ip } => {
                let words = [c"ip", c"address", c"add", ip, c"dev", card];
                (card, command(&IP, &words))
            }
            NetworkStep::Gateway { card, gw } => {
                let words = [
                    c"ip", c"route", c"add", c"default", c"via", gw, c"dev", card,
                ];
                (card, command(&IP, &words))
            }
            // -n: without a lease it ends; -q: and with one, too. A virtual network answers at
            // once or never: five tries, one second each.
            NetworkStep::Dhcp { card } => {
                let words = [
                    c"udhcpc", c"-n", c"-q", c"-t", c"5", c"-T", c"1", c"-i", card,
                ];
                (card, command(&UDHCPC, &words))
            }
        };
        if !done {
            let reason: &[u8] = match step {
                NetworkStep::Up { .. } => b"cannot be switched on",
                NetworkStep::Address { .. } => b"cannot be given its address",
                NetworkStep::Gateway { .. } => b"cannot be given its gateway",
                NetworkStep::Dhcp { .. } => b"got no address by DHCP",
            };
            complain(card, reason);
        }
    }
}

/// Runs one command to its end, without a word; whether it did what it should.
fn command(paths: &[&CStr], words: &[&CStr]) -> bool {
    match bare::fork() {
        Fork::Failed => false,
        Fork::Parent(pid) => Pid::from_raw(pid).is_some_and(succeeds),
        Fork::Child => {
            silence();
            bare::block_signals(0);
            let mut arguments = PointerList::<WORDS>::new();
            for word in words {
                arguments.push(word);
            }
            let mut environment = PointerList::<WORDS>::new();
            // udhcpc's script calls programs by their names.
            environment.push(c"PATH=/usr/sbin:/usr/bin:/sbin:/bin");
            for path in paths {
                bare::execve(path, &arguments, &environment);
            }
            bare::exit(127)
        }
    }
}

fn succeeds(pid: Pid) -> bool {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return status.exit_status() == Some(0),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The console is the command's alone.
fn silence() {
    if let Ok(null) = open(c"/dev/null", OFlags::RDWR, Mode::empty()) {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
}
