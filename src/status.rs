//! The line that `Ctrl-A s` prints.
//! Read next: [`crate::timeline`].

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::console::output::Output;
use crate::event_loop::Served;
use crate::memory::GuestMemory;
use crate::timeline::{Nanos, Stage, Timeline, now};
use crate::vcpu::run::Board;
use crate::virtio::mmio::Transport;

/// What the line tells of.
#[derive(Debug)]
pub struct StatusLine {
    output: Arc<Output>,
    timeline: Arc<Timeline>,
    memory: Arc<GuestMemory>,
    virtio: Vec<Arc<Transport>>,
    started: Nanos,
    vcpus: usize,
}

impl StatusLine {
    /// A line about this machine, which is about to start.
    pub fn new(served: &Served, board: &Board, virtio: &[Arc<Transport>], vcpus: usize) -> Self {
        Self {
            output: served.output.clone(),
            timeline: board.timeline.clone(),
            memory: board.memory.clone(),
            virtio: virtio.to_vec(),
            started: now(),
            vcpus,
        }
    }

    /// The line, now.
    pub fn render(&self) -> String {
        let mut line = format!(
            "up {:.1} s, {} vCPU{}, {} MiB of memory",
            seconds_since(self.started, now()),
            self.vcpus,
            if self.vcpus == 1 { "" } else { "s" },
            self.memory.size() >> 20,
        );
        if let Some(resident) = resident_mib() {
            // Guest memory and cottage's own; `cottage run --timeline` tells the two apart.
            let _infallible = write!(line, " ({resident} MiB of the host's in use)");
        }
        let _infallible = write!(line, ", {} bytes printed", self.output.written());
        if self.output.closed() {
            line += " (stdout is closed: thrown away)";
        }
        for server in self.virtio.iter().map(|transport| transport.server()) {
            let count = server.faults().count();
            if count > 0 {
                let name = server.device().label();
                let _infallible = write!(line, ", {name}'s driver failed {count} times");
            }
            let figures = server.device().figures();
            let figure = |name| figures.iter().find(|(n, _)| *n == name);
            if let (Some((_, free)), Some((_, total))) = (figure("free"), figure("total")) {
                let (free, total) = (free >> 20, total >> 20);
                let _infallible = write!(line, ", the guest says {free} of {total} MiB are free");
            }
        }
        let (notes, more) = self.timeline.notes();
        for noted in notes {
            if let Stage::Mark(_) = noted.stage {
                let at = seconds_since(self.started, noted.at) * 1000.0;
                let _infallible = write!(line, ", {} at {at:.1} ms", noted.stage);
            }
        }
        if more > 0 {
            let _infallible = write!(line, ", {more} more marks");
        }
        line
    }
}

fn seconds_since(start: Nanos, end: Nanos) -> f64 {
    Duration::from_nanos(end.saturating_sub(start)).as_secs_f64()
}

/// This process's resident memory. Source: proc_pid_statm(5), second field, in pages.
fn resident_mib() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some((pages * 4096) >> 20)
}
