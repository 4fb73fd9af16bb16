//! Two ports of our own by which a guest talks to its VMM: boot marks and an exit status.
//!
//! - The *mark* port: writing a byte marks a boot stage. One exit, no driver: a C line
//!   (`outb(2, 0x700)`), a shell line (`printf '\2' | dd of=/dev/port bs=1 seek=1792`) or our
//!   init. Stages: 1 init started, 2 ready (the command or shell starts now), 3 command done;
//!   others are the guest's own.
//! - The *exit status* port: writing a byte leaves the status of the guest's command; it becomes
//!   cottage's own exit status when the guest has ended.
//!
//! Guests are hostile: marks are kept up to a limit, then only counted.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::lock;
use crate::bus::{PortDevice, Request};
use crate::control::Control;

/// Our init started.
pub const MARK_INIT: u8 = 1;
/// The guest listens: its command or shell starts now.
pub const MARK_READY: u8 = 2;
/// Its command ended.
pub const MARK_DONE: u8 = 3;

/// Marks kept with their time.
const MAX_MARKS: usize = 64;

/// One mark.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// What the guest wrote.
    pub stage: u8,
    /// When the write reached us.
    pub at: Instant,
}

/// The mark port.
#[derive(Debug)]
pub struct MarkPort {
    marks: Mutex<Marks>,
    control: Arc<Control>,
}

#[derive(Debug, Default)]
struct Marks {
    kept: Vec<Mark>,
    dropped: u64,
}

impl MarkPort {
    /// A port that wakes the event loop, which may wait for a stage.
    pub fn new(control: Arc<Control>) -> Self {
        Self {
            marks: Mutex::default(),
            control,
        }
    }

    /// Marks so far, oldest first, and how many more came than are kept.
    pub fn marks(&self) -> (Vec<Mark>, u64) {
        let marks = lock(&self.marks);
        (marks.kept.clone(), marks.dropped)
    }

    /// Whether the guest has marked `stage`.
    pub fn reached(&self, stage: u8) -> bool {
        lock(&self.marks)
            .kept
            .iter()
            .any(|mark| mark.stage == stage)
    }
}

impl PortDevice for MarkPort {
    fn read(&self, _offset: u16) -> u8 {
        // A guest can recognise cottage: an unclaimed port would read as ones.
        b'c'
    }

    fn write(&self, offset: u16, value: u8) -> Option<Request> {
        // Wider writes arrive as bytes; the stage is the lowest.
        if offset == 0 {
            let mut marks = lock(&self.marks);
            if marks.kept.len() < MAX_MARKS {
                marks.kept.push(Mark {
                    stage: value,
                    at: Instant::now(),
                });
            } else {
                marks.dropped += 1;
            }
            drop(marks);
            self.control.wake();
        }
        None
    }
}

/// The exit status port.
#[derive(Debug, Default)]
pub struct StatusPort(Mutex<Option<u8>>);

impl StatusPort {
    /// What the guest wrote last.
    pub fn status(&self) -> Option<u8> {
        *lock(&self.0)
    }
}

impl PortDevice for StatusPort {
    fn read(&self, offset: u16) -> u8 {
        if offset == 0 {
            self.status().unwrap_or(0)
        } else {
            0
        }
    }

    fn write(&self, offset: u16, value: u8) -> Option<Request> {
        if offset == 0 {
            *lock(&self.0) = Some(value);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_keep_order_and_are_limited() {
        let port = MarkPort::new(Arc::new(Control::new().unwrap()));
        for i in 0..=u8::MAX {
            assert_eq!(port.write(0, i), None);
        }
        let (marks, dropped) = port.marks();
        assert_eq!(marks.len(), MAX_MARKS);
        assert_eq!(dropped, 256 - MAX_MARKS as u64);
        assert!(marks.is_sorted_by_key(|mark| mark.at));
        assert!(port.reached(MARK_READY));
        assert!(!port.reached(200), "beyond the limit");
    }

    #[test]
    fn upper_bytes_of_a_wide_write_are_ignored() {
        let (marks, status) = (
            MarkPort::new(Arc::new(Control::new().unwrap())),
            StatusPort::default(),
        );
        for (offset, byte) in (0..).zip([7, 1, 2, 3]) {
            assert_eq!(marks.write(offset, byte), None);
            assert_eq!(status.write(offset, byte), None);
        }
        assert_eq!(marks.marks().0.len(), 1);
        assert_eq!(status.status(), Some(7));
    }

    #[test]
    fn status_is_absent_until_written() {
        assert_eq!(StatusPort::default().status(), None);
    }
}
