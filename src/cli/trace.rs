//! Flags of `run --trace`.
//!
//! Read next: [`super::compare`].

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

/// What `--trace` tells of, and where to.
#[derive(Clone, Debug, Default, Args)]
pub struct TraceArgs {
    /// Tell what happens while it happens: KVM's calls, each VM exit with the device's register by name,
    /// and more; all of it, or topics with commas between
    #[arg(long, value_enum, value_name = "TOPICS", num_args = 0..=1, require_equals = true,
          default_missing_value = "all", value_delimiter = ',',
          conflicts_with_all = ["timeline", "exits"])]
    pub trace: Vec<TopicArg>,

    /// Where the trace goes instead of stderr; FILE.jsonl and FILE.json have formats of their own
    #[arg(long, value_name = "FILE", requires = "trace")]
    pub trace_file: Option<PathBuf>,

    /// How the trace looks [default: by FILE's ending, else text]
    #[arg(long, value_enum, value_name = "FORMAT", requires = "trace")]
    pub trace_format: Option<TraceFormat>,

    /// Names for the guest kernel's addresses: its System.map, or an ELF file with symbols
    /// [default: what lies beside --kernel]
    #[arg(long, value_name = "FILE", requires = "trace")]
    pub symbols: Option<PathBuf>,
}

/// What a trace can tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopicArg {
    /// All of what follows
    All,
    /// KVM's calls with their meaning
    Ioctls,
    /// Each VM exit: device, register, value, instruction
    Exits,
    /// What lies where when the guest starts
    Memory,
    /// Interrupts: pin, vector, processor
    Irq,
    /// What drivers do with their devices, in words
    Devices,
    /// The stages of a boot
    Boot,
}

/// How a trace looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceFormat {
    /// To be read; repeats are folded
    Text,
    /// A JSON object a line, for programs
    Jsonl,
    /// For <https://ui.perfetto.dev> and Chrome's about:tracing
    Perfetto,
}

impl TraceArgs {
    /// Whether a trace is wanted.
    pub fn is_on(&self) -> bool {
        !self.trace.is_empty()
    }

    /// The format that was asked for, or that FILE's ending stands for.
    pub fn format(&self) -> TraceFormat {
        let ending = self.trace_file.as_deref().and_then(Path::extension);
        let by_name = match ending.and_then(|ending| ending.to_str()) {
            Some("jsonl") => TraceFormat::Jsonl,
            Some("json") => TraceFormat::Perfetto,
            _ => TraceFormat::Text,
        };
        self.trace_format.unwrap_or(by_name)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(words: &[&str]) -> Result<TraceArgs, clap::Error> {
        let words = ["cottage", "run"].iter().chain(words);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Run(args) => args.trace,
            other => panic!("parsed as {other:?}"),
        })
    }

    #[test]
    fn bare_trace_is_all_and_topics_have_commas_between() {
        assert_eq!(parse(&["--trace"]).unwrap().trace, [TopicArg::All]);
        let two = parse(&["--trace=exits,irq", "--", "ls"]).unwrap();
        assert_eq!(two.trace, [TopicArg::Exits, TopicArg::Irq]);
        assert!(!parse(&[]).unwrap().is_on());
    }

    #[test]
    fn format_follows_the_ending_unless_it_is_given() {
        let format = |words: &[&str]| parse(words).unwrap().format();
        assert_eq!(format(&["--trace"]), TraceFormat::Text);
        let json = ["--trace", "--trace-file", "a.json"];
        assert_eq!(format(&json), TraceFormat::Perfetto);
        assert_eq!(
            format(&["--trace", "--trace-file=a.jsonl"]),
            TraceFormat::Jsonl
        );
        let given = [&json[..], &["--trace-format", "text"]].concat();
        assert_eq!(format(&given), TraceFormat::Text);
    }

    #[test]
    fn mistakes_are_refused_with_what_there_is() {
        let refusal = |words: &[&str]| parse(words).unwrap_err().to_string();
        let unknown = refusal(&["--trace=exit"]);
        assert!(
            unknown.contains("a similar value exists: 'exits'"),
            "{unknown}"
        );
        assert!(refusal(&["--trace-file", "f"]).contains("--trace"));
        assert!(refusal(&["--trace", "--exits"]).contains("cannot be used with"));
    }
}
