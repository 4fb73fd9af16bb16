//! From facts to findings and a verdict.
//!
//! Two halves: whether guests can run at all, in the order in which a run would notice, and how
//! well they do. Called by [`super::main`]. Pure.
//!
//! Sources: `[kvm]` Linux `Documentation/virt/kvm/api.rst`, `[thp]` `Documentation/admin-guide/mm/
//! transhuge.rst`, v6.12.
//! Read next: [`super::access`].

use kvm_bindings::KVM_API_VERSION;

use super::access::{open_refused, vm_refused};
use super::facts::{Facts, Kvm, Resources};
use super::report::{ELSEWHERE, Finding, Level, Report, Verdict};

/// Less memory than this leaves the host nothing beside a guest of the default size (128 MiB).
const LITTLE_MEMORY: u64 = 256 << 20; // 256 MiB
/// Fewer file descriptors than this do not cover a guest with a few vCPUs and its console.
const FEW_FILES: u64 = 64;

/// Judges a machine.
pub fn diagnose(facts: &Facts) -> Report {
    let mut findings = possibility(facts);
    let problem = findings
        .iter()
        .find(|finding| finding.level == Level::Problem)
        .map(|finding| Verdict::Cannot(format!("{}: {}", finding.what, finding.detail)));
    let (processor, speed) = processor(facts);
    findings.push(processor);
    findings.extend(quality(facts));
    Report {
        findings,
        verdict: problem.unwrap_or(speed),
    }
}

/// Whether guests can run: KVM opens, speaks our language, and creates a VM.
fn possibility(facts: &Facts) -> Vec<Finding> {
    match &facts.kvm {
        Err(errno) => vec![open_refused(facts, *errno)],
        Ok(_) if !facts.kvm_opens() => vec![not_kvm()],
        Ok(kvm) => answers(facts, kvm),
    }
}

/// Something else has taken KVM's name.
pub fn not_kvm() -> Finding {
    let detail = "the node is something else, not the character device 10, 232";
    Finding::new(Level::Problem, "/dev/kvm is not KVM", detail)
        .remedy("sudo rm /dev/kvm; sudo mknod -m 660 /dev/kvm c 10 232; sudo chgrp kvm /dev/kvm")
}

/// What an open KVM says of itself.
fn answers(facts: &Facts, kvm: &Kvm) -> Vec<Finding> {
    let mut findings = vec![api_version(kvm.api_version)];
    if kvm.missing.is_empty() {
        let detail = format!("up to {} vCPUs in a VM", kvm.max_vcpus);
        findings.push(Finding::new(
            Level::Ok,
            "KVM has all that cottage needs",
            detail,
        ));
    } else {
        let detail = format!("it lacks {}", kvm.missing.join(", "));
        let finding = Finding::new(Level::Problem, "KVM lacks a capability", detail);
        findings.push(finding.remedy("use a newer host kernel: cottage needs Linux 4.4 or later"));
    }
    if !kvm.missed.is_empty() {
        let detail = format!("guests do without {}", kvm.missed.join(", "));
        findings.push(Finding::new(
            Level::Note,
            "KVM lacks useful capabilities",
            detail,
        ));
    }
    findings.push(match kvm.create_vm {
        Ok(()) => Finding::new(Level::Ok, "KVM creates a VM", "tried, and closed again"),
        Err(errno) => vm_refused(facts, errno),
    });
    findings
}

/// Judges the API version; every Linux since 2.6.22 has 12. `[kvm]` 4.1
pub fn api_version(found: i32) -> Finding {
    if u32::try_from(found) == Ok(KVM_API_VERSION) {
        return Finding::new(Level::Ok, "KVM opens", format!("API version {found}"));
    }
    let detail = format!("it is version {found}, cottage speaks version {KVM_API_VERSION}");
    Finding::new(Level::Problem, "KVM speaks another API", detail)
        .remedy("check what the node is (ls -l /dev/kvm must show 10, 232) and use a newer kernel")
}

/// What runs the guest's instructions: a finding, and the verdict if nothing forbids guests.
fn processor(facts: &Facts) -> (Finding, Verdict) {
    let (cpu, modules) = (facts.cpu, &facts.modules);
    if !cpu.virtualizes() && (modules.pvm || facts.kvm_opens()) {
        return (software_back_end(modules.pvm), Verdict::SoftwareBackEnd);
    }
    let flag = match (cpu.vmx, cpu.svm) {
        (true, _) => "vmx",
        (_, true) => "svm",
        _ => "neither vmx nor svm",
    };
    let detail = format!("the processor shows {flag}");
    if cpu.hypervisor {
        let finding = Finding::new(Level::Note, "This is a virtual machine", detail);
        return (finding, Verdict::Nested);
    }
    let level = if cpu.virtualizes() {
        Level::Ok
    } else {
        Level::Note
    };
    (
        Finding::new(level, "This is real hardware", detail),
        Verdict::FullSpeed,
    )
}

/// KVM that works although the processor does not virtualize.
fn software_back_end(pvm: bool) -> Finding {
    let kind = if pvm {
        "PVM (module kvm_pvm)"
    } else {
        "of an unknown kind"
    };
    let what = "KVM works without the processor's help";
    let detail = format!(
        "the processor shows neither vmx nor svm, so the back end is software, {kind}; it emulates \
         guest kernels instruction by instruction, slowly"
    );
    Finding::new(Level::Warning, what, detail).remedy(format!("for guests that boot, {ELSEWHERE}"))
}

/// How well guests do.
fn quality(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(container) = facts.container {
        let detail = format!("{container}; limits of the container hold for guests too");
        findings.push(Finding::new(Level::Note, "This is a container", detail));
    }
    if !facts.modules.slow.is_empty() {
        let slow = facts.modules.slow.join(", ");
        let finding = Finding::new(Level::Warning, "KVM is set to run slowly", slow);
        findings.push(finding.remedy(
            "remove the setting from /etc/modprobe.d and the kernel command line; if it is not \
             there, the processor lacks the feature",
        ));
    }
    findings.extend(huge_pages(&facts.resources));
    findings.extend(memory(&facts.resources));
    findings.extend(limits(&facts.resources));
    findings.push(tap(&facts.resources));
    findings
}

/// Guest RAM is advised to use huge pages, which `always` and `madvise` heed. `[thp]`
fn huge_pages(resources: &Resources) -> Option<Finding> {
    let chosen = resources.huge_pages.as_ref()?;
    if chosen != "never" {
        let shared = resources
            .huge_pages_shared
            .as_deref()
            .unwrap_or("not known");
        let detail = format!("{chosen} (shared memory: {shared})");
        return Some(Finding::new(
            Level::Ok,
            "Huge pages are used for guest memory",
            detail,
        ));
    }
    let detail = "a guest then boots with a page fault for every 4 KiB it touches";
    let finding = Finding::new(Level::Warning, "Huge pages are off", detail);
    Some(finding.remedy("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"))
}

fn memory(resources: &Resources) -> Option<Finding> {
    let available = resources.memory_available?;
    let detail = format!("{} MiB available", available >> 20); // bytes to MiB
    if available >= LITTLE_MEMORY {
        return Some(Finding::new(
            Level::Ok,
            "There is memory for guests",
            detail,
        ));
    }
    let finding = Finding::new(Level::Warning, "Memory is short", detail);
    Some(finding.remedy("stop something, or give guests less: cottage run --memory 64M"))
}

/// Limits that a guest of ordinary size would hit.
fn limits(resources: &Resources) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(bytes) = resources.address_space {
        let detail = format!(
            "{} MiB for this process, guest memory included",
            bytes >> 20
        );
        let finding = Finding::new(Level::Note, "Address space is limited", detail);
        findings.push(finding.remedy("if a guest's memory cannot be mapped: ulimit -v unlimited"));
    }
    if let Some(files) = resources.open_files.filter(|files| *files < FEW_FILES) {
        let detail = format!("{files} for this process");
        let finding = Finding::new(Level::Warning, "Few files may be open", detail);
        findings.push(finding.remedy("ulimit -n 1024"));
    }
    findings
}

/// cottage has no network device yet; who plans one wants to know.
fn tap(resources: &Resources) -> Finding {
    let detail = if resources.tun {
        "/dev/net/tun is there"
    } else {
        "there is no /dev/net/tun"
    };
    Finding::new(Level::Note, "Tap devices, for guest networks", detail)
}

#[cfg(test)]
mod tests {
    use super::super::facts::Cpu;
    use super::super::facts::tests::{healthy, kvm_of, pvm, without_device, without_permission};
    use super::*;

    fn found<'a>(report: &'a Report, what: &str) -> &'a Finding {
        let finding = report.findings.iter().find(|finding| finding.what == what);
        finding.unwrap_or_else(|| panic!("no {what:?} in {report:#?}"))
    }

    fn reason(report: &Report) -> &str {
        match &report.verdict {
            Verdict::Cannot(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn healthy_machine_runs_at_full_speed_with_nothing_to_do() {
        let report = diagnose(&healthy());
        assert_eq!(report.verdict, Verdict::FullSpeed);
        assert!(
            report
                .findings
                .iter()
                .all(|finding| finding.remedy.is_none()),
            "{report:#?}"
        );
        assert_eq!(found(&report, "KVM opens").detail, "API version 12");
        assert!(
            found(&report, "KVM has all that cottage needs")
                .detail
                .contains("1024 vCPUs")
        );
    }

    #[test]
    fn amd_machine_runs_at_full_speed() {
        let mut facts = healthy();
        facts.cpu = Cpu {
            svm: true,
            ..Cpu::default()
        };
        let report = diagnose(&facts);
        assert_eq!(report.verdict, Verdict::FullSpeed);
        assert!(
            found(&report, "This is real hardware")
                .detail
                .contains("svm")
        );
    }

    #[test]
    fn virtual_machine_with_virtualization_is_nested() {
        let mut facts = healthy();
        facts.cpu.hypervisor = true;
        let report = diagnose(&facts);
        assert_eq!(report.verdict, Verdict::Nested);
        assert_eq!(
            found(&report, "This is a virtual machine").level,
            Level::Note
        );
    }

    #[test]
    fn pvm_is_a_software_back_end() {
        let report = diagnose(&pvm());
        assert_eq!(report.verdict, Verdict::SoftwareBackEnd);
        let finding = found(&report, "KVM works without the processor's help");
        assert!(
            finding.detail.contains("PVM (module kvm_pvm)"),
            "{finding:?}"
        );
    }

    #[test]
    fn software_back_end_without_a_known_module_is_still_one() {
        let mut facts = pvm();
        facts.modules.pvm = false;
        let report = diagnose(&facts);
        assert_eq!(report.verdict, Verdict::SoftwareBackEnd);
        let finding = found(&report, "KVM works without the processor's help");
        assert!(finding.detail.contains("unknown kind"), "{finding:?}");
    }

    #[test]
    fn pvm_is_recognized_by_a_user_who_may_not_open_it() {
        let mut facts = pvm();
        facts.kvm = Err(libc::EACCES);
        let report = diagnose(&facts);
        found(&report, "KVM works without the processor's help");
        assert!(reason(&report).starts_with("User ada"), "{report:#?}");
    }

    #[test]
    fn processor_without_virtualization_is_not_called_ok() {
        let mut facts = without_device();
        facts.cpu = Cpu::default();
        let report = diagnose(&facts);
        assert_eq!(found(&report, "This is real hardware").level, Level::Note);
    }

    #[test]
    fn machine_without_device_cannot_run_guests() {
        let report = diagnose(&without_device());
        assert!(reason(&report).starts_with("There is no /dev/kvm"));
        assert!(!report.can_boot_linux());
    }

    #[test]
    fn user_without_permission_cannot_run_guests() {
        let report = diagnose(&without_permission());
        assert!(reason(&report).starts_with("User ada may not open"));
    }

    #[test]
    fn node_that_is_not_kvm_is_named_before_what_it_answers() {
        let mut facts = healthy();
        facts.device = facts.device.map(|device| super::super::facts::Device {
            is_kvm: false,
            ..device
        });
        kvm_of(&mut facts).api_version = -1;
        assert!(reason(&diagnose(&facts)).starts_with("/dev/kvm is not KVM"));
    }

    #[test]
    fn other_api_version_is_a_problem_with_both_numbers() {
        let mut facts = healthy();
        kvm_of(&mut facts).api_version = 11;
        let report = diagnose(&facts);
        let finding = found(&report, "KVM speaks another API");
        assert_eq!(
            finding.detail,
            "it is version 11, cottage speaks version 12"
        );
        assert!(!report.can_boot_linux());
    }

    #[test]
    fn missing_capability_is_a_problem_and_named() {
        let mut facts = healthy();
        kvm_of(&mut facts).missing = vec!["SPLIT_IRQCHIP"];
        let report = diagnose(&facts);
        assert_eq!(
            reason(&report),
            "KVM lacks a capability: it lacks SPLIT_IRQCHIP"
        );
    }

    #[test]
    fn missed_capability_is_only_a_note() {
        let mut facts = healthy();
        kvm_of(&mut facts).missed = vec!["TSC_DEADLINE_TIMER"];
        let report = diagnose(&facts);
        assert_eq!(
            found(&report, "KVM lacks useful capabilities").level,
            Level::Note
        );
        assert!(report.can_boot_linux());
    }

    #[test]
    fn vm_that_cannot_be_created_is_a_problem() {
        let mut facts = healthy();
        kvm_of(&mut facts).create_vm = Err(libc::EBUSY);
        assert!(reason(&diagnose(&facts)).starts_with("Another hypervisor holds"));
    }

    #[test]
    fn slow_module_parameter_is_a_warning() {
        let mut facts = healthy();
        facts.modules.slow = vec!["kvm_intel.ept=N".to_owned()];
        let report = diagnose(&facts);
        let finding = found(&report, "KVM is set to run slowly");
        assert_eq!(
            (finding.level, &*finding.detail),
            (Level::Warning, "kvm_intel.ept=N")
        );
        assert!(report.can_boot_linux());
    }

    #[test]
    fn huge_pages_never_is_a_warning() {
        let mut facts = healthy();
        facts.resources.huge_pages = Some("never".to_owned());
        let report = diagnose(&facts);
        assert_eq!(found(&report, "Huge pages are off").level, Level::Warning);
    }

    #[test]
    fn little_memory_is_a_warning_with_the_number() {
        let mut facts = healthy();
        facts.resources.memory_available = Some(100 << 20);
        let report = diagnose(&facts);
        assert_eq!(
            found(&report, "Memory is short").detail,
            "100 MiB available"
        );
    }

    #[test]
    fn limits_that_guests_hit_are_found() {
        let mut facts = healthy();
        facts.resources.address_space = Some(1 << 30);
        facts.resources.open_files = Some(16);
        let report = diagnose(&facts);
        assert!(
            found(&report, "Address space is limited")
                .detail
                .starts_with("1024 MiB")
        );
        assert_eq!(
            found(&report, "Few files may be open").level,
            Level::Warning
        );
    }

    #[test]
    fn container_is_a_note() {
        let mut facts = healthy();
        facts.container = Some("Docker");
        assert_eq!(
            found(&diagnose(&facts), "This is a container").level,
            Level::Note
        );
    }

    #[test]
    fn missing_tun_is_a_note() {
        let mut facts = healthy();
        facts.resources.tun = false;
        let report = diagnose(&facts);
        let finding = found(&report, "Tap devices, for guest networks");
        assert_eq!(finding.detail, "there is no /dev/net/tun");
    }

    #[test]
    fn facts_that_could_not_be_read_are_not_findings() {
        let mut facts = healthy();
        facts.resources = Resources::default();
        let report = diagnose(&facts);
        assert!(
            report
                .findings
                .iter()
                .all(|finding| finding.level <= Level::Note)
        );
    }
}
