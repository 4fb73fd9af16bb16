//! A side that is no more than a command line: its own words, then the command.
//!
//! Read next: [`super::floor`].

use std::path::PathBuf;

use super::{Launch, installed};
use crate::bench::subject::Subject;
use crate::compare::command;
use crate::compare::sweep;

/// Stands in the words for the instance's name.
pub const NAME: &str = "{NAME}";

/// The command line.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// What comes before the command; in it [`NAME`] for the instance.
    pub before: Vec<String>,
    /// Commands that remove an instance which did not end well, with [`NAME`] too.
    pub remove: Vec<Vec<String>>,
    /// The programs it takes, by name or path.
    pub programs: Vec<String>,
    /// Names of the processes that are its engine.
    pub engine: Vec<&'static str>,
}

/// Owned words.
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Launch for Words {
    fn prepare(&self, instance: &str, command: &[&str]) -> Result<Subject, String> {
        let mut all = with_name(&self.before, instance);
        all.extend(words(command));
        Ok(Subject::Other(all))
    }

    fn remove(&self, instance: &str, ended_well: bool) {
        if ended_well {
            return;
        }
        for words in &self.remove {
            let _gone_already = command::run(&with_name(words, instance));
        }
    }

    fn installed(&self) -> Vec<PathBuf> {
        installed::files(&self.programs)
    }

    fn engine(&self) -> Vec<u32> {
        if self.engine.is_empty() {
            return Vec::new();
        }
        sweep::called(&self.engine)
    }
}

fn with_name(words: &[String], name: &str) -> Vec<String> {
    words.iter().map(|word| word.replace(NAME, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_command_take_their_places() {
        let side = Words {
            before: words(&["run", "--name={NAME}", "image"]),
            ..Words::default()
        };
        let Ok(Subject::Other(all)) = side.prepare("n1", &["/probe", "ready"]) else {
            panic!("a command line");
        };
        assert_eq!(all, ["run", "--name=n1", "image", "/probe", "ready"]);
    }
}
