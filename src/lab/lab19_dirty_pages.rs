//! Lab 19: which pages has the guest written?
//!
//! Who moves a machine to another host copies its memory while it runs, and then what has changed since.
//! KVM keeps a bit for each page. Source: `[kvm]` 4.8, KVM_GET_DIRTY_LOG. Read next:
//! [`super::lab20_measure`].

use kvm_ioctls::VcpuExit;

use super::list::{Lab, Variant};
use super::page::Answer;
use super::rig::{CODE, Guest, Rig, SIZE, op, run as enter};
use super::tale::{Stop, Tale, host};
use crate::watch::code::Width;

pub(super) const LAB: Lab = Lab {
    name: "dirty-pages",
    title: "dirty pages: what the guest has written",
    page: include_str!("../../docs/labs/19-dirty-pages.md"),
    linux: false,
    guests: &[GUEST],
    variants: &[Variant {
        name: "no-log",
        what: "the slot is lent without KVM_MEM_LOG_DIRTY_PAGES",
        recognise: "ENOENT from KVM_GET_DIRTY_LOG: this slot keeps no record",
    }],
    answer: Answer {
        right: &["8", "page 8"],
        why: "0x8fff / 0x1000 is 8: a page is 4096 bytes",
    },
    run,
};

#[rustfmt::skip]
const GUEST: Guest = Guest {
    at: CODE,
    width: Width::Bits16,
    ops: &[
        op(&[0xc6, 0x06, 0x00, 0x50, 0x01], "mov byte ptr [0x5000], 1", "page 5"),
        op(&[0xc6, 0x06, 0xff, 0x7f, 0x01], "mov byte ptr [0x7fff], 1", "page 7, its last byte"),
        op(&[0xe6, 0x41], "out 0x41, al", "let the host look"),
        op(&[0xc6, 0x06, 0x00, 0x90, 0x01], "mov byte ptr [0x9000], 1", "page 9"),
        op(&[0xa0, 0x00, 0x60], "mov al, [0x6000]", "page 6, only read"),
        op(&[0xf4], "hlt", "the end"),
    ],
};

fn run(tale: &mut Tale) -> Result<(), Stop> {
    tale.say("a VM, as in lab 1");
    let rig = Rig::bare(tale, SIZE)?;
    if tale.breaks("no-log") {
        tale.say("KVM_SET_USER_MEMORY_REGION: slot 0, 2 MiB from 0 on, no flags");
        rig.lend(tale, 0, 0)?;
    } else {
        let lent = rig.lend_logged();
        let about = "slot 0, 2 MiB from 0 on, KVM_MEM_LOG_DIRTY_PAGES";
        tale.call("KVM_SET_USER_MEMORY_REGION", about, lent)?;
    }
    rig.load(tale, &GUEST)?;
    let mut vcpu = rig.real_mode(tale)?;
    loop {
        tale.say("KVM_RUN");
        let last = match enter(tale, &mut vcpu)? {
            exit @ VcpuExit::IoOut(0x41, _) => {
                tale.exit(&exit);
                false
            }
            VcpuExit::Hlt => {
                tale.exit(&VcpuExit::Hlt);
                true
            }
            exit => return Err(tale.unexpected(&exit)),
        };
        look(tale, &rig)?;
        if last {
            return Ok(());
        }
    }
}

/// Which pages were written since the last look.
fn look(tale: &mut Tale, rig: &Rig) -> Result<(), Stop> {
    let size = usize::try_from(SIZE).map_err(host("count pages"))?;
    let bits = rig.vm.get_dirty_log(0, size);
    // A word has the bits of 64 pages.
    let words = tale.call("KVM_GET_DIRTY_LOG", "slot 0; the call clears it", bits)?;
    let pages = (0_u64..).zip(&words).flat_map(|(word, bits)| {
        let set = (0..64).filter(move |bit| bits >> bit & 1 == 1);
        set.map(move |bit| word * 64 + bit)
    });
    let pages: Vec<_> = pages.map(|page| page.to_string()).collect();
    tale.say(format!("  pages {}", pages.join(", ")));
    Ok(())
}
