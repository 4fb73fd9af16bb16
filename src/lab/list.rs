//! All labs, in the order of the course.
//!
//! Read next: [`super::page`].

use std::fmt::Write;

use super::page::Answer;
use super::rig::Guest;
use super::tale::{Stop, Tale};

/// One lab.
#[derive(Debug)]
pub struct Lab {
    /// A word for the command line.
    pub name: &'static str,
    /// What it is about.
    pub title: &'static str,
    /// docs/labs/NN-name.md.
    pub page: &'static str,
    /// Whether it boots Linux, which not every KVM can.
    pub linux: bool,
    /// The code that its guests run.
    pub guests: &'static [Guest],
    /// What can be left out of it or made wrong in it.
    pub variants: &'static [Variant],
    /// The answer to the page's first question.
    pub answer: Answer,
    /// Runs it.
    pub run: fn(&mut Tale) -> Result<(), Stop>,
}

/// A lab with a mistake in it.
#[derive(Debug)]
pub struct Variant {
    /// What follows --break.
    pub name: &'static str,
    /// The mistake.
    pub what: &'static str,
    /// How it shows, and what it is mistaken for.
    pub recognise: &'static str,
}

/// The course.
pub static LABS: [Lab; 20] = [
    super::lab01_kvm::LAB,
    super::lab02_memory::LAB,
    super::lab03_registers::LAB,
    super::lab04_real_mode::LAB,
    super::lab05_ports::LAB,
    super::lab06_mmio::LAB,
    super::lab07_protected_mode::LAB,
    super::lab08_long_mode::LAB,
    super::lab09_page_fault::LAB,
    super::lab10_cpuid::LAB,
    super::lab11_interrupts::LAB,
    super::lab12_timer::LAB,
    super::lab13_serial::LAB,
    super::lab14_serial_input::LAB,
    super::lab15_two_vcpus::LAB,
    super::lab16_linux::LAB,
    super::lab17_initramfs::LAB,
    super::lab18_virtio::LAB,
    super::lab19_dirty_pages::LAB,
    super::lab20_measure::LAB,
];

impl Lab {
    /// The variant called `name`.
    pub fn variant(&self, name: &str) -> Option<&Variant> {
        self.variants.iter().find(|variant| variant.name == name)
    }
}

/// The lab with this number or name, and its number.
pub fn find(word: &str) -> Option<(usize, &'static Lab)> {
    let numbered = || (1..).zip(&LABS);
    let number = word.parse::<usize>().ok();
    numbered().find(|(n, lab)| Some(*n) == number || lab.name == word)
}

/// What `cottage lab list` prints.
pub fn table() -> String {
    let mut text = String::new();
    for (number, lab) in (1..).zip(&LABS) {
        let linux = if lab.linux { " (boots Linux)" } else { "" };
        // Cannot fail: a String takes all.
        let _infallible = writeln!(text, "{number:>2}  {:<15} {}{linux}", lab.name, lab.title);
        for variant in lab.variants {
            let name = format!("--break {}", variant.name);
            let _infallible = writeln!(text, "      {name:<30} {}", variant.what);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{command, page};
    use super::*;
    use crate::watch::code::disassemble;

    #[test]
    fn bytes_of_guests_are_the_instructions_beside_them() {
        for (number, lab) in (1..).zip(&LABS) {
            for guest in lab.guests {
                let listed: Vec<_> = guest.lines().map(|(line, _)| line).collect();
                let found = disassemble(&guest.bytes(), guest.at, guest.width);
                assert_eq!(listed, found, "lab {number}, guest at {:#x}", guest.at);
            }
        }
    }

    #[test]
    fn labs_are_found_by_number_and_by_name() {
        assert_eq!(find("4").map(|(number, _)| number), Some(4));
        assert_eq!(find(LABS[3].name).map(|(number, _)| number), Some(4));
        assert!(find("0").is_none() && find("21").is_none() && find("").is_none());
    }

    #[test]
    fn names_are_unique_and_fit_the_table() {
        for (number, lab) in (1..).zip(&LABS) {
            assert_eq!(find(lab.name).unwrap().0, number);
            assert!(lab.name.len() <= 15);
        }
    }

    #[test]
    fn pages_show_the_output_of_every_lab_and_variant_and_of_nothing_else() {
        for (number, lab) in (1..).zip(&LABS) {
            let all = [None].into_iter().chain(lab.variants.iter().map(Some));
            let wanted: Vec<_> = all.map(|variant| command(number, variant)).collect();
            for command in &wanted {
                assert!(
                    !page::outputs(lab.page, command).is_empty(),
                    "the page lacks a block: $ {command}"
                );
            }
            for shown in page::commands(lab.page) {
                assert!(
                    wanted.iter().any(|w| w == shown),
                    "{shown} is none of lab {number}"
                );
            }
        }
    }

    #[test]
    fn pages_have_all_parts_and_name_their_code() {
        for (number, lab) in (1..).zip(&LABS) {
            let mut rest = lab.page;
            assert!(
                rest.starts_with(&format!("# Lab {number}: ")),
                "lab {number}"
            );
            for part in [
                "\n**Goal.** ",
                "\n## The calls\n",
                "\n## What to expect\n",
                "\n## Leave one line out\n",
                "\n## Questions\n\n1. ",
                "\n## Answers\n\n1. ",
                "\n## The code\n",
                "\n## For real\n",
            ] {
                rest = rest
                    .split_once(part)
                    .unwrap_or_else(|| panic!("lab {number}: no {part:?}"))
                    .1;
            }
            let code = format!("`src/lab/lab{number:02}_");
            assert!(lab.page.contains(&code), "lab {number} names no {code}");
        }
    }

    #[test]
    fn index_of_pages_has_every_lab() {
        let index = include_str!("../../docs/labs/README.md");
        for (number, lab) in (1..).zip(&LABS) {
            let row = index
                .lines()
                .find(|l| l.starts_with(&format!("| {number} | [")));
            let row = row.unwrap_or_else(|| panic!("no row for lab {number}"));
            for variant in lab.variants {
                assert!(row.contains(&format!("`{}`", variant.name)), "{row}");
            }
        }
    }
}
