//! Identity: whose kernel is this?
//!
//! Read next: [`super::surface`].

use super::answers::Answers;
use super::{Told, table};
use crate::compare::finding::{Row, Table};

/// Kernels that started within so many seconds are one: an answer takes a while to arrive.
const SAME_START: f64 = 3.0;

/// More than any machine has: version 1 of cgroups gives the greatest number, less a page.
const NO_LIMIT: u64 = 1 << 60;

/// What is asked for: the name of a row, the probe's key, what it means.
const ROWS: [(&str, &str, &str); 15] = [
    (
        "boot id",
        "boot_id",
        "a random number that a kernel draws when it starts: the same number is the same kernel",
    ),
    (
        "uptime",
        "uptime",
        "seconds since the kernel started; where it started when the host's did, the host's is shown",
    ),
    (
        "load average",
        "loadavg",
        "moves from one look to the next, so that one kernel may give two answers",
    ),
    ("kernel release", "kernel_release", ""),
    ("kernel version", "kernel_version", ""),
    (
        "machine",
        "machine",
        "proves nothing: every x86-64 kernel says so",
    ),
    (
        "MemTotal",
        "mem_total",
        "what programs take for the machine's memory; a container's limit does not show in it",
    ),
    (
        "memory limit",
        "memory_limit",
        "of the program's cgroup, where its files are visible inside; not visible is no proof of no limit",
    ),
    ("processors online", "cpus_online", ""),
    (
        "processors usable",
        "cpus_usable",
        "those the scheduler may use for it; equal numbers prove nothing",
    ),
    (
        "kernel symbols",
        "kernel_symbols",
        "with an address, and all, in /proc/kallsyms; the number of all tells one kernel from another",
    ),
    (
        "processes visible",
        "processes",
        "differs by a namespace alone: no sign of another kernel",
    ),
    (
        "host name",
        "hostname",
        "differs by a namespace alone: no sign of another kernel",
    ),
    (
        "own process id",
        "pid",
        "differs by a namespace alone: no sign of another kernel",
    ),
    (
        "process 1",
        "init_comm",
        "differs by a namespace alone: no sign of another kernel",
    ),
];

/// The table.
pub fn table_of(told: &[Told]) -> Option<Table> {
    let host = told.iter().find(|told| told.is_host)?;
    let row = |(name, key, remark): (&str, &str, &str)| Row {
        name: name.to_owned(),
        cells: told
            .iter()
            .map(|told| cell(key, &told.answers, &host.answers))
            .collect(),
        remark: remark.to_owned(),
    };
    let rows = ROWS.into_iter().map(row).collect();
    table("identity", "Identity: whose kernel is this?", told, rows)
}

fn cell(key: &str, own: &Answers, host: &Answers) -> String {
    match key {
        "uptime" => {}
        "loadavg" => return load(own),
        "memory_limit" => return limit(own),
        _ => return own.words(key),
    }
    let seconds = |answers: &Answers| {
        let words = answers.words(key);
        words.split(' ').next().unwrap_or_default().to_owned()
    };
    match (own.started(), host.started()) {
        (Some(own), Some(same)) if (own - same).abs() < SAME_START => seconds(host),
        (Some(_), _) => seconds(own),
        (None, _) => own.words(key),
    }
}

/// The three averages, without what is running at the moment.
fn load(answers: &Answers) -> String {
    let words = answers.words("loadavg");
    let averages: Vec<_> = words.split(' ').take(3).collect();
    averages.join(" ")
}

/// A cgroup's limit; both versions of cgroups have their way to say that there is none.
fn limit(answers: &Answers) -> String {
    match answers.count("memory_limit") {
        Some(NO_LIMIT..) => "no limit set".to_owned(),
        Some(bytes) => format!("{bytes} bytes"),
        None if answers.value("memory_limit") == Some("max") => "no limit set".to_owned(),
        None => "not visible".to_owned(),
    }
}

/// Whether two answers come from one kernel; `None` if it cannot be told.
pub fn same_kernel(own: &Answers, host: &Answers) -> Option<bool> {
    Some(own.value("boot_id")? == host.value("boot_id")?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{podman, process, vm};
    use super::*;

    fn row<'a>(table: &'a Table, name: &str) -> &'a [String] {
        &table
            .rows
            .iter()
            .find(|row| row.name == name)
            .unwrap()
            .cells
    }

    #[test]
    fn container_answers_with_the_hosts_kernel() {
        let table = table_of(&[process(), podman(), vm()]).unwrap();
        for name in ["boot id", "uptime", "kernel release", "MemTotal"] {
            let [host, container, vm] = row(&table, name) else {
                panic!("{table:?}")
            };
            assert_eq!(host, container, "{name}");
            assert_ne!(host, vm, "{name}");
        }
        assert_eq!(row(&table, "processes visible")[1], "1");
        assert_eq!(row(&table, "memory limit")[1], "67108864 bytes");
        assert_eq!(row(&table, "memory limit")[0], "no limit set");
        assert_eq!(row(&table, "memory limit")[2], "not visible");
        assert_eq!(row(&table, "load average")[1].split(' ').count(), 3);
        assert_eq!(row(&table, "kernel symbols")[1], "0 122133");
    }

    #[test]
    fn kernels_are_told_apart_by_boot_id() {
        let (process, podman, vm) = (process(), podman(), vm());
        let same = |own: &Told| same_kernel(&own.answers, &process.answers);
        assert_eq!(same(&podman), Some(true));
        assert_eq!(same(&vm), Some(false));
        assert_eq!(same_kernel(&Answers::default(), &process.answers), None);
    }
}
