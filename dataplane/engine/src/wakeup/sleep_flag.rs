//! The flag between a worker that falls asleep and the threads that leave work for it. No wake-up is lost, and a worker that is
//! awake gets none. Queues, snapshots and flows come from other crates; the drops' sequence locks are in `drops`.
//!
//! # Ordering
//!
//! The sleeper writes `asleep` and then reads the queues; the other thread writes the work and then reads `asleep`. At least one
//! of the two must read the other's write (Dekker's problem). Release and Acquire do not give this, so each side has a
//! sequentially consistent fence between its write and its read. The swap makes only one of several wakers write the eventfd.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// The flag of a worker that is asleep, or about to be.
#[derive(Debug)]
pub(crate) struct SleepFlag {
    asleep: AtomicBool,
}

impl SleepFlag {
    /// Makes the flag of a worker that is awake.
    pub(crate) fn new() -> Self {
        Self {
            asleep: AtomicBool::new(false),
        }
    }

    /// Marks the worker as about to sleep. The worker must check for work once more after this.
    pub(crate) fn fall_asleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Marks the worker as awake.
    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Returns true if the caller, which has left work before, must wake the worker.
    #[inline]
    pub(crate) fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use loom::thread;

    use super::SleepFlag;

    struct World {
        sleep_flag: SleepFlag,
        work: [AtomicBool; 2],
        events: AtomicU32,
    }

    /// Two threads leave work and one falls asleep. Work that the sleeper did not see ends the sleep, and only one thread wakes it.
    #[test]
    fn loom_no_wake_up_is_lost() {
        loom::model(|| {
            let world = Arc::new(World {
                sleep_flag: SleepFlag::new(),
                work: [AtomicBool::new(false), AtomicBool::new(false)],
                events: AtomicU32::new(0),
            });
            let wakers: Vec<_> = (0..2)
                .map(|n| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || {
                        world.work[n].store(true, Ordering::Release);
                        if world.sleep_flag.must_wake() {
                            world.events.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            world.sleep_flag.fall_asleep();
            let seen = [0, 1].map(|n: usize| world.work[n].load(Ordering::Acquire));
            wakers.into_iter().for_each(|w| w.join().unwrap());
            let events = world.events.load(Ordering::Relaxed);
            assert!(events <= 1, "woken twice");
            if seen != [true, true] {
                assert_eq!(events, 1, "slept over work: {seen:?}");
            }
        });
    }
}
