//! What cottage asks of the init in the guest: the command to run, and what its console is.
//!
//! The request travels as a file in a small cpio segment behind the initramfs: the kernel unpacks
//! concatenated archives one over the other, so any initramfs can be given one, and unlike the
//! kernel command line it has neither a length limit nor quoting.
//!
//! With the built-in initramfs our init is `/init`. With a user's own and a command to run, our
//! init comes along in the segment and is named on the command line. With a user's own and no
//! command nothing is added: that guest is the user's.
//!
//! A root of the user's (`--rootfs`) needs the built-in initramfs: its init mounts the first disk or the
//! folder that is the root's, or takes the directory [`ROOT_PATH`], and makes that the root. Kernel modules travel as files too.
//!
//! The reader is `guest-images/init`. Source: Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`, v6.12.
//! Read next: [`crate::vcpu`].

use std::os::unix::ffi::OsStrExt;

use crate::config::net::Address;
use crate::config::rootfs::{self, Mode, Root};
use crate::config::{Source, VmConfig};
use crate::console::terminal;
use crate::event_loop::GuestEnd;

/// Where the guest finds the request.
pub const REQUEST_PATH: &str = ".cottage/run";
/// Where it finds our init when the initramfs is the user's.
pub const INIT_PATH: &str = ".cottage/init";
/// Where it finds the files of a directory that is to be its root.
pub const ROOT_PATH: &str = ".cottage/root";
/// Where it finds kernel modules.
pub const MODULES_PATH: &str = ".cottage/modules";
/// Tells the kernel to start that init.
pub const INIT_PARAMETER: &str = "rdinit=/.cottage/init";

/// Whether our init is what the kernel starts.
pub fn starts_our_init(config: &VmConfig) -> bool {
    config.initramfs == Source::BuiltIn || !config.command.is_empty()
}

/// Who will be at the other end of the serial line.
pub fn guest_end(config: &VmConfig) -> GuestEnd {
    if starts_our_init(config) {
        GuestEnd::OurInit
    } else {
        GuestEnd::Foreign
    }
}

/// Whether our init must be brought along.
pub fn needs_init(config: &VmConfig) -> bool {
    starts_our_init(config) && config.initramfs != Source::BuiltIn
}

/// What stdin and stdout are, as far as the guest should know.
#[derive(Clone, Debug)]
pub struct HostConsole {
    interactive: bool,
    /// Bytes and their end come as [`crate::console::coding`] makes them.
    coded: bool,
    window: Option<(u16, u16)>,
    term: Option<String>,
}

impl HostConsole {
    /// Looks at this process's; `virtio`: the guest has a virtio console, and no serial one.
    pub fn of_this_process(virtio: bool) -> Self {
        let interactive = terminal::is_interactive();
        Self {
            interactive,
            coded: virtio && !interactive,
            window: terminal::window_size(),
            term: std::env::var("TERM").ok(),
        }
    }
}

/// The request file: NUL-terminated `key=value` strings, `arg` once a word.
///
/// A `nic` begins what is said of one network card; the kernel calls them eth0, eth1 and so on, in
/// the order in which it finds the devices. A `share` begins what is said of one folder. `modules`
/// are names of files in the initramfs, in the order to load them in.
pub fn request(config: &VmConfig, modules: &[String], console: &HostConsole) -> Vec<u8> {
    let kind = if console.interactive { "tty" } else { "pipe" };
    let mut records = vec![
        format!("stdin={}", if console.coded { "coded" } else { kind }),
        format!("stdout={kind}"),
        "hostname=cottage".to_owned(),
    ];
    if let Some((rows, columns)) = console.window {
        records.extend([format!("rows={rows}"), format!("cols={columns}")]);
    }
    if let Some(term) = &console.term {
        records.push(format!("term={term}"));
    }
    records.extend(modules.iter().map(|path| format!("module=/{path}")));
    records.extend(config.root.iter().flat_map(root));
    // Our init waits for them and gives them names.
    records.extend(
        config
            .ports
            .iter()
            .map(|port| format!("port={}", port.name)),
    );
    for (number, net) in config.nets.iter().enumerate() {
        records.push(format!("nic=eth{number}"));
        match net.address {
            Address::None => {}
            Address::Dhcp => records.push("dhcp=yes".to_owned()),
            Address::Static(ip, len, gw) => {
                records.push(format!("ip={ip}/{len}"));
                records.extend(gw.map(|gw| format!("gw={gw}")));
            }
        }
    }
    let mut file: Vec<u8> = records
        .into_iter()
        .flat_map(|r| [r.into_bytes(), vec![0]])
        .flatten()
        .collect();
    // The root's own is said by `root`.
    let shares = config.shares.iter();
    for share in shares.filter(|share| share.tag != rootfs::TAG) {
        file.extend(format!("share={}\0", share.tag).bytes());
        if share.read_only {
            file.extend_from_slice(b"ro=yes\0");
        }
        file.extend_from_slice(b"at=");
        file.extend_from_slice(share.place().as_bytes());
        file.push(0);
    }
    let init = config.init.iter().map(|path| (&b"init="[..], path));
    let words = config.command.iter().map(|word| (&b"arg="[..], word));
    for (key, value) in init.chain(words) {
        file.extend_from_slice(key);
        file.extend_from_slice(value);
        file.push(0);
    }
    file
}

/// What is said of the root.
fn root(root: &Root) -> Vec<String> {
    let (kind, mode) = match root {
        Root::Directory(_) => ("directory", Mode::Write),
        Root::Shared(mode) => ("virtiofs", *mode),
        Root::Image(system, mode) => (system.name(), *mode),
    };
    let mode = match mode {
        Mode::Write => "rw",
        Mode::ReadOnly => "ro",
        Mode::OverlayInGuest => "overlay",
    };
    vec![format!("root={kind}"), format!("rootmode={mode}")]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::boot::identify::FileSystem;
    use crate::cli::{Cli, Command};

    fn config(words: &[&str]) -> VmConfig {
        let words = ["cottage", "run"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(args) => VmConfig::from_args(args.machine).unwrap(),
            other => panic!("parsed as {other:?}"),
        }
    }

    fn silent(interactive: bool) -> HostConsole {
        HostConsole {
            interactive,
            coded: false,
            window: None,
            term: None,
        }
    }

    #[test]
    fn request_lists_console_and_words_nul_terminated() {
        let console = HostConsole {
            interactive: false,
            coded: false,
            window: Some((24, 80)),
            term: Some("xterm".to_owned()),
        };
        let file = request(&config(&["--", "echo", "a b\n\""]), &[], &console);
        let text = String::from_utf8(file).unwrap();
        assert_eq!(
            text,
            "stdin=pipe\0stdout=pipe\0hostname=cottage\0rows=24\0cols=80\0term=xterm\0\
             arg=echo\0arg=a b\n\"\0"
        );
    }

    #[test]
    fn pipe_at_a_virtio_console_is_coded() {
        let mut console = silent(false);
        console.coded = true;
        let text = String::from_utf8(request(&config(&[]), &[], &console)).unwrap();
        assert_eq!(text, "stdin=coded\0stdout=pipe\0hostname=cottage\0");
    }

    #[test]
    fn request_names_the_ports() {
        let config = config(&["--port=a=/x", "--port=b=/y"]);
        let text = String::from_utf8(request(&config, &[], &silent(false))).unwrap();
        assert!(text.contains("\0port=a\0port=b\0"), "{text:?}");
    }

    #[test]
    fn request_says_where_each_folder_goes() {
        let config = config(&[
            "--share=a:src",
            "--share=b:tools,ro,at=/opt/b b",
            "--",
            "ls",
        ]);
        assert_eq!(
            String::from_utf8(request(&config, &[], &silent(true))).unwrap(),
            "stdin=tty\0stdout=tty\0hostname=cottage\0share=src\0at=/mnt/src\0\
             share=tools\0ro=yes\0at=/opt/b b\0arg=ls\0"
        );
    }

    #[test]
    fn folder_that_is_the_root_is_no_folder_beside_it() {
        let config = config(&["--rootfs=/,shared,overlay", "--share=a:src"]);
        let text = String::from_utf8(request(&config, &[], &silent(false))).unwrap();
        assert_eq!(
            text,
            "stdin=pipe\0stdout=pipe\0hostname=cottage\0root=virtiofs\0rootmode=overlay\0\
             share=src\0at=/mnt/src\0"
        );
    }

    #[test]
    fn request_says_what_to_do_with_each_card() {
        let config = config(&[
            "--net=user",
            "--net=tap=a",
            "--net=tap=b,ip=10.0.0.2/24,gw=10.0.0.1",
        ]);
        let text = String::from_utf8(request(&config, &[], &silent(true))).unwrap();
        assert_eq!(
            text,
            "stdin=tty\0stdout=tty\0hostname=cottage\0nic=eth0\0dhcp=yes\0nic=eth1\0\
             nic=eth2\0ip=10.0.0.2/24\0gw=10.0.0.1\0"
        );
    }

    #[test]
    fn request_names_modules_root_and_init() {
        let mut config = config(&[]);
        config.root = Some(Root::Image(FileSystem::Erofs, Mode::OverlayInGuest));
        config.init = Some(b"/bin/x".to_vec());
        let modules = ["a/b.ko".to_owned()];
        let text = String::from_utf8(request(&config, &modules, &silent(false))).unwrap();
        assert_eq!(
            text,
            "stdin=pipe\0stdout=pipe\0hostname=cottage\0module=/a/b.ko\0root=erofs\0\
             rootmode=overlay\0init=/bin/x\0"
        );
    }
}
