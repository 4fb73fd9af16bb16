//! Chapter 1: the command line, as the user typed it.
//!
//! Only parsing and `--help`; no file is opened here and nothing is decided. What the flags mean
//! is [`crate::config`]'s business.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::outcome::EXIT_STATUS_HELP;

/// A minimal KVM virtual machine monitor: the smallest house a Linux can live in.
#[derive(Debug, Parser)]
#[command(name = "cottage", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// cottage's sub-commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a Linux guest: a shell, or one command whose exit status becomes cottage's
    Run(RunArgs),
    /// Say whether this machine can run guests, how well, and what to do about it
    Doctor,
}

/// Flags of `cottage run`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS_HELP)]
#[command(after_long_help = concat_help())]
pub struct RunArgs {
    /// Kernel to boot: vmlinux (ELF) or bzImage, such as a distribution's /boot/vmlinuz-*
    /// [default: built in]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Initial root file system: a cpio archive, compressed as the kernel can unpack
    /// [default: built in, with busybox]
    #[arg(long, value_name = "FILE")]
    pub initramfs: Option<PathBuf>,

    /// Kernel command line, replacing cottage's own
    #[arg(long, value_name = "STR", conflicts_with = "append")]
    pub cmdline: Option<OsString>,

    /// Words to add to cottage's own kernel command line
    #[arg(long, value_name = "STR")]
    pub append: Option<OsString>,

    /// Guest memory, with a unit: K, M, G or T, powers of 1024
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub memory: String,

    /// Number of virtual processors
    #[arg(long, value_name = "N", default_value = "1")]
    pub cpus: String,

    /// How the kernel is entered; `auto` prefers the 64-bit protocol
    #[arg(long, value_enum, default_value_t = ProtocolArg::Auto)]
    pub protocol: ProtocolArg,

    /// Who unpacks a compressed kernel: cottage (fast) or the kernel itself (as on a PC)
    #[arg(long, value_enum, default_value_t = UnpackArg::Host)]
    pub unpack: UnpackArg,

    /// Command and arguments for the guest to run instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Values of `--protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtocolArg {
    /// Whatever the kernel offers, the 64-bit protocol first
    Auto,
    /// Linux's 64-bit boot protocol
    Linux64,
    /// Xen's PVH entry point
    Pvh,
}

/// Values of `--unpack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnpackArg {
    /// cottage unpacks and loads the ELF image inside
    Host,
    /// The kernel's own decompressor runs in the guest
    Guest,
}

/// What `--help` adds to `-h`.
fn concat_help() -> String {
    format!(
        "Keys while the guest has the terminal:\n{}\n\n{EXIT_STATUS_HELP}\n\n\
         Examples:\n  \
         cottage run                                  a shell in a tiny Linux\n  \
         cottage run -- uname -a                      one command, its exit status\n  \
         echo 'uname -a; exit' | cottage run          a script from a pipe\n  \
         cottage run --kernel /boot/vmlinuz-$(uname -r) --memory 512M --cpus 2",
        crate::console::escape::HELP
            .lines()
            .map(|line| format!("  {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_after_two_dashes_keeps_its_own_flags() {
        let cli =
            Cli::try_parse_from(["cottage", "run", "--cpus", "2", "--", "ls", "-l", "--cpus"]);
        match cli.unwrap().command {
            Command::Run(args) => {
                assert_eq!(args.cpus, "2");
                assert_eq!(args.command, ["ls", "-l", "--cpus"]);
            }
            Command::Doctor => panic!("parsed as doctor"),
        }
    }

    #[test]
    fn replacing_and_appending_the_command_line_exclude_each_other() {
        let words = ["cottage", "run", "--cmdline", "a", "--append", "b"];
        assert!(Cli::try_parse_from(words).is_err());
    }
}
