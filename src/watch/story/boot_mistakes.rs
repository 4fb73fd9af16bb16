//! Likely mistakes of what was booted: by the line a kernel panics with, by silence, by where things lie.
//!
//! Boot information is read from guest memory, where the kernel was given it. Linux keeps the first
//! megabyte as it finds it, so it is mostly still there; what is not recognised is not talked about.
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12; the texts of panics are those of
//! Linux v6.12, named at each.
//! Read next: [`crate::watch::gate`].

use super::{View, printable};
use crate::memory::layout::{CMDLINE, ZERO_PAGE};
use crate::watch::arch::EFER;
use crate::watch::tell::Kind;

// Offsets in struct boot_params. [boot] "The Real-Mode Kernel Header"
const HEADER_MAGIC: u64 = 0x202;
const RAMDISK_IMAGE: u64 = 0x218;
const RAMDISK_SIZE: u64 = 0x21c;
const CODE32_START: u64 = 0x214;
const INIT_SIZE: u64 = 0x260;
/// "HdrS"
const MAGIC: u64 = 0x5372_6448;
/// Of the command line that is looked at.
const MAX_CMDLINE: usize = 2048;
/// Where Linux's own addresses begin.
const KERNEL_HALF: u64 = 1 << 63;

/// What the rules find.
pub fn all(view: &View<'_>) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(initramfs_overlaps(view));
    found.extend(initramfs_outside(view));
    found.extend(system_call_on_pvm(view));
    match view.report.kind {
        Kind::Panic => found.extend(panic(view)),
        Kind::Silent => found.extend(silence(view)),
        Kind::Crash | Kind::Stopped => {}
    }
    found
}

/// A field of the zero page, if there is one.
fn boot_param(view: &View<'_>, offset: u64) -> Option<u64> {
    let magic = view.number(ZERO_PAGE.0 + HEADER_MAGIC, 4)?;
    let value = view.number(ZERO_PAGE.0 + offset, 4)?;
    (magic == MAGIC).then_some(value)
}

fn initramfs(view: &View<'_>) -> Option<(u64, u64)> {
    let start = boot_param(view, RAMDISK_IMAGE)?;
    let size = boot_param(view, RAMDISK_SIZE)?;
    (size > 0).then_some((start, start + size))
}

fn initramfs_overlaps(view: &View<'_>) -> Option<String> {
    let (start, end) = initramfs(view)?;
    let kernel = boot_param(view, CODE32_START)?;
    let kernel_end = kernel + boot_param(view, INIT_SIZE)?;
    (start < kernel_end && kernel < end).then(|| {
        format!(
            "the initramfs, {start:#x} to {end:#x}, overlaps the memory the kernel unpacks itself to, \
             {kernel:#x} to {kernel_end:#x}"
        )
    })
}

fn initramfs_outside(view: &View<'_>) -> Option<String> {
    let (start, end) = initramfs(view)?;
    let inside = view.memory.read(start, &mut [0]) && view.memory.read(end - 1, &mut [0]);
    (!inside).then(|| format!("the initramfs, {start:#x} to {end:#x}, is not all in memory"))
}

/// On PVM ring 3 runs natively: its SYSCALL stays in ring 3, at LSTAR, an address it may not touch.
fn system_call_on_pvm(view: &View<'_>) -> Option<String> {
    let scene = view.scene();
    let user_in_kernel = scene.sregs.cs.dpl == 3 && scene.regs.rip >= KERNEL_HALF;
    let found = view.host.pvm && EFER.has(scene.sregs.efer, "SCE") && user_in_kernel;
    found.then(|| {
        "a program's system call has left it in ring 3: this host's KVM (kvm_pvm) cannot run a stock \
         Linux; `cottage doctor` says more"
            .into()
    })
}

/// The kernel's command line.
pub fn cmdline(view: &View<'_>) -> Option<String> {
    let mut bytes = [0; MAX_CMDLINE];
    if !view.memory.read(CMDLINE.0, &mut bytes) {
        return None;
    }
    let len = bytes.iter().position(|byte| *byte == 0)?;
    let (line, _) = bytes.split_at(len);
    let text = String::from_utf8(line.to_vec()).ok()?;
    (!text.is_empty() && text.chars().all(|c| !c.is_control())).then_some(text)
}

/// What a panic's line says that it does not say.
fn panic(view: &View<'_>) -> Option<String> {
    let line = &view.report.headline;
    let (_, meaning) = PANICS.iter().find(|(text, _)| line.contains(text))?;
    let words = cmdline(view).unwrap_or_default();
    let has = |name: &str| words.split(' ').any(|word| word.starts_with(name));
    let mut text = (*meaning).to_owned();
    if line.contains("Unable to mount root") {
        text += match (initramfs(view).is_some(), has("root=")) {
            (false, false) => ": there is no initramfs and no root= on the command line",
            (true, _) => {
                ": the initramfs that was given did not unpack, or has no /init (rdinit= names another)"
            }
            (false, true) => {
                ": there is no initramfs, and what root= names is not there, or the kernel has no driver or \
                 file system for it"
            }
        };
    }
    if !words.is_empty() {
        text += &format!("; the command line was: {}", printable(&words));
    }
    Some(text)
}

/// Parts of panics, and what they mean. Linux v6.12: `init/do_mounts.c`, `init/main.c`, `kernel/exit.c`,
/// `mm/oom_kill.c`, `arch/x86/kernel/apic/io_apic.c`, `kernel/traps.c`.
const PANICS: [(&str, &str); 8] = [
    (
        "VFS: Unable to mount root fs",
        "the kernel has no root file system",
    ),
    (
        "No working init found",
        "there is a root file system, but no program in it that can be the first: init= names one, and it \
         must be executable and for this processor",
    ),
    (
        "Requested init",
        "the program that init= or rdinit= names cannot be started: it is not there, not executable, or its \
         interpreter or libraries are missing",
    ),
    (
        "Attempted to kill init! exitcode=0x0000000",
        "the first program has died by a signal, the exit code's last digit (b: a bad address, 4: an \
         instruction this processor lacks, 9: killed)",
    ),
    (
        "Attempted to kill init!",
        "the first program has ended, and must not: its exit status is the exit code divided by 256 (0x100 \
         is 1, 0x7f00 is a shell's \"not found\")",
    ),
    (
        "System is deadlocked on memory",
        "memory was too small to start in: --memory gives more",
    ),
    (
        "IO-APIC + timer doesn't work",
        "no timer interrupt arrives: the MP or ACPI tables and the interrupt controller disagree, or the \
         local APIC's timer is hidden (CPUID leaf 1, TSC-deadline) on a machine without another",
    ),
    (
        "Fatal exception",
        "the kernel met an exception in its own code: the lines before its panic say which",
    ),
];

/// Why nothing was printed.
fn silence(view: &View<'_>) -> Vec<String> {
    let exits = &view.scene().exits;
    if exits.is_empty() {
        return vec![
            "the guest has used no device since it was entered: it computes, waits, or runs in circles before \
             its console is set up"
                .into(),
        ];
    }
    let Some(words) = cmdline(view) else {
        return Vec::new();
    };
    let serial = words.split(' ').any(|word| {
        [
            "console=ttyS",
            "console=uart",
            "earlyprintk=",
            "earlycon=",
            "console=hvc",
        ]
        .iter()
        .any(|start| word.starts_with(start))
    });
    let mut found = Vec::new();
    if !serial {
        found.push(format!(
            "the command line has no console=ttyS0, so that a Linux prints nowhere: {}",
            printable(&words)
        ));
    } else if words.split(' ').any(|word| word == "quiet") {
        found.push(
            "the command line says quiet: without it (--cmdline) a Linux tells how far it comes"
                .into(),
        );
    }
    if serial {
        found.push(
            "a kernel without a driver for the 8250 serial port (CONFIG_SERIAL_8250_CONSOLE) prints nothing \
             there; earlyprintk=ttyS0 on the command line needs none"
                .into(),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::memory::GuestMemory;
    use crate::watch::story::testing::{crashed, view};

    fn put(memory: &GuestMemory, offset: u64, value: u32) {
        let at = GuestAddress(ZERO_PAGE.0 + offset);
        memory.write(at, &value.to_le_bytes()).unwrap();
    }

    /// What is found for a kernel at 1 MiB that needs 1 MiB, with an initramfs and a command line.
    fn found(kind: Kind, headline: &str, initrd: (u32, u32), cmdline: &str) -> Vec<String> {
        let (mut report, memory) = crashed(&[0xf4]);
        report.kind = kind;
        report.headline = headline.into();
        report
            .scene
            .exits
            .push(crate::kvm::last::LastExit::default());
        put(&memory, HEADER_MAGIC, 0x5372_6448);
        put(&memory, CODE32_START, 0x10_0000);
        put(&memory, INIT_SIZE, 0x10_0000);
        put(&memory, RAMDISK_IMAGE, initrd.0);
        put(&memory, RAMDISK_SIZE, initrd.1);
        memory.write(CMDLINE, cmdline.as_bytes()).unwrap();
        all(&view(&report, &memory))
    }

    #[test]
    fn initramfs_in_the_kernels_way_is_found() {
        let found = |initrd| found(Kind::Crash, "", initrd, "");
        assert_eq!(found((0x20_0000, 0x1000)), [""; 0]);
        assert_eq!(found((0, 0)), [""; 0]);
        assert!(found((0x1f_f000, 0x1001))[0].contains("overlaps"));
        assert!(found((0x3f_f000, 0x1001))[0].contains("not all in memory"));
        assert_eq!(found((0xffff_ffff, 0xffff_ffff)).len(), 1);
    }

    #[test]
    fn panic_for_want_of_a_root_says_what_is_missing() {
        let line = "the guest's kernel panicked: Kernel panic - not syncing: VFS: Unable to mount root fs on \
                    unknown-block(0,0)";
        let neither = found(Kind::Panic, line, (0, 0), "console=ttyS0");
        assert!(
            neither[0].contains("no initramfs and no root=")
                && neither[0].contains("console=ttyS0"),
            "{neither:?}"
        );
        let root = found(Kind::Panic, line, (0, 0), "root=/dev/vda");
        assert!(
            root[0].contains("what root= names is not there"),
            "{root:?}"
        );
        let bad = found(Kind::Panic, line, (0x20_0000, 9), "");
        assert!(bad[0].contains("did not unpack"), "{bad:?}");
    }

    #[test]
    fn silence_is_laid_to_the_command_line() {
        let found = |cmdline| found(Kind::Silent, "", (0, 0), cmdline);
        assert!(found("panic=-1")[0].contains("no console=ttyS0"));
        assert!(found("console=ttyS0 quiet")[0].contains("says quiet"));
        assert!(found("console=ttyS0")[0].contains("CONFIG_SERIAL_8250"));
        assert_eq!(found("\x1b[2J"), [""; 0]);
    }

    #[test]
    fn guest_that_used_no_device_is_told_so() {
        let (mut report, memory) = crashed(&[0xf4]);
        report.kind = Kind::Silent;
        assert!(all(&view(&report, &memory))[0].contains("no device"));
    }
}
