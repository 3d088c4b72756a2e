//! The atomics of this module. `--cfg loom` replaces them by loom's.

#[cfg(loom)]
pub(super) use checked::AtomicU64;
#[cfg(loom)]
pub(super) use loom::sync::atomic::{Ordering, fence};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The words under the model checker.
///
/// Loom 0.7 keeps only the last access to an atomic. A writer that loads a word and then stores to it would hide the race
/// between the store and an earlier load of a reader. So each access first notifies a condition variable, on which no thread
/// waits. This makes loom try the other orders too. The flow table does the same.
#[cfg(loom)]
mod checked {
    use loom::sync::Condvar;
    use loom::sync::atomic::{self, Ordering};

    #[derive(Debug)]
    pub(in crate::drops) struct AtomicU64 {
        word: atomic::AtomicU64,
        turns: Condvar,
    }

    impl AtomicU64 {
        pub(in crate::drops) fn new(value: u64) -> Self {
            Self {
                word: atomic::AtomicU64::new(value),
                turns: Condvar::new(),
            }
        }

        pub(in crate::drops) fn load(&self, order: Ordering) -> u64 {
            self.turns.notify_one();
            self.word.load(order)
        }

        pub(in crate::drops) fn store(&self, value: u64, order: Ordering) {
            self.turns.notify_one();
            self.word.store(value, order);
        }
    }
}
