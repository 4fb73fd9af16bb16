//! qcow2 images, judged by QEMU: what qemu-img made is read, what we wrote qemu-img reads and
//! finds in order.
//!
//! The images are asked directly, as the block device asks them, with guest memory and without a
//! guest. With one: `tests/testbed/qcow2.sh`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use cottage::config::disk::{self, Disk};
use cottage::memory::GuestMemory;
use cottage::memory::transfer::Segment;
use cottage::virtio::blk::image::Image;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::program::Scratch;
use vm_memory::GuestAddress;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const MEMORY: u64 = 16 * MIB;
/// Where in guest memory the data is. It is in two parts, with a gap of a sector.
const DATA: u64 = MIB;

/// Runs a program of QEMU's; it must succeed.
///
/// Again for a while if it finds a lock: that of a disk that was just closed can live on for a moment,
/// in a child of another test that has not become its program yet.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    for attempt in 0.. {
        let output = Command::new(program)
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}: guest-images/need.sh tests"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return text;
        }
        let locked = ["Failed to lock byte", "Failed to get"]
            .iter()
            .any(|words| errors.contains(words));
        assert!(locked && attempt < 100, "{arguments:?}: {text}{errors}");
        std::thread::sleep(Duration::from_millis(50));
    }
    unreachable!("the loop ends by itself")
}

fn qemu_img(arguments: &[&str]) -> String {
    run("qemu-img", arguments)
}

/// A disk as `--disk VALUE` describes it, and memory for its requests.
struct Attached {
    image: Image,
    memory: GuestMemory,
}

impl Attached {
    /// A lock of a disk that was just closed can live on for a moment, in a child of another test
    /// that has not become its program yet.
    fn new(value: &str) -> Self {
        for _ in 0..100 {
            match Self::try_new(value) {
                Err(text) if text.contains("in use") => sleep(Duration::from_millis(10)),
                made => return made.unwrap(),
            }
        }
        panic!("{value} stays in use");
    }

    fn try_new(value: &str) -> Result<Self, String> {
        let disk: Disk = disk::parse_all(None, &[value.into()]).unwrap().remove(0);
        let image = Image::open(&disk).map_err(|error| report(&error))?;
        let memory = GuestMemory::new(MEMORY).unwrap();
        Ok(Self { image, memory })
    }

    /// Segments for `len` bytes: two with a gap between them.
    fn segments(len: u64) -> [Segment; 2] {
        let first = len / 3;
        [(DATA, first), (DATA + first + 512, len - first)].map(|(at, len)| Segment {
            gpa: GuestAddress(at),
            len: u32::try_from(len).unwrap(),
        })
    }

    fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let segments = Self::segments(len);
        for segment in segments {
            let dirt = vec![0xee; segment.len as usize];
            self.memory.write(segment.gpa, &dirt).unwrap();
        }
        self.image.read(&self.memory, offset, &segments).unwrap();
        let parts = segments.map(|segment| {
            let mut bytes = vec![0; segment.len as usize];
            self.memory.read(segment.gpa, &mut bytes).unwrap();
            bytes
        });
        parts.concat()
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let segments = Self::segments(bytes.len() as u64);
        let (first, second) = bytes.split_at(segments[0].len as usize);
        self.memory.write(segments[0].gpa, first).unwrap();
        self.memory.write(segments[1].gpa, second).unwrap();
        self.image.write(&self.memory, offset, &segments).unwrap();
    }

    /// The whole disk, by requests of an odd size.
    fn content(&self) -> Vec<u8> {
        let (mut bytes, step) = (Vec::new(), 75 * KIB);
        while (bytes.len() as u64) < self.image.size() {
            let at = bytes.len() as u64;
            bytes.extend(self.read(at, step.min(self.image.size() - at)));
        }
        bytes
    }
}

/// An error with its causes.
fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Content with stretches of zeros, of text that packs well, and of noise.
fn content(len: u64) -> Vec<u8> {
    let mut state = 7_u64;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let stretch = usize::try_from(state >> 48).unwrap();
        match state >> 40 & 3 {
            0 => bytes.resize(bytes.len() + stretch, 0),
            1 => bytes.extend((0..stretch).map(|at| (at / 1000).to_le_bytes()[0])),
            _ => bytes.extend(
                (0..stretch as u64).map(|at| (at.wrapping_mul(state | 1) >> 29).to_le_bytes()[0]),
            ),
        }
    }
    bytes.truncate(usize::try_from(len).unwrap());
    bytes
}

/// What `disk` has by QEMU's account, chain and all, after it found nothing wrong with it.
#[track_caller]
fn by_qemu(files: &Scratch, disk: &str) -> Vec<u8> {
    qemu_img(&["check", "-q", disk]);
    let raw = files.path("by-qemu");
    qemu_img(&["convert", "-O", "raw", disk, &raw]);
    fs::read(raw).unwrap()
}

/// An image of `content` made by `qemu-img convert` with `options`.
fn converted(files: &Scratch, name: &str, content: &[u8], options: &[&str]) -> String {
    let (raw, image) = (files.file("raw", content), files.path(name));
    let head = ["convert", "-f", "raw", "-O", "qcow2"];
    qemu_img(&[&head, options, &[&raw, &image]].concat());
    image
}

#[test]
fn images_of_qemu_are_read_as_they_are() {
    let wanted = content(5 * MIB + 512);
    for options in [
        "compat=v3",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=4k",
        "cluster_size=2M",
        "refcount_bits=1",
        "refcount_bits=64",
        "lazy_refcounts=on",
        "preallocation=metadata",
    ] {
        let files = Scratch::new();
        let image = converted(&files, "a.qcow2", &wanted, &["-o", options]);
        let disk = Attached::new(&format!("{image},ro"));
        assert!(disk.content() == wanted, "{options}");
    }
}

#[test]
fn packed_images_are_read_as_they_are() {
    let wanted = content(5 * MIB + 512);
    for options in [
        "compression_type=zlib",
        "compression_type=zlib,compat=0.10",
        "compression_type=zlib,cluster_size=4k",
        "compression_type=zlib,cluster_size=2M",
        "compression_type=zstd",
        "compression_type=zstd,cluster_size=4k",
        "compression_type=zstd,cluster_size=2M",
    ] {
        let files = Scratch::new();
        let image = converted(&files, "a.qcow2", &wanted, &["-c", "-o", options]);
        let disk = Attached::new(&format!("{image},ro"));
        assert!(disk.content() == wanted, "{options}");
    }
}

/// An image of `content` in three files: a raw one, one packed, and one with a part written anew.
fn chain(files: &Scratch, content: &mut Vec<u8>, kind: &str) -> String {
    let base = files.file("base", content);
    let [middle, top] = ["middle.qcow2", "top.qcow2"].map(|name| files.path(name));
    let backing = format!("backing_file={base},backing_fmt=raw,compression_type={kind}");
    // As long as the disk again, which reads as zeros there.
    let size = (content.len() * 2).to_string();
    qemu_img(&[
        "create", "-q", "-f", "qcow2", "-o", &backing, &middle, &size,
    ]);
    run(
        "qemu-io",
        &[
            "-c",
            "write -c -P 17 1M 1M",
            "-c",
            "write -c -P 18 9M 64k",
            &middle,
        ],
    );
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "middle.qcow2",
        &top,
    ]);
    run(
        "qemu-io",
        &[
            "-c",
            "write -P 19 1000k 100k",
            "-c",
            "write -z 3M 64k",
            &top,
        ],
    );
    let at = |kib: u64| usize::try_from(kib * KIB).unwrap();
    content.resize(content.len() * 2, 0);
    content[at(1024)..at(2048)].fill(17);
    content[at(9 * 1024)..at(9 * 1024 + 64)].fill(18);
    content[at(1000)..at(1100)].fill(19);
    content[at(3 * 1024)..at(3 * 1024 + 64)].fill(0);
    top
}

#[test]
fn backing_files_are_read_where_nothing_was_written() {
    for kind in ["zlib", "zstd"] {
        let files = Scratch::new();
        let mut wanted = content(5 * MIB);
        let top = chain(&files, &mut wanted, kind);
        assert!(
            Attached::new(&format!("{top},ro")).content() == wanted,
            "{kind}"
        );
    }
}

/// What a guest may do to a disk.
#[derive(Clone, Debug)]
enum Change {
    Write(u8),
    Zero(bool),
    Discard,
    Flush,
    Reopen,
}

fn changes() -> impl Strategy<Value = Vec<(u64, u64, Change)>> {
    let kind = prop_oneof![
        4 => any::<u8>().prop_map(Change::Write),
        1 => any::<bool>().prop_map(Change::Zero),
        1 => Just(Change::Discard),
        1 => Just(Change::Flush),
        1 => Just(Change::Reopen),
    ];
    // Sectors; lengths on both sides of a cluster of 64 KiB.
    let len = prop_oneof![1_u64..9, 100_u64..300, Just(128_u64)];
    prop::collection::vec((0_u64..2048, len, kind), 1..25)
}

/// Does `changes` to the disk that `value` describes and to `model`, and compares them.
fn change(value: &str, model: &mut [u8], changes: &[(u64, u64, Change)]) {
    let mut disk = Attached::new(value);
    for (sector, sectors, change) in changes {
        let offset = sector * 512 % model.len() as u64;
        let len = (sectors * 512).min(model.len() as u64 - offset);
        let at = usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap();
        match change {
            Change::Write(byte) => {
                let start = usize::from(*byte);
                let bytes: Vec<u8> = (start..)
                    .map(|n| (n % 251).to_le_bytes()[0])
                    .take(at.len())
                    .collect();
                disk.write(offset, &bytes);
                model[at].copy_from_slice(&bytes);
            }
            Change::Zero(unmap) => {
                disk.image.zero(offset, len, *unmap).unwrap();
                model[at].fill(0);
            }
            // Version 2 cannot. What is in the clusters at the ends stays.
            Change::Discard => {
                if disk.image.discard(offset, len).is_ok() {
                    let now = disk.read(offset, len);
                    let kept = now.iter().zip(&model[at.clone()]);
                    assert!(kept.into_iter().all(|(now, was)| *now == 0 || now == was));
                    model[at].copy_from_slice(&now);
                }
            }
            Change::Flush => disk.image.flush().unwrap(),
            Change::Reopen => {
                drop(disk);
                disk = Attached::new(value);
            }
        }
    }
    assert!(disk.content() == model);
}

/// Runs `check` on random changes, a few times.
fn for_some_changes(check: impl Fn(Vec<(u64, u64, Change)>)) {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(12));
    runner
        .run(&changes(), |changes| {
            check(changes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_is_written_is_in_order_for_qemu() {
    for options in [
        "compat=v3",
        "compat=0.10",
        "cluster_size=512",
        "refcount_bits=1",
        "cluster_size=2M",
    ] {
        for_some_changes(|changes| {
            let files = Scratch::new();
            let mut model = content(MIB + 512);
            let image = converted(&files, "a.qcow2", &model, &["-o", options]);
            change(&image, &mut model, &changes);
            assert!(by_qemu(&files, &image) == model, "{options}");
        });
    }
}

#[test]
fn what_is_written_over_packed_clusters_is_in_order_for_qemu() {
    for options in ["cluster_size=64k", "cluster_size=4k"] {
        for_some_changes(|changes| {
            let files = Scratch::new();
            let mut model = content(MIB);
            let image = converted(&files, "a.qcow2", &model, &["-c", "-o", options]);
            change(&image, &mut model, &changes);
            assert!(by_qemu(&files, &image) == model, "{options}");
        });
    }
}

#[test]
fn what_is_written_to_a_chain_stays_in_its_top() {
    for kind in ["zlib", "zstd"] {
        for_some_changes(|changes| {
            let files = Scratch::new();
            let mut model = content(5 * MIB);
            let top = chain(&files, &mut model, kind);
            let below = ["base", "middle.qcow2"].map(|name| fs::read(files.path(name)).unwrap());
            change(&top, &mut model, &changes);
            assert!(by_qemu(&files, &top) == model, "{kind}");
            let now = ["base", "middle.qcow2"].map(|name| fs::read(files.path(name)).unwrap());
            assert!(now == below, "{kind}");
        });
    }
}

#[test]
fn layer_is_made_used_again_and_in_order_for_qemu() {
    for_some_changes(|changes| {
        let files = Scratch::new();
        let mut model = content(MIB + 512);
        let original = model.clone();
        let disk = files.file("disk", &model);
        let layer = files.path("layer");
        change(&format!("{disk},overlay={layer}"), &mut model, &changes);
        assert!(by_qemu(&files, &layer) == model);
        assert!(fs::read(&disk).unwrap() == original);
        let info = qemu_img(&["info", &layer]);
        assert!(info.contains("backing file: disk (actual path:"), "{info}");
        assert!(info.contains("backing file format: raw"), "{info}");
    });
}

#[test]
fn layer_over_a_chain_of_zstd_is_in_order_for_qemu() {
    for_some_changes(|changes| {
        let files = Scratch::new();
        let mut model = content(2 * MIB);
        let image = converted(
            &files,
            "a.qcow2",
            &model,
            &["-c", "-o", "compression_type=zstd"],
        );
        let layer = files.path("layer");
        change(&format!("{image},overlay={layer}"), &mut model, &changes);
        assert!(by_qemu(&files, &layer) == model);
    });
}

#[test]
fn overlay_of_a_qcow2_image_is_thrown_away() {
    let files = Scratch::new();
    let mut model = content(MIB);
    let image = converted(&files, "a.qcow2", &model, &[]);
    let before = fs::read(&image).unwrap();
    let disk = Attached::new(&format!("{image},overlay"));
    disk.write(70 * KIB, &[1; 3 * 512]);
    disk.image.flush().unwrap();
    let at = usize::try_from(70 * KIB).unwrap();
    model[at..at + 3 * 512].fill(1);
    assert!(disk.content() == model);
    drop(disk);
    assert!(fs::read(&image).unwrap() == before);
}

#[test]
fn what_was_flushed_is_in_the_file_whatever_becomes_of_the_process() {
    let files = Scratch::new();
    let model = content(MIB);
    let image = converted(&files, "a.qcow2", &vec![0; model.len()], &[]);
    let disk = Attached::new(&image);
    disk.write(0, &model);
    disk.image.flush().unwrap();
    // As a process that is killed leaves it: nothing is written any more.
    let copy = files.path("copy.qcow2");
    fs::copy(&image, &copy).unwrap();
    drop(disk);
    assert!(by_qemu(&files, &copy) == model);
}

#[test]
fn snapshot_of_qemu_survives_what_is_written() {
    let files = Scratch::new();
    let model = content(MIB);
    let image = converted(&files, "a.qcow2", &model, &[]);
    qemu_img(&["snapshot", "-c", "before", &image]);
    let disk = Attached::new(&image);
    disk.write(10 * KIB, &[3; 300 * 1024]);
    drop(disk);
    qemu_img(&["check", "-q", &image]);
    let raw = files.path("snapshot");
    qemu_img(&[
        "convert",
        "-l",
        "snapshot.name=before",
        "-O",
        "raw",
        &image,
        &raw,
    ]);
    assert!(fs::read(raw).unwrap() == model);
}

#[test]
fn discarded_clusters_are_used_again() {
    let files = Scratch::new();
    let image = converted(&files, "a.qcow2", &vec![9; 4 << 20], &[]);
    let disk = Attached::new(&image);
    let before = fs::metadata(&image).unwrap().len();
    disk.image.discard(0, 2 * MIB).unwrap();
    assert!(disk.read(0, 2 * MIB).iter().all(|byte| *byte == 0));
    disk.write(0, &vec![8; 2 << 20]);
    drop(disk);
    assert_eq!(fs::metadata(&image).unwrap().len(), before);
}

/// What is said of the disk that `value` describes.
#[track_caller]
fn refusal(value: &str) -> String {
    match Attached::try_new(value) {
        Ok(_) => panic!("{value} is accepted"),
        Err(text) => text,
    }
}

#[test]
fn format_is_what_name_and_content_agree_on() {
    let files = Scratch::new();
    let image = converted(&files, "a.qcow2", &content(MIB), &[]);
    let [other, raw] = ["a.img", "raw.qcow2"].map(|name| files.path(name));
    fs::copy(&image, &other).unwrap();
    fs::write(&raw, [1; 512]).unwrap();
    assert!(refusal(&other).contains("its name does not end in .qcow2; add ,format=qcow2"));
    assert!(refusal(&raw).contains("its name ends in .qcow2"));
    assert_eq!(
        Attached::new(&format!("{other},format=qcow2")).image.size(),
        MIB
    );
    // What a guest wrote into its raw disk is content, whatever it looks like.
    let length = fs::metadata(&other).unwrap().len();
    assert_eq!(
        Attached::new(&format!("{other},format=raw")).image.size(),
        length
    );
    assert_eq!(
        Attached::new(&format!("{raw},format=raw")).image.size(),
        512
    );
    assert!(refusal(&format!("{raw},format=qcow2")).contains("no qcow2 image"));
}

#[test]
fn image_with_its_data_or_its_key_elsewhere_is_refused_in_words() {
    let files = Scratch::new();
    let image = files.path("a.qcow2");
    let create = |options: &str, size: &str| {
        let secret = "secret,id=s,data=x";
        qemu_img(&[
            "create", "-q", "--object", secret, "-f", "qcow2", "-o", options, &image, size,
        ]);
    };
    create(&format!("data_file={}", files.path("data")), "1M");
    assert!(refusal(&image).contains("its data is in another file"));
    create(
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        "1M",
    );
    assert!(refusal(&image).contains("it is encrypted"));
    create("extended_l2=on,cluster_size=128k", "1M");
    assert!(refusal(&image).contains("qemu-img convert"));
}

#[test]
fn backing_file_elsewhere_must_be_asked_for() {
    let (files, elsewhere) = (Scratch::new(), Scratch::new());
    let base = elsewhere.file("base", &content(MIB));
    let image = files.path("a.qcow2");
    qemu_img(&[
        "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, &image,
    ]);
    let text = refusal(&image);
    assert!(
        text.contains("builds on") && text.contains(",backing=any"),
        "{text}"
    );
    // A link does not help.
    std::os::unix::fs::symlink(&base, files.path("link")).unwrap();
    qemu_img(&["rebase", "-u", "-F", "raw", "-b", "link", &image]);
    assert!(refusal(&image).contains(",backing=any"));
    let disk = Attached::new(&format!("{image},backing=any"));
    assert!(disk.content() == content(MIB));
}

#[test]
fn missing_backing_file_is_named() {
    let files = Scratch::new();
    let image = files.path("a.qcow2");
    qemu_img(&[
        "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "gone", &image, "1M",
    ]);
    let text = refusal(&image);
    assert!(text.contains("gone\", the backing file of"), "{text}");
    assert!(text.contains("No such file"), "{text}");
}

#[test]
fn backing_file_of_unknown_format_is_raw_or_refused() {
    let files = Scratch::new();
    let base = converted(&files, "base", &content(MIB), &[]);
    let image = files.path("a.qcow2");
    qemu_img(&[
        "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "base", &image, "1M",
    ]);
    // qemu-img of today cannot leave it out: the extension gets a number that nobody knows.
    let mut bytes = fs::read(&image).unwrap();
    let kind = 0xe279_2aca_u32.to_be_bytes();
    let at = bytes.windows(4).position(|four| four == kind).unwrap();
    bytes[at] = 0x12;
    fs::write(&image, &bytes).unwrap();
    assert!(refusal(&image).contains("does not say whether it is one"));
    fs::write(&base, content(MIB)).unwrap();
    assert!(Attached::new(&image).content() == content(MIB));
}

#[test]
fn image_that_builds_on_itself_comes_to_an_end() {
    let files = Scratch::new();
    let image = files.path("a.qcow2");
    qemu_img(&[
        "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "a.qcow2", &image, "1M",
    ]);
    assert!(refusal(&format!("{image},ro")).contains("more than 32 images"));
    assert!(refusal(&image).contains("in use"));
}

#[test]
fn zstd_image_is_not_written() {
    let files = Scratch::new();
    let image = converted(
        &files,
        "a.qcow2",
        &content(MIB),
        &["-c", "-o", "compression_type=zstd"],
    );
    assert!(refusal(&image).contains("add ,ro or ,overlay"));
}

#[test]
fn layer_of_another_disk_is_refused() {
    let files = Scratch::new();
    let [one, two] = ["one", "two"].map(|name| files.file(name, &content(MIB)));
    let layer = files.path("layer");
    drop(Attached::new(&format!("{one},overlay={layer}")));
    drop(Attached::new(&format!("{one},overlay={layer}")));
    let text = refusal(&format!("{two},overlay={layer}"));
    assert!(
        text.contains("it builds on \"one\", not on --disk"),
        "{text}"
    );
    assert!(refusal(&format!("{one},overlay={two}")).contains("no qcow2 image"));
    assert!(refusal(&format!("{one},overlay=/no/such/layer")).contains("Cannot make overlay="));
}

#[test]
fn writer_has_image_and_layer_alone_and_readers_share_what_is_below() {
    let files = Scratch::new();
    let mut model = content(5 * MIB);
    let top = chain(&files, &mut model, "zlib");
    let [base, middle] = ["base", "middle.qcow2"].map(|name| files.path(name));
    let _writer = Attached::new(&top);
    assert!(refusal(&top).contains("in use"));
    assert!(refusal(&format!("{top},ro")).contains("in use"));
    assert!(refusal(&base).contains("in use"));
    assert!(refusal(&middle).contains("in use"));
    let _reader = Attached::new(&format!("{middle},ro"));
    let layer = files.path("layer");
    let _layer = Attached::new(&format!("{base},overlay={layer}"));
    assert!(refusal(&format!("{base},overlay={layer}")).contains("in use"));
}

#[test]
fn image_without_reference_counts_is_not_written() {
    let files = Scratch::new();
    for options in [
        "compat=v3",
        "compat=0.10",
        "refcount_bits=1",
        "refcount_bits=64",
    ] {
        let image = converted(&files, "a.qcow2", &content(MIB), &["-o", options]);
        let mut bytes = fs::read(&image).unwrap();
        let eight = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let block = eight(usize::try_from(eight(48)).unwrap());
        let block = usize::try_from(block).unwrap();
        bytes[block..block + 64].fill(0);
        fs::write(&image, bytes).unwrap();
        let text = refusal(&image);
        assert!(
            text.contains("does not count its own header"),
            "{options}: {text}"
        );
        assert!(Attached::new(&format!("{image},ro")).content() == content(MIB));
    }
}

/// Damage anywhere: an error or other bytes, but neither a panic nor a hang.
#[test]
fn damaged_image_is_an_error_or_other_bytes() {
    let files = Scratch::new();
    let (size, options) = (256 * KIB, ["-c", "-o", "cluster_size=4k"]);
    let image = converted(&files, "a.qcow2", &content(size), &options);
    let good = fs::read(&image).unwrap();
    let damaged = files.path("damaged.qcow2");
    let places = (0..good.len().min(64 << 10), any::<u8>());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(400));
    runner
        .run(&prop::collection::vec(places, 1..8), |places| {
            let mut bytes = good.clone();
            for (at, byte) in places {
                bytes[at] = byte;
            }
            fs::write(&damaged, bytes).unwrap();
            if let Ok(disk) = Attached::try_new(&damaged) {
                let segments = Attached::segments(64 * KIB);
                for at in (0..size).step_by(32 << 10) {
                    let _error_or_bytes = disk.image.read(&disk.memory, at, &segments);
                    let _written = disk.image.write(&disk.memory, at + 512, &segments);
                }
            }
            Ok(())
        })
        .unwrap();
}
