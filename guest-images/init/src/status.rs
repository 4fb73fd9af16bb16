//! How a process ended, as the one byte a shell would report.

/// The command was found and could not be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;
/// A shell adds this to the number of the signal that ended a process.
const SIGNAL_BASE: u8 = 128;

/// The status of a process that exited with `code`, or that signal number `signal` ended.
///
/// `None` for a process that has not ended.
#[must_use]
pub fn encode(code: Option<i32>, signal: Option<i32>) -> Option<u8> {
    match (code, signal) {
        (Some(code), _) => u8::try_from(code & 0xff).ok(),
        (None, Some(signal)) => u8::try_from(signal & 0x7f)
            .ok()
            .map(|signal| SIGNAL_BASE + signal),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_is_the_status() {
        assert_eq!(encode(Some(0), None), Some(0));
        assert_eq!(encode(Some(255), None), Some(255));
    }

    #[test]
    fn signal_adds_128() {
        assert_eq!(encode(None, Some(9)), Some(137));
        assert_eq!(encode(None, Some(15)), Some(143));
    }

    #[test]
    fn stopped_process_has_no_status() {
        assert_eq!(encode(None, None), None);
    }
}
