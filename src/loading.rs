//! What lies in guest memory when the guest starts: kernel, initramfs, tables, boot information.
//!
//! The step of [`crate::machine`] that touches guest memory and no KVM. Formats and protocols are
//! [`crate::boot`]'s, tables [`crate::platform`]'s; here they are put together.
//! Read next: [`crate::bundle`].

use std::path::{Path, PathBuf};

use crate::boot::blob::{self, Blob};
use crate::boot::initramfs::{Initramfs, InitramfsRange};
use crate::boot::pack::{Packed, pack};
use crate::boot::{self, LoadedKernel};
use crate::bundle::{self, Bundle};
use crate::config::rootfs::Root;
use crate::config::{Source, VmConfig};
use crate::console::words::say;
use crate::guest_request::{
    self, HostConsole, INIT_PARAMETER, INIT_PATH, MODULES_PATH, REQUEST_PATH, ROOT_PATH,
};
use crate::memory::layout::MP_TABLE;
use crate::memory::{self, GuestMemory};
use crate::modules;
use crate::platform;
use crate::timeline::{Stage, Timeline};
use crate::vcpu::entry_state::EntryState;
use crate::virtio::attach;

/// Memory for the kernel's own needs and a few programs, beside a root in memory.
const ROOM: u64 = 32 << 20; // 32 MiB
/// Linux describes each page of 4096 bytes by 64 of its own; the double of that is enough for tables
/// that grow with memory.
const PAGE_TABLES: u64 = 32;

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
    /// The root's directory is too large for the guest's memory.
    #[error(
        "Cannot put --rootfs {} into {} MiB of guest memory: its {names} files take {} MiB, three \
         times that to be unpacked; --memory {needed_mib}M would do, or an image of them, which \
         needs no memory: mke2fs -t ext4 -d {} root.img 1G",
        directory.display(), memory >> 20, unpacked.div_ceil(1 << 20), directory.display()
    )]
    RootTooLarge {
        /// As given.
        directory: PathBuf,
        /// Files, directories and links in it.
        names: u64,
        /// Bytes they take.
        unpacked: u64,
        /// Guest memory.
        memory: u64,
        /// What would do.
        needed_mib: u64,
    },
    /// The kernel's modules are not to be had.
    #[error(transparent)]
    Modules(#[from] modules::Error),
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

/// Puts the initramfs above the kernel, with what our init needs behind it.
fn load_initramfs(
    sources: &Sources,
    config: &VmConfig,
    kernel: &LoadedKernel,
    memory: &GuestMemory,
) -> Result<InitramfsRange, Error> {
    let mut archive = Initramfs::new();
    archive.archive(&sources.initramfs)?;
    if !guest_request::starts_our_init(config) {
        return Ok(boot::place_initramfs(&archive, kernel, memory)?);
    }
    archive.directory(".cottage", 0o755)?;
    let modules = add_modules(config, kernel, &mut archive)?;
    let console = HostConsole::of_this_process(config.virtio_console);
    let request = guest_request::request(config, &modules, &console);
    archive.file(REQUEST_PATH, 0o644, &request)?;
    if let Some(init) = &sources.init {
        archive.file_from_blob(INIT_PATH, 0o755, init)?;
    }
    if let Some(Root::Directory(directory)) = &config.root {
        let packed = pack(directory, ROOT_PATH, &mut archive)?;
        check_room(directory, &packed, (kernel, archive.len()), memory)?;
    }
    archive.finish()?;
    Ok(boot::place_initramfs(&archive, kernel, memory)?)
}

/// Adds the modules that the devices need; returns their names in the archive.
fn add_modules(
    config: &VmConfig,
    kernel: &LoadedKernel,
    archive: &mut Initramfs<'_>,
) -> Result<Vec<String>, Error> {
    let (directory, modules) = modules::collect(config, kernel.version.as_deref())?;
    if modules.is_empty() {
        return Ok(Vec::new());
    }
    if config.modules.is_none() {
        // Nobody asked for these files: whose they are should be known.
        say(&format!("using kernel modules of {}", directory.display()));
    }
    archive.directory(MODULES_PATH, 0o755)?;
    let mut paths = Vec::with_capacity(modules.len());
    for module in modules {
        let path = format!("{MODULES_PATH}/{}.ko", module.name);
        archive.file(&path, 0o644, &module.bytes)?;
        paths.push(path);
    }
    Ok(paths)
}

/// Refuses a root that the guest's kernel could not unpack, before it panics over that.
///
/// It unpacks into a tmpfs, which takes half of the memory that the kernel, its tables of pages and the
/// archive leave.
fn check_room(
    directory: &Path,
    packed: &Packed,
    (kernel, archive): (&LoadedKernel, u64),
    memory: &GuestMemory,
) -> Result<(), Error> {
    let needed = [
        kernel.end.0,
        archive,
        packed.unpacked,
        packed.unpacked,
        ROOM,
    ]
    .into_iter()
    .fold(0_u64, u64::saturating_add);
    let needed = needed.saturating_add(needed / PAGE_TABLES);
    if needed <= memory.size() {
        return Ok(());
    }
    Err(Error::RootTooLarge {
        directory: directory.to_owned(),
        names: packed.names,
        unpacked: packed.unpacked,
        memory: memory.size(),
        needed_mib: needed.div_ceil(1 << 20), // 1 MiB
    })
}
