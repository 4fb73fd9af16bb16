//! `--net tap=NAME` and `--net user`: from words to a network card.
//!
//! That the tap device exists is found out by [`crate::virtio::net`].
//! Read next: [`super::module`].

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::Ipv4Addr;

/// What `--net` takes.
pub const SYNTAX: &str =
    "tap=NAME[,mac=MAC][,dhcp|,ip=ADDR/LEN[,gw=ADDR]] or user[,mac=MAC][,forward=PROTO:HOST:GUEST]";
/// Longest name of a network device: IFNAMSIZ without the NUL.
const MAX_NAME: usize = 15;

/// A mistake in the value of `--net`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It begins with neither way to a network.
    #[error("--net {0:?} is no network: give {SYNTAX}")]
    Kind(OsString),
    /// A name that no tap device can have.
    #[error(
        "--net {0:?}: the name of a tap device has 1 to {MAX_NAME} bytes, without / and blanks"
    )]
    Name(OsString),
    /// An option that does not exist, or not for this kind of network.
    #[error("--net {value:?} has the option {option:?}: give {SYNTAX}")]
    Option {
        /// What was given.
        value: OsString,
        /// What is no option.
        option: String,
    },
    /// An option that is there twice.
    #[error("--net {value:?} has the option {option} twice")]
    Twice {
        /// What was given.
        value: OsString,
        /// The option.
        option: &'static str,
    },
    /// A value that cannot be.
    #[error("--net {value:?}: {text:?} is no {what}")]
    Text {
        /// What was given.
        value: OsString,
        /// The part of it.
        text: String,
        /// What it should be.
        what: &'static str,
    },
    /// Options that do not go together.
    #[error("--net {value:?}: {reason}")]
    Together {
        /// What was given.
        value: OsString,
        /// Why not.
        reason: &'static str,
    },
    /// Two cards of one address.
    #[error("--net: two cards have the address {0}; no switch could tell them apart")]
    SameMac(Mac),
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// That of card `number` unless told otherwise: locally administered, and the same at each
    /// start, so that a guest knows its card again. (Two machines on one bridge need `mac=`.)
    fn of(number: usize) -> Self {
        let [high, low, ..] = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
        Self([0x02, b'c', b't', b'g', high, low])
    }

    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut words = text.split(':');
        for byte in &mut bytes {
            let word = words.next().filter(|word| word.len() == 2)?;
            // from_str_radix would take a sign.
            let digits = word.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(word, 16).ok().filter(|_| digits)?;
        }
        // Bit 0 of the first byte: an address of many. All zeros: none.
        let one = bytes[0] & 1 == 0 && bytes != [0; 6];
        (one && words.next().is_none()).then_some(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Where a card's cable leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To a tap device of the host's.
    Tap(String),
    /// To passt, which makes connections as an ordinary program of the user's.
    User(Vec<Forward>),
}

/// A port of the host's that leads into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// UDP, and not TCP.
    pub udp: bool,
    /// The host's port.
    pub host: u16,
    /// The guest's.
    pub guest: u16,
}

/// What our init in the guest does with a card besides switching it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Nothing.
    None,
    /// Asks the network.
    Dhcp,
    /// This address, with the length of its network's prefix, and a gateway.
    Static(Ipv4Addr, u8, Option<Ipv4Addr>),
}

/// A network card to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// Where its cable leads.
    pub kind: Kind,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its address in the guest.
    pub address: Address,
}

/// The cards of all `--net` flags, in their order.
///
/// # Errors
/// [`Error`] with the value and what is accepted.
pub fn parse_all(values: &[OsString]) -> Result<Vec<Net>, Error> {
    let mut nets: Vec<Net> = Vec::with_capacity(values.len());
    for (number, value) in values.iter().enumerate() {
        let net = parse(value, number)?;
        if nets.iter().any(|other| other.mac == net.mac) {
            return Err(Error::SameMac(net.mac));
        }
        nets.push(net);
    }
    Ok(nets)
}

fn parse(value: &OsStr, number: usize) -> Result<Net, Error> {
    let text = value.to_str().ok_or_else(|| Error::Kind(value.into()))?;
    let mut words = text.split(',');
    let first = words.next().unwrap_or_default();
    let (kind, address) = match (first, first.strip_prefix("tap=")) {
        ("user", _) => (Kind::User(Vec::new()), Address::Dhcp),
        (_, Some(name)) if is_name(name) => (Kind::Tap(name.to_owned()), Address::None),
        (_, Some(_)) => return Err(Error::Name(value.into())),
        _ => return Err(Error::Kind(value.into())),
    };
    let mac = Mac::of(number);
    let mut net = Net { kind, mac, address };
    let mut seen = Seen::default();
    for word in words {
        option(&mut net, &mut seen, value, word)?;
    }
    let together = |reason| Error::Together {
        value: value.into(),
        reason,
    };
    net.address = match (seen.ip, seen.gw, seen.dhcp) {
        (Some(_), _, true) => return Err(together("give ip= or dhcp, not both")),
        (None, Some(_), _) => return Err(together("gw= needs ip=")),
        (Some((ip, len)), gw, false) => Address::Static(ip, len, gw),
        (None, None, true) => Address::Dhcp,
        (None, None, false) => net.address,
    };
    Ok(net)
}

/// Options met so far that may come once.
#[derive(Debug, Default)]
struct Seen {
    mac: Option<Mac>,
    ip: Option<(Ipv4Addr, u8)>,
    gw: Option<Ipv4Addr>,
    dhcp: bool,
}

fn option(net: &mut Net, seen: &mut Seen, value: &OsStr, word: &str) -> Result<(), Error> {
    let (key, text) = word.split_once('=').unwrap_or((word, ""));
    let wrong = |what| Error::Text {
        value: value.into(),
        text: text.to_owned(),
        what,
    };
    let twice = match (key, &mut net.kind) {
        ("mac", _) => {
            let mac = Mac::parse(text)
                .ok_or_else(|| wrong("address of one network card, as in 02:00:00:00:00:01"))?;
            net.mac = mac;
            seen.mac.replace(mac).map(|_| "mac")
        }
        ("forward", Kind::User(forwards)) => {
            let forward = parse_forward(text)
                .ok_or_else(|| wrong("pair of ports, as in tcp:8080:80 or udp:5353:53"))?;
            forwards.push(forward);
            None
        }
        ("ip", Kind::Tap(_)) => {
            let ip = parse_prefix(text)
                .ok_or_else(|| wrong("IPv4 address with its prefix, as in 10.0.0.2/24"))?;
            seen.ip.replace(ip).map(|_| "ip")
        }
        ("gw", Kind::Tap(_)) => {
            let gw = text.parse().ok();
            let gw = gw.ok_or_else(|| wrong("IPv4 address, as in 10.0.0.1"))?;
            seen.gw.replace(gw).map(|_| "gw")
        }
        ("dhcp", Kind::Tap(_)) if word == "dhcp" => {
            std::mem::replace(&mut seen.dhcp, true).then_some("dhcp")
        }
        _ => {
            return Err(Error::Option {
                value: value.into(),
                option: word.to_owned(),
            });
        }
    };
    match twice {
        Some(option) => Err(Error::Twice {
            value: value.into(),
            option,
        }),
        None => Ok(()),
    }
}

/// What Linux's dev_valid_name() takes; % would make it choose a number.
fn is_name(name: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"/:%".contains(c);
    (1..=MAX_NAME).contains(&name.len()) && name != "." && name != ".." && name.chars().all(plain)
}

fn parse_prefix(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (ip, len) = text.split_once('/')?;
    let len = len.parse().ok().filter(|len| (1..=32).contains(len))?;
    Some((ip.parse().ok()?, len))
}

fn parse_forward(text: &str) -> Option<Forward> {
    let port = |word: Option<&str>| word?.parse().ok().filter(|port: &u16| *port != 0);
    let mut words = text.split(':');
    let udp = match words.next()? {
        "tcp" => false,
        "udp" => true,
        _ => return None,
    };
    let (host, guest) = (port(words.next())?, port(words.next())?);
    words
        .next()
        .is_none()
        .then_some(Forward { udp, host, guest })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(values: &[&str]) -> Result<Vec<Net>, Error> {
        let values: Vec<_> = values.iter().map(OsString::from).collect();
        parse_all(&values)
    }

    fn refusal(value: &str) -> String {
        nets(&[value]).unwrap_err().to_string()
    }

    #[test]
    fn cards_get_addresses_by_their_number() {
        let all = nets(&["tap=a", "tap=b", "user"]).unwrap();
        let macs = all.iter().map(|net| net.mac.to_string());
        assert_eq!(
            macs.collect::<Vec<_>>(),
            [
                "02:63:74:67:00:00",
                "02:63:74:67:00:01",
                "02:63:74:67:00:02"
            ]
        );
        assert_eq!(all[0].kind, Kind::Tap("a".into()));
        assert_eq!(
            (all[0].address, all[2].address),
            (Address::None, Address::Dhcp)
        );
    }

    #[test]
    fn options_come_in_any_order() {
        let all = nets(&["tap=t,gw=10.0.0.1,mac=52:54:00:AB:cd:ef,ip=10.0.0.2/24"]).unwrap();
        assert_eq!(all[0].mac.to_string(), "52:54:00:ab:cd:ef");
        let address = Address::Static([10, 0, 0, 2].into(), 24, Some([10, 0, 0, 1].into()));
        assert_eq!(all[0].address, address);
        assert_eq!(nets(&["tap=t,dhcp"]).unwrap()[0].address, Address::Dhcp);
    }

    #[test]
    fn ports_of_a_user_network_are_forwarded() {
        let all = nets(&["user,forward=tcp:8080:80,forward=udp:53:5353"]).unwrap();
        let ports = |udp, host, guest| Forward { udp, host, guest };
        let forwards = vec![ports(false, 8080, 80), ports(true, 53, 5353)];
        assert_eq!(all[0].kind, Kind::User(forwards));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for value in ["", "tap", "users", "bridge=br0"] {
            assert!(
                refusal(value).contains("is no network: give tap=NAME"),
                "{value}"
            );
        }
        for value in [
            "tap=",
            "tap=a/b",
            "tap=sixteen-letters-",
            "tap=..",
            "tap=t%d",
            "tap=a b",
        ] {
            assert!(refusal(value).contains("1 to 15 bytes"), "{value}");
        }
    }

    #[test]
    fn options_of_the_other_kind_are_refused() {
        for value in [
            "user,dhcp",
            "user,ip=10.0.0.2/24",
            "tap=t,forward=tcp:1:2",
            "tap=t,dhcp=1",
        ] {
            assert!(refusal(value).contains("has the option"), "{value}");
        }
    }

    #[test]
    fn option_given_twice_is_refused() {
        for (value, option) in [
            ("tap=t,dhcp,dhcp", "dhcp"),
            ("tap=t,mac=02:00:00:00:00:01,mac=02:00:00:00:00:01", "mac"),
            ("tap=t,ip=1.2.3.4/8,ip=1.2.3.4/8", "ip"),
        ] {
            assert!(
                refusal(value).ends_with(&format!("the option {option} twice")),
                "{value}"
            );
        }
    }

    #[test]
    fn addresses_that_cannot_be_are_refused() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "01:00:00:00:00:01",
            "+2:0:0:0:0:1",
            "00:00:00:00:00:00",
            "+2:00:00:00:00:01",
        ] {
            assert!(
                refusal(&format!("tap=t,mac={text}")).contains("of one network card"),
                "{text}"
            );
        }
        for text in [
            "10.0.0.2",
            "10.0.0.2/0",
            "10.0.0.2/33",
            "10.0.0/24",
            "fe80::1/64",
        ] {
            assert!(
                refusal(&format!("tap=t,ip={text}")).contains("with its prefix"),
                "{text}"
            );
        }
        assert!(refusal("tap=t,ip=1.2.3.4/8,gw=x").contains("no IPv4 address"));
        for text in ["tcp:1", "tcp:0:1", "sctp:1:2", "tcp:1:2:3", "tcp:65536:1"] {
            assert!(
                refusal(&format!("user,forward={text}")).contains("pair of ports"),
                "{text}"
            );
        }
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        assert!(refusal("tap=t,ip=1.2.3.4/8,dhcp").ends_with("give ip= or dhcp, not both"));
        assert!(refusal("tap=t,gw=1.2.3.4").ends_with("gw= needs ip="));
    }

    #[test]
    fn two_cards_of_one_address_are_refused() {
        let error = nets(&["tap=a", "tap=b,mac=02:63:74:67:00:00"]).unwrap_err();
        assert_eq!(error, Error::SameMac(Mac::of(0)));
    }

    proptest! {
        /// Any words: an error or a card, and never a panic.
        #[test]
        fn random_values_are_taken_or_refused(
            value in "(tap=|user|)[a-z]{0,4}(,(mac|ip|gw|dhcp|forward)?[=:,./0-9a-ftcp]{0,20}){0,3}"
        ) {
            if let Ok(all) = nets(&[&value]) {
                prop_assert_eq!(all[0].mac.0[0] & 1, 0);
            }
        }
    }
}
