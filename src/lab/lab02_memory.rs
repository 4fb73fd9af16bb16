//! Lab 2: a machine, and memory for it.
//!
//! A guest's memory is memory of ours: a piece of this process's address space, lent to the machine at an
//! address that the guest sees. Both may use it at any time. Source: `[kvm]` 4.35.
//! Read next: [`super::lab03_registers`].
#![expect(
    unsafe_code,
    reason = "KVM_SET_USER_MEMORY_REGION lends host memory to the guest"
)]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::Kvm;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::quietly;
use super::tale::{Stop, Tale};
use crate::memory::GuestMemory;

pub(super) const LAB: Lab = Lab {
    name: "memory",
    title: "a machine, and memory for it",
    page: include_str!("../../docs/labs/02-memory.md"),
    linux: false,
    guests: &[],
    variants: &[
        Variant {
            name: "overlap",
            what: "a second slot begins in the middle of the first",
            recognise: "EEXIST: two slots claim one guest-physical address",
        },
        Variant {
            name: "unaligned",
            what: "the slot begins at 0x800, in the middle of a page",
            recognise: "EINVAL from KVM_SET_USER_MEMORY_REGION: an address or the size is no multiple of \
                        4096, or the range wraps",
        },
    ],
    answer: Answer {
        right: &["0x100000", "1 MiB", "1M"],
        why: "the slot maps guest-physical 0 to the piece's first byte, so the byte at 1 MiB of the piece \
              is at 0x100000 for the guest",
    },
    run,
};

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let kvm = quietly(tale, "open", Kvm::new())?;

    // 1. A machine: no memory, no processors, nothing.
    let vm = tale.call("KVM_CREATE_VM", "an empty machine", kvm.create_vm())?;

    // 2. Memory of ours: mmap(2), anonymous and zeroed, on a page boundary. Never unmapped, for the guest
    //    might still use it.
    let memory: &'static GuestMemory = Box::leak(Box::new(GuestMemory::new(2 << 20)?));
    tale.say("mmap: 2 MiB of this process's memory");

    // 3. Lend it.
    let at = if tale.breaks("unaligned") { 0x800 } else { 0 };
    let mut slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: at,
        memory_size: memory.size(),
        userspace_addr: memory.host_range().start,
    };
    // SAFETY: host_range() is mapped for size() bytes, writable, and was leaked: it stays.
    let lent = unsafe { vm.set_user_memory_region(slot) };
    let about = format!("slot 0, guest-physical {at:#x}, 0x200000 bytes, is that memory");
    tale.call("KVM_SET_USER_MEMORY_REGION", &about, lent)?;

    // 4. The same memory again, elsewhere: the guest sees it twice.
    slot.slot = 1;
    slot.guest_phys_addr = if tale.breaks("overlap") {
        0x10_0000
    } else {
        0x1_0000_0000
    };
    // SAFETY: as above.
    let lent = unsafe { vm.set_user_memory_region(slot) };
    let about = format!(
        "slot 1, guest-physical {:#x}, the same again",
        slot.guest_phys_addr
    );
    tale.call("KVM_SET_USER_MEMORY_REGION", &about, lent)?;

    // 5. Take it back: a slot of size 0 is none.
    slot.memory_size = 0;
    // SAFETY: as above; nothing is lent by this call.
    let taken = unsafe { vm.set_user_memory_region(slot) };
    tale.call(
        "KVM_SET_USER_MEMORY_REGION",
        "slot 1 with 0 bytes: it is gone",
        taken,
    )
}
