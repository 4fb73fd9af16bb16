//! Text put together without an allocator.
//!
//! `core::fmt` would do the same and triple the size of the program.

use core::ffi::CStr;

/// A buffer of `N` bytes; what does not fit is cut off.
#[derive(Debug)]
pub struct Line<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Line<N> {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }

    /// Adds text.
    #[must_use]
    pub fn text(mut self, text: &[u8]) -> Self {
        let room = self.bytes.get_mut(self.length..).unwrap_or_default();
        for (place, &byte) in room.iter_mut().zip(text) {
            *place = byte;
            self.length += 1;
        }
        self
    }

    /// Adds a number in decimal.
    #[must_use]
    pub fn number(self, mut number: u64) -> Self {
        // u64::MAX has 20 digits.
        let mut digits = [b'0'; 20];
        let mut used = 0;
        for place in digits.iter_mut().rev() {
            *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
            used += 1;
            if number == 0 {
                break;
            }
        }
        self.text(digits.get(digits.len() - used..).unwrap_or_default())
    }

    /// Adds a number in hexadecimal, without prefix.
    #[must_use]
    pub fn hexadecimal(mut self, number: u64) -> Self {
        let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let value = u8::try_from(number >> (4 * digit) & 0xf).unwrap_or(0);
            self = self.text(&[if value < 10 { b'0' } else { b'a' - 10 } + value]);
        }
        self
    }

    /// The text so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// The text so far as a C string; `None` if it was cut off.
    #[must_use]
    pub fn as_c_str(&self) -> Option<&CStr> {
        // The byte after the text was never written, so it is the terminating NUL.
        CStr::from_bytes_with_nul(self.bytes.get(..=self.length)?).ok()
    }
}

impl<const N: usize> Default for Line<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers_follow_each_other() {
        let line = Line::<64>::new()
            .text(b"a")
            .number(0)
            .text(b"b")
            .number(u64::MAX);
        assert_eq!(line.as_bytes(), b"a0b18446744073709551615");
    }

    #[test]
    fn hexadecimal_has_no_zeros_in_front() {
        let of = |number| Line::<64>::new().hexadecimal(number).as_bytes().to_vec();
        assert_eq!(of(0), b"0");
        assert_eq!(of(0x0102_1994), b"1021994");
        assert_eq!(of(u64::MAX), b"ffffffffffffffff");
    }

    #[test]
    fn too_long_text_is_cut_off_and_no_c_string() {
        let line = Line::<4>::new().text(b"abcdef").text(b"g");
        assert_eq!(line.as_bytes(), b"abcd");
        assert_eq!(line.as_c_str(), None);
    }

    #[test]
    fn c_string_ends_where_the_text_ends() {
        assert_eq!(Line::<4>::new().text(b"abc").as_c_str(), Some(c"abc"));
    }
}
