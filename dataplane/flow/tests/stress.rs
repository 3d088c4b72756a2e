//! Threads on one table: the guarantees for each of them while the others insert, remove and move the same tuples.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicU32, Ordering};

use heddle_flow::{
    Config, Egress, EndpointId, Epoch, FlowFlags, FlowKey, FlowTable, Generation, InsertError, Millis, NewFlow, NodeId,
    Origin, Quotas, Rewrite,
};
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Proto, TcpFlags};

const NOW: Millis = Millis(1000);
const THREADS: u32 = 4;
const ROUNDS: u32 = if cfg!(miri) { 60 } else { 60_000 };

fn config(capacity: u32) -> Config {
    Config {
        capacity,
        quotas: Quotas::default(),
        seed: Some([11, 22, 33, 44, 55, 66, 77, 88].map(|n: u64| n << 40 | n)),
        ..Config::default()
    }
}

/// Returns the `n`-th connection. `stamp` is in every part of both entries, so that a mixed entry is detected.
fn connection(n: u32, stamp: u16) -> (NewFlow, NewFlow) {
    let arrives = Tuple {
        src: Ip::from_v4(n.to_be_bytes()),
        dst: Ip::from_v4([10, 96, 0, 1]),
        sport: 7,
        dport: 80,
    };
    let [hi, lo] = stamp.to_be_bytes();
    let leaves = Tuple {
        dst: Ip::from_v4([10, 1, hi, lo]),
        dport: stamp,
        ..arrives
    };
    let direction = |tuple: Tuple, to: Tuple, origin, flags| NewFlow {
        key: FlowKey::opening(tuple, Proto::UDP, origin),
        rewrite: Rewrite {
            to,
            deltas: Default::default(),
        },
        egress: Egress::Node(NodeId(stamp)),
        endpoints: [EndpointId(stamp); 2],
        generations: [Generation(stamp.into()); 2],
        mss_clamp: stamp,
        flags,
    };
    let forward = direction(arrives, leaves, Origin::HOST, FlowFlags::NAT);
    (
        forward,
        direction(leaves.reversed(), arrives.reversed(), Origin::UPLINK, FlowFlags::REPLY),
    )
}

fn stamp_of(hit: &heddle_flow::Hit) -> u16 {
    let v = &hit.view;
    let Egress::Node(NodeId(stamp)) = v.egress else {
        unreachable!("mixed entry: {hit:?}")
    };
    let whole = v.endpoints == [EndpointId(stamp); 2]
        && v.generations == [Generation(stamp.into()); 2]
        && v.mss_clamp == stamp
        && v.epoch == Epoch(1)
        && (v.flags.contains(FlowFlags::REPLY) || v.rewrite.to.dport == stamp);
    assert!(whole, "mixed entry: {hit:?}");
    stamp
}

fn look(table: &FlowTable, key: FlowKey) -> Option<heddle_flow::Hit> {
    let mut out = [None];
    table.lookup(&[key], NOW, &mut out);
    out[0]
}

fn on_threads(work: impl Fn(u32) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
}

/// A random number generator with a fixed seed for each thread.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as u32 % limit
    }
}

#[test]
fn inserts_of_one_tuple_end_with_one_whole_entry() {
    // Few tuples, few buckets, a table that is full most of the time.
    let table = FlowTable::anonymous(&config(24));
    on_threads(|thread| {
        let mut random = Random(u64::from(thread) + 1);
        for round in 0..ROUNDS {
            let n = random.below(40);
            let stamp = 1000 + (thread * ROUNDS + round) as u16 % 60_000;
            let (f, r) = connection(n, stamp);
            match random.below(6) {
                0 | 1 => match table.insert(&f, &r, NOW) {
                    Ok((slot, peer)) => {
                        assert_eq!(slot.peer(), peer);
                        table.touch(slot, NOW, 1, TcpFlags::NONE);
                    }
                    Err(InsertError::Exists(hit)) => {
                        stamp_of(&hit);
                    }
                    Err(InsertError::Full | InsertError::ReverseTaken | InsertError::OtherOrigin(_)) => {}
                    Err(other) => panic!("{other}"),
                },
                2 => {
                    if let Some(hit) = look(&table, f.key) {
                        table.remove(hit.slot);
                    }
                }
                3 => {
                    if let Some(hit) = look(&table, f.key) {
                        table.revalidate(hit.slot, [Generation(stamp_of(&hit).into()); 2]);
                    }
                }
                _ => {
                    if let Some(hit) = look(&table, f.key) {
                        stamp_of(&hit);
                        assert_eq!(hit.view.rewrite.to.src, f.key.tuple.src, "another connection's entry");
                    }
                }
            }
        }
    });
    let mut left = Vec::new();
    table.for_each(|c| left.push(*c));
    assert_eq!(left.len() as u32, table.stats().used);
    for c in &left {
        assert_eq!(look(&table, c.keys[0]).map(|h| h.slot), Some(c.slot));
        assert_eq!(look(&table, c.keys[1]).map(|h| h.slot), Some(c.slot.peer()));
        assert!(table.remove(c.slot));
    }
    let used: u32 = (0..=u16::MAX).map(|e| table.opened_by(EndpointId(e))).sum();
    assert_eq!((table.stats().used, used), (0, 0));
    for n in 0..24 {
        let (f, r) = connection(n, 5);
        table.insert(&f, &r, NOW).unwrap();
    }
}

#[test]
fn a_standing_entry_is_never_missed() {
    // Its bucket is crowded: other entries are inserted and removed in it and in its overflow buckets.
    let table = FlowTable::anonymous(&config(40));
    let standing: Vec<_> = (0..8).map(|n| connection(n, 1)).collect();
    for (f, r) in &standing {
        table.insert(f, r, NOW).unwrap();
    }
    let running = AtomicU32::new(THREADS - 1);
    on_threads(|thread| {
        if thread == 0 {
            while running.load(Ordering::Acquire) > 0 {
                for (f, r) in &standing {
                    assert!(
                        look(&table, f.key).is_some() && look(&table, r.key).is_some(),
                        "missed {:?}",
                        f.key
                    );
                }
            }
            return;
        }
        for round in 0..ROUNDS / 20 {
            let slots: Vec<_> = (0..10)
                .filter_map(|n| {
                    let (f, r) = connection(100 + thread * 1_000_000 + round * 10 + n, 2);
                    table.insert(&f, &r, NOW).ok()
                })
                .collect();
            assert!(slots.into_iter().all(|(slot, _)| table.remove(slot)));
        }
        running.fetch_sub(1, Ordering::Release);
    });
    assert_eq!(table.stats().used, 8);
}

#[test]
fn one_of_many_equal_inserts_wins() {
    for round in 0..ROUNDS / 30 {
        let table = FlowTable::anonymous(&config(8));
        let winners = AtomicU32::new(0);
        on_threads(|thread| {
            let (f, r) = connection(round, thread as u16 + 1);
            match table.insert(&f, &r, NOW) {
                Ok(_) => {
                    winners.fetch_add(1, Ordering::Relaxed);
                }
                Err(InsertError::Exists(hit)) => assert!(stamp_of(&hit) <= THREADS as u16),
                Err(other) => panic!("{other}"),
            }
        });
        assert_eq!((winners.into_inner(), table.stats().used), (1, 1));
    }
}

#[test]
fn a_connection_is_removed_once() {
    let table = FlowTable::anonymous(&config(64));
    let (f, r) = connection(1, 1);
    for _ in 0..ROUNDS / 30 {
        let (slot, peer) = table.insert(&f, &r, NOW).unwrap();
        let removed = AtomicU32::new(0);
        on_threads(|thread| {
            if table.remove(if thread % 2 == 0 { slot } else { peer }) {
                removed.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!((removed.into_inner(), table.stats().used), (1, 0));
    }
}
