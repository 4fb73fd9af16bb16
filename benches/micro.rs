//! What cottage's single steps cost on this machine: `make bench-micro`.
//!
//! Exits to the VMM and back, a printed byte's way, loading a kernel, unpacking one, CPUID. Each is
//! timed through cottage's library, as `cottage run` uses it. What needs `/dev/kvm` or the guest
//! images says in words that it is left out where they are missing; any KVM will do.
//!
//! usage: cargo bench --bench micro [-- NAME]; divan's options, see its `--help`

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;

use cottage::boot::unpack::{Algorithm, Size, unpack};
use cottage::boot::{self, Blob, Options, Protocol, Unpack};
use cottage::bus::PortBus;
use cottage::console::output::Output;
use cottage::control::Control;
use cottage::devices::ioapic::{IoApic, MsiSink};
use cottage::devices::serial::SerialPort;
use cottage::devices::uart::Uart;
use cottage::kvm::{Kvm, Vcpu, VmExit};
use cottage::memory::GuestMemory;
use cottage::memory::layout::{COM1_GSI, COM1_PORT, COM1_PORTS};
use cottage::timeline::Timeline;
use cottage::vcpu::cpuid;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use kvm_bindings::kvm_regs;
use vm_memory::GuestAddress;

const MIB: u64 = 1 << 20;

fn main() {
    if let Err(error) = Kvm::open() {
        println!("exits and CPUID are left out: {error}");
    }
    for name in ["vmlinux", "bzImage"] {
        if image(name).is_none() {
            println!("loading {name} is left out: it is not built; make kernel-tiny");
        }
    }
    divan::main();
}

// ---- exits ----------------------------------------------------------------------------------

/// Where the guests' code is.
const CODE: u64 = 0x1000;
/// The first address behind the guests' memory.
const NO_RAM: u64 = 2 * MIB;

fn no_kvm() -> bool {
    Kvm::open().is_err()
}

/// A processor in real mode, whose DS begins at [`NO_RAM`], before `code`.
fn guest(code: &[u8]) -> Vcpu {
    let memory = Arc::new(GuestMemory::new(NO_RAM).unwrap());
    memory.write(GuestAddress(CODE), code).unwrap();
    let vm = Arc::new(Kvm::open().unwrap().create_vm(memory).unwrap());
    vm.give_memory().unwrap();
    if std::fs::exists("/sys/module/kvm_intel").unwrap() {
        vm.set_intel_pages().unwrap();
    }
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    sregs.ds.base = NO_RAM;
    vcpu.set_sregs(&sregs).unwrap();
    let regs = kvm_regs {
        rip: CODE,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).unwrap();
    vcpu
}

/// Into the guest, one access and the jump back to it, and out again.
fn round_trip(bencher: Bencher, code: &[u8], expected: fn(&VmExit) -> bool) {
    let mut vcpu = guest(code);
    bencher.bench_local(|| {
        let exit = vcpu.run().unwrap();
        assert!(expected(&exit), "{exit:?}");
    });
}

#[divan::bench(ignore = no_kvm())]
fn exit_port_out(bencher: Bencher) {
    let code = [
        0xe6, 0x80, // again: out 0x80, al
        0xeb, 0xfc, // jmp again
    ];
    round_trip(bencher, &code, |exit| {
        matches!(exit, VmExit::PortOut { .. })
    });
}

#[divan::bench(ignore = no_kvm())]
fn exit_port_in(bencher: Bencher) {
    let code = [
        0xe4, 0x80, // again: in al, 0x80
        0xeb, 0xfc, // jmp again
    ];
    round_trip(bencher, &code, |exit| matches!(exit, VmExit::PortIn { .. }));
}

#[divan::bench(ignore = no_kvm())]
fn exit_mmio_write(bencher: Bencher) {
    let code = [
        0xa2, 0x00, 0x00, // again: mov [0], al
        0xeb, 0xfb, // jmp again
    ];
    round_trip(bencher, &code, |exit| {
        matches!(exit, VmExit::MmioWrite { .. })
    });
}

#[divan::bench(ignore = no_kvm())]
fn exit_mmio_read(bencher: Bencher) {
    let code = [
        0xa0, 0x00, 0x00, // again: mov al, [0]
        0xeb, 0xfb, // jmp again
    ];
    round_trip(bencher, &code, |exit| {
        matches!(exit, VmExit::MmioRead { .. })
    });
}

// ---- the console ----------------------------------------------------------------------------

/// A line of a boot log.
const TEXT: &[u8] = b"[    0.152336] printk: legacy console [ttyS0] enabled and so on\r\n";

/// The chip alone: a byte into its transmitter and onto the wire.
#[divan::bench]
fn serial_uart(bencher: Bencher) {
    let mut uart = Uart::new();
    let text = BytesCount::new(TEXT.len());
    bencher.counter(text).bench_local(|| {
        for byte in TEXT {
            uart.write(0, *byte);
            black_box(uart.outgoing());
            uart.sent();
        }
    });
}

/// From the bus to write(2), a call a byte, into /dev/null.
#[divan::bench]
fn serial_bus_to_output(bencher: Bencher) {
    let ports = console_to_dev_null();
    let text = BytesCount::new(TEXT.len());
    bencher.counter(text).bench_local(|| {
        for byte in TEXT {
            ports.write(COM1_PORT, 1, &[*byte]);
        }
    });
}

#[derive(Debug)]
struct NoProcessor;

impl MsiSink for NoProcessor {
    fn signal(&self, _address: u64, _data: u32) {}
}

/// COM1 on a bus. [`Output`] opens stdout for itself, so that is /dev/null while it does.
fn console_to_dev_null() -> PortBus {
    let stdout = rustix::io::dup(std::io::stdout()).unwrap();
    let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
    rustix::stdio::dup2_stdout(&null).unwrap();
    let output = Arc::new(Output::stdout(Arc::new(Timeline::new())));
    rustix::stdio::dup2_stdout(&stdout).unwrap();
    let ioapic = Arc::new(IoApic::new(1, COM1_GSI + 1, Arc::new(NoProcessor)));
    let control = Arc::new(Control::new().unwrap());
    let serial = Arc::new(SerialPort::new(ioapic, COM1_GSI, output, control));
    let mut ports = PortBus::new();
    ports.claim(COM1_PORT, COM1_PORTS, serial).unwrap();
    ports
}

// ---- kernels --------------------------------------------------------------------------------

/// The tiny kernel's file `name`, if it is built.
fn image(name: &str) -> Option<Blob> {
    let folder = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/guest-images/out/tiny"
    ));
    Blob::open(&folder.join(name)).ok()
}

fn not_built(name: &str) -> bool {
    image(name).is_none()
}

/// Loads the file into memory that nobody has touched, as at each start; mapping it is not timed.
fn load(bencher: Bencher, name: &str, options: Options) {
    let blob = image(name).unwrap();
    let bytes = BytesCount::new(blob.len());
    bencher
        .counter(bytes)
        .with_inputs(|| GuestMemory::new(64 * MIB).unwrap())
        .bench_local_refs(|memory| boot::load_kernel(&blob, &options, memory).unwrap());
}

#[divan::bench(ignore = not_built("vmlinux"))]
fn load_elf_linux64(bencher: Bencher) {
    let protocol = Some(Protocol::Linux64);
    let options = Options {
        protocol,
        ..Options::default()
    };
    load(bencher, "vmlinux", options);
}

#[divan::bench(ignore = not_built("vmlinux"))]
fn load_elf_pvh(bencher: Bencher) {
    let protocol = Some(Protocol::Pvh);
    let options = Options {
        protocol,
        ..Options::default()
    };
    load(bencher, "vmlinux", options);
}

#[divan::bench(ignore = not_built("bzImage"))]
fn load_bzimage(bencher: Bencher) {
    load(bencher, "bzImage", Options::default());
}

#[divan::bench(ignore = not_built("bzImage"))]
fn load_bzimage_for_the_guest_to_unpack(bencher: Bencher) {
    let options = Options {
        unpack: Unpack::Guest,
        ..Options::default()
    };
    load(bencher, "bzImage", options);
}

/// One file packed by each compressor that kernels are packed with; bytes are those that come out.
/// It is small and packs well, so these tell decoders apart and not how long a kernel takes.
#[divan::bench(args = ["gz", "bz2", "lzma", "xz", "lzo", "lz4", "zst"])]
fn unpack_sample(bencher: Bencher, suffix: &str) {
    let path = format!(
        "{}/tests/fixtures/packed/sample.{suffix}",
        env!("CARGO_MANIFEST_DIR")
    );
    let packed = std::fs::read(path).unwrap();
    let algorithm = Algorithm::detect(&packed).unwrap();
    let len = packed.len() as u64;
    let blob = Blob::memory(packed, suffix.to_owned());
    let size = Size {
        limit: 64 * MIB,
        expected: None,
    };
    let run = || unpack(&blob, 0, len, algorithm, size).unwrap();
    bencher.counter(BytesCount::of_slice(&run())).bench(run);
}

// ---- processors -----------------------------------------------------------------------------

fn machine() -> cpuid::Machine {
    cpuid::Machine {
        vcpus: 1,
        tsc_deadline: true,
        host_is_tcg: false,
    }
}

/// KVM's list.
#[divan::bench(ignore = no_kvm())]
fn cpuid_supported(bencher: Bencher) {
    let kvm = Kvm::open().unwrap();
    bencher.bench_local(|| kvm.supported_cpuid().unwrap());
}

/// Our changes to it.
#[divan::bench(ignore = no_kvm())]
fn cpuid_for_machine(bencher: Bencher) {
    let supported = Kvm::open().unwrap().supported_cpuid().unwrap();
    bencher
        .with_inputs(|| supported.clone())
        .bench_local_values(|list| cpuid::for_machine(list, machine()));
}

/// And its way into a processor.
#[divan::bench(ignore = no_kvm())]
fn cpuid_set(bencher: Bencher) {
    let supported = Kvm::open().unwrap().supported_cpuid().unwrap();
    let list = cpuid::for_machine(supported, machine());
    let vcpu = guest(&[]);
    bencher.bench_local(|| vcpu.set_cpuid(&list).unwrap());
}
