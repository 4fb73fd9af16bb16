//! Has the tools tell what a crash was: `cottage` itself carries no words for it.
//!
//! ```text
//!   cottage                                     cottage-tools tell-crash
//!     scene, what happened ───── socket ──────▶ stdin
//!     guest memory ◀─── "16 bytes at 0x9000?" ─ which tables, which code: it decides
//!                  ──── the bytes, or none ───▶
//!     waits for its end                         the page, on stderr
//! ```
//!
//! Both ends are the same build, so there is no version. Where the tools cannot be started, a few
//! lines from [`crate::vcpu::crash`] have to do.
//!
//! Who calls it: [`crate::running`], when the machine is over and the terminal is the user's again.
//! Read next: [`super::story`].

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::scene::{Physical, Scene};
use crate::tools;

/// The tools' hidden sub-command.
pub const COMMAND: &str = "tell-crash";
/// The most that is asked for at a time.
pub const MAX_READ: usize = 4096;
/// A page takes milliseconds. Tools that ask nothing for so long are ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A processor could not go on.
    #[default]
    Crash,
    /// Its kernel panicked.
    Panic,
    /// It was ended before it had printed anything.
    Silent,
    /// It stands, because somebody wants to look.
    Stopped,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Crash, Self::Panic, Self::Silent, Self::Stopped];
}

/// What is told beside the scene.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What became of the machine.
    pub kind: Kind,
    /// The page's first line.
    pub headline: String,
    /// Bytes the guest has printed.
    pub printed: u64,
    /// How its processor stands.
    pub scene: Scene,
}

impl Report {
    /// As bytes: the length of the headline, the headline, and numbers.
    fn to_bytes(&self) -> Vec<u8> {
        let kind = Kind::ALL.iter().position(|kind| *kind == self.kind);
        let mut words = vec![kind.unwrap_or(0) as u64, self.printed];
        words.extend(self.scene.to_words());
        let mut bytes = (self.headline.len() as u64).to_le_bytes().to_vec();
        bytes.extend(self.headline.bytes());
        bytes.extend((words.len() as u64).to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    /// Reads one.
    ///
    /// # Errors
    /// What the stream says, or that this is none.
    pub fn read(stream: &mut impl Read) -> io::Result<Self> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let word = |stream: &mut dyn Read| {
            let mut bytes = [0; 8];
            stream.read_exact(&mut bytes)?;
            Ok::<_, io::Error>(u64::from_le_bytes(bytes))
        };
        let bounded = |len: u64| usize::try_from(len).ok().filter(|len| *len <= MAX_READ);
        let mut headline = vec![0; bounded(word(stream)?).ok_or_else(wrong)?];
        stream.read_exact(&mut headline)?;
        let count = bounded(word(stream)?).ok_or_else(wrong)?;
        let words = (0..count).map(|_| word(stream));
        let words = words.collect::<io::Result<Vec<_>>>()?;
        let [kind, printed, scene @ ..] = &words[..] else {
            return Err(wrong());
        };
        let kind = usize::try_from(*kind).ok().and_then(|k| Kind::ALL.get(k));
        Ok(Self {
            kind: *kind.ok_or_else(wrong)?,
            headline: String::from_utf8_lossy(&headline).into_owned(),
            printed: *printed,
            scene: Scene::from_words(scene).ok_or_else(wrong)?,
        })
    }
}

/// Tells the user about `report`; false if nobody could.
pub fn tell(report: &Report, memory: &dyn Physical) -> bool {
    let Ok((ours, theirs)) = UnixStream::pair() else {
        return false;
    };
    let Ok(mut child) = tools::spawn(COMMAND, Stdio::from(OwnedFd::from(theirs))) else {
        return false;
    };
    let served = serve(ours, report, memory);
    ended_well(&mut child, served.is_ok())
}

/// Sends the report, then answers questions about memory until there are no more.
fn serve(mut stream: UnixStream, report: &Report, memory: &dyn Physical) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&report.to_bytes())?;
    let mut question = [0; 16];
    let mut bytes = [0; MAX_READ];
    loop {
        match stream.read_exact(&mut question) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [gpa, len] = [0, 8].map(|at| {
            let word = question.get(at..).and_then(<[u8]>::first_chunk);
            word.map_or(0, |word| u64::from_le_bytes(*word))
        });
        let len = usize::try_from(len).unwrap_or(MAX_READ).min(MAX_READ);
        let (wanted, _) = bytes.split_at_mut(len);
        let found = memory.read(gpa, wanted);
        stream.write_all(&[u8::from(found)])?;
        if found {
            stream.write_all(wanted)?;
        }
    }
}

fn ended_well(child: &mut Child, in_time: bool) -> bool {
    if !in_time {
        let _ended_already = child.kill();
    }
    child.wait().is_ok_and(|status| status.success())
}

/// The other end: guest memory of the process at the other end of `stream`.
#[derive(Debug)]
pub struct Asked<'a>(pub &'a UnixStream);

impl Physical for Asked<'_> {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
        let mut stream = self.0;
        let mut at = gpa;
        for part in bytes.chunks_mut(MAX_READ) {
            let question = [at, part.len() as u64].map(u64::to_le_bytes);
            let mut found = [0];
            let asked = stream
                .write_all(question.as_flattened())
                .and_then(|()| stream.read_exact(&mut found));
            if asked.is_err() || found == [0] || stream.read_exact(part).is_err() {
                return false;
            }
            at = at.saturating_add(part.len() as u64);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestMemory;

    #[test]
    fn report_and_memory_arrive_at_the_other_end() {
        let report = Report {
            kind: Kind::Silent,
            headline: "why".into(),
            printed: 5,
            scene: Scene::default(),
        };
        let memory = GuestMemory::new(2 << 20).unwrap();
        let last = (2 << 20) - 0x2000;
        memory
            .write(vm_memory::GuestAddress(last), &[7; 0x2000])
            .unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let expected = report.clone();
        let other = std::thread::spawn(move || {
            let mut stream = &theirs;
            assert_eq!(Report::read(&mut stream).unwrap(), expected);
            let mut bytes = [0; 0x2000];
            assert!(Asked(&theirs).read(last, &mut bytes));
            assert_eq!(bytes, [7; 0x2000]);
            assert!(!Asked(&theirs).read(last + 1, &mut bytes));
            assert!(!Asked(&theirs).read(u64::MAX, &mut [0]));
        });
        serve(ours, &report, &memory).unwrap();
        other.join().unwrap();
    }

    #[test]
    fn nonsense_is_no_report() {
        for bytes in [&[][..], &[0xff; 100], &[0; 64], &[1; 16]] {
            assert!(Report::read(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }
}
