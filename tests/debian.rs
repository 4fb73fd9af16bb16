//! Debian as a user has it, at our devices: its files and, in part, its kernel, its fio, iperf3, curl and Python.
//!
//! The image is that of `guest-images/roots/debian.sh`. Where it is about drivers and modules, the kernel
//! is Debian's stock one; else our full one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::program::{LIMIT, Scratch, cottage, finish, image, program};
use support::{linux_kvm, passt, skip};

/// The modules that belong to Debian's kernel.
fn modules() -> String {
    let all = image("debian-cloud/modules");
    let mut versions = fs::read_dir(all).unwrap();
    let version = versions.next().unwrap().unwrap().path();
    version.to_str().unwrap().to_owned()
}

/// Our full kernel with Debian's files, which stay as they are, and the machine's `flags`. Debian's own
/// takes far longer to boot. Ours has no IPv6: servers are told so.
fn debian(memory: &str, flags: &[&str]) -> Vec<String> {
    machine(&["--kernel", &image("full/vmlinux")], memory, flags)
}

/// The same with Debian's kernel, whose drivers are modules.
fn all_debian(memory: &str, flags: &[&str]) -> Vec<String> {
    let (kernel, modules) = (image("debian-cloud/vmlinuz"), modules());
    let kernel = ["--kernel", &kernel, "--modules", &modules];
    machine(&kernel, memory, flags)
}

fn machine(kernel: &[&str], memory: &str, flags: &[&str]) -> Vec<String> {
    let root = format!("{},overlay", image("debian-rootfs/root.ext4"));
    let own = ["--memory", memory, "--rootfs", &root];
    let words = [&["run"], kernel, &own, flags].concat();
    words.into_iter().map(str::to_owned).collect()
}

/// A function of the shell: `tap NAME ADDRESS` makes a tap device.
const TAP: &str = "\
tap() {
  ip tuntap add $1 mode tap 2>/dev/null || tunctl -t $1 >/dev/null
  ip address add $2 dev $1; ip link set $1 up
}
";

/// cottage, which a hang of the script around it does not outlive.
fn limited() -> Vec<String> {
    let limit = (LIMIT.as_secs() - 5).to_string();
    let program = program().to_str().unwrap().to_owned();
    ["busybox", "timeout", &limit, &program]
        .map(str::to_owned)
        .to_vec()
}

/// `host`, a script of the shell, as the administrator of a network that is only its own; "$@" is
/// cottage with `words`. None where that cannot be had.
fn in_a_network(host: &str, words: &[String]) -> Option<Command> {
    let works = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !works("unshare", &["-r", "-n", "true"]) || !works("busybox", &["true"]) {
        return skip("any", "it needs busybox and user namespaces");
    }
    let script = format!("set -e\n{TAP}{host}");
    let mut command = Command::new("unshare");
    command
        .args(["-r", "-n", "sh", "-c", &script, "sh"])
        .args(limited())
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
    let Some(command) = in_a_network(&host, &all_debian("256M", &flags)) else {
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

/// fio writes all of a file in no order and flushes it now and then; when all is flushed it forgets what it
/// has cached, reads and checks. A header with a checksum and where it belongs goes to each page, four of
/// which are a request.
const FIO: &str = "--rw=randwrite --bs=16k --direct=0 --fsync=32 --end_fsync=1 \
                   --verify=crc32c --verify_interval=4k --verify_fatal=1";
/// The disk for it, and the file in a folder: some hundred requests in all.
const FIO_DISK: usize = 4 << 20;
const FIO_FILE: usize = 1 << 20;

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
    let disk = files.file("disk", &[0; FIO_DISK]);
    fs::create_dir(files.path("out")).unwrap();
    let line = format!(
        "fio {FIO} --name=disk --filename=/dev/vdb --name=folder --filename=/mnt/out/file \
         --size={FIO_FILE} >/tmp/log 2>&1 || {{ cat /tmp/log; exit 1; }}; \
         sha256sum </dev/vdb; sha256sum </mnt/out/file"
    );
    let share = format!("{}:out", files.path("out"));
    let flags = ["--disk", &disk, "--share", &share];
    let words = debian("256M", &[&flags[..], &["--", "sh", "-c", &line]].concat());
    let mut command = Command::new(program());
    command.args(words);
    let run = finish(command, b"").expect_code(0);
    let file = files.path("out/file");
    run.expect_stdout(&(digest_of_file(&disk) + &digest_of_file(&file)));
    assert_fio_wrote(&disk, FIO_DISK);
    assert_fio_wrote(&file, FIO_FILE);
}

/// Writes file after file, on a disk and in a folder, and tells of each once it is synced.
const SYNCED: &str = r#"
import hashlib, itertools, os
def sync(path):
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)
for number in itertools.count():
    for place in "/srv", "/mnt/out":
        name, content = f"{place}/{number}", os.urandom(100_000)
        with open(name, "wb") as file:
            file.write(content)
        sync(name)
        sync(place)
        print(hashlib.sha256(content).hexdigest(), "", name, flush=True)
"#;

#[test]
fn what_was_synced_is_there_after_the_machine_was_killed() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let disk = files.file("disk", &[0; 16 << 20]);
    fs::create_dir(files.path("out")).unwrap();
    files.file("out/synced.py", SYNCED.as_bytes());
    let share = format!("{}:out", files.path("out"));
    let words = |line| {
        let flags = ["--disk", &disk, "--share", &share, "--", "sh", "-c", line];
        debian("256M", &flags)
    };
    let mut machine = Command::new(program())
        .args(words(
            "mkfs.ext4 -q /dev/vdb && mount /dev/vdb /srv && exec python3 /mnt/out/synced.py",
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It ends when the guest says so often that something is synced, and goes on meanwhile.
    let said = BufReader::new(machine.stdout.take().unwrap()).lines();
    let sums: Vec<String> = said.take(16).map(Result::unwrap).collect();
    machine.kill().unwrap();
    assert_eq!(machine.wait().unwrap().signal(), Some(9), "SIGKILL");
    assert!(
        sums.len() == 16 && sums.iter().all(|sum| sum.len() > 64 + 2),
        "{sums:?}"
    );
    files.file("out/sums", (sums.join("\n") + "\n").as_bytes());
    for sum in sums.iter().filter(|sum| sum.contains("/mnt/out/")) {
        let (digest, name) = sum.split_once("  /mnt/").unwrap();
        let on_host = digest_of_file(&files.path(name));
        assert_eq!(on_host, format!("{digest}  -\n"), "{name}");
    }
    let mut command = Command::new(program());
    command.args(words(
        "mount /dev/vdb /srv && sha256sum --check --strict /mnt/out/sums | grep -c ': OK$'",
    ));
    finish(command, b"").expect_code(0).expect_stdout("16\n");
}

/// Python's server, which our kernel, having no IPv6, could not start by default.
const HTTP_SERVER: &str = "python3 -m http.server --bind 0.0.0.0";
/// It asks for its own name, and would wait for a name server that nobody has.
const NAME: &str = "echo 127.0.0.1 cottage >>/etc/hosts";

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
    let line = format!(
        "{NAME}; mkdir /srv/www && cd /srv/www && head -c 2000000 /dev/urandom >made && \
        sha256sum <made; {HTTP_SERVER} 8000 >/root/log 2>&1 & server=$!; \
        until curl -sf http://10.0.0.1/fetched; do kill -0 $server || exit 1; sleep 1; done; \
        grep -c 'GET /made HTTP/1.* 200' /root/log; exit 4"
    );
    let card = ["--net", "tap=tap0,ip=10.0.0.2/24,gw=10.0.0.1"];
    let words = debian("256M", &[&card[..], &["--", "sh", "-c", &line]].concat());
    let Some(command) = in_a_network(&host, &words) else {
        return;
    };
    let run = finish(command, b"").expect_code(4);
    let fetched = digest_of_file(&files.path("fetched"));
    run.expect_stdout(&format!("{fetched}1\n"));
}

#[test]
fn hosts_curl_reaches_a_server_in_the_guest_and_the_guests_the_host() {
    let Some(_) = linux_kvm() else { return };
    if !passt::is_there() {
        return skip("any", "it needs busybox, passt and curl").unwrap_or_default();
    }
    let files = Scratch::new();
    fs::create_dir(files.path("www")).unwrap();
    let sent: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(files.path("www/file"), &sent).unwrap();
    // passt takes its addresses from the interface with the default route, and makes the gateway's
    // address lead to this host itself. The guest serves until it finds that its file was fetched.
    let host = format!(
        "{TAP}\
         cd {}; tap out 10.0.0.1/24; ip link set lo up; ip route add default via 10.0.0.254 dev out\n\
         busybox httpd -f -p 127.0.0.1:8000 -h www & httpd=$!\n\
         \"$@\" & machine=$!\n\
         until curl -sf -o fetched http://127.0.0.1:8080/made; do\n\
           kill -0 $machine || break; sleep 1\n\
         done\n\
         ln fetched www/fetched; status=0; wait $machine || status=$?; kill $httpd; exit $status",
        files.path("")
    );
    let line = format!(
        "{NAME}; curl -s http://10.0.0.254:8000/file | sha256sum; \
        mkdir /srv/www && cd /srv/www && head -c 400000 /dev/urandom >made && sha256sum <made; \
        {HTTP_SERVER} 80 >/root/log 2>&1 & server=$!; \
        until curl -sf -o /root/fetched http://10.0.0.254:8000/fetched; do \
            kill -0 $server || exit 1; sleep 1; done; \
        cmp /root/fetched /srv/www/made && grep -c 'GET /made HTTP/1.* 200' /root/log; exit 7"
    );
    let card = ["--net", "user,forward=tcp:8080:80"];
    let words = debian("256M", &[&card[..], &["--", "sh", "-c", &line]].concat());
    let mut command = passt::in_a_network(&host);
    command.args(limited()).args(words);
    command.current_dir(files.path(""));
    let run = finish(command, b"").expect_code(7);
    let fetched = digest_of_file(&files.path("fetched"));
    run.expect_stdout(&format!("{}\n{fetched}1\n", digest(&sent)));
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
    command.args(all_debian("256M", &flags));
    finish(command, b"")
        .expect_code(0)
        .expect_stdout("2 1048576\n");
    assert!(host.join().unwrap() == Some(sent));
}

#[test]
fn iperf3_runs_between_two_machines() {
    let Some(_) = linux_kvm() else { return };
    // No single quotes, for it stands between such. Until it has measured: the server may not be there
    // yet, and iperf3 sometimes ends well after a connection that came to nothing, with the reason in its
    // report.
    let client = r#"until iperf3 -c 10.0.0.2 -n 2M -w 128K -J >/root/log && python3 -c "import json, sys
log = json.load(open(\"/root/log\")); end = log[\"end\"]
if \"sum_sent\" not in end: sys.exit(log.get(\"error\", \"no error, no sum_sent\"))
print(end[\"sum_sent\"][\"bytes\"], end[\"sum_received\"][\"bytes\"])"; do sleep 1; done"#;
    // Between the two machines this one is the router.
    let host = format!(
        "tap tap0 10.0.0.1/24; tap tap1 10.0.1.1/24; echo 1 >/proc/sys/net/ipv4/ip_forward\n\
         \"$@\" --net tap=tap0,ip=10.0.0.2/24,gw=10.0.0.1 -- iperf3 -4 -s >&2 & server=$!\n\
         \"$@\" --net tap=tap1,ip=10.0.1.2/24,gw=10.0.1.1 -- sh -c '{client}'\n\
         kill $server; wait $server || true"
    );
    let Some(command) = in_a_network(&host, &debian("256M", &[])) else {
        return;
    };
    let run = finish(command, b"").expect_code(0);
    let text = run.text();
    let (sent, received) = text.trim_end().split_once(' ').unwrap();
    assert_eq!(sent, "2097152");
    // The server looks when the client says that it is done, with some still on the way.
    let received: u32 = received.parse().unwrap();
    assert!((1 << 20..=2 << 20).contains(&received), "{text}");
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

/// An image, mounted; gone with the value.
struct Mounted(String);

impl Mounted {
    /// None where nobody may mount.
    fn new(image: &str, at: String) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        // The testbed has the driver and does not load it by itself.
        let script = "[ -e /dev/loop-control ] || insmod /modules/loop.ko; \
                      mount -o loop,ro \"$1\" \"$2\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", image, &at]);
        if !command.status().unwrap().success() {
            return skip("any", "only root can mount an image");
        }
        Some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _told_by_the_scratch = Command::new("umount").arg(&self.0).status();
    }
}

/// Debian as a directory of the host's. Its files can only be read there, and written in the guest.
#[test]
fn debian_runs_from_a_shared_directory() {
    let Some(_) = linux_kvm() else { return };
    let files = Scratch::new();
    let tree = Mounted::new(&image("debian-rootfs/root.ext4"), files.path("debian"));
    let Some(tree) = tree else { return };
    let root = format!("{},shared,overlay", tree.0);
    let (kernel, modules) = (image("debian-cloud/vmlinuz"), modules());
    let line = ". /etc/os-release; echo $ID $VERSION_ID; sha256sum </usr/bin/perl; \
        echo new >>/etc/debian_version && tail -n 1 /etc/debian_version; \
        dpkg-query -W -f '${Package}\n' fio iperf3; \
        python3 -c 'import sys; print(sum(range(101)))'; stat -f -c %T /; exit 8";
    let machine = ["run", "--kernel", &kernel, "--modules", &modules];
    let own = [
        "--memory", "256M", "--rootfs", &root, "--", "sh", "-c", line,
    ];
    let run = cottage(&[&machine[..], &own].concat()).expect_code(8);
    let perl = perl_of_the_image();
    run.expect_stdout(&format!(
        "debian 12\n{perl}\nnew\nfio\niperf3\n5050\noverlayfs\n"
    ));
}

/// A folder in a file system with extended attributes, which the testbed's /tmp has not.
fn folder_with_attributes() -> Option<Scratch> {
    let works = |folder: &Scratch| {
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(folder.path("."), "user.works", b"", none).is_ok()
    };
    let folder = Scratch::new();
    if works(&folder) {
        return Some(folder);
    }
    let folder = Scratch::below(&std::env::current_dir().unwrap());
    if works(&folder) {
        return Some(folder);
    }
    skip("any", "no file system here has extended attributes")
}

#[test]
fn extended_attributes_are_the_hosts() {
    let Some(_) = linux_kvm() else { return };
    let Some(files) = folder_with_attributes() else {
        return;
    };
    fs::create_dir(files.path("in")).unwrap();
    let file = files.file("in/file", b"content");
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&file, "user.host", b"from the host", none).unwrap();
    files.file(
        "in/probe.py",
        br#"
import errno, os
def refused(act, *words):
    try: act(*words)
    except OSError as error: return errno.errorcode[error.errno]
file = "/mnt/a/file"
print(os.listxattr(file), os.getxattr(file, "user.host"))
os.setxattr(file, "user.guest", b"x" * 1000)
os.removexattr(file, "user.host")
print(os.listxattr(file), len(os.getxattr(file, "user.guest")))
print(refused(os.getxattr, file, "user.host"), refused(os.setxattr, file, "trusted.a", b""))
print(refused(os.setxattr, "/mnt/b/file", "user.b", b""), os.listxattr("/mnt/b/file"))
with open(file, "a") as out: out.write("s")
"#,
    );
    let folder = files.path("in");
    let (write, read) = (format!("{folder}:a"), format!("{folder}:b,ro"));
    let flags = ["--share", &write, "--share", &read];
    let python = ["--", "python3", "/mnt/a/probe.py"];
    let mut command = Command::new(program());
    command.args(debian("256M", &[&flags[..], &python].concat()));
    finish(command, b"").expect_code(0).expect_stdout(
        "['user.host'] b'from the host'\n['user.guest'] 1000\nENODATA ENOTSUP\n\
         EROFS ['user.guest']\n",
    );
    let mut value = [0; 2000];
    let len = rustix::fs::getxattr(&file, "user.guest", &mut value[..]).unwrap();
    assert_eq!(value.get(..len), Some(&[b'x'; 1000][..]));
    assert_eq!(fs::read(&file).unwrap(), b"contents");
}
