//! Lab 15: a second processor.
//!
//! A vCPU is a thread that calls KVM_RUN. The second waits in there until the first sends it INIT and
//! SIPI, by its local APIC; both see one memory. Source: `[sdm3]` 9.4, "Multiple-Processor (MP)
//! Initialization"; 11.6.1, "Interrupt Command Register". Read next: [`super::lab16_linux`].

use std::thread;
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::GuestAddress;
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::lab05_ports::mp_state;
use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, data_at, op, run as enter};
use super::tale::{Stop, Tale, host, words};
use crate::memory::layout::LOCAL_APIC;
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "two-vcpus",
    title: "two processors: INIT, SIPI, and memory that both see",
    page: include_str!("../../docs/labs/15-two-vcpus.md"),
    linux: false,
    guests: &[FIRST, SECOND],
    variants: &[Variant {
        name: "no-apic",
        what: "there are no interrupt controllers in KVM",
        recognise: "KVM_EXIT_MMIO at 0xfee00000 and above: the guest's local APIC is nobody's. Both vCPUs are \
                    runnable from the start, at the reset vector",
    }],
    answer: Answer {
        right: &["0x8000"],
        why: "the SIPI's vector is the number of a page, and pages have 4096 bytes",
    },
    run,
};

#[rustfmt::skip]
const FIRST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &[
        op(&[0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00, 0x00], "mov dword ptr [0xf0], 0x1ff", "local APIC on"),
        op(&[0x66, 0xc7, 0x06, 0x00, 0x03, 0x00, 0x45, 0x0c, 0x00], "mov dword ptr [0x300], 0xc4500", "ICR: INIT to all but me"),
        op(&[0x66, 0xc7, 0x06, 0x00, 0x03, 0x08, 0x46, 0x0c, 0x00], "mov dword ptr [0x300], 0xc4608", "ICR: SIPI, begin at page 8"),
        op(&[0x2e, 0x80, 0x3e, 0x00, 0x20, 0x00], "cmp byte ptr cs:[0x2000], 0", "has it counted?"),
        op(&[0x74, 0xf8], "je short 0x101b", "not yet"),
        op(&[0x2e, 0xa0, 0x00, 0x20], "mov al, cs:[0x2000]", "what it left"),
        op(&[0xe6, 0x41], "out 0x41, al", "show it"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

#[rustfmt::skip]
const SECOND: Guest = Guest {
    at: 0x8000,
    width: Width::Bits16,
    ops: &[
        op(&[0xb0, 0x32], "mov al, 0x32", "a '2'"),
        op(&[0xe6, 0x41], "out 0x41, al", "show it: the second is here"),
        op(&[0xf0, 0xfe, 0x06, 0x00, 0x20], "lock inc byte ptr [0x2000]", "count, in memory that both see"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &FIRST)?;
    rig.load(tale, &SECOND)?;
    if !tale.breaks("no-apic") {
        let made = rig.vm.create_irq_chip();
        tale.call("KVM_CREATE_IRQCHIP", "for the local APICs", made)?;
    }
    let mut first = rig.real_mode(tale)?;
    tale.say("KVM_SET_SREGS: its DS begins at 0xfee00000, where the local APIC is");
    data_at(tale, &first, LOCAL_APIC.0)?;
    let about = "number 1; its registers stay as they are";
    let second = tale.call("KVM_CREATE_VCPU", about, rig.vm.create_vcpu(1))?;
    for (number, vcpu) in [&first, &second].into_iter().enumerate() {
        let state = tale.call(
            "KVM_GET_MP_STATE",
            &format!("of vCPU {number}"),
            vcpu.get_mp_state(),
        )?;
        tale.say(format!("  {}", mp_state(state.mp_state)));
    }
    if tale.breaks("no-apic") {
        tale.say("KVM_RUN, vCPU 0");
        return match enter(tale, &mut first)? {
            exit @ VcpuExit::MmioWrite(..) => {
                tale.exit(&exit);
                Ok(())
            }
            exit => Err(tale.unexpected(&exit)),
        };
    }

    let other = thread::Builder::new()
        .name("vcpu1".into())
        .spawn(|| until_kicked(second));
    let other = other.map_err(host("start a thread for vCPU 1"))?;
    tale.say("a thread calls KVM_RUN for vCPU 1, and this one for vCPU 0");
    let ended = match enter(tale, &mut first)? {
        exit @ VcpuExit::IoOut(0x41, _) => {
            tale.say(format!("  vCPU 0: exit {}", words(&exit)));
            Ok(())
        }
        exit => Err(tale.unexpected(&exit)),
    };
    // vCPU 1 has halted, and its KVM_RUN waits for an interrupt: a signal ends it.
    while !other.is_finished() {
        let _gone_already = other.kill(SIGRTMIN());
        thread::sleep(Duration::from_millis(1));
    }
    for line in other.join().unwrap_or_default() {
        tale.say(format!("  vCPU 1: {line}"));
    }
    let mut count = [0];
    rig.memory.read(GuestAddress(0x2000), &mut count)?;
    tale.say(format!("memory at 0x2000 holds {}", count[0]));
    ended
}

/// Runs a vCPU until a signal comes; returns what it did.
fn until_kicked(mut vcpu: VcpuFd) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        match vcpu.run() {
            Ok(exit) => seen.push(format!("exit {}", words(&exit))),
            Err(error) if error.errno() == libc::EINTR => {
                seen.push("waits for an interrupt until a signal ends its KVM_RUN".into());
                return seen;
            }
            // [kvm] does not say so, but KVM_RUN returns this when INIT or SIPI has come: call it again.
            Err(error) if error.errno() == libc::EAGAIN => {}
            Err(error) => {
                seen.push(format!("KVM_RUN was refused: {error}"));
                return seen;
            }
        }
    }
}
