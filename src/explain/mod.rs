//! Chapter 15: `cottage explain`, what a kernel file is and how it would be booted, without booting it.
//!
//! ```text
//!  kernel file ─▶ file, multiboot, protocols      what it is, which ways lead into it
//!      │
//!      ▼ loading::fill_seen, as for `run`
//!  guest memory ─▶ guest ─▶ initramfs, info, map, tables, paging, processor
//! ```
//!
//! It is honest because it repeats nothing: memory is filled by the code that boots ([`crate::loading`]),
//! and then read back, beginning with the processor's entry state, as the kernel would. No KVM is needed.
//! A kernel that does not load is told of as far as it goes, and then refused in the words of `run`.
//!
//! What it does not do: open devices. They are counted, for tables and command line.
//! Read next: [`page`].

pub mod page;
pub mod fields;
pub mod setup_header;
pub mod bzimage;
pub mod elf;
pub mod multiboot;
pub mod file;
pub mod protocols;
pub mod initramfs;
pub mod guest;
pub mod info;
pub mod map;
pub mod tables;
pub mod paging;
pub mod processor;

use std::io::{self, Write};

use crate::boot::Blob;
use crate::bundle::{self, Bundle};
use crate::cli::explain::{ExplainArgs, ExplainFormat, Topic};
use crate::config::{self, Source, VmConfig};
use crate::console::words::say;
use crate::loading::{self, Filled, Kernel, fill_seen};
use crate::memory::{self, GuestMemory};
use crate::outcome::{USER_ERROR, VMM_FAILURE, with_causes};
use crate::timeline::Timeline;
use file::Offers;
use guest::{Guest, Kind};
use page::{Page, Section};

/// Why an explanation is not complete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag of the machine.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The kernel's file cannot be opened, or it does not load.
    #[error(transparent)]
    Loading(#[from] loading::Error),
    /// The program file carries no kernel, or a damaged one.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// Guest memory could not be had.
    #[error(transparent)]
    Memory(#[from] memory::guest::Error),
    /// stdout takes nothing.
    #[error("Cannot write the explanation to stdout")]
    Write(#[source] io::Error),
}

impl Error {
    /// The exit status this error ends the process with, as of `run`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Loading(_) | Self::Bundle(_) => USER_ERROR,
            Self::Memory(_) | Self::Write(_) => VMM_FAILURE,
        }
    }
}

/// Explains, and returns the exit status.
pub fn main(args: &ExplainArgs) -> u8 {
    explain_and_print(args).unwrap_or_else(|error| {
        say(&with_causes(&error));
        error.exit_code()
    })
}

fn explain_and_print(args: &ExplainArgs) -> Result<u8, Error> {
    let mut machine = args.machine.clone();
    machine.kernel = args.file.clone().or(machine.kernel);
    let config = VmConfig::from_args(machine)?;
    let kernel = open(&config)?;
    let (page, refusal) = explain(kernel, &config, &args.only);
    let text = match args.format {
        ExplainFormat::Text => page.to_string(),
        ExplainFormat::Json => {
            let text = serde_json::to_string_pretty(&page);
            text.map_err(|error| Error::Write(error.into()))? + "\n"
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough, such as head(1), is no fault.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        done => done.map_err(Error::Write)?,
    }
    refusal.map_or(Ok(0), Err)
}

/// The kernel that `run` would take.
fn open(config: &VmConfig) -> Result<Blob, Error> {
    Ok(match &config.kernel {
        Source::File(path) => Blob::open(path).map_err(loading::Error::KernelFile)?,
        Source::BuiltIn => Bundle::open()?.kernel(config.virtio_devices() > 0)?,
    })
}

/// Explains `kernel` in the machine of `config`: the topics of `only`, or all; and says what `run` would
/// refuse.
pub fn explain(kernel: Blob, config: &VmConfig, only: &[Topic]) -> (Page, Option<Error>) {
    let wanted = |topic: &Topic| only.is_empty() || only.contains(topic);
    let mut page = Page {
        kernel: kernel.name().to_owned(),
        sections: Vec::new(),
        refused: None,
    };
    let mut section = Section::new(Topic::File, "The file");
    let offers = file::explain(&kernel, kernel.name(), &mut section);
    page.sections.push(section);
    let topics: Vec<_> = Topic::ALL.into_iter().filter(wanted).collect();
    let refusal = if topics.iter().any(|topic| topic.needs_a_guest()) {
        beyond_the_file(kernel, (config, offers), &topics, &mut page).err()
    } else {
        None
    };
    page.sections.retain(|section| wanted(&section.topic));
    page.refused = refusal.as_ref().map(|error| with_causes(error));
    (page, refusal)
}

/// Fills a guest and tells what is in it.
fn beyond_the_file(
    kernel: Blob,
    (config, mut offers): (&VmConfig, Offers),
    topics: &[Topic],
    page: &mut Page,
) -> Result<(), Error> {
    let memory = GuestMemory::new(config.memory)?;
    let mut inside = Section::new(Topic::Inside, "What is packed in it");
    let filled = fill(kernel, config, &memory, &mut |unpacked| {
        let words = if inside.parts.is_empty() {
            "It"
        } else {
            "In that"
        };
        let found = file::explain(unpacked, words, &mut inside);
        offers.elf = found.elf.or(offers.elf);
        offers.bzimage = offers.bzimage.take().or(found.bzimage);
        offers.multiboot = offers.multiboot.take().or(found.multiboot);
    });
    if !inside.parts.is_empty() {
        page.sections.push(inside);
    }
    let taken = filled.as_ref().ok();
    let taken = taken.map(|(filled, _)| (filled.protocol, filled.entry.regs().rip));
    let mut ways = Section::new(Topic::Protocols, "The ways into it");
    protocols::explain(&offers, taken, &mut ways);
    page.sections.push(ways);
    let (filled, kind) = filled?;
    let guest = Guest::new(&memory, (&filled, kind), config);
    for topic in topics {
        page.sections.extend(of_guest(*topic, &guest));
    }
    Ok(())
}

/// Fills `memory`; says also what the kernel is.
fn fill(
    kernel: Blob,
    config: &VmConfig,
    memory: &GuestMemory,
    seen: &mut dyn FnMut(&Blob),
) -> Result<(Filled, Kind), loading::Error> {
    let kernel = match &config.kernel {
        // Not opened twice: it may be a pipe.
        Source::File(_) => Kernel::of(kernel, config)?,
        Source::BuiltIn => Kernel::look(config)?,
    };
    let kind = Kind {
        linux: kernel.is_linux(),
        chip: kernel.irqchip(config),
    };
    let filled = fill_seen(memory, config, kernel, (&Timeline::new(), seen))?;
    Ok((filled, kind))
}

/// What `topic` tells of a guest that is filled; nothing, if it is none of a guest's.
fn of_guest(topic: Topic, guest: &Guest<'_>) -> Option<Section> {
    let title = match topic {
        Topic::File | Topic::Inside | Topic::Protocols => return None,
        Topic::Initramfs => "The initramfs",
        Topic::Memory => "Guest memory, as the kernel finds it",
        Topic::Cmdline => "The command line",
        Topic::Info => "What the kernel is told",
        Topic::Tables => "Tables that describe the machine",
        Topic::Paging => "Page tables",
        Topic::Gdt => "Segment descriptors: the GDT",
        Topic::Registers => "The processor at the first instruction",
    };
    let mut section = Section::new(topic, title);
    match topic {
        Topic::File | Topic::Inside | Topic::Protocols => return None,
        Topic::Initramfs => initramfs::explain(guest, &mut section),
        Topic::Memory => map::explain(guest, &mut section),
        Topic::Cmdline => cmdline(guest, &mut section),
        Topic::Info => info::explain(guest, &mut section),
        Topic::Tables => tables::explain(guest, &mut section),
        Topic::Paging => paging::explain(guest, &mut section),
        Topic::Gdt => processor::gdt(guest, &mut section),
        Topic::Registers => processor::registers(guest, &mut section),
    }
    Some(section)
}

/// The command line, cottage's words and the user's.
fn cmdline(guest: &Guest<'_>, section: &mut Section) {
    let text = guest.cmdline();
    if text.is_empty() {
        section.say(
            "It is empty: a kernel that is no Linux gets the words of --cmdline or --append only.",
        );
        return;
    }
    section.say(format!(
        "{} bytes, as they lie in guest memory:",
        text.len()
    ));
    section.parts.push(page::Part::Verbatim(vec![text]));
}
