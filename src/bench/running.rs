//! A run under way: its output is read, its end awaited, a signal to this process heeded.
//!
//! Read next: [`super::rounds`].

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use regex_lite::Regex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::process::{Interrupt, Process, read};
use super::said::Said;
use super::subject::{Error, Line, Watch};
use crate::console::signals::{Event, Signals, stop_self};
use crate::timeline::child::MeasuredRun;
use crate::timeline::{Nanos, now};

/// A line is matched up to this length; a stream without line feeds must not fill memory.
const MAX_LINE: usize = 4096;
/// What is kept of stdout, if it is wanted.
const MAX_OUTPUT: usize = 256 << 10; // 256 KiB
/// Pieces read from a stream before all others are looked at again.
const MAX_PIECES: usize = 16;
/// How long a process that is asked to end may take, before it is killed.
const GRACE: Nanos = 2_000_000_000;

/// A run under way.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    spawned: Nanos,
    output: Option<File>,
    errors: Option<File>,
    /// The line of output so far.
    line: Vec<u8>,
    /// What is kept of stderr, for the message if the run fails.
    said: Said,
    first_output: Option<Nanos>,
    matched: Option<Nanos>,
    /// Whole lines of output, if they are wanted.
    lines: Vec<Line>,
    /// Bytes in them.
    kept: usize,
    /// This process was stopped meanwhile.
    stopped: bool,
}

impl Running {
    /// Takes over a process that was just spawned with pipes for stdout and stderr.
    pub(super) fn new(mut process: Process) -> io::Result<Self> {
        let child = process.child();
        let streams = (child.stdout.take(), child.stderr.take());
        let output = streams.0.map(|pipe| File::from(OwnedFd::from(pipe)));
        let errors = streams.1.map(|pipe| File::from(OwnedFd::from(pipe)));
        for pipe in output.iter().chain(&errors) {
            fcntl_setfl(pipe, OFlags::NONBLOCK)?;
        }
        Ok(Self {
            spawned: process.spawned(),
            process,
            output,
            errors,
            line: Vec::new(),
            said: Said::default(),
            first_output: None,
            matched: None,
            lines: Vec::new(),
            kept: 0,
            stopped: false,
        })
    }

    /// Just before it was spawned.
    pub(crate) fn spawned(&self) -> Nanos {
        self.spawned
    }

    /// When its first byte of output came, and its first line that matched.
    pub(super) fn output(&self) -> (Option<Nanos>, Option<Nanos>) {
        (self.first_output, self.matched)
    }

    /// The lines that were kept.
    pub(super) fn take_lines(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.lines)
    }

    /// What of its stderr was kept, for the end of a sentence; or nothing.
    pub(crate) fn said(&self) -> String {
        match self.said.text() {
            said if said.is_empty() => said,
            said => format!("; it said:\n{said}"),
        }
    }

    /// The process that was spawned.
    pub(crate) fn process_id(&mut self) -> u32 {
        self.process.child().id()
    }

    /// Whether this process was stopped meanwhile.
    pub(super) fn was_stopped(&self) -> bool {
        self.stopped
    }

    /// Waits for its end: when, its status, and what cottage told.
    pub(crate) fn wait(self) -> Result<(Nanos, u8, Option<MeasuredRun>), Error> {
        self.process.wait()
    }

    /// Whether its process is gone; it has still to be waited for.
    pub(crate) fn has_ended(&mut self) -> bool {
        let Some(pid) = self.pid() else { return true };
        let Ok(end) = pidfd_open(pid, PidfdFlags::empty()) else {
            return true;
        };
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let ended = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&at_once));
        matches!(ended, Ok(1..))
    }

    fn pid(&mut self) -> Option<Pid> {
        i32::try_from(self.process.child().id())
            .ok()
            .and_then(Pid::from_raw)
    }

    /// Reads its output until it has ended.
    pub(crate) fn watch(&mut self, watch: &Watch, signals: &mut Signals) -> Result<(), Interrupt> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let end = pidfd_open(pid, PidfdFlags::empty())?;
        loop {
            let left = (self.spawned + watch.limit).checked_sub(now());
            let left = left.ok_or(Interrupt::Late)?;
            let ready = self.poll(&end, signals, left)?;
            if ready.output {
                self.read_output(watch);
            }
            if ready.errors {
                self.read_errors();
            }
            if ready.signals {
                self.take_signals(signals)?;
            }
            if ready.ended {
                // What it printed last may have come after the look at the pipe. The pipe's end
                // need not come: others may hold it.
                self.read_output(watch);
                self.read_errors();
                return Ok(());
            }
        }
    }

    /// Reads its output until there is some; it goes on running.
    pub(crate) fn watch_output(
        &mut self,
        watch: &Watch,
        signals: &mut Signals,
    ) -> Result<(), Interrupt> {
        self.watch_until(self.spawned, watch, signals, |own| {
            own.first_output.is_some()
        })
    }

    /// Reads its output until there is a whole line, which has to be wanted; it goes on running.
    pub(crate) fn watch_line(
        &mut self,
        watch: &Watch,
        signals: &mut Signals,
    ) -> Result<(), Interrupt> {
        self.watch_until(self.spawned, watch, signals, |own| !own.lines.is_empty())
    }

    /// Writes a line to its input and reads its output until there is a line more, which has to be
    /// wanted: how long that took, and what it says. It goes on running.
    pub(crate) fn ask(
        &mut self,
        question: &str,
        watch: &Watch,
        signals: &mut Signals,
    ) -> Result<(Nanos, String), Interrupt> {
        let before = self.lines.len();
        let asked = now();
        let input = self.process.child().stdin.as_mut();
        let input = input.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe));
        input
            .and_then(|input| input.write_all(format!("{question}\n").as_bytes()))
            .map_err(Interrupt::Host)?;
        self.watch_until(asked, watch, signals, |own| own.lines.len() > before)?;
        let line = self.lines.get(before);
        let (at, text) = line.map_or((0, ""), |line| (line.at, line.text.as_str()));
        Ok(((self.spawned + at).saturating_sub(asked), text.to_owned()))
    }

    /// Reads its output until `done`, for as long as a run may take, from `since` on.
    fn watch_until(
        &mut self,
        since: Nanos,
        watch: &Watch,
        signals: &mut Signals,
        done: impl Fn(&Self) -> bool,
    ) -> Result<(), Interrupt> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let end = pidfd_open(pid, PidfdFlags::empty())?;
        while !done(self) {
            let left = (since + watch.limit).checked_sub(now());
            let ready = self.poll(&end, signals, left.ok_or(Interrupt::Late)?)?;
            if ready.output {
                self.read_output(watch);
            }
            if ready.errors {
                self.read_errors();
            }
            if ready.signals {
                self.take_signals(signals)?;
            }
            if ready.ended && !done(self) {
                return Err(Interrupt::Ended(self.said()));
            }
        }
        Ok(())
    }

    fn poll(&self, end: &OwnedFd, signals: &Signals, left: Nanos) -> Result<Ready, Interrupt> {
        // A stream that has ended would be ready for ever; the process stands in for it.
        let output = self.output.as_ref().map_or(end.as_fd(), AsFd::as_fd);
        let errors = self.errors.as_ref().map_or(end.as_fd(), AsFd::as_fd);
        let mut fds = [
            PollFd::new(end, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(output, PollFlags::IN),
            PollFd::from_borrowed_fd(errors, PollFlags::IN),
        ];
        let timeout = Timespec {
            tv_sec: i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(left % 1_000_000_000).unwrap_or(0),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [ended, signals, output, errors] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            ended,
            signals,
            output,
            errors,
        })
    }

    fn read_output(&mut self, watch: &Watch) {
        let mut piece = [0; 4096];
        // Not until it is empty: one that prints for ever must not hide the clock and the signals.
        for _ in 0..MAX_PIECES {
            let Some(n) = read(&mut self.output, &mut piece) else {
                return;
            };
            let at = now();
            self.first_output.get_or_insert(at);
            let until = watch.until.as_ref().filter(|_| self.matched.is_none());
            let keep = watch.keep_output && self.kept < MAX_OUTPUT;
            if until.is_none() && !keep {
                continue;
            }
            for byte in piece.get(..n).unwrap_or(&[]) {
                if *byte == b'\n' {
                    self.match_line(until, at);
                    if keep {
                        self.end_line(at);
                    }
                    self.line.clear();
                } else if self.line.len() < MAX_LINE {
                    self.line.push(*byte);
                }
            }
            // A prompt has no line feed.
            self.match_line(until, at);
        }
    }

    /// Keeps the line so far, which is one now.
    fn end_line(&mut self, at: Nanos) {
        if self.line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end_matches('\r').to_owned();
        self.kept += text.len();
        let at = at - self.spawned;
        self.lines.push(Line { at, text });
        self.line.clear();
    }

    fn match_line(&mut self, until: Option<&Regex>, at: Nanos) {
        let Some(until) = until else { return };
        let line = String::from_utf8_lossy(&self.line);
        if self.matched.is_none() && until.is_match(line.trim_end_matches('\r')) {
            self.matched = Some(at);
        }
    }

    fn read_errors(&mut self) {
        let mut piece = [0; 4096];
        for _ in 0..MAX_PIECES {
            let Some(n) = read(&mut self.errors, &mut piece) else {
                return;
            };
            self.said.add(piece.get(..n).unwrap_or(&[]));
        }
    }

    fn take_signals(&mut self, signals: &mut Signals) -> Result<(), Interrupt> {
        while let Some(event) = signals.read() {
            match event {
                Event::End(number) => return Err(Interrupt::Signal(number)),
                Event::Stop => {
                    stop_self();
                    self.stopped = true;
                }
                Event::Continue | Event::Resize => {}
            }
        }
        Ok(())
    }

    /// Ends the process and whatever it has started, first gently.
    pub(super) fn end(&mut self, signals: &mut Signals) {
        let Some(pid) = self.pid() else { return };
        let _gone_already = kill_process_group(pid, Signal::TERM);
        let patient = Watch {
            until: None,
            limit: now() - self.spawned + GRACE,
            any_status: true,
            keep_output: false,
        };
        if self.watch(&patient, signals).is_err() {
            let _gone_already = kill_process_group(pid, Signal::KILL);
        }
        let _reaped = self.process.child().wait();
    }

    /// Asks the process and whatever it has started to end, without waiting for it.
    pub(crate) fn ask_to_end(&mut self) {
        drop(self.process.child().stdin.take());
        if let Some(pid) = self.pid() {
            let _gone_already = kill_process_group(pid, Signal::TERM);
        }
    }
}

impl Running {
    /// Ends the process and whatever it has started, for those who cannot wait for signals
    /// meanwhile.
    pub(crate) fn end_now(&mut self) {
        self.ask_to_end();
        let Some(pid) = self.pid() else { return };
        let grace = Timespec {
            tv_sec: i64::try_from(GRACE / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: 0,
        };
        if let Ok(end) = pidfd_open(pid, PidfdFlags::empty()) {
            let _ended_or_late = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&grace));
        }
        let _gone_already = kill_process_group(pid, Signal::KILL);
        let _reaped = self.process.child().wait();
    }
}

/// Which of the descriptors have something.
struct Ready {
    ended: bool,
    signals: bool,
    output: bool,
    errors: bool,
}
