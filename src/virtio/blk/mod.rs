//! The block device: disks.
//!
//! - [`request`]: what the driver asks for;
//! - [`image`]: what it is asked of: a file, or several;
//! - [`open`]: opening them;
//! - [`layer`]: where the guest's writes go if a raw file is to stay as it is;
//! - [`chain`]: qcow2 images, each on top of another;
//! - [`lock`]: one writer an image.
//!
//! One thread serves a disk's one queue, a request after the other. So writes reach the file in
//! the order in which the driver made them available, and a flush covers all before it.
//!
//! What can go wrong with a well-formed request is told in its status byte: a range beyond the
//! end, a write to a read-only disk, an error of the host's. The first such error of the host's is
//! also told to the user.
//!
//! Source: `[virtio]` 1.2, section 5.2 "Block Device". Read next: [`request`].

pub mod request;
pub mod image;
pub mod open;
pub mod layer;
pub mod chain;
pub mod lock;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::{Broken, Device, Request};
use crate::config::disk::{Disk, MAX_SERIAL};
use crate::memory::GuestMemory;
use image::{Image, SECTOR};
use request::{BlkRequest, len};

/// Entries of the queue.
const QUEUE: u16 = 256;
/// Segments of data in one request: what is left of a queue beside header and status.
const MAX_SEGMENTS: u32 = 254;
/// Ranges in one request to discard or zero.
const MAX_RANGES: u32 = 32;
/// Most sectors to discard in one range: 1 GiB. A hole costs the host little.
const MAX_DISCARD: u32 = 1 << 21;
/// Most sectors to zero in one range: 2 MiB, which a host that must write them does at once.
const MAX_ZEROES: u32 = 1 << 12;

/// Bytes of the configuration space that the features of ours give a meaning. `[virtio]` 5.2.4
const CONFIG: usize = 60;

/// How a request ended, as its status byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    IoError,
    Unsupported,
}

impl From<Status> for u8 {
    fn from(status: Status) -> Self {
        let number = match status {
            Status::Ok => VIRTIO_BLK_S_OK,
            Status::IoError => VIRTIO_BLK_S_IOERR,
            Status::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        Self::try_from(number).unwrap_or(Self::MAX)
    }
}

/// A disk.
#[derive(Debug)]
pub struct Blk {
    id: String,
    serial: [u8; MAX_SERIAL],
    image: Image,
    config: [u8; CONFIG],
    tell: fn(&str),
    told: AtomicBool,
}

impl Blk {
    /// Opens the disk that `disk` describes; `tell` passes on the first error of the host's.
    ///
    /// # Errors
    /// [`open::Error`] with the file's name and what to do.
    pub fn open(disk: &Disk, tell: fn(&str)) -> Result<Self, open::Error> {
        let image = Image::open(disk)?;
        let mut serial = [0; MAX_SERIAL];
        for (to, from) in serial.iter_mut().zip(disk.serial.bytes()) {
            *to = from;
        }
        Ok(Self {
            id: disk.id.clone(),
            serial,
            config: config(&image),
            image,
            tell,
            told: AtomicBool::new(false),
        })
    }

    fn answer(&self, request: &BlkRequest<'_>, memory: &GuestMemory, features: u64) -> Status {
        let agreed = |bit: u32| features & (1 << bit) != 0;
        let result = match request.kind {
            VIRTIO_BLK_T_IN => self.read(request, memory),
            VIRTIO_BLK_T_OUT => self.write(request, memory, agreed(VIRTIO_BLK_F_FLUSH)),
            VIRTIO_BLK_T_FLUSH => self.image.flush().map(|()| Status::Ok),
            VIRTIO_BLK_T_GET_ID => return self.get_id(request, memory),
            VIRTIO_BLK_T_DISCARD if agreed(VIRTIO_BLK_F_DISCARD) => self.discard(request, memory),
            VIRTIO_BLK_T_WRITE_ZEROES if agreed(VIRTIO_BLK_F_WRITE_ZEROES) => {
                self.write_zeroes(request, memory)
            }
            _ => Ok(Status::Unsupported),
        };
        result.unwrap_or_else(|error| {
            self.tell_once(&error);
            Status::IoError
        })
    }

    fn tell_once(&self, error: &io::Error) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let label = self.label();
            (self.tell)(&format!(
                "{label}: a request of the guest's failed: {error}"
            ));
        }
    }

    fn read(&self, request: &BlkRequest<'_>, memory: &GuestMemory) -> io::Result<Status> {
        let Some(offset) = self.offset(request.sector, len(&request.input)) else {
            return Ok(Status::IoError);
        };
        self.image.read(memory, offset, &request.input)?;
        Ok(Status::Ok)
    }

    /// Without a flush to wait for, a driver takes each write as done for good. `[virtio]` 5.2.6.2
    fn write(
        &self,
        request: &BlkRequest<'_>,
        memory: &GuestMemory,
        will_flush: bool,
    ) -> io::Result<Status> {
        let offset = self.offset(request.sector, len(&request.output));
        let Some(offset) = offset.filter(|_| !self.image.read_only()) else {
            return Ok(Status::IoError);
        };
        self.image.write(memory, offset, &request.output)?;
        if !will_flush {
            self.image.flush()?;
        }
        Ok(Status::Ok)
    }

    fn get_id(&self, request: &BlkRequest<'_>, memory: &GuestMemory) -> Status {
        if len(&request.input) < MAX_SERIAL as u64 {
            return Status::IoError;
        }
        let mut serial = &self.serial[..];
        for segment in &*request.input {
            let step = serial.len().min(segment.len as usize);
            let (now, later) = serial.split_at(step);
            if memory.write(segment.gpa, now).is_err() {
                return Status::IoError;
            }
            serial = later;
        }
        Status::Ok
    }

    /// `[virtio]` 5.2.6.2: no flag has a meaning here.
    fn discard(&self, request: &BlkRequest<'_>, memory: &GuestMemory) -> io::Result<Status> {
        self.each_range(request, memory, (MAX_DISCARD, 0), |offset, len, _flags| {
            self.image.discard(offset, len)
        })
    }

    fn write_zeroes(&self, request: &BlkRequest<'_>, memory: &GuestMemory) -> io::Result<Status> {
        let unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        self.each_range(
            request,
            memory,
            (MAX_ZEROES, unmap),
            |offset, len, flags| self.image.zero(offset, len, flags & unmap != 0),
        )
    }

    /// Checks all ranges of a request against a limit of sectors and a mask of flags, and then
    /// does what is asked with each.
    fn each_range(
        &self,
        request: &BlkRequest<'_>,
        memory: &GuestMemory,
        (max, flags): (u32, u32),
        act: impl Fn(u64, u64, u32) -> io::Result<()>,
    ) -> io::Result<Status> {
        let ranges = request.ranges(memory, MAX_RANGES as usize);
        let Some(ranges) = ranges.filter(|_| !self.image.read_only()) else {
            return Ok(Status::IoError);
        };
        if ranges.iter().any(|range| range.flags & !flags != 0) {
            return Ok(Status::Unsupported);
        }
        let mut checked = Vec::with_capacity(ranges.len());
        for range in ranges {
            let len = u64::from(range.sectors) * SECTOR;
            match self.offset(range.sector, len) {
                Some(offset) if range.sectors <= max => checked.push((offset, len, range.flags)),
                _ => return Ok(Status::IoError),
            }
        }
        for (offset, len, flags) in checked.into_iter().filter(|(_, len, _)| *len > 0) {
            match act(offset, len, flags) {
                Ok(()) => {}
                // Not worth telling: the space stays in use, nothing else.
                Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(Status::Unsupported),
                Err(e) => return Err(e),
            }
        }
        Ok(Status::Ok)
    }

    /// Where `len` bytes from `sector` on begin, if they are whole sectors of this disk.
    fn offset(&self, sector: u64, len: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(len)?;
        (end <= self.image.size() && len.is_multiple_of(SECTOR)).then_some(offset)
    }
}

/// struct virtio_blk_config. Fields without a feature of ours stay zero.
fn config(image: &Image) -> [u8; CONFIG] {
    let unit = u32::try_from(image.discard_unit() / SECTOR).unwrap_or(1);
    let mut config = [0; CONFIG];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in config.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, &(image.size() / SECTOR).to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    put(36, &MAX_DISCARD.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &unit.to_le_bytes()); // ranges to discard lie best on these
    put(48, &MAX_ZEROES.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[1]); // zeroed ranges may lose their space
    config
}

impl Device for Blk {
    fn name(&self) -> &'static str {
        "virtio-blk"
    }

    fn label(&self) -> String {
        format!("virtio-blk {}", self.id)
    }

    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_FLUSH;
        always
            | if self.image.read_only() {
                1 << VIRTIO_BLK_F_RO
            } else {
                1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            }
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn may_wait(&self) -> bool {
        true
    }

    /// What was written without a flush is in the file then, as it is with raw images anyway.
    fn stopped(&self) {
        if let Err(error) = self.image.settle() {
            self.tell_once(&error);
        }
    }

    fn serve(&self, request: &Request<'_>) -> Result<u32, Broken> {
        let parts = BlkRequest::parse(request.chain, request.memory)?;
        let status = self.answer(&parts, request.memory, request.features);
        let written = request.memory.write(parts.status, &[status.into()]);
        written.map_err(|_numbers| Broken::Chain {
            head: request.chain.head,
            reason: "its status left RAM",
        })?;
        // The bytes written without a gap from the first writable one on. `[virtio]` 2.7.8.2
        let input = len(&parts.input);
        let written = match status {
            Status::Ok => input + 1,
            _ if input == 0 => 1,
            _ => 0,
        };
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;
    use std::sync::Arc;

    use proptest::prelude::*;
    use virtio_bindings::virtio_blk::virtio_blk_config;
    use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;

    use super::*;
    use crate::config::disk::Access;
    use crate::virtio::testing::{Driver, Guest, Part, read, wait, write};

    const HEADER: u64 = 0x1_0000;
    const DATA: u64 = 0x2_0000;
    const STATUS: u64 = 0x3_0000;
    const SECTORS: u64 = 64;
    const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
    const TRIM: u64 = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

    /// A nameless image whose sector n is full of the byte n + 1.
    fn image() -> File {
        let fd = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        for (sector, byte) in (0..SECTORS).zip(1..) {
            file.write_all_at(&[byte; 512], sector * SECTOR).unwrap();
        }
        file
    }

    const WRITE: Access = Access::Write;
    const READ_ONLY: Access = Access::ReadOnly;
    const OVERLAY: Access = Access::Overlay;

    fn disk(image: &File, access: Access) -> Disk {
        Disk {
            path: PathBuf::from(format!("/proc/self/fd/{}", image.as_raw_fd())),
            format: None,
            backing_anywhere: false,
            access,
            id: "disk0".into(),
            serial: "S1".into(),
        }
    }

    fn guest(image: &File, access: Access) -> Guest {
        Guest::with(Blk::open(&disk(image, access), |_| ()).unwrap())
    }

    /// The bytes of `sector` in the file.
    fn sector_of(image: &File, sector: u64) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        image.read_exact_at(&mut bytes, sector * SECTOR).unwrap();
        bytes
    }

    /// One request; returns its status byte and the used length.
    fn ask(
        guest: &Guest,
        driver: &mut Driver<'_>,
        kind: u32,
        sector: u64,
        data: &[Part],
    ) -> Answer {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        guest.store(HEADER, &header);
        guest.store(STATUS, &[0xaa]);
        let parts = [&[read(HEADER, 16)], data, &[write(STATUS, 1)]].concat();
        driver.put(&parts);
        let done = driver.done();
        (guest.bytes(STATUS, 1)[0], done[0].1)
    }

    type Answer = (u8, u32);
    const DONE: u8 = 0;
    const FAILED: Answer = (1, 1);
    const UNKNOWN: Answer = (2, 1);

    #[test]
    fn virtio_5_2_4_configuration_has_the_layout_of_the_header() {
        use std::mem::offset_of;
        let image = image();
        let blk = Blk::open(&disk(&image, WRITE), |_| ()).unwrap();
        let word = |at: usize| u32::from_le_bytes(blk.config()[at..at + 4].try_into().unwrap());
        assert_eq!(word(offset_of!(virtio_blk_config, capacity)), 64);
        assert_eq!(word(offset_of!(virtio_blk_config, seg_max)), MAX_SEGMENTS);
        let discard = offset_of!(virtio_blk_config, max_discard_sectors);
        let zeroes = offset_of!(virtio_blk_config, max_write_zeroes_sectors);
        assert_eq!(
            [0, 4, 8].map(|at| word(discard + at)),
            [MAX_DISCARD, MAX_RANGES, 1]
        );
        assert_eq!([0, 4].map(|at| word(zeroes + at)), [MAX_ZEROES, MAX_RANGES]);
        let unmap = offset_of!(virtio_blk_config, write_zeroes_may_unmap);
        assert_eq!((blk.config()[unmap], unmap + 4), (1, CONFIG));
    }

    #[test]
    fn virtio_5_2_6_read_fills_the_guests_buffers() {
        let image = image();
        let guest = guest(&image, WRITE);
        let mut driver = guest.driver();
        driver.start(FLUSH);
        let data = [write(DATA, 100), write(DATA + 0x1000, 924)];
        assert_eq!(
            ask(&guest, &mut driver, VIRTIO_BLK_T_IN, 5, &data),
            (DONE, 1025)
        );
        let mut bytes = guest.bytes(DATA, 100);
        bytes.extend(guest.bytes(DATA + 0x1000, 924));
        assert_eq!(bytes, [[6; 512], [7; 512]].concat());
    }

    #[test]
    fn virtio_5_2_6_write_reaches_the_file() {
        let image = image();
        let guest = guest(&image, WRITE);
        let mut driver = guest.driver();
        driver.start(FLUSH);
        guest.store(DATA, &[0xee; 512]);
        let data = [read(DATA, 500), read(DATA + 500, 12)];
        assert_eq!(
            ask(&guest, &mut driver, VIRTIO_BLK_T_OUT, 63, &data),
            (DONE, 1)
        );
        assert_eq!(sector_of(&image, 63), [0xee; 512]);
        assert_eq!(sector_of(&image, 62), [63; 512]);
    }

    #[test]
    fn writes_that_wait_are_done_elsewhere_each_once_and_in_order() {
        let image = image();
        let guest = guest(&image, WRITE);
        let mut driver = guest.driver();
        driver.start(FLUSH);
        // Eight writes to one sector, each of three descriptors of which two are shared.
        let mut header = VIRTIO_BLK_T_OUT.to_le_bytes().to_vec();
        header.extend([0; 12]);
        guest.store(HEADER, &header);
        let linked = |mut part: Part, next| {
            part.flags |= 1;
            (part, next)
        };
        for number in 0..6_u16 {
            let data = DATA + 512 * u64::from(number);
            guest.store(data, &[0xe0 + number.to_le_bytes()[0]; 512]);
        }
        let chain = |driver: &Driver<'_>, number: u16| {
            let data = DATA + 512 * u64::from(number);
            let (part, next) = linked(read(HEADER, 16), 1);
            driver.describe(0, part, next);
            let (part, next) = linked(read(data, 512), 2);
            driver.describe(1, part, next);
            driver.describe(2, write(STATUS, 1), 0);
        };
        for number in 0..3 {
            chain(&driver, number);
            driver.offer(0);
            assert_eq!(driver.done(), [(0, 1)]);
        }
        chain(&driver, 3);
        (0..4).for_each(|_| driver.offer(0));
        let place = driver.place();
        let guest = guest.moved(|| Arc::new(Blk::open(&disk(&image, WRITE), |_| ()).unwrap()));
        let mut driver = guest.driver_again(place);
        wait(|| driver.used() == 7);
        assert_eq!(driver.done(), [(0, 1); 4]);
        assert_eq!(sector_of(&image, 0), [0xe3; 512]);
        chain(&driver, 5);
        driver.offer(0);
        assert_eq!(driver.done(), [(0, 1)]);
        assert_eq!(sector_of(&image, 0), [0xe5; 512]);
    }

    #[test]
    fn disk_of_another_size_is_not_gone_on_with() {
        let image = image();
        let guest = guest(&image, WRITE);
        guest.driver().start(FLUSH);
        let state = guest.transport.suspend();
        drop(guest);
        image.set_len(32 * SECTOR).unwrap();
        let smaller = self::guest(&image, WRITE);
        let error = smaller.transport.resume(state).unwrap_err().to_string();
        assert!(error.contains("configuration space"), "{error}");
    }

    #[test]
    fn virtio_5_2_6_flush_and_serial_number_are_answered() {
        let image = image();
        let guest = guest(&image, WRITE);
        let mut driver = guest.driver();
        driver.start(FLUSH);
        assert_eq!(
            ask(&guest, &mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]),
            (DONE, 1)
        );
        let data = [write(DATA, 7), write(DATA + 7, 13)];
        assert_eq!(
            ask(&guest, &mut driver, VIRTIO_BLK_T_GET_ID, 0, &data),
            (DONE, 21)
        );
        assert_eq!(
            &guest.bytes(DATA, 20),
            b"S1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        );
        assert_eq!(
            ask(
                &guest,
                &mut driver,
                VIRTIO_BLK_T_GET_ID,
                0,
                &[write(DATA, 19)]
            )
            .0,
            1
        );
    }

    #[test]
    fn virtio_5_2_6_1_request_beyond_the_end_fails() {
        let image = image();
        let guest = guest(&image, WRITE);
        let mut driver = guest.driver();
        driver.start(FLUSH);
        for (sector, len) in [
            (64, 512),
            (63, 1024),
            (u64::MAX, 512),
            (1 << 55, 512),
            (0, 511),
        ] {
            let input = ask(
                &guest,
                &mut driver,
                VIRTIO_BLK_T_IN,
                sector,
                &[write(DATA, len)],
            );
            assert_eq!(input, (1, 0), "sector {sector}, {len} bytes");
            let output = ask(
                &guest,
                &mut driver,
                VIRTIO_BLK_T_OUT,
                sector,
                &[read(DATA, len)],
            );
            assert_eq!(output, FAILED, "sector {sector}, {len} bytes");
        }
        assert_eq!(image.metadata().unwrap().len(), 64 * 512);
    }

    #[test]
    fn virtio_5_2_6_2_read_only_disk_refuses_every_change() {
        let image = image();
        let guest = guest(&image, READ_ONLY);
        let mut driver = guest.driver();
        assert_eq!(driver.offered() & (1 << 5 | TRIM), 1 << 5);
        driver.start(FLUSH | 1 << VIRTIO_BLK_F_RO);
        let output = ask(&guest, &mut driver, VIRTIO_BLK_T_OUT, 0, &[read(DATA, 512)]);
        assert_eq!(output, FAILED);
        let discard = ask(
            &guest,
            &mut driver,
            VIRTIO_BLK_T_DISCARD,
            0,
            &[read(DATA, 16)],
        );
        assert_eq!(discard, UNKNOWN, "was not offered");
        assert_eq!(sector_of(&image, 0), [1; 512]);
        let input = ask(&guest, &mut driver, VIRTIO_BLK_T_IN, 0, &[write(DATA, 512)]);
        assert_eq!(input.0, DONE);
    }

    /// One request for a range.
    fn range(guest: &Guest, driver: &mut Driver<'_>, kind: u32, what: (u64, u32, u32)) -> Answer {
        let (sector, sectors, flags) = what;
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        guest.store(DATA, &bytes);
        ask(guest, driver, kind, 0, &[read(DATA, 16)])
    }

    #[test]
    fn virtio_5_2_6_discarded_and_zeroed_ranges_read_as_zeros() {
        let image = image();
        let guest = guest(&image, WRITE);
        let mut driver = guest.driver();
        driver.start(FLUSH | TRIM);
        assert_eq!(
            range(&guest, &mut driver, VIRTIO_BLK_T_DISCARD, (1, 2, 0)),
            (DONE, 1)
        );
        assert_eq!(
            range(&guest, &mut driver, VIRTIO_BLK_T_WRITE_ZEROES, (10, 1, 0)),
            (DONE, 1)
        );
        assert_eq!(
            range(&guest, &mut driver, VIRTIO_BLK_T_WRITE_ZEROES, (12, 1, 1)),
            (DONE, 1)
        );
        let first = |sector| sector_of(&image, sector)[511];
        let firsts = [0, 1, 2, 3, 9, 10, 11, 12, 13].map(first);
        assert_eq!(firsts, [1, 0, 0, 4, 10, 0, 12, 0, 14]);
    }

    #[test]
    fn virtio_5_2_6_2_ranges_beyond_the_end_or_too_long_fail() {
        let image = image();
        let guest = guest(&image, WRITE);
        let mut driver = guest.driver();
        driver.start(FLUSH | TRIM);
        for what in [(63, 2, 0), (u64::MAX, 1, 0), (0, u32::MAX, 0)] {
            let answer = range(&guest, &mut driver, VIRTIO_BLK_T_DISCARD, what);
            assert_eq!(answer, FAILED, "{what:?}");
            let answer = range(&guest, &mut driver, VIRTIO_BLK_T_WRITE_ZEROES, what);
            assert_eq!(answer, FAILED, "{what:?}");
        }
        let long = [read(DATA, 16 * (MAX_RANGES + 1))];
        let answer = ask(&guest, &mut driver, VIRTIO_BLK_T_DISCARD, 0, &long);
        assert_eq!(answer, FAILED);
        assert_eq!(sector_of(&image, 63), [64; 512]);
    }

    #[test]
    fn virtio_5_2_6_2_flags_that_have_no_meaning_are_unsupported() {
        let image = image();
        let guest = guest(&image, WRITE);
        let mut driver = guest.driver();
        driver.start(FLUSH | TRIM);
        assert_eq!(
            range(&guest, &mut driver, VIRTIO_BLK_T_DISCARD, (0, 1, 1)),
            UNKNOWN
        );
        assert_eq!(
            range(&guest, &mut driver, VIRTIO_BLK_T_WRITE_ZEROES, (0, 1, 2)),
            UNKNOWN
        );
        assert_eq!(sector_of(&image, 0), [1; 512]);
    }

    #[test]
    fn virtio_5_2_6_2_unknown_request_is_unsupported() {
        let image = image();
        let guest = guest(&image, WRITE);
        let mut driver = guest.driver();
        driver.start(FLUSH);
        assert_eq!(ask(&guest, &mut driver, 3, 0, &[]), UNKNOWN);
        assert_eq!(ask(&guest, &mut driver, u32::MAX, 0, &[]), UNKNOWN);
        assert_eq!(
            range(&guest, &mut driver, VIRTIO_BLK_T_DISCARD, (0, 1, 0)),
            UNKNOWN
        );
    }

    #[test]
    fn request_without_status_needs_a_reset() {
        let image = image();
        let guest = guest(&image, WRITE);
        let mut driver = guest.driver();
        driver.start(FLUSH);
        driver.put(&[read(HEADER, 16)]);
        driver.expect_needs_reset();
    }

    #[test]
    fn error_of_the_hosts_is_a_failed_request_and_told() {
        static TOLD: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
        let image = image();
        let tell = |text: &str| TOLD.lock().unwrap().push(text.to_owned());
        let guest = Guest::with(Blk::open(&disk(&image, WRITE), tell).unwrap());
        let mut driver = guest.driver();
        driver.start(FLUSH);
        // Somebody cuts the image off behind our back.
        image.set_len(512).unwrap();
        for _ in 0..2 {
            let answer = ask(&guest, &mut driver, VIRTIO_BLK_T_IN, 1, &[write(DATA, 512)]);
            assert_eq!(answer, (1, 0));
        }
        let told = TOLD.lock().unwrap();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("virtio-blk disk0: a request of the guest's failed: "));
    }

    #[test]
    fn image_that_somebody_writes_is_refused() {
        let image = image();
        let error = |access| Blk::open(&disk(&image, access), |_| ()).unwrap_err();
        let writer = Blk::open(&disk(&image, WRITE), |_| ()).unwrap();
        assert!(matches!(error(READ_ONLY), open::Error::InUse { .. }));
        assert!(matches!(error(OVERLAY), open::Error::InUse { .. }));
        assert!(error(WRITE).to_string().contains("is in use"));
        drop(writer);
        let readers = [READ_ONLY, READ_ONLY, OVERLAY, OVERLAY]
            .map(|access| Blk::open(&disk(&image, access), |_| ()).unwrap());
        assert!(error(WRITE).to_string().ends_with("with ,ro or ,overlay"));
        drop(readers);
        Blk::open(&disk(&image, WRITE), |_| ()).unwrap();
    }

    #[test]
    fn overlay_takes_writes_and_the_image_stays() {
        let image = image();
        let guest = guest(&image, OVERLAY);
        let mut driver = guest.driver();
        driver.start(FLUSH | TRIM);
        guest.store(DATA, &[0xee; 512]);
        let written = ask(&guest, &mut driver, VIRTIO_BLK_T_OUT, 3, &[read(DATA, 512)]);
        assert_eq!(written, (DONE, 1));
        let discarded = range(&guest, &mut driver, VIRTIO_BLK_T_DISCARD, (4, 1, 0));
        assert_eq!(discarded, (DONE, 1));
        let flushed = ask(&guest, &mut driver, VIRTIO_BLK_T_FLUSH, 0, &[]);
        assert_eq!(flushed, (DONE, 1));
        let input = ask(
            &guest,
            &mut driver,
            VIRTIO_BLK_T_IN,
            2,
            &[write(DATA, 2048)],
        );
        assert_eq!(input, (DONE, 2049));
        let expected = [[3; 512], [0xee; 512], [0; 512], [6; 512]].concat();
        assert_eq!(guest.bytes(DATA, 2048), expected);
        assert_eq!(sector_of(&image, 3), [4; 512]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever a request says: an answer or a reset, and no byte outside of the image.
        #[test]
        fn random_requests_are_answered(
            kind in prop_oneof![0_u32..16, any::<u32>()],
            sector in prop_oneof![0_u64..70, any::<u64>()],
            parts in prop::collection::vec((0_u64..0x20_0000, 0_u32..2000, any::<bool>()), 0..5),
            features in any::<bool>(),
        ) {
            let image = image();
            let guest = guest(&image, WRITE);
            let mut driver = guest.driver();
            driver.start(if features { FLUSH | TRIM } else { 0 });
            let mut header = kind.to_le_bytes().to_vec();
            header.extend([0; 4]);
            header.extend(sector.to_le_bytes());
            guest.store(HEADER, &header);
            let mut all = vec![read(HEADER, 16)];
            let (input, output): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| part.2);
            all.extend(output.iter().map(|(at, len, _)| read(*at, *len)));
            all.extend(input.iter().map(|(at, len, _)| write(*at, *len)));
            driver.put(&all);
            crate::virtio::testing::wait(|| {
                driver.get(VIRTIO_MMIO_STATUS) & 0x40 != 0
                    || driver.get(virtio_bindings::virtio_mmio::VIRTIO_MMIO_INTERRUPT_STATUS) != 0
            });
            prop_assert_eq!(image.metadata().unwrap().len(), 64 * 512);
        }
    }
}
