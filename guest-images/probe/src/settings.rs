//! What a measurement is told, and how its figures are written.

use core::ffi::CStr;
use core::net::SocketAddrV4;

use cottage_init::line::Line;

/// How much is done, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings<'a> {
    /// Operations in a batch; the measurement's own number if there is none.
    pub operations: Option<u64>,
    /// What that own number is divided by, for processors that are slow.
    pub divide: u64,
    /// Batches that count.
    pub batches: u32,
    /// Where files are written.
    pub directory: &'a CStr,
    /// Whom to talk to.
    pub peer: Option<Peer>,
    /// Whether to stay on one processor.
    pub pinned: bool,
}

/// Whom to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Who has this address.
    At(SocketAddrV4),
    /// The host, wherever it is from here, at this port.
    Host(u16),
}

/// More operations than this in a batch are refused: a day is enough for any of them.
const OPERATIONS_MAX: u64 = 1 << 40;
/// The same for batches.
const BATCHES_MAX: u32 = 10_000;

impl<'a> Settings<'a> {
    /// Reads words like `batches=20`; the word that is wrong is handed back.
    ///
    /// # Errors
    /// The first word that is none of these, or whose value cannot be.
    pub fn parse(words: impl Iterator<Item = &'a CStr>) -> Result<Self, &'a CStr> {
        let mut settings = Self {
            operations: None,
            divide: 1,
            batches: 20,
            directory: c".",
            peer: None,
            pinned: true,
        };
        for word in words {
            settings.take(word).ok_or(word)?;
        }
        Ok(settings)
    }

    fn take(&mut self, word: &'a CStr) -> Option<()> {
        if let Some(directory) = after(word, "dir=") {
            self.directory = directory;
            return Some(());
        }
        let (key, value) = word.to_str().ok()?.split_once('=')?;
        match (key, value) {
            ("ops", number) => {
                let number = number.parse().ok();
                self.operations = Some(number.filter(|n| (1..=OPERATIONS_MAX).contains(n))?);
            }
            ("batches", number) => {
                let number = number.parse().ok();
                self.batches = number.filter(|n| (1..=BATCHES_MAX).contains(n))?;
            }
            ("divide", number) => {
                let number = number.parse().ok();
                self.divide = number.filter(|n| (1..=OPERATIONS_MAX).contains(n))?;
            }
            ("to", peer) => {
                self.peer = Some(match peer.strip_prefix("host:") {
                    Some(port) => Peer::Host(port.parse().ok()?),
                    None => Peer::At(peer.parse().ok()?),
                });
            }
            ("pin", "yes") => self.pinned = true,
            ("pin", "no") => self.pinned = false,
            _ => return None,
        }
        Some(())
    }
}

impl Settings<'_> {
    /// Operations in a batch of a measurement whose own number is `default`.
    #[must_use]
    pub fn operations(&self, default: u64) -> u64 {
        self.operations.unwrap_or((default / self.divide).max(1))
    }
}

/// What follows `prefix` in `word`, still with its NUL.
#[must_use]
pub fn after<'a>(word: &'a CStr, prefix: &str) -> Option<&'a CStr> {
    let rest = word.to_bytes_with_nul().strip_prefix(prefix.as_bytes())?;
    CStr::from_bytes_with_nul(rest).ok()
}

/// Adds nanoseconds for each of `operations` to a line, with one decimal.
#[must_use]
pub fn per_operation<const N: usize>(line: Line<N>, nanoseconds: u64, operations: u64) -> Line<N> {
    let tenths =
        (u128::from(nanoseconds) * 10 + u128::from(operations / 2)) / u128::from(operations.max(1));
    let tenths = u64::try_from(tenths).unwrap_or(u64::MAX);
    line.number(tenths / 10).text(b".").number(tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read() {
        let words = [
            c"ops=7",
            c"batches=30",
            c"dir=/tmp/a=b",
            c"to=10.0.0.1:80",
            c"pin=no",
        ];
        let settings = Settings::parse(words.into_iter()).unwrap();
        assert_eq!(settings.operations, Some(7));
        assert_eq!(settings.batches, 30);
        assert_eq!(settings.directory, c"/tmp/a=b");
        let address = "10.0.0.1:80".parse().unwrap();
        assert_eq!(settings.peer, Some(Peer::At(address)));
        assert!(!settings.pinned);
    }

    #[test]
    fn own_numbers_are_divided_and_given_ones_are_not() {
        let of = |words: &[&'static CStr]| Settings::parse(words.iter().copied()).unwrap();
        assert_eq!(of(&[]).operations(50), 50);
        assert_eq!(of(&[c"divide=20"]).operations(50), 2);
        assert_eq!(of(&[c"divide=200"]).operations(50), 1);
        assert_eq!(of(&[c"divide=20", c"ops=7"]).operations(50), 7);
        assert_eq!(of(&[c"to=host:9"]).peer, Some(Peer::Host(9)));
    }

    #[test]
    fn wrong_words_are_handed_back() {
        for word in [
            c"ops=0",
            c"ops=-1",
            c"ops=",
            c"batches=10001",
            c"to=localhost:1",
            c"to=host",
            c"divide=0",
            c"pin=maybe",
            c"x",
        ] {
            assert_eq!(Settings::parse([word].into_iter()), Err(word));
        }
    }

    #[test]
    fn figures_have_one_decimal_and_are_rounded() {
        let of = |nanoseconds, operations| {
            per_operation(Line::<64>::new(), nanoseconds, operations)
                .as_bytes()
                .to_vec()
        };
        assert_eq!(of(1000, 3), b"333.3");
        assert_eq!(of(2000, 3), b"666.7");
        assert_eq!(of(0, 5), b"0.0");
        assert_eq!(of(u64::MAX, 1), b"1844674407370955161.5");
    }
}
