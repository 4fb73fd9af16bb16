//! Tap devices for VMs with a network card: the VM's side of what a bridge and a veth pair are to a
//! container.
//!
//! Each instance that runs has one to itself, with a network of two addresses: .1 is the host, .2 the
//! guest. They are made by ip(8) before the clock starts, as an administrator would, and kept for the
//! next instance; an engine makes its pair each time, within what is measured. The report says so.
//! Read next: [`super::vm`].

use std::cell::RefCell;

use crate::compare::command::{program, run};
use crate::compare::scratch::{Ledger, Undo};

/// What their names begin with; a process number and one of theirs follow. 15 bytes at most.
const PREFIX: &str = "ctg";
/// As many as there are networks in 10.213.0.0/16 by the third byte.
const MOST: usize = 250;

/// The devices of one side.
#[derive(Debug)]
pub struct Taps {
    ip: String,
    ledger: Ledger,
    /// Whose each is; `None` where it waits for the next.
    owners: RefCell<Vec<Option<String>>>,
}

impl Taps {
    /// None yet.
    ///
    /// # Errors
    /// A sentence, if there can be none.
    pub fn new(ledger: Ledger) -> Result<Self, String> {
        let ip = program("ip").ok_or("ip(8) is not installed (package iproute2)")?;
        if !super::trial::is_root() {
            return Err("making a tap device needs root".to_owned());
        }
        Ok(Self {
            ip: ip.to_string_lossy().into_owned(),
            ledger,
            owners: RefCell::default(),
        })
    }

    /// A device for `instance`, as the value of `--net`.
    ///
    /// # Errors
    /// A sentence.
    pub fn take(&self, instance: &str) -> Result<String, String> {
        let mut owners = self.owners.borrow_mut();
        let number = match owners.iter().position(Option::is_none) {
            Some(waiting) => waiting,
            None if owners.len() == MOST => {
                return Err(format!("{MOST} tap devices are in use, which are all"));
            }
            None => {
                self.make(owners.len())?;
                owners.push(None);
                owners.len() - 1
            }
        };
        if let Some(owner) = owners.get_mut(number) {
            *owner = Some(instance.to_owned());
        }
        let network = network(number);
        Ok(format!(
            "tap={},ip={network}.2/24,gw={network}.1",
            name(number)
        ))
    }

    /// The instance has ended.
    pub fn give_back(&self, instance: &str) {
        for owner in self.owners.borrow_mut().iter_mut() {
            if owner.as_deref() == Some(instance) {
                *owner = None;
            }
        }
    }

    fn make(&self, number: usize) -> Result<(), String> {
        let name = name(number);
        let ip = |words: &[&str]| {
            let words = std::iter::once(self.ip.as_str()).chain(words.iter().copied());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        self.ledger.note(Undo::Run(ip(&["link", "delete", &name])));
        run(&ip(&["tuntap", "add", &name, "mode", "tap"]))?;
        let address = format!("{}.1/24", network(number));
        run(&ip(&["address", "add", &address, "dev", &name]))?;
        run(&ip(&["link", "set", &name, "up"])).map(drop)
    }
}

fn name(number: usize) -> String {
    format!("{PREFIX}{}-{number}", std::process::id())
}

/// The first three bytes of its addresses. Private, as the probe's server wants it. [rfc1918]
fn network(number: usize) -> String {
    format!("10.213.{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_networks_are_apart() {
        assert!(name(MOST - 1).len() <= 15, "{}", name(MOST - 1));
        assert_eq!(network(0), "10.213.0");
        assert_ne!(network(1), network(MOST - 1));
    }
}
