//! A ring of records of a few words: one writer that never waits and overwrites the oldest, any number of readers that never
//! get half a record. Records are numbered from 0, so a reader knows what it has missed.
//!
//! # Ordering
//!
//! Each slot is a sequence lock over words that are atomics themselves, with one writer and without a retry: the sequence
//! names the record, so a reader that finds another one there knows that its own is gone. The writer stores an odd
//! sequence, a Release fence, the words relaxed, the next even sequence with Release, and then how many records there are, with
//! Release. The reader loads that count with Acquire, so it finds every record below it or a later one in its place; it loads
//! the sequence with Acquire, the words relaxed, an Acquire fence, and the sequence again: had it seen a word of a later record,
//! the two fences would make it see that record's odd sequence too (as in the flow table's `seqlock`).

use super::sync::{AtomicU64, Ordering, fence};

/// Sequence and words of one record: with seven words a cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Slot<const WORDS: usize> {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// The ring; `WORDS` a record.
#[derive(Debug)]
pub(super) struct Ring<const WORDS: usize> {
    /// As many as a power of two.
    slots: Box<[Slot<WORDS>]>,
    /// Records written so far, for the writer alone.
    next: AtomicU64,
    /// The same, for readers.
    written: AtomicU64,
}

/// The sequence of a whole record, never that of an empty slot.
const fn whole(number: u64) -> u64 {
    number.wrapping_mul(2).wrapping_add(2)
}

impl<const WORDS: usize> Ring<WORDS> {
    /// A ring of at least so many records.
    pub(super) fn new(records: usize) -> Self {
        let slot = |_| Slot {
            sequence: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        Self {
            slots: (0..records.next_power_of_two()).map(slot).collect(),
            next: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// How many records it holds.
    pub(super) fn len(&self) -> u64 {
        self.slots.len() as u64
    }

    /// How many records were written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    #[inline]
    fn slot(&self, number: u64) -> Option<&Slot<WORDS>> {
        self.slots.get((number & (self.len() - 1)) as usize)
    }

    /// Writes the next record over the oldest; only the owning thread does.
    #[inline]
    pub(super) fn write(&self, words: [u64; WORDS]) {
        let number = self.next.load(Ordering::Relaxed);
        let Some(slot) = self.slot(number) else { return };
        slot.sequence.store(whole(number) - 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in slot.words.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        slot.sequence.store(whole(number), Ordering::Release);
        self.next.store(number + 1, Ordering::Relaxed);
        self.written.store(number + 1, Ordering::Release);
    }

    /// A record whose number is below [`written`](Self::written); `None` if it was overwritten.
    pub(super) fn read(&self, number: u64) -> Option<[u64; WORDS]> {
        let slot = self.slot(number)?;
        if slot.sequence.load(Ordering::Acquire) != whole(number) {
            return None;
        }
        let words = std::array::from_fn(|n| slot.words.get(n).map_or(0, |word| word.load(Ordering::Relaxed)));
        fence(Ordering::Acquire);
        (slot.sequence.load(Ordering::Relaxed) == whole(number)).then_some(words)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_overwritten() {
        let ring = Ring::<2>::new(3);
        assert_eq!((ring.len(), ring.written(), ring.read(0)), (4, 0, None));
        for n in 0..6 {
            ring.write([n, n * 10]);
        }
        assert_eq!(ring.written(), 6);
        let found: Vec<_> = (0..7).map(|n| ring.read(n)).collect();
        let kept = |n| Some([n, n * 10]);
        assert_eq!(found, [None, None, kept(2), kept(3), kept(4), kept(5), None]);
    }

    #[test]
    fn readers_on_other_threads_never_see_halves_and_miss_only_the_oldest() {
        let ring = std::sync::Arc::new(Ring::<7>::new(64));
        let writer = {
            let ring = std::sync::Arc::clone(&ring);
            std::thread::spawn(move || (0..200_000).for_each(|n| ring.write([n; 7])))
        };
        let (mut from, mut seen, mut lost) = (0, 0, 0);
        while from < 200_000 {
            let to = ring.written();
            for number in from..to {
                match ring.read(number) {
                    Some(words) => {
                        assert_eq!(words, [number; 7]);
                        seen += 1;
                    }
                    None => lost += 1,
                }
            }
            from = to;
        }
        writer.join().unwrap();
        assert_eq!(seen + lost, 200_000);
        assert!((200_000 - 64..200_000).all(|n| ring.read(n) == Some([n; 7])));
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p heddle-engine --release --lib loom`
///
/// Tried by hand with one thing taken away at a time (an ordering made relaxed): either fence, the Release of the whole
/// sequence or of the count, the Acquire of the sequence or of the count: each fails.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::Ring;

    fn check(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    /// A ring of one record, written three times while somebody reads.
    #[test]
    fn loom_a_reader_of_the_ring_never_sees_halves() {
        check(|| {
            let ring = Arc::new(Ring::<2>::new(1));
            let writer = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || (1..=2).for_each(|n| ring.write([n, n])))
            };
            for number in 0..2 {
                if let Some(words) = ring.read(number) {
                    assert_eq!(words, [number + 1; 2], "record {number}");
                }
            }
            writer.join().unwrap();
            assert_eq!((ring.read(0), ring.read(1)), (None, Some([2, 2])));
        });
    }

    /// Whatever was counted is there, unless it was overwritten.
    #[test]
    fn loom_the_newest_are_never_missed() {
        check(|| {
            let ring = Arc::new(Ring::<1>::new(2));
            let writer = {
                let ring = Arc::clone(&ring);
                thread::spawn(move || (0..3).for_each(|n| ring.write([n])))
            };
            let written = ring.written();
            for number in 0..written {
                let found = ring.read(number);
                assert!(found.is_none_or(|words| words == [number]));
                // Only the first has one written over it.
                assert!(found.is_some() || number == 0, "record {number} of {written}");
            }
            writer.join().unwrap();
            assert_eq!([0, 1, 2].map(|n| ring.read(n)), [None, Some([1]), Some([2])]);
        });
    }
}
