//! ctr: containerd's own client, docker's lower half without the upper.
//!
//! Images, containers and tasks are kept in a namespace of containerd's, which here bears the
//! comparison's tag.
//!
//! Sources: `ctr --help` of containerd 1.6.
//! Read next: [`super::tap`].

use std::path::Path;

use super::trial::{Slot, Trial, Way, absent};
use super::words::{NAME, Words, words};
use super::{Absent, Kind};
use crate::compare::scratch::Undo;

/// Names the engine's socket, for ctr as for us.
const ADDRESS: &str = "CONTAINERD_ADDRESS";
/// Where it is: of a service of its own, and of docker's engine that has started one.
const ADDRESSES: [&str; 2] = [
    "/run/containerd/containerd.sock",
    "/run/docker/containerd/containerd.sock",
];

/// ctr and the engine.
pub fn ctr(trial: &mut Trial<'_>) -> Vec<Result<Slot, Absent>> {
    prepare(trial).unwrap_or_else(|reason| absent("ctr", Kind::Container, reason))
}

fn prepare(trial: &mut Trial<'_>) -> Result<Vec<Result<Slot, Absent>>, String> {
    let (program, version) = trial.installed("ctr", "containerd")?;
    let given = std::env::var(ADDRESS)
        .ok()
        .filter(|address| !address.is_empty());
    let usual = ADDRESSES
        .into_iter()
        .find(|address| Path::new(address).exists());
    let address = given.or_else(|| usual.map(str::to_owned));
    let address = address.ok_or_else(|| {
        format!(
            "no engine answers: there is no {} ({ADDRESS} names another)",
            ADDRESSES.join(" or ")
        )
    })?;
    let tag = trial.scratch.tag();
    let at = |rest: &[&str]| {
        let before = words(&[&program, "--address", &address, "--namespace", tag]);
        [before, words(rest)].concat()
    };
    let engine = trial.run(&at(&["version"]), super::trial::VERSION_LIMIT);
    engine.map_err(|why| format!("no engine answers on {address}: {why}"))?;
    let image = trial.root.image_name();
    let archive = trial.root.image()?;
    let ledger = trial.ledger();
    // Undone from the last to the first: containers, the image and what it was unpacked to, the
    // namespace.
    ledger.note(Undo::Run(at(&["namespaces", "remove", tag])));
    ledger.note(Undo::Run(at(&["images", "remove", "--sync", &image])));
    ledger.note(Undo::Instances {
        list: at(&["containers", "list", "--quiet"]),
        remove: at(&["containers", "remove"]),
    });
    ledger.note(Undo::Instances {
        list: at(&["tasks", "list", "--quiet"]),
        remove: at(&["tasks", "remove", "--force"]),
    });
    trial.load(&at(&["images", "import", &archive.to_string_lossy()]))?;
    let side = Words {
        before: at(&["run", "--rm", &image, NAME]),
        remove: vec![
            at(&["tasks", "remove", "--force", NAME]),
            at(&["containers", "remove", NAME]),
        ],
        programs: words(&[&program, "containerd", "containerd-shim-runc-v2", "runc"]),
        engine: vec!["containerd"],
    };
    Ok(vec![Ok(Slot {
        name: "ctr".to_owned(),
        runtime: "ctr",
        kind: Kind::Container,
        version,
        ways: vec![Way::new(side, &[])],
    })])
}
