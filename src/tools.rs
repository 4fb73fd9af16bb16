//! Chapter 16: the tools, a second program inside the first.
//!
//! Booting a machine is what `cottage` is for, and all its process should carry. What measures, compares,
//! explains and traces machines is several times larger, reads files and runs programs that a VMM has no
//! business with, and so is a program of its own, `cottage-tools` (src/bin/tools.rs). It travels in the
//! file of the first as one more ELF section ([`crate::bundle`]): `cottage bench` copies it to memory and
//! becomes it. To the user there is one file and one command.
//!
//! A build without guest (`make vmm-only`) has no such section; there the tools are a file beside it.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::bundle::{self, Bundle};

/// The file beside a program without sections.
pub const FILE: &str = "cottage-tools";

/// The tools could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program's file cannot be read.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// Neither section nor file.
    #[error(
        "This cottage carries no tools, which `{command}` is one of, and there is no {beside:?}: run \
         `make cottage` in cottage's source, which builds one that does"
    )]
    Absent {
        /// The sub-command.
        command: String,
        /// Where the file was looked for.
        beside: PathBuf,
    },
    /// The host does not let them start.
    #[error("Cannot start the tools inside {program:?}")]
    Start {
        /// The program's file.
        program: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// Becomes the tools, with the same command line; returns only if that fails.
pub fn become_them(words: &[OsString]) -> Error {
    let program = std::env::current_exe().unwrap_or_else(|_| bundle::SELF.into());
    let failed = |source| Error::Start {
        program: program.clone(),
        source,
    };
    let start = |file: PathBuf| {
        // The tools know by this name where the guest is, and which program to boot it with.
        let refused = Command::new(file)
            .arg0(&program)
            .args(words.iter().skip(1))
            .exec();
        failed(refused)
    };
    let section = match Bundle::open().and_then(|bundle| bundle.tools()) {
        Ok(section) => section,
        Err(error) => return error.into(),
    };
    let Some(mut section) = section else {
        let beside = program.with_file_name(FILE);
        if beside.is_file() {
            return start(beside);
        }
        let command = words
            .get(1)
            .map_or("run".into(), |word| word.to_string_lossy().into());
        return Error::Absent { command, beside };
    };
    let copied = memfd_create(FILE, MemfdFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map(std::fs::File::from)
        .and_then(|mut memory| io::copy(&mut section, &mut memory).map(|_| memory));
    match copied {
        Ok(memory) => start(format!("/proc/self/fd/{}", memory.as_raw_fd()).into()),
        Err(source) => failed(source),
    }
}
