//! A worker's sleep, and the wake-up by other threads.
//!
//! The worker sets the [`sleep_flag`], checks for work once more, and blocks in epoll_wait(2) on its ports and an eventfd. A
//! thread that leaves work for the worker reads the flag, and writes the eventfd only if the flag is set.
//!
//! The worker uses epoll(7) and not poll(2), because poll(2) checks every descriptor before and after each sleep, and an AF_XDP
//! socket tries to send whenever it is checked. With a hundred ports this would be most of the cost of a wake-up.

mod sleep_flag;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use self::sleep_flag::SleepFlag;

/// The worker's end of the sleep protocol.
#[derive(Debug)]
pub struct Sleeper {
    shared: Arc<Shared>,
    /// The epoll set: the eventfd and the watched descriptors.
    set: OwnedFd,
}

/// The other threads' end of the sleep protocol.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

/// The state of both ends.
#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    sleep_flag: SleepFlag,
}

impl Sleeper {
    /// Makes a sleeper. It takes two descriptors.
    ///
    /// # Errors
    /// The error of eventfd(2) or epoll_create(2), such as too many open files.
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

    /// Watches a descriptor: from now on the sleep ends too when it is readable.
    ///
    /// # Errors
    /// The error of epoll_ctl(2), such as too many watches. The descriptor then does not end the sleep.
    pub fn watch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(&self.set, fd, EventData::new_u64(0), EventFlags::IN)?)
    }

    /// Ends a [`watch`](Self::watch). Call it while the descriptor is open.
    pub fn unwatch(&self, fd: BorrowedFd<'_>) {
        // It fails only for a descriptor that is not watched.
        let _ = epoll::delete(&self.set, fd);
    }

    /// Blocks until there is work (true) or the time is over (false).
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
        // An error is a signal, and counts as the end of the time. It does not matter which descriptor is ready, because a turn
        // serves all ports.
        epoll::wait(&self.set, &mut ready, Some(&timeout)).is_ok_and(|count| count > 0)
    }

    /// Returns the other end.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.shared))
    }

    /// Marks the worker as about to sleep. The worker must check for work once more after this.
    pub fn fall_asleep(&self) {
        self.shared.sleep_flag.fall_asleep();
    }

    /// Marks the worker as awake, and resets the eventfd.
    pub fn wake_up(&self) {
        self.shared.sleep_flag.wake_up();
        let mut count = [0; 8];
        // EAGAIN is the usual case: no thread has written.
        let _ = rustix::io::read(&self.shared.event, &mut count);
    }
}

impl Waker {
    /// Wakes the worker if it sleeps. The caller must have left its work before the call.
    #[inline]
    pub fn wake(&self) {
        if self.0.sleep_flag.must_wake() {
            // The only error besides a closed descriptor is a counter at its maximum, and then the eventfd is readable anyway.
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
    fn a_watched_descriptor_ends_the_sleep_until_it_is_unwatched() {
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
