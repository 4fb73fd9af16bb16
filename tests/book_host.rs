//! The book: its form, and its commands that boot nothing. Those that do: `tests/book.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/book.rs"]
mod book;
mod support;

use std::fs;
use std::path::Path;

use book::{CHAPTERS, Needs, blocks, differences, matches};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn every_chapter_is_known_to_the_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/book");
    let names = fs::read_dir(folder).unwrap();
    let mut found: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .collect();
    found.sort();
    // The first page stands above the folder, so that the book's links hold at its entrance too.
    let chapters = CHAPTERS.iter().skip(1);
    let known: Vec<_> = chapters.map(|(name, _)| *name).collect();
    assert_eq!(known, found);
}

/// The chapters that have commands of this kind.
fn chapters_with(needs: Needs) -> Vec<&'static str> {
    let has = |text| {
        let blocks = blocks(text).unwrap();
        blocks.iter().any(|block| block.needs == needs)
    };
    let chapters = CHAPTERS.iter().filter(|(_, text)| has(text));
    chapters.map(|(name, _)| *name).collect()
}

#[test]
fn every_command_belongs_to_a_test() {
    let tests = read("tests/book.rs");
    for chapter in chapters_with(Needs::Linux) {
        let test = format!(": \"{chapter}\",\n");
        assert!(
            tests.contains(&test),
            "{chapter} has no test in tests/book.rs"
        );
    }
}

#[test]
fn commands_without_kvm_print_what_the_book_shows() {
    let chapters = chapters_with(Needs::Nothing);
    assert!(!chapters.is_empty());
    let all = chapters.into_iter();
    let wrong: Vec<_> = all
        .flat_map(|chapter| differences(chapter, Needs::Nothing))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn chapters_begin_with_their_question_and_end_with_some() {
    for (name, text) in CHAPTERS {
        let mut lines = text.lines().filter(|line| !line.is_empty());
        assert!(lines.next().unwrap().starts_with("# "), "{name}: title");
        let question: Vec<_> = lines.take_while(|line| line.starts_with("> ")).collect();
        assert!(
            question.concat().contains('?'),
            "{name}: no question after the title"
        );
        let (_, end) = text.rsplit_once("\n## ").unwrap();
        assert!(end.starts_with("Questions\n"), "{name}: ends with {end}");
        let asked = end.matches('?').count();
        assert!((1..=6).contains(&asked), "{name}: {asked} questions");
        let leads = end.contains("`src/") || end.contains("`tests/");
        assert!(leads, "{name}: questions that lead nowhere");
    }
}

/// Columns that a phone of 390 pixels shows, by the letters of docs/book.css.
const DRAWING_COLUMNS: usize = 54;

#[test]
fn drawings_fit_a_phone() {
    for (name, text) in CHAPTERS {
        let drawings = text.split("\n```text\n").skip(1);
        let lines = drawings.flat_map(|rest| rest.split("\n```").next().unwrap().lines());
        for line in lines {
            let columns = line.chars().count();
            assert!(
                columns <= DRAWING_COLUMNS,
                "{name}: {columns} columns: {line}"
            );
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_matches(expected: &str, printed: &str, numbers: bool, wanted: bool) {
    let found = matches(&lines(expected), &lines(printed), numbers);
    assert_eq!(found, wanted, "{expected:?} and {printed:?}");
}

#[test]
fn only_what_is_masked_may_differ() {
    assert_matches("up 2 s", "up 2  s ", false, true);
    assert_matches("up 2 s", "up 3 s", false, false);
    assert_matches("up 2 s", "up 3.1 s", true, true);
    assert_matches("at 0x7f00", "at 0xfee0", true, true);
    assert_matches("at 0x7f00", "at zero", true, false);
    assert_matches("a\n...\nd", "a\nb\nc\nd", false, true);
    assert_matches("a\n...\nd", "a\nd", false, true);
    assert_matches("a\n...\nd", "a\nb", false, false);
    assert_matches("Linux … x86_64", "Linux box x86_64", false, true);
    assert_matches("Linux … x86_64", "Linux box i686", false, false);
    assert_matches("a", "a\nb", false, false);
    assert_matches("", "a", false, false);
}

#[test]
fn blocks_are_found_with_what_they_need() {
    let text = "x\n```console linux numbers\n$ a \\\n> b\none\n$ c\n```\n```text\nd\n```\n";
    let found = blocks(text).unwrap();
    assert_eq!(found.len(), 1);
    let block = &found[0];
    assert_eq!(
        (block.line, block.needs, block.numbers),
        (2, Needs::Linux, true)
    );
    assert_eq!(block.steps[0].command, "a \\\nb");
    assert_eq!(block.steps[0].expected, ["one"]);
    assert_eq!(block.steps[1].command, "c");
}

#[test]
fn commands_that_would_not_be_run_are_refused() {
    assert!(blocks("```text\n$ a\n```\n").is_err());
    assert!(blocks("```console linus\n$ a\n```\n").is_err());
    assert!(blocks("```console\nout\n```\n").is_err());
}
