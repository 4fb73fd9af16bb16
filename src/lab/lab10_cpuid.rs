//! Lab 10: CPUID, which is whatever we say.
//!
//! The instruction is intercepted, and KVM answers from a table that the VMM has given it. Source: `[kvm]`
//! 4.20, KVM_SET_CPUID2; 4.46, KVM_GET_SUPPORTED_CPUID; `[sdm2]` CPUID. Read next:
//! [`super::lab11_interrupts`].

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::VcpuExit;

use super::lab08_long_mode::long_mode;
use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, op, run as enter};
use super::tale::{Stop, Tale, host};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "cpuid",
    title: "CPUID: what the guest sees, and changing it",
    page: include_str!("../../docs/labs/10-cpuid.md"),
    linux: false,
    guests: &[GUEST],
    variants: &[Variant {
        name: "no-cpuid",
        what: "KVM_SET_CPUID2 is not called",
        recognise: "every leaf reads 0, or what the host has. A Linux then finds no long mode: it says \"This \
                    kernel requires an x86-64 CPU\" or dies before its first line",
    }],
    answer: Answer {
        right: &["KVMKVMKVM"],
        why: "so KVM_GET_SUPPORTED_CPUID has it, with three NULs behind; Linux looks for this name to find \
              kvmclock and other paravirtual features",
    },
    run,
};

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits64,
    ops: &[
        op(&[0xb8, 0x00, 0x00, 0x00, 0x40], "mov eax, 0x40000000", "the first leaf of a hypervisor"),
        op(&[0x0f, 0xa2], "cpuid", "asks the processor; KVM answers"),
        op(&[0x89, 0xd8], "mov eax, ebx", "its name, four letters"),
        op(&[0xe7, 0x41], "out 0x41, eax", "show them"),
        op(&[0x89, 0xc8], "mov eax, ecx", "the next four"),
        op(&[0xe7, 0x41], "out 0x41, eax", "show them"),
        op(&[0x89, 0xd0], "mov eax, edx", "the last four"),
        op(&[0xe7, 0x41], "out 0x41, eax", "show them"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

/// The leaf with a hypervisor's name in EBX, ECX and EDX.
const HYPERVISOR: u32 = 0x4000_0000;

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &GUEST)?;

    // 1. What KVM can offer on this host: a list of leaves.
    let supported = rig.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let about = "what this host's KVM can offer a guest";
    let mut cpuid = tale.call("KVM_GET_SUPPORTED_CPUID", about, supported)?;
    tale.say(format!("  {} entries", cpuid.as_slice().len()));

    // 2. Change one.
    let leaf = cpuid
        .as_mut_slice()
        .iter_mut()
        .find(|entry| entry.function == HYPERVISOR);
    let missing = || host("change leaf 0x40000000")("KVM does not offer it");
    let leaf = leaf.ok_or_else(missing)?;
    tale.say(format!("  leaf 0x40000000 says {:?}", name(leaf)));
    [leaf.ebx, leaf.ecx, leaf.edx] = [*b"cott", *b"ageL", *b"ab10"].map(u32::from_le_bytes);
    tale.say(format!("  we change that to {:?}", name(leaf)));

    // 3. Give it to the processor, before it runs: afterwards KVM refuses changes.
    let about = "a vCPU in long mode at 0x1000, the first 4 MiB mapped, as in lab 8";
    let mut vcpu = tale.briefly(about, |tale| long_mode(tale, &rig))?;
    if !tale.breaks("no-cpuid") {
        tale.call(
            "KVM_SET_CPUID2",
            "all entries, with that one",
            vcpu.set_cpuid2(&cpuid),
        )?;
    }

    // 4. Ask from inside.
    let mut seen = String::new();
    loop {
        tale.say("KVM_RUN");
        match enter(tale, &mut vcpu)? {
            VcpuExit::IoOut(0x41, data) => {
                tale.exit(&VcpuExit::IoOut(0x41, data));
                seen.extend(data.iter().copied().map(char::from));
            }
            VcpuExit::Hlt => {
                tale.exit(&VcpuExit::Hlt);
                break;
            }
            exit => return Err(tale.unexpected(&exit)),
        }
    }
    tale.say(format!("the guest sees {seen:?}"));
    Ok(())
}

fn name(leaf: &kvm_cpuid_entry2) -> String {
    let bytes = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    let letters = bytes.as_flattened().iter().filter(|byte| **byte != 0);
    letters.copied().map(char::from).collect()
}
