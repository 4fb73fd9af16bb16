//! gdb
pub mod plan;
pub mod able;
