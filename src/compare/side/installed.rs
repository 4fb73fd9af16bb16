//! What has to be on the disk for a program to work: its Debian package's files, or its own and its
//! libraries'.
//!
//! Where dpkg knows whose a program is, all of that package counts, with what it brings along: that is
//! what has to be installed. Documentation and translations count too, for they are installed as well.
//! Elsewhere it is the program and the libraries that ldd(1) lists.
//! Read next: [`crate::compare::topic`].

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::compare::command::{program, run};

/// The files that belong to `programs`, names or paths; those that are not there have none.
pub fn files(programs: &[String]) -> Vec<PathBuf> {
    let mut packages = BTreeSet::new();
    let mut files = BTreeSet::new();
    for name in programs {
        let Some(path) = place(name) else { continue };
        match package(&path) {
            Some(package) => {
                packages.insert(package);
            }
            None => files.extend(with_libraries(&path)),
        }
    }
    for package in packages {
        let listed = run(&["dpkg-query", "--listfiles", &package].map(str::to_owned));
        files.extend(listed.unwrap_or_default().lines().map(PathBuf::from));
    }
    let is_file = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|file| file.is_file());
    files.into_iter().filter(is_file).collect()
}

fn place(name: &str) -> Option<PathBuf> {
    let path = match name.contains('/') {
        true => PathBuf::from(name),
        false => program(name)?,
    };
    fs::canonicalize(path).ok()
}

/// Whose the file is, by dpkg.
fn package(path: &Path) -> Option<String> {
    let path = path.to_str()?;
    // Before the two became one, packages had their programs in /bin, and dpkg knows them there still.
    let older = path.strip_prefix("/usr").unwrap_or(path);
    [path, older].into_iter().find_map(|path| {
        let found = run(&["dpkg-query", "--search", path].map(str::to_owned)).ok()?;
        let (package, _path) = found.lines().next()?.split_once(": ")?;
        Some(package.to_owned())
    })
}

/// The program and its libraries; one that is linked statically has none.
fn with_libraries(path: &Path) -> Vec<PathBuf> {
    let listed = run(&["ldd".to_owned(), path.to_string_lossy().into_owned()]);
    let listed = listed.unwrap_or_default();
    let words = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    let libraries = words.filter_map(|word| fs::canonicalize(word).ok());
    libraries.chain([path.to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_without_a_package_counts_with_its_libraries() {
        let this = std::env::current_exe().unwrap();
        let found = files(&[this.to_string_lossy().into_owned()]);
        assert!(found.contains(&this));
        assert!(found.iter().all(|path| path.is_file()));
    }

    #[test]
    fn program_of_a_package_counts_with_the_package() {
        // Where there is no dpkg there are no packages of its.
        let dpkg = place("dpkg-query");
        let found = files(&["dpkg-query".to_owned()]);
        assert_eq!(found.is_empty(), dpkg.is_none());
        let manual = |path: &PathBuf| path.starts_with("/usr/share/doc/dpkg");
        assert_eq!(found.iter().any(manual), dpkg.is_some());
    }

    #[test]
    fn nothing_is_there_of_what_is_not() {
        assert_eq!(
            files(&["no-such-program".to_owned()]),
            Vec::<PathBuf>::new()
        );
    }
}
