//! The host's programs: those that greet, those that talk, and those that still read.
//!
//! ```text
//!  PATH ── accept ──▶ greeting ── CONNECT 52 ──▶ stream ── the guest is done ──▶ leaving ──▶ closed
//!  PATH_52 ◀── call ──────────────────────────── stream     while it reads what waits for it
//! ```
//!
//! Everything here is bounded: programs that have not said what they want, and the time they have
//! for it; connections, with those that only read on; the time a guest has to answer.
//!
//! Sockets and clocks only; what happens there is put down in [`Hub`].
//! Read next: [`super::exchange`].

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::connection::Key;
use super::greeting::{self, Greeting, Said};
use super::hub::{Hub, MAX_CONNECTIONS};
use super::listener::Listener;
use super::packet::{SHUT_RECEIVE, SHUT_SEND};
use super::stream::{Read, Stream};

/// Programs that have connected to PATH and not said where to. More wait to be accepted.
const MAX_GREETINGS: usize = 16;
/// How long a program has for its greeting, and a guest for its answer: long for either.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// How long nobody is accepted when the host has no descriptor left.
const PAUSE: Duration = Duration::from_secs(1);

/// Whose socket poll(2) speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The listener's.
    Listener,
    /// One that greets, or one that leaves: there are few, all of them are looked at.
    Passer,
    /// A connection's.
    Stream(Key),
}

/// What to wait for.
#[derive(Debug)]
pub struct Watch {
    /// Sockets, and what may happen there.
    pub sockets: Vec<(Who, Arc<OwnedFd>, PollFlags)>,
    /// When to look again in any case.
    pub until: Option<Instant>,
}

/// The host's side of all connections.
#[derive(Debug)]
pub struct Host {
    listener: Listener,
    greetings: Vec<(Stream, Greeting, Instant)>,
    streams: BTreeMap<Key, Stream>,
    /// Those whose guest is done, with what they have not read yet.
    leaving: Vec<Stream>,
    /// Connections on which the host's program has sent something, each once.
    readable: VecDeque<Key>,
    deaf_until: Option<Instant>,
}

impl Host {
    /// One that nobody has connected to.
    pub fn new(listener: Listener) -> Self {
        Self {
            listener,
            greetings: Vec::new(),
            streams: BTreeMap::new(),
            leaving: Vec::new(),
            readable: VecDeque::new(),
            deaf_until: None,
        }
    }

    /// Closes all connections.
    pub fn clear(&mut self) {
        self.streams.clear();
        self.readable.clear();
    }

    /// Whether there may be one connection more.
    fn has_room(&self, hub: &Hub) -> bool {
        hub.count() + self.leaving.len() < MAX_CONNECTIONS
    }

    /// What to wait for; `listening` says whether the guest takes bytes.
    pub fn watch(&self, hub: &Hub, listening: bool) -> Watch {
        let mut sockets = Vec::with_capacity(self.streams.len() + 4);
        let mut until = self.deaf_until;
        let mut no_later = |then: Option<Instant>| {
            until = until.into_iter().chain(then).min();
        };
        if self.greetings.len() < MAX_GREETINGS && self.deaf_until.is_none() {
            let socket = self.listener.socket().clone();
            sockets.push((Who::Listener, socket, PollFlags::IN));
        }
        for (stream, _, by) in &self.greetings {
            sockets.push((Who::Passer, stream.socket().clone(), PollFlags::IN));
            no_later(Some(*by));
        }
        for stream in &self.leaving {
            sockets.push((Who::Passer, stream.socket().clone(), PollFlags::OUT));
        }
        for (key, stream) in &self.streams {
            no_later(stream.answer_by);
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::OUT, stream.is_behind());
            wanted.set(PollFlags::IN, listening && hub.credit(*key) > 0);
            // A socket that is asked for nothing reports its end nevertheless, for ever.
            if !wanted.is_empty() {
                sockets.push((Who::Stream(*key), stream.socket().clone(), wanted));
            }
        }
        Watch { sockets, until }
    }

    /// Does what `events` ask for; to be called at the end of each wait.
    pub fn look(&mut self, hub: &mut Hub, events: &[(Who, PollFlags)]) {
        let now = Instant::now();
        if events.iter().any(|(who, _)| *who == Who::Listener) {
            self.accept(now);
        }
        for (who, happened) in events {
            let Who::Stream(key) = who else { continue };
            if happened.contains(PollFlags::OUT) || happened.contains(PollFlags::ERR) {
                self.flush(hub, *key);
            }
            let may_read = happened.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
            if may_read && self.streams.contains_key(key) && !self.readable.contains(key) {
                self.readable.push_back(*key);
            }
        }
        if events.iter().any(|(who, _)| *who == Who::Passer) {
            self.hear_greetings(hub, now);
            self.leaving
                .retain_mut(|stream| stream.flush().is_ok() && stream.is_behind());
        }
        self.give_up_on_the_late(hub, now);
    }

    fn accept(&mut self, now: Instant) {
        while self.greetings.len() < MAX_GREETINGS {
            match self.listener.accept() {
                Ok(Some(socket)) => {
                    let greeting = Greeting::default();
                    let stream = Stream::new(socket);
                    self.greetings.push((stream, greeting, now + PATIENCE));
                }
                Ok(None) => return,
                Err(_) => {
                    self.deaf_until = Some(now + PAUSE);
                    return;
                }
            }
        }
    }

    fn hear_greetings(&mut self, hub: &mut Hub, now: Instant) {
        for (mut stream, mut greeting, by) in std::mem::take(&mut self.greetings) {
            match hear(&stream, &mut greeting) {
                Said::Unfinished => self.greetings.push((stream, greeting, by)),
                Said::Port(port) if self.has_room(hub) => {
                    stream.answer_by = Some(now + PATIENCE);
                    self.streams.insert(hub.ask(port), stream);
                }
                // Closed, which is how any refusal looks.
                Said::Port(_) | Said::Nonsense => {}
            }
        }
    }

    fn give_up_on_the_late(&mut self, hub: &mut Hub, now: Instant) {
        self.deaf_until = self.deaf_until.filter(|until| now < *until);
        self.greetings.retain(|(_, _, by)| now < *by);
        let late = self.streams.iter();
        let late = late.filter(|(_, stream)| stream.answer_by.is_some_and(|by| by <= now));
        let late: Vec<_> = late.map(|(key, _)| *key).collect();
        for key in late {
            self.break_off(hub, key);
        }
    }

    /// Calls the program that the guest wants to talk to; whether it is there.
    pub fn call(&mut self, hub: &Hub, key: Key) -> bool {
        if !self.has_room(hub) {
            return false;
        }
        let called = self.listener.call(key.host);
        if let Ok(socket) = called {
            self.streams.insert(key, Stream::new(socket));
            return true;
        }
        false
    }

    /// Tells the program that the guest has accepted.
    pub fn answer(&mut self, hub: &mut Hub, key: Key) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        stream.answer_by = None;
        let words = greeting::answer(key.host);
        // Nothing was written before, so there is room for it.
        if stream.give(words.as_bytes()) != Ok(words.len()) {
            self.break_off(hub, key);
        }
    }

    /// Gives the program `bytes` of the guest's.
    pub fn give(&mut self, hub: &mut Hub, key: Key, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(&key).filter(|_| hub.has_reader(key)) else {
            // Nobody reads any more; that it was told does not keep a guest from sending.
            hub.forwarded(key, count(bytes.len()));
            return;
        };
        match stream.give(bytes) {
            Ok(taken) => hub.forwarded(key, count(taken)),
            Err(error) => {
                let lost = bytes.len() + stream.discard();
                self.cannot_write(hub, key, error, lost);
            }
        }
    }

    fn flush(&mut self, hub: &mut Hub, key: Key) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        match stream.flush() {
            Ok(taken) => hub.forwarded(key, count(taken)),
            Err(error) => {
                let lost = stream.discard();
                self.cannot_write(hub, key, error, lost);
            }
        }
    }

    /// The program reads no more, or is gone.
    fn cannot_write(&mut self, hub: &mut Hub, key: Key, error: Errno, lost: usize) {
        if error == Errno::PIPE {
            hub.forwarded(key, count(lost));
            hub.shut(key, SHUT_RECEIVE);
        } else {
            self.break_off(hub, key);
        }
    }

    /// The guest sends or receives no more.
    pub fn guest_shuts(&mut self, key: Key, ways: u32) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        if ways & SHUT_SEND != 0 {
            stream.end();
        }
        if ways & SHUT_RECEIVE != 0 {
            stream.refuse_more();
        }
    }

    /// The guest is done with a connection; the program still gets what was sent.
    pub fn finish(&mut self, key: Key) {
        self.readable.retain(|other| *other != key);
        if let Some(mut stream) = self.streams.remove(&key) {
            stream.end();
            if stream.is_behind() {
                self.leaving.push(stream);
            }
        }
    }

    /// Closes a connection.
    pub fn close(&mut self, key: Key) {
        self.readable.retain(|other| *other != key);
        self.streams.remove(&key);
    }

    fn break_off(&mut self, hub: &mut Hub, key: Key) {
        self.close(key);
        hub.break_off(key);
    }

    /// Whether a program may have sent something.
    pub fn is_readable(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Reads into `buffer` what a program has sent, as much as the guest has room for, and one
    /// program after the other. Returns whose it is, and how much.
    pub fn read(&mut self, hub: &mut Hub, buffer: &mut [u8]) -> Option<(Key, usize)> {
        while let Some(key) = self.readable.pop_front() {
            let most = buffer.len().min(hub.credit(key) as usize);
            let place = buffer.get_mut(..most).filter(|place| !place.is_empty());
            let (Some(stream), Some(place)) = (self.streams.get(&key), place) else {
                continue;
            };
            match stream.read(place) {
                Read::Bytes(len) => {
                    // Whether there is more is asked when it is this one's turn again.
                    self.readable.push_back(key);
                    return Some((key, len));
                }
                Read::Nothing => {}
                Read::End => hub.shut(key, SHUT_SEND),
                Read::Broken => self.break_off(hub, key),
            }
        }
        None
    }
}

/// Reads a greeting as far as it has come, and no byte behind it.
fn hear(stream: &Stream, greeting: &mut Greeting) -> Said {
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Read::Nothing => return Said::Unfinished,
            Read::End | Read::Broken => return Said::Nonsense,
            Read::Bytes(_) => match greeting.hear(byte[0]) {
                Said::Unfinished => {}
                said => return said,
            },
        }
    }
}

/// As packets count; no buffer here is longer.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
