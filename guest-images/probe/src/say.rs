//! Lines on standard output, and small files read whole.

use core::ffi::CStr;

use cottage_init::line::Line;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read, write};

use crate::bare;

/// The longest line, as `cottage compare` takes it; what does not fit is cut off.
pub const LINE_MAX: usize = 4096;

/// A line in the making.
pub type Text = Line<LINE_MAX>;

/// Writes everything, if it can be written at all.
pub fn write_all(to: impl AsFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match write(&to, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Prints a line.
pub fn line(text: Text) {
    write_all(bare::output(), text.text(b"\n").as_bytes());
}

/// Prints `key value`.
pub fn value(key: &str, value: &[u8]) {
    line(Text::new().text(key.as_bytes()).text(b" ").text(value));
}

/// Prints `key number`.
pub fn number(key: &str, number: u64) {
    line(Text::new().text(key.as_bytes()).text(b" ").number(number));
}

/// Prints `key - errno N`: there is no value, and why.
pub fn nothing(key: &str, reason: Errno) {
    line(errno(Text::new().text(key.as_bytes()).text(b" - "), reason));
}

/// Adds an error's number.
pub fn errno(text: Text, reason: Errno) -> Text {
    let number = reason.raw_os_error().unsigned_abs();
    text.text(b"errno ").number(number.into())
}

/// Prints `key` with the text of a file, in one line, or why there is none.
pub fn file(key: &str, path: &CStr) {
    let mut buffer = [0; 4096];
    match read_file(path, &mut buffer) {
        Ok(text) => value(key, one_line(Text::new(), text).as_bytes()),
        Err(reason) => nothing(key, reason),
    }
}

/// Adds text with its lines and columns one blank apart.
pub fn one_line(mut line: Text, text: &[u8]) -> Text {
    let mut between: &[u8] = b"";
    for word in text
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
    {
        line = line.text(between).text(word);
        between = b" ";
    }
    line
}

/// Opens a file to read.
pub fn open_file(path: &CStr) -> Result<OwnedFd, Errno> {
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads a file, as much of it as the buffer takes.
pub fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let file = open_file(path)?;
    let mut used = 0;
    while let Some(room) = buffer.get_mut(used..).filter(|room| !room.is_empty()) {
        match read(&file, room) {
            Ok(0) => break,
            Ok(count) => used += count,
            Err(Errno::INTR) => {}
            Err(reason) => return Err(reason),
        }
    }
    Ok(buffer.get(..used).unwrap_or_default())
}

/// Complains, and returns the status of a program that failed.
pub fn failed(what: &str, reason: Errno) -> u8 {
    let text = Text::new()
        .text(b"probe: ")
        .text(what.as_bytes())
        .text(b": ");
    write_all(
        bare::complaints(),
        errno(text, reason).text(b"\n").as_bytes(),
    );
    1
}
