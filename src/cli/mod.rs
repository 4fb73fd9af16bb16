//! Chapter 1: the command line, as the user typed it.
//!
//! Only parsing and `--help`; no file is opened here and nothing is decided. What the flags mean
//! is [`crate::config`]'s business.
//! Read next: [`trace`].

pub mod trace;
pub mod compare;
pub mod explain;
pub mod gdb;
pub mod lab;
pub mod machine;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::outcome::EXIT_STATUS_HELP;
pub use compare::CompareArgs;
pub use explain::ExplainArgs;
pub use gdb::GdbArgs;
pub use lab::LabArgs;
pub use machine::{MachineArgs, ProtocolArg, UnpackArg};
pub use trace::TraceArgs;

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
    /// Repeat a boot, and other programs in turn with it, and report times with their spread
    Bench(Box<BenchArgs>),
    /// Set VMs beside containers, measured on this machine: start, memory, disk, isolation and more
    Compare(Box<CompareArgs>),
    /// Say what a kernel is and how it would be booted: headers, memory, tables, registers; without KVM
    Explain(Box<ExplainArgs>),
    /// Learn how a hypervisor works: twenty small machines, each explained, run and broken
    Lab(LabArgs),
    /// Say whether this machine can run guests, how well, and what to do about it
    Doctor,
}

/// `cottage run` as if it were a program of its own.
#[derive(Debug, Parser)]
struct RunAlone {
    #[command(flatten)]
    args: RunArgs,
}

impl Command {
    /// The command of `words`, the first of which is the program's name.
    ///
    /// clap describes every sub-command's flags before it looks at the first word, which takes
    /// longer than everything else cottage does before it opens files. So `run` is tried alone;
    /// whatever is no valid `run`, `--help` included, goes the long way and gets its words there.
    ///
    /// # Errors
    /// clap's, which prints itself.
    pub fn parse(words: &[OsString]) -> Result<Self, clap::Error> {
        if words.get(1).is_some_and(|word| word == "run")
            && let Ok(run) = RunAlone::try_parse_from(words.iter().skip(1))
        {
            return Ok(Self::Run(Box::new(run.args)));
        }
        Cli::try_parse_from(words).map(|cli| cli.command)
    }
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
    pub timeline: Option<ReportFormat>,

    /// Count and time VM exits, by kind, port or address, and device
    #[arg(long)]
    pub exits: bool,

    /// A narrative of the run.
    #[command(flatten)]
    pub trace: TraceArgs,

    /// Who looks on.
    #[command(flatten)]
    pub gdb: GdbArgs,

    /// For a measured child: the descriptor its record goes to.
    #[arg(long, hide = true, value_name = "N")]
    pub record_fd: Option<u32>,

    /// For a measured child: read the memory use at the end.
    #[arg(long, hide = true)]
    pub record_memory: bool,
}

/// Flags of `cottage bench`.
#[derive(Debug, Args)]
#[command(after_help = BENCH_HELP)]
pub struct BenchArgs {
    /// The machine to boot.
    #[command(flatten)]
    pub machine: MachineArgs,

    /// Rounds that count
    #[arg(long, value_name = "N", default_value = "20",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub runs: u32,

    /// Rounds before them that do not
    #[arg(long, value_name = "N", default_value = "3",
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub warm_up: u32,

    /// Another program to run in turn with the boot, quoted as for a shell; may be repeated
    #[arg(long, value_name = "COMMAND")]
    pub vs: Vec<String>,

    /// Also measure the time to the first line of output that matches
    #[arg(long, value_name = "REGEX")]
    pub until: Option<String>,

    /// Measure this program instead of a boot
    #[arg(long, value_name = "COMMAND")]
    pub program: Option<String>,

    /// Keep all runs to these processors of the host, such as 0,2-3
    #[arg(long, value_name = "CPUS")]
    pub pin: Option<String>,

    /// Drop the files a run uses from the page cache before it
    #[arg(long)]
    pub cold: bool,

    /// Take runs that end with another status than 0
    #[arg(long)]
    pub any_status: bool,

    /// Seconds after which a run has failed
    #[arg(long, value_name = "SECONDS", default_value = "60",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub timeout: u32,

    /// How the report on stdout looks
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,

    /// Write the report here too: .txt, .json (with every value) or .svg; may be repeated
    #[arg(long, value_name = "FILE")]
    pub out: Vec<PathBuf>,
}

/// Printed under `cottage bench --help`.
const BENCH_HELP: &str = "\
Times run from just before a program is spawned to its output's arrival, and to its end.
Ctrl-C ends the rounds and still reports. Exit status: 0, or as of `cottage run` if a run failed.

Examples:
  cottage bench                                      the built-in guest, 20 times
  cottage bench --runs 50 --out boot.svg -- true     and a picture
  cottage bench --until '^up' --vs 'docker run --rm busybox echo up' -- echo up
  cottage bench --program 'crun run box' --runs 10   any program";

/// FILE was given and nothing to write to it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} stands where --timeline's FILE would, but there is no --timeline and no --exits: \
     did you mean `--kernel {0}`, or `-- {0}` to run it in the guest?"
)]
pub struct StrayWord(String);

impl RunArgs {
    /// Whether this is more than running a machine: then the tools do it ([`crate::tools`]).
    pub fn needs_tools(&self) -> bool {
        let reports = self.timeline.is_some() || self.exits;
        self.record_fd.is_none() && (reports || self.is_watched())
    }

    /// Whether somebody looks on while it runs ([`crate::watch`]).
    pub fn is_watched(&self) -> bool {
        self.trace.is_on() || self.gdb.gdb.is_some()
    }

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

/// Values of `--timeline` and `bench --format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A bar chart for the terminal
    Text,
    /// For programs: every instant in nanoseconds
    Json,
    /// A picture, for a lecture slide
    Svg,
}

/// What `--help` adds to `-h`.
fn concat_help() -> String {
    format!(
        "Keys while the guest has the terminal:\n{}\n\n{EXIT_STATUS_HELP}\n\n\
         Examples:\n  \
         cottage run                                  a shell in a tiny Linux\n  \
         cottage run -- uname -a                      one command, its exit status\n  \
         echo 'uname -a; exit' | cottage run          a script from a pipe\n  \
         cottage run --kernel /boot/vmlinuz-$(uname -r) --memory 512M --cpus 2\n  \
         cottage run --trace --trace-file boot.txt -- true     what happens in a boot, to be read",
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
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn words_of_a_machine_parse_to_the_same_machine() {
        let given = [
            "cottage",
            "run",
            "--kernel=-k",
            "--initramfs=i",
            "--module",
            "m a b",
            "--module=-n",
            "--append",
            "a b",
            "--irqchip",
            "full",
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
            "--vsock",
            "v.sock,cid=4",
            "--console=hvc0",
            "--port",
            "a=b",
            "--balloon=1M",
            "--debug-exit",
            "0xf4",
            "--",
            "ls",
            "--cpus",
        ];
        for words in [
            &given[..],
            &["cottage", "run", "--cmdline="],
            &[
                "cottage",
                "run",
                "--rootfs=-r,ro",
                "--init=/i",
                "--modules=m",
            ],
            &["cottage", "run"],
        ] {
            let parse = |words: Vec<OsString>| match Cli::try_parse_from(words).unwrap().command {
                Command::Run(args) => args.machine,
                other => panic!("parsed as {other:?}"),
            };
            let machine = parse(words.iter().map(OsString::from).collect());
            let again = ["cottage", "run"].map(OsString::from).into_iter();
            assert_eq!(parse(again.chain(machine.to_words()).collect()), machine);
        }
    }

    #[test]
    fn run_alone_parses_what_the_whole_would() {
        for words in [
            &["cottage", "run"][..],
            &[
                "cottage",
                "run",
                "--cpus",
                "2",
                "--timeline=json",
                "file",
                "--",
                "run",
                "--help",
            ],
            &["cottage", "run", "--exits", "--append=x", "--record-fd=7"],
        ] {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            let whole = Cli::try_parse_from(&words).unwrap().command;
            let alone = Command::parse(&words).unwrap();
            assert_eq!(format!("{alone:?}"), format!("{whole:?}"));
        }
    }

    #[test]
    fn mistakes_get_the_words_of_the_whole() {
        for words in [
            &["cottage", "run", "--memroy=1G"][..],
            &["cottage", "run", "--help"],
            &["cottage", "run", "--version"],
            &["cottage", "run", "--memory"],
        ] {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            let whole = Cli::try_parse_from(&words).unwrap_err();
            let alone = Command::parse(&words).unwrap_err();
            assert_eq!(alone.to_string(), whole.to_string());
        }
    }

    #[test]
    fn replacing_and_appending_the_command_line_exclude_each_other() {
        let words = ["cottage", "run", "--cmdline", "a", "--append", "b"];
        assert!(Cli::try_parse_from(words).is_err());
    }
}
