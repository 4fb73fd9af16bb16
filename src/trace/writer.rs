//! Where a trace goes: to stderr line by line, or to a file, and never into memory.
//!
//! A buffer of 64 KiB, and what [`super::fold`] holds, are all that waits here. Whoever causes an
//! event writes it: a guest that exits a million times a second waits for its trace, as it waits for a
//! device. So that leaving stays possible, nothing here waits for a reader once the machine is to stop.
//!
//! What cannot be written, to a full disk, say, ends the trace and not the guest; the first error is kept
//! for the end, when words do not garble the guest's screen.
//!
//! **One terminal for both.** Where the guest's console and the trace share one, each line of the trace is
//! written whole, and begins on a new line if the guest has not ended its own.
//! Read next: [`super::tracer`].

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;

use super::event::{Event, What};
use super::perfetto::Tracks;
use super::text::Story;
use super::{jsonl, text};
use crate::cli::trace::{TraceArgs, TraceFormat};
use crate::console::sink::Sink;
use crate::console::terminal;
use crate::control::Control;
use crate::timeline::Nanos;

/// Bytes that wait for the file to be written to.
const BUFFER: usize = 64 << 10; // 64 KiB
/// How often a reader that takes nothing is waited for when the machine is to stop, [`MOMENT`] each.
const PATIENCE: u32 = 10;
const MOMENT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000, // 100 ms
};

/// Why the trace cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be made.
    #[error("Cannot write the trace to --trace-file {path:?}")]
    Create {
        /// As given.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// It could not be written on.
    #[error(
        "Cannot write the trace to {} any more; it ends {ended} after cottage began, the guest went on",
        to.as_deref().map_or("stderr".into(), |path| format!("{}", path.display()))
    )]
    Write {
        /// The file, if it is one.
        to: Option<PathBuf>,
        /// How far it goes.
        ended: String,
        /// What the host said.
        source: io::Error,
    },
    /// A picture in between a guest's output.
    #[error(
        "Cannot write --trace-format perfetto to stderr: it is one JSON array, for a file; add \
         --trace-file trace.json"
    )]
    NoFile,
}

/// Writes events down.
#[derive(Debug)]
pub struct Writer {
    format: Format,
    out: Out,
    began: Nanos,
    /// Of the last event.
    last: Nanos,
}

#[derive(Debug)]
enum Format {
    Text(Story),
    Jsonl,
    Perfetto(Tracks),
}

impl Writer {
    /// Opens what `args` ask for; times count from `began`.
    ///
    /// # Errors
    /// [`Error::Create`] and [`Error::NoFile`].
    pub fn open(args: &TraceArgs, began: Nanos) -> Result<Self, Error> {
        let path = args.trace_file.as_deref();
        let format = match args.format() {
            TraceFormat::Text => Format::Text(Story::default()),
            TraceFormat::Jsonl => Format::Jsonl,
            TraceFormat::Perfetto if path.is_none() => return Err(Error::NoFile),
            TraceFormat::Perfetto => Format::Perfetto(Tracks::default()),
        };
        let mut out = Out::open(path)?;
        if matches!(format, Format::Text(_)) {
            out.write(text::HEAD);
        }
        Ok(Self {
            format,
            out,
            began,
            last: began,
        })
    }

    /// Nothing waits for a reader once `control` says that the machine is to stop.
    pub fn give_way_to(&mut self, control: &Arc<Control>) {
        self.out.control.get_or_insert_with(|| control.clone());
    }

    /// Writes `event`, or holds it if it may be the beginning of a repetition.
    pub fn tell(&mut self, event: Event) {
        if self.out.is_dead() {
            return;
        }
        self.last = event.until;
        let printed = match &event.what {
            What::Exit(exit) => exit.text.as_ref().and_then(|text| text.last()).copied(),
            _ => None,
        };
        match &mut self.format {
            Format::Text(story) => {
                let out = &mut self.out;
                story.push(event, self.began, &mut |lines| out.write(lines));
            }
            Format::Jsonl => self.out.write(&jsonl::render(&event, self.began)),
            Format::Perfetto(tracks) => self.out.write(&tracks.render(&event, self.began)),
        }
        // Its lines of the trace came before: the guest prints while its exit is answered, and the
        // exit is told when that is done, at the earliest.
        if let Some(byte) = printed {
            self.out.in_line = byte != b'\n';
        }
    }

    /// For a look now and then while events come: nobody should wait for the end of a repetition.
    pub fn look(&mut self) {
        if let Format::Text(story) = &mut self.format {
            let out = &mut self.out;
            story.look(self.began, &mut |lines| out.write(lines));
            out.flush();
        }
    }

    /// Writes all that is held: nothing has happened for a while.
    pub fn catch_up(&mut self) {
        if let Format::Text(story) = &mut self.format {
            let out = &mut self.out;
            story.flush(self.began, &mut |lines| out.write(lines));
        }
        self.out.flush();
    }

    /// Writes the rest, and what ends the file.
    ///
    /// # Errors
    /// [`Error::Write`], the first that came.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.catch_up();
        if let Format::Perfetto(tracks) = &self.format {
            self.out.write(tracks.end());
            self.out.flush();
        }
        match self.out.error.take() {
            Some(source) => Err(Error::Write {
                to: self.out.path.clone(),
                ended: text::duration(self.last.saturating_sub(self.began)),
                source,
            }),
            None => Ok(()),
        }
    }
}

/// Bytes on their way.
#[derive(Debug)]
struct Out {
    target: Target,
    path: Option<PathBuf>,
    buffer: Vec<u8>,
    error: Option<io::Error>,
    /// Nothing is written any more: an error, or nobody reads.
    dead: bool,
    control: Option<Arc<Control>>,
    /// The guest's console is on the same terminal.
    shared: bool,
    /// There the guest is in the middle of a line.
    in_line: bool,
}

#[derive(Debug)]
enum Target {
    File(File),
    Stderr(Sink),
}

impl Out {
    fn open(path: Option<&Path>) -> Result<Self, Error> {
        let target = match path {
            Some(path) => Target::File(create(path).map_err(|source| Error::Create {
                path: path.to_owned(),
                source,
            })?),
            None => Target::Stderr(Sink::of(rustix::stdio::stderr())),
        };
        let terminal = |fd| rustix::termios::isatty(fd);
        let shared = path.is_none()
            && terminal(rustix::stdio::stderr())
            && terminal(rustix::stdio::stdout());
        Ok(Self {
            target,
            path: path.map(Path::to_owned),
            buffer: Vec::with_capacity(BUFFER),
            error: None,
            dead: false,
            control: None,
            shared,
            in_line: false,
        })
    }

    fn is_dead(&self) -> bool {
        self.dead
    }

    fn write(&mut self, text: &str) {
        if self.dead {
            return;
        }
        if let Target::File(_) = self.target {
            if self.buffer.len() + text.len() > BUFFER {
                self.flush();
            }
            self.buffer.extend_from_slice(text.as_bytes());
            return;
        }
        if self.shared && std::mem::take(&mut self.in_line) {
            self.buffer.extend_from_slice(b"\n");
        }
        self.buffer.extend_from_slice(text.as_bytes());
        if self.shared && !terminal::returns_carriage() {
            let text = String::from_utf8_lossy(&self.buffer).replace('\n', "\r\n");
            self.buffer = text.into_bytes();
        }
        self.flush();
    }

    /// Writes the buffer, and waits for who reads it unless the machine is to stop.
    fn flush(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let (mut rest, mut waited) = (buffer.as_slice(), 0);
        while !rest.is_empty() && !self.dead {
            let written = match &mut self.target {
                Target::File(file) => file.write(rest),
                Target::Stderr(sink) => sink.write(rest),
            };
            match written {
                Ok(n) if n > 0 => rest = rest.get(n..).unwrap_or(&[]),
                Ok(_) => self.fail(io::ErrorKind::WriteZero.into()),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock if waited < PATIENCE => waited += self.wait(),
                    io::ErrorKind::WouldBlock => self.dead = true,
                    _ => self.fail(error),
                },
            }
        }
        self.buffer = buffer;
        self.buffer.clear();
    }

    /// Waits a moment for room; counts it if the machine is to stop.
    fn wait(&self) -> u32 {
        let fd = match &self.target {
            Target::File(file) => file.as_fd(),
            Target::Stderr(sink) => sink.fd(),
        };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
        let _room_or_time_is_up = rustix::event::poll(&mut fds, Some(&MOMENT));
        let stopping = self.control.as_ref().is_some_and(|by| by.stopping());
        u32::from(stopping)
    }

    fn fail(&mut self, error: io::Error) {
        // Who closes the other end, as `| head` does, has seen enough.
        let enough = error.kind() == io::ErrorKind::BrokenPipe;
        self.error = (!enough).then_some(error);
        self.dead = true;
    }
}

/// Makes the file; what is there already, a FIFO or a device, is never waited for.
fn create(path: &Path) -> io::Result<File> {
    let file = File::create(path)?;
    if !file.metadata()?.is_file() {
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::event::Topic;

    fn args(path: &str) -> TraceArgs {
        TraceArgs {
            trace_file: Some(path.into()),
            ..TraceArgs::default()
        }
    }

    fn event() -> Event {
        Event {
            since: 5_000_000,
            until: 5_000_000,
            topic: Topic::Memory,
            vcpu: None,
            what: What::Note("words".into()),
        }
    }

    #[test]
    fn a_full_disk_ends_the_trace_with_the_hosts_words() {
        let mut writer = Writer::open(&args("/dev/full"), 0).unwrap();
        for _ in 0..10_000 {
            writer.tell(event());
        }
        let error = writer.finish().unwrap_err();
        let said = crate::outcome::with_causes(&error);
        assert!(
            said.contains("/dev/full any more; it ends 5.0 ms"),
            "{said}"
        );
        assert!(said.contains("No space left on device"), "{said}");
        assert!(writer.finish().is_ok(), "said once");
    }

    #[test]
    fn a_million_events_leave_nothing_behind_in_memory() {
        let mut writer = Writer::open(&args("/dev/null"), 0).unwrap();
        let jsonl = TraceArgs {
            trace_format: Some(TraceFormat::Jsonl),
            ..args("/dev/null")
        };
        let mut lines = Writer::open(&jsonl, 0).unwrap();
        for number in 0..100_000_u64 {
            let words = What::Note(number.to_string());
            writer.tell(Event {
                what: words.clone(),
                ..event()
            });
            lines.tell(Event {
                what: words,
                ..event()
            });
        }
        for writer in [&writer, &lines] {
            assert!(writer.out.buffer.capacity() <= BUFFER + 4096);
        }
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let error = Writer::open(&args("/nowhere/trace"), 0).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("--trace-file \"/nowhere/trace\"")
        );
        let perfetto = TraceArgs {
            trace_format: Some(TraceFormat::Perfetto),
            ..TraceArgs::default()
        };
        let error = Writer::open(&perfetto, 0).unwrap_err().to_string();
        assert!(error.contains("add --trace-file"), "{error}");
    }
}
