//! Answers as they were recorded, one run of each word a side: `probe identity; probe surface`.
//!
//! On a machine with Linux 6.18, the names of its kernel shortened; podman 4.3 with crun, no network and
//! `--memory 64m`; cottage with the tiny kernel, in the testbed.

use super::Told;
use super::answers::Answers;
use crate::compare::side::Kind;
use crate::timeline::exits::ExitLine;

const PROCESS: &str = include_str!("recorded/process.txt");
const PODMAN: &str = include_str!("recorded/podman.txt");
/// When they came, on the host's clock.
const PROCESS_AT: u64 = 51_694_930_000_000;
const PODMAN_AT: u64 = 51_693_049_999_999;
const VM: &str = include_str!("recorded/vm.txt");

fn told(side: &str, kind: Kind, text: &'static str, at: u64) -> Told {
    Told {
        side: side.to_owned(),
        kind,
        is_host: side == "process",
        answers: Answers::of(text.lines().map(|line| (at, line))),
        exits: Vec::new(),
    }
}

/// The host.
pub(super) fn process() -> Told {
    told("process", Kind::Floor, PROCESS, PROCESS_AT)
}

/// A container on it.
pub(super) fn podman() -> Told {
    told("podman", Kind::Container, PODMAN, PODMAN_AT)
}

/// A VM, with the greater part of its exits.
pub(super) fn vm() -> Told {
    let exit = |kind: &str, address, device: Option<&str>, count| ExitLine {
        kind: kind.to_owned(),
        address: Some(address),
        device: device.map(str::to_owned),
        count,
        total: 0,
        median: 0,
        p99: 0,
    };
    Told {
        exits: vec![
            exit("out", 0x3f8, Some("serial"), 545),
            exit("in", 0x3fa, Some("serial"), 85),
            exit("mmio-write", 0xfec0_0000, Some("ioapic"), 74),
            exit("out", 0x40, None, 2),
        ],
        ..told("cottage", Kind::Vm, VM, PODMAN_AT)
    }
}
