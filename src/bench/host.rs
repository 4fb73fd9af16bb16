//! The machine that the figures belong to, and what else it did meanwhile.
//!
//! A time without its machine says little, and a time on a busy one less. Sources: proc(5),
//! `/proc/stat` and `/proc/PID/stat`; Linux `Documentation/admin-guide/pm/cpufreq.rst`.
//! Read next: [`super::stats`].

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::boot::blob::{self, Blob};
use crate::bundle::{Bundle, program};
use crate::config::{Source, VmConfig};
use crate::doctor::{Verdict, diagnose, gather};
use crate::timeline::{Nanos, now};

/// Clock ticks of `/proc` a second, USER_HZ, the same on all x86.
const TICKS: f64 = 100.0;
/// A kernel or initramfs larger than this is not read for its digest.
const MAX_BLOB: u64 = 1 << 30;

/// What does not change.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// When the report began, UTC.
    pub date: String,
    /// Processor model.
    pub cpu: String,
    /// How many this process may use.
    pub cpus: usize,
    /// `uname -r`.
    pub kernel: String,
    /// KVM's module, and whether it is hardware, nested or software.
    pub kvm: String,
    /// transparent_hugepage/enabled.
    pub huge_pages: String,
    /// The processor's frequency governor.
    pub governor: String,
}

/// A file that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// cottage, kernel or initramfs.
    pub what: &'static str,
    /// Where it came from.
    pub name: String,
    /// Its version, as far as it tells.
    pub version: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Of its bytes, in hexadecimal.
    pub sha256: String,
}

impl Host {
    /// This machine.
    pub fn look() -> Self {
        let info = read("/proc/cpuinfo");
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            date: date(),
            cpu: model
                .map_or("unknown", |rest| rest.trim_start_matches(['\t', ' ', ':']))
                .to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            kvm: kvm(),
            huge_pages: huge_pages(),
            governor: if governor.is_empty() {
                "none visible".to_owned()
            } else {
                governor
            },
        }
    }
}

fn kvm() -> String {
    let facts = gather(Path::new("/"));
    let modules = [
        (facts.modules.intel, "kvm_intel"),
        (facts.modules.amd, "kvm_amd"),
        (facts.modules.pvm, "kvm_pvm"),
    ];
    let modules: Vec<_> = modules.iter().filter(|m| m.0).map(|m| m.1).collect();
    let module = if modules.is_empty() {
        "module not visible".to_owned()
    } else {
        modules.join(" and ")
    };
    let kind = match diagnose(&facts).verdict {
        Verdict::FullSpeed => "hardware",
        Verdict::Nested => "nested: this machine is itself a guest",
        Verdict::SoftwareBackEnd => "software: guest kernels are emulated",
        Verdict::Cannot(reason) => return format!("not usable: {reason}"),
    };
    format!("{module}, {kind}")
}

fn huge_pages() -> String {
    let choices = read("/sys/kernel/mm/transparent_hugepage/enabled");
    choices
        .split(['[', ']'])
        .nth(1)
        .unwrap_or("unknown")
        .to_owned()
}

/// What does change.
#[derive(Clone, Debug)]
pub struct Moment {
    at: Nanos,
    /// Load average of a minute.
    pub load: String,
    /// Mean frequency of the processors in MHz.
    pub mhz: Option<f64>,
    /// Ticks that all processors spent on anything.
    busy: u64,
    /// Ticks that the hypervisor below kept from this machine.
    stolen: u64,
    /// Ticks of this process and its children that have ended.
    own: u64,
}

impl Moment {
    /// Now.
    pub fn look() -> Self {
        let stat = read("/proc/stat");
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or("")
            .split_ascii_whitespace()
            .skip(1)
            .map(|word| word.parse().unwrap_or(0))
            .collect();
        // user nice system idle iowait irq softirq steal guest guest_nice; guest is in user too
        let tick = |index: usize| ticks.get(index).copied().unwrap_or(0);
        let own = read("/proc/self/stat");
        // After the name in parentheses comes field 3.
        let fields = own.rsplit_once(')').map_or("", |(_, rest)| rest);
        let own = fields.split_ascii_whitespace().skip(14 - 3).take(4);
        Self {
            at: now(),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or("?")
                .to_owned(),
            mhz: mean_mhz(&read("/proc/cpuinfo")),
            busy: [0, 1, 2, 5, 6].map(tick).iter().sum(),
            stolen: tick(7),
            own: own.filter_map(|word| word.parse::<u64>().ok()).sum(),
        }
    }
}

fn mean_mhz(info: &str) -> Option<f64> {
    let values: Vec<f64> = info
        .lines()
        .filter_map(|line| {
            line.strip_prefix("cpu MHz")?
                .trim_start_matches(['\t', ' ', ':'])
                .parse()
                .ok()
        })
        .collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// What happened between two moments that makes the times less worth, one sentence each.
pub fn warnings(before: &Moment, after: &Moment, cpus: usize) -> Vec<String> {
    let seconds = (after.at - before.at) as f64 / 1e9;
    let mut warnings = Vec::new();
    let started_at: f64 = before.load.parse().unwrap_or(0.0);
    if started_at > 0.5 * cpus as f64 {
        warnings.push(format!(
            "the machine was busy before: load {} on {cpus} processors",
            before.load
        ));
    }
    let others = ticks(before.busy, after.busy) - ticks(before.own, after.own);
    // Shorter, and the ticks' own error would show.
    if seconds > 1.0 && others / seconds > 0.25 {
        warnings.push(format!(
            "other programs used {:.2} processors on average meanwhile",
            others / seconds
        ));
    }
    let stolen = ticks(before.stolen, after.stolen);
    if seconds > 1.0 && stolen / seconds > 0.02 * cpus as f64 {
        warnings.push(format!(
            "the hypervisor below kept {stolen:.2} s of processor time from this machine meanwhile"
        ));
    }
    if let (Some(then), Some(now)) = (before.mhz, after.mhz)
        && (now / then - 1.0).abs() > 0.1
    {
        warnings.push(format!(
            "the processors' frequency changed from {then:.0} to {now:.0} MHz"
        ));
    }
    warnings
}

/// Seconds between two counts of ticks.
fn ticks(before: u64, after: u64) -> f64 {
    after.saturating_sub(before) as f64 / TICKS
}

/// cottage itself, and the kernel and initramfs that it boots.
///
/// # Errors
/// As [`Blob::open`], if a file cannot be read.
pub fn parts(config: &VmConfig) -> Result<Vec<Part>, blob::Error> {
    let (kernel, initramfs) = (&config.kernel, &config.initramfs);
    let with_virtio = config.virtio_devices() > 0;
    let mut parts = Vec::new();
    let this = Blob::open(program())?;
    let version = Some(env!("CARGO_PKG_VERSION").to_owned());
    parts.push(part("cottage", &this, "this program", |_| version)?);
    // A build without a guest says so when it boots.
    let bundle = Bundle::open().ok();
    let open = |source: &Source, built_in: &dyn Fn(&Bundle) -> Option<Blob>| match source {
        Source::BuiltIn => Ok(bundle.as_ref().and_then(built_in)),
        Source::File(path) => Blob::open(path).map(Some),
    };
    if let Some(blob) = open(kernel, &|bundle| bundle.kernel(with_virtio).ok())? {
        parts.push(part("kernel", &blob, &source_name(kernel), kernel_version)?);
    }
    if let Some(blob) = open(initramfs, &|bundle| bundle.initramfs().ok())? {
        parts.push(part("initramfs", &blob, &source_name(initramfs), |_| None)?);
    }
    Ok(parts)
}

fn source_name(source: &Source) -> String {
    match source {
        Source::BuiltIn => "built in".to_owned(),
        Source::File(path) => path.display().to_string(),
    }
}

fn part(
    what: &'static str,
    blob: &Blob,
    name: &str,
    version: impl FnOnce(&[u8]) -> Option<String>,
) -> Result<Part, blob::Error> {
    let bytes = blob.read_vec(0, blob.len(), MAX_BLOB)?;
    let digest = Sha256::digest(&bytes);
    Ok(Part {
        what,
        name: name.to_owned(),
        version: version(&bytes),
        size: blob.len(),
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// The release that an uncompressed kernel says it is, or a bzImage's header.
///
/// Source: Linux `init/version-timestamp.c`, `linux_banner`; `Documentation/arch/x86/boot.rst`,
/// `kernel_version` at 0x20e.
fn kernel_version(bytes: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let word = |bytes: &[u8]| {
        let end = bytes
            .iter()
            .take(100)
            .position(|byte| !byte.is_ascii_graphic())?;
        let word = str::from_utf8(bytes.get(..end)?).ok()?;
        (!word.is_empty()).then(|| word.to_owned())
    };
    if bytes.get(0x202..0x206) == Some(b"HdrS") {
        let at = u16::from_le_bytes([*bytes.get(0x20e)?, *bytes.get(0x20f)?]);
        return word(bytes.get(usize::from(at) + 0x200..)?);
    }
    // Also in a format string; the real one is followed by a digit.
    let places = bytes.windows(BANNER.len()).enumerate();
    places
        .filter(|(_, words)| *words == BANNER)
        .filter_map(|(at, _)| word(bytes.get(at + BANNER.len()..)?))
        .find(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

/// Now, in the form 2026-11-21T10:20:30Z.
fn date() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Year, month and day of a day after 1970-01-01, in the Gregorian calendar.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59), (1970, 3, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
        assert_eq!(civil(47_540), (2100, 2, 28));
        assert_eq!(civil(47_541), (2100, 3, 1));
    }

    #[test]
    fn kernels_tell_their_release() {
        let elf = b"..Linux version %s (%s)..Linux version 6.12.1-x (gcc)";
        assert_eq!(kernel_version(elf).unwrap(), "6.12.1-x");
        let mut bzimage = vec![0; 0x300];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        bzimage[0x20e..0x210].copy_from_slice(&[0x80, 0]);
        bzimage[0x280..0x289].copy_from_slice(b"5.4.0 (x)");
        assert_eq!(kernel_version(&bzimage).unwrap(), "5.4.0");
        assert_eq!(kernel_version(b"no kernel"), None);
    }

    fn quiet() -> Moment {
        Moment {
            at: 0,
            load: "0.10".to_owned(),
            mhz: Some(2000.0),
            busy: 1000,
            stolen: 0,
            own: 100,
        }
    }

    #[test]
    fn a_quiet_machine_gets_no_warning() {
        let after = Moment {
            at: 10_000_000_000,
            // Ten seconds, all of them this process's.
            busy: 2000,
            own: 1100,
            ..quiet()
        };
        assert_eq!(warnings(&quiet(), &after, 2), [""; 0]);
    }

    #[test]
    fn load_frequency_and_theft_are_told() {
        let busy = Moment {
            load: "1.70".to_owned(),
            ..quiet()
        };
        let after = Moment {
            at: 10_000_000_000,
            busy: 2000,
            own: 600,
            stolen: 100,
            mhz: Some(1500.0),
            ..quiet()
        };
        let told = warnings(&busy, &after, 2).join("\n");
        for words in [
            "load 1.70",
            "0.50 processors",
            "1.00 s of",
            "2000 to 1500 MHz",
        ] {
            assert!(told.contains(words), "{words}: {told}");
        }
    }

    #[test]
    fn this_machine_says_what_it_is() {
        let host = Host::look();
        assert!(!host.kernel.is_empty() && host.cpus > 0);
        assert!(Moment::look().busy > 0);
    }
}
