//! What a run's memory costs the host: cottage's own part and the guest's, from
//! `/proc/self/smaps`.
//!
//! Guest RAM is one mapping of its own, so it is told apart by its address. Source: Linux
//! `Documentation/filesystems/proc.rst`, "/proc/PID/smaps". Read next: [`super::child`].

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;

/// In KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Resident outside guest RAM, shared pages of the program file included.
    pub resident: u64,
    /// The same with each shared page divided among those who share it.
    pub proportional: u64,
    /// Of it written to, so nobody else's.
    pub private_dirty: u64,
    /// Guest RAM that was touched.
    pub guest: u64,
}

impl MemoryUse {
    /// This process's memory, with guest RAM at the host addresses `guest`.
    pub fn of_this_process(guest: &Range<u64>) -> Option<Self> {
        let smaps = File::open("/proc/self/smaps").ok()?;
        // Line by line: to hold all of it would show in what is measured.
        let mut lines = BufReader::with_capacity(1024, smaps);
        let mut line = String::new();
        let (mut sum, mut in_guest) = (Self::default(), false);
        while lines.read_line(&mut line).ok()? > 0 {
            sum.take_line(&line, guest, &mut in_guest);
            line.clear();
        }
        Some(sum)
    }

    /// Adds one line of `smaps`; `in_guest` carries over which mapping it is about.
    fn take_line(&mut self, line: &str, guest: &Range<u64>, in_guest: &mut bool) {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { return };
        if let Some(start) = mapping_start(first) {
            *in_guest = guest.contains(&start);
            return;
        }
        let kib = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match (first, *in_guest) {
            ("Rss:", true) => self.guest += kib,
            ("Rss:", false) => self.resident += kib,
            ("Pss:", false) => self.proportional += kib,
            ("Private_Dirty:", false) => self.private_dirty += kib,
            _ => {}
        }
    }
}

/// `55d0c8a00000-55d0c8a21000` begins a mapping; field lines begin with a name and a colon.
fn mapping_start(word: &str) -> Option<u64> {
    u64::from_str_radix(word.split_once('-')?.0, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00600000 r-xp 00000000 fe:00 17 /usr/bin/cottage
Size:               2048 kB
Rss:                 600 kB
Pss:                 300 kB
Private_Dirty:         0 kB
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Rss:               20480 kB
Pss:               20480 kB
Private_Dirty:     20480 kB
7f0008000000-7f0008200000 rw-p 00000000 00:00 0 [heap]
Rss:                 100 kB
Pss:                 100 kB
Private_Dirty:        96 kB
VmFlags: rd wr mr mw me ac sd
";

    #[test]
    fn guest_memory_is_counted_apart() {
        let guest = 0x7f00_0000_0000..0x7f00_0800_0000;
        let (mut sum, mut in_guest) = (MemoryUse::default(), false);
        for line in SMAPS.lines() {
            sum.take_line(line, &guest, &mut in_guest);
        }
        let wanted = MemoryUse {
            resident: 700,
            proportional: 400,
            private_dirty: 96,
            guest: 20480,
        };
        assert_eq!(sum, wanted);
    }

    #[test]
    fn this_process_has_memory_and_no_guest() {
        let sum = MemoryUse::of_this_process(&(0..0)).unwrap();
        assert!(sum.resident > 0 && sum.private_dirty > 0 && sum.guest == 0);
    }
}
