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
//! The reader is `guest-images/init`. Source: Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`, v6.12.
//! Read next: [`crate::vcpu`].

use std::os::unix::ffi::OsStrExt;

use crate::config::net::{Address, Net};
use crate::config::port::Port;
use crate::config::share::Share;
use crate::config::{Source, VmConfig};
use crate::console::terminal;
use crate::event_loop::GuestEnd;

/// Where the guest finds the request.
pub const REQUEST_PATH: &str = ".cottage/run";
/// Where it finds our init when the initramfs is the user's.
pub const INIT_PATH: &str = ".cottage/init";
/// Tells the kernel to start that init.
pub const INIT_PARAMETER: &str = "rdinit=/.cottage/init";

/// Who will be at the other end of the serial line.
pub fn guest_end(config: &VmConfig) -> GuestEnd {
    match &config.initramfs {
        Source::File(_) if config.command.is_empty() => GuestEnd::Foreign,
        _ => GuestEnd::OurInit,
    }
}

/// Whether our init must be brought along.
pub fn needs_init(config: &VmConfig) -> bool {
    guest_end(config) == GuestEnd::OurInit && config.initramfs != Source::BuiltIn
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
/// the order in which it finds the devices. A `share` begins what is said of one folder.
pub fn request(
    command: &[Vec<u8>],
    nets: &[Net],
    shares: &[Share],
    console: &HostConsole,
) -> Vec<u8> {
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
    for (number, net) in nets.iter().enumerate() {
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
    for share in shares {
        file.extend(format!("share={}\0", share.tag).bytes());
        if share.read_only {
            file.extend_from_slice(b"ro=yes\0");
        }
        file.extend_from_slice(b"at=");
        file.extend_from_slice(share.place().as_bytes());
        file.push(0);
    }
    for word in command {
        file.extend_from_slice(b"arg=");
        file.extend_from_slice(word);
        file.push(0);
    }
    file
}

/// What else the file says: the ports that our init waits for and gives names to.
pub fn request_ports(ports: &[Port]) -> Vec<u8> {
    let records = ports.iter().map(|port| format!("port={}\0", port.name));
    records.collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lists_console_and_words_nul_terminated() {
        let console = HostConsole {
            interactive: false,
            coded: false,
            window: Some((24, 80)),
            term: Some("xterm".to_owned()),
        };
        let file = request(&[b"echo".to_vec(), b"a b\n\"".to_vec()], &[], &[], &console);
        let text = String::from_utf8(file).unwrap();
        assert_eq!(
            text,
            "stdin=pipe\0stdout=pipe\0hostname=cottage\0rows=24\0cols=80\0term=xterm\0\
             arg=echo\0arg=a b\n\"\0"
        );
    }

    #[test]
    fn pipe_at_a_virtio_console_is_coded() {
        let console = HostConsole {
            interactive: false,
            coded: true,
            window: None,
            term: None,
        };
        let text = String::from_utf8(request(&[], &[], &[], &console)).unwrap();
        assert_eq!(text, "stdin=coded\0stdout=pipe\0hostname=cottage\0");
    }

    #[test]
    fn request_names_the_ports() {
        let ports = crate::config::port::parse_all(&["a=/x", "b=/y"].map(Into::into)).unwrap();
        assert_eq!(request_ports(&ports), b"port=a\0port=b\0");
    }

    #[test]
    fn request_says_what_to_do_with_each_card() {
        let nets = ["user", "tap=a", "tap=b,ip=10.0.0.2/24,gw=10.0.0.1"].map(Into::into);
        let nets = crate::config::net::parse_all(&nets).unwrap();
        let console = HostConsole {
            interactive: true,
            coded: false,
            window: None,
            term: None,
        };
        let text = String::from_utf8(request(&[], &nets, &[], &console)).unwrap();
        assert_eq!(
            text,
            "stdin=tty\0stdout=tty\0hostname=cottage\0nic=eth0\0dhcp=yes\0nic=eth1\0\
             nic=eth2\0ip=10.0.0.2/24\0gw=10.0.0.1\0"
        );
    }

    #[test]
    fn request_says_where_each_folder_goes() {
        let shares = ["a:src", "b:tools,ro,at=/opt/b b"].map(Into::into);
        let shares = crate::config::share::parse_all(&shares).unwrap();
        let console = HostConsole {
            interactive: true,
            coded: false,
            window: None,
            term: None,
        };
        let file = request(&[b"ls".to_vec()], &[], &shares, &console);
        assert_eq!(
            String::from_utf8(file).unwrap(),
            "stdin=tty\0stdout=tty\0hostname=cottage\0share=src\0at=/mnt/src\0\
             share=tools\0ro=yes\0at=/opt/b b\0arg=ls\0"
        );
    }
}
