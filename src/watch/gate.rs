//! Brings all processors to a stand, and lets another thread ask them.
//!
//! ```text
//!   vCPU 0 ── KVM_RUN ──┐ kick            ┌── pass(): waits, answers questions ──┐ open()
//!   vCPU 1 ── KVM_RUN ──┤ ◀── close() ──▶ ┤                                      ├──▶ KVM_RUN
//!   vCPU n ── KVM_RUN ──┘                 └── ◀── ask(n, |vcpu| ...) ────────────┘
//! ```
//!
//! A vCPU's ioctls are for its own thread (`[kvm]` section 1: "vcpu ioctls should be issued from the same
//! thread that was used to create the vcpu"), so a debugger's thread sends its questions there.
//! Read next: [`super::inspect`].
#![expect(
    unsafe_code,
    reason = "pthread_self and pthread_kill, to kick a thread, whose name is a pointer with musl"
)]

use std::fmt;
use std::sync::mpsc::sync_channel;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::signal::SIGRTMIN;

use super::Stand;

/// How often a kick is repeated that may have come just before KVM_RUN and be lost, and how often who
/// waits looks whether the machine is over.
const AGAIN: Duration = Duration::from_millis(1);

type Question = Box<dyn FnOnce(&mut Stand<'_>) + Send>;

/// Where vCPU threads pass before each entry; open at first.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// Those that the closed gate lets through.
    exempt: Vec<u32>,
    over: bool,
    seats: Vec<Seat>,
}

/// One vCPU's place.
struct Seat {
    id: u32,
    thread: libc::pthread_t,
    waiting: bool,
    question: Option<Question>,
}

// SAFETY: musl's pthread_t is a pointer, which is not Send by itself. 1. Nobody follows it here: it is only
// the thread's name for pthread_kill(3), which any thread may call. 2. It names a thread that lives, see
// `gather`. The question is Send.
unsafe impl Send for Seat {}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, waiting, .. } = self;
        write!(f, "vCPU {id}, waiting: {waiting}")
    }
}

impl Gate {
    /// Lets a vCPU on, or keeps it here while the gate is closed; to be called before each entry into the
    /// guest, on its thread.
    ///
    /// A vCPU that has yet to finish a port or memory access enters once more for that alone: its
    /// registers would be those of the middle of an instruction.
    pub fn pass(&self, stand: &mut Stand<'_>) {
        let unsettled = self.lock().keeps(stand.id) && !stand.vcpu.is_settled();
        stand.vcpu.only_settle(unsettled);
        if !unsettled {
            self.hold(stand);
        }
    }

    /// Keeps a vCPU likewise that will not enter the guest again.
    pub fn hold(&self, stand: &mut Stand<'_>) {
        let mut state = self.lock();
        // SAFETY: pthread_self has no conditions.
        let thread = unsafe { libc::pthread_self() };
        if state.seat(stand.id).is_none() {
            state.seats.push(Seat {
                id: stand.id,
                thread,
                waiting: false,
                question: None,
            });
            state.seats.sort_by_key(|seat| seat.id);
        }
        while state.keeps(stand.id) && !stand.board.control.stopping() {
            let Some(seat) = state.seat(stand.id) else {
                return;
            };
            seat.waiting = true;
            let question = seat.question.take();
            self.changed.notify_all();
            state = if let Some(question) = question {
                drop(state);
                question(stand);
                self.lock()
            } else {
                self.wait(state)
            };
        }
        if let Some(seat) = state.seat(stand.id) {
            seat.waiting = false;
            seat.question = None;
        }
    }

    /// Closes the gate; vCPUs come to it on their own, kicked out of the guest by [`Gate::gather`].
    ///
    /// For a vCPU's own thread, which cannot wait for itself.
    pub fn close(&self) {
        self.lock().close();
    }

    /// Closes the gate and waits until every vCPU that has ever passed stands at it; returns their
    /// numbers, none once the machine is over. Not for a vCPU's own thread.
    pub fn gather(&self) -> Vec<u32> {
        let mut state = self.lock();
        state.close();
        while !state.over && !state.seats.iter().all(|seat| seat.waiting) {
            for seat in state.seats.iter().filter(|seat| !seat.waiting) {
                // SAFETY: a seat is removed, under this lock, by its own thread before that ends
                // (`leave`), so the thread is there; the signal has a handler that does nothing.
                unsafe { libc::pthread_kill(seat.thread, SIGRTMIN()) };
            }
            state = self.wait(state);
        }
        if state.over {
            return Vec::new();
        }
        state.seats.iter().map(|seat| seat.id).collect()
    }

    /// Has the thread of vCPU `id`, which stands at the gate, carry out `question`, and returns the
    /// answer; `None` if it does not stand there or the machine is over.
    pub fn ask<T: Send + 'static>(
        &self,
        id: u32,
        question: impl FnOnce(&mut Stand<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        let mut state = self.lock();
        let seat = state.seat(id).filter(|seat| seat.waiting)?;
        seat.question = Some(Box::new(move |stand| {
            let _asker_is_gone = answer.send(question(stand));
        }));
        drop(state);
        self.changed.notify_all();
        // The sender is dropped unused where the vCPU goes on or ends: see `pass` and `leave`.
        answered.recv().ok()
    }

    /// Opens the gate.
    pub fn open(&self) {
        self.lock().closed = false;
        self.changed.notify_all();
    }

    /// Lets these vCPUs through and keeps the others.
    pub fn open_for(&self, ids: Vec<u32>) {
        self.lock().exempt = ids;
        self.changed.notify_all();
    }

    /// Forgets a vCPU whose thread is about to end; nobody is kept waiting for it any more.
    pub fn leave(&self, id: u32) {
        let mut state = self.lock();
        state.over = true;
        state.seats.retain(|seat| seat.id != id);
        self.changed.notify_all();
    }

    /// Whether the machine is over.
    pub fn is_over(&self) -> bool {
        self.lock().over
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, AGAIN);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn close(&mut self) {
        self.closed = true;
        self.exempt.clear();
    }

    fn keeps(&self, id: u32) -> bool {
        self.closed && !self.over && !self.exempt.contains(&id)
    }

    fn seat(&mut self, id: u32) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.id == id)
    }
}
