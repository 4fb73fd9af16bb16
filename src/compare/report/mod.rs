//! The report: everything that is told, before it is text, JSON, Markdown or a page.
//!
//! Read next: [`crate::doctor`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::finding::Findings;
use super::root::Root;
use super::session::Plan;
use super::side::{Absent, Kind, Side};
use crate::bench::host::Host;
use crate::outcome::{USER_ERROR, VMM_FAILURE};

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The command line that made it.
    pub command: String,
    /// The machine.
    pub host: Host,
    /// Its load average before and after.
    pub load: (String, String),
    /// What makes the figures less worth.
    pub warnings: Vec<String>,
    /// Whether it was cut short.
    pub partial: bool,
    /// What all sides have got.
    pub root: Root,
    /// Sides that ran.
    pub sides: Vec<SideInfo>,
    /// Sides that did not.
    pub absent: Vec<Absent>,
    /// How much was done.
    pub plan: Plan,
    /// What was found, topic by topic.
    pub findings: Vec<Findings>,
}

/// A side, for the header.
#[derive(Debug, Serialize)]
pub struct SideInfo {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its version.
    pub version: String,
    /// What is run, with COMMAND where the program inside comes.
    pub command: String,
    /// What it took to make it work here.
    pub notes: Vec<String>,
}

impl From<&Side> for SideInfo {
    fn from(side: &Side) -> Self {
        Self {
            name: side.name.clone(),
            kind: side.kind,
            version: side.version.clone(),
            command: side.command.clone(),
            notes: side.notes.clone(),
        }
    }
}

/// Why there is no report, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--out` cannot be used.
    #[error(
        "--out {0:?} cannot be used: give a folder that can be written to, or the name of a new one"
    )]
    Out(PathBuf, #[source] io::Error),
    /// A report cannot be written.
    #[error("Cannot write the report to {0:?}")]
    Write(PathBuf, #[source] io::Error),
}

impl Error {
    /// The exit status this ends the process with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Out(..) => USER_ERROR,
            Self::Write(..) => VMM_FAILURE,
        }
    }
}

/// The folder for the files, tried before anything is measured.
#[derive(Debug)]
pub struct Out {
    folder: PathBuf,
}

impl Out {
    /// Makes it, if it is not there.
    ///
    /// # Errors
    /// [`Error::Out`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(|source| Error::Out(folder.to_owned(), source))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Writes the files.
    ///
    /// # Errors
    /// [`Error::Write`] of the first that cannot be written.
    pub fn write(&self, report: &Report) -> Result<(), Error> {
        let path = self.folder.join("report.json");
        let text = crate::timeline::json::to_text(report);
        fs::write(&path, text).map_err(|source| Error::Write(path, source))
    }
}

impl Report {
    /// For the terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for findings in &self.findings {
            for figure in &findings.figures {
                text += &format!("\n{} ({})\n", figure.title, figure.end_points);
                for line in &figure.lines {
                    text += &format!("  {:<24} {:?}\n", line.side, line.middle());
                }
            }
        }
        text
    }
}
