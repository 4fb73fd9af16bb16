//! `probe cost`: how long things take, told so that two clocks can time them.
//!
//! A measurement is a fixed amount of work in batches of the same size. The lines around them are
//!
//! ```text
//! BEGIN NAME ops=N batches=N      after a batch that does not count; with fs=HEX where files are written,
//!                                 via=loopback or via=gateway where to=host was said
//! .                               after each batch
//! END
//! sample X                        each batch's ns an operation, by our own clock
//! ```
//!
//! `all` does one after the other, and where one cannot be done says `FAILED NAME errno N` instead.
//!
//! Whoever started us takes the time at which each line arrives, and the report uses that: a guest's
//! clock is what its hypervisor makes of time, and on an emulated processor it may run at another
//! speed than the host's. A line takes time to arrive, too, but each comes as late as the one before
//! it. What that costs is seen where the work is nothing. Our own samples leave it out; they are good
//! for the spread within one side, and to check the host's figure where the clocks agree.

use core::ffi::CStr;

use cottage_probe::settings::{Settings, per_operation};
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::bare::{self, Strings};
use crate::room;
use crate::say::{self, Text};
use crate::work;

/// One measurement's state: each call does that many operations.
pub type Batch<'a> = &'a mut dyn FnMut(u64) -> Result<(), Errno>;

/// Measures; `None` if the words make no sense. `program` is the name we were started by.
pub fn cost(program: &CStr, mut words: Strings) -> Option<u8> {
    let name = words.next()?.to_str().ok()?;
    let settings = match Settings::parse(words) {
        Ok(settings) => settings,
        Err(word) => {
            let text = Text::new()
                .text(b"probe: wrong word ")
                .text(word.to_bytes());
            say::write_all(bare::complaints(), text.text(b"\n").as_bytes());
            return None;
        }
    };
    if settings.pinned
        && let Err(reason) = stay_on_one_processor()
    {
        return Some(say::failed("cannot stay on one processor", reason));
    }
    if name == "all" {
        for name in work::NAMES {
            // One of them is left out if it was not told whom to talk to.
            if let Some(Err(reason)) = work::run(name, program, &settings) {
                let text = Text::new().text(b"FAILED ").text(name.as_bytes());
                say::line(say::errno(text.text(b" "), reason));
            }
        }
        return Some(0);
    }
    Some(match work::run(name, program, &settings)? {
        Ok(()) => 0,
        Err(reason) => say::failed(name, reason),
    })
}

/// The first that we may use.
fn stay_on_one_processor() -> Result<(), Errno> {
    let allowed = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|&processor| allowed.is_set(processor));
    let mut one = CpuSet::new();
    one.set(first.ok_or(Errno::INVAL)?);
    sched_setaffinity(None, &one)
}

/// Runs the batches, and prints the lines; `about` ends the first.
pub fn measure(
    (name, about): (&str, &[u8]),
    settings: &Settings,
    default: u64,
    batch: Batch,
) -> Result<(), Errno> {
    let operations = settings.operations(default);
    // The first makes caches warm and tables grow.
    batch(operations)?;
    let begin = Text::new().text(b"BEGIN ").text(name.as_bytes());
    let begin = begin.text(b" ops=").number(operations);
    let begin = begin.text(b" batches=").number(settings.batches.into());
    say::line(begin.text(about));
    let samples = room::Pages::map(settings.batches as usize * SAMPLE_SIZE, false);
    let samples = samples.ok_or(Errno::NOMEM)?;
    for place in samples.bytes().chunks_exact(SAMPLE_SIZE) {
        let before = room::monotonic();
        batch(operations)?;
        let took = room::monotonic().wrapping_sub(before);
        // As few bytes as a line can have: a guest's serial port leaves the guest for each.
        say::write_all(bare::output(), b".\n");
        keep(place, took);
    }
    say::write_all(bare::output(), b"END\n");
    for place in samples.bytes().chunks_exact(SAMPLE_SIZE) {
        let text = Text::new().text(b"sample ");
        say::line(per_operation(text, kept(place), operations));
    }
    Ok(())
}

/// A sample is kept in so many bytes.
const SAMPLE_SIZE: usize = size_of::<u64>();

fn keep(place: &[core::sync::atomic::AtomicU8], value: u64) {
    for (place, byte) in place.iter().zip(value.to_le_bytes()) {
        place.store(byte, core::sync::atomic::Ordering::Relaxed);
    }
}

fn kept(place: &[core::sync::atomic::AtomicU8]) -> u64 {
    let mut bytes = [0; SAMPLE_SIZE];
    for (byte, place) in bytes.iter_mut().zip(place) {
        *byte = place.load(core::sync::atomic::Ordering::Relaxed);
    }
    u64::from_le_bytes(bytes)
}
