//! A machine under `--gdb`, and both who may speak to it: Debian's gdb, and the bare protocol.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::program::{Finished, LIMIT, Scratch, finish};

/// How long a packet's answer may take, where the machine answers.
const ANSWER: Duration = Duration::from_secs(60);

/// gdb with nothing of the user's: installed, or in the directory COTTAGE_GDB with its libraries, for a
/// machine that has none: the testbed. `None`: there is none.
pub(crate) fn gdb() -> Option<Command> {
    let mut command = match std::env::var("COTTAGE_GDB") {
        Ok(there) if Path::new(&there).exists() => {
            let mut command = Command::new(format!("{there}/lib64/ld-linux-x86-64.so.2"));
            let libraries =
                format!("{there}/lib/x86_64-linux-gnu:{there}/usr/lib/x86_64-linux-gnu");
            command.args([
                "--library-path",
                &libraries,
                &format!("{there}/usr/bin/gdb"),
            ]);
            command.env("PYTHONHOME", format!("{there}/usr"));
            command.args(["--data-directory", &format!("{there}/usr/share/gdb")]);
            command
        }
        _ => Command::new("gdb"),
    };
    command.args(["-nx", "-batch"]).env("HOME", "/");
    let version = Command::new(command.get_program())
        .arg("--version")
        .output();
    version.is_ok().then_some(command)
}

/// A machine that waits for gdb, or runs, at a socket of its own.
#[derive(Debug)]
pub(crate) struct Debugged {
    pub(crate) scratch: Scratch,
    finished: mpsc::Receiver<Finished>,
}

impl Debugged {
    /// Starts `command`, which gets `--gdb SOCKET` and `option`, then `words`.
    pub(crate) fn start(
        mut command: Command,
        scratch: Scratch,
        option: &str,
        words: &[&str],
    ) -> Self {
        let socket = scratch.path("gdb.sock");
        command
            .args(["run", "--gdb", &format!("{socket}{option}")])
            .args(words);
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || done.send(finish(command, b"")));
        let started = Instant::now();
        while !Path::new(&socket).exists() {
            if let Ok(early) = finished.try_recv() {
                panic!("it ended before gdb could come: {early:?}");
            }
            assert!(started.elapsed() < ANSWER, "there is no socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { scratch, finished }
    }

    /// Where gdb connects to.
    pub(crate) fn socket(&self) -> String {
        self.scratch.path("gdb.sock")
    }

    /// How the run ended.
    pub(crate) fn end(&self) -> Finished {
        self.finished.recv_timeout(LIMIT).unwrap()
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&self) -> bool {
        self.finished.try_recv().is_err()
    }

    /// What gdb says to a script of commands, the first of which connects it.
    pub(crate) fn gdb(&self, mut gdb: Command, file: Option<&str>, script: &str) -> String {
        let connected = format!(
            "set pagination off\ntarget remote {}\n{script}",
            self.socket()
        );
        gdb.args(["-x", &self.scratch.file("script", connected.as_bytes())]);
        gdb.args(file);
        let said = finish(gdb, b"");
        format!("{}{}", said.text(), said.stderr)
    }

    /// A connection that speaks the protocol itself.
    pub(crate) fn client(&self) -> Client {
        let socket = UnixStream::connect(self.socket()).unwrap();
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        Client { socket }
    }
}

/// One end of gdb's protocol.
#[derive(Debug)]
pub(crate) struct Client {
    socket: UnixStream,
}

impl Client {
    /// Sends `packet` and returns the answer.
    pub(crate) fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.answer()
    }

    /// Sends a packet.
    pub(crate) fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        self.raw(format!("${packet}#{sum:02x}").as_bytes());
    }

    /// Sends bytes as they are; who is gone does not hear them.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        let _gone = self.socket.write_all(bytes);
    }

    /// The next packet, acknowledged; "closed" when there will be none.
    pub(crate) fn answer(&mut self) -> String {
        let mut packet = Vec::new();
        let mut byte = [0];
        while !packet.ends_with(b"#") {
            match self.socket.read(&mut byte) {
                Ok(1) => {}
                Ok(_) => return "closed".to_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return "closed".to_owned();
                }
                Err(error) => panic!("{error}, after {:?}", String::from_utf8_lossy(&packet)),
            }
            if !packet.is_empty() || byte == *b"$" {
                packet.extend(byte);
            }
        }
        self.socket.read_exact(&mut [0; 2]).unwrap();
        self.raw(b"+");
        let text = String::from_utf8_lossy(&packet).into_owned();
        text.trim_start_matches('$')
            .trim_end_matches('#')
            .to_owned()
    }
}
