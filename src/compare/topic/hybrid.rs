//! Containers inside a VM.
//!
//! A guest with the full kernel, in which this host's crun or runc starts a container with the probe:
//! beside that runtime on the host, and beside the same guest without a container. Once from nothing to
//! the first output, and once in a guest that runs already; always on the host's clock, since a guest's
//! says nothing about the host's. Then what the program in it sees.
//! Read next: [`crate::compare::scratch`].

use std::ffi::OsString;

use super::guest::{self, FULL_KERNEL, line, not_run};
use super::nest::Nest;
use crate::bench::subject::{Sample, Subject};
use crate::compare::finding::{Figure, Findings, Line, Row, Table, Unit, Value};
use crate::compare::session::Session;
use crate::compare::side::{Kind, Side};
use crate::compare::talk::SHELL;
use crate::timeline::Nanos;

const TOPIC: &str = "hybrid";
const QUESTION: &str = "What do containers inside a VM cost, and what do they keep apart?";
/// Runtimes that need no engine, the smaller one first; one is enough.
const RUNTIMES: [&str; 2] = ["crun", "runc"];
/// Holds the guest's files twice while its kernel unpacks them.
const MEMORY: &str = "256M";
/// The probe's words that a container is wanted for.
const WORDS: [&str; 4] = ["stamp", "ready", "identity", "surface"];
const STAMP: [&str; 2] = ["/probe", "stamp"];

/// Properties of a program's surroundings: the probe's word for it, ours, and a remark.
const PROPERTIES: [(&str, &str, &str); 8] = [
    ("kernel_release", "kernel", "uname -r"),
    (
        "boot_id",
        "whose boot",
        "a kernel makes it up when it starts",
    ),
    ("mem_total", "memory", "MemTotal of /proc/meminfo"),
    ("processes", "processes seen", ""),
    (
        "syscalls_past",
        "system calls",
        "of those tried, how many get past the gate",
    ),
    (
        "cap_effective",
        "capabilities",
        "how many of them are effective",
    ),
    ("device_nodes", "device nodes", ""),
    ("kvm", "/dev/kvm", ""),
];

/// One way to run the probe.
struct Way<'a> {
    name: String,
    kind: Kind,
    how: How<'a>,
}

enum How<'a> {
    /// On a side that was found.
    Side(&'a Side),
    /// In a guest: what runs the probe's word there.
    Guest(Box<dyn Fn(&str) -> Subject + 'a>),
    /// Not at all.
    Absent(String),
}

/// Measures it.
pub fn measure(session: &mut Session<'_>) -> Findings {
    if let Some(why) = guest::hindrance() {
        return not_run(TOPIC, QUESTION, &why);
    }
    let mut hindered = Vec::new();
    for runtime in RUNTIMES {
        session.progress(TOPIC, runtime);
        match Nest::make(session, runtime, &WORDS) {
            Ok(nest) => return with_nest(session, &nest, runtime),
            Err(why) => hindered.push(format!("{runtime}: {why}")),
        }
    }
    let why = format!(
        "no runtime can be taken into a guest: {}",
        hindered.join("; ")
    );
    not_run(TOPIC, QUESTION, &why)
}

fn with_nest(session: &mut Session<'_>, nest: &Nest, runtime: &str) -> Findings {
    let mut initramfs = OsString::from("--initramfs=");
    initramfs.push(&nest.archive);
    let flags = [
        FULL_KERNEL.into(),
        "--memory".into(),
        MEMORY.into(),
        initramfs,
    ];
    let found = session.found;
    let on_host = found.sides.iter().find(|side| side.runtime == runtime);
    let process = found.sides.iter().find(|side| side.runtime == "process");
    let absent = || How::Absent(format!("{runtime} does not run containers on this machine"));
    let none = || How::Absent("there is no such side".to_owned());
    let vm = |word: &str| guest::subject(&flags, &["/probe", word]);
    let both = |word: &str| {
        let command = nest.command(word, "inner");
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        guest::subject(&flags, &command)
    };
    let way = |name: &str, kind, how| Way {
        name: name.to_owned(),
        kind,
        how,
    };
    let ways = [
        way("process", Kind::Floor, process.map_or_else(none, How::Side)),
        way(
            &format!("{runtime} on this machine"),
            Kind::Container,
            on_host.map_or_else(absent, How::Side),
        ),
        way("VM", Kind::Vm, How::Guest(Box::new(vm))),
        way(
            &format!("{runtime} in a VM"),
            Kind::Vm,
            How::Guest(Box::new(both)),
        ),
    ];
    let mut figures = from_nothing(session, &ways);
    figures.push(in_running(session, nest, runtime, &flags));
    Findings {
        topic: TOPIC,
        question: QUESTION,
        figures,
        tables: vec![isolation(session, &ways)],
        notes: vec![
            format!(
                "the VM has cottage's full kernel and {MEMORY} of memory; its files are the common \
                 root, this machine's {runtime} with its libraries, and the container's own root with \
                 the probe, all in its initramfs: the same archive with and without a container"
            ),
            format!(
                "{runtime} starts with --no-pivot there, since an initramfs cannot be left by \
                 pivot_root(2); its bundle is what its own spec command writes"
            ),
        ],
    }
}

impl Way<'_> {
    fn run(&self, session: &mut Session<'_>, word: &str) -> Result<Sample, String> {
        match &self.how {
            How::Side(side) => session.output(side, &["/probe", word]),
            How::Guest(subject) => session.run(&subject(word)),
            How::Absent(why) => Err(why.clone()),
        }
    }
}

/// From spawn to first output and to the end, in rounds.
fn from_nothing(session: &mut Session<'_>, ways: &[Way<'_>]) -> Vec<Figure> {
    let (warm_up, runs) = (session.plan.warm_up, session.plan.runs);
    let mut samples: Vec<Result<Vec<Option<Sample>>, String>> =
        ways.iter().map(|_| Ok(Vec::new())).collect();
    for round in 0..warm_up + runs {
        session.progress(TOPIC, &format!("round {} of {}", round + 1, warm_up + runs));
        for turn in 0..ways.len() {
            // Another one first each time.
            let index = (round + turn) % ways.len();
            let (Some(way), Some(series)) = (ways.get(index), samples.get_mut(index)) else {
                continue;
            };
            let Ok(list) = series else { continue };
            if session.over() {
                break;
            }
            match way.run(session, STAMP[1]) {
                Ok(sample) if round >= warm_up => list.push(Some(sample)),
                Ok(_warm) => {}
                Err(_cut_off) if session.over() => {}
                Err(why) => *series = Err(why),
            }
        }
    }
    let figure = |key: &str, title: &str, end: &str, of: fn(&Sample) -> Option<Nanos>| {
        let value = |series: &Result<Vec<Option<Sample>>, String>| match series {
            Ok(list) => Value::Samples(list.iter().map(|one| of(one.as_ref()?)).collect()),
            Err(why) => Value::NotRun(why.clone()),
        };
        let lines = ways.iter().zip(&samples);
        Figure {
            key: format!("{TOPIC}.{key}"),
            title: title.to_owned(),
            end_points: format!("from just before the command line is spawned on the host {end}"),
            unit: Unit::Nanoseconds,
            part_of: None,
            lines: lines
                .map(|(way, series)| line(&way.name, way.kind, value(series)))
                .collect(),
        }
    };
    vec![
        figure(
            "first-output",
            "From nothing to first output",
            "to the arrival of the first byte that the program inside prints",
            |sample| sample.first_output,
        ),
        figure(
            "gone",
            "From nothing to exit",
            "to the moment its process is found gone",
            |sample| Some(sample.gone),
        ),
    ]
}

/// A container more in a guest that runs already.
fn in_running(session: &mut Session<'_>, nest: &Nest, runtime: &str, flags: &[OsString]) -> Figure {
    let names = [
        "a program in the running VM".to_owned(),
        format!("{runtime} in the running VM"),
    ];
    let values = ask_both(session, nest, flags);
    let lines: Vec<Line> = match values {
        Ok(values) => {
            let each = names.iter().zip(values);
            each.map(|(name, values)| line(name, Kind::Vm, Value::Samples(values)))
                .collect()
        }
        Err(why) => {
            let not_run = |name: &String| line(name, Kind::Vm, Value::NotRun(why.clone()));
            names.iter().map(not_run).collect()
        }
    };
    Figure {
        key: "hybrid.inside".to_owned(),
        title: "One more in a VM that runs already".to_owned(),
        end_points:
            "from just before its command line is written to the VM's console to the arrival \
                     of the line that the program prints, both on the host"
                .to_owned(),
        unit: Unit::Nanoseconds,
        part_of: None,
        lines,
    }
}

fn ask_both(
    session: &mut Session<'_>,
    nest: &Nest,
    flags: &[OsString],
) -> Result<[Vec<Option<Nanos>>; 2], String> {
    let mut talk = session.talk(guest::subject(flags, &SHELL))?;
    let (warm_up, runs) = (session.plan.warm_up, session.plan.runs);
    let mut values = [Vec::new(), Vec::new()];
    for round in 0..warm_up + runs {
        session.progress(
            TOPIC,
            &format!("one more, {} of {}", round + 1, warm_up + runs),
        );
        // A name of its own, for the one before may still be being removed.
        let container = nest.command("ready", &format!("inner{round}")).join(" ");
        let commands = ["/probe ready".to_owned(), container];
        for (command, list) in commands.iter().zip(&mut values) {
            match session.ask(&mut talk, command) {
                Ok(answer) if answer.text != "READY" => {
                    return Err(format!("`{command}` answered {:?}", answer.text));
                }
                Ok(answer) if round >= warm_up => list.push(Some(answer.took)),
                Ok(_warm) => {}
                // What was measured stays.
                Err(_cut_off) if session.over() => return Ok(values),
                Err(why) => return Err(why),
            }
        }
    }
    Ok(values)
}

/// What the probe sees, each way.
fn isolation(session: &mut Session<'_>, ways: &[Way<'_>]) -> Table {
    let mut seen = Vec::new();
    for way in ways {
        session.progress(TOPIC, &way.name);
        let texts = ["identity", "surface"].map(|word| {
            let sample = way.run(session, word)?;
            let lines = sample.lines.into_iter().map(|line| line.text);
            Ok::<_, String>(lines.collect::<Vec<_>>())
        });
        let [identity, surface] = texts;
        seen.push(identity.and_then(|mut lines| {
            lines.extend(surface?);
            Ok(lines)
        }));
    }
    let host = match seen.first() {
        Some(Ok(lines)) => property(lines, "boot_id"),
        _ => String::new(),
    };
    let cell = |lines: &Result<Vec<String>, String>, key: &str| match lines {
        Err(why) => format!("not run: {why}"),
        Ok(lines) if key == "boot_id" => match property(lines, key) == host {
            true => "this machine's".to_owned(),
            false => "its own".to_owned(),
        },
        Ok(lines) => property(lines, key),
    };
    let row = |(key, name, remark): &(&str, &str, &str)| Row {
        name: (*name).to_owned(),
        cells: seen.iter().map(|lines| cell(lines, key)).collect(),
        remark: (*remark).to_owned(),
    };
    Table {
        key: "hybrid.isolation".to_owned(),
        title: "What a program sees".to_owned(),
        columns: ways.iter().map(|way| way.name.clone()).collect(),
        rows: PROPERTIES.iter().map(row).collect(),
    }
}

/// A property's value: what follows its name, without the list behind a number.
fn property(lines: &[String], key: &str) -> String {
    let mut words = lines.iter().filter_map(|line| line.split_once(' '));
    let value = words
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim());
    match value {
        None => "not told".to_owned(),
        Some(value) => match value.split_once(' ') {
            Some((number, _list)) if key != "mem_total" && number.parse::<u64>().is_ok() => {
                number.to_owned()
            }
            _ => value.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_lines_of_the_probe() {
        let lines = [
            "kernel_release 6.12.1",
            "mem_total 24684092 kB",
            "cap_effective 40 chown kill",
            "kvm opens",
            "processes 3",
        ]
        .map(str::to_owned);
        let of = |key| property(&lines, key);
        assert_eq!(of("kernel_release"), "6.12.1");
        assert_eq!(of("mem_total"), "24684092 kB");
        assert_eq!(of("cap_effective"), "40");
        assert_eq!(of("kvm"), "opens");
        assert_eq!(of("processes"), "3");
        assert_eq!(of("process"), "not told");
    }
}
