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
        None => "Which one cottage would take is not known: loading ends before that, and why is said at the end.",
    });
}

fn doors(offers: &Offers) -> Vec<Door> {
    let header = offers.bzimage.as_ref();
    let of_header = |words: &str| match header {
        Some(_) => format!("yes, {words}"),
        None => "no: it has no setup header".into(),
    };
    let elf = offers.elf.filter(|elf| elf.wide).and_then(|elf| elf.entry);
    let door = |(name, mode, reads), (cottage, protocol), offered| Door {
        name,
        mode,
        reads,
        cottage,
        offered,
        protocol,
    };
    vec![
        door(
            ("16-bit (BIOS)", "real", "a BIOS"),
            ("never", None),
            of_header("at file offset 0x200 (jump)"),
        ),
        door(
            ("32-bit (Linux)", "protected", "zero page"),
            ("if nothing else", Some(Protocol::Linux32)),
            of_header("at the first byte where it is loaded"),
        ),
        door(
            ("64-bit (Linux)", "long", "zero page"),
            ("by default", Some(Protocol::Linux64)),
            offered_64(header, elf),
        ),
        door(
            ("PVH", "protected", "start info"),
            ("--protocol pvh", Some(Protocol::Pvh)),
            offered_pvh(offers),
        ),
        door(
            ("EFI stub", "firmware's", "EFI tables"),
            ("never", None),
            match header {
                Some(header) if header.efi => "yes: the file is a PE program too (MZ)".into(),
                _ => "no: it does not begin with MZ".into(),
            },
        ),
        door(
            ("multiboot", "protected", "its info"),
            ("if no Linux", Some(Protocol::Multiboot)),
            match &offers.multiboot {
                Some(Ok(())) => "yes: it has the header".into(),
                Some(Err(why)) => format!("no: {why}"),
                None => "no: no such header".into(),
            },
        ),
    ]
}

fn offered_pvh(offers: &Offers) -> String {
    match offers.elf.map(|elf| elf.pvh) {
        Some(Some(at)) => format!("yes, at {at:#x} (note PHYS32_ENTRY)"),
        Some(None) => "no: no such note (built without CONFIG_PVH?)".into(),
        None => "no: that stands in an ELF note".into(),
    }
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
