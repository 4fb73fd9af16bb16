//! Shared folders, mounted by a real kernel.
//!
//! Requests that no kernel would make are tested beside the source, in `src/virtio/fs/`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sha2::{Digest, Sha256};
use support::linux_kvm;
use support::program::{Finished, Scratch, cottage, image};

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

/// Runs a shell line in the full kernel, with the folders `shares`.
fn guest(shares: &[String], line: &str) -> Finished {
    let kernel = image("full/vmlinux");
    let mut words = vec!["run", "--kernel", &kernel, "--memory", "256M"];
    for share in shares {
        words.extend(["--share", share]);
    }
    words.extend(["--", "sh", "-c", line]);
    cottage(&words)
}

/// A scratch directory with the folder `in`.
fn folder() -> (Scratch, String) {
    let files = Scratch::new();
    let path = files.path("in");
    fs::create_dir(&path).unwrap();
    (files, path)
}

/// What `sha256sum` prints for a file of these bytes.
fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

/// Kind, mode, time and content of everything below `path`, a line each.
fn description(path: &Path) -> String {
    let mut lines = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap().path();
            let about = fs::symlink_metadata(&entry).unwrap();
            let what = if about.is_dir() {
                waiting.push(entry.clone());
                String::new()
            } else if about.is_symlink() {
                fs::read_link(&entry).unwrap().display().to_string()
            } else {
                format!("{} {}", about.mtime(), sum(&fs::read(&entry).unwrap()))
            };
            let name = entry.strip_prefix(path).unwrap().display();
            lines.push(format!("{name} {:o} {what}\n", about.mode()));
        }
    }
    lines.sort();
    lines.concat()
}

#[test]
fn tree_arrives_in_the_guest_and_comes_back_as_it_was() {
    let Some(_) = linux_kvm() else { return };
    let (files, path) = folder();
    fs::create_dir_all(files.path("in/a/b c")).unwrap();
    for (name, len) in [
        ("empty", 0),
        ("a/one", 1),
        ("a/b c/page", 4096),
        ("large", 300_001),
    ] {
        files.file(&format!("in/{name}"), &pattern(len as u64, len));
    }
    fs::set_permissions(files.path("in/a/one"), PermissionsExt::from_mode(0o751)).unwrap();
    symlink("a/one", files.path("in/link")).unwrap();
    let out = files.path("out");
    fs::create_dir(&out).unwrap();
    let expected = sum(&pattern(300_001, 300_001));
    guest(
        &[format!("{path}:src,ro"), format!("{out}:dst,at=/srv/a/b")],
        "cd /mnt/src && sha256sum large && cat link | wc -c && cp -a . /srv/a/b/",
    )
    .expect_code(0)
    .expect_stdout(&format!("{expected}  large\n1\n"));
    assert_eq!(description(Path::new(&out)), description(Path::new(&path)));
}

#[test]
fn what_the_guest_does_to_names_is_seen_on_the_host() {
    let Some(_) = linux_kvm() else { return };
    let (files, path) = folder();
    for name in ["old", "gone", "target"] {
        files.file(&format!("in/{name}"), name.as_bytes());
    }
    guest(
        &[format!("{path}:src")],
        "cd /mnt/src && mkdir dir && mv old dir/new && rm gone && ln target hard && ln -s x soft && \
         mkdir empty && rmdir empty && truncate -s 3 target && echo more >> target && \
         touch -d '2001-02-03 04:05:06' target && chmod 4750 target && stat -c '%h %s %a' target && \
         ls -l /mnt/src/nothing 2>/dev/null; df /mnt/src | tail -n 1 | cut -d ' ' -f 1; sync",
    )
    .expect_code(0)
    // Set-user-id is not for guests to set.
    .expect_stdout("2 8 750\nsrc\n");
    assert_eq!(fs::read(files.path("in/dir/new")).unwrap(), b"old");
    assert_eq!(fs::read(files.path("in/target")).unwrap(), b"tarmore\n");
    let target = fs::metadata(files.path("in/target")).unwrap();
    let hard = fs::metadata(files.path("in/hard")).unwrap();
    assert_eq!(target.ino(), hard.ino());
    assert_eq!((target.mode(), target.mtime()), (0o100_750, 981_173_106));
    let soft = fs::read_link(files.path("in/soft")).unwrap();
    assert_eq!(soft.to_str(), Some("x"));
    for name in ["old", "gone", "empty"] {
        assert!(!Path::new(&files.path(&format!("in/{name}"))).exists());
    }
}

#[test]
fn read_only_folder_stays_so_when_mounted_writable() {
    let Some(_) = linux_kvm() else { return };
    let (files, path) = folder();
    files.file("in/file", b"content");
    guest(
        &[format!("{path}:src,ro")],
        "umount /mnt/src && mount -t virtiofs src /mnt/src && cd /mnt/src && \
         mount | grep -c 'virtiofs (rw'; \
         for act in 'echo x > file' 'echo x > new' 'rm file' 'mkdir d' 'mv file f' 'ln -s x y' \
             'chmod 600 file' 'truncate -s 0 file'; do \
             sh -c \"$act\" 2>&1 | grep -c 'Read-only file system'; done; cat file",
    )
    .expect_code(0)
    .expect_stdout("1\n1\n1\n1\n1\n1\n1\n1\n1\ncontent");
    assert_eq!(fs::read(files.path("in/file")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
}

#[test]
fn links_and_dots_lead_nowhere_outside() {
    let Some(_) = linux_kvm() else { return };
    let (files, path) = folder();
    files.file("secret", b"secret\n");
    files.file("in/hostname", b"inside\n");
    // Each is followed by the guest's kernel, among the guest's files.
    symlink(files.path("secret"), files.path("in/absolute")).unwrap();
    symlink("../secret", files.path("in/relative")).unwrap();
    symlink("../../../../../..", files.path("in/up")).unwrap();
    symlink("/", files.path("in/root")).unwrap();
    let run = guest(
        &[format!("{path}:src")],
        &format!(
            "cd /mnt/src; cat absolute relative ../secret ../../secret up{secret} root{secret} \
             /mnt/src/../../{secret} 2>/dev/null; ls root/.cottage; ls -d up/.cottage",
            secret = files.path("secret")
        ),
    )
    .expect_code(0);
    assert_eq!(run.text(), "run\nup/.cottage\n", "the guest's own files");
}

#[test]
fn link_swapped_in_by_the_host_leads_nowhere() {
    let Some(_) = linux_kvm() else { return };
    let (files, path) = folder();
    fs::create_dir(files.path("in/dir")).unwrap();
    fs::create_dir(files.path("outside")).unwrap();
    files.file("in/dir/file", b"inside\n");
    files.file("outside/file", b"secret\n");
    let (dir, link) = (files.path("in/dir"), files.path("in/link"));
    symlink("../outside", &link).unwrap();
    let over = AtomicBool::new(false);
    let run = thread::scope(|scope| {
        scope.spawn(|| {
            let aside = files.path("in/aside");
            while !over.load(Ordering::Relaxed) {
                fs::rename(&dir, &aside).unwrap();
                fs::rename(&link, &dir).unwrap();
                fs::rename(&dir, &link).unwrap();
                fs::rename(&aside, &dir).unwrap();
            }
        });
        // A new mount each time: nothing that was found before is remembered.
        let run = guest(
            &[format!("{path}:src")],
            "for i in $(seq 60); do umount /mnt/src; mount -t virtiofs src /mnt/src; \
             cat /mnt/src/dir/file 2>/dev/null; done | sort -u; echo over",
        );
        over.store(true, Ordering::Relaxed);
        run
    });
    run.expect_code(0).expect_stdout("inside\nover\n");
}

#[test]
fn directory_of_a_thousand_files_is_listed_and_emptied() {
    let Some(_) = linux_kvm() else { return };
    let (files, path) = folder();
    for number in 0..1000 {
        files.file(&format!("in/file-{number}"), b"");
    }
    guest(
        &[format!("{path}:src")],
        "cd /mnt/src; ls | wc -l; ls -l | grep -c '^-rw'; rm file-*; ls -A | wc -l",
    )
    .expect_code(0)
    .expect_stdout("1000\n1000\n0\n");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}

#[test]
fn large_file_is_copied_byte_for_byte() {
    let Some(_) = linux_kvm() else { return };
    let (files, path) = folder();
    let content = pattern(7, 64 * MIB);
    files.file("in/from", &content);
    guest(
        &[format!("{path}:src")],
        "cd /mnt/src && dd if=from of=to bs=1M conv=fsync 2>/dev/null && stat -c %s to",
    )
    .expect_code(0)
    .expect_stdout("67108864\n");
    assert!(fs::read(files.path("in/to")).unwrap() == content);
}

#[test]
fn two_guests_append_to_one_file() {
    let Some(_) = linux_kvm() else { return };
    let (files, path) = folder();
    let share = [format!("{path}:src")];
    thread::scope(|scope| {
        for name in ["one", "two"] {
            let share = &share;
            scope.spawn(move || {
                let line = format!("for i in $(seq 100); do echo {name} $i >> /mnt/src/log; done");
                guest(share, &line).expect_code(0)
            });
        }
    });
    let log = fs::read_to_string(files.path("in/log")).unwrap();
    for name in ["one", "two"] {
        let lines = log.lines().filter(|line| line.starts_with(name));
        let expected = (1..=100).map(|number| format!("{name} {number}"));
        assert!(lines.eq(expected), "{log}");
    }
    assert_eq!(log.lines().count(), 200);
}
