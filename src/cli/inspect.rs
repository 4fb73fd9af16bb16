//! Flags of `cottage run` for who wants to look into a running machine.
//!
//! Read next: [`super::lab`].

use clap::Args;

/// Where to stop, and when to wonder.
#[derive(Clone, Debug, Default, Args)]
pub struct InspectArgs {
    /// Stop the guest there, show its processor, code, stack, page tables and last exits, and on a
    /// terminal ask for more: at a mark (init, ready, done, handed-over), exit:N (the first
    /// processor's N-th), an address or symbol of the guest's, or the end
    #[arg(long, value_name = "WHERE", conflicts_with = "gdb")]
    pub inspect_at: Option<String>,

    /// Show the same when the guest has printed nothing for so long
    #[arg(long, value_name = "SECONDS", conflicts_with = "gdb",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub silence: Option<u32>,
}

impl InspectArgs {
    /// Whether anybody wants to look.
    pub fn is_on(&self) -> bool {
        self.inspect_at.is_some() || self.silence.is_some()
    }
}
