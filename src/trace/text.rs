//! The trace as a story to be read, a line an event, repeats folded.
//!
//! ```text
//!      ms since  who     what happened                             how long, and where in the guest
//!        12.345  vcpu0   serial LSR read 0x60: transmitter empty   x 62  [guest 1.2 ms, cottage 90 us]  ...
//! ```
//!
//! Pure: events in, lines out. Read next: [`super::jsonl`].

use super::event::{Event, Exit, Topic, What};
use super::fold::{Fold, Folded, Same};
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

/// Lines that came in turn; most are alone.
#[derive(Clone, Debug)]
pub struct Group(Vec<Member>);

#[derive(Clone, Debug)]
struct Member {
    line: Line,
    /// How often it comes at a time.
    each: u64,
    /// How often in all.
    all: u64,
}

impl Same for Group {
    fn is_again(&self, next: &Self) -> bool {
        let again = |(a, b): (&Member, &Member)| {
            // How much is printed at a time may differ.
            a.line.is_again(&b.line) && (a.each == b.each || a.line.printed > 0)
        };
        self.0.len() == next.0.len() && self.0.iter().zip(&next.0).all(again)
    }

    fn absorb(&mut self, next: Self) {
        for (own, other) in self.0.iter_mut().zip(next.0) {
            own.line.absorb(other.line);
            own.all += other.all;
        }
    }
}

/// Events become text: repeats, and repeats of repeats, as a driver's that polls once for 16 bytes.
#[derive(Debug, Default)]
pub struct Story {
    inner: Fold<Line>,
    outer: Fold<Group>,
}

impl Story {
    /// Takes an event; `tell` gets the lines that are complete now. Times count from `began`.
    pub fn push(&mut self, event: Event, began: Nanos, tell: &mut impl FnMut(&str)) {
        let Self { inner, outer } = self;
        let mut groups =
            |folded| outer.push(group(folded), &mut |folded| tell(&render(&folded, began)));
        inner.push(Line::new(event), &mut groups);
    }

    /// Tells all that is held.
    pub fn flush(&mut self, began: Nanos, tell: &mut impl FnMut(&str)) {
        let Self { inner, outer } = self;
        inner.flush(&mut |folded| {
            outer.push(group(folded), &mut |folded| tell(&render(&folded, began)));
        });
        outer.flush(&mut |folded| tell(&render(&folded, began)));
    }
}

fn group(folded: Folded<Line>) -> Group {
    let member = |(line, count)| Member {
        line,
        each: count,
        all: count,
    };
    Group(match folded {
        Folded::Once(line) => vec![member((line, 1))],
        Folded::InTurn(lines) => lines.into_iter().map(member).collect(),
    })
}

/// Writes `folded` as lines, of which the first has the time since `began`.
fn render(folded: &Folded<Group>, began: Nanos) -> String {
    let groups: Vec<_> = match folded {
        Folded::Once(group) => vec![group],
        Folded::InTurn(groups) => groups.iter().map(|(group, _)| group).collect(),
    };
    let mut time = Some(began);
    let lines = groups.iter().flat_map(|group| &group.0);
    lines
        .map(|member| render_line(&member.line, member.all, time.take()))
        .collect()
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
        let (mut story, mut text) = (Story::default(), String::new());
        for line in lines {
            story.push(line.event, 1_000_000_000, &mut |lines| text += lines);
        }
        story.flush(1_000_000_000, &mut |lines| text += lines);
        text
    }

    #[test]
    fn polling_once_for_several_bytes_folds_too() {
        let bursts = [16, 16, 16, 3].into_iter().flat_map(|len| {
            let burst = (0..len).map(|_| exit("THR", Some(b'x'), None));
            [exit("LSR", None, None)].into_iter().chain(burst)
        });
        let text = story(bursts.collect());
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("LSR written 0x7: seven  x 4 "), "{text}");
        assert!(text.contains("\" 51 bytes  x 51 "), "{text}");
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
