//! Lab 16: a Linux kernel, up to its first line.
//!
//! Here the course meets the source: loading a kernel is some hundred lines of checks, in [`crate::boot`].
//! What it comes to is little: the kernel's bytes in memory, a page of facts about the machine, long mode,
//! and RSI. Source: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12, "64-bit Boot Protocol".
//! Read next: [`super::lab17_initramfs`].

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, VcpuExit, VcpuFd};
use vm_memory::GuestAddress;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{Rig, quietly, run as enter};
use super::tale::{Stop, Tale, host};
use crate::boot::{self, Options, memory_map};
use crate::bundle::Bundle;
use crate::memory::layout::{CMDLINE, COM1_PORT, HIGH_RAM_START, ZERO_PAGE};
use crate::vcpu::cpuid;
use crate::vcpu::entry_state::EntryState;

pub(super) const LAB: Lab = Lab {
    name: "linux",
    title: "a Linux kernel, up to its first line",
    page: include_str!("../../docs/labs/16-linux.md"),
    linux: true,
    guests: &[],
    variants: &[
        Variant {
            name: "wrong-e820",
            what: "the memory map says 1 GiB, and there are 64 MiB",
            recognise: "exits for loads and stores just below an address that the map promised: the kernel \
                        takes its memory from the top. It lives as long as nothing there is read back",
        },
        Variant {
            name: "no-console",
            what: "the command line names a console that this machine has not, console=tty0",
            recognise: "exits that a running kernel makes, and not one letter: the third kind of \"no \
                        output\". Say console=ttyS0, and earlycon=uart8250,io,0x3f8 for what comes earlier",
        },
    ],
    answer: Answer {
        right: &["rsi", "%rsi"],
        why: "\"64-bit Boot Protocol\": %rsi must hold the base address of struct boot_params",
    },
    run,
};

const MEMORY: u64 = 64 << 20;
const CONSOLE: &str = "earlycon=uart8250,io,0x3f8 console=ttyS0";
const ELSEWHERE: &str = "console=tty0";
// Where things are in the zero page. [boot] "The Real-Mode Kernel Header", zero-page.rst
const E820_ENTRIES: u64 = 0x1e8;
const MAGIC: u64 = 0x202;
const CMD_LINE_PTR: u64 = 0x228;
const E820_TABLE: u64 = 0x2d0;
const E820_ENTRY_SIZE: u64 = 20;
/// What the wrong map says there is.
const CLAIMED: u64 = 1 << 30;
/// Exits after which we give up.
const PATIENCE: u64 = 50_000;

fn run(tale: &mut Tale) -> Result<(), Stop> {
    super::needs_linux()?;
    tale.say("a VM with 64 MiB of memory, as in labs 1 and 2");
    let rig = Rig::bare(tale, MEMORY)?;
    rig.lend(tale, 0, 0)?;

    // 1. The kernel. Its file says where it wants to be, and where it is entered.
    let file = Bundle::open().and_then(|bundle| bundle.kernel(false));
    let file = file.map_err(host("find a kernel"))?;
    let kernel = boot::load_kernel(&file, &Options::default(), &rig.memory);
    let kernel = kernel.map_err(host("load the kernel"))?;
    tale.say(format!(
        "the kernel in this program's file: {}",
        kernel.summary
    ));
    tale.say(format!(
        "  from {:#x} on, entered at {:#x}",
        kernel.start.0, kernel.entry.0
    ));

    // 2. The command line and the zero page, struct boot_params.
    let line = if tale.breaks("no-console") {
        ELSEWHERE
    } else {
        CONSOLE
    };
    let info = boot::write_boot_info(&rig.memory, &kernel, line.as_bytes(), None, None);
    let info = info.map_err(host("write the zero page"))?;
    tale.say(format!(
        "memory at {:#x}: the command line, {line:?}",
        CMDLINE.0
    ));
    if tale.breaks("wrong-e820") {
        let size = CLAIMED - HIGH_RAM_START.0;
        let last = memory_map::memory_map(MEMORY).len() as u64 - 1;
        let at = ZERO_PAGE.0 + E820_TABLE + last * E820_ENTRY_SIZE + 8;
        rig.memory.write(GuestAddress(at), &size.to_le_bytes())?;
    }
    tell_zero_page(tale, &rig)?;

    // 3. A processor before the first instruction.
    let state = EntryState::new(kernel.protocol, kernel.entry, info);
    state.write_tables(&rig.memory)?;
    let mut vcpu = processor(tale, &rig, &state)?;

    // 4. Run, until there is a line.
    tale.say("KVM_RUN, again and again");
    until_a_line(tale, &mut vcpu)
}

/// Interrupt controllers, and a processor that knows what it is and where it begins.
fn processor(tale: &mut Tale, rig: &Rig, state: &EntryState) -> Result<VcpuFd, Stop> {
    tale.call(
        "KVM_CREATE_IRQCHIP",
        "before the vCPU",
        rig.vm.create_irq_chip(),
    )?;
    let vcpu = tale.call("KVM_CREATE_VCPU", "number 0", rig.vm.create_vcpu(0))?;
    let machine = cpuid::Machine {
        vcpus: 1,
        tsc_deadline: rig.kvm.check_extension(Cap::TscDeadlineTimer),
        host_is_tcg: cpuid::host_is_tcg(),
    };
    let supported = rig.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let supported = quietly(tale, "KVM_GET_SUPPORTED_CPUID", supported)?;
    let leaves = cpuid::for_machine(supported, machine);
    tale.call(
        "KVM_SET_CPUID2",
        "as in lab 10, one processor",
        vcpu.set_cpuid2(&leaves),
    )?;
    let mut sregs = quietly(tale, "KVM_GET_SREGS", vcpu.get_sregs())?;
    state.apply(&mut sregs);
    tale.call(
        "KVM_SET_SREGS",
        "long mode, 4 GiB mapped, as in lab 8",
        vcpu.set_sregs(&sregs),
    )?;
    let regs = state.regs();
    let about = format!("rip {:#x}, rsi {:#x}: the zero page", regs.rip, regs.rsi);
    tale.call("KVM_SET_REGS", &about, vcpu.set_regs(regs))?;
    Ok(vcpu)
}

/// What the kernel reads first.
fn tell_zero_page(tale: &mut Tale, rig: &Rig) -> Result<(), Stop> {
    let at = |offset| GuestAddress(ZERO_PAGE.0 + offset);
    let (mut magic, mut pointer, mut count) = ([0; 4], [0; 4], [0]);
    rig.memory.read(at(MAGIC), &mut magic)?;
    rig.memory.read(at(CMD_LINE_PTR), &mut pointer)?;
    rig.memory.read(at(E820_ENTRIES), &mut count)?;
    tale.say(format!("memory at {:#x}: the zero page", ZERO_PAGE.0));
    tale.say(format!(
        "  {MAGIC:#x} header: {:?}",
        String::from_utf8_lossy(&magic)
    ));
    tale.say(format!(
        "  {CMD_LINE_PTR:#x} cmd_line_ptr: {:#x}",
        u32::from_le_bytes(pointer)
    ));
    tale.say(format!("  {E820_ENTRIES:#x} e820_entries: {}", count[0]));
    for number in 0..u64::from(count[0]) {
        let (mut start, mut size, mut kind) = ([0; 8], [0; 8], [0]);
        let entry = E820_TABLE + number * E820_ENTRY_SIZE;
        rig.memory.read(at(entry), &mut start)?;
        rig.memory.read(at(entry + 8), &mut size)?;
        rig.memory.read(at(entry + 16), &mut kind)?;
        let (start, size) = (u64::from_le_bytes(start), u64::from_le_bytes(size));
        let kind = if kind[0] == 1 { "RAM" } else { "reserved" };
        tale.say(format!(
            "  {entry:#x} {start:#x} to {:#x}: {kind}",
            start + size - 1
        ));
    }
    Ok(())
}

/// Answers as a serial port, until the guest has printed a line; with a mistake in it, until it shows.
fn until_a_line(tale: &mut Tale, vcpu: &mut VcpuFd) -> Result<(), Stop> {
    let wrong_map = tale.breaks("wrong-e820");
    // A wrong map shows by an exit, however slow this host is; a console elsewhere by none.
    if tale.is_broken() && !wrong_map {
        tale.expect_hang();
    }
    let mut printed = String::new();
    let mut exits = 0_u64;
    while (wrong_map || !printed.contains('\n')) && exits < PATIENCE {
        exits += 1;
        match enter(tale, vcpu)? {
            VcpuExit::IoOut(COM1_PORT, data) => {
                printed.extend(data.iter().copied().map(char::from))
            }
            // All other ports read 0, so that nobody waits for a clock chip (0x71) that is not there.
            VcpuExit::IoIn(port, data) => data.fill(if port == COM1_PORT + 5 { 0x60 } else { 0 }),
            VcpuExit::IoOut(..) => {}
            VcpuExit::MmioRead(at, _) | VcpuExit::MmioWrite(at, _) if wrong_map && at < CLAIMED => {
                tale.say(format!(
                    "  exit KVM_EXIT_MMIO at {at:#x}: no memory is there, and no device"
                ));
                break;
            }
            VcpuExit::MmioRead(_, data) => data.fill(0),
            VcpuExit::MmioWrite(..) => {}
            VcpuExit::Shutdown | VcpuExit::Intr | VcpuExit::Hlt if tale.is_broken() => break,
            exit => return Err(tale.unexpected(&exit)),
        }
    }
    tale.say(format!(
        "after {exits} exits; the first line that the kernel has printed:"
    ));
    tale.say(format!("  {}", printed.lines().next().unwrap_or("none")));
    Ok(())
}
