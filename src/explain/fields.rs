//! Structures as tables: which field stands where, what it holds, what that means.
//!
//! A structure is a list of [`Field`]s and the bytes it lies in. The bytes are those of a file or of guest
//! memory; a field beyond their end is left out, so that a file that is cut off is shown as far as it goes.
//! Read next: [`super::setup_header`].

/// Columns of such a table.
pub const COLUMNS: &[&str] = &["offset", "field", "value", "meaning"];

/// One field of a structure, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Where it stands.
    pub at: usize,
    /// Its bytes, 1 to 8.
    pub size: usize,
    /// Its name in the specification.
    pub name: &'static str,
    /// What its value means.
    pub meaning: Meaning,
}

/// What a value means.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    /// The same, whatever it is.
    Words(&'static str),
    /// Depends on the value.
    Of(fn(u64) -> String),
    /// Bits of it: mask, name and meaning, lowest first.
    Bits(&'static [(u64, &'static str)]),
}

impl Field {
    /// A field whose meaning is the same whatever its value.
    pub const fn new(at: usize, size: usize, name: &'static str, words: &'static str) -> Self {
        Self {
            at,
            size,
            name,
            meaning: Meaning::Words(words),
        }
    }

    /// A field whose meaning depends on its value.
    pub const fn of(at: usize, size: usize, name: &'static str, words: fn(u64) -> String) -> Self {
        Self {
            at,
            size,
            name,
            meaning: Meaning::Of(words),
        }
    }

    /// A field of flags.
    pub const fn bits(
        at: usize,
        size: usize,
        name: &'static str,
        bits: &'static [(u64, &'static str)],
    ) -> Self {
        Self {
            at,
            size,
            name,
            meaning: Meaning::Bits(bits),
        }
    }

    /// Its value in `bytes`; `None` if they end before it does.
    pub fn value(&self, bytes: &[u8]) -> Option<u64> {
        number(bytes, self.at, self.size)
    }

    /// Its row, for a structure that lies at `base`.
    pub fn row(&self, bytes: &[u8], base: u64) -> Option<Vec<String>> {
        let value = self.value(bytes)?;
        let meaning = match self.meaning {
            Meaning::Words(words) => words.to_owned(),
            Meaning::Of(words) => words(value),
            Meaning::Bits(bits) => flags(value, bits),
        };
        let at = base.saturating_add(self.at as u64);
        Some(vec![
            format!("{at:#05x}"),
            self.name.to_owned(),
            format!("{value:#x}"),
            meaning,
        ])
    }
}

/// The rows of all `fields` that are in `bytes`, and that `shown` wants.
pub fn rows(
    fields: &[Field],
    bytes: &[u8],
    shown: impl Fn(&Field, u64) -> bool,
) -> Vec<Vec<String>> {
    let wanted = |field: &&Field| field.value(bytes).is_some_and(|value| shown(field, value));
    let rows = fields.iter().filter(wanted);
    rows.filter_map(|field| field.row(bytes, 0)).collect()
}

/// The little-endian number of `size` bytes at `at`.
pub fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    let digits = bytes.iter().rev();
    Some(digits.fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// "LOADED_HIGH: goes above 1 MiB; KEEP_SEGMENTS: ..."; what has no name is told as a number.
pub fn flags(value: u64, bits: &[(u64, &str)]) -> String {
    let set = bits.iter().filter(|(mask, _)| value & mask != 0);
    let mut words: Vec<_> = set.map(|(_, words)| (*words).to_owned()).collect();
    let known = bits.iter().fold(0, |known, (mask, _)| known | mask);
    if value & !known != 0 {
        words.push(format!("{:#x}: unknown", value & !known));
    }
    if words.is_empty() {
        return "no flag is set".into();
    }
    words.join("; ")
}

/// "12.3 MiB", "512 bytes", "64 KiB": a size for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = UNITS.iter().find(|(unit, _)| bytes >= *unit) else {
        return match bytes {
            1 => "1 byte".into(),
            bytes => format!("{bytes} bytes"),
        };
    };
    if bytes.is_multiple_of(*unit) {
        return format!("{} {name}", bytes / unit);
    }
    // Tenths, rounded down; no floating point for two digits.
    format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit)
}

/// "1 file", "2 files".
pub fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Bytes as text, up to their first NUL; what is no printable ASCII becomes `.`.
pub fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let letter = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '.',
    };
    bytes.iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_beyond_the_end_has_no_row() {
        let field = Field::new(2, 4, "x", "y");
        assert_eq!(field.row(&[0; 5], 0), None);
        let row = field.row(&[0, 0, 1, 2, 0, 0], 0x1000).unwrap();
        assert_eq!(row, ["0x1002", "x", "0x201", "y"]);
    }

    #[test]
    fn flags_without_a_name_are_told_as_a_number() {
        assert_eq!(flags(5, &[(1, "A"), (2, "B")]), "A; 0x4: unknown");
        assert_eq!(flags(0, &[(1, "A")]), "no flag is set");
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(1), "1 byte");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(64 << 10), "64 KiB");
        assert_eq!(size((1 << 20) + (1 << 19)), "1.5 MiB");
    }

    #[test]
    fn text_ends_at_a_nul_and_hides_what_cannot_be_printed() {
        assert_eq!(text(b"ab\x1b[c\0d"), "ab.[c");
    }
}
