//! A device between two requests, as a value: what a snapshot will hold of it.
//!
//! ```text
//!  Transport::suspend() ──▶ State ── serde ──▶ ... ──▶ State ──▶ Transport::resume()
//!   one device, its files     registers, line,          another device of the same kind,
//!   and sockets               positions, DeviceState    with files and sockets of its own
//! ```
//!
//! Guest memory goes its own way. Requests that wait are there, in the rings, so a position is all
//! that is kept of a queue. The device that is suspended lets go of its guest as at a reset, and its
//! driver does not notice; the same device can be resumed too. Registers hold still meanwhile if the
//! vCPUs do.
//!
//! What cannot be a value is treated as the specification has it, or else as if the other side had
//! gone:
//!
//! | device | goes on with | what is lost |
//! |---|---|---|
//! | rng, blk, pmem | nothing; a request is done or still in its queue | nothing |
//! | console | what was typed, the terminal's size | nothing |
//! | net | a frame for the guest, one of the guest's | what the host's kernel or passt had: connections through passt |
//! | ports | what each side was told, bytes on their way | connections: the guest is told of their end |
//! | balloon | its actual size, the guest's figures | nothing |
//! | vsock | the ports given out | connections: the guest is told by an event (5.10.6.7) |
//! | fs | files and open files, found again by their paths | files without a path, or replaced: ESTALE, EBADF |
//!
//! A state can come from a file, so it is checked as a driver's registers are. No command makes
//! snapshots yet; what keeps this true is the tests, which move each device in the middle of its work.
//!
//! Read next: [`super::attach`].

use serde::{Deserialize, Serialize};

use super::mmio::{self, DRIVER_OK, FEATURES_OK, Transport};
use super::queue::Position;
use super::{Broken, Device, balloon, console, fs, interrupt, net, ports, vsock};

/// Bytes of a configuration space that are compared; no device here has more.
const CONFIG: usize = 64;

/// A device, its registers and its place in the queues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Of which kind it is. `[virtio]` 5
    pub id: u32,
    /// What the registers hold.
    pub registers: mmio::State,
    /// What the driver was told.
    pub line: interrupt::State,
    /// The positions in the queues that are in use, while a driver is at work.
    pub queues: Option<Vec<Option<Position>>>,
    /// The configuration space as the driver may have read it, filled up with zeros.
    pub config: Vec<u8>,
    /// What the device remembers.
    pub device: DeviceState,
}

/// What a device remembers, by its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DeviceState {
    /// It does one request at a time and remembers none.
    Nothing,
    /// The user's terminal.
    Console(console::State),
    /// A network card.
    Net(net::state::State),
    /// Ports, in their order.
    Ports(Vec<ports::state::State>),
    /// The balloon.
    Balloon(balloon::State),
    /// The socket device.
    Vsock(vsock::State),
    /// A folder.
    Fs(fs::state::State),
}

/// Why a device cannot go on from a state.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It is another kind's.
    #[error("the state is of a device of kind {state}, this one is of kind {device}")]
    Kind {
        /// The kind that it is of.
        state: u32,
        /// This device's.
        device: u32,
    },
    /// What the device remembered is not what one of its kind does.
    #[error("what the device remembered cannot be: {0}")]
    Device(&'static str),
    /// The driver counts on what this device cannot do.
    #[error("the driver agreed to features {agreed:#x}, this device offers {offered:#x}")]
    Features {
        /// What driver and device agreed on.
        agreed: u64,
        /// What this one offers.
        offered: u64,
    },
    /// Another disk, another address.
    #[error("the driver read a configuration space that this device does not have")]
    Config,
    /// Another number of queues, or queues in use without a driver.
    #[error("the state's queues are not those of a device with {0} of them")]
    Queues(usize),
    /// A queue that cannot be, or no thread.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl DeviceState {
    /// For devices that remember nothing.
    ///
    /// # Errors
    /// [`Unfit::Device`].
    pub fn expect_nothing(self) -> Result<(), Unfit> {
        match self {
            Self::Nothing => Ok(()),
            _ => Err(Unfit::Device("a device of this kind remembers nothing")),
        }
    }
}

impl Transport {
    /// Stops the device between two requests, and takes down all that a driver could tell another
    /// one by.
    pub fn suspend(&self) -> State {
        let registers = self.lock();
        let server = self.server();
        let config = config(server.device());
        let (queues, device) = server.suspend();
        State {
            id: server.device().id(),
            registers: registers.clone(),
            line: server.line().state(),
            queues,
            config,
            device,
        }
    }

    /// Goes on where the device that `state` was taken from stopped, over the same guest memory.
    ///
    /// # Errors
    /// [`Unfit`]; the device is as after a reset then.
    pub fn resume(&self, state: State) -> Result<(), Unfit> {
        let mut registers = self.lock();
        let resumed = self.try_resume(state, &mut registers);
        if resumed.is_err() {
            self.server().reset();
            registers.reset();
        }
        resumed
    }

    fn try_resume(&self, state: State, registers: &mut mmio::State) -> Result<(), Unfit> {
        let server = self.server();
        let device = server.device();
        if state.id != device.id() {
            let (state, device) = (state.id, device.id());
            return Err(Unfit::Kind { state, device });
        }
        let count = device.queues().len();
        let positions = state.queues.as_ref().map_or(count, Vec::len);
        if state.registers.queues.len() != count
            || positions != count
            || state.queues.is_some() && state.registers.status & DRIVER_OK == 0
        {
            return Err(Unfit::Queues(count));
        }
        device.restore(state.device)?;
        let (agreed, offered) = (state.registers.driver_features, self.offered());
        if agreed & !offered != 0 && state.registers.status & FEATURES_OK != 0 {
            return Err(Unfit::Features { agreed, offered });
        }
        let changed = state.config != config(device);
        if changed && !device.config().is_empty() {
            return Err(Unfit::Config);
        }
        let active = state.queues.map(|at| self.queues(&state.registers, &at));
        let active = active.transpose()?;
        *registers = state.registers;
        server.line().restore(state.line);
        if let Some(active) = active {
            server.start(active)?;
            if changed {
                server.config_changed();
            }
        }
        Ok(())
    }
}

/// The configuration space.
fn config(device: &dyn Device) -> Vec<u8> {
    let mut bytes = vec![0; CONFIG];
    device.read_config(0, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
