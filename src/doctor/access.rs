//! Why KVM refuses us: `/dev/kvm` does not open, or no VM can be created.
//!
//! One function per refusal, from facts and an errno to a [`Finding`] with the command that
//! helps. Called by [`mod@super::diagnose`] for the report and by [`super::explain`] when a run
//! stops. Pure.
//!
//! Sources: open(2), group(5), udev(7); `[kvm]` Linux `virt/kvm/kvm_main.c`, v6.12;
//! `[feat]` `arch/x86/kernel/cpu/feat_ctl.c`, which hides `vmx` where firmware switched it off.
//! Read next: [`super::report`].

use std::io;

use super::facts::{Device, Facts};
use super::report::{ELSEWHERE, Finding, Level};

/// The group id that a user namespace shows for groups it does not know.
const UNMAPPED_GID: u32 = 65534;
/// Read and write for the group.
const GROUP_READ_WRITE: u32 = 0o060;
/// Read and write for everybody.
const OTHERS_READ_WRITE: u32 = 0o006;

/// Says why `/dev/kvm` did not open, which failed with `errno`.
pub fn open_refused(facts: &Facts, errno: i32) -> Finding {
    match errno {
        libc::ENOENT => absent(facts),
        libc::EACCES | libc::EPERM => forbidden(facts),
        // A node without a driver behind it: systemd makes the node before the module is there.
        libc::ENODEV | libc::ENXIO => {
            let detail = "the node is there, but no KVM module answers";
            driver_missing(facts, "/dev/kvm leads nowhere", detail)
        }
        libc::EBUSY => busy(),
        libc::EMFILE | libc::ENFILE => problem(
            "No file descriptors left",
            "/dev/kvm cannot be opened while the process or the system is at its limit",
        )
        .remedy("raise the limit: ulimit -n 1024"),
        _ => problem("/dev/kvm does not open", &error_text(errno))
            .remedy("look for kvm in the host kernel's log: sudo dmesg | grep -i kvm"),
    }
}

/// Says why no VM could be created, which failed with `errno`.
pub fn vm_refused(facts: &Facts, errno: i32) -> Finding {
    match errno {
        libc::EBUSY => busy(),
        libc::EIO | libc::EOPNOTSUPP | libc::ENODEV => problem(
            "The processor refuses to virtualize",
            &format!("KVM opens, but creating a VM fails: {}", error_text(errno)),
        )
        .remedy(firmware_or_nesting(facts)),
        libc::ENOMEM => problem(
            "No memory for a VM",
            "the host kernel cannot allocate what a VM needs, or a cgroup limit is reached",
        )
        .remedy("free memory, or raise the memory limit of this container or service"),
        libc::EMFILE | libc::ENFILE => problem(
            "No file descriptors left",
            "a VM is a file descriptor, and the limit is reached",
        )
        .remedy("raise the limit: ulimit -n 1024"),
        libc::EACCES | libc::EPERM => problem(
            "A security policy forbids VMs",
            "/dev/kvm opens, but KVM_CREATE_VM is not permitted",
        )
        .remedy(
            "look for a seccomp filter, SELinux or AppArmor denial: sudo dmesg | grep -i denied",
        ),
        libc::ENOTTY | libc::EINVAL => problem(
            "/dev/kvm does not behave like KVM",
            &format!("creating a VM fails: {}", error_text(errno)),
        )
        .remedy("check what the node is: ls -l /dev/kvm must show 10, 232"),
        _ => problem("No VM can be created", &error_text(errno))
            .remedy("look for kvm in the host kernel's log: sudo dmesg | grep -i kvm"),
    }
}

/// Another hypervisor uses the processor's virtualization; only one can. `[kvm]`
fn busy() -> Finding {
    problem(
        "Another hypervisor holds the processor",
        "VirtualBox or VMware runs a VM, and they do not share the processor with KVM (EBUSY)",
    )
    .remedy(
        "stop their VMs, then unload their modules, such as: sudo modprobe -r vboxnetadp \
         vboxnetflt vboxdrv",
    )
}

/// No node.
fn absent(facts: &Facts) -> Finding {
    if let Some(container) = facts.container {
        let detail =
            format!("this is a container ({container}), and it was started without the device");
        return problem("This container has no /dev/kvm", &detail).remedy(
            "start it with --device /dev/kvm; if the host has none, run cottage doctor there",
        );
    }
    if facts.modules.intel || facts.modules.amd || facts.modules.pvm {
        let detail = "a KVM module is loaded, but nobody made the node";
        return problem("There is no /dev/kvm", detail)
            .remedy("sudo mknod -m 660 /dev/kvm c 10 232; sudo chgrp kvm /dev/kvm");
    }
    driver_missing(facts, "There is no /dev/kvm", "no KVM module is loaded")
}

/// The kernel has no KVM driver at work, and the processor's flags tell why.
fn driver_missing(facts: &Facts, what: &str, detail: &str) -> Finding {
    if facts.cpu.virtualizes() {
        let module = facts.cpu.module();
        return problem(
            what,
            &format!("{detail}, though the processor can virtualize"),
        )
        .remedy(format!(
            "sudo modprobe {module}; if that fails, sudo dmesg | grep -i kvm says why"
        ));
    }
    let why = if facts.cpu.hypervisor {
        "this is a virtual machine, and the hypervisor below does not pass virtualization on"
    } else {
        "the processor's virtualization is switched off in firmware, or it has none"
    };
    problem(what, &format!("{detail}, and none can work: {why}")).remedy(firmware_or_nesting(facts))
}

/// How to get a processor that virtualizes.
fn firmware_or_nesting(facts: &Facts) -> String {
    if facts.cpu.hypervisor {
        return format!("switch nested virtualization on in the hypervisor below, or {ELSEWHERE}");
    }
    let name = if facts.cpu.intel {
        "Intel VT-x"
    } else {
        "SVM mode"
    };
    format!("switch {name} on in the firmware setup, then power the machine off and on")
}

/// The node is there and may not be opened.
fn forbidden(facts: &Facts) -> Finding {
    let Some(device) = &facts.device else {
        return problem(
            "/dev/kvm may not be opened",
            "a directory on the way is closed to this user",
        )
        .remedy("ls -ld / /dev");
    };
    if facts.user.uid == Some(0) {
        return forbidden_to_root(facts);
    }
    let group = group_name(device);
    let user = facts.user.name.as_deref().unwrap_or("$USER");
    let what = format!("User {user} may not open /dev/kvm");
    if device.gid == UNMAPPED_GID {
        let detail = "its group does not exist in this user namespace";
        return problem(&what, detail).remedy(
            "rootless Podman: add --group-add keep-groups; Docker: --group-add with the host's \
             group id",
        );
    }
    if device.mode & GROUP_READ_WRITE != GROUP_READ_WRITE || device.gid == 0 {
        let mode = device.mode;
        let detail = format!("it belongs to group {group} with mode {mode:03o}, closed to users");
        return problem(&what, &detail).remedy(format!(
            "now: sudo setfacl -m u:{user}:rw /dev/kvm; for good: a udev rule with \
             KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\", then sudo usermod -aG kvm {user}"
        ));
    }
    let anyone = device.mode & OTHERS_READ_WRITE == OTHERS_READ_WRITE;
    if anyone || facts.user.groups.contains(&device.gid) {
        let detail = "its permission bits allow it: an ACL, a container or a security policy does \
                      not";
        return problem(&what, detail).remedy("getfacl /dev/kvm; sudo dmesg | grep -i denied");
    }
    if device.group_lists_user {
        let detail =
            format!("/etc/group has the user in group {group}, but this session began before that");
        return problem(&what, &detail).remedy(format!("log out and in, or run: newgrp {group}"));
    }
    problem(
        &what,
        &format!("it belongs to group {group}, and the user is not in it"),
    )
    .remedy(format!(
        "sudo usermod -aG {group} {user}, then log out and in"
    ))
}

/// Root is refused only by something other than the permission bits.
fn forbidden_to_root(facts: &Facts) -> Finding {
    let what = "Even root may not open /dev/kvm";
    match facts.container {
        Some(container) => {
            let detail = format!("this container ({container}) is not allowed to use the device");
            problem(what, &detail)
                .remedy("start it with --device /dev/kvm; mounting the node alone is not enough")
        }
        None => problem(
            what,
            "a device cgroup, a user namespace or a security policy forbids it",
        )
        .remedy("look at the service's DeviceAllow=, and at sudo dmesg | grep -i denied"),
    }
}

fn group_name(device: &Device) -> String {
    device
        .group
        .clone()
        .unwrap_or_else(|| device.gid.to_string())
}

fn problem(what: &str, detail: &str) -> Finding {
    Finding::new(Level::Problem, what, detail)
}

/// The errno in the C library's words, with its number.
fn error_text(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{healthy, without_device, without_permission};
    use super::super::facts::{Cpu, Modules};
    use super::*;

    fn remedy(finding: &Finding) -> &str {
        finding.remedy.as_deref().unwrap()
    }

    fn device(facts: &mut Facts) -> &mut Device {
        facts.device.as_mut().unwrap()
    }

    #[test]
    fn missing_module_names_the_one_to_load_on_intel() {
        let finding = open_refused(&without_device(), libc::ENOENT);
        assert_eq!(finding.what, "There is no /dev/kvm");
        assert!(
            remedy(&finding).starts_with("sudo modprobe kvm_intel"),
            "{finding:?}"
        );
    }

    #[test]
    fn missing_module_names_the_one_to_load_on_amd() {
        let mut facts = without_device();
        facts.cpu = Cpu {
            svm: true,
            ..Cpu::default()
        };
        let finding = open_refused(&facts, libc::ENOENT);
        assert!(
            remedy(&finding).starts_with("sudo modprobe kvm_amd"),
            "{finding:?}"
        );
    }

    #[test]
    fn virtualization_off_in_firmware_names_intels_setting() {
        let mut facts = without_device();
        facts.cpu.vmx = false;
        let finding = open_refused(&facts, libc::ENOENT);
        assert!(
            finding.detail.contains("switched off in firmware"),
            "{finding:?}"
        );
        assert!(remedy(&finding).contains("Intel VT-x"), "{finding:?}");
    }

    #[test]
    fn virtualization_off_in_firmware_names_amds_setting() {
        let mut facts = without_device();
        facts.cpu = Cpu::default();
        assert!(remedy(&open_refused(&facts, libc::ENOENT)).contains("SVM mode"));
    }

    #[test]
    fn virtual_machine_without_nesting_is_told_so() {
        let mut facts = without_device();
        facts.cpu = Cpu {
            hypervisor: true,
            ..Cpu::default()
        };
        let finding = open_refused(&facts, libc::ENOENT);
        assert!(
            finding.detail.contains("does not pass virtualization on"),
            "{finding:?}"
        );
        assert!(
            remedy(&finding).contains("nested virtualization"),
            "{finding:?}"
        );
    }

    #[test]
    fn container_without_the_device_needs_the_flag() {
        let mut facts = without_device();
        facts.container = Some("Docker");
        let finding = open_refused(&facts, libc::ENOENT);
        assert!(finding.detail.contains("(Docker)"), "{finding:?}");
        assert!(remedy(&finding).starts_with("start it with --device /dev/kvm"));
    }

    #[test]
    fn loaded_module_without_node_needs_mknod() {
        let mut facts = without_device();
        facts.modules = Modules {
            kvm: true,
            amd: true,
            ..Modules::default()
        };
        assert!(remedy(&open_refused(&facts, libc::ENOENT)).contains("mknod"));
    }

    #[test]
    fn user_outside_the_group_gets_the_usermod_command() {
        let finding = open_refused(&without_permission(), libc::EACCES);
        assert_eq!(finding.what, "User ada may not open /dev/kvm");
        assert_eq!(
            remedy(&finding),
            "sudo usermod -aG kvm ada, then log out and in"
        );
    }

    #[test]
    fn stale_membership_needs_a_new_session() {
        let mut facts = without_permission();
        device(&mut facts).group_lists_user = true;
        let finding = open_refused(&facts, libc::EACCES);
        assert!(
            finding.detail.contains("this session began before"),
            "{finding:?}"
        );
        assert_eq!(remedy(&finding), "log out and in, or run: newgrp kvm");
    }

    #[test]
    fn member_of_the_group_who_is_refused_is_sent_to_acls() {
        let mut facts = without_permission();
        facts.user.groups.push(104);
        assert!(remedy(&open_refused(&facts, libc::EACCES)).starts_with("getfacl"));
    }

    #[test]
    fn refusal_of_a_node_open_to_all_is_sent_to_acls() {
        let mut facts = without_permission();
        device(&mut facts).mode = 0o666;
        assert!(remedy(&open_refused(&facts, libc::EACCES)).starts_with("getfacl"));
    }

    #[test]
    fn node_of_group_root_needs_a_udev_rule() {
        let mut facts = without_permission();
        device(&mut facts).gid = 0;
        device(&mut facts).group = Some("root".to_owned());
        let finding = open_refused(&facts, libc::EACCES);
        assert!(
            finding.detail.contains("group root with mode 660"),
            "{finding:?}"
        );
        assert!(remedy(&finding).contains("udev rule"), "{finding:?}");
    }

    #[test]
    fn node_closed_to_its_group_needs_a_udev_rule() {
        let mut facts = without_permission();
        device(&mut facts).mode = 0o600;
        assert!(remedy(&open_refused(&facts, libc::EACCES)).contains("udev rule"));
    }

    #[test]
    fn unmapped_group_means_a_rootless_container() {
        let mut facts = without_permission();
        device(&mut facts).gid = UNMAPPED_GID;
        assert!(remedy(&open_refused(&facts, libc::EACCES)).contains("keep-groups"));
    }

    #[test]
    fn group_without_a_name_is_given_by_number() {
        let mut facts = without_permission();
        device(&mut facts).group = None;
        assert!(remedy(&open_refused(&facts, libc::EACCES)).contains("-aG 104 ada"));
    }

    #[test]
    fn root_in_a_container_is_told_about_the_device_flag() {
        let mut facts = without_permission();
        facts.user.uid = Some(0);
        facts.container = Some("Podman");
        let finding = open_refused(&facts, libc::EPERM);
        assert_eq!(finding.what, "Even root may not open /dev/kvm");
        assert!(
            remedy(&finding).contains("--device /dev/kvm"),
            "{finding:?}"
        );
    }

    #[test]
    fn root_outside_a_container_is_sent_to_the_device_cgroup() {
        let mut facts = without_permission();
        facts.user.uid = Some(0);
        assert!(remedy(&open_refused(&facts, libc::EPERM)).contains("DeviceAllow="));
    }

    #[test]
    fn refusal_without_a_visible_node_points_to_the_directory() {
        let mut facts = without_permission();
        facts.device = None;
        assert_eq!(remedy(&open_refused(&facts, libc::EACCES)), "ls -ld / /dev");
    }

    #[test]
    fn node_without_driver_is_a_missing_module() {
        let finding = open_refused(&healthy(), libc::ENODEV);
        assert_eq!(finding.what, "/dev/kvm leads nowhere");
        assert!(remedy(&finding).contains("modprobe kvm_intel"));
        assert_eq!(finding, open_refused(&healthy(), libc::ENXIO));
    }

    #[test]
    fn busy_means_another_hypervisor_at_either_step() {
        let finding = vm_refused(&healthy(), libc::EBUSY);
        assert_eq!(finding.what, "Another hypervisor holds the processor");
        assert_eq!(finding, open_refused(&healthy(), libc::EBUSY));
    }

    #[test]
    fn vm_refused_by_the_processor_is_a_firmware_matter() {
        let finding = vm_refused(&healthy(), libc::EIO);
        assert!(finding.detail.contains("os error 5"), "{finding:?}");
        assert!(remedy(&finding).contains("firmware"), "{finding:?}");
    }

    #[test]
    fn vm_refused_for_memory_permission_or_type_says_so() {
        let what = |errno| vm_refused(&healthy(), errno).what;
        assert_eq!(what(libc::ENOMEM), "No memory for a VM");
        assert_eq!(what(libc::EMFILE), "No file descriptors left");
        assert_eq!(what(libc::EPERM), "A security policy forbids VMs");
        assert_eq!(what(libc::ENOTTY), "/dev/kvm does not behave like KVM");
    }

    #[test]
    fn unknown_errno_is_given_in_the_systems_words() {
        assert!(
            open_refused(&healthy(), libc::EIO)
                .detail
                .contains("os error 5")
        );
        assert!(
            vm_refused(&healthy(), libc::E2BIG)
                .detail
                .contains("os error 7")
        );
    }
}
