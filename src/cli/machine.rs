//! Flags that describe a machine: those of `run`, and of every command that boots one.
//!
//! Read next: [`crate::config`].

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, ValueEnum};

use super::{Cli, Command};
use crate::config::console::ConsoleArg;
use crate::config::irqchip::Irqchip;

/// What describes a machine; the same for every sub-command that boots one.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct MachineArgs {
    /// Kernel to boot: vmlinux (ELF) or bzImage, such as a distribution's /boot/vmlinuz-*, or a
    /// multiboot kernel
    /// [default: built in]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Initial root file system: a cpio archive, compressed as the kernel can unpack
    /// [default: built in, with busybox]
    #[arg(long, value_name = "FILE")]
    pub initramfs: Option<PathBuf>,

    /// Root file system: a directory, whose files are copied into the guest's memory, or an image
    /// of an ext4, erofs or squashfs file system, which becomes the first disk. shared: DIR itself,
    /// by virtio-fs; ro: read only; overlay: IMAGE or DIR stays as it is; a comma in the name is
    /// written twice
    #[arg(
        long,
        value_name = "DIR|IMAGE[,shared][,ro|,overlay]",
        conflicts_with = "initramfs"
    )]
    pub rootfs: Option<OsString>,

    /// Program in that root to start as process 1 [default: its /sbin/init if it has one, else a
    /// shell]
    #[arg(long, value_name = "PATH", requires = "rootfs")]
    pub init: Option<OsString>,

    /// The kernel's modules, a directory as /lib/modules/VERSION: those that the devices need are
    /// brought and loaded [default: this host's for --kernel's version, if it has them]
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// A file for a multiboot kernel, and behind a space what the kernel is told of it; can be repeated
    #[arg(long, value_name = "FILE[ WORDS]")]
    pub module: Vec<OsString>,

    /// Kernel command line, replacing cottage's own
    #[arg(long, value_name = "STR", conflicts_with = "append")]
    pub cmdline: Option<OsString>,

    /// Words to add to cottage's own kernel command line
    #[arg(long, value_name = "STR")]
    pub append: Option<OsString>,

    /// Guest memory, with a unit: K, M, G or T, powers of 1024
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub memory: String,

    /// Number of virtual processors
    #[arg(long, value_name = "N", default_value = "1")]
    pub cpus: String,

    /// How the kernel is entered; `auto` goes by what it is, and enters Linux by the 64-bit protocol
    #[arg(long, value_enum, default_value_t = ProtocolArg::Auto)]
    pub protocol: ProtocolArg,

    /// Which interrupt controllers are in KVM: the local APICs (split), or those of a PC with its timer
    /// too (full)
    /// [default: split for Linux, full for other kernels]
    #[arg(long, value_enum)]
    pub irqchip: Option<Irqchip>,

    /// Who unpacks a compressed kernel: cottage (fast) or the kernel itself (as on a PC)
    #[arg(long, value_enum, default_value_t = UnpackArg::Host)]
    pub unpack: UnpackArg,

    /// Give the guest a virtio disk, a raw or qcow2 image or a block device; can be repeated. ro: read
    /// only; overlay: FILE stays as it is, what the guest writes is gone when the machine is, or kept
    /// in the file of overlay=FILE; format=raw, format=qcow2: what FILE is, if name and content do
    /// not agree; backing=any: an image may build on files anywhere, not only beside it; serial=TEXT:
    /// what the guest finds as its serial number; id=NAME: what cottage calls it; a comma in a file's
    /// name is written twice
    #[arg(long, value_name = "FILE[,ro|,overlay[=FILE]][,OPTION...]")]
    pub disk: Vec<OsString>,

    /// Give the guest a virtio network card; can be repeated. tap=NAME: its cable leads to a tap
    /// device of the host's; user: to passt, which needs no rights; mac=: its Ethernet address;
    /// ip=, gw=, dhcp: what our init does with it; forward=tcp:8080:80: port 8080 of the host's
    /// is the guest's port 80
    #[arg(long, value_name = "tap=NAME|user[,OPTION...]")]
    pub net: Vec<OsString>,

    /// Share a folder of the host's with the guest (virtio-fs); can be repeated. Our init mounts it
    /// at /mnt/TAG, or at PATH; elsewhere: mount -t virtiofs TAG DIR. ro: the guest only reads; a
    /// comma in HOSTDIR is written twice
    #[arg(long, value_name = "HOSTDIR:TAG[,ro][,at=PATH]")]
    pub share: Vec<OsString>,

    /// Map a file into the guest's memory (virtio-pmem), where it is /dev/pmem0; can be repeated.
    /// ro: the guest only reads, and machines with the same FILE share its pages (the default); rw:
    /// what it writes goes to FILE; a comma in FILE is written twice
    #[arg(long, value_name = "FILE[,ro|,rw]")]
    pub pmem: Vec<OsString>,

    /// Give the guest a virtio source of random numbers: the host's
    #[arg(long)]
    pub rng: bool,

    /// Connect programs of the host's with the guest's through Unix sockets, by virtio-vsock. Who
    /// connects to PATH and writes `CONNECT <port>` reaches that port of the guest's; what the guest
    /// connects to, at port P of the host (context id 2), is the socket PATH_P; cid=: the guest's
    /// own context id, by default 3; a comma in PATH is written twice
    #[arg(long, value_name = "PATH[,cid=N]")]
    pub vsock: Option<OsString>,
    /// The guest's console: its serial port, or a virtio console, which prints a page of text for
    /// one VM exit and knows the terminal's size
    #[arg(long, value_enum, default_value_t = ConsoleArg::TtyS0)]
    pub console: ConsoleArg,

    /// Give the guest a channel, /dev/virtio-ports/NAME; can be repeated. PATH on the host: nothing
    /// there yet: cottage listens on a Unix socket; a socket: it connects; a file or FIFO: gets what
    /// the guest writes
    #[arg(long, value_name = "NAME=PATH")]
    pub port: Vec<OsString>,

    /// Let the guest give memory back: what it frees, and SIZE of it from the start
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true,
          default_missing_value = "0M")]
    pub balloon: Option<String>,

    /// Let the guest end the run by writing a byte v to this I/O port, with status v * 2 + 1 (as
    /// QEMU's isa-debug-exit does; 0xf4 is what test programs mostly use)
    #[arg(long, value_name = "PORT")]
    pub debug_exit: Option<String>,

    /// Command and arguments for the guest to run instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

impl MachineArgs {
    /// The first flag or the command that is not as it would be by default.
    pub fn first_given(&self) -> Option<String> {
        let Ok(Cli {
            command: Command::Run(default),
        }) = Cli::try_parse_from(["cottage", "run"])
        else {
            return None;
        };
        let default = default.machine.to_words();
        let mut words = self.to_words().into_iter();
        let given = words.find(|word| !default.contains(word))?;
        Some(given.to_string_lossy().into_owned())
    }

    /// The words that parse to this: for a child process with the same machine.
    pub fn to_words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut flag = |name: &str, value: Option<&OsStr>| {
            if let Some(value) = value {
                words.push(joined(name, value));
            }
        };
        flag("--kernel", self.kernel.as_deref().map(Path::as_os_str));
        flag(
            "--initramfs",
            self.initramfs.as_deref().map(Path::as_os_str),
        );
        flag("--rootfs", self.rootfs.as_deref());
        flag("--init", self.init.as_deref());
        flag("--modules", self.modules.as_deref().map(Path::as_os_str));
        for module in &self.module {
            flag("--module", Some(module));
        }
        flag("--cmdline", self.cmdline.as_deref());
        flag("--append", self.append.as_deref());
        flag("--memory", Some(OsStr::new(&self.memory)));
        flag("--cpus", Some(OsStr::new(&self.cpus)));
        flag("--protocol", Some(OsStr::new(self.protocol.word())));
        flag(
            "--irqchip",
            self.irqchip.map(|chip| OsStr::new(chip.word())),
        );
        flag("--unpack", Some(OsStr::new(self.unpack.word())));
        for disk in &self.disk {
            flag("--disk", Some(disk));
        }
        for net in &self.net {
            flag("--net", Some(net));
        }
        for share in &self.share {
            flag("--share", Some(share));
        }
        for pmem in &self.pmem {
            flag("--pmem", Some(pmem));
        }
        flag("--debug-exit", self.debug_exit.as_deref().map(OsStr::new));
        flag("--console", Some(OsStr::new(self.console.word())));
        for port in &self.port {
            flag("--port", Some(port));
        }
        flag("--balloon", self.balloon.as_deref().map(OsStr::new));
        if self.rng {
            words.push("--rng".into());
        }
        words.extend(self.vsock.iter().map(|vsock| joined("--vsock", vsock)));
        words.push("--".into());
        words.extend(self.command.iter().cloned());
        words
    }
}

/// A flag and its value as one word.
fn joined(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(value);
    word
}

/// Values of `--protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtocolArg {
    /// What the kernel offers; for Linux the 64-bit protocol
    Auto,
    /// Linux's 64-bit boot protocol
    Linux64,
    /// Xen's PVH entry point
    Pvh,
    /// Multiboot, version 1
    Multiboot,
}

impl ProtocolArg {
    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Linux64 => "linux64",
            Self::Pvh => "pvh",
            Self::Multiboot => "multiboot",
        }
    }
}

/// Values of `--unpack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnpackArg {
    /// cottage unpacks and loads the ELF image inside
    Host,
    /// The kernel's own decompressor runs in the guest
    Guest,
}

impl UnpackArg {
    fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest => "guest",
        }
    }
}
