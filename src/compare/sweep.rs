//! What bears a comparison's tag, or came from it, and is still there: processes, cgroups, mounts.
//!
//! Sources: cgroups(7), proc_pid_stat(5), proc_pid_mountinfo(5).
//! Read next: [`super::root`].

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::scratch::belongs_to;

/// Where all cgroups are, whatever their version.
const CGROUPS: &str = "/sys/fs/cgroup";
/// As deep as runtimes put theirs: controller, machine or user, its services, the container.
const CGROUP_DEPTH: usize = 8;
/// Between two looks at something that is about to end.
const PAUSE: Duration = Duration::from_millis(10);
/// Looks before it is given up; a process that is killed may have memory to give back.
const LOOKS: usize = 200;

/// A line of the table of processes.
#[derive(Clone, Debug)]
struct Process {
    pid: i32,
    parent: i32,
    dead: bool,
}

/// Ends all children of this process and what is below them, whoever started them.
///
/// For a process that adopts orphans, when nothing it has started should run any more.
pub fn end_children() {
    let this = own_number();
    for _ in 0..LOOKS {
        let all = processes();
        let below = below(&all, BTreeSet::from([this]));
        if below.is_empty() {
            return;
        }
        for process in &below {
            match pid(process) {
                Some(pid) if process.dead && process.parent == this => {
                    let _reaped = waitpid(Some(pid), WaitOptions::NOHANG);
                }
                Some(pid) if !process.dead => {
                    let _gone_already = kill_process(pid, Signal::KILL);
                }
                _ => {}
            }
        }
        sleep(PAUSE);
    }
}

/// Ends processes that have lost their parent and bear `tag` in their command line, and what is below
/// them: what a comparison has left that was killed.
pub fn end_orphans(tag: &str) {
    for _ in 0..LOOKS {
        let all = processes();
        let orphans = all.iter().filter(|process| {
            let lost = process.parent == 1 || name(process.parent) == "systemd";
            lost && !process.dead && mentions(process.pid, tag)
        });
        let orphans: BTreeSet<i32> = orphans.map(|process| process.pid).collect();
        if orphans.is_empty() {
            return;
        }
        let below = below(&all, orphans.clone());
        let orphans = all.iter().filter(|process| orphans.contains(&process.pid));
        let mut killed = false;
        for process in orphans.chain(&below) {
            killed |= pid(process).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok());
        }
        if !killed {
            return;
        }
        sleep(PAUSE);
    }
}

/// Removes cgroups whose names bear `tag`, with what runs in them.
pub fn cgroups(tag: &str) {
    let mut found = Vec::new();
    let mut waiting = vec![(PathBuf::from(CGROUPS), 0)];
    while let Some((folder, depth)) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            // Runtimes put words before the name: libpod-, docker-.
            let ours = name.find(tag).and_then(|at| name.get(at..));
            if ours.is_some_and(|name| belongs_to(name, tag)) {
                found.push(entry.path());
            }
            if depth < CGROUP_DEPTH {
                waiting.push((entry.path(), depth + 1));
            }
        }
    }
    // What is below was found later.
    for cgroup in found.iter().rev() {
        for _ in 0..LOOKS {
            let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            for number in processes.lines().filter_map(|line| line.parse().ok()) {
                if let Some(pid) = Pid::from_raw(number) {
                    let _gone_already = kill_process(pid, Signal::KILL);
                }
            }
            if fs::remove_dir(cgroup).is_ok() || !cgroup.exists() || processes.is_empty() {
                break;
            }
            sleep(PAUSE);
        }
    }
}

/// Takes away what is mounted in `folder`, the last first.
pub fn mounts(folder: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is where.
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    let places = places.map(Path::new);
    let inside = places.filter(|place| place.starts_with(folder) && *place != folder);
    for place in inside.collect::<Vec<_>>().into_iter().rev() {
        let _gone_already = unmount(place, UnmountFlags::DETACH);
    }
}

/// All processes.
fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(process).collect()
}

fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses, and may contain some.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let dead = fields.next()? == "Z";
    let parent = fields.next()?.parse().ok()?;
    Some(Process { pid, parent, dead })
}

/// What is below `above`, without that.
fn below(all: &[Process], mut above: BTreeSet<i32>) -> Vec<Process> {
    let first = above.clone();
    loop {
        let more = all.iter().filter(|process| above.contains(&process.parent));
        let more: BTreeSet<i32> = more.map(|process| process.pid).collect();
        let before = above.len();
        above.extend(more);
        if above.len() == before {
            break;
        }
    }
    let is_below =
        |process: &&Process| above.contains(&process.pid) && !first.contains(&process.pid);
    all.iter().filter(is_below).cloned().collect()
}

/// Numbers of the processes that are called one of `names`, the first word of which the kernel keeps.
pub fn called(names: &[&str]) -> Vec<u32> {
    let all = processes().into_iter().filter(|process| !process.dead);
    let called = all.filter(|process| names.contains(&name(process.pid).as_str()));
    called
        .filter_map(|process| u32::try_from(process.pid).ok())
        .collect()
}

fn name(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

fn mentions(pid: i32, tag: &str) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).into_owned();
    let mut places = words.match_indices(tag);
    places.any(|(at, _)| words.get(at..).is_some_and(|rest| belongs_to(rest, tag)))
}

fn own_number() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn pid(process: &Process) -> Option<Pid> {
    Pid::from_raw(process.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_at_any_depth() {
        let process = |(pid, parent)| Process {
            pid,
            parent,
            dead: false,
        };
        // Numbers wrap around: a child's may be lower.
        let all: Vec<_> = [(9, 1), (2, 9), (3, 2), (4, 1)].map(process).into();
        let found = below(&all, BTreeSet::from([9]));
        let found: Vec<_> = found.iter().map(|process| process.pid).collect();
        assert_eq!(found, [2, 3]);
    }

    #[test]
    fn this_process_is_in_the_table() {
        let this = own_number();
        assert!(
            processes()
                .iter()
                .any(|process| process.pid == this && !process.dead)
        );
        assert!(called(&[&name(this)]).contains(&std::process::id()));
    }
}
