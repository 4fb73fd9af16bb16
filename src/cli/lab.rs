//! The command line of `cottage lab`.
//!
//! Read next: [`super::machine`].

use clap::{Args, Subcommand};

/// Flags of `cottage lab`.
#[derive(Debug, Args)]
#[command(after_help = LAB_HELP)]
pub struct LabArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: LabVerb,
}

/// What can be done with labs.
#[derive(Debug, Subcommand)]
pub enum LabVerb {
    /// All labs, in order, with what can be left out of each
    List,
    /// Run a lab and tell each KVM call and each exit
    Run {
        /// The lab's number or name
        #[arg(value_name = "LAB")]
        lab: String,
        /// Leave this out, and see how that looks; `cottage lab list` has the names
        #[arg(long = "break", value_name = "WHAT")]
        broken: Option<String>,
        /// Machine code of yours, in hexadecimal, in place of the guest's (the first, if it has more)
        #[arg(long, value_name = "HEX")]
        code: Option<String>,
    },
    /// Print a lab's page: goal, calls, what to expect, questions
    Show {
        /// The lab's number or name
        #[arg(value_name = "LAB")]
        lab: String,
        /// The answers too
        #[arg(long)]
        answers: bool,
    },
    /// Run a lab and all its variants, and compare with its page; or check an answer of yours
    Check {
        /// The lab's number or name
        #[arg(value_name = "LAB")]
        lab: String,
        /// Your answer to the page's first question
        #[arg(long, value_name = "TEXT")]
        answer: Option<String>,
    },
}

/// Printed under `cottage lab --help`.
const LAB_HELP: &str = "\
A course in twenty labs, from opening /dev/kvm to a Linux with a disk. Each is one file of cottage's
source, src/lab/labNN_*.rs, and one page, docs/labs/NN-*.md.

Exit status:
  0    the lab ran; with check, everything is as the page says, or the answer is right
  1    check: something differs, or the answer is wrong
  2    this host cannot run this lab; the reason is told
  110  no such lab, or no such variant
  111  KVM or the host refused what the lab needs

Examples:
  cottage lab list
  cottage lab show 1              read what lab 1 is about
  cottage lab run 1               run it
  cottage lab run 5 --break apic  the same with a mistake in it
  cottage lab run 5 --code 'ba f8 03 b0 21 ee f4'  a guest of your own: it prints an exclamation mark
  cottage lab check 5 --answer 4  is that the answer to its first question?";
