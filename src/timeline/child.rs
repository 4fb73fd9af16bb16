//! Running cottage as a measured child process.
//!
//! The child is cottage with the same flags and `--record-fd`: it writes its
//! [`Record`] there when the VM is gone. The parent knows what the child cannot: when it was
//! spawned and when it was gone. Read next: [`super::chart`].

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};

use super::record::{self, Malformed, Record};
use super::{Nanos, now};
use crate::outcome::SIGNAL_BASE;

/// A run that could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The child did not start.
    #[error("Cannot start a measured run")]
    Start(#[source] io::Error),
    /// The child cannot be waited for.
    #[error("Cannot wait for the measured run")]
    Wait(#[source] io::Error),
    /// Its record makes no sense.
    #[error(transparent)]
    Record(#[from] Malformed),
}

/// A measured run under way.
#[derive(Debug)]
pub struct MeasuredChild {
    /// The process; its pipes, if any, are the caller's to read.
    pub process: Child,
    /// Just before it was spawned.
    pub spawned: Nanos,
    record: File,
}

/// A measured run that has ended.
#[derive(Clone, Debug)]
pub struct MeasuredRun {
    /// Just before the process was spawned.
    pub spawned: Nanos,
    /// What it told; empty if it died before it could.
    pub record: Record,
    /// Just after it was found gone.
    pub gone: Nanos,
    /// How it ended.
    pub status: ExitStatus,
}

impl MeasuredChild {
    /// Starts `program run` with `words`, the flags of `run` and perhaps `-- COMMAND`; the program
    /// is [`crate::bundle::program`] or a copy. `configure` may set its streams.
    ///
    /// `memory` has the child look at its memory use when the guest has ended; that takes time,
    /// which shows only after the guest's end.
    ///
    /// # Errors
    /// [`Error::Start`] with what the host said.
    pub fn spawn(
        program: &Path,
        words: &[OsString],
        memory: bool,
        configure: impl FnOnce(&mut Command),
    ) -> Result<Self, Error> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::Start(e.into()))?;
        inherit(&write).map_err(Error::Start)?;
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg(format!("--record-fd={}", write.as_raw_fd()));
        if memory {
            command.arg("--record-memory");
        }
        command.args(words);
        configure(&mut command);
        let spawned = now();
        let process = command.spawn().map_err(Error::Start)?;
        Ok(Self {
            process,
            spawned,
            record: File::from(read),
        })
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// [`Error::Wait`] or [`Error::Record`].
    pub fn wait(mut self) -> Result<MeasuredRun, Error> {
        let status = self.process.wait().map_err(Error::Wait)?;
        let gone = now();
        // Afterwards, for a record is smaller than a pipe: the child never waits for its reader.
        let mut text = String::new();
        self.record.read_to_string(&mut text).map_err(Error::Wait)?;
        Ok(MeasuredRun {
            spawned: self.spawned,
            record: record::parse(&text)?,
            gone,
            status,
        })
    }
}

impl MeasuredRun {
    /// The exit status to pass on, as a shell gives it.
    pub fn exit_code(&self) -> u8 {
        exit_code(self.status)
    }
}

/// A process's end as a number, as shells have it: its status, or 128 and the signal's number.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| {
        let signal = status.signal()?;
        Some(i32::from(SIGNAL_BASE) + signal)
    });
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

/// Lets `fd` live on in a child under its number.
fn inherit(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfd(fd, FdFlags::empty())?)
}
