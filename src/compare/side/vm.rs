//! cottage: a kernel of its own, with the root file system in memory or on a disk.
//!
//! The command is started by our init, as with `cottage run -- COMMAND`. Whether KVM here can run Linux
//! at all is found by trying; the doctor's verdict says why, if it cannot.
//! Read next: [`super::installed`].

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::tap::Taps;
use super::trial::{SECOND, Slot, Trial, Way, absent};
use super::{Absent, Kind, Launch};
use crate::bench::subject::Subject;
use crate::boot::blob::Blob;
use crate::bundle::{Bundle, program};
use crate::doctor::{self, Verdict};
use crate::outcome::with_causes;
use crate::timeline::Nanos;

/// What sides are called.
const NAMES: [&str; 4] = [
    "cottage, tiny kernel, initramfs",
    "cottage, full kernel, initramfs",
    "cottage, full kernel, read-only disk",
    "cottage, full kernel, read-only disk, tap",
];
/// What readers have to know of the last.
const TAP_NOTE: &str = "the tap device is made before the clock starts, and has an address on the host; \
                        where an engine makes a bridge's pair, that is in its times";
/// The full kernel is smaller.
const KERNEL_LIMIT: u64 = 256 << 20; // 256 MiB
/// How long a first boot may take on hardware; in a virtual machine, which may be emulated; and where no
/// kernel is expected to come up.
const LIMITS: [Nanos; 3] = [10 * SECOND, 60 * SECOND, 4 * SECOND];

/// Flags of `cottage run`, before the command.
#[derive(Debug)]
struct Machine {
    flags: Vec<OsString>,
    /// Bytes of its kernel.
    kernel: u64,
    /// Where it has a network card.
    taps: Option<Taps>,
}

/// cottage, with each kernel and each way to bring a root file system. Later come container images and
/// snapshots.
pub fn cottage(trial: &mut Trial<'_>) -> Vec<Result<Slot, Absent>> {
    let verdict = doctor::diagnose(&doctor::gather(Path::new("/"))).verdict;
    let expected = matches!(verdict, Verdict::FullSpeed | Verdict::Nested);
    let disk = full_disk(trial);
    let with_tap = disk.as_ref().map_err(String::clone).and_then(|disk| {
        Ok(Machine {
            taps: Some(Taps::new(trial.ledger())?),
            ..disk.again()
        })
    });
    let machines = [tiny_initramfs(trial), full_initramfs(trial), disk, with_tap];
    let [hardware, nested, hopeless] = LIMITS;
    let limit = match verdict {
        Verdict::FullSpeed => hardware,
        Verdict::Nested => nested,
        Verdict::SoftwareBackEnd | Verdict::Cannot(_) => hopeless,
    };
    let slot = |name: &str, machine: Machine| Slot {
        name: name.to_owned(),
        runtime: "cottage",
        kind: Kind::Vm,
        version: format!("cottage {}", env!("CARGO_PKG_VERSION")),
        ways: vec![Way {
            limit,
            notes: machine.taps.iter().map(|_| TAP_NOTE.to_owned()).collect(),
            ..Way::new(machine, &[])
        }],
    };
    let mut all = Vec::new();
    // What hinders one hinders all: a KVM that cannot run Linux is not tried thrice.
    let mut hindered: Option<String> = None;
    let mut known_to_work = false;
    for (name, machine) in NAMES.into_iter().zip(machines) {
        if let Some(reason) = &hindered {
            all.extend(absent(name, Kind::Vm, reason.clone()));
            continue;
        }
        match machine {
            Err(reason) => all.extend(absent(name, Kind::Vm, reason)),
            // Whoever asked tries it next.
            Ok(machine) if expected || known_to_work => all.push(Ok(slot(name, machine))),
            Ok(machine) => {
                let tried = trial.first_that_works(slot(name, machine.again()));
                match tried {
                    Ok(_works_all_the_same) => {
                        known_to_work = true;
                        all.push(Ok(slot(name, machine)));
                    }
                    Err(tried) => {
                        let reason = in_words(&verdict, &tried.reason);
                        hindered = Some(reason.clone());
                        all.extend(absent(name, Kind::Vm, reason));
                    }
                }
            }
        }
    }
    all
}

/// Why figures of what a guest's kernel does mean nothing beside those of the host's kernel; `None` if
/// they do.
pub fn emulated() -> Option<String> {
    let verdict = doctor::diagnose(&doctor::gather(Path::new("/"))).verdict;
    (verdict == Verdict::SoftwareBackEnd).then(|| {
        "guest kernel code is emulated on this host: its processor offers no virtualization, and \
         KVM's back end is software"
            .to_owned()
    })
}

/// Why it does not work, by what the doctor says and what the try said.
fn in_words(verdict: &Verdict, tried: &str) -> String {
    match verdict {
        Verdict::SoftwareBackEnd => format!(
            "this host's KVM is software, on which a stock kernel does not reach its first process \
             ({tried}); cottage compare --in testbed runs both sides emulated"
        ),
        Verdict::Cannot(why) => format!("{why}; cottage doctor says what to do"),
        Verdict::FullSpeed | Verdict::Nested => tried.to_owned(),
    }
}

fn tiny_initramfs(trial: &mut Trial<'_>) -> Result<Machine, String> {
    let kernel = kernel(false)?;
    let flags = vec![flag("--initramfs", &trial.root.initramfs()?)];
    Ok(Machine::without_network(flags, kernel.len()))
}

/// A built-in kernel.
fn kernel(with_virtio: bool) -> Result<Blob, String> {
    let bundle = Bundle::open().map_err(|error| with_causes(&error))?;
    let kernel = bundle.kernel(with_virtio);
    kernel.map_err(|error| with_causes(&error))
}

/// The full kernel is chosen for machines with devices; without one it has to be named, as a file.
fn full_initramfs(trial: &mut Trial<'_>) -> Result<Machine, String> {
    let kernel = kernel(true)?;
    let bytes = kernel.read_vec(0, kernel.len(), KERNEL_LIMIT);
    let bytes = bytes.map_err(|error| with_causes(&error))?;
    let path = trial.scratch.folder().join("vmlinux");
    let written = fs::write(&path, bytes);
    written.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    let flags = vec![
        flag("--kernel", &path),
        flag("--initramfs", &trial.root.initramfs()?),
    ];
    Ok(Machine::without_network(flags, kernel.len()))
}

fn full_disk(trial: &mut Trial<'_>) -> Result<Machine, String> {
    let kernel = kernel(true)?;
    let image = trial.root.disk()?;
    // A comma in a name is written twice.
    let image = image.to_string_lossy().replace(',', ",,");
    let flags = vec![format!("--rootfs={image},ro").into()];
    Ok(Machine::without_network(flags, kernel.len()))
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push("=");
    flag.push(path);
    flag
}

impl Machine {
    fn without_network(flags: Vec<OsString>, kernel: u64) -> Self {
        Self {
            flags,
            kernel,
            taps: None,
        }
    }

    /// The same machine, to be tried first.
    fn again(&self) -> Self {
        Self::without_network(self.flags.clone(), self.kernel)
    }
}

impl Launch for Machine {
    fn prepare(&self, instance: &str, command: &[&str]) -> Result<Subject, String> {
        let mut words = self.flags.clone();
        if let Some(taps) = &self.taps {
            words.push(format!("--net={}", taps.take(instance)?).into());
        }
        words.push("--".into());
        words.extend(command.iter().map(OsString::from));
        Ok(Subject::Cottage {
            program: program().into(),
            words,
        })
    }

    fn remove(&self, instance: &str, _ended_well: bool) {
        if let Some(taps) = &self.taps {
            taps.give_back(instance);
        }
    }

    fn kernel_bytes(&self) -> Option<u64> {
        Some(self.kernel)
    }

    /// One file, with the kernels in it.
    fn installed(&self) -> Vec<PathBuf> {
        fs::canonicalize(program()).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_back_end_is_told_with_what_to_do() {
        let text = in_words(&Verdict::SoftwareBackEnd, "it did not end");
        assert!(
            text.contains("(it did not end)") && text.contains("--in testbed"),
            "{text}"
        );
        let text = in_words(&Verdict::Cannot("no /dev/kvm".to_owned()), "status 111");
        assert!(text.starts_with("no /dev/kvm;"), "{text}");
    }
}
