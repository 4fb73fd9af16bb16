//! The `cottage` program: parse, check, build, run, exit code. For whatever is more than a plain run, it
//! becomes the tools.

use std::process::ExitCode;
use std::sync::Arc;

use cottage::cli::{Command, RunArgs};
use cottage::config::VmConfig;
use cottage::console::terminal::install_panic_hook;
use cottage::console::words::say;
use cottage::doctor;
use cottage::machine::{self, Machine};
use cottage::outcome::{USER_ERROR, VMM_FAILURE, with_causes};
use cottage::timeline::{Measure, Stage, Timeline, now, record};
use cottage::tools;
use cottage::watch::Watch;

fn main() -> ExitCode {
    let entered = now();
    install_panic_hook(VMM_FAILURE);
    let words: Vec<_> = std::env::args_os().collect();
    let code = match Command::parse(&words) {
        Ok(Command::Run(args)) if !args.needs_tools() => run(&args, entered),
        Ok(Command::Doctor) => doctor::main(),
        Ok(_) => fail(&tools::become_them(&words), VMM_FAILURE),
        Err(error) => {
            let _nobody_listens = error.print();
            if error.use_stderr() { USER_ERROR } else { 0 }
        }
    };
    ExitCode::from(code)
}

fn run(args: &RunArgs, entered: u64) -> u8 {
    let config = match VmConfig::from_args(args.machine.clone()) {
        Ok(config) => config,
        Err(error) => return fail(&error, USER_ERROR),
    };
    if let Err(error) = args.check_report() {
        return fail(&error, USER_ERROR);
    }
    let timeline = Arc::new(Timeline::measuring(Measure {
        exits: args.record_fd.is_some(),
        memory: args.record_memory,
    }));
    timeline.note_at(Stage::Main, entered);
    timeline.note(Stage::Configured);
    let code = boot(&config, &timeline);
    timeline.note(Stage::VmDestroyed);
    match args.record_fd.map(|fd| record::send(&timeline, fd)) {
        Some(Err(error)) => fail(&error, VMM_FAILURE),
        Some(Ok(())) | None => code,
    }
}

fn boot(config: &VmConfig, timeline: &Arc<Timeline>) -> u8 {
    match Machine::build(config, timeline, Watch::nobody()).and_then(Machine::run) {
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
