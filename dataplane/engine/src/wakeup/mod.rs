//! A worker's sleep, and how others end it.
//!
//! The worker says that it sleeps, looks once more for work, and blocks in epoll_wait(2) on its ports and an eventfd. Who
//! leaves work for it looks whether it sleeps and, only then, writes the eventfd. The word between them is `sleep_flag`'s.
//!
//! The set is epoll's and not poll's because poll(2) asks every descriptor before and after each sleep, and an AF_XDP
//! socket that is asked tries to send: with a hundred ports that is most of what a wake-up costs.

mod sleep_flag;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use self::sleep_flag::SleepFlag;

/// The end that the worker has.
#[derive(Debug)]
pub struct Sleeper {
    shared: Arc<Shared>,
    /// Everything that ends the sleep: the eventfd, and what is watched.
    set: OwnedFd,
}

/// The end that everybody else has.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    sleep_flag: SleepFlag,
}

impl Sleeper {
    /// A new pair is two descriptors.
    ///
    /// # Errors
    /// What eventfd(2) and epoll_create(2) say, such as too many open files.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&set, &event, EventData::new_u64(0), EventFlags::IN)?;
        let shared = Arc::new(Shared {
            event,
            sleep_flag: SleepFlag::new(),
        });
        Ok(Self { shared, set })
    }

    /// From now on this descriptor ends the sleep too, when there is something to read.
    ///
    /// # Errors
    /// What epoll_ctl(2) says, such as too many watches; the sleep then goes on without it.
    pub fn watch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(&self.set, fd, EventData::new_u64(0), EventFlags::IN)?)
    }

    /// Ends a [`watch`](Self::watch). To be called while the descriptor is open.
    pub fn unwatch(&self, fd: BorrowedFd<'_>) {
        // It fails only for what is not watched.
        let _ = epoll::delete(&self.set, fd);
    }

    /// Blocks until there is something to do (true) or the time is over (false).
    #[must_use]
    pub fn wait(&self, at_most: Duration) -> bool {
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        let mut ready = [epoll::Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }];
        // An error (a signal) means looking once more, as a wake-up does. Which one is ready is of no interest: a turn
        // looks at all ports.
        epoll::wait(&self.set, &mut ready, Some(&timeout)).is_ok_and(|count| count > 0)
    }

    /// The other end.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.shared))
    }

    /// Marks the worker as about to sleep; it must look for work once more after this.
    pub fn fall_asleep(&self) {
        self.shared.sleep_flag.fall_asleep();
    }

    /// Says that the worker is awake, and takes what was written to the eventfd.
    pub fn wake_up(&self) {
        self.shared.sleep_flag.wake_up();
        let mut count = [0; 8];
        // EAGAIN is the usual case: nobody wrote.
        let _ = rustix::io::read(&self.shared.event, &mut count);
    }
}

impl Waker {
    /// Wakes the worker if it sleeps. What it shall see must have been left for it before.
    #[inline]
    pub fn wake(&self) {
        if self.0.sleep_flag.must_wake() {
            // The only error besides a closed descriptor is a counter at its end, and then it is readable anyway.
            let _ = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn readable(s: &Sleeper) -> bool {
        s.wait(Duration::ZERO)
    }

    #[test]
    fn what_is_watched_ends_the_sleep_until_it_is_watched_no_more() {
        let s = Sleeper::new().unwrap();
        let port = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
        assert!(!readable(&s));
        s.watch(port.as_fd()).unwrap();
        s.watch(port.as_fd()).unwrap_err();
        assert!(readable(&s) && readable(&s), "for as long as nobody reads it");
        s.unwatch(port.as_fd());
        assert!(!readable(&s));
        s.watch(port.as_fd()).unwrap();
        drop(port);
        assert!(!readable(&s), "a closed descriptor is watched no more");
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
