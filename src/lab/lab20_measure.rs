//! Lab 20: what all that costs.
//!
//! Each call of labs 1 to 4 with a clock beside it; what an exit costs; and a whole boot, by cottage's own
//! timeline ([`crate::timeline`]). One run proves little: `cottage bench` repeats it. Read next:
//! [`crate::tools`].

use std::ffi::OsString;
use std::process::Stdio;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, SIZE, op, quietly, run as enter};
use super::tale::{Stop, Tale, host};
use crate::bundle;
use crate::timeline::child::MeasuredChild;
use crate::timeline::{chart, now};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "measure",
    title: "measure: calls, exits, and a boot",
    page: include_str!("../../docs/labs/20-measure.md"),
    linux: false,
    guests: &[GUEST],
    variants: &[Variant {
        name: "talkative",
        what: "the guest prints 4000 letters through a port that it asks before each, as a kernel without \
               `quiet`",
        recognise: "a boot that is slow and an exit count in the tens of thousands, most of them at 0x3f8 and \
                    0x3fd: `cottage run --exits` counts them by port. Say `quiet`, or use --console hvc0",
    }],
    answer: Answer {
        right: &["8000"],
        why: "each letter costs two exits: one to ask the line status, one to send",
    },
    run,
};

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &[
        op(&[0xe6, 0x41], "out 0x41, al", "an exit"),
        op(&[0xe2, 0xfc], "loop 0x1000", "CX times"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

/// Exits to average over.
const MANY: u16 = 1000;
/// Of a chatty kernel: 4000 letters, asked and sent.
const CHATTY: u16 = 8000;

fn run(tale: &mut Tale) -> Result<(), Stop> {
    // 1. Building a machine, call by call.
    let mut at = now();
    let mut lap = |tale: &mut Tale, what: &str| {
        tale.say(format!("  {what}: {} us", (now() - at) / 1000));
        at = now();
    };
    tale.say("what it takes to have a machine:");
    let rig = Rig::bare(tale, SIZE)?;
    lap(tale, "open /dev/kvm, KVM_CREATE_VM, mmap");
    rig.lend(tale, 0, 0)?;
    lap(tale, "KVM_SET_USER_MEMORY_REGION");
    let mut vcpu = quietly(tale, "KVM_CREATE_VCPU", rig.vm.create_vcpu(0))?;
    lap(tale, "KVM_CREATE_VCPU");
    let supported = rig.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let leaves = quietly(tale, "KVM_GET_SUPPORTED_CPUID", supported)?;
    quietly(tale, "KVM_SET_CPUID2", vcpu.set_cpuid2(&leaves))?;
    lap(tale, "KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2");

    // 2. An exit, there and back. The first also faults in the guest's first pages.
    let mut sregs = quietly(tale, "KVM_GET_SREGS", vcpu.get_sregs())?;
    for segment in [&mut sregs.cs, &mut sregs.ds] {
        segment.base = 0;
        segment.selector = 0;
    }
    quietly(tale, "KVM_SET_SREGS", vcpu.set_sregs(&sregs))?;
    rig.load(tale, &GUEST)?;
    let first = exits(tale, &mut vcpu, 1)?;
    tale.say(format!("the first exit: {} us", first / 1000));
    let count = if tale.breaks("talkative") {
        CHATTY
    } else {
        MANY
    };
    let many = exits(tale, &mut vcpu, count)?;
    tale.say(format!(
        "{count} exits: {} us, {} ns each",
        many / 1000,
        many / u64::from(count)
    ));

    // 3. A boot.
    if tale.breaks("talkative") {
        return Ok(());
    }
    if super::needs_linux().is_err() {
        tale.say("a boot: this host's KVM runs no stock kernel; the testbed does, see docs/labs/README.md");
        return Ok(());
    }
    a_boot(tale)
}

/// Runs the guest until it halts; returns how long its `count` exits took, in nanoseconds.
fn exits(tale: &mut Tale, vcpu: &mut VcpuFd, count: u16) -> Result<u64, Stop> {
    let mut regs = quietly(tale, "KVM_GET_REGS", vcpu.get_regs())?;
    regs.rip = CODE;
    regs.rflags = super::rig::RFLAGS;
    regs.rcx = count.into();
    quietly(tale, "KVM_SET_REGS", vcpu.set_regs(&regs))?;
    let begun = now();
    loop {
        match enter(tale, vcpu)? {
            VcpuExit::IoOut(0x41, _) => {}
            VcpuExit::Hlt => return Ok(now() - begun),
            exit => return Err(tale.unexpected(&exit)),
        }
    }
}

/// Boots the built-in guest once, and tells who took the time.
fn a_boot(tale: &mut Tale) -> Result<(), Stop> {
    tale.say("cottage run -- true, once:");
    let words = ["--", "true"].map(OsString::from);
    let child = MeasuredChild::spawn(bundle::program(), &words, false, |command| {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    });
    let run = child
        .and_then(MeasuredChild::wait)
        .map_err(host("measure a boot"))?;
    let intervals = chart::intervals(&run);
    for (who, spent) in chart::shares(&intervals) {
        tale.say(format!("  {who}: {} ms", spent / 1_000_000));
    }
    let exits: u64 = intervals.iter().map(|interval| interval.exits).sum();
    tale.say(format!("  exits: {exits}"));
    tale.say(format!("  status {}", run.exit_code()));
    Ok(())
}
