//! The session: shows how the machine stands, and asks a person what next.
//!
//! A thread of its own, because a processor's must answer questions about it meanwhile, and the event
//! loop's goes on with output and signals.
//! Read next: [`super::at`].

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::at::At;
use super::prompt::{self, Command};
use super::{Inspector, Notice, Parts, chips};
use crate::console::terminal;
use crate::console::words::say;
use crate::outcome::Ending;
use crate::watch::Stand;
use crate::watch::scene::Scene;
use crate::watch::story::{Host, View, page};
use crate::watch::symbols::Symbols;
use crate::watch::tell::{Kind, Report};

/// A step that has not come back by then will not: this KVM does not step there.
const STEP_LIMIT: Duration = Duration::from_secs(2);
/// How often the console is looked at for silence.
const LOOK: Duration = Duration::from_millis(250);

pub(super) fn report(scene: Scene, parts: &Parts, kind: Kind, headline: String) -> Report {
    Report {
        kind,
        headline,
        printed: parts.output.written(),
        scene,
    }
}

fn view<'a>(report: &'a Report, parts: &'a Parts) -> View<'a> {
    View {
        report,
        memory: &*parts.memory,
        host: Host::look(),
    }
}

pub(super) fn render(report: &Report, parts: &Parts) -> String {
    page::render(&view(report, parts))
}

/// The thread that shows and asks.
pub(super) struct Session {
    inspector: Arc<Inspector>,
    received: Receiver<Notice>,
    symbols: Option<Symbols>,
    silence: Option<Duration>,
    /// Bytes printed when the console was looked at last, and since when.
    printed: (u64, Instant),
    told_of_silence: bool,
    /// Bytes printed at the last stop.
    printed_before: u64,
}

impl Session {
    /// A session that shows what `received` tells of.
    pub(super) fn new(
        inspector: Arc<Inspector>,
        received: Receiver<Notice>,
        symbols: Option<Symbols>,
        silence: Option<Duration>,
    ) -> Self {
        Self {
            inspector,
            received,
            symbols,
            silence,
            printed: (0, Instant::now()),
            told_of_silence: false,
            printed_before: 0,
        }
    }
}

/// What the guest does next.
enum Next {
    Run(Option<At>),
    Step(u32, u32),
    Quit,
}

impl Session {
    pub(super) fn run(mut self) {
        while let Some(notice) = self.wait(None) {
            self.attend(notice);
        }
    }

    /// The next notice; `None` when nobody is left to send one, or after `limit`.
    fn wait(&mut self, limit: Option<Duration>) -> Option<Notice> {
        if self.silence.is_none() && limit.is_none() {
            return self.received.recv().ok();
        }
        let start = Instant::now();
        loop {
            match self.received.recv_timeout(LOOK) {
                Ok(notice) => return Some(notice),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if limit.is_some_and(|limit| start.elapsed() > limit) {
                return None;
            }
            self.listen();
        }
    }

    /// Tells of silence, once until something is printed again.
    fn listen(&mut self) {
        let Some((silence, parts)) = self.silence.zip(self.inspector.lock().parts.clone()) else {
            return;
        };
        let printed = parts.output.written();
        if printed != self.printed.0 {
            self.printed = (printed, Instant::now());
            self.told_of_silence = false;
        }
        if self.told_of_silence || self.printed.1.elapsed() < silence {
            return;
        }
        self.told_of_silence = true;
        let ids = self.inspector.gate.gather();
        if let Some(scene) = ids.first().and_then(|id| self.scene(*id)) {
            let seconds = silence.as_secs();
            let headline = format!("the guest has printed nothing for {seconds} s (--silence)");
            let report = report(scene, &parts, Kind::Silent, headline);
            say(&render(&report, &parts));
        }
        self.inspector.gate.open();
    }

    fn scene(&self, id: u32) -> Option<Scene> {
        let gather = |stand: &mut Stand<'_>| Scene::gather(stand.id, stand.vcpu).ok();
        self.inspector.gate.ask(id, gather)?
    }

    /// Shows how the machine stands, asks if there is somebody to answer, and lets it go.
    fn attend(&mut self, mut notice: Notice) {
        loop {
            let ids = self.inspector.gate.gather();
            let parts = self.inspector.lock().parts.clone();
            let (Some(parts), false) = (parts, ids.is_empty()) else {
                return;
            };
            let next = self.show(&notice, &parts);
            let stepping = match &next {
                Next::Step(id, _) => Some(*id),
                _ => None,
            };
            match next {
                Next::Quit => parts.control.stop(Ending::Quit),
                Next::Run(at) => self.inspector.lock().target = at,
                Next::Step(id, count) => self.inspector.lock().step = Some((id, count)),
            }
            self.inspector.gate.open();
            let Some(id) = stepping else { return };
            notice = match self.wait(Some(STEP_LIMIT)) {
                Some(stepped) => stepped,
                None if self.inspector.gate.is_over() => return,
                None => {
                    let mut state = self.inspector.lock();
                    state.step = None;
                    let why = "not stepped: this host's KVM did not come back from the step within 2 s, or \
                               the processor sleeps; stopped where it is now";
                    Notice {
                        id,
                        why: why.into(),
                        brief: false,
                    }
                }
            };
        }
    }

    fn show(&mut self, notice: &Notice, parts: &Parts) -> Next {
        let Some(scene) = self.scene(notice.id) else {
            return Next::Run(None);
        };
        let report = report(scene, parts, Kind::Stopped, notice.why.clone());
        let person = terminal::is_interactive();
        if !person {
            say(&render(&report, parts));
            return Next::Run(None);
        }
        parts.control.hold_input(true);
        let raw = terminal::is_raw();
        terminal::restore();
        // What the guest has printed may not end with a line.
        if self.printed_before != report.printed {
            print(&[String::new()]);
        }
        self.printed_before = report.printed;
        if notice.brief {
            let view = view(&report, parts);
            let next = view.code(view.rip(), 1);
            let lines = next.iter().map(|l| prompt::named(l, self.symbols.as_ref()));
            print(&lines.collect::<Vec<_>>());
        } else {
            say(&render(&report, parts));
            print(&["help lists what can be asked; continue runs on".into()]);
        }
        let next = self.ask(report, parts);
        if raw && !matches!(next, Next::Quit) {
            let _no_terminal_now = terminal::set_raw();
        }
        parts.control.hold_input(false);
        next
    }

    /// The prompt, until the guest may go on.
    fn ask(&self, mut report: Report, parts: &Parts) -> Next {
        let symbols = self.symbols.as_ref();
        loop {
            let Some(line) = read_line() else {
                return Next::Quit;
            };
            let command = prompt::parse(&line, &view(&report, parts), symbols);
            let id = report.scene.id;
            let answer = match command {
                Err(mistake) => vec![mistake],
                Ok(Command::Continue) => return Next::Run(None),
                Ok(Command::Quit) => return Next::Quit,
                Ok(Command::Step(count)) => return Next::Step(id, count),
                Ok(Command::Until(words)) => match At::parse(&words, symbols) {
                    Ok(at @ At::Exit(wanted)) if wanted <= exits(&report) => {
                        vec![format!("{at} is past: the last was {}", exits(&report))]
                    }
                    Ok(at) => return Next::Run(Some(at)),
                    Err(error) => vec![error.to_string().replace("--inspect-at", "until")],
                },
                Ok(Command::Processor(other)) => match other.map(|id| (id, self.scene(id))) {
                    None => vec![format!("processor {id}")],
                    Some((other, None)) => vec![format!("no processor {other} stands here")],
                    Some((other, Some(scene))) => {
                        report.scene = scene;
                        vec![format!("processor {other}")]
                    }
                },
                Ok(Command::Interrupts) => self.of_stand(id, chips::interrupts),
                Ok(Command::Devices) => self.of_stand(id, |stand| {
                    chips::devices(&stand.board.ports, &stand.board.mmio)
                }),
                Ok(command) => prompt::answer(&command, &view(&report, parts), symbols),
            };
            print(&answer);
        }
    }

    fn of_stand(
        &self,
        id: u32,
        question: impl FnOnce(&mut Stand<'_>) -> Vec<String> + Send + 'static,
    ) -> Vec<String> {
        let answer = self.inspector.gate.ask(id, question);
        answer.unwrap_or_else(|| vec!["the machine is over".into()])
    }
}

/// How often the first processor, or the one that is asked, has come back.
fn exits(report: &Report) -> u64 {
    report.scene.exits.last().map_or(0, |exit| exit.number)
}

/// Answers are the person's who asked: without cottage's mark.
fn print(lines: &[String]) {
    let mut stderr = io::stderr().lock();
    for line in lines {
        let _nobody_listens = writeln!(stderr, "{line}");
    }
}

/// A line from the terminal, which gives one at a time; `None` at its end (Ctrl-D).
fn read_line() -> Option<String> {
    let mut stderr = io::stderr().lock();
    let _nobody_listens = stderr
        .write_all(b"(inspect) ")
        .and_then(|()| stderr.flush());
    drop(stderr);
    let mut bytes = [0; 4096];
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => return None,
            Ok(len) => {
                let line = bytes.get(..len).unwrap_or_default();
                return Some(String::from_utf8_lossy(line).into_owned());
            }
        }
    }
}
