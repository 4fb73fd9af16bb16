//! The least there is: the probe as a process of this host.

use std::path::PathBuf;

use super::{Kind, Launch, Side};
use crate::bench::subject::Subject;

/// fork and exec, nothing else.
#[derive(Debug)]
struct Process {
    /// The root file system; commands are looked up in it, but it is not entered.
    root: PathBuf,
}

/// The floor under everything: a process.
pub fn process(root: PathBuf) -> Side {
    Side {
        name: "process".to_owned(),
        runtime: "process",
        kind: Kind::Floor,
        version: String::new(),
        launch: Box::new(Process { root }),
    }
}

impl Launch for Process {
    fn prepare(&self, _instance: &str, command: &[&str]) -> Result<Subject, String> {
        let mut words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        if let Some(program) = words.first_mut() {
            let path = self.root.join(program.trim_start_matches('/'));
            *program = path.to_string_lossy().into_owned();
        }
        Ok(Subject::Other(words))
    }
}
