//! All that is known of a processor that stands: registers, what is pending, its last exits.
//!
//! Gathered on the processor's own thread, by a handful of KVM calls; guest memory is not copied, whoever
//! reads a scene reads memory too ([`Physical`]). A scene is numbers and can be sent to another process:
//! so the `cottage` program, which knows no words for all this, hands it to the tools ([`super::tell`]).
//!
//! Everything in it is the guest's doing and may be any value.
//! Read next: [`super::tell`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events};
use vm_memory::GuestAddress;

use crate::kvm::last::{KEPT, LastExit};
use crate::kvm::{self, Vcpu};
use crate::memory::GuestMemory;

/// Guest-physical memory, here or in another process.
pub trait Physical {
    /// Fills `bytes` from `gpa`; false if not all of it is RAM.
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool;
}

impl Physical for GuestMemory {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
        Self::read(self, GuestAddress(gpa), bytes).is_ok()
    }
}

/// A processor at a stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scene {
    /// Which one.
    pub id: u32,
    /// General-purpose registers.
    pub regs: kvm_regs,
    /// Segments, control registers, tables.
    pub sregs: kvm_sregs,
    /// Exceptions and interrupts on their way.
    pub events: kvm_vcpu_events,
    /// KVM_MP_STATE_*: runs, halted, waits for INIT or SIPI.
    pub mp_state: u32,
    /// The last exits, oldest first.
    pub exits: Vec<LastExit>,
}

impl Scene {
    /// Asks KVM about `vcpu`, on its own thread, while it is not in the guest.
    ///
    /// # Errors
    /// The host's refusal to tell the registers. What else it does not tell stays zero.
    pub fn gather(id: u32, vcpu: &mut Vcpu) -> Result<Self, kvm::Error> {
        Ok(Self {
            id,
            regs: vcpu.regs()?,
            sregs: vcpu.sregs()?,
            exits: vcpu.last_exits(),
            events: vcpu.fd().get_vcpu_events().unwrap_or_default(),
            mp_state: vcpu.fd().get_mp_state().unwrap_or_default().mp_state,
        })
    }

    /// As numbers, for another process of the same program.
    pub fn to_words(&self) -> Vec<u64> {
        let mut words = Vec::new();
        let mut copy = self.clone();
        copy.each(&mut |word| {
            words.push(word);
            word
        });
        words
    }

    /// From those numbers; `None` if their count is not right.
    pub fn from_words(words: &[u64]) -> Option<Self> {
        let mut scene = Self::default();
        let mut rest = words.iter();
        let mut missing = false;
        scene.each(&mut |_| match rest.next() {
            Some(word) => *word,
            None => {
                missing = true;
                0
            }
        });
        (!missing && rest.next().is_none()).then_some(scene)
    }

    /// Puts each field through `word`, always in the same order.
    fn each(&mut self, word: &mut dyn FnMut(u64) -> u64) {
        self.id = narrow(word(self.id.into()));
        self.mp_state = narrow(word(self.mp_state.into()));
        for register in registers(&mut self.regs) {
            *register = word(*register);
        }
        let s = &mut self.sregs;
        for segment in [
            &mut s.cs, &mut s.ds, &mut s.es, &mut s.fs, &mut s.gs, &mut s.ss, &mut s.tr, &mut s.ldt,
        ] {
            each_of_segment(segment, word);
        }
        for table in [&mut s.gdt, &mut s.idt] {
            table.base = word(table.base);
            table.limit = narrow(word(table.limit.into()));
        }
        for register in [
            &mut s.cr0,
            &mut s.cr2,
            &mut s.cr3,
            &mut s.cr4,
            &mut s.cr8,
            &mut s.efer,
            &mut s.apic_base,
        ] {
            *register = word(*register);
        }
        self.each_of_events(word);
        let count = word(self.exits.len() as u64);
        // This exit and those before it.
        let count = usize::try_from(count).unwrap_or(0).min(KEPT + 1);
        self.exits.resize(count, LastExit::default());
        for exit in &mut self.exits {
            exit.number = word(exit.number);
            exit.rip = word(exit.rip);
            exit.reason = narrow(word(exit.reason.into()));
            exit.write = word(exit.write.into()) != 0;
            exit.size = narrow(word(exit.size.into()));
            exit.len = narrow(word(exit.len.into()));
            exit.address = word(exit.address);
            exit.data = word(exit.data);
        }
    }

    /// What reports tell of the events.
    fn each_of_events(&mut self, word: &mut dyn FnMut(u64) -> u64) {
        let events = &mut self.events;
        let exception = &mut events.exception;
        for byte in [
            &mut exception.injected,
            &mut exception.nr,
            &mut exception.has_error_code,
            &mut exception.pending,
            &mut events.interrupt.injected,
            &mut events.interrupt.nr,
            &mut events.interrupt.soft,
            &mut events.interrupt.shadow,
            &mut events.nmi.injected,
            &mut events.nmi.pending,
            &mut events.nmi.masked,
        ] {
            *byte = narrow(word((*byte).into()));
        }
        exception.error_code = narrow(word(exception.error_code.into()));
    }
}

/// The general-purpose registers in the order of their numbers in instructions, then rip and rflags.
fn registers(regs: &mut kvm_regs) -> [&mut u64; 18] {
    [
        &mut regs.rax,
        &mut regs.rcx,
        &mut regs.rdx,
        &mut regs.rbx,
        &mut regs.rsp,
        &mut regs.rbp,
        &mut regs.rsi,
        &mut regs.rdi,
        &mut regs.r8,
        &mut regs.r9,
        &mut regs.r10,
        &mut regs.r11,
        &mut regs.r12,
        &mut regs.r13,
        &mut regs.r14,
        &mut regs.r15,
        &mut regs.rip,
        &mut regs.rflags,
    ]
}

fn each_of_segment(segment: &mut kvm_segment, word: &mut dyn FnMut(u64) -> u64) {
    segment.base = word(segment.base);
    segment.limit = narrow(word(segment.limit.into()));
    segment.selector = narrow(word(segment.selector.into()));
    for byte in [
        &mut segment.type_,
        &mut segment.present,
        &mut segment.dpl,
        &mut segment.db,
        &mut segment.s,
        &mut segment.l,
        &mut segment.g,
        &mut segment.avl,
        &mut segment.unusable,
    ] {
        *byte = narrow(word((*byte).into()));
    }
}

/// `word` in a smaller type: it was one of that type before it became a word.
fn narrow<T: TryFrom<u64> + Default>(word: u64) -> T {
    T::try_from(word).unwrap_or_default()
}

/// Where the vCPU threads leave a scene for the end of the run.
#[derive(Debug, Default)]
pub struct Witness {
    wanted: AtomicBool,
    scene: Mutex<Option<Box<Scene>>>,
}

impl Witness {
    /// Asks for a scene from the first processor even if it does not end the machine itself.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// Whether that was asked for.
    pub fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Keeps how `vcpu` stands, unless another came first.
    pub fn keep(&self, id: u32, vcpu: &mut Vcpu) {
        let mut kept = self.scene.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            // Without registers there is nothing to show, and the short text says so.
            *kept = Scene::gather(id, vcpu).ok().map(Box::new);
        }
    }

    /// A copy of the scene, if there is one.
    pub fn look(&self) -> Option<Scene> {
        let kept = self.scene.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_deref().cloned()
    }

    /// The scene, if there is one.
    pub fn take(&self) -> Option<Box<Scene>> {
        let mut kept = self.scene.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scene_survives_the_way_to_another_process() {
        let mut scene = Scene {
            id: 3,
            mp_state: 2,
            exits: vec![
                LastExit {
                    number: 7,
                    rip: u64::MAX,
                    reason: 2,
                    write: true,
                    size: 4,
                    len: 4,
                    address: 0x3f8,
                    data: 9,
                };
                KEPT + 1
            ],
            ..Scene::default()
        };
        // Another number in each field, small enough for the smallest.
        let mut next = 0;
        scene.each_of_events(&mut |_| {
            next += 1;
            next
        });
        each_of_segment(&mut scene.sregs.ldt, &mut |_| 5);
        for register in registers(&mut scene.regs) {
            *register = 1 << 63;
        }
        assert_eq!(Scene::from_words(&scene.to_words()), Some(scene));
    }

    proptest! {
        #[test]
        fn any_numbers_are_a_scene_or_none(words in prop::collection::vec(any::<u64>(), 0..400)) {
            if let Some(scene) = Scene::from_words(&words) {
                prop_assert!(scene.exits.len() <= KEPT + 1);
            }
        }
    }
}
