//! One run of a VMM, watched from its start to its end.
//!
//! The clock is this program's: before the process is made to the moment its output arrives here,
//! so making the process and the pipe are in it, for every subject alike.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// After this long without output a run has failed. Emulated machines need seconds.
const PATIENCE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// What one run took, in milliseconds. Where instructions are counted, in millions of those.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) first_output: f64,
    pub(crate) gone: f64,
}

/// Process start to first output, and to the end of the process.
pub(crate) fn run(command: &mut Command) -> Result<Run, String> {
    let (start, mut child, mut stdout) = start(command)?;
    let mut byte = [0];
    let first = read(&mut stdout, &mut byte).map(|_| milliseconds(start));
    let first_output = first.inspect_err(|_| end(&mut child))?;
    child.wait().map_err(|error| error.to_string())?;
    Ok(Run {
        first_output,
        gone: milliseconds(start),
    })
}

/// Starts the command and returns it alive, as soon as its output has `line`, with the time passed.
pub(crate) fn until_line(command: &mut Command, line: &str) -> Result<(Child, f64), String> {
    let (start, mut child, mut stdout) = start(command)?;
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&text).contains(line) {
        match read(&mut stdout, &mut piece) {
            Ok(count) => text.extend_from_slice(&piece[..count]),
            Err(error) => {
                end(&mut child);
                return Err(format!(
                    "{error}; before: {:?}",
                    String::from_utf8_lossy(&text)
                ));
            }
        }
    }
    let time = milliseconds(start);
    child.stdout = Some(stdout); // or its next byte of output would end it
    Ok((child, time))
}

/// Ends a process that [`until_line`] left running.
pub(crate) fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

fn start(command: &mut Command) -> Result<(Instant, Child, ChildStdout), String> {
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let stdout = child.stdout.take().ok_or("no pipe")?;
    Ok((start, child, stdout))
}

fn read(stdout: &mut ChildStdout, buffer: &mut [u8]) -> Result<usize, String> {
    let ready = poll(
        &mut [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)],
        Some(&PATIENCE),
    );
    match ready.map_err(|error| error.to_string())? {
        0 => Err(format!("no output within {} s", PATIENCE.tv_sec)),
        _ => match stdout.read(buffer).map_err(|error| error.to_string())? {
            0 => Err("it ended without this output".to_owned()),
            count => Ok(count),
        },
    }
}

fn milliseconds(start: Instant) -> f64 {
    Duration::as_secs_f64(&start.elapsed()) * 1000.0
}
