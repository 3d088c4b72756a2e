//! A worker's sleep, and how others end it.
//!
//! The worker says that it sleeps, looks once more for work, and blocks in poll(2) on its ports and this eventfd. Who
//! leaves work for it looks whether it sleeps and, only then, writes the eventfd. The word between them is `doze`'s.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use crate::doze::Doze;

/// The end that the worker has.
#[derive(Debug)]
pub struct Sleeper(Arc<Shared>);

/// The end that everybody else has.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    doze: Doze,
}

impl Sleeper {
    /// A new pair is one descriptor.
    ///
    /// # Errors
    /// What eventfd(2) says, such as too many open files.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Shared {
            event,
            doze: Doze::new(),
        })))
    }

    /// The other end.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.0))
    }

    /// Says that the worker is about to sleep; it must look for work once more after this.
    pub fn fall_asleep(&self) {
        self.0.doze.fall_asleep();
    }

    /// Says that the worker is awake, and takes what was written to the eventfd.
    pub fn wake_up(&self) {
        self.0.doze.wake_up();
        let mut count = [0; 8];
        // EAGAIN is the usual case: nobody wrote.
        let _ = rustix::io::read(&self.0.event, &mut count);
    }
}

impl AsFd for Sleeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

impl Waker {
    /// Wakes the worker if it sleeps. What it shall see must have been left for it before.
    #[inline]
    pub fn wake(&self) {
        if self.0.doze.must_wake() {
            // The only error besides a closed descriptor is a counter at its end, and then it is readable anyway.
            let _ = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn readable(s: &Sleeper) -> bool {
        let mut fds = [PollFd::new(s, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn an_awake_worker_costs_its_waker_no_system_call() {
        let s = Sleeper::new().unwrap();
        s.waker().wake();
        assert!(!readable(&s));
    }

    #[test]
    fn a_sleeper_is_woken_once_and_sleeps_again() {
        let s = Sleeper::new().unwrap();
        let w = s.waker();
        for _ in 0..2 {
            s.fall_asleep();
            w.wake();
            w.wake();
            assert!(readable(&s));
            s.wake_up();
            assert!(!readable(&s));
        }
    }
}
