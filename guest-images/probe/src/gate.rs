//! Every system call once, by children that may break.
//!
//! A child goes through the numbers and notes how each went in memory that we share. When it ends
//! before the last, the first number without a note is what ended it, and another child goes on from
//! there. One that stays too long at a number waits there, and is ended by us.

use core::sync::atomic::{AtomicU8, Ordering};

use cottage_probe::outcome::Outcome;
use cottage_probe::syscalls::{Attempt, COUNT, attempt};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, setsid, waitpid};

use crate::bare::{self, Fork};
use crate::hold::bit;
use crate::room::{self, Pages};

/// A call that takes longer waits for something.
const PATIENCE_MS: u32 = 300;

/// The number of setsid(2).
const SYS_SETSID: usize = 112;

/// Tries all numbers; the result has a byte for each.
pub fn try_all() -> Result<Pages, Errno> {
    let notes = Pages::map(COUNT, true).ok_or(Errno::NOMEM)?;
    bare::block_signals(bit(Signal::CHILD));
    while let Some(at) = first_untried(&notes) {
        match bare::fork() {
            Fork::Failed => return Err(Errno::AGAIN),
            Fork::Child => go_on(&notes, at),
            Fork::Parent(pid) => {
                let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
                let status = wait_for(pid, &notes)?;
                note_the_end(&notes, status);
            }
        }
    }
    bare::block_signals(0);
    Ok(notes)
}

/// How number `at` went.
pub fn outcome(notes: &Pages, at: usize) -> Outcome {
    let note = notes.bytes().get(at);
    Outcome::from_number(note.map_or(0, |note| note.load(Ordering::SeqCst)))
}

fn first_untried(notes: &Pages) -> Option<usize> {
    (0..COUNT).find(|&at| outcome(notes, at) == Outcome::Untried)
}

fn set(note: &AtomicU8, outcome: Outcome) {
    note.store(outcome as u8, Ordering::SeqCst);
}

/// A child's work.
fn go_on(notes: &Pages, from: usize) -> ! {
    room::leave_no_core();
    bare::block_signals(0);
    // Away from the terminal, which vhangup(2) would hang up.
    // That is also this call's attempt, for a second one is refused.
    let alone = setsid().is_ok();
    if let Some(note) = notes.bytes().get(SYS_SETSID).filter(|_| alone) {
        set(note, Outcome::Past);
    }
    for (number, note) in notes.bytes().iter().enumerate().skip(from) {
        if !alone {
            set(note, Outcome::Skipped);
            continue;
        }
        if number == SYS_SETSID {
            continue;
        }
        let result = match attempt(number) {
            Attempt::Skip => {
                set(note, Outcome::Skipped);
                continue;
            }
            Attempt::Call(arguments) => room::attempt(number, arguments),
            Attempt::Fork => room::fork_and_end(number),
            Attempt::WithoutStack => room::without_stack(number),
        };
        set(note, Outcome::of_result(result));
    }
    bare::exit(0)
}

/// Waits for a child, and ends it when it gets no further.
fn wait_for(child: Pid, notes: &Pages) -> Result<WaitStatus, Errno> {
    let mut reached = first_untried(notes);
    loop {
        bare::wait_for_signal(bit(Signal::CHILD), Some(PATIENCE_MS));
        if let Some((_, status)) = waitpid(Some(child), WaitOptions::NOHANG)? {
            return Ok(status);
        }
        let now = first_untried(notes);
        if now == reached {
            let _ = kill_process(child, Signal::KILL);
        }
        reached = now;
    }
}

/// What ended a child is how the number went that it was at.
fn note_the_end(notes: &Pages, status: WaitStatus) {
    let Some(note) = first_untried(notes).and_then(|at| notes.bytes().get(at)) else {
        return;
    };
    let by_filter = status.terminating_signal() == Some(Signal::SYS.as_raw());
    set(
        note,
        if by_filter {
            Outcome::Killed
        } else {
            Outcome::Past
        },
    );
}
