//! `cottage lab`: every lab and every variant does what its page shows, and mistakes are told.
//!
//! `cottage lab check N` compares what lab N and its variants print with the blocks on the lab's page,
//! so one test a lab holds code, page and KVM together.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use cottage::lab::list::LABS;
use support::program::{Finished, cottage};

/// What `lab check` returns where KVM cannot run the lab.
const NOT_HERE: i32 = 2;

fn lab(words: &[&str]) -> Finished {
    let words: Vec<_> = ["lab"].iter().chain(words).copied().collect();
    cottage(&words)
}

/// The lab and all its variants are as the page has them.
fn is_as_its_page_says(name: &str) {
    let checked = LABS.iter().find(|lab| lab.name == name).unwrap();
    let here = match checked.linux {
        true => support::linux_kvm(),
        false => support::kvm(),
    };
    if here.is_some() {
        let finished = lab(&["check", name]).expect_code(0);
        let ok = finished
            .text()
            .lines()
            .filter(|line| line.starts_with("ok "))
            .count();
        assert_eq!(ok, 1 + checked.variants.len(), "{}", finished.text());
    } else if support::backend().is_ok() {
        // A KVM that cannot: recorded as skipped above, but it must be said in words.
        let told = lab(&["check", name]).expect_code(NOT_HERE);
        told.expect_stderr("This lab cannot run here: it boots a stock Linux kernel");
    }
}

macro_rules! labs {
    ($($test:ident $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                is_as_its_page_says($name);
            }
        )*

        /// The labs that have a test, in order.
        const TESTED: &[&str] = &[$($name),*];
    };
}

labs! {
    lab_01_is_as_its_page_says "kvm",
    lab_02_is_as_its_page_says "memory",
    lab_03_is_as_its_page_says "registers",
    lab_04_is_as_its_page_says "real-mode",
    lab_05_is_as_its_page_says "ports",
    lab_06_is_as_its_page_says "mmio",
    lab_07_is_as_its_page_says "protected-mode",
    lab_08_is_as_its_page_says "long-mode",
    lab_09_is_as_its_page_says "page-fault",
    lab_10_is_as_its_page_says "cpuid",
    lab_11_is_as_its_page_says "interrupts",
    lab_12_is_as_its_page_says "timer",
    lab_13_is_as_its_page_says "serial",
    lab_14_is_as_its_page_says "serial-input",
    lab_15_is_as_its_page_says "two-vcpus",
    lab_16_is_as_its_page_says "linux",
    lab_17_is_as_its_page_says "initramfs",
    lab_18_is_as_its_page_says "virtio",
    lab_19_is_as_its_page_says "dirty-pages",
    lab_20_is_as_its_page_says "measure",
}

#[test]
fn every_lab_has_a_test() {
    assert!(LABS.iter().map(|lab| lab.name).eq(TESTED.iter().copied()));
}

#[test]
fn run_tells_what_check_compares() {
    let Some(_) = support::kvm() else { return };
    let told = lab(&["run", "5", "--break", "apic"]).expect_code(0).text();
    assert!(told.starts_with("lab 5: port output"), "{told}");
    assert!(told.contains("\n  halted: has executed hlt"), "{told}");
    assert!(told.contains("\nhow to recognise it: "), "{told}");
}

#[test]
fn code_of_the_user_runs_in_place_of_the_guest() {
    let Some(_) = support::kvm() else { return };
    let code = "ba f8 03 b0 48 ee b0 69 ee f4";
    let told = lab(&["run", "5", "--code", code]).expect_code(0).text();
    assert!(told.contains("your code, at 0x1000:"), "{told}");
    assert!(
        told.contains("b0 48                       mov al, 0x48\n"),
        "{told}"
    );
    assert!(told.ends_with("the guest has printed \"Hi\"\n"), "{told}");
}

#[test]
fn code_that_loops_is_ended_by_a_signal() {
    let Some(_) = support::kvm() else { return };
    let told = lab(&["run", "5", "--code", "eb fe"]).expect_code(111);
    told.expect_stderr("The guest left KVM_RUN by KVM_EXIT_INTR");
}

#[test]
fn wrong_code_is_refused_with_what_is_right() {
    let told = lab(&["run", "5", "--code", "hlt"]).expect_code(110);
    told.expect_stderr(
        "--code \"hlt\" is not machine code: pairs of hexadecimal digits are, at most 4096",
    );
    let told = lab(&["run", "kvm", "--code", "f4"]).expect_code(110);
    told.expect_stderr("lab 1 does not take --code");
}

#[test]
fn reader_who_goes_away_does_not_disturb_a_lab() {
    let Some(_) = support::kvm() else { return };
    let mut command = std::process::Command::new("sh");
    let program = support::program::program();
    command.args(["-c", r#"("$0" lab run 5; echo "status $?" >&2) | true"#]);
    command.arg(program);
    support::program::finish(command, b"").expect_stderr("status 0");
}

#[test]
fn list_names_every_lab_and_every_variant() {
    let text = lab(&["list"]).expect_code(0).text();
    for lab in &LABS {
        assert!(text.contains(lab.title), "{text}");
        for variant in lab.variants {
            assert!(
                text.contains(&format!("--break {} ", variant.name)),
                "{text}"
            );
        }
    }
}

#[test]
fn page_is_shown_without_its_answers_unless_asked() {
    let page = lab(&["show", "5"]).expect_code(0).text();
    assert!(
        page.contains("## Questions") && !page.contains("## Answers"),
        "{page}"
    );
    let page = lab(&["show", "ports", "--answers"]).expect_code(0).text();
    assert!(page.contains("## Answers"), "{page}");
}

#[test]
fn answer_is_judged_and_a_wrong_one_not_given_away() {
    let right = lab(&["check", "4", "--answer", "4097"])
        .expect_code(0)
        .text();
    assert!(right.starts_with("ok: hlt is one byte"), "{right}");
    let wrong = lab(&["check", "4", "--answer", "0x1000"])
        .expect_code(1)
        .text();
    assert!(
        wrong.contains("lab show 4 --answers") && !wrong.contains("0x1001"),
        "{wrong}"
    );
}

#[test]
fn unknown_lab_is_refused_with_what_there_is() {
    for word in ["0", "21", "nothing"] {
        let told = lab(&["run", word]).expect_code(110);
        told.expect_stderr("they have numbers from 1 to 20, and names; `cottage lab list`");
    }
}

#[test]
fn unknown_variant_is_refused_with_those_there_are() {
    let told = lab(&["run", "8", "--break", "no-such"]).expect_code(110);
    told.expect_stderr("lab 8 has no variant --break \"no-such\": it has no-l, no-pae");
}
