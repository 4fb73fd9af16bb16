//! The machine the figures belong to.

use std::fs;

use crate::support;

/// Back end of KVM, processor, kernel and load, as one line; None without /dev/kvm.
pub(crate) fn description() -> Result<String, String> {
    let backend = support::backend()?;
    let first_word = |path: &str| read(path).split(' ').next().unwrap_or("?").to_owned();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("?", |rest| rest.trim_start_matches(['\t', ' ', ':']));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    Ok(format!(
        "KVM back end: {}; {cpus} x {model}; Linux {}; load {}; huge pages {}",
        backend.name,
        read("/proc/sys/kernel/osrelease"),
        first_word("/proc/loadavg"),
        selected(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
    ))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
}

/// The word in brackets.
fn selected(choices: &str) -> &str {
    let inner = choices.split(['[', ']']).nth(1);
    inner.unwrap_or("?")
}
