//! Chapter 1: the command line, as the user typed it.
//!
//! Only parsing and `--help`; no file is opened here and nothing is decided. What the flags mean
//! is [`crate::config`]'s business.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

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
    Run(Box<RunArgs>),
    /// Say whether this machine can run guests, how well, and what to do about it
    Doctor,
}

/// Flags of `cottage run`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS_HELP)]
#[command(after_long_help = concat_help())]
pub struct RunArgs {
    // The first positional argument must be declared before `-- COMMAND`.
    /// Where --timeline and --exits go instead of stderr
    #[arg(value_name = "FILE")]
    pub report_file: Option<PathBuf>,

    /// The machine to run.
    #[command(flatten)]
    pub machine: MachineArgs,

    /// Say when what happened, from exec to the process's end, and who took the time: text (on
    /// stderr), json or svg (both to FILE or stderr)
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "text")]
    pub timeline: Option<TimelineFormat>,

    /// Count and time VM exits, by kind, port or address, and device
    #[arg(long)]
    pub exits: bool,

    /// For a measured child: the descriptor its record goes to.
    #[arg(long, hide = true, value_name = "N")]
    pub record_fd: Option<u32>,

    /// For a measured child: read the memory use at the end.
    #[arg(long, hide = true)]
    pub record_memory: bool,
}

/// What describes a machine; the same for every sub-command that boots one.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct MachineArgs {
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

    /// Give the guest a virtio disk, a raw image or block device; can be repeated. ro: read only;
    /// overlay: FILE stays as it is, what the guest writes is gone when the machine is; serial=TEXT: what the guest finds as its serial number; id=NAME: what cottage calls it; a
    /// comma in FILE is written twice
    #[arg(long, value_name = "FILE[,ro|,overlay][,serial=TEXT][,id=NAME]")]
    pub disk: Vec<OsString>,

    /// Give the guest a virtio network card; can be repeated. tap=NAME: its cable leads to a tap
    /// device of the host's; user: to passt, which needs no rights; mac=: its Ethernet address;
    /// ip=, gw=, dhcp: what our init does with it; forward=tcp:8080:80: port 8080 of the host's
    /// is the guest's port 80
    #[arg(long, value_name = "tap=NAME|user[,OPTION...]")]
    pub net: Vec<OsString>,

    /// Give the guest a virtio source of random numbers: the host's
    #[arg(long)]
    pub rng: bool,

    /// Command and arguments for the guest to run instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// FILE was given and nothing to write to it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} stands where --timeline's FILE would, but there is no --timeline and no --exits: \
     did you mean `--kernel {0}`, or `-- {0}` to run it in the guest?"
)]
pub struct StrayWord(String);

impl RunArgs {
    /// Refuses a FILE without a report.
    ///
    /// # Errors
    /// [`StrayWord`] with a hint.
    pub fn check_report(&self) -> Result<(), StrayWord> {
        match &self.report_file {
            Some(file) if self.timeline.is_none() && !self.exits => {
                Err(StrayWord(file.display().to_string()))
            }
            _ => Ok(()),
        }
    }
}

impl MachineArgs {
    /// The words that parse to this: for a child process with the same machine.
    pub fn to_words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut flag = |name: &str, value: Option<&OsStr>| {
            if let Some(value) = value {
                let mut word = OsString::from(name);
                word.push("=");
                word.push(value);
                words.push(word);
            }
        };
        flag("--kernel", self.kernel.as_deref().map(Path::as_os_str));
        flag(
            "--initramfs",
            self.initramfs.as_deref().map(Path::as_os_str),
        );
        flag("--cmdline", self.cmdline.as_deref());
        flag("--append", self.append.as_deref());
        flag("--memory", Some(OsStr::new(&self.memory)));
        flag("--cpus", Some(OsStr::new(&self.cpus)));
        flag("--protocol", Some(OsStr::new(self.protocol.word())));
        flag("--unpack", Some(OsStr::new(self.unpack.word())));
        for disk in &self.disk {
            flag("--disk", Some(disk));
        }
        for net in &self.net {
            flag("--net", Some(net));
        }
        if self.rng {
            words.push("--rng".into());
        }
        words.push("--".into());
        words.extend(self.command.iter().cloned());
        words
    }
}

/// Values of `--timeline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TimelineFormat {
    /// A bar chart for the terminal
    Text,
    /// For programs: every instant in nanoseconds
    Json,
    /// A picture, for a lecture slide
    Svg,
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

impl ProtocolArg {
    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Linux64 => "linux64",
            Self::Pvh => "pvh",
        }
    }
}

/// Values of `--unpack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnpackArg {
    /// cottage unpacks and loads the ELF image inside
    Host,
    /// The kernel's own decompressor runs in the guest
    Guest,
}

impl UnpackArg {
    fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest => "guest",
        }
    }
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
                assert_eq!(args.machine.cpus, "2");
                assert_eq!(args.machine.command, ["ls", "-l", "--cpus"]);
            }
            Command::Doctor => panic!("parsed as doctor"),
        }
    }

    #[test]
    fn words_of_a_machine_parse_to_the_same_machine() {
        let given = [
            "cottage",
            "run",
            "--kernel=-k",
            "--initramfs=i",
            "--append",
            "a b",
            "--memory",
            "1G",
            "--cpus",
            "3",
            "--protocol",
            "pvh",
            "--unpack",
            "guest",
            "--disk",
            "a,ro",
            "--disk=-b",
            "--net",
            "tap=t,dhcp",
            "--rng",
            "--",
            "ls",
            "--cpus",
        ];
        for words in [
            &given[..],
            &["cottage", "run", "--cmdline="],
            &["cottage", "run"],
        ] {
            let parse = |words: Vec<OsString>| match Cli::try_parse_from(words).unwrap().command {
                Command::Run(args) => args.machine,
                Command::Doctor => panic!("parsed as doctor"),
            };
            let machine = parse(words.iter().map(OsString::from).collect());
            let again = ["cottage", "run"].map(OsString::from).into_iter();
            assert_eq!(parse(again.chain(machine.to_words()).collect()), machine);
        }
    }

    #[test]
    fn replacing_and_appending_the_command_line_exclude_each_other() {
        let words = ["cottage", "run", "--cmdline", "a", "--append", "b"];
        assert!(Cli::try_parse_from(words).is_err());
    }
}
