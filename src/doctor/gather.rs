//! Reads the machine into [`Facts`]: files below a root directory, then KVM itself.
//!
//! [`super::main`] gathers from `/`; tests from a directory that looks like one. Whatever cannot
//! be read is left out: a doctor that fails is no help. Besides `crate::kvm` this is the only
//! user of kvm-ioctls, because it must go on where that module stops with an error.
//!
//! Sources: proc(5); `[kvm]` Linux `Documentation/virt/kvm/api.rst` and `Documentation/admin-guide/
//! devices.txt`, `mm/transhuge.rst`, v6.12.
//! Read next: [`mod@super::diagnose`].

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use kvm_ioctls::Cap;

use super::facts::{Cpu, Device, Facts, Kvm, Modules, Resources, User};

/// The device number of `/dev/kvm`, major and minor. `[devices.txt]`
const KVM_DEVICE: (u32, u32) = (10, 232);

/// What `crate::kvm` calls and cannot do without.
const REQUIRED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "USER_MEMORY"),
    (Cap::SetTssAddr, "SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "EXT_CPUID"),
    (Cap::SplitIrqchip, "SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "SIGNAL_MSI"),
];

/// What makes guests or their devices faster.
const USEFUL: [(Cap, &str); 6] = [
    (Cap::TscDeadlineTimer, "TSC_DEADLINE_TIMER"),
    (Cap::ImmediateExit, "IMMEDIATE_EXIT"),
    (Cap::MpState, "MP_STATE"),
    (Cap::IrqRouting, "IRQ_ROUTING"),
    (Cap::Irqfd, "IRQFD"),
    (Cap::Ioeventfd, "IOEVENTFD"),
];

/// KVM parameters that cost much when off, and the module each belongs to.
const FAST_PARAMETERS: [(&str, &str); 4] = [
    ("kvm_intel", "ept"),
    ("kvm_intel", "unrestricted_guest"),
    ("kvm_intel", "flexpriority"),
    ("kvm_amd", "npt"),
];

/// Reads the machine below `root`, which is `/` except in tests.
pub fn gather(root: &Path) -> Facts {
    let user = user(root);
    Facts {
        device: device(root, &user),
        kvm: kvm(&root.join("dev/kvm")),
        cpu: cpu(root),
        modules: modules(root),
        user,
        container: container(root),
        resources: resources(root),
    }
}

/// Asks KVM about itself; an errno if the node does not open.
fn kvm(node: &Path) -> Result<Kvm, i32> {
    let path = CString::new(node.as_os_str().as_bytes()).map_err(|_nul| libc::ENOENT)?;
    let fd = kvm_ioctls::Kvm::new_with_path(path).map_err(|error| error.errno())?;
    let without = |caps: &[(Cap, &'static str)]| {
        caps.iter()
            .filter(|(cap, _)| !fd.check_extension(*cap))
            .map(|(_, name)| *name)
            .collect()
    };
    Ok(Kvm {
        api_version: fd.get_api_version(),
        missing: without(&REQUIRED),
        missed: without(&USEFUL),
        max_vcpus: fd.get_max_vcpus(),
        // The only proof: with another hypervisor on the processor, all else looks well.
        create_vm: fd.create_vm().map(drop).map_err(|error| error.errno()),
    })
}

/// The node, without opening it.
fn device(root: &Path, user: &User) -> Option<Device> {
    let metadata = fs::metadata(root.join("dev/kvm")).ok()?;
    let number = metadata.rdev();
    let number = (rustix::fs::major(number), rustix::fs::minor(number));
    // name:password:gid:member,member
    let line = entry(root, "etc/group", metadata.gid());
    let group = line.as_ref().and_then(|fields| fields.first().cloned());
    let members = line
        .and_then(|fields| fields.into_iter().nth(3))
        .unwrap_or_default();
    let listed = |name: &String| members.split(',').any(|member| member == name);
    Some(Device {
        is_kvm: metadata.file_type().is_char_device() && number == KVM_DEVICE,
        mode: metadata.mode() & 0o777,
        gid: metadata.gid(),
        group,
        group_lists_user: user.name.as_ref().is_some_and(listed),
    })
}

/// The fields of the first line in a file like `/etc/passwd` whose third field is `id`.
fn entry(root: &Path, file: &str, id: u32) -> Option<Vec<String>> {
    let id = id.to_string();
    let text = read(root, file)?;
    let mut lines = text.lines().map(|line| line.split(':'));
    let fields = lines.find(|fields| fields.clone().nth(2) == Some(&id))?;
    Some(fields.map(str::to_owned).collect())
}

/// The process's ids as the kernel has them, whatever `/etc` says.
fn user(root: &Path) -> User {
    let status = read(root, "proc/self/status").unwrap_or_default();
    let ids = |key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let words = line.unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    };
    // Uid and Gid: real, effective, saved, file system. proc_pid_status(5)
    let uid = ids("Uid:").get(1).copied();
    let name = uid.and_then(|uid| entry(root, "etc/passwd", uid)?.into_iter().next());
    let mut groups = ids("Groups:");
    groups.extend(ids("Gid:").get(1));
    User { uid, name, groups }
}

fn cpu(root: &Path) -> Cpu {
    let text = read(root, "proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':'))
            .map_or("", |(_, value)| value)
    };
    let flag = |flag: &str| value("flags").split_whitespace().any(|word| word == flag);
    Cpu {
        intel: value("vendor_id").trim() == "GenuineIntel",
        vmx: flag("vmx"),
        svm: flag("svm"),
        hypervisor: flag("hypervisor"),
    }
}

fn modules(root: &Path) -> Modules {
    let directory = root.join("sys/module");
    let off = |(module, parameter): &(&str, &str)| {
        let value = read(root, &format!("sys/module/{module}/parameters/{parameter}"))?;
        let value = value.trim();
        matches!(value, "N" | "0").then(|| format!("{module}.{parameter}={value}"))
    };
    Modules {
        kvm: directory.join("kvm").exists(),
        intel: directory.join("kvm_intel").exists(),
        amd: directory.join("kvm_amd").exists(),
        pvm: directory.join("kvm_pvm").exists(),
        slow: FAST_PARAMETERS.iter().filter_map(off).collect(),
    }
}

/// The files that container engines leave as a sign.
fn container(root: &Path) -> Option<&'static str> {
    let signs = [
        (".dockerenv", "Docker"),
        ("run/.containerenv", "Podman"),
        ("run/systemd/container", "systemd-nspawn or LXC"),
        ("var/run/secrets/kubernetes.io", "Kubernetes"),
    ];
    let sign = signs.iter().find(|(file, _)| root.join(file).exists())?;
    Some(sign.1)
}

fn resources(root: &Path) -> Resources {
    let huge_pages = |file: &str| {
        let text = read(root, &format!("sys/kernel/mm/transparent_hugepage/{file}"))?;
        chosen(&text)
    };
    let meminfo = read(root, "proc/meminfo").unwrap_or_default();
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    let limits = read(root, "proc/self/limits").unwrap_or_default();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Resources {
        memory_available: kib.map(|kib| kib.saturating_mul(1 << 10)), // KiB to bytes
        huge_pages: huge_pages("enabled"),
        huge_pages_shared: huge_pages("shmem_enabled"),
        tun: root.join("dev/net/tun").exists(),
        address_space: limit("Max address space"),
        open_files: limit("Max open files"),
    }
}

/// The word in brackets: sysfs shows a choice as `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

fn read(root: &Path, file: &str) -> Option<String> {
    fs::read_to_string(root.join(file)).ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A directory that looks like `/`; removed when dropped.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let name = format!("cottage-doctor-{name}-{}", std::process::id());
            let root = Self(std::env::temp_dir().join(name));
            fs::create_dir_all(&root.0).unwrap();
            for (file, text) in files {
                let path = root.0.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            root
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn empty_root_yields_facts_without_content() {
        let root = Root::new("empty", &[]);
        let facts = gather(&root.0);
        assert!(facts.device.is_none());
        assert_eq!(facts.kvm.unwrap_err(), libc::ENOENT);
        assert!(!facts.cpu.virtualizes() && !facts.modules.kvm);
        assert_eq!(facts.user.uid, None);
    }

    #[test]
    fn node_that_is_a_plain_file_is_not_kvm() {
        let root = Root::new("plain", &[("dev/kvm", "")]);
        let facts = gather(&root.0);
        assert!(!facts.device.unwrap().is_kvm);
        assert_eq!(facts.kvm.unwrap().create_vm, Err(libc::ENOTTY));
    }

    #[test]
    fn user_is_read_from_status_and_passwd() {
        let status = "Name:\tx\nUid:\t1\t1000\t1\t1\nGid:\t5\t6\t5\t5\nGroups:\t4 104 \n";
        let passwd = "root:x:0:0::/:/bin/sh\nada:x:1000:6::/home/ada:/bin/sh\n";
        let root = Root::new(
            "user",
            &[("proc/self/status", status), ("etc/passwd", passwd)],
        );
        let user = user(&root.0);
        assert_eq!((user.uid, user.name.as_deref()), (Some(1000), Some("ada")));
        assert_eq!(user.groups, [4, 104, 6]);
    }

    #[test]
    fn group_of_the_node_and_its_members_are_looked_up() {
        let root = Root::new("group", &[("dev/kvm", "")]);
        let gid = fs::metadata(root.0.join("dev/kvm")).unwrap().gid();
        fs::create_dir_all(root.0.join("etc")).unwrap();
        fs::write(root.0.join("etc/group"), format!("kvm:x:{gid}:eve,ada\n")).unwrap();
        let name = Some("ada".to_owned());
        let device = device(
            &root.0,
            &User {
                name,
                ..User::default()
            },
        )
        .unwrap();
        assert_eq!(device.group.as_deref(), Some("kvm"));
        assert!(device.group_lists_user);
    }

    #[test]
    fn processor_flags_are_whole_words() {
        let text = "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx_not svmx hypervisor\n";
        let root = Root::new("cpu", &[("proc/cpuinfo", text)]);
        let cpu = cpu(&root.0);
        assert!(cpu.intel && cpu.hypervisor && !cpu.vmx && !cpu.svm);
    }

    #[test]
    fn modules_and_their_slow_parameters_are_found() {
        let parameters = "sys/module/kvm_intel/parameters";
        let files = [
            (&*format!("{parameters}/ept"), "N\n"),
            (&*format!("{parameters}/unrestricted_guest"), "Y\n"),
            ("sys/module/kvm/version", ""),
        ];
        let root = Root::new("modules", &files);
        let modules = modules(&root.0);
        assert!(modules.kvm && modules.intel && !modules.amd && !modules.pvm);
        assert_eq!(modules.slow, ["kvm_intel.ept=N"]);
    }

    #[test]
    fn container_engines_leave_signs() {
        let docker = Root::new("docker", &[(".dockerenv", "")]);
        let podman = Root::new("podman", &[("run/.containerenv", "")]);
        assert_eq!(container(&docker.0), Some("Docker"));
        assert_eq!(container(&podman.0), Some("Podman"));
    }

    #[test]
    fn resources_are_read_in_bytes_and_words() {
        let files = [
            ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    2048 kB\n"),
            (
                "sys/kernel/mm/transparent_hugepage/enabled",
                "always [madvise] never\n",
            ),
            (
                "proc/self/limits",
                "Max open files 1024 4096 files\nMax address space unlimited unlimited bytes\n",
            ),
            ("dev/net/tun", ""),
        ];
        let root = Root::new("resources", &files);
        let resources = resources(&root.0);
        assert_eq!(resources.memory_available, Some(2 << 20));
        assert_eq!(resources.huge_pages.as_deref(), Some("madvise"));
        assert_eq!(resources.huge_pages_shared, None);
        assert_eq!(
            (resources.open_files, resources.address_space),
            (Some(1024), None)
        );
        assert!(resources.tun);
    }
}
