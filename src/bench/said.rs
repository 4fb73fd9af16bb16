//! What a program says on stderr, of which only so much is kept.
//!
//! Its beginning, where a program says what went wrong, and its end, where it gives up.
//! Read next: [`super::running`].

/// Bytes kept of the beginning.
const FIRST: usize = 1024;
/// Bytes kept of the end.
const LAST: usize = 2048;

/// The words of one program.
#[derive(Debug, Default)]
pub struct Said {
    first: Vec<u8>,
    last: Vec<u8>,
    /// Whether something came between the two.
    gap: bool,
}

impl Said {
    /// It goes on with `piece`.
    pub(super) fn add(&mut self, piece: &[u8]) {
        let room = FIRST - self.first.len();
        let (first, last) = piece.split_at(room.min(piece.len()));
        self.first.extend_from_slice(first);
        self.last.extend_from_slice(last);
        let excess = self.last.len().saturating_sub(LAST);
        self.last.drain(..excess);
        self.gap |= excess > 0;
    }

    /// All of it that was kept.
    pub(super) fn text(&self) -> String {
        let gap = if self.gap { "\n...\n" } else { "" };
        let [first, last] = [&self.first, &self.last].map(|said| String::from_utf8_lossy(said));
        format!("{first}{gap}{last}").trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginning_and_end_are_kept_and_nothing_grows() {
        let mut said = Said::default();
        said.add(b"the cause\n");
        assert_eq!(said.text(), "the cause");
        for _ in 0..10_000 {
            said.add(b"and so on\n");
        }
        said.add(b"the end\n");
        let text = said.text();
        assert!(
            text.starts_with("the cause\nand") && text.ends_with("\nthe end"),
            "{text}"
        );
        assert!(
            text.contains("\n...\n") && text.len() < FIRST + LAST + 10,
            "{text}"
        );
    }
}
