//! The VMMs that are compared, and how each is told to start the same guest.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::guest::Guest;

/// One of the VMMs.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// This project's, as released.
    Cottage(PathBuf),
    /// The same with two disks, of this image, and random numbers.
    Furnished(PathBuf, PathBuf),
    /// `benches/floor.c`, built.
    Floor(PathBuf),
    /// The same with another irqchip: its name here, and what `benches/floor.c` calls it.
    FloorWith(PathBuf, &'static str, &'static str),
    /// QEMU's smallest machine, as lean as its options make it.
    Qemu(Vec<String>),
}

/// What to start, and how large.
#[derive(Clone, Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) guest: &'a Guest,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    /// None: whatever the VMM takes by itself, for guests that do not read it.
    pub(crate) cmdline: Option<&'a str>,
}

impl<'a> Machine<'a> {
    /// 128 MiB and one processor: cottage's defaults, and all the floor has.
    pub(crate) fn small(guest: &'a Guest) -> Self {
        Self {
            guest,
            memory_mib: 128,
            cpus: 1,
            cmdline: None,
        }
    }
}

impl Subject {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Cottage(_) => "cottage",
            Self::Furnished(..) => "with devices",
            Self::Floor(_) => "floor",
            Self::FloorWith(_, name, _) => name,
            Self::Qemu(_) => "QEMU microvm",
        }
    }

    /// The command that starts `machine`.
    pub(crate) fn command(&self, machine: &Machine) -> Command {
        let mut command = match self {
            Self::Cottage(program) => cottage(program, machine),
            Self::Furnished(program, disk) => {
                let mut command = cottage(program, machine);
                let disk = format!("{},ro", disk.display());
                command.args(["--disk", &disk, "--disk", &disk, "--rng"]);
                command
            }
            Self::Floor(program) => floor(program, &[], machine),
            Self::FloorWith(program, _, irqchip) => floor(program, &[irqchip], machine),
            Self::Qemu(words) => qemu(words, machine),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }
}

fn cottage(program: &PathBuf, machine: &Machine) -> Command {
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg("--kernel")
        .arg(&machine.guest.kernel)
        .arg("--initramfs")
        .arg(&machine.guest.initramfs)
        .arg("--memory")
        .arg(format!("{}M", machine.memory_mib))
        .arg("--cpus")
        .arg(machine.cpus.to_string());
    if let Some(cmdline) = machine.cmdline {
        command.arg("--cmdline").arg(cmdline);
    }
    command
}

fn floor(program: &PathBuf, flags: &[&str], machine: &Machine) -> Command {
    let mut command = Command::new(program);
    command
        .args(flags)
        .arg(&machine.guest.kernel)
        .arg(&machine.guest.initramfs);
    command
}

/// No default devices, no configuration files; the RTC is there because kernels wait for one.
/// isa-debug-exit stands at the i8042's port, which microvm lacks: a guest that resets ends it too.
fn qemu(words: &[String], machine: &Machine) -> Command {
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["-M", "microvm,rtc=on,auto-kernel-cmdline=off"])
        .args(["-accel", "kvm", "-cpu", "host"])
        .args(["-m", &machine.memory_mib.to_string()])
        .args(["-smp", &machine.cpus.to_string()])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .args(["-device", "isa-debug-exit,iobase=0x64,iosize=1"])
        .arg("-kernel")
        .arg(&machine.guest.kernel)
        .arg("-initrd")
        .arg(&machine.guest.initramfs)
        .arg("-append")
        .arg(machine.cmdline.unwrap_or(""));
    command
}
