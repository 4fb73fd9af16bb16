//! What a running VMM occupies beside its guest's memory.
//!
//! Source: Linux `Documentation/filesystems/proc.rst`, v6.12, "smaps".

use std::fs;

/// Sums over a process's mappings, the guest's memory left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Footprint {
    pub(crate) resident_kib: u64,
    pub(crate) private_dirty_kib: u64,
    pub(crate) threads: usize,
}

impl Footprint {
    /// Of process `pid`. Guest memory is every mapping of at least `memory_mib`: no VMM here has
    /// another one that large, and a guest's is one piece below 3 GiB.
    pub(crate) fn of(pid: u32, memory_mib: u32) -> Self {
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("smaps");
        let mut sum = Self {
            threads: own_threads(pid),
            ..Self::default()
        };
        let mut is_guest = false;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let (Some(key), Some(value)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(kib) = value.parse::<u64>() else {
                continue; // the mapping's first line, or its flags
            };
            match key {
                "Size:" => is_guest = kib >= u64::from(memory_mib) * 1024,
                "Rss:" if !is_guest => sum.resident_kib += kib,
                "Private_Dirty:" if !is_guest => sum.private_dirty_kib += kib,
                _ => {}
            }
        }
        sum
    }
}

/// Threads of the VMM's own. KVM hangs one of its own on the process, from Linux 6.13 on: that one
/// is named `kvm-nx-lpage-recovery`, cut off.
fn own_threads(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("tasks");
    let names = tasks.flatten().map(|task| {
        // A thread may have ended since it was listed.
        fs::read_to_string(task.path().join("comm")).unwrap_or_default()
    });
    names.filter(|name| !name.starts_with("kvm-")).count()
}
