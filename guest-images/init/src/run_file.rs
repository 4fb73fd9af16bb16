//! `/.cottage/run`: what the VMM asks init to run.
//!
//! The file is a sequence of NUL-terminated strings `key=value`. The VMM appends it to every
//! initramfs. NUL ends each string because a command's argument may hold any other byte; and so a
//! value can go to execve(2) as it stands in the file.

use core::ffi::CStr;

/// Where the command's standard input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// Somebody types.
    Tty,
    /// Bytes from a file or pipe on the host, ended by a serial BREAK.
    Pipe,
    /// The same through a console that has no BREAK: the VMM makes the marks of [`crate::parmrk`].
    Coded,
    /// Nothing to read.
    None,
}

/// Where standard output goes on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    /// A terminal, which needs a carriage return with each newline.
    Tty,
    /// A file or pipe, which must get the bytes as they are.
    Pipe,
}

/// One thing to do with a network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkStep<'a> {
    /// Switch it on.
    Up {
        /// The kernel's name for it.
        card: &'a CStr,
    },
    /// Give it an address.
    Address {
        /// The kernel's name for it.
        card: &'a CStr,
        /// Address and length of the prefix, as `ip address` takes them.
        ip: &'a CStr,
    },
    /// Send through it what is for no network at hand.
    Gateway {
        /// The kernel's name for it.
        card: &'a CStr,
        /// The gateway's address.
        gw: &'a CStr,
    },
    /// Ask its network for an address.
    Dhcp {
        /// The kernel's name for it.
        card: &'a CStr,
    },
}

/// A folder of the host's to mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share<'a> {
    /// What the host calls it.
    pub tag: &'a CStr,
    /// Where it goes.
    pub at: &'a CStr,
    /// Whether it can only be read. The host sees to that; here it is for `mount` to show.
    pub read_only: bool,
}

/// What a guest may do to a root file system of the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootMode {
    /// What it likes.
    Write,
    /// Read.
    ReadOnly,
    /// Write over it, in memory.
    Overlay,
}

/// A root file system of the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root<'a> {
    /// As mount(2) names what is on the first disk, or `virtiofs` for a folder of the host's; `None` for
    /// files in the initramfs.
    pub kind: Option<&'a CStr>,
    /// What may be done to it.
    pub mode: RootMode,
}

/// The parsed file; values borrow from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RunFile<'a> {
    /// Where standard input comes from.
    pub stdin: Stdin,
    /// Where standard output goes.
    pub stdout: Stdout,
    /// Height of the host's terminal, 0 when unknown.
    pub rows: u16,
    /// Width of the host's terminal, 0 when unknown.
    pub cols: u16,
    /// The host's terminal type.
    pub term: &'a CStr,
    /// The guest's name, if the VMM chose one.
    pub hostname: Option<&'a CStr>,
    /// What becomes the root, if not the initramfs.
    pub root: Option<Root<'a>>,
    /// The program in that root which is to be process 1 instead of us.
    pub init: Option<&'a CStr>,
    bytes: &'a [u8],
}

impl<'a> RunFile<'a> {
    /// Parses the file. An empty one means a shell on a terminal.
    ///
    /// Unknown keys are passed over, so that a newer VMM can boot an older initramfs.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Self {
        let mut run = Self {
            stdin: Stdin::Tty,
            stdout: Stdout::Tty,
            rows: 0,
            cols: 0,
            // What every terminal of today at least understands.
            term: c"vt100",
            hostname: None,
            root: None,
            init: None,
            bytes,
        };
        let mut mode = RootMode::Write;
        for (key, value) in entries(bytes) {
            match (key, value.to_bytes()) {
                (b"stdin", b"pipe") => run.stdin = Stdin::Pipe,
                (b"stdin", b"coded") => run.stdin = Stdin::Coded,
                (b"stdin", b"none") => run.stdin = Stdin::None,
                (b"stdout", b"pipe") => run.stdout = Stdout::Pipe,
                (b"rows", digits) => run.rows = number(digits),
                (b"cols", digits) => run.cols = number(digits),
                (b"term", name) if !name.is_empty() => run.term = value,
                (b"hostname", name) if !name.is_empty() => run.hostname = Some(value),
                (b"root", b"directory") => run.root = Some(Root { kind: None, mode }),
                (b"root", _) => {
                    let kind = Some(value);
                    run.root = Some(Root { kind, mode });
                }
                (b"rootmode", b"ro") => mode = RootMode::ReadOnly,
                (b"rootmode", b"overlay") => mode = RootMode::Overlay,
                (b"init", path) if !path.is_empty() => run.init = Some(value),
                _ => {}
            }
        }
        // The two keys may come in any order.
        if let Some(root) = &mut run.root {
            root.mode = mode;
        }
        run
    }

    /// What to do with network cards, in order.
    pub fn network(&self) -> impl Iterator<Item = NetworkStep<'a>> + use<'a> {
        let mut card = None;
        entries(self.bytes).filter_map(move |(key, value)| {
            if key == b"nic" {
                card = Some(value);
                return Some(NetworkStep::Up { card: value });
            }
            let card = card?;
            match key {
                b"ip" => Some(NetworkStep::Address { card, ip: value }),
                b"gw" => Some(NetworkStep::Gateway { card, gw: value }),
                b"dhcp" => Some(NetworkStep::Dhcp { card }),
                _ => None,
            }
        })
    }

    /// Names of ports that programs will look for.
    pub fn ports(&self) -> impl Iterator<Item = &'a CStr> + use<'a> {
        entries(self.bytes).filter_map(|(key, value)| (key == b"port").then_some(value))
    }

    /// The folders to mount, in order. `at` is the last of what is said of one.
    pub fn shares(&self) -> impl Iterator<Item = Share<'a>> + use<'a> {
        let mut tag = None;
        let mut read_only = false;
        entries(self.bytes).filter_map(move |(key, value)| {
            match key {
                b"share" => (tag, read_only) = (Some(value), false),
                b"ro" => read_only = true,
                b"at" => {
                    return tag.take().map(|tag| Share {
                        tag,
                        at: value,
                        read_only,
                    });
                }
                _ => {}
            }
            None
        })
    }

    /// Files of kernel modules, in the order to load them in.
    pub fn modules(&self) -> impl Iterator<Item = &'a CStr> + use<'a> {
        entries(self.bytes).filter_map(|(key, value)| (key == b"module").then_some(value))
    }

    /// The command and its arguments, in order; none asks for a shell.
    pub fn args(&self) -> impl Iterator<Item = &'a CStr> + use<'a> {
        entries(self.bytes).filter_map(|(key, value)| (key == b"arg").then_some(value))
    }
}

/// Splits the file. A last string without its NUL was cut short and is left out.
fn entries(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &CStr)> {
    bytes
        .split_inclusive(|&byte| byte == 0)
        .filter_map(|string| {
            let equals = string.iter().position(|&byte| byte == b'=')?;
            let (key, rest) = string.split_at_checked(equals)?;
            let value = CStr::from_bytes_with_nul(rest.get(1..)?).ok()?;
            Some((key, value))
        })
}

/// Decimal digits as a number; 0, which stands for "unknown", if they are anything else.
fn number(digits: &[u8]) -> u16 {
    core::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_file_means_a_shell_on_a_terminal() {
        let run = RunFile::parse(b"");
        assert_eq!((run.stdin, run.stdout), (Stdin::Tty, Stdout::Tty));
        assert_eq!((run.rows, run.cols), (0, 0));
        assert_eq!(run.term, c"vt100");
        assert_eq!(run.hostname, None);
        assert_eq!(run.args().count(), 0);
    }

    #[test]
    fn every_key_is_read() {
        let run = RunFile::parse(
            b"stdin=pipe\0stdout=pipe\0rows=50\0cols=132\0term=xterm\0hostname=barn\0arg=ls\0",
        );
        assert_eq!((run.stdin, run.stdout), (Stdin::Pipe, Stdout::Pipe));
        assert_eq!((run.rows, run.cols), (50, 132));
        assert_eq!(run.term, c"xterm");
        assert_eq!(run.hostname, Some(c"barn"));
        assert_eq!(run.args().collect::<Vec<_>>(), [c"ls"]);
    }

    #[test]
    fn arguments_keep_order_equals_signs_newlines_and_emptiness() {
        let run = RunFile::parse(b"arg=env\0rows=1\0arg=A=b=c\0arg=\0arg=two\nlines\0");
        assert_eq!(
            run.args().collect::<Vec<_>>(),
            [c"env", c"A=b=c", c"", c"two\nlines"]
        );
    }

    #[test]
    fn steps_for_the_network_belong_to_the_card_before_them() {
        let run = RunFile::parse(
            b"ip=1.2.3.4/8\0nic=eth0\0dhcp=yes\0arg=ls\0nic=eth1\0ip=10.0.0.2/24\0gw=10.0.0.1\0",
        );
        let (eth0, eth1) = (c"eth0", c"eth1");
        let steps = [
            NetworkStep::Up { card: eth0 },
            NetworkStep::Dhcp { card: eth0 },
            NetworkStep::Up { card: eth1 },
            NetworkStep::Address {
                card: eth1,
                ip: c"10.0.0.2/24",
            },
            NetworkStep::Gateway {
                card: eth1,
                gw: c"10.0.0.1",
            },
        ];
        assert!(run.network().eq(steps));
    }

    #[test]
    fn coded_input_and_ports_are_read() {
        let run = RunFile::parse(b"stdin=coded\0port=a\0arg=ls\0port=b\0");
        assert_eq!(run.stdin, Stdin::Coded);
        assert!(run.ports().eq([c"a", c"b"]));
    }

    #[test]
    fn each_folder_has_its_place_and_rights() {
        let run = RunFile::parse(
            b"at=/nowhere\0share=a\0ro=yes\0at=/mnt/a\0share=b\0at=/x y\0at=/z\0arg=ls\0share=c\0",
        );
        let share = |tag, at, read_only| Share { tag, at, read_only };
        let shares = [share(c"a", c"/mnt/a", true), share(c"b", c"/x y", false)];
        assert!(run.shares().eq(shares));
    }

    #[test]
    fn root_is_a_disk_or_a_directory_with_a_mode_in_any_order() {
        let root = |bytes| RunFile::parse(bytes).root;
        assert_eq!(root(b"hostname=a\0"), None);
        let directory = Root {
            kind: None,
            mode: RootMode::Write,
        };
        assert_eq!(root(b"root=directory\0"), Some(directory));
        let disk = |kind, mode| {
            Some(Root {
                kind: Some(kind),
                mode,
            })
        };
        assert_eq!(
            root(b"rootmode=ro\0root=ext4\0"),
            disk(c"ext4", RootMode::ReadOnly)
        );
        assert_eq!(
            root(b"root=erofs\0rootmode=overlay\0"),
            disk(c"erofs", RootMode::Overlay)
        );
    }

    #[test]
    fn modules_keep_their_order_and_init_is_a_path() {
        let run = RunFile::parse(b"module=/b.ko\0init=/sbin/init\0module=/a.ko\0");
        assert_eq!(run.modules().collect::<Vec<_>>(), [c"/b.ko", c"/a.ko"]);
        assert_eq!(run.init, Some(c"/sbin/init"));
    }

    #[test]
    fn unknown_keys_and_values_are_passed_over() {
        let run = RunFile::parse(b"colour=blue\0stdin=telepathy\0junk\0arg=true\0");
        assert_eq!(run.stdin, Stdin::Tty);
        assert_eq!(run.args().collect::<Vec<_>>(), [c"true"]);
    }

    #[test]
    fn string_without_nul_is_left_out() {
        let run = RunFile::parse(b"arg=rm\0arg=/tm");
        assert_eq!(run.args().collect::<Vec<_>>(), [c"rm"]);
    }

    #[test]
    fn size_out_of_range_is_unknown() {
        let run = RunFile::parse(b"rows=70000\0cols=-1\0");
        assert_eq!((run.rows, run.cols), (0, 0));
    }
}
