//! From the bytes of `struct kvm_run` to a plain enum.
//!
//! kvm-ioctls hands out a port access as `size * count` bytes and drops the size, so that one
//! `outl` and four `rep outsb` look the same. A device must tell them apart: the first touches
//! four ports, the second one port four times. Hence our own decoding.
//!
//! Source: `[kvm]` section 5, "The kvm_run structure".
//! Read next: [`super::last`].
#![expect(
    unsafe_code,
    reason = "reads the union in kvm_run that exit_reason selects"
)]

use std::slice;

use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN,
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_debug_exit_arch, kvm_run,
};

use super::last::LastExit;

/// Why the guest stopped, with what is needed to answer.
#[derive(Debug)]
pub enum VmExit<'a> {
    /// `out` or `rep outs`: `data` holds `count` elements of `size` bytes, all for `port`.
    PortOut {
        /// First port.
        port: u16,
        /// Bytes of one element: 1, 2 or 4.
        size: u8,
        /// All elements, oldest first.
        data: &'a [u8],
    },
    /// `in` or `rep ins`: fill `data` with `count` elements of `size` bytes from `port`.
    PortIn {
        /// First port.
        port: u16,
        /// Bytes of one element: 1, 2 or 4.
        size: u8,
        /// To be filled, oldest first.
        data: &'a mut [u8],
    },
    /// A load from an address without RAM: fill `data`.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// 1 to 8 bytes, to be filled.
        data: &'a mut [u8],
    },
    /// A store to an address without RAM.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// 1 to 8 bytes.
        data: &'a [u8],
    },
    /// The guest acknowledged a level-triggered interrupt.
    IoapicEoi {
        /// The interrupt's vector.
        vector: u8,
    },
    /// A signal came for this thread; the guest did nothing wrong.
    Interrupted,
    /// HLT; seen only while no local APIC is in KVM.
    Halt,
    /// What a debugger has asked for with KVM_SET_GUEST_DEBUG: a breakpoint, a step, a watchpoint.
    Debug(kvm_debug_exit_arch),
    /// Triple fault.
    Shutdown,
    /// The processor refused to enter the guest.
    FailedEntry {
        /// The hardware's reason code.
        reason: u64,
        /// The host CPU it happened on.
        cpu: u32,
    },
    /// KVM itself gave up.
    InternalError {
        /// One of KVM_INTERNAL_ERROR_*.
        suberror: u32,
        /// What KVM added, as far as it is valid.
        data: Vec<u64>,
    },
    /// An exit reason cottage asks for nowhere and does not know.
    Unknown {
        /// KVM_EXIT_*.
        reason: u32,
    },
}

/// The exit in short, for the ring of the last ones; its number is given there.
pub(super) fn brief(run: &mut kvm_run, run_size: usize) -> LastExit {
    // SAFETY: with KVM_SYNC_X86_REGS in kvm_valid_regs KVM fills `regs` at each exit, without it they
    // stay zero; every bit pattern is valid.
    let rip = unsafe { run.s.regs.regs.rip };
    let reason = run.exit_reason;
    let mut exit = LastExit {
        rip,
        reason,
        ..LastExit::default()
    };
    let (write, address, data) = match decode(run, run_size) {
        VmExit::PortOut { port, size, data } => {
            exit.size = size;
            (true, u64::from(port), data)
        }
        VmExit::PortIn { port, size, data } => {
            exit.size = size;
            (false, u64::from(port), &*data)
        }
        VmExit::MmioRead { gpa, data } => (false, gpa, &*data),
        VmExit::MmioWrite { gpa, data } => (true, gpa, data),
        VmExit::IoapicEoi { vector } => (false, u64::from(vector), &[][..]),
        VmExit::FailedEntry { reason, .. } => {
            exit.data = reason;
            return exit;
        }
        VmExit::InternalError { suberror, .. } => {
            exit.data = u64::from(suberror);
            return exit;
        }
        _ => return exit,
    };
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    exit.len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    LastExit {
        write,
        address,
        data: u64::from_le_bytes(bytes),
        ..exit
    }
}

/// KVM's name for an internal error.
pub fn internal_error_name(suberror: u32) -> &'static str {
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "KVM cannot emulate the instruction",
        KVM_INTERNAL_ERROR_SIMUL_EX => "exceptions while delivering an exception",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while delivering an event",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an unexpected hardware exit",
        _ => "an error this cottage does not know",
    }
}

/// Decodes the exit that the last KVM_RUN left in `run`, a mapping of `run_size` bytes.
pub(super) fn decode(run: &mut kvm_run, run_size: usize) -> VmExit<'_> {
    match run.exit_reason {
        KVM_EXIT_IO => decode_port(run, run_size),
        KVM_EXIT_MMIO => decode_mmio(run),
        KVM_EXIT_INTR => VmExit::Interrupted,
        KVM_EXIT_HLT => VmExit::Halt,
        KVM_EXIT_SHUTDOWN => VmExit::Shutdown,
        KVM_EXIT_IOAPIC_EOI => {
            // SAFETY: exit_reason KVM_EXIT_IOAPIC_EOI selects `eoi`; every bit pattern is valid.
            let eoi = unsafe { run.__bindgen_anon_1.eoi };
            VmExit::IoapicEoi { vector: eoi.vector }
        }
        KVM_EXIT_DEBUG => {
            // SAFETY: exit_reason KVM_EXIT_DEBUG selects `debug`; every bit pattern is valid.
            let debug = unsafe { run.__bindgen_anon_1.debug };
            VmExit::Debug(debug.arch)
        }
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: exit_reason KVM_EXIT_FAIL_ENTRY selects `fail_entry`; all bits are valid.
            let entry = unsafe { run.__bindgen_anon_1.fail_entry };
            VmExit::FailedEntry {
                reason: entry.hardware_entry_failure_reason,
                cpu: entry.cpu,
            }
        }
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: exit_reason KVM_EXIT_INTERNAL_ERROR selects `internal`; all bits are valid.
            let internal = unsafe { run.__bindgen_anon_1.internal };
            let data = internal
                .data
                .iter()
                .take(internal.ndata as usize)
                .copied()
                .collect();
            VmExit::InternalError {
                suberror: internal.suberror,
                data,
            }
        }
        reason => VmExit::Unknown { reason },
    }
}

fn decode_port(run: &mut kvm_run, run_size: usize) -> VmExit<'_> {
    // SAFETY: exit_reason KVM_EXIT_IO selects `io`; every bit pattern is valid.
    let io = unsafe { run.__bindgen_anon_1.io };
    let len = usize::from(io.size).saturating_mul(io.count as usize);
    let offset = usize::try_from(io.data_offset).unwrap_or(usize::MAX);
    if offset.checked_add(len).is_none_or(|end| end > run_size) {
        // KVM does not do this. Should it ever, the run ends with a report, not with a bad read.
        return VmExit::Unknown {
            reason: KVM_EXIT_IO,
        };
    }
    let start = std::ptr::from_mut(run).cast::<u8>();
    // SAFETY: offset <= run_size, checked above, so the sum stays inside the mapping.
    let data = unsafe { start.add(offset) };
    // SAFETY: 1. data .. data + len is inside the mapping (checked above). 2. It does not overlap
    // the kvm_run structure's fields: KVM puts it into a page of its own. 3. The borrow of `run`
    // keeps the vCPU from running while the slice lives, so nobody else writes it.
    let data = unsafe { slice::from_raw_parts_mut(data, len) };
    if u32::from(io.direction) == KVM_EXIT_IO_OUT {
        VmExit::PortOut {
            port: io.port,
            size: io.size,
            data,
        }
    } else {
        VmExit::PortIn {
            port: io.port,
            size: io.size,
            data,
        }
    }
}

fn decode_mmio(run: &mut kvm_run) -> VmExit<'_> {
    // SAFETY: exit_reason KVM_EXIT_MMIO selects `mmio`; every bit pattern is valid.
    let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
    let len = (mmio.len as usize).min(mmio.data.len());
    let data = mmio.data.split_at_mut(len).0;
    if mmio.is_write == 0 {
        VmExit::MmioRead {
            gpa: mmio.phys_addr,
            data,
        }
    } else {
        VmExit::MmioWrite {
            gpa: mmio.phys_addr,
            data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `kvm_run` with two pages after it, as KVM maps it.
    #[repr(C, align(4096))]
    struct RunArea([u8; 3 * 4096]);

    fn area() -> Box<RunArea> {
        Box::new(RunArea([0; 3 * 4096]))
    }

    fn run_of(area: &mut RunArea) -> &mut kvm_run {
        // SAFETY: the area is page-aligned and larger than kvm_run, all zeroes are a valid one.
        unsafe { &mut *area.0.as_mut_ptr().cast::<kvm_run>() }
    }

    #[test]
    fn rep_outsb_keeps_size_and_count() {
        let mut area = area();
        area.0[4096..4100].copy_from_slice(b"abcd");
        let run = run_of(&mut area);
        run.exit_reason = KVM_EXIT_IO;
        run.__bindgen_anon_1.io.direction = 1;
        run.__bindgen_anon_1.io.size = 1;
        run.__bindgen_anon_1.io.count = 4;
        run.__bindgen_anon_1.io.port = 0x3f8;
        run.__bindgen_anon_1.io.data_offset = 4096;
        match decode(run, 3 * 4096) {
            VmExit::PortOut {
                port: 0x3f8,
                size: 1,
                data,
            } => assert_eq!(data, b"abcd"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn port_data_outside_the_mapping_is_not_touched() {
        let mut area = area();
        let run = run_of(&mut area);
        run.exit_reason = KVM_EXIT_IO;
        run.__bindgen_anon_1.io.size = 4;
        run.__bindgen_anon_1.io.count = u32::MAX;
        run.__bindgen_anon_1.io.data_offset = 4096;
        assert!(matches!(
            decode(run, 3 * 4096),
            VmExit::Unknown {
                reason: KVM_EXIT_IO
            }
        ));
    }

    #[test]
    fn mmio_length_beyond_eight_bytes_is_cut() {
        let mut area = area();
        let run = run_of(&mut area);
        run.exit_reason = KVM_EXIT_MMIO;
        run.__bindgen_anon_1.mmio.len = 200;
        run.__bindgen_anon_1.mmio.is_write = 1;
        match decode(run, 3 * 4096) {
            VmExit::MmioWrite { data, .. } => assert_eq!(data.len(), 8),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn internal_error_count_beyond_the_array_is_cut() {
        let mut area = area();
        let run = run_of(&mut area);
        run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
        run.__bindgen_anon_1.internal.ndata = 1000;
        match decode(run, 3 * 4096) {
            VmExit::InternalError { data, .. } => assert_eq!(data.len(), 16),
            other => panic!("{other:?}"),
        }
    }
}
