//! What `cottage doctor` knows about a machine: plain data, no judgement.
//!
//! [`mod@super::gather`] fills it, [`mod@super::diagnose`] judges it. `None` mostly means
//! "could not be read"; a fact that cannot be read never becomes a finding by itself.
//! Read next: [`mod@super::gather`].

/// Everything the diagnosis looks at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The node `/dev/kvm`; `None` if there is none.
    pub device: Option<Device>,
    /// What KVM says of itself, or the errno with which `/dev/kvm` did not open.
    pub kvm: Result<Kvm, i32>,
    /// The processor.
    pub cpu: Cpu,
    /// KVM in the host kernel.
    pub modules: Modules,
    /// Whose process this is.
    pub user: User,
    /// What kind of container this process lives in, if it shows.
    pub container: Option<&'static str>,
    /// Memory and other resources.
    pub resources: Resources,
}

/// A device node and who may open it.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// Whether it is the character device 10:232, as it must be.
    pub is_kvm: bool,
    /// Permission bits.
    pub mode: u32,
    /// Owning group.
    pub gid: u32,
    /// Its name in `/etc/group`.
    pub group: Option<String>,
    /// Whether `/etc/group` lists this user in that group.
    pub group_lists_user: bool,
}

impl Facts {
    /// Whether `/dev/kvm` opens and is what its name says.
    pub fn kvm_opens(&self) -> bool {
        let is_kvm = self.device.as_ref().is_none_or(|device| device.is_kvm);
        self.kvm.is_ok() && is_kvm
    }
}

/// What KVM answers once `/dev/kvm` is open.
#[derive(Clone, Debug)]
pub struct Kvm {
    /// KVM_GET_API_VERSION.
    pub api_version: i32,
    /// Capabilities cottage cannot do without and KVM does not have.
    pub missing: Vec<&'static str>,
    /// Capabilities that make guests faster and KVM does not have.
    pub missed: Vec<&'static str>,
    /// Most vCPUs in one VM.
    pub max_vcpus: usize,
    /// Whether a VM could be created; the errno if not.
    pub create_vm: Result<(), i32>,
}

/// What `/proc/cpuinfo` says of the first processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// GenuineIntel: its KVM module is kvm_intel, otherwise kvm_amd.
    pub intel: bool,
    /// Flag `vmx`: Intel's virtualization, usable.
    pub vmx: bool,
    /// Flag `svm`: AMD's virtualization, usable.
    pub svm: bool,
    /// Flag `hypervisor`: this machine is itself a guest.
    pub hypervisor: bool,
}

impl Cpu {
    /// Whether the processor can run guests by itself.
    pub fn virtualizes(self) -> bool {
        self.vmx || self.svm
    }

    /// The kernel module that drives this processor's virtualization.
    pub fn module(self) -> &'static str {
        if self.intel { "kvm_intel" } else { "kvm_amd" }
    }
}

/// Which parts of KVM the host kernel has; from `/sys/module`.
#[derive(Clone, Debug, Default)]
pub struct Modules {
    /// The common part, `kvm`.
    pub kvm: bool,
    /// `kvm_intel`.
    pub intel: bool,
    /// `kvm_amd`.
    pub amd: bool,
    /// `kvm_pvm`, which needs nothing from the processor.
    pub pvm: bool,
    /// Parameters that slow guests down as they are set, such as `kvm_intel.ept=N`.
    pub slow: Vec<String>,
}

/// The user as the kernel and as `/etc` know them.
#[derive(Clone, Debug, Default)]
pub struct User {
    /// Effective user id.
    pub uid: Option<u32>,
    /// Name in `/etc/passwd`.
    pub name: Option<String>,
    /// Effective and supplementary group ids of this process.
    pub groups: Vec<u32>,
}

/// What guests consume.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// Memory the host can give without swapping, in bytes.
    pub memory_available: Option<u64>,
    /// The choice in transparent_hugepage/enabled: always, madvise or never.
    pub huge_pages: Option<String>,
    /// The choice in transparent_hugepage/shmem_enabled.
    pub huge_pages_shared: Option<String>,
    /// Whether `/dev/net/tun` is there.
    pub tun: bool,
    /// Soft limit of address space in bytes; `None` if unlimited.
    pub address_space: Option<u64>,
    /// Soft limit of open files; `None` if unlimited.
    pub open_files: Option<u64>,
}

/// Machines to diagnose.
#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A laptop with everything in order.
    pub(in crate::doctor) fn healthy() -> Facts {
        Facts {
            device: Some(Device {
                is_kvm: true,
                mode: 0o660,
                gid: 104,
                group: Some("kvm".to_owned()),
                group_lists_user: true,
            }),
            kvm: Ok(Kvm {
                api_version: 12,
                missing: Vec::new(),
                missed: Vec::new(),
                max_vcpus: 1024,
                create_vm: Ok(()),
            }),
            cpu: Cpu {
                intel: true,
                vmx: true,
                ..Cpu::default()
            },
            modules: Modules {
                kvm: true,
                intel: true,
                ..Modules::default()
            },
            user: User {
                uid: Some(1000),
                name: Some("ada".to_owned()),
                groups: vec![1000, 104],
            },
            container: None,
            resources: Resources {
                memory_available: Some(8 << 30),
                huge_pages: Some("madvise".to_owned()),
                huge_pages_shared: Some("never".to_owned()),
                tun: true,
                address_space: None,
                open_files: Some(1024),
            },
        }
    }

    /// The healthy machine's KVM, for changing an answer.
    pub(in crate::doctor) fn kvm_of(facts: &mut Facts) -> &mut Kvm {
        facts.kvm.as_mut().unwrap()
    }

    /// A virtual machine whose KVM is PVM.
    pub(in crate::doctor) fn pvm() -> Facts {
        let mut facts = healthy();
        facts.cpu = Cpu {
            intel: true,
            hypervisor: true,
            ..Cpu::default()
        };
        facts.modules = Modules {
            kvm: true,
            pvm: true,
            ..Modules::default()
        };
        facts
    }

    /// The healthy machine before its KVM was set up: no module, no node.
    pub(in crate::doctor) fn without_device() -> Facts {
        let mut facts = healthy();
        facts.device = None;
        facts.kvm = Err(libc::ENOENT);
        facts.modules = Modules::default();
        facts
    }

    /// The healthy machine whose user is not in the group.
    pub(in crate::doctor) fn without_permission() -> Facts {
        let mut facts = healthy();
        facts.kvm = Err(libc::EACCES);
        facts.user.groups = vec![1000];
        if let Some(device) = &mut facts.device {
            device.group_lists_user = false;
        }
        facts
    }
}
