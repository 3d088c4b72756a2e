//! Loom models: all interleavings of a few threads, and all values that a relaxed load may return, on the smallest cases that
//! show the protocols.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p heddle-flow --release --lib loom_tests`
//!
//! All models have at most two preemptions, some of them one. `sample` stops early if there are too many runs. [`crate::sync`]
//! describes why each access notifies a condition variable.
//!
//! # Faults that the models detect
//!
//! The models were run with one ordering weakened to relaxed, or one step removed, at a time.
//!
//! | removed | detected by |
//! |---|---|
//! | the raise of the bucket's version | `an_entry_is_found_whatever_happens_in_front_of_it` |
//! | Release where an overflow bucket's link is emptied, and where the free list links it | the same |
//! | Acquire of the link, or the fence after a search | nothing: either is enough |
//! | Release of the raised version, of the shortened chain | nothing: the free list's Release comes after both |
//! | the search after a probe at an entry that went | `a_glance_does_not_take_the_end_of_another_entry...` |
//! | Acquire of the tag in a probe, or of the entry that has it | nothing: either is enough |
//! | the free list's tag; Acquire of its head; Release of a push | `a_number_is_given_out_once` |
//! | Acquire of a pop's swap | nothing: the load before it was one |
//! | each ordering and each fence of the sequence lock | `a_reader_of_a_sequence_never_sees_halves` |
//! | Release of an entry's store, Acquire of its load | `a_lookup_during_an_insert_finds_nothing_or_all` |
//! | Release of an entry's removal, of the link to a new overflow bucket; Acquire of the bucket's lock | nothing |
//! | Release of the bucket's lock | `of_two_equal_inserts_one_wins...`, `inserts_with_one_answer_exclude_each_other` |
//! | the incarnation in a touch's change of state | `a_slot_with_a_new_tenant_is_left_alone` |
//! | the incarnation in times, in counts | the same |

use heddle_ids::{EndpointId, Epoch, Generation};
use heddle_wire::{Proto, TcpFlags};
use loom::sync::Arc;
use loom::thread;

use crate::bucket::{Bucket, Entry, Index, ProbeResult};
use crate::freelist::FreeList;
use crate::hash::{Hash, Seed};
use crate::layout::RECORD_LINES;
use crate::mmap::Line;
use crate::record::Record;
use crate::seqlock::Sequence;
use crate::state::ConnState;
use crate::sync::{AtomicU64, Ordering};
use crate::testing::{T0, assert_delivers, config, look, nth, put};
use crate::{Counters, Egress, FlowTable, InsertError, Millis, NewFlow};

pub(crate) fn check(model: impl Fn() + Sync + Send + 'static) {
    check_bounded(2, model);
}

/// Runs a model with `bound` preemptions, unless `LOOM_MAX_PREEMPTIONS` is set.
pub(crate) fn check_bounded(bound: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(bound));
    builder.max_branches = 100_000;
    builder.check(model);
}

/// Runs a model with one preemption, and only its first `runs` interleavings.
fn sample(runs: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(1);
    builder.max_branches = 100_000;
    builder.max_permutations = Some(runs);
    builder.checkpoint_interval = 1;
    builder.check(model);
}

fn table(capacity: u32) -> Arc<FlowTable> {
    Arc::new(FlowTable::anonymous(&config(capacity)))
}

#[test]
fn a_reader_of_a_sequence_never_sees_halves() {
    check(|| {
        let words = Arc::new([0; 4].map(AtomicU64::new));
        let writers: Vec<_> = [1u64, 2]
            .into_iter()
            .map(|value| {
                let words = Arc::clone(&words);
                thread::spawn(move || {
                    let _odd = Sequence(&words[0]).write();
                    words[1].store(value, Ordering::Relaxed);
                    words[2].store(value, Ordering::Relaxed);
                })
            })
            .collect();
        let seen = Sequence(&words[0]).read(|| [1, 2].map(|n| words[n].load(Ordering::Relaxed)));
        assert_eq!(seen[0], seen[1]);
        writers.into_iter().for_each(|w| w.join().unwrap());
        assert_eq!(words[1].load(Ordering::Relaxed), words[2].load(Ordering::Relaxed));
        assert_eq!(words[0].load(Ordering::Relaxed), 4);
    });
}

#[test]
fn a_number_is_given_out_once() {
    check(|| {
        let line = Arc::new(Line::default());
        let links = Arc::new([0; 3].map(AtomicU64::new));
        // 0 and 1 were allocated and freed.
        let list = FreeList::new(&line, 3);
        let both = [0, 1].map(|_| list.pop(|n| &links[n as usize]).unwrap());
        both.into_iter().for_each(|n| list.push(n, &links[n as usize]));
        let other = {
            let (line, links) = (Arc::clone(&line), Arc::clone(&links));
            thread::spawn(move || {
                let list = FreeList::new(&line, 3);
                let first = list.pop(|n| &links[n as usize]).unwrap();
                let second = list.pop(|n| &links[n as usize]).unwrap();
                list.push(first, &links[first as usize]);
                second
            })
        };
        let mine = list.pop(|n| &links[n as usize]);
        let second = other.join().unwrap();
        assert_ne!(mine, Some(second));
        let mut left: Vec<_> = std::iter::from_fn(|| list.pop(|n| &links[n as usize]))
            .chain(mine)
            .chain([second])
            .collect();
        left.sort_unstable();
        assert_eq!(left, [0, 1, 2]);
    });
}

#[test]
fn an_entry_is_found_whatever_happens_in_front_of_it() {
    check(|| {
        let [first, overflow] = [2, 2].map(|n| Arc::new((0..n).map(|_| Line::default()).collect::<Vec<_>>()));
        let seed = Seed([1, 2, 3, 4, 5, 6, 7, 8]);
        let hash = |n: u32| Hash::of(&seed, &nth(n).0.key.tuple, Proto::TCP);
        let index = Index {
            first: &first,
            overflow: &overflow,
        };
        // Bucket 0: seven entries, one in overflow bucket 0, one in overflow bucket 1. Bucket 1: seven.
        let locked = index.lock(0, 1);
        for n in 0..7 {
            locked
                .free_slot(0, None, || None)
                .unwrap()
                .set(Entry::new(hash(n), n, 0));
            locked
                .free_slot(1, None, || None)
                .unwrap()
                .set(Entry::new(hash(n), n, 1));
        }
        let passing = Entry::new(hash(20), 20, 0);
        locked.free_slot(0, None, || Some(0)).unwrap().set(passing);
        for n in 7..13 {
            locked
                .free_slot(0, None, || None)
                .unwrap()
                .set(Entry::new(hash(n), n, 0));
        }
        let standing = Entry::new(hash(30), 30, 0);
        locked.free_slot(0, None, || Some(1)).unwrap().set(standing);
        for n in 7..13 {
            locked.unlink(0, Entry::new(hash(n), n, 0), |_| {
                unreachable!("the bucket is not empty")
            });
        }
        drop(locked);
        let free = Arc::new(Line::default());
        FreeList::new(&free, 2).reset(2);
        let other = {
            let (first, overflow) = (Arc::clone(&first), Arc::clone(&overflow));
            let free = Arc::clone(&free);
            let newcomer = Entry::new(hash(40), 40, 0);
            thread::spawn(move || {
                let index = Index {
                    first: &first,
                    overflow: &overflow,
                };
                let list = FreeList::new(&free, 2);
                let link = |n: u32| Bucket(&overflow[n as usize]).link();
                index.lock(0, 0).unlink(0, passing, |n| list.push(n, link(n)));
                // The overflow bucket joins another chain at once.
                let more = || list.pop(link);
                index.lock(1, 1).free_slot(1, None, more).unwrap().set(newcomer);
            })
        };
        let found = index.find(0, hash(30).tag(), |e| (e == standing).then_some(()));
        assert!(found.is_some(), "lost its way");
        other.join().unwrap();
        assert_eq!(index.find(0, hash(20).tag(), |e| (e == passing).then_some(())), None);
        assert_eq!(Bucket(&overflow[0]).entries().count(), 1);
    });
}

#[test]
fn a_glance_does_not_take_the_end_of_another_entry_with_the_tag_for_a_miss() {
    check(|| {
        let first = Arc::new(vec![Line::default()]);
        let hash = Hash::of(&Seed([1, 2, 3, 4, 5, 6, 7, 8]), &nth(0).0.key.tuple, Proto::TCP);
        fn index(first: &[Line]) -> Index<'_> {
            Index { first, overflow: &[] }
        }
        let [going, standing] = [1, 2].map(|n| Entry::new(hash, n, 0));
        let locked = index(&first).lock(0, 0);
        for entry in [going, standing] {
            locked.free_slot(0, None, || None).unwrap().set(entry);
        }
        drop(locked);
        let other = {
            let first = Arc::clone(&first);
            thread::spawn(move || {
                index(&first)
                    .lock(0, 0)
                    .unlink(0, going, |_| unreachable!("a first bucket stays"));
            })
        };
        let found = index(&first).bucket(0).probe(hash.tag());
        assert!(found != ProbeResult::MISS);
        other.join().unwrap();
        assert_eq!(index(&first).bucket(0).probe(hash.tag()).record(), 2);
    });
}

#[test]
fn a_lookup_during_an_insert_finds_nothing_or_all() {
    check(|| {
        let table = table(2);
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || put(&table, nth(0), T0))
        };
        let (f, r) = nth(0);
        let reply = look(&table, r.key, T0);
        if reply.is_some() {
            assert_delivers(reply, &r);
            assert_delivers(look(&table, f.key, T0), &f);
        }
        other.join().unwrap();
        assert_delivers(look(&table, f.key, T0), &f);
        assert_delivers(look(&table, r.key, T0), &r);
    });
}

#[test]
fn of_two_equal_inserts_one_wins_and_the_other_gets_its_entry() {
    check(|| {
        let table = table(4);
        let insert = |table: &FlowTable| {
            let (f, r) = nth(0);
            match table.insert(&f, &r, T0) {
                Ok(_) => true,
                Err(InsertError::Exists(hit)) => {
                    assert_delivers(Some(hit), &f);
                    false
                }
                Err(other) => unreachable!("{other}"),
            }
        };
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || insert(&table))
        };
        let mine = insert(&table);
        assert_ne!(mine, other.join().unwrap());
        assert_eq!(table.stats().used, 1);
    });
}

#[test]
fn inserts_with_one_answer_exclude_each_other() {
    check(|| {
        let table = table(4);
        let (f, r) = nth(0);
        let (mut f2, mut r2) = (f, r);
        f2.key.tuple.dport = 81;
        r2.rewrite.to = f2.key.tuple.reversed();
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.insert(&f2, &r2, T0).is_ok())
        };
        let mine = table.insert(&f, &r, T0).is_ok();
        assert_ne!(mine, other.join().unwrap());
        assert_eq!(look(&table, f.key, T0).is_some(), mine);
        assert_eq!(look(&table, f2.key, T0).is_some(), !mine);
    });
}

#[test]
fn a_lookup_during_a_removal_finds_all_or_nothing() {
    check(|| {
        let table = table(2);
        let (f, r) = nth(0);
        let (slot, peer) = put(&table, (f, r), T0);
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || assert!(table.remove(peer)))
        };
        let hit = look(&table, f.key, T0);
        if hit.is_some() {
            assert_delivers(hit, &f);
            assert_eq!(hit.map(|h| h.slot), Some(slot));
        }
        other.join().unwrap();
        assert_eq!(look(&table, f.key, T0), None);
        assert_eq!(look(&table, r.key, T0), None);
    });
}

/// A connection with the same tuples, in which everything else differs.
fn another(n: u32) -> (NewFlow, NewFlow) {
    let (mut f, mut r) = nth(n);
    for flow in [&mut f, &mut r] {
        flow.egress = Egress::Endpoint(EndpointId(3));
        flow.mss_clamp = 99;
    }
    f.generations = [Generation(98), Generation(97)];
    r.generations = [Generation(97), Generation(98)];
    (f, r)
}

#[test]
fn a_lookup_during_removal_and_reinsertion_of_its_slot_finds_one_tenant_whole() {
    sample(3000, || {
        let table = table(2);
        let (old, new) = (nth(0), another(0));
        let (slot, _) = put(&table, old, T0);
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                assert!(table.remove(slot));
                let (tenant, _) = put(&table, another(0), T0);
                assert_eq!(tenant.record(), slot.record());
                tenant
            })
        };
        let hit = look(&table, old.1.key, T0);
        let tenant = other.join().unwrap();
        if let Some(hit) = hit {
            let expected = if hit.slot == slot.peer() { &old.1 } else { &new.1 };
            assert!(hit.slot == slot.peer() || hit.slot == tenant.peer());
            assert_delivers(Some(hit), expected);
        }
        assert_delivers(look(&table, old.0.key, T0), &new.0);
    });
}

/// The same with the record alone, which covers more of its interleavings in as many runs.
#[test]
fn a_reader_of_a_record_in_reuse_gets_one_tenant_whole() {
    sample(5000, || {
        let lines: Arc<[Line; RECORD_LINES]> = Arc::new(std::array::from_fn(|_| Line::default()));
        let (old, new) = (nth(0), another(0));
        let begin = |lines: &[Line; RECORD_LINES], (f, r): &(NewFlow, NewFlow)| {
            let incarnation = Record(lines).write().fill(f, r, Epoch(1), T0);
            Record(lines).activate(incarnation, ConnState::opening(f.key.proto, f.flags));
            incarnation
        };
        let first = begin(&lines, &old);
        let other = {
            let lines = Arc::clone(&lines);
            thread::spawn(move || {
                Record(&lines).write().clear();
                begin(&lines, &new)
            })
        };
        let seen = Record(&lines).read();
        let second = other.join().unwrap();
        if seen.conn.is_live() {
            assert!(seen.incarnation == first || seen.incarnation == second);
            let flow = if seen.incarnation == first { &old.0 } else { &new.0 };
            let view = seen.view(0).unwrap();
            assert_eq!((view.egress, view.mss_clamp), (flow.egress, flow.mss_clamp));
            assert_eq!(view.generations, flow.generations);
        }
    });
}

#[test]
fn of_two_removals_one_counts() {
    check(|| {
        let table = table(2);
        let (slot, peer) = put(&table, nth(0), T0);
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.remove(peer))
        };
        let mine = table.remove(slot);
        assert_ne!(mine, other.join().unwrap());
        assert_eq!(table.stats().used, 0);
    });
}

#[test]
fn a_lookup_during_a_revalidation_sees_both_generations_old_or_new() {
    check(|| {
        let table = table(2);
        let (f, r) = nth(0);
        let (slot, _) = put(&table, (f, r), T0);
        let new = [Generation(1), Generation(2)];
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || assert!(table.revalidate(slot, new)))
        };
        let view = look(&table, f.key, T0).unwrap().view;
        assert!(view.generations == new || view.generations == f.generations);
        other.join().unwrap();
        assert_eq!(look(&table, f.key, T0).unwrap().view.generations, new);
    });
}

#[test]
fn a_slot_with_a_new_tenant_is_left_alone() {
    check_bounded(1, || {
        let table = table(2);
        let (slot, _) = put(&table, nth(0), T0);
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || {
                table.remove(slot);
                put(&table, nth(1), T0).0
            })
        };
        table.touch(slot, Millis(T0.0 + 5000), 1000, TcpFlags::RST);
        table.revalidate(slot, [Generation(1); 2]);
        let tenant = other.join().unwrap();
        assert_delivers(look(&table, nth(1).0.key, T0), &nth(1).0);
        let view = table.view(tenant).unwrap();
        assert!(!view.state.is_closed());
        assert_eq!(view.last_seen, T0);
        assert_eq!(table.counters(tenant).unwrap(), Counters::default());
    });
}
