//! `run --gdb`.
//!
//! Read next: [`super::machine`].

use std::ffi::OsString;

use clap::Args;

/// The flag of `run` that has a debugger look on.
#[derive(Clone, Debug, Default, Args)]
pub struct GdbArgs {
    /// Wait for gdb before the guest's first instruction, at a port of 127.0.0.1 (0: any) or a Unix socket
    /// to be made; nowait: let the guest run until gdb comes. docs/gdb.md shows a session
    #[arg(long, value_name = "PORT|PATH[,nowait]", conflicts_with_all = ["timeline", "exits"])]
    pub gdb: Option<OsString>,
}
