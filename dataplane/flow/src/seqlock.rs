//! A sequence lock over words that are atomics themselves.
//!
//! # Ordering
//!
//! Every guarded word is an atomic, so a racing reader gets old or new words without undefined behavior. A writer makes the
//! sequence odd by a compare-and-swap, which also excludes other writers. Then it makes a Release fence, stores the words relaxed,
//! and stores the next even sequence with Release. A reader loads the sequence with Acquire and the words relaxed, makes an Acquire
//! fence and loads the sequence again. If it had read a word of a later writer, the two fences would make that writer's odd
//! sequence visible too (Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012).

use crate::sync::{AtomicU64, Ordering, fence, relax};

/// The sequence: even while the words are whole.
#[derive(Clone, Copy)]
pub(crate) struct Sequence<'a>(pub(crate) &'a AtomicU64);

impl<'a> Sequence<'a> {
    /// Returns a result of `load` during which no writer was active. Waits while a writer is active. A writer never waits between
    /// its stores.
    #[inline]
    pub(crate) fn read<T>(&self, load: impl Fn() -> T) -> T {
        let mut round = 0;
        loop {
            let before = self.begin();
            let loaded = load();
            if self.is_unchanged(before) {
                return loaded;
            }
            relax(round);
            round += 1;
        }
    }

    /// Starts a read, which [`Self::is_unchanged`] ends.
    #[inline(always)]
    pub(crate) fn begin(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Returns true if no writer was active since `before`.
    #[inline(always)]
    pub(crate) fn is_unchanged(&self, before: u64) -> bool {
        fence(Ordering::Acquire);
        (self.0.load(Ordering::Relaxed) == before) & (before & 1 == 0)
    }

    /// Excludes other writers and makes readers wait until the returned value is dropped.
    pub(crate) fn write(&self) -> WriteGuard<'a> {
        let mut round = 0;
        loop {
            let even = self.0.load(Ordering::Relaxed) & !1;
            let odd = even | 1;
            if self
                .0
                .compare_exchange(even, odd, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                fence(Ordering::Release);
                return WriteGuard { sequence: *self, odd };
            }
            relax(round);
            round += 1;
        }
    }

    /// Returns true if a writer died in the middle of a write.
    pub(crate) fn is_odd(&self) -> bool {
        self.0.load(Ordering::Relaxed) & 1 == 1
    }

    /// Ends the write of a dead writer. Only valid while no other thread uses the words.
    pub(crate) fn end_dead_write(&self) {
        let sequence = self.0.load(Ordering::Relaxed);
        self.0.store((sequence | 1).wrapping_add(1), Ordering::Release);
    }
}

/// The right to write the guarded words.
pub(crate) struct WriteGuard<'a> {
    sequence: Sequence<'a>,
    odd: u64,
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.sequence.0.store(self.odd.wrapping_add(1), Ordering::Release);
    }
}
