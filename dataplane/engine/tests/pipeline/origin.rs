//! A connection whose packets come in from another origin: the address has moved to another endpoint, and the entry follows.

use heddle_tables::{AddressInfo, Direction, EndpointPolicy, Generation, Place};
use heddle_wire::testing::{Packet, ip};
use heddle_wire::{MacAddr, TcpFlags};
use std::sync::Arc;

use crate::services::serve;
use crate::tables::{A, B, C, Party, endpoint, isolate, worker_of};
use crate::world::{World, worlds};

/// Gives the addresses of `old` to `new`, as if the attachment were made again with another endpoint id.
fn takes_over(w: &mut World, old: &Party, new: &Party) {
    let mut e = endpoint(
        new,
        worker_of(new, w.options.workers),
        Generation(1),
        Some(Arc::new(EndpointPolicy::open())),
    );
    e.addresses = [old.v4(), old.v6()].into_iter().collect();
    w.tables.remove_endpoint(old.endpoint);
    w.tables.set_endpoint(e);
    for addr in [old.v4(), old.v6()] {
        w.tables.set_address(
            addr,
            AddressInfo {
                identity: old.identity,
                place: Place::Local(new.endpoint),
            },
        );
    }
    w.publish();
}

#[test]
fn the_openers_flow_moves_with_it_and_keeps_its_translation() {
    worlds(|w| {
        serve(w, &[&B]);
        let vip = ip("10.96.0.10");
        w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        takes_over(w, &A, &C);
        serve(w, &[&C]);
        let from_c = Packet::new(C.mac, MacAddr::GATEWAY, A.v4(), vip);
        let (_, p) = w.pass(&C, &B, &from_c.tcp(1000, 80, TcpFlags::ACK, 2, 2, b"x"));
        assert_eq!((p.src, p.dst, p.dport), (A.v4(), B.v4(), 8080));
        // The answer finds the new place, from the first one on.
        let (_, p) = w.pass(&B, &C, &B.to(A.v4()).tcp(8080, 1000, TcpFlags::ACK, 2, 2, b"x"));
        assert_eq!((p.src, p.dst), (vip, A.v4()));
        // The next packets are hits again.
        let before = w.slow();
        w.pass(&C, &B, &from_c.tcp(1000, 80, TcpFlags::ACK, 3, 2, b"y"));
        assert_eq!(w.slow(), before);
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn the_answering_ends_flow_moves_with_it() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        takes_over(w, &B, &C);
        let from_c = Packet::new(C.mac, MacAddr::GATEWAY, B.v4(), A.v4());
        w.pass(&C, &A, &from_c.udp(53, 1000, b"y"));
        w.pass(&A, &C, &A.to(B.v4()).udp(1000, 53, b"x"));
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn a_moved_connection_is_judged_again() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        takes_over(w, &A, &C);
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[])));
        let from_c = Packet::new(C.mac, MacAddr::GATEWAY, A.v4(), B.v4());
        w.dropped(&C, &from_c.udp(1000, 53, b"x"), "policy-denied-ingress");
    });
}

#[test]
fn a_connection_to_a_pod_that_is_gone_ends() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        w.tables.remove_endpoint(B.endpoint);
        for addr in [B.v4(), B.v6()] {
            w.tables.remove_address(addr);
        }
        w.publish();
        w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"x"), "unknown-destination");
        assert_eq!(w.connections(), 0);
    });
}

#[test]
fn a_number_that_another_pod_has_now_does_not_inherit_connections() {
    worlds(|w| {
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        // B's attachment number is given to a pod with other addresses; its generation went on.
        let mut e = endpoint(
            &B,
            worker_of(&B, w.options.workers),
            Generation(1),
            Some(Arc::new(EndpointPolicy::open())),
        );
        e.addresses = [ip("10.0.0.77")].into_iter().collect();
        w.tables.set_endpoint(e);
        for addr in [B.v4(), B.v6()] {
            w.tables.remove_address(addr);
        }
        w.tables.set_address(
            ip("10.0.0.77"),
            AddressInfo {
                identity: B.identity,
                place: Place::Local(B.endpoint),
            },
        );
        w.publish();
        w.dropped(&A, &A.to(B.v4()).udp(1000, 53, b"x"), "unknown-destination");
        assert_eq!(w.connections(), 0);
        // An old answer of B's address from the new pod.
        w.dropped(&B, &B.to(A.v4()).udp(53, 1000, b"y"), "spoofed-source");
    });
}
