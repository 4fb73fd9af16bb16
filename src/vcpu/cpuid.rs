//! What the CPUID instruction tells the guest.
//!
//! The start is what KVM supports on this host; the guest thus sees the host's processor. Changed
//! is only what must be true of *this* machine: who and how many the processors are, that there
//! is a hypervisor, and two things KVM's list gets wrong on some hosts.
//!
//! Pure: a list in, a list out. On a software back end KVM may override some leaves.
//! Sources: `[sdm2]` Intel SDM vol. 2A, order no. 253666, CPUID; `[apm3]` AMD APM vol. 3, no.
//! 24594, appendix E; `[kvm]` Linux `Documentation/virt/kvm/api.rst`, KVM_GET_SUPPORTED_CPUID.
//! Read next: [`super::msr`].

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

// Leaf 1. [sdm2] table 3-8
const FEATURES: u32 = 0x1;
const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
const FEATURES_ECX_XSAVE: u32 = 1 << 26;
const FEATURES_ECX_HYPERVISOR: u32 = 1 << 31;
const FEATURES_EDX_HTT: u32 = 1 << 28;
/// Deterministic cache parameters; EAX tells who shares each cache.
const CACHES: u32 = 0x4;
/// Extended topology, and its second version.
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const TOPOLOGY_LEVEL_SMT: u32 = 1 << 8;
const TOPOLOGY_LEVEL_CORE: u32 = 2 << 8;
/// First leaf of a hypervisor: its signature in EBX, ECX, EDX.
const HYPERVISOR: u32 = 0x4000_0000;
/// EAX bits 7:0: width of physical addresses. AMD: in ECX, number of cores.
const SIZES: u32 = 0x8000_0008;
/// AMD: topology.
const AMD_TOPOLOGY: u32 = 0x8000_001e;
/// AMD: cache parameters, laid out as Intel's leaf 4.
const AMD_CACHES: u32 = 0x8000_001d;

/// Facts about the machine that CPUID must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Number of processors.
    pub vcpus: u32,
    /// The local APIC's timer has a TSC-deadline mode.
    pub tsc_deadline: bool,
    /// The host's processor is emulated by QEMU.
    pub host_is_tcg: bool,
}

/// What all processors share; call [`for_vcpu`] for each.
pub fn for_machine(mut cpuid: CpuId, machine: Machine) -> CpuId {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            FEATURES => {
                entry.ecx |= FEATURES_ECX_HYPERVISOR;
                if machine.tsc_deadline {
                    // KVM leaves it out of its list where it emulates the timer in full, and
                    // Linux then waits to calibrate the APIC timer. [kvm] tells VMMs to ask
                    // KVM_CAP_TSC_DEADLINE_TIMER instead.
                    entry.ecx |= FEATURES_ECX_TSC_DEADLINE;
                }
                if machine.host_is_tcg {
                    // QEMU's emulated SVM lets a guest's XSETBV pass KVM by. KVM then reports a
                    // wrong size in leaf 0xd, and Linux prints a warning and a dump. Without
                    // XSAVE it uses FXSAVE and no AVX.
                    entry.ecx &= !FEATURES_ECX_XSAVE;
                }
                entry.ebx = entry.ebx & 0xff00_ffff | machine.vcpus.min(0xff) << 16;
                entry.edx &= !FEATURES_EDX_HTT;
                if machine.vcpus > 1 {
                    entry.edx |= FEATURES_EDX_HTT;
                }
            }
            // A processor of ours is a core with caches of its own: bits 25:14 sharers less one,
            // bits 31:26 cores in the package less one.
            CACHES if entry.eax & 0x1f != 0 => {
                entry.eax = entry.eax & 0x3fff | (machine.vcpus - 1).min(0x3f) << 26;
            }
            AMD_CACHES if entry.eax & 0x1f != 0 => entry.eax &= 0x3fff,
            // Bits 7:0 cores less one, bits 15:12 bits of the APIC id that number them.
            SIZES => {
                let cores = (machine.vcpus - 1).min(0xff);
                entry.ecx = entry.ecx & !0xf0ff | cores | id_bits(machine.vcpus).min(0xf) << 12;
            }
            _ => {}
        }
    }
    with_topology_levels(&cpuid, machine.vcpus)
}

/// Makes the host's topology leaves describe one package of single-thread cores.
fn with_topology_levels(cpuid: &CpuId, vcpus: u32) -> CpuId {
    let is_topology = |function| function == TOPOLOGY || function == TOPOLOGY_V2;
    let old = cpuid.as_slice();
    let mut entries: Vec<_> = old
        .iter()
        .filter(|e| !is_topology(e.function))
        .copied()
        .collect();
    let max_leaf = old.iter().find(|e| e.function == 0).map_or(0, |e| e.eax);
    for function in [TOPOLOGY, TOPOLOGY_V2] {
        if function <= max_leaf {
            let level = |index, bits, count, kind| kvm_cpuid_entry2 {
                function,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: bits,
                ebx: count,
                ecx: kind | index,
                ..Default::default()
            };
            entries.push(level(0, 0, 1, TOPOLOGY_LEVEL_SMT));
            entries.push(level(1, id_bits(vcpus), vcpus, TOPOLOGY_LEVEL_CORE));
            entries.push(level(2, 0, 0, 0));
        }
    }
    // Fails only beyond KVM's own limit of entries; then the host's topology is the better guess.
    CpuId::from_entries(&entries).unwrap_or_else(|_too_many| cpuid.clone())
}

/// The list for processor `id`, whose local APIC has the same number.
pub fn for_vcpu(cpuid: &mut CpuId, id: u32) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            FEATURES => entry.ebx = entry.ebx & 0x00ff_ffff | (id & 0xff) << 24,
            TOPOLOGY | TOPOLOGY_V2 => entry.edx = id,
            AMD_TOPOLOGY => {
                entry.eax = id;
                entry.ebx = id & 0xff; // core number, one thread a core
                entry.ecx = 0; // one node
            }
            _ => {}
        }
    }
}

/// Bits of a guest-physical address, as far as `supported`, KVM's list, tells.
pub fn address_bits(supported: &CpuId) -> u32 {
    /// [sdm2] leaf 0x80000008: what a processor without the leaf has.
    const DEFAULT: u32 = 36;
    let entries = supported.as_slice();
    let sizes = entries.iter().find(|entry| entry.function == SIZES);
    sizes.map_or(DEFAULT, |entry| entry.eax & 0xff)
}

/// Bits that number `count` things.
fn id_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// Whether the processor this host has is QEMU's translator, by the hypervisor leaf it shows.
pub fn host_is_tcg() -> bool {
    let leaf = std::arch::x86_64::__cpuid(HYPERVISOR);
    [leaf.ebx, leaf.ecx, leaf.edx]
        .map(u32::to_le_bytes)
        .as_flattened()
        == b"TCGTCGTCGTCG"
}

/// Whether KVM runs on Intel's VMX, where it wants two places in guest memory for itself.
///
/// `[sdm2]` CPUID leaf 1, ECX bit 5. AMD's processors do not have it, nor has a host whose KVM is
/// software.
pub fn has_vmx() -> bool {
    std::arch::x86_64::__cpuid(1).ecx & (1 << 5) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    fn host() -> CpuId {
        CpuId::from_entries(&[
            entry(0, 0, [0x1f, 0, 0, 0]),
            entry(
                FEATURES,
                0,
                [0, 0x1234_5678, FEATURES_ECX_XSAVE, FEATURES_EDX_HTT],
            ),
            entry(CACHES, 0, [0xffff_c121, 0, 0, 0]),
            entry(CACHES, 1, [0, 0, 0, 0]),
            entry(TOPOLOGY, 0, [1, 2, 0x100, 9]),
            entry(SIZES, 0, [0x3030, 0, 0x0000_7007, 0]),
            entry(AMD_TOPOLOGY, 0, [99, 0x0101, 0x0100, 0]),
        ])
        .unwrap()
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    fn machine(vcpus: u32) -> CpuId {
        for_machine(
            host(),
            Machine {
                vcpus,
                tsc_deadline: true,
                host_is_tcg: false,
            },
        )
    }

    #[test]
    fn guest_sees_a_hypervisor_and_the_deadline_timer() {
        let features = leaf(&machine(1), FEATURES, 0);
        assert_eq!(
            features.ecx & (FEATURES_ECX_HYPERVISOR | FEATURES_ECX_TSC_DEADLINE),
            0x8100_0000
        );
        let without = for_machine(
            host(),
            Machine {
                vcpus: 1,
                tsc_deadline: false,
                host_is_tcg: false,
            },
        );
        assert_eq!(
            leaf(&without, FEATURES, 0).ecx & FEATURES_ECX_TSC_DEADLINE,
            0
        );
    }

    #[test]
    fn apic_id_stands_in_all_its_places() {
        let mut cpuid = machine(4);
        for_vcpu(&mut cpuid, 3);
        assert_eq!(leaf(&cpuid, FEATURES, 0).ebx, 0x0304_5678);
        assert_eq!(leaf(&cpuid, TOPOLOGY, 0).edx, 3);
        assert_eq!(leaf(&cpuid, TOPOLOGY_V2, 1).edx, 3);
        assert_eq!(leaf(&cpuid, AMD_TOPOLOGY, 0).eax, 3);
    }

    #[test]
    fn topology_is_one_package_of_single_thread_cores() {
        let cpuid = machine(5);
        let (smt, core) = (leaf(&cpuid, TOPOLOGY, 0), leaf(&cpuid, TOPOLOGY, 1));
        assert_eq!((smt.eax, smt.ebx, smt.ecx), (0, 1, 0x100));
        assert_eq!((core.eax, core.ebx, core.ecx), (3, 5, 0x201));
        assert_eq!(leaf(&cpuid, SIZES, 0).ecx, 0x3004);
        assert_eq!(leaf(&cpuid, CACHES, 0).eax, 4 << 26 | 0x0121);
        assert_eq!(
            leaf(&cpuid, CACHES, 1).eax,
            0,
            "the end of the cache list stays the end"
        );
    }

    #[test]
    fn address_width_is_that_of_the_host_or_36_bits() {
        assert_eq!(address_bits(&host()), 0x30);
        let old = CpuId::from_entries(&[entry(0, 0, [1, 0, 0, 0])]).unwrap();
        assert_eq!(address_bits(&old), 36);
    }

    #[test]
    fn one_processor_has_no_hyper_threading() {
        assert_eq!(leaf(&machine(1), FEATURES, 0).edx & FEATURES_EDX_HTT, 0);
        assert_eq!(
            leaf(&machine(2), FEATURES, 0).edx & FEATURES_EDX_HTT,
            FEATURES_EDX_HTT
        );
    }

    #[test]
    fn xsave_is_hidden_only_on_an_emulated_host() {
        assert_ne!(leaf(&machine(1), FEATURES, 0).ecx & FEATURES_ECX_XSAVE, 0);
        let emulated = Machine {
            vcpus: 1,
            tsc_deadline: true,
            host_is_tcg: true,
        };
        let cpuid = for_machine(host(), emulated);
        assert_eq!(leaf(&cpuid, FEATURES, 0).ecx & FEATURES_ECX_XSAVE, 0);
    }
}
