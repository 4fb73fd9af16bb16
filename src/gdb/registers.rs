//! What gdb calls the registers, and which of KVM's they are.
//!
//! gdb is sent a description (`target.xml`) and takes registers in its order. It is always that of 64-bit
//! mode, for gdb cannot change its mind: what is told of 32-bit code are the lower halves. Beside what gdb
//! knows of x86-64 there are the control registers, which it shows by name like any other.
//!
//! Sources: gdb's manual, appendix G.5 "i386 Features"; `[sdm1]` 3.4.3, 8.1.7 (x87 tag word).
//! Read next: [`super::memory`].

use std::sync::OnceLock;

use gdbstub::arch::{Arch, Registers};
use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};

/// CR0: protected mode.
const CR0_PE: u64 = 1;
/// Registers after those of [`X86_64CoreRegs`], each of 64 bits.
const MORE: [&str; 8] = [
    "fs_base", "gs_base", "cr0", "cr2", "cr3", "cr4", "cr8", "efer",
];
/// How many of them gdb knows.
const KNOWN: usize = 2;

/// x86-64, and a machine's registers beside a program's.
#[derive(Debug)]
pub enum Machine64 {}

impl Arch for Machine64 {
    type Usize = u64;
    type Registers = All;
    type RegId = ();
    type BreakpointKind = usize;

    fn target_description_xml() -> Option<&'static str> {
        static TEXT: OnceLock<String> = OnceLock::new();
        Some(TEXT.get_or_init(description))
    }
}

/// The description, with gdb's own names of types, by which it prints flags and vectors in its usual way.
fn description() -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\
         <architecture>i386:x86-64</architecture><feature name=\"org.gnu.gdb.i386.core\">",
    );
    text += &flags();
    let numbered = |letter: &str, count| {
        (0..count)
            .map(|i| format!("{letter}{i}"))
            .collect::<Vec<_>>()
    };
    let named = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let core = [
        (
            named(&["rax", "rbx", "rcx", "rdx", "rsi", "rdi"]),
            64,
            "int64",
        ),
        (named(&["rbp", "rsp"]), 64, "data_ptr"),
        (numbered("r", 16).split_off(8), 64, "int64"),
        (named(&["rip"]), 64, "code_ptr"),
        (named(&["eflags"]), 32, "i386_eflags"),
        (named(&["cs", "ss", "ds", "es", "fs", "gs"]), 32, "int32"),
        (numbered("st", 8), 80, "i387_ext"),
        (
            named(&[
                "fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop",
            ]),
            32,
            "int",
        ),
    ];
    core.iter()
        .for_each(|(names, bits, kind)| text += &registers(names, *bits, kind));
    text += "</feature><feature name=\"org.gnu.gdb.i386.sse\">";
    text += VECTORS;
    text += &registers(&numbered("xmm", 16), 128, "vec128");
    text += &registers(&named(&["mxcsr"]), 32, "int");
    let (known, others) = MORE.split_at(KNOWN);
    for (feature, names) in [
        ("org.gnu.gdb.i386.segments", known),
        ("org.cottage.control", others),
    ] {
        text += &format!("</feature><feature name=\"{feature}\">");
        text += &registers(&named(names), 64, "int64");
    }
    text + "</feature></target>"
}

fn registers(names: &[String], bits: u32, kind: &str) -> String {
    let register = |name| format!("<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>");
    names.iter().map(register).collect()
}

/// The bits of EFLAGS. `[sdm1]` figure 3-8
fn flags() -> String {
    let bits = [
        (0, "CF"),
        (1, ""),
        (2, "PF"),
        (4, "AF"),
        (6, "ZF"),
        (7, "SF"),
        (8, "TF"),
        (9, "IF"),
        (10, "DF"),
        (11, "OF"),
        (14, "NT"),
        (16, "RF"),
        (17, "VM"),
        (18, "AC"),
        (19, "VIF"),
        (20, "VIP"),
        (21, "ID"),
    ];
    let field = |(at, name)| format!("<field name=\"{name}\" start=\"{at}\" end=\"{at}\"/>");
    let fields: String = bits.map(field).concat();
    format!("<flags id=\"i386_eflags\" size=\"4\">{fields}</flags>")
}

/// An SSE register is numbers of several sizes.
const VECTORS: &str = "\
    <vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\
    <vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v4i32\" type=\"int32\" count=\"4\"/>\
    <vector id=\"v2i64\" type=\"int64\" count=\"2\"/><union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>\
    <field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>\
    <field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>\
    <field name=\"uint128\" type=\"uint128\"/></union>";

/// Everything gdb is told of one processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct All {
    core: X86_64CoreRegs,
    more: [u64; MORE.len()],
}

impl Registers for All {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.core.gdb_serialize(&mut write_byte);
        for byte in self.more.iter().flat_map(|value| value.to_le_bytes()) {
            write_byte(Some(byte));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let more = bytes.len().checked_sub(8 * MORE.len()).ok_or(())?;
        let (core, more) = bytes.split_at(more);
        self.core.gdb_deserialize(core)?;
        for (value, bytes) in self.more.iter_mut().zip(more.chunks_exact(8)) {
            *value = u64::from_le_bytes(bytes.try_into().map_err(|_length| ())?);
        }
        Ok(())
    }
}

/// The registers of one processor as KVM has them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct State {
    /// General registers.
    pub regs: kvm_regs,
    /// Segments and control registers.
    pub sregs: kvm_sregs,
    /// x87 and SSE.
    pub fpu: kvm_fpu,
}

/// A segment register cannot be written by its number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selector;

impl State {
    /// Where the processor is, as memory sees it.
    pub fn linear_pc(&self) -> u64 {
        self.sregs.cs.base.wrapping_add(self.regs.rip)
    }

    /// For gdb.
    pub fn to_gdb(&self) -> All {
        let Self { regs, sregs, fpu } = self;
        let selector = |segment: &kvm_segment| u32::from(segment.selector);
        let mut core = X86_64CoreRegs {
            regs: general(regs),
            // Its upper half is reserved, and zero.
            eflags: low(regs.rflags),
            rip: regs.rip,
            segments: X86SegmentRegs {
                cs: selector(&sregs.cs),
                ss: selector(&sregs.ss),
                ds: selector(&sregs.ds),
                es: selector(&sregs.es),
                fs: selector(&sregs.fs),
                gs: selector(&sregs.gs),
            },
            st: Default::default(),
            fpu: X87FpuInternalRegs {
                fctrl: fpu.fcw.into(),
                fstat: fpu.fsw.into(),
                ftag: full_tags(fpu.ftwx),
                fiseg: low(fpu.last_ip >> 32),
                fioff: low(fpu.last_ip),
                foseg: low(fpu.last_dp >> 32),
                fooff: low(fpu.last_dp),
                fop: fpu.last_opcode.into(),
            },
            xmm: fpu.xmm.map(u128::from_le_bytes),
            mxcsr: fpu.mxcsr,
        };
        for (st, kept) in core.st.iter_mut().zip(&fpu.fpr) {
            st.iter_mut().zip(kept).for_each(|(to, from)| *to = *from);
        }
        let more = [
            sregs.fs.base,
            sregs.gs.base,
            sregs.cr0,
            sregs.cr2,
            sregs.cr3,
            sregs.cr4,
            sregs.cr8,
            sregs.efer,
        ];
        All { core, more }
    }

    /// This, with what gdb has changed.
    ///
    /// # Errors
    /// [`Selector`] for a new segment in protected mode: what a segment is stands in a table of the guest's,
    /// and only the guest loads it. In real mode its base goes along.
    pub fn changed(&self, new: &All) -> Result<Self, Selector> {
        let mut state = *self;
        let old = self.to_gdb();
        set_general(&mut state.regs, &new.core.regs);
        state.regs.rip = new.core.rip;
        state.regs.rflags = new.core.eflags.into();
        if old.core.segments != new.core.segments {
            state.set_selectors(&new.core.segments)?;
        }
        let sregs = &mut state.sregs;
        let [fs_base, gs_base, control @ ..] = new.more;
        // Only if they are new: a selector has just set one.
        if old.more.first() != Some(&fs_base) {
            sregs.fs.base = fs_base;
        }
        if old.more.get(1) != Some(&gs_base) {
            sregs.gs.base = gs_base;
        }
        [
            sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8, sregs.efer,
        ] = control;
        let fpu = &mut state.fpu;
        for (kept, st) in fpu.fpr.iter_mut().zip(&new.core.st) {
            kept.iter_mut().zip(st).for_each(|(to, from)| *to = *from);
        }
        let internal = &new.core.fpu;
        fpu.fcw = half(internal.fctrl);
        fpu.fsw = half(internal.fstat);
        if internal.ftag != old.core.fpu.ftag {
            fpu.ftwx = short_tags(internal.ftag);
        }
        fpu.last_opcode = half(internal.fop);
        fpu.last_ip = u64::from(internal.fiseg) << 32 | u64::from(internal.fioff);
        fpu.last_dp = u64::from(internal.foseg) << 32 | u64::from(internal.fooff);
        fpu.xmm = new.core.xmm.map(u128::to_le_bytes);
        fpu.mxcsr = new.core.mxcsr;
        Ok(state)
    }

    fn set_selectors(&mut self, new: &X86SegmentRegs) -> Result<(), Selector> {
        if self.sregs.cr0 & CR0_PE != 0 {
            return Err(Selector);
        }
        let sregs = &mut self.sregs;
        for (segment, selector) in [
            (&mut sregs.cs, new.cs),
            (&mut sregs.ss, new.ss),
            (&mut sregs.ds, new.ds),
            (&mut sregs.es, new.es),
            (&mut sregs.fs, new.fs),
            (&mut sregs.gs, new.gs),
        ] {
            if u32::from(segment.selector) != selector {
                segment.selector = half(selector);
                segment.base = u64::from(segment.selector) << 4;
            }
        }
        Ok(())
    }
}

/// RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8 to R15: gdb's order.
fn general(r: &kvm_regs) -> [u64; 16] {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ]
}

fn set_general(r: &mut kvm_regs, values: &[u64; 16]) {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ] = *values;
}

/// Two bits a register, 3 for an empty one, from one bit, 1 for a full one. What else the two bits tell
/// (zero, special) can be seen in the register.
fn full_tags(short: u8) -> u32 {
    (0..8).fold(0, |tags, i| {
        tags | if short & 1 << i == 0 { 3 << (2 * i) } else { 0 }
    })
}

fn short_tags(full: u32) -> u8 {
    (0..8).fold(0, |tags, i| tags | u8::from(full >> (2 * i) & 3 != 3) << i)
}

fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn half(value: u32) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State::default();
        state.regs.rax = 1;
        state.regs.r15 = 16;
        state.regs.rip = 0xffff_ffff_8100_0000;
        state.regs.rflags = 0x246;
        state.sregs.cs.selector = 0x10;
        state.sregs.cr0 = 0x8000_0011;
        state.sregs.gs.base = 0x1234;
        state.fpu.fpr[1][9] = 7;
        state.fpu.ftwx = 0b10;
        state.fpu.xmm[15][0] = 9;
        state
    }

    #[test]
    fn description_lists_as_many_bytes_as_are_sent() {
        let text = description();
        let bits = text.split("bitsize=\"").skip(1);
        let bits = bits.map(|rest| rest.split('"').next().unwrap().parse::<usize>().unwrap());
        let mut sent = 0;
        All::default().gdb_serialize(|_| sent += 1);
        assert_eq!(bits.sum::<usize>(), 8 * sent);
        assert!(text.contains("<reg name=\"efer\" "));
    }

    #[test]
    fn registers_go_to_gdb_and_come_back() {
        let state = state();
        let mut bytes = Vec::new();
        state
            .to_gdb()
            .gdb_serialize(|byte| bytes.push(byte.unwrap()));
        let mut back = All::default();
        back.gdb_deserialize(&bytes).unwrap();
        assert_eq!(state.changed(&back), Ok(state));
        assert_eq!(back.gdb_deserialize(&bytes[..40]), Err(()));
    }

    #[test]
    fn what_gdb_changes_reaches_kvm() {
        let state = state();
        let mut new = state.to_gdb();
        new.core.regs[0] = 5;
        new.core.xmm[0] = 3;
        new.more[7] = 0x500;
        let changed = state.changed(&new).unwrap();
        assert_eq!((changed.regs.rax, changed.regs.r15), (5, 16));
        assert_eq!((changed.fpu.xmm[0][0], changed.sregs.efer), (3, 0x500));
    }

    #[test]
    fn a_segment_is_loaded_in_real_mode_only() {
        let mut state = state();
        let mut new = state.to_gdb();
        new.core.segments.ds = 0x40;
        assert_eq!(state.changed(&new), Err(Selector));
        state.sregs.cr0 = 0;
        let mut new = state.to_gdb();
        new.core.segments.ds = 0x40;
        let ds = state.changed(&new).unwrap().sregs.ds;
        assert_eq!((ds.selector, ds.base), (0x40, 0x400));
    }

    #[test]
    fn sdm1_8_1_7_tags_of_empty_registers_are_three() {
        assert_eq!(full_tags(0), 0xffff);
        assert_eq!(full_tags(0b10), 0xfff3);
        assert_eq!(short_tags(0xfff3), 0b10);
    }
}
