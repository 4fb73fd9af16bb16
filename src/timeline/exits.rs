//! VM exits, counted and timed: by kind, by port or address, by device.
//!
//! Each vCPU thread has a [`Meter`] of its own and shares nothing while it runs. What is timed is
//! cottage's part of an exit: from KVM_RUN's return to the next call. The processor's and KVM's
//! part cannot be seen from here; a guest's exits that KVM answers by itself (CPUID, most MSRs,
//! the local APIC) do not come here at all.
//!
//! Guests are hostile: kinds of exits are kept up to a limit, the rest is counted together.
//! Read next: [`super::record`].

use std::fmt;

use super::{Nanos, Stage, Timeline, now};
use crate::bus::{MmioBus, PortBus};
use crate::kvm::VmExit;

/// Lines kept; a guest that touches every port ends in one line.
const MAX_LINES: usize = 256;
/// Steps a power of two in the histograms: a value is known to within an eighth.
const STEPS: u32 = 8;

/// Why the guest stopped, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A port written.
    Out,
    /// A port read.
    In,
    /// A memory-mapped register written.
    MmioWrite,
    /// A memory-mapped register read.
    MmioRead,
    /// A signal.
    Interrupted,
    /// All that ends a run: triple fault, failed entry, an error of KVM's.
    End,
    /// Anything beyond the limit of kinds.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "out",
            Self::In => "in",
            Self::MmioWrite => "mmio-write",
            Self::MmioRead => "mmio-read",
            Self::Interrupted => "interrupted",
            Self::End => "end",
            Self::Other => "other",
        })
    }
}

/// One line of the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitLine {
    /// [`Kind`], in words.
    pub kind: String,
    /// Port or guest-physical address.
    pub address: Option<u64>,
    /// Whose register that is.
    pub device: Option<String>,
    /// How many.
    pub count: u64,
    /// Nanoseconds in cottage, all together.
    pub total: Nanos,
    /// The median, to within an eighth.
    pub median: Nanos,
    /// The 99th percentile, to within an eighth.
    pub p99: Nanos,
}

/// Exits by kind and address.
#[derive(Clone, Debug, Default)]
pub struct ExitCounts(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    kind: Kind,
    address: Option<u64>,
    device: Option<&'static str>,
    total: Nanos,
    times: Histogram,
}

impl ExitCounts {
    /// Counts one exit that took cottage `time`.
    pub fn add(
        &mut self,
        kind: Kind,
        address: Option<u64>,
        device: Option<&'static str>,
        time: Nanos,
    ) {
        let entry = self.entry(kind, address, device);
        entry.total += time;
        entry.times.add(time, 1);
    }

    /// Adds another thread's counts.
    pub fn merge(&mut self, other: &Self) {
        for from in &other.0 {
            let entry = self.entry(from.kind, from.address, from.device);
            entry.total += from.total;
            entry.times.merge(&from.times);
        }
    }

    /// The account, most frequent first.
    pub fn lines(&self) -> Vec<ExitLine> {
        let mut lines: Vec<_> = self
            .0
            .iter()
            .map(|entry| ExitLine {
                kind: entry.kind.to_string(),
                address: entry.address,
                device: entry.device.map(str::to_owned),
                count: entry.times.count(),
                total: entry.total,
                median: entry.times.quantile(1, 2),
                p99: entry.times.quantile(99, 100),
            })
            .collect();
        lines.sort_by(|a, b| (b.count, a.address).cmp(&(a.count, b.address)));
        lines
    }

    fn entry(
        &mut self,
        kind: Kind,
        address: Option<u64>,
        device: Option<&'static str>,
    ) -> &mut Entry {
        let known = self
            .0
            .iter()
            .position(|e| e.kind == kind && e.address == address);
        let at = match known {
            Some(at) => at,
            None if self.0.len() >= MAX_LINES && kind != Kind::Other => {
                return self.entry(Kind::Other, None, None);
            }
            None => {
                self.0.push(Entry {
                    kind,
                    address,
                    device,
                    total: 0,
                    times: Histogram::default(),
                });
                self.0.len() - 1
            }
        };
        #[expect(clippy::indexing_slicing, reason = "found or pushed above")]
        &mut self.0[at]
    }
}

/// How often which duration came: buckets of an eighth of a power of two, as far as they are used.
#[derive(Clone, Debug, Default)]
struct Histogram(Vec<u64>);

impl Histogram {
    fn add(&mut self, value: Nanos, times: u64) {
        let bucket = bucket(value);
        if bucket >= self.0.len() {
            self.0.resize(bucket + 1, 0);
        }
        if let Some(count) = self.0.get_mut(bucket) {
            *count += times;
        }
    }

    fn merge(&mut self, other: &Self) {
        for (bucket, times) in other.0.iter().enumerate() {
            if *times > 0 {
                self.add(lower_end(bucket), *times);
            }
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The lower end of the bucket in which the `part`/`of` quantile lies.
    fn quantile(&self, part: u64, of: u64) -> Nanos {
        let wanted = (self.count() * part).div_ceil(of);
        let mut seen = 0;
        for (bucket, times) in self.0.iter().enumerate() {
            seen += times;
            if seen >= wanted {
                return lower_end(bucket);
            }
        }
        0
    }
}

/// Values below 8 have a bucket each, then each power of two has 8.
fn bucket(value: u64) -> usize {
    let steps = u64::from(STEPS);
    if value < steps {
        return usize::try_from(value).unwrap_or(0);
    }
    let power = value.ilog2();
    let within = (value >> (power - STEPS.ilog2())) - steps;
    let bucket = u64::from(power - STEPS.ilog2() + 1) * steps + within;
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

fn lower_end(bucket: usize) -> u64 {
    let (steps, bucket) = (u64::from(STEPS), bucket as u64);
    if bucket < steps {
        return bucket;
    }
    (steps + bucket % steps) << (bucket / steps - 1)
}

/// One vCPU thread's stopwatch.
#[derive(Debug)]
pub struct Meter<'a> {
    timeline: &'a Timeline,
    counts: ExitCounts,
    current: Option<(Kind, Option<u64>, Option<&'static str>, Nanos)>,
}

impl<'a> Meter<'a> {
    /// A meter for one thread, if `timeline` wants exits counted.
    pub fn for_thread(timeline: &'a Timeline) -> Option<Self> {
        timeline.metering().then(|| Self {
            timeline,
            counts: ExitCounts::default(),
            current: None,
        })
    }

    /// KVM_RUN has returned with `exit`.
    pub fn exited(&mut self, exit: &VmExit<'_>, ports: &PortBus, mmio: &MmioBus) {
        let at = now();
        let (kind, address) = match exit {
            VmExit::PortOut { port, .. } => (Kind::Out, Some(u64::from(*port))),
            VmExit::PortIn { port, .. } => (Kind::In, Some(u64::from(*port))),
            VmExit::MmioWrite { gpa, .. } => (Kind::MmioWrite, Some(*gpa)),
            VmExit::MmioRead { gpa, .. } => (Kind::MmioRead, Some(*gpa)),
            VmExit::Interrupted => (Kind::Interrupted, None),
            _ => (Kind::End, None),
        };
        let device = match kind {
            Kind::Out | Kind::In => address.and_then(|port| ports.name(port)),
            Kind::MmioWrite | Kind::MmioRead => address.and_then(|gpa| mmio.name(gpa)),
            _ => None,
        };
        self.current = Some((kind, address, device, at));
        if kind != Kind::Interrupted {
            self.note_firsts(device, at);
        }
    }

    /// The exit is answered; the guest goes on.
    pub fn answered(&mut self) {
        if let Some((kind, address, device, since)) = self.current.take() {
            let time = now().saturating_sub(since);
            self.counts.add(kind, address, device, time);
            self.timeline.count_exit(time);
        }
    }

    /// The first exit, and the first use of each device.
    fn note_firsts(&self, device: Option<&'static str>, at: Nanos) {
        if self.counts.0.is_empty() && !self.timeline.reached(Stage::FirstExit) {
            self.timeline.note_at(Stage::FirstExit, at);
        }
        let Some(device) = device else { return };
        let known = self.counts.0.iter().any(|e| e.device == Some(device));
        if !known && !self.timeline.reached(Stage::FirstUse(device)) {
            self.timeline.note_at(Stage::FirstUse(device), at);
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.answered(); // the exit that ended the run
        self.timeline.add_counts(&self.counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_an_eighth_wide() {
        for value in (0..5000).chain([1 << 20, (1 << 20) + 1, u64::MAX / 3, u64::MAX]) {
            let low = lower_end(bucket(value));
            assert!(low <= value, "{value}");
            assert!(value - low <= value / 8, "{value} is put at {low}");
        }
    }

    #[test]
    fn quantiles_of_a_hundred_values() {
        let mut counts = ExitCounts::default();
        for time in 1..=100 {
            counts.add(Kind::In, Some(0x3fd), Some("serial"), time);
        }
        let line = &counts.lines()[0];
        assert_eq!((line.count, line.total), (100, 5050));
        assert!((44..=50).contains(&line.median), "{}", line.median);
        assert!((88..=99).contains(&line.p99), "{}", line.p99);
    }

    #[test]
    fn a_guest_that_touches_every_port_does_not_grow_the_account() {
        let mut counts = ExitCounts::default();
        for port in 0..=0xffff {
            counts.add(Kind::Out, Some(port), None, 1);
        }
        let lines = counts.lines();
        assert_eq!(lines.len(), MAX_LINES + 1);
        assert_eq!(lines.iter().map(|line| line.count).sum::<u64>(), 0x1_0000);
        assert_eq!(lines[0].kind, "other");
    }

    #[test]
    fn merging_adds_up() {
        let (mut a, mut b) = (ExitCounts::default(), ExitCounts::default());
        a.add(Kind::Out, Some(1), None, 10);
        b.add(Kind::Out, Some(1), None, 30);
        b.add(Kind::End, None, None, 2);
        a.merge(&b);
        let lines = a.lines();
        assert_eq!((lines[0].count, lines[0].total), (2, 40));
        assert_eq!(lines[1].kind, "end");
    }
}
