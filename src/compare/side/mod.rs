//! The sides: ways to run one command with one root file system.
//!
//! Each is found by running it ([`find`]): a `docker` on PATH proves nothing, a container that says
//! READY does. A runtime is first tried as its manual has it, then with what unusual hosts need; the
//! side says which it was. What needs time before the command can be spawned (an OCI bundle, a loaded
//! image) is done before the clock starts; what an instance leaves behind is removed after it has
//! stopped.
//! Read next: [`trial`].

pub mod trial;
pub mod words;
pub mod floor;
pub mod hybrid;
pub mod oci;
pub mod engine;
pub mod ctr;
pub mod tap;
pub mod vm;
pub mod installed;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::root::Root;
use super::scratch::Scratch;
use crate::bench::rounds::Progress;
use crate::bench::subject::Subject;
use crate::console::signals::Signals;
use trial::{Slot, Trial};

/// What `--with` may name.
pub const RUNTIMES: [&str; 7] = [
    "docker", "podman", "crun", "runc", "ctr", "bwrap", "unshare",
];

/// What stands between the command and the host's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Nothing, or as little as the kernel's own calls can: what the others are measured against.
    Floor,
    /// Namespaces, cgroups and the like, on the host's kernel.
    Container,
    /// A kernel of its own.
    Vm,
}

/// A way to run a command.
#[derive(Debug)]
pub struct Side {
    /// For people: runtime and what else tells it from others, such as `docker, no network`.
    pub name: String,
    /// As `--with` has it.
    pub runtime: &'static str,
    /// What stands in between.
    pub kind: Kind,
    /// The runtime's own word for its version.
    pub version: String,
    /// What is run, with COMMAND where the program inside comes; for the report.
    pub command: String,
    /// What it took to make it work on this host, in sentences; mostly none.
    pub notes: Vec<String>,
    /// How.
    pub launch: Box<dyn Launch>,
}

/// How a side runs a command.
pub trait Launch: fmt::Debug {
    /// What to spawn so that `command`, a path in the root file system and its arguments, runs in a
    /// fresh instance called `instance`, with its output on stdout; spawning it is all that is
    /// left to do.
    ///
    /// # Errors
    /// A sentence for the report.
    fn prepare(&self, instance: &str, command: &[&str]) -> Result<Subject, String>;

    /// Removes whatever `instance` has left. `ended_well`: it ended by itself, with status 0, and a
    /// runtime that was told to remove it then has done so; else it failed, was killed or still runs.
    fn remove(&self, _instance: &str, _ended_well: bool) {}

    /// Files that have to be on the disk for this side to work, without the root file system:
    /// programs, libraries, the guest's kernel. For the topic of disks.
    fn installed(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Bytes of the guest's kernel, of a VM.
    fn kernel_bytes(&self) -> Option<u64> {
        None
    }

    /// Folders in which instances are kept while they run: an engine's own, bundles, writable layers.
    fn storage(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Processes that run even if there is no instance: an engine and what it has started.
    fn engine(&self) -> Vec<u32> {
        Vec::new()
    }
}

/// A side that is not there, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Absent {
    /// As [`Side::name`].
    pub name: String,
    /// What it would have been.
    pub kind: Kind,
    /// Why, as a sentence without a full stop: "no engine answers on /run/docker.sock".
    pub reason: String,
}

/// What there is.
#[derive(Debug, Default)]
pub struct Found {
    /// Sides that ran a command, in the order of reports: floors, containers, VMs.
    pub sides: Vec<Side>,
    /// Sides that did not.
    pub absent: Vec<Absent>,
    /// The signal that asked to end meanwhile; then there may be more.
    pub ended_by: Option<u8>,
}

/// Tries the floor, the runtimes of `wanted`, and cottage. A signal ends it early. A runtime that is
/// wanted twice is there twice, as if it were another: what no difference looks like.
pub fn find(wanted: &[&str], root: &Root, scratch: &Scratch, signals: &mut Signals) -> Found {
    // In the order of reports. Each looks whether its programs and engines are there, and then says
    // which sides to try.
    type Look = fn(&mut Trial<'_>) -> Vec<Result<Slot, Absent>>;
    let all: [(&str, Look); 9] = [
        ("process", floor::process),
        ("unshare", floor::unshare),
        ("bwrap", floor::bwrap),
        ("crun", oci::crun),
        ("runc", oci::runc),
        ("ctr", ctr::ctr),
        ("podman", engine::podman),
        ("docker", engine::docker),
        ("cottage", vm::cottage),
    ];
    let times = |name: &str| match name {
        "process" | "cottage" => 1,
        _ => wanted.iter().filter(|wanted| **wanted == name).count(),
    };
    let mut progress = Progress::new("runtimes looked for", all.len());
    let mut trial = Trial::new(root, scratch, signals);
    let mut found = Found::default();
    for (name, look) in all {
        for time in 0..times(name) {
            trial.next_runtime();
            for slot in look(&mut trial) {
                let again = if time > 0 { ", again" } else { "" };
                match slot.and_then(|slot| trial.first_that_works(slot)) {
                    Ok(side) => found.sides.push(Side {
                        name: side.name + again,
                        ..side
                    }),
                    Err(absent) => found.absent.push(Absent {
                        name: absent.name + again,
                        ..absent
                    }),
                }
            }
            if trial.ended_by.is_some() {
                found.ended_by = trial.ended_by;
                return found;
            }
        }
        progress.step();
    }
    found
}
