//! Whose kernel is it, and what of the host can a program inside reach?
//!
//! One static program asks on every side. Its answers become two lists that are never added up:
//! *identity*, whose kernel answers, and *attack surface*, what a program inside could try. Behind a
//! VM's surface is another kernel; what stands between that and the host is a third list, from cottage's
//! own account. The host is a side like the others: what it refuses too proves nothing.
//! Read next: [`answers`].

pub mod answers;
pub mod identity;
pub mod surface;
pub mod boundary;

use super::Findings;
use crate::bench::subject::Sample;
use crate::compare::finding::{Figure, Row, Table, Unit, Value};
use crate::compare::session::Session;
use crate::compare::side::Kind;
use answers::Answers;

/// The side that is the host itself.
const HOST: &str = "process";

/// What a side answered to one word of the probe.
#[derive(Debug)]
pub struct Told {
    /// The side's name.
    pub side: String,
    /// What it is.
    pub kind: Kind,
    /// Whether it is the host itself.
    pub is_host: bool,
    /// What it said.
    pub answers: Answers,
    /// What cottage counted meanwhile, of a VM.
    pub exits: Vec<crate::timeline::exits::ExitLine>,
}

/// Answers of all sides to one word, and why some have none.
#[derive(Debug, Default)]
struct Asked {
    told: Vec<Told>,
    /// By the side's place.
    failed: Vec<(usize, String)>,
}

/// Asks.
pub fn measure(session: &mut Session<'_>) -> Findings {
    let identity = ask(session, "identity");
    let surface = ask(session, "surface");
    let syscalls = |index: usize, name: &str| syscalls(&surface, index, name);
    let figure = Figure {
        key: "isolation.syscalls".to_owned(),
        title: "System calls past the gate".to_owned(),
        end_points: "of all x86-64 numbers up to 469, each called once with arguments that must fail: \
                     those that say neither EPERM nor ENOSYS and that no filter kills; in a VM it is \
                     the guest's kernel that they reach"
            .to_owned(),
        unit: Unit::Count,
        part_of: None,
        lines: session.lines(|index, side| syscalls(index, &side.name)),
    };
    let tables = [
        identity::table_of(&identity.told),
        surface::table_of(&surface.told, &identity.told),
        boundary::table_of(&identity.told),
    ];
    let mut notes = notes();
    for (what, asked) in [("identity", &identity), ("attack surface", &surface)] {
        for (index, why) in &asked.failed {
            if let Some(side) = session.found.sides.get(*index) {
                notes.push(format!("{what} of {}: not run: {why}", side.name));
            }
        }
    }
    Findings {
        topic: "isolation",
        question: "Whose kernel is it, and what of the host can a program inside reach?",
        figures: vec![figure],
        tables: tables.into_iter().flatten().collect(),
        notes,
    }
}

/// Runs one word of the probe on all sides.
fn ask(session: &mut Session<'_>, word: &str) -> Asked {
    let found = session.found;
    let mut asked = Asked::default();
    for (index, side) in found.sides.iter().enumerate() {
        if session.over() {
            break;
        }
        session.progress("isolation", &side.name);
        match session.output(side, &["/probe", word]) {
            Ok(sample) => asked.told.push(Told {
                side: side.name.clone(),
                kind: side.kind,
                is_host: side.runtime == HOST,
                answers: answers(&sample),
                exits: sample.run.map_or_else(Vec::new, |run| run.record.exits),
            }),
            Err(why) => asked.failed.push((index, why)),
        }
    }
    asked
}

fn answers(sample: &Sample) -> Answers {
    let lines = sample.lines.iter();
    let lines = lines.map(|line| (line.at.saturating_add(sample.spawned), line.text.as_str()));
    Answers::of(lines)
}

fn syscalls(surface: &Asked, index: usize, name: &str) -> Value {
    if let Some((_, why)) = surface.failed.iter().find(|(failed, _)| *failed == index) {
        return Value::NotRun(why.clone());
    }
    let told = surface.told.iter().find(|told| told.side == name);
    match told.and_then(|told| told.answers.count("syscalls_past")) {
        Some(count) => Value::Exact(count),
        None => Value::NotRun("it was not reached".to_owned()),
    }
}

/// A table of the sides that answered; `None` if the host did not, beside which all else is read.
fn table(key: &str, title: &str, told: &[Told], rows: Vec<Row>) -> Option<Table> {
    told.iter().find(|told| told.is_host)?;
    Some(Table {
        key: format!("isolation.{key}"),
        title: title.to_owned(),
        columns: told.iter().map(|told| told.side.clone()).collect(),
        rows,
    })
}

fn notes() -> Vec<String> {
    [
        "the same program asks on every side; a cell that equals the host's (process) is the host's own \
         property, seen from inside",
        "no score: a container's calls reach the host's kernel behind a filter, a VM's reach another \
         kernel behind the processor's; numbers of the two cannot be weighed against each other",
        "each call is made once, in a child that may break, with arguments that the kernel must refuse; \
         one is left out, for it has no such arguments: sync. A call can be past the gate and still \
         be refused later, for other arguments",
        "what a guest could do to cottage itself, and a broken cottage to the host, is not measured here: \
         see docs/threat-model.md",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[cfg(test)]
pub(super) mod testing;

#[cfg(test)]
mod tests {
    use super::testing::{podman, process, vm};
    use super::*;

    #[test]
    fn failed_sides_have_their_reason_and_no_number() {
        let surface = Asked {
            told: vec![process(), podman()],
            failed: vec![(2, "no such thing".to_owned())],
        };
        assert_eq!(syscalls(&surface, 0, "process"), Value::Exact(357));
        assert_eq!(syscalls(&surface, 1, "podman"), Value::Exact(300));
        let failed = Value::NotRun("no such thing".to_owned());
        assert_eq!(syscalls(&surface, 2, "cottage"), failed);
        let missing = Value::NotRun("it was not reached".to_owned());
        assert_eq!(syscalls(&surface, 3, "crun"), missing);
    }

    #[test]
    fn without_the_host_there_is_no_table() {
        assert!(table("x", "X", &[podman(), vm()], Vec::new()).is_none());
        assert!(table("x", "X", &[process(), vm()], Vec::new()).is_some());
    }
}
