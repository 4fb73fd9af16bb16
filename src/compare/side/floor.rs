//! The least there is: a process, a process with namespaces, and those with a little care.
//!
//! No engine, no image, no cgroup: what these take is what the host's kernel takes.
//!
//! Sources: unshare(1) of util-linux 2.38, bwrap(1) 0.8.
//! Read next: [`super::hybrid`].

use std::path::PathBuf;

use super::trial::{Slot, Trial, Way, absent, is_root};
use super::words::{Words, words};
use super::{Absent, Kind, Launch};
use crate::bench::subject::Subject;

/// fork and exec, nothing else.
#[derive(Debug)]
struct Process {
    /// The root file system; commands are looked up in it, but it is not entered.
    root: PathBuf,
}

/// A process of this host.
pub fn process(trial: &mut Trial<'_>) -> Vec<Result<Slot, Absent>> {
    let root = trial.root.folder.clone();
    vec![Ok(Slot {
        name: "process".to_owned(),
        runtime: "process",
        kind: Kind::Floor,
        version: String::new(),
        ways: vec![Way::new(Process { root }, &[])],
    })]
}

impl Launch for Process {
    fn prepare(&self, _instance: &str, command: &[&str]) -> Result<Subject, String> {
        let mut all = words(command);
        if let Some(program) = all.first_mut() {
            let path = self.root.join(program.trim_start_matches('/'));
            *program = path.to_string_lossy().into_owned();
        }
        Ok(Subject::Other(all))
    }
}

/// Namespaces of all kinds that are usual, and chroot, by the kernel's calls alone.
pub fn unshare(trial: &mut Trial<'_>) -> Vec<Result<Slot, Absent>> {
    let (program, version) = match trial.installed("unshare", "util-linux") {
        Ok(found) => found,
        Err(reason) => return absent("unshare", Kind::Floor, reason),
    };
    let root = trial.root.folder.to_string_lossy().into_owned();
    let mut before = vec![program.clone()];
    if !is_root() {
        before.extend(words(&["--user", "--map-root-user"]));
    }
    before.extend(words(&[
        "--mount",
        "--uts",
        "--ipc",
        "--net",
        "--pid",
        "--cgroup",
        "--fork",
        "--kill-child",
    ]));
    before.push(format!("--root={root}"));
    before.push("--mount-proc=/proc".to_owned());
    let side = Words {
        before,
        programs: vec![program.clone()],
        ..Words::default()
    };
    let smaller = Words {
        before: words(&[
            &program, "-m", "-u", "-i", "-n", "-p", "-f", "chroot", &root,
        ]),
        ..side.clone()
    };
    let note =
        "this unshare has no --root, --cgroup and --kill-child: chroot is a program of its own";
    vec![Ok(Slot {
        name: "unshare".to_owned(),
        runtime: "unshare",
        kind: Kind::Floor,
        version,
        ways: vec![Way::new(side, &[]), Way::new(smaller, &[note])],
    })]
}

/// bubblewrap, which Flatpak starts its programs with.
pub fn bwrap(trial: &mut Trial<'_>) -> Vec<Result<Slot, Absent>> {
    let (program, version) = match trial.installed("bwrap", "bubblewrap") {
        Ok(found) => found,
        Err(reason) => return absent("bwrap", Kind::Container, reason),
    };
    let root = trial.root.folder.to_string_lossy().into_owned();
    let before = [
        &program,
        "--unshare-all",
        // It ends with the thread that spawned it, which here is the one that measures.
        "--die-with-parent",
        "--bind",
        &root,
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--",
    ];
    let side = Words {
        before: words(&before),
        programs: vec![program.clone()],
        ..Words::default()
    };
    vec![Ok(Slot {
        name: "bwrap".to_owned(),
        runtime: "bwrap",
        kind: Kind::Container,
        version,
        ways: vec![Way::new(side, &[])],
    })]
}
