//! What has to be on the disk?
//!
//! The engine counts on a container's side just as VMM and guest's kernel count on a VM's. Sizes are of
//! blocks on the disk, each file once however many names it has. Read next: [`super::isolation`].

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Findings;
use crate::compare::finding::{Figure, Point, Unit, Value};
use crate::compare::session::Session;
use crate::compare::side::{Kind, Side};

/// How many instances are added.
const INSTANCES: u64 = 3;

/// Measures it.
pub fn measure(session: &mut Session<'_>) -> Findings {
    let found = session.found;
    let mut added = Vec::new();
    for side in &found.sides {
        session.progress("instances on the disk", &side.name);
        added.push(instances(session, side));
    }
    let root = session.root.bytes;
    let figure =
        |key: &str, title: &str, counted: &str, value: &dyn Fn(usize, &Side) -> Value| Figure {
            key: format!("disk.{key}"),
            title: title.to_owned(),
            end_points: counted.to_owned(),
            unit: Unit::Bytes,
            part_of: None,
            lines: session.lines(value),
        };
    Findings {
        topic: "disk",
        question: "What has to be on the disk?",
        figures: vec![
            figure(
                "root",
                "Root file system",
                "bytes in the files that all sides get",
                &|_, _| Value::Exact(root),
            ),
            figure(
                "engine",
                "Engine or VMM",
                "blocks of the files that have to be installed for it: programs, libraries, packages \
                 it needs; of a VMM with a built-in guest also that",
                &|_, side| Value::Exact(blocks(&side.launch.installed())),
            ),
            figure(
                "kernel",
                "Guest's kernel",
                "bytes of the kernel that is brought along; the part of the VMM's that is not its own",
                &|_, side| kernel(side),
            ),
            figure(
                "instances",
                "What an instance adds",
                "blocks that appear where the runtime keeps instances, while 1, 2 and 3 run",
                &|index, _| match added.get(index) {
                    Some(Ok(points)) => Value::Curve(points.clone()),
                    Some(Err(why)) => Value::NotRun(why.clone()),
                    None => Value::NotRun("it was not reached".to_owned()),
                },
            ),
        ],
        tables: Vec::new(),
        notes: vec![
            "an engine is installed once, however many images and instances there are; so is a VMM \
             with its kernel"
                .to_owned(),
        ],
    }
}

fn kernel(side: &Side) -> Value {
    match (side.kind, side.launch.kernel_bytes()) {
        (Kind::Floor | Kind::Container, _) => Value::Exact(0),
        (Kind::Vm, Some(bytes)) => Value::Exact(bytes),
        (Kind::Vm, None) => Value::NotRun("its kernel's size is not known".to_owned()),
    }
}

/// What one, two, three instances add, where the side keeps them.
fn instances<'a>(session: &mut Session<'a>, side: &'a Side) -> Result<Vec<Point>, String> {
    let before = blocks(&side.launch.storage());
    let mut held = Vec::new();
    let mut points = vec![Point {
        instances: 0,
        value: 0,
    }];
    for instances in 1..=INSTANCES {
        held.push(session.hold(side, &["/probe", "hold"])?);
        points.push(Point {
            instances,
            value: blocks(&side.launch.storage()).saturating_sub(before),
        });
    }
    session.release(held);
    Ok(points)
}

/// Bytes of the blocks of files, and of all that is in folders, each file once; symbolic links are
/// followed only where they are named, and other file systems mounted below are left out.
fn blocks<P: AsRef<Path>>(paths: &[P]) -> u64 {
    let mut seen = HashSet::new();
    let mut sum = 0;
    for path in paths {
        let path = path.as_ref();
        let Ok(metadata) = fs::metadata(path) else {
            continue;
        };
        if seen.insert((metadata.dev(), metadata.ino())) {
            sum += metadata.blocks() * 512;
        }
        if metadata.is_dir() {
            sum += below(path, metadata.dev(), &mut seen);
        }
    }
    sum
}

fn below(folder: &Path, device: u64, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let mut sum = 0;
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.dev() != device || !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            sum += metadata.blocks() * 512;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_once_however_many_names_it_has() {
        let folder = std::env::temp_dir().join(format!("cottage-blocks-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (one, two) = (folder.join("one"), folder.join("two"));
        fs::write(&one, vec![1; 8192]).unwrap();
        let alone = blocks(&[&one]);
        fs::hard_link(&one, &two).unwrap();
        std::os::unix::fs::symlink("one", folder.join("three")).unwrap();
        assert_eq!(blocks(&[&one, &two]), alone);
        let whole = blocks(&[&folder]);
        fs::remove_dir_all(&folder).unwrap();
        assert!(
            alone >= 8192 && whole >= alone && whole < alone + 65536,
            "{alone} {whole}"
        );
        assert_eq!(blocks(&["/does/not/exist"]), 0);
    }
}
