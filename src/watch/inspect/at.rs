//! Where to stop: the words of `--inspect-at` and of `until`.
//! Read next: [`super::prompt`].

use std::fmt;

use crate::devices::report::{MARK_DONE, MARK_HANDED_OVER, MARK_INIT, MARK_READY};
use crate::watch::symbols::Symbols;

/// A place or moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The guest has written this number to the mark port.
    Mark(u8),
    /// The first processor has come back for this many times.
    Exit(u64),
    /// A processor is about to run the instruction at this virtual address.
    Address(u64),
    /// The machine is over, for whatever reason.
    End,
}

/// The words are no such place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not understood.
    #[error(
        "--inspect-at {0:?} is no place to stop at: it takes init, ready, done or handed-over (marks of our \
         init), mark:N, exit:N, an address such as 0x1000000, a symbol, or end"
    )]
    Unknown(String),
    /// A symbol, and no symbols.
    #[error(
        "--inspect-at {0:?} would be a symbol, but there are none: they come from --kernel FILE, if that is an \
         ELF file that has them, or a System.map beside it; or else give an address, or one of init, ready, \
         done, handed-over, mark:N, exit:N, end"
    )]
    NoSymbols(String),
    /// A symbol that is not there.
    #[error(
        "--inspect-at {0:?}: the guest's kernel has no symbol of this name; KASLR and modules aside, \
             `nm` lists those it has"
    )]
    NoSuchSymbol(String),
}

/// The marks that have names.
const MARKS: [(&str, u8); 4] = [
    ("init", MARK_INIT),
    ("ready", MARK_READY),
    ("done", MARK_DONE),
    ("handed-over", MARK_HANDED_OVER),
];

impl At {
    /// What `words` mean.
    ///
    /// # Errors
    /// [`Error`], with what is accepted.
    pub fn parse(words: &str, symbols: Option<&Symbols>) -> Result<Self, Error> {
        if let Some((_, mark)) = MARKS.iter().find(|(name, _)| *name == words) {
            return Ok(Self::Mark(*mark));
        }
        let unknown = || Error::Unknown(words.to_owned());
        if let Some(number) = words.strip_prefix("mark:") {
            return number.parse().map(Self::Mark).map_err(|_no| unknown());
        }
        let exit = words.strip_prefix("exit:").or(words.strip_prefix('#'));
        if let Some(number) = exit {
            let number = number.parse().ok().filter(|number| *number > 0);
            return number.map(Self::Exit).ok_or_else(unknown);
        }
        if words == "end" {
            return Ok(Self::End);
        }
        if words.starts_with(|c: char| c.is_ascii_digit()) {
            return number(words).map(Self::Address).ok_or_else(unknown);
        }
        let is_symbol = |c: char| c.is_ascii_alphanumeric() || ['_', '.', '$'].contains(&c);
        if words.is_empty() || !words.chars().all(is_symbol) {
            return Err(unknown());
        }
        let symbols = symbols.ok_or_else(|| Error::NoSymbols(words.to_owned()))?;
        let address = symbols.address(words);
        let address = address.ok_or_else(|| Error::NoSuchSymbol(words.to_owned()))?;
        Ok(Self::Address(address))
    }
}

/// `0x1000`, or `4096`.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(number) => match MARKS.iter().find(|(_, mark)| mark == number) {
                Some((name, _)) => write!(f, "mark {number}, {name}"),
                None => write!(f, "mark {number}"),
            },
            Self::Exit(number) => write!(f, "exit {number}"),
            Self::Address(address) => write!(f, "address {address:#x}"),
            Self::End => f.write_str("the end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_all_kinds_are_understood() {
        for (words, at) in [
            ("init", At::Mark(1)),
            ("handed-over", At::Mark(4)),
            ("mark:77", At::Mark(77)),
            ("exit:17", At::Exit(17)),
            ("#1", At::Exit(1)),
            ("0xffffffff81000000", At::Address(0xffff_ffff_8100_0000)),
            ("4096", At::Address(4096)),
            ("end", At::End),
        ] {
            assert_eq!(At::parse(words, None), Ok(at), "{words}");
        }
    }

    #[test]
    fn other_words_are_refused_with_what_is_accepted() {
        for words in [
            "", "exit:0", "exit:x", "mark:256", "0xg", "12ab", "a b", "-1",
        ] {
            let error = At::parse(words, None).unwrap_err();
            assert_eq!(error, Error::Unknown(words.into()), "{words}");
        }
        assert_eq!(
            At::parse("start_kernel", None),
            Err(Error::NoSymbols("start_kernel".into()))
        );
        assert_eq!(
            At::parse("start_kernel", Some(&Symbols::default())),
            Err(Error::NoSuchSymbol("start_kernel".into()))
        );
    }
}
