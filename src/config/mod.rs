//! Chapter 1, second half: from raw flags to a valid machine description.
//!
//! All refusals that need no file and no KVM are here, and those of `--rootfs`. After this point no value is checked
//! again and no `Option` stands for a default.
//! Read next: [`values`].

pub mod values;
pub mod disk;
pub mod net;
pub mod vsock;
pub mod port;
pub mod balloon;
pub mod console;
pub mod share;
pub mod pmem;
pub mod rootfs;
pub mod module;
pub mod irqchip;
pub mod gdb;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::boot::{self, Protocol, Unpack};
use crate::cli::{MachineArgs, ProtocolArg, UnpackArg};
use crate::guest_request;
use crate::memory::layout::{MAX_MEMORY, MIN_MEMORY, VIRTIO_SLOTS};
use console::{ConsoleArg, VIRTIO_CMDLINE};
use disk::Disk;
pub use irqchip::Irqchip;
use module::Module;
use net::{Address, Net};
use pmem::Pmem;
use port::Port;
use rootfs::Root;
use share::Share;
use values::{cmdline, parse_cpus, parse_memory, parse_port, words};
use vsock::Vsock;

/// What cottage tells a kernel unless told otherwise: talk on the serial port, reset by the
/// i8042 (the first thing `reboot` tries then ends the run), reset at once after a panic, and
/// print only what matters (each byte is a VM exit).
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 quiet";

/// More vCPUs than xAPIC ids can name: 0 to 254, 255 is the broadcast.
const MAX_VCPUS: u32 = 255;
/// Guest memory comes in pages.
const PAGE: u64 = 4096;

/// A mistake in a flag's value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `--memory` is not a number with a unit.
    #[error(
        "--memory {value:?} is not a size: give a whole number and a unit, such as 128M or 2G{hint}"
    )]
    MemoryFormat {
        /// What was given.
        value: String,
        /// What was probably meant, or empty.
        hint: String,
    },
    /// `--memory` is out of range.
    #[error("--memory {value} is {what}: a guest can have {} MiB to {} GiB", MIN_MEMORY >> 20, MAX_MEMORY >> 30)]
    MemoryRange {
        /// What was given.
        value: String,
        /// Too small or too large.
        what: &'static str,
    },
    /// `--memory` is no whole number of pages.
    #[error("--memory {value} is no multiple of {PAGE} bytes, the size of a page")]
    MemoryPages {
        /// What was given.
        value: String,
    },
    /// `--cpus` is no number in range.
    #[error("--cpus {value:?} is no number of processors: give 1 to {MAX_VCPUS}")]
    Cpus {
        /// What was given.
        value: String,
    },
    /// A `--disk` is none.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// A `--module` is none.
    #[error(transparent)]
    Module(#[from] module::Error),
    /// A `--net` is none.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// A `--vsock` is none.
    #[error(transparent)]
    Vsock(#[from] vsock::Error),
    /// A `--port` is none.
    #[error(transparent)]
    Port(#[from] port::Error),
    /// `--balloon` is none.
    #[error(transparent)]
    Balloon(#[from] balloon::Error),
    /// A `--pmem` is none.
    #[error(transparent)]
    Pmem(#[from] pmem::Error),
    /// A `--share` is none.
    #[error(transparent)]
    Share(#[from] share::Error),
    /// A `--rootfs` or `--init` is none.
    #[error(transparent)]
    Rootfs(#[from] rootfs::Error),
    /// Modules for a guest that has none of our init.
    #[error(
        "--modules {}: cottage's init loads them, and --initramfs without a command starts the guest's \
         own: leave it out, or give a command", .0.display()
    )]
    NobodyLoadsModules(PathBuf),
    /// An address for a card of a guest that has none of our init.
    #[error(
        "--net tap={0}: ip= and dhcp are for cottage's init, and --initramfs without a command starts \
         the guest's own: leave them out and set the address there, or give a command"
    )]
    NobodySetsAddress(String),
    /// More devices than there are places for.
    #[error(
        "--disk, --net and the like ask for {0} virtio devices: a guest can have {VIRTIO_SLOTS}"
    )]
    TooManyDevices(usize),
    /// A part of the kernel command line is not UTF-8.
    #[error("{flag} {value:?} is not UTF-8 text, which cottage takes a kernel command line to be")]
    CmdlineText {
        /// `--cmdline` or `--append`.
        flag: &'static str,
        /// What was given.
        value: OsString,
    },
    /// `--debug-exit` is no port.
    #[error("--debug-exit {value:?} is no I/O port: give a number from 0 to 0xffff, such as 0xf4")]
    DebugExit {
        /// What was given.
        value: String,
    },
    /// `--debug-exit` is a port of a device.
    #[error(
        "--debug-exit {port:#x} is a port of another device's, those from {first:#x} to {last:#x}: \
         choose another, such as 0xf4"
    )]
    DebugExitTaken {
        /// What was given.
        port: u16,
        /// The device's first port.
        first: u16,
        /// The device's last port.
        last: u16,
    },
    /// A command word holds a NUL byte.
    #[error("word {position} of the command holds a NUL byte, which no program can be given")]
    CommandNul {
        /// Counted from 1.
        position: usize,
    },
}

/// Where a kernel or initramfs comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The program file itself.
    BuiltIn,
    /// A file of the user's.
    File(PathBuf),
}

/// A machine to build, valid.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// What to boot.
    pub kernel: Source,
    /// Its root file system.
    pub initramfs: Source,
    /// The kernel's command line, before [`crate::guest_request`] adds to it.
    pub cmdline: String,
    /// The same without cottage's own words, for kernels that are no Linux.
    pub foreign_cmdline: String,
    /// Files for a multiboot kernel.
    pub multiboot_modules: Vec<Module>,
    /// Which interrupt controllers are in KVM; `None` leaves it to what the kernel is.
    pub irqchip: Option<Irqchip>,
    /// Guest RAM in bytes.
    pub memory: u64,
    /// Number of processors.
    pub vcpus: u32,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its network cards.
    pub nets: Vec<Net>,
    /// Its shared folders.
    pub shares: Vec<Share>,
    /// Files to map into its memory.
    pub pmems: Vec<Pmem>,
    /// Whether there is a virtio source of random numbers.
    pub rng: bool,
    /// Its socket device.
    pub vsock: Option<Vsock>,
    /// Whether the console is a virtio device, and not the serial port.
    pub virtio_console: bool,
    /// Channels to programs of the host's.
    pub ports: Vec<Port>,
    /// The size of its balloon at the start, in bytes.
    pub balloon: Option<u64>,
    /// The port that ends the run.
    pub debug_exit: Option<u16>,
    /// How to load and enter the kernel.
    pub boot: boot::Options,
    /// Its root file system, if that is another than the initramfs.
    pub root: Option<Root>,
    /// The program in it that is process 1; if none was named, the init it has, or a shell.
    pub init: Option<Vec<u8>>,
    /// The directory of the kernel's modules; if none was named, the one this host has for it.
    pub modules: Option<PathBuf>,
    /// The guest's command and its arguments; empty for a shell.
    pub command: Vec<Vec<u8>>,
}

impl VmConfig {
    /// Checks the flags that describe a machine.
    ///
    /// # Errors
    /// [`Error`] naming the flag, its value and what is accepted.
    pub fn from_args(args: MachineArgs) -> Result<Self, Error> {
        let source = |path: Option<PathBuf>| path.map_or(Source::BuiltIn, Source::File);
        let protocol = match args.protocol {
            ProtocolArg::Auto => None,
            ProtocolArg::Linux64 => Some(Protocol::Linux64),
            ProtocolArg::Pvh => Some(Protocol::Pvh),
            ProtocolArg::Multiboot => Some(Protocol::Multiboot),
        };
        let unpack = match args.unpack {
            UnpackArg::Host => Unpack::Host,
            UnpackArg::Guest => Unpack::Guest,
        };
        let (virtio_console, default_cmdline) = match args.console {
            ConsoleArg::TtyS0 => (false, DEFAULT_CMDLINE),
            ConsoleArg::Hvc0 => (true, VIRTIO_CMDLINE),
        };
        let given = args.rootfs.as_deref().map(rootfs::parse).transpose()?;
        let given = given.unwrap_or_default();
        let init = args
            .init
            .map(|path| rootfs::parse_init(path, &args.command));
        let memory = parse_memory(&args.memory)?;
        let balloon = |size: &String| balloon::parse(size, memory, &args.memory);
        let config = Self {
            kernel: source(args.kernel),
            initramfs: source(args.initramfs),
            foreign_cmdline: cmdline("", args.cmdline.clone(), args.append.clone())?,
            cmdline: cmdline(default_cmdline, args.cmdline, args.append)?,
            multiboot_modules: module::parse_all(&args.module)?,
            irqchip: args.irqchip,
            memory,
            vcpus: parse_cpus(&args.cpus)?,
            disks: disk::parse_all(given.disk, &args.disk)?,
            nets: net::parse_all(&args.net)?,
            shares: share::parse_all(given.share, &args.share)?,
            pmems: pmem::parse_all(&args.pmem)?,
            rng: args.rng,
            vsock: args.vsock.as_deref().map(vsock::parse).transpose()?,
            virtio_console,
            ports: port::parse_all(&args.port)?,
            balloon: args.balloon.as_ref().map(balloon).transpose()?,
            debug_exit: args.debug_exit.as_deref().map(parse_port).transpose()?,
            boot: boot::Options { protocol, unpack },
            root: given.root,
            init: init.transpose()?,
            modules: args.modules,
            command: words(args.command)?,
        };
        config.check_devices()?;
        Ok(config)
    }

    fn check_devices(&self) -> Result<(), Error> {
        let foreign = !guest_request::starts_our_init(self);
        if let Some(modules) = self.modules.as_ref().filter(|_| foreign) {
            return Err(Error::NobodyLoadsModules(modules.clone()));
        }
        for net in &self.nets {
            match (&net.kind, net.address) {
                // DHCP is the default of passt's cards: nobody asked us for it.
                (net::Kind::User(_), _) | (_, Address::None) => {}
                (net::Kind::Tap(name), _) if foreign => {
                    return Err(Error::NobodySetsAddress(name.clone()));
                }
                _ => {}
            }
        }
        if foreign {
            share::check_places(&self.shares)?;
        }
        match self.virtio_devices() {
            count if count > VIRTIO_SLOTS as usize => Err(Error::TooManyDevices(count)),
            _ => Ok(()),
        }
    }

    /// How many virtio devices there are.
    pub fn virtio_devices(&self) -> usize {
        let ports = usize::from(!self.ports.is_empty());
        let single = [
            self.rng,
            self.vsock.is_some(),
            self.virtio_console,
            self.balloon.is_some(),
        ];
        let named = self.disks.len() + self.nets.len() + self.shares.len() + self.pmems.len();
        named + ports + single.map(usize::from).iter().sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::cli::{Cli, Command};

    fn config(words: &[&str]) -> Result<VmConfig, Error> {
        let words = ["cottage", "run"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(args) => VmConfig::from_args(args.machine),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn defaults_are_a_small_guest() {
        let config = config(&[]).unwrap();
        assert_eq!((config.memory, config.vcpus), (128 << 20, 1));
        assert_eq!(config.kernel, Source::BuiltIn);
        assert_eq!(config.cmdline, DEFAULT_CMDLINE);
    }

    #[test]
    fn units_are_powers_of_1024_in_any_case() {
        for (text, bytes) in [("64M", 64 << 20), ("2g", 2 << 30), ("512MiB", 512 << 20)] {
            assert_eq!(parse_memory(text), Ok(bytes));
        }
        assert_eq!(parse_memory("1048576K"), Ok(1 << 30));
    }

    #[test]
    fn bare_number_is_asked_about() {
        let text = parse_memory("512").unwrap_err().to_string();
        assert!(
            text.ends_with("such as 128M or 2G; did you mean 512M?"),
            "{text}"
        );
    }

    #[test]
    fn bad_sizes_name_the_flag_and_the_value() {
        for value in ["", "M", "-1M", "1.5G", "12X", "1 G", "0x10M"] {
            let text = parse_memory(value).unwrap_err().to_string();
            assert!(text.starts_with(&format!("--memory {value:?}")), "{text}");
        }
    }

    #[test]
    fn sizes_out_of_range_name_the_range() {
        for value in ["0M", "1M", "2T", "99999999999999999999G", "17179869184T"] {
            let text = parse_memory(value).unwrap_err().to_string();
            assert!(text.contains("2 MiB to 1024 GiB"), "{text}");
        }
        assert!(matches!(
            parse_memory("2049K"),
            Err(Error::MemoryPages { .. })
        ));
    }

    #[test]
    fn cpus_out_of_range_name_the_range() {
        for value in ["0", "256", "two", "-1", "1.0", ""] {
            let text = parse_cpus(value).unwrap_err().to_string();
            assert!(text.contains(&format!("--cpus {value:?}")) && text.contains("1 to 255"));
        }
        assert_eq!(parse_cpus("16"), Ok(16));
    }

    #[test]
    fn command_line_that_is_no_text_names_its_flag() {
        let bytes = OsString::from_vec(b"quiet\xff".to_vec());
        let words = ["cottage", "run", "--cmdline"].map(OsString::from);
        let words = words.into_iter().chain([bytes]);
        let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("parsed as doctor");
        };
        let text = VmConfig::from_args(args.machine).unwrap_err().to_string();
        assert!(text.starts_with("--cmdline \"quiet\\xFF\""), "{text}");
    }

    #[test]
    fn virtio_console_is_named_on_the_command_line() {
        let console = config(&["--console=hvc0"]).unwrap();
        assert_eq!(
            (console.virtio_devices(), &*console.cmdline),
            (1, VIRTIO_CMDLINE)
        );
        let added = config(&["--console=hvc0", "--append", "a"]).unwrap();
        assert_eq!(added.cmdline, format!("{VIRTIO_CMDLINE} a"));
    }

    #[test]
    fn ports_are_one_device_and_the_balloon_another() {
        let config = config(&["--port=a=x", "--port=b=y", "--balloon", "--rng"]).unwrap();
        assert_eq!((config.virtio_devices(), config.balloon), (3, Some(0)));
    }

    #[test]
    fn append_adds_and_cmdline_replaces() {
        let added = config(&["--append", "loglevel=7"]).unwrap().cmdline;
        assert_eq!(added, format!("{DEFAULT_CMDLINE} loglevel=7"));
        assert_eq!(
            config(&["--cmdline", "console=ttyS0"]).unwrap().cmdline,
            "console=ttyS0"
        );
    }
}
