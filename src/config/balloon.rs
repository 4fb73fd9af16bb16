//! `--balloon[=SIZE]`: from words to a balloon.
//!
//! What it is for: [`crate::virtio::balloon`].
//! Read next: [`super::console`].

use super::PAGE;
use super::values::unit_shift;

/// A mistake in the value of `--balloon`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No size.
    #[error(
        "--balloon={0:?} is not a size: give a whole number and a unit, such as 64M, of whole pages of \
         {PAGE} bytes; or --balloon alone, and the guest gives back what it does not use"
    )]
    Size(String),
    /// As large as the guest's memory, or larger.
    #[error("--balloon={0} leaves nothing of --memory {1}: give less")]
    TooLarge(String, String),
}

/// The balloon's size at the start, in bytes, for a guest of `memory` bytes.
///
/// # Errors
/// [`Error`] with the value and what is accepted; `memory_flag` is the text of `--memory`.
pub fn parse(value: &str, memory: u64, memory_flag: &str) -> Result<u64, Error> {
    let digits = value.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = value.split_at(digits.unwrap_or(value.len()));
    let wrong = || Error::Size(value.to_owned());
    let shift = unit_shift(unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().ok().ok_or_else(wrong)?;
    let bytes = number.saturating_mul(1 << shift);
    if bytes >= memory {
        return Err(Error::TooLarge(value.to_owned(), memory_flag.to_owned()));
    }
    match bytes % PAGE {
        0 => Ok(bytes),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_has_a_unit_and_is_less_than_memory() {
        let parse = |value| parse(value, 128 << 20, "128M");
        assert_eq!(parse("64M"), Ok(64 << 20));
        assert_eq!(parse("0M"), Ok(0));
        for value in ["64", "M", "", "-1M", "6K", "1.5G"] {
            assert_eq!(parse(value), Err(Error::Size(value.to_owned())));
        }
        for value in ["128M", "1G", "17179869184T"] {
            let text = parse(value).unwrap_err().to_string();
            assert!(text.contains(&format!("--balloon={value} ")), "{text}");
        }
    }
}
