//! Connections between the node and its pods.

use heddle_tables::Direction;
use heddle_wire::MacAddr;
use heddle_wire::TcpFlags;
use heddle_wire::testing::{Packet, ip};

use crate::forwarding::addresses;
use crate::tables::{A, B, HOST, isolate};
use crate::world::worlds;

#[test]
fn the_node_reaches_its_pods_whatever_policy_says() {
    worlds(|w| {
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[])));
        for (a, host) in addresses(&A).into_iter().zip(addresses(&HOST)) {
            let (_, p) = w.pass(&HOST, &A, &HOST.to(a).partial().tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
            assert_eq!((p.src, p.dst, p.ttl), (host, a, 63));
            w.pass(
                &A,
                &HOST,
                &A.to(host)
                    .partial()
                    .tcp(80, 1000, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b""),
            );
            w.pass(&HOST, &A, &HOST.to(a).echo_request(9, 1, b"probe"));
        }
    });
}

#[test]
fn packets_that_the_kernel_routes_from_outside_meet_ingress_policy() {
    worlds(|w| {
        let from_outside = Packet::new(HOST.mac, MacAddr::GATEWAY, ip("198.51.100.7"), B.v4());
        let syn = from_outside.tcp(1000, 80, TcpFlags::SYN, 1, 0, b"");
        w.pass(&HOST, &B, &syn);
        w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&A, 0)])));
        w.dropped(&HOST, &syn, "policy-denied-ingress");
        // Of a node that runs no heddle, whose pods the kernel routes.
        let from_other_node = Packet::new(HOST.mac, MacAddr::GATEWAY, ip("10.0.4.9"), B.v4());
        w.dropped(&HOST, &from_other_node.udp(1, 2, b"x"), "policy-denied-ingress");
    });
}

#[test]
fn packets_back_to_the_host_have_no_route() {
    worlds(|w| {
        w.dropped(&HOST, &HOST.to(ip("198.51.100.7")).udp(1, 2, b"x"), "no-route");
        w.dropped(&HOST, &HOST.to(ip("10.0.0.99")).udp(1, 2, b"x"), "unknown-destination");
        w.dropped(&HOST, &HOST.to(ip("10.96.7.7")).udp(1, 2, b"x"), "unknown-destination");
        w.dropped(&HOST, &HOST.to(HOST.v4()).udp(1, 2, b"x"), "no-route");
    });
}
