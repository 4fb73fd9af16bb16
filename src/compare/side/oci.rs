//! crun and runc: what container engines start containers with, used without an engine.
//!
//! They take a bundle, a folder with a description of the container. Ours is what the runtime's own
//! `spec` writes, with four changes: the command, no terminal, the common root file system instead of
//! one in the bundle, and that it may be written to, as in the other containers. So there is no filter
//! of system calls, which that default has none of, and no network but a loopback device.
//!
//! Sources: `[oci]` Open Container Initiative Runtime Specification 1.0.2, "config.md"; crun(1) 1.8,
//! runc(8) 1.1.
//! Read next: [`super::engine`].

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::trial::{SECOND, Slot, Trial, Way, absent, is_root};
use super::words::words;
use super::{Absent, Kind, Launch, hybrid, installed};
use crate::bench::subject::Subject;
use crate::compare::command;
use crate::compare::scratch::Undo;

/// How long a runtime may take to write its default description.
const SPEC_LIMIT: u64 = 5 * SECOND;

/// A runtime and how it is used.
#[derive(Clone, Debug)]
struct Bundle {
    /// The runtime, in what it needs around it, with the folder for its state.
    runtime: Vec<String>,
    /// Its program.
    program: String,
    /// Where bundles are put.
    place: PathBuf,
    /// What is in all of them.
    spec: Value,
    /// Whether the container's cgroup is named; otherwise the runtime chooses.
    cgroup: bool,
}

/// crun, in C.
pub fn crun(trial: &mut Trial<'_>) -> Vec<Result<Slot, Absent>> {
    runtime(trial, "crun", "crun")
}

/// runc, in Go, which is what docker and containerd use.
pub fn runc(trial: &mut Trial<'_>) -> Vec<Result<Slot, Absent>> {
    runtime(trial, "runc", "runc")
}

fn runtime(trial: &mut Trial<'_>, name: &'static str, package: &str) -> Vec<Result<Slot, Absent>> {
    let found = trial.installed(name, package);
    let made = found.and_then(|(program, version)| {
        let bundle = Bundle::new(trial, name, program)?;
        Ok((bundle, version))
    });
    let (plain, version) = match made {
        Ok(made) => made,
        Err(reason) => return absent(name, Kind::Container, reason),
    };
    let named = Bundle {
        cgroup: true,
        ..plain.clone()
    };
    let mut ways = vec![
        Way::new(plain.clone(), &[]),
        Way::new(named, &["its cgroup is named in the bundle (cgroupsPath)"]),
    ];
    let mut usual = plain.runtime.clone();
    if name == "crun"
        && let Some(around) = hybrid::without(trial)
    {
        // Deleting is refused as well.
        usual = [around, usual].concat();
        let elsewhere = Bundle {
            runtime: usual.clone(),
            ..plain
        };
        ways.push(Way::new(elsewhere, &[hybrid::NOTE]));
    }
    let list = [usual.clone(), words(&["list", "-q"])].concat();
    let remove = [usual, words(&["delete", "--force"])].concat();
    trial.ledger().note(Undo::Instances { list, remove });
    vec![Ok(Slot {
        name: name.to_owned(),
        runtime: name,
        kind: Kind::Container,
        version,
        ways,
    })]
}

impl Bundle {
    fn new(trial: &mut Trial<'_>, name: &str, program: String) -> Result<Self, String> {
        let place = format!("{name}-{}", trial.number());
        let place = trial.scratch.folder().join(place);
        let at = |path: &Path| path.to_string_lossy().into_owned();
        let state = place.join("state");
        let made = fs::create_dir(&place).and_then(|()| fs::create_dir(&state));
        made.map_err(|error| format!("{} cannot be made: {error}", state.display()))?;
        let runtime = vec![program.clone(), "--root".to_owned(), at(&state)];
        let mut spec = vec![
            program.clone(),
            "spec".to_owned(),
            "--bundle".to_owned(),
            at(&place),
        ];
        if !is_root() {
            spec.push("--rootless".to_owned());
        }
        let said = trial.run(&spec, SPEC_LIMIT);
        said.map_err(|why| format!("asked for a default bundle: {why}"))?;
        let wrong = |why: String| format!("its default bundle makes no sense: {why}");
        let text = fs::read(place.join("config.json")).map_err(|error| wrong(error.to_string()))?;
        if text.is_empty() {
            return Err(wrong(format!(
                "it is empty; is there no room left in {}?",
                at(&place)
            )));
        }
        let mut spec: Value =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        // Indexing would panic where something else stands in its place.
        if !["/process", "/root", "/linux"]
            .iter()
            .all(|part| spec.pointer(part).is_some_and(Value::is_object))
        {
            return Err(wrong("it has no process, root or linux".to_owned()));
        }
        set(&mut spec, "/process", "terminal", false.into());
        set(&mut spec, "/root", "path", at(&trial.root.folder).into());
        set(&mut spec, "/root", "readonly", false.into());
        Ok(Self {
            runtime,
            program,
            place,
            spec,
            cgroup: false,
        })
    }

    fn folder(&self, instance: &str) -> PathBuf {
        self.place.join(instance)
    }
}

/// Sets a member of the object at `pointer`, which is there.
fn set(spec: &mut Value, pointer: &str, member: &str, value: Value) {
    if let Some(Value::Object(object)) = spec.pointer_mut(pointer) {
        object.insert(member.to_owned(), value);
    }
}

impl Launch for Bundle {
    fn prepare(&self, instance: &str, command: &[&str]) -> Result<Subject, String> {
        let mut spec = self.spec.clone();
        set(&mut spec, "/process", "args", command.into());
        if self.cgroup {
            set(
                &mut spec,
                "/linux",
                "cgroupsPath",
                format!("/{instance}").into(),
            );
        }
        let folder = self.folder(instance);
        let written = fs::create_dir(&folder)
            .and_then(|()| fs::write(folder.join("config.json"), spec.to_string()));
        written.map_err(|error| format!("{} cannot be written: {error}", folder.display()))?;
        let folder = folder.to_string_lossy();
        let run = words(&["run", "--bundle", &folder, instance]);
        Ok(Subject::Other([self.runtime.clone(), run].concat()))
    }

    fn remove(&self, instance: &str, ended_well: bool) {
        if !ended_well {
            let delete = words(&["delete", "--force", instance]);
            let _gone_already = command::run(&[self.runtime.clone(), delete].concat());
        }
        let _gone_already = fs::remove_dir_all(self.folder(instance));
    }

    fn installed(&self) -> Vec<PathBuf> {
        installed::files(std::slice::from_ref(&self.program))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_set_in_objects_only() {
        let mut spec = serde_json::json!({ "root": {}, "linux": 3 });
        set(&mut spec, "/root", "readonly", false.into());
        set(&mut spec, "/linux", "cgroupsPath", "x".into());
        assert_eq!(spec.to_string(), r#"{"linux":3,"root":{"readonly":false}}"#);
    }
}
