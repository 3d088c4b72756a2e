//! The workers' records of dropped packets: addresses, reason, deciding rule and pod.

use heddle_engine::{DropReason, DropRecord};
use heddle_flow::Millis;
use heddle_tables::{Direction, EndpointId, RuleId};
use heddle_wire::rewrite::Tuple;
use heddle_wire::testing::ip;
use heddle_wire::{Ip, Proto, TcpFlags};

use crate::services::serve;
use crate::tables::{A, B, C, DEFAULT_DENY, Party, isolate};
use crate::world::{Options, World, worlds};

/// Returns the records of all workers, in the order of the workers' ids.
fn recent(w: &World) -> Vec<DropRecord> {
    let mut all = Vec::new();
    for handle in w.node.handles() {
        handle.counters().recent().read(0, |record| all.push(record));
    }
    all
}

/// Returns the counts of denied packets: rule, pod, packets.
pub fn denied(w: &World) -> Vec<(RuleId, EndpointId, u64)> {
    let counts = w
        .node
        .handles()
        .iter()
        .flat_map(|handle| handle.counters().policy().counts());
    let mut all: Vec<_> = counts.map(|c| (c.rule, c.pod, c.packets)).collect();
    all.sort_unstable();
    all
}

fn tuple(from: &Party, dst: Ip, sport: u16, dport: u16) -> Tuple {
    Tuple {
        src: from.ip(dst),
        dst,
        sport,
        dport,
    }
}

#[test]
fn a_denied_packet_is_remembered_with_the_rule_and_the_pod_that_denied_it() {
    worlds(|w| {
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&A, 80)])));
        w.now = Millis(5_000_000);
        let frame = C.to(B.v6()).tcp(1000, 80, TcpFlags::SYN, 1, 0, b"");
        w.dropped(&C, &frame, "policy-denied-ingress");
        let expected = DropRecord {
            number: 0,
            at: Millis(5_000_000),
            reason: DropReason::PolicyDeniedIngress,
            rule: DEFAULT_DENY,
            pod: B.endpoint,
            ingress: C.port,
            len: frame.len() as u32,
            packet: Some((tuple(&C, B.v6(), 1000, 80), Proto::TCP)),
        };
        assert_eq!(recent(w), [expected]);
        assert_eq!(denied(w), [(DEFAULT_DENY, B.endpoint, 1)]);
    });
}

#[test]
fn behind_a_service_the_packet_is_remembered_as_it_came_in() {
    worlds(|w| {
        serve(w, &[&B]);
        w.set_policy(&A, Some(isolate(Direction::Egress, &[(&B, 80)])));
        let vip = ip("10.96.0.10");
        w.dropped(
            &A,
            &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""),
            "policy-denied-egress",
        );
        let [record] = recent(w)[..] else {
            panic!("{:?}", recent(w))
        };
        assert_eq!(record.packet, Some((tuple(&A, vip, 1000, 80), Proto::TCP)));
        assert_eq!((record.pod, record.rule), (A.endpoint, DEFAULT_DENY));
    });
}

#[test]
fn a_burst_is_remembered_in_its_order_with_the_reason_of_each() {
    worlds(|w| {
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&A, 80)])));
        w.push(&A, &A.to(B.v4()).udp(1, 53, b"denied"));
        w.push(&A, &A.to(C.v4()).udp(2, 53, b"passes"));
        w.push(&A, &B.to(C.v4()).udp(3, 53, b"not its MAC"));
        w.push(&A, b"no packet at all");
        w.push(&A, &A.to(B.v4()).udp(4, 53, b"denied"));
        w.step();
        w.pop(&C);
        w.changed(&[
            "a rx 5",
            "a forwarded 1",
            "c tx 1",
            "a dropped policy-denied-ingress 2",
            "a dropped spoofed-mac 1",
            "a dropped unknown-ethertype 1",
        ]);
        let seen: Vec<_> = recent(w)
            .iter()
            .map(|r| {
                (
                    r.number,
                    r.reason,
                    r.pod,
                    r.packet.map(|(tuple, _)| (tuple.src, tuple.sport)),
                )
            })
            .collect();
        let none = EndpointId::HOST;
        assert_eq!(
            seen,
            [
                (0, DropReason::PolicyDeniedIngress, B.endpoint, Some((A.v4(), 1))),
                (1, DropReason::SpoofedMac, none, Some((B.v4(), 3))),
                (2, DropReason::UnknownEtherType, none, None),
                (3, DropReason::PolicyDeniedIngress, B.endpoint, Some((A.v4(), 4))),
            ]
        );
        assert_eq!(denied(w), [(DEFAULT_DENY, B.endpoint, 2)]);
    });
}

#[test]
fn a_pod_whose_policy_is_not_compiled_is_said_to_be_so() {
    worlds(|w| {
        w.set_policy(&B, None);
        w.dropped(&A, &A.to(B.v4()).udp(1, 53, b"x"), "policy-not-ready");
        let [record] = recent(w)[..] else {
            panic!("{:?}", recent(w))
        };
        assert_eq!((record.rule, record.pod), (RuleId::NOT_READY, B.endpoint));
        // No policy has denied the packet.
        assert_eq!(denied(w), []);
    });
}

#[test]
fn a_drop_at_a_full_ring_is_recorded_by_the_worker_of_the_ring() {
    let mut w = World::new(Options {
        workers: 2,
        ..Options::default()
    });
    w.wire(&B).set_tx_room(0);
    w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"x"), "tx-ring-full");
    let ring = |worker: usize| {
        let mut all = Vec::new();
        w.node.handles()[worker]
            .counters()
            .recent()
            .read(0, |record| all.push(record));
        all
    };
    assert_eq!(ring(0), []);
    let [record] = ring(1)[..] else { panic!("{:?}", ring(1)) };
    assert_eq!((record.reason, record.ingress), (DropReason::TxRingFull, A.port));
    assert_eq!(record.packet, Some((tuple(&A, B.v4(), 1000, 53), Proto::UDP)));
}

#[test]
fn in_a_flood_the_newest_stay_and_the_rest_is_counted() {
    let mut w = World::new(Options::default());
    w.set_policy(&B, Some(isolate(Direction::Ingress, &[])));
    let capacity = w.node.handles()[0].counters().recent().capacity();
    let count = capacity + 100;
    for n in 0..count {
        w.push(&A, &A.to(B.v4()).udp(n as u16, 53, b"x"));
        w.step();
    }
    w.changed(&[
        &format!("a rx {count}"),
        &format!("a dropped policy-denied-ingress {count}"),
    ]);
    let mut ports = Vec::new();
    let reading = w.node.handles()[0].counters().recent().read(0, |record| {
        ports.extend(record.packet.map(|(tuple, _)| u64::from(tuple.sport)));
    });
    assert_eq!((reading.next, reading.overwritten), (count, 100));
    assert_eq!(ports, (100..count).collect::<Vec<_>>());
    assert_eq!(denied(&w), [(DEFAULT_DENY, B.endpoint, count)]);
}
