//! The line that `Ctrl-A s` prints.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use crate::console::output::Output;
use crate::devices::report::{MARK_DONE, MARK_INIT, MARK_READY, MarkPort};
use crate::event_loop::Served;
use crate::memory::GuestMemory;
use crate::vcpu::run::Board;

/// What the line tells of.
#[derive(Debug)]
pub struct StatusLine {
    output: Arc<Output>,
    marks: Arc<MarkPort>,
    memory: Arc<GuestMemory>,
    started: Instant,
    vcpus: usize,
}

impl StatusLine {
    /// A line about this machine, started at `started`.
    pub fn new(served: &Served, board: &Board, started: Instant, vcpus: usize) -> Self {
        let (output, marks) = (served.output.clone(), served.marks.clone());
        Self {
            output,
            marks,
            memory: board.memory.clone(),
            started,
            vcpus,
        }
    }

    /// The line, now.
    pub fn render(&self) -> String {
        let mut line = format!(
            "up {:.1} s, {} vCPU{}, {} MiB of memory",
            self.started.elapsed().as_secs_f64(),
            self.vcpus,
            if self.vcpus == 1 { "" } else { "s" },
            self.memory.size() >> 20,
        );
        if let Some(resident) = resident_mib() {
            // Nearly all of it is guest memory: cottage itself is about one MiB.
            let _infallible = write!(line, " ({resident} MiB of the host's in use)");
        }
        let _infallible = write!(line, ", {} bytes printed", self.output.written());
        if self.output.closed() {
            line += " (stdout is closed: thrown away)";
        }
        let (marks, more) = self.marks.marks();
        for mark in marks {
            let name = match mark.stage {
                MARK_INIT => "init",
                MARK_READY => "ready",
                MARK_DONE => "done",
                _ => "mark",
            };
            let at = mark.at.duration_since(self.started).as_secs_f64() * 1000.0;
            let _infallible = write!(line, ", {name} {} at {at:.1} ms", mark.stage);
        }
        if more > 0 {
            let _infallible = write!(line, ", {more} more marks");
        }
        line
    }
}

/// This process's resident memory. Source: proc_pid_statm(5), second field, in pages.
fn resident_mib() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some((pages * 4096) >> 20)
}
