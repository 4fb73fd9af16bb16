//! What a rule may say.
//!
//! | fields | holds for a side if |
//! |---|---|
//! | `figure`, `sides`, `at_least` or `at_most` or both | its range is within the bounds: `60 s`, `512 MiB`, `100` |
//! | these and `beside` | the same of its ratio to that side: `2 x` |
//! | `table`, `row`, `sides`, `beside`, `cells` | its cell is the `same` as that side's, or `different` |
//! | `unmeasured` | never judged: the text says why |
//!
//! `sides` are names as the report has them, or their beginnings up to a comma (`docker` is `docker,
//! bridge` too), or `floors`, `containers`, `vms`. `needs`, which may be `hardware`, goes with all:
//! there, no verdict where guests' kernels are emulated. Read next: [`super::verdict`].

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::Wrong;
use crate::cli::compare::Topic;
use crate::compare::finding::{Line, Unit};
use crate::compare::side::Kind;

/// A rule as written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the table at the head of the file")]
pub struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sides: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cells: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmeasured: Option<String>,
}

/// A rule that can be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What decides.
    pub test: Test,
    /// Whether guests' kernels must run on the processor itself.
    pub needs_hardware: bool,
}

/// What decides.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// A figure within bounds; its ratio to another side's, if there is one.
    Figure {
        /// Its key.
        key: String,
        /// Which sides.
        sides: Vec<String>,
        /// The side for ratios.
        beside: Option<String>,
        /// At least.
        at_least: Option<Quantity>,
        /// At most.
        at_most: Option<Quantity>,
    },
    /// Cells of a table.
    Cells {
        /// Its key.
        table: String,
        /// Which row.
        row: String,
        /// Which sides.
        sides: Vec<String>,
        /// The side whose cell they are set beside.
        beside: String,
        /// Whether they should be the same.
        same: bool,
    },
    /// None: why.
    Unmeasured(String),
}

/// A number with its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantity {
    /// In nanoseconds, bytes, pieces or times.
    pub value: f64,
    /// Which of them; `None` for times.
    pub unit: Option<Unit>,
    /// How many of it the name it was given is.
    factor: f64,
    name: &'static str,
}

/// Names of units: what they count and how many.
const UNITS: [(&str, Option<Unit>, f64); 14] = [
    ("ns", Some(Unit::Nanoseconds), 1.0),
    ("us", Some(Unit::Nanoseconds), 1e3),
    ("ms", Some(Unit::Nanoseconds), 1e6),
    ("s", Some(Unit::Nanoseconds), 1e9),
    ("min", Some(Unit::Nanoseconds), 60e9),
    ("B", Some(Unit::Bytes), 1.0),
    ("kB", Some(Unit::Bytes), 1e3),
    ("MB", Some(Unit::Bytes), 1e6),
    ("GB", Some(Unit::Bytes), 1e9),
    ("KiB", Some(Unit::Bytes), 1024.0),
    ("MiB", Some(Unit::Bytes), 1_048_576.0),
    ("GiB", Some(Unit::Bytes), 1_073_741_824.0),
    ("x", None, 1.0),
    ("", Some(Unit::Count), 1.0),
];

impl Quantity {
    fn parse(text: &str) -> Option<Self> {
        let (number, name) = text.split_once(' ').unwrap_or((text, ""));
        let (name, unit, factor) = *UNITS.iter().find(|(known, ..)| *known == name)?;
        let number: f64 = number.parse().ok()?;
        (number.is_finite() && number >= 0.0).then_some(Self {
            value: number * factor,
            unit,
            factor,
            name,
        })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{} {}", self.value / self.factor, self.name);
        f.write_str(text.trim_end())
    }
}

/// Whether `selector`, one of a rule's `sides`, means `line`.
pub fn selects(selector: &str, line: &Line) -> bool {
    selects_side(selector, &line.side, Some(line.kind))
}

/// The same where only the name is known, or the kind too.
pub fn selects_side(selector: &str, side: &str, kind: Option<Kind>) -> bool {
    match selector {
        "floors" => kind == Some(Kind::Floor),
        "containers" => kind == Some(Kind::Container),
        "vms" => kind == Some(Kind::Vm),
        _ => side
            .strip_prefix(selector)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(',')),
    }
}

impl Rule {
    /// Checks what was written.
    pub(super) fn check(written: &Written) -> Result<Self, Wrong> {
        let needs_hardware = match written.needs.as_deref() {
            None => false,
            Some("hardware") => true,
            Some(other) => {
                return Err(Wrong::new(
                    "rule.needs",
                    other,
                    "give hardware, or leave it out",
                ));
            }
        };
        let test = match (&written.figure, &written.table, &written.unmeasured) {
            (Some(key), None, None) => figure(written, key)?,
            (None, Some(key), None) => cells(written, key)?,
            (None, None, Some(why)) if !why.is_empty() => Test::Unmeasured(why.clone()),
            _ => {
                let accepted = "give one of figure, table and unmeasured";
                return Err(Wrong::new("rule", "{...}", accepted));
            }
        };
        forbid(written, &test)?;
        Ok(Self {
            test,
            needs_hardware,
        })
    }

    /// The topic it needs.
    pub fn topic(&self) -> Option<Topic> {
        match &self.test {
            Test::Figure { key, .. } | Test::Cells { table: key, .. } => topic(key),
            Test::Unmeasured(_) => None,
        }
    }
}

fn figure(written: &Written, key: &str) -> Result<Test, Wrong> {
    known_topic("rule.figure", key)?;
    let of_ratio = written.beside.is_some();
    let bound = |field, text: &Option<String>| {
        let Some(text) = text else { return Ok(None) };
        let fits = |quantity: &Quantity| quantity.unit.is_none() == of_ratio;
        let accepted = if of_ratio {
            "beside another side, give a ratio such as 2 x"
        } else {
            "give a number with a space and a unit, such as 60 s, 512 MiB, or a number of pieces"
        };
        let quantity = Quantity::parse(text).filter(fits);
        quantity
            .map(Some)
            .ok_or_else(|| Wrong::new(field, text, accepted))
    };
    let at_least = bound("rule.at_least", &written.at_least)?;
    let at_most = bound("rule.at_most", &written.at_most)?;
    if at_least.is_none() && at_most.is_none() {
        let accepted = "give at_least, at_most or both";
        return Err(Wrong::new("rule", "{...}", accepted));
    }
    Ok(Test::Figure {
        key: key.to_owned(),
        sides: sides(written)?,
        beside: written.beside.clone(),
        at_least,
        at_most,
    })
}

fn cells(written: &Written, key: &str) -> Result<Test, Wrong> {
    known_topic("rule.table", key)?;
    let same = match written.cells.as_deref() {
        Some("same") => true,
        Some("different") => false,
        other => {
            let value = other.unwrap_or("");
            return Err(Wrong::new("rule.cells", value, "give same or different"));
        }
    };
    let given = |field, text: &Option<String>, accepted: &str| {
        text.clone().ok_or_else(|| Wrong::new(field, "", accepted))
    };
    Ok(Test::Cells {
        table: key.to_owned(),
        row: given("rule.row", &written.row, "give the name of a row")?,
        sides: sides(written)?,
        beside: given(
            "rule.beside",
            &written.beside,
            "give a side, such as process",
        )?,
        same,
    })
}

fn sides(written: &Written) -> Result<Vec<String>, Wrong> {
    if written.sides.is_empty() || written.sides.iter().any(String::is_empty) {
        let accepted = "give a list of names of sides, or floors, containers, vms";
        let value = written.sides.join(", ");
        return Err(Wrong::new("rule.sides", &value, accepted));
    }
    Ok(written.sides.clone())
}

/// Nothing is written that would be ignored.
fn forbid(written: &Written, test: &Test) -> Result<(), Wrong> {
    let none = |field: &Option<String>| field.is_none();
    let unused = match test {
        Test::Figure { .. } => none(&written.row) && none(&written.cells),
        Test::Cells { .. } => none(&written.at_least) && none(&written.at_most),
        Test::Unmeasured(_) => {
            [
                &written.row,
                &written.cells,
                &written.at_least,
                &written.at_most,
                &written.beside,
            ]
            .into_iter()
            .all(none)
                && written.sides.is_empty()
                && none(&written.needs)
        }
    };
    let accepted = "with figure: sides, beside, at_least, at_most; with table: row, sides, beside, \
                    cells; with unmeasured: nothing else";
    unused
        .then_some(())
        .ok_or_else(|| Wrong::new("rule", "{...}", accepted))
}

fn topic(key: &str) -> Option<Topic> {
    let (name, rest) = key.split_once('.')?;
    let topic = Topic::ALL.into_iter().find(|topic| topic.name() == name);
    topic.filter(|_| !rest.is_empty())
}

fn known_topic(field: &'static str, key: &str) -> Result<(), Wrong> {
    if topic(key).is_some() {
        return Ok(());
    }
    let names: Vec<_> = Topic::value_variants().iter().map(|t| t.name()).collect();
    let accepted = format!("a topic ({}), a dot and a name", names.join(", "));
    Err(Wrong::new(field, key, accepted))
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.test {
            Test::Figure {
                key,
                sides,
                beside,
                at_least,
                at_most,
            } => {
                write!(f, "{key} of {}", sides.join(" and "))?;
                if let Some(beside) = beside {
                    write!(f, " beside {beside}")?;
                }
                let bounds = [("at least", at_least), ("at most", at_most)];
                let bounds = bounds
                    .iter()
                    .filter_map(|(words, bound)| bound.map(|bound| format!("{words} {bound}")));
                write!(f, ": {}", bounds.collect::<Vec<_>>().join(" and "))?;
            }
            Test::Cells {
                table,
                row,
                sides,
                beside,
                same,
            } => {
                let cells = if *same {
                    "the same as"
                } else {
                    "different from"
                };
                write!(
                    f,
                    "{table}, {row:?}, of {}: {cells} {beside}'s",
                    sides.join(" and ")
                )?;
            }
            Test::Unmeasured(_) => write!(f, "none")?,
        }
        if self.needs_hardware {
            write!(f, "; on hardware KVM only")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(json: &str) -> Result<Rule, Wrong> {
        Rule::check(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn rules_are_told_as_they_are_applied() {
        let words = [
            r#"{"figure":"start.gone","sides":["vms"],"at_least":"60 s"}"#,
            r#"{"figure":"disk.image","sides":["crun","runc"],"at_least":"1.5 GB","at_most":"2 GB"}"#,
            r#"{"figure":"cost.syscall","sides":["vms"],"beside":"process","at_most":"1.1 x","needs":"hardware"}"#,
            r#"{"table":"isolation.identity","row":"boot id","sides":["vms"],"beside":"process","cells":"different"}"#,
            r#"{"unmeasured":"no Windows here"}"#,
        ]
        .map(|json| checked(json).unwrap().to_string());
        assert_eq!(
            words,
            [
                "start.gone of vms: at least 60 s",
                "disk.image of crun and runc: at least 1.5 GB and at most 2 GB",
                "cost.syscall of vms beside process: at most 1.1 x; on hardware KVM only",
                "isolation.identity, \"boot id\", of vms: different from process's",
                "none",
            ]
        );
    }

    #[test]
    fn wrong_rules_are_refused_by_field() {
        let cases = [
            (r"{}", "rule"),
            (r#"{"figure":"start.gone","table":"x.y"}"#, "rule"),
            (
                r#"{"figure":"start.","sides":["vms"],"at_most":"1 s"}"#,
                "rule.figure",
            ),
            (
                r#"{"figure":"start.gone","sides":[],"at_most":"1 s"}"#,
                "rule.sides",
            ),
            (r#"{"figure":"start.gone","sides":["vms"]}"#, "rule"),
            (
                r#"{"figure":"start.gone","sides":["vms"],"at_most":"1s"}"#,
                "rule.at_most",
            ),
            (
                r#"{"figure":"start.gone","sides":["vms"],"at_least":"2 parsecs"}"#,
                "rule.at_least",
            ),
            (
                r#"{"figure":"start.gone","sides":["vms"],"at_least":"-1 s"}"#,
                "rule.at_least",
            ),
            (
                r#"{"figure":"start.gone","sides":["vms"],"at_least":"2 x"}"#,
                "rule.at_least",
            ),
            (
                r#"{"figure":"start.gone","sides":["vms"],"beside":"crun","at_least":"2 s"}"#,
                "rule.at_least",
            ),
            (
                r#"{"figure":"start.gone","sides":["vms"],"at_most":"1 s","row":"a"}"#,
                "rule",
            ),
            (
                r#"{"table":"kernels.a","sides":["vms"],"beside":"process","cells":"same"}"#,
                "rule.row",
            ),
            (
                r#"{"table":"kernels.a","row":"b","sides":["vms"],"beside":"process","cells":"alike"}"#,
                "rule.cells",
            ),
            (
                r#"{"table":"kernels.a","row":"b","sides":["vms"],"cells":"same"}"#,
                "rule.beside",
            ),
            (r#"{"unmeasured":"x","needs":"hardware"}"#, "rule"),
            (r#"{"unmeasured":""}"#, "rule"),
            (r#"{"unmeasured":"x","sides":["vms"]}"#, "rule"),
            (
                r#"{"figure":"start.gone","sides":["vms"],"at_most":"1 s","needs":"luck"}"#,
                "rule.needs",
            ),
        ];
        for (json, field) in cases {
            assert_eq!(checked(json).unwrap_err().field, field, "{json}");
        }
    }

    #[test]
    fn names_select_whole_words() {
        assert!(selects_side("docker", "docker, bridge", None));
        assert!(selects_side("crun", "crun", None));
        assert!(!selects_side("crun", "crunch", None));
        assert!(selects_side("vms", "cottage, tiny kernel", Some(Kind::Vm)));
        assert!(!selects_side("vms", "crun", Some(Kind::Container)));
    }

    #[test]
    fn quantities_keep_the_unit_they_were_given() {
        assert_eq!(Quantity::parse("1.5 min").unwrap().value, 90e9);
        assert_eq!(Quantity::parse("1.5 min").unwrap().to_string(), "1.5 min");
        assert_eq!(Quantity::parse("100").unwrap().unit, Some(Unit::Count));
        assert_eq!(Quantity::parse("NaN s"), None);
        assert_eq!(Quantity::parse("inf s"), None);
    }
}
