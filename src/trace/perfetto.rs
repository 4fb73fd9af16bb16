//! The trace as a picture: an array of events for <https://ui.perfetto.dev> and Chrome's about:tracing.
//!
//! A track a processor, on which its time in the guest and in cottage lie side by side; a track a device
//! and processor, so that slices of one track never overlap; others for KVM's calls and for words.
//!
//! Source: "Trace Event Format", the Chromium project's document, the JSON array form: `ph` X is a slice
//! with `ts` and `dur` in microseconds, i an instant, M a name for a track. The array's end may be missing.
//! Read next: [`super::writer`].

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::event::{Event, Exit, What};
use crate::timeline::Nanos;

/// What all events share.
const PROCESS: u32 = 1;
/// More tracks than processors, devices and topics make are not given names.
const MAX_TRACKS: usize = 8192;

/// Tracks by name, numbered as they come up.
#[derive(Debug, Default)]
pub struct Tracks(BTreeMap<String, usize>);

impl Tracks {
    /// `event` as elements of the array, each with a comma in front but for the very first.
    pub fn render(&mut self, event: &Event, began: Nanos) -> String {
        let mut out = String::new();
        let start = event.since.saturating_sub(began);
        let length = event.until.saturating_sub(event.since);
        match &event.what {
            What::Note(words) => {
                let tid = self.number(event.topic.word().to_owned(), &mut out);
                let instant = json!({ "ph": "i", "s": "t", "name": words, "cat": event.topic.word(),
                    "pid": PROCESS, "tid": tid, "ts": micros(start) });
                push(&mut out, &instant);
            }
            What::Call {
                name,
                words,
                result,
            } => {
                let track = match event.vcpu {
                    Some(id) => format!("KVM, vCPU {id}"),
                    None => "KVM".to_owned(),
                };
                let tid = self.number(track, &mut out);
                let args = json!({ "what": words, "result": result });
                push(&mut out, &slice(name, (tid, start, length), &args));
            }
            What::Exit(exit) => {
                let vcpu = event.vcpu.unwrap_or(0);
                let (tid, device) = (
                    self.number(format!("vCPU {vcpu}"), &mut out),
                    self.number(format!("{}, vCPU {vcpu}", exit.device), &mut out),
                );
                let before = start.saturating_sub(exit.guest);
                if exit.guest > 0 {
                    push(
                        &mut out,
                        &slice("guest", (tid, before, exit.guest), &json!({})),
                    );
                }
                let name = format!("{} {}", exit.device, exit.register);
                let args = args(exit);
                push(&mut out, &slice(&name, (tid, start, length), &args));
                push(
                    &mut out,
                    &slice(&exit.register, (device, start, length), &args),
                );
            }
        }
        out
    }

    /// The track called `name`, introduced in `out` if it is new.
    fn number(&mut self, name: String, out: &mut String) -> usize {
        let next = self.0.len() + 1;
        if let Some(number) = self.0.get(&name) {
            return *number;
        }
        if next > MAX_TRACKS {
            return 0;
        }
        if next == 1 {
            let process = json!({ "ph": "M", "name": "process_name", "pid": PROCESS,
                "args": { "name": "cottage" } });
            *out += "[\n";
            *out += &process.to_string();
        }
        let track = json!({ "ph": "M", "name": "thread_name", "pid": PROCESS, "tid": next,
            "args": { "name": name } });
        push(out, &track);
        self.0.insert(name, next);
        next
    }

    /// What ends the array.
    pub fn end(&self) -> &'static str {
        if self.0.is_empty() { "[]\n" } else { "\n]\n" }
    }
}

fn push(out: &mut String, event: &Value) {
    *out += ",\n";
    *out += &event.to_string();
}

fn slice(name: &str, (tid, start, length): (usize, Nanos, Nanos), args: &Value) -> Value {
    json!({ "ph": "X", "name": name, "cat": "cottage", "pid": PROCESS, "tid": tid,
        "ts": micros(start), "dur": micros(length), "args": args })
}

/// Microseconds with a fraction, exact below 285 years.
fn micros(nanos: Nanos) -> Value {
    let number = format!("{}.{:03}", nanos / 1000, nanos % 1000);
    number.parse::<f64>().map_or(Value::Null, Value::from)
}

fn args(exit: &Exit) -> Value {
    let hex = |number: u64| format!("{number:#x}");
    let place = exit.place.as_deref();
    json!({
        "exit": exit.number,
        "kind": exit.kind,
        "address": exit.address.map(hex),
        "value": exit.value.map(hex),
        "meaning": exit.meaning,
        "rip": place.map(|place| hex(place.rip)),
        "instruction": place.and_then(|place| place.instruction.clone()),
        "symbol": place.and_then(|place| place.symbol.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::event::Topic;

    fn note(words: &str) -> Event {
        Event {
            since: 1_234_567,
            until: 1_234_567,
            topic: Topic::Boot,
            vcpu: None,
            what: What::Note(words.into()),
        }
    }

    #[test]
    fn elements_and_end_make_one_array() {
        let mut tracks = Tracks::default();
        let mut text = tracks.render(&note("one"), 1_000_000);
        text += &tracks.render(&note("\"two\"\n"), 0);
        text += tracks.end();
        let array: Vec<Value> = serde_json::from_str(&text).unwrap();
        let names: Vec<_> = array.iter().map(|e| e["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["process_name", "thread_name", "one", "\"two\"\n"]);
        assert_eq!(array[2]["ts"], 234.567);
        assert_eq!(array[2]["tid"], array[1]["tid"]);
    }

    #[test]
    fn a_trace_of_nothing_is_an_array_too() {
        assert_eq!(Tracks::default().end(), "[]\n");
    }
}
