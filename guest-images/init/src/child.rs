//! The command or shell.

use core::ffi::CStr;

use cottage_init::line::Line;
use cottage_init::run_file::RunFile;
use cottage_init::status::{NOT_EXECUTABLE, NOT_FOUND};
use rustix::fd::OwnedFd;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{Pid, chdir, getpid, setpgid};
use rustix::stdio::dup2_stdin;
use rustix::termios::tcsetpgrp;

use crate::bare::{self, Fork, PointerList, Strings};
use crate::console::complain;
use crate::power::Power;
use crate::room;

/// One more than the number of arguments a command may have.
const ARGUMENT_SLOTS: usize = 4096;
/// One more than the number of environment variables: ours, and what the kernel hands on from its
/// command line, at most 32 (CONFIG_INIT_ENV_ARG_LIMIT).
const ENVIRONMENT_SLOTS: usize = 64;

/// Where commands are looked for, in order.
const DIRECTORIES: [&[u8]; 6] = [
    b"/usr/local/sbin/",
    b"/usr/local/bin/",
    b"/usr/sbin/",
    b"/usr/bin/",
    b"/sbin/",
    b"/bin/",
];
/// The same for the command itself, then what a login sets.
const ENVIRONMENT: [&CStr; 5] = [
    c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    c"HOME=/root",
    c"USER=root",
    c"LOGNAME=root",
    c"SHELL=/bin/sh",
];

type Arguments<'a> = PointerList<'a, ARGUMENT_SLOTS>;
type Environment<'a> = PointerList<'a, ENVIRONMENT_SLOTS>;

/// Starts the command of `run`, or a shell, in the terminal's foreground; `None` if there is no
/// room for another process.
pub fn start(
    run: &RunFile,
    environment: Strings,
    stdin: Option<OwnedFd>,
    power: Power,
) -> Option<Pid> {
    match bare::fork() {
        Fork::Parent(pid) => Pid::from_raw(pid),
        Fork::Failed => None,
        Fork::Child => {
            prepare(stdin, power);
            bare::exit(execute(run, environment))
        }
    }
}

/// Becomes process 1 of the user's own; returns, after saying why, if that fails.
pub fn become_init(path: &CStr, run: &RunFile, kernel_environment: Strings, power: Power) {
    bare::block_signals(0);
    power.give_back();
    let term = Line::<128>::new().text(b"TERM=").text(run.term.to_bytes());
    let mut environment = Environment::new();
    if let Some(term) = term.as_c_str() {
        environment.push(term);
    }
    for variable in kernel_environment.filter(|variable| !is_ours(variable)) {
        environment.push(variable);
    }
    let mut arguments = Arguments::new();
    arguments.push(path);
    bare::execve(path, &arguments, &environment);
    complain(path, b"cannot be executed; a shell comes instead");
    bare::block_signals(bare::SignalSet::MAX);
}

/// Does what a job-control shell does for a foreground job.
fn prepare(stdin: Option<OwnedFd>, power: Power) {
    let _ = setpgid(None, None);
    // Taking the foreground from the background would raise SIGTTOU; all signals are still blocked.
    let _ = tcsetpgrp(room::terminal(), getpid());
    bare::block_signals(0);
    power.give_back();
    if let Some(stdin) = stdin {
        let _ = dup2_stdin(stdin);
    }
    let _ = chdir(c"/root").or_else(|_| chdir(c"/"));
}

/// Becomes the command; returns the status if that fails.
fn execute(run: &RunFile, kernel_environment: Strings) -> u8 {
    let term = Line::<128>::new().text(b"TERM=").text(run.term.to_bytes());
    let mut environment = Environment::new();
    for variable in ENVIRONMENT.into_iter().chain(term.as_c_str()) {
        environment.push(variable);
    }
    for variable in kernel_environment.filter(|variable| !is_ours(variable)) {
        environment.push(variable);
    }

    let Some(name) = run.args().next() else {
        return shell(&environment);
    };
    let mut arguments = Arguments::new();
    for argument in run.args() {
        if !arguments.push(argument) {
            complain(name, b"too many arguments");
            return NOT_EXECUTABLE;
        }
    }
    let (status, reason): (u8, &[u8]) = match find_and_execute(name, run, &arguments, &environment)
    {
        Errno::NOENT | Errno::NOTDIR => (NOT_FOUND, b"not found"),
        Errno::ACCESS => (NOT_EXECUTABLE, b"Permission denied"),
        Errno::ISDIR => (NOT_EXECUTABLE, b"Is a directory"),
        Errno::TOOBIG => (NOT_EXECUTABLE, b"Argument list too long"),
        Errno::NOMEM => (NOT_EXECUTABLE, b"Out of memory"),
        _ => (NOT_EXECUTABLE, b"cannot be executed"),
    };
    complain(name, reason);
    status
}

/// Whether the kernel's environment names a variable that we set: HOME and TERM, always.
fn is_ours(variable: &CStr) -> bool {
    let name_of = |variable: &'static CStr| variable.to_bytes().split(|&byte| byte == b'=').next();
    let name = variable.to_bytes().split(|&byte| byte == b'=').next();
    name == Some(b"TERM") || ENVIRONMENT.into_iter().any(|ours| name_of(ours) == name)
}

/// Looks for `name` as execvp(3) does.
fn find_and_execute(
    name: &CStr,
    run: &RunFile,
    arguments: &Arguments,
    environment: &Environment,
) -> Errno {
    if name.to_bytes().contains(&b'/') {
        return execute_path(name, run, arguments, environment);
    }
    let mut result = Errno::NOENT;
    for directory in DIRECTORIES {
        let path = Line::<4096>::new().text(directory).text(name.to_bytes());
        let Some(path) = path.as_c_str().filter(|_| !name.is_empty()) else {
            return Errno::NOENT;
        };
        match execute_path(path, run, arguments, environment) {
            Errno::NOENT | Errno::NOTDIR => {}
            // A better one may follow; if none does, this is what to tell.
            Errno::ACCESS => result = Errno::ACCESS,
            other => return other,
        }
    }
    result
}

/// Executes the file, or has the shell read it if it is a script without `#!`.
fn execute_path(
    path: &CStr,
    run: &RunFile,
    arguments: &Arguments,
    environment: &Environment,
) -> Errno {
    let result = Errno::from_raw_os_error(bare::execve(path, arguments, environment));
    // Execve refuses directories as it does files without permission; a shell tells them apart.
    if result == Errno::ACCESS && access(path, Access::EXEC_OK).is_ok() {
        return Errno::ISDIR;
    }
    if result != Errno::NOEXEC {
        return result;
    }
    let mut script = Arguments::new();
    for argument in [c"sh", path].into_iter().chain(run.args().skip(1)) {
        if !script.push(argument) {
            return Errno::TOOBIG;
        }
    }
    execute_shell(script, environment);
    result
}

/// Becomes a login shell, which the dash before its name asks for.
fn shell(environment: &Environment) -> u8 {
    let mut arguments = Arguments::new();
    arguments.push(c"-sh");
    execute_shell(arguments, environment);
    complain(c"/bin/sh", b"not found");
    NOT_FOUND
}

/// Becomes whatever shell there is. Busybox goes by the name in its arguments.
#[expect(clippy::needless_pass_by_value, reason = "the list is used up")]
fn execute_shell(arguments: Arguments, environment: &Environment) {
    for path in [c"/bin/sh", c"/bin/busybox", c"/.cottage/busybox"] {
        bare::execve(path, &arguments, environment);
    }
}
