//! Who serves a device's queues, on which thread, and until when.
//!
//! ```text
//!  vCPU thread                                      the device's own thread ("virtio-blk")
//!  QueueNotify is written: an exit
//!    ├─ a device that never waits: served here
//!    └─ one that may: marked, woken ──────────────▶ served there, until the queue is empty
//! ```
//!
//! A device to which something happens by itself, as to a network card, sleeps in its own
//! [`Device::wait`] and finds frames as well as notifications there. What comes for the driver is
//! fetched only when there are buffers for it ([`super::Inbox`]).
//!
//! A notification is an ordinary exit and not an ioeventfd: on recent host kernels a single
//! ioeventfd makes closing the VM wait for a grace period, longer than all of cottage's start
//! (docs/adr/0013). The thread starts with the driver, so a disk that no driver wants costs none.
//!
//! The lock on the queues is held for one request at a time, or for a batch of what comes for the
//! driver. A reset waits for that one and takes the queues away; nothing is touched in guest memory
//! after it, as `[virtio]` 2.1 promises.
//!
//! Lock order: queues, then the interrupt line. Read next: [`super::interrupt`].

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::interrupt::{CONFIG, Line, USED};
use super::queue::{Chain, Position, RequestQueue, Room};
use super::state::DeviceState;
use super::{Broken, Buffers, Device, Faults, Inbox, Request};
use crate::control::Control;
use crate::memory::GuestMemory;

/// Requests of one queue that a device's thread serves before it looks at the others.
const TURN: usize = 256;
/// Messages from outside for which a driver gets one interrupt. With one for each, a processor that
/// guest and device share would go to and fro between them for each.
const BATCH: usize = 16;

/// A device and what it is served with.
#[derive(Debug)]
pub struct Server {
    device: Arc<dyn Device>,
    memory: Arc<GuestMemory>,
    control: Arc<Control>,
    line: Line,
    faults: Faults,
    /// While the driver is at work.
    active: Mutex<Option<Active>>,
    /// A reset waits for `active`: whoever serves lets go of it.
    resetting: AtomicBool,
    /// Notified queues that the thread has not looked at yet, a bit each.
    notified: AtomicU32,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What driver and device agreed on.
#[derive(Debug)]
pub struct Active {
    features: u64,
    queues: Vec<Option<RequestQueue>>,
    /// The request being served; kept, so that a request costs no allocation.
    chain: Chain,
    /// What was written to which buffer; kept for the same reason.
    used: Vec<(u16, u32)>,
}

impl Active {
    /// `queues` has an entry for each queue of the device, `None` for those the driver left out.
    pub fn new(features: u64, queues: Vec<Option<RequestQueue>>) -> Self {
        Self {
            features,
            queues,
            chain: Chain::default(),
            used: Vec::new(),
        }
    }
}

impl Server {
    /// A server at rest; `tell` passes on what the user should know of a broken driver.
    pub fn new(
        device: Arc<dyn Device>,
        memory: Arc<GuestMemory>,
        control: Arc<Control>,
        line: Line,
        tell: fn(&str),
    ) -> Self {
        Self {
            device,
            memory,
            control,
            line,
            faults: Faults::new(tell),
            active: Mutex::default(),
            resetting: AtomicBool::new(false),
            notified: AtomicU32::new(0),
            thread: Mutex::default(),
        }
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The way to the driver.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Guest RAM.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// How often its drivers broke a rule.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Serves from now on.
    ///
    /// # Errors
    /// [`Broken::NoThread`].
    pub fn start(self: &Arc<Self>, active: Active) -> Result<(), Broken> {
        self.device.started(active.features);
        *lock(&self.active) = Some(active);
        let mut thread = lock(&self.thread);
        if self.device.may_wait() && thread.is_none() {
            let server = self.clone();
            let started = thread::Builder::new()
                .name(self.device.name().to_owned())
                .spawn(move || server.run());
            *thread = Some(started.map_err(Broken::NoThread)?);
        }
        drop(thread);
        // Buffers may have been there before, when notifications were not heard, as Linux puts the
        // balloon's statistics in before DRIVER_OK; or they were another server's.
        (0..self.device.queues().len()).for_each(|index| self.notify(index));
        Ok(())
    }

    /// The driver says that there is something in queue `index`.
    pub fn notify(&self, index: usize) {
        if !self.device.may_wait() {
            self.serve(index, usize::MAX);
        } else if let Some(bit) = u32::try_from(index).ok().and_then(|i| 1_u32.checked_shl(i)) {
            self.notified.fetch_or(bit, Ordering::Release);
            self.wake();
        }
    }

    /// Takes queue `index` away from the device.
    pub fn stop_queue(&self, index: usize) {
        let mut active = lock(&self.active);
        if let Some(queue) = active.as_mut().and_then(|a| a.queues.get_mut(index)) {
            *queue = None;
        }
    }

    /// Stops serving. When it returns, no request is in progress.
    pub fn reset(&self) {
        self.stop_after(|_active| ());
        self.line.reset();
    }

    /// Stops serving and says where: the queues' positions if a driver was at work, and what the
    /// device remembered. To the device it is a reset, the driver does not notice.
    pub fn suspend(&self) -> (Option<Vec<Option<Position>>>, DeviceState) {
        self.stop_after(|active| {
            let position = |queue: &Option<_>| queue.as_ref().map(RequestQueue::position);
            let queues = active.map(|active| active.queues.iter().map(position).collect());
            (queues, self.device.save())
        })
    }

    /// Stops serving after a last look at what is served.
    fn stop_after<T>(&self, look: impl FnOnce(Option<&Active>) -> T) -> T {
        self.resetting.store(true, Ordering::Release);
        let mut active = lock(&self.active);
        let seen = look(active.as_ref());
        *active = None;
        self.device.stopped();
        drop(active);
        self.resetting.store(false, Ordering::Release);
        seen
    }

    /// Gives up on a driver that broke a rule, until it resets the device.
    pub fn give_up(&self, broken: &Broken) {
        let mut active = lock(&self.active);
        let listening = active.take().is_some();
        self.device.stopped();
        self.gave_up(broken, listening);
    }

    fn gave_up(&self, broken: &Broken, listening: bool) {
        self.faults.note(&*self.device, broken);
        self.line.give_up(listening);
    }

    /// Ends the thread, after `control` was told to stop; the device puts its things in order.
    pub fn shut_down(&self) {
        self.wake();
        if let Some(thread) = lock(&self.thread).take() {
            // A thread that panicked has ended the process in the panic hook.
            let _never_panicked = thread.join();
        }
        self.device.stopped();
    }

    fn wake(&self) {
        if let Some(thread) = &*lock(&self.thread) {
            self.device.wake(thread.thread());
        }
    }

    /// The device's thread.
    fn run(&self) {
        while !self.control.stopping() {
            let mut notified = self.notified.swap(0, Ordering::Acquire);
            if notified == 0 {
                notified = self.device.wait();
            }
            while notified != 0 {
                let index = notified.trailing_zeros() as usize;
                if !self.serve(index, TURN) {
                    self.notified.fetch_or(1 << index, Ordering::Release);
                }
                notified &= notified - 1;
            }
        }
    }

    /// Serves queue `index` for whoever has something for it, or room for what comes from it, and
    /// has other things to do: until it is empty, or for a turn. False if it may not be empty.
    pub fn serve_a_turn(&self, index: usize) -> bool {
        self.serve(index, TURN)
    }

    /// The configuration space has changed: tells the driver that is at work.
    pub fn config_changed(&self) {
        // With the lock held: after a reset the line must stay as the reset left it.
        let active = lock(&self.active);
        if active.is_some() {
            self.line.raise(CONFIG);
        }
    }

    /// Serves queue `index` until it is empty, or `most` requests of it; false after so many. A
    /// guest could keep it full for ever: the end of the run, a reset and the other queues get
    /// through.
    fn serve(&self, index: usize, most: usize) -> bool {
        let batch = if self.device.inbox(index).is_some() {
            BATCH
        } else {
            1
        };
        for _ in (0..most).step_by(batch) {
            let mut active = lock(&self.active);
            let served = active.as_mut().map(|active| self.step(active, index));
            match served {
                Some(Ok(true)) => {}
                Some(Err(broken)) => {
                    *active = None;
                    self.device.stopped();
                    // With the lock held: after a reset the line must stay as the reset left it.
                    self.gave_up(&broken, true);
                    return true;
                }
                Some(Ok(false)) | None => return true,
            }
            drop(active);
            if self.resetting.load(Ordering::Acquire) || self.control.stopping() {
                return true;
            }
        }
        false
    }

    /// Serves one request, or fills buffers with a batch of messages; false if there is no more and
    /// the driver, or [`Device::wait`], will tell of the next.
    fn step(&self, active: &mut Active, index: usize) -> Result<bool, Broken> {
        let mut more = true;
        if let Some(inbox) = self.device.inbox(index) {
            for _ in 0..BATCH {
                more = self.fill(active, index, inbox)?;
                if !more {
                    break;
                }
            }
        } else {
            more = self.answer(active, index)?;
        }
        let Some(Some(queue)) = active.queues.get_mut(index) else {
            return Ok(false);
        };
        if queue.interrupt_due(&self.memory)? {
            self.line.raise(USED);
        }
        Ok(more)
    }

    /// Serves one request; false if there was none.
    fn answer(&self, active: &mut Active, index: usize) -> Result<bool, Broken> {
        let Some(Some(queue)) = active.queues.get_mut(index) else {
            return Ok(false);
        };
        if !self.device.ready(index) {
            return Ok(false);
        }
        if !queue.pop(&self.memory, &mut active.chain)? {
            return queue.ask_for_notifications(&self.memory);
        }
        let written = self.device.serve(&Request {
            queue: index,
            features: active.features,
            chain: &active.chain,
            memory: &self.memory,
        })?;
        if self.device.keeps(index) {
            queue.put_back();
            return Ok(false);
        }
        queue.push(&self.memory, active.chain.head, written)?;
        Ok(true)
    }

    /// Fills buffers of queue `index` with one message; false if there is none of the one or the
    /// other.
    fn fill(&self, active: &mut Active, index: usize, inbox: &dyn Inbox) -> Result<bool, Broken> {
        let Some(Some(queue)) = active.queues.get_mut(index) else {
            inbox.listen(false);
            return Ok(false);
        };
        queue.gather(&self.memory, inbox.expects(active.features))?;
        if queue.held().is_empty() {
            inbox.listen(false);
            return queue.ask_for_notifications(&self.memory);
        }
        inbox.listen(true);
        let ready = Buffers {
            memory: &self.memory,
            chains: queue.held(),
        };
        let Some(message) = inbox.fetch(active.features, &ready) else {
            return Ok(false);
        };
        let count = loop {
            match queue.gather(&self.memory, message)? {
                Room::Enough(count) => break count,
                Room::Missing if queue.ask_for_notifications(&self.memory)? => {}
                Room::Missing => return Ok(false),
                Room::TooSmall => {
                    inbox.discard();
                    return Ok(true);
                }
            }
        };
        active.used.clear();
        let chains = queue.held().get(..count).unwrap_or(&[]);
        inbox.deliver(&self.memory, chains, &mut active.used)?;
        queue.push_held(&self.memory, &active.used)?;
        Ok(true)
    }
}

/// A poisoned lock means that a thread panicked, and a panic ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
