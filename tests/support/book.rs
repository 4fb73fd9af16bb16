//! The commands of the book: found in its chapters, run, and their output compared.
//!
//! A block that begins with ` ```console ` holds commands, each behind `$ `, and under each what it
//! prints, standard error included. A command goes on in lines that begin with `> `, as a shell asks for them.
//! Words behind `console` say what it takes:
//!
//! | word | meaning |
//! |---|---|
//! | `linux` | it boots Linux: it runs where KVM can do that, here mostly in the testbed |
//! | `numbers` | every number, decimal or after 0x, stands for any other |
//!
//! Without `linux` it needs no KVM, and runs on the machine of whoever tests.
//! What varies in other ways is masked: a line `...` stands for any number of lines, none too, and `…`
//! within a line for any text. Runs of spaces count as one.
//!
//! The commands of a block run one after the other in a directory of their own, in which
//! `guest-images/out` leads to the guest images and `cottage` is on the path.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::program::{Scratch, finish, program};

macro_rules! chapters {
    ($($name:literal),* $(,)?) => {
        /// File name, from docs/book, and text of each chapter, in reading order. The texts are in the program, because the
        /// testbed gets nothing else.
        pub(crate) const CHAPTERS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../docs/book/", $name)))),*];
    };
}

chapters![
    "../README.md",
    "01-one-boot.md",
    "02-memory.md",
    "03-boot-protocols.md",
    "04-zero-page.md",
    "05-exits.md",
    "06-interrupts.md",
    "07-serial.md",
    "08-virtio.md",
    "09-time.md",
    "10-smp.md",
    "11-containers.md",
    "12-why-slow.md",
];

/// What a block needs to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// No KVM.
    Nothing,
    /// A KVM that runs Linux.
    Linux,
}

/// One command with what it should print.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) expected: Vec<String>,
}

/// One block of commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The line of the file it begins at.
    pub(crate) line: usize,
    pub(crate) needs: Needs,
    /// Numbers are masked.
    pub(crate) numbers: bool,
    pub(crate) steps: Vec<Step>,
}

/// The blocks of a chapter, or what is wrong with one.
pub(crate) fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```").filter(|info| !info.is_empty()) else {
            continue;
        };
        let body: Vec<_> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        let mut words = info.split(' ');
        if words.next() == Some("console") {
            found.push(block(index + 1, words, &body)?);
        } else if body.iter().any(|line| line.starts_with("$ ")) {
            return Err(format!(
                "line {}: a command outside of a console block",
                index + 1
            ));
        }
    }
    Ok(found)
}

fn block<'a>(
    line: usize,
    words: impl Iterator<Item = &'a str>,
    body: &[&str],
) -> Result<Block, String> {
    let (mut needs, mut numbers) = (Needs::Nothing, false);
    for word in words {
        match word {
            "linux" => needs = Needs::Linux,
            "numbers" => numbers = true,
            _ => return Err(format!("line {line}: unknown word {word}")),
        }
    }
    let mut steps: Vec<Step> = Vec::new();
    for text in body {
        if let Some(command) = text.strip_prefix("$ ") {
            let (command, expected) = (command.to_owned(), Vec::new());
            steps.push(Step { command, expected });
            continue;
        }
        let Some(step) = steps.last_mut() else {
            return Err(format!("line {line}: output before the first command"));
        };
        match text.strip_prefix("> ") {
            Some(more) if step.expected.is_empty() => {
                step.command += "\n";
                step.command += more;
            }
            _ => step.expected.push((*text).to_owned()),
        }
    }
    if steps.is_empty() {
        return Err(format!("line {line}: no command"));
    }
    Ok(Block {
        line,
        needs,
        numbers,
        steps,
    })
}

/// What the blocks of the chapter `name` that need exactly `needs` print otherwise.
#[track_caller]
pub(crate) fn differences(name: &str, needs: Needs) -> Vec<String> {
    let chapter = CHAPTERS.iter().find(|(chapter, _)| *chapter == name);
    let (_, text) = chapter.unwrap_or_else(|| panic!("no chapter {name}"));
    let mut all = blocks(text).unwrap_or_else(|wrong| panic!("{name}, {wrong}"));
    all.retain(|block| block.needs == needs);
    assert!(
        !all.is_empty(),
        "{name} has no commands that need {needs:?}"
    );
    all.iter().filter_map(|block| run(name, block)).collect()
}

/// Runs a block; says what is not as the book has it.
fn run(name: &str, block: &Block) -> Option<String> {
    let scratch = Scratch::new();
    for folder in ["bin", "guest-images"] {
        std::fs::create_dir(scratch.path(folder)).unwrap();
    }
    std::os::unix::fs::symlink(program(), scratch.path("bin/cottage")).unwrap();
    std::os::unix::fs::symlink(images(), scratch.path("guest-images/out")).unwrap();
    let own = scratch.path("bin");
    let path = std::env::var("PATH").unwrap_or_default();
    for step in &block.steps {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(format!("exec 2>&1\n{}", step.command));
        shell
            .env("PATH", format!("{own}:{path}"))
            .env("LC_ALL", "C");
        shell.current_dir(scratch.path(""));
        let text = finish(shell, b"").text().replace('\r', "");
        let printed: Vec<_> = text.lines().map(str::to_owned).collect();
        if !matches(&step.expected, &printed, block.numbers) {
            let (line, command) = (block.line, &step.command);
            let expected = step.expected.join("\n");
            return Some(format!(
                "{name}, block at line {line}: $ {command}\n--- the book:\n{expected}\n--- printed:\n{text}"
            ));
        }
    }
    None
}

fn images() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-images/out");
    let path = std::env::var_os("COTTAGE_IMAGES").map_or_else(built, PathBuf::from);
    path.canonicalize().unwrap_or(path)
}

/// Whether these lines were printed as the book has them.
pub(crate) fn matches(expected: &[String], printed: &[String], numbers: bool) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first.trim() == "..." => {
            let after = |skipped| printed.get(skipped..).unwrap_or_default();
            (0..=printed.len()).any(|skipped| matches(rest, after(skipped), numbers))
        }
        (Some((first, rest)), Some((line, lines))) => {
            line_matches(first, line, numbers) && matches(rest, lines, numbers)
        }
        _ => false,
    }
}

fn line_matches(expected: &str, printed: &str, numbers: bool) -> bool {
    let plain = |text: &str| {
        let spaced = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if numbers { masked(&spaced) } else { spaced }
    };
    let (expected, printed) = (plain(expected), plain(printed));
    let mut parts = expected.split('…');
    let Some(mut rest) = printed.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        rest = after;
    }
    rest.ends_with(last)
}

/// `text` with `#` for each number: decimal, with a point or not, or hexadecimal after 0x.
fn masked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = match rest.strip_prefix("0x") {
            Some(hex) if hex.starts_with(|c: char| c.is_ascii_hexdigit()) => {
                2 + hex
                    .find(|c: char| !c.is_ascii_hexdigit())
                    .unwrap_or(hex.len())
            }
            _ => rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len()),
        };
        if first.is_ascii_digit() {
            out.push('#');
            rest = &rest[len..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}
