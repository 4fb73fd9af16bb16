//! The `cottage-tools` program: everything of cottage's but plain `run` and `doctor`.
//!
//! `cottage` becomes it, with its own file's name as the zeroth word ([`cottage::tools`]).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use cottage::bench;
use cottage::bundle;
use cottage::cli::{Command, RunArgs};
use cottage::compare;
use cottage::console::terminal::install_panic_hook;
use cottage::console::words::say;
use cottage::doctor;
use cottage::explain;
use cottage::gdb;
use cottage::lab;
use cottage::outcome::{USER_ERROR, VMM_FAILURE};
use cottage::running::{self, fail};
use cottage::timeline::{Nanos, now, report};
use cottage::trace;
use cottage::watch::Watch;

fn main() -> ExitCode {
    let entered = now();
    install_panic_hook(VMM_FAILURE);
    // The kernel names a process after the file it is started from, which here is a descriptor.
    let _only_looks = rustix::thread::set_name(c"cottage");
    let words: Vec<_> = std::env::args_os().collect();
    let Some(program) = words.first().filter(|program| !is_this_file(program)) else {
        say(
            "these are the tools of cottage, without a machine to run: type `cottage`, which starts them",
        );
        return ExitCode::from(USER_ERROR);
    };
    bundle::stand_for(program.into());
    let code = match Command::parse(&words) {
        Ok(Command::Run(args)) if args.is_watched() => watched(&args, entered),
        Ok(Command::Run(args)) => {
            report::run(&args).unwrap_or_else(|error| fail(&error, error.exit_code()))
        }
        Ok(Command::Bench(args)) => bench::main(&args),
        Ok(Command::Compare(args)) => compare::main(&args),
        Ok(Command::Explain(args)) => explain::main(&args),
        Ok(Command::Lab(args)) => lab::main(&args),
        Ok(Command::Doctor) => doctor::main(),
        Err(error) => {
            let _nobody_listens = error.print();
            if error.use_stderr() { USER_ERROR } else { 0 }
        }
    };
    ExitCode::from(code)
}

/// Runs the machine of `args` with all that are to look on.
fn watched(args: &RunArgs, entered: Nanos) -> u8 {
    let machine = |watch| running::run(args, entered, watch);
    let looked_into = |watch| match args.gdb.gdb {
        Some(_) => gdb::run(args, watch, machine),
        None => machine(watch),
    };
    match args.trace.is_on() {
        true => trace::run(args, entered, looked_into),
        false => looked_into(Watch::nobody()),
    }
}

/// Whether `program` is this process's own file, then started by hand; a name without a folder is.
fn is_this_file(program: &OsStr) -> bool {
    let number = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    match (number(program.as_ref()), number(bundle::SELF.as_ref())) {
        (Ok(named), Ok(own)) => named == own,
        _ => true,
    }
}
