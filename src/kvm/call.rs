//! Each call of KVM's as a value, so that somebody who looks on can be told of it.
//!
//! `made` makes the call, turns a refusal into an [`Error`], and tells [`crate::watch`], if anybody
//! is there: with nobody, that is one comparison. What the calls mean, in words, is `crate::trace`'s.
//! KVM_RUN is not told of here: it is made too often, and its exit says more.
//!
//! Source: `[kvm]` section 4, "API description".
//! Read next: [`super::exit`].

use std::io;

use kvm_bindings::{
    CpuId, Msrs, kvm_fpu, kvm_mp_state, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuFd, VmFd};

use super::Error;
use crate::timeline::{Nanos, now};
use crate::watch::Watch;

/// A call with what it is given.
#[derive(Clone, Copy, Debug)]
pub enum Ioctl<'a> {
    /// open(2) of `/dev/kvm`.
    Open,
    /// KVM_GET_API_VERSION.
    ApiVersion,
    /// KVM_CHECK_EXTENSION(KVM_CAP_MAX_VCPUS).
    MaxVcpus,
    /// KVM_CHECK_EXTENSION(KVM_CAP_TSC_DEADLINE_TIMER).
    HasTscDeadline,
    /// KVM_CREATE_VM.
    CreateVm,
    /// KVM_GET_SUPPORTED_CPUID.
    SupportedCpuid,
    /// KVM_SET_USER_MEMORY_REGION.
    SetMemoryRegion(&'a kvm_userspace_memory_region),
    /// KVM_SET_IDENTITY_MAP_ADDR.
    SetIdentityMap(u64),
    /// KVM_SET_TSS_ADDR.
    SetTss(u64),
    /// KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP).
    SplitIrqchip {
        /// Of the I/O APIC that is left to us.
        pins: u32,
    },
    /// KVM_CREATE_IRQCHIP.
    CreateIrqchip,
    /// KVM_CREATE_PIT2.
    CreatePit,
    /// KVM_CREATE_VCPU with its number.
    CreateVcpu(u32),
    /// KVM_SIGNAL_MSI.
    SignalMsi {
        /// Which local APIC.
        address: u64,
        /// Vector and delivery mode.
        data: u32,
    },
    /// KVM_IRQ_LINE.
    IrqLine {
        /// The pin.
        gsi: u32,
        /// Its level from now on.
        high: bool,
    },
    /// KVM_SET_CPUID2.
    SetCpuid(&'a CpuId),
    /// KVM_SET_MSRS.
    SetMsrs(&'a Msrs),
    /// KVM_GET_REGS.
    GetRegs,
    /// KVM_SET_REGS.
    SetRegs(&'a kvm_regs),
    /// KVM_GET_SREGS.
    GetSregs,
    /// KVM_SET_SREGS.
    SetSregs(&'a kvm_sregs),
    /// What only a debugger or an inspector asks, by its name.
    Asked(&'static str),
    /// KVM_RUN.
    Run,
}

impl Ioctl<'_> {
    /// Its name in `[kvm]`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open => "open(/dev/kvm)",
            Self::ApiVersion => "KVM_GET_API_VERSION",
            Self::MaxVcpus => "KVM_CHECK_EXTENSION(KVM_CAP_MAX_VCPUS)",
            Self::HasTscDeadline => "KVM_CHECK_EXTENSION(KVM_CAP_TSC_DEADLINE_TIMER)",
            Self::CreateVm => "KVM_CREATE_VM",
            Self::SupportedCpuid => "KVM_GET_SUPPORTED_CPUID",
            Self::SetMemoryRegion(_) => "KVM_SET_USER_MEMORY_REGION",
            Self::SetIdentityMap(_) => "KVM_SET_IDENTITY_MAP_ADDR",
            Self::SetTss(_) => "KVM_SET_TSS_ADDR",
            Self::SplitIrqchip { .. } => "KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)",
            Self::CreateIrqchip => "KVM_CREATE_IRQCHIP",
            Self::CreatePit => "KVM_CREATE_PIT2",
            Self::CreateVcpu(_) => "KVM_CREATE_VCPU",
            Self::SignalMsi { .. } => "KVM_SIGNAL_MSI",
            Self::IrqLine { .. } => "KVM_IRQ_LINE",
            Self::SetCpuid(_) => "KVM_SET_CPUID2",
            Self::SetMsrs(_) => "KVM_SET_MSRS",
            Self::GetRegs => "KVM_GET_REGS",
            Self::SetRegs(_) => "KVM_SET_REGS",
            Self::GetSregs => "KVM_GET_SREGS",
            Self::SetSregs(_) => "KVM_SET_SREGS",
            Self::Asked(name) => name,
            Self::Run => "KVM_RUN",
        }
    }

    /// What an error message adds to the name, with a leading space.
    fn detail(&self) -> String {
        match self {
            Self::SetMemoryRegion(region) => format!(
                " for {:#x} bytes at {:#x}",
                region.memory_size, region.guest_phys_addr
            ),
            Self::CreateVcpu(id) => format!(" for vCPU {id}"),
            Self::IrqLine { gsi, .. } => format!(" for pin {gsi}"),
            _ => String::new(),
        }
    }
}

/// A call that was made.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The processor it was about; `None` for the VM or the system.
    pub vcpu: Option<u32>,
    /// What was asked.
    pub ioctl: Ioctl<'a>,
    /// When it was made.
    pub since: Nanos,
    /// When it returned.
    pub until: Nanos,
    /// What it returned, as far as that is a number, or errno.
    pub result: Result<Option<i64>, i32>,
}

/// What a call returns, as the number that the system call returned or one that says as much.
pub trait Answer {
    /// The number, if there is one.
    fn number(&self) -> Option<i64> {
        None
    }
}

impl Answer for () {
    fn number(&self) -> Option<i64> {
        Some(0)
    }
}

impl Answer for i32 {
    fn number(&self) -> Option<i64> {
        Some((*self).into())
    }
}

impl Answer for usize {
    fn number(&self) -> Option<i64> {
        i64::try_from(*self).ok()
    }
}

impl Answer for CpuId {
    /// How many entries.
    fn number(&self) -> Option<i64> {
        self.as_slice().len().number()
    }
}

impl Answer for kvm_ioctls::Kvm {}
impl Answer for VmFd {}
impl Answer for VcpuFd {}
impl Answer for kvm_regs {}
impl Answer for kvm_sregs {}
impl Answer for kvm_fpu {}
impl Answer for kvm_mp_state {}

/// Makes `call`, which is `ioctl`, for processor `vcpu` or none, and tells `watch` of it.
///
/// # Errors
/// The host's refusal, by the call's name.
pub(super) fn made<T: Answer>(
    watch: &Watch,
    vcpu: Option<u32>,
    ioctl: Ioctl<'_>,
    call: impl FnOnce() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, Error> {
    let since = if watch.is_on() { now() } else { 0 };
    let result = call();
    if watch.is_on() {
        let call = Call {
            vcpu,
            ioctl,
            since,
            until: now(),
            result: match &result {
                Ok(answer) => Ok(answer.number()),
                Err(error) => Err(error.errno()),
            },
        };
        watch.each(|by| by.called(&call));
    }
    result.map_err(|error| failed(&ioctl, error))
}

/// The error that says so.
pub(super) fn failed(ioctl: &Ioctl<'_>, error: kvm_ioctls::Error) -> Error {
    Error::Ioctl {
        ioctl: ioctl.name(),
        detail: ioctl.detail(),
        source: io::Error::from_raw_os_error(error.errno()),
    }
}
