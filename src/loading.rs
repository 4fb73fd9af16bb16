//! What lies in guest memory when the guest starts: kernel, initramfs, tables, boot information.
//!
//! The step of [`crate::machine`] that touches guest memory and no KVM. Formats and protocols are
//! [`crate::boot`]'s, tables [`crate::platform`]'s; here they are put together.
//! Read next: [`crate::bundle`].

use crate::boot::blob::{self, Blob};
use crate::boot::initramfs::{Initramfs, InitramfsRange};
use crate::boot::{self, LoadedKernel};
use crate::bundle::{self, Bundle};
use crate::config::{Source, VmConfig};
use crate::event_loop::GuestEnd;
use crate::guest_request::{self, HostConsole, INIT_PARAMETER, INIT_PATH, REQUEST_PATH};
use crate::memory::layout::MP_TABLE;
use crate::memory::{self, GuestMemory};
use crate::platform;
use crate::timeline::{Stage, Timeline};
use crate::vcpu::entry_state::EntryState;
use crate::virtio::attach;

/// Why the guest could not be loaded; each of these is the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program file carries no guest, or a damaged one.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// `--kernel` does not open.
    #[error("Cannot use --kernel")]
    KernelFile(#[source] blob::Error),
    /// `--initramfs` does not open.
    #[error("Cannot use --initramfs")]
    InitramfsFile(#[source] blob::Error),
    /// The kernel or initramfs is not loadable, or does not fit.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// The initramfs cannot be used.
    #[error(transparent)]
    Initramfs(#[from] boot::initramfs::Error),
    /// The ACPI tables do not fit.
    #[error(transparent)]
    Acpi(#[from] platform::acpi::Error),
    /// A table falls outside guest memory.
    #[error(transparent)]
    Memory(#[from] memory::guest::Error),
}

/// Fills guest memory as `config` says and returns the state to enter it with; `timeline` gets
/// the instants between.
///
/// # Errors
/// [`Error`], naming the flag or file.
pub fn fill(
    memory: &GuestMemory,
    config: &VmConfig,
    timeline: &Timeline,
) -> Result<EntryState, Error> {
    let sources = Sources::open(config)?;
    let kernel = boot::load_kernel(&sources.kernel, &config.boot, memory)?;
    timeline.note(Stage::KernelLoaded);
    let initramfs = load_initramfs(&sources, config, &kernel, memory)?;
    timeline.note(Stage::InitramfsLoaded);
    let acpi = platform::acpi::build(config.vcpus, &attach::in_acpi(config.virtio_devices()))?;
    memory.write(acpi.rsdp, &acpi.bytes)?;
    let lines = platform::lines(config.virtio_devices());
    memory.write(MP_TABLE, &platform::mptable::build(config.vcpus, &lines))?;
    // In front: what stands behind a user's `--` is not the kernel's.
    let mut cmdline = attach::on_cmdline(config.virtio_devices()) + &config.cmdline;
    if guest_request::needs_init(config) {
        cmdline = format!("{cmdline} {INIT_PARAMETER}");
    }
    let info = boot::write_boot_info(
        memory,
        &kernel,
        cmdline.as_bytes(),
        Some(initramfs),
        Some(acpi.rsdp),
    )?;
    let entry = EntryState::new(kernel.protocol, kernel.entry, info);
    entry.write_tables(memory)?;
    timeline.note(Stage::TablesWritten);
    Ok(entry)
}

/// The files to load, open.
struct Sources {
    kernel: Blob,
    initramfs: Blob,
    /// Our init, if the initramfs is the user's and needs it.
    init: Option<Blob>,
}

impl Sources {
    fn open(config: &VmConfig) -> Result<Self, Error> {
        let mut bundle = None;
        let kernel = match &config.kernel {
            Source::BuiltIn => opened(&mut bundle)?.kernel(config.virtio_devices() > 0)?,
            Source::File(path) => Blob::open(path).map_err(Error::KernelFile)?,
        };
        let initramfs = match &config.initramfs {
            Source::BuiltIn => opened(&mut bundle)?.initramfs()?,
            Source::File(path) => Blob::open(path).map_err(Error::InitramfsFile)?,
        };
        let init = if guest_request::needs_init(config) {
            Some(opened(&mut bundle)?.init()?)
        } else {
            None
        };
        Ok(Self {
            kernel,
            initramfs,
            init,
        })
    }
}

/// The program's own sections, read when first asked for.
fn opened(bundle: &mut Option<Bundle>) -> Result<&Bundle, bundle::Error> {
    match bundle {
        Some(bundle) => Ok(bundle),
        absent => Ok(absent.insert(Bundle::open()?)),
    }
}

/// Puts the initramfs, with the request to our init behind it, above the kernel.
fn load_initramfs(
    sources: &Sources,
    config: &VmConfig,
    kernel: &LoadedKernel,
    memory: &GuestMemory,
) -> Result<InitramfsRange, Error> {
    let mut request = guest_request::request(
        &config.command,
        &config.nets,
        &config.shares,
        &HostConsole::of_this_process(config.virtio_console),
    );
    request.extend(guest_request::request_ports(&config.ports));
    let mut archive = Initramfs::new();
    archive.archive(&sources.initramfs)?;
    if guest_request::guest_end(config) == GuestEnd::OurInit {
        archive.directory(".cottage", 0o755)?;
        archive.file(REQUEST_PATH, 0o644, &request)?;
        if let Some(init) = &sources.init {
            archive.file_from_blob(INIT_PATH, 0o755, init)?;
        }
        archive.finish()?;
    }
    Ok(boot::place_initramfs(&archive, kernel, memory)?)
}
