//! The trace as a story to be read, a line an event, repeats folded.
//!
//! ```text
//!      ms since  who     what happened                             how long, and where in the guest
//!        12.345  vcpu0   serial LSR read 0x60: transmitter empty   x 62  [guest 1.2 ms, cottage 90 us]  ...
//! ```
//!
//! Pure: events in, lines out. Read next: [`super::jsonl`].

use super::event::{Event, Exit, Topic, What};
use super::fold::{Folded, Same};
use super::registers::quoted;
use crate::timeline::Nanos;

/// What stands above all lines.
pub const HEAD: &str = "# ms since cottage began; [in the guest before the exit, in cottage to answer it]; \
                        code of the guest's\n";
/// Characters kept of what a guest prints in a row.
const KEPT: usize = 64;

/// An event, and those like it that came after it.
#[derive(Clone, Debug)]
pub struct Line {
    event: Event,
    /// Of the last one.
    index: Option<u32>,
    guest: Nanos,
    cottage: Nanos,
    /// Characters in all, of which the event keeps the first.
    printed: u64,
}

impl Line {
    /// A line for one event.
    pub fn new(mut event: Event) -> Self {
        let cottage = event.until.saturating_sub(event.since);
        let (mut index, mut guest, mut printed) = (None, 0, 0);
        if let What::Exit(exit) = &mut event.what {
            (index, guest) = (exit.index, exit.guest);
            if let Some(text) = &mut exit.text {
                printed = text.len() as u64;
                text.truncate(KEPT);
            }
        }
        Self {
            event,
            index,
            guest,
            cottage,
            printed,
        }
    }
}

impl Same for Line {
    fn is_again(&self, next: &Self) -> bool {
        let (a, b) = (&self.event, &next.event);
        let same = match (&a.what, &b.what) {
            (What::Exit(a), What::Exit(b)) => same_exit(a, b),
            (What::Note(a), What::Note(b)) => a == b,
            _ => false,
        };
        same && a.topic == b.topic && a.vcpu == b.vcpu
    }

    fn absorb(&mut self, next: Self) {
        self.guest += next.guest;
        self.cottage += next.cottage;
        self.printed += next.printed;
        self.index = next.index;
        if let (What::Exit(own), What::Exit(next)) = (&mut self.event.what, next.event.what)
            && let (Some(own), Some(next)) = (&mut own.text, next.text)
        {
            let room = KEPT.saturating_sub(own.len());
            own.extend(next.into_iter().take(room));
        }
    }
}

/// Whether a reader needs to be told once only: what is printed, by which instruction, and which of
/// several registers it is, may differ.
fn same_exit(a: &Exit, b: &Exit) -> bool {
    let value = a.value == b.value || a.text.is_some() || a.index.is_some();
    let text = a.text.is_some() == b.text.is_some();
    let index = a.index.is_some() == b.index.is_some();
    let what = a.kind == b.kind && a.address == b.address && a.meaning == b.meaning;
    let place = a.place == b.place || a.text.is_some();
    value && text && index && what && place && a.register == b.register
}

/// Writes `folded` as lines; times count from `began`.
pub fn render(folded: &Folded<Line>, began: Nanos) -> String {
    match folded {
        Folded::Once(line) => render_line(line, 1, Some(began)),
        Folded::InTurn(slots) => {
            let mut text = String::new();
            let mut time = Some(began);
            for (line, count) in slots {
                text += &render_line(line, *count, time.take());
            }
            text
        }
    }
}

/// One line; without `began` it belongs to the one above, with which it came in turn.
fn render_line(line: &Line, count: u64, began: Option<Nanos>) -> String {
    let event = &line.event;
    let time = match began {
        Some(began) => millis(event.since.saturating_sub(began)),
        None => "in turn".to_owned(),
    };
    let words = match &event.what {
        What::Note(words) => words.clone(),
        What::Call {
            name,
            words,
            result,
        } => {
            format!("{name}: {words} = {result}  [{}]", duration(line.cottage))
        }
        What::Exit(exit) => exit_words(exit, line),
    };
    let mut text = format!("{time:>10}  {:<7} {words}", who(event));
    if count > 1 {
        text += &format!("  x {count}");
    }
    if let What::Exit(exit) = &event.what {
        let (guest, cottage) = (duration(line.guest), duration(line.cottage));
        text += &format!("  [guest {guest}, cottage {cottage}]");
        if let Some(place) = &exit.place {
            let code = place.instruction.as_deref().unwrap_or("?");
            match &place.symbol {
                Some(symbol) => text += &format!("  {symbol}: {code}"),
                None => text += &format!("  {:#x}: {code}", place.rip),
            }
        }
    }
    text.push('\n');
    text
}

fn exit_words(exit: &Exit, line: &Line) -> String {
    let verb = match exit.kind {
        "out" | "mmio-write" => "written",
        "in" | "mmio-read" => "read",
        other => return format!("{other}: {}", exit.meaning),
    };
    let index = match (exit.index, line.index) {
        (Some(first), Some(last)) if first != last => format!(" {first} to {last}"),
        (Some(only), _) => format!(" {only}"),
        _ => String::new(),
    };
    let device = match (exit.device, exit.address) {
        ("-", Some(address)) if exit.kind.starts_with("mmio") => format!("address {address:#x},"),
        ("-", Some(address)) => format!("port {address:#x},"),
        (device, _) => device.to_owned(),
    };
    let register = &exit.register;
    if let Some(text) = &exit.text {
        let rest = if line.printed > text.len() as u64 {
            "..."
        } else {
            ""
        };
        let bytes = if line.printed == 1 { "byte" } else { "bytes" };
        let text = quoted(text);
        return format!(
            "{device} {register} {verb}: {text}{rest} {} {bytes}",
            line.printed
        );
    }
    let value = match exit.value {
        Some(value) if exit.index.is_none() || exit.index == line.index => format!(" {value:#x}"),
        _ => String::new(),
    };
    let meaning = if exit.meaning.is_empty() {
        String::new()
    } else {
        format!(": {}", exit.meaning)
    };
    format!("{device} {register}{index} {verb}{value}{meaning}")
}

/// Whose line it is.
fn who(event: &Event) -> String {
    match (event.topic, event.vcpu) {
        (Topic::Exits, Some(id)) => format!("vcpu{id}"),
        (Topic::Ioctls, _) => "kvm".to_owned(),
        (Topic::Devices, _) => "device".to_owned(),
        (topic, _) => topic.word().to_owned(),
    }
}

/// Milliseconds with three digits behind the point.
fn millis(nanos: Nanos) -> String {
    let micros = nanos / 1000;
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

/// A length of time in the unit that leaves one to three digits.
pub fn duration(nanos: Nanos) -> String {
    let tenths = |unit: Nanos| (nanos / unit, nanos % unit * 10 / unit);
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => {
            let (whole, tenth) = tenths(1_000);
            format!("{whole}.{tenth} us")
        }
        1_000_000..1_000_000_000 => {
            let (whole, tenth) = tenths(1_000_000);
            format!("{whole}.{tenth} ms")
        }
        _ => {
            let (whole, tenth) = tenths(1_000_000_000);
            format!("{whole}.{tenth} s")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::trace::event::Place;
    use crate::trace::fold::Fold;

    fn exit(register: &'static str, text: Option<u8>, index: Option<u32>) -> Line {
        let exit = Exit {
            number: 1,
            kind: "out",
            address: Some(0x3f8),
            size: 1,
            device: "serial",
            register: register.into(),
            index,
            value: Some(u64::from(text.unwrap_or(7))),
            meaning: if text.is_some() { "" } else { "seven" }.into(),
            text: text.map(|byte| vec![byte]),
            place: Some(Arc::new(Place {
                rip: 0x1000,
                instruction: Some("out dx, al".into()),
                symbol: None,
            })),
            guest: 2_500,
        };
        Line::new(Event {
            since: 1_002_000_000,
            until: 1_002_000_900,
            topic: Topic::Exits,
            vcpu: Some(0),
            what: What::Exit(Box::new(exit)),
        })
    }

    fn story(lines: Vec<Line>) -> String {
        let (mut fold, mut text) = (Fold::default(), String::new());
        let mut tell = |folded: Folded<Line>| text += &render(&folded, 1_000_000_000);
        for line in lines {
            fold.push(line, &mut tell);
        }
        fold.flush(&mut tell);
        text
    }

    #[test]
    fn one_exit_is_one_line_with_time_and_place() {
        assert_eq!(
            story(vec![exit("LCR", None, None)]),
            "     2.000  vcpu0   serial LCR written 0x7: seven  [guest 2.5 us, cottage 900 ns]  \
             0x1000: out dx, al\n"
        );
    }

    #[test]
    fn polling_and_printing_fold_into_the_text() {
        let lines = b"Linux\n".iter().flat_map(|byte| {
            let poll = exit("LSR", None, None);
            [poll, exit("THR", Some(*byte), None)]
        });
        let text = story(lines.collect());
        let mut lines = text.lines();
        assert!(lines.next().unwrap().contains("x 6  [guest 15.0 us"));
        let printed = lines.next().unwrap();
        assert!(
            printed
                .starts_with(r#"   in turn  vcpu0   serial THR written: "Linux\n" 6 bytes  x 6"#),
            "{printed}"
        );
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn a_walk_over_registers_folds_into_first_and_last() {
        let walk = (0..16).map(|pin| exit("entry", None, Some(pin)));
        let text = story(walk.collect());
        assert!(
            text.contains("entry 0 to 15 written: seven  x 16"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn long_output_keeps_its_beginning_and_its_length() {
        let text = story((0..5000).map(|_| exit("THR", Some(b'x'), None)).collect());
        assert!(text.contains("... 5000 bytes  x 5000"), "{text}");
        assert!(text.len() < 250);
    }

    #[test]
    fn durations_have_one_to_three_digits_and_a_unit() {
        let all = [999, 1_000, 12_345, 999_999, 1_500_000, 61_000_000_000].map(duration);
        assert_eq!(
            all,
            [
                "999 ns", "1.0 us", "12.3 us", "999.9 us", "1.5 ms", "61.0 s"
            ]
        );
    }
}
