//! The run loop: enter the guest, match the exit, answer, again.
//!
//! One thread a vCPU runs this. Everything a guest can do to cottage comes through the match
//! below; each arm is one call.
//! Read next: [`super::crash`].

use std::sync::Arc;

use super::crash;
use super::identity::Identity;
use crate::bus::{MmioBus, PortBus, Request};
use crate::console::output::Output;
use crate::control::Control;
use crate::kvm::{Error, Vcpu, VmExit};
use crate::memory::GuestMemory;
use crate::outcome::{Ending, with_causes};
use crate::timeline::exits::Meter;
use crate::timeline::{Stage, Timeline};
use crate::watch::scene::Witness;
use crate::watch::{Stand, Verdict, Watch};

/// What a vCPU thread needs besides its vCPU; the same for all.
#[derive(Debug)]
pub struct Board {
    /// What the processors are.
    pub identity: Identity,
    /// I/O ports.
    pub ports: PortBus,
    /// Memory-mapped registers.
    pub mmio: MmioBus,
    /// The end of the run.
    pub control: Arc<Control>,
    /// Guest RAM, for crash reports.
    pub memory: Arc<GuestMemory>,
    /// When what happened.
    pub timeline: Arc<Timeline>,
    /// Who looks on.
    pub watch: Watch,
    /// How a processor stood at the end.
    pub witness: Arc<Witness>,
    /// The console's output.
    pub output: Arc<Output>,
}

impl Board {
    /// Has the first processor keep how it stands, if the user has `ending` cut short what never printed.
    pub fn wonder_about_silence(&self, ending: Option<&Ending>) {
        if ending.is_some_and(Ending::cut_short) && self.output.written() == 0 {
            self.witness.want();
        }
    }
}

/// Runs vCPU number `id` until the machine ends, and ends it if the reason came up here.
pub fn run(id: u32, vcpu: &mut Vcpu, board: &Board) {
    let mut meter = Meter::for_thread(&board.timeline);
    let watch = &board.watch;
    if id == 0 {
        board.timeline.note(Stage::GuestEntered);
    } else if let Err(error) = board.identity.give(vcpu, id) {
        board.control.stop(Ending::Failure(with_causes(&error)));
    }
    while !board.control.stopping() {
        watch.each(|by| by.entering(&mut Stand { id, vcpu, board }));
        let stepped = step(id, vcpu, board, meter.as_mut());
        if let Some(meter) = &mut meter {
            meter.answered();
        }
        match stepped {
            Ok(None) => watch.each(|by| by.answered(&mut Stand { id, vcpu, board })),
            Ok(Some(ending)) => {
                if ending.may_be_a_crash() {
                    board.witness.keep(id, vcpu);
                }
                watch.each(|by| by.crashed(&mut Stand { id, vcpu, board }, &ending));
                board.timeline.note_once(Stage::GuestEnded);
                board.control.stop(ending);
            }
            Err(error) => board.control.stop(Ending::Failure(with_causes(&error))),
        }
    }
    if id == 0 && board.witness.wanted() {
        board.witness.keep(id, vcpu);
    }
    watch.each(|by| by.left(id));
}

/// One entry into the guest and the answer to its exit.
fn step(
    id: u32,
    vcpu: &mut Vcpu,
    board: &Board,
    meter: Option<&mut Meter<'_>>,
) -> Result<Option<Ending>, Error> {
    vcpu.enter()?;
    if board.watch.is_on() {
        match board.watch.exited(&mut Stand { id, vcpu, board }) {
            Verdict::Answer => {}
            Verdict::Taken => return Ok(None),
            Verdict::End(ending) => return Ok(Some(ending)),
        }
    }
    let exit = vcpu.exit();
    if let Some(meter) = meter {
        meter.exited(&exit, &board.ports, &board.mmio);
    }
    let ending = match exit {
        VmExit::PortOut { port, size, data } => {
            board.ports.write(port, size, data).map(Ending::from)
        }
        VmExit::PortIn { port, size, data } => {
            board.ports.read(port, size, data);
            None
        }
        VmExit::MmioRead { gpa, data } => {
            board.mmio.read(gpa, data);
            None
        }
        VmExit::MmioWrite { gpa, data } => board.mmio.write(gpa, data).map(Ending::from),
        // A kick to look at `stopping`, or a stray signal.
        VmExit::Interrupted => None,
        // No pin of ours is level-triggered towards KVM, so nobody waits for this.
        VmExit::IoapicEoi { .. } => None,
        VmExit::Shutdown => Some(Ending::TripleFault(crash::state(vcpu, &board.memory))),
        VmExit::FailedEntry { reason, cpu } => {
            let cause = crash::failed_entry(reason, cpu);
            Some(crashed(&cause, vcpu, board))
        }
        VmExit::InternalError { suberror, data } => {
            let cause = crash::internal_error(suberror, &data);
            Some(crashed(&cause, vcpu, board))
        }
        VmExit::Debug(_) => Some(crashed("a debug exit that nobody asked for", vcpu, board)),
        VmExit::Halt => Some(crashed("HLT left KVM, whose APIC should wait", vcpu, board)),
        VmExit::Unknown { reason } => {
            let cause = format!("KVM exit reason {reason}, which cottage does not ask for");
            Some(crashed(&cause, vcpu, board))
        }
    };
    Ok(ending)
}

fn crashed(cause: &str, vcpu: &Vcpu, board: &Board) -> Ending {
    Ending::Crash(format!("{cause}\n{}", crash::state(vcpu, &board.memory)))
}

impl From<Request> for Ending {
    fn from(request: Request) -> Self {
        match request {
            Request::PowerOff => Self::PowerOff,
            Request::Reset => Self::Reset,
            Request::Exit(status) => Self::DebugExit(status),
        }
    }
}
