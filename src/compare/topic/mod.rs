//! The topics: what is compared.
//!
//! Each is a function from a [`Session`] to [`Findings`]. It never fails: what cannot be measured is
//! told in its place. Read next: [`start`].

pub mod start;
pub mod crowd;
pub mod memory;
pub mod density;
pub mod disk;
pub mod isolation;
pub mod cost;
pub mod guest;
pub mod kernels;
pub mod nest;
pub mod hybrid;

use super::finding::Findings;
use super::session::Session;
use crate::cli::compare::Topic;

/// Measures one topic.
pub fn measure(topic: Topic, session: &mut Session<'_>) -> Findings {
    match topic {
        Topic::Start => start::measure(session),
        Topic::Memory => memory::measure(session),
        Topic::Density => density::measure(session),
        Topic::Disk => disk::measure(session),
        Topic::Cost => cost::measure(session),
        Topic::Isolation => isolation::measure(session),
        Topic::Kernels => kernels::measure(session),
        Topic::Hybrid => hybrid::measure(session),
    }
}
