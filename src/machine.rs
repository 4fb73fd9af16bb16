//! Chapter 2, the story: how a machine is built, runs and ends.
//!
//! [`Machine::build`] lists the steps in order, [`Machine::run`] what happens then. The reasons
//! for the order:
//!
//! 1. Guest memory is mapped first. A second thread fills it while this one makes the VM: on many
//!    kernels KVM_CREATE_VM sleeps for a grace period, and what is loaded meanwhile costs no time.
//!    Loading needs no KVM, so a broken kernel file is reported on any machine, and before
//!    anything that KVM may refuse.
//! 2. The VM gets its memory slots before any interrupt controller: on recent kernels a slot that
//!    is added later waits for a grace period (docs/adr/0003).
//! 3. The irqchip comes before the first vCPU, which gets its local APIC from it. A Linux gets the split
//!    one, for a full irqchip makes leaving slow (docs/adr/0003); other kernels expect a PC's.
//! 4. Devices come before vCPUs run, vCPUs before the terminal is raw: an error on the way must
//!    print on a terminal that still returns the carriage.
//! 5. Signals are blocked before threads start, because threads inherit that.
//!
//! Values pass forward by ownership, so a wrong order mostly does not compile.
//! Read next: [`crate::kvm`], and then module by module as `lib.rs` lists them.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::bus::{self, MmioBus, PortBus};
use crate::config::{Irqchip, VmConfig};
use crate::console::output::Output;
use crate::console::signals::Signals;
use crate::console::terminal::{self, Raw};
use crate::console::words::say;
use crate::control::Control;
use crate::devices::Pins;
use crate::devices::debug_exit::DebugExit;
use crate::devices::ioapic::IoApic;
use crate::devices::pci::PciHostBridge;
use crate::devices::report::{MarkPort, StatusPort};
use crate::devices::reset::ResetLine;
use crate::devices::rtc::Rtc;
use crate::devices::serial::SerialPort;
use crate::devices::sleep::SleepControl;
use crate::event_loop::{EventLoop, Served};
use crate::kvm::irqchip::KernelPins;
use crate::kvm::{self, Kvm, Vcpu, Vm};
use crate::loading::{self, Kernel};
use crate::memory::layout::{
    ACPI_SLEEP_PORT, ACPI_SLEEP_PORTS, BOOT_MARK_PORT, BOOT_MARK_PORTS, COM1_GSI, COM1_PORT,
    COM1_PORTS, EXIT_STATUS_PORT, EXIT_STATUS_PORTS, I8042_PORT, I8042_PORTS, IOAPIC, IOAPIC_SIZE,
    PCI_CONFIG_PORT, PCI_CONFIG_PORTS, RTC_PORT, RTC_PORTS,
};
use crate::memory::{self, GuestMemory};
use crate::outcome::{Ending, Outcome, USER_ERROR, VMM_FAILURE};
use crate::platform;
use crate::status::StatusLine;
use crate::timeline::{Stage, Timeline};
use crate::vcpu::entry_state::EntryState;
use crate::vcpu::identity::Identity;
use crate::vcpu::{cpuid, run};
use crate::virtio::Device;
use crate::virtio::attach::{self, Sockets};
use crate::virtio::console::{Console, Port};
use crate::virtio::mmio::Transport;
use crate::watch::Watch;

/// Why a machine could not be built or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was to be loaded does not load; the user's to mend.
    #[error(transparent)]
    Loading(#[from] loading::Error),
    /// A disk or network cannot be used; the user's to mend.
    #[error(transparent)]
    Device(#[from] attach::Error),
    /// A file cannot be memory; the user's to mend.
    #[error(transparent)]
    Pmem(#[from] memory::mapped::Error),
    /// Guest memory could not be had.
    #[error(transparent)]
    Memory(#[from] memory::guest::Error),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// Two devices claim one address: a bug.
    #[error(transparent)]
    Bus(#[from] bus::Overlap),
    /// The host refused something ordinary.
    #[error("Cannot {what}")]
    Host {
        /// What cottage wanted.
        what: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

/// A machine that is complete and stands still.
#[derive(Debug)]
pub struct Machine {
    vcpus: Vec<Vcpu>,
    board: Arc<run::Board>,
    served: Served,
    virtio: Vec<Arc<Transport>>,
    status: Arc<StatusPort>,
    command_given: bool,
}

impl Error {
    /// The exit status this error ends the process with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Loading(_)
            | Self::Device(_)
            | Self::Pmem(_)
            | Self::Kvm(
                kvm::Error::TooManyVcpus { .. }
                | kvm::Error::TooMuchMemory { .. }
                | kvm::Error::FileBeyond { .. },
            ) => USER_ERROR,
            _ => VMM_FAILURE,
        }
    }
}

impl Machine {
    /// Builds the machine that `config` describes; `timeline` gets the instants between the steps,
    /// and `watch` looks on.
    ///
    /// # Errors
    /// [`Error`], before anything has run.
    pub fn build(config: &VmConfig, timeline: &Arc<Timeline>, watch: Watch) -> Result<Self, Error> {
        // 1. Files, disks and networks, which may be refused; memory, and what the guest finds in it.
        let files = memory::mapped::map_all(&config.pmems, config.memory)?;
        let devices = attach::open(config, &files, say)?;
        let kernel = Kernel::look(config)?;
        let (chip, guest) = (kernel.irqchip(config), kernel.guest_end(config));
        let memory = Arc::new(GuestMemory::new(config.memory)?);
        timeline.note(Stage::MemoryMapped);
        // 2. and 3. A VM around it with local APICs, or with all of a PC's interrupt controllers.
        let fill = || loading::fill(&memory, config, kernel, timeline);
        let (entry, made) = while_filling(fill, || {
            let kvm = Kvm::open_watched(watch.clone())?;
            timeline.note(Stage::KvmOpened);
            kvm.check_vcpus(config.vcpus)?;
            let vm = kvm.create_vm(memory.clone())?.with_files(files);
            let vm = make_vm(&kvm, vm, chip, timeline)?;
            let processors = make_vcpus(&kvm, &vm, config.vcpus, timeline)?;
            Ok::<_, kvm::Error>((vm, processors))
        })?;
        let (vm, (vcpus, identity)) = made?;
        // The others wait for the first to call them.
        vcpus.first().map_or(Ok(()), |first| entry.give(first))?;
        timeline.note(Stage::VcpusReady);
        // 4. Devices.
        let mut mmio = MmioBus::new();
        let pins = interrupt_pins((config, chip), vm, &mut mmio)?;
        let control = Arc::new(Control::new().map_err(host("make an eventfd"))?);
        let output = Arc::new(Output::stdout(timeline.clone()));
        let serial = SerialPort::new(pins.clone(), COM1_GSI, output.clone(), control.clone());
        let mut served = Served {
            serial: Arc::new(serial),
            port: None,
            output,
            control: control.clone(),
            marks: Arc::new(MarkPort::new(timeline.clone(), control.clone())),
            guest,
        };
        let status = Arc::new(StatusPort::default());
        let ports = port_bus(&served, &status, config.debug_exit)?;
        let mut sockets = Sockets {
            mmio: &mut mmio,
            ioapic: pins,
            memory: memory.clone(),
            control: control.clone(),
            tell: say,
        };
        let virtio = attach_all(devices, config, &mut served, &mut sockets)?;
        timeline.note(Stage::DevicesReady);
        let board = Arc::new(run::Board {
            identity,
            ports,
            mmio,
            control,
            memory,
            timeline: timeline.clone(),
            watch,
        });
        Ok(Self {
            vcpus,
            board,
            served,
            virtio,
            status,
            command_given: !config.command.is_empty(),
        })
    }

    /// Runs the machine to its end.
    ///
    /// # Errors
    /// [`Error::Host`] when the terminal or a thread is not to be had.
    pub fn run(self) -> Result<Outcome, Error> {
        let signals = Signals::block().map_err(host("open a signalfd"))?;
        let mut event_loop =
            EventLoop::new(&self.served, signals).map_err(host("duplicate stdout"))?;
        let status_line =
            StatusLine::new(&self.served, &self.board, &self.virtio, self.vcpus.len());
        let _raw = Raw::enter().map_err(host("set the terminal to raw mode"))?;
        let threads = start_threads(self.vcpus, &self.board)?;
        let ending = event_loop.run(&|| status_line.render());
        let timeline = &self.board.timeline;
        timeline.note_once(Stage::GuestEnded);
        timeline.look_at_memory(&self.board.memory.host_range());
        let figures = self.virtio.iter().map(|t| t.server().device().figures());
        timeline.keep_figures(figures.flatten().collect());
        // Whatever happened: the vCPUs must be out of the guest before its memory goes.
        stop_threads(threads, &self.board.control);
        for device in &self.virtio {
            device.server().shut_down();
        }
        timeline.note(Stage::VcpusStopped);
        Ok(Outcome {
            ending: ending.map_err(host("wait for events"))?,
            status: self.status.status(),
            panic: self.served.output.panic_line(),
            command_given: self.command_given,
            lost_output: self.served.output.lost(),
        })
    }
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host { what, source }
}

/// The I/O ports, in ascending order; the drawing is in [`crate::memory::layout`].
fn port_bus(
    served: &Served,
    status: &Arc<StatusPort>,
    debug_exit: Option<u16>,
) -> Result<PortBus, bus::Overlap> {
    let mut ports = PortBus::new();
    // First, because found first: nearly all port accesses are the console's.
    ports.claim(COM1_PORT, COM1_PORTS, served.serial.clone())?;
    ports.claim(I8042_PORT, I8042_PORTS, Arc::new(ResetLine))?;
    ports.claim(RTC_PORT, RTC_PORTS, Arc::new(Rtc::new()))?;
    ports.claim(ACPI_SLEEP_PORT, ACPI_SLEEP_PORTS, Arc::new(SleepControl))?;
    ports.claim(BOOT_MARK_PORT, BOOT_MARK_PORTS, served.marks.clone())?;
    ports.claim(EXIT_STATUS_PORT, EXIT_STATUS_PORTS, status.clone())?;
    ports.claim(
        PCI_CONFIG_PORT,
        PCI_CONFIG_PORTS,
        Arc::<PciHostBridge>::default(),
    )?;
    if let Some(port) = debug_exit {
        ports.claim(port, 1, Arc::new(DebugExit))?;
    }
    Ok(ports)
}

/// Attaches `devices`, and the console where it is one of them: the last.
fn attach_all(
    mut devices: Vec<Arc<dyn Device>>,
    config: &VmConfig,
    served: &mut Served,
    sockets: &mut Sockets<'_>,
) -> Result<Vec<Arc<Transport>>, bus::Overlap> {
    if !config.virtio_console {
        return attach::attach(devices, sockets);
    }
    let (output, control) = (served.output.clone(), served.control.clone());
    let console = Arc::new(Console::new(output, control, terminal::window_size()));
    devices.push(console.clone());
    let attached = attach::attach(devices, sockets)?;
    let last = attached.last().cloned();
    served.port = last.map(|transport| Port::new(console, transport));
    Ok(attached)
}

/// Fills guest memory on a thread of its own and calls `work` meanwhile; returns both results.
///
/// The thread is the one that fills, because `work` sleeps early: with one processor it would
/// otherwise begin when the memory is full.
fn while_filling<T>(
    fill: impl FnOnce() -> Result<EntryState, loading::Error> + Send,
    work: impl FnOnce() -> T,
) -> Result<(EntryState, T), Error> {
    thread::scope(|scope| {
        let filling = thread::Builder::new()
            .name("fill".into())
            .spawn_scoped(scope, fill)
            .map_err(host("start a thread"))?;
        let done = work();
        match filling.join() {
            Ok(filled) => Ok((filled?, done)),
            // Not reached: a panic has ended the process in the panic hook.
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Gives the VM its memory and its part of the interrupt controllers.
fn make_vm(kvm: &Kvm, vm: Vm, chip: Irqchip, timeline: &Timeline) -> Result<Arc<Vm>, kvm::Error> {
    timeline.note(Stage::VmCreated);
    vm.give_memory().or_else(|refused| {
        // Linux 6.1 refuses a slot beyond the processor's addresses by a bare EINVAL. Where KVM takes
        // it, make_vcpus finds out.
        vm.check_memory(cpuid::address_bits(&kvm.supported_cpuid()?))?;
        Err(refused)
    })?;
    if cpuid::has_vmx() {
        vm.set_intel_pages()?;
    }
    timeline.note(Stage::MemoryGiven);
    match chip {
        Irqchip::Split => vm.split_irqchip()?,
        Irqchip::Full => vm.full_irqchip()?,
    }
    Ok(Arc::new(vm))
}

/// Where devices raise interrupts: at an I/O APIC of ours, or at KVM's controllers.
fn interrupt_pins(
    (config, chip): (&VmConfig, Irqchip),
    vm: Arc<Vm>,
    mmio: &mut MmioBus,
) -> Result<Arc<dyn Pins>, bus::Overlap> {
    if chip == Irqchip::Full {
        return Ok(Arc::new(KernelPins::new(vm)));
    }
    let pins = platform::ioapic_pins(&platform::lines(chip, config.virtio_devices()));
    let ioapic = Arc::new(IoApic::new(platform::ioapic_id(config.vcpus), pins, vm));
    mmio.claim(IOAPIC.0, IOAPIC_SIZE, ioapic.clone())?;
    Ok(ioapic)
}

/// The processors, and what they are; the first knows it already.
fn make_vcpus(
    kvm: &Kvm,
    vm: &Arc<Vm>,
    count: u32,
    timeline: &Timeline,
) -> Result<(Vec<Vcpu>, Identity), kvm::Error> {
    let machine = cpuid::Machine {
        vcpus: count,
        tsc_deadline: kvm.has_tsc_deadline(),
        host_is_tcg: cpuid::host_is_tcg(),
    };
    let supported = kvm.supported_cpuid()?;
    vm.check_memory(cpuid::address_bits(&supported))?;
    let identity = Identity::new(supported, machine);
    timeline.note(Stage::CpuidKnown);
    let vcpus = (0..count).map(|id| vm.create_vcpu(id));
    let vcpus = vcpus.collect::<Result<Vec<_>, _>>()?;
    if let Some(first) = vcpus.first() {
        identity.give(first, 0)?;
    }
    Ok((vcpus, identity))
}

fn start_threads(vcpus: Vec<Vcpu>, board: &Arc<run::Board>) -> Result<Vec<JoinHandle<()>>, Error> {
    // The signal only has to interrupt KVM_RUN; SIG_IGN would not, an empty handler does.
    extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), kicked)
        .map_err(|e| host("set a signal handler")(io::Error::from_raw_os_error(e.errno())))?;
    let mut threads = Vec::with_capacity(vcpus.len());
    for (id, mut vcpu) in (0..).zip(vcpus) {
        let shared = board.clone();
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || run::run(id, &mut vcpu, &shared));
        match thread {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                stop_threads(threads, &board.control);
                return Err(Error::Host {
                    what: "start a vCPU thread",
                    source,
                });
            }
        }
    }
    Ok(threads)
}

/// Gets all vCPUs out of the guest and waits for their threads.
fn stop_threads(threads: Vec<JoinHandle<()>>, control: &Control) {
    control.stop(Ending::Quit); // no news if it has ended already
    for thread in threads {
        // A kick can come just before KVM_RUN and be lost, so it is repeated until it worked.
        while !thread.is_finished() {
            let _finished_meanwhile = thread.kill(SIGRTMIN());
            thread::sleep(Duration::from_micros(50));
        }
        // A thread that panicked has ended the process in the panic hook.
        let _never_panicked = thread.join();
    }
}
