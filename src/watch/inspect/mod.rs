//! `cottage run --inspect-at`: stops a guest and lets a person look around in it.
//!
//! ```text
//!   vCPU threads: exited() ── hit? ── close gate, notice ──▶ session thread: gather all, ask, show
//!                 entering() ── wait at the gate ◀────────── open the gate ── prompt: continue, step, quit
//! ```
//!
//! An address is met by a hardware breakpoint, which KVM takes everywhere and which does not fire
//! everywhere: not in an emulated SVM, and under kvm_pvm only in the guest's kernel. That it does not is
//! known only when it did not, so a machine that ends without having stopped says so.
//!
//! While somebody types at the prompt, the terminal is as the user's shell had it, and the event loop reads
//! nothing ([`crate::control::Control::hold_input`]); while the guest runs, it is raw.
//! Read next: `session`.

mod session;
pub mod at;
pub mod prompt;
pub mod chips;

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvm_bindings::{KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP};

use super::gate::Gate;
use super::scene::Witness;
use super::story::Host;
use super::symbols::Symbols;
use super::tell::Kind;
use super::{Observer, Stand, Verdict, Watch};
use crate::cli::RunArgs;
use crate::console::output::Output;
use crate::console::words::say;
use crate::control::Control;
use crate::kvm::VmExit;
use crate::kvm::debug::Watched;
use crate::memory::GuestMemory;
use crate::memory::layout::BOOT_MARK_PORT;
use crate::outcome::{Ending, USER_ERROR, VMM_FAILURE, with_causes};
use crate::running::fail;
use at::At;
use session::{Session, render, report};

/// Debug register 7: breakpoint 0 on, for all tasks; its type and length are zero, an instruction.
/// `[sdm3]` Intel SDM vol. 3A, order no. 253668, 17.2.4
const DR7_FIRST: u64 = 1 << 10 | 0b11;

/// What the session is told.
#[derive(Debug)]
struct Notice {
    id: u32,
    why: String,
    /// After a step only the next instruction is shown.
    brief: bool,
}

/// The parts of the machine that the session needs; known when the first processor enters.
#[derive(Clone, Debug)]
struct Parts {
    control: Arc<Control>,
    memory: Arc<GuestMemory>,
    output: Arc<Output>,
    witness: Arc<Witness>,
}

/// Watches for the place to stop at.
#[derive(Debug)]
struct Inspector {
    gate: Gate,
    notices: Sender<Notice>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    target: Option<At>,
    /// A processor, and how many instructions it still has to run.
    step: Option<(u32, u32)>,
    /// What KVM was told last of a processor's debugging: breakpoint, and whether it steps.
    armed: HashMap<u32, (Option<u64>, bool)>,
    has_stopped: bool,
    parts: Option<Parts>,
}

impl Inspector {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the machine at its next entries and tells the session.
    fn stop(&self, state: &mut State, id: u32, why: String) {
        let brief = state.step.take().is_some();
        state.target = None;
        state.has_stopped = true;
        self.gate.close();
        let _session_is_over = self.notices.send(Notice { id, why, brief });
    }

    /// Tells KVM about breakpoint and step, if that has changed.
    fn arm(&self, stand: &mut Stand<'_>) {
        let mut state = self.lock();
        let address = match state.target {
            Some(At::Address(address)) => Some(address),
            _ => None,
        };
        let steps = state.step.is_some_and(|(id, _)| id == stand.id);
        let known = state.armed.get(&stand.id).copied().unwrap_or_default();
        if known == (address, steps) {
            return;
        }
        let mut watched = Watched::default();
        if steps {
            watched.flags |= KVM_GUESTDBG_SINGLESTEP;
        }
        if let Some(address) = address {
            watched.flags |= KVM_GUESTDBG_USE_HW_BP;
            watched.addresses = [address, 0, 0, 0];
            watched.control = DR7_FIRST;
        }
        if let Err(error) = stand.vcpu.watch_for(&watched) {
            say(&format!(
                "this host's KVM refuses breakpoints and steps: {}",
                with_causes(&error)
            ));
        }
        state.armed.insert(stand.id, (address, steps));
    }

    /// A breakpoint or step has come back.
    fn debugged(&self, id: u32) {
        let mut state = self.lock();
        match &mut state.step {
            Some((stepping, left)) if *stepping == id && *left > 1 => *left -= 1,
            Some(_) => self.stop(&mut state, id, "stepped".into()),
            None => {
                if let Some(at @ At::Address(_)) = state.target.clone() {
                    self.stop(&mut state, id, format!("stopped at {at}"));
                }
            }
        }
    }
}

impl Observer for Inspector {
    fn entering(&self, stand: &mut Stand<'_>) {
        let mut state = self.lock();
        if state.parts.is_none() {
            let board = stand.board;
            state.parts = Some(Parts {
                control: board.control.clone(),
                memory: board.memory.clone(),
                output: board.output.clone(),
                witness: board.witness.clone(),
            });
            if state.target == Some(At::End) {
                board.witness.want();
            }
        }
        drop(state);
        self.gate.pass(stand);
        self.arm(stand);
    }

    fn exited(&self, stand: &mut Stand<'_>) -> Verdict {
        let exits = stand.vcpu.exits();
        let exit = stand.vcpu.exit();
        if let VmExit::Debug(_) = exit {
            self.debugged(stand.id);
            return Verdict::Taken;
        }
        let came = !matches!(exit, VmExit::Interrupted);
        let mark = match exit {
            VmExit::PortOut { port, data, .. } if port == BOOT_MARK_PORT => data.first().copied(),
            _ => None,
        };
        let mut state = self.lock();
        let hit = match &state.target {
            Some(At::Mark(wanted)) => mark == Some(*wanted),
            Some(At::Exit(wanted)) => came && stand.id == 0 && exits == *wanted,
            _ => false,
        };
        if hit && let Some(at) = state.target.clone() {
            self.stop(&mut state, stand.id, format!("stopped at {at}"));
        }
        Verdict::Answer
    }

    fn crashed(&self, stand: &mut Stand<'_>, ending: &Ending) {
        let mut state = self.lock();
        if state.target != Some(At::End) {
            return;
        }
        self.stop(
            &mut state,
            stand.id,
            format!("stopped at the end: {ending}"),
        );
        drop(state);
        self.gate.hold(stand);
    }

    fn left(&self, id: u32) {
        self.gate.leave(id);
        let mut state = self.lock();
        // Ended from outside: nobody to ask any more, but how it stood is known.
        if id != 0 || state.target != Some(At::End) {
            return;
        }
        let scene = state.parts.as_ref().and_then(|p| p.witness.look());
        if let (Some(scene), Some(parts)) = (scene, state.parts.clone()) {
            state.has_stopped = true;
            let report = report(scene, &parts, Kind::Stopped, "the machine was ended".into());
            say(&render(&report, &parts));
        }
    }
}

/// Has `machine` run the machine of `args`, with this one looking on after `watch`, and stops it where they
/// say; returns the exit status.
pub fn run(args: &RunArgs, watch: Watch, machine: impl FnOnce(Watch) -> u8) -> u8 {
    let symbols = args.machine.kernel.as_deref().and_then(Symbols::beside);
    let words = args.inspect.inspect_at.as_deref();
    let at = match words
        .map(|words| At::parse(words, symbols.as_ref()))
        .transpose()
    {
        Ok(at) => at,
        Err(error) => return fail(&error, USER_ERROR),
    };
    let (notices, received) = channel();
    let inspector = Arc::new(Inspector {
        gate: Gate::default(),
        notices,
        state: Mutex::new(State {
            target: at.clone(),
            ..State::default()
        }),
    });
    let silence = args.inspect.silence.map(|s| Duration::from_secs(s.into()));
    let session = Session::new(inspector.clone(), received, symbols, silence);
    let thread = std::thread::Builder::new().name("inspect".into());
    // Never joined: at the end it may be waiting for a person.
    if let Err(error) = thread.spawn(move || session.run()) {
        return fail(&error, VMM_FAILURE);
    }
    let code = machine(watch.with(inspector.clone()));
    let state = inspector.lock();
    if let (Some(at), false, true) = (at, state.has_stopped, state.parts.is_some()) {
        say(&never(&at, Host::look()));
    }
    code
}

/// Why it may have come to nothing.
fn never(at: &At, host: Host) -> String {
    let hint = match at {
        At::Address(_) if host.tcg => {
            "; this host's KVM runs on an emulated processor (QEMU), whose breakpoints do not fire"
        }
        At::Address(_) if host.pvm => {
            "; this host's KVM (kvm_pvm) meets breakpoints only in the guest's kernel, and none in its programs"
        }
        At::Address(_) => {
            "; a kernel may run at other addresses than its file says (KASLR; nokaslr on the command line)"
        }
        At::Mark(_) => "; marks come from our init, which a guest with one of its own does not run",
        At::Exit(_) | At::End => "",
    };
    format!("the guest never came to {at} (--inspect-at){hint}")
}
