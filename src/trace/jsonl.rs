//! The trace for programs: a JSON object a line, nothing folded. docs/trace.md lists the fields.
//!
//! Read next: [`super::perfetto`].

use serde::Serialize;

use super::event::{Event, What};
use crate::timeline::Nanos;

#[derive(Serialize)]
struct Object<'a> {
    at: Nanos,
    took: Nanos,
    topic: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpu: Option<u32>,
    #[serde(flatten)]
    what: Fields<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Fields<'a> {
    Note {
        words: &'a str,
    },
    Call {
        call: &'a str,
        words: &'a str,
        result: &'a str,
    },
    Exit(ExitFields<'a>),
}

/// Addresses are text, `0x...`: numbers beyond 2^53 do not survive many JSON readers.
#[derive(Serialize)]
struct ExitFields<'a> {
    exit: u64,
    kind: &'a str,
    guest: Nanos,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    size: u8,
    device: &'a str,
    register: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    meaning: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instruction: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    symbol: Option<&'a str>,
}

/// `event` as a line; times in nanoseconds, `at` from `began` on.
pub fn render(event: &Event, began: Nanos) -> String {
    let hex = |number: u64| format!("{number:#x}");
    let what = match &event.what {
        What::Note(words) => Fields::Note { words },
        What::Call {
            name,
            words,
            result,
        } => Fields::Call {
            call: name,
            words,
            result,
        },
        What::Exit(exit) => {
            let place = exit.place.as_deref();
            let text = exit.text.as_ref();
            Fields::Exit(ExitFields {
                exit: exit.number,
                kind: exit.kind,
                guest: exit.guest,
                address: exit.address.map(hex),
                size: exit.size,
                device: exit.device,
                register: &exit.register,
                index: exit.index,
                value: exit.value.map(hex),
                text: text.map(|text| text.escape_ascii().to_string()),
                meaning: &exit.meaning,
                rip: place.map(|place| hex(place.rip)),
                instruction: place.and_then(|place| place.instruction.as_deref()),
                symbol: place.and_then(|place| place.symbol.as_deref()),
            })
        }
    };
    let object = Object {
        at: event.since.saturating_sub(began),
        took: event.until.saturating_sub(event.since),
        topic: event.topic.word(),
        vcpu: event.vcpu,
        what,
    };
    // Strings and numbers always serialise.
    serde_json::to_string(&object).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::trace::event::Topic;

    #[test]
    fn whatever_words_hold_a_line_is_one_object() {
        let event = Event {
            since: 1_500,
            until: 2_000,
            topic: Topic::Memory,
            vcpu: None,
            what: What::Note("a \"quoted\" \n line \u{1b}".into()),
        };
        let line = render(&event, 1_000);
        assert_eq!(line.matches('\n').count(), 1);
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["at"], 500);
        assert_eq!(object["took"], 500);
        assert_eq!(object["topic"], "memory");
        assert_eq!(object["words"], "a \"quoted\" \n line \u{1b}");
    }
}
