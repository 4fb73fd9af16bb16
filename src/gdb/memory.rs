//! Guest memory as gdb wants to see it: by address, and without our breakpoints.
//!
//! An address leads through the page tables of the vCPU that gdb looks at ([`crate::watch::paging`]), rights aside. The
//! text of a Linux is there before its page tables are: an address that leads nowhere yet is looked for
//! where Linux is going to map it from, so that `break start_kernel` works at the first instruction.
//!
//! Sources: `[mm]` Linux `Documentation/arch/x86/x86_64/mm.rst`, v6.12.
//! Read next: [`super::debugger`].

use vm_memory::GuestAddress;

use super::plan::{MAX_SOFTWARE, Plan, Planted};
use crate::memory::GuestMemory;
pub use crate::watch::paging::walk_memory as walk;
use crate::watch::paging::{End, Walk};

/// Where Linux maps its image, from physical address 0, and how much. `[mm]` "kernel text mapping"
const IMAGE: u64 = 0xffff_ffff_8000_0000;
const IMAGE_SIZE: u64 = 512 << 20; // 512 MiB
/// What one page table entry maps at least.
pub const PAGE: u64 = 4 << 10; // 4 KiB

/// An entry for programs, too. `[sdm3]` table 4-20
const USER: u64 = 1 << 2;

/// Where it ends.
pub fn end_of(walk: &Walk) -> Option<u64> {
    match walk.end {
        End::Mapped(gpa) => Some(gpa),
        _ => None,
    }
}

/// Whether programs may use what it leads to.
pub fn is_user(walk: &Walk) -> bool {
    let all = walk.steps.iter().all(|step| step.entry.raw & USER != 0);
    all && !walk.steps.is_empty()
}

/// Where `linear` is, if the guest's page tables lead to `walked`; `None` for what is no RAM.
pub fn locate(memory: &GuestMemory, linear: u64, walked: Option<u64>) -> Option<u64> {
    let is_ram = |gpa: &u64| memory.check(GuestAddress(*gpa), 1).is_ok();
    walked.filter(is_ram).or_else(|| {
        let gpa = linear.checked_sub(IMAGE)?;
        (gpa < IMAGE_SIZE).then_some(gpa).filter(is_ram)
    })
}

/// Bytes up to the end of the page.
pub fn in_page(at: u64, len: usize) -> usize {
    let left = PAGE - at % PAGE;
    usize::try_from(left).map_or(len, |left| left.min(len))
}

/// Reads what the guest has at `gpa`, where breakpoints may stand in front of it; false if it is no RAM.
pub fn read(memory: &GuestMemory, plan: &Plan, gpa: u64, data: &mut [u8]) -> bool {
    if memory.read(GuestAddress(gpa), data).is_err() {
        return false;
    }
    for planted in plan.software.values() {
        let byte = planted
            .gpa
            .checked_sub(gpa)
            .and_then(|at| data.get_mut(usize::try_from(at).ok()?));
        if let Some(byte) = byte {
            *byte = planted.original;
        }
    }
    true
}

/// Writes there, behind breakpoints that stand in front of it; false if it is no RAM.
pub fn write(memory: &GuestMemory, plan: &mut Plan, gpa: u64, data: &[u8]) -> bool {
    let mut data = data.to_vec();
    let trap = plan.able.trap.map(super::able::Trap::byte);
    for planted in plan.software.values_mut() {
        let byte = planted
            .gpa
            .checked_sub(gpa)
            .and_then(|at| data.get_mut(usize::try_from(at).ok()?));
        if let (Some(byte), Some(trap)) = (byte, trap) {
            planted.original = *byte;
            *byte = trap;
        }
    }
    memory.write(GuestAddress(gpa), &data).is_ok()
}

/// Writes a breakpoint's instruction at `linear`, which is at `gpa`; false if that cannot be.
pub fn plant(memory: &GuestMemory, plan: &mut Plan, linear: u64, gpa: u64) -> bool {
    let Some(trap) = plan.able.trap else {
        return false;
    };
    if plan.software.contains_key(&linear) {
        return true;
    }
    let mut original = [0];
    if plan.software.len() >= MAX_SOFTWARE || !read(memory, plan, gpa, &mut original) {
        return false;
    }
    let [original] = original;
    plan.software.insert(linear, Planted { gpa, original });
    memory.write(GuestAddress(gpa), &[trap.byte()]).is_ok()
}

/// Puts the guest's byte back; false if there was no breakpoint.
///
/// Only over our own: a guest that has replaced its code meanwhile, as Linux does with alternatives and
/// static keys, keeps its new byte.
pub fn pull(memory: &GuestMemory, plan: &mut Plan, linear: u64) -> bool {
    let Some(planted) = plan.software.remove(&linear) else {
        return false;
    };
    // Two linear addresses may lead to one byte.
    if let Some(other) = plan
        .software
        .values()
        .find(|other| other.gpa == planted.gpa)
    {
        return other.gpa == planted.gpa;
    }
    let mut byte = [0];
    let is_ours = memory.read(GuestAddress(planted.gpa), &mut byte).is_ok()
        && plan.able.trap.is_some_and(|trap| byte == [trap.byte()]);
    if is_ours {
        // It was read there a moment ago.
        let _is_ram = memory.write(GuestAddress(planted.gpa), &[planted.original]);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gdb::able::{Able, Trap};

    fn plan() -> Plan {
        Plan::new(Able {
            trap: Some(Trap::Int3),
            hardware: false,
            watch: false,
            step: true,
            step_alone: false,
        })
    }

    fn byte(memory: &GuestMemory, gpa: u64) -> u8 {
        let mut byte = [0];
        memory.read(GuestAddress(gpa), &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn linux_text_is_found_before_it_is_mapped() {
        let memory = GuestMemory::new(32 << 20).unwrap();
        let text = 0xffff_ffff_8100_0000;
        assert_eq!(locate(&memory, text, None), Some(0x100_0000));
        // Without paging a walk leads to the address itself.
        assert_eq!(locate(&memory, text, Some(text)), Some(0x100_0000));
        assert_eq!(locate(&memory, text, Some(0x20_0000)), Some(0x20_0000));
        assert_eq!(locate(&memory, 0xffff_ffff_8300_0000, None), None);
        assert_eq!(locate(&memory, 0x1000, None), None);
    }

    #[test]
    fn breakpoints_are_invisible_and_leave_nothing() {
        let (memory, mut plan) = (GuestMemory::new(2 << 20).unwrap(), plan());
        memory.write(GuestAddress(0x1000), b"abcd").unwrap();
        assert!(plant(&memory, &mut plan, 0x5001, 0x1001));
        assert_eq!(byte(&memory, 0x1001), 0xcc);
        let mut seen = [0; 4];
        assert!(read(&memory, &plan, 0x1000, &mut seen));
        assert_eq!(&seen, b"abcd");

        assert!(write(&memory, &mut plan, 0x1000, b"ABCD"));
        assert_eq!(byte(&memory, 0x1001), 0xcc);
        assert!(pull(&memory, &mut plan, 0x5001));
        assert_eq!(byte(&memory, 0x1001), b'B');
        assert!(!pull(&memory, &mut plan, 0x5001));
    }

    #[test]
    fn code_that_the_guest_replaced_stays_replaced() {
        let (memory, mut plan) = (GuestMemory::new(2 << 20).unwrap(), plan());
        assert!(plant(&memory, &mut plan, 0x1000, 0x1000));
        memory.write(GuestAddress(0x1000), &[0x0f]).unwrap();
        assert!(pull(&memory, &mut plan, 0x1000));
        assert_eq!(byte(&memory, 0x1000), 0x0f);
    }

    #[test]
    fn two_addresses_of_one_byte_give_it_back_once_both_are_gone() {
        let (memory, mut plan) = (GuestMemory::new(2 << 20).unwrap(), plan());
        memory.write(GuestAddress(0x1000), b"a").unwrap();
        assert!(plant(&memory, &mut plan, 0x1000, 0x1000));
        assert!(plant(&memory, &mut plan, 0x9000, 0x1000));
        assert!(pull(&memory, &mut plan, 0x1000));
        assert_eq!(byte(&memory, 0x1000), 0xcc);
        assert!(pull(&memory, &mut plan, 0x9000));
        assert_eq!(byte(&memory, 0x1000), b'a');
    }

    #[test]
    fn nothing_is_planted_where_no_ram_is() {
        let (memory, mut plan) = (GuestMemory::new(2 << 20).unwrap(), plan());
        assert!(!plant(&memory, &mut plan, 0x1000, 4 << 20));
        assert!(plan.software.is_empty());
        assert!(!read(&memory, &plan, (2 << 20) - 1, &mut [0; 2]));
    }
}
