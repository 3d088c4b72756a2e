//! The counters of received fragments, and the gauges of the datagram table's use.

use heddle_engine::FragmentTotals;

use crate::datagram::udp;
use crate::forwarding::addresses;
use crate::large::pattern;
use crate::tables::{A, B};
use crate::world::{World, worlds};

#[track_caller]
fn totals(w: &World, [first, followed, waited, datagrams, held_frames]: [u64; 5]) {
    let mut sum = FragmentTotals::default();
    for handle in w.node.handles() {
        let one = handle.counters().totals().fragments;
        sum.first += one.first;
        sum.followed += one.followed;
        sum.waited += one.waited;
        sum.datagrams += one.datagrams;
        sum.held_frames += one.held_frames;
    }
    let expected = FragmentTotals {
        first,
        followed,
        waited,
        datagrams,
        held_frames,
    };
    assert_eq!(sum, expected);
}

#[test]
fn fragments_and_what_is_remembered_of_them_are_counted() {
    worlds(|w| {
        let b = addresses(&B)[0];
        let one = udp(&A, b, (1000, 53), 1, 1000, &pattern(3900));
        w.push(&A, &one[2]);
        w.push(&A, &one[1]);
        w.step();
        totals(w, [0, 0, 2, 1, 2]);
        w.push(&A, &one[0]);
        w.step();
        totals(w, [1, 2, 2, 1, 0]);
        w.push(&A, &one[3]);
        w.step();
        totals(w, [1, 3, 2, 0, 0]);
        // Two incomplete datagrams: one with its first fragment, kept for 30 s, and one without, kept for a second.
        w.push(&A, &udp(&A, b, (1000, 53), 2, 1000, &pattern(3900))[0]);
        w.push(&A, &udp(&A, b, (1000, 53), 3, 1000, &pattern(3900))[1]);
        w.step();
        totals(w, [2, 3, 3, 2, 1]);
        w.now = w.now.plus(1000);
        w.step();
        totals(w, [2, 3, 3, 1, 0]);
        w.now = w.now.plus(30_000);
        w.step();
        totals(w, [2, 3, 3, 0, 0]);
        for _ in 0..5 {
            w.pop(&B);
        }
        w.changed(&[
            "a rx 6",
            "a forwarded 5",
            "a dropped fragment-first-missing 1",
            "b tx 5",
        ]);
    });
}
