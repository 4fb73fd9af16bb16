//! The observer: turns what it is told into events, in the order in which things happened.
//!
//! An exit is told when it is answered, because only then is known what a read got. What its answer has
//! caused, an interrupt, a stage reached, comes after it: it waits on the thread until then.
//!
//! RIP and segments come with the exit (KVM_CAP_SYNC_REGS), without a system call of their own.
//!
//! Lock order: this lock is the last one; nothing is called with it held but the writer.
//! Read next: [`mod@crate::gdb`].

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::SyncReg;

use super::calls;
use super::event::{Event, Exit, Place, Topic, Topics, What};
use super::place::{Did, Places, Where};
use super::registers::{Access, Registers};
use super::writer::{Error, Writer};
use crate::kvm::VmExit;
use crate::kvm::call::{Call, Ioctl};
use crate::outcome::Ending;
use crate::timeline::{Nanos, Noted, Stage, now};
use crate::watch::{Observer, Placed, Stand, Verdict};

/// When nothing has happened for so long, held lines and buffers are written.
const QUIET: Duration = Duration::from_millis(200);
/// What one exit's answer may cause that is told after it; more is told before it.
const MAX_LATER: usize = 64;

thread_local! {
    /// What happens on this thread while it answers an exit.
    static LATER: RefCell<Option<Vec<Event>>> = const { RefCell::new(None) };
}

/// One who writes down what happens.
#[derive(Debug)]
pub struct Tracer {
    topics: Topics,
    state: Arc<Mutex<State>>,
    /// Looks after lines that are held; started by the first vCPU, whose thread has signals blocked.
    keeper: Arc<Keeper>,
    thread: OnceLock<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    writer: Writer,
    registers: Registers,
    places: Places,
    /// By processor.
    seats: Vec<Seat>,
    exits: u64,
    /// Whether something was written since the keeper last looked.
    busy: bool,
}

/// What is known of a processor between its exit and the answer.
#[derive(Debug, Default)]
struct Seat {
    entered: Nanos,
    exited: Nanos,
    place: Option<Arc<Place>>,
    /// An exit is not told yet.
    waits: bool,
    /// Registers come with exits.
    synced: bool,
}

#[derive(Debug, Default)]
struct Keeper {
    over: Mutex<bool>,
    changed: Condvar,
}

impl Tracer {
    /// One who writes what is about `topics` by `writer`, with code named by `places`.
    pub fn new(topics: Topics, writer: Writer, places: Places) -> Self {
        Self {
            topics,
            state: Arc::new(Mutex::new(State {
                writer,
                registers: Registers::default(),
                places,
                seats: Vec::new(),
                exits: 0,
                busy: false,
            })),
            keeper: Arc::default(),
            thread: OnceLock::new(),
        }
    }

    /// Writes the rest; the machine is gone.
    ///
    /// # Errors
    /// The first error of writing.
    pub fn finish(&self) -> Result<(), Error> {
        *lock(&self.keeper.over) = true;
        self.keeper.changed.notify_all();
        lock(&self.state).writer.finish()
    }

    /// Tells of `event`, after the exit that is being answered on this thread.
    fn tell(&self, event: Event) {
        let now_told = LATER.with_borrow_mut(|later| match later {
            Some(later) if later.len() < MAX_LATER => {
                later.push(event);
                None
            }
            _ => Some(event),
        });
        if let Some(event) = now_told {
            lock(&self.state).tell(event);
        }
    }

    fn note(&self, topic: Topic, at: Nanos, words: String) {
        self.tell(Event {
            since: at,
            until: at,
            topic,
            vcpu: None,
            what: What::Note(words),
        });
    }

    /// Tells of the exit that waits for its end, and of what its answer has caused.
    fn answer(&self, stand: &mut Stand<'_>) {
        let until = now();
        let mut state = lock(&self.state);
        state.conclude(&self.topics, stand, until);
        for event in LATER.take().into_iter().flatten() {
            state.tell(event);
        }
    }

    /// Starts the thread that writes what is held when nothing happens.
    fn start_keeper(&self) {
        let (keeper, state) = (self.keeper.clone(), self.state.clone());
        let keep = move || {
            let mut over = lock(&keeper.over);
            while !*over {
                let waited = keeper.changed.wait_timeout(over, QUIET);
                over = waited.unwrap_or_else(PoisonError::into_inner).0;
                let mut state = lock(&state);
                if std::mem::take(&mut state.busy) {
                    state.writer.look();
                } else {
                    state.writer.catch_up();
                }
            }
        };
        // Without it, lines come later.
        if let Ok(thread) = thread::Builder::new().name("trace".into()).spawn(keep) {
            let _one_is_enough = self.thread.set(thread);
        }
    }
}

impl Observer for Tracer {
    fn called(&self, call: &Call<'_>) {
        let is_interrupt = matches!(call.ioctl, Ioctl::SignalMsi { .. } | Ioctl::IrqLine { .. });
        if is_interrupt && self.topics.want(Topic::Irq) {
            let words = calls::interrupt(call, &lock(&self.state).registers.ioapic);
            self.note(Topic::Irq, call.since, words.unwrap_or_default());
        } else if self.topics.want(Topic::Ioctls) {
            self.tell(Event {
                since: call.since,
                until: call.until,
                topic: Topic::Ioctls,
                vcpu: call.vcpu,
                what: What::Call {
                    name: call.ioctl.name(),
                    words: calls::words(call),
                    result: calls::result(call),
                },
            });
        }
    }

    fn noted(&self, noted: &Noted) {
        // Each exit says so itself, and better.
        let told = matches!(noted.stage, Stage::FirstExit | Stage::FirstUse(_));
        if self.topics.want(Topic::Boot) && !told {
            self.note(Topic::Boot, noted.at, noted.stage.to_string());
        }
    }

    fn placed(&self, placed: &Placed<'_>) {
        if self.topics.want(Topic::Memory) {
            self.note(Topic::Memory, now(), calls::placed(placed));
        }
    }

    fn entering(&self, stand: &mut Stand<'_>) {
        let mut state = lock(&self.state);
        if self.thread.get().is_none() {
            state.writer.give_way_to(&stand.board.control);
            self.start_keeper();
        }
        let wanted = self.topics.want(Topic::Exits);
        let seat = state.seat(stand.id);
        if wanted && !seat.synced {
            let fd = stand.vcpu.fd();
            fd.set_sync_valid_reg(SyncReg::Register);
            fd.set_sync_valid_reg(SyncReg::SystemRegister);
            seat.synced = true;
        }
        seat.entered = now();
    }

    fn exited(&self, stand: &mut Stand<'_>) -> Verdict {
        let at = now();
        let mut state = lock(&self.state);
        let did = match stand.vcpu.exit() {
            VmExit::PortOut { port, .. } => Did::Out(port),
            VmExit::MmioWrite { gpa, data } => Did::Store(gpa, data.len()),
            _ => Did::Else,
        };
        let synced = state.seat(stand.id).synced;
        let place = synced.then(|| {
            let known = stand.vcpu.fd().sync_regs();
            let at = Where {
                regs: &known.regs,
                sregs: &known.sregs,
                memory: &stand.board.memory,
            };
            state.places.find(at, did)
        });
        let seat = state.seat(stand.id);
        (seat.exited, seat.place, seat.waits) = (at, place, true);
        LATER.set(Some(Vec::new()));
        Verdict::Answer
    }

    fn answered(&self, stand: &mut Stand<'_>) {
        self.answer(stand);
    }

    fn crashed(&self, stand: &mut Stand<'_>, ending: &Ending) {
        self.answer(stand);
        let words = ending.to_string();
        let first = words.lines().next().unwrap_or_default();
        self.note(Topic::Boot, now(), format!("the end: {first}"));
    }

    fn left(&self, _id: u32) {
        for event in LATER.take().into_iter().flatten() {
            lock(&self.state).tell(event);
        }
    }
}

impl State {
    fn tell(&mut self, event: Event) {
        self.busy = true;
        self.writer.tell(event);
    }

    fn seat(&mut self, id: u32) -> &mut Seat {
        let index = usize::try_from(id).unwrap_or(0);
        if index >= self.seats.len() {
            self.seats.resize_with(index + 1, Seat::default);
        }
        #[expect(clippy::indexing_slicing, reason = "made above, if it was not there")]
        &mut self.seats[index]
    }

    /// Tells of the exit of the processor that stands here, answered at `until`.
    fn conclude(&mut self, topics: &Topics, stand: &mut Stand<'_>, until: Nanos) {
        let seat = self.seat(stand.id);
        if !std::mem::take(&mut seat.waits) {
            return;
        }
        let (since, place) = (seat.exited, seat.place.take());
        let guest = since.saturating_sub(seat.entered);
        self.exits += 1;
        let mut exit = Exit {
            number: self.exits,
            kind: "",
            address: None,
            size: 0,
            device: "-",
            register: "".into(),
            index: None,
            value: None,
            meaning: String::new(),
            text: None,
            place,
            guest,
        };
        let story = self.describe(stand, &mut exit);
        let mut tell = |topic, vcpu, what| {
            if topics.want(topic) {
                self.tell(Event {
                    since,
                    until,
                    topic,
                    vcpu,
                    what,
                });
            }
        };
        tell(Topic::Exits, Some(stand.id), What::Exit(Box::new(exit)));
        if let Some(story) = story {
            tell(Topic::Devices, None, What::Note(story));
        }
    }

    /// Fills in what the exit was, and returns what story it makes.
    fn describe(&mut self, stand: &mut Stand<'_>, exit: &mut Exit) -> Option<String> {
        let (ports, mmio) = (&stand.board.ports, &stand.board.mmio);
        let left = stand.vcpu.exit();
        let (kind, address, size, data): (_, _, _, &[u8]) = match &left {
            VmExit::PortOut { port, size, data } => ("out", u64::from(*port), *size, data),
            VmExit::PortIn { port, size, data } => ("in", u64::from(*port), *size, data),
            VmExit::MmioWrite { gpa, data } => ("mmio-write", *gpa, bytes(data), data),
            VmExit::MmioRead { gpa, data } => ("mmio-read", *gpa, bytes(data), data),
            other => {
                let (kind, meaning) = calls::other_exit(other);
                (exit.kind, exit.meaning) = (kind, meaning);
                return None;
            }
        };
        let is_mmio = kind.starts_with("mmio");
        let place = if is_mmio {
            mmio.place(address)
        } else {
            ports.place(address)
        };
        let access = Access {
            device: place.map(|(device, _)| device),
            address,
            offset: place.map_or(0, |(_, offset)| offset),
            write: matches!(kind, "out" | "mmio-write"),
            mmio: is_mmio,
            size,
            data,
        };
        let named = self.registers.name(&access);
        exit.kind = kind;
        (exit.address, exit.size) = (Some(address), size);
        exit.device = named.device.or(access.device).unwrap_or("-");
        (exit.register, exit.index) = (named.register, named.index);
        exit.value = Some(access.value());
        (exit.meaning, exit.text) = (named.meaning, named.text);
        if data.len() > usize::from(size) {
            let count = data.len() / usize::from(size.max(1));
            exit.meaning += &format!(" (string of {count})");
        }
        named.story
    }
}

fn bytes(data: &[u8]) -> u8 {
    u8::try_from(data.len()).unwrap_or(u8::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
