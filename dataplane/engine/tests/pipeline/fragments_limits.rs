//! The limits of virtual reassembly: time, datagrams, held frames, each endpoint's share of them, and the life of a port.

use heddle_engine::{FragmentConfig, StageConfig};
use heddle_wire::Ip;

use crate::datagram::{arrived, joined, push, udp};
use crate::forwarding::addresses;
use crate::large::pattern;
use crate::tables::{A, B, C, HOST, Party};
use crate::world::{Options, World, worlds};

#[test]
fn fragments_without_their_first_are_held_for_a_second() {
    worlds(|w| {
        for b in addresses(&B) {
            let fragments = udp(&A, b, (1000, 53), 1, 1000, &pattern(3900));
            push(w, &A, &fragments, &[1, 3, 2], true);
            w.changed(&["a rx 3"]);
            assert_eq!(w.node.shared().store().outstanding(), 3, "held, and accounted for");
            w.now = w.now.plus(999);
            w.step();
            w.changed(&[]);
            w.now = w.now.plus(1);
            w.step();
            w.changed(&["a dropped fragment-first-missing 3"]);
            assert_eq!(w.node.shared().store().outstanding(), 0);
            // The first one is forwarded when it comes, and so are later ones that are sent again.
            push(w, &A, &fragments, &[0, 2], false);
            w.pop(&B);
            w.pop(&B);
            w.changed(&["a rx 2", "a forwarded 2", "b tx 2"]);
        }
    });
}

#[test]
fn a_known_datagram_is_forgotten_after_a_while() {
    worlds(|w| {
        let fragments = udp(&A, B.v4(), (1000, 53), 1, 1000, &pattern(2900));
        for (after, passes) in [(29_999, true), (30_000, false)] {
            w.now = w.now.plus(60_000);
            push(w, &A, &fragments, &[0], true);
            w.pop(&B);
            w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
            w.now = w.now.plus(after);
            push(w, &A, &fragments, &[1], true);
            if passes {
                w.pop(&B);
                w.changed(&["a rx 1", "a forwarded 1", "b tx 1"]);
            } else {
                w.changed(&["a rx 1"]);
                w.now = w.now.plus(1000);
                w.step();
                w.changed(&["a dropped fragment-first-missing 1"]);
            }
        }
    });
}

#[test]
fn an_identification_may_come_back() {
    worlds(|w| {
        for b in addresses(&B) {
            let one = |sport| udp(&A, b, (sport, 53), 1, 1000, &pattern(2900));
            // At once, after the whole datagram was received.
            for sport in [1000, 1001, 1002] {
                push(w, &A, &one(sport), &[0, 1, 2], true);
                assert_eq!(arrived(w, &A, &B, 3).1.sport, sport);
            }
            // After a second without a fragment, if some were lost.
            push(w, &A, &one(1003), &[0, 1], true);
            w.pop(&B);
            w.pop(&B);
            w.changed(&["a rx 2", "a forwarded 2", "b tx 2"]);
            w.now = w.now.plus(1000);
            push(w, &A, &one(1004), &[0, 1, 2], true);
            assert_eq!(arrived(w, &A, &B, 3).1.sport, 1004);
        }
    });
}

/// Makes a world with little room.
fn narrow(workers: u8) -> World {
    World::new(Options {
        workers,
        stages: StageConfig {
            fragments: FragmentConfig {
                datagrams: 64,
                held_frames: 32,
                ..FragmentConfig::default()
            },
            ..StageConfig::default()
        },
        ..Options::default()
    })
}

#[test]
fn a_flood_takes_no_room_from_other_endpoints() {
    for workers in 1..=3 {
        let mut w = narrow(workers);
        let payload = pattern(2900);
        for b in addresses(&B) {
            let honest = udp(&A, b, (1000, 53), 1, 1000, &payload);
            push(&mut w, &A, &honest, &[1, 2], true);
            w.changed(&["a rx 2"]);
            // Each belongs to another datagram, whose first one never arrives.
            for id in 0..500 {
                w.push(&C, &udp(&C, b, (1000, 53), id, 1000, &payload)[1]);
            }
            w.step();
            w.changed(&["c rx 500", "c dropped fragment-no-room 492"]);
            assert_eq!(w.node.shared().store().outstanding(), 2 + 8, "a quarter of the frames");
            // First fragments take no more than a quarter of the datagrams.
            for id in 1000..1500 {
                w.push(&C, &udp(&C, b, (1000, 53), id, 1000, &payload)[0]);
            }
            w.step();
            (0..500).for_each(|_| drop(w.pop(&B)));
            let changes = w.changes();
            assert!(changes.contains(&"c forwarded 500".to_owned()), "{changes:?}");
            push(&mut w, &A, &honest, &[0], true);
            let whole: Vec<Vec<u8>> = (0..3).map(|_| w.pop(&B)).collect();
            joined(&whole);
            w.changed(&["a rx 1", "a forwarded 3", "b tx 3"]);
            w.now = w.now.plus(1000);
            w.step();
            w.changes();
            assert_eq!(w.node.shared().store().outstanding(), 0);
        }
    }
}

#[test]
fn one_datagram_takes_no_more_than_a_share_and_only_so_many_fragments() {
    let mut w = narrow(1);
    let fragments = udp(&A, B.v4(), (1000, 53), 1, 8, &pattern(2000));
    push(&mut w, &A, &fragments, &(1..=10).collect::<Vec<_>>(), true);
    w.changed(&["a rx 10", "a dropped fragment-no-room 2"]);
    push(&mut w, &A, &fragments, &[0], true);
    (0..9).for_each(|_| drop(w.pop(&B)));
    w.changed(&["a rx 1", "a forwarded 9", "b tx 9"]);
    push(&mut w, &A, &fragments, &(11..=140).collect::<Vec<_>>(), true);
    // 128 at most. The two that found no room do not count, because the first fragment began the datagram again.
    (0..119).for_each(|_| drop(w.pop(&B)));
    w.changed(&[
        "a rx 130",
        "a forwarded 119",
        "a dropped fragment-too-many 11",
        "b tx 119",
    ]);
}

#[test]
fn the_largest_share_makes_room_for_others() {
    let mut w = World::new(Options {
        stages: StageConfig {
            fragments: FragmentConfig {
                held_frames: 40,
                ..FragmentConfig::default()
            },
            ..StageConfig::default()
        },
        ..Options::default()
    });
    let payload = pattern(1900);
    let later = |w: &mut World, from: &Party, dst: Ip, count: u32| {
        for id in 0..count {
            w.push(from, &udp(from, dst, (1000, 53), id, 1000, &payload)[1]);
        }
        w.step();
    };
    later(&mut w, &A, B.v4(), 10);
    later(&mut w, &B, A.v4(), 9);
    later(&mut w, &C, A.v4(), 10);
    later(&mut w, &HOST, A.v4(), 10);
    w.changed(&["a rx 10", "b rx 9", "c rx 10", "host rx 10"]);
    // The 40th is B's. Now all frames are used, and no share has more than a quarter.
    w.push(&B, &udp(&B, A.v4(), (1000, 53), 100, 1000, &payload)[1]);
    w.step();
    w.changed(&["b rx 1"]);
    w.push(&B, &udp(&B, A.v4(), (1000, 53), 101, 1000, &payload)[1]);
    w.step();
    w.changed(&["b rx 1", "b dropped fragment-no-room 1"]);
    assert_eq!(w.node.shared().store().outstanding(), 40);
}

#[test]
fn held_fragments_are_dropped_with_their_port() {
    worlds(|w| {
        let fragments = udp(&A, B.v4(), (1000, 53), 1, 1000, &pattern(2900));
        push(w, &A, &fragments, &[1, 2], true);
        let owner = usize::from(crate::tables::worker_of(&A, w.options.workers).0);
        let removed = w.node.handles()[owner].remove_port(A.port).unwrap();
        w.turn(owner);
        let port = removed.recv().unwrap().unwrap();
        let mut pool = heddle_port::WorkerPool::new(heddle_port::WorkerId(98), w.node.shared().clone());
        port.close(&mut pool);
        drop(pool);
        w.changed(&["a rx 2", "a dropped port-closed 2"]);
        assert_eq!(w.node.shared().store().outstanding(), 0);
    });
}
