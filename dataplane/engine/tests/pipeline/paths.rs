//! The paths through the driver. Each test is named after the steps (`Next`) of its packet.

use heddle_flow::{Egress, FlowFlags, FlowKey, NewFlow, NextHopId, Origin, Rewrite};
use heddle_port::{Capabilities, MemPort, PortId};
use heddle_tables::{Direction, EndpointId, EndpointPolicy, Generation, NodeId};
use heddle_wire::testing::ip;
use heddle_wire::{Proto, TcpFlags, checksum, parse};
use std::sync::Arc;

use crate::services::serve;
use crate::tables::{A, B, C, isolate};
use crate::world::{Options, World, worlds};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;

#[test]
fn miss_open_replay_then_hit_replay() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        assert_eq!(w.slow(), 1);
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"y"));
        w.pass(&B, &A, &B.to(A.v4()).udp(53, 1000, b"z"));
        assert_eq!(w.slow(), 1, "hits stay off the slow path");
    });
}

#[test]
fn miss_open_reply_for_a_service_without_a_ready_endpoint() {
    worlds(|w| {
        serve(w, &[]);
        let vip = ip("10.96.0.10");
        w.answered(&A, &A.to(vip).tcp(1000, 80, SYN, 1, 0, b""), "reject-reset");
        w.answered(&A, &A.to(vip).udp(1000, 80, b"x"), "reject-unreachable");
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn miss_open_reply_for_a_segment_of_no_connection() {
    worlds(|w| {
        w.answered(&A, &A.to(B.v4()).tcp(1000, 80, ACK, 1, 1, b""), "tcp-reset");
        assert_eq!((w.connections(), w.slow()), (0, 1));
    });
}

#[test]
fn miss_open_done_for_a_denied_connection() {
    worlds(|w| {
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[])));
        w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"x"), "policy-denied-ingress");
        assert_eq!((w.connections(), w.slow()), (0, 1));
    });
}

#[test]
fn hit_revalidate_replay_for_a_stale_entry_that_is_allowed() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        w.set_policy(&B, Some(Arc::new(EndpointPolicy::open())));
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"y"));
        assert_eq!(w.slow(), 2);
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"z"));
        assert_eq!(w.slow(), 2, "the entry is current again");
    });
}

#[test]
fn hit_revalidate_done_for_a_stale_entry_that_is_denied() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[])));
        for slow in 2..4 {
            w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"y"), "policy-denied-ingress");
            assert_eq!(w.slow(), slow, "each packet is judged again");
        }
        assert_eq!(w.connections(), 1, "the entry stays, stale");
    });
}

#[test]
fn hit_revalidate_reply_for_a_stale_entry_whose_backend_is_gone() {
    worlds(|w| {
        serve(w, &[&B]);
        let vip = ip("10.96.0.10");
        w.pass(&A, &B, &A.to(vip).tcp(1000, 80, SYN, 1, 0, b""));
        for addr in [B.v4(), B.v6()] {
            w.tables.remove_address(addr);
        }
        w.tables.remove_endpoint(B.endpoint);
        serve(w, &[&C]);
        w.answered(&A, &A.to(vip).tcp(1000, 80, ACK, 2, 2, b"x"), "tcp-reset");
        assert_eq!(w.connections(), 0);
        w.pass(&A, &C, &A.to(vip).tcp(1000, 80, SYN, 9, 0, b""));
    });
}

#[test]
fn hit_open_replay_for_a_connection_that_replaces_a_closed_one() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 1, 0, b""));
        w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, RST | ACK, 0, 2, b""));
        w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 100, 0, b""));
        assert_eq!((w.connections(), w.slow()), (1, 2));
    });
}

#[test]
fn hit_replay_successor_for_a_connection_that_its_burst_has_replaced() {
    let mut w = World::new(Options::default());
    w.pass(&A, &B, &A.to(B.v4()).tcp(1000, 80, SYN, 1, 0, b""));
    w.pass(&B, &A, &B.to(A.v4()).tcp(80, 1000, RST | ACK, 0, 2, b""));
    // Both hit the closed entry. The first one opens its successor, which the second one then belongs to.
    w.push(&A, &A.to(B.v4()).tcp(1000, 80, SYN, 100, 0, b""));
    w.push(&A, &A.to(B.v4()).tcp(1000, 80, ACK, 101, 1, b"x"));
    w.step();
    w.pop(&B);
    w.pop(&B);
    w.changed(&["a rx 2", "a forwarded 2", "b tx 2"]);
    assert_eq!((w.connections(), w.slow()), (1, 2));
}

#[test]
fn hit_reply_for_a_ttl_that_is_used_up() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        w.answered(&A, &A.to(B.v4()).ttl(1).udp(1000, 53, b"x"), "time-exceeded");
        assert_eq!(w.slow(), 1);
    });
}

#[test]
fn miss_revalidate_done_for_a_tuple_of_another_origin() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        let as_a = heddle_wire::testing::Packet::new(C.mac, heddle_wire::MacAddr::GATEWAY, A.v4(), B.v4());
        w.dropped(&C, &as_a.udp(1000, 53, b"x"), "spoofed-source");
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
    });
}

/// The node or the next hop of a flow is gone. Its packets are dropped: not lost, and not sent elsewhere.
#[test]
fn hit_replay_done_for_an_egress_that_is_gone() {
    for (egress, reason) in [
        (Egress::Node(NodeId(9)), "node-unreachable"),
        (Egress::Uplink(NextHopId(9)), "no-route"),
    ] {
        let mut w = World::new(Options::default());
        let frame = A.to(B.v4()).udp(1000, 53, b"x");
        let p = parse(&frame, frame.len()).unwrap();
        let key = FlowKey::of(&p, Origin::pod(A.endpoint));
        let reply = FlowKey::replying(key.tuple, Proto::UDP, Origin::pod(B.endpoint));
        let direction = |key: FlowKey, egress, endpoints: [EndpointId; 2], flags| NewFlow {
            rewrite: Rewrite::none(&key),
            key,
            egress,
            endpoints,
            generations: [Generation(0); 2],
            mss_clamp: 0,
            flags,
        };
        let there = direction(key, egress, [A.endpoint, B.endpoint], FlowFlags::empty());
        let back = direction(
            reply,
            Egress::Endpoint(A.endpoint),
            [B.endpoint, A.endpoint],
            FlowFlags::REPLY,
        );
        w.node.flows().insert(&there, &back, w.now).unwrap();
        w.dropped(&A, &frame, reason);
        assert_eq!(w.slow(), 0);
    }
}

/// A port that delivers only finished checksums: a checksum that equals the pseudo header's sum is left as it is.
#[test]
fn an_unfinished_checksum_is_finished_where_the_port_may_deliver_one() {
    let frame = A.to(B.v4()).partial().udp(1000, 53, b"x");
    for (capabilities, finished) in [(Capabilities::VETH, true), (Capabilities::NIC, false)] {
        let mut w = World::new(Options::default());
        let removed = w.node.handles()[0].remove_port(A.port).unwrap();
        w.step();
        drop(removed.recv().unwrap());
        let (port, wire) = MemPort::with_capabilities(PortId(A.port.0), w.node.shared().store(), capabilities);
        w.node.add(0, port, heddle_engine::PortRole::Pod(A.endpoint)).unwrap();
        wire.push(&frame);
        w.node.step().unwrap();
        let out = w.node.pop(B.port).unwrap();
        let p = parse(&out, out.len()).unwrap();
        assert_eq!(checksum::verify(&p, [&out[..]]), finished, "{capabilities:?}");
        w.popped_elsewhere(&B, out.len());
        w.pushed_elsewhere(&A, frame.len());
    }
}
