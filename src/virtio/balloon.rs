//! The balloon: memory that the guest does without, and the host uses meanwhile.
//!
//! - **Reporting**: the guest names pages that are free anyway. The host takes them at once, and
//!   gives zeroed ones when the guest touches them again. Nobody has to decide on a size.
//! - **Inflating**: the guest is asked to take pages out of use, as many as `--balloon=SIZE` says,
//!   and names them. It takes them back on its own when memory runs short (DEFLATE_ON_OOM).
//!
//! - **Statistics**: the guest tells how its memory is used, once a second: the buffer that it told
//!   it in last is what it is asked again by (`Figures`).
//!
//! Nothing is unmapped: a page that is given back is RAM as before, and reads zeros. A guest that
//! names pages it still uses loses what it had there, and nobody else does. Only whole pages go.
//!
//! Served on a thread of its own: a report of Linux's is up to 128 MiB, which takes the host's
//! kernel longer than a vCPU should stand still.
//!
//! **Numbers of queues.** By 5.5.2 the reporting_vq is queue 4. Linux leaves out the queues of
//! features that were not agreed on and takes the next number, and all devices follow it. Since hints
//! are not offered here, each of the queues 2 to 4 that is not the stats_vq can only be this one.
//!
//! Source: `[virtio]` 1.2, section 5.5 "Traditional Memory Balloon Device".
//! Read next: [`super::fs`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::GuestAddress;

use super::state::{DeviceState, Unfit};
use super::{Broken, Device, Figure, Request, stream};

/// VIRTIO_BALLOON_F_STATS_VQ, bit 1. `[virtio]` 5.5.3
const F_STATS_VQ: u64 = 1 << 1;
/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM, bit 2. `[virtio]` 5.5.3
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_PAGE_REPORTING, bit 5. `[virtio]` 5.5.3
const F_PAGE_REPORTING: u64 = 1 << 5;
/// "inflateq". `[virtio]` 5.5.2
const INFLATE: usize = 0;
/// "deflateq". `[virtio]` 5.5.2
const DEFLATE: usize = 1;
/// "statsq", if F_STATS_VQ was agreed on.
const STATS: usize = 2;
/// Entries of each queue. Linux wants 32 for reports.
const QUEUE: u16 = 64;
/// The balloon counts in pages of 4 KiB. `[virtio]` 5.5.6
const PAGE_SHIFT: u32 = 12;
/// Most bytes of page numbers in one request; Linux has 1 KiB.
const MAX_NUMBERS: usize = 64 << 10; // 64 KiB
/// Bytes of a struct virtio_balloon_stat: tag and value, without a gap. `[virtio]` 5.5.6.3
const STAT: usize = 10;
/// Most bytes of statistics in one request; Linux 6.12 has 16 of them.
const MAX_STATS: usize = 64 * STAT;
/// How long the guest is left alone after it told its figures.
const INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });
/// What the figures are called, by their tags from 0, VIRTIO_BALLOON_S_SWAP_IN, on: sizes in bytes,
/// and counts. `[virtio]` 5.5.6.3
const NAMES: [&str; 10] = [
    "swapped_in",
    "swapped_out",
    "major_faults",
    "minor_faults",
    "free",
    "total",
    "available",
    "caches",
    "hugetlb_allocations",
    "hugetlb_failures",
];
/// `actual`'s place in struct virtio_balloon_config, behind num_pages. `[virtio]` 5.5.4
const ACTUAL: usize = 4;

/// The balloon.
#[derive(Debug)]
pub struct Balloon {
    /// How many pages the guest is asked for.
    pages: u32,
    state: Mutex<State>,
    asking: Mutex<Asking>,
}

/// What a balloon remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// How many pages the guest says that it gave.
    actual: u32,
    /// What it said last of its memory.
    figures: Figures,
}

/// What a guest says of its memory, by tag. Nobody checks it, and nothing depends on it.
type Figures = [Option<u64>; NAMES.len()];

/// When the guest is asked. It waits in the statsq with a buffer, which is read at once and handed
/// back to ask for another. Meanwhile it stays in the ring, not taken: so there is nothing to
/// remember of it.
#[derive(Debug, Default)]
struct Asking {
    /// The driver agreed to tell.
    agreed: bool,
    /// When to hand back the buffer that was read, if there is one.
    ask_at: Option<Instant>,
}

impl Balloon {
    /// A balloon that is to have `bytes`.
    pub fn new(bytes: u64) -> Self {
        // 1 TiB, the most that a guest can have, is 2^28 pages.
        let pages = u32::try_from(bytes >> PAGE_SHIFT).unwrap_or(u32::MAX);
        Self {
            pages,
            state: Mutex::default(),
            asking: Mutex::default(),
        }
    }

    /// Gives the pages to the host whose numbers `request` holds.
    fn inflate(&self, request: &Request<'_>) -> Result<(), Broken> {
        let mut bytes = Vec::new();
        stream::collect(request, MAX_NUMBERS, &mut bytes)?;
        let numbers = bytes.chunks_exact(4).filter_map(|n| n.first_chunk());
        let mut numbers: Vec<_> = numbers.map(|n| u32::from_le_bytes(*n)).collect();
        // Runs of pages become one call each.
        numbers.sort_unstable();
        for run in numbers.chunk_by(|a, b| b - a <= 1) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                let start = u64::from(*first) << PAGE_SHIFT;
                let len = u64::from(last - first + 1) << PAGE_SHIFT;
                // 5.5.6.2: the device may do without; pages that are no RAM are no page to give.
                let _no_ram = request.memory.discard(GuestAddress(start), len);
            }
        }
        Ok(())
    }

    /// Gives free pages to the host.
    fn take_report(request: &Request<'_>) -> Result<(), Broken> {
        if !request.chain.readable.is_empty() {
            return Err(Broken::Chain {
                head: request.chain.head,
                reason: "it has a part to read in the queue of free pages",
            });
        }
        for part in &request.chain.writable {
            // All of it is RAM, which was checked; so only the host's refusal is left, and then
            // the page stays as it is.
            let _kept = request.memory.discard(part.gpa, u64::from(part.len));
        }
        Ok(())
    }

    /// Reads what the guest says, or hands back what was read.
    fn take_figures(&self, request: &Request<'_>) -> Result<(), Broken> {
        let mut asking = lock(&self.asking);
        if asking.ask_at.take().is_some() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        stream::collect(request, MAX_STATS, &mut bytes)?;
        let figures = &mut lock(&self.state).figures;
        for stat in bytes.chunks_exact(STAT).filter_map(|s| s.first_chunk()) {
            let [a, b, value @ ..]: [u8; STAT] = *stat;
            // 5.5.6.3.1: tags that are not known are for others.
            if let Some(figure) = figures.get_mut(usize::from(u16::from_le_bytes([a, b]))) {
                *figure = Some(u64::from_le_bytes(value));
            }
        }
        asking.ask_at = Some(Instant::now() + INTERVAL);
        Ok(())
    }
}

impl Device for Balloon {
    fn name(&self) -> &'static str {
        "virtio-balloon"
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_REPORTING
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE; 5]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let config = [self.pages, lock(&self.state).actual].map(u32::to_le_bytes);
        let bytes = config.as_flattened().iter().skip(offset);
        data.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        // 5.5.4: the driver keeps `actual` up to date, and writes nothing else.
        if let (ACTUAL, Ok(bytes)) = (offset, <[u8; 4]>::try_from(data)) {
            lock(&self.state).actual = u32::from_le_bytes(bytes);
        }
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn figures(&self) -> Vec<Figure> {
        let figures = lock(&self.state).figures;
        let named = NAMES.into_iter().zip(figures);
        named
            .filter_map(|(name, figure)| Some((name, figure?)))
            .collect()
    }

    fn save(&self) -> DeviceState {
        DeviceState::Balloon(lock(&self.state).clone())
    }

    fn restore(&self, state: DeviceState) -> Result<(), Unfit> {
        let DeviceState::Balloon(state) = state else {
            return Err(Unfit::Device("it was no balloon"));
        };
        *lock(&self.state) = state;
        Ok(())
    }

    fn started(&self, features: u64) {
        lock(&self.asking).agreed = features & F_STATS_VQ != 0;
    }

    /// The figures stay: at the end of a run they are what there is.
    fn stopped(&self) {
        lock(&self.state).actual = 0;
        *lock(&self.asking) = Asking::default();
    }

    fn ready(&self, queue: usize) -> bool {
        let asking = lock(&self.asking);
        let early = asking.ask_at.is_some_and(|then| Instant::now() < then);
        !(queue == STATS && asking.agreed && early)
    }

    fn keeps(&self, queue: usize) -> bool {
        queue == STATS && lock(&self.asking).ask_at.is_some()
    }

    fn wait(&self) -> u32 {
        let ask_at = lock(&self.asking).ask_at;
        let Some(ask_at) = ask_at else {
            thread::park();
            return 0;
        };
        thread::park_timeout(ask_at.saturating_duration_since(Instant::now()));
        u32::from(Instant::now() >= ask_at) << STATS
    }

    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken> {
        match request.queue {
            INFLATE => self.inflate(request)?,
            // The pages are RAM as ever: the host gives new ones when they are touched.
            DEFLATE => {}
            STATS if lock(&self.asking).agreed => self.take_figures(request)?,
            _ => Self::take_report(request)?,
        }
        Ok(0)
    }
}

/// A poisoned lock means that a thread panicked, and a panic ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use virtio_bindings::virtio_mmio::{
        VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
    };

    use super::*;
    use crate::virtio::interrupt::CONFIG;
    use crate::virtio::testing::{
        AVAILABLE, DESCRIPTORS, Driver, Guest, Part, SIZE, USED, read, wait, write,
    };

    const PAGE: u64 = 1 << PAGE_SHIFT;
    /// The same, as a length.
    const BYTES: usize = 1 << PAGE_SHIFT;

    /// A guest whose pages 0x10 to 0x17 are full of sevens.
    fn guest() -> Guest {
        let guest = Guest::with(Balloon::new(3 * PAGE));
        guest.store(0x10 * PAGE, &[7; 8 * BYTES]);
        guest
    }

    /// Which of the pages 0x10 to 0x17 were given back: they read zeros.
    fn given(guest: &Guest) -> Vec<u64> {
        let pages = 0x10..0x18;
        let is_zero = |page: &u64| guest.bytes(page * PAGE, BYTES) == [0; BYTES];
        pages.filter(is_zero).collect()
    }

    /// Puts one request of `parts` into `queue` and waits for it.
    fn put(guest: &Guest, queue: usize, parts: &[Part]) {
        let mut driver = guest.driver();
        driver.start_queue(queue, F_PAGE_REPORTING);
        driver.put(parts);
        assert_eq!(driver.done(), [(0, 0)]);
    }

    /// Inflates by pages of these numbers.
    fn inflate(guest: &Guest, numbers: &[u32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        guest.store(0x8000, &bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        put(guest, INFLATE, &[read(0x8000, len)]);
    }

    #[test]
    fn virtio_5_5_4_configuration_tells_the_size_and_takes_the_actual_one() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start(0);
        driver.set(VIRTIO_MMIO_CONFIG + 4, 2);
        driver.set(VIRTIO_MMIO_CONFIG, 99);
        let words = [0, 4, 8].map(|at| driver.get(VIRTIO_MMIO_CONFIG + at));
        assert_eq!(words, [3, 2, 0]);
        assert_eq!(driver.offered() & 0xff, 0b10_0110);
    }

    #[test]
    fn virtio_5_5_6_inflated_pages_are_the_hosts() {
        let guest = guest();
        inflate(&guest, &[0x15, 0x11, 0x12, 0x12]);
        assert_eq!(given(&guest), [0x11, 0x12, 0x15]);
    }

    #[test]
    fn virtio_5_5_6_deflated_pages_stay_as_they_are() {
        let guest = guest();
        guest.store(0x8000, &0x11_u32.to_le_bytes());
        put(&guest, DEFLATE, &[read(0x8000, 4)]);
        assert!(given(&guest).is_empty());
    }

    #[test]
    fn virtio_5_5_6_8_reported_pages_are_the_hosts() {
        for queue in 2..5 {
            let guest = guest();
            let parts = [write(0x16 * PAGE, 4096), write(0x12 * PAGE, 8192)];
            put(&guest, queue, &parts);
            assert_eq!(given(&guest), [0x12, 0x13, 0x16], "queue {queue}");
        }
    }

    /// Statistics of these tags and values, as they travel.
    fn stats(stats: &[(u16, u64)]) -> Vec<u8> {
        let stat =
            |(tag, value): &(u16, u64)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
        stats.iter().flat_map(stat).collect()
    }

    /// A balloon whose guest has just told `figures`, in descriptor 0.
    fn told<'a>(guest: &'a Guest, figures: &[(u16, u64)]) -> Driver<'a> {
        let mut driver = guest.driver();
        driver.start_queue(STATS, F_STATS_VQ);
        let bytes = stats(figures);
        guest.store(0x8000, &bytes);
        driver.put(&[read(0x8000, u32::try_from(bytes.len()).unwrap())]);
        driver
    }

    fn figures(guest: &Guest) -> Vec<Figure> {
        guest.transport.server().device().figures()
    }

    #[test]
    fn virtio_5_5_6_3_figures_are_read_at_once_and_the_guest_is_asked_for_more_later() {
        let guest = guest();
        let start = Instant::now();
        let mut driver = told(&guest, &[(5, 2 << 20), (4, 1 << 20), (99, 7), (3, 12)]);
        wait(|| !figures(&guest).is_empty());
        let wanted = [("minor_faults", 12), ("free", 1 << 20), ("total", 2 << 20)];
        assert_eq!(figures(&guest), wanted, "and what tag 99 is nobody knows");
        // It comes back empty: that is the request.
        assert_eq!(driver.done(), [(0, 0)]);
        assert!(start.elapsed() >= INTERVAL);
        guest.store(0x8000, &stats(&[(4, 3), (4, 4)]));
        driver.put(&[read(0x8000, 20)]);
        wait(|| figures(&guest).contains(&("free", 4)));
        assert_eq!(figures(&guest).len(), 3, "what is not told again stays");
    }

    #[test]
    fn figures_that_linux_puts_in_before_it_is_ready_are_read() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start_queue(STATS, F_STATS_VQ);
        driver.negotiate(F_STATS_VQ);
        guest.store(DESCRIPTORS, &[0; 0x3000]);
        driver.set_queue(SIZE.into(), [DESCRIPTORS, AVAILABLE, USED]);
        guest.store(0x8000, &stats(&[(4, 1)]));
        driver = guest.driver_again(driver.place().rewound());
        driver.put(&[read(0x8000, 10)]);
        driver.set(VIRTIO_MMIO_STATUS, 0xf);
        wait(|| figures(&guest) == [("free", 1)]);
    }

    #[test]
    fn virtio_5_5_6_3_first_buffer_may_be_empty_and_one_may_end_in_the_middle() {
        let guest = guest();
        let mut driver = told(&guest, &[]);
        assert_eq!(driver.done(), [(0, 0)]);
        guest.store(0x8000, &stats(&[(6, u64::MAX), (0, 1)]));
        driver.put(&[read(0x8000, 19)]);
        assert_eq!(driver.done(), [(0, 0)]);
        assert_eq!(figures(&guest), [("available", u64::MAX)]);
    }

    #[test]
    fn guest_that_tells_without_end_is_read_once_an_interval() {
        let guest = guest();
        let mut driver = told(&guest, &[(4, 1)]);
        let start = Instant::now();
        (0..7).for_each(|_| driver.offer(0));
        wait(|| driver.used() == 3);
        assert!(start.elapsed() >= 2 * INTERVAL);
    }

    #[test]
    fn more_figures_than_any_driver_tells_need_a_reset() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start_queue(STATS, F_STATS_VQ);
        driver.put(&[read(0x8000, 641)]);
        driver.expect_needs_reset();
    }

    #[test]
    fn figures_with_a_part_to_write_need_a_reset() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start_queue(STATS, F_STATS_VQ);
        driver.put(&[read(0x8000, 10), write(0x9000, 4)]);
        driver.expect_needs_reset();
    }

    #[test]
    fn with_statistics_the_next_queue_is_that_of_reports() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start_queue(3, F_STATS_VQ | F_PAGE_REPORTING);
        driver.put(&[write(0x16 * PAGE, 4096)]);
        assert_eq!(driver.done(), [(0, 0)]);
        assert_eq!(given(&guest), [0x16]);
    }

    #[test]
    fn balloon_elsewhere_has_its_size_and_figures_and_asks_on() {
        let guest = guest();
        let mut driver = told(&guest, &[(4, 5)]);
        driver.set(VIRTIO_MMIO_CONFIG + 4, 2);
        wait(|| !figures(&guest).is_empty());
        assert_eq!(driver.done(), [(0, 0)]);
        // Put into the queue, and read or not.
        guest.store(0x8000, &stats(&[(5, 6)]));
        driver.put(&[read(0x8000, 10)]);
        let place = driver.place();
        let guest = guest.moved(|| Arc::new(Balloon::new(3 * PAGE)));
        let mut driver = guest.driver_again(place);
        assert_eq!(driver.get(VIRTIO_MMIO_CONFIG + 4), 2);
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS) & CONFIG, 0);
        assert_eq!(driver.done(), [(0, 0)]);
        assert_eq!(figures(&guest), [("free", 5), ("total", 6)]);
    }

    #[test]
    fn balloon_of_another_size_elsewhere_is_a_configuration_change() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start(0);
        let place = driver.place();
        let guest = guest.moved(|| Arc::new(Balloon::new(5 * PAGE)));
        let driver = guest.driver_again(place);
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), CONFIG);
        assert_eq!(driver.get(VIRTIO_MMIO_CONFIG), 5);
    }

    #[test]
    fn only_whole_pages_of_a_report_go() {
        let guest = guest();
        put(&guest, 2, &[write(0x11 * PAGE + 1, 2 * 4096)]);
        assert_eq!(given(&guest), [0x12]);
        put(&guest, 2, &[write(0x14 * PAGE + 1, 4094)]);
        assert_eq!(given(&guest), [0x12]);
    }

    #[test]
    fn pages_that_are_no_ram_are_passed_over() {
        let guest = guest();
        // The guest's 2 MiB end at 0x200; numbers up to the last one there can be.
        inflate(&guest, &[0x14, 0x200, 0x201, u32::MAX - 1, u32::MAX]);
        assert_eq!(given(&guest), [0x14]);
    }

    #[test]
    fn more_numbers_than_any_driver_sends_need_a_reset() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start_queue(INFLATE, 0);
        driver.put(&[read(0x1_0000, 0x1_0004)]);
        driver.expect_needs_reset();
    }

    #[test]
    fn report_outside_of_ram_needs_a_reset() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start_queue(2, F_PAGE_REPORTING);
        driver.put(&[write(0x1f_f000, 0x2000)]);
        driver.expect_needs_reset();
    }

    #[test]
    fn report_with_a_part_to_read_needs_a_reset() {
        let guest = guest();
        let mut driver = guest.driver();
        driver.start_queue(2, F_PAGE_REPORTING);
        driver.put(&[read(0x11 * PAGE, 4096)]);
        driver.expect_needs_reset();
        assert!(given(&guest).is_empty());
    }
}
