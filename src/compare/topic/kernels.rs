//! What only a kernel of its own can do.
//!
//! Two guests with different kernels run at the same moment and are asked for them; then one's kernel
//! panics while the other goes on answering. For containers, which share the host's kernel, the first
//! is read off by asking them too; the second is explained and not done: it would end the host.
//!
//! The panic is a real one. The guest is told to panic when memory runs out (panic_on_oom, Linux
//! Documentation/admin-guide/sysctl/vm.rst) and then uses it up; its kernels have no sysrq that would do
//! it by one letter. Read next: [`super::nest`].

use std::ffi::OsString;
use std::fs;
use std::thread;
use std::time::Duration;

use super::guest::{self, FULL_KERNEL, line, not_run, subject};
use crate::bench::subject::{Sample, Subject};
use crate::compare::finding::{Figure, Findings, Row, Table, Unit, Value};
use crate::compare::session::Session;
use crate::compare::side::Kind;
use crate::compare::talk::{End, SHELL, Talk};
use crate::outcome::GUEST_PANIC;
use crate::timeline::Nanos;

const TOPIC: &str = "kernels";
const QUESTION: &str = "What can only a kernel of its own do?";
/// What the guests are called.
const TINY: &str = "cottage, tiny kernel";
const FULL: &str = "cottage, full kernel";
/// How often the neighbour is asked before the panic, and again after it.
const QUESTIONS: usize = 10;
/// While the other one dies it is asked again and again, with a pause between: for as long as that
/// takes, or at most so many times.
const MOST_QUESTIONS: usize = 1000;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);
/// A memory limit that all sides can be given.
const LIMIT: (&str, &str) = ("64M", "64m");

/// A line with what a kernel says of itself.
const IDENTITY: &str = "echo \"$(uname -r)|$(uname -v)|$(cat /proc/sys/kernel/random/boot_id)|\
                        $(cat /proc/uptime)\"";
/// A line with what a program finds of its memory: the machine's, and its cgroup's limit.
const MEMORY: &str = "m=$(grep MemTotal: /proc/meminfo); l='no such file'; \
    for f in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do \
    if [ -r $f ]; then l=$(cat $f); fi; done; echo \"${m#MemTotal:}|$l\"";
/// Uses up memory, after saying so.
const EXHAUST: &str = "echo 2 >/proc/sys/vm/panic_on_oom; echo going; tail /dev/zero";

/// Measures it.
pub fn measure(session: &mut Session<'_>) -> Findings {
    if let Some(why) = guest::hindrance() {
        return not_run(TOPIC, QUESTION, &why);
    }
    match guests(session) {
        Ok(mut findings) => {
            findings.tables.push(memory(session));
            findings
        }
        Err(why) => not_run(TOPIC, QUESTION, &why),
    }
}

/// Both guests: asked, and one of them ended.
fn guests(session: &mut Session<'_>) -> Result<Findings, String> {
    let full: [OsString; 1] = [FULL_KERNEL.into()];
    session.progress(TOPIC, TINY);
    let mut neighbour = session.talk(subject(&[], &SHELL))?;
    session.progress(TOPIC, FULL);
    let mut victim = session.talk(subject(&full, &SHELL))?;
    let first = session.ask(&mut neighbour, IDENTITY)?.text;
    let second = session.ask(&mut victim, IDENTITY)?.text;
    let releases = releases(session, &first, &second);
    session.progress(TOPIC, "a kernel panic beside a neighbour");
    let before = ask_often(session, &mut neighbour, QUESTIONS)?;
    session.ask(&mut victim, EXHAUST)?;
    let mut during = Vec::new();
    while during.len() < MOST_QUESTIONS && !victim.has_ended() {
        during.extend(ask_often(session, &mut neighbour, 1)?);
        thread::sleep(PAUSE);
    }
    let end = session.end_of(victim)?;
    let after = ask_often(session, &mut neighbour, QUESTIONS)?;
    let last = session.ask(&mut neighbour, IDENTITY)?.text;
    let counts = [before.len(), during.len(), after.len()];
    let panic = panic_table(
        &end,
        counts,
        &Identity::parse(&first),
        &Identity::parse(&last),
    );
    let samples = |values: Vec<Nanos>| Value::Samples(values.into_iter().map(Some).collect());
    let neighbour =
        |when: &str, values| line(&format!("neighbour, {when}"), Kind::Vm, samples(values));
    Ok(Findings {
        topic: TOPIC,
        question: QUESTION,
        figures: vec![Figure {
            key: "kernels.neighbour".to_owned(),
            title: "A neighbour's answers while another kernel panics".to_owned(),
            end_points: "from just before a line is written to the neighbour's shell to the \
                         arrival of its answer"
                .to_owned(),
            unit: Unit::Nanoseconds,
            part_of: None,
            lines: vec![
                neighbour("before the panic", before),
                neighbour("until the other machine was gone", during),
                neighbour("after it", after),
            ],
        }],
        tables: vec![releases, panic],
        notes: vec![
            "all guests and containers of the first table were asked while both guests ran".to_owned(),
            "the other machine's kernel was told to panic when memory runs out, and then a program in \
             it used it up"
                .to_owned(),
            "nothing of the kind was done to a container: its kernel is this machine's".to_owned(),
        ],
    })
}

/// Asks `times` times for a word.
fn ask_often(
    session: &mut Session<'_>,
    talk: &mut Talk,
    times: usize,
) -> Result<Vec<Nanos>, String> {
    let once = |_| session.ask(talk, "echo here").map(|answer| answer.took);
    (0..times).map(once).collect()
}

/// What [`IDENTITY`] prints.
#[derive(Debug, Default, PartialEq, Eq)]
struct Identity {
    release: String,
    build: String,
    boot: String,
    uptime: String,
}

impl Identity {
    fn parse(text: &str) -> Self {
        let mut parts = text.split('|').map(|part| part.trim().to_owned());
        let mut next = || parts.next().unwrap_or_default();
        Self {
            release: next(),
            build: next(),
            boot: next(),
            // Since the start, and idle.
            uptime: next().split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    fn of_host() -> Self {
        let read = |name: &str| {
            let text = fs::read_to_string(format!("/proc/{name}"));
            text.unwrap_or_default().trim().to_owned()
        };
        let [release, build, boot, uptime] = [
            "sys/kernel/osrelease",
            "sys/kernel/version",
            "sys/kernel/random/boot_id",
            "uptime",
        ]
        .map(read);
        Self::parse(&[release, build, boot, uptime].join("|"))
    }
}

/// Whose kernel everybody sees, the two guests' answers being known.
fn releases(session: &mut Session<'_>, tiny: &str, full: &str) -> Table {
    let host = Identity::of_host();
    let mut seen = vec![("this machine".to_owned(), Ok(Identity::of_host()))];
    let found = session.found;
    for side in found
        .sides
        .iter()
        .filter(|side| side.kind == Kind::Container)
    {
        session.progress(TOPIC, &side.name);
        let sample = session.output(side, &["/bin/sh", "-c", IDENTITY]);
        let first = sample.map(|sample| {
            let line = sample.lines.first().map(|line| line.text.clone());
            Identity::parse(&line.unwrap_or_default())
        });
        seen.push((side.name.clone(), first));
    }
    seen.push((TINY.to_owned(), Ok(Identity::parse(tiny))));
    seen.push((FULL.to_owned(), Ok(Identity::parse(full))));
    let row = |name: &str, remark: &str, of: &dyn Fn(&Identity) -> String| Row {
        name: name.to_owned(),
        cells: seen
            .iter()
            .map(|(_, identity)| match identity {
                Ok(identity) => of(identity),
                Err(why) => format!("not run: {why}"),
            })
            .collect(),
        remark: remark.to_owned(),
    };
    Table {
        key: "kernels.releases".to_owned(),
        title: "Kernels that run at this moment, as seen from inside".to_owned(),
        columns: seen.iter().map(|(name, _)| name.clone()).collect(),
        rows: vec![
            row("release", "uname -r", &|of| of.release.clone()),
            row("build", "uname -v", &|of| of.build.clone()),
            row(
                "whose boot",
                "/proc/sys/kernel/random/boot_id, which a kernel makes up when it starts",
                &|of| match of.boot == host.boot {
                    true => "this machine's".to_owned(),
                    false => format!("its own, {}...", of.boot.get(..8).unwrap_or(&of.boot)),
                },
            ),
        ],
    }
}

/// How the panic went.
fn panic_table(end: &End, asked: [usize; 3], first: &Identity, last: &Identity) -> Table {
    let row = |name: &str, cell: String, remark: &str| Row {
        name: name.to_owned(),
        cells: vec![cell],
        remark: remark.to_owned(),
    };
    let panicked = match end.status == GUEST_PANIC {
        true => format!("{FULL}: {}", end.said),
        false => format!(
            "none: the guest ended with status {}; {}",
            end.status, end.said
        ),
    };
    let [before, during, after] = asked;
    let same = match first.boot == last.boot && !first.boot.is_empty() {
        true => "the same boot all the time",
        false => "NOT the same boot all the time",
    };
    Table {
        key: "kernels.panic".to_owned(),
        title: "A kernel panic in one guest".to_owned(),
        columns: vec!["what happened".to_owned()],
        rows: vec![
            row(
                "the panic",
                panicked,
                "what cottage said when its guest was gone",
            ),
            row(
                "the neighbour",
                format!(
                    "{TINY}: answered {before} questions before, {during} meanwhile and {after} \
                     after; {same}, up {} s and then {} s",
                    first.uptime, last.uptime
                ),
                "every question was answered, or there would be no table",
            ),
            row("this machine", "went on: it writes this".to_owned(), ""),
            row(
                "containers",
                "not done: explained only".to_owned(),
                "a container has no kernel that could panic; what makes its kernel panic makes this \
                 machine's panic, and ends every container on it, every process beside them, and \
                 every guest",
            ),
        ],
    }
}

/// What a memory limit looks like from inside.
fn memory(session: &mut Session<'_>) -> Table {
    let flags: [OsString; 2] = ["--memory".into(), LIMIT.0.into()];
    let shell = ["/bin/sh", "-c", MEMORY];
    let mut seen = vec![(
        "this machine".to_owned(),
        (total_memory(), "no limit was set".to_owned()),
    )];
    let cells = |sample: Result<Sample, String>| match sample {
        Ok(sample) => limits(sample.lines.first().map_or("", |line| line.text.as_str())),
        Err(why) => (format!("not run: {why}"), String::new()),
    };
    let found = session.found;
    for runtime in ["docker", "podman"] {
        // One of its networks is as good as another.
        let Some(side) = found.sides.iter().find(|side| side.runtime == runtime) else {
            continue;
        };
        session.progress(TOPIC, &side.name);
        let sample = session.output_changed(side, &shell, limited);
        seen.push((
            format!("{}, --memory {}", side.name, LIMIT.1),
            cells(sample),
        ));
    }
    session.progress(TOPIC, TINY);
    let sample = session.run(&subject(&flags, &shell));
    seen.push((format!("{TINY}, --memory {}", LIMIT.0), cells(sample)));
    let row = |name: &str, remark: &str, of: fn(&(String, String)) -> String| Row {
        name: name.to_owned(),
        cells: seen.iter().map(|(_, cells)| of(cells)).collect(),
        remark: remark.to_owned(),
    };
    Table {
        key: "kernels.memory".to_owned(),
        title: "A memory limit, as seen from inside".to_owned(),
        columns: seen.iter().map(|(name, _)| name.clone()).collect(),
        rows: vec![
            row(
                "MemTotal",
                "/proc/meminfo: what free(1), and programs that size themselves by it, go by",
                |cells| cells.0.clone(),
            ),
            row(
                "cgroup's limit",
                "memory.max, in bytes: a container's limit stands here, for programs that look; a \
                 guest's is the size of its machine",
                |cells| cells.1.clone(),
            ),
        ],
    }
}

/// This machine's, as /proc/meminfo has it.
fn total_memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.unwrap_or_default().trim().to_owned()
}

/// The same container with a memory limit: a flag behind the runtime's `run`.
fn limited(subject: Subject) -> Result<Subject, String> {
    let Subject::Other(mut words) = subject else {
        return Err("it is no container".to_owned());
    };
    let run = words.iter().position(|word| word == "run");
    let run = run.ok_or("its command line has no `run`")?;
    words.insert(run + 1, format!("--memory={}", LIMIT.1));
    Ok(Subject::Other(words))
}

/// What [`MEMORY`] prints.
fn limits(text: &str) -> (String, String) {
    let (total, limit) = text.split_once('|').unwrap_or((text, ""));
    (total.trim().to_owned(), limit.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_read_from_a_line() {
        let identity = Identity::parse("6.12.1-tiny|#3 SMP Sun|1f-2e|0.52 0.10");
        assert_eq!(identity.release, "6.12.1-tiny");
        assert_eq!(
            (identity.boot.as_str(), identity.uptime.as_str()),
            ("1f-2e", "0.52")
        );
        assert_eq!(Identity::parse(""), Identity::default());
    }

    #[test]
    fn this_machine_has_an_identity() {
        let host = Identity::of_host();
        assert!(
            !host.release.is_empty() && host.boot.len() == 36,
            "{host:?}"
        );
        assert!(host.uptime.parse::<f64>().is_ok(), "{host:?}");
    }

    #[test]
    fn limit_is_a_flag_of_run() {
        let words = ["docker", "-H", "unix://s", "run", "--rm", "i", "/run"];
        let subject = Subject::Other(words.map(str::to_owned).to_vec());
        let name = limited(subject).unwrap().name();
        assert_eq!(name, "docker -H unix://s run --memory=64m --rm i /run");
        let wrong = limited(Subject::Other(vec!["crun".to_owned()])).unwrap_err();
        assert!(wrong.contains("no `run`"));
    }

    #[test]
    fn limits_are_read_from_a_line() {
        let both = limits("          55012 kB|67108864");
        assert_eq!(both, ("55012 kB".to_owned(), "67108864".to_owned()));
        assert_eq!(limits("55 kB|no such file").1, "no such file");
    }

    #[test]
    fn guest_that_did_not_panic_is_no_panic() {
        let identity = |boot: &str| Identity {
            boot: boot.to_owned(),
            ..Identity::default()
        };
        let table = |status, last| {
            let end = End {
                status,
                said: "cottage: words".to_owned(),
            };
            let table = panic_table(&end, [1, 2, 3], &identity("a"), &identity(last));
            table
                .rows
                .into_iter()
                .flat_map(|row| row.cells)
                .collect::<Vec<_>>()
                .join("\n")
        };
        let good = table(GUEST_PANIC, "a");
        assert!(good.contains("full kernel: cottage: words"), "{good}");
        assert!(good.contains("; the same boot"), "{good}");
        assert!(table(0, "a").contains("none: the guest ended with status 0"));
        assert!(table(GUEST_PANIC, "b").contains("NOT the same boot"));
    }
}
