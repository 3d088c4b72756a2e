//! Tests of each operation and its refusals, on one thread.

use std::ops::ControlFlow;

use heddle_ids::NodeId;
use heddle_wire::Proto;

use super::*;
use crate::InsertError;
use crate::testing::{T0, assert_delivers, config, establish, look, nth, pair, put, through_service, v4, v6};
use crate::{Egress, FlowFlags, FlowState};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;

#[test]
fn both_directions_are_found_and_deliver_what_was_inserted() {
    for flows in [
        through_service(v4(1), v4(2), v4(3), 40_000, Proto::TCP),
        through_service(v6(1), v6(2), v6(3), 40_000, Proto::UDP),
    ] {
        let table = FlowTable::anonymous(&config(16));
        let (f, r) = put(&table, flows, T0);
        assert_eq!(f.peer(), r);
        let hits = [look(&table, flows.0.key, T0), look(&table, flows.1.key, T0)];
        assert_delivers(hits[0], &flows.0);
        assert_delivers(hits[1], &flows.1);
        assert_eq!(hits.map(|h| h.map(|h| h.slot)), [Some(f), Some(r)]);
        assert!(
            hits.iter()
                .flatten()
                .all(|h| h.view.is_current(table.epoch(), h.view.generations))
        );
    }
}

#[test]
fn another_origin_misses_and_is_found_by_its_tuple() {
    let table = FlowTable::anonymous(&config(16));
    let flows = nth(0);
    let (slot, _) = put(&table, flows, T0);
    let elsewhere = FlowKey {
        origin: Origin::pod(EndpointId(3)),
        ..flows.0.key
    };
    assert_eq!(look(&table, elsewhere, T0), None);
    assert_delivers(table.find_tuple(&elsewhere, T0), &flows.0);
    assert!(table.move_origin(slot, elsewhere.origin));
    assert_eq!(look(&table, flows.0.key, T0), None, "the old origin misses from now on");
    let view = look(&table, elsewhere, T0).unwrap().view;
    assert_eq!(
        (view.rewrite, view.origin),
        (flows.0.rewrite, elsewhere.origin),
        "the translation stays"
    );
    assert_delivers(look(&table, flows.1.key, T0), &flows.1);
}

#[test]
fn a_second_insert_gets_the_winners_entry() {
    let table = FlowTable::anonymous(&config(16));
    let (f, r) = nth(0);
    let (slot, _) = put(&table, (f, r), T0);
    let Err(InsertError::Exists(hit)) = table.insert(&f, &r, T0) else {
        panic!("inserted twice")
    };
    assert_eq!(hit.slot, slot);
    let mut other = f;
    other.key.origin = Origin::HOST;
    assert!(matches!(table.insert(&other, &r, T0), Err(InsertError::OtherOrigin(h)) if h.slot == slot));
    assert_eq!(table.stats().used, 1);
}

#[test]
fn a_taken_reverse_key_is_an_error_and_nothing_is_inserted() {
    let table = FlowTable::anonymous(&config(16));
    let first = through_service(v4(1), v4(2), v4(9), 40_000, Proto::TCP);
    let second = through_service(v4(1), v4(3), v4(9), 40_000, Proto::TCP);
    put(&table, first, T0);
    assert_eq!(table.insert(&second.0, &second.1, T0), Err(InsertError::ReverseTaken));
    assert_eq!(look(&table, second.0.key, T0), None);
    assert_eq!(table.stats().used, 1);
}

#[test]
fn directions_that_do_not_fit_together_are_refused() {
    let table = FlowTable::anonymous(&config(16));
    let (f, mut r) = nth(0);
    r.key.tuple.dport += 1;
    assert_eq!(table.insert(&f, &r, T0), Err(InsertError::NotAPair));
    let to_itself = Tuple {
        src: v4(1),
        dst: v4(1),
        sport: 7,
        dport: 7,
    };
    let (f, r) = pair(Proto::UDP, to_itself, to_itself, Origin::HOST, Origin::HOST);
    assert_eq!(table.insert(&f, &r, T0), Err(InsertError::ReverseTaken));
}

#[test]
fn the_table_takes_exactly_its_capacity() {
    let table = FlowTable::anonymous(&config(5000));
    for n in 0..5000 {
        establish(&table, put(&table, nth(n), T0));
    }
    for n in 5000..5010 {
        let (f, r) = nth(n);
        assert_eq!(table.insert(&f, &r, T0), Err(InsertError::Full));
    }
    for n in 0..5000 {
        let flows = nth(n);
        assert_delivers(look(&table, flows.0.key, T0), &flows.0);
        assert_delivers(look(&table, flows.1.key, T0), &flows.1);
    }
    let stats = table.stats();
    assert_eq!((stats.used, stats.refused_full, stats.expired), (5000, 10, 0));
}

#[test]
fn a_connection_takes_at_most_256_bytes() {
    for capacity in [65_536, 1 << 20] {
        let geometry = config(capacity).geometry();
        let index_and_records = geometry.affinities() - header::LINES;
        assert!(
            index_and_records as u64 * 64 <= u64::from(capacity) * 256,
            "{geometry:?}"
        );
    }
}

#[test]
fn removal_takes_both_directions_and_ends_the_slot() {
    let table = FlowTable::anonymous(&config(2));
    let flows = nth(0);
    let (slot, _) = put(&table, flows, T0);
    assert!(table.remove(slot.peer()));
    assert_eq!(look(&table, flows.0.key, T0), None);
    assert_eq!(look(&table, flows.1.key, T0), None);

    let tenant = put(&table, nth(1), T0).0;
    assert_ne!(slot, tenant);
    assert!(!table.remove(slot));
    assert!(!table.touch(slot, T0, 1, SYN));
    assert!(!table.revalidate(slot, [Generation(1); 2]));
    assert!(!table.move_origin(slot, Origin::HOST));
    assert_eq!((table.view(slot), table.counters(slot)), (None, None));
    assert_delivers(look(&table, nth(1).0.key, T0), &nth(1).0);
    assert_eq!(table.counters(tenant).unwrap().packets, 0);
}

#[test]
fn slots_and_overflow_buckets_are_used_again() {
    let table = FlowTable::anonymous(&config(300));
    for round in 0..50 {
        let slots: Vec<_> = (0..300).map(|n| put(&table, nth(round * 300 + n), T0).0).collect();
        assert!(slots.into_iter().all(|s| table.remove(s)));
        assert_eq!(table.stats().used, 0);
    }
}

#[test]
fn an_expired_entry_is_not_found_and_makes_room() {
    let table = FlowTable::anonymous(&config(2));
    let (old, new) = (nth(0), nth(1));
    put(&table, old, T0);
    put(&table, nth(2), T0);
    let later = T0.plus(120_000);
    assert!(look(&table, old.0.key, T0.plus(119_999)).is_some());
    assert_eq!(look(&table, old.0.key, later), None);
    assert_eq!(table.find_tuple(&old.0.key, later), None);
    put(&table, old, later);
    assert_delivers(look(&table, old.0.key, later), &old.0);
    put(&table, new, later);
    assert_eq!((table.stats().used, table.stats().expired), (2, 2));
}

#[test]
fn expiry_takes_its_time_and_spares_the_living() {
    let table = FlowTable::anonymous(&config(100));
    let slots: Vec<_> = (0..100).map(|n| put(&table, nth(n), T0).0).collect();
    let later = T0.plus(60_000);
    for slot in slots.iter().step_by(2) {
        assert!(table.touch(*slot, later, 1, SYN));
    }
    let then = T0.plus(130_000);
    let removed: Vec<_> = (0..10).map(|_| table.expire(then, 10)).collect();
    assert_eq!(removed, [5; 10]);
    assert_eq!(table.stats().used, 50);
    assert!((0..100).all(|n| look(&table, nth(n).0.key, then).is_some() == (n % 2 == 0)));
}

#[test]
fn revalidation_covers_both_directions_in_their_order() {
    let table = FlowTable::anonymous(&config(16));
    let flows = nth(0);
    let (f, r) = put(&table, flows, T0);
    assert!(table.revalidate(r, [Generation(51), Generation(41)]));
    assert_eq!(table.view(f).unwrap().generations, [Generation(41), Generation(51)]);
    assert_eq!(table.view(r).unwrap().generations, [Generation(51), Generation(41)]);
    assert!(!table.view(f).unwrap().is_current(table.epoch(), flows.0.generations));
}

#[test]
fn a_new_route_keeps_the_translation_and_moves_the_quota() {
    let table = FlowTable::anonymous(&config(16));
    let flows = nth(0);
    let (f, r) = put(&table, flows, T0);
    let route = Route {
        egress: [Egress::Endpoint(EndpointId(9)), Egress::Uplink(crate::NextHopId(4))],
        endpoints: [EndpointId(1), EndpointId(9)],
        generations: [Generation(7), Generation(8)],
        mss_clamp: [500, 600],
    };
    assert!(table.reroute(r, &route));
    let (f, r) = (table.view(f).unwrap(), table.view(r).unwrap());
    assert_eq!((f.rewrite, r.rewrite), (flows.0.rewrite, flows.1.rewrite));
    assert_eq!((r.egress, f.egress), (route.egress[0], route.egress[1]));
    assert_eq!(
        (r.endpoints, f.endpoints),
        (route.endpoints, [EndpointId(9), EndpointId(1)])
    );
    assert_eq!((r.mss_clamp, f.mss_clamp), (500, 600));
    assert_eq!((table.opened_by(EndpointId(2)), table.opened_by(EndpointId(9))), (0, 1));
}

#[test]
fn an_announced_mss_lowers_one_direction() {
    let table = FlowTable::anonymous(&config(16));
    let (mut forward, mut reverse) = nth(0);
    (forward.mss_clamp, reverse.mss_clamp) = (1460, 0);
    let (f, r) = put(&table, (forward, reverse), T0);
    let both = || [f, r].map(|slot| table.view(slot).unwrap().mss_clamp);
    for (slot, announced, expected) in [
        (f, 1500, [1460, 0]),
        (f, 536, [536, 0]),
        (r, u16::MAX, [536, u16::MAX]),
        (r, 1, [536, 1]),
        (f, 1460, [536, 1]),
    ] {
        assert!(table.limit_mss(slot, announced));
        assert_eq!(both(), expected);
    }
    assert_eq!(table.view(f).unwrap().endpoints, forward.endpoints);
    table.remove(f);
    assert!(!table.limit_mss(f, 1));
}

#[test]
fn packets_move_the_state_and_are_counted_by_direction() {
    let table = FlowTable::anonymous(&config(16));
    let (f, r) = put(&table, nth(0), T0);
    for (slot, flags, state) in [
        (f, SYN, FlowState::SynSent),
        (r, SYN | ACK, FlowState::SynReceived),
        (f, ACK, FlowState::Established),
        (f, ACK | TcpFlags::FIN, FlowState::FinWait),
        (r, ACK | TcpFlags::FIN, FlowState::TimeWait),
    ] {
        assert!(table.touch(slot, T0.plus(5), 100, flags));
        assert_eq!(table.view(slot).unwrap().state, state);
    }
    assert_eq!(table.counters(f), Some(Counters { packets: 3, bytes: 300 }));
    assert_eq!(table.counters(r), Some(Counters { packets: 2, bytes: 200 }));
    table.touch(f, T0, 0, ACK);
    assert_eq!(table.view(f).unwrap().last_seen, T0.plus(5), "time does not go back");
}

#[test]
fn a_syn_is_admitted_only_from_the_opener_of_a_live_entry() {
    let table = FlowTable::anonymous(&config(16));
    let (f, r) = put(&table, nth(0), T0);
    assert!(table.view(f).unwrap().admits_syn());
    assert!(!table.view(r).unwrap().admits_syn());
    table.touch(r, T0, 0, TcpFlags::RST);
    assert!(!table.view(f).unwrap().admits_syn());
    let (mut f, mut r) = nth(1);
    f.flags |= FlowFlags::ADOPTED;
    r.flags |= FlowFlags::ADOPTED;
    let (f, r) = put(&table, (f, r), T0);
    assert!(!table.view(f).unwrap().admits_syn() && !table.view(r).unwrap().admits_syn());
}

#[test]
fn for_each_shows_every_connection_once_and_lets_it_be_removed() {
    let table = FlowTable::anonymous(&config(64));
    for n in 0..40 {
        put(&table, nth(n), T0.plus(u64::from(n)));
    }
    let mut seen = Vec::new();
    table.for_each(|c| {
        seen.push(c.keys[0].tuple.sport);
        let n = u64::from(c.keys[0].tuple.sport - 1024);
        assert_eq!(c.inserted_at, T0.plus(n));
        assert_eq!(c.keys[1].origin, Origin::node(NodeId(7)));
        if n.is_multiple_of(2) {
            assert!(table.remove(c.slot));
        }
    });
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), table.stats().used), (40, 20));
}

#[test]
fn pages_show_each_connection_once_within_their_budget() {
    let table = FlowTable::anonymous(&config(64));
    let slots: Vec<_> = (0..40).map(|n| put(&table, nth(n), T0).0).collect();
    for slot in slots.iter().step_by(4) {
        table.remove(*slot);
    }
    let standing: std::collections::BTreeSet<u64> = (0..40).filter(|n| n % 4 != 0).map(|n| slots[n].id()).collect();
    for budget in [1, 7, 40, 1000] {
        let (mut from, mut seen, mut pages) = (0, Vec::new(), 0);
        loop {
            let mut records = Vec::new();
            let next = table.page(from, budget, |c| {
                records.push(c.slot.number());
                seen.push(c.slot.id());
                ControlFlow::Continue(())
            });
            assert!(records.iter().all(|n| (from..from.saturating_add(budget)).contains(n)));
            pages += 1;
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(pages, 40_u32.div_ceil(budget));
        assert_eq!(
            (seen.len(), seen.into_iter().collect::<std::collections::BTreeSet<_>>()),
            (30, standing.clone())
        );
    }
    // After a break the iteration continues behind the last connection.
    let mut last = 0;
    let next = table.page(3, 40, |c| {
        last = c.slot.number();
        ControlFlow::Break(())
    });
    assert_eq!(next, Some(last + 1));
    assert_eq!(table.page(40, 7, |_| panic!("there are 40")), None);
    assert_eq!(table.page(u32::MAX, u32::MAX, |_| panic!("there are 40")), None);
}

#[test]
fn bursts_longer_than_one_round_are_looked_up_whole() {
    let table = FlowTable::anonymous(&config(256));
    for n in (0..200).step_by(2) {
        put(&table, nth(n), T0);
    }
    let keys: Vec<_> = (0..200).map(|n| nth(n).0.key).collect();
    let mut out = vec![None; 200];
    table.lookup(&keys, T0, &mut out);
    assert!(out.iter().enumerate().all(|(n, hit)| hit.is_some() == (n % 2 == 0)));
}

#[test]
fn icmp_echo_is_keyed_by_its_identifier() {
    let table = FlowTable::anonymous(&config(16));
    let request = Tuple {
        src: v4(1),
        dst: v4(2),
        sport: 77,
        dport: 0,
    };
    let flows = pair(Proto::ICMP, request, request, Origin::HOST, Origin::UPLINK);
    put(&table, flows, T0);
    assert_eq!((flows.1.key.tuple.sport, flows.1.key.tuple.dport), (0, 77));
    assert_delivers(look(&table, flows.1.key, T0), &flows.1);
}

#[test]
fn an_echo_request_never_has_the_key_of_a_reply() {
    let table = FlowTable::anonymous(&config(16));
    // With the identifier 0 the tuples are the same.
    let request = Tuple {
        src: v4(1),
        dst: v4(2),
        sport: 0,
        dport: 0,
    };
    let flows = pair(Proto::ICMP, request, request, Origin::HOST, Origin::UPLINK);
    put(&table, flows, T0);
    assert_delivers(look(&table, flows.1.key, T0), &flows.1);
    let other_way = FlowKey::opening(request.reversed(), Proto::ICMP, Origin::UPLINK);
    assert_eq!(look(&table, other_way, T0), None);
    assert_eq!(table.find_tuple(&other_way, T0), None);
    put(
        &table,
        pair(
            Proto::ICMP,
            request.reversed(),
            request.reversed(),
            Origin::UPLINK,
            Origin::HOST,
        ),
        T0,
    );
    assert_eq!(table.stats().used, 2);
}
