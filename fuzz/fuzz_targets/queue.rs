//! The transport's registers and the rings, by way of the smallest device.
#![no_main]

use std::sync::Arc;

use cottage::virtio::rng::Rng;
use cottage_fuzz::{Step, drive};

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| drive(Arc::new(Rng), &steps));
