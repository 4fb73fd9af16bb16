//! The `cottage` program: parse, check, build, run, exit code. For whatever is more than a plain run, it
//! becomes the tools.

use std::process::ExitCode;

use cottage::cli::Command;
use cottage::console::terminal::install_panic_hook;
use cottage::doctor;
use cottage::outcome::{USER_ERROR, VMM_FAILURE};
use cottage::running::{fail, run};
use cottage::timeline::now;
use cottage::tools;
use cottage::watch::Watch;

fn main() -> ExitCode {
    let entered = now();
    install_panic_hook(VMM_FAILURE);
    let words: Vec<_> = std::env::args_os().collect();
    let code = match Command::parse(&words) {
        Ok(Command::Run(args)) if !args.needs_tools() => run(&args, entered, Watch::nobody()),
        Ok(Command::Doctor) => doctor::main(),
        Ok(_) => fail(&tools::become_them(&words), VMM_FAILURE),
        Err(error) => {
            let _nobody_listens = error.print();
            if error.use_stderr() { USER_ERROR } else { 0 }
        }
    };
    ExitCode::from(code)
}
