//! Machine code as text.
//!
//! By iced-x86: an x86 instruction is 1 to 15 bytes of prefixes, opcode maps and operands, and a
//! decoder that is right about all of them is a project of its own. Intel's syntax, as the manuals have
//! it, destination first. Read next: [`super::symbols`].

use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};

/// The longest x86 instruction in bytes. `[sdm2]` 2.3.11
pub const LONGEST: usize = 15;

/// One instruction and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Address of its first byte, as the processor counts it.
    pub at: u64,
    /// Its bytes, 1 to [`LONGEST`].
    pub bytes: Vec<u8>,
    /// `mov eax, [rdi+8]`; `(bad)` for bytes that are no instruction.
    pub text: String,
}

/// How the processor reads code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Real mode, and 16-bit segments.
    Bits16,
    /// 32-bit segments, compatibility mode.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl Width {
    /// As CS and EFER say: CS.L in long mode, else CS.D. `[sdm3]` 5.2.1, 3.4.5
    pub fn of(long_mode: bool, cs_l: bool, cs_db: bool) -> Self {
        match (long_mode && cs_l, cs_db) {
            (true, _) => Self::Bits64,
            (false, true) => Self::Bits32,
            (false, false) => Self::Bits16,
        }
    }

    fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }
}

/// The instructions in `code`, which begins at address `at`; the last may be cut off, then it is left out.
pub fn disassemble(code: &[u8], at: u64, width: Width) -> Vec<Line> {
    let mut decoder = Decoder::with_ip(width.bits(), code, at, DecoderOptions::NONE);
    let mut formatter = formatter();
    let mut lines = Vec::new();
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        let start = decoder.position();
        decoder.decode_out(&mut instruction);
        if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes {
            break;
        }
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        let bytes = code.get(start..decoder.position()).unwrap_or(&[]).to_vec();
        lines.push(Line {
            at: instruction.ip(),
            bytes,
            text,
        });
    }
    lines
}

fn formatter() -> IntelFormatter {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    options.set_rip_relative_addresses(false);
    formatter
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<_> = self.bytes.iter().map(|b| format!("{b:02x}")).collect();
        write!(f, "{:#x}  {:<24}  {}", self.at, bytes.join(" "), self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn width_decides_what_bytes_mean() {
        let code = [0x48, 0x89, 0xf8];
        let text = |width| disassemble(&code, 0x1000, width)[0].to_string();
        assert_eq!(
            text(Width::Bits64),
            "0x1000  48 89 f8                  mov rax, rdi"
        );
        assert_eq!(
            text(Width::Bits32),
            "0x1000  48                        dec eax"
        );
        assert_eq!(
            text(Width::Bits16),
            "0x1000  48                        dec ax"
        );
    }

    #[test]
    fn bytes_that_are_no_instruction_are_named_and_cut_ones_left_out() {
        let lines = disassemble(&[0x0f, 0x0b, 0x06, 0x48, 0x8b], 0, Width::Bits64);
        let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["ud2", "(bad)"]);
        assert!(disassemble(&[], 0, Width::Bits64).is_empty());
    }

    #[test]
    fn width_follows_the_code_segment() {
        assert_eq!(Width::of(true, true, false), Width::Bits64);
        assert_eq!(Width::of(true, false, true), Width::Bits32);
        assert_eq!(Width::of(false, true, true), Width::Bits32);
        assert_eq!(Width::of(false, false, false), Width::Bits16);
    }
}
