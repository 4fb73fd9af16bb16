//! Chapter 3: KVM, the host kernel's half of the hypervisor.
//!
//! Three file descriptors, each made from the one before: [`Kvm`] (`/dev/kvm`, the system),
//! [`Vm`] (one machine: memory slots and interrupts) and [`Vcpu`] (one processor: registers and
//! the run loop's exits). Nothing else in cottage calls kvm-ioctls, but for
//! the doctor, which goes on asking where this chapter gives up, and the labs ([`crate::lab`]).
//!
//! Who calls it: [`crate::machine`], in the order given there. What is not here: which registers
//! a guest starts with ([`crate::vcpu`]) and what its exits mean ([`crate::vcpu::run`]).
//! Source: `[kvm]` Linux `Documentation/virt/kvm/api.rst`, v6.12.
//! Read next: [`error`].
#![expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION lends host memory to the guest"
)]

pub mod error;
pub mod call;
pub mod exit;
pub mod slots;
pub mod irqchip;
pub mod debug;

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_enable_cap,
    kvm_msi, kvm_regs, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};

use crate::devices::ioapic::MsiSink;
use crate::memory::GuestMemory;
use crate::memory::layout::{IOAPIC_PINS, KVM_IDENTITY_MAP, KVM_TSS};
use crate::memory::mapped::MappedFile;
use crate::watch::Watch;
use call::{Ioctl, made};

pub use error::Error;
pub use exit::{VmExit, internal_error_name};

/// The system: `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm {
    fd: kvm_ioctls::Kvm,
    watch: Watch,
}

impl Kvm {
    /// Opens `/dev/kvm` and checks the API version.
    ///
    /// # Errors
    /// [`Error::Open`] or [`Error::ApiVersion`]; [`crate::doctor`] turns both into advice.
    pub fn open() -> Result<Self, Error> {
        Self::open_watched(Watch::nobody())
    }

    /// The same, with `watch` told of each call from here on.
    ///
    /// # Errors
    /// As [`Kvm::open`].
    pub fn open_watched(watch: Watch) -> Result<Self, Error> {
        let opened = made(&watch, None, Ioctl::Open, kvm_ioctls::Kvm::new);
        let fd = opened.map_err(|error| match error {
            Error::Ioctl { source, .. } => Error::Open(source),
            other => other,
        })?;
        let found = made(&watch, None, Ioctl::ApiVersion, || Ok(fd.get_api_version()))?;
        if u32::try_from(found) != Ok(KVM_API_VERSION) {
            return Err(Error::ApiVersion { found });
        }
        Ok(Self { fd, watch })
    }

    fn made<T: call::Answer>(
        &self,
        ioctl: Ioctl<'_>,
        call: impl FnOnce() -> Result<T, kvm_ioctls::Error>,
    ) -> Result<T, Error> {
        made(&self.watch, None, ioctl, call)
    }

    /// Succeeds if one VM may have `wanted` vCPUs.
    ///
    /// # Errors
    /// [`Error::TooManyVcpus`] with both numbers.
    pub fn check_vcpus(&self, wanted: u32) -> Result<(), Error> {
        let max = self.made(Ioctl::MaxVcpus, || Ok(self.fd.get_max_vcpus()))?;
        if wanted as usize > max {
            Err(Error::TooManyVcpus { wanted, max })
        } else {
            Ok(())
        }
    }

    /// Creates a machine that will have `memory`, and as yet nothing: no slots, no processors, no
    /// interrupt controllers.
    ///
    /// # Errors
    /// The host's refusal; EBUSY means another hypervisor holds the processor.
    pub fn create_vm(&self, memory: Arc<GuestMemory>) -> Result<Vm, Error> {
        let fd = self.made(Ioctl::CreateVm, || self.fd.create_vm())?;
        Ok(Vm {
            fd,
            memory,
            files: Vec::new(),
            watch: self.watch.clone(),
        })
    }

    /// What KVM can offer a guest as CPUID.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.made(Ioctl::SupportedCpuid, || {
            self.fd.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        })
    }

    /// Whether the in-kernel local APIC has a TSC-deadline timer. Not part of the supported
    /// CPUID on every back end, although it works there.
    pub fn has_tsc_deadline(&self) -> bool {
        let has = || Ok(i32::from(self.fd.check_extension(Cap::TscDeadlineTimer)));
        matches!(self.made(Ioctl::HasTscDeadline, has), Ok(1))
    }
}

/// One machine.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    /// Dropped after `fd`: the guest must be gone before its memory.
    memory: Arc<GuestMemory>,
    /// Likewise.
    files: Vec<Arc<MappedFile>>,
    watch: Watch,
}

impl Vm {
    /// Lends guest RAM and files to the VM, a memory slot a range.
    ///
    /// # Errors
    /// The host's refusal, with the range.
    pub fn give_memory(&self) -> Result<(), Error> {
        for (slot, (range, flags)) in (0_u32..).zip(self.slots()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: range.start.0,
                memory_size: range.len,
                userspace_addr: range.host,
            };
            // SAFETY: 1. range.host is mapped for range.len bytes: GuestMemory or MappedFile made
            // it, and a slot that is not read-only is mapped writable. 2. The mapping outlives the
            // VM: Vm owns a share of it and closes `fd` first, and a Vcpu, whose descriptor keeps
            // the kernel's VM alive too, owns a share of its Vm. 3. Nobody holds a Rust reference
            // into guest RAM or the files; all access is by volatile copies.
            self.made(Ioctl::SetMemoryRegion(&region), || unsafe {
                self.fd.set_user_memory_region(region)
            })?;
        }
        Ok(())
    }

    /// Gives KVM the pages it needs on Intel processors that cannot run real mode by themselves.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn set_intel_pages(&self) -> Result<(), Error> {
        self.made(Ioctl::SetIdentityMap(KVM_IDENTITY_MAP.0), || {
            self.fd.set_identity_map_address(KVM_IDENTITY_MAP.0)
        })?;
        let tss = usize::try_from(KVM_TSS.0).unwrap_or(usize::MAX);
        self.made(Ioctl::SetTss(KVM_TSS.0), || self.fd.set_tss_address(tss))
    }

    /// Puts the local APICs into KVM and leaves the I/O APIC to us ("split irqchip").
    ///
    /// Why not KVM's full irqchip: docs/adr/0003. What either costs on this host: `make bench`.
    ///
    /// # Errors
    /// The host's refusal; EINVAL on kernels before 4.5, which cannot split.
    pub fn split_irqchip(&self) -> Result<(), Error> {
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        cap.args[0] = u64::from(IOAPIC_PINS);
        self.made(Ioctl::SplitIrqchip { pins: IOAPIC_PINS }, || {
            self.fd.enable_cap(&cap)
        })
    }

    /// Creates processor `id`; its local APIC gets the same number.
    ///
    /// # Errors
    /// The host's refusal, with the number.
    pub fn create_vcpu(self: &Arc<Self>, id: u32) -> Result<Vcpu, Error> {
        let fd = self.made(Ioctl::CreateVcpu(id), || self.fd.create_vcpu(u64::from(id)))?;
        Ok(Vcpu {
            fd,
            id,
            run_size: self.fd.run_size(),
            interrupted: false,
            vm: self.clone(),
        })
    }

    /// Delivers one message-signalled interrupt to the local APICs.
    ///
    /// Returns whether a local APIC took it: false means that no APIC matches the destination or
    /// that the guest masks it.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn signal_msi(&self, address: u64, data: u32) -> Result<bool, Error> {
        // The address is 32 bits plus, with x2APIC, high destination bits: two halves in the ABI.
        let [low, high] = halves(address);
        let msi = kvm_msi {
            address_lo: low,
            address_hi: high,
            data,
            ..Default::default()
        };
        self.made(Ioctl::SignalMsi { address, data }, || {
            self.fd.signal_msi(msi)
        })
        .map(|taken| taken > 0)
    }

    fn made<T: call::Answer>(
        &self,
        ioctl: Ioctl<'_>,
        call: impl FnOnce() -> Result<T, kvm_ioctls::Error>,
    ) -> Result<T, Error> {
        made(&self.watch, None, ioctl, call)
    }

    /// The kvm-ioctls handle, for code that needs a call this chapter does not wrap.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }
}

impl MsiSink for Vm {
    fn signal(&self, address: u64, data: u32) {
        // KVM refuses only messages that no local APIC could take; those a guest makes itself, by
        // programming nonsense into the I/O APIC, and like on hardware they are lost.
        let _lost = self.signal_msi(address, data);
    }
}

/// Low and high 32 bits.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// One processor.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    id: u32,
    /// Bytes mapped at the shared `kvm_run` page.
    run_size: usize,
    /// The last run was ended by a signal, and left `kvm_run` as it was.
    interrupted: bool,
    /// Dropped after `fd`; see [`Vm::give_memory`].
    vm: Arc<Vm>,
}

impl Vcpu {
    /// Sets what the CPUID instruction answers.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn set_cpuid(&self, cpuid: &CpuId) -> Result<(), Error> {
        self.made(Ioctl::SetCpuid(cpuid), || self.fd.set_cpuid2(cpuid))
    }

    /// Sets model-specific registers; returns how many KVM took before it met one it refuses.
    ///
    /// # Errors
    /// The host's refusal of the call as a whole.
    pub fn set_msrs(&self, msrs: &Msrs) -> Result<usize, Error> {
        self.made(Ioctl::SetMsrs(msrs), || self.fd.set_msrs(msrs))
    }

    /// General-purpose registers.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn regs(&self) -> Result<kvm_regs, Error> {
        self.made(Ioctl::GetRegs, || self.fd.get_regs())
    }

    /// Sets the general-purpose registers.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<(), Error> {
        self.made(Ioctl::SetRegs(regs), || self.fd.set_regs(regs))
    }

    /// Segments, control registers, tables.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn sregs(&self) -> Result<kvm_sregs, Error> {
        self.made(Ioctl::GetSregs, || self.fd.get_sregs())
    }

    /// Sets segments, control registers, tables.
    ///
    /// # Errors
    /// The host's refusal; EINVAL for a state the processor could not be in.
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<(), Error> {
        self.made(Ioctl::SetSregs(sregs), || self.fd.set_sregs(sregs))
    }

    /// Runs the guest until it needs us; [`Vcpu::exit`] says why it stopped.
    ///
    /// # Errors
    /// The host's refusal to run. A signal is no error: [`VmExit::Interrupted`].
    pub fn enter(&mut self) -> Result<(), Error> {
        self.interrupted = match self.fd.run() {
            Ok(_) => false,
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => true,
            Err(e) => return Err(call::failed(&Ioctl::Run, e)),
        };
        Ok(())
    }

    /// Why the guest has stopped; the same answer until it is entered again.
    ///
    /// An `in` or MMIO read is answered by writing into the exit's slice; KVM hands the bytes to
    /// the guest when it is run again.
    pub fn exit(&mut self) -> VmExit<'_> {
        if self.interrupted {
            return VmExit::Interrupted;
        }
        // kvm-ioctls' own decoding drops the size of a port access; ours keeps it.
        exit::decode(self.fd.get_kvm_run(), self.run_size)
    }

    /// Runs the guest and says why it stopped: [`Vcpu::enter`] and [`Vcpu::exit`].
    ///
    /// # Errors
    /// As [`Vcpu::enter`].
    pub fn run(&mut self) -> Result<VmExit<'_>, Error> {
        self.enter()?;
        Ok(self.exit())
    }

    fn made<T: call::Answer>(
        &self,
        ioctl: Ioctl<'_>,
        call: impl FnOnce() -> Result<T, kvm_ioctls::Error>,
    ) -> Result<T, Error> {
        made(&self.vm.watch, Some(self.id), ioctl, call)
    }

    /// The kvm-ioctls handle, for tools that need a call this chapter does not wrap.
    pub fn fd(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }
}
