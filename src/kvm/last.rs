//! The last exits of a processor, for when it crashes.
//!
//! A triple fault says nothing of how it came about; what the guest did just before often does. Each
//! exit leaves a few words in a ring: stores into memory that is warm, beside a system call. On AMD,
//! where KVM resets a processor that shuts down, they are all that is left of it.
//!
//! Who fills it: [`super::Vcpu::enter`], when the exit before has been answered, so that what a read
//! was told is in it.
//! Read next: [`super::slots`].

use kvm_bindings::{KVM_EXIT_DEBUG, KVM_EXIT_UNKNOWN};

use super::{Vcpu, exit};

/// Exits kept.
pub const KEPT: usize = 16;

/// One exit in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastExit {
    /// Which one of its processor it was; the first is 1.
    pub number: u64,
    /// Where the guest stood: at the instruction, or already behind it. 0 on a kernel before 4.18, which
    /// does not tell.
    pub rip: u64,
    /// KVM_EXIT_*.
    pub reason: u32,
    /// For ports and MMIO: from the guest.
    pub write: bool,
    /// Bytes of an element of a port access.
    pub size: u8,
    /// Bytes of all.
    pub len: u32,
    /// Port, guest-physical address or vector.
    pub address: u64,
    /// The first 8 bytes written, or answered; KVM's suberror; the hardware's reason.
    pub data: u64,
}

/// A ring of them.
#[derive(Debug, Default)]
pub struct LastExits {
    ring: [LastExit; KEPT],
    count: u64,
}

impl LastExits {
    /// Keeps `exit`, numbered, in the place of the oldest.
    pub(super) fn keep(&mut self, exit: LastExit) {
        let at = usize::try_from(self.count % KEPT as u64).unwrap_or(0);
        self.count += 1;
        if let Some(place) = self.ring.get_mut(at) {
            *place = LastExit {
                number: self.count,
                ..exit
            };
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Those kept, oldest first.
    pub fn all(&self) -> Vec<LastExit> {
        let mut all: Vec<_> = self.ring.iter().filter(|e| e.number > 0).copied().collect();
        all.sort_by_key(|exit| exit.number);
        all
    }
}

impl Vcpu {
    /// Puts the exit, which is answered by now, into the ring.
    pub(super) fn keep_exit(&mut self) {
        if self.has_exited() {
            let exit = exit::brief(self.fd.get_kvm_run(), self.run_size);
            self.last.keep(exit);
        }
    }

    /// Whether there is an exit that has not yet gone into the ring of the last ones. Those that a
    /// debugger causes are not the guest's doing, and do not count.
    fn has_exited(&mut self) -> bool {
        let reason = self.fd.get_kvm_run().exit_reason;
        !self.interrupted && ![KVM_EXIT_UNKNOWN, KVM_EXIT_DEBUG].contains(&reason)
    }

    /// How many exits there were, with this one.
    pub fn exits(&mut self) -> u64 {
        self.last.count() + u64::from(self.has_exited())
    }

    /// The last exits, with this one, oldest first.
    pub fn last_exits(&mut self) -> Vec<LastExit> {
        let mut all = self.last.all();
        if self.has_exited() {
            all.push(LastExit {
                number: self.last.count() + 1,
                ..exit::brief(self.fd.get_kvm_run(), self.run_size)
            });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sixteen_stay_in_order() {
        let mut last = LastExits::default();
        assert!(last.all().is_empty());
        for address in 1..=20 {
            let exit = LastExit {
                address,
                ..LastExit::default()
            };
            last.keep(exit);
        }
        let all = last.all();
        assert_eq!((all.len(), last.count()), (KEPT, 20));
        assert!(all.iter().map(|exit| exit.number).eq(5..=20));
        assert!(all.iter().all(|exit| exit.number == exit.address));
    }
}
