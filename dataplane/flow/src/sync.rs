//! The one place from which this crate takes its atomics, so that `--cfg loom` swaps them for loom's.
//!
//! # Ordering
//!
//! Three protocols are built on these words; each is described where it is implemented:
//! the sequence lock (`seqlock`), the bucket's lock and version (`bucket`), the free lists (`freelist`).
//! The models that check them are in `loom_tests`:
//! `RUSTFLAGS="--cfg loom" cargo test -p heddle-flow --release --lib loom_tests`.

#[cfg(loom)]
pub(crate) use checked::AtomicU64;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// How often a waiter spins before it gives its core away. The holder of a lock may be a worker on the same core.
#[cfg(not(loom))]
const SPINS: u32 = 64;

/// One step of waiting for another thread, the `round`-th in a row.
#[cfg(not(loom))]
#[inline]
pub(crate) fn relax(round: u32) {
    if round < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// One step of waiting for another thread.
#[cfg(loom)]
pub(crate) fn relax(_round: u32) {
    loom::thread::yield_now();
}

/// The words under the model checker.
///
/// Loom 0.7 remembers only the last access to an atomic. A thread that loads a word before it stores to it, as every lock does,
/// thereby hides from it that the store races with an earlier load of another thread, and such interleavings are
/// never tried: models of lookups beside inserts ran once and "passed". So each access is announced on a condition variable
/// that nobody waits on. To loom any two such announcements depend on each other, so it tries them in every order, and they
/// have no effect on what a thread may see.
#[cfg(loom)]
mod checked {
    use loom::sync::Condvar;
    use loom::sync::atomic::{self, Ordering};

    pub(crate) struct AtomicU64 {
        word: atomic::AtomicU64,
        turns: Condvar,
    }

    impl AtomicU64 {
        pub(crate) fn new(value: u64) -> Self {
            Self {
                word: atomic::AtomicU64::new(value),
                turns: Condvar::new(),
            }
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            self.turns.notify_one();
            self.word.load(order)
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            self.turns.notify_one();
            self.word.store(value, order);
        }

        pub(crate) fn swap(&self, value: u64, order: Ordering) -> u64 {
            self.turns.notify_one();
            self.word.swap(value, order)
        }

        pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            self.turns.notify_one();
            self.word.fetch_add(value, order)
        }

        pub(crate) fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.turns.notify_one();
            self.word.compare_exchange(current, new, success, failure)
        }
    }
}
