//! Two ports of our own by which a guest talks to its VMM: boot marks and an exit status.
//!
//! - The *mark* port: writing a byte marks a boot stage. One exit, no driver: a line of C
//!   (`outb(9, 0x700)`, after `ioperm(0x700, 1, 1)` in a program), a line of shell (`mark 9` in our
//!   initramfs; `printf '\11' | dd of=/dev/port bs=1 seek=1792` where a kernel has /dev/port).
//!   Stages: 1 init started, 2 ready (the command or shell starts now), 3 command done, 4 a root's own
//!   init takes over, all four our init's; others are the guest's own.
//! - The *exit status* port: writing a byte leaves the status of the guest's command; it becomes
//!   cottage's own exit status when the guest has ended.
//!
//! Guests are hostile: [`Timeline`] keeps marks up to a limit, then only counts them.
//! Read next: [`super::debug_exit`].

use std::sync::{Arc, Mutex};

use super::lock;
use crate::bus::{PortDevice, Request};
use crate::control::Control;
use crate::timeline::{Stage, Timeline};

/// Our init started.
pub const MARK_INIT: u8 = 1;
/// The guest listens: its command or shell starts now.
pub const MARK_READY: u8 = 2;
/// Its command ended.
pub const MARK_DONE: u8 = 3;
/// Another process 1 takes over from our init, which was never ready.
pub const MARK_HANDED_OVER: u8 = 4;

/// The mark port.
#[derive(Debug)]
pub struct MarkPort {
    timeline: Arc<Timeline>,
    control: Arc<Control>,
}

impl MarkPort {
    /// A port that notes marks in `timeline` and wakes the event loop, which may wait for one.
    pub fn new(timeline: Arc<Timeline>, control: Arc<Control>) -> Self {
        Self { timeline, control }
    }

    /// Whether the guest has marked `stage`.
    pub fn reached(&self, stage: u8) -> bool {
        self.timeline.reached(Stage::Mark(stage))
    }
}

impl PortDevice for MarkPort {
    fn name(&self) -> &'static str {
        "mark"
    }

    fn read(&self, _offset: u16) -> u8 {
        // A guest can recognise cottage: an unclaimed port would read as ones.
        b'c'
    }

    fn write(&self, offset: u16, value: u8) -> Option<Request> {
        // Wider writes arrive as bytes; the stage is the lowest.
        if offset == 0 {
            self.timeline.note(Stage::Mark(value));
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
    fn name(&self) -> &'static str {
        "exit-status"
    }

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

    fn mark_port() -> (MarkPort, Arc<Timeline>) {
        let timeline = Arc::new(Timeline::new());
        let control = Arc::new(Control::new().unwrap());
        (MarkPort::new(timeline.clone(), control), timeline)
    }

    #[test]
    fn marks_keep_order_and_are_limited() {
        let (port, timeline) = mark_port();
        for i in 0..=u8::MAX {
            assert_eq!(port.write(0, i), None);
        }
        let (notes, dropped) = timeline.notes();
        assert_eq!(notes.len() as u64 + dropped, 256);
        assert!(notes.is_sorted_by_key(|noted| noted.at));
        assert!(port.reached(MARK_READY));
        assert!(!port.reached(200), "beyond the limit");
    }

    #[test]
    fn upper_bytes_of_a_wide_write_are_ignored() {
        let ((marks, timeline), status) = (mark_port(), StatusPort::default());
        for (offset, byte) in (0..).zip([7, 1, 2, 3]) {
            assert_eq!(marks.write(offset, byte), None);
            assert_eq!(status.write(offset, byte), None);
        }
        assert_eq!(timeline.notes().0.len(), 1);
        assert_eq!(status.status(), Some(7));
    }

    #[test]
    fn status_is_absent_until_written() {
        assert_eq!(StatusPort::default().status(), None);
    }
}
