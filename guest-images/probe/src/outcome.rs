//! How a system call that was tried went.
//!
//! The question is whether a program reaches the kernel's code for it. EPERM is what filters and
//! missing capabilities say alike, so it counts as not reached; ENOSYS is what a filter or a kernel
//! without the call says. Both are also true of some calls on a host with no filter at all, which is
//! why the host is probed like every other side.

/// What became of one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Not known yet.
    Untried = 0,
    /// The kernel's code for it ran: it succeeded, failed by its arguments, waited, or ended the caller.
    Past = 1,
    /// Refused: EPERM.
    Refused = 2,
    /// As if there were no such call: ENOSYS.
    Absent = 3,
    /// A filter killed the caller: SIGSYS.
    Killed = 4,
    /// Not tried, for it cannot be made harmless.
    Skipped = 5,
}

const EPERM: isize = 1;
const ENOSYS: isize = 38;

impl Outcome {
    /// All but [`Self::Untried`], with the words that stand for them.
    pub const NAMED: [(Self, &'static str); 5] = [
        (Self::Past, "past"),
        (Self::Refused, "eperm"),
        (Self::Absent, "enosys"),
        (Self::Killed, "killed"),
        (Self::Skipped, "skipped"),
    ];

    /// Of a call that returned `result`.
    #[must_use]
    pub fn of_result(result: isize) -> Self {
        match result.wrapping_neg() {
            EPERM => Self::Refused,
            ENOSYS => Self::Absent,
            _ => Self::Past,
        }
    }

    /// From the number it is kept as.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        let found = Self::NAMED
            .into_iter()
            .find(|(outcome, _)| *outcome as u8 == number);
        found.map_or(Self::Untried, |(outcome, _)| outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_told_apart() {
        assert_eq!(Outcome::of_result(0), Outcome::Past);
        assert_eq!(Outcome::of_result(7), Outcome::Past);
        assert_eq!(Outcome::of_result(-14), Outcome::Past);
        assert_eq!(Outcome::of_result(-1), Outcome::Refused);
        assert_eq!(Outcome::of_result(-38), Outcome::Absent);
        assert_eq!(Outcome::of_result(isize::MIN), Outcome::Past);
    }

    #[test]
    fn numbers_lead_back() {
        for (outcome, _) in Outcome::NAMED {
            assert_eq!(Outcome::from_number(outcome as u8), outcome);
        }
        assert_eq!(Outcome::from_number(0), Outcome::Untried);
        assert_eq!(Outcome::from_number(99), Outcome::Untried);
    }
}
