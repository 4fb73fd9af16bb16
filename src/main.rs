//! The `cottage` program: parse, check, build, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use cottage::cli::{Cli, Command, RunArgs};
use cottage::config::VmConfig;
use cottage::console::output::say;
use cottage::console::terminal::install_panic_hook;
use cottage::doctor;
use cottage::machine::{self, Machine};
use cottage::outcome::{USER_ERROR, VMM_FAILURE, with_causes};

fn main() -> ExitCode {
    install_panic_hook(VMM_FAILURE);
    let code = match Cli::try_parse() {
        Ok(Cli {
            command: Command::Run(args),
        }) => run(args),
        Ok(Cli {
            command: Command::Doctor,
        }) => doctor::main(),
        Err(error) => {
            let _nobody_listens = error.print();
            if error.use_stderr() { USER_ERROR } else { 0 }
        }
    };
    ExitCode::from(code)
}

fn run(args: RunArgs) -> u8 {
    let config = match VmConfig::from_args(args) {
        Ok(config) => config,
        Err(error) => return fail(&error, USER_ERROR),
    };
    match Machine::build(&config).and_then(Machine::run) {
        Ok(outcome) => {
            if let Some(message) = outcome.message() {
                say(&message);
            }
            outcome.exit_code()
        }
        Err(error) => {
            let code = fail(&error, error.exit_code());
            if let machine::Error::Kvm(kvm) = &error {
                say(&doctor::explain(kvm));
            }
            code
        }
    }
}

/// Prints an error and its causes, one a line.
fn fail(error: &dyn std::error::Error, code: u8) -> u8 {
    say(&with_causes(error));
    code
}
