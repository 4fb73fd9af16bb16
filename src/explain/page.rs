//! What an explanation is made of: sections of prose, tables and drawings.
//!
//! The other modules fill it and know nothing of looks. It becomes text here, for people, and JSON by
//! serde, for programs: a table's rows are objects there, whose fields are named as its columns, and all
//! values are strings, numbers as in the text.
//! Read next: [`super::fields`].

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

use crate::cli::explain::Topic;

/// Where text is broken: more than that is hard to read, and does not fit a terminal beside something.
const WIDTH: usize = 100;
/// Between columns.
const GAP: &str = "  ";

/// One explanation.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The kernel's file, or words for the built-in one.
    pub kernel: String,
    /// In the order of the page.
    pub sections: Vec<Section>,
    /// What `cottage run` would refuse, in its words.
    pub refused: Option<String>,
}

/// What belongs together, under one title.
#[derive(Debug, Serialize)]
pub struct Section {
    /// What `--only` calls it.
    #[serde(serialize_with = "topic_name")]
    pub topic: Topic,
    /// For people.
    pub title: String,
    /// In order.
    pub parts: Vec<Part>,
}

/// A piece of a section.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// A paragraph.
    Prose(String),
    /// Rows and columns.
    Table(Table),
    /// Ranges of guest-physical memory, lowest first.
    Map(Vec<Range>),
    /// Text that stays as it is: code, a command line.
    Verbatim(Vec<String>),
}

/// Rows of as many cells as there are columns.
#[derive(Debug)]
pub struct Table {
    /// Their headings; none of them twice.
    pub columns: &'static [&'static str],
    /// The cells.
    pub rows: Vec<Vec<String>>,
}

/// A range of guest-physical memory, in a drawing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// First address.
    #[serde(serialize_with = "hexadecimal")]
    pub start: u64,
    /// First address after it.
    #[serde(serialize_with = "hexadecimal")]
    pub end: u64,
    /// What is there.
    pub what: String,
    /// Whether something else begins here, RAM or none: a line is drawn above.
    pub border: bool,
}

impl Section {
    /// Starts one without parts.
    pub fn new(topic: Topic, title: impl Into<String>) -> Self {
        Self {
            topic,
            title: title.into(),
            parts: Vec::new(),
        }
    }

    /// Adds a paragraph.
    pub fn say(&mut self, text: impl Into<String>) {
        self.parts.push(Part::Prose(text.into()));
    }

    /// Adds a table, unless it has no rows.
    pub fn table(&mut self, columns: &'static [&'static str], rows: Vec<Vec<String>>) {
        if !rows.is_empty() {
            self.parts.push(Part::Table(Table { columns, rows }));
        }
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Row<'a>(&'static [&'static str], &'a [String]);
        impl Serialize for Row<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().zip(self.1))
            }
        }
        serializer.collect_seq(self.rows.iter().map(|row| Row(self.columns, row)))
    }
}

fn topic_name<S: Serializer>(topic: &Topic, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(topic.name())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde wants"
)]
fn hexadecimal<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#x}"))
}

/// `0x0001_0000`, in groups of four digits; `0x1_0000_0000` above 4 GiB.
pub fn address(number: u64) -> String {
    let (middle, low) = (number >> 16 & 0xffff, number & 0xffff);
    match number >> 32 {
        0 => format!("{middle:#06x}_{low:04x}"),
        high => format!("{high:#x}_{middle:04x}_{low:04x}"),
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, section) in self.sections.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{}", section.title)?;
            writeln!(f, "{}", "=".repeat(section.title.chars().count()))?;
            for (number, part) in section.parts.iter().enumerate() {
                // Prose leads to what follows it; anything else is set off.
                let before = number
                    .checked_sub(1)
                    .and_then(|before| section.parts.get(before));
                let after_prose = matches!(before, Some(Part::Prose(_)));
                if number > 0 && (!after_prose || matches!(part, Part::Prose(_))) {
                    writeln!(f)?;
                }
                match part {
                    Part::Prose(text) => wrapped(f, "", text)?,
                    Part::Table(table) => table.write(f)?,
                    Part::Map(ranges) => draw(f, ranges)?,
                    Part::Verbatim(lines) => {
                        for line in lines {
                            writeln!(f, "  {line}")?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl Table {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading: Vec<_> = self.columns.iter().map(|name| (*name).to_owned()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = [&heading].into_iter().chain(&self.rows);
                let lengths = cells.filter_map(|row| Some(row.get(column)?.chars().count()));
                lengths.max().unwrap_or(0)
            })
            .collect();
        for row in [&heading].into_iter().chain(&self.rows) {
            let mut line = "  ".to_owned();
            let (last, others) = row.split_last().ok_or(fmt::Error)?;
            for (cell, width) in others.iter().zip(&widths) {
                write!(line, "{cell:<width$}{GAP}")?;
            }
            wrapped(f, &line, last)?;
        }
        Ok(())
    }
}

/// Writes `first` and `text` behind it; further lines start below the text.
fn wrapped(f: &mut fmt::Formatter<'_>, first: &str, text: &str) -> fmt::Result {
    let indent = first.chars().count();
    // However wide what stands before it is, some words fit.
    let room = WIDTH.saturating_sub(indent).max(24);
    let mut line = first.to_owned();
    let mut used = 0;
    for word in text.split(' ') {
        let len = word.chars().count();
        if used > 0 && used + 1 + len > room {
            writeln!(f, "{}", line.trim_end())?;
            line = " ".repeat(indent);
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line += word;
        used += len;
    }
    writeln!(f, "{}", line.trim_end())
}

/// Draws memory, lowest address at the top, as in `src/memory/layout.rs`.
fn draw(f: &mut fmt::Formatter<'_>, ranges: &[Range]) -> fmt::Result {
    const BAR: &str = "────────────────────────────────────────";
    for (number, range) in ranges.iter().enumerate() {
        if range.border {
            let corner = if number == 0 { "┌" } else { "├" };
            writeln!(f, "  {:>13} {corner}{BAR}", "")?;
        }
        let (start, last) = (address(range.start), address(range.end.saturating_sub(1)));
        writeln!(f, "  {start:>13} │ {} (to {last})", range.what)?;
    }
    writeln!(f, "  {:>13} └{BAR}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(part: Part) -> Page {
        let mut section = Section::new(Topic::Gdt, "A title");
        section.parts.push(part);
        Page {
            kernel: "k".into(),
            sections: vec![section],
            refused: None,
        }
    }

    #[test]
    fn last_column_is_broken_below_itself() {
        let rows = vec![vec!["0x1".into(), "word ".repeat(30).trim_end().to_owned()]];
        let text = page(Part::Table(Table {
            columns: &["at", "meaning"],
            rows,
        }))
        .to_string();
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "  at   meaning");
        assert!(lines[1].starts_with("  0x1  word word") && lines[1].len() <= WIDTH);
        assert!(lines[2].starts_with("       word"));
    }

    #[test]
    fn drawing_has_a_line_where_something_begins() {
        let range = |start, end, border| Range {
            start,
            end,
            what: "RAM".into(),
            border,
        };
        let text = page(Part::Map(vec![
            range(0, 0x500, true),
            range(0x500, 0x528, false),
            range(0x1_0000_0000, 0x2_0000_0000, true),
        ]))
        .to_string();
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert!(lines[0].trim_start().starts_with("┌─"));
        assert_eq!(lines[2], "    0x0000_0500 │ RAM (to 0x0000_0527)");
        assert!(lines[3].trim_start().starts_with("├─"));
        assert_eq!(lines[4], "  0x1_0000_0000 │ RAM (to 0x1_ffff_ffff)");
    }

    #[test]
    fn rows_become_objects_in_json() {
        let page = page(Part::Table(Table {
            columns: &["at", "field"],
            rows: vec![vec!["0x1".into(), "a".into()]],
        }));
        let json = serde_json::to_value(&page).unwrap();
        let row = &json["sections"][0]["parts"][0]["table"][0];
        assert_eq!((&row["at"], &row["field"]), (&"0x1".into(), &"a".into()));
        assert_eq!(json["sections"][0]["topic"], "gdt");
    }
}
