//! The wait for the command, and the end of everything else.

use cottage_init::status;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};

use crate::bare::{self, SignalSet};

/// How long processes that ignore SIGTERM may hold up the end, in milliseconds.
const GRACE_MS: u32 = 300;

/// The bit of `signal` in a set.
pub fn signal_bit(signal: Signal) -> SignalSet {
    1 << (signal.as_raw() - 1)
}

/// Waits until process `command` has ended and gives its status; 0 if the VM is to end before.
///
/// As process 1 we also inherit every orphan, and must fetch its status or it stays for ever.
pub fn wait_for_end_of(command: Pid) -> u8 {
    let child = signal_bit(Signal::CHILD);
    // busybox's halt, poweroff and reboot send these; for a virtual machine they all mean "end".
    let end = signal_bit(Signal::USR1) | signal_bit(Signal::USR2) | signal_bit(Signal::TERM);
    loop {
        if let Some(status) = reap(command) {
            return status;
        }
        let signal = bare::wait_for_signal(child | end, None);
        if signal != 0 && signal != Signal::CHILD.as_raw() {
            return 0;
        }
    }
}

/// Fetches all statuses there are; the command's, if among them.
fn reap(command: Pid) -> Option<u8> {
    while let Ok(Some((pid, wait_status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
        if pid != command {
            continue;
        }
        if wait_status.stopped() {
            // Ctrl-Z with no shell to come back to: go on, or nobody could ever end it.
            let _ = kill_process_group(command, Signal::CONT);
        }
        let ended = encode(wait_status);
        if ended.is_some() {
            return ended;
        }
    }
    None
}

fn encode(wait_status: WaitStatus) -> Option<u8> {
    status::encode(wait_status.exit_status(), wait_status.terminating_signal())
}

/// Ends all other processes: politely, and after a short grace by force.
pub fn stop_the_rest() {
    if nothing_left() {
        return;
    }
    signal_all(Signal::CONT);
    signal_all(Signal::TERM);
    let child = signal_bit(Signal::CHILD);
    while !nothing_left() {
        if bare::wait_for_signal(child, Some(GRACE_MS)) == 0 {
            signal_all(Signal::KILL);
            return;
        }
    }
}

/// Whether we have no child any more. Orphans become our children, so then there is no process.
fn nothing_left() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(error) => return error == Errno::CHILD,
        }
    }
}

fn signal_all(signal: Signal) {
    // kill(2) takes a negative number for a group, and -1 not for group 1 but for all processes.
    let _ = kill_process_group(Pid::INIT, signal);
}
