//! Loom models of the table of session affinities: two workers with at most two preemptions, some with one.
//!
//! The models were run with one ordering weakened or one fence removed at a time. They detect each ordering and each fence of the
//! sequence lock, and the lock around a store.

use heddle_wire::Ip;
use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::loom_tests::{check, check_bounded};

/// A set of two lines, and the backends of its clients.
struct Clients {
    lines: Vec<Line>,
    seed: Seed,
}

impl Clients {
    fn none() -> Arc<Self> {
        let lines = (0..WAYS).map(|_| Line::default()).collect();
        let seed = Seed([1, 2, 3, 4, 5, 6, 7, 8]);
        Arc::new(Self { lines, seed })
    }

    fn table(&self) -> AffinityTable<'_> {
        AffinityTable::new(&self.lines, &self.seed)
    }

    /// Returns the `n`-th backend, whose address and port belong together.
    fn backend(n: u8) -> (Ip, u16) {
        (Ip::from_v4([10, 0, 0, n]), n.into())
    }

    fn record(&self, client: u8, backend: u8, now: u64) {
        self.table()
            .record(Ip::from_v4([10, 9, 9, client]), 7, Self::backend(backend), Millis(now));
    }

    fn find(&self, client: u8, now: u64) -> Option<(Ip, u16)> {
        self.table().find(Ip::from_v4([10, 9, 9, client]), 7, Millis(now), 10)
    }
}

#[test]
fn a_client_that_two_workers_note_goes_where_one_of_them_said() {
    check_bounded(1, || {
        let clients = Clients::none();
        let other = {
            let clients = Arc::clone(&clients);
            thread::spawn(move || clients.record(1, 101, 5))
        };
        clients.record(1, 102, 5);
        let either = [Some(Clients::backend(101)), Some(Clients::backend(102))];
        assert!(either.contains(&clients.find(1, 5)));
        other.join().unwrap();
        assert!(either.contains(&clients.find(1, 5)));
    });
}

#[test]
fn a_client_is_found_whole_while_it_is_noted_again_after_its_time() {
    check(|| {
        let clients = Clients::none();
        clients.record(1, 101, 5);
        let other = {
            let clients = Arc::clone(&clients);
            thread::spawn(move || clients.record(1, 102, 100))
        };
        let found = clients.find(1, 100);
        assert!(
            found.is_none() || found == Some(Clients::backend(102)),
            "the old one has expired"
        );
        other.join().unwrap();
        assert_eq!(clients.find(1, 100), Some(Clients::backend(102)));
    });
}

#[test]
fn a_client_is_found_whole_or_not_at_all_while_another_takes_its_line() {
    check(|| {
        let clients = Clients::none();
        clients.record(1, 101, 1);
        clients.record(2, 102, 2);
        let other = {
            let clients = Arc::clone(&clients);
            thread::spawn(move || clients.record(3, 103, 3))
        };
        let found = clients.find(1, 3);
        assert!(found.is_none() || found == Some(Clients::backend(101)));
        other.join().unwrap();
        let all = [1, 2, 3].map(|client| clients.find(client, 3));
        assert_eq!(all, [None, Some(Clients::backend(102)), Some(Clients::backend(103))]);
    });
}
