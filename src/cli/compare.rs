//! Flags of `cottage compare`.
//!
//! Read next: [`super::explain`].

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Topic {
    /// How long until the program inside runs
    Start,
    /// What one more instance takes of the host's memory
    Memory,
    /// What has to be on the disk
    Disk,
    /// How many instances fit
    Density,
    /// Whose kernel it is, and what of the host a program inside can reach
    Isolation,
    /// What work costs inside
    Cost,
    /// What only a kernel of its own can do
    Kernels,
    /// Containers inside a VM
    Hybrid,
}

impl Topic {
    /// All, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Memory,
        Self::Disk,
        Self::Density,
        Self::Isolation,
        Self::Cost,
        Self::Kernels,
        Self::Hybrid,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Density => "density",
            Self::Isolation => "isolation",
            Self::Cost => "cost",
            Self::Kernels => "kernels",
            Self::Hybrid => "hybrid",
        }
    }
}

/// Where both sides run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// On this machine
    Host,
    /// In an emulated machine with a complete KVM, where both sides pay for the emulation
    Testbed,
}

/// Flags of `cottage compare`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct CompareArgs {
    /// What to compare [default: all]
    #[arg(value_enum, value_name = "TOPIC")]
    pub topics: Vec<Topic>,

    /// Container runtimes to set beside cottage: docker, podman, crun, runc, ctr, bwrap, unshare, with
    /// commas between; or all. One that is named twice is measured twice, to see what no difference
    /// looks like
    #[arg(long, value_name = "LIST", default_value = "all")]
    pub with: String,

    /// Rounds that count [default: 20, with --quick 7]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub runs: Option<u32>,

    /// Rounds before them that do not [default: 2, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub warm_up: Option<u32>,

    /// As little as still says something
    #[arg(long)]
    pub quick: bool,

    /// Folder for report.json (with every value), report.md and report.html
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Set what lecture notes claim beside what was measured here
    #[arg(long)]
    pub claims: bool,

    /// The same with claims of your own, from a file as docs/compare.md describes
    #[arg(long, value_name = "FILE")]
    pub claims_file: Option<PathBuf>,

    /// Where both sides run
    #[arg(long = "in", value_enum, value_name = "PLACE", default_value_t = Place::Host)]
    pub place: Place,

    /// Count instructions instead of time; with --in testbed
    #[arg(long)]
    pub instructions: bool,

    /// Keep all runs to these processors of the host, such as 0,2-3
    #[arg(long, value_name = "CPUS")]
    pub pin: Option<String>,

    /// Seconds after which a run has failed
    #[arg(long, value_name = "SECONDS", default_value = "60",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub timeout: u32,
}

/// Printed under `cottage compare --help`.
const HELP: &str = "\
Every side runs the same program in the same root file system; sides that are not there are listed
with the reason. Ctrl-C ends it: what was measured is reported, what was made is removed.
Exit status: 0; 110 for a mistake in flags; 111 if the host fails; 128+N if signal N ended it.

Examples:
  cottage compare                                everything, beside all runtimes that work here
  cottage compare --quick start isolation        a minute's worth
  cottage compare start --with docker,crun --runs 50 --out report
  cottage compare --in testbed start             without hardware KVM: both sides emulated
  cottage compare --claims                       what lecture notes say, and what is true here";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_called_what_clap_calls_them() {
        for topic in Topic::ALL {
            let name = topic.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(name, topic.name());
        }
        assert_eq!(Topic::ALL.len(), Topic::value_variants().len());
    }
}
