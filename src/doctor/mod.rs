//! Chapter 14: `cottage doctor`, whether this machine can run guests, how well, what to do.
//!
//! Three steps, each in its own module: [`mod@gather`] reads the machine into [`facts::Facts`],
//! [`mod@diagnose`] turns facts into [`report::Finding`]s, [`report`] puts them in words. Only the
//! first touches the machine, so every sentence can be tested without owning the machine it is
//! about. [`access`] is the part of the diagnosis that people need most: why KVM refuses us.
//!
//! Who calls it: `main.rs`, for `cottage doctor` and, through [`explain`], when `cottage run`
//! cannot go on. What it does not do: change anything on the host.
//! Read next: [`facts`].

pub mod facts;
pub mod gather;
pub mod diagnose;
pub mod access;
pub mod report;

use std::io::{self, IsTerminal};
use std::path::Path;

use crate::kvm;
use crate::outcome::VMM_FAILURE;
use facts::Facts;
use report::{Finding, Level};

pub use diagnose::diagnose;
pub use gather::gather;
pub use report::{Report, Verdict, render};

/// Examines this machine, prints the report and returns the exit status: 0 if stock Linux guests
/// can boot here, otherwise 111.
pub fn main() -> u8 {
    let report = diagnose(&gather(Path::new("/")));
    // https://no-color.org: any value that is not empty switches colours off.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let color = io::stdout().is_terminal() && !no_color;
    // If stdout is gone, the exit status still tells.
    let _nobody_listens =
        io::Write::write_all(&mut io::stdout(), render(&report, color).as_bytes());
    if report.can_boot_linux() {
        0
    } else {
        VMM_FAILURE
    }
}

/// Says in plain words why KVM refused `error`'s call and what to do, for `cottage run`.
pub fn explain(error: &kvm::Error) -> String {
    match error {
        kvm::Error::Open(source) => explain_open_failure(source),
        kvm::Error::ApiVersion { found: ..0 } => in_words(&[diagnose::not_kvm()]),
        kvm::Error::ApiVersion { found } => in_words(&[diagnose::api_version(*found)]),
        kvm::Error::Ioctl {
            ioctl: "KVM_CREATE_VM",
            source,
            ..
        } => {
            let errno = source.raw_os_error().unwrap_or(0);
            in_words(&[access::vm_refused(&gather(Path::new("/")), errno)])
        }
        kvm::Error::TooManyVcpus { max, .. } => {
            format!("Start the guest with --cpus {max} or fewer.")
        }
        kvm::Error::TooMuchMemory { max_mib, .. } => {
            format!("Start the guest with --memory {max_mib}M or less.")
        }
        kvm::Error::FileBeyond { .. } => {
            "Start the guest with a smaller --memory, or with smaller files.".to_owned()
        }
        kvm::Error::Ioctl { .. } => explain_refused_ioctl(&gather(Path::new("/"))),
    }
}

/// Says in plain words why `/dev/kvm` did not open and what to do.
pub fn explain_open_failure(error: &io::Error) -> String {
    let errno = error.raw_os_error().unwrap_or(0);
    in_words(&[access::open_refused(&gather(Path::new("/")), errno)])
}

/// For an ioctl in the middle of a run: what about this host could be the reason.
fn explain_refused_ioctl(facts: &Facts) -> String {
    let mut findings = diagnose(facts).findings;
    findings.retain(|finding| finding.level >= Level::Warning);
    if findings.is_empty() {
        return "cottage doctor finds nothing wrong with this host.".to_owned();
    }
    in_words(&findings)
}

/// Findings without their levels, as they stand after an error message.
fn in_words(findings: &[Finding]) -> String {
    let paragraphs: Vec<String> = findings
        .iter()
        .map(|finding| {
            let remedy = finding
                .remedy
                .iter()
                .map(|remedy| format!("\n  to do: {remedy}"));
            format!(
                "{}: {}{}",
                finding.what,
                finding.detail,
                remedy.collect::<String>()
            )
        })
        .collect();
    paragraphs.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanation_joins_what_detail_and_remedy() {
        let mut finding = Finding::new(Level::Problem, "No door", "the wall is whole");
        assert_eq!(
            in_words(std::slice::from_ref(&finding)),
            "No door: the wall is whole"
        );
        finding = finding.remedy("build one");
        assert_eq!(
            in_words(&[finding]),
            "No door: the wall is whole\n  to do: build one"
        );
    }

    #[test]
    fn too_many_vcpus_are_answered_with_the_flag() {
        let error = kvm::Error::TooManyVcpus { wanted: 9, max: 4 };
        assert_eq!(explain(&error), "Start the guest with --cpus 4 or fewer.");
    }

    #[test]
    fn too_much_memory_is_answered_with_the_flag() {
        let error = kvm::Error::TooMuchMemory {
            wanted_mib: 9,
            bits: 23,
            max_mib: 8,
        };
        let advice = "Start the guest with --memory 8M or less.";
        assert_eq!(explain(&error), advice);
        let text = "This host's processor has 23 bits of physical address, which leaves a guest at \
                    most 8 MiB of memory, 9 MiB were asked for";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn open_failure_is_explained_with_what_the_host_said() {
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(explain_open_failure(&error).contains("file descriptors"));
    }

    #[test]
    fn refused_ioctl_on_a_healthy_host_is_not_blamed_on_it() {
        let text = explain_refused_ioctl(&facts::tests::healthy());
        assert_eq!(text, "cottage doctor finds nothing wrong with this host.");
    }

    #[test]
    fn refused_ioctl_on_pvm_names_the_back_end() {
        let text = explain_refused_ioctl(&facts::tests::pvm());
        assert!(text.contains("PVM"), "{text}");
    }
}
