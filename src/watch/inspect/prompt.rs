//! The prompt: what can be asked of a machine that stands, and the answers.
//!
//! Words in, lines out: nothing here reads a terminal or runs a guest. Everything in an answer may be the
//! guest's doing; answers are bounded and have no control characters.
//! Read next: [`super::chips`].

use super::at::number;
use crate::watch::code::Line;
use crate::watch::story::{View, exits, page, printable};
use crate::watch::symbols::Symbols;

/// The most bytes a dump shows.
const MAX_DUMP: usize = 4096;
/// Bytes of a dump that does not say.
const DUMP: usize = 128;
/// The most instructions shown.
const MAX_INSTRUCTIONS: usize = 200;
/// Instructions, if it is not said how many.
const INSTRUCTIONS: usize = 10;
/// Bytes in a line of a dump.
const ROW: usize = 16;

/// What `help` prints.
pub const HELP: &str = "\
page               what was shown when the guest stopped
regs               registers and flags in words
segments           segment registers, and where GDT and IDT are
walk ADDR          the way of an address through the page tables
mem ADDR [LEN]     memory, LEN bytes; phys:ADDR for a physical address
dis [ADDR [N]]     N instructions
irq                local APIC and I/O APIC: what is raised, masked, routed
devices            each device's registers in words
exits              the last exits
cpu [N]            which processor is asked; ask N from now on
step [N]           run N instructions of this processor (others run too, meanwhile)
until WHERE        run until there: as --inspect-at says
continue           run on
quit               end the guest
ADDR and LEN are numbers (0x1000, 4096), registers (rip, rsp, cr3, ...) or symbols.
Letters will do: r, w, m, d, x (exits), s, u, c, q.";

/// A line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// An empty line: the last command again, or nothing.
    Nothing,
    /// What was shown at the stop.
    Page,
    /// Registers.
    Registers,
    /// Segments and tables.
    Segments,
    /// A walk.
    Walk(u64),
    /// A dump of memory: address, length, and whether it is physical.
    Memory(u64, usize, bool),
    /// Instructions: where, how many.
    Disassemble(u64, usize),
    /// Interrupt controllers.
    Interrupts,
    /// Devices.
    Devices,
    /// Last exits.
    Exits,
    /// Ask this processor from now on, or tell which.
    Processor(Option<u32>),
    /// Run so many instructions.
    Step(u32),
    /// Run until there.
    Until(String),
    /// Run on.
    Continue,
    /// End the guest.
    Quit,
    /// The list.
    Help,
}

/// What `line` asks.
///
/// # Errors
/// What is wrong with it, and what is accepted.
pub fn parse(line: &str, view: &View<'_>, symbols: Option<&Symbols>) -> Result<Command, String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let Some((verb, rest)) = words.split_first() else {
        return Ok(Command::Nothing);
    };
    let value = |word: &str| value(word, view, symbols);
    let length = |word: Option<&&str>, usual: usize, most: usize| match word {
        None => Ok::<_, String>(usual),
        Some(word) => Ok(usize::try_from(value(word)?).unwrap_or(most).min(most)),
    };
    let first = || {
        rest.first()
            .ok_or(format!("{verb} needs an address: {verb} ADDR"))
    };
    let command = match *verb {
        "page" | "p" => Command::Page,
        "regs" | "r" => Command::Registers,
        "segments" | "seg" => Command::Segments,
        "walk" | "w" => Command::Walk(value(first()?)?),
        "mem" | "m" => {
            let (address, physical) = match first()?.strip_prefix("phys:") {
                Some(address) => (value(address)?, true),
                None => (value(first()?)?, false),
            };
            Command::Memory(address, length(rest.get(1), DUMP, MAX_DUMP)?, physical)
        }
        "dis" | "d" => {
            let address = rest.first().map_or(Ok(view.rip()), |word| value(word))?;
            let count = length(rest.get(1), INSTRUCTIONS, MAX_INSTRUCTIONS)?;
            Command::Disassemble(address, count)
        }
        "irq" => Command::Interrupts,
        "devices" | "dev" => Command::Devices,
        "exits" | "x" => Command::Exits,
        "cpu" => match rest.first() {
            None => Command::Processor(None),
            Some(word) => Command::Processor(u32::try_from(value(word)?).ok()),
        },
        "step" | "s" => {
            let count = length(rest.first(), 1, 1000)?;
            Command::Step(u32::try_from(count).unwrap_or(1))
        }
        "until" | "u" => Command::Until(rest.join(" ")),
        "continue" | "c" => Command::Continue,
        "quit" | "q" => Command::Quit,
        "help" | "h" | "?" => Command::Help,
        other => {
            let other = printable(other);
            return Err(format!("{other:?} is no command; help lists them"));
        }
    };
    Ok(command)
}

/// A number, register or symbol.
fn value(word: &str, view: &View<'_>, symbols: Option<&Symbols>) -> Result<u64, String> {
    let register = register(word.trim_start_matches('$'), view);
    let symbol = || symbols?.address(word);
    number(word).or(register).or_else(symbol).ok_or_else(|| {
        format!(
            "{:?} is no number (0x1000, 4096), register or symbol",
            printable(word)
        )
    })
}

fn register(name: &str, view: &View<'_>) -> Option<u64> {
    let (regs, sregs) = (&view.scene().regs, &view.scene().sregs);
    Some(match name {
        "rip" => view.rip(),
        "rsp" => view.rsp(),
        "rax" => regs.rax,
        "rbx" => regs.rbx,
        "rcx" => regs.rcx,
        "rdx" => regs.rdx,
        "rsi" => regs.rsi,
        "rdi" => regs.rdi,
        "rbp" => regs.rbp,
        "r8" => regs.r8,
        "r9" => regs.r9,
        "r10" => regs.r10,
        "r11" => regs.r11,
        "r12" => regs.r12,
        "r13" => regs.r13,
        "r14" => regs.r14,
        "r15" => regs.r15,
        "cr2" => sregs.cr2,
        "cr3" => sregs.cr3,
        "gdt" => sregs.gdt.base,
        "idt" => sregs.idt.base,
        _ => return None,
    })
}

/// The answer to those questions that need nothing but the view.
pub fn answer(command: &Command, view: &View<'_>, symbols: Option<&Symbols>) -> Vec<String> {
    match command {
        Command::Page => page::render(view).lines().map(str::to_owned).collect(),
        Command::Registers => page::registers(view),
        Command::Segments => page::segments(view),
        Command::Walk(address) => {
            let walk = view.walk(*address);
            let head = format!("{:#x} by {}:", address, walk.format);
            std::iter::once(head).chain(walk.lines()).collect()
        }
        Command::Memory(address, len, physical) => dump(view, *address, *len, *physical),
        Command::Disassemble(address, count) => {
            let lines = view.code(*address, *count);
            if lines.is_empty() {
                return vec![format!(
                    "{address:#x} is not mapped to memory; walk says why"
                )];
            }
            lines.iter().map(|line| named(line, symbols)).collect()
        }
        Command::Exits => exits::exits(&view.scene().exits),
        Command::Help => HELP.lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// An instruction, with the function it is in.
pub fn named(line: &Line, symbols: Option<&Symbols>) -> String {
    match symbols.and_then(|symbols| symbols.at(line.at)) {
        Some(place) => format!("{line}   ; {}+{:#x}", printable(place.name), place.offset),
        None => line.to_string(),
    }
}

fn dump(view: &View<'_>, address: u64, len: usize, physical: bool) -> Vec<String> {
    let bytes = if physical {
        let mut bytes = vec![0; len];
        let found = view.memory.read(address, &mut bytes);
        if found { bytes } else { Vec::new() }
    } else {
        view.bytes(address, len)
    };
    let mut lines: Vec<_> = (0..)
        .zip(bytes.chunks(ROW))
        .map(|(n, row)| {
            let hex: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
            let text = row.iter().map(|byte| match char::from(*byte) {
                c if c.is_ascii_graphic() || c == ' ' => c,
                _ => '.',
            });
            let at = address.wrapping_add(n * ROW as u64);
            format!(
                "{at:#x}  {:<47}  {}",
                hex.join(" "),
                text.collect::<String>()
            )
        })
        .collect();
    if bytes.len() < len {
        let end = address.wrapping_add(bytes.len() as u64);
        let why = if physical {
            "not all memory"
        } else {
            "not mapped to memory"
        };
        lines.push(format!("{end:#x} is {why}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::story::testing::{CODE, crashed, view};

    fn ask(line: &str) -> Result<Vec<String>, String> {
        let (report, memory) = crashed(b"\x90\xf4Hello, \x1b[31m");
        let view = view(&report, &memory);
        parse(line, &view, None).map(|command| answer(&command, &view, None))
    }

    #[test]
    fn questions_are_answered_from_the_scene() {
        assert_eq!(
            ask("mem 0x100002 13").unwrap(),
            ["0x100002  48 65 6c 6c 6f 2c 20 1b 5b 33 31 6d 00           Hello, .[31m."]
        );
        assert_eq!(ask("mem phys:1048578 5").unwrap().len(), 1);
        assert_eq!(ask("mem rip").unwrap().len(), DUMP / ROW);
        assert!(ask("dis rip 2").unwrap()[1].ends_with("hlt"));
        assert!(
            ask("walk cr2")
                .unwrap()
                .last()
                .unwrap()
                .contains("0x0 is at 0x0")
        );
        assert!(ask("regs").unwrap().join(" ").contains("LME LMA"));
        assert!(ask("segments").unwrap()[0].contains("64-bit code"));
        assert_eq!(ask("x").unwrap().len(), 1);
        assert_eq!(ask("").unwrap(), [""; 0]);
    }

    #[test]
    fn dumps_end_with_memory_and_are_bounded() {
        assert_eq!(
            ask("mem 0x8000000000").unwrap(),
            ["0x8000000000 is not mapped to memory"]
        );
        assert_eq!(
            ask("mem phys:0xfec00000").unwrap(),
            ["0xfec00000 is not all memory"]
        );
        assert_eq!(
            ask("mem 0 0xffffffffffffffff").unwrap().len(),
            MAX_DUMP / ROW
        );
        assert!(ask("dis rip 99999999").unwrap().len() <= MAX_INSTRUCTIONS);
    }

    #[test]
    fn mistakes_are_told_with_a_way_out() {
        assert_eq!(
            ask("fly\x1b").unwrap_err(),
            "\"fly.\" is no command; help lists them"
        );
        assert_eq!(ask("walk").unwrap_err(), "walk needs an address: walk ADDR");
        assert!(ask("walk zzz").unwrap_err().contains("register or symbol"));
    }

    #[test]
    fn running_is_a_command_of_its_own() {
        let (report, memory) = crashed(&[0xf4]);
        let view = view(&report, &memory);
        let parse = |line| parse(line, &view, None);
        assert_eq!(parse("s 3"), Ok(Command::Step(3)));
        assert_eq!(parse("until exit:9"), Ok(Command::Until("exit:9".into())));
        assert_eq!(parse("cpu 1"), Ok(Command::Processor(Some(1))));
        assert_eq!(parse(" c "), Ok(Command::Continue));
        assert_eq!(parse("d"), Ok(Command::Disassemble(CODE, INSTRUCTIONS)));
    }
}
