//! Chapter 11, second part: `run --trace`, a narrative of what a hypervisor does.
//!
//! ```text
//!   KVM's calls, stages, what is loaded ─┐
//!   exits ── registers, place ───────────┴─▶ Event ─▶ text (folded), JSON lines, Perfetto ─▶ FILE, stderr
//! ```
//!
//! A [`tracer`] looks on ([`crate::watch`]). What it sees becomes an [`event`], in the words of
//! [`registers`], [`ioapic`], [`virtio`] and [`calls`], all pure, with the guest's instruction by [`place`].
//! [`fold`] makes repeats short, [`text`], [`jsonl`] and [`perfetto`] are what it looks like, [`writer`] is
//! where it goes. How to read it: docs/trace.md.
//!
//! Only the tools have it ([`crate::tools`]). Read next: [`event`].

pub mod event;
pub mod registers;
pub mod ioapic;
pub mod virtio;
pub mod calls;
pub mod place;
pub mod fold;
pub mod text;
pub mod jsonl;
pub mod perfetto;
pub mod writer;
pub mod tracer;

use std::sync::Arc;

use crate::cli::RunArgs;
use crate::outcome::{USER_ERROR, VMM_FAILURE};
use crate::running;
use crate::timeline::Nanos;
use crate::watch::Watch;
use crate::watch::symbols::{self, Symbols};
use event::Topics;
use place::Places;
use tracer::Tracer;
use writer::Writer;

/// Why there is no trace; the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Where it goes.
    #[error(transparent)]
    Writer(#[from] writer::Error),
    /// `--symbols`.
    #[error(transparent)]
    Symbols(#[from] symbols::Error),
}

/// Traces what `machine` runs, the machine of `args`; `entered` is when `main` began. Returns the exit
/// status: the run's, or 111 where it would be 0 and the trace could not be written to its end.
pub fn run(args: &RunArgs, entered: Nanos, machine: impl FnOnce(Watch) -> u8) -> u8 {
    let tracer = match open(args, entered) {
        Ok(tracer) => Arc::new(tracer),
        Err(error) => return running::fail(&error, USER_ERROR),
    };
    let code = machine(Watch::nobody().with(tracer.clone()));
    match tracer.finish() {
        Ok(()) => code,
        Err(error) => {
            let failed = running::fail(&error, VMM_FAILURE);
            if code == 0 { failed } else { code }
        }
    }
}

/// A tracer as `args` want it; its file is made.
///
/// # Errors
/// [`Error`], before anything runs.
pub fn open(args: &RunArgs, entered: Nanos) -> Result<Tracer, Error> {
    let symbols = match (&args.trace.symbols, &args.machine.kernel) {
        (Some(file), _) => Some(Symbols::read(file)?),
        (None, Some(kernel)) => Symbols::beside(kernel),
        (None, None) => None,
    };
    let writer = Writer::open(&args.trace, entered)?;
    let topics = Topics::of(&args.trace.trace);
    Ok(Tracer::new(topics, writer, Places::new(symbols)))
}
