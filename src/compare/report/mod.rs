//! The report: everything that is told, before it is text, JSON, Markdown or a page.
//!
//! All forms are made from one [`Report`] and say the same: what `words` makes of a value, a relation or
//! a machine stands in each of them. Files appear under their names only when all of them are whole.
//! Read next: [`words`].

pub mod words;
pub mod guide;
pub mod text;
pub mod json;
pub mod markdown;
pub mod page;
pub mod axis;
pub mod chart;
#[cfg(test)]
pub(super) mod testing;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::claims::bounds::Emulated;
use super::claims::verdict::{self, Facts};
use super::claims::{Claims, Judged};
use super::finding::Findings;
use super::root::Root;
use super::session::Plan;
use super::side::{Absent, Kind, Side};
use crate::bench::host::Host;
use crate::outcome::{USER_ERROR, VMM_FAILURE};

/// Everything.
#[derive(Debug)]
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
    pub root: RootInfo,
    /// Sides that ran.
    pub sides: Vec<SideInfo>,
    /// Sides that did not.
    pub absent: Vec<Absent>,
    /// How much was done.
    pub plan: Plan,
    /// What was found, topic by topic.
    pub findings: Vec<Findings>,
    /// What became of claims, if they were asked for.
    pub claims: Vec<Judged>,
}

/// The root file system, for the header.
#[derive(Clone, Debug, Serialize)]
pub struct RootInfo {
    /// SHA-256 over names, kinds, modes and contents, in hexadecimal.
    pub digest: String,
    /// Bytes in its files.
    pub bytes: u64,
    /// Names that are missing where it is a folder of this host.
    pub left_out: Vec<String>,
}

impl From<&Root> for RootInfo {
    fn from(root: &Root) -> Self {
        Self {
            digest: root.digest.clone(),
            bytes: root.bytes,
            left_out: root.left_out.clone(),
        }
    }
}

/// A side, for the header.
#[derive(Clone, Debug, Serialize)]
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

impl Report {
    /// Who is slowed by emulation.
    pub fn emulated(&self) -> Emulated {
        if self.plan.testbed {
            Emulated::All
        } else if self.plan.emulated.is_some() || self.host.kvm.contains("software") {
            Emulated::Guests
        } else {
            Emulated::None
        }
    }

    /// What becomes of `claims` here.
    pub fn judge(&self, claims: &Claims) -> Vec<Judged> {
        let facts = Facts {
            findings: &self.findings,
            kinds: &self.kinds(),
            emulated: self.emulated(),
            instructions: self.plan.instructions,
        };
        verdict::judge(claims, &facts)
    }

    /// Sides with their kinds, also of those that are not there.
    fn kinds(&self) -> Vec<(String, Kind)> {
        let there = self.sides.iter().map(|side| (side.name.clone(), side.kind));
        let absent = self.absent.iter();
        let absent = absent.map(|absent| (absent.name.clone(), absent.kind));
        there.chain(absent).collect()
    }

    /// What must be known of the circumstances, in sentences.
    pub fn circumstances(&self) -> Vec<String> {
        let (host, plan) = (&self.host, &self.plan);
        let mut lines = Vec::new();
        if self.partial {
            lines.push(
                "PARTIAL: a signal cut it short; what had been measured until then follows"
                    .to_owned(),
            );
        }
        lines.push(format!(
            "{}, cottage {}: {} rounds after {} to warm up",
            host.date,
            env!("CARGO_PKG_VERSION"),
            plan.runs,
            plan.warm_up
        ));
        lines.push(format!(
            "machine: {} x {}, Linux {}; huge pages {}; governor {}; load {} before, {} after",
            host.cpus,
            host.cpu,
            host.kernel,
            host.huge_pages,
            host.governor,
            self.load.0,
            self.load.1
        ));
        lines.push(format!("KVM: {}: {}", host.kvm, words::kvm_means(host)));
        if plan.testbed {
            lines.push(
                "EMULATED: this whole machine is a program, QEMU, that carries out the instructions \
                 of a processor it makes up. Both sides pay for that, if not to the same degree: \
                 compare sides with each other, not with times of real machines"
                    .to_owned(),
            );
        }
        if plan.instructions {
            lines.push(
                "INSTRUCTIONS: the clock of this machine counts instructions, one for each \
                 nanosecond. Waiting for a timer counts as long as it lasts, a million a \
                 millisecond"
                    .to_owned(),
            );
        }
        lines.extend(
            plan.emulated
                .iter()
                .map(|why| format!("guests' kernels: {why}")),
        );
        lines.extend(
            self.warnings
                .iter()
                .map(|warning| format!("warning: {warning}")),
        );
        lines.push(format!(
            "root file system of all sides: {} bytes in files, sha256 {}",
            self.root.bytes, self.root.digest
        ));
        if !self.root.left_out.is_empty() {
            lines.push(format!("left out of it: {}", self.root.left_out.join(", ")));
        }
        lines
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
    #[error("Cannot write the report to {0:?}; no file of it is left there")]
    Write(PathBuf, #[source] io::Error),
    /// Nor can the terminal's.
    #[error("Cannot write the report to stdout")]
    Stdout(#[source] io::Error),
}

impl Error {
    /// The exit status this ends the process with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Out(..) => USER_ERROR,
            Self::Write(..) | Self::Stdout(_) => VMM_FAILURE,
        }
    }
}

/// Makes a report's text.
type Render = fn(&Report) -> String;

/// The files, and who makes what is in them.
const FILES: [(&str, Render); 3] = [
    ("report.json", json::render),
    ("report.md", markdown::render),
    ("report.html", page::render),
];

/// The folder for the files, tried before anything is measured.
#[derive(Debug)]
pub struct Out {
    folder: PathBuf,
}

impl Out {
    /// Makes it, if it is not there, and tries whether files can be made in it.
    ///
    /// # Errors
    /// [`Error::Out`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Out(folder.to_owned(), source);
        fs::create_dir_all(folder).map_err(fail)?;
        let out = Self {
            folder: folder.to_owned(),
        };
        let trial = out.unfinished("report.json");
        File::create(&trial).map_err(fail)?;
        fs::remove_file(&trial).map_err(fail)?;
        Ok(out)
    }

    /// Writes the files, all or none: a full disk leaves no half report, and not a new one beside
    /// parts of an older one.
    ///
    /// # Errors
    /// [`Error::Write`] of the first that cannot be written.
    pub fn write(&self, report: &Report) -> Result<(), Error> {
        let written = self.write_all(report);
        if written.is_err() {
            for (name, _) in FILES {
                let _may_not_be_there = fs::remove_file(self.unfinished(name));
            }
        }
        written
    }

    fn write_all(&self, report: &Report) -> Result<(), Error> {
        for (name, render) in FILES {
            let fail = |source| Error::Write(self.folder.join(name), source);
            let mut file = File::create(self.unfinished(name)).map_err(fail)?;
            file.write_all(render(report).as_bytes()).map_err(fail)?;
            // Some file systems notice only now that there is no room.
            file.sync_all().map_err(fail)?;
        }
        for (name, _) in FILES {
            let path = self.folder.join(name);
            fs::rename(self.unfinished(name), &path)
                .map_err(|source| Error::Write(path, source))?;
        }
        Ok(())
    }

    /// Where a file is until all are whole.
    fn unfinished(&self, name: &str) -> PathBuf {
        self.folder.join(format!(".{name}.{}", std::process::id()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is removed when dropped, or kept as COTTAGE_KEEP_REPORT says, for looking at it.
    struct Folder(PathBuf, bool);

    impl Folder {
        fn new(name: &str) -> Self {
            let kept = std::env::var_os("COTTAGE_KEEP_REPORT").map(PathBuf::from);
            let keep = kept.is_some();
            let folder = kept.unwrap_or_else(std::env::temp_dir);
            Self(
                folder.join(format!("cottage-report-{name}-{}", std::process::id())),
                keep,
            )
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            if !self.1 {
                fs::remove_dir_all(&self.0).unwrap();
            }
        }
    }

    #[test]
    fn files_appear_whole_and_alone() {
        let folder = Folder::new("whole");
        let out = Out::open(&folder.0).unwrap();
        assert_eq!(folder.names(), [""; 0]);
        out.write(&testing::judged()).unwrap();
        let mut names: Vec<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        assert_eq!(folder.names(), names);
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_none() {
        let folder = Folder::new("half");
        let out = Out::open(&folder.0).unwrap();
        // The last file's place is taken by a folder.
        let (last, _) = FILES[FILES.len() - 1];
        fs::create_dir(out.unfinished(last)).unwrap();
        let error = out.write(&testing::report()).unwrap_err();
        assert!(error.to_string().contains(last), "{error}");
        assert_eq!(error.exit_code(), VMM_FAILURE);
        fs::remove_dir(out.unfinished(last)).unwrap();
        assert_eq!(folder.names(), [""; 0]);
    }

    #[test]
    fn a_folder_that_cannot_be_is_refused_at_once() {
        let error = Out::open(Path::new("/proc/report")).unwrap_err();
        assert!(
            error.to_string().contains("--out \"/proc/report\""),
            "{error}"
        );
        assert_eq!(error.exit_code(), USER_ERROR);
    }

    #[test]
    fn circumstances_tell_what_emulation_means() {
        let mut report = testing::report();
        assert_eq!(report.emulated(), Emulated::None);
        let told = report.circumstances().join("\n");
        assert!(
            told.contains("kvm_amd, hardware: the processor runs guests by itself"),
            "{told}"
        );
        assert!(told.contains("warning: other programs"), "{told}");
        assert!(told.contains("sha256 5d41402a"), "{told}");
        report.host.kvm = "kvm_pvm, software: guest kernels are emulated".to_owned();
        assert_eq!(report.emulated(), Emulated::Guests);
        assert!(
            report
                .circumstances()
                .join("\n")
                .contains("say nothing about machines")
        );
        report.plan.testbed = true;
        report.plan.instructions = true;
        assert_eq!(report.emulated(), Emulated::All);
        let told = report.circumstances().join("\n");
        assert!(
            told.contains("QEMU") && told.contains("counts instructions"),
            "{told}"
        );
    }
}
