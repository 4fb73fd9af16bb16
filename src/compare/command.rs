//! Commands that prepare or clean up, outside of any measurement: none may hang, none needs an answer.
//!
//! Read next: [`super::sweep`].

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::testbed;

/// How long a command that prepares or cleans up may take; measured ones take under a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// The program `name`, where a shell would find it, or an administrator's.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut folders = std::env::split_paths(&path).chain(administrators);
    folders.find_map(|folder| {
        let path = folder.join(name);
        let runs = rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).is_ok();
        (runs && path.is_file()).then_some(path)
    })
}

/// Runs a command that prepares or cleans up and returns what it printed; whatever it started has
/// ended, if it took too long.
///
/// # Errors
/// A sentence with the command and what it said.
pub fn run(words: &[String]) -> Result<String, String> {
    try_run(words).map_err(|failure| failure.why)
}

/// Why a command has not done what it should.
#[derive(Debug)]
pub struct Failure {
    /// It took too long.
    pub late: bool,
    /// A sentence with the command and what it said.
    pub why: String,
}

/// As [`run`], for those who have to know whether it hangs.
///
/// # Errors
/// [`Failure`].
pub fn try_run(words: &[String]) -> Result<String, Failure> {
    let name = words.iter().take(3).cloned().collect::<Vec<_>>().join(" ");
    let failed = |why: String| Failure { late: false, why };
    let mut all = words.iter();
    let mut command = Command::new(all.next().map_or("", String::as_str));
    // Files, not pipes: nobody has to read them while it runs.
    let [mut output, mut errors] = [(); 2].map(|()| memory_file());
    let stream = |file: &Option<File>| {
        let copy = file.as_ref().and_then(|file| file.try_clone().ok());
        copy.map_or_else(Stdio::null, Stdio::from)
    };
    command
        .args(all)
        .stdin(Stdio::null())
        .stdout(stream(&output))
        .stderr(stream(&errors))
        .process_group(0);
    let spawned = command.spawn();
    let mut process = spawned.map_err(|error| failed(format!("{name} does not start: {error}")))?;
    let late = !ends_in_time(process.id());
    let status = process.wait();
    let status = status.map_err(|error| failed(format!("{name} is lost: {error}")))?;
    let why = if late {
        format!("{name} did not end within {} s", patience().as_secs())
    } else if status.success() {
        return Ok(read_back(&mut output));
    } else {
        let said = one_line(&read_back(&mut errors));
        format!("{name} failed ({status}): {said}")
    };
    Err(Failure { late, why })
}

fn patience() -> Duration {
    PATIENCE * testbed::patience()
}

/// Waits for a child of ours; if it takes too long, it is killed, with its group.
fn ends_in_time(process: u32) -> bool {
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else {
        return true;
    };
    let limit = Timespec {
        tv_sec: i64::try_from(patience().as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let Ok(end) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    if poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&limit)) != Ok(0) {
        return true;
    }
    let _gone_already = kill_process_group(pid, Signal::KILL);
    false
}

fn memory_file() -> Option<File> {
    let file = rustix::fs::memfd_create("said", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    Some(File::from(file))
}

fn read_back(file: &mut Option<File>) -> String {
    let mut bytes = Vec::new();
    if let Some(file) = file {
        // What a runtime prints is for people, and short.
        let _as_far_as_it_goes = file.rewind();
        let _as_far_as_it_goes = file.take(64 << 10).read_to_end(&mut bytes); // 64 KiB
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of what a program said, as a part of a sentence: one line, no control characters.
pub fn one_line(said: &str) -> String {
    let words: Vec<_> = said
        .split(|c: char| c.is_whitespace() || c.is_control())
        .collect();
    let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    let longest = 300;
    let excess = line.chars().count().saturating_sub(longest);
    if excess == 0 {
        return line;
    }
    format!("... {}", line.chars().skip(excess).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_say_what_they_said() {
        let words = |script: &str| ["sh", "-c", script].map(str::to_owned);
        assert_eq!(run(&words("echo hi")), Ok("hi\n".to_owned()));
        let error = run(&words("printf 'no\\033[1m way\\n' >&2; exit 3")).unwrap_err();
        assert!(error.ends_with(": no [1m way"), "{error}");
        let error = run(&["/no/such".to_owned()]).unwrap_err();
        assert!(error.starts_with("/no/such does not start"), "{error}");
    }

    #[test]
    fn long_words_are_cut_from_the_front() {
        let line = one_line(&"x".repeat(1000));
        assert_eq!(line.len(), 304);
        assert_eq!(one_line(" a\n\tb \0"), "a b");
    }

    #[test]
    fn programs_are_found_and_folders_are_not() {
        assert!(program("sh").is_some());
        assert!(program("no-such-program").is_none());
        assert!(program("../bin").is_none());
    }
}
