//! The ways into a kernel side by side: which it offers, and which cottage takes.
//!
//! A Linux file can have four doors: 16-bit code that asks a BIOS, 32-bit and 64-bit code behind it, and
//! PVH; EFI's are others still. They lead to the same kernel.
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12; `[pvh]` Xen `docs/misc/pvh.pandoc`;
//! `[multiboot]` Multiboot Specification 0.6.96.
//! Read next: [`super::initramfs`].

use super::bzimage;
use super::file::Offers;
use super::page::Section;
use crate::boot::Protocol;

const COLUMNS: &[&str] = &["entry", "mode", "reads", "cottage", "this kernel"];
/// `[boot]` xloadflags: XLF_KERNEL_64.
const KERNEL_64: u64 = 1 << 0;

/// One way in.
struct Door {
    name: &'static str,
    mode: &'static str,
    reads: &'static str,
    /// When cottage takes it.
    cottage: &'static str,
    offered: String,
    protocol: Option<Protocol>,
}

/// Tells of all ways into a kernel that offers this; `taken` is the one that loading chose.
pub fn explain(offers: &Offers, taken: Option<(Protocol, u64)>, section: &mut Section) {
    let rows = doors(offers).into_iter().map(|door| {
        let takes = taken.filter(|(protocol, _)| Some(*protocol) == door.protocol);
        let (cottage, offered) = match takes {
            Some((_, at)) => ("TAKES IT", format!("{}; entered at {at:#x}", door.offered)),
            None => (door.cottage, door.offered),
        };
        let cells = [door.name, door.mode, door.reads, cottage].map(str::to_owned);
        cells.into_iter().chain([offered]).collect()
    });
    section.table(COLUMNS, rows.collect());
    section.say(match taken {
        Some((Protocol::Linux64, _)) => {
            "Why the 64-bit entry: it is the shortest way. Code behind the others would ask a BIOS or \
             firmware, which are not there, for what cottage writes into the zero page itself, or build \
             the page tables that cottage has built already."
        }
        Some((Protocol::Linux32, _)) => {
            "Why the 32-bit entry: the file has a setup header and nothing packed in it, and no 64-bit \
             entry. So it is no Linux, and has no other way in."
        }
        Some((Protocol::Pvh, _)) => {
            "Why PVH: it was asked for, or the kernel has that note and a multiboot header and so is \
             no Linux. The processor starts in 32-bit mode and the kernel builds its own page tables."
        }
        Some((Protocol::Multiboot, _)) => {
            "Why multiboot: it was asked for, or the kernel has that header and no PVH note. Linux has \
             none."
        }
        None => "Which one cottage would take cannot be told: the kernel does not load, see the end.",
    });
}

fn doors(offers: &Offers) -> Vec<Door> {
    let header = offers.bzimage.as_ref();
    let elf = offers.elf;
    let yes_at = |at: u64, what: &str| format!("yes, at {at:#x} ({what})");
    let none = |what: &str| format!("no: {what}");
    let in_file = |offer: Option<String>| offer.unwrap_or_else(|| none("it has no setup header"));
    let pvh = match elf {
        Some(elf) => match elf.pvh {
            Some(at) => yes_at(at, "note PHYS32_ENTRY"),
            None => none("no such note (built without CONFIG_PVH?)"),
        },
        None => none("that stands in an ELF note"),
    };
    let multiboot = match &offers.multiboot {
        Some(Ok(())) => "yes: it has the header".to_owned(),
        Some(Err(why)) => none(why),
        None => none("no such header"),
    };
    vec![
        Door {
            name: "16-bit (BIOS)",
            mode: "real",
            reads: "a BIOS",
            offered: in_file(header.map(|_| "yes, at file offset 0x200 (jump)".into())),
            cottage: "never",
            protocol: None,
        },
        Door {
            name: "32-bit (Linux)",
            mode: "protected",
            reads: "zero page",
            offered: in_file(header.map(|_| "yes, at the first byte where it is loaded".into())),
            cottage: "if nothing else",
            protocol: Some(Protocol::Linux32),
        },
        Door {
            name: "64-bit (Linux)",
            mode: "long",
            reads: "zero page",
            offered: offered_64(header, elf.and_then(|elf| elf.entry.filter(|_| elf.wide))),
            cottage: "by default",
            protocol: Some(Protocol::Linux64),
        },
        Door {
            name: "PVH",
            mode: "protected",
            reads: "start info",
            offered: pvh,
            cottage: "--protocol pvh",
            protocol: Some(Protocol::Pvh),
        },
        Door {
            name: "EFI stub",
            mode: "firmware's",
            reads: "EFI tables",
            offered: match header {
                Some(header) if header.efi => "yes: the file is a PE program too (MZ)".into(),
                _ => none("it does not begin with MZ"),
            },
            cottage: "never",
            protocol: None,
        },
        Door {
            name: "multiboot",
            mode: "protected",
            reads: "its info",
            offered: multiboot,
            cottage: "if no Linux",
            protocol: Some(Protocol::Multiboot),
        },
    ]
}

/// The 64-bit entry, of the unpacker and of what is packed.
fn offered_64(header: Option<&bzimage::Facts>, elf: Option<u64>) -> String {
    let packed = match header {
        Some(header) if header.xloadflags & KERNEL_64 != 0 => {
            Some("0x200 bytes into the unpacker".to_owned())
        }
        _ => None,
    };
    let unpacked = elf.map(|at| format!("{at:#x} (e_entry, unpacked)"));
    let places: Vec<_> = packed.into_iter().chain(unpacked).collect();
    match (places.is_empty(), header) {
        (false, _) => format!("yes, at {}", places.join(" and at ")),
        (true, Some(_)) => "no: xloadflags lacks XLF_KERNEL_64".into(),
        (true, None) => "no: it is no 64-bit ELF kernel that loads".into(),
    }
}
