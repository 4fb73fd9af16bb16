//! Lab 12: a timer, which is in KVM.
//!
//! The local APIC has a timer that interrupts when the TSC reaches a value. KVM runs it with a timer of the
//! host's; the VMM does nothing. Source: `[sdm3]` 11.5.4.1, "TSC-Deadline Mode"; `[kvm]` 8,
//! KVM_CAP_TSC_DEADLINE_TIMER. Read next: [`super::lab13_serial`].

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, VcpuExit};
use vm_memory::GuestAddress;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, data_at, op, quietly, run as enter};
use super::tale::{Stop, Tale};
use crate::memory::layout::LOCAL_APIC;
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "timer",
    title: "a timer: the local APIC wakes the guest",
    page: include_str!("../../docs/labs/12-timer.md"),
    linux: false,
    guests: &[GUEST, HANDLER],
    variants: &[Variant {
        name: "hidden-tsc-deadline",
        what: "CPUID does not show the timer's TSC-deadline mode",
        recognise: "the guest sleeps for ever: KVM lets it use only what its CPUID shows, and drops the mode's \
                    bit without a word. A Linux asks CPUID first and calibrates the timer instead, which \
                    costs it time or fails: see src/vcpu/cpuid.rs",
    }],
    answer: Answer {
        right: &["1", "one"],
        why: "only the handler's `out` comes to us; setting the timer, waiting and the interrupt stay in KVM",
    },
    run,
};

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &[
        op(&[0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00], "mov dword ptr [0xf0], 0x1ff", "local APIC on"),
        op(&[0x66, 0xc7, 0x06, 0x20, 0x03, 0x30, 0x00, 0x04, 0x00], "mov dword ptr [0x320], 0x40030", "its timer: TSC-deadline mode, vector 0x30"),
        op(&[0x0f, 0x31], "rdtsc", "the time, in ticks of the TSC"),
        op(&[0x66, 0x05, 0x00, 0x00, 0x00, 0x04], "add eax, 0x4000000", "67 million ticks later"),
        op(&[0x66, 0x83, 0xd2, 0x00], "adc edx, 0", ""),
        op(&[0x66, 0xb9, 0xe0, 0x06, 0x00, 0x00], "mov ecx, 0x6e0", "IA32_TSC_DEADLINE"),
        op(&[0x0f, 0x30], "wrmsr", "wake me then"),
        op(&[0xfb], "sti", "interrupts on"),
        op(&[0xf4], "hlt", "wait"),
        op(&[0xeb, 0xfd], "jmp short 0x1027", "again"),
    ],
};

#[rustfmt::skip]
const HANDLER: Guest = Guest {
    at: 0x3000,
    width: Width::Bits16,
    ops: &[
        op(&[0xb0, 0x54], "mov al, 0x54", "a 'T'"),
        op(&[0xe6, 0x41], "out 0x41, al", "the timer has come"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

/// Leaf 1, ECX.
const TSC_DEADLINE: u32 = 1 << 24;

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &GUEST)?;
    rig.load(tale, &HANDLER)?;
    rig.memory
        .write(GuestAddress(0x30 * 4), &[0x00, 0x30, 0, 0])?;
    tale.say("memory at 0x30 * 4: the handler of vector 0x30 is at 0x3000");
    tale.call(
        "KVM_CREATE_IRQCHIP",
        "for the local APIC",
        rig.vm.create_irq_chip(),
    )?;
    let mut vcpu = rig.real_mode(tale)?;
    tale.say("KVM_SET_SREGS: DS begins at 0xfee00000, where the local APIC is");
    data_at(tale, &vcpu, LOCAL_APIC.0)?;

    // KVM has this mode wherever it says so, but its list of CPUID leaves need not show it.
    if !rig.kvm.check_extension(Cap::TscDeadlineTimer) {
        return Err(Stop::NotHere(
            "this KVM has no KVM_CAP_TSC_DEADLINE_TIMER".into(),
        ));
    }
    tale.say("KVM_CHECK_EXTENSION KVM_CAP_TSC_DEADLINE_TIMER: yes");
    let supported = rig.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let mut cpuid = quietly(tale, "KVM_GET_SUPPORTED_CPUID", supported)?;
    let features = cpuid
        .as_mut_slice()
        .iter_mut()
        .find(|leaf| leaf.function == 1);
    let shown = !tale.breaks("hidden-tsc-deadline");
    if let Some(leaf) = features {
        leaf.ecx = if shown {
            leaf.ecx | TSC_DEADLINE
        } else {
            leaf.ecx & !TSC_DEADLINE
        };
    }
    let about = format!("leaf 1, ECX bit 24 is {}", u8::from(shown));
    tale.call("KVM_SET_CPUID2", &about, vcpu.set_cpuid2(&cpuid))?;

    if !shown {
        tale.expect_hang();
    }
    tale.say("KVM_RUN");
    match enter(tale, &mut vcpu)? {
        VcpuExit::IoOut(0x41, data) => tale.exit(&VcpuExit::IoOut(0x41, data)),
        VcpuExit::Intr if !shown => {
            tale.say("  it does not return; after a while a signal ends it, KVM_EXIT_INTR");
        }
        exit => return Err(tale.unexpected(&exit)),
    }
    Ok(())
}
