//! The one place from which the drops take their atomics, so that `--cfg loom` swaps them for loom's.

#[cfg(loom)]
pub(super) use checked::AtomicU64;
#[cfg(loom)]
pub(super) use loom::sync::atomic::{Ordering, fence};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The words under the model checker.
///
/// Loom 0.7 remembers only the last access to an atomic: a writer that loads a word before it stores to it hides that the store
/// races with an earlier load of a reader. So each access is announced on a condition variable that nobody waits on, as in
/// the flow table.
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
