//! Quotas, shares, the reserve, and displacement in a full table.

use heddle_wire::Proto;

use super::*;
use crate::testing::{T0, config, establish, look, nth, put, through_service, v4};
use crate::{Config, FlowFlags, GroupId, InsertError, NewFlow, Quotas};

#[test]
fn a_full_table_gives_up_what_has_no_handshake_and_nothing_else() {
    let table = FlowTable::anonymous(&config(20));
    for n in 0..19 {
        establish(&table, put(&table, nth(n), T0));
    }
    put(&table, nth(19), T0);
    // The half-open one makes room, again and again; the established ones stay.
    for n in 20..60 {
        put(&table, nth(n), T0);
        assert_eq!(look(&table, nth(n - 1).0.key, T0), None);
    }
    assert!((0..19).all(|n| look(&table, nth(n).0.key, T0).is_some()));
    assert_eq!((table.stats().used, table.stats().displaced), (20, 40));
}

#[test]
fn the_reserve_is_the_nodes() {
    let table = FlowTable::anonymous(&Config {
        quotas: Quotas {
            node_reserve: 2,
            ..Quotas::default()
        },
        ..config(16)
    });
    for n in 0..14 {
        establish(&table, put(&table, nth(n), T0));
    }
    let outside = |n| {
        let (mut f, mut r) = nth(n);
        (f.endpoints, r.endpoints) = ([EndpointId::HOST, EndpointId(2)], [EndpointId(2), EndpointId::HOST]);
        f.flags |= FlowFlags::OUTSIDE;
        r.flags |= FlowFlags::OUTSIDE;
        (f, r)
    };
    let refused = |(f, r): (NewFlow, NewFlow)| table.insert(&f, &r, T0);
    assert_eq!(refused(nth(14)), Err(InsertError::Full));
    assert_eq!(refused(outside(14)), Err(InsertError::Full));
    let (mut f, mut r) = outside(15);
    f.flags.remove(FlowFlags::OUTSIDE);
    r.flags.remove(FlowFlags::OUTSIDE);
    put(&table, (f, r), T0);
    assert_eq!(table.stats().used, 15);
}

#[test]
fn groups_and_source_prefixes_have_quotas_too() {
    let table = FlowTable::anonymous(&Config {
        quotas: Quotas {
            per_group: Some(3),
            per_source_prefix: Some(2),
            ..Quotas::default()
        },
        ..config(64)
    });
    table.set_group(EndpointId(2), GroupId(7));
    table.set_group(EndpointId(3), GroupId(7));
    let from = |n, endpoint| {
        let (mut f, mut r) = nth(n);
        (f.endpoints, r.endpoints) = ([endpoint, EndpointId(9)], [EndpointId(9), endpoint]);
        (f, r)
    };
    let slots = [(0, 2), (1, 2), (2, 3)].map(|(n, pod)| put(&table, from(n, EndpointId(pod)), T0).0);
    let (f, r) = from(3, EndpointId(3));
    assert_eq!(table.insert(&f, &r, T0), Err(InsertError::Quota(EndpointId(3))));
    put(&table, from(4, EndpointId(4)), T0);
    assert!(table.remove(slots[0]));
    put(&table, (f, r), T0);
    // A prefix outside: 192.0.2.0/24, and another one.
    let outside = |host: u8, prefix: u8| {
        let client = heddle_wire::Ip::from_v4([192, 0, prefix, host]);
        let (mut f, mut r) = through_service(client, v4(2), v4(9), 1000, Proto::TCP);
        (f.endpoints, r.endpoints) = ([EndpointId::HOST, EndpointId(9)], [EndpointId(9), EndpointId::HOST]);
        f.flags |= FlowFlags::OUTSIDE;
        r.flags |= FlowFlags::OUTSIDE;
        (f, r)
    };
    let first = put(&table, outside(1, 2), T0).0;
    put(&table, outside(2, 2), T0);
    let (f, r) = outside(3, 2);
    assert_eq!(table.insert(&f, &r, T0), Err(InsertError::SourceQuota));
    put(&table, outside(3, 3), T0);
    assert!(table.remove(first));
    put(&table, (f, r), T0);
    assert_eq!(table.stats().refused_quota, 2);
}

#[test]
fn the_sender_of_an_adopted_reply_pays() {
    let table = FlowTable::anonymous(&config(16));
    let (mut f, mut r) = nth(0);
    let flags = FlowFlags::ADOPTED | FlowFlags::RESPONDER_PAYS;
    (f.endpoints, r.endpoints) = ([EndpointId(2), EndpointId(3)], [EndpointId(3), EndpointId(2)]);
    f.flags |= flags;
    r.flags |= flags;
    let (slot, _) = put(&table, (f, r), T0);
    assert_eq!([2, 3].map(|n| table.opened_by(EndpointId(n))), [0, 1]);
    assert!(table.remove(slot));
    assert_eq!([2, 3].map(|n| table.opened_by(EndpointId(n))), [0, 0]);
}

#[test]
fn a_quota_binds_the_opener_and_only_pods() {
    let table = FlowTable::anonymous(&Config {
        quotas: Quotas {
            per_pod: Some(2),
            ..Quotas::default()
        },
        ..config(16)
    });
    let pod = EndpointId(2);
    let slots = [0, 1].map(|n| put(&table, nth(n), T0).0);
    let (f, r) = nth(2);
    assert_eq!(table.insert(&f, &r, T0), Err(InsertError::Quota(pod)));
    assert_eq!((table.opened_by(pod), table.stats().refused_quota), (2, 1));
    // From the uplink to the pod: the pod did not open it.
    let (mut f, mut r) = (f, r);
    f.endpoints.reverse();
    r.endpoints.reverse();
    put(&table, (f, r), T0);
    table.remove(slots[0]);
    assert_eq!(table.opened_by(pod), 1);
    put(&table, nth(3), T0);
    // An adopted connection may have been opened by the other side.
    let (mut f, mut r) = nth(4);
    f.flags |= FlowFlags::REPLY | FlowFlags::ADOPTED;
    r.flags = FlowFlags::ADOPTED;
    put(&table, (f, r), T0);
    assert_eq!((table.opened_by(pod), table.opened_by(EndpointId::UPLINK)), (2, 2));
}
