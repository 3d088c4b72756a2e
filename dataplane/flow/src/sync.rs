//! The atomics of this crate. `--cfg loom` replaces them by loom's.
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

/// The steps that a waiter spins before it yields its core. The holder of a lock may be a worker on the same core.
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
/// Loom 0.7 keeps only the last access to an atomic. A thread that loads a word and then stores to it, as every lock does, would
/// hide the race between the store and an earlier load of another thread. Loom would not try such interleavings: models of lookups
/// beside inserts ran once and passed. So each access first notifies a condition variable, on which no thread waits. Loom treats
/// any two such notifications as dependent and tries them in every order. They do not change the values that a thread may read.
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
