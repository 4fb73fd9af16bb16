//! `probe hold`: stays, so that others can look at what a side costs while it does nothing.

use core::ffi::CStr;
use core::sync::atomic::Ordering;

use cottage_probe::settings::after;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{fstat, major, minor};
use rustix::io::{Errno, read};
use rustix::process::Signal;

use crate::bare::{self, SignalSet};
use crate::room::{self, Pages};
use crate::say;

const PAGE_SIZE: usize = 4096;
/// More MiB than this are refused: an address space has no more.
const TOUCH_MAX: usize = 128 << 20; // 128 TiB
/// The device number of /dev/null. Source: Linux v6.12, Documentation/admin-guide/devices.txt.
const NULL_DEVICE: (u32, u32) = (1, 3);

/// Touches memory if told to, says READY, and waits for the end of standard input or a signal.
pub fn hold(word: Option<&CStr>) -> Option<u8> {
    let mebibytes = match word {
        Some(word) => touch(word)?,
        None => 0,
    };
    // Held back from the start: process 1 of a container ignores a signal that it does not wait for.
    let signals = [Signal::TERM, Signal::INT, Signal::HUP];
    let signals = signals.into_iter().fold(0, |set, signal| set | bit(signal));
    bare::block_signals(signals);
    let pages = match mebibytes {
        0 => None,
        mebibytes => match Pages::map(mebibytes << 20, false) {
            Some(pages) => Some(pages),
            None => return Some(say::failed("no room for that much memory", Errno::NOMEM)),
        },
    };
    for page in pages
        .iter()
        .flat_map(|pages| pages.bytes().chunks(PAGE_SIZE))
    {
        if let Some(byte) = page.first() {
            byte.store(1, Ordering::Relaxed);
        }
    }
    say::write_all(bare::output(), b"READY\n");
    Some(match wait(signals) {
        Ok(()) => 0,
        Err(reason) => say::failed("cannot wait", reason),
    })
}

/// The number of MiB in `touch=MIB`.
fn touch(word: &CStr) -> Option<usize> {
    let number = after(word, "touch=")?.to_str().ok()?.parse().ok();
    number.filter(|number| *number <= TOUCH_MAX)
}

/// A signal's bit in a set.
pub fn bit(signal: Signal) -> SignalSet {
    1 << (signal.as_raw() - 1)
}

/// Waits for a signal of `signals` or the end of standard input.
fn wait(signals: SignalSet) -> Result<(), Errno> {
    let signalled = room::signal_descriptor(signals).ok_or(Errno::NOSYS)?;
    let mut listening = input_can_end();
    loop {
        let input = bare::input();
        let both = &mut [
            PollFd::new(&signalled, PollFlags::IN),
            PollFd::new(&input, PollFlags::IN),
        ];
        let count = if listening { 2 } else { 1 };
        match poll(both.get_mut(..count).unwrap_or_default(), None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let [signal, typed] = both;
        if !signal.revents().is_empty() {
            return Ok(());
        }
        if !typed.revents().is_empty() {
            match read(input, &mut [0; 512]) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => listening = false,
            }
        }
    }
}

/// Whether standard input says anything by its end. Closed or /dev/null, it is what a runtime gives a
/// program that nobody talks to.
fn input_can_end() -> bool {
    fstat(bare::input())
        .is_ok_and(|status| (major(status.st_rdev), minor(status.st_rdev)) != NULL_DEVICE)
}
