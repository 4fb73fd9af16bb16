//! One run, from flags to exit status.
//!
//! Both programs call it: `cottage` with nobody looking on, its tools with whoever was asked for.
//! Read next: [`crate::machine`].

use std::error::Error;
use std::sync::Arc;

use crate::cli::RunArgs;
use crate::config::VmConfig;
use crate::console::words::say;
use crate::doctor;
use crate::machine::{self, Machine};
use crate::outcome::{USER_ERROR, VMM_FAILURE, with_causes};
use crate::timeline::{Measure, Nanos, Stage, Timeline, record};
use crate::watch::Watch;

/// Runs the machine of `args` in this process and returns the exit status; `entered` is when `main`
/// began, `watch` looks on.
pub fn run(args: &RunArgs, entered: Nanos, watch: Watch) -> u8 {
    let config = match VmConfig::from_args(args.machine.clone()) {
        Ok(config) => config,
        Err(error) => return fail(&error, USER_ERROR),
    };
    if let Err(error) = args.check_report() {
        return fail(&error, USER_ERROR);
    }
    let timeline = Timeline::measuring(Measure {
        exits: args.record_fd.is_some(),
        memory: args.record_memory,
    });
    let timeline = Arc::new(timeline.watched(watch.clone()));
    timeline.note_at(Stage::Main, entered);
    timeline.note(Stage::Configured);
    let code = boot(&config, &timeline, watch);
    timeline.note(Stage::VmDestroyed);
    match args.record_fd.map(|fd| record::send(&timeline, fd)) {
        Some(Err(error)) => fail(&error, VMM_FAILURE),
        Some(Ok(())) | None => code,
    }
}

fn boot(config: &VmConfig, timeline: &Arc<Timeline>, watch: Watch) -> u8 {
    match Machine::build(config, timeline, watch).and_then(Machine::run) {
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

/// Says an error and its causes, one a line, and returns `code`.
pub fn fail(error: &dyn Error, code: u8) -> u8 {
    say(&with_causes(error));
    code
}
