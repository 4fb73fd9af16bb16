//! cottage's own words to the user, on stderr: errors, the end, and what Ctrl-A h and s ask for.
//!
//! stderr may be a terminal that nobody looks at. While a guest runs, waiting for it would keep the
//! event loop from seeing Ctrl-A x: [`Words`] writes what is taken and keeps a bounded rest.
//! [`say`] is for the time before and after.
//!
//! Read next: [`super::escape`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::sink::Sink;
use super::terminal;

/// With so much waiting already, more words are dropped: nobody has read the first ones.
const MAX_WAITING: usize = 4 << 10; // 4 KiB
/// A terminal that takes nothing for so long has nobody in front of it; leaving does not wait.
const PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Words on their way.
#[derive(Debug, Default)]
pub struct Words {
    /// Made when there is something to say: most runs are silent.
    sink: Option<Sink>,
    waiting: VecDeque<u8>,
}

impl Words {
    /// Says `text`, each line marked as cottage's, as far as stderr takes it now.
    pub fn say(&mut self, text: &str) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.extend(marked(text).bytes());
        }
        self.drain();
    }

    /// Writes what waits, as far as it is taken.
    pub fn drain(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let sink = self
            .sink
            .get_or_insert_with(|| Sink::of(rustix::stdio::stderr()));
        while !self.waiting.is_empty() {
            match sink.write(self.waiting.as_slices().0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Ok(n) if n > 0 => drop(self.waiting.drain(..n)),
                // If stderr is gone there is nobody left to tell.
                Ok(_) | Err(_) => self.waiting.clear(),
            }
        }
    }

    /// For poll(2): where words wait for room; `None` when none do.
    pub fn waiting_for(&self) -> Option<BorrowedFd<'_>> {
        let sink = self.sink.as_ref()?;
        (!self.waiting.is_empty()).then(|| sink.fd())
    }
}

/// Says `text` on stderr and waits for who reads it, but not for a terminal that nobody looks at.
pub fn say(text: &str) {
    let mut words = Words::default();
    words.say(text);
    let patience = rustix::termios::isatty(rustix::stdio::stderr()).then_some(PATIENCE);
    while let Some(fd) = words.waiting_for() {
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
        if matches!(rustix::event::poll(&mut fds, patience.as_ref()), Ok(0)) {
            return;
        }
        words.drain();
    }
}

/// `text` with each line marked as cottage's own.
///
/// On a terminal that does not translate newlines, one alone would not return the carriage.
fn marked(text: &str) -> String {
    let end = if terminal::returns_carriage() {
        "\n"
    } else {
        "\r\n"
    };
    text.lines()
        .map(|line| format!("cottage: {line}{end}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(room: usize) -> Words {
        Words {
            sink: Some(Sink::Memory {
                taken: Vec::new(),
                room,
            }),
            waiting: VecDeque::new(),
        }
    }

    fn taken(words: &Words) -> &[u8] {
        match &words.sink {
            Some(Sink::Memory { taken, .. }) => taken,
            _ => &[],
        }
    }

    #[test]
    fn each_line_is_marked() {
        let mut words = words(100);
        words.say("a\nb");
        let plain = String::from_utf8_lossy(taken(&words)).replace('\r', "");
        assert_eq!(plain, "cottage: a\ncottage: b\n");
        assert!(words.waiting_for().is_none());
    }

    #[test]
    fn words_that_nobody_reads_wait_and_are_bounded() {
        let mut words = words(3);
        (0..1000).for_each(|_| words.say("up 1.0 s"));
        assert_eq!(taken(&words), b"cot");
        assert!(words.waiting_for().is_some());
        assert!(words.waiting.len() < MAX_WAITING + 100);
    }
}
