//! What the probe says: a line `key value` for each thing, `key - errno N` where there is none.
//!
//! Read next: [`super::identity`].

use crate::timeline::Nanos;

/// The answers of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers(Vec<Answer>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    /// When it came, on this host's monotonic clock.
    at: Nanos,
    key: String,
    value: String,
}

impl Answers {
    /// Of lines with their times.
    pub fn of<'a>(lines: impl Iterator<Item = (Nanos, &'a str)>) -> Self {
        let answer = |(at, line): (Nanos, &str)| {
            let (key, value) = line.split_once(' ')?;
            Some(Answer {
                at,
                key: key.to_owned(),
                value: value.to_owned(),
            })
        };
        Self(lines.filter_map(answer).collect())
    }

    fn answer(&self, key: &str) -> Option<&Answer> {
        self.0.iter().find(|answer| answer.key == key)
    }

    /// A value, where there is one.
    pub fn value(&self, key: &str) -> Option<&str> {
        let value = &self.answer(key)?.value;
        (error_number(value).is_none()).then_some(value)
    }

    /// A value, or why there is none.
    pub fn words(&self, key: &str) -> String {
        let Some(answer) = self.answer(key) else {
            return "not said".to_owned();
        };
        match error_number(&answer.value) {
            Some(number @ (1 | 13)) => format!("refused ({})", errno(number)),
            Some(number) => format!("none ({})", errno(number)),
            None => answer.value.clone(),
        }
    }

    /// The number that a value begins with.
    pub fn count(&self, key: &str) -> Option<u64> {
        self.value(key)?.split(' ').next()?.parse().ok()
    }

    /// The words after a value's first, which counts them.
    pub fn names(&self, key: &str) -> impl Iterator<Item = &str> {
        let value = self.value(key).unwrap_or_default();
        value.split(' ').skip(1)
    }

    /// When the kernel that answered had started, in seconds on this host's clock.
    pub fn started(&self) -> Option<f64> {
        let answer = self.answer("uptime")?;
        let uptime: f64 = answer.value.split(' ').next()?.parse().ok()?;
        Some(answer.at as f64 / 1e9 - uptime)
    }
}

/// The number in `- errno N`.
fn error_number(value: &str) -> Option<u32> {
    value.strip_prefix("- errno ")?.parse().ok()
}

/// The name of an error that the probe meets.
fn errno(number: u32) -> String {
    let name = match number {
        1 => "EPERM",
        2 => "ENOENT",
        13 => "EACCES",
        22 => "EINVAL",
        28 => "ENOSPC",
        38 => "ENOSYS",
        97 => "EAFNOSUPPORT",
        _ => return format!("errno {number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(lines: &[&'static str]) -> Answers {
        Answers::of(lines.iter().map(|line| (5_000_000_000, *line)))
    }

    #[test]
    fn values_are_told_from_their_absence() {
        let answers = answers(&[
            "kvm absent",
            "ns_net - errno 2",
            "log - errno 1",
            "odd - errno x",
            "syscalls_eperm 2 a b",
            "word",
        ]);
        assert_eq!(answers.value("kvm"), Some("absent"));
        assert_eq!(answers.value("ns_net"), None);
        assert_eq!(answers.words("ns_net"), "none (ENOENT)");
        assert_eq!(answers.words("log"), "refused (EPERM)");
        assert_eq!(answers.value("odd"), Some("- errno x"));
        assert_eq!(answers.words("word"), "not said");
        assert_eq!(answers.count("syscalls_eperm"), Some(2));
        assert!(answers.names("syscalls_eperm").eq(["a", "b"]));
        assert_eq!(answers.names("ns_net").count(), 0);
    }

    #[test]
    fn start_is_on_the_hosts_clock() {
        assert_eq!(answers(&["uptime 3.00 9.99"]).started(), Some(2.0));
        assert_eq!(answers(&["uptime - errno 2"]).started(), None);
    }
}
