//! A guest with a container runtime in it: this host's own, with the libraries it needs.
//!
//! ```text
//!   the common root ─┐
//!   crun, libraries ─┼─▶ one archive, made once, which the guest's kernel gets as initramfs
//!   bundles, /inner ─┘
//! ```
//!
//! A container's root is `/inner`, with the probe. Bundles are what the runtime's own `spec` writes, with
//! another command. The guest's root is an initramfs, which pivot_root(2) refuses: hence `--no-pivot`.
//! Read next: [`super::hybrid`].

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bench::subject::Subject;
use crate::boot::newc::{self, ALIGNMENT, Attributes, DIRECTORY, FILE};
use crate::compare::session::Session;

/// The loader of programs that are linked to libraries, which can list them: `[abi]` System V ABI,
/// AMD64 supplement, section 5.2.1, and ld.so(8).
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Links, as stat(2) has it.
const LINK: u32 = 0o120_000;
/// Of programs and folders.
const USABLE: u32 = 0o755;

/// A guest's files.
#[derive(Debug)]
pub struct Nest {
    /// The archive.
    pub archive: PathBuf,
    runtime: &'static str,
}

impl Nest {
    /// Makes one for `runtime`, with a bundle for each of the probe's `words`.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn make(
        session: &mut Session<'_>,
        runtime: &'static str,
        words: &[&str],
    ) -> Result<Self, String> {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut places = env::split_paths(&path).map(|folder| folder.join(runtime));
        let program = places.find(|place| place.is_file());
        let program = program.ok_or_else(|| format!("there is no {runtime} on PATH"))?;
        let place = session
            .root
            .folder
            .with_file_name(format!("nest-{runtime}"));
        let cannot = |error: io::Error| format!("{} cannot be filled: {error}", place.display());
        fs::create_dir(&place).map_err(cannot)?;
        let bundle = bundle(session, &program, &place)?;
        let libraries = libraries(session, &program)?;
        let mut archive = Archive::default();
        let root = session.root.folder.clone();
        archive.tree(&root, Path::new("")).map_err(cannot)?;
        let inside = format!("bin/{runtime}");
        archive.copy(&program, Path::new(&inside)).map_err(cannot)?;
        for library in libraries {
            let inside = library.strip_prefix("/").unwrap_or(&library);
            archive.copy(&library, inside).map_err(cannot)?;
        }
        for folder in ["inner/proc", "inner/dev", "inner/sys"] {
            archive.folder(Path::new(folder)).map_err(cannot)?;
        }
        archive
            .copy(&root.join("probe"), Path::new("inner/probe"))
            .map_err(cannot)?;
        for word in words {
            let text = with_command(&bundle, word)?;
            let name = format!("bundles/{word}/config.json");
            archive
                .file(Path::new(&name), 0o644, text.as_bytes())
                .map_err(cannot)?;
        }
        let file = place.join("initramfs.cpio");
        let bytes = archive.end().map_err(cannot)?;
        fs::write(&file, bytes).map_err(cannot)?;
        Ok(Self {
            archive: file,
            runtime,
        })
    }

    /// What runs the probe's `word` in a container called `name`, in the guest.
    pub fn command(&self, word: &str, name: &str) -> Vec<String> {
        let bundle = format!("/bundles/{word}");
        let program = format!("/bin/{}", self.runtime);
        let words = [&program, "run", "--no-pivot", "--bundle", &bundle, name];
        words.map(str::to_owned).to_vec()
    }
}

/// The runtime's own default bundle.
fn bundle(session: &mut Session<'_>, program: &Path, place: &Path) -> Result<Value, String> {
    let at = |path: &Path| path.to_string_lossy().into_owned();
    let spec = [
        at(program),
        "spec".to_owned(),
        "--bundle".to_owned(),
        at(place),
    ];
    let made = session.run(&Subject::Other(spec.to_vec()));
    made.map_err(|why| format!("asked for a default bundle: {why}"))?;
    let wrong = |why: String| format!("its default bundle makes no sense: {why}");
    let text = fs::read(place.join("config.json")).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
}

/// The bundle's text for one of the probe's words.
fn with_command(bundle: &Value, word: &str) -> Result<String, String> {
    let mut bundle = bundle.clone();
    let changes = [
        ("/process", "args", Value::from(vec!["/probe", word])),
        ("/process", "terminal", false.into()),
        ("/root", "path", "/inner".into()),
        ("/root", "readonly", true.into()),
    ];
    for (object, member, value) in changes {
        match bundle.pointer_mut(object) {
            Some(Value::Object(object)) => object.insert(member.to_owned(), value),
            _ => return Err(format!("its default bundle has no {object}")),
        };
    }
    Ok(bundle.to_string())
}

/// The libraries that a program needs, and their loader; none if it needs none.
fn libraries(session: &mut Session<'_>, program: &Path) -> Result<Vec<PathBuf>, String> {
    let program = program.to_string_lossy().into_owned();
    let list = [LOADER.to_owned(), "--list".to_owned(), program];
    match session.run(&Subject::Other(list.to_vec())) {
        Ok(sample) => {
            let lines = sample.lines.iter().filter_map(|line| library(&line.text));
            let all: BTreeSet<_> = lines.chain([LOADER.into()]).collect();
            Ok(all.into_iter().collect())
        }
        Err(why) if why.contains("statically linked") => Ok(Vec::new()),
        Err(why) => Err(format!("its libraries cannot be listed: {why}")),
    }
}

/// The file of a line such as `libc.so.6 => /lib/libc.so.6 (0x00007f)`.
fn library(line: &str) -> Option<PathBuf> {
    let word = line.split_whitespace().find(|word| word.starts_with('/'))?;
    Some(word.into())
}

/// An archive in the making.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    there: BTreeSet<PathBuf>,
}

impl Archive {
    /// Adds what is below `from`, as `to` and below.
    fn tree(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(from)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let inside = to.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.folder(&inside)?;
                self.tree(&entry.path(), &inside)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.entry(&inside, LINK | 0o777, target.as_os_str().as_bytes())?;
            } else if kind.is_file() {
                self.copy(&entry.path(), &inside)?;
            }
            // Devices are the guest kernel's own affair: devtmpfs.
        }
        Ok(())
    }

    /// Adds a folder and those above it, once.
    fn folder(&mut self, path: &Path) -> io::Result<()> {
        let mut above: Vec<_> = path.ancestors().collect();
        above.reverse();
        for folder in above.iter().filter(|folder| !folder.as_os_str().is_empty()) {
            if !self.there.contains(*folder) {
                self.entry(folder, DIRECTORY | USABLE, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file of the host's under another name.
    fn copy(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let mode = fs::metadata(from)?.permissions().mode() & 0o777;
        self.file(to, mode, &fs::read(from)?)
    }

    fn file(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        self.folder(path.parent().unwrap_or(Path::new("")))?;
        self.entry(path, FILE | mode, content)
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        self.there.insert(path.to_owned());
        // Nothing has a second name: the number need not tell files apart.
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name = path.as_os_str().as_bytes();
        let header = newc::header(name, &Attributes::of_root(mode), (0, 1), size);
        self.bytes.extend(header.map_err(io::Error::other)?);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        while !(self.bytes.len() as u64).is_multiple_of(ALIGNMENT) {
            self.bytes.push(0);
        }
    }

    /// The whole, with the entry that says so.
    fn end(mut self) -> io::Result<Vec<u8>> {
        self.entry(Path::new("TRAILER!!!"), 0, &[])?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_of_the_loaders_list() {
        let of = |line| library(line).map(|path| path.display().to_string());
        assert_eq!(
            of("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)").as_deref(),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(
            of("\t/lib64/ld-linux-x86-64.so.2 (0x7f)").as_deref(),
            Some(LOADER)
        );
        assert_eq!(of("\tlinux-vdso.so.1 (0x00007ffd)"), None);
    }

    #[test]
    fn bundle_gets_command_and_root() {
        let bundle = serde_json::json!({
            "process": { "terminal": true, "args": ["sh"], "cwd": "/" },
            "root": { "path": "rootfs" },
        });
        let text = with_command(&bundle, "stamp").unwrap();
        let changed: Value = serde_json::from_str(&text).unwrap();
        let wanted = serde_json::json!({
            "process": { "terminal": false, "args": ["/probe", "stamp"], "cwd": "/" },
            "root": { "path": "/inner", "readonly": true },
        });
        assert_eq!(changed, wanted);
        let error = with_command(&serde_json::json!({ "root": {} }), "stamp").unwrap_err();
        assert!(error.contains("/process"), "{error}");
    }

    #[test]
    fn archive_has_each_folder_once_and_before_its_files() {
        let mut archive = Archive::default();
        archive.file(Path::new("a/b/c"), 0o644, b"xyz").unwrap();
        archive.file(Path::new("a/b/d"), 0o755, b"").unwrap();
        let bytes = archive.end().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<_> = ["a\0", "a/b\0", "a/b/c\0", "a/b/d\0", "TRAILER!!!\0"]
            .iter()
            .map(|name| text.matches(&format!("000000{name}")).count())
            .collect();
        assert_eq!(names, [1; 5]);
        assert_eq!(bytes.len() % 4, 0);
        let place = |name: &str| text.find(name).unwrap();
        assert!(place("a/b\0") < place("a/b/c\0"));
    }
}
