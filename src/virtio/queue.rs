//! Virtqueues: rings in guest memory through which a driver hands over requests.
//!
//! ```text
//!  driver: writes descriptors ─▶ available ring ─▶ notifies
//!  device: pop() ─▶ [Chain: segments to read, then segments to write] ─▶ push() ─▶ used ring
//! ```
//!
//! The rings are walked by the crate virtio-queue, which bounds every index. It is lenient,
//! though: where a chain goes astray it ends there, as if the driver had ended it. Here that is an
//! error, with every other rule a driver may break. What comes out of [`RequestQueue::pop`] was
//! copied from guest memory once and checked once: it has at most as many segments as the queue
//! has entries, all of them RAM, and those the device may write come last.
//!
//! Source: `[virtio]` Virtual I/O Device (VIRTIO) 1.2, OASIS CS01, section 2.7 "Split Virtqueues".
//! Read next: [`super::server`], which pops and pushes.

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Broken, Message};
use crate::memory::GuestMemory;
use crate::memory::transfer::Segment;

/// Where a driver put a queue; as the transport's registers have it, not yet checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSetup {
    /// Number of entries; a power of two.
    pub size: u32,
    /// The driver has said that the rest is complete.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring, the "driver area".
    pub available: u64,
    /// Guest-physical address of the used ring, the "device area".
    pub used: u64,
}

/// Where the device stands in the rings, between two requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Requests taken so far, modulo 2^16 as both counts.
    pub next_avail: u16,
    /// Requests handed back so far.
    pub next_used: u16,
}

/// A request as the driver handed it over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The number by which it is handed back.
    pub head: u16,
    /// What the device reads.
    pub readable: Vec<Segment>,
    /// What the device writes.
    pub writable: Vec<Segment>,
}

impl Chain {
    /// How many bytes the device may write.
    pub fn room(&self) -> usize {
        self.writable.iter().map(|part| part.len as usize).sum()
    }

    /// Becomes the request of these `descriptors`, in a queue of `size` entries.
    fn read(
        &mut self,
        descriptors: DescriptorChain<&GuestMemoryMmap<()>>,
        size: usize,
        memory: &GuestMemory,
    ) -> Result<(), Broken> {
        self.head = descriptors.head_index();
        self.readable.clear();
        self.writable.clear();
        let head = self.head;
        let wrong = |reason| Broken::Chain { head, reason };
        let mut more = true;
        for descriptor in descriptors {
            more = descriptor.has_next();
            let segment = Segment {
                gpa: descriptor.addr(),
                len: descriptor.len(),
            };
            if descriptor.is_write_only() {
                self.writable.push(segment);
            } else if self.writable.is_empty() {
                self.readable.push(segment);
            } else {
                // [virtio] 2.7.4.2
                return Err(wrong("a part to read stands behind one to write"));
            }
            // [virtio] 2.7.5.3.1: not longer than the queue, indirect or not.
            if self.readable.len() + self.writable.len() > size {
                return Err(wrong("it has more parts than the queue has entries"));
            }
            memory
                .check(segment.gpa, u64::from(segment.len))
                .map_err(|_numbers| Broken::Segment { head, segment })?;
        }
        if more {
            // No part at all, a next one that does not exist, a loop, a table in a table, more
            // than 4 GiB in all.
            return Err(wrong("its descriptors lead nowhere"));
        }
        Ok(())
    }
}

/// What [`RequestQueue::gather`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Enough, in that many of the chains held.
    Enough(usize),
    /// Too little so far.
    Missing,
    /// Too little even with all that may be used for one message.
    TooSmall,
}

/// A queue in use.
#[derive(Debug)]
pub struct RequestQueue {
    queue: Queue,
    /// Buffers for messages, taken and not used yet: so many at the front. Those behind are kept so
    /// that most messages cost no allocation.
    held: Vec<Chain>,
    holds: usize,
    /// Elements for the used ring; kept for the same reason.
    elements: Vec<u8>,
    /// Where the used ring ended when it was last looked whether the driver wants to know.
    told: u16,
}

impl RequestQueue {
    /// Takes over the queue that `setup` describes, from `position` on, if it obeys the rules for
    /// one of at most `max_size` entries.
    ///
    /// # Errors
    /// [`Broken::Queue`].
    pub fn new(
        setup: &QueueSetup,
        max_size: u16,
        event_index: bool,
        position: Position,
        memory: &GuestMemory,
    ) -> Result<Self, Broken> {
        let wrong = |reason: String| Broken::Queue {
            setup: *setup,
            reason,
        };
        let size = u16::try_from(setup.size).map_err(|e| wrong(e.to_string()))?;
        // [virtio] 2.7: a power of two, and each part on its boundary.
        let queue = Queue::try_from(QueueState {
            max_size,
            // Positions cannot be wrong by themselves: a driver's index that does not fit to them
            // is found when a request is taken.
            next_avail: position.next_avail,
            next_used: position.next_used,
            event_idx_enabled: event_index,
            size,
            ready: true,
            desc_table: setup.descriptors,
            avail_ring: setup.available,
            used_ring: setup.used,
        })
        .map_err(|e| wrong(e.to_string()))?;
        // virtio-queue's own check says no more than "no". [virtio] 2.7: sizes of the parts, the
        // rings with their event indices.
        let entries = u64::from(size);
        for (start, len) in [
            (setup.descriptors, 16 * entries),
            (setup.available, 6 + 2 * entries),
            (setup.used, 6 + 8 * entries),
        ] {
            memory
                .check(GuestAddress(start), len)
                .map_err(|e| wrong(e.to_string()))?;
        }
        let told = queue.next_used();
        Ok(Self {
            queue,
            held: Vec::new(),
            holds: 0,
            elements: Vec::new(),
            told,
        })
    }

    /// Where the device stands in the rings, buffers held not taken. The rest is nothing between two
    /// requests, once the driver has been interrupted for all that was pushed.
    pub fn position(&self) -> Position {
        // Never more than the queue has entries.
        let holds = u16::try_from(self.holds).unwrap_or(u16::MAX);
        Position {
            next_avail: self.queue.next_avail().wrapping_sub(holds),
            next_used: self.queue.next_used(),
        }
    }

    /// Takes the next request into `chain`; false if there is none.
    ///
    /// # Errors
    /// [`Broken`] when the driver broke a rule; the queue is of no use then.
    pub fn pop(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<bool, Broken> {
        let size = usize::from(self.queue.size());
        let mut available = self.queue.iter(memory.backend()).map_err(Broken::Ring)?;
        let Some(descriptors) = available.next() else {
            return Ok(false);
        };
        chain.read(descriptors, size, memory)?;
        Ok(true)
    }

    /// Puts the request back that was taken last: it is the next one again.
    pub fn put_back(&mut self) {
        let taken = self.queue.next_avail();
        self.queue.set_next_avail(taken.wrapping_sub(1));
    }

    /// Takes buffers from the driver until those held have room for `message`. They stay held until
    /// [`Self::push_held`], whatever is found: no value is read twice.
    ///
    /// # Errors
    /// [`Broken`] when the driver broke a rule.
    pub fn gather(&mut self, memory: &GuestMemory, message: Message) -> Result<Room, Broken> {
        let most = if message.spreads {
            usize::from(self.queue.size())
        } else {
            1
        };
        let size = usize::from(self.queue.size());
        let (mut room, mut count) = (0, 0);
        for chain in self.held().iter().take(most) {
            if room >= message.len {
                break;
            }
            room += chain.room();
            count += 1;
        }
        if room >= message.len {
            return Ok(Room::Enough(count));
        }
        let mut available = self.queue.iter(memory.backend()).map_err(Broken::Ring)?;
        while room < message.len {
            if count == most {
                return Ok(Room::TooSmall);
            }
            let Some(descriptors) = available.next() else {
                return Ok(Room::Missing);
            };
            if self.held.len() == count {
                self.held.push(Chain::default());
            }
            if let Some(chain) = self.held.get_mut(count) {
                chain.read(descriptors, size, memory)?;
                room += chain.room();
            }
            count += 1;
            self.holds = count;
        }
        Ok(Room::Enough(count))
    }

    /// The buffers that wait for messages, in the driver's order.
    pub fn held(&self) -> &[Chain] {
        self.held.get(..self.holds).unwrap_or(&[])
    }

    /// Hands the first buffers held back, with what was written to them.
    ///
    /// # Errors
    /// [`Broken::Ring`].
    pub fn push_held(&mut self, memory: &GuestMemory, used: &[(u16, u32)]) -> Result<(), Broken> {
        if let Some(held) = self.held.get_mut(..self.holds) {
            held.rotate_left(used.len().min(self.holds));
        }
        self.holds -= used.len().min(self.holds);
        self.push_all(memory, used)
    }

    /// Hands several requests back at once: the driver sees all of them or none.
    ///
    /// # Errors
    /// [`Broken::Ring`].
    fn push_all(&mut self, memory: &GuestMemory, used: &[(u16, u32)]) -> Result<(), Broken> {
        let Some(((last, written), before)) = used.split_last() else {
            return Ok(());
        };
        // The crate shows each element when it writes it. So all but the last are written here, by
        // one write, or two where the ring begins again.
        let mut rest = before;
        while !rest.is_empty() {
            let next = self.queue.next_used();
            let slot = next % self.queue.size();
            let (now, later) = rest.split_at(rest.len().min((self.queue.size() - slot).into()));
            self.elements.clear();
            for (head, written) in now {
                let element = [u32::from(*head), *written].map(u32::to_le_bytes);
                self.elements.extend(element.as_flattened());
            }
            // [virtio] 2.7.8: flags and index, then elements of an id and a length.
            let at = 4 + 8 * u64::from(slot);
            let place = GuestAddress(self.queue.used_ring().wrapping_add(at));
            memory
                .write(place, &self.elements)
                .map_err(|_numbers| Broken::Ring(virtio_queue::Error::InvalidChain))?;
            let count = u16::try_from(now.len()).unwrap_or(0);
            self.queue.set_next_used(next.wrapping_add(count));
            rest = later;
        }
        self.push(memory, *last, *written)
    }

    /// Hands a request back, with the number of bytes written to it.
    ///
    /// # Errors
    /// [`Broken::Ring`].
    pub fn push(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), Broken> {
        self.queue
            .add_used(memory.backend(), head, written)
            .map_err(Broken::Ring)
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call.
    ///
    /// # Errors
    /// [`Broken::Ring`].
    pub fn interrupt_due(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        // Not the crate's: of what push_all pushes at once it counts one.
        let used = self.queue.next_used();
        let pushed = used.wrapping_sub(std::mem::replace(&mut self.told, used));
        if pushed == 0 || !self.queue.event_idx_enabled() {
            return Ok(pushed != 0);
        }
        // The driver writes its event index, then looks at the used ring; here the other way round.
        fence(Ordering::SeqCst);
        // [virtio] 2.7.6: used_event stands behind flags, index and entries.
        let at = 4 + 2 * u64::from(self.queue.size());
        let place = GuestAddress(self.queue.avail_ring().wrapping_add(at));
        let event = memory.backend().load::<u16>(place, Ordering::Relaxed);
        let event = event.map_err(|e| Broken::Ring(virtio_queue::Error::GuestMemory(e)))?;
        // 2.7.7.2: due if the entry of that number is among them.
        let behind = used.wrapping_sub(u16::from_le(event)).wrapping_sub(1);
        Ok(behind < pushed)
    }

    /// Asks to be notified again; true if there is more to do already.
    ///
    /// # Errors
    /// [`Broken::Ring`].
    pub fn ask_for_notifications(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        self.queue
            .enable_notification(memory.backend())
            .map_err(Broken::Ring)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_QUEUE_NOTIFY};
    use virtio_bindings::virtio_ring::{
        VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    };

    use super::*;
    use crate::virtio::testing::{
        AVAILABLE, DESCRIPTORS, Echo, Guest, Part, SIZE, USED, read, wait, write,
    };

    const INDIRECT: u64 = 1 << 28;

    fn linked(part: Part, flags: u32) -> Part {
        let flags = part.flags | flags;
        Part { flags, ..part }
    }

    #[test]
    fn virtio_2_7_request_arrives_with_its_parts_and_comes_back() {
        let echo = Echo::default();
        let seen = echo.seen.clone();
        let guest = Guest::with(echo);
        let mut driver = guest.driver();
        driver.start(0);
        driver.put(&[read(0x5000, 3), read(0x6000, 0), write(0x7000, 9)]);
        assert_eq!(driver.done(), [(0, 1)]);
        let segment = |gpa, len| Segment {
            gpa: GuestAddress(gpa),
            len,
        };
        let chain = Chain {
            head: 0,
            readable: vec![segment(0x5000, 3), segment(0x6000, 0)],
            writable: vec![segment(0x7000, 9)],
        };
        assert_eq!(*seen.lock().unwrap(), [chain]);
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 1);
        assert_eq!(guest.sent.count(), 1);
    }

    #[test]
    fn rings_wrap_around() {
        let guest = Guest::with(Echo::default());
        let mut driver = guest.driver();
        driver.start(0);
        let returned: usize = (0..3 * SIZE)
            .map(|_| {
                driver.put(&[write(0x7000, 1)]);
                driver.done().len()
            })
            .sum();
        assert_eq!(returned, 24);
    }

    #[test]
    fn virtio_2_7_5_3_indirect_table_is_followed() {
        let guest = Guest::with(Echo::default());
        let mut driver = guest.driver();
        driver.start(INDIRECT);
        let table = read(DESCRIPTORS + 0x20, 0x20);
        driver.describe(0, linked(table, VRING_DESC_F_INDIRECT), 0);
        driver.describe(2, linked(read(0x5000, 1), VRING_DESC_F_NEXT), 1);
        driver.describe(3, write(0x7000, 1), 0);
        driver.offer(0);
        assert_eq!(driver.done(), [(0, 1)]);
    }

    #[test]
    fn virtio_2_7_7_no_interrupt_before_the_event_index() {
        const EVENT_INDEX: u64 = 1 << 29;
        let guest = Guest::with(Echo::default());
        let mut driver = guest.driver();
        driver.start(EVENT_INDEX);
        // used_event: an interrupt for the second request, not for the first.
        guest.store(AVAILABLE + 4 + 2 * u64::from(SIZE), &[1, 0]);
        driver.put(&[write(0x7000, 1)]);
        assert_eq!((driver.done().len(), guest.sent.count()), (1, 0));
        driver.put(&[write(0x7000, 1)]);
        assert_eq!((driver.done().len(), guest.sent.count()), (1, 1));
        // avail_event: the device wants to hear of the third.
        assert_eq!(guest.u16_at(USED + 4 + 8 * u64::from(SIZE)), 2);
    }

    /// One request of these descriptors, from 0 on, must make the device give up.
    fn refused(descriptors: &[(Part, u16)], head: u16) {
        let guest = Guest::with(Echo::default());
        let mut driver = guest.driver();
        driver.start(INDIRECT);
        for (index, (part, next)) in (0..).zip(descriptors) {
            driver.describe(index, *part, *next);
        }
        driver.offer(head);
        driver.expect_needs_reset();
        // And it works again after the reset.
        driver.start(0);
        driver.put(&[write(0x7000, 1)]);
        assert_eq!(driver.done(), [(0, 1)]);
    }

    #[test]
    fn virtio_2_7_4_2_part_to_read_behind_one_to_write_is_refused() {
        let first = linked(write(0x7000, 1), VRING_DESC_F_NEXT);
        refused(&[(first, 1), (read(0x5000, 1), 0)], 0);
    }

    #[test]
    fn chain_that_leads_out_of_the_table_is_refused() {
        refused(&[(linked(read(0x5000, 1), VRING_DESC_F_NEXT), SIZE)], 0);
    }

    #[test]
    fn head_out_of_the_table_is_refused() {
        refused(&[], SIZE);
    }

    #[test]
    fn virtio_2_7_4_1_loop_is_refused() {
        refused(&[(linked(read(0x5000, 1), VRING_DESC_F_NEXT), 0)], 0);
    }

    #[test]
    fn part_outside_of_ram_is_refused() {
        refused(&[(write((2 << 20) - 1, 2), 0)], 0);
    }

    #[test]
    fn part_that_wraps_is_refused() {
        refused(&[(write(u64::MAX, 2), 0)], 0);
    }

    #[test]
    fn virtio_2_7_5_2_more_than_4_gib_are_refused() {
        let huge = linked(read(0, u32::MAX), VRING_DESC_F_NEXT);
        refused(&[(huge, 1), (huge, 2), (read(0, 1), 0)], 0);
    }

    #[test]
    fn virtio_2_7_5_3_1_table_in_a_table_is_refused() {
        let table = linked(read(DESCRIPTORS, 16), VRING_DESC_F_INDIRECT);
        refused(&[(table, 0)], 0);
    }

    #[test]
    fn virtio_2_7_5_3_1_indirect_chain_longer_than_the_queue_is_refused() {
        let guest = Guest::with(Echo::default());
        let mut driver = guest.driver();
        driver.start(INDIRECT);
        for index in 0..=SIZE {
            let next = linked(read(0x5000, 1), VRING_DESC_F_NEXT);
            driver.describe(0x20 + index, next, index + 1);
        }
        let table = read(DESCRIPTORS + 0x200, 0x1000);
        driver.describe(0, linked(table, VRING_DESC_F_INDIRECT), 0);
        driver.offer(0);
        driver.expect_needs_reset();
    }

    #[test]
    fn available_index_that_jumps_is_refused() {
        let guest = Guest::with(Echo::default());
        let mut driver = guest.driver();
        driver.start(0);
        guest.store(AVAILABLE + 2, &(SIZE + 1).to_le_bytes());
        driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        driver.expect_needs_reset();
    }

    #[test]
    fn device_with_a_thread_serves_and_stops_at_a_reset() {
        let echo = Echo {
            threaded: true,
            ..Echo::default()
        };
        let seen = echo.seen.clone();
        let guest = Guest::with(echo);
        let mut driver = guest.driver();
        driver.start(0);
        driver.put(&[write(0x7000, 1)]);
        assert_eq!(driver.done(), [(0, 1)]);
        driver.negotiate(0);
        driver.put(&[write(0x7000, 1)]);
        assert_eq!(seen.lock().unwrap().len(), 1, "no request after a reset");
        driver.start(0);
        driver.put(&[write(0x7000, 1)]);
        wait(|| seen.lock().unwrap().len() == 2);
    }

    #[test]
    fn device_that_gave_up_serves_nothing_until_the_reset() {
        let echo = Echo::default();
        let seen = echo.seen.clone();
        let guest = Guest::with(echo);
        let mut driver = guest.driver();
        driver.start(0);
        driver.offer(SIZE);
        driver.put(&[write(0x7000, 1)]);
        assert!(seen.lock().unwrap().is_empty());
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 2);
        driver.expect_needs_reset();
    }

    #[test]
    fn notification_that_was_late_serves_nothing_after_a_reset() {
        let echo = Echo::default();
        let seen = echo.seen.clone();
        let guest = Guest::with(echo);
        let mut driver = guest.driver();
        driver.start(0);
        guest.transport.server().reset();
        driver.put(&[write(0x7000, 1)]);
        assert!(seen.lock().unwrap().is_empty());
    }

    proptest! {
        /// Whatever is in the rings: no panic, no hang, and only RAM reaches a device.
        #[test]
        fn random_rings_are_served_or_refused(
            descriptors in prop::collection::vec(
                (0_u64..0x22_0000, 0_u32..0x1_0000, 0_u32..8, 0_u16..10), 8),
            heads in prop::collection::vec(0_u16..9, 8),
            index in 0_u16..10,
        ) {
            let echo = Echo::default();
            let seen = echo.seen.clone();
            let guest = Guest::with(echo);
            let mut driver = guest.driver();
            driver.start(INDIRECT);
            for (number, (at, len, flags, next)) in (0..).zip(descriptors) {
                driver.describe(number, Part { at, len, flags }, next);
            }
            for (slot, head) in (0..).zip(heads) {
                guest.store(AVAILABLE + 4 + 2 * slot, &u16::to_le_bytes(head));
            }
            guest.store(AVAILABLE + 2, &index.to_le_bytes());
            driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
            for chain in seen.lock().unwrap().iter() {
                let parts = chain.readable.iter().chain(&chain.writable);
                prop_assert!(parts.clone().count() <= usize::from(SIZE));
                for part in parts {
                    prop_assert!(guest.memory.check(part.gpa, part.len.into()).is_ok());
                }
            }
        }
    }

    #[test]
    fn part_flags_are_those_of_the_header() {
        assert_eq!(read(0, 0).flags, 0);
        assert_eq!(write(0, 0).flags, VRING_DESC_F_WRITE);
    }
}
