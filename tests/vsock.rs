//! The socket device, driven by a real kernel's driver, between programs of the guest's and ours.
//!
//! In the guest is `vsock`, which is our init under another name (guest-images/init/src/vsock.rs); on
//! the host are these tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::linux_kvm;
use support::program::{LIMIT, Scratch, image, program};

const MIB: usize = 1 << 20;

/// Bytes that nobody would write by accident, and that differ by `seed`.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        // Knuth's MMIX generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    bytes.truncate(len);
    bytes
}

/// A machine at work.
struct Guest {
    files: Scratch,
    machine: Child,
}

impl Guest {
    /// Starts the full kernel with a shell line, and a socket device at the path `v` in `files`.
    fn start(files: Scratch, line: &str) -> Self {
        let machine = Command::new(program())
            .args([
                "run",
                "--kernel",
                &image("full/vmlinux"),
                "--memory",
                "256M",
            ])
            .args(["--vsock", &files.path("v"), "--", "sh", "-c", line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { files, machine }
    }

    /// Connects to a port of the guest's, as soon as somebody listens there.
    fn connect(&mut self, port: u32) -> UnixStream {
        let start = Instant::now();
        loop {
            if let Some(program) = connect(&self.files.path("v"), port) {
                return program;
            }
            assert!(start.elapsed() < LIMIT, "nobody listens");
            assert_eq!(self.machine.try_wait().unwrap(), None, "the machine ended");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the end; fails unless the guest printed `expected`.
    #[track_caller]
    fn expect_stdout(mut self, expected: &str) {
        let mut text = String::new();
        let mut console = self.machine.stdout.take().unwrap();
        console.read_to_string(&mut text).unwrap();
        let mut words = String::new();
        let mut stderr = self.machine.stderr.take().unwrap();
        stderr.read_to_string(&mut words).unwrap();
        let status = self.machine.wait().unwrap();
        assert_eq!(text, expected, "{words}");
        assert!(status.success(), "{status}\n{words}");
        assert!(!Path::new(&self.files.path("v")).exists(), "the socket");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ended_already = self.machine.kill();
        let _ended_already = self.machine.wait();
        if thread::panicking() {
            let mut said = String::new();
            let console = self.machine.stdout.take();
            let _what_there_is = console.map(|mut pipe| pipe.read_to_string(&mut said));
            let words = self.machine.stderr.take();
            let _what_there_is = words.map(|mut pipe| pipe.read_to_string(&mut said));
            eprintln!("console and words:\n{said}");
        }
    }
}

/// A connection to `port` through the socket at `path`, if there is one.
fn connect(path: &str, port: u32) -> Option<UnixStream> {
    let mut program = UnixStream::connect(path).ok()?;
    program.set_read_timeout(Some(LIMIT)).unwrap();
    program.set_write_timeout(Some(LIMIT)).unwrap();
    program
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .ok()?;
    // Not buffered: what follows the line is the guest's.
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        if program.read(&mut byte).ok()? == 0 {
            return None;
        }
        line.extend(byte);
    }
    assert!(line.starts_with(b"OK "), "{line:?}");
    Some(program)
}

/// Sends all, ends that half, and reads what comes back, both at the same time.
fn exchange(program: &UnixStream, bytes: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let sent = (&mut &*program).write_all(bytes);
            sent.and_then(|()| program.shutdown(Shutdown::Write))
        });
        let mut back = Vec::new();
        let read = (&mut &*program).read_to_end(&mut back);
        let sent = sending.join().unwrap();
        assert!(read.is_ok() && sent.is_ok(), "{sent:?}, then {read:?}");
        back
    })
}

fn sum(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn program_of_the_host_gets_back_what_it_sent_to_the_guest() {
    let Some(_) = linux_kvm() else { return };
    let mut guest = Guest::start(
        Scratch::new(),
        "vsock listen 5000 -- cat & vsock listen 5001; echo over",
    );
    let bytes = pattern(1, 8 * MIB);
    let echo = guest.connect(5000);
    assert!(exchange(&echo, &bytes) == bytes);
    // The other port takes one connection and joins it with the console.
    assert_eq!(exchange(&guest.connect(5001), b"hello\n"), b"");
    guest.expect_stdout("hello\nover\n");
}

#[test]
fn guest_exchanges_megabytes_with_a_program_of_the_host() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let server = UnixListener::bind(files.path("v_5000")).unwrap();
    let to_guest = pattern(2, 8 * MIB);
    let guest = Guest::start(
        files,
        "dd if=/dev/urandom of=/tmp/out bs=1M count=8 2>/dev/null; \
         vsock connect 2 5000 </tmp/out | sha256sum; sha256sum </tmp/out",
    );
    let (program, _) = server.accept().unwrap();
    let from_guest = exchange(&program, &to_guest);
    assert_eq!(from_guest.len(), 8 * MIB);
    drop(program);
    guest.expect_stdout(&(sum(&to_guest) + &sum(&from_guest)));
}

#[test]
fn port_where_no_program_of_the_host_listens_is_refused() {
    let Some(_) = linux_kvm() else { return };
    let mut guest = Guest::start(
        Scratch::new(),
        "vsock connect 2 5000 2>&1; echo $?; vsock listen 5001",
    );
    drop(guest.connect(5001));
    guest.expect_stdout("vsock: nobody listens there\n1\n");
}

#[test]
fn port_where_no_program_of_the_guest_listens_closes_the_socket() {
    let Some(_) = linux_kvm() else { return };
    let mut guest = Guest::start(
        Scratch::new(),
        "vsock listen 5000 -- cat & vsock listen 5001",
    );
    drop(guest.connect(5000));
    assert!(connect(&guest.files.path("v"), 5002).is_none());
    drop(guest.connect(5001));
    guest.expect_stdout("");
}

#[test]
fn half_that_ends_leaves_the_other_open() {
    let Some(_) = linux_kvm() else { return };
    // The guest answers only after it has read to the end.
    let mut guest = Guest::start(
        Scratch::new(),
        "vsock listen 5000 -- sh -c 'sha256sum; echo and more' & vsock listen 5001",
    );
    let bytes = pattern(3, 100_000);
    let back = exchange(&guest.connect(5000), &bytes);
    assert_eq!(String::from_utf8(back).unwrap(), sum(&bytes) + "and more\n");
    drop(guest.connect(5001));
    guest.expect_stdout("");
}

#[test]
fn many_connections_at_a_time_keep_their_bytes_apart() {
    let Some(_) = linux_kvm() else { return };
    let mut guest = Guest::start(
        Scratch::new(),
        "vsock listen 5000 -- cat & vsock listen 5001",
    );
    let programs: Vec<_> = (0..40).map(|_| guest.connect(5000)).collect();
    thread::scope(|scope| {
        for (seed, program) in (0..).zip(&programs) {
            scope.spawn(move || {
                let bytes = pattern(seed, 50_000);
                assert!(exchange(program, &bytes) == bytes, "connection {seed}");
            });
        }
    });
    drop(guest.connect(5001));
    guest.expect_stdout("");
}

/// The resident memory of a process, in KiB, without what it shares with files.
fn anonymous_memory(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

#[test]
fn guest_that_floods_a_sleeping_program_waits_and_cottage_does_not_grow() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let server = UnixListener::bind(files.path("v_5000")).unwrap();
    // The guest's memory is cottage's too: it is touched before the measurement.
    let guest = Guest::start(
        files,
        "dd if=/dev/zero of=/tmp/fill bs=1M count=150 2>/dev/null; rm /tmp/fill; \
         (dd if=/dev/zero bs=1M count=12 2>/dev/null; echo end) | vsock connect 2 5000",
    );
    let (mut program, _) = server.accept().unwrap();
    let before = anonymous_memory(guest.machine.id());
    thread::sleep(Duration::from_secs(3));
    let grown = anonymous_memory(guest.machine.id()).saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB");
    let mut bytes = Vec::new();
    program.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 12 * MIB + 4);
    assert!(bytes.ends_with(b"\0end\n"));
    drop(program);
    guest.expect_stdout("");
}

#[test]
fn device_works_again_when_its_driver_was_taken_off() {
    let Some(_) = linux_kvm() else { return };
    let mut guest = Guest::start(
        Scratch::new(),
        "cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport; device=$(ls -d virtio?*); \
         for round in 1 2 3; do vsock listen 5000; \
         echo $device >unbind; echo $device >bind; done; vsock listen 5000",
    );
    for text in ["one\n", "two\n", "three\n", "four\n"] {
        assert_eq!(exchange(&guest.connect(5000), text.as_bytes()), b"");
    }
    guest.expect_stdout("one\ntwo\nthree\nfour\n");
}

#[test]
fn socket_goes_with_a_machine_that_is_ended_by_a_signal_and_is_replaced_after_a_kill() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let path = files.path("v");
    let mut guest = Guest::start(files, "echo ready; sleep 1000");
    let mut lines = BufReader::new(guest.machine.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    guest.machine.kill().unwrap();
    guest.machine.wait().unwrap();
    assert!(Path::new(&path).exists(), "left behind");
    let mut again = Command::new(program())
        .args(["run", "--kernel", &image("full/vmlinux"), "--vsock", &path])
        .args(["--", "sh", "-c", "echo ready; sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(again.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let term = Command::new("kill").arg(again.id().to_string()).status();
    assert!(term.unwrap().success());
    assert_eq!(again.wait().unwrap().code(), Some(128 + 15));
    assert!(!Path::new(&path).exists(), "the socket");
}
