//! What a processor is told to be: [`super::cpuid`] and [`super::msr`] together, given to a vCPU.
//!
//! KVM_SET_CPUID2 is among the dearest calls of a start. So only the first vCPU gets its identity
//! before the guest is entered; each of the others is given its own by its own thread, while the
//! guest already runs. It cannot come too late: until the guest's first processor calls them by
//! INIT and SIPI, which KVM_RUN answers, the others do nothing.
//! Read next: [`super::run`].

use kvm_bindings::{CpuId, Msrs};

use super::{cpuid, msr};
use crate::kvm::{Error, Vcpu};

/// What all processors of a machine share.
#[derive(Debug)]
pub struct Identity {
    cpuid: CpuId,
    msrs: Option<Msrs>,
}

impl Identity {
    /// From what KVM `supported`s on this host.
    pub fn new(supported: CpuId, machine: cpuid::Machine) -> Self {
        Self {
            cpuid: cpuid::for_machine(supported, machine),
            msrs: msr::list(),
        }
    }

    /// Makes `vcpu` processor number `id`.
    ///
    /// # Errors
    /// What KVM said.
    pub fn give(&self, vcpu: &Vcpu, id: u32) -> Result<(), Error> {
        let mut cpuid = self.cpuid.clone();
        cpuid::for_vcpu(&mut cpuid, id);
        vcpu.set_cpuid(&cpuid)?;
        if let Some(msrs) = &self.msrs {
            // Fewer than asked for is no error: msr.rs says which may be refused.
            vcpu.set_msrs(msrs)?;
        }
        Ok(())
    }
}
