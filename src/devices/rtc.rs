//! The real-time clock and its CMOS memory.
//!
//! Linux gets its time from kvm-clock, but every stock kernel also reads this chip, and one whose
//! ports do not answer makes it spin until it gives up: status register A would read as ones,
//! "update in progress", for ever. So the clock runs, in UTC, and never is in an update.
//! Alarms and periodic interrupts are not emulated; setting the time is ignored.
//!
//! Source: `[mc146818]` Motorola MC146818A datasheet; Linux `include/linux/mc146818rtc.h`.
//! Read next: [`super::pci`].

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::lock;
use crate::bus::{PortDevice, Request};

const INDEX: u16 = 0;

// Registers.
const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
/// Bit 7, update in progress, stays clear; the rest says "32768 Hz crystal, 1024 Hz rate".
const STATUS_A: u8 = 0x0a;
const STATUS_A_VALUE: u8 = 0x26;
/// 24-hour clock, BCD digits, no interrupts.
const STATUS_B: u8 = 0x0b;
const STATUS_B_VALUE: u8 = 1 << 1;
/// No interrupt is pending.
const STATUS_C: u8 = 0x0c;
/// Bit 7: the battery is good.
const STATUS_D: u8 = 0x0d;
const STATUS_D_VALUE: u8 = 1 << 7;
/// The century, where IBM's AT kept it.
const CENTURY: u8 = 0x32;
/// Bit 7 of the index port masks NMIs; there are 128 registers.
const INDEX_MASK: u8 = 0x7f;

/// The clock.
#[derive(Debug)]
pub struct Rtc(Mutex<State>);

#[derive(Debug)]
struct State {
    index: u8,
    /// CMOS bytes a guest may keep things in: Linux puts its warm-reset vector's code at 0x0f.
    cmos: [u8; 128],
}

impl Rtc {
    /// A clock with empty CMOS memory.
    pub fn new() -> Self {
        Self(Mutex::new(State {
            index: 0,
            cmos: [0; 128],
        }))
    }
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

impl PortDevice for Rtc {
    fn name(&self) -> &'static str {
        "rtc"
    }

    fn read(&self, offset: u16) -> u8 {
        let state = lock(&self.0);
        if offset == INDEX {
            return state.index;
        }
        let stored = state
            .cmos
            .get(usize::from(state.index))
            .copied()
            .unwrap_or(0);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        register(state.index, now).unwrap_or(stored)
    }

    fn write(&self, offset: u16, value: u8) -> Option<Request> {
        let mut state = lock(&self.0);
        if offset == INDEX {
            state.index = value & INDEX_MASK;
        } else {
            let index = usize::from(state.index);
            if let Some(byte) = state.cmos.get_mut(index) {
                *byte = value;
            }
        }
        None
    }
}

/// What a clock register shows `unix` seconds after 1970, or `None` for plain memory.
fn register(index: u8, unix: u64) -> Option<u8> {
    let date = Date::from_unix(unix);
    Some(match index {
        SECONDS => bcd(unix % 60),
        MINUTES => bcd(unix / 60 % 60),
        HOURS => bcd(unix / 3600 % 24),
        WEEKDAY => bcd((unix / 86_400 + 4) % 7 + 1), // 1970-01-01 was a Thursday; Sunday is 1
        DAY => bcd(date.day),
        MONTH => bcd(date.month),
        YEAR => bcd(date.year % 100),
        CENTURY => bcd(date.year / 100),
        STATUS_A => STATUS_A_VALUE,
        STATUS_B => STATUS_B_VALUE,
        STATUS_C => 0,
        STATUS_D => STATUS_D_VALUE,
        _ => return None,
    })
}

/// Two decimal digits, one a nibble.
fn bcd(value: u64) -> u8 {
    let (tens, ones) = (value / 10 % 10, value % 10);
    u8::try_from(tens * 16 + ones).unwrap_or(0)
}

#[derive(Debug, PartialEq, Eq)]
struct Date {
    year: u64,
    month: u64,
    day: u64,
}

impl Date {
    /// The Gregorian date, counted in years that begin in March so that leap days come last.
    fn from_unix(unix: u64) -> Self {
        let days = unix / 86_400 + 719_468; // from 0000-03-01
        let era = days / 146_097; // 400 years
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Self {
            year,
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_match_the_calendar() {
        let date = |year, month, day| Date { year, month, day };
        assert_eq!(Date::from_unix(0), date(1970, 1, 1));
        assert_eq!(Date::from_unix(951_782_400), date(2000, 2, 29));
        assert_eq!(Date::from_unix(951_868_800), date(2000, 3, 1));
        assert_eq!(Date::from_unix(1_795_219_200), date(2026, 11, 21));
        assert_eq!(Date::from_unix(4_107_542_400), date(2100, 3, 1));
    }

    #[test]
    fn registers_are_bcd() {
        let at = 1_795_219_200 + 23 * 3600 + 59 * 60 + 58; // Saturday 2026-11-21 23:59:58
        let read = |index| register(index, at).unwrap();
        assert_eq!(
            [read(HOURS), read(MINUTES), read(SECONDS)],
            [0x23, 0x59, 0x58]
        );
        assert_eq!(
            [read(CENTURY), read(YEAR), read(MONTH), read(DAY)],
            [0x20, 0x26, 0x11, 0x21]
        );
        assert_eq!(read(WEEKDAY), 7);
    }

    #[test]
    fn update_is_never_in_progress() {
        let rtc = Rtc::new();
        assert_eq!(rtc.write(INDEX, STATUS_A | 0x80), None);
        assert_eq!(rtc.read(1) & 0x80, 0);
    }

    #[test]
    fn cmos_memory_remembers() {
        let rtc = Rtc::new();
        assert_eq!(rtc.write(INDEX, 0x0f), None);
        assert_eq!(rtc.write(1, 0x0a), None);
        assert_eq!(rtc.read(1), 0x0a);
        assert_eq!(rtc.read(INDEX), 0x0f);
    }
}
