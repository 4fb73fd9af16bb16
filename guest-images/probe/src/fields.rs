//! Values out of the kernel's text files.

use core::net::Ipv4Addr;

/// The value in the line that starts with `key`, without blanks around it.
#[must_use]
pub fn value<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| {
        line.strip_prefix(key)?.strip_prefix(b":").or_else(|| {
            // /proc/cpuinfo has tabs before the colon.
            let rest = line.strip_prefix(key)?.trim_ascii_start();
            rest.strip_prefix(b":")
        })
    })?;
    Some(line.trim_ascii())
}

/// A number in hexadecimal, without prefix.
#[must_use]
pub fn hexadecimal(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok()
}

/// The default gateway in the text of /proc/net/route.
///
/// Source: Linux v6.12, net/ipv4/fib_trie.c, fib_route_seq_show: columns of interface, destination and
/// gateway, addresses in hexadecimal as the processor reads their four bytes.
#[must_use]
pub fn default_gateway(text: &[u8]) -> Option<Ipv4Addr> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let words = || {
            line.split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
        };
        let mut addresses = words()
            .skip(1)
            .map(|word| hexadecimal(word).map(u32::try_from));
        let (Some(Ok(0)), Some(Ok(gateway))) = (addresses.next()?, addresses.next()?) else {
            return None;
        };
        (gateway != 0).then(|| Ipv4Addr::from(gateway.to_le_bytes()))
    })
}

/// Counts kernel symbols while the file with them goes by in pieces.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Lines so far.
    pub total: u64,
    /// Those whose address is not zero: what `kptr_restrict` hides reads as zeros.
    pub with_address: u64,
    in_address: AddressPart,
}

#[derive(Debug, Default, PartialEq)]
enum AddressPart {
    #[default]
    Zeros,
    Other,
    Over,
}

impl Symbols {
    /// Takes the next piece.
    pub fn take(&mut self, piece: &[u8]) {
        for &byte in piece {
            match (byte, &self.in_address) {
                (b'\n', _) => {
                    self.total += 1;
                    self.in_address = AddressPart::Zeros;
                }
                (_, AddressPart::Over) | (b'0', _) => {}
                (b' ', part) => {
                    self.with_address += u64::from(*part == AddressPart::Other);
                    self.in_address = AddressPart::Over;
                }
                _ => self.in_address = AddressPart::Other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_found_by_its_whole_key() {
        let text = b"CapInh:\t0\nCapEff:\t000001ff\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(value(text, b"CapEff"), Some(&b"000001ff"[..]));
        assert_eq!(value(text, b"Seccomp"), Some(&b"2"[..]));
        assert_eq!(value(text, b"Cap"), None);
        assert_eq!(value(text, b"NoNewPrivs"), None);
        let cpuinfo = b"vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n";
        assert_eq!(value(cpuinfo, b"model name"), Some(&b"AMD EPYC"[..]));
        assert_eq!(value(cpuinfo, b"model"), None);
    }

    #[test]
    fn symbols_are_counted_across_pieces() {
        let text = b"ffffffff81000000 T _text\n0000000000000000 A zero 1\n0000000000000010 D x\n";
        for cut in 0..text.len() {
            let mut symbols = Symbols::default();
            let (left, right) = text.split_at(cut);
            symbols.take(left);
            symbols.take(right);
            assert_eq!((symbols.total, symbols.with_address), (3, 2), "{cut}");
        }
    }

    #[test]
    fn gateway_is_that_of_the_default_route() {
        let text = b"Iface\tDestination\tGateway \tFlags\n\
            eth0\t000011AC\t00000000\t0001\n\
            eth0\t00000000\t010011AC\t0003\n";
        assert_eq!(default_gateway(text), Some(Ipv4Addr::new(172, 17, 0, 1)));
        assert_eq!(default_gateway(b"Iface\tDestination\tGateway\n"), None);
        assert_eq!(default_gateway(b"tun0\t00000000\t00000000\t0001\n"), None);
    }

    #[test]
    fn hexadecimal_takes_digits_only() {
        assert_eq!(hexadecimal(b"1fF"), Some(0x1ff));
        assert_eq!(hexadecimal(b"0x1"), None);
        assert_eq!(hexadecimal(b""), None);
    }
}
