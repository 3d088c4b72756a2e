//! Takeovers of files in every state in which a killed process may leave them.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use heddle_ids::Epoch;
use heddle_wire::TcpFlags;

use super::*;
use crate::mmap::LINE_BYTES;
use crate::testing::{T0, assert_delivers, config, look, nth, put, v4};
use crate::{BootId, Fresh, InsertError, Millis, OpenError, SlotId, Takeover};

const BOOT: BootId = BootId(0x1234_5678_9abc_def0_1122_3344_5566_7788);
const CAPACITY: u32 = 300;

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("flows")
    }

    fn open(&self) -> (FlowTable, Takeover) {
        FlowTable::open(&self.path(), &config(CAPACITY), BOOT, T0).unwrap()
    }

    /// Makes a file with `n` connections and closes it.
    fn filled(n: u32) -> Self {
        let scratch = Self::new();
        let (table, _) = scratch.open();
        (0..n).for_each(|n| {
            put(&table, nth(n), T0);
        });
        scratch
    }

    fn with_file(&self, f: impl FnOnce(&std::fs::File)) {
        f(&std::fs::File::options()
            .read(true)
            .write(true)
            .open(self.path())
            .unwrap());
    }

    fn word(&self, line: usize, word: usize) -> u64 {
        let mut bytes = [0; 8];
        self.with_file(|f| {
            f.read_exact_at(&mut bytes, (line * LINE_BYTES + word * 8) as u64)
                .unwrap();
        });
        u64::from_ne_bytes(bytes)
    }

    fn set_word(&self, line: usize, word: usize, value: u64) {
        self.with_file(|f| {
            f.write_all_at(&value.to_ne_bytes(), (line * LINE_BYTES + word * 8) as u64)
                .unwrap();
        });
    }
}

fn record_line(n: u32) -> usize {
    config(CAPACITY).geometry().record(n)
}

/// Asserts that no slot is lost: exactly `used` are in use, and the rest can be filled.
fn assert_whole(table: &FlowTable, used: u32) {
    assert_eq!(table.stats().used, used);
    let mut count = 0;
    table.for_each(|c| {
        count += 1;
        assert!(look(table, c.keys[0], T0).is_some_and(|h| h.slot == c.slot));
        assert!(look(table, c.keys[1], T0).is_some_and(|h| h.slot == c.slot.peer()));
    });
    assert_eq!(count, used);
    // With complete handshakes, so that none of them makes room for another.
    let establish = |slot: SlotId| {
        for (slot, flags) in [(slot.peer(), TcpFlags::SYN | TcpFlags::ACK), (slot, TcpFlags::ACK)] {
            assert!(table.touch(slot, T0, 1, flags));
        }
    };
    table.for_each(|c| establish(c.slot));
    let fresh: Vec<_> = (10_000..10_000 + CAPACITY - used)
        .map(|n| put(table, nth(n), T0).0)
        .inspect(|slot| establish(*slot))
        .collect();
    let (f, r) = nth(20_000);
    assert_eq!(table.insert(&f, &r, T0), Err(InsertError::Full));
    assert!(fresh.into_iter().all(|slot| table.remove(slot)));
}

#[test]
fn connections_outlive_the_process_and_are_stale() {
    let scratch = Scratch::new();
    let (table, first) = scratch.open();
    assert_eq!(
        (first.fresh, first.epoch, first.fresh_since),
        (Some(Fresh::NoFile), Epoch(1), T0)
    );
    for n in 0..200 {
        put(&table, nth(n), T0);
    }
    assert!(table.remove(look(&table, nth(7).0.key, T0).unwrap().slot));
    drop(table);

    let later = T0.plus(5000);
    let (table, second) = FlowTable::open(&scratch.path(), &config(CAPACITY), BOOT, later).unwrap();
    let expected = Takeover {
        fresh: None,
        fresh_since: T0,
        epoch: Epoch(2),
        entries_kept: 199,
        discarded_torn: 0,
        discarded_orphans: 0,
    };
    assert_eq!(second, expected);
    assert_eq!(look(&table, nth(7).0.key, later), None);
    for flows in (0..200).filter(|n| *n != 7).map(nth) {
        let hits = [flows.0, flows.1].map(|flow| {
            let hit = look(&table, flow.key, later);
            assert_delivers(hit, &flow);
            hit.unwrap()
        });
        assert!(
            !hits[0].view.is_current(table.epoch(), flows.0.generations),
            "stale although no generation changed"
        );
        assert!(table.revalidate(hits[0].slot, flows.0.generations));
        assert!(
            table
                .view(hits[1].slot)
                .unwrap()
                .is_current(table.epoch(), flows.1.generations),
            "so is the reply"
        );
    }
    assert_eq!(table.opened_by(nth(0).0.endpoints[0]), 199);
    assert_whole(&table, 199);
}

#[test]
fn a_locked_table_cannot_be_opened_twice() {
    let scratch = Scratch::new();
    let (table, _) = scratch.open();
    let again = FlowTable::open(&scratch.path(), &config(CAPACITY), BOOT, T0);
    assert!(matches!(again, Err(OpenError::Locked { .. })));
    drop(table);
    scratch.open();
}

#[test]
fn a_file_that_is_no_table_is_replaced() {
    let reopen = |spoil: &dyn Fn(&Scratch), boot, capacity| {
        let scratch = Scratch::filled(10);
        spoil(&scratch);
        let (table, takeover) = FlowTable::open(&scratch.path(), &config(capacity), boot, Millis(77)).unwrap();
        assert_eq!(
            (takeover.fresh_since, takeover.entries_kept, table.stats().used),
            (Millis(77), 0, 0)
        );
        assert_eq!(look(&table, nth(0).0.key, T0), None);
        takeover.fresh
    };
    let nothing: &dyn Fn(&Scratch) = &|_| {};
    let other = u64::from(config(CAPACITY).geometry().capacity);
    assert_eq!(reopen(nothing, BootId(1), CAPACITY), Some(Fresh::Boot));
    assert_eq!(
        reopen(nothing, BOOT, CAPACITY + 1),
        Some(Fresh::Capacity { found: other })
    );
    assert_eq!(
        reopen(&|s| s.set_word(0, 1, 99), BOOT, CAPACITY),
        Some(Fresh::Layout { found: 99 })
    );
    assert_eq!(reopen(&|s| s.set_word(0, 0, 99), BOOT, CAPACITY), Some(Fresh::Damaged));
    assert_eq!(
        reopen(&|s| s.with_file(|f| f.set_len(100).unwrap()), BOOT, CAPACITY),
        Some(Fresh::Damaged)
    );
    assert_eq!(
        reopen(&|s| s.with_file(|f| f.set_len(1 << 22).unwrap()), BOOT, CAPACITY),
        Some(Fresh::Damaged)
    );
    assert_eq!(
        reopen(&|s| s.with_file(|f| f.set_len(0).unwrap()), BOOT, CAPACITY),
        Some(Fresh::NoFile)
    );
}

#[test]
fn torn_records_go_and_their_slots_come_back() {
    let scratch = Scratch::filled(100);
    for n in [3, 50] {
        let line = record_line(n);
        scratch.set_word(line, 0, scratch.word(line, 0) | 1);
    }
    let (table, takeover) = scratch.open();
    assert_eq!(
        (
            takeover.entries_kept,
            takeover.discarded_torn,
            takeover.discarded_orphans
        ),
        (98, 2, 0)
    );
    assert_eq!(look(&table, nth(3).0.key, T0), None);
    assert_eq!(look(&table, nth(3).1.key, T0), None);
    assert_whole(&table, 98);
}

#[test]
fn a_record_with_words_that_nobody_writes_goes() {
    let scratch = Scratch::filled(10);
    scratch.set_word(record_line(4) + 1, 5, u64::MAX);
    let (table, takeover) = scratch.open();
    assert_eq!((takeover.entries_kept, takeover.discarded_torn), (9, 1));
    assert_whole(&table, 9);
}

#[test]
fn connections_that_lack_a_direction_go() {
    let scratch = Scratch::filled(200);
    let geometry = config(CAPACITY).geometry();
    let mut unlinked = Vec::new();
    for line in (geometry.bucket(0)..geometry.overflow(0)).step_by(5) {
        let entry = scratch.word(line, 2);
        if entry != 0 {
            scratch.set_word(line, 2, 0);
            unlinked.push((entry as u32 - 1) >> 1);
        }
    }
    unlinked.sort_unstable();
    unlinked.dedup();
    assert!(unlinked.len() > 5);
    let (table, takeover) = scratch.open();
    assert_eq!(takeover.discarded_orphans as usize, unlinked.len());
    assert_eq!(takeover.entries_kept as usize, 200 - unlinked.len());
    assert_whole(&table, takeover.entries_kept);
}

#[test]
fn a_connection_that_was_linked_and_did_not_live_yet_leaves_its_place() {
    let scratch = Scratch::filled(3);
    // The life of record 1, as it was before the insert began it.
    scratch.set_word(record_line(1) + 2, 0, 0);
    let (table, takeover) = scratch.open();
    assert_eq!((takeover.entries_kept, takeover.discarded_torn), (2, 0));
    assert_eq!(look(&table, nth(1).0.key, T0), None);
    let (again, _) = put(&table, nth(1), T0);
    assert_eq!(again.number(), 1);
    assert_whole(&table, 3);
}

#[test]
fn clients_stay_with_their_backends_but_one_that_was_being_noted() {
    let scratch = Scratch::filled(3);
    let (table, _) = scratch.open();
    for n in 1..=100 {
        table.affinities().record(v4(n), 7, (v4(1000 + n), 80), T0);
    }
    drop(table);
    // The sequence of the first live record.
    let geometry = config(CAPACITY).geometry();
    let mut lines = geometry.affinities()..geometry.lines();
    let taken = lines.find(|line| scratch.word(*line, 0) != 0).unwrap();
    scratch.set_word(taken, 0, scratch.word(taken, 0) + 1);
    let (table, takeover) = scratch.open();
    assert_eq!((takeover.fresh, takeover.entries_kept), (None, 3));
    let found = |n| table.affinities().find(v4(n), 7, T0, 1);
    let lost: Vec<u32> = (1..=100).filter(|n| found(*n).is_none()).collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!((1..=100).all(|n| lost.contains(&n) || found(n) == Some((v4(1000 + n), 80))));
    table.affinities().record(v4(lost[0]), 7, (v4(5), 80), T0);
    assert_eq!(found(lost[0]), Some((v4(5), 80)));
}

#[test]
fn the_file_takes_what_the_configuration_says() {
    let scratch = Scratch::filled(0);
    let length = std::fs::metadata(scratch.path()).unwrap().len();
    assert_eq!(length, config(CAPACITY).file_bytes());
    let million = config(1_000_000).file_bytes();
    assert!(million.is_multiple_of(2 << 20));
    assert!((244_000_000..250_000_000).contains(&million), "{million}");
}

#[test]
fn locks_of_the_dead_are_opened() {
    let scratch = Scratch::filled(100);
    let geometry = config(CAPACITY).geometry();
    for line in geometry.bucket(0)..geometry.overflow(0) {
        scratch.set_word(line, 0, scratch.word(line, 0) | 1 << 32);
    }
    let (table, takeover) = scratch.open();
    assert_eq!(takeover.entries_kept, 100);
    assert_whole(&table, 100);
}

#[test]
fn lost_slots_and_overflow_buckets_are_found_again() {
    let scratch = Scratch::filled(100);
    // All records and overflow buckets were allocated and are in no chain.
    let geometry = config(CAPACITY).geometry();
    for (line, limit) in [
        (header::RECORDS, geometry.capacity),
        (header::OVERFLOW, geometry.overflow),
    ] {
        scratch.set_word(line, 0, 0);
        scratch.set_word(line, 1, u64::from(limit));
    }
    let (table, takeover) = scratch.open();
    assert_eq!((takeover.entries_kept, takeover.discarded_orphans), (100, 0));
    assert_whole(&table, 100);
}

#[test]
fn an_interrupted_takeover_is_repeated_without_loss() {
    let scratch = Scratch::filled(150);
    let geometry = config(CAPACITY).geometry();
    // The index was cleared and filled again in part.
    scratch.set_word(header::FIXED, REBUILDING, 1);
    for line in geometry.bucket(0)..geometry.bucket(60) {
        (0..8).for_each(|word| scratch.set_word(line, word, 0));
    }
    let (table, takeover) = scratch.open();
    assert_eq!(
        (
            takeover.entries_kept,
            takeover.discarded_orphans,
            takeover.discarded_torn
        ),
        (150, 0, 0)
    );
    assert_whole(&table, 150);
    drop(table);
    assert_eq!(scratch.word(header::FIXED, REBUILDING), 0);
}
