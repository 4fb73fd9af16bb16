//! Guests people already have: images and directories as root, kernels with modules, and the tools of a
//! distribution at our devices.
//!
//! The images are those of `guest-images/roots/`. What is refused before a guest starts is in
//! `tests/refusals.rs`, save what takes the built-in guest to find out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::program::{
    Finished, LIMIT, Scratch, cottage, cottage_with_input, finish, image, program,
};
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

/// The modules that belong to Debian's kernel.
fn modules() -> String {
    let all = image("debian-cloud/modules");
    let mut versions = fs::read_dir(all).unwrap();
    let version = versions.next().unwrap().unwrap().path();
    version.to_str().unwrap().to_owned()
}

/// Debian's kernel with Debian's files, which stay as they are, and the machine's `flags`.
fn debian(memory: &str, flags: &[&str]) -> Vec<String> {
    let (kernel, modules) = (image("debian-cloud/vmlinuz"), modules());
    let root = format!("{},overlay", image("debian-rootfs/root.ext4"));
    let machine = ["run", "--kernel", &kernel, "--modules", &modules];
    let own = ["--memory", memory, "--rootfs", &root];
    let words = [&machine[..], &own, flags].concat();
    words.into_iter().map(str::to_owned).collect()
}

/// `host`, a script of the shell, as the administrator of a network that is only its own. `tap NAME
/// ADDRESS` makes a tap device there, and "$@" is cottage with `words`, which a hang does not outlive.
/// None where that cannot be had.
fn in_a_network(host: &str, words: &[String]) -> Option<Command> {
    let works = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !works("unshare", &["-r", "-n", "true"]) || !works("busybox", &["true"]) {
        return skip("any", "it needs busybox and user namespaces");
    }
    let script = format!(
        "set -e\n\
         tap() {{\n\
           ip tuntap add $1 mode tap 2>/dev/null || tunctl -t $1 >/dev/null\n\
           ip address add $2 dev $1; ip link set $1 up\n\
         }}\n{host}"
    );
    let mut command = Command::new("unshare");
    command
        .args(["-r", "-n", "sh", "-c", &script, "sh"])
        .args(["busybox", "timeout", &(LIMIT.as_secs() - 5).to_string()])
        .arg(program())
        .args(words);
    Some(command)
}

/// Debian's kernel and Debian's files, at a tap device of a network of their own.
#[test]
fn debian_boots_on_its_own_kernel_with_disk_and_network() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    fs::create_dir(files.path("www")).unwrap();
    let sent: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(files.path("www/file"), &sent).unwrap();
    let host = format!(
        "tap tap0 10.0.0.1/24\n\
         busybox httpd -f -p 10.0.0.1:80 -h {} & \n\
         status=0; \"$@\" || status=$?; kill $!; exit $status",
        files.path("www")
    );
    let line = "uname -r; . /etc/os-release; echo $ID $VERSION_ID; \
        curl -s http://10.0.0.1/file | sha256sum; \
        curl -s -o /root/file http://10.0.0.1/file && sync && sha256sum </root/file; \
        sha256sum </usr/bin/perl; grep -c ^virtio_ /proc/modules; \
        head -c 1 /dev/hwrng | wc -c; exit 6";
    let card = ["--net", "tap=tap0,ip=10.0.0.2/24,gw=10.0.0.1"];
    let flags = [&["--rng"], &card[..], &["--", "sh", "-c", line]].concat();
    let Some(command) = in_a_network(&host, &debian("512M", &flags)) else {
        return;
    };
    let run = finish(command, b"").expect_code(6);
    let text = run.text();
    let lines: Vec<_> = text.lines().collect();
    let [release, system, over, kept, perl, modules, random] = &lines[..] else {
        panic!("{text}\n{}", run.stderr);
    };
    let name = modules_version();
    assert_eq!((*release, *system), (&*name, "debian 12"));
    let sum = digest(&sent);
    assert_eq!(
        (*over, *kept),
        (&*sum, &*sum),
        "over the network, and on disk"
    );
    let from_image = perl_of_the_image();
    assert_eq!(*perl, from_image);
    assert_eq!((*modules, *random), ("5", "1"));
}

/// fio writes all of a file in no order, past the guest's cache, then reads and checks it. A header with a
/// checksum and where it belongs goes to each page, eight of which are a request.
const FIO: &str = "--rw=randwrite --bs=32k --direct=1 --end_fsync=1 \
                   --verify=crc32c --verify_interval=4k --verify_fatal=1";

/// Fails unless fio wrote each block of the file, and each to its place.
///
/// fio 3.33, verify.h, `verify_header`: at 0 a magic number, at 4 the block's length, at 16 its offset.
#[track_caller]
fn assert_fio_wrote(file: &str, len: usize) {
    let bytes = fs::read(file).unwrap();
    assert_eq!(bytes.len(), len, "{file}");
    for (number, block) in bytes.chunks(4096).enumerate() {
        let head = block.first_chunk::<24>().unwrap();
        let (start, offset) = (head.first_chunk::<8>(), head.last_chunk::<8>());
        let offset = u64::from_le_bytes(*offset.unwrap());
        assert_eq!(start, Some(b"\xca\xac\x05\0\0\x10\0\0"), "block {number}");
        assert_eq!(
            offset,
            number as u64 * 4096,
            "{file}: a block of another place"
        );
    }
}

/// A file's digest, as this machine's own tool prints it: emulated, a debug build takes long.
fn digest_of_file(path: &str) -> String {
    let mut command = Command::new("sha256sum");
    command.stdin(fs::File::open(path).unwrap());
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[test]
fn fio_finds_what_it_wrote_on_a_disk_and_in_a_shared_folder() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let disk = files.path("disk");
    fs::File::create(&disk).unwrap().set_len(32 << 20).unwrap();
    fs::create_dir(files.path("out")).unwrap();
    let line = format!(
        "check() {{ fio {FIO} \"$@\" >/tmp/log 2>&1 || {{ cat /tmp/log; exit 1; }}; }}; \
         check --name=disk --filename=/dev/vdb; sha256sum </dev/vdb; \
         check --name=folder --filename=/mnt/out/file --size=4m; sha256sum </mnt/out/file"
    );
    let share = format!("{}:out", files.path("out"));
    let flags = ["--disk", &disk, "--share", &share];
    let words = debian("256M", &[&flags[..], &["--", "sh", "-c", &line]].concat());
    let mut command = Command::new(program());
    command.args(words);
    let run = finish(command, b"").expect_code(0);
    let file = files.path("out/file");
    run.expect_stdout(&(digest_of_file(&disk) + &digest_of_file(&file)));
    assert_fio_wrote(&disk, 32 << 20);
    assert_fio_wrote(&file, 4 << 20);
}

#[test]
fn python_serves_a_file_to_the_host() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    fs::create_dir(files.path("www")).unwrap();
    // The guest serves until it finds on the host that its file was fetched.
    let host = format!(
        "cd {}; tap tap0 10.0.0.1/24\n\
         busybox httpd -f -p 10.0.0.1:80 -h www & httpd=$!\n\
         \"$@\" & machine=$!\n\
         until busybox wget -q -O fetched http://10.0.0.2:8000/made; do\n\
           kill -0 $machine || break; sleep 1\n\
         done\n\
         touch www/fetched; status=0; wait $machine || status=$?; kill $httpd; exit $status",
        files.path("")
    );
    let line = "mkdir /srv/www && cd /srv/www && head -c 2000000 /dev/urandom >made && \
        sha256sum <made; python3 -m http.server 8000 >/root/log 2>&1 & server=$!; \
        until curl -sf http://10.0.0.1/fetched; do kill -0 $server || exit 1; sleep 1; done; \
        grep -c 'GET /made HTTP/1.* 200' /root/log; exit 4";
    let card = ["--net", "tap=tap0,ip=10.0.0.2/24,gw=10.0.0.1"];
    let words = debian("256M", &[&card[..], &["--", "sh", "-c", line]].concat());
    let Some(command) = in_a_network(&host, &words) else {
        return;
    };
    let run = finish(command, b"").expect_code(4);
    let fetched = digest_of_file(&files.path("fetched"));
    run.expect_stdout(&format!("{fetched}1\n"));
}

/// A server of one connection, which sends back what comes.
const ECHO: &str = "\
import socket
listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((socket.VMADDR_CID_ANY, 5000))
listener.listen()
peer, (cid, port) = listener.accept()
count = 0
while data := peer.recv(65536):
    peer.sendall(data)
    count += len(data)
peer.close()
print(cid, count)
";

/// What comes back through the socket device at `path` for `sent`, as soon as somebody listens.
fn echo(path: &str, sent: Vec<u8>) -> Option<Vec<u8>> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(200));
        let Ok(mut peer) = UnixStream::connect(path) else {
            continue;
        };
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        // Refused while nobody listens.
        let _refused = peer.write_all(b"CONNECT 5000\n");
        let mut back = BufReader::new(peer.try_clone().unwrap());
        let mut answer = String::new();
        if back.read_line(&mut answer).is_err() || !answer.starts_with("OK ") {
            continue;
        }
        let writer = thread::spawn(move || {
            peer.write_all(&sent).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
        });
        let mut bytes = Vec::new();
        back.read_to_end(&mut bytes).unwrap();
        writer.join().unwrap();
        return Some(bytes);
    }
    None
}

#[test]
fn python_listens_at_a_vsock_port() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let sent: Vec<u8> = (0..1 << 18).flat_map(u32::to_le_bytes).collect();
    let (path, copy) = (files.path("v"), sent.clone());
    let host = thread::spawn(move || echo(&path, copy));
    let flags = ["--vsock", &files.path("v"), "--", "python3", "-c", ECHO];
    let mut command = Command::new(program());
    command.args(debian("256M", &flags));
    finish(command, b"")
        .expect_code(0)
        .expect_stdout("2 1048576\n");
    assert!(host.join().unwrap() == Some(sent));
}

#[test]
fn iperf3_runs_between_two_machines() {
    let Some(_) = linux_kvm() else { return };
    // No single quotes, for it stands between such.
    let client = r#"until iperf3 -c 10.0.0.2 -n 4M -w 128K -J >/root/log; do sleep 1; done
        python3 -c "import json; end = json.load(open(\"/root/log\"))[\"end\"]
print(end[\"sum_sent\"][\"bytes\"], end[\"sum_received\"][\"bytes\"])""#;
    // Between the two machines this one is the router.
    let host = format!(
        "tap tap0 10.0.0.1/24; tap tap1 10.0.1.1/24; echo 1 >/proc/sys/net/ipv4/ip_forward\n\
         \"$@\" --net tap=tap0,ip=10.0.0.2/24,gw=10.0.0.1 -- iperf3 -s -1 >&2 & server=$!\n\
         \"$@\" --net tap=tap1,ip=10.0.1.2/24,gw=10.0.1.1 -- sh -c '{client}'\n\
         wait $server"
    );
    let Some(command) = in_a_network(&host, &debian("256M", &[])) else {
        return;
    };
    let run = finish(command, b"").expect_code(0);
    let text = run.text();
    let (sent, received) = text.trim_end().split_once(' ').unwrap();
    assert_eq!(sent, "4194304");
    // The server looks when the client says that it is done, with some still on the way.
    let received: u32 = received.parse().unwrap();
    assert!((3 << 20..=4 << 20).contains(&received), "{text}");
}

fn modules_version() -> String {
    let path = modules();
    Path::new(&path)
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// As sha256sum(1) prints it.
fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits}  -")
}

/// What guest-images/roots/debian.sh saw in the tree that it made the image of.
fn perl_of_the_image() -> String {
    let line = fs::read_to_string(image("debian-rootfs/perl.sha256")).unwrap();
    line.trim().to_owned()
}

#[test]
fn kernel_with_modules_runs_our_own_initramfs_too() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let disk = files.file("disk", &[b'x'; 512]);
    let kernel = image("debian-cloud/vmlinuz");
    let modules = modules();
    let machine = ["run", "--kernel", &kernel, "--modules", &modules];
    let flags = ["--memory", "256M", "--disk", &disk];
    let line = "head -c 3 /dev/vda; echo; ls /.cottage/modules";
    cottage(&[&machine[..], &flags, &["--", "sh", "-c", line]].concat())
        .expect_code(0)
        .expect_stdout("xxx\n");
}

#[test]
fn modules_of_another_kernel_are_refused() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let list = "kernel/virtio_mmio.ko:\nkernel/virtio-rng.ko:\n";
    files.file("modules.dep", list.as_bytes());
    fs::create_dir(files.path("kernel")).unwrap();
    for name in ["virtio_mmio.ko", "virtio-rng.ko"] {
        let path = format!("kernel/{name}");
        files.file(&path, b"\x7fELF\0vermagic=5.4.0-old SMP\0");
    }
    let kernel = image("debian-cloud/vmlinuz");
    let modules = files.path("");
    cottage(&["run", "--kernel", &kernel, "--rng", "--modules", &modules])
        .expect_code(110)
        .expect_stderr("are for 5.4.0-old")
        .expect_stderr(&format!("the kernel is {}", modules_version()));
}
