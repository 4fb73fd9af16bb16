//! Runs the real `cottage` program, as a user would, with a limit on its time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Emulated guests on a busy machine are slow; a hang is longer than this.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// What a finished run left.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Exit status, or 128 + signal.
    pub(crate) code: i32,
    /// The console, byte for byte.
    pub(crate) stdout: Vec<u8>,
    /// cottage's own words.
    pub(crate) stderr: String,
}

impl Finished {
    /// stdout as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails with everything the run said, unless it ended with `code`.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        let (text, stderr) = (self.text(), &self.stderr);
        assert_eq!(self.code, code, "\nconsole:\n{text}\nstderr:\n{stderr}");
        self
    }

    /// Fails with everything the run said, unless stdout is exactly `text`.
    #[track_caller]
    pub(crate) fn expect_stdout(self, text: &str) -> Self {
        assert_eq!(self.text(), text, "\nstderr:\n{}", self.stderr);
        self
    }

    /// Fails with everything the run said, unless the last line of stdout is `line`.
    #[track_caller]
    pub(crate) fn expect_last_line(self, line: &str) -> Self {
        let text = self.text();
        assert_eq!(
            text.lines().last(),
            Some(line),
            "\n{text}\nstderr:\n{}",
            self.stderr
        );
        self
    }

    /// Fails with everything the run said, unless stderr contains `text`.
    #[track_caller]
    pub(crate) fn expect_stderr(self, text: &str) -> Self {
        let console = self.text();
        assert!(
            self.stderr.contains(text),
            "\nconsole:\n{console}\nstderr:\n{}",
            self.stderr
        );
        self
    }
}

/// The program under test: `COTTAGE_BIN`, or what `make cottage` built.
pub(crate) fn program() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("build/cottage");
    let path = std::env::var_os("COTTAGE_BIN").map_or_else(built, PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: run `make cottage`",
        path.display()
    );
    path
}

/// The program under test where no built-in guest is needed: as cargo built it for this suite, or
/// the one there is, where only the suite was brought.
pub(crate) fn plain_program() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_cottage"));
    if built.exists() { built } else { program() }
}

/// A directory of a test's own, which everybody may read; removed with the value.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// The same in `folder`.
    pub(crate) fn below(folder: &Path) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cottage-test-{}-{number}", std::process::id());
        let path = folder.join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The path of the file `name` in it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _nothing_left = std::fs::remove_dir_all(&self.0);
    }
}

/// A guest image: in `COTTAGE_IMAGES`, or where `guest-images/build.sh` put it.
pub(crate) fn image(name: &str) -> String {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-images/out");
    let path = std::env::var_os("COTTAGE_IMAGES")
        .map_or_else(built, PathBuf::from)
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make test`",
        path.display()
    );
    path.to_str().unwrap().to_owned()
}

/// Runs `cottage WORDS` with nothing on stdin.
pub(crate) fn cottage(words: &[&str]) -> Finished {
    cottage_with_input(words, b"")
}

/// Runs `cottage WORDS` with `input` coming through a pipe on stdin.
pub(crate) fn cottage_with_input(words: &[&str], input: &[u8]) -> Finished {
    let mut command = Command::new(program());
    command.args(words);
    finish(command, input)
}

/// Runs any command to its end.
pub(crate) fn finish(mut command: Command, input: &[u8]) -> Finished {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // A guest that does not read its input makes the write fail; that is its right.
    std::thread::spawn(move || stdin.write_all(&input));
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let (done, finished) = mpsc::channel();
    let id = child.id();
    std::thread::spawn(move || done.send(child.wait().unwrap()));
    let Ok(status) = finished.recv_timeout(LIMIT) else {
        let threads = threads(id);
        Command::new("kill")
            .args(["-KILL", &id.to_string()])
            .status()
            .unwrap();
        let console = String::from_utf8_lossy(&stdout.recv().unwrap()).into_owned();
        panic!("{command:?} hangs\nconsole:\n{console}\nits threads:\n{threads}");
    };
    let code = status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap();
    let stderr = String::from_utf8_lossy(&stderr.recv().unwrap()).into_owned();
    Finished {
        code,
        stdout: stdout.recv().unwrap(),
        stderr,
    }
}

/// What the threads of a process are about: name, state and time used, what they wait for.
fn threads(id: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task"))
        .into_iter()
        .flatten();
    let mut text = String::new();
    for task in tasks.flatten() {
        for file in ["stat", "wchan", "syscall"] {
            let said = std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            text += said.trim_end();
            text += "; ";
        }
        text += "\n";
    }
    text
}

/// Reads a pipe to its end on a thread of its own.
fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _as_far_as_it_came = pipe.read_to_end(&mut bytes);
        done.send(bytes)
    });
    finished
}
