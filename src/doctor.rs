//! Chapter 10: whether this host can run guests (being written).

/// `cottage doctor`.
pub fn main() -> u8 {
    0
}

/// Advice on a refusal of KVM's.
pub fn explain(_error: &crate::kvm::Error) -> String {
    String::new()
}
