//! A ring of records of a few words. One writer, which never waits, overwrites the oldest record. Any number of readers read
//! records, and never parts of two. Records are numbered from 0, so that a reader can count the records that it missed.
//!
//! # Ordering
//!
//! Each cell is a sequence lock over words that are atomics themselves, with one writer and without a retry: the sequence
//! contains the record's number, so another sequence means that the record was overwritten. The writer stores an odd sequence,
//! makes a Release fence, stores the words relaxed, stores the next even sequence with Release, and then stores the number of
//! records with Release. A reader loads that number with Acquire, so that it finds every record below it, or a later one in
//! its cell. It loads the sequence with Acquire, the words relaxed, makes an Acquire fence and loads the sequence again. If it
//! had read a word of a later record, the two fences would make that record's odd sequence visible too (as in the flow
//! table's `seqlock`).

use super::sync::{AtomicU64, Ordering, fence};

/// The cell of one record: its sequence and its words. With seven words it fills a cache line.
#[derive(Debug)]
#[repr(align(64))]
struct RecordCell<const WORDS: usize> {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// A ring of records of `WORDS` words.
#[derive(Debug)]
pub(super) struct Ring<const WORDS: usize> {
    /// Their number is a power of two.
    cells: Box<[RecordCell<WORDS>]>,
    /// The number of the next record, for the writer alone.
    next: AtomicU64,
    /// The same number, for readers.
    written: AtomicU64,
}

/// Returns the sequence of a complete record. It is never 0, which is the sequence of an empty cell.
const fn whole(number: u64) -> u64 {
    number.wrapping_mul(2).wrapping_add(2)
}

impl<const WORDS: usize> Ring<WORDS> {
    /// Makes a ring for at least `records` records.
    pub(super) fn new(records: usize) -> Self {
        let cell = |_| RecordCell {
            sequence: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        Self {
            cells: (0..records.next_power_of_two()).map(cell).collect(),
            next: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// Returns the number of cells.
    pub(super) fn len(&self) -> u64 {
        self.cells.len() as u64
    }

    /// Returns the number of records written so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    #[inline]
    fn cell(&self, number: u64) -> Option<&RecordCell<WORDS>> {
        self.cells.get((number & (self.len() - 1)) as usize)
    }

    /// Writes the next record over the oldest. Only the owning thread calls it.
    #[inline]
    pub(super) fn write(&self, words: [u64; WORDS]) {
        let number = self.next.load(Ordering::Relaxed);
        let Some(cell) = self.cell(number) else { return };
        cell.sequence.store(whole(number) - 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in cell.words.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        cell.sequence.store(whole(number), Ordering::Release);
        self.next.store(number + 1, Ordering::Relaxed);
        self.written.store(number + 1, Ordering::Release);
    }

    /// Reads the record with a number below [`written`](Self::written). Returns `None` if it was overwritten.
    pub(super) fn read(&self, number: u64) -> Option<[u64; WORDS]> {
        let cell = self.cell(number)?;
        if cell.sequence.load(Ordering::Acquire) != whole(number) {
            return None;
        }
        let words = std::array::from_fn(|n| cell.words.get(n).map_or(0, |word| word.load(Ordering::Relaxed)));
        fence(Ordering::Acquire);
        (cell.sequence.load(Ordering::Relaxed) == whole(number)).then_some(words)
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
/// The models were run with one ordering weakened to relaxed at a time: either fence, the Release of the even sequence or of
/// the count, the Acquire of the sequence or of the count. Each of these makes a model fail.
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

    /// A ring of one record is written twice during two reads: no read returns half a record.
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

    /// A record that is counted can be read, unless it was overwritten.
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
