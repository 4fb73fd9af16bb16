//! The block device: disks.
//!
//! - [`request`]: what the driver asks for;
//! - [`image`]: the file it is asked of;
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
    /// [`image::Error`] with the file's name and what to do.
    pub fn open(disk: &Disk, tell: fn(&str)) -> Result<Self, image::Error> {
        let image = Image::open(disk)?;
        let mut serial = [0; MAX_SERIAL];
        for (to, from) in serial.iter_mut().zip(disk.serial.bytes()) {
            *to = from;
        }
        Ok(Self {
            id: disk.id.clone(),
            serial,
            config: config(image.size()),
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
            if !self.told.swap(true, Ordering::Relaxed) {
                let id = &self.id;
                (self.tell)(&format!("{id}: a request of the guest's failed: {error}"));
            }
            Status::IoError
        })
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
fn config(size: u64) -> [u8; CONFIG] {
    let mut config = [0; CONFIG];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in config.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, &(size / SECTOR).to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    put(36, &MAX_DISCARD.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &1_u32.to_le_bytes()); // ranges to discard lie on any sector
    put(48, &MAX_ZEROES.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[1]); // zeroed ranges may lose their space
    config
}

impl Device for Blk {
    fn name(&self) -> &'static str {
        "virtio-blk"
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
