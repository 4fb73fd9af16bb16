//! The first process of cottage's default guest.
//!
//! Runs one command, or a shell, on the console, and ends the virtual machine with that
//! command's status. It is also `poweroff`, `reboot`, `halt`, `mark` and `vsock`. It has neither libc nor std: a
//! small file is unpacked and started sooner, at every boot.
//!
//! Reading order: here, then the modules as they are listed.

#![no_std]
#![no_main]

/// Parts of the kernel that come as files.
mod modules;
/// File systems that programs expect.
mod mounts;
/// A root file system of the user's.
mod root;
/// The terminal.
mod console;
/// Network cards.
mod network;
/// Channels to programs of the host's.
mod ports;
/// The command or shell.
mod child;
/// Standard input from a file or pipe on the host.
mod relay;
/// The wait for the command, and the end.
mod supervise;
/// Ports of the VMM, power off, reboot.
mod power;
/// Connections to and from the host.
mod vsock;
/// What only init has unsafe.
mod room;
/// The rest that is unsafe: what libc would give.
#[path = "../../bare/mod.rs"]
mod bare;

use core::mem::MaybeUninit;

use cottage_init::run_file::{RunFile, Stdin};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::getpid;

use bare::Strings;
use power::{Mark, Power};

/// Room for `/.cottage/run`, in bytes. A stock shell's command line fits many times.
const RUN_FILE_MAX: usize = 128 << 10; // 128 KiB

/// The program, after [`bare`] has set the stage.
fn program(mut arguments: Strings, environment: Strings) -> ! {
    let name = arguments.next().unwrap_or_default().to_bytes();
    if getpid().is_init() {
        boot(environment)
    }
    if name == b"vsock" || name.ends_with(b"/vsock") {
        bare::exit(vsock::command(arguments, environment))
    }
    bare::exit(power::command(name, arguments))
}

/// The whole life of process 1.
fn boot(environment: Strings) -> ! {
    let power = Power::new();
    power.mark(Mark::Started);
    // From now on signals wait until supervise asks for them.
    bare::block_signals(bare::SignalSet::MAX);

    let mut buffer = [const { MaybeUninit::uninit() }; RUN_FILE_MAX];
    let run = RunFile::parse(read_run_file(&mut buffer));
    modules::load(&run);
    mounts::mount_all();
    if let Some(name) = run.hostname {
        // A name too long leaves the kernel's own, which does no harm.
        let _ = rustix::system::sethostname(name.to_bytes());
    }

    if run.root.is_some_and(|root| !root::attach(&root)) {
        power.off(cottage_init::status::NOT_EXECUTABLE);
    }
    // Process 1 of the user's own finds the console as the kernel left it.
    let successor = successor(&run);
    if successor.is_none() {
        console::take(&run);
    }
    network::set_up(&run);
    ports::name(&run);
    if let Some(root) = run.root {
        root::enter(&root);
    }
    // In the root that programs will see.
    mounts::mount_shares(&run);
    if let Some(path) = successor {
        power.mark(Mark::HandedOver);
        child::become_init(path, &run, environment, power);
        // Still here, without the ports.
        console::take(&run);
        run_to_the_end(&run, environment, Power::new())
    }
    run_to_the_end(&run, environment, power)
}

/// The program that is to be process 1 instead of us; none if there is a command to run.
fn successor<'a>(run: &RunFile<'a>) -> Option<&'a core::ffi::CStr> {
    let by_default = || (run.root.is_some() && root::has_init()).then_some(c"/sbin/init");
    match run.args().next() {
        Some(_) => None,
        None => run.init.or_else(by_default),
    }
}

/// Runs the command, or a shell, and ends the machine.
fn run_to_the_end(run: &RunFile, environment: Strings, power: Power) -> ! {
    let stdin = match run.stdin {
        Stdin::Tty => None,
        Stdin::Pipe | Stdin::Coded => relay::start(),
        Stdin::None => open(
            c"/dev/null",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok(),
    };
    // A script's output is the script's alone.
    if run.args().next().is_none() && run.stdin == Stdin::Tty {
        console::greet();
    }
    power.mark(Mark::Ready);
    let status = match child::start(run, environment, stdin, power) {
        Some(pid) => supervise::wait_for_end_of(pid),
        None => cottage_init::status::NOT_EXECUTABLE,
    };
    power.mark(Mark::CommandDone);
    supervise::stop_the_rest();
    if run.root.is_some() {
        root::leave();
    }
    power.off(status)
}

/// Reads `/.cottage/run`; nothing if it is not there.
fn read_run_file(buffer: &mut [MaybeUninit<u8>]) -> &[u8] {
    let Ok(file) = open(
        c"/.cottage/run",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return &[];
    };
    // A file in memory is read at one go.
    rustix::io::read(file, buffer).map_or(&[], |(bytes, _)| bytes)
}
