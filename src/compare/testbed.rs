//! `--in testbed`: the same comparison in an emulated machine with a complete KVM.
//!
//! For machines without hardware KVM, and for figures that repeat: the testbed of cottage's source,
//! with Debian's container runtimes in it (`tests/testbed/runtimes.sh`). There this program runs
//! again with the same words but `--in host`; what it prints is passed on, its files are fetched.
//!
//! Ctrl-C cannot get there as a signal. The testbed is in a process group of its own, so that the
//! terminal's does not end it; the end of its standard input is what says it, and then the comparison
//! inside ends as it would here, with what it has measured. A second one ends the machine itself.
//! Read next: [`super::claims`].

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::bench::subject::quote;
use crate::bundle::program;
use crate::cli::compare::{CompareArgs, Place};
use crate::console::signals::{Event, Signals, stop_self};
use crate::console::words::say;
use crate::outcome::{USER_ERROR, VMM_FAILURE};
use crate::timeline::child::exit_code;

/// The script that does it, in cottage's repository.
const SCRIPT: &str = "tests/testbed/runtimes.sh";
/// Names the repository, for who works elsewhere.
const REPOSITORY: &str = "COTTAGE_TESTBED";
/// Set inside, to `testbed`.
const BACKEND: &str = "COTTAGE_BACKEND";
/// Tells the inside which command line the report shall name.
const COMMAND: &str = "COTTAGE_COMPARE_COMMAND";
/// How many times longer a run may take there before it has failed. Counted in instructions it does not.
const PATIENCE: u32 = 10;
/// Where the testbed keeps the command's files.
const FILES: &str = "/files";

/// Why there is no comparison there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no testbed.
    #[error(
        "--in testbed: there is no {SCRIPT} beside this program, in {0:?} or above: clone cottage's \
         repository and run `make testbed` in it, then the same command there, or with \
         {REPOSITORY}=DIR that names it"
    )]
    Missing(PathBuf),
    /// `COTTAGE_TESTBED` names something else.
    #[error(
        "{REPOSITORY}={0:?} has no {SCRIPT}: give the folder of a clone of cottage's repository"
    )]
    Elsewhere(PathBuf),
    /// `--in testbed` in the testbed.
    #[error("--in testbed: this is the testbed already; leave it out")]
    Inside,
    /// `--instructions` where nobody can count them.
    #[error(
        "--instructions: only an emulated machine counts every instruction; add --in testbed, or \
         leave it out"
    )]
    Instructions,
    /// The script does not start.
    #[error("Cannot start the testbed, {0:?}")]
    Start(PathBuf, #[source] io::Error),
    /// It cannot be waited for.
    #[error("Cannot wait for the testbed")]
    Wait(#[source] io::Error),
}

impl Error {
    /// The exit status this ends the process with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(..) | Self::Wait(_) => VMM_FAILURE,
            _ => USER_ERROR,
        }
    }
}

/// Whether this process runs in the testbed.
pub fn is_inside() -> bool {
    env::var_os(BACKEND).is_some_and(|place| place == "testbed")
}

/// How many times longer than usual whatever is tried, prepared or removed may take here.
pub fn patience() -> u32 {
    if is_inside() { PATIENCE } else { 1 }
}

/// The command line that the testbed was started by, if this process runs there.
pub fn command_line() -> Option<String> {
    env::var(COMMAND).ok().filter(|_| is_inside())
}

/// Refuses places that contradict other flags or where this runs.
///
/// # Errors
/// [`Error::Inside`], [`Error::Instructions`].
pub fn check(args: &CompareArgs) -> Result<(), Error> {
    check_place(args, is_inside())
}

fn check_place(args: &CompareArgs, inside: bool) -> Result<(), Error> {
    match args.place {
        Place::Testbed if inside => Err(Error::Inside),
        Place::Host if args.instructions && !inside => Err(Error::Instructions),
        _ => Ok(()),
    }
}

/// Compares there, and returns the exit status.
///
/// # Errors
/// [`Error`]; what fails inside is told there.
pub fn main(args: &CompareArgs, signals: &mut Signals) -> Result<u8, Error> {
    let script = find()?;
    say(&format!(
        "comparing in the testbed ({}): an emulated machine; engines take a minute to start there. \
         Ctrl-C ends it and keeps what was measured, a second one at once",
        script.display()
    ));
    let mut command = Command::new(&script);
    command.args(words(args, &this_command_line()));
    // run.sh brings this one in, as `cottage`.
    command.env("COTTAGE_BIN", program());
    // Out of the terminal's reach; see above.
    command.stdin(Stdio::piped()).process_group(0);
    let child = command
        .spawn()
        .map_err(|source| Error::Start(script, source))?;
    attend(child, signals).map_err(Error::Wait)
}

fn this_command_line() -> String {
    let words = env::args().skip(1).map(|word| quote(&word));
    format!("cottage {}", words.collect::<Vec<_>>().join(" "))
}

/// The script: where `COTTAGE_TESTBED` says, else above the program, else above the current directory.
fn find() -> Result<PathBuf, Error> {
    let here = env::current_dir().unwrap_or_default();
    let named = env::var_os(REPOSITORY).map(PathBuf::from);
    find_from(named, program(), &here, Path::is_file)
}

fn find_from(
    named: Option<PathBuf>,
    program: &Path,
    here: &Path,
    is_file: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Error> {
    if let Some(named) = named {
        let script = here.join(&named).join(SCRIPT);
        return is_file(&script)
            .then_some(script)
            .ok_or(Error::Elsewhere(named));
    }
    // Beside the program first: that is of the same version.
    let folders = program.ancestors().skip(1).chain(here.ancestors());
    let mut scripts = folders.map(|folder| folder.join(SCRIPT));
    scripts
        .find(|script| is_file(script))
        .ok_or_else(|| Error::Missing(here.to_owned()))
}

/// The script's words: its own options, `--`, and this command for the inside.
fn words(args: &CompareArgs, command_line: &str) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--interruptible".into()];
    let engine = |name| ["all", "docker", "ctr"].contains(&name);
    if !args.with.split(',').map(str::trim).any(engine) {
        words.push("--no-docker".into());
    }
    if args.instructions {
        words.push("--icount".into());
    }
    if let Some(out) = &args.out {
        words.extend(["--out".into(), out.into()]);
    }
    if let Some(file) = &args.claims_file {
        words.extend(["--file".into(), file.into()]);
    }
    words.extend(["--", "env"].map(Into::into));
    words.push(format!("{COMMAND}={command_line}").into());
    words.extend(["cottage", "compare", "--in", "host"].map(Into::into));
    words.extend(inner_flags(args));
    words
}

/// The same topics and flags, for the inside.
fn inner_flags(args: &CompareArgs) -> Vec<OsString> {
    // Each by its name, so that a new one cannot be forgotten here.
    let CompareArgs {
        topics,
        with,
        runs,
        warm_up,
        quick,
        out,
        claims,
        claims_file,
        place: _,
        instructions,
        pin,
        timeout,
    } = args;
    let patience = if *instructions { 1 } else { PATIENCE };
    let timeout = timeout.saturating_mul(patience).min(86_400);
    let number = |value: &u32| OsString::from(value.to_string());
    let name = claims_file.as_deref().and_then(Path::file_name);
    let valued: [(&str, Option<OsString>); 7] = [
        ("--with", Some(with.into())),
        ("--runs", runs.as_ref().map(number)),
        ("--warm-up", warm_up.as_ref().map(number)),
        ("--timeout", Some(number(&timeout))),
        ("--pin", pin.as_ref().map(Into::into)),
        ("--out", out.as_ref().map(|_fetched_from| FILES.into())),
        (
            "--claims-file",
            name.map(|name| Path::new(FILES).join(name).into()),
        ),
    ];
    let bare = [
        ("--quick", quick),
        ("--claims", claims),
        ("--instructions", instructions),
    ];
    let mut words: Vec<OsString> = topics.iter().map(|topic| topic.name().into()).collect();
    for (flag, value) in valued {
        words.extend(value.into_iter().flat_map(|value| [flag.into(), value]));
    }
    words.extend(
        bare.iter()
            .filter(|(_, given)| **given)
            .map(|(flag, _)| OsString::from(flag)),
    );
    words
}

/// Waits for the testbed's end, passes signals on, and returns its exit status.
fn attend(mut child: Child, signals: &mut Signals) -> io::Result<u8> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let group = group.ok_or(io::ErrorKind::InvalidData)?;
    let end = pidfd_open(group, PidfdFlags::empty())?;
    let mut asks_to_end = child.stdin.take();
    loop {
        let mut fds = [
            PollFd::new(&end, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        while let Some(event) = signals.read() {
            match event {
                Event::End(_) if asks_to_end.take().is_some() => {
                    say("ending; what was measured is fetched. Once more to end it at once");
                }
                Event::End(_) => {
                    let _gone_already = kill_process_group(group, Signal::TERM);
                }
                Event::Stop => {
                    let _gone_already = kill_process_group(group, Signal::STOP);
                    stop_self();
                    let _gone_already = kill_process_group(group, Signal::CONT);
                }
                Event::Continue | Event::Resize => {}
            }
        }
        if ended {
            return child.wait().map(exit_code);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: CompareArgs,
    }

    fn args(words: &str) -> CompareArgs {
        let words = words.split_whitespace();
        Alone::parse_from(["compare"].into_iter().chain(words)).args
    }

    fn words_of(line: &str) -> Vec<String> {
        let words = words(&args(line), "cottage compare");
        let word = |word: &OsString| word.to_string_lossy().into_owned();
        words.iter().map(word).collect()
    }

    fn find_among(named: Option<&str>, files: &[&str]) -> Result<PathBuf, Error> {
        let is_file = |path: &Path| files.iter().any(|file| path == Path::new(file));
        let program = Path::new("/clone/build/cottage");
        find_from(
            named.map(Into::into),
            program,
            Path::new("/elsewhere/x"),
            is_file,
        )
    }

    #[test]
    fn testbed_is_sought_beside_the_program_then_above_the_folder() {
        let (clone, work) = (
            "/clone/tests/testbed/runtimes.sh",
            "/elsewhere/tests/testbed/runtimes.sh",
        );
        assert_eq!(find_among(None, &[work, clone]).unwrap(), Path::new(clone));
        assert_eq!(find_among(None, &[work]).unwrap(), Path::new(work));
        let named = find_among(Some("/clone"), &[work, clone]).unwrap();
        assert_eq!(named, Path::new(clone));
    }

    #[test]
    fn missing_testbed_is_told_with_what_to_do() {
        let error = find_among(None, &[]).unwrap_err().to_string();
        for part in ["/elsewhere/x", "make testbed", "COTTAGE_TESTBED"] {
            assert!(error.contains(part), "{error}");
        }
        let error = find_among(Some("/nowhere"), &[]).unwrap_err().to_string();
        assert!(error.contains("/nowhere"), "{error}");
    }

    #[test]
    fn inner_command_has_the_same_words_on_the_host() {
        let words = words_of(
            "start disk --in testbed --with crun,bwrap --runs 5 --warm-up 0 --quick --out R \
             --instructions --claims --claims-file d/c.json --pin 0 --timeout 7",
        );
        let line = words.join(" ");
        assert_eq!(
            line,
            "--interruptible --no-docker --icount --out R --file d/c.json -- env \
             COTTAGE_COMPARE_COMMAND=cottage compare cottage compare --in host start disk \
             --with crun,bwrap --runs 5 --warm-up 0 --timeout 7 --pin 0 --out /files \
             --claims-file /files/c.json --quick --claims --instructions"
        );
        let inner = words.iter().skip_while(|word| *word != "compare").skip(1);
        let inner = args(&inner.cloned().collect::<Vec<_>>().join(" "));
        assert_eq!(inner.place, Place::Host);
    }

    #[test]
    fn engine_is_started_where_a_runtime_needs_it() {
        for with in ["all", "docker", "crun, ctr"] {
            let args = CompareArgs {
                with: with.to_owned(),
                ..args("")
            };
            let words = words(&args, "");
            assert!(!words.contains(&"--no-docker".into()), "{with}");
        }
        assert!(words_of("--with podman").contains(&"--no-docker".to_owned()));
    }

    #[test]
    fn emulated_time_is_waited_for_longer() {
        assert!(words_of("").join(" ").contains("--timeout 600"));
        assert!(
            words_of("--instructions")
                .join(" ")
                .contains("--timeout 60 ")
        );
        assert!(
            words_of("--timeout 80000")
                .join(" ")
                .contains("--timeout 86400")
        );
    }

    #[test]
    fn places_that_contradict_are_refused() {
        let inside = check_place(&args("--in testbed"), true).unwrap_err();
        assert!(inside.to_string().contains("leave it out"));
        let alone = check_place(&args("--instructions"), false).unwrap_err();
        assert!(alone.to_string().contains("--in testbed"));
        assert_eq!(alone.exit_code(), USER_ERROR);
        assert!(check_place(&args("--instructions"), true).is_ok());
        assert!(check_place(&args("--in testbed --instructions"), false).is_ok());
        assert!(check_place(&args(""), false).is_ok());
    }
}
