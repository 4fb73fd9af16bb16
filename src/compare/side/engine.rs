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
const NETWORK_NOTE: &str = "in a network namespace that unshare --net makes, new each time, which is \
    in its times";

/// podman, which has no engine that stays.
pub fn podman(trial: &mut Trial<'_>) -> Vec<Result<Slot, Absent>> {
    prepare_podman(trial).unwrap_or_else(|reason| absent("podman", Kind::Container, reason))
}

fn prepare_podman(trial: &mut Trial<'_>) -> Result<Vec<Result<Slot, Absent>>, String> {
    let (program, version) = trial.installed("podman", "podman")?;
    let without_hybrid = hybrid::without(trial);
    let podman = Podman {
        image: trial.root.image_name(),
        program,
    };
    let ledger = trial.ledger();
    ledger.note(Undo::Run(podman.words(&["rmi", "--force", &podman.image])));
    // crun refuses to remove what it refuses to run.
    let remove = podman.words(&["rm", "--force", "--time=0"]);
    let around = without_hybrid.clone().unwrap_or_default();
    ledger.note(Undo::Instances {
        list: podman.words(&["ps", "--all", "--format", "{{.Names}}"]),
        remove: [around, remove].concat(),
    });
    let archive = trial.root.image()?;
    let archive = archive.to_string_lossy();
    trial.load(&podman.words(&["load", "--quiet", "--input", &archive]))?;
    let slot = |name: &str, ways| {
        Ok(Slot {
            name: name.to_owned(),
            runtime: "podman",
            kind: Kind::Container,
            version: version.clone(),
            ways,
        })
    };
    let hybrid = without_hybrid.as_deref();
    Ok(vec![
        slot("podman, no network", podman.ways("none", hybrid)),
        slot("podman, bridge", podman.ways("bridge", hybrid)),
    ])
}

/// podman and what it has loaded.
#[derive(Debug)]
struct Podman {
    program: String,
    image: String,
}

impl Podman {
    fn words(&self, rest: &[&str]) -> Vec<String> {
        [words(&[&self.program]), words(rest)].concat()
    }

    /// Ways to run it with this network, the plain one first; `without_hybrid` is what has a command
    /// run without hybrid cgroups.
    fn ways(&self, network: &str, without_hybrid: Option<&[String]>) -> Vec<Way> {
        let limits = [LIMITS_NOTE];
        let mut ways = vec![
            Way::new(self.side(network, &[], &[]), &[]),
            Way::new(self.side(network, &[], &PODMAN_LIMITS), &limits),
        ];
        let hybrid = [LIMITS_NOTE, hybrid::NOTE];
        if let Some(around) = without_hybrid {
            let side = self.side(network, around, &PODMAN_LIMITS);
            ways.push(Way::new(side, &hybrid));
        }
        if network == "none" {
            return ways;
        }
        let elsewhere = words(&OTHER_NETWORK);
        let side = self.side(network, &elsewhere, &PODMAN_LIMITS);
        ways.push(Way::new(side, &[LIMITS_NOTE, NETWORK_NOTE]));
        if let Some(around) = without_hybrid {
            let around = [around, &elsewhere].concat();
            let side = self.side(network, &around, &PODMAN_LIMITS);
            ways.push(Way::new(side, &[LIMITS_NOTE, hybrid::NOTE, NETWORK_NOTE]));
        }
        ways
    }

    fn side(&self, network: &str, around: &[String], limits: &[&str]) -> Words {
        let run = ["run", "--rm", "--network", network, "--name", NAME];
        let run = [&run[..], limits, &[&*self.image]].concat();
        let remove = self.words(&["rm", "--force", "--time=0", NAME]);
        Words {
            before: [around, &self.words(&run)].concat(),
            remove: vec![[around, &remove].concat()],
            programs: words(&[
                &self.program,
                "conmon",
                "crun",
                "/usr/lib/podman/netavark",
                "/usr/share/containers/seccomp.json",
            ]),
            engine: Vec::new(),
        }
    }
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
