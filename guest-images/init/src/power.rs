//! Ports of the VMM, power off, reboot.
//!
//! The ports stand in the VMM's `src/memory/layout.rs`. Where the kernel refuses them, or another
//! VMM runs this image, reboot(2) ends the machine instead.

use cottage_init::line::Line;
use rustix::fs::{Access, access, sync};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};

use crate::bare::{self, Strings};
use crate::console;
use crate::room::{self, PortLeave};

/// ACPI sleep control register.
const SLEEP_CONTROL: u16 = 0x600;
/// A byte here marks a stage of the boot.
const BOOT_MARK: u16 = 0x700;
/// The command's status.
const EXIT_STATUS: u16 = 0x704;

// See: ACPI 6.4, 4.8.3.7 "Sleep Control and Status Registers".
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_OFF: u8 = 5;
const SLEEP_ENABLE: u8 = 1 << 5;

/// Stages the VMM puts on its timeline.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Mark {
    /// Process 1 runs.
    Started = 1,
    /// The terminal is set up, the command is about to start.
    Ready = 2,
    /// The command has ended.
    CommandDone = 3,
    /// A root's own init takes over from us.
    HandedOver = 4,
}

/// The machine's end, by the VMM's ports if we may use them.
#[derive(Clone, Copy)]
pub struct Power {
    ports: Option<PortLeave>,
}

impl Power {
    /// Asks the kernel for the ports.
    pub fn new() -> Self {
        Self {
            ports: PortLeave::ask(SLEEP_CONTROL, EXIT_STATUS - SLEEP_CONTROL + 1),
        }
    }

    /// Reports a stage to the VMM.
    pub fn mark(self, mark: Mark) {
        self.write(BOOT_MARK, mark as u8);
    }

    /// Ends the virtual machine with `status`.
    pub fn off(self, status: u8) -> ! {
        sync();
        console::drain();
        self.write(EXIT_STATUS, status);
        self.write(
            SLEEP_CONTROL,
            SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT | SLEEP_ENABLE,
        );
        // Still here: not our VMM, or no ports. Without ACPI a kernel cannot power off and would
        // halt for ever, whereas any VMM notices a reset.
        if access(c"/sys/firmware/acpi", Access::EXISTS).is_ok() {
            let _ = reboot(RebootCommand::PowerOff);
        }
        restart()
    }

    /// Gives up the ports, before a program not ours runs.
    pub fn give_back(self) {
        if let Some(ports) = self.ports {
            ports.give_back();
        }
    }

    fn write(self, port: u16, byte: u8) {
        if let Some(ports) = self.ports {
            ports.write(port, byte);
        }
    }
}

/// Resets the machine, which ends the VM too.
fn restart() -> ! {
    let _ = reboot(RebootCommand::Restart);
    // Only without the privilege to do it.
    bare::exit(1)
}

/// Runs as `mark`, or as one of the commands that end the machine; the status is that of the command.
///
/// Without `-f` process 1 is asked, which ends all other processes first.
pub fn command(name: &[u8], mut arguments: Strings) -> u8 {
    let base_name = name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if base_name == b"mark" {
        return mark(arguments);
    }
    let signal = match base_name {
        b"poweroff" => Signal::USR2,
        b"halt" => Signal::USR1,
        b"reboot" => Signal::TERM,
        _ => return complain(base_name, b": this is process 1 of a cottage guest\n"),
    };
    if !arguments.any(|argument| argument == c"-f") {
        return match kill_process(Pid::INIT, signal) {
            Ok(()) => 0,
            Err(_) => complain(base_name, b": Operation not permitted\n"),
        };
    }
    if !rustix::process::geteuid().is_root() {
        return complain(base_name, b": Operation not permitted\n");
    }
    if base_name == b"reboot" {
        sync();
        console::drain();
        restart()
    }
    Power::new().off(0)
}

/// Marks a stage of the guest's own: `mark 4` to `mark 255`; the first three are this init's.
fn mark(mut arguments: Strings) -> u8 {
    let number = arguments
        .next()
        .and_then(|word| word.to_str().ok()?.parse().ok());
    let (Some(stage @ 4..), None) = (number, arguments.next()) else {
        return complain(b"mark", b": give a number from 4 to 255\n");
    };
    match PortLeave::ask(BOOT_MARK, 1) {
        Some(ports) => ports.write(BOOT_MARK, stage),
        None => return complain(b"mark", b": Operation not permitted\n"),
    }
    0
}

/// Says why a command failed; its status.
pub fn complain(name: &[u8], reason: &[u8]) -> u8 {
    let line = Line::<200>::new().text(name).text(reason);
    let _ = rustix::io::write(room::terminal(), line.as_bytes());
    1
}
