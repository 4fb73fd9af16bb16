//! An instance that stays and is asked: a line to its input, a line of its output as the answer.
//!
//! For what one command cannot tell: two guests at the same moment, a guest while another one dies, a
//! container in a guest that runs already. The clock is this process's, from just before the question
//! is written to the arrival of the answer's end.
//! Read next: [`super::testbed`].

use std::process::Stdio;

use super::session::Session;
use crate::bench::process::Interrupt;
use crate::bench::rounds::Pinned;
use crate::bench::running::Running;
use crate::bench::subject::{Error, Sample, Subject, Watch};
use crate::outcome::with_causes;
use crate::timeline::{Nanos, now};

/// A shell that answers each line of its input by running it. It says so first, for until then there
/// is nobody to ask.
pub const SHELL: [&str; 3] = [
    "/bin/sh",
    "-c",
    "echo READY; while read -r line; do eval \"$line\"; done",
];

/// An instance that is asked; it is ended when dropped.
#[derive(Debug)]
pub struct Talk {
    subject: Subject,
    /// None when it was waited for.
    running: Option<Running>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// From the question to the answer's end.
    pub took: Nanos,
    /// Its line.
    pub text: String,
}

/// How an instance ended by itself.
#[derive(Clone, Debug)]
pub struct End {
    /// The status of its process.
    pub status: u8,
    /// The end of what it said on stderr, in one line.
    pub said: String,
}

impl Session<'_> {
    /// Starts `subject` and waits for its first line of output, which is no answer.
    ///
    /// # Errors
    /// A sentence that says why it is not there, which after a signal means nothing.
    pub fn talk(&mut self, subject: Subject) -> Result<Talk, String> {
        let started = subject.start(false, Stdio::piped());
        let mut running = started.map_err(|error| in_a_line(&error))?;
        let watch = self.watch();
        let came = running.watch_line(&watch, &mut self.signals);
        let talk = Talk {
            subject,
            running: Some(running),
        };
        self.or_why(&talk, &watch, came)?;
        Ok(talk)
    }

    /// Asks it.
    ///
    /// # Errors
    /// As [`Session::talk`].
    pub fn ask(&mut self, talk: &mut Talk, question: &str) -> Result<Answer, String> {
        let running = talk.running.as_mut().ok_or("it has ended")?;
        let watch = self.watch();
        let answered = running.ask(question, &watch, &mut self.signals);
        let (took, text) = self.or_why(talk, &watch, answered)?;
        Ok(Answer { took, text })
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// As [`Session::talk`].
    pub fn end_of(&mut self, mut talk: Talk) -> Result<End, String> {
        let mut watch = self.watch();
        // From now on; a run's limit counts from its start.
        let started = talk.running.as_ref().map_or(0, Running::spawned);
        watch.limit += now().saturating_sub(started);
        let running = talk.running.as_mut().ok_or("it has ended")?;
        let ended = running.watch(&watch, &mut self.signals);
        self.or_why(&talk, &watch, ended)?;
        let running = talk.running.take().ok_or("it has ended")?;
        let said = running.said();
        let said = said.trim_start_matches("; it said:\n").replace('\n', " ");
        let ended = running.wait();
        let (_gone, status, _record) = ended.map_err(|error| in_a_line(&error))?;
        Ok(End { status, said })
    }

    /// Runs `subject` once, to its end.
    ///
    /// # Errors
    /// As [`Session::talk`].
    pub fn run(&mut self, subject: &Subject) -> Result<Sample, String> {
        let pinned = self.plan.pin.as_ref().map(Pinned::to).transpose();
        let pinned = pinned.map_err(|error| format!("cannot keep to the processors: {error}"))?;
        let sample = subject.run(&self.watch(), false, &mut self.signals);
        drop(pinned);
        sample.map_err(|error| self.note(&error))
    }

    fn or_why<T>(
        &mut self,
        talk: &Talk,
        watch: &Watch,
        result: Result<T, Interrupt>,
    ) -> Result<T, String> {
        result.map_err(|interrupt| {
            let said = talk.running.as_ref().map(Running::said);
            let error = talk
                .subject
                .interrupted(interrupt, watch, said.unwrap_or_default());
            self.note(&error)
        })
    }

    /// Puts an error in a line, and remembers the signal if it is one.
    fn note(&mut self, error: &Error) -> String {
        if let Error::Signal(number) = error {
            self.ended_by = Some(*number);
        }
        in_a_line(error)
    }
}

impl Talk {
    /// Whether its process is gone.
    pub fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_none_or(Running::has_ended)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            running.end_now();
        }
    }
}

fn in_a_line(error: &Error) -> String {
    with_causes(error).replace('\n', " ")
}
