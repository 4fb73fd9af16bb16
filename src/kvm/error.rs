//! What can go wrong with KVM.
//!
//! Read next: [`super::call`].

use std::io;
use std::path::PathBuf;

/// A KVM call that the host refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/kvm` does not open.
    #[error("Cannot open /dev/kvm")]
    Open(#[source] io::Error),
    /// The API is not the one every Linux since 2.6.22 has.
    #[error("Cannot use /dev/kvm")]
    ApiVersion {
        /// What the host answered.
        found: i32,
    },
    /// One ioctl failed.
    #[error("{ioctl} failed{detail}")]
    Ioctl {
        /// Its name in `[kvm]`.
        ioctl: &'static str,
        /// What it was about, with a leading space, or empty.
        detail: String,
        /// The host's answer.
        source: io::Error,
    },
    /// More vCPUs than this host's KVM runs in one VM.
    #[error("This host's KVM runs at most {max} vCPUs in one VM, {wanted} were asked for")]
    TooManyVcpus {
        /// vCPUs asked for.
        wanted: u32,
        /// What KVM_CAP_MAX_VCPUS says.
        max: usize,
    },
    /// Guest RAM would lie beyond the addresses that this host's processor has.
    #[error(
        "This host's processor has {bits} bits of physical address, which leaves a guest at most \
         {max_mib} MiB of memory, {wanted_mib} MiB were asked for"
    )]
    TooMuchMemory {
        /// Guest RAM asked for.
        wanted_mib: u64,
        /// Width of a physical address.
        bits: u32,
        /// The most that lies below its end.
        max_mib: u64,
    },
    /// A file would end above the last address.
    #[error(
        "--pmem {path:?} would end at {end:#x}, and this host's processor has {bits} bits of physical \
         address"
    )]
    FileBeyond {
        /// The file.
        path: PathBuf,
        /// Its end in guest memory.
        end: u64,
        /// Width of a physical address.
        bits: u32,
    },
}
