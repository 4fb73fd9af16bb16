//! What a user can get wrong, and what the real program says to it.
//!
//! Each run here must end with its exit status before a guest starts, and say what is wrong with
//! which flag or file, and what would be right. None but the last few comes as far as /dev/kvm.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use support::program::{Finished, Scratch, finish, plain_program};
use support::tiny_kernel::{self as tiny, with};
use support::tiny_multiboot;

/// nobody, by tradition.
const NOBODY: u32 = 65534;

/// Runs `command`: it must refuse with 110, say all of `words`, and say nothing twice.
#[track_caller]
fn refused_command(command: Command, words: &[&str]) {
    says(finish(command, b"").expect_code(110), words);
}

#[track_caller]
fn says(run: Finished, words: &[&str]) {
    let run = words.iter().fold(run, |run, word| run.expect_stderr(word));
    let stderr = &run.stderr;
    let mut lines: Vec<_> = causes(stderr).collect();
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), all, "said twice:\n{stderr}");
    run.expect_stdout("");
}

/// Each cause in a message, without what leads to it.
fn causes(stderr: &str) -> impl Iterator<Item = &str> {
    let lines = stderr.lines().map(|line| {
        line.trim_start_matches("cottage:")
            .trim_start()
            .trim_start_matches("because: ")
    });
    lines.filter(|line| !line.is_empty())
}

/// Runs `cottage WORDS`, which must refuse.
#[track_caller]
fn refused(arguments: &[&str], words: &[&str]) {
    let mut command = Command::new(plain_program());
    command.args(arguments);
    refused_command(command, words);
}

/// A run with `kernel` as kernel file, a good initramfs, and `flags`.
fn run_of(files: &Scratch, kernel: &[u8], flags: &[&str]) -> Command {
    let mut command = Command::new(plain_program());
    command.args(["run", "--kernel", &files.file("kernel", kernel)]);
    command.args([
        "--initramfs",
        &files.file("initramfs", &tiny::empty_initramfs()),
    ]);
    command.args(flags);
    command
}

/// A kernel file that must be refused, by name.
#[track_caller]
fn refused_kernel(kernel: &[u8], words: &[&str]) {
    refused_kernel_with(kernel, &[], words);
}

#[track_caller]
fn refused_kernel_with(kernel: &[u8], flags: &[&str], words: &[&str]) {
    let files = Scratch::new();
    let name = files.path("kernel");
    let words = [&[name.as_str()], words].concat();
    refused_command(run_of(&files, kernel, flags), &words);
}

/// A file that is no kernel at all: it is named for what it is, and what boots is told.
#[track_caller]
fn no_kernel(kernel: &[u8], what: &str) {
    refused_kernel(kernel, &[what, "not a kernel; vmlinux (ELF) and bzImage"]);
}

#[track_caller]
fn refused_initramfs(initramfs: &[u8], flags: &[&str], words: &[&str]) {
    let files = Scratch::new();
    let mut command = Command::new(plain_program());
    command.args(["run", "--kernel", &files.file("kernel", &good())]);
    command.args(["--initramfs", &files.file("initramfs", initramfs)]);
    command.args(flags);
    refused_command(command, words);
}

/// A kernel with nothing wrong.
fn good() -> Vec<u8> {
    tiny::elf(&[0xf4])
}

/// The same with two segments, the second at `physical`.
fn two_segments(physical: u64) -> Vec<u8> {
    let kernel = with(good(), tiny::E_PHNUM, &[2]);
    let second = kernel[tiny::P_TYPE..tiny::P_TYPE + tiny::PHDR_SIZE].to_vec();
    let kernel = with(kernel, tiny::P_TYPE + tiny::PHDR_SIZE, &second);
    let at = tiny::P_PADDR + tiny::PHDR_SIZE;
    with(kernel, at, &physical.to_le_bytes())
}

/// Zeros with `magic` at `offset`.
fn header(offset: usize, magic: &[u8]) -> Vec<u8> {
    with(vec![0; 8192], offset, magic)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

// ---- words ------------------------------------------------------------------------------------

#[test]
fn no_words_print_the_commands() {
    refused(&[], &["Usage: cottage", "run", "doctor"]);
}

#[test]
fn unknown_command_gets_a_suggestion() {
    refused(&["docter"], &["'docter'", "similar", "'doctor'"]);
}

#[test]
fn unknown_flag_gets_a_suggestion() {
    refused(&["run", "--memroy", "1G"], &["'--memroy'", "'--memory'"]);
}

#[test]
fn command_without_dashes_is_told_of_them() {
    refused(&["run", "ls"], &["\"ls\"", "`--kernel ls`", "`-- ls`"]);
}

#[test]
fn flag_without_value_is_named() {
    refused(&["run", "--memory"], &["'--memory <SIZE>'"]);
}

#[test]
fn flag_given_twice_is_named() {
    refused(
        &["run", "--cpus", "1", "--cpus", "2"],
        &["'--cpus <N>'", "multiple times"],
    );
}

#[test]
fn cmdline_with_append_is_refused() {
    refused(
        &["run", "--cmdline", "a", "--append", "b"],
        &["'--cmdline <STR>'", "'--append <STR>'", "cannot be used"],
    );
}

#[test]
fn unknown_protocol_names_the_known_ones() {
    refused(
        &["run", "--protocol", "uefi"],
        &["'uefi'", "--protocol", "auto, linux64, pvh"],
    );
}

#[test]
fn unknown_unpacker_names_the_known_ones() {
    refused(
        &["run", "--unpack", "gust"],
        &["'gust'", "--unpack", "host, guest", "similar"],
    );
}

#[test]
fn command_line_that_is_no_text_is_refused() {
    let mut command = Command::new(plain_program());
    command.args(["run", "--append"]);
    command.arg(std::ffi::OsString::from_vec(b"\xff".to_vec()));
    refused_command(command, &["--append \"\\xFF\"", "not UTF-8 text"]);
}

#[test]
fn memory_without_unit_asks_what_was_meant() {
    refused(
        &["run", "--memory", "512"],
        &[
            "--memory \"512\"",
            "such as 128M or 2G",
            "did you mean 512M?",
        ],
    );
}

#[test]
fn memory_that_is_no_size_says_what_is() {
    refused(
        &["run", "--memory", "lots"],
        &["--memory \"lots\" is not a size", "such as 128M"],
    );
}

#[test]
fn empty_memory_says_what_is_a_size() {
    refused(
        &["run", "--memory="],
        &["--memory \"\" is not a size", "such as 128M"],
    );
}

#[test]
fn fraction_of_memory_is_refused() {
    refused(
        &["run", "--memory", "1.5G"],
        &["--memory \"1.5G\"", "a whole number"],
    );
}

#[test]
fn too_little_memory_names_the_range() {
    refused(
        &["run", "--memory", "1M"],
        &["--memory 1M is too small", "2 MiB to 1024 GiB"],
    );
}

#[test]
fn too_much_memory_names_the_range() {
    refused(
        &["run", "--memory", "2T"],
        &["--memory 2T is too large", "2 MiB to 1024 GiB"],
    );
}

#[test]
fn odd_memory_is_refused() {
    refused(
        &["run", "--memory", "2049K"],
        &["--memory 2049K", "multiple of 4096 bytes"],
    );
}

#[test]
fn no_processors_are_refused() {
    refused(&["run", "--cpus", "0"], &["--cpus \"0\"", "give 1 to 255"]);
}

#[test]
fn too_many_processors_are_refused() {
    refused(
        &["run", "--cpus", "256"],
        &["--cpus \"256\"", "give 1 to 255"],
    );
}

#[test]
fn processors_that_are_no_number_are_refused() {
    refused(
        &["run", "--cpus", "two"],
        &["--cpus \"two\"", "give 1 to 255"],
    );
}

#[test]
fn negative_processors_are_refused() {
    refused(&["run", "--cpus=-1"], &["--cpus \"-1\"", "give 1 to 255"]);
}

// ---- disks ------------------------------------------------------------------------------------

#[test]
fn shares_that_cannot_be_are_refused() {
    let refused_share = |value: &str, words: &[&str]| refused(&["run", "--share", value], words);
    refused_share(
        "src",
        &[
            "--share \"src\" is no folder and tag",
            "HOSTDIR:TAG[,ro][,at=PATH]",
        ],
    );
    refused_share("/tmp:a b", &["--share", "\"a b\"", "1 to 36 letters"]);
    refused_share(
        "/tmp:a,rw",
        &["has the option \"rw\"", "there are ro and at="],
    );
    refused_share("/tmp:a,ro,ro", &["has the option ro twice"]);
    refused_share("/tmp:a,at=x", &["at= takes a path in the guest"]);
    let twice = ["run", "--share", "/tmp:a", "--share", "/usr:a"];
    refused(&twice, &["two folders have the tag \"a\""]);
    let place = ["run", "--share", "/tmp:a", "--share", "/usr:b,at=/mnt/a"];
    refused(&place, &["two folders are to be at \"/mnt/a\""]);
    let kernel = tiny_with_drivers();
    let with_kernel = |value: &str, words: &[&str]| {
        refused(&["run", "--kernel", &kernel.1, "--share", value], words);
    };
    with_kernel(
        "/no/such:a",
        &[
            "Cannot share the folder \"/no/such\"",
            "No such file or directory",
        ],
    );
    with_kernel(
        "/etc/passwd:a",
        &["it must be a directory", "Not a directory"],
    );
    with_kernel("/proc:a", &["\"/proc\"", "file system proc"]);
    let foreign = ["run", "--initramfs", "x", "--share", "/tmp:a,at=/x"];
    refused(
        &foreign,
        &[
            "--share with tag a",
            "mount -t virtiofs a DIR",
            "give a command",
        ],
    );
}

/// Some kernel file: what is tested is refused before it is read.
fn tiny_with_drivers() -> (Scratch, String) {
    let files = Scratch::new();
    let kernel = files.file("kernel", b"");
    (files, kernel)
}

#[test]
fn files_that_cannot_be_memory_are_refused() {
    let files = Scratch::new();
    let (empty, odd) = (files.file("empty", b""), files.file("odd", b"x"));
    let refused_pmem = |value: &str, words: &[&str]| refused(&["run", "--pmem", value], words);
    refused_pmem(",rw", &["--pmem \",rw\" names no file", "FILE[,ro|,rw]"]);
    refused_pmem(
        "a,overlay",
        &["has the option \"overlay\"", "there are ro", "and rw"],
    );
    refused_pmem("a,ro,rw", &["more than one of the options ro and rw"]);
    refused_pmem(
        "/no/such",
        &["Cannot open --pmem \"/no/such\"", "No such file"],
    );
    refused_pmem("/tmp", &["--pmem \"/tmp\" is no regular file"]);
    refused_pmem(&empty, &["is empty"]);
    refused_pmem(
        &format!("{odd},rw"),
        &["has 1 bytes", "a multiple of 2 MiB", "truncate -s %2M"],
    );
}

/// Runs `cottage run --disk VALUE`, which must refuse.
#[track_caller]
fn refused_disk(value: &str, words: &[&str]) {
    refused(&["run", "--disk", value], words);
}

#[test]
fn disk_without_a_file_says_what_to_give() {
    refused_disk(
        ",ro",
        &[
            "--disk \",ro\" names no file",
            "FILE[,OPTION...], with the options ro, overlay, overlay=FILE",
        ],
    );
}

#[test]
fn unknown_option_of_a_disk_names_those_there_are() {
    refused_disk(
        "a.img,cache=none",
        &[
            "\"cache=none\"",
            "there are ro, overlay, overlay=FILE, format=raw",
        ],
    );
}

#[test]
fn option_of_a_disk_given_twice_is_refused() {
    refused_disk("a.img,ro,ro", &["--disk", "has the option ro twice"]);
}

#[test]
fn disk_that_is_both_read_only_and_overlaid_is_refused() {
    refused_disk("a.img,ro,overlay", &["is both ro and overlay"]);
}

#[test]
fn overlay_without_a_place_for_it_names_the_place() {
    let files = Scratch::new();
    let disk = files.file("disk", &[1; 512]);
    let mut command = Command::new(plain_program());
    command.args(["run", "--disk", &format!("{disk},overlay")]);
    command.env("TMPDIR", "/no/such/place");
    refused_command(command, &["\"/no/such/place\"", "TMPDIR names another"]);
}

#[test]
fn serial_number_that_is_too_long_names_the_limit() {
    refused_disk(
        "a.img,serial=0123456789-0123456789",
        &["serial takes 1 to 20 letters", "0123456789-0123456789"],
    );
}

#[test]
fn two_disks_of_one_id_are_refused() {
    refused(
        &["run", "--disk", "a,id=x", "--disk", "b,id=x"],
        &["two disks have the id \"x\""],
    );
}

#[test]
fn more_devices_than_there_is_room_for_are_refused() {
    let disks = (0..15).flat_map(|_| ["--disk", "a"]);
    let words: Vec<_> = ["run"].into_iter().chain(disks).collect();
    refused(&words, &["15 virtio devices", "can have 14"]);
}

#[test]
fn missing_disk_is_named() {
    refused_disk(
        "/no/such/disk",
        &["--disk \"/no/such/disk\"", "No such file or directory"],
    );
}

#[test]
fn directory_as_disk_is_refused() {
    refused_disk(
        "/,ro",
        &["--disk \"/\"", "it is a directory", "give an image"],
    );
}

#[test]
fn character_device_as_disk_is_refused() {
    refused_disk("/dev/null", &["a character device", "give an image"]);
}

#[test]
fn empty_disk_says_how_to_mend_it() {
    let files = Scratch::new();
    refused_disk(
        &files.file("disk", b""),
        &["it has 0 bytes", "truncate -s 512 FILE"],
    );
}

#[test]
fn disk_of_odd_size_says_how_to_mend_it() {
    let files = Scratch::new();
    refused_disk(
        &files.file("disk", &[1; 513]),
        &["it has 513 bytes", "truncate -s 1024 FILE"],
    );
}

#[test]
fn image_whose_name_and_content_disagree_says_what_to_add() {
    let files = Scratch::new();
    let image = [&b"QFI\xfb"[..], &[0; 508]].concat();
    refused_disk(
        &files.file("disk", &image),
        &[
            "it begins as a qcow2 image does",
            "format=qcow2",
            "format=raw",
        ],
    );
    refused_disk(
        &files.file("disk.qcow2", &[0; 512]),
        &["its name ends in .qcow2", "format=raw"],
    );
}

#[test]
fn damaged_qcow2_image_names_what_is_wrong() {
    let files = Scratch::new();
    let image = [&b"QFI\xfb\0\0\0\x07"[..], &[0; 504]].concat();
    refused_disk(
        &files.file("disk.qcow2", &image),
        &["disk.qcow2", "it is of version 7 of the format"],
    );
}

#[test]
fn layer_that_is_no_image_is_refused() {
    let files = Scratch::new();
    let disk = files.file("disk", &[1; 512]);
    let layer = files.file("layer", &[1; 512]);
    refused_disk(
        &format!("{disk},overlay={layer}"),
        &["overlay=", "no qcow2 image"],
    );
}

#[test]
fn disk_that_may_not_be_written_says_how_to_read_it() {
    let files = Scratch::new();
    let disk = files.file("disk", &[1; 512]);
    std::fs::set_permissions(&disk, PermissionsExt::from_mode(0o444)).unwrap();
    let mut command = Command::new(plain_program());
    command.args(["run", "--disk", &disk]);
    as_nobody(&mut command);
    refused_command(command, &["for writing; add ,ro or ,overlay behind it"]);
}

#[test]
fn disk_given_twice_is_refused() {
    let files = Scratch::new();
    let disk = files.file("disk", &[1; 512]);
    refused(
        &["run", "--disk", &disk, "--disk", &disk],
        &["is in use", "as another disk of this one", "with ,ro"],
    );
}

// ---- networks ---------------------------------------------------------------------------------

/// Runs `cottage run --net VALUE`, which must refuse.
#[track_caller]
fn refused_net(value: &str, words: &[&str]) {
    refused(&["run", "--net", value], words);
}

#[test]
fn network_that_is_none_says_what_to_give() {
    refused_net(
        "bridge=br0",
        &["--net \"bridge=br0\" is no network", "tap=NAME"],
    );
    refused_net("tap=a/b", &["1 to 15 bytes, without /"]);
    refused_net("user,dhcp", &["has the option \"dhcp\""]);
    refused_net(
        "tap=t,mac=01:00:00:00:00:00",
        &["no address of one network card"],
    );
    refused_net("tap=t,ip=10.0.0.2", &["as in 10.0.0.2/24"]);
    refused_net("tap=t,gw=10.0.0.1", &["gw= needs ip="]);
    refused_net("user,forward=tcp:80", &["as in tcp:8080:80"]);
}

#[test]
fn address_for_a_guest_without_our_init_is_refused() {
    let words = ["run", "--initramfs", "i", "--net", "tap=t,dhcp"];
    refused(
        &words,
        &["--net tap=t: ip= and dhcp are for cottage's init"],
    );
    // With a command our init comes along, and the next mistake is found.
    let words = [&words[..], &["--", "true"]].concat();
    refused(&words, &["there is no such device"]);
}

/// Runs `cottage run --vsock VALUE`, which must refuse.
#[track_caller]
fn refused_vsock(value: &str, words: &[&str]) {
    refused(&["run", "--vsock", value], words);
}

#[test]
fn wrong_vsock_values_say_what_is_right() {
    refused_vsock("", &["--vsock \"\" names no socket", "PATH[,cid=N]"]);
    refused_vsock(
        "v,cid=2",
        &["cid takes a number from 3 to 4294967294", "not \"2\""],
    );
    refused_vsock("v,port=2", &["has the option \"port=2\"", "there is cid=N"]);
    refused_vsock("v,cid=3,cid=3", &["has the option cid twice"]);
    refused_vsock(&"v".repeat(97), &["is 97 bytes long", "room for 96"]);
}

#[test]
fn vsock_path_that_cannot_be_used_is_left_alone() {
    let files = Scratch::new();
    let file = files.file("file", b"precious");
    refused_vsock(&file, &["/file\": a file that is no socket is there"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let path = files.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    refused_vsock(&path, &["/socket\": a running program listens there"]);
    assert!(std::fs::exists(&path).unwrap());
    let nowhere = files.path("no/where");
    refused_vsock(
        &nowhere,
        &["Cannot make the socket of --vsock", "No such file"],
    );
}

#[test]
fn missing_tap_device_says_how_to_make_it() {
    refused_net(
        "tap=no-such-tap",
        &[
            "there is no such device",
            "ip tuntap add no-such-tap mode tap",
        ],
    );
}

#[test]
fn missing_passt_names_its_package() {
    let mut command = Command::new(plain_program());
    command
        .args(["run", "--net", "user"])
        .env("PATH", "/nowhere");
    refused_command(
        command,
        &["Cannot start passt for --net user", "apt install passt"],
    );
}

// ---- roots and modules --------------------------------------------------------------------------

/// Runs `cottage run --rootfs VALUE`, which must refuse.
#[track_caller]
fn refused_root(value: &str, words: &[&str]) {
    refused(&["run", "--rootfs", value], words);
}

#[test]
fn missing_root_is_named() {
    refused_root("/no/such/root", &["--rootfs /no/such/root", "No such file"]);
    refused_root(
        ",ro",
        &["--rootfs \",ro\" names nothing", "DIR|IMAGE[,shared]"],
    );
}

#[test]
fn root_that_is_no_file_system_is_named_with_a_hint() {
    let files = Scratch::new();
    let packed = files.file("root.ext4.gz", &gzip(b"an image"));
    refused_root(&packed, &["is a file packed with gzip", "unpack it first"]);
    let disk = files.file("disk.img", &header(0x200, b"EFI PART"));
    refused_root(
        &disk,
        &["a GPT partition table", "or give the whole as --disk"],
    );
    let tar = files.file("root.tar", &header(257, b"ustar"));
    refused_root(&tar, &["is a tar archive", "unpack it into a directory"]);
    let cpio = files.file("root.cpio", b"070701");
    refused_root(&cpio, &["is a cpio archive", "give it as --initramfs"]);
    let qcow2 = files.file("root.qcow2", b"QFI\xfb");
    refused_root(
        &qcow2,
        &["is a qcow2 disk image", "qemu-img convert -O raw"],
    );
    refused_root("/dev/null", &["it is no directory, file or block device"]);
}

#[test]
fn options_of_a_root_are_checked() {
    refused_root(
        "/tmp,ro",
        &["is a directory, and ro is for", "give /tmp,shared,ro"],
    );
    refused_root(
        "/tmp,overlay",
        &["and overlay is for", "give /tmp,shared,overlay"],
    );
    refused_root("a,rw", &["has the option \"rw\"", "one of ro and overlay"]);
}

#[test]
fn root_that_cannot_be_shared_is_refused() {
    let files = Scratch::new();
    let image = files.file("root.ext4", &header(0x438, b"\x53\xef"));
    let value = format!("{image},shared");
    refused_root(&value, &[&value[..value.len() - 7], "is for directories"]);
    refused_root("/,shared", &["the root of this host", "shared,overlay"]);
    refused_root("/tmp,shared,shared", &["has the option \"shared\""]);
}

#[test]
fn root_with_an_initramfs_is_refused() {
    let mut command = Command::new(plain_program());
    command.args(["run", "--rootfs", "/", "--initramfs", "a"]);
    finish(command, b"").expect_code(110).expect_stderr(
        "'--rootfs <DIR|IMAGE[,shared][,ro|,overlay]>' cannot be used with '--initramfs <FILE>'",
    );
}

#[test]
fn init_that_is_no_path_or_has_a_command_beside_it_is_refused() {
    refused(
        &["run", "--rootfs", "/", "--init", "init"],
        &["--init \"init\" is no path in the root", "/sbin/init"],
    );
    refused(
        &["run", "--rootfs", "/", "--init", "/i", "--", "ls"],
        &["nobody to run a command", "leave out one of them"],
    );
}

#[test]
fn modules_for_a_guest_without_our_init_are_refused() {
    refused(
        &["run", "--initramfs", "a", "--modules", "/m"],
        &["--modules /m: cottage's init loads them", "give a command"],
    );
}

// ---- files ------------------------------------------------------------------------------------

#[test]
fn program_without_guest_says_how_to_get_one() {
    refused(
        &["run"],
        &["carries no kernel", "make cottage", "pass --kernel FILE"],
    );
}

#[test]
fn program_without_initramfs_says_how_to_get_one() {
    let files = Scratch::new();
    refused(
        &["run", "--kernel", &files.file("kernel", &good())],
        &[
            "carries no initramfs",
            "make cottage",
            "pass --initramfs FILE",
        ],
    );
}

#[test]
fn program_without_init_says_what_works_without() {
    let files = Scratch::new();
    refused_command(
        run_of(&files, &good(), &["--", "ls"]),
        &["carries no init:", "leave out the command"],
    );
}

#[test]
fn missing_kernel_is_named_with_its_flag() {
    refused(
        &["run", "--kernel", "/no/such/kernel"],
        &["--kernel", "/no/such/kernel", "No such file or directory"],
    );
}

#[test]
fn empty_kernel_path_is_refused() {
    refused(&["run", "--kernel", ""], &["--kernel <FILE>"]);
}

#[test]
fn directory_as_kernel_is_refused() {
    refused(
        &["run", "--kernel", "/proc"],
        &["--kernel", "/proc: it is a directory, not a file"],
    );
}

#[test]
fn device_as_kernel_is_refused() {
    refused(
        &["run", "--kernel", "/dev/null"],
        &["--kernel", "/dev/null: it is a character device"],
    );
}

#[test]
fn kernel_without_permission_is_refused() {
    let files = Scratch::new();
    let path = files.file("kernel", &good());
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    let mut command = Command::new(plain_program());
    command.args(["run", "--kernel", &path]);
    as_nobody(&mut command);
    refused_command(command, &["--kernel", &path, "Permission denied"]);
}

/// Root may read everything; who is not root stays who they are.
fn as_nobody(command: &mut Command) {
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

#[test]
fn missing_initramfs_is_named_with_its_flag() {
    let files = Scratch::new();
    let kernel = files.file("kernel", &good());
    refused(
        &["run", "--kernel", &kernel, "--initramfs", "/no/such/file"],
        &["--initramfs", "/no/such/file", "No such file or directory"],
    );
}

#[test]
fn empty_initramfs_is_refused() {
    refused_initramfs(
        b"",
        &[],
        &["an empty file", "cpio archive (`cpio -H newc`)"],
    );
}

#[test]
fn text_as_initramfs_is_refused() {
    refused_initramfs(b"hello\n", &[], &["a text file", "cpio -H newc"]);
}

#[test]
fn kernel_as_initramfs_is_refused() {
    refused_initramfs(&good(), &[], &["an initramfs is a cpio archive"]);
}

#[test]
fn file_system_image_as_initramfs_is_refused() {
    let ext4 = header(0x438, b"\x53\xef");
    refused_initramfs(&ext4, &[], &["ext4 file system", "cpio archive"]);
}

#[test]
fn old_cpio_as_initramfs_is_refused() {
    let old = b"070707000000".to_vec();
    refused_initramfs(&old, &[], &["old format", "cpio -H newc"]);
}

#[test]
fn too_large_initramfs_says_how_much_memory_would_do() {
    let mut archive = tiny::empty_initramfs();
    archive.resize(3 << 20, 0);
    let words = ["initramfs of 0x300000 bytes", "5 MiB of memory would do"];
    refused_initramfs(&archive, &["--memory", "2M"], &words);
}

// ---- what is no kernel ------------------------------------------------------------------------

#[test]
fn empty_file_is_no_kernel() {
    no_kernel(b"", "is an empty file");
}

#[test]
fn text_is_no_kernel() {
    no_kernel(b"hello\n", "is a text file");
}

#[test]
fn script_is_no_kernel() {
    no_kernel(b"#!/bin/sh\n", "is a script");
}

#[test]
fn gzip_of_text_is_no_kernel() {
    no_kernel(&gzip(b"hello\n"), "packed with gzip with a text file in it");
}

#[test]
fn gzip_of_gzip_is_no_kernel() {
    no_kernel(&gzip(&gzip(&good())), "with another one packed with gzip");
}

#[test]
fn ext4_image_is_no_kernel() {
    no_kernel(
        &header(0x438, b"\x53\xef"),
        "an ext2, ext3 or ext4 file system",
    );
}

#[test]
fn squashfs_image_is_no_kernel() {
    no_kernel(&header(0, b"hsqs"), "a squashfs file system");
}

#[test]
fn qcow2_image_is_no_kernel() {
    no_kernel(&header(0, b"QFI\xfb"), "a qcow2 disk image");
}

#[test]
fn partitioned_disk_is_no_kernel() {
    no_kernel(&header(0x200, b"EFI PART"), "a GPT partition table");
}

#[test]
fn initramfs_is_no_kernel() {
    no_kernel(&tiny::empty_initramfs(), "is a cpio archive");
}

#[test]
fn arm64_image_is_no_kernel() {
    no_kernel(&header(0x38, b"ARM\x64"), "is an ARM64 kernel image");
}

#[test]
fn efi_program_is_no_kernel() {
    no_kernel(&header(0, b"MZ"), "is a PE (EFI or Windows) program");
}

#[test]
fn zeros_are_no_kernel() {
    no_kernel(&[0; 8192], "zero bytes");
}

#[test]
fn elf_of_32_bits_is_no_kernel() {
    no_kernel(&with(good(), tiny::E_IDENT_CLASS, &[1]), "32-bit x86 ELF");
}

#[test]
fn elf_for_another_machine_is_no_kernel() {
    let elf = with(good(), tiny::E_MACHINE, &[183]);
    no_kernel(&elf, "an ELF file for ARM64");
}

#[test]
fn elf_shared_object_is_no_kernel() {
    let elf = with(good(), tiny::E_TYPE, &[3]);
    no_kernel(&elf, "position-independent program");
}

#[test]
fn kernel_module_is_no_kernel() {
    let elf = with(good(), tiny::E_TYPE, &[1]);
    no_kernel(&elf, "an ELF object or module");
}

// ---- broken ELF kernels -----------------------------------------------------------------------

#[test]
fn elf_cut_off_in_its_header_is_refused() {
    refused_kernel(&good()[..40], &["ELF header", "0x28 bytes"]);
}

#[test]
fn elf_cut_off_in_a_segment_is_refused() {
    refused_kernel(&good()[..4096], &["Segment 0", "(cut off?)"]);
}

#[test]
fn elf_without_program_headers_is_refused() {
    let elf = with(good(), tiny::E_PHNUM, &[0]);
    refused_kernel(&elf, &["0 program headers", "1 to 64"]);
}

#[test]
fn elf_with_odd_program_headers_is_refused() {
    let elf = with(good(), tiny::E_PHENTSIZE, &[32]);
    refused_kernel(&elf, &["program headers of 32 bytes", "56 bytes"]);
}

#[test]
fn elf_without_load_segment_is_refused() {
    let elf = with(good(), tiny::P_TYPE, &[0]);
    refused_kernel(&elf, &["Cannot find a segment to load"]);
}

#[test]
fn elf_with_more_bytes_in_the_file_than_in_memory_is_refused() {
    let elf = with(good(), tiny::P_MEMSZ, &[0]);
    let elf = with(elf, tiny::P_FILESZ, &[1]);
    let elf = with(elf, tiny::P_MEMSZ, &[1]);
    let elf = with([elf, vec![0]].concat(), tiny::P_FILESZ, &[2]);
    refused_kernel(
        &elf,
        &["Segment 0", "0x2 bytes in the file", "0x1 in memory"],
    );
}

#[test]
fn segment_below_the_first_megabyte_is_refused() {
    let elf = with(good(), tiny::P_PADDR, &0x1000_u64.to_le_bytes());
    refused_kernel(&elf, &["Segment 0", "0x1000", "above 0x100000"]);
}

#[test]
fn segment_that_wraps_around_is_refused() {
    let elf = with(good(), tiny::P_PADDR, &u64::MAX.to_le_bytes());
    refused_kernel(&elf, &["Segment 0", "0xffffffffffffffff"]);
}

#[test]
fn segment_outside_memory_says_how_much_would_do() {
    let elf = two_segments(16 << 20);
    let words = ["Segment 1", "at least 17 MiB"];
    refused_kernel_with(&elf, &["--memory", "16M"], &words);
}

#[test]
fn segment_in_the_gap_is_refused() {
    let elf = two_segments(0xd000_0000);
    refused_kernel_with(
        &elf,
        &["--memory", "4G"],
        &["Segment 1", "0xd0000000", "whatever --memory says"],
    );
}

#[test]
fn overlapping_segments_are_refused() {
    refused_kernel(
        &two_segments(tiny::CODE),
        &["overlap at guest-physical 0x100000"],
    );
}

#[test]
fn entry_outside_the_segments_is_refused() {
    let elf = with(good(), tiny::E_ENTRY, &0x1234_u64.to_le_bytes());
    refused_kernel(&elf, &["64-bit entry 0x1234 lies in no loaded segment"]);
}

#[test]
fn pvh_without_note_says_what_is_offered() {
    let words = [
        "cannot be entered by PVH",
        "Linux 64-bit boot protocol",
        "CONFIG_PVH",
    ];
    refused_kernel_with(&good(), &["--protocol", "pvh"], &words);
}

#[test]
fn too_long_command_line_names_the_limit() {
    let files = Scratch::new();
    let long = "x".repeat(2048);
    refused_command(
        run_of(&files, &good(), &["--cmdline", &long]),
        &[
            "command line of 2048 bytes",
            "at most 2047",
            "shorten --cmdline or --append",
        ],
    );
}

// ---- broken bzImages --------------------------------------------------------------------------

/// A bzImage around a good kernel.
fn good_bzimage() -> Vec<u8> {
    tiny::bzimage(&gzip(&good()))
}

#[test]
fn bzimage_cut_off_is_refused() {
    let image = good_bzimage();
    refused_kernel(
        &image[..image.len() - 64],
        &["protected-mode kernel", "(cut off?)"],
    );
}

#[test]
fn bzimage_cut_off_in_its_header_is_refused() {
    refused_kernel(&good_bzimage()[..0x210], &["setup header", "(cut off?)"]);
}

#[test]
fn too_old_bzimage_names_the_protocol_needed() {
    let image = with(good_bzimage(), tiny::VERSION, &0x204_u16.to_le_bytes());
    refused_kernel(&image, &["boot protocol 2.04", "2.08 is needed"]);
}

#[test]
fn bzimage_too_old_to_unpack_itself_names_the_protocol_needed() {
    let image = with(good_bzimage(), tiny::VERSION, &0x20a_u16.to_le_bytes());
    let words = ["boot protocol 2.10", "2.12 is needed"];
    refused_kernel_with(&image, &["--unpack", "guest"], &words);
}

#[test]
fn zimage_is_refused() {
    let image = with(good_bzimage(), tiny::LOADFLAGS, &[0]);
    refused_kernel(&image, &["a zImage"]);
}

#[test]
fn bzimage_of_32_bits_is_refused() {
    let image = with(good_bzimage(), tiny::XLOADFLAGS, &[0]);
    refused_kernel_with(&image, &["--unpack", "guest"], &["32-bit kernel"]);
}

#[test]
fn bzimage_without_kernel_is_refused() {
    let image = with(good_bzimage(), tiny::SYSSIZE, &[0; 4]);
    refused_kernel(&image, &["syssize is 0x0", "there must be a kernel"]);
}

#[test]
fn payload_outside_the_bzimage_is_refused() {
    let image = with(good_bzimage(), tiny::PAYLOAD_OFFSET, &[0xff; 3]);
    refused_kernel(
        &image,
        &["Payload 0xffffff", "outside the protected-mode kernel"],
    );
}

#[test]
fn bzimage_with_odd_alignment_is_refused() {
    let image = with(good_bzimage(), tiny::PREF_ADDRESS, &[0; 8]);
    let image = with(image, tiny::KERNEL_ALIGNMENT, &[3]);
    let words = ["kernel_alignment", "power of two"];
    refused_kernel_with(&image, &["--unpack", "guest"], &words);
}

#[test]
fn bzimage_that_wants_low_memory_is_refused() {
    let image = with(
        good_bzimage(),
        tiny::PREF_ADDRESS,
        &0x1000_u64.to_le_bytes(),
    );
    let words = ["pref_address", "above the first megabyte"];
    refused_kernel_with(&image, &["--unpack", "guest"], &words);
}

#[test]
fn bzimage_with_too_little_room_to_unpack_is_refused() {
    let image = with(good_bzimage(), tiny::INIT_SIZE, &[0; 4]);
    let words = ["init_size", "the packed kernel alone is larger"];
    refused_kernel_with(&image, &["--unpack", "guest"], &words);
}

#[test]
fn bzimage_too_large_for_memory_says_how_much_would_do() {
    let image = with(
        good_bzimage(),
        tiny::INIT_SIZE,
        &(63_u32 << 20).to_le_bytes(),
    );
    let words = ["to unpack itself", "at least 64 MiB"];
    refused_kernel_with(&image, &["--unpack", "guest", "--memory", "32M"], &words);
}

#[test]
fn pvh_into_a_packed_bzimage_says_what_to_do() {
    let flags = ["--unpack", "guest", "--protocol", "pvh"];
    let words = ["cannot be entered by PVH", "leave out --unpack guest"];
    refused_kernel_with(&good_bzimage(), &flags, &words);
}

#[test]
fn unpacked_kernel_too_large_for_memory_says_how_much_would_do() {
    let elf = with(good(), tiny::P_MEMSZ, &(32_u64 << 20).to_le_bytes());
    let image = tiny::bzimage(&gzip(&elf));
    refused_kernel_with(
        &image,
        &["--memory", "16M"],
        &["(unpacked)", "at least 33 MiB"],
    );
}

#[test]
fn bzimage_packed_in_an_unknown_way_is_refused() {
    refused_kernel(
        &tiny::bzimage(&[7; 64]),
        &["a bzImage packed in a way we do not know"],
    );
}

#[test]
fn bzimage_with_text_inside_is_refused() {
    refused_kernel(
        &tiny::bzimage(&gzip(b"hello\n")),
        &["is a text file, not a kernel"],
    );
}

/// A bzImage whose payload has the first bytes of a packed stream and then goes wrong.
#[track_caller]
fn corrupt_payload(magic: &[u8], name: &str) {
    let payload = [magic, &[0xa5; 64], &4096_u32.to_le_bytes()].concat();
    let words = [
        &format!("Cannot unpack {name} data")[..],
        "broken near byte",
    ];
    refused_kernel(&tiny::bzimage(&payload), &words);
}

#[test]
fn corrupt_gzip_payload_is_refused() {
    corrupt_payload(b"\x1f\x8b\x08\0\0\0\0\0\0\0", "gzip");
}

#[test]
fn corrupt_bzip2_payload_is_refused() {
    corrupt_payload(b"BZh9", "bzip2");
}

#[test]
fn corrupt_lzma_payload_is_refused() {
    corrupt_payload(b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff", "lzma");
}

#[test]
fn corrupt_xz_payload_is_refused() {
    corrupt_payload(b"\xfd7zXZ\0", "xz");
}

#[test]
fn corrupt_lzo_payload_is_refused() {
    corrupt_payload(b"\x89LZO\0\r\n\x1a\n", "lzo");
}

#[test]
fn corrupt_lz4_payload_is_refused() {
    corrupt_payload(b"\x02\x21\x4c\x18", "lz4");
}

#[test]
fn corrupt_zstd_payload_is_refused() {
    corrupt_payload(b"\x28\xb5\x2f\xfd", "zstd");
}

#[test]
fn packed_kernel_cut_off_is_refused() {
    let packed = gzip(&good());
    let words = ["Cannot unpack kernel", "gzip", "broken near byte"];
    refused_kernel(&packed[..packed.len() - 12], &words);
}

#[test]
fn payload_shorter_than_announced_is_refused() {
    let mut payload = gzip(&good());
    let trailer = payload.len() - 4;
    payload[trailer..].copy_from_slice(&0x2000_u32.to_le_bytes());
    refused_kernel(&tiny::bzimage(&payload), &["Cannot unpack"]);
}

// ---- the host's refusals ----------------------------------------------------------------------

/// Runs `command`: it must fail with 111, the host's status, and say all of `words`.
#[track_caller]
fn host_refuses(command: Command, words: &[&str]) {
    says(finish(command, b"").expect_code(111), words);
}

/// `command` where `mount` has changed /dev; `None`, recorded, where nobody may mount.
fn behind_mount(command: &Command, mount: &str) -> Option<Command> {
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", mount]);
    let allowed = unshare.output().is_ok_and(|output| output.status.success());
    if !allowed {
        return support::skip("none", "no mount namespace is to be had");
    }
    let mut unshare = Command::new("unshare");
    unshare.args([
        "-m",
        "sh",
        "-c",
        &format!("{mount} >&2 && exec \"$@\""),
        "sh",
    ]);
    unshare.arg(command.get_program()).args(command.get_args());
    Some(unshare)
}

#[test]
fn host_without_kvm_is_told_so() {
    let files = Scratch::new();
    let command = run_of(&files, &good(), &[]);
    let Some(command) = behind_mount(&command, "mount -t tmpfs none /dev") else {
        return;
    };
    let words = ["Cannot open /dev/kvm", "No such file or directory"];
    host_refuses(command, &words);
}

#[test]
fn host_whose_kvm_is_another_device_is_told_so() {
    let files = Scratch::new();
    let command = run_of(&files, &good(), &[]);
    let mount = "mount --bind /dev/null /dev/kvm";
    let Some(command) = behind_mount(&command, mount) else {
        return;
    };
    host_refuses(
        command,
        &["Cannot use /dev/kvm", "/dev/kvm is not KVM", "to do:"],
    );
}

#[test]
fn user_without_access_to_kvm_is_told_so() {
    let files = Scratch::new();
    let secret = files.file("kvm", b"");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let run = run_of(&files, &good(), &[]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(run.get_program()).args(run.get_args());
    let mount = format!("mount --bind {secret} /dev/kvm && setpriv --dump");
    let Some(command) = behind_mount(&command, &mount) else {
        return;
    };
    host_refuses(command, &["Cannot open /dev/kvm", "Permission denied"]);
}

#[test]
fn memory_the_host_does_not_have_is_told_of() {
    let files = Scratch::new();
    let command = run_of(&files, &good(), &["--memory", "64M"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -v 32768; exec \"$@\"", "sh"]);
    limited.arg(command.get_program()).args(command.get_args());
    let words = [
        "Cannot map 0x4000000 bytes",
        "--memory",
        "Cannot allocate memory",
    ];
    host_refuses(limited, &words);
}

#[test]
fn ports_have_a_form_names_and_paths_of_their_own() {
    let refused_port = |values: &[&str], words: &[&str]| {
        let flags = values.iter().flat_map(|value| ["--port", value]);
        refused(&["run"].into_iter().chain(flags).collect::<Vec<_>>(), words);
    };
    refused_port(&["agent"], &["--port \"agent\"", "NAME=PATH"]);
    refused_port(&["a/b=c"], &["--port \"a/b=c\"", "letters"]);
    refused_port(&["a=x", "a=y"], &["--port", "the name \"a\""]);
    refused_port(&["a=x", "b=x"], &["--port", "lead to \"x\""]);
    refused_port(&["a=/"], &["--port a=\"/\"", "neither a socket nor a file"]);
    refused_port(&["a=/missing/x"], &["listen for --port a=", "No such file"]);
    let many: Vec<_> = (0..15).map(|n| format!("p{n}=/missing/{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    refused_port(&many, &["15 times", "14 ports"]);
}

#[test]
fn port_at_a_long_path_is_told_why_it_cannot_be() {
    let path = format!("a=/tmp/{}", "x".repeat(200));
    refused(&["run", "--port", &path], &["--port a=", "SUN_LEN"]);
}

#[test]
fn balloon_is_a_size_less_than_memory() {
    let refused_size = |flag, words: &[&str]| refused(&["run", flag], words);
    refused_size("--balloon=64", &["--balloon=\"64\"", "64M"]);
    refused_size("--balloon=128M", &["--balloon=128M", "--memory 128M"]);
}

#[test]
fn console_is_one_of_two() {
    refused(&["run", "--console", "tty1"], &["ttyS0", "hvc0"]);
}

/// A multiboot kernel with `flags` and without an initramfs, which must be refused.
#[track_caller]
fn refused_multiboot(kernel: &[u8], flags: &[&str], words: &[&str]) {
    let files = Scratch::new();
    let kernel = files.file("kernel", kernel);
    refused(&[&["run", "--kernel", &kernel], flags].concat(), words);
}

#[test]
fn multiboot_header_that_cannot_be_served_is_refused() {
    let with_header = tiny_multiboot::with_header;
    let magic = 0x1bad_b002;
    refused_multiboot(
        &with_header(magic, 4),
        &[],
        &["video mode", "0x4", "serial console"],
    );
    refused_multiboot(&with_header(magic, 0x80), &[], &["flags 0x80", "0.6.96"]);
    refused_multiboot(
        &with_header(0xe852_50d6, 0),
        &[],
        &["multiboot 2", "0x1000"],
    );
    let damaged = with(with_header(magic, 3), 0x1008, &[0; 4]);
    refused_multiboot(&damaged, &[], &["damaged", "0x1badb005"]);
}

#[test]
fn multiboot_asked_of_a_linux_is_refused() {
    refused_kernel_with(
        &good(),
        &["--protocol", "multiboot"],
        &["no multiboot header", "8192"],
    );
}

#[test]
fn linux_protocol_asked_of_a_multiboot_kernel_is_refused() {
    let words = ["32-bit x86 ELF", "--protocol multiboot"];
    refused_kernel_with(&tiny_multiboot::pc(), &["--protocol", "pvh"], &words);
}

#[test]
fn command_for_a_kernel_without_our_init_is_refused() {
    refused_multiboot(
        &tiny_multiboot::pc(),
        &["--", "ls"],
        &["no Linux", "--cmdline"],
    );
}

#[test]
fn modules_are_files_and_for_multiboot_kernels() {
    let pc = tiny_multiboot::pc();
    refused_multiboot(&pc, &["--module", ""], &["--module \"\"", "names no file"]);
    let missing = ["--module", "/no/such/file words"];
    refused_multiboot(
        &pc,
        &missing,
        &["--module", "/no/such/file", "No such file"],
    );
    refused_kernel_with(
        &good(),
        &["--module", "m"],
        &["--module", "multiboot", "--initramfs"],
    );
}

#[test]
fn module_larger_than_memory_is_refused_with_what_it_takes() {
    let files = Scratch::new();
    let module = files.file("module", &vec![0; 2 << 20]);
    let flags = ["--memory", "2M", "--module", &module];
    refused_multiboot(
        &tiny_multiboot::pc(),
        &flags,
        &["Cannot place module", "4 MiB"],
    );
}

#[test]
fn debug_exit_is_a_free_port() {
    let refused_port = |value, words: &[&str]| refused(&["run", "--debug-exit", value], words);
    refused_port("f4", &["--debug-exit \"f4\"", "0xf4"]);
    refused_port("0x10000", &["--debug-exit \"0x10000\""]);
    refused_port("", &["--debug-exit \"\""]);
    refused_port("0x3f8", &["0x3f8", "0x3ff", "another device"]);
    refused_port("1792", &["0x700"]);
    refused_port("0x43", &["0x40", "another device"]); // the timer, with the full irqchip
}

#[test]
fn claims_that_cannot_be_judged_are_refused_before_anything_is_measured() {
    let files = Scratch::new();
    let refused_claims = |text: &str, words: &[&str]| {
        let file = files.file("claims.json", text.as_bytes());
        refused(&["compare", "--claims-file", &file], words);
    };
    refused_claims(
        "{",
        &["--claims-file", "claims.json", "line 1", "docs/compare.md"],
    );
    refused_claims(r#"{"claim":[]}"#, &["unknown field `claim`", "`claims`"]);
    let rule = r#"{"figure":"start.gone","sides":["vms"],"at_least":"2 parsecs"}"#;
    let claim = format!(
        r#"{{"claims":[{{"id":"a","file":"f","line":1,"quote":"q","says":"s","rule":{rule}}}]}}"#
    );
    refused_claims(
        &claim,
        &["claim \"a\"", "rule.at_least \"2 parsecs\"", "such as 60 s"],
    );
    let missing = ["compare", "--claims-file", "/no/such/file"];
    refused(
        &missing,
        &["--claims-file \"/no/such/file\"", "No such file"],
    );
}
