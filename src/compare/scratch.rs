//! Where a comparison works, and how it leaves nothing behind.
//!
//! What is made is written into a ledger first, with how to undo it: in memory for this process, which
//! undoes in reverse order when it ends, and in a file of the folder for the next one, if this one is
//! killed. What is in no ledger is found by its name: everything of a comparison bears its tag,
//! `cottage-compare-PID` ([`super::sweep`]).
//!
//! ```text
//!   /var/tmp/cottage-compare-4711/
//!     ledger         one line of JSON a thing to undo
//!     root/          the root file system of all sides
//!     ...            its other forms, bundles, states of runtimes
//! ```
//!
//! Read next: [`super::command`].

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Pid, geteuid, set_child_subreaper, test_kill_process};
use serde::{Deserialize, Serialize};

use super::command::{Failure, try_run};
use super::sweep;

/// What the tags of all comparisons begin with.
const PREFIX: &str = "cottage-compare-";
/// On a disk by convention, unlike /tmp. Source: Filesystem Hierarchy Standard 3.0, 5.15.
const FOLDERS: [&str; 2] = ["/var/tmp", "/tmp"];
/// The forms of the root file system take less together.
const ROOM: u64 = 64 << 20; // 64 MiB

/// How one thing is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undo {
    /// By a command.
    Run(Vec<String>),
    /// By removing all instances that bear the tag.
    Instances {
        /// Prints the names of all instances, one a line.
        list: Vec<String>,
        /// Removes those whose names come behind it.
        remove: Vec<String>,
    },
}

/// A folder of this comparison's own, and the ledger; all is undone and removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    tag: String,
    ledger: Ledger,
    /// Whether this process takes care of what its children leave.
    adopting: bool,
}

/// What there is to undo; the sides share it.
#[derive(Clone, Debug)]
pub struct Ledger {
    undos: Rc<RefCell<Vec<Undo>>>,
    file: Rc<RefCell<File>>,
}

/// Why there is no place to work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be made.
    #[error("Cannot make a folder to work in at {0:?}; TMPDIR chooses another place")]
    Make(PathBuf, #[source] io::Error),
    /// Programs cannot be run there.
    #[error(
        "{0:?} is on a file system where no programs may run (noexec); TMPDIR chooses another place"
    )]
    NoExec(PathBuf),
    /// It is too small.
    #[error(
        "{folder:?} has {free_mib} MiB free, {needed_mib} MiB are needed; TMPDIR chooses another place"
    )]
    Full {
        /// The place.
        folder: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What is needed.
        needed_mib: u64,
    },
}

impl Scratch {
    /// Makes one where programs may be run from, and removes what killed comparisons have left there.
    ///
    /// # Errors
    /// [`Error`] with what the host said.
    pub fn make() -> Result<Self, Error> {
        let chosen = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
        let places = chosen.map_or_else(
            || FOLDERS.map(PathBuf::from).to_vec(),
            |one| vec![one.into()],
        );
        // The killed one may have had another TMPDIR.
        let folders = FOLDERS.map(PathBuf::from);
        places.iter().chain(&folders).for_each(|place| tidy(place));
        let mut made = Err(Error::NoExec(PathBuf::new()));
        for place in places {
            made = Self::make_in(&place);
            if made.is_ok() {
                break;
            }
        }
        made
    }

    fn make_in(place: &Path) -> Result<Self, Error> {
        let tag = format!("{PREFIX}{}", std::process::id());
        let folder = place.join(&tag);
        let cannot = |source| Error::Make(folder.clone(), source);
        let system = statvfs(place).map_err(|errno| cannot(errno.into()))?;
        if system.f_flag.contains(StatVfsMountFlags::NOEXEC) {
            return Err(Error::NoExec(place.to_owned()));
        }
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        if free < ROOM {
            return Err(Error::Full {
                folder: place.to_owned(),
                free_mib: free >> 20,
                needed_mib: ROOM >> 20,
            });
        }
        // Nobody else's business, and nobody else can have prepared it.
        let make = DirBuilder::new().mode(0o700).create(&folder);
        make.map_err(cannot)?;
        let folder = fs::canonicalize(&folder).map_err(cannot)?;
        let file = File::create_new(folder.join("ledger"));
        let file = file.inspect_err(|_| {
            let _not_ours_then = fs::remove_dir(&folder);
        });
        let ledger = Ledger {
            undos: Rc::default(),
            file: Rc::new(RefCell::new(file.map_err(cannot)?)),
        };
        Ok(Self {
            folder,
            tag,
            ledger,
            adopting: false,
        })
    }

    /// Makes this process the parent of whatever loses its own below it, and with that responsible for
    /// it: what a runtime leaves running is ended when this is dropped.
    pub fn adopt_orphans(&mut self) {
        // Without it such a process goes to init, and is found by its name at best.
        self.adopting = set_child_subreaper(Some(rustix::process::getpid())).is_ok();
    }

    /// Its path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the names of everything made begin with.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Its ledger.
    pub fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }
}

impl Ledger {
    /// Notes how to undo what is about to be made. A disk that is full does not hinder this process's
    /// own cleaning.
    pub fn note(&self, undo: Undo) {
        let line = serde_json::to_string(&undo).unwrap_or_default() + "\n";
        let _next_one_will_miss_it = self.file.borrow_mut().write_all(line.as_bytes());
        self.undos.borrow_mut().push(undo);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // First what still runs, so that what it uses can be removed.
        if self.adopting {
            sweep::end_children();
        }
        carry_out(&self.ledger.undos.borrow(), &self.tag);
        if self.adopting {
            sweep::end_children();
        }
        sweep::cgroups(&self.tag);
        sweep::mounts(&self.folder);
        let _nothing_more_to_do = fs::remove_dir_all(&self.folder);
    }
}

/// Undoes all of a ledger, the last first.
fn carry_out(undos: &[Undo], tag: &str) {
    // A runtime that hangs once is not waited for again.
    let mut hung: Vec<&str> = Vec::new();
    for undo in undos.iter().rev() {
        let (Undo::Run(words) | Undo::Instances { list: words, .. }) = undo;
        let program = words.first().map_or("", String::as_str);
        if hung.contains(&program) {
            continue;
        }
        // That something is gone already is no failure.
        if carry_out_one(undo, tag).is_err_and(|failure| failure.late) {
            hung.push(program);
        }
    }
}

fn carry_out_one(undo: &Undo, tag: &str) -> Result<(), Failure> {
    match undo {
        Undo::Run(words) => try_run(words).map(drop),
        Undo::Instances { list, remove } => {
            let names = try_run(list)?;
            let names = names.lines().map(str::trim);
            for name in names.filter(|name| belongs_to(name, tag)) {
                let words = [remove.as_slice(), &[name.to_owned()]].concat();
                match try_run(&words) {
                    Err(failure) if failure.late => return Err(failure),
                    _removed_or_gone => {}
                }
            }
            Ok(())
        }
    }
}

/// Whether the name of an instance is one of `tag`'s, and not of a process whose number begins alike.
pub fn belongs_to(name: &str, tag: &str) -> bool {
    let rest = name.strip_prefix(tag);
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Removes what killed comparisons have left in `place`, and what they noted in ledgers there.
fn tidy(place: &Path) {
    for left in left_over(place) {
        undo_all(&left);
    }
}

/// Folders in `place` of comparisons that are no more.
fn left_over(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let is_left = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        // Made by this user, not by one who would have us run commands of theirs.
        let ours = fs::symlink_metadata(path)
            .is_ok_and(|file| file.is_dir() && file.uid() == geteuid().as_raw());
        number
            .and_then(Pid::from_raw)
            .is_some_and(|pid| ours && !is_comparison(pid))
    };
    entries.map(|entry| entry.path()).filter(is_left).collect()
}

/// Whether a process is there that may be a comparison; this one has made nothing yet.
fn is_comparison(pid: Pid) -> bool {
    pid != rustix::process::getpid() && test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}

/// Cleans up after a comparison that could not itself.
fn undo_all(folder: &Path) {
    let Some(tag) = folder.file_name().and_then(|name| name.to_str()) else {
        return;
    };
    sweep::end_orphans(tag);
    let ledger = fs::read_to_string(folder.join("ledger")).unwrap_or_default();
    // The last line may be half written; then the thing was not made yet.
    let lines = ledger.lines().map(serde_json::from_str::<Undo>);
    carry_out(&lines.filter_map(Result::ok).collect::<Vec<_>>(), tag);
    sweep::end_orphans(tag);
    sweep::cgroups(tag);
    sweep::mounts(folder);
    let _nothing_more_to_do = fs::remove_dir_all(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_belong_to_their_own_tag_only() {
        assert!(belongs_to("cottage-compare-12-0", "cottage-compare-12"));
        assert!(belongs_to("cottage-compare-12", "cottage-compare-12"));
        assert!(!belongs_to("cottage-compare-123-0", "cottage-compare-12"));
        assert!(!belongs_to("web", "cottage-compare-12"));
    }

    #[test]
    fn ledger_of_a_killed_comparison_is_carried_out_backwards() {
        let place = std::env::temp_dir().join(format!("cottage-ledger-{}", std::process::id()));
        // A number that no process has: they end below 2^22.
        let folder = place.join("cottage-compare-9999999");
        fs::create_dir_all(folder.join("root/deep")).unwrap();
        let log = place.join("log");
        let log = log.to_str().unwrap();
        let line = |text: &str| {
            let words = [
                "sh".to_owned(),
                "-c".to_owned(),
                format!("echo {text} >>{log}"),
            ];
            serde_json::to_string(&Undo::Run(words.to_vec())).unwrap()
        };
        let ledger = format!("{}\n{}\n{{\"Run\":[\"sh\"", line("first"), line("second"));
        fs::write(folder.join("ledger"), ledger).unwrap();
        let ours = place.join(format!("{PREFIX}{}", std::process::id()));
        tidy(&place);
        let scratch = Scratch::make_in(&place).unwrap();
        assert!(!folder.exists());
        assert_eq!(fs::read_to_string(log).unwrap(), "second\nfirst\n");
        assert!(ours.exists());
        drop(scratch);
        assert!(!ours.exists());
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn instances_are_removed_by_their_tag() {
        let place = std::env::temp_dir().join(format!("cottage-instances-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        let (log, path) = (place.join("log"), place.join("names"));
        let scratch = Scratch::make_in(&place).unwrap();
        let tag = scratch.tag();
        fs::write(&path, format!("{tag}-1\nother\n{tag}9\n{tag}-2\n")).unwrap();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let script = format!("echo $1 >>{}", log.display());
        scratch.ledger().note(Undo::Instances {
            list: words(&["cat", path.to_str().unwrap()]),
            remove: words(&["sh", "-c", &script, "sh"]),
        });
        let wanted = format!("{tag}-1\n{tag}-2\n");
        drop(scratch);
        assert_eq!(fs::read_to_string(log).unwrap(), wanted);
        fs::remove_dir_all(&place).unwrap();
    }
}
