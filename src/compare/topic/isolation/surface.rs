//! Attack surface: what could a program inside try?
//!
//! Read next: [`super::boundary`].

use super::answers::Answers;
use super::identity::same_kernel;
use super::{Told, table};
use crate::compare::finding::{Row, Table};

/// More names than this are counted only.
const NAMES_MAX: usize = 60;
/// Capabilities and devices are named if they are few: those of the host are not the point.
const FEW: usize = 16;
/// Answers that say a call did not get past the gate.
const STOPPED: [&str; 3] = ["syscalls_eperm", "syscalls_enosys", "syscalls_killed"];

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// A row's cell: of this side, beside the host, and whether both are one kernel.
type Cell = fn(&Answers, &Answers, bool) -> String;

/// The name of a row, its cell, what it means.
const ROWS: [(&str, Cell, &str); 12] = [
    (
        "system calls past the gate",
        past,
        "in a VM it is the guest's kernel that they reach, whose faults are not yet the host's",
    ),
    (
        "refused or unknown here, not on the host",
        stopped,
        "by a filter, for want of a capability, or because the kernel was built without; how often each",
    ),
    (
        "seccomp filter",
        |own, _, _| match own.value("seccomp_mode") {
            Some("0") => "none".to_owned(),
            Some("2") => "a filter".to_owned(),
            Some(other) => format!("mode {other}"),
            None => "none: its kernel has no filters".to_owned(),
        },
        "",
    ),
    (
        "no new privileges",
        |own, _, _| match own.value("no_new_privs") {
            Some("1") => "set".to_owned(),
            _ => "not set".to_owned(),
        },
        "whether programs with the set-user-id bit gain anything",
    ),
    (
        "capabilities",
        |own, _, _| named(own, "cap_effective"),
        "of the program, over what is in its user namespace; in a VM over the guest's kernel",
    ),
    ("user ids inside and outside", |own, _, _| user_ids(own), ""),
    (
        "namespaces shared with the host",
        namespaces,
        "names of namespaces mean something on one kernel only",
    ),
    (
        "device nodes",
        |own, _, _| named(own, "device_nodes"),
        "in /dev; in a VM those of the guest's kernel",
    ),
    (
        "kernel settings writable",
        |own, _, _| settings(own),
        "files below /proc/sys, by what access(2) says; nothing was written",
    ),
    (
        "/proc/sys and /sys",
        |own, _, _| format!("{}, {}", own.words("proc_sys"), own.words("sys")),
        "how they are mounted",
    ),
    ("kernel's log", |own, _, _| own.words("kernel_log"), ""),
    ("/dev/kvm", |own, _, _| own.words("kvm"), ""),
];

/// Rows that are tried for real: name and key.
const TRIED: [(&str, &str); 3] = [
    ("a new user namespace", "new_user_namespace"),
    ("an io_uring", "new_io_uring"),
    ("a raw packet socket", "packet_socket"),
];

/// The table; `identity` tells which sides share the host's kernel.
pub fn table_of(told: &[Told], identity: &[Told]) -> Option<Table> {
    let host = told.iter().find(|told| told.is_host)?;
    let cells = |cell: &dyn Fn(&Answers, bool) -> String| {
        let each = told.iter();
        each.map(|told| cell(&told.answers, shares_kernel(told, identity)))
            .collect()
    };
    let mut rows: Vec<Row> = ROWS
        .into_iter()
        .map(|(name, cell, remark)| Row {
            name: name.to_owned(),
            cells: cells(&|own, same| cell(own, &host.answers, same)),
            remark: remark.to_owned(),
        })
        .collect();
    rows.extend(TRIED.into_iter().map(|(name, key)| Row {
        name: name.to_owned(),
        cells: cells(&|own, _| own.words(key)),
        remark: if host.answers.value(key) == Some("allowed") {
            "tried".to_owned()
        } else {
            "tried; proves nothing here, for the host refuses it too".to_owned()
        },
    }));
    let title = "Attack surface: what could a program inside try?";
    table("surface", title, told, rows)
}

/// Whether a side's kernel is the host's, by its identity; a VM's is not, even if it did not tell.
fn shares_kernel(own: &Told, identity: &[Told]) -> bool {
    let host = identity.iter().find(|told| told.is_host);
    let same = identity.iter().find(|told| told.side == own.side);
    let told = same.zip(host);
    let told = told.and_then(|(own, host)| same_kernel(&own.answers, &host.answers));
    told.unwrap_or(own.kind != crate::compare::side::Kind::Vm)
}

fn past(own: &Answers, _: &Answers, _: bool) -> String {
    let of = own.words("syscalls_probed");
    format!("{} of {of}", own.words("syscalls_past"))
}

/// Names that are stopped here and not on the host, by how.
fn stopped(own: &Answers, host: &Answers, _: bool) -> String {
    let on_host: Vec<&str> = STOPPED.iter().flat_map(|key| host.names(key)).collect();
    let parts = STOPPED.iter().filter_map(|key| {
        let names: Vec<&str> = own
            .names(key)
            .filter(|name| !on_host.contains(name))
            .collect();
        let how = key.trim_start_matches("syscalls_").to_uppercase();
        (!names.is_empty()).then(|| format!("{} {how}: {}", names.len(), list(&names)))
    });
    let parts: Vec<_> = parts.collect();
    if parts.is_empty() {
        return "none".to_owned();
    }
    parts.join("; ")
}

fn list(names: &[&str]) -> String {
    let (shown, more) = names.split_at(names.len().min(NAMES_MAX));
    let mut text = shown.join(" ");
    if !more.is_empty() {
        text += &format!(" and {} more", more.len());
    }
    text
}

/// How many, and their names if they are few.
fn named(own: &Answers, key: &str) -> String {
    let Some(count) = own.count(key) else {
        return own.words(key);
    };
    let names: Vec<&str> = own.names(key).collect();
    if names.is_empty() || names.len() > FEW {
        return count.to_string();
    }
    format!("{count}: {}", names.join(" "))
}

fn user_ids(own: &Answers) -> String {
    match own.value("uid_map") {
        Some("0 0 4294967295") => "the same: root inside is root outside".to_owned(),
        Some(map) => format!("mapped: {map}"),
        None => "its kernel has no user namespaces".to_owned(),
    }
}

fn namespaces(own: &Answers, host: &Answers, same_kernel: bool) -> String {
    if !same_kernel {
        return "none: a kernel of its own".to_owned();
    }
    let shared = NAMESPACES.into_iter().filter(|name| {
        let key = format!("ns_{name}");
        own.value(&key)
            .is_some_and(|own| host.value(&key) == Some(own))
    });
    let shared: Vec<_> = shared.collect();
    match shared.len() {
        0 => "none".to_owned(),
        count if count == NAMESPACES.len() => "all".to_owned(),
        _ => shared.join(" "),
    }
}

fn settings(own: &Answers) -> String {
    let words = own.words("kernel_settings");
    words.replacen(
        ' ',
        " of ",
        usize::from(own.count("kernel_settings").is_some()),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{podman, process, vm};
    use super::*;

    fn cells(name: &str) -> Vec<String> {
        let told = [process(), podman(), vm()];
        let table = table_of(&told, &told).unwrap();
        let row = table.rows.iter().find(|row| row.name == name);
        row.unwrap().cells.clone()
    }

    #[test]
    fn filter_takes_away_what_the_host_grants() {
        assert_eq!(
            cells("system calls past the gate"),
            ["357 of 470", "300 of 470", "265 of 470"]
        );
        let refused = cells("refused or unknown here, not on the host");
        assert_eq!(refused[0], "none");
        assert!(
            refused[1].starts_with("30 EPERM: syslog ustat sysfs"),
            "{refused:?}"
        );
        assert!(
            refused[1].contains(" ENOSYS: personality add_key"),
            "{refused:?}"
        );
        // The host has none of these either.
        assert!(!refused[1].contains("kexec_load"), "{refused:?}");
        assert!(refused[2].contains(" more"), "{refused:?}");
        assert_eq!(cells("seccomp filter")[..2], ["none", "a filter"]);
    }

    #[test]
    fn few_are_named_and_many_counted() {
        let capabilities = cells("capabilities");
        assert_eq!(capabilities[0], "40");
        assert!(
            capabilities[1].starts_with("11: chown dac_override"),
            "{capabilities:?}"
        );
        assert_eq!(capabilities[2], "41");
        assert!(cells("device nodes")[1].contains("/dev/null"));
        assert_eq!(cells("kernel settings writable")[1], "0 of 842");
    }

    #[test]
    fn namespaces_of_another_kernel_are_not_compared() {
        // The first namespaces of all kernels have the same names.
        assert_eq!(vm().answers.value("ns_mnt"), Some("mnt:[4026531840]"));
        let shared = cells("namespaces shared with the host");
        assert_eq!(
            shared,
            ["all", "cgroup time user", "none: a kernel of its own"]
        );
    }

    #[test]
    fn what_the_host_refuses_too_is_said_to_prove_nothing() {
        let told = [podman()].map(|told| Told {
            is_host: true,
            ..told
        });
        let table = table_of(&told, &told).unwrap();
        let row = |name: &str| table.rows.iter().find(|row| row.name == name).unwrap();
        assert_eq!(row("a new user namespace").remark, "tried");
        assert!(row("an io_uring").remark.contains("proves nothing"));
        assert_eq!(row("an io_uring").cells, ["none (ENOSYS)"]);
    }
}
