//! Recognises a kernel panic on the console.
//!
//! A panicking Linux resets (we boot it with `panic=-1`), and a reset looks like any other. The
//! only thing every kernel says, stock ones included, is a line on the console; `quiet` does not
//! hide it. A guest may print that line for fun: it counts only when the guest then ends without
//! having reported a status ([`crate::outcome`]).
//!
//! Source: Linux `kernel/panic.c`, v6.12: `pr_emerg("Kernel panic - not syncing: %s\n")`.
//! Read next: [`super::coding`].

/// 'K' stands only at its start, so a failed match can only begin anew at the current byte.
const PATTERN: &[u8] = b"Kernel panic - not syncing";
/// The line is kept up to this length.
const MAX_LINE: usize = 200;

/// Looks at console bytes as they pass.
#[derive(Debug, Default)]
pub struct PanicWatch {
    /// Bytes of the pattern seen.
    matched: usize,
    /// From the pattern to the end of its line.
    line: Option<Vec<u8>>,
    complete: bool,
}

impl PanicWatch {
    /// Sees one byte.
    pub fn see(&mut self, byte: u8) {
        if self.complete {
            return;
        }
        if let Some(line) = &mut self.line {
            self.complete = matches!(byte, b'\r' | b'\n') || line.len() >= MAX_LINE;
            if !self.complete {
                line.push(byte);
            }
        } else if PATTERN.get(self.matched) == Some(&byte) {
            self.matched += 1;
            if self.matched == PATTERN.len() {
                self.line = Some(PATTERN.to_vec());
            }
        } else {
            self.matched = usize::from(byte == b'K');
        }
    }

    /// The panic's line, if one was seen.
    pub fn line(&self) -> Option<String> {
        // Control characters of a hostile guest must not reach the user's terminal through us.
        let text = String::from_utf8_lossy(self.line.as_ref()?);
        Some(text.chars().filter(|c| !c.is_control()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(text: &[u8]) -> Option<String> {
        let mut watch = PanicWatch::default();
        text.iter().for_each(|byte| watch.see(*byte));
        watch.line()
    }

    #[test]
    fn panic_line_is_kept_to_its_end() {
        let text = b"[    1.0] KKernel panic - not syncing: No init found.\r\nmore";
        assert_eq!(
            watch(text).unwrap(),
            "Kernel panic - not syncing: No init found."
        );
    }

    #[test]
    fn other_text_is_no_panic() {
        assert_eq!(watch(b"Kernel panic - no, not yet. Kernel"), None);
    }

    #[test]
    fn endless_line_is_cut_and_control_characters_are_dropped() {
        let mut text = b"Kernel panic - not syncing\x1b[31m".to_vec();
        text.extend([b'x'; 100_000]);
        let line = watch(&text).unwrap();
        assert!(line.len() <= MAX_LINE && line.starts_with("Kernel panic - not syncing[31mx"));
    }
}
