//! Which instruction of the guest's an exit came from.
//!
//! KVM leaves RIP at the instruction for what it reads from us and for what hardware let it skip later, and
//! behind it for a store that it has emulated. So where the instruction at RIP does not do what the exit
//! says, one is looked for that ends there and does: to the same port, or by the registers to the same
//! address. If none does, none is shown.
//!
//! Code is read through the guest's own page tables, at each exit, because a guest may change it; decoding
//! is what takes time, and is done once for the same bytes.
//! Read next: [`super::fold`].

use std::collections::HashMap;
use std::sync::Arc;

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use kvm_bindings::{kvm_regs, kvm_sregs};
use vm_memory::GuestAddress;

use super::event::Place;
use crate::memory::GuestMemory;
use crate::watch::code::{LONGEST, Width, disassemble};
use crate::watch::paging::{End, walk_memory};
use crate::watch::symbols::Symbols;

/// Places remembered; a guest with more starts over.
const MAX_PLACES: usize = 1024;
/// Bytes looked at: an instruction before RIP and one from there on.
const WINDOW: usize = 2 * LONGEST;

/// What an exit says that the instruction has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// Written to this port.
    Out(u16),
    /// Stored so many bytes at this guest-physical address.
    Store(u64, usize),
    /// Anything after which RIP has not moved.
    Else,
}

/// A processor and the memory it runs in.
#[derive(Clone, Copy, Debug)]
pub struct Where<'a> {
    /// RIP, and the registers that addresses are made of.
    pub regs: &'a kvm_regs,
    /// Mode, segments, page tables.
    pub sregs: &'a kvm_sregs,
    /// Guest RAM.
    pub memory: &'a GuestMemory,
}

/// Finds places, and remembers them.
#[derive(Debug, Default)]
pub struct Places {
    symbols: Option<Symbols>,
    known: HashMap<u64, Known>,
}

#[derive(Debug)]
struct Known {
    code: [u8; WINDOW],
    did: Did,
    place: Arc<Place>,
}

impl Places {
    /// Names by `symbols`, if there are any.
    pub fn new(symbols: Option<Symbols>) -> Self {
        let known = HashMap::new();
        Self { symbols, known }
    }

    /// Where the exit that `did` this came from.
    pub fn find(&mut self, at: Where<'_>, did: Did) -> Arc<Place> {
        let rip = at.regs.rip;
        let code = code_around(at);
        if let Some(known) = self.known.get(&rip)
            && known.code == code
            && known.did == did
        {
            return known.place.clone();
        }
        let place = Arc::new(self.decode(at, &code, did));
        if self.known.len() >= MAX_PLACES {
            self.known.clear();
        }
        let known = Known {
            code,
            did,
            place: place.clone(),
        };
        self.known.insert(rip, known);
        place
    }

    fn decode(&self, at: Where<'_>, code: &[u8; WINDOW], did: Did) -> Place {
        let (before, from) = code.split_at(LONGEST);
        let rip = at.regs.rip;
        let fits = |start: u64, code: &[u8]| {
            let instruction = decoded(at, start, code)?;
            does(&instruction, at, did).then_some(instruction)
        };
        let here = fits(rip, from).map(|_| (rip, from));
        let found = here.or_else(|| {
            // The longest first: a shorter one may be its tail, without its prefixes.
            (1..=LONGEST).rev().find_map(|len| {
                let start = rip.checked_sub(len as u64)?;
                let code = before.get(LONGEST - len..)?;
                let instruction = fits(start, code)?;
                (instruction.len() == len).then_some((start, code))
            })
        });
        let start = found.map_or(rip, |(start, _)| start);
        let line = found
            .and_then(|(start, code)| disassemble(code, start, width(at.sregs)).into_iter().next());
        let place = self.symbols.as_ref().and_then(|known| known.at(start));
        Place {
            rip: start,
            instruction: line.map(|line| line.text),
            symbol: place.map(|place| format!("{}+{:#x}", place.name, place.offset)),
        }
    }
}

fn width(sregs: &kvm_sregs) -> Width {
    Width::of(sregs.efer >> 10 & 1 != 0, sregs.cs.l != 0, sregs.cs.db != 0)
}

/// The instruction that `code`, at `start`, begins with, if it is one.
fn decoded(at: Where<'_>, start: u64, code: &[u8]) -> Option<Instruction> {
    let bits = match width(at.sregs) {
        Width::Bits16 => 16,
        Width::Bits32 => 32,
        Width::Bits64 => 64,
    };
    let instruction = Decoder::with_ip(bits, code, start, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Whether `instruction` can have done what the exit says.
fn does(instruction: &Instruction, at: Where<'_>, did: Did) -> bool {
    match did {
        Did::Else => true,
        Did::Out(port) => {
            let by = instruction.mnemonic();
            let string = matches!(by, Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd);
            let there = if instruction.op0_kind() == OpKind::Immediate8 {
                u16::from(instruction.immediate8()) == port
            } else {
                at.regs.rdx & 0xffff == u64::from(port)
            };
            string || (by == Mnemonic::Out && there)
        }
        Did::Store(gpa, len) => (0..instruction.op_count()).any(|operand| {
            let memory =
                instruction.op_kind(operand) == OpKind::Memory && stores(instruction, operand);
            let size = instruction.memory_size().size();
            memory
                && size == len
                && instruction
                    .virtual_address(operand, 0, |register, _, _| value(register, at))
                    .and_then(|linear| physical(at, linear))
                    == Some(GuestAddress(gpa))
        }),
    }
}

/// Whether `operand` is written to.
fn stores(instruction: &Instruction, operand: u32) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let access = factory.info(instruction).op_access(operand);
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// A register's value, and a segment's base, for address arithmetic.
fn value(register: Register, at: Where<'_>) -> Option<u64> {
    let (regs, sregs) = (at.regs, at.sregs);
    // In 64-bit mode the bases of these four are taken for 0. [sdm3] 3.4.4
    let long = width(sregs) == Width::Bits64;
    let flat = |base| if long { 0 } else { base };
    Some(match register.full_register() {
        Register::RAX => regs.rax,
        Register::RBX => regs.rbx,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::RSP => regs.rsp,
        Register::RBP => regs.rbp,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        Register::CS => flat(sregs.cs.base),
        Register::DS => flat(sregs.ds.base),
        Register::ES => flat(sregs.es.base),
        Register::SS => flat(sregs.ss.base),
        Register::FS => sregs.fs.base,
        Register::GS => sregs.gs.base,
        _ => return None,
    })
}

/// Where a linear address is in guest memory.
fn physical(at: Where<'_>, linear: u64) -> Option<GuestAddress> {
    const PG: u64 = 1 << 31;
    if at.sregs.cr0 & PG == 0 {
        return Some(GuestAddress(linear & 0xffff_ffff));
    }
    match walk_memory(at.memory, at.sregs, linear).end {
        End::Mapped(gpa) => Some(GuestAddress(gpa)),
        End::NotPresent | End::NoMemory(_) | End::NotCanonical => None,
    }
}

/// The bytes before RIP and from there on; zeros where nothing is mapped.
fn code_around(at: Where<'_>) -> [u8; WINDOW] {
    let base = match width(at.sregs) {
        Width::Bits64 => 0,
        _ => at.sregs.cs.base,
    };
    let first = base.wrapping_add(at.regs.rip).wrapping_sub(LONGEST as u64);
    let mut code = [0; WINDOW];
    let mut done = 0;
    while done < WINDOW {
        let linear = first.wrapping_add(done as u64);
        let left_in_page = 0x1000 - usize::try_from(linear & 0xfff).unwrap_or(0);
        let end = WINDOW.min(done + left_in_page);
        if let (Some(gpa), Some(part)) = (physical(at, linear), code.get_mut(done..end)) {
            // What is not RAM stays zeros.
            let _no_ram = at.memory.read(gpa, part);
        }
        done = end;
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(code: &[u8], did: Did, regs: kvm_regs) -> Place {
        let memory = GuestMemory::new(2 << 20).unwrap();
        memory.write(GuestAddress(0x1000), code).unwrap();
        let mut sregs = kvm_sregs::default();
        sregs.cs.db = 1; // 32-bit code without paging
        let at = Where {
            regs: &regs,
            sregs: &sregs,
            memory: &memory,
        };
        (*Places::default().find(at, did)).clone()
    }

    fn at(rip: u64) -> kvm_regs {
        kvm_regs {
            rip,
            rax: 0xfec0_0000,
            rdx: 0x3f8,
            ..Default::default()
        }
    }

    #[test]
    fn an_out_is_found_at_rip_and_behind_it() {
        // nop; out dx, al; nop
        for rip in [0x1001, 0x1002] {
            let place = place(&[0x90, 0xee, 0x90], Did::Out(0x3f8), at(rip));
            assert_eq!(place.rip, 0x1001);
            assert_eq!(place.instruction.as_deref(), Some("out dx, al"));
        }
        let other_port = place(&[0x90, 0xee, 0x90], Did::Out(0x80), at(0x1002));
        assert_eq!(other_port.instruction, None);
    }

    #[test]
    fn a_store_is_found_by_the_address_its_registers_make() {
        // mov [eax+0x10], ebx; nop
        let code = [0x89, 0x58, 0x10, 0x90];
        let store = place(&code, Did::Store(0xfec0_0010, 4), at(0x1003));
        assert_eq!(store.instruction.as_deref(), Some("mov [eax+0x10], ebx"));
        assert_eq!(store.rip, 0x1000);
        let elsewhere = place(&code, Did::Store(0xfec0_0000, 4), at(0x1003));
        assert_eq!((elsewhere.rip, elsewhere.instruction), (0x1003, None));
    }

    #[test]
    fn a_load_behind_a_store_to_the_same_address_is_not_taken_for_it() {
        // mov [eax+0x10], ebx; mov ecx, [eax+0x10]
        let code = [0x89, 0x58, 0x10, 0x8b, 0x48, 0x10];
        let store = place(&code, Did::Store(0xfec0_0010, 4), at(0x1003));
        assert_eq!(store.rip, 0x1000);
    }

    #[test]
    fn code_that_changes_under_the_same_address_is_seen() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let (regs, mut sregs) = (at(0x1000), kvm_sregs::default());
        sregs.cs.db = 1;
        let mut places = Places::default();
        let mut text = |code: &[u8]| {
            memory.write(GuestAddress(0x1000), code).unwrap();
            let (regs, sregs, memory) = (&regs, &sregs, &memory);
            let at = Where {
                regs,
                sregs,
                memory,
            };
            places.find(at, Did::Else).instruction.clone()
        };
        assert_eq!(text(&[0xec]).as_deref(), Some("in al, dx"));
        assert_eq!(text(&[0xf4]).as_deref(), Some("hlt"));
    }

    #[test]
    fn a_guest_that_runs_nowhere_has_a_place_all_the_same() {
        let regs = at(u64::MAX - 3);
        let mut sregs = kvm_sregs {
            cr0: 1 << 31 | 1,
            cr3: u64::MAX,
            efer: 1 << 10,
            ..Default::default()
        };
        sregs.cs.l = 1;
        let memory = GuestMemory::new(2 << 20).unwrap();
        let at = Where {
            regs: &regs,
            sregs: &sregs,
            memory: &memory,
        };
        let place = Places::default().find(at, Did::Out(1));
        assert_eq!((place.rip, &place.instruction), (u64::MAX - 3, &None));
    }
}
