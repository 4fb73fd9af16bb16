//! The BIOS data area: what a PC's firmware leaves at 0x400 for those that come after it.
//!
//! Kernels for PCs take from it where conventional memory ends before they look at any table; Xen puts
//! its first stack there. There is no firmware here, so the few fields that are read in practice are
//! written for it. Linux does without, and gets none.
//!
//! Source: `[bda]` Phoenix, System BIOS for IBM PCs, Compatibles, and EISA Computers, second edition,
//! "BIOS data area". Read next: [`crate::modules`].

use crate::memory::layout::{BIOS_DATA_SIZE, COM1_PORT, EBDA};

// Offsets in the area. [bda]
/// Base ports of four serial ports.
const SERIAL_PORTS: usize = 0x00;
/// Segment of the extended BIOS data area.
const EBDA_SEGMENT: usize = 0x0e;
/// Equipment word; bits 9 to 11 count the serial ports.
const EQUIPMENT: usize = 0x10;
const ONE_SERIAL_PORT: u16 = 1 << 9;
/// Conventional memory in KiB.
const MEMORY_SIZE: usize = 0x13;

/// Makes the bytes to write at `layout::BIOS_DATA`.
pub fn build() -> Vec<u8> {
    let mut area = vec![0; usize::try_from(BIOS_DATA_SIZE).unwrap_or_default()];
    let half = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    for (offset, value) in [
        (SERIAL_PORTS, COM1_PORT),
        (EBDA_SEGMENT, half(EBDA.0 >> 4)),
        (EQUIPMENT, ONE_SERIAL_PORT),
        (MEMORY_SIZE, half(EBDA.0 >> 10)),
    ] {
        for (to, from) in area.iter_mut().skip(offset).zip(value.to_le_bytes()) {
            *to = from;
        }
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_kernels_look() {
        let area = build();
        assert_eq!(area.len(), 0x100);
        assert_eq!(area[0..4], [0xf8, 0x03, 0, 0]);
        assert_eq!(area[0x0e..0x12], [0xc0, 0x9f, 0, 2]);
        assert_eq!(area[0x13..0x15], 639_u16.to_le_bytes());
    }
}
