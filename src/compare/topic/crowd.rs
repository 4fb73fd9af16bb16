//! Many instances side by side: what they take of the host, for [`super::memory`] and
//! [`super::density`], which share one measurement.
//!
//! Three views, because each alone misleads. The *processes' memory* is the sum of PSS, in which a
//! page shared by n processes counts 1/n for each; it misses what the kernel keeps for them. The *host's
//! view* is what the kernel says is in use of kinds that instances use; it misses nothing, but what
//! others do meanwhile shows in it. The *cgroup's charge* is what a limit would act on; it misses the
//! helpers outside.
//!
//! Sources: Linux `Documentation/filesystems/proc.rst`, "/proc/PID/smaps_rollup" and "meminfo";
//! `Documentation/admin-guide/cgroup-v2.rst`, memory.current.
//! Read next: [`super::memory`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::compare::finding::Point;
use crate::compare::session::Session;
use crate::compare::side::{Kind, Side};
use crate::timeline::{Nanos, now};

/// How many instances at the points of a curve: of a whole run, a quick one, and on an emulated host,
/// which has little memory and time.
const STEPS: [&[usize]; 3] = [&[10, 50, 100], &[5, 10], &[2, 4, 8]];
/// No more instances once less than this share of the memory is available.
const SPARE: f64 = 0.25;
/// For memory that is freed late, and helpers that end.
const SETTLE: Duration = Duration::from_millis(300);
/// What stands in the command line of every probe that stays.
const HOLD: [&str; 2] = ["/probe", "hold"];

/// What the kinds of memory that instances use are called in /proc/meminfo. Page cache is left out: it
/// is given back when it is needed.
const KINDS: [&str; 6] = [
    "AnonPages",
    "Slab",
    "PageTables",
    "KernelStack",
    "Percpu",
    "Shmem",
];

/// What one side's instances took.
#[derive(Clone, Debug, Default)]
pub struct Crowd {
    /// Sum of PSS over all processes, bytes.
    pub processes: Vec<Point>,
    /// The host's view, bytes.
    pub host: Vec<Point>,
    /// Charged to the instances' cgroups, bytes; empty if they have none of their own.
    pub cgroup: Vec<Point>,
    /// Guest memory that was touched, bytes; empty if there is none.
    pub guest: Vec<Point>,
    /// Threads on the host.
    pub tasks: Vec<Point>,
    /// How long each instance took from spawn to READY, in order.
    pub starts: Vec<Option<Nanos>>,
    /// Why there are not as many as were meant to be.
    pub stopped: Option<String>,
}

/// All sides' crowds, in the order of [`crate::compare::side::Found::sides`].
pub fn measure(session: &mut Session<'_>) -> Vec<Crowd> {
    if let Some(crowds) = &session.crowds {
        return crowds.clone();
    }
    let found = session.found;
    let mut crowds = Vec::new();
    for side in &found.sides {
        session.progress("instances side by side", &side.name);
        crowds.push(of_side(session, side));
    }
    session.crowds = Some(crowds.clone());
    crowds
}

/// The numbers of instances to look at.
pub fn steps(session: &Session<'_>) -> &'static [usize] {
    let [whole, quick, emulated] = STEPS;
    if session.plan.testbed {
        emulated
    } else if session.plan.quick {
        quick
    } else {
        whole
    }
}

fn of_side<'a>(session: &mut Session<'a>, side: &'a Side) -> Crowd {
    let mut crowd = Crowd::default();
    let mut held = Vec::new();
    let before = View::look(&[], side.kind);
    crowd.add(0, &before, &before);
    for step in steps(session) {
        while held.len() < *step && crowd.stopped.is_none() {
            let begun = now();
            match session.hold(side, &HOLD) {
                Ok(instance) => held.push(instance),
                Err(error) => crowd.stopped = Some(error),
            }
            if crowd.stopped.is_none() {
                crowd.starts.push(Some(now() - begun));
            }
            if available() < SPARE {
                let percent = 100.0 * SPARE;
                crowd.stopped = Some(format!(
                    "stopped at {}: less than {percent:.0} % of the memory was left",
                    held.len()
                ));
            }
        }
        if session.over() || crowd.stopped.is_some() && held.len() < *step {
            break;
        }
        sleep(SETTLE);
        let pids: Vec<u32> = held.iter_mut().map(|instance| instance.pid()).collect();
        crowd.add(held.len(), &View::look(&pids, side.kind), &before);
    }
    session.release(held);
    sleep(SETTLE);
    crowd
}

impl Crowd {
    fn add(&mut self, instances: usize, view: &View, before: &View) {
        let instances = instances as u64;
        let point = |value: u64| Point { instances, value };
        self.processes
            .push(point(view.processes.saturating_sub(before.processes)));
        self.host.push(point(view.host.saturating_sub(before.host)));
        self.tasks
            .push(point(view.tasks.saturating_sub(before.tasks)));
        if instances > 0 {
            self.cgroup.extend(view.cgroup.map(point));
            self.guest.extend(view.guest.map(point));
        }
    }
}

/// What is in use now.
#[derive(Clone, Copy, Debug, Default)]
struct View {
    processes: u64,
    host: u64,
    cgroup: Option<u64>,
    guest: Option<u64>,
    tasks: u64,
}

impl View {
    fn look(spawned: &[u32], kind: Kind) -> Self {
        let mut view = Self::default();
        let own_group = own_cgroup();
        let mut groups: Vec<PathBuf> = Vec::new();
        for process in processes() {
            let read = |name: &str| fs::read_to_string(process.join(name)).unwrap_or_default();
            view.processes += kib(&read("smaps_rollup"), "Pss");
            view.tasks += kib(&read("status"), "Threads") / 1024;
            let words = read("cmdline").replace('\0', " ");
            if kind == Kind::Container && words.trim_end().ends_with(&HOLD.join(" ")) {
                groups
                    .extend(cgroup_of(&process).filter(|group| Some(group) != own_group.as_ref()));
            }
        }
        groups.sort();
        groups.dedup();
        if !groups.is_empty() {
            view.cgroup = groups.iter().map(|group| charge(group)).sum();
        }
        if kind == Kind::Vm && !spawned.is_empty() {
            let smaps = |pid| fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
            view.guest = Some(
                spawned
                    .iter()
                    .map(|pid| largest_resident(&smaps(pid)))
                    .sum(),
            );
        }
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        view.host = KINDS.iter().map(|kind| kib(&meminfo, kind)).sum();
        view
    }
}

/// Bytes of the line `name:  N kB` of a file in /proc; 0 if it has none.
fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix(':')?;
        rest.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    line.unwrap_or(0) * 1024
}

/// Resident bytes of the largest mapping: a VM's memory, which is larger than anything else of a VMM.
fn largest_resident(smaps: &str) -> u64 {
    let (mut size, mut largest) = (0, (0, 0));
    for line in smaps.lines() {
        if line.starts_with("Size:") {
            size = kib(line, "Size");
        } else if line.starts_with("Rss:") {
            largest = largest.max((size, kib(line, "Rss")));
        }
    }
    largest.1
}

/// The share of the memory that is available.
fn available() -> f64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kib(&meminfo, "MemAvailable") as f64 / kib(&meminfo, "MemTotal").max(1) as f64
}

/// Bytes of the host's memory.
pub fn memory_total() -> u64 {
    kib(
        &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        "MemTotal",
    )
}

/// A process's PSS, in bytes.
pub fn pss(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    kib(&rollup.unwrap_or_default(), "Pss")
}

/// Folders of all processes in /proc.
fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn own_cgroup() -> Option<PathBuf> {
    cgroup_of(Path::new("/proc/self"))
}

/// The folder whose memory a process is charged to: of version 2, or of version 1's memory controller.
fn cgroup_of(process: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(process.join("cgroup")).ok()?;
    let path = |line: &str, mount: &str| {
        let path = line.splitn(3, ':').nth(2)?;
        let folder = Path::new(mount).join(path.trim_start_matches('/'));
        charge(&folder).map(|_| folder)
    };
    text.lines().find_map(|line| {
        let controllers = line.split(':').nth(1)?;
        match controllers {
            "" => path(line, "/sys/fs/cgroup"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                path(line, "/sys/fs/cgroup/memory")
            }
            _ => None,
        }
    })
}

/// Bytes charged to a cgroup.
fn charge(folder: &Path) -> Option<u64> {
    let read = |name| -> io::Result<String> { fs::read_to_string(folder.join(name)) };
    let text = read("memory.current").or_else(|_v1| read("memory.usage_in_bytes"));
    text.ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_in_kib() {
        let meminfo = "MemTotal:       24 kB\nSlab:  7 kB\nSlabX: 9 kB\n";
        assert_eq!(kib(meminfo, "Slab"), 7 * 1024);
        assert_eq!(kib(meminfo, "Shmem"), 0);
    }

    #[test]
    fn guest_memory_is_the_largest_mapping() {
        let smaps = "a-b rw-p\nSize:  100 kB\nRss:  90 kB\nc-d rw-p\nSize: 131072 kB\n\
                     Rss:  20 kB\nPss:  20 kB\n";
        assert_eq!(largest_resident(smaps), 20 * 1024);
        assert_eq!(largest_resident(""), 0);
    }

    #[test]
    fn this_process_is_seen() {
        let view = View::look(&[], Kind::Floor);
        assert!(
            view.processes > 0 && view.host > 0 && view.tasks > 0,
            "{view:?}"
        );
        assert_eq!((view.cgroup, view.guest), (None, None));
        let share = available();
        assert!(share > 0.0 && share <= 1.0, "{share}");
    }

    #[test]
    fn points_are_beyond_what_was_before() {
        let view = |processes, host, tasks| View {
            processes,
            host,
            tasks,
            ..View::default()
        };
        let mut crowd = Crowd::default();
        let before = view(100, 1000, 5);
        crowd.add(0, &before, &before);
        crowd.add(2, &view(160, 900, 9), &before);
        let values = |points: &[Point]| points.iter().map(|p| p.value).collect::<Vec<_>>();
        assert_eq!(values(&crowd.processes), [0, 60]);
        // Others gave memory back meanwhile: that is no debt of the instances.
        assert_eq!(values(&crowd.host), [0, 0]);
        assert_eq!(values(&crowd.tasks), [0, 4]);
    }
}
