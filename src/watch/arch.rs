//! The processor's registers in words: control registers bit by bit, modes, segments.
//!
//! Pure tables and decoders, for whoever shows a processor: `cottage explain` before it starts, an
//! inspector in the middle, a crash at the end. Page tables are next door, in [`super::paging`].
//!
//! Sources: `[sdm3]` Intel SDM vol. 3A, order no. 253668, 2.2.1 (EFER), 2.5 (control registers), 3.4.5
//! (segment descriptors), 9.1.4; `[sdm1]` vol. 1, order no. 253665, 3.4.3 (EFLAGS); `[apm2]` AMD APM vol. 2, order no. 24593,
//! 3.1.7 for the bits of EFER that only AMD has.
//! Read next: [`super::paging`].

use std::fmt::Write as _;

use kvm_bindings::{kvm_segment, kvm_sregs};

/// One bit, or field of bits, of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bit {
    /// Its lowest bit.
    pub at: u32,
    /// How many bits it has.
    pub width: u32,
    /// Its name in the manual, without the register's.
    pub name: &'static str,
    /// What it does when set.
    pub meaning: &'static str,
}

const fn bit(at: u32, name: &'static str, meaning: &'static str) -> Bit {
    Bit {
        at,
        width: 1,
        name,
        meaning,
    }
}

/// A register whose bits have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// "CR0".
    pub name: &'static str,
    /// Its bits, lowest first.
    pub bits: &'static [Bit],
}

/// Control register 0. `[sdm3]` 2.5
pub const CR0: Register = Register {
    name: "CR0",
    bits: &[
        bit(0, "PE", "protected mode"),
        bit(1, "MP", "wait instructions mind TS"),
        bit(2, "EM", "no floating-point unit: its instructions trap"),
        bit(3, "TS", "task switched: floating point traps"),
        bit(4, "ET", "387 floating point; always set today"),
        bit(5, "NE", "floating-point errors are exceptions"),
        bit(16, "WP", "the kernel too may not write read-only pages"),
        bit(18, "AM", "alignment checks allowed"),
        bit(29, "NW", "caches do not write through"),
        bit(30, "CD", "caches disabled"),
        bit(31, "PG", "paging"),
    ],
};

/// Control register 4. `[sdm3]` 2.5
pub const CR4: Register = Register {
    name: "CR4",
    bits: &[
        bit(0, "VME", "virtual-8086 extensions"),
        bit(1, "PVI", "virtual interrupts in protected mode"),
        bit(2, "TSD", "only the kernel reads the TSC"),
        bit(3, "DE", "debug registers stop at I/O"),
        bit(4, "PSE", "large pages in 32-bit paging"),
        bit(5, "PAE", "page table entries of 8 bytes"),
        bit(6, "MCE", "machine checks are exceptions"),
        bit(7, "PGE", "global pages stay in the TLB"),
        bit(8, "PCE", "programs may read performance counters"),
        bit(9, "OSFXSR", "SSE may be used"),
        bit(10, "OSXMMEXCPT", "SSE errors have their own exception"),
        bit(
            11,
            "UMIP",
            "programs may not read descriptor table registers",
        ),
        bit(12, "LA57", "5 levels of page tables"),
        bit(13, "VMXE", "VMX may be used"),
        bit(14, "SMXE", "SMX may be used"),
        bit(16, "FSGSBASE", "programs may set FS and GS bases"),
        bit(17, "PCIDE", "process-context identifiers in CR3"),
        bit(18, "OSXSAVE", "XSAVE and AVX may be used"),
        bit(20, "SMEP", "the kernel may not run user pages"),
        bit(21, "SMAP", "the kernel may not touch user pages unasked"),
        bit(22, "PKE", "protection keys for user pages"),
        bit(23, "CET", "shadow stacks, indirect branch tracking"),
        bit(24, "PKS", "protection keys for kernel pages"),
    ],
};

/// The extended feature register, MSR 0xc0000080. `[sdm3]` 2.2.1; `[apm2]` 3.1.7
pub const EFER: Register = Register {
    name: "EFER",
    bits: &[
        bit(0, "SCE", "syscall and sysret"),
        bit(8, "LME", "long mode as soon as paging is on"),
        bit(10, "LMA", "long mode is on"),
        bit(11, "NXE", "pages can forbid execution"),
        bit(12, "SVME", "AMD: virtualization may be used"),
        bit(13, "LMSLE", "AMD: segment limits in long mode"),
        bit(14, "FFXSR", "AMD: fast fxsave and fxrstor"),
        bit(15, "TCE", "AMD: translation cache extension"),
    ],
};

/// The flags. `[sdm1]` 3.4.3
pub const RFLAGS: Register = Register {
    name: "RFLAGS",
    bits: &[
        bit(0, "CF", "carry"),
        bit(1, "1", "always set"),
        bit(2, "PF", "even parity"),
        bit(4, "AF", "carry of the low digit"),
        bit(6, "ZF", "zero"),
        bit(7, "SF", "negative"),
        bit(8, "TF", "a trap after each instruction"),
        bit(9, "IF", "interrupts are taken"),
        bit(10, "DF", "string instructions count down"),
        bit(11, "OF", "overflow"),
        Bit {
            at: 12,
            width: 2,
            name: "IOPL",
            meaning: "least privilege that may do I/O",
        },
        bit(14, "NT", "nested task"),
        bit(16, "RF", "no breakpoint at the next instruction"),
        bit(17, "VM", "virtual-8086 mode"),
        bit(18, "AC", "alignment checks, or access to user pages"),
        bit(19, "VIF", "virtual interrupt flag"),
        bit(20, "VIP", "virtual interrupt pending"),
        bit(21, "ID", "CPUID is there"),
    ],
};

/// The registers that have tables here.
pub const REGISTERS: [Register; 4] = [CR0, CR4, EFER, RFLAGS];

impl Register {
    /// The bits of it that `value` has set, lowest first.
    pub fn set(&self, value: u64) -> impl Iterator<Item = &'static Bit> {
        let has = move |bit: &&Bit| bit.of(value) != 0;
        self.bits.iter().filter(has)
    }

    /// Bits that are set and have no name here.
    pub fn unknown(&self, value: u64) -> u64 {
        let known = self.bits.iter().fold(0, |known, bit| known | bit.mask());
        value & !known
    }

    /// "PE ET PG"; "none" if no bit is set.
    pub fn names(&self, value: u64) -> String {
        let mut names: Vec<_> = self.set(value).map(|bit| bit.name.to_owned()).collect();
        if self.unknown(value) != 0 {
            names.push(format!("{:#x}", self.unknown(value)));
        }
        if names.is_empty() {
            return "none".into();
        }
        names.join(" ")
    }

    /// The bit of this name.
    pub fn bit(&self, name: &str) -> Option<&'static Bit> {
        self.bits.iter().find(|bit| bit.name == name)
    }

    /// Whether the bit of this name is set in `value`.
    pub fn has(&self, value: u64, name: &str) -> bool {
        self.bit(name).is_some_and(|bit| bit.of(value) != 0)
    }
}

impl Bit {
    /// Its place in the register.
    pub fn mask(&self) -> u64 {
        ((1 << self.width) - 1) << self.at
    }

    /// Its value in `register`.
    pub fn of(&self, register: u64) -> u64 {
        (register & self.mask()) >> self.at
    }
}

/// What kind of code a processor runs, and how it finds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16-bit, as after a reset.
    Real,
    /// Protected mode; addresses are physical.
    Protected,
    /// Protected mode with page tables.
    ProtectedPaged,
    /// 32-bit or 16-bit code in long mode.
    Compatibility,
    /// 64-bit code.
    Long,
    /// CR0, CR4 and EFER contradict each other: no processor is in such a state.
    Impossible(&'static str),
}

impl Mode {
    /// The mode of a processor with these registers. `[sdm3]` 9.1.4, 2.2.1
    pub fn of(sregs: &kvm_sregs) -> Self {
        let (pe, pg) = (CR0.has(sregs.cr0, "PE"), CR0.has(sregs.cr0, "PG"));
        let (lme, lma) = (EFER.has(sregs.efer, "LME"), EFER.has(sregs.efer, "LMA"));
        let pae = CR4.has(sregs.cr4, "PAE");
        match (pe, pg) {
            (false, true) => Self::Impossible("CR0.PG without CR0.PE"),
            _ if lma != (lme && pg) => Self::Impossible("EFER.LMA is not EFER.LME with CR0.PG"),
            _ if lma && !pae => Self::Impossible("EFER.LMA without CR4.PAE"),
            _ if lma && sregs.cs.l == 1 && sregs.cs.db == 1 => {
                Self::Impossible("CS has both L and D")
            }
            (false, false) => Self::Real,
            (true, false) => Self::Protected,
            (true, true) if !lma => Self::ProtectedPaged,
            (true, true) if sregs.cs.l == 1 => Self::Long,
            (true, true) => Self::Compatibility,
        }
    }

    /// For people.
    pub fn words(self) -> String {
        match self {
            Self::Real => "real mode: 16-bit code, addresses are segment * 16 + offset".into(),
            Self::Protected => "protected mode without paging: addresses are physical".into(),
            Self::ProtectedPaged => "protected mode with paging".into(),
            Self::Compatibility => {
                "long mode, but CS.L is clear: 32-bit code (compatibility mode)".into()
            }
            Self::Long => "long mode: 64-bit code, paging".into(),
            Self::Impossible(why) => format!("no mode a processor can be in: {why}"),
        }
    }
}

/// A segment, as the GDT or a segment register holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its first address.
    pub base: u64,
    /// Its last offset, in bytes: the granularity is multiplied in.
    pub limit: u32,
    /// The type field, 4 bits.
    pub kind: u8,
    /// S: code or data, and not a system segment.
    pub code_or_data: bool,
    /// DPL.
    pub privilege: u8,
    /// P.
    pub present: bool,
    /// L: 64-bit code.
    pub long: bool,
    /// D or B: 32-bit code, or stack.
    pub wide: bool,
    /// G: the limit counts pages.
    pub pages: bool,
}

/// The type bit that makes code of a segment. `[sdm3]` table 3-1
const CODE: u8 = 1 << 3;

impl Segment {
    /// Decodes the 8 bytes of a descriptor; a system segment's upper 8 in long mode, which hold bits 32
    /// and up of its base, are not among them. `[sdm3]` figure 3-8
    pub fn of_descriptor(descriptor: u64) -> Self {
        let field = |at: u32, width: u32| (descriptor >> at) & ((1 << width) - 1);
        let byte = |at, width| u8::try_from(field(at, width)).unwrap_or(u8::MAX);
        let limit = u32::try_from(field(0, 16) | field(48, 4) << 16).unwrap_or(u32::MAX);
        let pages = field(55, 1) == 1;
        Self {
            base: field(16, 24) | field(56, 8) << 24,
            // A page limit's low 12 bits are ones.
            limit: if pages { limit << 12 | 0xfff } else { limit },
            kind: byte(40, 4),
            code_or_data: field(44, 1) == 1,
            privilege: byte(45, 2),
            present: field(47, 1) == 1,
            long: field(53, 1) == 1,
            wide: field(54, 1) == 1,
            pages,
        }
    }

    /// What KVM says is in a segment register.
    pub fn of_register(segment: &kvm_segment) -> Self {
        Self {
            base: segment.base,
            limit: segment.limit,
            kind: segment.type_,
            code_or_data: segment.s == 1,
            privilege: segment.dpl,
            present: segment.present == 1 && segment.unusable == 0,
            long: segment.l == 1,
            wide: segment.db == 1,
            pages: segment.g == 1,
        }
    }

    /// "64-bit code, execute and read", "32-bit data, read and write", "busy 64-bit TSS".
    pub fn what(&self) -> String {
        if *self == Self::default() {
            return "empty".into();
        }
        if !self.code_or_data {
            return system_kind(self.kind).into();
        }
        let has = |bit: u8| self.kind & bit != 0;
        if has(CODE) {
            let width = match (self.long, self.wide) {
                (true, false) => "64-bit",
                (false, true) => "32-bit",
                (false, false) => "16-bit",
                (true, true) => "impossible (L and D)",
            };
            let read = if has(2) { " and read" } else { " only" };
            let conforming = if has(4) { ", conforming" } else { "" };
            return format!("{width} code, execute{read}{conforming}");
        }
        let write = if has(2) {
            "read and write"
        } else {
            "read only"
        };
        let down = if has(4) { ", grows down" } else { "" };
        format!("data, {write}{down}")
    }

    /// All of it in a line: "64-bit code, execute and read; base 0, limit 4 GiB; ring 0".
    pub fn words(&self) -> String {
        let mut text = self.what();
        if *self == Self::default() {
            return text;
        }
        let size = u64::from(self.limit) + 1;
        let limit = match size {
            0x1_0000_0000 => "4 GiB".to_owned(),
            size => format!("{size:#x} bytes"),
        };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "; base {:#x}, {limit}; ring {}",
            self.base, self.privilege
        );
        if !self.present {
            text += "; not present";
        }
        text
    }
}

/// System segments and gates. `[sdm3]` table 3-2; the same number is another thing in 32-bit mode only
/// below 8.
fn system_kind(kind: u8) -> &'static str {
    match kind {
        1 => "available 16-bit TSS",
        2 => "LDT",
        3 => "busy 16-bit TSS",
        4 => "16-bit call gate",
        5 => "task gate",
        6 => "16-bit interrupt gate",
        7 => "16-bit trap gate",
        9 => "available TSS",
        11 => "busy TSS",
        12 => "call gate",
        14 => "interrupt gate",
        15 => "trap gate",
        _ => "reserved system type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_set_bits_and_the_rest_is_a_number() {
        assert_eq!(CR0.names(0x8000_0011), "PE ET PG");
        assert_eq!(CR4.names(0x20 | 1 << 40), "PAE 0x10000000000");
        assert_eq!(EFER.names(0), "none");
        assert_eq!(RFLAGS.names(0x3202), "1 IF IOPL");
        assert_eq!(RFLAGS.bit("IOPL").unwrap().of(0x3202), 3);
    }

    #[test]
    fn bits_ascend_and_keep_apart() {
        for register in REGISTERS {
            let ends = register.bits.iter().map(|bit| bit.at + bit.width);
            let starts = register.bits.iter().skip(1).map(|bit| bit.at);
            assert!(ends.zip(starts).all(|(end, start)| end <= start));
        }
    }

    fn sregs(cr0: u64, cr4: u64, efer: u64, l: u8) -> kvm_sregs {
        let mut sregs = kvm_sregs {
            cr0,
            cr4,
            efer,
            ..Default::default()
        };
        sregs.cs.l = l;
        sregs
    }

    #[test]
    fn modes_are_told_apart() {
        assert_eq!(Mode::of(&sregs(0x10, 0, 0, 0)), Mode::Real);
        assert_eq!(Mode::of(&sregs(0x11, 0, 0, 0)), Mode::Protected);
        assert_eq!(Mode::of(&sregs(0x8000_0011, 0, 0, 0)), Mode::ProtectedPaged);
        assert_eq!(Mode::of(&sregs(0x8000_0011, 0x20, 0x500, 1)), Mode::Long);
        assert_eq!(
            Mode::of(&sregs(0x8000_0011, 0x20, 0x500, 0)),
            Mode::Compatibility
        );
    }

    #[test]
    fn contradictions_are_named() {
        for (cr0, cr4, efer, why) in [
            (0x8000_0000, 0, 0, "CR0.PG without CR0.PE"),
            (0x11, 0x20, 0x500, "EFER.LMA is not EFER.LME with CR0.PG"),
            (0x8000_0011, 0, 0x500, "EFER.LMA without CR4.PAE"),
        ] {
            assert_eq!(
                Mode::of(&sregs(cr0, cr4, efer, 1)),
                Mode::Impossible(why),
                "{why}"
            );
        }
    }

    #[test]
    fn sdm_figure_3_8_well_known_descriptors_are_read() {
        let words = |descriptor| Segment::of_descriptor(descriptor).words();
        assert_eq!(words(0), "empty");
        assert_eq!(
            words(0x00af_9b00_0000_ffff),
            "64-bit code, execute and read; base 0x0, 4 GiB; ring 0"
        );
        assert_eq!(
            words(0x00cf_9b00_0000_ffff),
            "32-bit code, execute and read; base 0x0, 4 GiB; ring 0"
        );
        assert_eq!(
            words(0x00cf_9300_0000_ffff),
            "data, read and write; base 0x0, 4 GiB; ring 0"
        );
        assert_eq!(
            words(0x0000_8b00_0000_0067),
            "busy TSS; base 0x0, 0x68 bytes; ring 0"
        );
        assert_eq!(
            words(0x12cf_7334_5678_ffff & !(1 << 47)),
            "data, read and write; base 0x12345678, 4 GiB; ring 3; not present"
        );
    }
}
