//! The process that a run is, why watching one ends early, and its streams.
//!
//! Read next: [`super::said`].

use std::fs::File;
use std::io::{self, Read};
use std::process::Child;

use super::subject::Error;
use crate::timeline::child::{MeasuredChild, MeasuredRun, exit_code};
use crate::timeline::{Nanos, now};

/// The process, by what is known of it.
#[derive(Debug)]
pub(super) enum Process {
    /// cottage, which tells its instants.
    Cottage(MeasuredChild),
    /// Any other.
    Other {
        /// The process.
        process: Child,
        /// Just before it was spawned.
        spawned: Nanos,
    },
}

impl Process {
    pub(super) fn child(&mut self) -> &mut Child {
        match self {
            Self::Cottage(child) => &mut child.process,
            Self::Other { process, .. } => process,
        }
    }

    pub(super) fn spawned(&self) -> Nanos {
        match self {
            Self::Cottage(child) => child.spawned,
            Self::Other { spawned, .. } => *spawned,
        }
    }

    /// Waits for its end: when, its status, and what cottage told.
    pub(super) fn wait(self) -> Result<(Nanos, u8, Option<MeasuredRun>), Error> {
        match self {
            Self::Cottage(child) => {
                let run = child.wait()?;
                Ok((run.gone, run.exit_code(), Some(run)))
            }
            Self::Other { mut process, .. } => {
                let status = process.wait().map_err(Error::Watch)?;
                Ok((now(), exit_code(status), None))
            }
        }
    }
}

/// Why watching ended early.
pub(crate) enum Interrupt {
    /// A signal asks this process to end.
    Signal(u8),
    /// The time is up.
    Late,
    /// The process ended, and was to go on; what it said.
    Ended(String),
    /// The host refused something.
    Host(io::Error),
}

impl From<rustix::io::Errno> for Interrupt {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Host(errno.into())
    }
}

/// Reads what is there; `None` if nothing is, and then, if it has ended, there is no stream left.
pub(super) fn read(stream: &mut Option<File>, piece: &mut [u8]) -> Option<usize> {
    match stream.as_mut()?.read(piece) {
        Ok(0) => {
            *stream = None;
            None
        }
        Ok(n) => Some(n),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(_) => {
            *stream = None;
            None
        }
    }
}
