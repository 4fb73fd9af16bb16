//! Model-specific registers a guest expects firmware to have set.
//!
//! Sources: `[sdm4]` Intel SDM vol. 4, order no. 335592; `[sdm3]` vol. 3A, 11.11 (MTRRs).
//! Read next: [`super::identity`].

use kvm_bindings::{Msrs, kvm_msr_entry};

/// IA32_MISC_ENABLE; bit 0 turns fast string operations on. [sdm4] table 2-2
const MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1 << 0;
/// IA32_MTRR_DEF_TYPE: bit 11 enables MTRRs, the type in bits 7:0 is write-back. Left at zero,
/// Linux takes all memory for uncacheable. [sdm3] 11.11.2.1
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;

/// What to set on every processor.
pub fn entries() -> [kvm_msr_entry; 2] {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    [
        entry(MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
        // Last, because KVM stops at the first it refuses: some back ends refuse this one, and a
        // guest lives without it.
        entry(MISC_ENABLE, MISC_ENABLE_FAST_STRING),
    ]
}

/// The same, as KVM_SET_MSRS takes it.
pub fn list() -> Option<Msrs> {
    Msrs::from_entries(&entries()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtrr_default_is_enabled_write_back() {
        assert_eq!(entries()[0].data, 0x806);
    }
}
