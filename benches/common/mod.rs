//! What the benchmarks share. Reading order: as listed.

#![allow(dead_code, reason = "each benchmark uses its own part")]

/// Guests: kernels of a few instructions, in files of any size.
pub(crate) mod guest;
/// The VMMs that are compared.
pub(crate) mod subject;
/// One run of a VMM, watched from its start to its end.
pub(crate) mod measure;
/// Medians, spreads and ratios.
pub(crate) mod stats;
/// What a running VMM occupies.
pub(crate) mod footprint;
/// The machine the figures belong to.
pub(crate) mod machine;
