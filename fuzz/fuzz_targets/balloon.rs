//! Lists of pages from a guest.
#![no_main]

use std::sync::Arc;

use cottage::virtio::balloon::Balloon;
use cottage_fuzz::{Step, drive};

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| drive(Arc::new(Balloon::new(1 << 20)), &steps));
