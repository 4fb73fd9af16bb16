//! Lab 4: a guest of one byte.
//!
//! The smallest program that says when it is over: `hlt`. Source: `[kvm]` 4.10 and section 5.
//! Read next: [`super::lab05_ports`].

use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuExit;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, RFLAGS, Rig, op, run as enter};
use super::tale::{Stop, Tale, words};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "real-mode",
    title: "real mode: a guest of one byte",
    page: include_str!("../../docs/labs/04-real-mode.md"),
    linux: false,
    guests: &[GUEST],
    variants: &[
        Variant {
            name: "no-code",
            what: "the code is not written to memory, so the guest runs zeros",
            recognise: "a busy host processor, and no exit that makes sense: zeros are `add [bx+si], al`, and \
                        the guest runs through them, over the end of its segment, and round again. This is \
                        the first kind of \"no output\"",
        },
        Variant {
            name: "cs-base",
            what: "the base of CS stays 0xffff0000",
            recognise: "an exit before the first instruction: the guest looked for code at CS base + RIP, \
                        where no memory is",
        },
        Variant {
            name: "no-tss",
            what: "KVM_SET_TSS_ADDR is not called",
            recognise: "nothing, on AMD, on a software back end, and on Intel since Westmere (2010) with \
                        `unrestricted_guest` on. Without that, VMX cannot run real mode: KVM runs it as \
                        virtual-8086 mode and needs three pages, or KVM_RUN fails",
        },
    ],
    answer: Answer {
        right: &["0x1001"],
        why: "hlt is one byte, and has been executed when KVM_RUN returns",
    },
    run,
};

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &[op(&[0xf4], "hlt", "stop until an interrupt comes")],
};

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = if tale.breaks("no-tss") {
        Rig::without_tss(tale)?
    } else {
        Rig::new(tale)?
    };

    // 1. Code: bytes in memory, nothing else.
    if !tale.breaks("no-code") {
        rig.load(tale, &GUEST)?;
    }

    // 2. A processor, in real mode as it begins. There an address is segment base + offset.
    let mut vcpu = tale.call("KVM_CREATE_VCPU", "number 0", rig.vm.create_vcpu(0))?;
    let mut sregs = tale.call("KVM_GET_SREGS", "", vcpu.get_sregs())?;
    if !tale.breaks("cs-base") {
        for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
            segment.base = 0;
            segment.selector = 0;
        }
        tale.call(
            "KVM_SET_SREGS",
            "all segments at base 0",
            vcpu.set_sregs(&sregs),
        )?;
    }
    let regs = kvm_regs {
        rip: CODE,
        rflags: RFLAGS,
        ..kvm_regs::default()
    };
    tale.call(
        "KVM_SET_REGS",
        "rip 0x1000, rflags 0x2",
        vcpu.set_regs(&regs),
    )?;

    // 3. Run. The call returns when the guest needs something of us.
    tale.say("KVM_RUN");
    if tale.is_broken() {
        tale.expect_hang();
    }
    match enter(tale, &mut vcpu)? {
        // Where the segment ends the processor faults, and what it pushes then is run as code next time.
        exit if tale.breaks("no-code") => tale.say(format!("  ended by {}", words(&exit))),
        VcpuExit::Hlt => tale.exit(&VcpuExit::Hlt),
        VcpuExit::InternalError if tale.breaks("cs-base") => {
            tale.say("  exit KVM_EXIT_INTERNAL_ERROR: code where no memory is");
        }
        exit => return Err(tale.unexpected(&exit)),
    }

    // 4. Where does it stand?
    let regs = tale.call("KVM_GET_REGS", "where it stands", vcpu.get_regs())?;
    tale.say(format!("  rip {:#x}", regs.rip));
    Ok(())
}
