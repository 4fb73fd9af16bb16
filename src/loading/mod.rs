//! What lies in guest memory when the guest starts: kernel, initramfs, tables, boot information.
//!
//! The step of [`crate::machine`] that touches guest memory and no KVM. Formats and protocols are
//! [`crate::boot`]'s, tables [`crate::platform`]'s; here they are put together.
//! Read next: [`mod@sources`].

pub mod sources;
pub mod initramfs;

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use vm_memory::GuestAddress;

use crate::boot::blob::{self, Blob};
use crate::boot::initramfs::InitramfsRange;
use crate::boot::load::Onlooker;
use crate::boot::{self, Nature, Protocol, multiboot};
use crate::bundle::{self, Bundle};
use crate::config::{Irqchip, Source, VmConfig};
use crate::event_loop::GuestEnd;
use crate::guest_request::{self, INIT_PARAMETER};
use crate::memory::layout::{
    ACPI_TABLES, BIOS_DATA, BOOT_GDT, CMDLINE, MP_TABLE, MULTIBOOT_INFO_MAX_SIZE, PAGE_DIRECTORIES,
    PAGE_DIRECTORIES_SIZE, PML4,
};
use crate::memory::{self, GuestMemory};
use crate::modules;
use crate::platform;
use crate::timeline::{Stage, Timeline};
use crate::vcpu::cpuid;
use crate::vcpu::entry_state::{EntryState, GDT_BYTES};
use crate::virtio::attach;
use crate::watch::Placed;
use sources::Sources;

/// What a Linux is told on a processor that QEMU emulates: its tick goes on while it idles.
///
/// Linux idles by `sti; hlt`, for which `sti` holds interrupts back for one instruction more. If the
/// guest is left between the two, QEMU's SVM forgets that when it enters it again (`helper_vmrun` does
/// not read the VMCB's interrupt shadow, QEMU 7.2), and an interrupt is served before the `hlt`. Then
/// nothing ends that: a guest without a tick sleeps until another timer, if there is one.
const TICK_IN_IDLE: &str = "nohz=off ";

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
    /// A `--module` does not open.
    #[error("Cannot use --module")]
    ModuleFile(#[source] blob::Error),
    /// Modules for a kernel that does not look for any.
    #[error(
        "Cannot give {0} a --module: modules are for multiboot kernels, and it is none; an initramfs is \
         given by --initramfs"
    )]
    NoUseForModules(String),
    /// A command for a kernel that has no init of ours.
    #[error(
        "Cannot run a command in {0}: it is no Linux, and nobody in it reads the words behind `--`; what a \
         kernel is to know is given by --cmdline"
    )]
    NobodyRuns(String),
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

/// The kernel that a machine is built around: what it is decides what else there must be.
#[derive(Debug)]
pub struct Kernel {
    /// Its file; the built-in one is opened while the machine is made.
    file: Option<Blob>,
    nature: Nature,
}

impl Kernel {
    /// Opens the user's kernel and looks at its first bytes. The built-in one is known.
    ///
    /// # Errors
    /// [`Error`], also for flags that are no use with such a kernel.
    pub fn look(config: &VmConfig) -> Result<Self, Error> {
        let asked = config.boot.protocol;
        match &config.kernel {
            Source::BuiltIn if asked == Some(Protocol::Multiboot) => {
                Self::of(Bundle::open()?.kernel(false)?, config)
            }
            Source::BuiltIn => {
                let kernel = Self {
                    file: None,
                    nature: Nature::Linux,
                };
                kernel.suits("the built-in kernel", config)
            }
            Source::File(path) => {
                let file = Blob::open(path).map_err(Error::KernelFile)?;
                Self::of(file, config)
            }
        }
    }

    /// Looks at the first bytes of a kernel that is open.
    ///
    /// # Errors
    /// [`Error`], also for flags that are no use with such a kernel.
    pub fn of(kernel: Blob, config: &VmConfig) -> Result<Self, Error> {
        let asked = config.boot.protocol;
        let name = kernel.name().to_owned();
        let (file, nature) = boot::choose(kernel, asked)?;
        let kernel = Self {
            file: Some(file),
            nature,
        };
        kernel.suits(&name, config)
    }

    /// Whether it has a use for the modules or the command it is given.
    fn suits(self, name: &str, config: &VmConfig) -> Result<Self, Error> {
        let name = || name.to_owned();
        match self.nature {
            Nature::Linux | Nature::BareMetal(_) if !config.multiboot_modules.is_empty() => {
                Err(Error::NoUseForModules(name()))
            }
            Nature::Multiboot(_) | Nature::BareMetal(_) if !config.command.is_empty() => {
                Err(Error::NobodyRuns(name()))
            }
            _ => Ok(self),
        }
    }

    /// Which interrupt controllers are in KVM: as asked for, or as such a kernel expects.
    pub fn irqchip(&self, config: &VmConfig) -> Irqchip {
        config.irqchip.unwrap_or(match self.nature {
            Nature::Linux => Irqchip::Split,
            Nature::BareMetal(_) | Nature::Multiboot(_) => Irqchip::Full,
        })
    }

    /// Whether it is one, or claims to be.
    pub fn is_linux(&self) -> bool {
        self.nature == Nature::Linux
    }

    /// Who is at the other end of the serial line.
    pub fn guest_end(&self, config: &VmConfig) -> GuestEnd {
        match self.nature {
            Nature::Linux => guest_request::guest_end(config),
            Nature::BareMetal(_) | Nature::Multiboot(_) => GuestEnd::Foreign,
        }
    }
}

/// Fills guest memory as `config` says and returns the state to enter it with; `timeline` gets
/// the instants between.
///
/// # Errors
/// [`Error`], naming the flag or file.
pub fn fill(
    memory: &GuestMemory,
    config: &VmConfig,
    kernel: Kernel,
    timeline: &Timeline,
) -> Result<EntryState, Error> {
    let filled = fill_seen(memory, config, kernel, (timeline, &mut |_unpacked| {}))?;
    Ok(filled.entry)
}

/// What was laid into guest memory, and where.
#[derive(Clone, Debug)]
pub struct Filled {
    /// The state to enter it with.
    pub entry: EntryState,
    /// Which protocol asks for that state.
    pub protocol: Protocol,
    /// Where what the kernel is told lies: zero page, start info or multiboot information.
    pub info: GuestAddress,
    /// The kernel, with the memory that it needs before it knows its memory map.
    pub kernel: Range<u64>,
    /// The initramfs; a multiboot kernel has modules instead.
    pub initramfs: Option<InitramfsRange>,
    /// How much of it is the file that was given; the rest is cottage's.
    pub given: u64,
}

/// The same, with somebody who looks on while the kernel is unpacked, and with more to say.
///
/// # Errors
/// As [`fill`].
pub fn fill_seen(
    memory: &GuestMemory,
    config: &VmConfig,
    kernel: Kernel,
    (timeline, seen): (&Timeline, Onlooker<'_>),
) -> Result<Filled, Error> {
    let chip = kernel.irqchip(config);
    let nature = kernel.nature;
    let sources = Sources::open(config, kernel)?;
    let told = (timeline, seen);
    let filled = match nature {
        Nature::Multiboot(header) => load_multiboot(&sources, &header, config, memory, timeline)?,
        Nature::Linux => load_linux(&sources, (config, None), memory, told)?,
        Nature::BareMetal(entry) => load_linux(&sources, (config, entry), memory, told)?,
    };
    write_platform_tables(memory, config, chip, timeline)?;
    if nature != Nature::Linux {
        memory.write(BIOS_DATA, &platform::bios_data::build())?;
    }
    filled.entry.write_tables(memory)?;
    placed(
        timeline,
        "boot GDT",
        (BOOT_GDT.0, GDT_BYTES),
        "null, unused, code, data, task state",
    );
    if filled.protocol == Protocol::Linux64 {
        let tables = (PML4.0, PAGE_DIRECTORIES.0 + PAGE_DIRECTORIES_SIZE - PML4.0);
        placed(
            timeline,
            "page tables",
            tables,
            "0x0..0x100000000 one to one, in 2 MiB pages",
        );
    }
    timeline.note(Stage::TablesWritten);
    Ok(filled)
}

/// A Linux, or what is entered as one, perhaps by a protocol of its own.
fn load_linux(
    sources: &Sources,
    (config, entry): (&VmConfig, Option<Protocol>),
    memory: &GuestMemory,
    (timeline, seen): (&Timeline, Onlooker<'_>),
) -> Result<Filled, Error> {
    let options = boot::Options {
        protocol: config.boot.protocol.or(entry),
        ..config.boot
    };
    let kernel = boot::load_seen(&sources.kernel, (&options, seen), memory)?;
    let range = (kernel.start.0, kernel.end.0.saturating_sub(kernel.start.0));
    placed(timeline, "kernel", range, &kernel.summary);
    timeline.note(Stage::KernelLoaded);
    let initramfs = match &sources.initramfs {
        Some(given) => Some(initramfs::load(given, (sources, config), &kernel, memory)?),
        None => None,
    };
    if let Some(range) = &initramfs {
        placed(
            timeline,
            "initramfs",
            (range.start.0, range.len),
            "a cpio archive",
        );
    }
    timeline.note(Stage::InitramfsLoaded);
    // In front: what stands behind a user's `--` is not the kernel's.
    let mut cmdline = attach::on_cmdline(config.virtio_devices()) + &config.cmdline;
    if cpuid::host_is_tcg() {
        cmdline.insert_str(0, TICK_IN_IDLE);
    }
    if sources.init.is_some() {
        cmdline = format!("{cmdline} {INIT_PARAMETER}");
    }
    if sources.bare {
        // Neither our words nor those about devices mean anything to what is no Linux.
        cmdline.clone_from(&config.foreign_cmdline);
    }
    let rsdp = Some(ACPI_TABLES);
    let info = boot::write_boot_info(memory, &kernel, cmdline.as_bytes(), initramfs, rsdp)?;
    placed(
        timeline,
        "command line",
        (CMDLINE.0, cmdline.len() as u64 + 1),
        &cmdline,
    );
    let what = match kernel.protocol {
        Protocol::Pvh => "PVH start info",
        _ => "zero page",
    };
    placed(
        timeline,
        what,
        (info.0, 0x1000),
        "memory map; where command line and initramfs are",
    );
    Ok(Filled {
        entry: EntryState::new(kernel.protocol, kernel.entry, info),
        protocol: kernel.protocol,
        info,
        kernel: kernel.start.0..kernel.end.0,
        initramfs,
        given: sources.initramfs.as_ref().map_or(0, Blob::len),
    })
}

/// A multiboot kernel with its modules.
fn load_multiboot(
    sources: &Sources,
    header: &multiboot::Header,
    config: &VmConfig,
    memory: &GuestMemory,
    timeline: &Timeline,
) -> Result<Filled, Error> {
    let (kernel, modules) = (&sources.kernel, &sources.modules);
    let mut cmdline = match &config.kernel {
        Source::File(path) => path.as_os_str().as_bytes().to_vec(),
        Source::BuiltIn => kernel.name().into(),
    };
    if !config.foreign_cmdline.is_empty() {
        cmdline.push(b' ');
        cmdline.extend_from_slice(config.foreign_cmdline.as_bytes());
    }
    let loaded = multiboot::load(kernel, header, modules, &cmdline, memory);
    let loaded = loaded.map_err(|source| boot::Error::Multiboot {
        name: kernel.name().to_owned(),
        source,
    })?;
    placed(
        timeline,
        "multiboot kernel",
        (loaded.entry.0, 0),
        "entered here; length not kept",
    );
    placed(
        timeline,
        "multiboot information",
        (loaded.info.0, MULTIBOOT_INFO_MAX_SIZE),
        "",
    );
    timeline.note(Stage::KernelLoaded);
    timeline.note(Stage::InitramfsLoaded);
    Ok(Filled {
        entry: EntryState::new(Protocol::Multiboot, loaded.entry, loaded.info),
        protocol: Protocol::Multiboot,
        info: loaded.info,
        kernel: loaded.start.0..loaded.end.0,
        initramfs: None,
        given: 0,
    })
}

/// What the machine says of itself: ACPI tables and the MP table.
fn write_platform_tables(
    memory: &GuestMemory,
    config: &VmConfig,
    chip: Irqchip,
    timeline: &Timeline,
) -> Result<(), Error> {
    let devices = attach::in_acpi(config.virtio_devices());
    let acpi = platform::acpi::build(config.vcpus, chip, &devices)?;
    memory.write(acpi.rsdp, &acpi.bytes)?;
    let lines = platform::lines(chip, config.virtio_devices());
    let mp = platform::mptable::build(config.vcpus, &lines);
    memory.write(MP_TABLE, &mp)?;
    let more = "processors, I/O APIC, devices, for kernels with ACPI";
    placed(
        timeline,
        "ACPI tables",
        (acpi.rsdp.0, acpi.bytes.len() as u64),
        more,
    );
    let more = "the same for kernels without";
    placed(timeline, "MP table", (MP_TABLE.0, mp.len() as u64), more);
    Ok(())
}

/// Tells who looks on what lies at `at`, so many bytes.
fn placed(timeline: &Timeline, what: &'static str, (at, len): (u64, u64), more: &str) {
    let placed = Placed {
        what,
        at,
        len,
        more,
    };
    timeline.watch().each(|by| by.placed(&placed));
}

