//! A guest that speaks FUSE by hand, also where a kernel never would.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use rustix::io::Errno;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_CONFIG;

use super::testing::*;
use super::*;
use crate::virtio::testing::{Guest, read, write};
use wire::{ROOT, opcode::*};

const RDONLY: u32 = 0;
const WRONLY: u32 = 1;
const RDWR: u32 = 2;
const CREAT_TRUNC: u32 = 0o1100;

#[test]
fn virtio_5_11_4_configuration_is_the_tag_and_one_request_queue() {
    let scratch = scratch();
    let guest = Guest::with(device(&scratch, false, 100));
    let driver = guest.driver();
    let config: Vec<u32> = (0..10)
        .map(|word| driver.get(VIRTIO_MMIO_CONFIG + 4 * word))
        .collect();
    let tag = u32::from_le_bytes(*b"tag\0");
    assert_eq!(config, [tag, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn file_is_found_opened_read_and_written() {
    let scratch = scratch();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    let file = fuse.look_up(ROOT, "file").unwrap();
    let open = fuse.open(file, RDWR).unwrap();
    assert_eq!(fuse.read(file, open, 3, 100).unwrap(), b"tent");
    assert_eq!(fuse.read(file, open, 99, 100).unwrap(), b"");
    assert!(fuse.write(file, open, 5, b"act").is_ok());
    assert_eq!(fs::read(scratch.path("in/file")).unwrap(), b"conteact");
}

#[test]
fn names_that_lead_out_are_refused_by_every_request_that_takes_one() {
    let scratch = scratch();
    fs::create_dir(scratch.path("in/dir")).unwrap();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    let dir = fuse.look_up(ROOT, "dir").unwrap();
    let file = fuse.look_up(ROOT, "file").unwrap();
    for name in ["..", "../secret", "/etc/passwd", "dir/../../secret", "."] {
        let before = |fields: &[u32]| Body::default().u32s(fields).0;
        for (opcode, fields) in [
            (LOOKUP, vec![]),
            (UNLINK, vec![]),
            (RMDIR, vec![]),
            (MKNOD, before(&[0o100_644, 0, 0, 0])),
            (MKDIR, before(&[0o755, 0])),
            (CREATE, before(&[CREAT_TRUNC | RDWR, 0o644, 0, 0])),
            (SYMLINK, vec![]),
            (LINK, Body::default().u64s(&[file]).0),
            (RENAME, Body::default().u64s(&[dir]).0),
        ] {
            let args = [fields, text(name), text("other")].concat();
            let answer = fuse.ask(opcode, dir, &args);
            assert_eq!(answer, Err(Errno::INVAL), "{opcode} {name:?}");
        }
        // As the second name of a renaming, too.
        let args = [Body::default().u64s(&[dir]).0, text("file"), text(name)].concat();
        assert_eq!(fuse.ask(RENAME, ROOT, &args), Err(Errno::INVAL));
    }
    assert_eq!(fs::read(scratch.path("secret")).unwrap(), b"secret");
    assert!(fs::read_dir(scratch.path("")).unwrap().count() == 2);
}

#[test]
fn link_to_outside_is_a_text_and_cannot_be_passed() {
    let scratch = scratch();
    symlink("/", scratch.path("in/root")).unwrap();
    symlink("../secret", scratch.path("in/up")).unwrap();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    let up = fuse.look_up(ROOT, "up").unwrap();
    assert_eq!(fuse.ask(READLINK, up, &[]).unwrap(), b"../secret");
    assert_eq!(fuse.open(up, RDONLY), Err(Errno::INVAL));
    let root = fuse.look_up(ROOT, "root").unwrap();
    assert_eq!(fuse.look_up(root, "etc"), Err(Errno::NOTDIR));
    assert_eq!(fuse.ask(OPENDIR, root, &[0; 8]), Err(Errno::NOTDIR));
    // Sizes, times and modes are the link's too, or refused.
    let mut args = Body::default().u32s(&[wire::SET_SIZE, 0]).0;
    args.resize(88, 0);
    assert_eq!(fuse.ask(SETATTR, up, &args), Err(Errno::INVAL));
    let mut args = Body::default().u32s(&[wire::SET_MODE, 0]).0;
    args.resize(88, 0);
    assert_eq!(fuse.ask(SETATTR, up, &args), Err(Errno::OPNOTSUPP));
    assert_eq!(fs::read(scratch.path("secret")).unwrap(), b"secret");
    assert_ne!(
        fs::metadata(scratch.path("secret")).unwrap().mode() & 0o777,
        0
    );
}

#[test]
fn link_put_in_place_of_a_known_file_changes_nothing() {
    let scratch = scratch();
    fs::create_dir(scratch.path("in/dir")).unwrap();
    fs::write(scratch.path("in/dir/file"), "inside").unwrap();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    let dir = fuse.look_up(ROOT, "dir").unwrap();
    let file = fuse.look_up(dir, "file").unwrap();
    // Between two requests: the directory becomes a link, the file too.
    fs::rename(scratch.path("in/dir"), scratch.path("in/moved")).unwrap();
    symlink("..", scratch.path("in/dir")).unwrap();
    fs::remove_file(scratch.path("in/moved/file")).unwrap();
    symlink("../../secret", scratch.path("in/moved/file")).unwrap();
    let open = fuse.open(file, RDONLY).unwrap();
    assert_eq!(fuse.read(file, open, 0, 100).unwrap(), b"inside");
    let link = fuse.look_up(dir, "file").unwrap();
    assert_ne!(link, file);
    assert_eq!(fuse.open(link, RDONLY), Err(Errno::INVAL));
    let outside = fuse.look_up(ROOT, "dir").unwrap();
    assert_eq!(fuse.look_up(outside, "secret"), Err(Errno::NOTDIR));
}

#[test]
fn create_follows_no_link() {
    let scratch = scratch();
    symlink("../new", scratch.path("in/link")).unwrap();
    symlink("../secret", scratch.path("in/up")).unwrap();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    for name in ["link", "up"] {
        let fields = Body::default().u32s(&[CREAT_TRUNC | RDWR, 0o644, 0, 0]).0;
        let answer = fuse.ask(CREATE, ROOT, &[fields, text(name)].concat());
        assert_eq!(answer, Err(Errno::INVAL), "{name}");
    }
    assert!(!scratch.path("new").exists());
    assert_eq!(fs::read(scratch.path("secret")).unwrap(), b"secret");
}

#[test]
fn created_file_has_the_mode_asked_for_less_set_user_id() {
    let scratch = scratch();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    let fields = Body::default()
        .u32s(&[CREAT_TRUNC | WRONLY, 0o106_666, 0, 0])
        .0;
    let answer = fuse
        .ask(CREATE, ROOT, &[fields, text("new")].concat())
        .unwrap();
    assert_eq!(answer.len(), 128 + 16);
    let (node, open) = (number(&answer, 0), number(&answer, 128));
    assert!(fuse.write(node, open, 0, b"x").is_ok());
    let mode = fs::metadata(scratch.path("in/new"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode, 0o100_666);
    let mut args = Body::default().u32s(&[wire::SET_MODE, 0]).0;
    args.resize(68, 0);
    args = Body(args).u32s(&[0o104_755, 0, 0, 0, 0]).0;
    assert!(fuse.ask(SETATTR, node, &args).is_ok());
    let mode = fs::metadata(scratch.path("in/new"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode, 0o100_755);
}

#[test]
fn set_user_id_program_is_not_opened_for_writing() {
    let scratch = scratch();
    let mode = PermissionsExt::from_mode(0o4755);
    fs::set_permissions(scratch.path("in/file"), mode).unwrap();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    let file = fuse.look_up(ROOT, "file").unwrap();
    for flags in [WRONLY, RDWR, RDONLY | 0o1000] {
        assert_eq!(fuse.open(file, flags), Err(Errno::PERM));
    }
    let mut args = Body::default().u32s(&[wire::SET_SIZE, 0]).0;
    args.resize(88, 0);
    assert_eq!(fuse.ask(SETATTR, file, &args), Err(Errno::PERM));
    assert!(fuse.open(file, RDONLY).is_ok());
    assert_eq!(fs::read(scratch.path("in/file")).unwrap(), b"content");
}

#[test]
fn read_only_folder_refuses_every_change() {
    let scratch = scratch();
    let guest = Guest::with(device(&scratch, true, 100));
    let mut fuse = Fuse::new(&guest);
    let file = fuse.look_up(ROOT, "file").unwrap();
    for opcode in [
        SETATTR,
        SYMLINK,
        MKNOD,
        MKDIR,
        UNLINK,
        RMDIR,
        RENAME,
        LINK,
        WRITE,
        CREATE,
        FALLOCATE,
        RENAME2,
        SETXATTR,
        REMOVEXATTR,
    ] {
        assert_eq!(
            fuse.ask(opcode, ROOT, &[0; 128]),
            Err(Errno::ROFS),
            "{opcode}"
        );
    }
    for flags in [WRONLY, RDWR, RDONLY | 0o1000] {
        assert_eq!(fuse.open(file, flags), Err(Errno::ROFS));
    }
    let open = fuse.open(file, RDONLY).unwrap();
    assert_eq!(fuse.read(file, open, 0, 7).unwrap(), b"content");
}

#[test]
fn pipe_and_device_are_not_opened_or_made() {
    let scratch = scratch();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    let make = |mode: u32, name| [Body::default().u32s(&[mode, 0, 0, 0]).0, text(name)].concat();
    // Opening a pipe that nobody writes to would wait for ever.
    let pipe = fuse.ask(MKNOD, ROOT, &make(0o010_644, "pipe")).unwrap();
    assert_eq!(fuse.open(number(&pipe, 0), RDONLY), Err(Errno::INVAL));
    for kind in [0o020_000, 0o060_000, 0o040_000, 0o120_000] {
        let answer = fuse.ask(MKNOD, ROOT, &make(kind | 0o644, "device"));
        assert_eq!(answer, Err(Errno::PERM));
    }
}

#[test]
fn directory_is_listed_in_portions_with_and_without_attributes() {
    let scratch = scratch();
    for number in 0..300 {
        fs::write(scratch.path(&format!("in/{number}")), "").unwrap();
    }
    let guest = Guest::with(device(&scratch, false, 1000));
    let mut fuse = Fuse::new(&guest);
    let open = number(&fuse.ask(OPENDIR, ROOT, &[0; 8]).unwrap(), 0);
    for (opcode, skip) in [(READDIR, 0), (READDIRPLUS, 128)] {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let args = Body::default()
                .u64s(&[open, offset])
                .u32s(&[4096, 0, 0, 0, 0, 0])
                .0;
            let entries = fuse.ask(opcode, ROOT, &args).unwrap();
            if entries.is_empty() {
                break;
            }
            let mut at = 0;
            while at < entries.len() {
                let dirent = at + skip;
                offset = number(&entries, dirent + 8);
                let len = number(&entries, dirent + 16) & 0xffff_ffff;
                let len = usize::try_from(len).unwrap();
                let name = &entries[dirent + 24..dirent + 24 + len];
                let known = skip > 0 && number(&entries, at) != 0;
                assert_eq!(known, skip > 0 && !name.starts_with(b"."));
                names.push(String::from_utf8(name.to_vec()).unwrap());
                at += wire::dirent_size(len, skip > 0);
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 303, "with . and .. and file");
    }
}

#[test]
fn limit_of_files_is_told_and_lifted_by_forgetting() {
    let scratch = scratch();
    fs::write(scratch.path("in/other"), "").unwrap();
    let guest = Guest::with(device(&scratch, false, 1));
    let mut fuse = Fuse::new(&guest);
    let file = fuse.look_up(ROOT, "file").unwrap();
    assert_eq!(fuse.look_up(ROOT, "other"), Err(Errno::NFILE));
    assert_eq!(fuse.open(file, RDONLY), Err(Errno::NFILE));
    let args = Body::default().u32s(&[1, 0]).u64s(&[file, 1]).0;
    forget(&mut fuse, BATCH_FORGET, 0, &args);
    assert!(fuse.look_up(ROOT, "other").is_ok());
}

#[test]
fn reset_closes_all_that_was_open() {
    let scratch = scratch();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    let file = fuse.look_up(ROOT, "file").unwrap();
    fuse.open(file, RDONLY).unwrap();
    let mut fuse = Fuse::new(&guest);
    assert_eq!(fuse.open(file, RDONLY), Err(Errno::STALE));
}

#[test]
fn nothing_is_answered_before_the_session_begins() {
    let scratch = scratch();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut driver = guest.driver();
    driver.start_queue(QUEUE, 0);
    let mut fuse = Fuse {
        guest: &guest,
        driver,
    };
    assert_eq!(fuse.look_up(ROOT, "file"), Err(Errno::IO));
    let old = Body::default().u32s(&[7, 30, 0, 0]).0;
    assert_eq!(fuse.ask(INIT, 0, &old), Err(Errno::PROTO));
    assert_eq!(fuse.look_up(ROOT, "file"), Err(Errno::IO));
}

#[test]
fn unknown_request_is_not_implemented() {
    let scratch = scratch();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    // GETLK, IOCTL, and one that does not exist.
    for opcode in [31, 39, 4000] {
        assert_eq!(fuse.ask(opcode, ROOT, &[0; 64]), Err(Errno::NOSYS));
    }
}

#[test]
fn answer_that_finds_no_room_is_an_error_and_writes_no_byte_beyond() {
    let scratch = scratch();
    let guest = Guest::with(device(&scratch, false, 100));
    let mut fuse = Fuse::new(&guest);
    guest.store(ANSWER, &[0xee; 64]);
    let answer = fuse.ask_with_room(LOOKUP, ROOT, &text("file"), 40);
    assert_eq!(answer, Err(Errno::INVAL));
    assert_eq!(guest.bytes(ANSWER + 16, 48), [0xee; 48]);
}

#[test]
fn request_with_a_wrong_length_or_without_room_needs_a_reset() {
    let scratch = scratch();
    for (len, readable, room) in [(41, 40, 64), (39, 40, 64), (40, 39, 64), (40, 40, 15)] {
        let guest = Guest::with(device(&scratch, false, 100));
        let mut driver = guest.driver();
        driver.start_queue(QUEUE, 0);
        let header = Body::default().u32s(&[len, GETATTR]).u64s(&[1, 1, 0, 0]);
        guest.store(REQUEST, &header.0);
        driver.put(&[read(REQUEST, readable), write(ANSWER, room)]);
        driver.expect_needs_reset();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest says: it gets an answer or needs a reset, and nothing outside changes.
    #[test]
    fn any_request_is_answered(
        requests in prop::collection::vec(
            (0_u32..60, 0_u64..6, prop::collection::vec(any::<u8>(), 0..120)), 1..24)
    ) {
        let scratch = scratch();
        let guest = Guest::with(device(&scratch, false, 8));
        let mut fuse = Fuse::new(&guest);
        fuse.look_up(ROOT, "file").unwrap();
        for (opcode, node, args) in requests {
            let silent = [FORGET, BATCH_FORGET, INTERRUPT].contains(&opcode);
            if silent {
                forget(&mut fuse, opcode, node, &args);
            } else if opcode != SYNCFS {
                let _any = fuse.ask(opcode, node, &args);
            }
        }
        prop_assert_eq!(fs::read(scratch.path("secret")).unwrap(), b"secret");
        prop_assert_eq!(fs::read_dir(scratch.path("")).unwrap().count(), 2);
        prop_assert_eq!(guest.transport.server().faults().count(), 0);
    }
}
