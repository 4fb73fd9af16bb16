//! What all suites share: which KVM a test ran on, and how it says that it could not run.
//!
//! A test that needs KVM starts with [`kvm`] or [`linux_kvm`]. Without a back end that can run it
//! the test records itself as skipped, with the reason, and returns; where `COTTAGE_REQUIRE_KVM=1`
//! is set (inside the testbed) it fails instead. `tests/run.sh` adds the records up.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![allow(
    dead_code,
    reason = "each suite uses its own part of the shared helpers"
)]

pub(crate) mod gdb;
pub(crate) mod passt;
pub(crate) mod program;
pub(crate) mod pty;
pub(crate) mod tiny_kernel;
pub(crate) mod tiny_multiboot;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// A KVM that tests can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    /// `hardware vmx`, `hardware svm`, `pvm` or `testbed`.
    pub(crate) name: String,
    /// Whether it runs a kernel that nobody patched for it.
    pub(crate) runs_linux: bool,
}

/// The back end for a test that brings its own few instructions.
pub(crate) fn kvm() -> Option<Backend> {
    match backend() {
        Ok(backend) => Some(ran(backend)),
        Err(reason) => skip("none", &reason),
    }
}

/// The back end for a test that boots Linux.
pub(crate) fn linux_kvm() -> Option<Backend> {
    match backend() {
        Ok(backend) if backend.runs_linux => Some(ran(backend)),
        Ok(backend) => skip(&backend.name, "this KVM cannot run a stock kernel"),
        Err(reason) => skip("none", &reason),
    }
}

/// Looks at the machine.
pub(crate) fn backend() -> Result<Backend, String> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Err(format!("/dev/kvm does not open: {error}"));
    }
    if let Ok(name) = std::env::var("COTTAGE_BACKEND") {
        return Ok(Backend {
            name,
            runs_linux: true,
        });
    }
    let loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    let name = match () {
        () if loaded("kvm_pvm") => "pvm",
        () if loaded("kvm_amd") => "hardware svm",
        () if loaded("kvm_intel") => "hardware vmx",
        () => "unknown",
    };
    Ok(Backend {
        name: name.to_owned(),
        runs_linux: name != "pvm",
    })
}

fn ran(backend: Backend) -> Backend {
    record(&backend.name, "ran");
    backend
}

/// Records that a test could not run.
pub(crate) fn skip<T>(backend: &str, reason: &str) -> Option<T> {
    record(backend, &format!("skipped: {reason}"));
    let required = std::env::var("COTTAGE_REQUIRE_KVM").is_ok_and(|value| value == "1");
    assert!(!required, "COTTAGE_REQUIRE_KVM=1 and {reason}");
    eprintln!("skipped: {reason}");
    None
}

/// One line a test: suite::name, back end, what happened.
fn record(backend: &str, what: &str) {
    let Some(path) = std::env::var_os("COTTAGE_TEST_REPORT") else {
        return;
    };
    let program = std::env::args().next().unwrap_or_default();
    let file = Path::new(&program)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let suite = file
        .rsplit_once('-')
        .map_or(file.as_str(), |(suite, _hash)| suite);
    let thread = std::thread::current();
    let line = format!(
        "{suite}::{}\t{backend}\t{what}\n",
        thread.name().unwrap_or("?")
    );
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("COTTAGE_TEST_REPORT");
}
