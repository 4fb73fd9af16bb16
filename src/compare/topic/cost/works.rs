//! What is measured, and when a figure of it would mean nothing.
//!
//! Read next: [`super::echo`].

use crate::compare::session::Plan;
use crate::compare::side::Kind;

/// What a work needs besides a processor that computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// The kernel's code, in the guest's case the guest's.
    Kernel,
    /// That, and changes of page tables or processes, for which a VM needs the host's processor or VMM.
    Tables,
    /// A disk.
    Disk,
    /// A way to the host.
    Network,
}

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The probe's word, and the figure's key.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What is timed.
    pub end_points: &'static str,
    /// For how many operations the value is.
    pub operations: u64,
    /// What it needs.
    pub needs: Needs,
}

/// All, in the order of reports.
pub const WORKS: [Work; 7] = [
    Work {
        name: "syscall",
        title: "A system call",
        end_points: "one getppid: a batch of them, divided",
        operations: 1,
        needs: Needs::Kernel,
    },
    Work {
        name: "ctxsw",
        title: "A byte to another process and back",
        end_points: "through two pipes, both processes on one processor: two switches and four system \
                     calls",
        operations: 1,
        needs: Needs::Tables,
    },
    Work {
        name: "forkexec",
        title: "A process made, a program started, its end awaited",
        end_points: "fork, exec of the probe, which does nothing, and wait",
        operations: 1,
        needs: Needs::Tables,
    },
    Work {
        name: "pagetouch",
        title: "A page of memory",
        end_points: "4 KiB mapped, written to for the first time and given back, 1024 at a time",
        operations: 1,
        needs: Needs::Tables,
    },
    Work {
        name: "arith",
        title: "A million steps of arithmetic",
        end_points: "a whole and a real multiplication and addition each, of which every step needs the one \
                     before",
        operations: 1_000_000,
        needs: Needs::Nothing,
    },
    Work {
        name: "fsync",
        title: "4 KiB written and on the disk",
        end_points: "over the same place of a file in /tmp, and fsync",
        operations: 1,
        needs: Needs::Disk,
    },
    Work {
        name: "tcp",
        title: "A byte to the host and back",
        end_points: "over TCP, to the probe as a server on the host, which sends it back",
        operations: 1,
        needs: Needs::Network,
    },
];

/// File systems that keep files in memory, by statfs's numbers: tmpfs and ramfs.
///
/// Source: Linux v6.12, include/uapi/linux/magic.h.
const IN_MEMORY: [&str; 2] = ["fs=1021994", "fs=858458f6"];

/// Why a figure of `work` would mean nothing beside the others; `None` if it does. `about` is what the
/// probe said of where it worked.
pub fn incomparable(work: &Work, kind: Kind, plan: &Plan, about: Option<&str>) -> Option<String> {
    if work.needs == Needs::Disk && about.is_some_and(|about| IN_MEMORY.contains(&about)) {
        return Some("its /tmp is in memory: there is no disk to wait for".to_owned());
    }
    // Arithmetic is the processor's own on every back end: no kernel takes part in it.
    if kind != Kind::Vm || work.needs == Needs::Nothing {
        return None;
    }
    if plan.emulated.is_some() {
        return plan.emulated.clone();
    }
    (plan.testbed && work.needs != Needs::Kernel).then(|| {
        "this machine's processor is emulated: nested page tables and exits cost here what the emulator \
         makes of them, not what hardware does"
            .to_owned()
    })
}

/// Why there is no figure of a work that took next to no time.
pub fn unresolved(work: &Work) -> String {
    match work.needs {
        Needs::Disk => {
            "fsync returned at once: its file system does not wait for the disk, as that of \
                        containers that are thrown away may"
                .to_owned()
        }
        _ => "all of it took less than a millisecond, which the arrival of lines does not resolve"
            .to_owned(),
    }
}

/// Why there is no figure, in words, of a work that ended with error `number`.
pub fn failed(work: &Work, number: &str) -> String {
    let why = match (work.needs, number) {
        (Needs::Network, "101" | "97" | "38" | "113") => "it has no way to the host",
        (Needs::Network, "111" | "115" | "110") => "the host does not answer at its gateway",
        (Needs::Disk, "2") => "it has no /tmp",
        (Needs::Disk, "30" | "1" | "13") => "its /tmp cannot be written",
        (_, "38") => "its kernel does not do that",
        _ => "the probe could not do it",
    };
    format!("{why} (errno {number})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(emulated: Option<&str>, testbed: bool) -> Plan {
        Plan {
            emulated: emulated.map(str::to_owned),
            testbed,
            ..super::super::tests::plan()
        }
    }

    /// Works of a VM that are comparable.
    fn comparable(kind: Kind, plan: &Plan) -> Vec<&'static str> {
        let works = WORKS.iter();
        let works = works.filter(|work| incomparable(work, kind, plan, None).is_none());
        works.map(|work| work.name).collect()
    }

    #[test]
    fn on_hardware_all_is_comparable() {
        let plan = plan(None, false);
        assert_eq!(comparable(Kind::Vm, &plan).len(), WORKS.len());
    }

    #[test]
    fn with_an_emulated_guest_kernel_only_arithmetic_is() {
        let plan = plan(Some("emulated"), false);
        assert_eq!(comparable(Kind::Vm, &plan), ["arith"]);
        assert_eq!(comparable(Kind::Container, &plan).len(), WORKS.len());
    }

    #[test]
    fn in_the_testbed_only_what_stays_inside_is() {
        let plan = plan(None, true);
        assert_eq!(comparable(Kind::Vm, &plan), ["syscall", "arith"]);
        assert_eq!(comparable(Kind::Floor, &plan).len(), WORKS.len());
    }

    #[test]
    fn files_in_memory_are_no_disk_on_any_side() {
        let fsync = WORKS.iter().find(|work| work.name == "fsync").unwrap();
        let of = |kind, about| incomparable(fsync, kind, &plan(None, false), Some(about));
        assert!(of(Kind::Container, "fs=1021994").is_some());
        assert!(of(Kind::Vm, "fs=858458f6").is_some());
        assert!(of(Kind::Floor, "fs=ef53").is_none());
        let syscall = &WORKS[0];
        assert!(
            incomparable(syscall, Kind::Floor, &plan(None, false), Some("fs=1021994")).is_none()
        );
    }

    #[test]
    fn failures_have_their_words() {
        let of = |name: &str, number| {
            let work = WORKS.iter().find(|work| work.name == name);
            failed(work.unwrap(), number)
        };
        assert_eq!(of("tcp", "101"), "it has no way to the host (errno 101)");
        assert_eq!(of("fsync", "30"), "its /tmp cannot be written (errno 30)");
        assert_eq!(of("forkexec", "11"), "the probe could not do it (errno 11)");
    }
}
