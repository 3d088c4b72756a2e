//! Connections for the tests of this crate.

use std::net::Ipv4Addr;

use heddle_ids::{EndpointId, Generation, NodeId};
#[cfg(not(loom))]
use heddle_wire::TcpFlags;
use heddle_wire::rewrite::Tuple;
use heddle_wire::{Ip, Proto};

use crate::{Config, Egress, FlowFlags, FlowKey, FlowTable, Hit, Millis, NewFlow, Origin, Quotas, Rewrite, SlotId};

/// The first time in the tests.
pub(crate) const T0: Millis = Millis(1_000_000);

pub(crate) fn config(capacity: u32) -> Config {
    Config {
        capacity,
        quotas: Quotas::default(),
        seed: Some([3, 1, 4, 1, 5, 9, 2, 6].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        ..Config::default()
    }
}

pub(crate) fn v4(n: u32) -> Ip {
    Ip::from(Ipv4Addr::from(0x0a00_0000 | n))
}

#[cfg(not(loom))]
pub(crate) fn v6(n: u32) -> Ip {
    let mut o = [0x20; 16];
    o[12..].copy_from_slice(&n.to_be_bytes());
    Ip::from_v6(o)
}

/// Returns both directions of a connection from pod 2 through a Service address to a pod of another node.
pub(crate) fn through_service(client: Ip, service: Ip, backend: Ip, sport: u16, proto: Proto) -> (NewFlow, NewFlow) {
    let arrives = Tuple {
        src: client,
        dst: service,
        sport,
        dport: 80,
    };
    let leaves = Tuple {
        src: client,
        dst: backend,
        sport,
        dport: 8080,
    };
    pair(
        proto,
        arrives,
        leaves,
        Origin::pod(EndpointId(2)),
        Origin::node(NodeId(7)),
    )
}

/// Returns both directions of a connection that arrives with one tuple and leaves with another.
pub(crate) fn pair(
    proto: Proto,
    arrives: Tuple,
    leaves: Tuple,
    origin: Origin,
    reply_origin: Origin,
) -> (NewFlow, NewFlow) {
    let direction = |key: Tuple, to: Tuple, origin, reply: bool| NewFlow {
        key: match reply {
            true => FlowKey::replying(key.reversed(), proto, origin),
            false => FlowKey::opening(key, proto, origin),
        },
        rewrite: Rewrite::between(&FlowKey::opening(key, proto, origin), to),
        egress: if reply {
            Egress::Endpoint(EndpointId(2))
        } else {
            Egress::Node(NodeId(7))
        },
        endpoints: if reply {
            [EndpointId(1), EndpointId(2)]
        } else {
            [EndpointId(2), EndpointId(1)]
        },
        generations: if reply {
            [Generation(50), Generation(40)]
        } else {
            [Generation(40), Generation(50)]
        },
        mss_clamp: if reply { 1410 } else { 1400 },
        flags: if reply {
            FlowFlags::NAT | FlowFlags::REPLY
        } else {
            FlowFlags::NAT
        },
    };
    (
        direction(arrives, leaves, origin, false),
        direction(leaves.reversed(), arrives.reversed(), reply_origin, true),
    )
}

/// Returns the `n`-th of many different connections.
pub(crate) fn nth(n: u32) -> (NewFlow, NewFlow) {
    let sport = 1024 + (n % 50_000) as u16;
    through_service(v4(1 + n / 50_000), v4(0x60_0001), v4(0x12_0001), sport, Proto::TCP)
}

pub(crate) fn look(table: &FlowTable, key: FlowKey, now: Millis) -> Option<Hit> {
    let mut out = [None];
    table.lookup(&[key], now, &mut out);
    out[0]
}

/// Inserts a connection and asserts success.
pub(crate) fn put(table: &FlowTable, (f, r): (NewFlow, NewFlow), now: Millis) -> (SlotId, SlotId) {
    table.insert(&f, &r, now).unwrap()
}

/// Asserts that a hit returns exactly the inserted values.
pub(crate) fn assert_delivers(hit: Option<Hit>, flow: &NewFlow) {
    let view = hit.unwrap_or_else(|| panic!("not found: {:?}", flow.key)).view;
    assert_eq!(view.rewrite, flow.rewrite);
    assert_eq!(view.origin, flow.key.origin);
    assert_eq!(view.egress, flow.egress);
    assert_eq!(view.endpoints, flow.endpoints);
    assert_eq!(view.generations, flow.generations);
    assert_eq!(view.mss_clamp, flow.mss_clamp);
    assert_eq!(view.flags, flow.flags);
}

/// Completes the handshake of a connection.
#[cfg(not(loom))]
pub(crate) fn establish(table: &FlowTable, (f, r): (SlotId, SlotId)) {
    for (slot, flags) in [(r, TcpFlags::SYN | TcpFlags::ACK), (f, TcpFlags::ACK)] {
        assert!(table.touch(slot, T0, 1, flags));
    }
}
