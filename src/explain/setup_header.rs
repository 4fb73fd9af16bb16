//! The setup header, field by field: the same bytes in a bzImage and in the zero page.
//!
//! Linux's boot protocol began as a boot sector, so the header starts at the odd offset 0x1f1, behind
//! what once was code. Each protocol version added fields at its end. The loader reads most of them from
//! the file, copies the whole header into the zero page, and fills in its own part there.
//!
//! Sources: `[boot]` Linux `Documentation/arch/x86/boot.rst`, v6.12, "The Real-Mode Kernel Header".
//! Read next: [`super::bzimage`].

use super::fields::{Field, size};

/// A field and the protocol version that brought it, 0 for those that were always there.
pub const FIELDS: &[(u16, Field)] = &[
    (0, Field::of(0x1f1, 1, "setup_sects", setup_sects)),
    (
        0,
        Field::new(
            0x1f2,
            2,
            "root_flags",
            "1: mount the root read only; words ro and rw replace it",
        ),
    ),
    (0x204, Field::of(0x1f4, 4, "syssize", syssize)),
    (
        0,
        Field::new(0x1f8, 2, "ram_size", "not used since Linux 1"),
    ),
    (0, Field::of(0x1fa, 2, "vid_mode", vid_mode)),
    (
        0,
        Field::new(
            0x1fc,
            2,
            "root_dev",
            "device number of a default root; the word root= replaces it",
        ),
    ),
    (
        0,
        Field::new(
            0x1fe,
            2,
            "boot_flag",
            "0xaa55, as at the end of every boot sector",
        ),
    ),
    (0x200, Field::of(0x200, 2, "jump", jump)),
    (
        0x200,
        Field::new(0x202, 4, "header", "\"HdrS\": a setup header is here"),
    ),
    (0x200, Field::of(0x206, 2, "version", version)),
    (
        0x200,
        Field::new(
            0x208,
            4,
            "realmode_swtch",
            "a hook that old loaders could set; we never run 16-bit code",
        ),
    ),
    (
        0x200,
        Field::new(0x20c, 2, "start_sys_seg", "obsolete: a segment below 1 MiB"),
    ),
    (0x200, Field::of(0x20e, 2, "kernel_version", kernel_version)),
    (0x200, Field::of(0x210, 1, "type_of_loader", loader)),
    (0x200, Field::bits(0x211, 1, "loadflags", LOADFLAGS)),
    (
        0x200,
        Field::new(
            0x212,
            2,
            "setup_move_size",
            "for 16-bit setup code of protocol 2.00 and 2.01",
        ),
    ),
    (
        0x200,
        Field::new(
            0x214,
            4,
            "code32_start",
            "where 16-bit setup code jumps to: the 32-bit entry",
        ),
    ),
    (
        0x200,
        Field::new(
            0x218,
            4,
            "ramdisk_image",
            "the loader's: low half of the initramfs's address",
        ),
    ),
    (
        0x200,
        Field::new(
            0x21c,
            4,
            "ramdisk_size",
            "the loader's: low half of the initramfs's length",
        ),
    ),
    (
        0x200,
        Field::new(0x220, 4, "bootsect_kludge", "the kernel's own"),
    ),
    (
        0x201,
        Field::new(
            0x224,
            2,
            "heap_end_ptr",
            "the loader's: the end of the 16-bit code's heap",
        ),
    ),
    (
        0x202,
        Field::new(0x226, 1, "ext_loader_ver", "more of the loader's version"),
    ),
    (
        0x202,
        Field::new(0x227, 1, "ext_loader_type", "more of the loader's number"),
    ),
    (
        0x202,
        Field::new(
            0x228,
            4,
            "cmd_line_ptr",
            "the loader's: low half of the command line's address",
        ),
    ),
    (0x203, Field::of(0x22c, 4, "initrd_addr_max", initrd_max)),
    (0x205, Field::of(0x230, 4, "kernel_alignment", alignment)),
    (
        0x205,
        Field::of(0x234, 1, "relocatable_kernel", relocatable),
    ),
    (0x20a, Field::of(0x235, 1, "min_alignment", min_alignment)),
    (0x20c, Field::bits(0x236, 2, "xloadflags", XLOADFLAGS)),
    (
        0x206,
        Field::new(
            0x238,
            4,
            "cmdline_size",
            "the longest command line, without its NUL",
        ),
    ),
    (0x207, Field::of(0x23c, 4, "hardware_subarch", subarch)),
    (
        0x207,
        Field::new(0x240, 8, "hardware_subarch_data", "more for that kind"),
    ),
    (
        0x208,
        Field::new(
            0x248,
            4,
            "payload_offset",
            "where the packed kernel begins, from the protected-mode part on",
        ),
    ),
    (0x208, Field::of(0x24c, 4, "payload_length", payload)),
    (
        0x209,
        Field::new(
            0x250,
            8,
            "setup_data",
            "the loader's: a list of further data; none",
        ),
    ),
    (0x20a, Field::of(0x258, 8, "pref_address", preferred)),
    (0x20a, Field::of(0x260, 4, "init_size", init_size)),
    (
        0x20b,
        Field::new(
            0x264,
            4,
            "handover_offset",
            "an EFI entry point for loaders, which cottage has no use for",
        ),
    ),
    (
        0x20f,
        Field::new(
            0x268,
            4,
            "kernel_info_offset",
            "where more of the kernel's own facts are",
        ),
    ),
];

/// `[boot]` loadflags.
const LOADFLAGS: &[(u64, &str)] = &[
    (1 << 0, "LOADED_HIGH: the kernel goes to 1 MiB or above"),
    (1 << 1, "KASLR_FLAG: the unpacker moved the kernel"),
    (1 << 5, "QUIET_FLAG: no early messages"),
    (1 << 6, "KEEP_SEGMENTS: segment registers stay (obsolete)"),
    (1 << 7, "CAN_USE_HEAP: heap_end_ptr is valid"),
];

/// `[boot]` xloadflags.
const XLOADFLAGS: &[(u64, &str)] = &[
    (
        1 << 0,
        "XLF_KERNEL_64: has the 64-bit entry, 0x200 bytes in",
    ),
    (
        1 << 1,
        "XLF_CAN_BE_LOADED_ABOVE_4G: so may all that belongs to it",
    ),
    (1 << 2, "XLF_EFI_HANDOVER_32: 32-bit EFI entry"),
    (1 << 3, "XLF_EFI_HANDOVER_64: 64-bit EFI entry"),
    (1 << 4, "XLF_EFI_KEXEC: kexec with EFI's runtime"),
    (1 << 5, "XLF_5LEVEL: knows 5-level page tables"),
    (1 << 6, "XLF_5LEVEL_ENABLED: and uses them"),
    (1 << 7, "XLF_MEM_ENCRYPTION: knows encrypted memory"),
];

fn setup_sects(value: u64) -> String {
    // [boot]: 0 means 4.
    let sectors = if value == 0 { 4 } else { value };
    format!("{sectors} sectors of 16-bit setup code, which cottage skips, behind the boot sector")
}

fn syssize(value: u64) -> String {
    format!(
        "protected-mode part: {value} times 16 bytes, {}",
        size(value * 16)
    )
}

fn vid_mode(value: u64) -> String {
    let mode = match value {
        0xffff => "normal",
        0xfffe => "extended",
        0xfffd => "ask",
        _ => "a number of a mode",
    };
    format!("video mode for 16-bit code: {mode}")
}

fn jump(value: u64) -> String {
    let [opcode, distance, ..] = value.to_le_bytes();
    match opcode {
        0xeb => format!(
            "the 16-bit entry: a jump over the header, which ends at {:#x}",
            0x202 + u64::from(distance)
        ),
        _ => "should be a short jump over the header (0xeb and a distance)".into(),
    }
}

fn version(value: u64) -> String {
    format!("boot protocol {}.{:02}", value >> 8, value & 0xff)
}

fn kernel_version(value: u64) -> String {
    match value {
        0 => "no version text".into(),
        value => format!("version text at file offset {:#x}", value + 0x200),
    }
}

fn loader(value: u64) -> String {
    match value {
        0 => "the loader's number: none yet".into(),
        0xff => "a loader without a number: cottage is one".into(),
        value => format!("loader {:#x}, version {}", value >> 4, value & 0xf),
    }
}

fn initrd_max(value: u64) -> String {
    format!(
        "the initramfs must end at or below this: {}",
        size(value + 1)
    )
}

fn alignment(value: u64) -> String {
    format!("if moved, then to a multiple of {}", size(value))
}

fn relocatable(value: u64) -> String {
    match value {
        0 => "must be at its address".into(),
        _ => "may be loaded anywhere that suits its alignment".into(),
    }
}

fn min_alignment(value: u64) -> String {
    match 1_u64.checked_shl(u32::try_from(value).unwrap_or(u32::MAX)) {
        Some(bytes) => format!("at least to a multiple of 2 to this power, {}", size(bytes)),
        None => "at least to a multiple of 2 to this power: no number of 64 bits".into(),
    }
}

fn subarch(value: u64) -> String {
    let kind = match value {
        0 => "a PC",
        1 => "lguest",
        2 => "Xen",
        3 => "Intel MID",
        4 => "CE4100",
        _ => "unknown",
    };
    format!("what kind of machine this is: {kind}")
}

fn payload(value: u64) -> String {
    match value {
        0 => "nothing is packed in it".into(),
        value => format!(
            "its length, with the unpacked size behind it: {}",
            size(value)
        ),
    }
}

fn preferred(value: u64) -> String {
    match value {
        0 => "no preferred address".into(),
        value => format!("where it likes to be loaded: {}", size(value)),
    }
}

fn init_size(value: u64) -> String {
    format!(
        "memory it needs from there on, before it knows how much there is: {}",
        size(value)
    )
}

/// The rows of a file's header: the fields that its protocol version has.
pub fn in_file(bytes: &[u8]) -> Vec<Vec<String>> {
    let version = super::fields::number(bytes, 0x206, 2).unwrap_or(0);
    let known = FIELDS
        .iter()
        .filter(|(since, _)| u64::from(*since) <= version);
    known.filter_map(|(_, field)| field.row(bytes, 0)).collect()
}

/// The rows of a zero page's header: the fields that are set.
pub fn in_zero_page(page: &[u8]) -> Vec<Vec<String>> {
    let set = FIELDS
        .iter()
        .filter(|(_, field)| field.value(page).is_some_and(|value| value != 0));
    set.filter_map(|(_, field)| field.row(page, 0)).collect()
}

#[cfg(test)]
mod tests {
    use linux_loader::bootparam::setup_header;
    use vm_memory::ByteValued;

    use super::*;

    #[test]
    fn fields_follow_each_other_without_gaps() {
        let mut end = 0x1f1;
        for (_, field) in FIELDS {
            assert_eq!(field.at, end, "{}", field.name);
            end += field.size;
        }
        assert_eq!(end - 0x1f1, setup_header::default().as_slice().len());
    }

    #[test]
    fn values_are_those_of_the_structure() {
        let header = setup_header {
            pref_address: 0x100_0000,
            init_size: 0x20_0000,
            xloadflags: 0x3f,
            ..Default::default()
        };
        let mut page = vec![0; 0x1f1];
        page.extend_from_slice(header.as_slice());
        let rows = in_zero_page(&page);
        let names: Vec<_> = rows.iter().map(|row| &*row[1]).collect();
        assert_eq!(names, ["xloadflags", "pref_address", "init_size"]);
        assert_eq!(
            rows[1][2..],
            ["0x1000000", "where it likes to be loaded: 16 MiB"]
        );
    }

    #[test]
    fn old_header_has_old_fields_only() {
        let mut bytes = vec![0; 0x270];
        bytes[0x206..0x208].copy_from_slice(&[0x04, 0x02]);
        let rows = in_file(&bytes);
        assert!(rows.iter().any(|row| row[1] == "initrd_addr_max"));
        assert!(!rows.iter().any(|row| row[1] == "kernel_alignment"));
    }

    #[test]
    fn strange_values_have_words_too() {
        for (_, field) in FIELDS {
            let bytes = vec![0xff; 0x270];
            assert!(!field.row(&bytes, 0).unwrap()[3].is_empty());
        }
    }
}
