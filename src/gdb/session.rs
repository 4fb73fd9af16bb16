//! One gdb after the other: from a connection to its end.
//!
//! ```text
//!   Idle ── continue, step ──▶ Running ── a vCPU stops ──▶ Idle
//!     ▲                           │  └─── the run is over ──▶ told, end
//!     └───────── Ctrl-C ──────────┘
//!   detach, or gdb is gone: everything is taken back, the guest goes on, the next may come
//!   kill: the run ends as by Ctrl-A x
//! ```
//!
//! One at a time; a second gdb finds its connection closed.
//! Read next: [`mod@crate::bench`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use gdbstub::common::Signal;
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, MultiThreadStopReason};
use rustix::event::{PollFd, PollFlags, poll};

use super::debugger::Debugger;
use super::filter::{Filter, Item, PACKET, framed};
use super::place::{Door, Line};
use super::plan::Stop;
use super::target::{Machine, tid_of};
use crate::console::words::say;
use crate::outcome::Ending;

type Protocol = GdbStubStateMachine<'static, Machine, Line>;

/// Why a session ended that neither side wanted to end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// What came is not the protocol.
    #[error(transparent)]
    Protocol(#[from] GdbStubError<Infallible, io::Error>),
    /// The socket fails.
    #[error("the connection fails: {0}")]
    Line(#[from] io::Error),
}

/// What the session waits for.
#[derive(Debug, Default)]
struct Ready {
    line: bool,
    door: bool,
}

/// Serves whoever comes to `door` until the run is over.
pub fn serve(door: &Door, debugger: &Arc<Debugger>) {
    while debugger.ended().is_none() {
        // Who comes before the machine stands waits at the door.
        let Some(parts) = debugger.parts().cloned() else {
            wait(None, None, debugger);
            continue;
        };
        if !wait(Some(door), None, debugger).door {
            continue;
        }
        let Some(line) = door.accept() else { continue };
        debugger.set_attached(true);
        if !debugger.gather() {
            return;
        }
        let mut machine = Machine::new(debugger.clone(), parts);
        let end =
            Session::begin(door, debugger, line).and_then(|session| session.run(&mut machine));
        match end {
            Ok(End::Kill) => {
                machine.end();
                machine.let_go();
            }
            Ok(End::Detach) => {
                say("gdb has gone; the guest goes on");
                machine.let_go();
            }
            Ok(End::Over) => return,
            Err(error) => {
                say(&format!("gdb has gone, the guest goes on: {error}"));
                machine.let_go();
            }
        }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Detach,
    Kill,
    Over,
}

/// A connection at work.
struct Session<'a> {
    door: &'a Door,
    debugger: &'a Debugger,
    /// The same socket as the protocol's.
    line: Line,
    filter: Filter,
    bytes: VecDeque<u8>,
    protocol: Option<GdbStub<'static, Machine, Line>>,
}

impl<'a> Session<'a> {
    fn begin(door: &'a Door, debugger: &'a Debugger, line: Line) -> Result<Self, Failure> {
        let second = line.second().map(Line::on);
        let protocol = GdbStub::builder(line).packet_buffer_size(PACKET).build();
        Ok(Self {
            door,
            debugger,
            line: second?,
            filter: Filter::default(),
            bytes: VecDeque::new(),
            protocol: protocol.ok(),
        })
    }

    fn run(mut self, machine: &mut Machine) -> Result<End, Failure> {
        let Some(protocol) = self.protocol.take() else {
            return Ok(End::Detach);
        };
        let mut protocol = protocol.run_state_machine(machine)?;
        loop {
            protocol = match protocol {
                Protocol::Idle(idle) => match self.next_byte(machine)? {
                    Some(byte) => idle.incoming_data(machine, byte)?,
                    None if self.debugger.ended().is_some() => return Ok(End::Over),
                    None => return Ok(End::Detach),
                },
                Protocol::Running(running) => match self.event(machine)? {
                    Event::Byte(byte) => running.incoming_data(machine, byte)?,
                    Event::Stopped(id, stop) => {
                        // False: the machine is over, and its status is on its way.
                        if self.debugger.gather() {
                            running.report_stop(machine, machine.reason(id, stop))?
                        } else {
                            running.into()
                        }
                    }
                    Event::Ended(code) => {
                        let reason = MultiThreadStopReason::Exited(code);
                        running.report_stop(machine, reason)?;
                        return Ok(End::Over);
                    }
                    Event::Gone => return Ok(End::Detach),
                },
                Protocol::CtrlCInterrupt(interrupted) => {
                    let first = MultiThreadStopReason::SignalWithThread {
                        tid: tid_of(0),
                        signal: Signal::SIGINT,
                    };
                    let reason = self.debugger.gather().then_some(first);
                    interrupted.interrupt_handled(machine, reason)?
                }
                Protocol::Disconnected(mut gone) => match gone.get_reason() {
                    DisconnectReason::Kill => {
                        // gdb waits for an answer to vKill, and not to k; it is gone in both cases.
                        let line = gone.borrow_conn();
                        let _gone_already = line.write_all(framed("OK").as_bytes());
                        let _gone_already = line.flush();
                        return Ok(End::Kill);
                    }
                    DisconnectReason::Disconnect => return Ok(End::Detach),
                    _ => return Ok(End::Over),
                },
            };
        }
    }

    /// The next byte from gdb while the machine stands; `None` when it is gone, or the run is over.
    fn next_byte(&mut self, machine: &mut Machine) -> Result<Option<u8>, Failure> {
        loop {
            if let Some(byte) = self.bytes.pop_front() {
                return Ok(Some(byte));
            }
            if self.debugger.ended().is_some() {
                return Ok(None);
            }
            if self.wait().line && !self.receive(machine)? {
                return Ok(None);
            }
        }
    }

    /// What comes first while the machine runs.
    fn event(&mut self, machine: &mut Machine) -> Result<Event, Failure> {
        loop {
            if let Some(byte) = self.bytes.pop_front() {
                return Ok(Event::Byte(byte));
            }
            if let Some((id, stop)) = self.debugger.next_stop() {
                return Ok(Event::Stopped(id, stop));
            }
            if let Some(code) = self.debugger.ended() {
                return Ok(Event::Ended(code));
            }
            if self.wait().line && !self.receive(machine)? {
                return Ok(Event::Gone);
            }
        }
    }

    fn wait(&self) -> Ready {
        let ready = wait(Some(self.door), Some(&self.line), self.debugger);
        // First whether this gdb is gone: the next may have come already.
        if ready.door && !ready.line {
            drop(self.door.accept());
        }
        ready
    }

    /// Reads what gdb has sent; false when it is gone.
    fn receive(&mut self, machine: &mut Machine) -> Result<bool, Failure> {
        let Some(bytes) = self.line.read() else {
            return Ok(false);
        };
        for item in self.filter.take(&bytes) {
            let answer = match item {
                Item::Pass(bytes) => {
                    self.bytes.extend(bytes);
                    continue;
                }
                Item::Physical(physical) => {
                    machine.physical = physical;
                    "OK"
                }
                Item::AskPhysical if machine.physical => "1",
                Item::AskPhysical => "0",
                Item::Refused => "E16",
            };
            let acknowledged = if self.filter.unacknowledged { "" } else { "+" };
            let text = format!("{acknowledged}{}", framed(answer));
            self.line.write_all(text.as_bytes())?;
            self.line.flush()?;
        }
        Ok(true)
    }
}

/// What happens while the machine runs.
enum Event {
    Byte(u8),
    Stopped(u32, Stop),
    Ended(u8),
    Gone,
}

/// Waits for news from the machine, and for gdb, a second gdb, or both.
fn wait(door: Option<&Door>, line: Option<&Line>, debugger: &Debugger) -> Ready {
    let wake = debugger.wake_fd();
    // What is not waited for has the wake-up in its place.
    let mut fds = [
        wake,
        line.map_or(wake, AsFd::as_fd),
        door.map_or(wake, AsFd::as_fd),
    ]
    .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    // An error is a signal, or a host without memory: it is tried again, and the run goes on.
    let polled = poll(&mut fds, None);
    debugger.acknowledge();
    if polled.is_err() {
        return Ready::default();
    }
    let [_, came, knocks] = fds.map(|fd| !fd.revents().is_empty());
    Ready {
        line: line.is_some() && came,
        door: door.is_some() && knocks,
    }
}

impl Machine {
    /// Ends the run as Ctrl-A x does.
    pub(super) fn end(&self) {
        self.parts().control.stop(Ending::Quit);
    }
}
