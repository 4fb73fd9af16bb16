//! Claims of lecture notes, and what is true of them here.
//!
//! A claim is data: a place, a quote, and a rule over what the topics found. The built-in ones are in
//! `claims.json` beside this file; `--claims-file` reads another of the same form:
//!
//! ```text
//!   { "claims": [ {
//!       "id": "vm-minutes", "file": "notes.txt", "line": 302, "quote": "Minutes (1-5 min)",
//!       "says": "a VM boots in a minute or more",
//!       "rule": { "figure": "start.first-output", "sides": ["vms"], "at_least": "60 s" } } ] }
//! ```
//!
//! What a rule may say: [`rule`]. Whether it holds: [`verdict`], which only computes.
//! Read next: [`rule`].

pub mod rule;
pub mod verdict;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::compare::Topic;
use rule::{Rule, Written};
pub use verdict::{Judged, Verdict};

/// The claims of five lecture notes about containers and VMs.
const BUILT_IN: &str = include_str!("claims.json");
/// A larger file is no list of claims.
const MAX_FILE: u64 = 1 << 20;

/// What somebody wrote.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// A name for it, different from all others.
    pub id: String,
    /// The file it is in.
    pub file: String,
    /// The line it is in.
    pub line: u32,
    /// The words.
    pub quote: String,
    /// What they say that can be measured.
    pub says: String,
    /// What decides.
    pub rule: Written,
}

/// Claims that can be judged.
#[derive(Debug)]
pub struct Claims {
    /// Each with its rule, checked.
    pub list: Vec<(Claim, Rule)>,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file, or it cannot be read.
    #[error("--claims-file {0:?} cannot be read")]
    Read(PathBuf, #[source] io::Error),
    /// It is too large.
    #[error("--claims-file {0:?} has more than {MAX_FILE} bytes: give a list of claims")]
    Large(PathBuf),
    /// It is no JSON, or of another form.
    #[error("{file}: {source}; docs/compare.md shows the form")]
    Form {
        /// Which file.
        file: String,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A field cannot be what it is.
    #[error("{file}: claim {claim:?}: {wrong}")]
    Field {
        /// Which file.
        file: String,
        /// Which claim.
        claim: String,
        /// Which field.
        wrong: Wrong,
    },
}

/// A field that cannot be what it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} cannot be used: {accepted}")]
pub struct Wrong {
    /// Its name.
    pub field: &'static str,
    /// What it is.
    pub value: String,
    /// What it may be.
    pub accepted: String,
}

impl Claims {
    /// Those of `file`, or the built-in ones.
    ///
    /// # Errors
    /// [`Error`].
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = file else {
            return Self::parse("built-in claims", BUILT_IN);
        };
        let read = |source| Error::Read(path.to_owned(), source);
        let mut text = String::new();
        let file = File::open(path).map_err(read)?;
        file.take(MAX_FILE + 1)
            .read_to_string(&mut text)
            .map_err(read)?;
        if text.len() as u64 > MAX_FILE {
            return Err(Error::Large(path.to_owned()));
        }
        Self::parse(&format!("--claims-file {path:?}"), &text)
    }

    fn parse(file: &str, text: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            claims: Vec<Claim>,
        }
        let form = |source| Error::Form {
            file: file.to_owned(),
            source,
        };
        let whole: Whole = serde_json::from_str(text).map_err(form)?;
        let mut ids = BTreeSet::new();
        let check = |claim: Claim| {
            let checked = if ids.insert(claim.id.clone()) {
                Rule::check(&claim.rule)
            } else {
                Err(Wrong::new("id", &claim.id, "each claim has one of its own"))
            };
            match checked {
                Ok(rule) => Ok((claim, rule)),
                Err(wrong) => Err(Error::Field {
                    file: file.to_owned(),
                    claim: claim.id,
                    wrong,
                }),
            }
        };
        let list = whole.claims.into_iter().map(check);
        Ok(Self {
            list: list.collect::<Result<_, _>>()?,
        })
    }

    /// The topics that the rules need, in the order of reports.
    pub fn topics(&self) -> Vec<Topic> {
        let needed = |topic: &Topic| {
            self.list
                .iter()
                .any(|(_, rule)| rule.topic() == Some(*topic))
        };
        Topic::ALL.into_iter().filter(needed).collect()
    }
}

impl Wrong {
    fn new(field: &'static str, value: &str, accepted: impl Into<String>) -> Self {
        Self {
            field,
            value: value.to_owned(),
            accepted: accepted.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Claims::parse("f.json", text).unwrap_err().to_string()
    }

    /// A claim with this rule.
    fn with(id: &str, rule: &str) -> String {
        format!(r#"{{"id":"{id}","file":"n.txt","line":3,"quote":"q","says":"s","rule":{rule}}}"#)
    }

    fn file(claims: &[String]) -> String {
        format!(r#"{{"claims":[{}]}}"#, claims.join(","))
    }

    const GOOD: &str = r#"{"figure":"start.gone","sides":["vms"],"at_least":"60 s"}"#;

    #[test]
    fn built_in_claims_are_in_order() {
        let claims = Claims::load(None).unwrap();
        assert!(claims.list.len() > 40, "{}", claims.list.len());
        for (claim, _) in &claims.list {
            assert!(claim.line > 0 && !claim.quote.is_empty() && !claim.says.is_empty());
        }
        assert!(claims.topics().contains(&Topic::Start));
    }

    #[test]
    fn only_topics_of_rules_are_needed() {
        let claims = Claims::parse("f", &file(&[with("a", GOOD)])).unwrap();
        assert_eq!(claims.topics(), [Topic::Start]);
    }

    #[test]
    fn broken_files_are_refused_with_field_and_value() {
        let cases = [
            ("{".to_owned(), "line 1 column 1"),
            (
                r#"{"claim":[]}"#.to_owned(),
                "unknown field `claim`, expected `claims`",
            ),
            (
                file(&[with("a", r#"{"figur":"start.gone"}"#)]),
                "unknown field `figur`, expected one of `figure`",
            ),
            (
                file(&[with("a", GOOD), with("a", GOOD)]),
                r#"claim "a": id "a" cannot be used"#,
            ),
            (
                file(&[with(
                    "a",
                    r#"{"figure":"x","sides":["vms"],"at_most":"1 s"}"#,
                )]),
                r#"claim "a": rule.figure "x" cannot be used: a topic"#,
            ),
        ];
        for (text, words) in cases {
            let error = refused(&text);
            assert!(
                error.starts_with("f.json: ") && error.contains(words),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Claims::load(Some(Path::new("/no/such.json"))).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("--claims-file \"/no/such.json\"")
        );
        let endless = Claims::load(Some(Path::new("/dev/zero"))).unwrap_err();
        assert!(endless.to_string().contains("more than"), "{endless}");
    }
}
