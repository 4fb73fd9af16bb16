//! Chapter 17: the tools, a second program inside the first.
//!
//! Booting a machine is what `cottage` is for, and all its process should carry. What measures, compares,
//! explains and traces machines is several times larger, reads files and runs programs that a VMM has no
//! business with, and so is a program of its own, `cottage-tools` (src/bin/tools.rs). It travels in the
//! file of the first as one more ELF section ([`crate::bundle`]): `cottage bench` copies it to memory and
//! becomes it. To the user there is one file and one command.
//!
//! A build without guest (`make vmm-only`) has no such section; there the tools are a file beside it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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
    let command = words
        .get(1)
        .map_or("run".into(), |word| word.to_string_lossy());
    let (mut tools, _memory) = match command_of(&command) {
        Ok(tools) => tools,
        Err(error) => return error,
    };
    let refused = tools.args(words.iter().skip(1)).exec();
    start_error(refused)
}

/// Starts the tools beside this process for their sub-command `command`.
///
/// # Errors
/// [`Error`].
pub fn spawn(command: &str, stdin: Stdio) -> Result<Child, Error> {
    // A tool that runs a machine itself is the program already.
    if bundle::program() != Path::new(bundle::SELF) {
        let mut tools = Command::new(bundle::SELF);
        tools.arg0(bundle::program()).arg(command).stdin(stdin);
        return tools.spawn().map_err(start_error);
    }
    let (mut tools, _memory) = command_of(command)?;
    let started = tools.arg(command).stdin(stdin).spawn();
    started.map_err(start_error)
}

fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| bundle::SELF.into())
}

fn start_error(source: io::Error) -> Error {
    let program = program();
    Error::Start { program, source }
}

/// The tools' program, without words yet, and what must stay open until it has started.
fn command_of(command: &str) -> Result<(Command, Option<File>), Error> {
    let program = program();
    // The tools know by this name where the guest is, and which program to boot it with.
    let start = |file: PathBuf| {
        let mut tools = Command::new(file);
        tools.arg0(&program);
        tools
    };
    let Some(mut section) = Bundle::open()?.tools()? else {
        let beside = program.with_file_name(FILE);
        if beside.is_file() {
            return Ok((start(beside), None));
        }
        let command = command.to_owned();
        return Err(Error::Absent { command, beside });
    };
    let mut memory = memfd_create(FILE, MemfdFlags::CLOEXEC)
        .map(File::from)
        .map_err(|errno| start_error(errno.into()))?;
    io::copy(&mut section, &mut memory).map_err(start_error)?;
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Ok((start(path.into()), Some(memory)))
}
