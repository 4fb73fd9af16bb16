//! What KVM is asked, and what came back; exits that no device answers; what lies where: in words.
//!
//! Source: `[kvm]` Linux `Documentation/virt/kvm/api.rst`, v6.12, section 4.
//! Read next: [`super::place`].

use std::io;

use kvm_bindings::{KVM_MEM_READONLY, kvm_regs, kvm_sregs, kvm_userspace_memory_region};

use super::ioapic::{IoApic, message, wire};
use crate::kvm::call::{Call, Ioctl};
use crate::kvm::{VmExit, internal_error_name};
use crate::watch::Placed;

/// What a call asks for.
pub fn words(call: &Call<'_>) -> String {
    let of = call.vcpu.map_or(String::new(), |id| format!("vCPU {id}: "));
    let text = match &call.ioctl {
        Ioctl::Open => "the host's KVM, a file descriptor to ask it things".to_owned(),
        Ioctl::ApiVersion => "12 since Linux 2.6.22".to_owned(),
        Ioctl::MaxVcpus => "how many processors may a machine have".to_owned(),
        Ioctl::HasTscDeadline => "can a local APIC's timer fire at a TSC value".to_owned(),
        Ioctl::CreateVm => "a machine: no memory, no processors, no interrupts yet".to_owned(),
        Ioctl::SupportedCpuid => "what this host can let a guest see of its processor".to_owned(),
        Ioctl::SetMemoryRegion(region) => slot(region),
        Ioctl::SetIdentityMap(at) => {
            format!("a page at {at:#x}, for Intel processors in real mode")
        }
        Ioctl::SetTss(at) => format!("three pages at {at:#x}, for the same"),
        Ioctl::SplitIrqchip { pins } => {
            format!("local APICs in KVM, the I/O APIC and its {pins} pins in cottage")
        }
        Ioctl::CreateIrqchip => "local APICs, I/O APIC and two PICs, in KVM".to_owned(),
        Ioctl::CreatePit => "an interval timer, in KVM".to_owned(),
        Ioctl::CreateVcpu(id) => format!("processor {id}, and its local APIC"),
        Ioctl::SignalMsi { address, data } => {
            let (vector, to) = message(*address, *data);
            format!("vector {vector:#04x} to {to}")
        }
        Ioctl::IrqLine { gsi, high } => {
            let level = if *high { "high" } else { "low" };
            format!("pin {gsi} ({}) goes {level}", wire(*gsi))
        }
        Ioctl::SetCpuid(cpuid) => format!(
            "{} entries: what the CPUID instruction answers",
            cpuid.as_slice().len()
        ),
        Ioctl::SetMsrs(msrs) => {
            let numbers = msrs
                .as_slice()
                .iter()
                .map(|msr| format!("{:#x}", msr.index));
            format!(
                "model-specific registers {}",
                numbers.collect::<Vec<_>>().join(", ")
            )
        }
        Ioctl::GetRegs => "the general registers".to_owned(),
        Ioctl::SetRegs(regs) => general(regs),
        Ioctl::GetSregs => "segments, control registers, tables".to_owned(),
        Ioctl::SetSregs(sregs) => special(sregs),
        Ioctl::Asked(_) => "asked by who looks on".to_owned(),
        Ioctl::Run => "into the guest".to_owned(),
    };
    of + &text
}

/// What came back.
pub fn result(call: &Call<'_>) -> String {
    match (call.result, &call.ioctl) {
        (Err(errno), _) => format!("refused: {}", io::Error::from_raw_os_error(errno)),
        (Ok(Some(1)), Ioctl::SignalMsi { .. }) => "delivered".to_owned(),
        (Ok(Some(0)), Ioctl::SignalMsi { .. }) => "nobody takes it".to_owned(),
        (Ok(Some(0)), Ioctl::HasTscDeadline) => "no".to_owned(),
        (Ok(Some(1)), Ioctl::HasTscDeadline) => "yes".to_owned(),
        (Ok(Some(count)), Ioctl::SupportedCpuid) => format!("{count} entries"),
        (Ok(Some(number)), _) => number.to_string(),
        (Ok(None), _) => "ok".to_owned(),
    }
}

/// An interrupt with the pin it is from, if `call` is one.
pub fn interrupt(call: &Call<'_>, ioapic: &IoApic) -> Option<String> {
    let text = match &call.ioctl {
        Ioctl::SignalMsi { address, data } => {
            let (vector, _) = message(*address, *data);
            let from = ioapic.pin_of(vector);
            from.map_or(String::new(), |pin| format!("pin {pin} ({}): ", wire(pin)))
        }
        Ioctl::IrqLine { .. } => String::new(),
        _ => return None,
    };
    let name = call.ioctl.name();
    Some(format!("{text}{}, {} ({name})", words(call), result(call)))
}

fn slot(region: &kvm_userspace_memory_region) -> String {
    let (start, len) = (region.guest_phys_addr, region.memory_size);
    let end = start.saturating_add(len);
    let read_only = if region.flags & KVM_MEM_READONLY == 0 {
        ""
    } else {
        ", read only"
    };
    format!(
        "slot {}: guest {start:#x}..{end:#x} ({}) is host memory {:#x}{read_only}",
        region.slot,
        size(len),
        region.userspace_addr
    )
}

/// A length in the largest unit that leaves no rest.
pub fn size(len: u64) -> String {
    match len {
        len if len >= 1 << 20 && len.is_multiple_of(1 << 20) => format!("{} MiB", len >> 20),
        len if len >= 1 << 10 && len.is_multiple_of(1 << 10) => format!("{} KiB", len >> 10),
        len => format!("{len} bytes"),
    }
}

fn general(regs: &kvm_regs) -> String {
    let named = [
        ("RAX", regs.rax),
        ("RBX", regs.rbx),
        ("RSI", regs.rsi),
        ("RSP", regs.rsp),
    ];
    let set = named.iter().filter(|(_, value)| *value != 0);
    let others: String = set
        .map(|(name, value)| format!(", {name} {value:#x}"))
        .collect();
    format!("RIP {:#x}{others}, RFLAGS {:#x}", regs.rip, regs.rflags)
}

fn special(sregs: &kvm_sregs) -> String {
    let mode = match (sregs.cr0 & 1, sregs.efer >> 10 & 1, sregs.cs.l) {
        (0, ..) => "real mode",
        (_, 1, 1) => "64-bit mode",
        (_, 1, _) => "compatibility mode",
        _ => "protected mode",
    };
    let paging = if sregs.cr0 >> 31 & 1 == 0 {
        "no paging".to_owned()
    } else {
        format!("page tables at {:#x}", sregs.cr3)
    };
    format!(
        "{mode}, {paging}, CS {:#x}, GDT at {:#x}, CR0 {:#x}, CR4 {:#x}, EFER {:#x}",
        sregs.cs.selector, sregs.gdt.base, sregs.cr0, sregs.cr4, sregs.efer
    )
}

/// Exits that are no access to a device.
pub fn other_exit(exit: &VmExit<'_>) -> (&'static str, String) {
    match exit {
        VmExit::Interrupted => (
            "interrupted",
            "a signal for this processor's thread, on the host".to_owned(),
        ),
        VmExit::IoapicEoi { vector } => (
            "eoi",
            format!("the guest is done with vector {vector:#04x}"),
        ),
        VmExit::Halt => ("hlt", "the processor waits for an interrupt".to_owned()),
        VmExit::Debug(_) => ("debug", "a breakpoint or a step".to_owned()),
        VmExit::Shutdown => (
            "shutdown",
            "triple fault: an exception while delivering one while delivering one".to_owned(),
        ),
        VmExit::FailedEntry { reason, .. } => (
            "failed entry",
            format!("the processor refuses the guest's state, reason {reason:#x}"),
        ),
        VmExit::InternalError { suberror, .. } => {
            ("internal error", internal_error_name(*suberror).to_owned())
        }
        VmExit::Unknown { reason } => ("unknown exit", format!("KVM's exit reason {reason}")),
        _ => ("exit", String::new()),
    }
}

/// What lies where.
pub fn placed(placed: &Placed<'_>) -> String {
    let Placed {
        what,
        at,
        len,
        more,
    } = placed;
    let range = if *len == 0 {
        format!("{at:#x}")
    } else {
        format!("{at:#x}..{:#x} ({})", at.saturating_add(*len), size(*len))
    };
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(": {more}")
    };
    format!("{what} at {range}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(ioctl: Ioctl<'_>, result: Result<Option<i64>, i32>) -> Call<'_> {
        Call {
            vcpu: None,
            ioctl,
            since: 1,
            until: 2,
            result,
        }
    }

    #[test]
    fn a_memory_slot_has_both_addresses_and_its_size() {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: 0,
            memory_size: 256 << 20,
            userspace_addr: 0x7f00_0000_0000,
        };
        assert_eq!(
            words(&call(Ioctl::SetMemoryRegion(&region), Ok(Some(0)))),
            "slot 0: guest 0x0..0x10000000 (256 MiB) is host memory 0x7f0000000000, read only"
        );
    }

    #[test]
    fn refusals_have_the_hosts_words() {
        let text = result(&call(Ioctl::CreateVm, Err(libc::EBUSY)));
        assert!(text.contains("busy"), "{text}");
    }

    #[test]
    fn an_interrupt_names_the_pin_whose_vector_it_has() {
        let msi = Ioctl::SignalMsi {
            address: 0xfee0_0000,
            data: 0x24,
        };
        let said = interrupt(&call(msi, Ok(Some(1))), &IoApic::default()).unwrap();
        assert_eq!(said, "vector 0x24 to CPU 0, delivered (KVM_SIGNAL_MSI)");
        assert_eq!(
            interrupt(&call(Ioctl::Open, Ok(None)), &IoApic::default()),
            None
        );
    }
}
