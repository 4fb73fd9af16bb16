//! Chapter 11, first part: looking on while a machine runs.
//!
//! A tracer, a debugger or an inspector is an [`Observer`]: the run loop calls it before each entry into
//! the guest, after each exit and after each answer, and [`crate::kvm`] tells it of each call. A machine
//! that nobody watches pays one comparison at each of these places. The `cottage` program itself builds
//! no observers; those are in its tools ([`crate::tools`]), which run the same machine.
//!
//! - [`arch`]: registers in words; [`paging`]: page tables in words, and the walk through them;
//! - [`code`]: machine code as text; [`symbols`]: names for addresses;
//! - [`scene`]: how a processor stands; [`tell`]: hands that to the tools, which have words for it;
//! - [`story`]: the page they tell;
//! - [`gate`]: brings all processors to a stand and asks them things;
//! - [`inspect`]: lets a person do that.
//!
//! Read next: [`arch`].

pub mod arch;
pub mod paging;
pub mod code;
pub mod symbols;
pub mod scene;
pub mod tell;
pub mod story;
pub mod gate;
pub mod inspect;

use std::fmt;
use std::sync::Arc;

use crate::kvm::Vcpu;
use crate::kvm::call::Call;
use crate::outcome::Ending;
use crate::timeline::Noted;
use crate::vcpu::run::Board;

/// A vCPU that stands outside the guest, on its own thread.
#[derive(Debug)]
pub struct Stand<'a> {
    /// Its number.
    pub id: u32,
    /// Its registers, and with [`Vcpu::exit`] why it left the guest.
    pub vcpu: &'a mut Vcpu,
    /// The machine around it.
    pub board: &'a Board,
}

/// What the run loop does about an exit that an observer has seen.
#[derive(Debug)]
pub enum Verdict {
    /// What it always does.
    Answer,
    /// Nothing: the observer caused this exit, or has dealt with it.
    Taken,
    /// End the machine.
    End(Ending),
}

/// What lies in guest memory before the guest runs.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// `kernel`, `zero page`.
    pub what: &'static str,
    /// Guest-physical address of its first byte.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// More about it, or nothing.
    pub more: &'a str,
}

/// One who looks on. All vCPU threads call it, and the one that builds the machine.
///
/// An observer may take its time: the guest stands still meanwhile, and its clock does not.
pub trait Observer: fmt::Debug + Send + Sync {
    /// KVM has been called, by any thread; KVM_RUN is told by [`Observer::exited`] alone.
    fn called(&self, _call: &Call<'_>) {}

    /// The timeline has noted an instant.
    fn noted(&self, _noted: &Noted) {}

    /// Something was put into guest memory.
    fn placed(&self, _placed: &Placed<'_>) {}

    /// A vCPU is about to enter the guest; the observer may keep it waiting ([`gate`]).
    fn entering(&self, _stand: &mut Stand<'_>) {}

    /// A vCPU has left the guest; nothing is answered yet.
    fn exited(&self, _stand: &mut Stand<'_>) -> Verdict {
        Verdict::Answer
    }

    /// Its exit is answered: what a read was told stands in [`Vcpu::exit`]'s slice.
    fn answered(&self, _stand: &mut Stand<'_>) {}

    /// The machine is over for this reason, seen by the vCPU that stands here: its last words.
    fn crashed(&self, _stand: &mut Stand<'_>, _ending: &Ending) {}

    /// The thread of this vCPU is about to end.
    fn left(&self, _id: u32) {}
}

/// All who look on; mostly nobody.
#[derive(Clone, Debug, Default)]
pub struct Watch(Vec<Arc<dyn Observer>>);

impl Watch {
    /// Nobody.
    pub fn nobody() -> Self {
        Self::default()
    }

    /// These, called in this order.
    pub fn by(observers: Vec<Arc<dyn Observer>>) -> Self {
        Self(observers)
    }

    /// These and one more, called last.
    pub fn with(mut self, observer: Arc<dyn Observer>) -> Self {
        self.0.push(observer);
        self
    }

    /// Whether anybody looks on.
    pub fn is_on(&self) -> bool {
        !self.0.is_empty()
    }

    /// Calls `tell` with each.
    pub fn each(&self, mut tell: impl FnMut(&dyn Observer)) {
        for observer in &self.0 {
            tell(&**observer);
        }
    }

    /// Shows an exit to all; the first that wants something else than an answer decides.
    pub fn exited(&self, stand: &mut Stand<'_>) -> Verdict {
        let mut verdict = Verdict::Answer;
        for observer in &self.0 {
            let wanted = observer.exited(stand);
            if matches!(verdict, Verdict::Answer) {
                verdict = wanted;
            }
        }
        verdict
    }
}
