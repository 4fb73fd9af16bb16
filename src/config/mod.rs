//! Chapter 1, second half: from raw flags to a valid machine description.
//!
//! All refusals that need no file and no KVM are here. After this point no value is checked
//! again and no `Option` stands for a default.
//! Read next: [`disk`].

pub mod disk;
pub mod net;
pub mod module;
pub mod irqchip;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::boot::{self, Protocol, Unpack};
use crate::cli::{MachineArgs, ProtocolArg, UnpackArg};
use crate::event_loop::GuestEnd;
use crate::guest_request;
use crate::memory::layout::{MAX_MEMORY, MIN_MEMORY, VIRTIO_SLOTS, device_ports};
use disk::Disk;
pub use irqchip::Irqchip;
use module::Module;
use net::{Address, Net};

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
    /// An address for a card of a guest that has none of our init.
    #[error(
        "--net tap={0}: ip= and dhcp are for cottage's init, and --initramfs without a command starts \
         the guest's own: leave them out and set the address there, or give a command"
    )]
    NobodySetsAddress(String),
    /// More devices than there are places for.
    #[error("--disk, --net and --rng ask for {0} virtio devices: a guest can have {VIRTIO_SLOTS}")]
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
    pub modules: Vec<Module>,
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
    /// Whether there is a virtio source of random numbers.
    pub rng: bool,
    /// The port that ends the run.
    pub debug_exit: Option<u16>,
    /// How to load and enter the kernel.
    pub boot: boot::Options,
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
        let text = |flag, value: OsString| {
            let wrong = |value| Error::CmdlineText { flag, value };
            value.into_string().map_err(wrong)
        };
        let (cmdline, foreign_cmdline) = match (args.cmdline, args.append) {
            (Some(whole), _) => {
                let whole = text("--cmdline", whole)?;
                (whole.clone(), whole)
            }
            (None, Some(more)) => {
                let more = text("--append", more)?;
                (format!("{DEFAULT_CMDLINE} {more}"), more)
            }
            (None, None) => (DEFAULT_CMDLINE.to_owned(), String::new()),
        };
        let command: Vec<_> = args
            .command
            .into_iter()
            .map(OsStringExt::into_vec)
            .collect();
        if let Some(at) = command.iter().position(|word| word.contains(&0)) {
            return Err(Error::CommandNul { position: at + 1 });
        }
        let config = Self {
            kernel: source(args.kernel),
            initramfs: source(args.initramfs),
            cmdline,
            foreign_cmdline,
            modules: module::parse_all(&args.module)?,
            irqchip: args.irqchip,
            memory: parse_memory(&args.memory)?,
            vcpus: parse_cpus(&args.cpus)?,
            disks: disk::parse_all(&args.disk)?,
            nets: net::parse_all(&args.net)?,
            rng: args.rng,
            debug_exit: args.debug_exit.as_deref().map(parse_port).transpose()?,
            boot: boot::Options { protocol, unpack },
            command,
        };
        config.check_devices()?;
        Ok(config)
    }

    fn check_devices(&self) -> Result<(), Error> {
        let foreign = guest_request::guest_end(self) == GuestEnd::Foreign;
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
        match self.virtio_devices() {
            count if count > VIRTIO_SLOTS as usize => Err(Error::TooManyDevices(count)),
            _ => Ok(()),
        }
    }

    /// How many virtio devices there are.
    pub fn virtio_devices(&self) -> usize {
        self.disks.len() + self.nets.len() + usize::from(self.rng)
    }
}

/// A port that no device has.
fn parse_port(value: &str) -> Result<u16, Error> {
    let hex = value.strip_prefix("0x").or(value.strip_prefix("0X"));
    let port = hex.map_or_else(
        || value.parse().ok(),
        |hex| u16::from_str_radix(hex, 16).ok(),
    );
    let port = port.ok_or_else(|| Error::DebugExit {
        value: value.to_owned(),
    })?;
    let ports = device_ports();
    let taken = ports
        .iter()
        .find(|(first, count)| (*first..first + count).contains(&port));
    match taken {
        Some((first, count)) => Err(Error::DebugExitTaken {
            port,
            first: *first,
            last: first + count - 1,
        }),
        None => Ok(port),
    }
}

fn parse_cpus(value: &str) -> Result<u32, Error> {
    match value.parse() {
        Ok(n) if (1..=MAX_VCPUS).contains(&n) => Ok(n),
        _ => Err(Error::Cpus {
            value: value.to_owned(),
        }),
    }
}

/// A whole number and a unit: `128M`, `2G`, `512MiB`, `1gb`.
fn parse_memory(value: &str) -> Result<u64, Error> {
    let wrong = |hint: String| Error::MemoryFormat {
        value: value.to_owned(),
        hint,
    };
    let digits = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    if number.is_empty() {
        return Err(wrong(String::new()));
    }
    // A bare number means MiB to QEMU and bytes to docker: ask instead of guessing.
    let shift = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "" => return Err(wrong(format!("; did you mean {value}M?"))),
        _ => return Err(wrong(String::new())),
    };
    let range = |what| Error::MemoryRange {
        value: value.to_owned(),
        what,
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| range("too large"))?;
    match bytes {
        b if b < MIN_MEMORY => Err(range("too small")),
        b if b > MAX_MEMORY => Err(range("too large")),
        b if b % PAGE != 0 => Err(Error::MemoryPages {
            value: value.to_owned(),
        }),
        b => Ok(b),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

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
    fn append_adds_and_cmdline_replaces() {
        let added = config(&["--append", "loglevel=7"]).unwrap().cmdline;
        assert_eq!(added, format!("{DEFAULT_CMDLINE} loglevel=7"));
        assert_eq!(
            config(&["--cmdline", "console=ttyS0"]).unwrap().cmdline,
            "console=ttyS0"
        );
    }
}
