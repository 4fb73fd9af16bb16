//! Guests people already have: images and directories as root.
//!
//! The images are those of `guest-images/roots/`; Debian has a suite of its own, `tests/debian.rs`. What is refused before a guest starts is in
//! `tests/refusals.rs`, save what takes the built-in guest to find out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use support::program::{Finished, Scratch, cottage, cottage_with_input, image};
use support::{linux_kvm, skip};

/// Boots the full kernel with `root` and `flags`, running the shell line `line` in that root.
fn guest(root: &str, flags: &[&str], line: &str) -> Finished {
    let kernel = image("full/vmlinux");
    let machine = ["run", "--kernel", &kernel, "--rootfs", root];
    cottage(&[&machine, flags, &["--", "sh", "-c", line]].concat())
}

/// A copy of a small image, to be written.
fn copy_of(name: &str, files: &Scratch) -> String {
    let copy = files.path("root.img");
    fs::copy(image(name), &copy).unwrap();
    copy
}

#[test]
fn ext4_image_is_root_and_keeps_what_is_written() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let root = copy_of("roots/busybox.ext4", &files);
    let line =
        "cat /etc/whose; ls -1d /proc/1 /dev/vda /sys/block /run; echo new >/etc/new; exit 7";
    guest(&root, &[], line)
        .expect_code(7)
        .expect_stdout("a root of the user's\n/dev/vda\n/proc/1\n/run\n/sys/block\n");
    // Linux fs/ext4/ext4.h: s_feature_incompat at 0x60 of the superblock, of which bit 2 is "the journal
    // is to be replayed".
    let needs_recovery = fs::read(&root).unwrap().get(0x460).unwrap() & 4;
    assert_eq!(needs_recovery, 0, "the file system was left in order");
    guest(&root, &[], "cat /etc/new")
        .expect_code(0)
        .expect_stdout("new\n");
}

#[test]
fn overlay_and_read_only_leave_an_ext4_image_as_it_is() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let root = copy_of("roots/busybox.ext4", &files);
    let before = fs::read(&root).unwrap();
    guest(
        &format!("{root},overlay"),
        &[],
        "echo new >/etc/whose; cat /etc/whose",
    )
    .expect_code(0)
    .expect_stdout("new\n");
    let line = "echo kept >/tmp/x && cat /tmp/x; touch /etc/x 2>/dev/null || echo refused";
    guest(&format!("{root},ro"), &[], line)
        .expect_code(0)
        .expect_stdout("kept\nrefused\n");
    assert!(fs::read(&root).unwrap() == before);
}

/// What every file system that is only read does.
fn is_read_only_and_can_be_overlaid(name: &str) {
    let root = image(name);
    guest(
        &root,
        &[],
        "cat /etc/whose; touch /etc/x 2>/dev/null || echo refused",
    )
    .expect_code(0)
    .expect_stdout("a root of the user's\nrefused\n");
    let line = "echo new >/etc/whose; cat /etc/whose; exit 3";
    guest(&format!("{root},overlay"), &[], line)
        .expect_code(3)
        .expect_stdout("new\n");
}

#[test]
fn erofs_image_is_root() {
    let Some(_) = linux_kvm() else { return };
    is_read_only_and_can_be_overlaid("roots/busybox.erofs");
}

#[test]
fn squashfs_image_is_root() {
    let Some(_) = linux_kvm() else { return };
    is_read_only_and_can_be_overlaid("roots/busybox.squashfs");
}

#[test]
fn root_is_the_first_disk_and_others_follow() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let disk = files.file("disk", &[b'x'; 512]);
    let root = format!("{},ro", image("roots/busybox.ext4"));
    guest(
        &root,
        &["--disk", &disk],
        "cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial; echo",
    )
    .expect_code(0)
    .expect_stdout("root\ndisk0\n");
}

#[test]
fn root_with_an_init_runs_that_unless_told_otherwise() {
    let Some(_) = linux_kvm() else { return };
    let kernel = image("full/vmlinux");
    let root = format!("{},ro", image("roots/busybox.ext4"));
    let machine = ["run", "--kernel", &kernel, "--rootfs", &root];
    let run = cottage(&machine).expect_code(0);
    let text = run.text();
    assert!(text.starts_with("its own init is process 1\r\n"), "{text}");
    let run = cottage(&[&machine[..], &["--init", "/bin/nothing"]].concat());
    let text = run.text();
    assert!(
        text.starts_with("cottage: /bin/nothing: cannot be executed; a shell comes instead"),
        "{text}"
    );
}

#[test]
fn image_that_cannot_be_mounted_ends_the_run_and_says_why() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    // The magic number alone.
    let mut bytes = vec![0; 1 << 20];
    bytes.splice(0x438..0x43a, *b"\x53\xef");
    let root = files.file("damaged", &bytes);
    let run = guest(&root, &[], "echo not reached").expect_code(126);
    let text = run.text();
    assert!(
        text.contains("cottage: /dev/vda: cannot be mounted as ext4: it is damaged"),
        "{text}"
    );
}

/// This machine's busybox.
fn busybox() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join("busybox"));
    places
        .find(|place| place.exists())
        .or_else(|| skip("any", "it needs busybox"))
}

/// A directory to be packed, with busybox as its shell.
fn directory(files: &Scratch, busybox: &Path) -> String {
    let root = files.path("root");
    for name in ["", "bin", "etc"] {
        fs::create_dir(format!("{root}/{name}")).unwrap();
    }
    fs::copy(busybox, format!("{root}/bin/busybox")).unwrap();
    for name in ["sh", "ls", "cat", "stat", "cmp", "md5sum"] {
        symlink("busybox", format!("{root}/bin/{name}")).unwrap();
    }
    root
}

#[test]
fn directory_is_root_in_memory_with_kinds_modes_and_links() {
    let Some(_) = linux_kvm() else { return };
    let Some(busybox) = busybox() else { return };
    let files = Scratch::new();
    let root = directory(&files, &busybox);
    fs::write(format!("{root}/etc/a"), "linked\n").unwrap();
    fs::hard_link(format!("{root}/etc/a"), format!("{root}/etc/b")).unwrap();
    fs::set_permissions(format!("{root}/etc/a"), fs::Permissions::from_mode(0o640)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        format!("{root}/pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(format!("{root}/socket")).unwrap();
    // The kernel built in: no disk is needed, nor any driver.
    let line = "cat /etc/b; stat -c '%h %a' /etc/a /etc/b; [ -p /pipe ] && echo pipe; \
                [ -e /socket ] || echo no socket; echo in memory >/etc/a; cat /etc/b; exit 5";
    cottage(&["run", "--rootfs", &root, "--", "sh", "-c", line])
        .expect_code(5)
        .expect_stdout("linked\n2 640\n2 640\npipe\nno socket\nin memory\n");
    assert_eq!(
        fs::read(format!("{root}/etc/a")).unwrap(),
        b"linked\n",
        "the directory stays as it is"
    );
}

/// 40 MiB, which a memory of 96 MiB cannot unpack.
const LARGE: usize = 40 << 20;

#[test]
fn directory_too_large_for_memory_says_how_much_would_do() {
    let Some(_) = linux_kvm() else { return };
    let Some(busybox) = busybox() else { return };
    let files = Scratch::new();
    let root = directory(&files, &busybox);
    fs::write(format!("{root}/large"), vec![b'x'; LARGE]).unwrap();
    let run = |memory: &str| {
        let line = "[ $(stat -c %s /large) = 41943040 ] && echo whole";
        let machine = ["run", "--memory", memory, "--rootfs", &root];
        cottage(&[&machine[..], &["--", "sh", "-c", line]].concat())
    };
    let refused = run("96M").expect_code(110);
    let words = "three times that to be unpacked; --memory ";
    let refused = refused.expect_stderr(words);
    let rest = refused.stderr.split(words).nth(1).unwrap();
    let memory = rest.split(' ').next().unwrap();
    run(memory).expect_code(0).expect_stdout("whole\n");
}

#[test]
fn root_without_an_init_gets_a_shell() {
    let Some(_) = linux_kvm() else { return };
    let Some(busybox) = busybox() else { return };
    let files = Scratch::new();
    let root = directory(&files, &busybox);
    cottage_with_input(
        &["run", "--rootfs", &root],
        b"echo $$ $0; ls /etc; exit 9\n",
    )
    .expect_code(9);
}

/// What everything below `root` is, but for times: names, modes, contents.
fn everything(root: &str) -> Vec<String> {
    let mut waiting = vec![PathBuf::from(root)];
    let mut lines = Vec::new();
    while let Some(path) = waiting.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        if about.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let content = if about.is_file() {
            fs::read(&path).unwrap().len()
        } else {
            0
        };
        let mode = about.permissions().mode();
        lines.push(format!("{} {mode:o} {content}", path.display()));
    }
    lines.sort();
    lines
}

/// Runs the shell line `line` in the shared directory `root`, whose options are `options`.
fn shared(root: &str, options: &str, line: &str) -> Finished {
    guest(&format!("{root},shared{options}"), &[], line)
}

#[test]
fn shared_directory_is_root_and_what_is_written_is_on_the_host() {
    let Some(_) = linux_kvm() else { return };
    let Some(busybox) = busybox() else { return };
    let files = Scratch::new();
    let root = directory(&files, &busybox);
    fs::write(format!("{root}/etc/a"), "host's\n").unwrap();
    let line = "cat /etc/a; ls -1d /proc/1 /sys/block /run /dev/null; cat /proc/mounts | \
                while read what where kind rest; do [ $where = / ] && echo $what $kind; done; \
                echo guest >/etc/b && echo more >>/etc/a; exit 5";
    shared(&root, "", line)
        .expect_code(5)
        .expect_stdout("host's\n/dev/null\n/proc/1\n/run\n/sys/block\n.root virtiofs\n");
    let on_host = |name: &str| fs::read_to_string(format!("{root}/etc/{name}")).unwrap();
    assert_eq!(on_host("b"), "guest\n");
    assert_eq!(on_host("a"), "host's\nmore\n");
}

#[test]
fn shared_directory_that_is_only_read_or_overlaid_stays_as_it_is() {
    let Some(_) = linux_kvm() else { return };
    let Some(busybox) = busybox() else { return };
    let files = Scratch::new();
    let root = directory(&files, &busybox);
    for name in ["dev", "proc", "sys", "run", "tmp"] {
        fs::create_dir(format!("{root}/{name}")).unwrap();
    }
    fs::write(format!("{root}/etc/a"), "host's\n").unwrap();
    let before = everything(&root);
    let line = "echo kept >/tmp/x && cat /tmp/x; cat /etc/a; \
                (echo new >/etc/a) 2>/dev/null || echo refused; \
                (: >/etc/new) 2>/dev/null || echo refused";
    shared(&root, ",ro", line)
        .expect_code(0)
        .expect_stdout("kept\nhost's\nrefused\nrefused\n");
    let line = "echo kept >/tmp/x && cat /tmp/x; echo new >/etc/a; cat /etc/a; : >/etc/new; \
                ls -1 /etc; exit 3";
    shared(&root, ",overlay", line)
        .expect_code(3)
        .expect_stdout("kept\nnew\na\nnew\n");
    assert_eq!(everything(&root), before);
}
