//! Names of the bits of a capability set.
//!
//! Source: Linux v6.12, include/uapi/linux/capability.h.

/// From bit 0 on, without `CAP_` before each.
const NAMES: &str = "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap \
    linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner \
    sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice \
    sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap \
    mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf \
    checkpoint_restore";

/// The names in the set that `/proc/PID/status` writes as `hex`; bits without a name are left out.
pub fn names(hex: &[u8]) -> impl Iterator<Item = &'static str> {
    let set = super::fields::hexadecimal(hex).unwrap_or(0);
    NAMES
        .split_ascii_whitespace()
        .enumerate()
        .filter(move |(bit, _)| set >> bit & 1 == 1)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_the_names_of_the_header() {
        let of = |hex: &[u8]| names(hex).collect::<Vec<_>>();
        assert_eq!(of(b"0000000000000001"), ["chown"]);
        assert_eq!(of(b"0000000000200000"), ["sys_admin"]);
        assert_eq!(of(b"0000010000000000"), ["checkpoint_restore"]);
        assert_eq!(of(b"000001ffffffffff").len(), 41);
        assert_eq!(of(b"fffffe0000000000"), [""; 0]);
    }

    #[test]
    fn dockers_default_set_has_fourteen() {
        assert_eq!(names(b"00000000a80425fb").count(), 14);
    }
}
