//! podman and docker: engines with images, storage in layers and networks.
//!
//! Both load the same archive and are given a container each time, with no network and with the bridge
//! that is docker's default, if that works here.
//!
//! Sources: podman-run(1) 4.3, docker-run(1) 20.10.
//! Read next: [`super::ctr`].

use super::trial::{Slot, Trial, Way, absent};
use super::words::{NAME, Words, words};
use super::{Absent, Kind, hybrid};
use crate::compare::scratch::Undo;

/// Where limits cannot be raised to what podman sets by default.
const PODMAN_LIMITS: [&str; 4] = [
    "--ulimit",
    "nofile=1024:1024",
    "--ulimit",
    "nproc=4096:4096",
];
const LIMITS_NOTE: &str = "with lower limits (--ulimit), for its default was refused";
/// For a bridge where the host's own network namespace takes none.
const OTHER_NETWORK: [&str; 3] = ["unshare", "--net", "--"];
const NETWORK_NOTE: &str = "in a network namespace of its own, made by unshare --net, new each time, which is in its times";

/// What podman takes around it, whether limits are lowered, and what to say of that.
type Unusual = (Vec<String>, bool, Vec<&'static str>);

/// podman, which has no engine that stays.
pub fn podman(trial: &mut Trial<'_>) -> Vec<Result<Slot, Absent>> {
    prepare_podman(trial).unwrap_or_else(|reason| absent("podman", Kind::Container, reason))
}

fn prepare_podman(trial: &mut Trial<'_>) -> Result<Vec<Result<Slot, Absent>>, String> {
    let (program, version) = trial.installed("podman", "podman")?;
    let command = |rest: &[&str]| [words(&[&program]), words(rest)].concat();
    let image = trial.root.image_name();
    let archive = trial.root.image()?;
    let ledger = trial.ledger();
    ledger.note(Undo::Run(command(&["rmi", "--force", &image])));
    let without_hybrid = hybrid::without(trial).unwrap_or_default();
    ledger.note(Undo::Instances {
        list: command(&["ps", "--all", "--format", "{{.Names}}"]),
        remove: [
            without_hybrid.clone(),
            command(&["rm", "--force", "--time=0"]),
        ]
        .concat(),
    });
    trial.load(&command(&[
        "load",
        "--quiet",
        "--input",
        &archive.to_string_lossy(),
    ]))?;
    let way = |network: &str, (around, limits, notes): &Unusual| {
        let limits: &[&str] = if *limits { &PODMAN_LIMITS } else { &[] };
        let run = ["run", "--rm", "--network", network, "--name", NAME];
        let run = [&run[..], limits, &[&*image]].concat();
        let side = Words {
            before: [around.clone(), command(&run)].concat(),
            remove: vec![
                [
                    around.clone(),
                    command(&["rm", "--force", "--time=0", NAME]),
                ]
                .concat(),
            ],
            programs: words(&[
                &program,
                "conmon",
                "crun",
                "/usr/lib/podman/netavark",
                "/usr/share/containers/seccomp.json",
            ]),
            engine: Vec::new(),
        };
        Way::new(side, notes)
    };
    let slot = |network: &str, ways| {
        Ok(Slot {
            name: format!("podman, {network}"),
            runtime: "podman",
            kind: Kind::Container,
            version: version.clone(),
            ways,
        })
    };
    let mut all: Vec<Unusual> = vec![
        (Vec::new(), false, vec![]),
        (Vec::new(), true, vec![LIMITS_NOTE]),
    ];
    let hybrid = !without_hybrid.is_empty();
    if hybrid {
        all.push((
            without_hybrid.clone(),
            true,
            vec![LIMITS_NOTE, hybrid::NOTE],
        ));
    }
    let without = all.iter().map(|unusual| way("none", unusual)).collect();
    let around = words(&OTHER_NETWORK);
    all.push((around.clone(), true, vec![LIMITS_NOTE, NETWORK_NOTE]));
    if hybrid {
        let notes = vec![LIMITS_NOTE, hybrid::NOTE, NETWORK_NOTE];
        all.push(([without_hybrid, around].concat(), true, notes));
    }
    let bridge = all.iter().map(|unusual| way("bridge", unusual)).collect();
    Ok(vec![slot("no network", without), slot("bridge", bridge)])
}

/// docker: a client, an engine that stays, and containerd below it.
pub fn docker(trial: &mut Trial<'_>) -> Vec<Result<Slot, Absent>> {
    prepare_docker(trial).unwrap_or_else(|reason| absent("docker", Kind::Container, reason))
}

fn prepare_docker(trial: &mut Trial<'_>) -> Result<Vec<Result<Slot, Absent>>, String> {
    let (program, version) = trial.installed("docker", "docker.io")?;
    let command = |rest: &[&str]| [words(&[&program]), words(rest)].concat();
    // Its client says its version without any engine.
    let engine = trial.first_line(&command(&["version", "--format", "{{.Server.Version}}"]));
    let engine = engine.map_err(|why| format!("no engine answers: {why}"))?;
    let image = trial.root.image_name();
    let archive = trial.root.image()?;
    let ledger = trial.ledger();
    ledger.note(Undo::Run(command(&["rmi", "--force", &image])));
    ledger.note(Undo::Instances {
        list: command(&["ps", "--all", "--format", "{{.Names}}"]),
        remove: command(&["rm", "--force", "--volumes"]),
    });
    trial.load(&command(&[
        "load",
        "--quiet",
        "--input",
        &archive.to_string_lossy(),
    ]))?;
    let slot = |name: &str, network: &str| {
        let run = ["run", "--rm", "--network", network, "--name", NAME, &image];
        let side = Words {
            before: command(&run),
            remove: vec![command(&["rm", "--force", "--volumes", NAME])],
            programs: words(&[
                &program,
                "dockerd",
                "docker-proxy",
                "containerd",
                "containerd-shim-runc-v2",
                "runc",
            ]),
            engine: vec!["dockerd", "containerd", "docker-proxy"],
        };
        Ok(Slot {
            name: format!("docker, {name}"),
            runtime: "docker",
            kind: Kind::Container,
            version: format!("{version}; engine {engine}"),
            ways: vec![Way::new(side, &[])],
        })
    };
    Ok(vec![slot("no network", "none"), slot("bridge", "bridge")])
}
