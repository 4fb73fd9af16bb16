//! Guest RAM: one host mapping, shown to the guest as one or two ranges.
//!
//! The mapping is private and anonymous, starts on a 2 MiB boundary and is advised to use huge
//! pages: a nested page fault then brings 2 MiB instead of 4 KiB (docs/boot-trace.md counts them
//! by `tests/testbed/trace.sh`). The host hands out zeroed pages only when they are touched, so a
//! guest's memory size costs nothing by itself.
//!
//! This is one of the rooms where `unsafe` is allowed. Everybody else gets bounds-checked copies.
//! Sources: Linux `Documentation/admin-guide/mm/transhuge.rst`; mmap(2), madvise(2), pread(2).
//! Read next: [`super::mapped`].
#![expect(
    unsafe_code,
    reason = "maps guest RAM and lets the host kernel read files into it"
)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap,
    mmap::MmapRegionBuilder,
};

use super::layout::{MMIO_GAP_END, MMIO_GAP_START};

/// The host mapping starts on this boundary, so that host and guest huge pages line up.
const HUGE_PAGE: usize = 2 << 20; // 2 MiB
/// What the host takes back at least.
const PAGE: u64 = 4 << 10; // 4 KiB

/// What can go wrong with guest memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused the mapping.
    #[error("Cannot map {size:#x} bytes of guest memory (--memory)")]
    Map {
        /// Guest memory size in bytes.
        size: u64,
        /// What mmap(2) said.
        source: io::Error,
    },
    /// The size does not fit the host's address space, or the ranges cannot be built.
    #[error("Cannot describe {size:#x} bytes of guest memory as ranges: {reason}")]
    Ranges {
        /// Guest memory size in bytes.
        size: u64,
        /// What vm-memory said.
        reason: String,
    },
    /// An access would leave RAM.
    #[error(
        "Guest-physical range {gpa:#x} + {len:#x} is not RAM of this guest (memory ends at {end:#x})"
    )]
    OutOfRange {
        /// First guest-physical address of the access.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// First address after RAM.
        end: u64,
    },
    /// A file could not be read into guest memory.
    #[error("Cannot read {len:#x} bytes at file offset {offset:#x} into guest memory")]
    Read {
        /// Offset in the file.
        offset: u64,
        /// Bytes still wanted.
        len: u64,
        /// What pread(2) said; `UnexpectedEof` if the file is shorter.
        source: io::Error,
    },
}

/// All RAM of one guest.
#[derive(Debug)]
pub struct GuestMemory {
    ranges: GuestMemoryMmap<()>,
    _mapping: Mapping,
    size: u64,
}

/// A range of guest RAM and where the host has it; what KVM wants to know of a memory slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First guest-physical address.
    pub start: GuestAddress,
    /// Length in bytes.
    pub len: u64,
    /// Host address of the first byte.
    pub host: u64,
}

impl GuestMemory {
    /// Maps `size` bytes of zeroed guest RAM.
    ///
    /// # Errors
    /// [`Error::Map`] when the host has not that much address space to give.
    pub fn new(size: u64) -> Result<Self, Error> {
        let mapping = Mapping::new(size)?;
        let mut regions = Vec::with_capacity(2);
        let mut offset = 0;
        for (start, len) in ram_ranges(size) {
            regions.push(mapping.region(start, offset, len)?);
            offset += len;
        }
        let ranges = GuestMemoryMmap::from_regions(regions).map_err(|error| Error::Ranges {
            size,
            reason: error.to_string(),
        })?;
        Ok(Self {
            ranges,
            _mapping: mapping,
            size,
        })
    }

    /// RAM size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// First address after the RAM below the gap.
    pub fn low_end(&self) -> GuestAddress {
        GuestAddress(self.size.min(MMIO_GAP_START.0))
    }

    /// RAM as the guest sees it, lowest first.
    pub fn ram(&self) -> Vec<RamRange> {
        let mut offset = 0;
        ram_ranges(self.size)
            .map(|(start, len)| {
                let host = self._mapping.base as u64 + offset;
                offset += len;
                RamRange { start, len, host }
            })
            .collect()
    }

    /// Where the host has all of it.
    pub fn host_range(&self) -> Range<u64> {
        let base = self._mapping.base as u64;
        base..base + self.size
    }

    /// The vm-memory view, for code that walks virtqueues.
    pub fn backend(&self) -> &GuestMemoryMmap<()> {
        &self.ranges
    }

    /// Succeeds if all of `gpa .. gpa + len` is RAM in one piece.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] with the numbers.
    pub fn check(&self, gpa: GuestAddress, len: u64) -> Result<(), Error> {
        let fits = usize::try_from(len).is_ok_and(|len| self.ranges.check_range(gpa, len));
        if fits {
            Ok(())
        } else {
            Err(self.out_of_range(gpa, len))
        }
    }

    /// Copies `bytes` to guest-physical `gpa`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if any byte would fall outside RAM; nothing is written then.
    pub fn write(&self, gpa: GuestAddress, bytes: &[u8]) -> Result<(), Error> {
        self.check(gpa, bytes.len() as u64)?;
        self.ranges
            .write_slice(bytes, gpa)
            .map_err(|_out| self.out_of_range(gpa, bytes.len() as u64))
    }

    /// Copies guest memory at `gpa` to `bytes`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if any byte lies outside RAM.
    pub fn read(&self, gpa: GuestAddress, bytes: &mut [u8]) -> Result<(), Error> {
        let len = bytes.len() as u64;
        self.check(gpa, len)?;
        self.ranges
            .read_slice(bytes, gpa)
            .map_err(|_out| self.out_of_range(gpa, len))
    }

    /// Gives the whole pages in `gpa .. gpa + len` to the host. They stay RAM, and read zeros.
    ///
    /// A huge page of which a part goes is split by the host.
    ///
    /// # Errors
    /// What madvise(2) says, or that not all of it is RAM; nothing is given then.
    pub fn discard(&self, gpa: GuestAddress, len: u64) -> io::Result<()> {
        self.check(gpa, len).map_err(io::Error::other)?;
        let start = gpa.0.next_multiple_of(PAGE);
        let end = (gpa.0 + len) / PAGE * PAGE;
        if start >= end {
            return Ok(());
        }
        let len = usize::try_from(end - start).map_err(io::Error::other)?;
        let slice = self.ranges.get_slice(GuestAddress(start), len);
        let slice = slice.map_err(io::Error::other)?;
        let guard = slice.ptr_guard_mut();
        let host = guard.as_ptr().cast();
        // SAFETY: 1. get_slice proved that `len` bytes from this pointer lie in one RAM mapping,
        // which `guard` and `self` keep alive. 2. The mapping is private and anonymous, so that
        // afterwards it is still mapped, and holds zeros. 3. The memory belongs to the guest: no
        // Rust reference to it exists, and everybody expects it to change at any time.
        match unsafe { libc::madvise(host, len, libc::MADV_DONTNEED) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reads `len` bytes of `file` at `offset` straight into guest memory at `gpa`.
    ///
    /// The shortest path there is from a kernel file to the guest: the host kernel copies from
    /// its page cache, no buffer of ours in between. (Mapping the file instead is slower overall:
    /// 4 KiB pages cost more nested faults than the copy.)
    ///
    /// # Errors
    /// [`Error::OutOfRange`], or [`Error::Read`] when the file is shorter or unreadable.
    pub fn read_from_file(
        &self,
        gpa: GuestAddress,
        file: &File,
        offset: u64,
        len: u64,
    ) -> Result<(), Error> {
        self.check(gpa, len)?;
        let mut done = 0;
        while done < len {
            let at = GuestAddress(gpa.0 + done);
            let step = self
                .pread(at, file, offset + done, len - done)
                .and_then(|n| match n {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    n => Ok(n),
                });
            match step {
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Read {
                        offset: offset + done,
                        len: len - done,
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// One pread(2) into guest memory; returns how many bytes came.
    fn pread(&self, gpa: GuestAddress, file: &File, offset: u64, len: u64) -> io::Result<u64> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let slice = self.ranges.get_slice(gpa, len).map_err(io::Error::other)?;
        let guard = slice.ptr_guard_mut();
        // SAFETY: 1. get_slice proved that `len` bytes from this pointer lie in one RAM mapping.
        // 2. `guard` and `self` keep that mapping alive across the call. 3. The memory belongs to
        // the guest: no Rust reference to it exists, so the kernel may write it at any time.
        let n = unsafe { libc::pread(file.as_raw_fd(), guard.as_ptr().cast(), len, offset) };
        u64::try_from(n).map_err(|_negative| io::Error::last_os_error())
    }

    fn out_of_range(&self, gpa: GuestAddress, len: u64) -> Error {
        let end = ram_ranges(self.size)
            .last()
            .map_or(0, |(start, len)| start.0 + len);
        Error::OutOfRange {
            gpa: gpa.0,
            len,
            end,
        }
    }
}

/// Splits `size` bytes of RAM around the MMIO gap: (start, length), lowest first.
pub fn ram_ranges(size: u64) -> impl Iterator<Item = (GuestAddress, u64)> {
    let low = size.min(MMIO_GAP_START.0);
    let ranges = [(GuestAddress(0), low), (MMIO_GAP_END, size - low)];
    ranges.into_iter().filter(|(_, len)| *len > 0)
}

/// The host mapping behind all ranges; unmapped on drop.
#[derive(Debug)]
struct Mapping {
    /// Where mmap(2) put it.
    start: *mut libc::c_void,
    /// What was mapped: the memory and the slack that alignment needs.
    mapped: usize,
    /// First 2 MiB boundary in it; guest RAM starts here.
    base: usize,
}

// SAFETY: the pointer is only an address to unmap; access goes through vm-memory's volatile
// slices, which are made for memory that other threads and the guest change.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared reference offers no access to the memory.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(size: u64) -> Result<Self, Error> {
        let too_big = || Error::Map {
            size,
            source: io::ErrorKind::OutOfMemory.into(),
        };
        let wanted = usize::try_from(size).ok().ok_or_else(too_big)?;
        let mapped = wanted.checked_add(HUGE_PAGE).ok_or_else(too_big)?;
        // NORESERVE: a guest larger than free memory may start, as on every VMM; it pays when it
        // touches the pages.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), mapped, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::Map {
                size,
                source: io::Error::last_os_error(),
            });
        }
        let base = (start as usize).next_multiple_of(HUGE_PAGE);
        // Advice only: where huge pages are off the guest runs all the same, with more faults.
        // SAFETY: base .. base + wanted lies inside the mapping made above.
        unsafe { libc::madvise(base as *mut libc::c_void, wanted, libc::MADV_HUGEPAGE) };
        Ok(Self {
            start,
            mapped,
            base,
        })
    }

    /// Describes `len` bytes at `offset` of the mapping as guest RAM at `start`.
    fn region(
        &self,
        start: GuestAddress,
        offset: u64,
        len: u64,
    ) -> Result<GuestRegionMmap<()>, Error> {
        let wrong = |reason: String| Error::Ranges { size: len, reason };
        let bytes = usize::try_from(len).map_err(|e| wrong(e.to_string()))?;
        let offset = usize::try_from(offset).map_err(|e| wrong(e.to_string()))?;
        let host = (self.base + offset) as *mut u8;
        let builder = MmapRegionBuilder::new(bytes)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: 1. host .. host + bytes lies in our mapping (offset + len <= size). 2. The
        // mapping outlives the region: GuestMemory owns both and drops the regions first.
        // 3. vm-memory does not unmap what it was given raw.
        let builder = unsafe { builder.with_raw_mmap_pointer(host) };
        let region = builder.build().map_err(|e| wrong(e.to_string()))?;
        GuestRegionMmap::new(region, start)
            .ok_or_else(|| wrong(format!("{:#x} + {len:#x} wraps", start.0)))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and mapped are what mmap(2) returned and got; regions are gone by now.
        unsafe { libc::munmap(self.start, self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_below_the_gap_is_one_range() {
        let ranges: Vec<_> = ram_ranges(128 << 20).collect();
        assert_eq!(ranges, [(GuestAddress(0), 128 << 20)]);
    }

    #[test]
    fn memory_above_3_gib_continues_at_4_gib() {
        let ranges: Vec<_> = ram_ranges(5 << 30).collect();
        assert_eq!(
            ranges,
            [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 2 << 30)]
        );
    }

    #[test]
    fn host_mapping_is_huge_page_aligned() {
        let memory = GuestMemory::new(64 << 20).unwrap();
        assert_eq!(memory.ram()[0].host % HUGE_PAGE as u64, 0);
    }

    #[test]
    fn write_that_would_leave_ram_is_refused_whole() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let last = GuestAddress((2 << 20) - 1);
        assert!(matches!(
            memory.write(last, &[1, 2]),
            Err(Error::OutOfRange { len: 2, .. })
        ));
        let mut byte = [9];
        memory.read(last, &mut byte).unwrap();
        assert_eq!(byte, [0]);
    }

    #[test]
    fn whole_pages_are_discarded_and_nothing_beside_them() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        memory.write(GuestAddress(0), &[7; 0x4000]).unwrap();
        memory.discard(GuestAddress(0xfff), 0x2fff).unwrap();
        let mut bytes = [9; 0x4000];
        memory.read(GuestAddress(0), &mut bytes).unwrap();
        assert!(bytes[0x1000..0x3000] == [0; 0x2000]);
        assert!(bytes[..0x1000] == [7; 0x1000] && bytes[0x3000..] == [7; 0x1000]);
        assert!(memory.discard(GuestAddress(0x1f_f000), 0x1001).is_err());
        assert!(memory.discard(GuestAddress(u64::MAX), 2).is_err());
        assert!(memory.discard(GuestAddress(1), 0xffe).is_ok());
    }

    #[test]
    fn range_that_wraps_is_refused() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        assert!(memory.check(GuestAddress(u64::MAX), 2).is_err());
        assert!(memory.check(GuestAddress(0), u64::MAX).is_err());
    }

    #[test]
    fn short_file_is_an_error_with_numbers() {
        let memory = GuestMemory::new(2 << 20).unwrap();
        let file = File::open("/dev/null").unwrap();
        let error = memory
            .read_from_file(GuestAddress(0), &file, 7, 9)
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Read {
                    offset: 7,
                    len: 9,
                    ..
                }
            ),
            "{error}"
        );
    }
}
