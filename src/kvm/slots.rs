//! What of the host's memory a guest gets: RAM, and files beside it.
//!
//! All of it is known before the VM is; KVM is told in one go ([`Vm::give_memory`]). A file that the
//! guest may only read gets a read-only slot: what the guest writes there all the same is an exit,
//! as for a device, and no device answers.
//!
//! Source: `[kvm]` section 4.35, "KVM_SET_USER_MEMORY_REGION", KVM_MEM_READONLY.
//! Read next: [`super::irqchip`].

use std::sync::Arc;

use kvm_bindings::KVM_MEM_READONLY;

use super::{Error, Vm};
use crate::memory::guest::RamRange;
use crate::memory::layout::max_memory;
use crate::memory::mapped::MappedFile;

impl Vm {
    /// Adds files that the guest will have beside its RAM.
    #[must_use]
    pub fn with_files(mut self, files: Vec<Arc<MappedFile>>) -> Self {
        self.files = files;
        self
    }

    /// Succeeds if a processor with `bits` of physical address reaches all of guest RAM.
    ///
    /// KVM may take a memory slot at any address; the guest would then fault on it.
    ///
    /// # Errors
    /// [`Error::TooMuchMemory`] with all three numbers.
    pub fn check_memory(&self, bits: u32) -> Result<(), Error> {
        let (wanted, max) = (self.memory.size(), max_memory(bits));
        if wanted > max {
            return Err(Error::TooMuchMemory {
                wanted_mib: wanted >> 20,
                bits,
                max_mib: max >> 20,
            });
        }
        let end = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
        let beyond = |file: &&Arc<MappedFile>| file.end() > end;
        match self.files.iter().find(beyond) {
            Some(file) => Err(Error::FileBeyond {
                path: file.path().to_owned(),
                end: file.end(),
                bits,
            }),
            None => Ok(()),
        }
    }

    /// The memory slots: which range, and KVM's flags for it.
    pub(super) fn slots(&self) -> impl Iterator<Item = (RamRange, u32)> {
        let ram = self.memory.ram().into_iter().map(|range| (range, 0));
        let files = self.files.iter().map(|file| {
            let range = RamRange {
                start: file.start(),
                len: file.len(),
                host: file.host(),
            };
            let flags = if file.writable() { 0 } else { KVM_MEM_READONLY };
            (range, flags)
        });
        ram.chain(files)
    }
}
