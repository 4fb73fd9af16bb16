//! Kernel modules: which ones the machine's devices need, where they are, and in which order they go.
//!
//! Kernels of distributions have their virtio drivers as modules, in `/lib/modules/VERSION`. The few
//! that a machine needs travel in the initramfs, unpacked, and our init loads them one after the
//! other: it needs to know nothing of dependencies, and no modprobe.
//!
//! ```text
//!  devices ──► wanted ──► modules.dep: what each needs first ──► files, unpacked ──► initramfs
//! ```
//!
//! The directory is taken as given, or else is this host's own for the version that a bzImage says it
//! is. Modules are the user's files; what is in them only the guest's kernel looks at.
//!
//! Sources: depmod(8), modules.dep(5); `[module]` Linux `include/linux/vermagic.h` and
//! `kernel/module/version.c`, v6.12. Read next: [`crate::guest_request`].

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::boot::blob::{self, Blob};
use crate::boot::identify::HEAD;
use crate::boot::unpack::{self, Algorithm, Size};
use crate::config::VmConfig;
use crate::config::rootfs::{Mode, Root};

/// Where a system has its modules.
const SYSTEM: &str = "/lib/modules";
/// Most bytes of a module: the largest of Debian's are some 10 MiB.
const MODULE_MAX: u64 = 64 << 20; // 64 MiB
/// Most bytes of a list of modules.
const LIST_MAX: u64 = 16 << 20; // 16 MiB
/// `[module]` What comes before the version a module was made for, and after it.
const VERMAGIC: &[u8] = b"\0vermagic=";

/// Why modules cannot be brought along.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no list.
    #[error(
        "Cannot use --modules {}: it should have a file modules.dep, as /lib/modules/VERSION has; \
         depmod(8) makes it", directory.display()
    )]
    NoList {
        /// As given.
        directory: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A module that a device cannot do without.
    #[error(
        "{} has no module {name}, which {device} need{s}, and does not say that it is built into the \
         kernel", directory.display(), s = if device.starts_with('-') { "s" } else { "" }
    )]
    Missing {
        /// The tree.
        directory: PathBuf,
        /// The module.
        name: &'static str,
        /// For what it is needed.
        device: &'static str,
    },
    /// The modules are another kernel's.
    #[error(
        "the kernel is {kernel}, and the modules in {} are for {modules}: give --modules \
         /lib/modules/{kernel}, or leave it out if this host has that", directory.display()
    )]
    OtherKernel {
        /// The kernel's version.
        kernel: String,
        /// The modules' version.
        modules: String,
        /// The tree.
        directory: PathBuf,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// A file cannot be unpacked.
    #[error("Cannot unpack {}", path.display())]
    Unpack {
        /// The module.
        path: PathBuf,
        /// What is wrong with it.
        source: unpack::Error,
    },
}

/// Modules that others ask for by a name that only modprobe could resolve, not by modules.dep: the
/// one that asks, and the one it means.
const ASKED_FOR: [(&str, &str); 2] = [("ext4", "crc32c_generic"), ("libcrc32c", "crc32c_generic")];

/// A module to load.
#[derive(Debug)]
pub struct Module {
    /// As lsmod(8) has it.
    pub name: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

/// A module that is wanted, and for what.
struct Wanted {
    name: &'static str,
    /// The flag that cannot do without it; none for what only some kernels have.
    device: Option<&'static str>,
}

const fn must(name: &'static str, device: &'static str) -> Wanted {
    Wanted {
        name,
        device: Some(device),
    }
}

const fn may(name: &'static str) -> Wanted {
    Wanted { name, device: None }
}

/// What the devices of `config` need, each before what builds on it. Dependencies that modules.dep
/// knows of are not listed.
fn wanted(config: &VmConfig) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    if config.virtio_devices() > 0 {
        wanted.push(must("virtio_mmio", "virtio devices"));
    }
    if !config.disks.is_empty() {
        wanted.push(must("virtio_blk", "disks"));
    }
    if !config.nets.is_empty() {
        // DHCP is spoken through packet sockets.
        wanted.extend([must("virtio_net", "--net"), may("af_packet")]);
    }
    if config.rng {
        wanted.push(must("virtio_rng", "--rng"));
    }
    if config.virtio_console || !config.ports.is_empty() {
        let device = "--console hvc0, and --port,";
        wanted.push(must("virtio_console", device));
    }
    if config.vsock.is_some() {
        wanted.push(must("vmw_vsock_virtio_transport", "--vsock"));
    }
    if config.balloon.is_some() {
        wanted.push(must("virtio_balloon", "--balloon"));
    }
    if !config.shares.is_empty() {
        wanted.push(must("virtiofs", "shared folders"));
    }
    if !config.pmems.is_empty() {
        // The device, and the block device on it.
        wanted.extend([must("virtio_pmem", "--pmem"), must("nd_pmem", "--pmem")]);
    }
    if let Some(Root::Image(system, _)) = &config.root {
        wanted.push(must(system.name(), "--rootfs"));
    }
    if let Some(Root::Image(_, mode) | Root::Shared(mode)) = &config.root
        && *mode == Mode::OverlayInGuest
    {
        wanted.push(must("overlay", "--rootfs with overlay"));
    }
    wanted
}

/// The modules that `config` needs of a kernel of `version` (none, if it does not say), in the order
/// to load them in, and where they are from. Empty if there is nothing to bring.
///
/// # Errors
/// [`Error`], naming the directory or the module.
pub fn collect(config: &VmConfig, version: Option<&str>) -> Result<(PathBuf, Vec<Module>), Error> {
    let wanted = wanted(config);
    let directory = match (&config.modules, version) {
        (Some(directory), _) => directory.clone(),
        (None, Some(version)) if !wanted.is_empty() && is_plain(version) => {
            Path::new(SYSTEM).join(version)
        }
        _ => return Ok((PathBuf::new(), Vec::new())),
    };
    if config.modules.is_none() && !directory.join("modules.dep").exists() {
        return Ok((directory, Vec::new()));
    }
    let tree = Tree::open(&directory)?;
    let mut modules = Vec::new();
    for path in tree.order(&wanted)? {
        let path = directory.join(path);
        let bytes = read(&path)?;
        if let (Some(kernel), Some(made_for)) = (version, made_for(&bytes))
            && kernel != made_for
        {
            return Err(Error::OtherKernel {
                kernel: kernel.to_owned(),
                modules: made_for,
                directory,
            });
        }
        let name = name_of(&path.to_string_lossy());
        modules.push(Module { name, bytes });
    }
    Ok((directory, modules))
}

/// Whether a kernel's word is one directory's name.
fn is_plain(version: &str) -> bool {
    !version.starts_with('.') && !version.contains('/')
}

/// What depmod(8) has written down.
struct Tree<'a> {
    directory: &'a Path,
    /// By name: the file, and the files that it needs.
    modules: HashMap<String, (String, Vec<String>)>,
    built_in: HashSet<String>,
}

impl<'a> Tree<'a> {
    fn open(directory: &'a Path) -> Result<Self, Error> {
        let list = list(&directory.join("modules.dep")).map_err(|source| Error::NoList {
            directory: directory.to_owned(),
            source,
        })?;
        let entries = list.lines().filter_map(|line| line.split_once(':'));
        let modules = entries.map(|(path, needs)| {
            let needs = needs.split_whitespace().map(str::to_owned);
            (name_of(path), (path.to_owned(), needs.collect()))
        });
        // A tree without this one has none built in, as far as we know.
        let built_in = list_or_empty(&directory.join("modules.builtin"));
        Ok(Self {
            directory,
            modules: modules.collect(),
            built_in: built_in.lines().map(name_of).collect(),
        })
    }

    /// Paths of the files of `wanted` and of all that they need, what is needed first.
    fn order(&self, wanted: &[Wanted]) -> Result<Vec<&str>, Error> {
        let (mut order, mut met) = (Vec::new(), HashSet::new());
        for Wanted { name, device } in wanted {
            if self.modules.contains_key(*name) {
                self.visit(name, &mut met, &mut order);
            } else if let Some(device) = device
                && !self.built_in.contains(*name)
            {
                return Err(Error::Missing {
                    directory: self.directory.to_owned(),
                    name,
                    device,
                });
            }
        }
        Ok(order)
    }

    /// Each module is met once, so a list that goes in circles ends too.
    fn visit<'t>(&'t self, name: &str, met: &mut HashSet<String>, order: &mut Vec<&'t str>) {
        let Some((path, needs)) = self.modules.get(name) else {
            return;
        };
        if !met.insert(name.to_owned()) {
            return;
        }
        for need in needs {
            self.visit(&name_of(need), met, order);
        }
        for (_, meant) in ASKED_FOR.iter().filter(|(asks, _)| *asks == name) {
            self.visit(meant, met, order);
        }
        order.push(path);
    }
}

/// A list of depmod's, bounded.
fn list(path: &Path) -> io::Result<String> {
    let len = fs::metadata(path)?.len();
    if len > LIST_MAX {
        return Err(io::Error::other(format!(
            "it has {len} bytes, more than any list of modules"
        )));
    }
    fs::read_to_string(path)
}

fn list_or_empty(path: &Path) -> String {
    list(path).unwrap_or_default()
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` is virtio_rng: the kernel takes - for _.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split(".ko").next().unwrap_or(file);
    name.replace('-', "_")
}

/// The module in the file at `path`, unpacked.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let blob = Blob::open(path)?;
    let Some(algorithm) = Algorithm::detect(&blob.head(HEAD)?) else {
        return Ok(blob.read_vec(0, blob.len(), MODULE_MAX)?);
    };
    let size = Size {
        limit: MODULE_MAX,
        expected: None,
    };
    unpack::unpack(&blob, 0, blob.len(), algorithm, size).map_err(|source| Error::Unpack {
        path: path.to_owned(),
        source,
    })
}

/// `[module]` The version of the kernel that a module was made for: the first word of its vermagic.
fn made_for(module: &[u8]) -> Option<String> {
    let at = module
        .windows(VERMAGIC.len())
        .position(|window| window == VERMAGIC)?;
    let text = module.get(at + VERMAGIC.len()..)?;
    let word = text.split(|byte| matches!(byte, 0 | b' ')).next()?;
    Some(String::from_utf8_lossy(word).into_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    /// A tree with modules.dep as given, and a file for each of `modules`.
    fn tree(name: &str, list: &str, modules: &[(&str, &[u8])]) -> PathBuf {
        let top = std::env::temp_dir().join(format!("cottage-{}-{name}", std::process::id()));
        let _left_over = fs::remove_dir_all(&top);
        fs::create_dir_all(top.join("kernel")).unwrap();
        fs::write(top.join("modules.dep"), list).unwrap();
        for (path, bytes) in modules {
            fs::write(top.join(path), bytes).unwrap();
        }
        top
    }

    fn config(flags: &[&str], modules: Option<&Path>) -> VmConfig {
        let words = ["cottage", "run"].iter().chain(flags);
        let mut config = match Cli::try_parse_from(words).unwrap().command {
            Command::Run(args) => VmConfig::from_args(args.machine).unwrap(),
            other => panic!("parsed as {other:?}"),
        };
        config.modules = modules.map(Path::to_owned);
        config
    }

    const LIST: &str = "kernel/virtio_mmio.ko: kernel/virtio_ring.ko kernel/virtio.ko\n\
        kernel/virtio_ring.ko: kernel/virtio.ko\nkernel/virtio.ko:\n\
        kernel/virtio-rng.ko: kernel/virtio_ring.ko kernel/virtio.ko\n";

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let files = ["virtio_mmio", "virtio_ring", "virtio", "virtio-rng"];
        let paths = files.map(|name| format!("kernel/{name}.ko"));
        let files: Vec<_> = paths.iter().map(|path| (&**path, &b"x"[..])).collect();
        let top = tree("order", LIST, &files);
        let (from, modules) = collect(&config(&["--rng"], Some(&top)), None).unwrap();
        let names: Vec<_> = modules.iter().map(|module| &*module.name).collect();
        assert_eq!(
            names,
            ["virtio", "virtio_ring", "virtio_mmio", "virtio_rng"]
        );
        assert_eq!((from, &*modules[0].bytes), (top.clone(), &b"x"[..]));
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn list_that_goes_in_circles_ends() {
        let list = "kernel/virtio_mmio.ko: kernel/a.ko\nkernel/a.ko: kernel/virtio_mmio.ko\n";
        let top = tree("circle", list, &[]);
        let tree = Tree::open(&top).unwrap();
        let order = tree.order(&[must("virtio_mmio", "all")]).unwrap();
        assert_eq!(order, ["kernel/a.ko", "kernel/virtio_mmio.ko"]);
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn ext4_brings_its_checksums_where_they_are_a_module() {
        let list = "kernel/ext4.ko: kernel/jbd2.ko\nkernel/jbd2.ko:\nkernel/crc32c_generic.ko:\n";
        let top = tree("ext4", list, &[]);
        let tree = Tree::open(&top).unwrap();
        let order = tree.order(&[must("ext4", "all")]).unwrap();
        let names: Vec<_> = order.into_iter().map(name_of).collect();
        assert_eq!(names, ["jbd2", "crc32c_generic", "ext4"]);
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn module_that_is_nowhere_is_an_error_and_one_that_is_built_in_is_not() {
        let top = tree("missing", "", &[]);
        let config = config(&["--rng"], Some(&top));
        let text = collect(&config, None).unwrap_err().to_string();
        assert!(
            text.ends_with(
                "has no module virtio_mmio, which virtio devices need, and does not say that it is \
                 built into the kernel"
            ),
            "{text}"
        );
        let built_in = "kernel/a/virtio_mmio.ko\n";
        fs::write(top.join("modules.builtin"), built_in).unwrap();
        let text = collect(&config, None).unwrap_err().to_string();
        assert!(
            text.contains("no module virtio_rng, which --rng needs"),
            "{text}"
        );
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn modules_of_another_kernel_are_refused_with_both_versions() {
        let module: &[u8] = b"\x7fELF\0vermagic=6.1.0 SMP preempt\0";
        let top = tree(
            "version",
            "kernel/virtio_mmio.ko:\nkernel/virtio-rng.ko:\n",
            &[
                ("kernel/virtio_mmio.ko", module),
                ("kernel/virtio-rng.ko", module),
            ],
        );
        let config = config(&["--rng"], Some(&top));
        assert_eq!(collect(&config, Some("6.1.0")).unwrap().1.len(), 2);
        let text = collect(&config, Some("6.12.1")).unwrap_err().to_string();
        assert!(
            text.starts_with("the kernel is 6.12.1, and the modules in ")
                && text.contains(" are for 6.1.0: give --modules /lib/modules/6.12.1"),
            "{text}"
        );
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn packed_module_is_unpacked() {
        let packed = fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/packed/sample.xz"
        ));
        let list = "kernel/virtio_mmio.ko.xz:\n";
        let top = tree(
            "packed",
            list,
            &[("kernel/virtio_mmio.ko.xz", &packed.unwrap())],
        );
        let tree = Tree::open(&top).unwrap();
        assert_eq!(tree.modules["virtio_mmio"].0, "kernel/virtio_mmio.ko.xz");
        let bytes = read(&top.join("kernel/virtio_mmio.ko.xz")).unwrap();
        let gzip = read(Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/packed/sample.gz"
        )));
        assert!(bytes == gzip.unwrap() && !bytes.is_empty());
        fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn directory_without_a_list_is_refused_and_none_at_all_is_quiet() {
        let config = config(&["--rng"], Some(Path::new("/nowhere")));
        let text = collect(&config, None).unwrap_err().to_string();
        assert!(text.contains("--modules /nowhere: it should have a file modules.dep"));
        let config = VmConfig {
            modules: None,
            ..config
        };
        assert!(collect(&config, Some("0.0.0-none")).unwrap().1.is_empty());
        assert!(collect(&config, Some("../../etc")).unwrap().1.is_empty());
        assert!(collect(&config, None).unwrap().1.is_empty());
    }
}
