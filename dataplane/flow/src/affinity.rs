//! The table of session affinities: the last backend of each client of a Service with session affinity.
//!
//! Like the flow table, it consists of lines of atomic words, each under a sequence lock, which all workers read without a lock.
//! An entry is one line. The client and the Service select a set of lines. A new entry is stored in the line of the same client
//! and Service, else in an empty line, else in the line that was unused for longest. So the table is bounded. If the entry of a
//! client was replaced, its next connection gets a new backend.
//!
//! The table lies behind the records of the flow table, in the same file, so clients keep their backends over a restart. A
//! takeover removes an entry that a killed process was writing.
//!
//! # Ordering
//!
//! The ordering of [`crate::seqlock`] holds for each line, and none between two lines. If two workers record one client at the
//! same time, they may use different lines, and then the backend of either is found.

use heddle_wire::Ip;

use crate::hash::{Seed, ip_from_words, ip_words};
use crate::layout::AFFINITY_WAYS as WAYS;
use crate::mmap::{LINE_WORDS, Line};
use crate::seqlock::Sequence;
use crate::sync::{AtomicU64, Ordering};
use crate::types::Millis;

/// A client, a Service and the backend of the client's last connection.
#[derive(Clone, Copy)]
struct AffinityEntry {
    client: [u64; 2],
    /// The Service's number; 0 in an empty line.
    service: u64,
    backend: [u64; 2],
    port: u64,
    used: u64,
}

impl AffinityEntry {
    fn is_of(&self, client: [u64; 2], service: u64) -> bool {
        self.service == service && self.client == client
    }
}

/// The table of session affinities.
#[derive(Clone, Copy)]
pub struct AffinityTable<'a> {
    sets: &'a [[Line; WAYS]],
    seed: &'a Seed,
}

impl<'a> AffinityTable<'a> {
    /// Makes the table in these lines. Without lines it records nothing.
    pub(crate) fn new(lines: &'a [Line], seed: &'a Seed) -> Self {
        Self {
            sets: lines.as_chunks().0,
            seed,
        }
    }

    /// Removes the entries that a dead writer left incomplete. Only valid while no other thread uses the table.
    pub(crate) fn repair(&self) {
        for line in self.sets.as_flattened() {
            let (sequence, words) = parts(line);
            if sequence.is_odd() {
                words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
                sequence.end_dead_write();
            }
        }
    }

    /// Returns the number of entries that the table has room for.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// Returns the backend of the client's last new connection to the Service, if that was at most `timeout` milliseconds ago.
    #[must_use]
    pub fn find(&self, client: Ip, service: u64, now: Millis, timeout: u64) -> Option<(Ip, u16)> {
        let client = ip_words(client);
        let mut set = self.set(client, service).iter().map(load);
        let entry = set.find(|entry| entry.is_of(client, service))?;
        let fresh = now.0.saturating_sub(entry.used) <= timeout;
        fresh.then(|| (ip_from_words(entry.backend), entry.port as u16))
    }

    /// Records the backend of a new connection of the client.
    pub fn record(&self, client: Ip, service: u64, (backend, port): (Ip, u16), now: Millis) {
        let client = ip_words(client);
        let set = self.set(client, service);
        let place = set.iter().min_by_key(|line| {
            let entry = load(line);
            let own = entry.is_of(client, service);
            (!own, if entry.service == 0 { 0 } else { entry.used.max(1) })
        });
        // If another worker uses the line at the same time, one of the two entries is lost.
        if let Some(line) = place {
            store(
                line,
                AffinityEntry {
                    client,
                    service,
                    backend: ip_words(backend),
                    port: u64::from(port),
                    used: now.0,
                },
            );
        }
    }

    fn set(&self, client: [u64; 2], service: u64) -> &'a [Line] {
        let k = &self.seed.0;
        let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let mixed = product(client[0].wrapping_add(k[0]), client[1].wrapping_add(k[1]))
            .wrapping_add(product(service.wrapping_add(k[2]), k[3]));
        let mixed = product(mixed as u64 ^ k[4], (mixed >> 64) as u64 ^ k[5]);
        let hash = (mixed >> 64) as u64 ^ mixed as u64;
        let chosen = (product(hash, self.sets.len() as u64) >> 64) as usize;
        self.sets.get(chosen).map_or(&[], |set| set)
    }
}

fn parts(line: &Line) -> (Sequence<'_>, &[AtomicU64; LINE_WORDS - 1]) {
    let [sequence, words @ ..] = &line.0;
    (Sequence(sequence), words)
}

fn load(line: &Line) -> AffinityEntry {
    let (sequence, words) = parts(line);
    let [c0, c1, service, b0, b1, port, used] =
        sequence.read(|| words.each_ref().map(|word| word.load(Ordering::Relaxed)));
    AffinityEntry {
        client: [c0, c1],
        service,
        backend: [b0, b1],
        port,
        used,
    }
}

fn store(line: &Line, entry: AffinityEntry) {
    let (sequence, words) = parts(line);
    let ([c0, c1], [b0, b1]) = (entry.client, entry.backend);
    let values = [c0, c1, entry.service, b0, b1, entry.port, entry.used];
    let _odd = sequence.write();
    for (word, value) in words.iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn client(n: u8) -> Ip {
        Ip::from_v4([10, 0, 0, n])
    }

    struct Owned(Vec<Line>, Seed);

    impl Owned {
        fn view(&self) -> AffinityTable<'_> {
            AffinityTable::new(&self.0, &self.1)
        }
    }

    fn table(capacity: usize) -> Owned {
        let lines = (0..capacity.next_multiple_of(WAYS)).map(|_| Line::default());
        let seed = std::array::from_fn(|n| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n as u64 + 1));
        Owned(lines.collect(), Seed(seed))
    }

    #[test]
    fn a_client_is_remembered_until_the_timeout_after_its_last_connection() {
        let owned = table(64);
        let table = owned.view();
        let backend = (client(200), 8080);
        table.record(client(1), 7, backend, Millis(1_000));
        assert_eq!(table.find(client(1), 7, Millis(11_000), 10_000), Some(backend));
        assert_eq!(table.find(client(1), 7, Millis(11_001), 10_000), None);
        assert_eq!(table.find(client(1), 8, Millis(1_000), 10_000), None, "another Service");
        assert_eq!(table.find(client(2), 7, Millis(1_000), 10_000), None, "another client");
        table.record(client(1), 7, backend, Millis(11_000));
        assert_eq!(table.find(client(1), 7, Millis(11_001), 10_000), Some(backend));
    }

    #[test]
    fn a_full_set_forgets_who_came_longest_ago() {
        let owned = table(1);
        let table = owned.view();
        assert_eq!(table.capacity(), WAYS);
        for n in 0..=WAYS as u8 {
            table.record(client(n), 7, (client(100 + n), 80), Millis(100 + u64::from(n)));
        }
        let known = |n| table.find(client(n), 7, Millis(200), 1_000).is_some();
        assert!(!known(0));
        assert!((1..=WAYS as u8).all(known));
    }

    #[test]
    fn a_repair_forgets_what_was_being_written_and_nothing_else() {
        let owned = table(64);
        let table = owned.view();
        for n in 1..=3 {
            table.record(client(n), 7, (client(100 + n), 80), Millis(5));
        }
        let words = ip_words(client(2));
        let torn = owned.0.iter().find(|line| load(line).is_of(words, 7)).unwrap();
        parts(torn).0.0.fetch_add(1, Ordering::Relaxed);
        table.repair();
        let found = [1, 2, 3].map(|n| table.find(client(n), 7, Millis(5), 10));
        assert_eq!(found, [Some((client(101), 80)), None, Some((client(103), 80))]);
        table.record(client(2), 7, (client(9), 80), Millis(6));
        assert_eq!(table.find(client(2), 7, Millis(6), 10), Some((client(9), 80)));
    }

    #[test]
    fn a_table_without_room_records_no_affinity() {
        let owned = table(0);
        let table = owned.view();
        table.record(client(1), 7, (client(2), 80), Millis(1));
        assert_eq!(table.find(client(1), 7, Millis(1), 1), None);
    }

    proptest! {
        /// With room for all entries, the table behaves like a map.
        #[test]
        fn the_affinity_table_is_a_bounded_map(steps in prop::collection::vec((0_u8..8, 1_u64..3, any::<u16>(), 0_u64..50), 1..100)) {
            let owned = table(4096);
        let table = owned.view();
            let mut map = HashMap::new();
            let mut now = 1;
            for (who, service, port, later) in steps {
                now += later;
                let found = table.find(client(who), service, Millis(now), 30);
                let known = map.get(&(who, service)).filter(|(_, used)| now - used <= 30).map(|(port, _)| (client(9), *port));
                prop_assert_eq!(found, known);
                table.record(client(who), service, (client(9), port), Millis(now));
                map.insert((who, service), (port, now));
            }
        }
    }

    #[test]
    fn found_entries_are_whole_during_writes() {
        let owned = table(8);
        let table = owned.view();
        std::thread::scope(|scope| {
            for worker in 0..2_u16 {
                scope.spawn(move || {
                    for n in 0..if cfg!(miri) { 50 } else { 20_000_u16 } {
                        let port = n * 2 + worker;
                        table.record(
                            client(1),
                            7,
                            (Ip::from_v4([10, 1, (port >> 8) as u8, port as u8]), port),
                            Millis(5),
                        );
                        if let Some((ip, port)) = table.find(client(1), 7, Millis(5), 10) {
                            assert_eq!(ip, Ip::from_v4([10, 1, (port >> 8) as u8, port as u8]));
                        }
                    }
                });
            }
        });
    }
}
