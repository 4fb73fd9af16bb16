//! How a device's thread sleeps: until a descriptor of the device's has something, or the bell
//! rings, which is how a vCPU tells of a notification.
//!
//! Source: poll(2), eventfd(2). Read next: [`super::console`].

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// The bell.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    /// A silent one.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC,
        )?))
    }

    /// Ends [`Bell::sleep`], the next one if there is none now.
    pub(super) fn ring(&self) {
        // The only failure is a counter at its limit of 2^64 - 2: then it rings anyway.
        let _rings_already = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Sleeps until what is waited for happens to one of `watched`, the bell rings, or it is
    /// `until`; returns what happened to each. A signal can end it too.
    pub(super) fn sleep<'a>(
        &self,
        watched: impl Iterator<Item = (BorrowedFd<'a>, PollFlags)>,
        until: Option<Instant>,
    ) -> Vec<PollFlags> {
        let mut fds = vec![PollFd::new(&self.0, PollFlags::IN)];
        fds.extend(watched.map(|(fd, wanted)| PollFd::from_borrowed_fd(fd, wanted)));
        let _interrupted = poll(&mut fds, until.map(time_until).as_ref());
        let mut happened = fds.iter().map(PollFd::revents);
        if happened.next().is_some_and(|bell| !bell.is_empty()) {
            let _silent_already = rustix::io::read(&self.0, &mut [0; 8]);
        }
        happened.collect()
    }
}

/// How long it is until then.
fn time_until(then: Instant) -> Timespec {
    let time = then.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn bell_that_rang_before_ends_the_next_sleep_and_no_other() {
        let bell = Bell::new().unwrap();
        bell.ring();
        bell.ring();
        assert!(bell.sleep(std::iter::empty(), None).is_empty());
        let until = Instant::now() + Duration::from_millis(20);
        bell.sleep(std::iter::empty(), Some(until));
        assert!(Instant::now() >= until);
    }

    #[test]
    fn what_happened_is_told_of_each_that_is_watched() {
        let bell = Bell::new().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        rustix::io::write(&theirs, b"x").unwrap();
        let watched = [
            (theirs.as_fd(), PollFlags::IN),
            (ours.as_fd(), PollFlags::IN),
        ];
        let happened = bell.sleep(watched.into_iter(), None);
        assert_eq!(happened, [PollFlags::empty(), PollFlags::IN]);
    }
}
