//! What a debugger asks of KVM: breakpoints, steps, and floating-point registers.
//!
//! Only [`crate::gdb`] calls it. Source: `[kvm]` sections 4.87 (KVM_SET_GUEST_DEBUG), 5
//! (`immediate_exit`) and 7 (KVM_CAP_SET_GUEST_DEBUG2).
//! Read next: [`crate::memory`].

use kvm_bindings::{
    KVM_CAP_SET_GUEST_DEBUG, KVM_CAP_SET_GUEST_DEBUG2, KVM_EXIT_IO, KVM_EXIT_MMIO,
    KVM_GUESTDBG_ENABLE, kvm_fpu, kvm_guest_debug,
};

use super::call::Ioctl;
use super::{Error, Kvm, Vcpu};

/// Debug registers 0 to 3 hold addresses.
pub const ADDRESSES: usize = 4;

/// What KVM watches for on one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// KVM_GUESTDBG_*, without ENABLE; zero for nothing.
    pub flags: u32,
    /// Debug registers 0 to 3.
    pub addresses: [u64; ADDRESSES],
    /// Debug register 7: which of them count, and for what.
    pub control: u64,
}

impl Kvm {
    /// The KVM_GUESTDBG_* flags that KVM_SET_GUEST_DEBUG takes here; 0 where the kernel (before 5.12) does
    /// not say. That they have an effect is not promised.
    pub fn debug_flags(&self) -> u32 {
        let ask = |cap: u32| self.fd.check_extension_raw(cap.into());
        if ask(KVM_CAP_SET_GUEST_DEBUG) <= 0 {
            return 0;
        }
        u32::try_from(ask(KVM_CAP_SET_GUEST_DEBUG2)).unwrap_or(0)
    }
}

impl Vcpu {
    /// Has KVM watch for this from the next entry on, and for nothing else.
    ///
    /// # Errors
    /// The host's refusal: EINVAL for a flag it does not know.
    pub fn watch_for(&self, watched: &Watched) -> Result<(), Error> {
        let mut debug = kvm_guest_debug::default();
        if watched.flags != 0 {
            debug.control = KVM_GUESTDBG_ENABLE | watched.flags;
            let (addresses, _) = debug.arch.debugreg.split_at_mut(ADDRESSES);
            addresses.copy_from_slice(&watched.addresses);
            if let Some(dr7) = debug.arch.debugreg.last_mut() {
                *dr7 = watched.control;
            }
        }
        let ask = Ioctl::Asked("KVM_SET_GUEST_DEBUG");
        self.made(ask, || self.fd.set_guest_debug(&debug))
    }

    /// Floating-point and SSE registers.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn fpu(&self) -> Result<kvm_fpu, Error> {
        self.made(Ioctl::Asked("KVM_GET_FPU"), || self.fd.get_fpu())
    }

    /// Sets them.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn set_fpu(&self, fpu: &kvm_fpu) -> Result<(), Error> {
        self.made(Ioctl::Asked("KVM_SET_FPU"), || self.fd.set_fpu(fpu))
    }

    /// What it is doing: a KVM_MP_STATE_*.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn activity(&self) -> Result<u32, Error> {
        let ask = Ioctl::Asked("KVM_GET_MP_STATE");
        let state = self.made(ask, || self.fd.get_mp_state())?;
        Ok(state.mp_state)
    }

    /// Whether registers are what the guest's next instruction will find. After a port or memory access
    /// they are only when KVM was entered again, which finishes it.
    pub fn is_settled(&mut self) -> bool {
        let reason = self.fd.get_kvm_run().exit_reason;
        self.interrupted || !matches!(reason, KVM_EXIT_IO | KVM_EXIT_MMIO)
    }

    /// Has the next entries only finish what is open and come back interrupted, or run the guest again.
    pub fn only_settle(&mut self, only: bool) {
        self.fd.set_kvm_immediate_exit(only.into());
    }
}
