//! Chapter 12: gdb at the guest, `run --gdb`.
//!
//! gdb's remote protocol is [`gdbstub`]'s; here is what it acts on. vCPUs are threads, all stop together,
//! KVM does the stopping (KVM_SET_GUEST_DEBUG), and [`crate::watch::gate`] keeps them while gdb looks.
//!
//! ```text
//!   gdb ── socket ── place ── filter ── gdbstub ── target ─┬─ memory, registers, monitor
//!                           session's thread               └─ debugger ── gate ── vCPU's threads ── KVM
//! ```
//!
//! - [`plan`]: what is to stop the guest, and what an exit means;
//! - [`able`]: what KVM here can do, tried out;
//! - [`registers`], [`memory`]: the guest as gdb wants to see it;
//! - [`debugger`]: the vCPUs' side;
//! - [`place`], [`filter`], [`target`], [`monitor`], [`session`]: gdb's side.
//!
//! A guest cannot reach any of it: it makes debug exits, which are judged by our own list of breakpoints,
//! and at most one of each vCPU's waits. Whoever reaches the socket owns the machine, so that is the
//! user's alone. Only the tools' program has this chapter.
//! Read next: [`plan`].

pub mod plan;
pub mod able;
pub mod registers;
pub mod memory;
pub mod debugger;
pub mod place;
pub mod filter;
pub mod target;
pub mod monitor;
pub mod session;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crate::cli::RunArgs;
use crate::config::VmConfig;
use crate::config::gdb::Gdb;
use crate::console::words::say;
use crate::doctor;
use crate::outcome::{USER_ERROR, VMM_FAILURE};
use crate::running::fail;
use crate::watch::Watch;
use able::Able;
use debugger::Debugger;
use place::Door;

/// Has a gdb at what `machine` runs, the machine of `args` with who looks on; returns the exit status.
pub fn run(args: &RunArgs, watch: Watch, machine: impl FnOnce(Watch) -> u8) -> u8 {
    let value = args.gdb.gdb.as_deref().unwrap_or(OsStr::new(""));
    let gdb = match Gdb::parse(value) {
        Ok(gdb) => gdb,
        Err(error) => return fail(&error, USER_ERROR),
    };
    // Before anything is made: mistakes in other flags.
    let vcpus = match VmConfig::from_args(args.machine.clone()) {
        Ok(config) => config.vcpus,
        Err(error) => return fail(&error, USER_ERROR),
    };
    let door = match Door::open(&gdb.place) {
        Ok(door) => door,
        Err(error) => return fail(&error, USER_ERROR),
    };
    let able = match Able::find_out() {
        Ok(able) => able,
        Err(error) => {
            let code = fail(&error, VMM_FAILURE);
            say(&doctor::explain(&error));
            return code;
        }
    };
    let greeting = greeting(&gdb, &door, able, args.machine.kernel.as_ref());
    let debugger = match Debugger::new(able, vcpus, greeting, gdb.wait) {
        Ok(debugger) => Arc::new(debugger),
        Err(error) => return fail(&error, VMM_FAILURE),
    };
    let shared = debugger.clone();
    let session = thread::Builder::new()
        .name("gdb".into())
        .spawn(move || session::serve(&door, &shared));
    let session = match session {
        Ok(session) => session,
        Err(error) => return fail(&error, VMM_FAILURE),
    };
    let code = machine(watch.with(debugger.clone()));
    debugger.finish(code);
    // A thread that panicked has ended the process in the panic hook.
    let _never_panicked = session.join();
    code
}

/// What is said when gdb can come.
fn greeting(gdb: &Gdb, door: &Door, able: Able, kernel: Option<&PathBuf>) -> String {
    let file = kernel.map_or("vmlinux".to_owned(), |path| path.display().to_string());
    let does = match gdb.wait {
        true => "the guest waits for gdb before its first instruction",
        false => "the guest runs; gdb may come",
    };
    let mut text = format!("{does}: gdb {file} -ex 'target remote {}'", door.name());
    for lack in able.lacks() {
        text += "\n";
        text += lack;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::gdb::Place;
    use crate::gdb::able::Trap;

    #[test]
    fn greeting_has_the_command_to_type_and_what_is_missing() {
        let place = Place::Port(0);
        let door = Door::open(&place).unwrap();
        let mut able = Able {
            trap: Some(Trap::Int3),
            hardware: true,
            watch: true,
            step: true,
            step_alone: true,
        };
        let gdb = Gdb { place, wait: true };
        let text = greeting(&gdb, &door, able, None);
        let beginning = "the guest waits for gdb before its first instruction: gdb vmlinux -ex 'target \
                         remote localhost:";
        assert!(
            text.starts_with(beginning) && text.lines().count() == 1,
            "{text}"
        );
        able.watch = false;
        let text = greeting(&gdb, &door, able, Some(&"/k".into()));
        assert!(
            text.contains("gdb /k ") && text.contains("\nwatch: "),
            "{text}"
        );
    }
}
