//! What stands between a guest and the host: its exits to the VMM, by virtual device.
//!
//! From cottage's own account of the run in which the probe told its identity: boot, one program, end.
//! Read next: [`crate::compare::topic::cost`].

use std::collections::BTreeMap;

use super::Told;
use crate::compare::finding::{Row, Table};
use crate::timeline::exits::ExitLine;

/// Registers that belong to no device of cottage's: old PC hardware that Linux looks for.
const NO_DEVICE: &str = "no device";

/// The table, with a column for each VM; `None` if there is none.
pub fn table_of(told: &[Told]) -> Option<Table> {
    let vms: Vec<&Told> = told.iter().filter(|told| !told.exits.is_empty()).collect();
    if vms.is_empty() {
        return None;
    }
    let row = |name: &str, cell: &dyn Fn(&[ExitLine]) -> String, remark: &str| Row {
        name: name.to_owned(),
        cells: vms.iter().map(|told| cell(&told.exits)).collect(),
        remark: remark.to_owned(),
    };
    let mut rows = vec![
        row(
            "exits that reached the VMM",
            &|exits| exits.iter().map(|line| line.count).sum::<u64>().to_string(),
            "KVM answers others by itself, which the VMM does not see",
        ),
        row(
            "kinds of exits",
            &|exits| kinds(exits),
            "ports and registers, read and written; besides these cottage knows only exits that end a run",
        ),
    ];
    let mut devices: Vec<&str> = vms
        .iter()
        .flat_map(|told| told.exits.iter().map(device))
        .collect();
    devices.sort_unstable();
    devices.dedup();
    for name in devices {
        let remark = if name == NO_DEVICE {
            "reads as ones, writes are dropped"
        } else {
            ""
        };
        rows.push(row(
            &format!("exits to {name}"),
            &|exits| of_device(exits, name),
            remark,
        ));
    }
    Some(Table {
        key: "isolation.boundary".to_owned(),
        title: "A VM's border with the host: exits and virtual devices of a whole run".to_owned(),
        columns: vms.iter().map(|told| told.side.clone()).collect(),
        rows,
    })
}

fn device(line: &ExitLine) -> &str {
    line.device.as_deref().unwrap_or(NO_DEVICE)
}

fn kinds(exits: &[ExitLine]) -> String {
    let mut kinds = BTreeMap::<&str, u64>::new();
    for line in exits {
        *kinds.entry(&line.kind).or_default() += line.count;
    }
    let kinds: Vec<_> = kinds
        .iter()
        .map(|(kind, n)| format!("{n} {kind}"))
        .collect();
    kinds.join(", ")
}

fn of_device(exits: &[ExitLine], name: &str) -> String {
    let own = || exits.iter().filter(|line| device(line) == name);
    match own().count() {
        0 => "none".to_owned(),
        registers => format!(
            "{}, through {registers} registers",
            own().map(|line| line.count).sum::<u64>()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{process, vm};
    use super::*;

    #[test]
    fn exits_are_told_by_kind_and_device() {
        let table = table_of(&[process(), vm()]).unwrap();
        assert_eq!(table.columns, ["cottage"]);
        let cells: Vec<_> = table
            .rows
            .iter()
            .map(|row| (&*row.name, &*row.cells[0]))
            .collect();
        assert_eq!(
            cells,
            [
                ("exits that reached the VMM", "706"),
                ("kinds of exits", "85 in, 74 mmio-write, 547 out"),
                ("exits to ioapic", "74, through 1 registers"),
                ("exits to no device", "2, through 1 registers"),
                ("exits to serial", "630, through 2 registers"),
            ]
        );
    }

    #[test]
    fn without_a_vm_there_is_no_border() {
        assert!(table_of(&[process()]).is_none());
    }
}
