//! Values of flags that stand for one thing: sizes, counts, ports, words.
//!
//! Read next: [`super::disk`].

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{Error, MAX_VCPUS, PAGE};
use crate::memory::layout::{MAX_MEMORY, MIN_MEMORY, device_ports};

/// What the kernel is told: `whole`, or else the default and `more`.
///
/// # Errors
/// [`Error::CmdlineText`].
pub fn cmdline(
    default: &str,
    whole: Option<OsString>,
    more: Option<OsString>,
) -> Result<String, Error> {
    let text = |flag, value: OsString| {
        let wrong = |value| Error::CmdlineText { flag, value };
        value.into_string().map_err(wrong)
    };
    match (whole, more) {
        (Some(whole), _) => text("--cmdline", whole),
        (None, Some(more)) if default.is_empty() => text("--append", more),
        (None, Some(more)) => Ok(format!("{default} {}", text("--append", more)?)),
        (None, None) => Ok(default.to_owned()),
    }
}

/// The guest's command as its kernel takes it.
///
/// # Errors
/// [`Error::CommandNul`].
pub fn words(command: Vec<OsString>) -> Result<Vec<Vec<u8>>, Error> {
    let words: Vec<_> = command.into_iter().map(OsStringExt::into_vec).collect();
    match words.iter().position(|word| word.contains(&0)) {
        Some(at) => Err(Error::CommandNul { position: at + 1 }),
        None => Ok(words),
    }
}

/// A port that no device has.
///
/// # Errors
/// [`Error::DebugExit`], [`Error::DebugExitTaken`].
pub fn parse_port(value: &str) -> Result<u16, Error> {
    let hex = value.strip_prefix("0x").or(value.strip_prefix("0X"));
    let port = hex.map_or_else(
        || value.parse().ok(),
        |hex| u16::from_str_radix(hex, 16).ok(),
    );
    let port = port.ok_or_else(|| Error::DebugExit {
        value: value.to_owned(),
    })?;
    let ports = device_ports();
    let taken = ports
        .iter()
        .find(|(first, count)| (*first..first + count).contains(&port));
    match taken {
        Some((first, count)) => Err(Error::DebugExitTaken {
            port,
            first: *first,
            last: first + count - 1,
        }),
        None => Ok(port),
    }
}

/// A number of processors.
///
/// # Errors
/// [`Error::Cpus`].
pub fn parse_cpus(value: &str) -> Result<u32, Error> {
    match value.parse() {
        Ok(n) if (1..=MAX_VCPUS).contains(&n) => Ok(n),
        _ => Err(Error::Cpus {
            value: value.to_owned(),
        }),
    }
}

/// What a unit stands for, as a power of 2.
pub fn unit_shift(unit: &str) -> Option<u32> {
    match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => Some(10),
        "m" | "mb" | "mib" => Some(20),
        "g" | "gb" | "gib" => Some(30),
        "t" | "tb" | "tib" => Some(40),
        _ => None,
    }
}

/// A whole number and a unit: `128M`, `2G`, `512MiB`, `1gb`.
///
/// # Errors
/// [`Error::MemoryFormat`], [`Error::MemoryRange`], [`Error::MemoryPages`].
pub fn parse_memory(value: &str) -> Result<u64, Error> {
    let wrong = |hint: String| Error::MemoryFormat {
        value: value.to_owned(),
        hint,
    };
    let digits = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    if number.is_empty() {
        return Err(wrong(String::new()));
    }
    // A bare number means MiB to QEMU and bytes to docker: ask instead of guessing.
    let shift = match unit_shift(unit) {
        Some(shift) => shift,
        None if unit.is_empty() => return Err(wrong(format!("; did you mean {value}M?"))),
        None => return Err(wrong(String::new())),
    };
    let range = |what| Error::MemoryRange {
        value: value.to_owned(),
        what,
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| range("too large"))?;
    match bytes {
        b if b < MIN_MEMORY => Err(range("too small")),
        b if b > MAX_MEMORY => Err(range("too large")),
        b if b % PAGE != 0 => Err(Error::MemoryPages {
            value: value.to_owned(),
        }),
        b => Ok(b),
    }
}
