//! `cottage run --timeline --exits`: runs the child in one's own place, then tells.
//!
//! The child has the terminal, the streams and the exit status; this process only waits. A signal
//! from the keyboard reaches both; one that is sent to this process alone is passed on.
//! Read next: [`crate::watch`].

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::chart;
use super::child::{self, MeasuredChild, MeasuredRun};
use crate::bundle::program;
use crate::cli::{ReportFormat, RunArgs};
use crate::console::signals::{Event, Signals, stop_self};
use crate::outcome::{USER_ERROR, VMM_FAILURE};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run itself.
    #[error(transparent)]
    Child(#[from] child::Error),
    /// FILE cannot be made.
    #[error("Cannot write the report to {path:?}")]
    File {
        /// As given.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Signals cannot be watched.
    #[error("Cannot wait for the measured run")]
    Wait(#[source] io::Error),
}

impl Error {
    /// The exit status this error ends the process with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } => USER_ERROR,
            Self::Child(_) | Self::Wait(_) => VMM_FAILURE,
        }
    }
}

/// Runs the machine of `args` in a child and reports on it; returns the exit status.
///
/// # Errors
/// [`Error`]; that FILE cannot be written is known before anything runs.
pub fn run(args: &RunArgs) -> Result<u8, Error> {
    let path = args.report_file.clone();
    let file = match &path {
        Some(path) => Some(File::create(path).map_err(file_error(path))?),
        None => None,
    };
    let mut signals = Signals::block().map_err(Error::Wait)?;
    let words = args.machine.to_words();
    // With this process's streams.
    let child = MeasuredChild::spawn(program(), &words, true, |_| {})?;
    stand_by(&child, &mut signals)?;
    let run = child.wait()?;
    let text = render(args, &run);
    match (file, path) {
        (Some(mut file), Some(path)) => {
            file.write_all(text.as_bytes()).map_err(file_error(&path))?;
        }
        _ if run.record.points.is_empty() => {} // it has said why
        // Not by `say`, which marks every line as cottage's: these are a table.
        _ => io::stderr().write_all(text.as_bytes()).unwrap_or(()),
    }
    Ok(run.exit_code())
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

fn render(args: &RunArgs, run: &MeasuredRun) -> String {
    let mut text = match args.timeline {
        Some(ReportFormat::Json) => return super::json::render(run),
        Some(ReportFormat::Svg) => return super::svg::render(run),
        Some(ReportFormat::Text) => format!("boot timeline\n{}", chart::timeline(run)),
        None => String::new(),
    };
    if args.exits {
        text += &chart::exits(&run.record.exits);
    }
    text
}

/// Passes signals on until the child is gone.
fn stand_by(child: &MeasuredChild, signals: &mut Signals) -> Result<(), Error> {
    let pid = i32::try_from(child.process.id())
        .ok()
        .and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(()) };
    let gone = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Error::Wait(e.into()))?;
    loop {
        let mut fds = [
            PollFd::new(&gone, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::Wait(e.into())),
        }
        let [ended, signalled] = fds.map(|fd| !fd.revents().is_empty());
        if ended {
            return Ok(());
        }
        if signalled {
            pass_on(pid, signals);
        }
    }
}

fn pass_on(pid: Pid, signals: &mut Signals) {
    while let Some(event) = signals.read() {
        match event {
            Event::End(number) => {
                if let Some(signal) = Signal::from_named_raw(i32::from(number)) {
                    let _gone_meanwhile = kill_process(pid, signal);
                }
            }
            Event::Stop => {
                let _gone_meanwhile = kill_process(pid, Signal::TSTP);
                stop_self();
                let _gone_meanwhile = kill_process(pid, Signal::CONT);
            }
            Event::Continue => {}
            Event::Resize => {
                let _gone_meanwhile = kill_process(pid, Signal::WINCH);
            }
        }
    }
}
