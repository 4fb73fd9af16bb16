//! The ladder: hand-assembled guests, each one step above the one before.
//!
//! On a KVM nobody knows, the first rung that breaks tells where it stops. The rungs run on
//! cottage's own layers (`kvm`, `memory`, `vcpu`), without Linux, on every back end.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use cottage::boot::Protocol;
use cottage::kvm::{Kvm, Vcpu, Vm, VmExit};
use cottage::memory::GuestMemory;
use cottage::vcpu::entry_state::EntryState;
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_regs};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

/// Where the guests' code is.
const CODE: GuestAddress = GuestAddress(0x1000);
/// Where a processor started by SIPI with vector 8 begins.
const AP_CODE: GuestAddress = GuestAddress(0x8000);
/// No guest here takes longer, emulated twice over.
const LIMIT: Duration = Duration::from_secs(60);

/// What a guest did, in a form that outlives the exit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Out { port: u16, size: u8, data: Vec<u8> },
    In { port: u16, size: u8, len: usize },
    Load { gpa: u64, len: usize },
    Store { gpa: u64, data: Vec<u8> },
    Halt,
    Shutdown,
    Other(String),
}

fn out(port: u16, byte: u8) -> Seen {
    Seen::Out {
        port,
        size: 1,
        data: vec![byte],
    }
}

/// A machine with 2 MiB of memory and one processor in real mode at [`CODE`].
struct Guest {
    vcpu: Vcpu,
    vm: Arc<Vm>,
    memory: Arc<GuestMemory>,
}

impl Guest {
    fn new(code: &[u8], local_apic: bool) -> Self {
        let memory = Arc::new(GuestMemory::new(2 << 20).unwrap());
        memory.write(CODE, code).unwrap();
        let vm = Kvm::open().unwrap().create_vm(memory.clone()).unwrap();
        let vm = Arc::new(vm);
        vm.give_memory().unwrap();
        if std::fs::exists("/sys/module/kvm_intel").unwrap() {
            vm.set_intel_pages().unwrap();
        }
        if local_apic {
            vm.split_irqchip().unwrap();
        }
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut sregs = vcpu.sregs().unwrap();
        for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
            segment.base = 0;
            segment.selector = 0;
        }
        vcpu.set_sregs(&sregs).unwrap();
        let regs = kvm_regs {
            rip: CODE.0,
            rflags: 2,
            rsp: 0x7000,
            ..Default::default()
        };
        vcpu.set_regs(&regs).unwrap();
        Self { vcpu, vm, memory }
    }

    /// Moves DS, so that real-mode code reaches an address beyond 1 MiB.
    fn with_data_at(self, base: u64) -> Self {
        let mut sregs = self.vcpu.sregs().unwrap();
        sregs.ds.base = base;
        self.vcpu.set_sregs(&sregs).unwrap();
        self
    }

    /// Runs until the guest halts, shuts down or does something unexpected; `answer` fills what
    /// the guest reads and sees every exit as it happens.
    fn run(
        mut self,
        mut answer: impl FnMut(&Seen, &mut [u8]) + Send + 'static,
    ) -> (Vec<Seen>, Self) {
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || {
            let mut all = Vec::new();
            loop {
                let seen = one_exit(&mut self.vcpu, &mut answer);
                all.push(seen.clone());
                if matches!(seen, Seen::Halt | Seen::Shutdown | Seen::Other(_))
                    || seen == out(0xff, 0xff)
                {
                    break;
                }
            }
            done.send((all, self)).unwrap();
        });
        finished.recv_timeout(LIMIT).expect("the guest hangs")
    }
}

/// Enters the guest once; signals do not count.
fn one_exit(vcpu: &mut Vcpu, answer: &mut impl FnMut(&Seen, &mut [u8])) -> Seen {
    loop {
        let (seen, data): (Seen, &mut [u8]) = match vcpu.run().unwrap() {
            VmExit::Interrupted => continue,
            VmExit::PortOut { port, size, data } => (
                Seen::Out {
                    port,
                    size,
                    data: data.to_vec(),
                },
                &mut [],
            ),
            VmExit::PortIn { port, size, data } => (
                Seen::In {
                    port,
                    size,
                    len: data.len(),
                },
                data,
            ),
            VmExit::MmioRead { gpa, data } => (
                Seen::Load {
                    gpa,
                    len: data.len(),
                },
                data,
            ),
            VmExit::MmioWrite { gpa, data } => (
                Seen::Store {
                    gpa,
                    data: data.to_vec(),
                },
                &mut [],
            ),
            VmExit::Halt => (Seen::Halt, &mut []),
            VmExit::Shutdown => (Seen::Shutdown, &mut []),
            other => (Seen::Other(format!("{other:?}")), &mut []),
        };
        answer(&seen, data);
        return seen;
    }
}

fn no_answer(_: &Seen, _: &mut [u8]) {}

#[test]
fn rung_01_hlt_comes_back() {
    let Some(_) = support::kvm() else { return };
    let (seen, _) = Guest::new(&[0xf4], false).run(no_answer); // hlt
    assert_eq!(seen, [Seen::Halt]);
}

#[test]
fn rung_02_port_write_arrives() {
    let Some(_) = support::kvm() else { return };
    let code = [
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, b'R', // mov al, 'R'
        0xee, // out dx, al
        0xf4, // hlt
    ];
    let (seen, _) = Guest::new(&code, false).run(no_answer);
    assert_eq!(seen, [out(0x3f8, b'R'), Seen::Halt]);
}

#[test]
fn rung_03_port_read_is_answered() {
    let Some(_) = support::kvm() else { return };
    let code = [
        0xe5, 0x40, // in ax, 0x40
        0x40, // inc ax
        0xe7, 0x41, // out 0x41, ax
        0xf4, // hlt
    ];
    let (seen, _) = Guest::new(&code, false).run(|_, data| {
        data.copy_from_slice(&[0x34, 0x12][..data.len()]);
    });
    let read = Seen::In {
        port: 0x40,
        size: 2,
        len: 2,
    };
    let wrote = Seen::Out {
        port: 0x41,
        size: 2,
        data: vec![0x35, 0x12],
    };
    assert_eq!(seen, [read, wrote, Seen::Halt]);
}

#[test]
fn rung_04_string_output_keeps_size_and_every_element() {
    let Some(_) = support::kvm() else { return };
    let code = [
        0xbe, 0x00, 0x20, // mov si, 0x2000
        0xb9, 0x03, 0x00, // mov cx, 3
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xfc, // cld
        0xf3, 0x6f, // rep outsw
        0xf4, // hlt
    ];
    let guest = Guest::new(&code, false);
    guest.memory.write(GuestAddress(0x2000), b"abcdef").unwrap();
    let (mut seen, _) = guest.run(no_answer);
    assert_eq!(seen.pop(), Some(Seen::Halt));
    // KVM may deliver the three words in one exit or in three; the size must always be 2.
    let mut all = Vec::new();
    for exit in seen {
        match exit {
            Seen::Out {
                port: 0x3f8,
                size: 2,
                data,
            } => all.extend(data),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(all, b"abcdef");
}

#[test]
fn rung_05_string_input_keeps_size_and_every_element() {
    let Some(_) = support::kvm() else { return };
    let code = [
        0xbf, 0x00, 0x20, // mov di, 0x2000
        0xb9, 0x04, 0x00, // mov cx, 4
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xfc, // cld
        0xf3, 0x6c, // rep insb
        0xf4, // hlt
    ];
    let mut next = b'a';
    let (mut seen, guest) = Guest::new(&code, false).run(move |_, data| {
        for byte in data {
            *byte = next;
            next += 1;
        }
    });
    assert_eq!(seen.pop(), Some(Seen::Halt));
    assert!(
        seen.iter().all(|s| matches!(
            s,
            Seen::In {
                port: 0x3f8,
                size: 1,
                ..
            }
        )),
        "{seen:?}"
    );
    let mut data = [0; 5];
    guest.memory.read(GuestAddress(0x2000), &mut data).unwrap();
    assert_eq!(&data, b"abcd\0");
}

#[test]
fn rung_06_mmio_store_and_load() {
    let Some(_) = support::kvm() else { return };
    let code = [
        0xb8, 0x34, 0x12, // mov ax, 0x1234
        0xa3, 0x10, 0x00, // mov [0x10], ax
        0xa0, 0x20, 0x00, // mov al, [0x20]
        0xe6, 0x41, // out 0x41, al
        0xf4, // hlt
    ];
    let guest = Guest::new(&code, false).with_data_at(0xd000_0000);
    let (seen, _) = guest.run(|_, data| data.fill(0x77));
    let store = Seen::Store {
        gpa: 0xd000_0010,
        data: vec![0x34, 0x12],
    };
    let load = Seen::Load {
        gpa: 0xd000_0020,
        len: 1,
    };
    assert_eq!(seen, [store, load, out(0x41, 0x77), Seen::Halt]);
}

#[test]
fn rung_07_interrupt_through_irqfd() {
    let Some(_) = support::kvm() else { return };
    const GSI: u32 = 4;
    let code = [
        0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00,
        0x00, // mov dword [0xf0], 0x1ff: APIC on
        0xe6, 0x41, // out 0x41, al: ready
        0xfb, // sti
        0xf4, // hlt
        0xeb, 0xfd, // jmp hlt
    ];
    let handler = [
        0xb0, 0xff, // mov al, 0xff
        0xe6, 0xff, // out 0xff, al: the end
        0xf4, // hlt
    ];
    let guest = Guest::new(&code, true).with_data_at(0xfee0_0000);
    guest.memory.write(GuestAddress(0x3000), &handler).unwrap();
    guest
        .memory
        .write(GuestAddress(0x20 * 4), &[0x00, 0x30, 0, 0])
        .unwrap(); // vector 0x20
    let mut route = kvm_irq_routing_entry {
        gsi: GSI,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    route.u.msi.address_lo = 0xfee0_0000; // processor 0
    route.u.msi.data = 0x20;
    let routes = KvmIrqRouting::from_entries(&[route]).unwrap();
    guest.vm.fd().set_gsi_routing(&routes).unwrap();
    let line = EventFd::new(0).unwrap();
    guest.vm.fd().register_irqfd(&line, GSI).unwrap();
    let (seen, _) = guest.run(move |seen, _| {
        if matches!(seen, Seen::Out { port: 0x41, .. }) {
            line.write(1).unwrap();
        }
    });
    assert_eq!(seen.last(), Some(&out(0xff, 0xff)), "{seen:?}");
}

#[test]
fn rung_08_message_to_the_local_apic() {
    let Some(_) = support::kvm() else { return };
    let code = [
        0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00,
        0x00, // mov dword [0xf0], 0x1ff: APIC on
        0xe6, 0x41, // out 0x41, al: ready
        0xfb, // sti
        0xe6, 0x42, // out 0x42, al: so that the run loop gets a look in
        0xeb, 0xfc, // jmp to it
    ];
    let handler = [0xb0, 0xff, 0xe6, 0xff, 0xf4];
    let guest = Guest::new(&code, true).with_data_at(0xfee0_0000);
    guest.memory.write(GuestAddress(0x3000), &handler).unwrap();
    guest
        .memory
        .write(GuestAddress(0x31 * 4), &[0x00, 0x30, 0, 0])
        .unwrap();
    let Guest {
        mut vcpu,
        vm,
        memory,
    } = guest;
    let mut answer = no_answer;
    assert_eq!(one_exit(&mut vcpu, &mut answer), out(0x41, 0));
    assert!(
        vm.signal_msi(0xfee0_0000, 0x31).unwrap(),
        "no local APIC took it"
    );
    let (seen, _) = Guest { vcpu, vm, memory }.run(no_answer);
    assert_eq!(seen.last(), Some(&out(0xff, 0xff)), "{seen:?}");
}

#[test]
fn rung_09_protected_mode() {
    let Some(_) = support::kvm() else { return };
    let code = [
        0xfa, // cli
        0x0f, 0x01, 0x16, 0x00, 0x20, // lgdt [0x2000]
        0x0f, 0x20, 0xc0, // mov eax, cr0
        0x66, 0x83, 0xc8, 0x01, // or eax, 1
        0x0f, 0x22, 0xc0, // mov cr0, eax
        0xea, 0x00, 0x30, 0x08, 0x00, // jmp 8:0x3000
    ];
    let protected = [
        0x66, 0xb8, 0x10, 0x00, // mov ax, 0x10
        0x8e, 0xd8, // mov ds, ax
        0xb8, 0x78, 0x56, 0x34,
        0x12, // mov eax, 0x12345678: an immediate only 32-bit code has
        0xa3, 0x00, 0x00, 0x10, 0x00, // mov [0x100000], eax: beyond real mode's reach
        0xe7, 0x41, // out 0x41, eax
        0xf4, // hlt
    ];
    let guest = Guest::new(&code, false);
    let gdt = [0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff];
    guest
        .memory
        .write(
            GuestAddress(0x2010),
            gdt.map(u64::to_le_bytes).as_flattened(),
        )
        .unwrap();
    guest
        .memory
        .write(GuestAddress(0x2000), &[23, 0, 0x10, 0x20, 0, 0])
        .unwrap();
    guest
        .memory
        .write(GuestAddress(0x3000), &protected)
        .unwrap();
    let (seen, guest) = guest.run(no_answer);
    let wrote = Seen::Out {
        port: 0x41,
        size: 4,
        data: vec![0x78, 0x56, 0x34, 0x12],
    };
    assert_eq!(seen, [wrote, Seen::Halt]);
    let mut stored = [0; 4];
    guest
        .memory
        .read(GuestAddress(0x10_0000), &mut stored)
        .unwrap();
    assert_eq!(stored, [0x78, 0x56, 0x34, 0x12]);
}

/// Puts `code` at 1 MiB and the processor into `protocol`'s entry state there.
fn entered(protocol: Protocol, code: &[u8]) -> Guest {
    let guest = Guest::new(&[0xf4], false);
    let entry = GuestAddress(0x10_0000);
    guest.memory.write(entry, code).unwrap();
    let state = EntryState::new(protocol, entry, GuestAddress(0x7000));
    state.write_tables(&guest.memory).unwrap();
    let mut sregs = guest.vcpu.sregs().unwrap();
    state.apply(&mut sregs);
    guest.vcpu.set_sregs(&sregs).unwrap();
    guest.vcpu.set_regs(state.regs()).unwrap();
    guest
}

#[test]
fn rung_10_pvh_entry_state() {
    let Some(_) = support::kvm() else { return };
    let code = [
        0x89, 0xd8, // mov eax, ebx: the start info
        0xe7, 0x41, // out 0x41, eax
        0xf4, // hlt
    ];
    let (seen, _) = entered(Protocol::Pvh, &code).run(no_answer);
    let info = Seen::Out {
        port: 0x41,
        size: 4,
        data: vec![0x00, 0x70, 0, 0],
    };
    assert_eq!(seen, [info, Seen::Halt]);
}

#[test]
fn rung_11_long_mode_with_our_page_tables() {
    let Some(_) = support::kvm() else { return };
    let code = [
        0x48, 0x89, 0xf0, // mov rax, rsi: the zero page
        0xe7, 0x41, // out 0x41, eax
        0x48, 0xb8, 0, 0, 0, 0xd0, 0, 0, 0, 0, // mov rax, 0xd0000000: mapped, but no RAM
        0x48, 0x8b, 0x18, // mov rbx, [rax]
        0x48, 0x0f, 0xcb, // bswap rbx: only 64-bit code can
        0x48, 0x89, 0x18, // mov [rax], rbx
        0xf4, // hlt
    ];
    let (seen, _) = entered(Protocol::Linux64, &code).run(|_, data| {
        for (byte, value) in data.iter_mut().zip(1..) {
            *byte = value;
        }
    });
    let info = Seen::Out {
        port: 0x41,
        size: 4,
        data: vec![0x00, 0x70, 0, 0],
    };
    let load = Seen::Load {
        gpa: 0xd000_0000,
        len: 8,
    };
    let store = Seen::Store {
        gpa: 0xd000_0000,
        data: vec![8, 7, 6, 5, 4, 3, 2, 1],
    };
    assert_eq!(seen, [info, load, store, Seen::Halt]);
}

#[test]
fn rung_12_second_processor_starts_by_init_and_sipi() {
    let Some(_) = support::kvm() else { return };
    let code = [
        0x66, 0xc7, 0x06, 0xf0, 0x00, 0xff, 0x01, 0x00,
        0x00, // mov dword [0xf0], 0x1ff: APIC on
        0x66, 0xc7, 0x06, 0x00, 0x03, 0x00, 0x45, 0x0c, 0x00, // ICR: INIT to all but self
        0x66, 0xc7, 0x06, 0x00, 0x03, 0x08, 0x46, 0x0c, 0x00, // ICR: SIPI, page 8
        0xb0, 0xff, 0xe6, 0xff, // out 0xff, 0xff: done
        0xf4,
    ];
    let second = [0xb0, b'2', 0xe6, 0x41, 0xb0, 0xff, 0xe6, 0xff, 0xf4];
    let guest = Guest::new(&code, true).with_data_at(0xfee0_0000);
    guest.memory.write(AP_CODE, &second).unwrap();
    let mut other = guest.vm.create_vcpu(1).unwrap();
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        // Waits in KVM_RUN until the SIPI comes.
        done.send(one_exit(&mut other, &mut no_answer)).unwrap();
    });
    let (seen, _guest) = guest.run(no_answer);
    assert_eq!(seen, [out(0xff, 0xff)]);
    let first = finished
        .recv_timeout(LIMIT)
        .expect("the second processor never ran");
    assert_eq!(first, out(0x41, b'2'));
}

#[test]
fn rung_13_triple_fault_is_a_shutdown() {
    let Some(_) = support::kvm() else { return };
    // A page fault without an interrupt table. (ud2 would be shorter, but a software back end's
    // emulator may not know it.)
    let code = [
        0x48, 0xb8, 0, 0, 0, 0, 0, 1, 0, 0, // mov rax, 1 << 40: not mapped
        0x48, 0x8b, 0x18, // mov rbx, [rax]
        0xf4, // hlt
    ];
    let (seen, _) = entered(Protocol::Linux64, &code).run(no_answer);
    assert_eq!(seen, [Seen::Shutdown]);
}
