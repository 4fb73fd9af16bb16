//! Flags of `cottage explain`.
//!
//! Read next: [`super::gdb`].

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::MachineArgs;

/// What an explanation tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Topic {
    /// What the kernel file is: its headers, field by field
    File,
    /// What is packed in it
    Inside,
    /// How it could be entered, and how it is
    Protocols,
    /// What is in the initramfs
    Initramfs,
    /// Where everything lies in guest memory
    Memory,
    /// The command line
    Cmdline,
    /// What the kernel is told: zero page, start info or multiboot information
    Info,
    /// The tables that describe the machine
    Tables,
    /// Page tables
    Paging,
    /// Segment descriptors
    Gdt,
    /// Registers at the first instruction, and that instruction
    Registers,
}

impl Topic {
    /// All, in the order of the page.
    pub const ALL: [Self; 11] = [
        Self::File,
        Self::Inside,
        Self::Protocols,
        Self::Initramfs,
        Self::Memory,
        Self::Cmdline,
        Self::Info,
        Self::Tables,
        Self::Paging,
        Self::Gdt,
        Self::Registers,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Inside => "inside",
            Self::Protocols => "protocols",
            Self::Initramfs => "initramfs",
            Self::Memory => "memory",
            Self::Cmdline => "cmdline",
            Self::Info => "info",
            Self::Tables => "tables",
            Self::Paging => "paging",
            Self::Gdt => "gdt",
            Self::Registers => "registers",
        }
    }

    /// Whether only a guest whose memory is filled shows it: for the file alone, nothing need be unpacked.
    pub fn needs_a_guest(self) -> bool {
        self != Self::File
    }
}

/// What the explanation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExplainFormat {
    /// For people
    Text,
    /// For programs: all values are strings
    Json,
}

/// Flags of `cottage explain`.
#[derive(Debug, Args)]
#[command(after_help = EXPLAIN_HELP)]
pub struct ExplainArgs {
    // The first positional argument must be declared before `-- COMMAND`.
    /// Kernel to explain, as of --kernel
    #[arg(value_name = "KERNEL", conflicts_with = "kernel")]
    pub file: Option<PathBuf>,

    /// The machine it would run in.
    #[command(flatten)]
    pub machine: MachineArgs,

    /// Explain only this, or these, with commas between
    #[arg(long, value_enum, value_name = "TOPIC,...", value_delimiter = ',')]
    pub only: Vec<Topic>,

    /// How it is printed
    #[arg(long, value_enum, default_value_t = ExplainFormat::Text)]
    pub format: ExplainFormat,
}

/// Printed under `cottage explain --help`.
const EXPLAIN_HELP: &str = "\
Nothing runs, and /dev/kvm is not needed: guest memory is filled as `run` does it, and then read back.
Devices are only counted: their files and sockets are not opened.
Exit status: 0; 110 if `run` would refuse this, which is told last; 111 if the host failed.

Examples:
  cottage explain                                        the built-in guest
  cottage explain /boot/vmlinuz-$(uname -r) --memory 512M
  cottage explain --only memory,registers vmlinux        where it goes, how it is entered
  cottage explain --only file bzImage                    its header, without unpacking it
  cottage explain --only initramfs --initramfs my.cpio.gz   is there an /init?
  cottage explain --protocol pvh --format json vmlinux | jq .";
