//! Lab 13: a serial port, as much of it as a guest needs to print.
//!
//! A driver asks the line status before each letter. Who answers that, and takes the letters, is a serial
//! port. Source: National Semiconductor PC16550D data sheet. Read next: [`super::lab14_serial_input`].

use kvm_ioctls::VcpuExit;
use vm_memory::GuestAddress;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, op, run as enter};
use super::tale::{Stop, Tale};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "serial",
    title: "a serial port: the guest prints",
    page: include_str!("../../docs/labs/13-serial.md"),
    linux: false,
    guests: &[GUEST],
    variants: &[Variant {
        name: "lsr-zero",
        what: "the line status reads 0: never ready",
        recognise: "no output, and one exit after another, all of them `in` from port 0x3fd, where the line \
                    status is. The second kind of \"no output\": the guest waits for its device",
    }],
    answer: Answer {
        right: &["0x20"],
        why: "THRE, bit 5 of the line status: the transmitter's register is empty",
    },
    run,
};

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &[
        op(&[0xbe, 0x00, 0x20], "mov si, 0x2000", "the text"),
        op(&[0xac], "lodsb [si]", "next letter"),
        op(&[0x84, 0xc0], "test al, al", "0 ends it"),
        op(&[0x74, 0x12], "je short 0x101a", "then stop"),
        op(&[0x88, 0xc4], "mov ah, al", "keep it"),
        op(&[0xba, 0xfd, 0x03], "mov dx, 0x3fd", "LSR, the line status"),
        op(&[0xec], "in al, dx", "ask"),
        op(&[0xa8, 0x20], "test al, 0x20", "bit 5: transmitter empty"),
        op(&[0x74, 0xfb], "je short 0x100d", "not yet: ask again"),
        op(&[0xba, 0xf8, 0x03], "mov dx, 0x3f8", "THR, the transmitter"),
        op(&[0x88, 0xe0], "mov al, ah", "the letter"),
        op(&[0xee], "out dx, al", "send it"),
        op(&[0xeb, 0xe9], "jmp short 0x1003", "next"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

const TEXT: &[u8] = b"hi\n\0";
const THR: u16 = 0x3f8;
const LSR: u16 = 0x3fd;
/// Holding register and shift register are empty.
const EMPTY: u8 = 0x60;
/// Questions in a row after which we take the guest for one that waits for ever.
const ENOUGH: u32 = 1000;

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let rig = Rig::new(tale)?;
    rig.load(tale, &GUEST)?;
    rig.memory.write(GuestAddress(0x2000), TEXT)?;
    tale.say("memory at 0x2000: \"hi\\n\" and a NUL");
    let mut vcpu = rig.real_mode(tale)?;

    let status = if tale.breaks("lsr-zero") { 0 } else { EMPTY };
    let mut printed = Vec::new();
    let mut asked = 0;
    tale.say("KVM_RUN, again and again");
    loop {
        match enter(tale, &mut vcpu)? {
            VcpuExit::IoIn(LSR, data) => {
                data.fill(status);
                asked += 1;
                if asked == ENOUGH {
                    tale.say(format!(
                        "  {asked} times: in from port {LSR:#x}; we answer {status:#x}"
                    ));
                    break;
                }
                if status != 0 {
                    tale.exit(&VcpuExit::IoIn(LSR, data));
                    tale.say(format!("  we answer {status:#x}: empty"));
                }
            }
            VcpuExit::IoOut(THR, data) => {
                tale.exit(&VcpuExit::IoOut(THR, data));
                printed.extend_from_slice(data);
            }
            VcpuExit::Hlt => {
                tale.exit(&VcpuExit::Hlt);
                break;
            }
            exit => return Err(tale.unexpected(&exit)),
        }
    }
    tale.say(format!(
        "the guest has printed {:?}",
        String::from_utf8_lossy(&printed)
    ));
    Ok(())
}
