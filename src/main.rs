//! The `cottage` program.
fn main() {}
