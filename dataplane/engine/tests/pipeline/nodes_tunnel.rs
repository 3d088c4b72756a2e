//! Pods of different nodes, by the tunnel.

use heddle_flow::FlowState;
use heddle_tables::{AddressInfo, Direction, Place};
use heddle_wire::testing::{Checksum, Packet, ip};
use heddle_wire::vxlan::{PORT, ecn};
use heddle_wire::{TcpFlags, parse};

use crate::nodes::{self, CLIENT, N1, N2, N3, N4, N5, ROUTER, STRANGER, header};
use crate::tables::{A, B, HOST, OWN_VTEP, TUNNEL, UPLINK, isolate};
use crate::world::worlds;

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;

#[test]
fn a_pod_reaches_a_pod_of_another_node_and_is_answered() {
    worlds(|w| {
        for (node, own) in [(N1, A.v4()), (N1, A.v6()), (N3, A.v4()), (N3, A.v6())] {
            let there = node.pod(own);
            let (_, p) = w.sent(&A, &node, &A.to(there).partial().tcp(1000, 80, SYN, 1, 0, b""));
            assert_eq!((p.src, p.dst, p.sport, p.dport, p.ttl), (own, there, 1000, 80, 63));
            let (_, p) = w.received(&node, &A, &node.pod_to(own).tcp(80, 1000, SYN | ACK, 1, 2, b""));
            assert_eq!((p.src, p.dst, p.ttl), (there, own, 63));
            let (inner, _) = w.sent(&A, &node, &A.to(there).partial().tcp(1000, 80, ACK, 2, 2, b"request"));
            assert!(inner.ends_with(b"request"));
        }
        assert_eq!(w.states(), [FlowState::Established; 4]);
        // The hits did not take the slow path: one packet for each connection did, and its answer found the entry.
        assert_eq!(w.slow(), 4);
        assert_eq!(w.tunnelled(), (8, 4));
        // A packet that stays on the node, one that no tunnel takes, and one from a tunnel that is refused.
        w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"x"));
        w.dropped(
            &UPLINK,
            &N1.outer().udp(50_000, TUNNEL.port, b"short"),
            "tunnel-truncated",
        );
        assert_eq!(w.tunnelled(), (8, 4));
    });
}

#[test]
fn every_protocol_leaves_with_finished_checksums() {
    worlds(|w| {
        for (node, own) in [(N1, A.v4()), (N3, A.v6()), (N1, A.v6()), (N3, A.v4())] {
            let to = || A.to(node.pod(own)).partial();
            w.sent(&A, &node, &to().udp(1000, 53, b"odd"));
            w.sent(&A, &node, &to().sctp(1000, 53, 1, &[1, 0, 0, 4]));
            w.sent(&A, &node, &to().echo_request(7, 1, b"ping"));
            w.sent(&A, &node, &to().raw(heddle_wire::Proto(47), b"gre"));
        }
        let (inner, p) = w.sent(
            &A,
            &N1,
            &A.to(N1.pod(A.v4())).checksum(Checksum::Zero).udp(1, 2, b"none"),
        );
        assert_eq!(inner[p.l4() + 6..p.l4() + 8], [0, 0]);
    });
}

#[test]
fn a_pod_of_another_node_reaches_a_pod_as_its_policy_says() {
    worlds(|w| {
        let mut peer = B;
        peer.identity = N1.identity;
        w.set_policy(&A, Some(isolate(Direction::Ingress, &[(&peer, 80)])));
        w.received(&N1, &A, &N1.pod_to(A.v4()).tcp(1000, 80, SYN, 1, 0, b""));
        w.sent(&A, &N1, &A.to(N1.pod(A.v4())).tcp(80, 1000, SYN | ACK, 1, 2, b""));
        let denied = "policy-denied-ingress";
        let to_other_port = N1.pod_to(A.v4()).tcp(1000, 81, SYN, 1, 0, b"");
        w.dropped(&UPLINK, &N1.encapsulate(&to_other_port), denied);
        // A pod of another identity, and an address of the node's range that no known pod has.
        w.dropped(
            &UPLINK,
            &N3.encapsulate(&N3.pod_to(A.v4()).tcp(1, 80, SYN, 1, 0, b"")),
            denied,
        );
        let unknown = N1.inside(ip("10.0.1.99"), A.v4()).tcp(1, 80, SYN, 1, 0, b"");
        w.dropped(&UPLINK, &N1.encapsulate(&unknown), denied);
        // To the own node and without a policy, everything passes.
        w.received(&N1, &HOST, &N1.pod_to(HOST.v4()).tcp(1000, 10250, SYN, 1, 0, b""));
        w.received(&N3, &B, &N3.inside(ip("10.0.3.99"), B.v4()).udp(1, 2, b"x"));
    });
}

#[test]
fn a_sender_speaks_for_itself_and_its_pods_only() {
    worlds(|w| {
        let from = |src: &str| N1.encapsulate(&N1.inside(ip(src), B.v4()).udp(1000, 53, b"x"));
        // Another node's pod, this node's pod, this node, an address without a pod here, another node, the outside, a Service.
        for src in [
            N3.pod,
            "10.0.0.2",
            "192.0.2.1",
            "10.0.0.99",
            N2.address,
            CLIENT,
            "10.96.0.10",
        ] {
            w.dropped(&UPLINK, &from(src), "spoofed-source");
        }
        w.pass(&UPLINK, &B, &from(N1.address));
        // Nodes that no tunnel goes to, and strangers.
        for outer in [
            N2.outer(),
            N4.outer(),
            Packet::new(ROUTER, UPLINK.mac, ip(CLIENT), HOST.v4()),
        ] {
            let inner = N1.pod_to(B.v4()).udp(1000, 53, b"x");
            let frame = outer.udp(1, PORT, &[&header(TUNNEL.vni)[..], &inner].concat());
            w.dropped(&UPLINK, &frame, "tunnel-unknown-sender");
        }
    });
}

#[test]
fn the_kernel_delivers_no_packets_of_pods_that_come_by_the_uplink() {
    worlds(|w| {
        let by_kernel = |src| Packet::new(HOST.mac, heddle_wire::MacAddr::GATEWAY, src, B.v4()).udp(1000, 53, b"x");
        for node in [N1, N2, N5] {
            w.dropped(&HOST, &by_kernel(node.pod(B.v4())), "spoofed-source");
        }
        // A node without heddle has its own way to this node.
        w.pass(&HOST, &B, &by_kernel(N4.pod(B.v4())));
        w.pass(&HOST, &B, &by_kernel(N4.address()));
    });
}

#[test]
fn a_connection_is_the_node_s_that_opened_it() {
    worlds(|w| {
        w.received(&N1, &B, &N1.pod_to(B.v4()).udp(1000, 53, b"x"));
        let stolen = N1.pod_to(B.v4()).udp(1000, 53, b"x");
        w.dropped(&UPLINK, &N3.encapsulate(&stolen), "spoofed-source");
        let plain = Packet::new(ROUTER, UPLINK.mac, N1.pod(B.v4()), B.v4()).udp(1000, 53, b"x");
        w.dropped(&UPLINK, &plain, "spoofed-source");
        w.received(&N1, &B, &N1.pod_to(B.v4()).udp(1000, 53, b"x"));
        w.sent(&B, &N1, &B.to(N1.pod(B.v4())).udp(53, 1000, b"y"));
    });
}

#[test]
fn a_pod_that_moves_to_another_node_keeps_its_connections() {
    worlds(|w| {
        let pod = N1.pod(B.v4());
        w.sent(&B, &N1, &B.to(pod).udp(1000, 53, b"x"));
        let there = AddressInfo {
            identity: N1.identity,
            place: Place::Node(N3.id),
        };
        w.tables.set_address(pod, there);
        w.raise_uplink();
        // Both ends find the new way, whoever sends first. The node that it left is not its node any more.
        w.dropped(
            &UPLINK,
            &N1.encapsulate(&N1.inside(pod, B.v4()).udp(53, 1000, b"y")),
            "spoofed-source",
        );
        w.sent(&B, &N3, &B.to(pod).udp(1000, 53, b"x"));
        w.received(&N3, &B, &N3.inside(pod, B.v4()).udp(53, 1000, b"y"));
        w.dropped(
            &UPLINK,
            &N1.encapsulate(&N1.inside(pod, B.v4()).udp(53, 1000, b"y")),
            "spoofed-source",
        );
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn what_is_no_packet_of_this_tunnel_is_dropped_with_the_reason() {
    worlds(|w| {
        let inner = N1.pod_to(B.v4()).udp(1000, 53, b"x");
        let outer = |payload: &[u8]| N1.outer().udp(9, PORT, payload);
        let with = |header: [u8; 8], inner: &[u8]| outer(&[&header[..], inner].concat());
        w.dropped(&UPLINK, &with(header(78), &inner), "tunnel-network");
        for bad in [
            [0; 8],
            [0x88, 0, 0, 0, 0, 0, 77, 0],
            [8, 0, 0, 1, 0, 0, 77, 0],
            [8, 0, 0, 0, 0, 0, 77, 1],
        ] {
            w.dropped(&UPLINK, &with(bad, &inner), "tunnel-flags");
        }
        for len in [0, 7, 8, 21] {
            w.dropped(
                &UPLINK,
                &outer(&[&header(77)[..], &inner].concat()[..len]),
                "tunnel-truncated",
            );
        }
        let fragment = N1
            .outer()
            .fragment(0, true)
            .udp(9, PORT, &[&header(77)[..], &inner].concat()[..48]);
        w.dropped(&UPLINK, &fragment, "tunnel-truncated");
        // The inner frame is parsed like any other.
        w.dropped(&UPLINK, &with(header(77), &inner[..30]), "ipv4-truncated");
        let mut tagged = inner.clone();
        tagged[12..14].copy_from_slice(&[0x81, 0]);
        w.dropped(&UPLINK, &with(header(77), &tagged), "vlan-tagged");
        let elsewhere = Packet::new(N1.vtep, N3.vtep, N1.pod(B.v4()), B.v4()).udp(1000, 53, b"x");
        w.dropped(&UPLINK, &with(header(77), &elsewhere), "not-for-gateway");
        // A tunnel in the tunnel is a datagram to this node's port, and is not opened again.
        let nested = N1
            .inside(N1.address(), HOST.v4())
            .udp(9, PORT, &[&header(77)[..], &inner].concat());
        let (out, p) = w.received(&N1, &HOST, &nested);
        assert_eq!((p.dport, out.len()), (PORT, nested.len()));
        // The link's own protocols are the kernel's.
        w.absorbed(
            &UPLINK,
            &heddle_wire::testing::arp_request(ROUTER, N1.address(), HOST.v4()),
            "uplink-link",
        );
    });
}

/// Kernels find a node by the MAC of the inner frame, so each node has one of its own; earlier versions of heddle use the gateway's.
#[test]
fn inner_frames_carry_this_nodes_mac_or_the_gateways() {
    worlds(|w| {
        for own in [A.v4(), A.v6()] {
            let to = |mac| Packet::new(N1.vtep, mac, N1.pod(own), own);
            for (port, mac) in [(1000, OWN_VTEP), (1001, heddle_wire::MacAddr::GATEWAY)] {
                let (_, p) = w.received(&N1, &A, &to(mac).tcp(port, 80, SYN, 1, 0, b""));
                assert_eq!((p.src, p.dst, p.sport), (N1.pod(own), own, port));
                // The reply finds the flow.
                w.sent(
                    &A,
                    &N1,
                    &A.to(N1.pod(own)).partial().tcp(80, port, SYN | ACK, 1, 2, b""),
                );
            }
        }
    });
}

#[test]
fn congestion_marks_cross_the_tunnel() {
    worlds(|w| {
        let mut frame = A.to(N1.pod(A.v4())).udp(1000, 53, b"x");
        set_class(&mut frame, 0xb9);
        w.push(&A, &frame);
        w.step();
        let out = w.pop(&UPLINK);
        assert_eq!(ecn::traffic_class(&out, parse(&out, out.len()).unwrap().l3), 0xb9);
        w.discard_changes();
        for (outer, inner, expected) in [(0b11, 0b01, Some(0b11)), (0b11, 0b00, None), (0b01, 0b10, Some(0b01))] {
            let mut packet = N1.pod_to(B.v4()).udp(1000, 53, b"x");
            set_class(&mut packet, inner);
            let mut outside = N1.encapsulate(&packet);
            set_class(&mut outside, outer);
            match expected {
                Some(mark) => {
                    let (out, p) = w.pass(&UPLINK, &B, &outside);
                    assert_eq!(ecn::traffic_class(&out, p.l3), mark);
                }
                None => w.dropped(&UPLINK, &outside, "tunnel-congested"),
            }
        }
    });
}

/// Sets the TOS octet of an IPv4 frame.
fn set_class(frame: &mut [u8], class: u8) {
    frame[15] = class;
    frame[24..26].fill(0);
    let sum = heddle_wire::checksum::sum(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn a_node_that_is_not_reached_gets_no_packets() {
    worlds(|w| {
        w.dropped(&A, &A.to(N4.pod(A.v4())).udp(1, 2, b"x"), "node-unreachable");
        // Its own addresses are reached by the kernel, which masquerades.
        w.pass(&A, &HOST, &A.to(N4.address()).tcp(1, 22, SYN, 1, 0, b""));
        assert_eq!(w.connections(), 1);
        // A node that goes takes the path of its flows with it, and one that comes back gives it back.
        w.sent(&A, &N1, &A.to(N1.pod(A.v4())).udp(1, 2, b"x"));
        nodes::set_node(&mut w.tables, &N1, Err(heddle_tables::Unreachable::NoRoute));
        w.publish();
        w.dropped(&A, &A.to(N1.pod(A.v4())).udp(1, 2, b"x"), "node-unreachable");
        nodes::set_node(&mut w.tables, &N1, nodes::path(&N1));
        w.publish();
        w.sent(&A, &N1, &A.to(N1.pod(A.v4())).udp(1, 2, b"x"));
    });
}

#[test]
fn the_kernel_sends_what_has_no_resolved_next_hop() {
    worlds(|w| {
        let there = N5.pod(A.v4());
        w.push(&A, &A.to(there).partial().tcp(1000, 80, SYN, 1, 0, b""));
        w.step();
        w.changed(&["a rx 1", "a forwarded 1", "host tx 1"]);
        let frame = w.pop(&HOST);
        let (_, p) = nodes::opened(&frame, &N5);
        assert_eq!((p.src, p.dst), (A.v4(), there));
        // An answer that comes by the uplink belongs to the same connection. When the neighbor is known, the uplink is used.
        w.received(&N5, &A, &N5.pod_to(A.v4()).tcp(80, 1000, SYN | ACK, 1, 2, b""));
        let mut path = nodes::path(&N5).unwrap();
        path.outer = path.outer.map(|outer| outer.with_macs(ROUTER, UPLINK.mac));
        path.next_hop.exit = heddle_tables::Exit::Uplink;
        nodes::set_node(&mut w.tables, &N5, Ok(path));
        w.publish();
        w.push(&A, &A.to(there).tcp(1000, 80, ACK, 2, 2, b"x"));
        w.step();
        w.changed(&["a rx 1", "a forwarded 1", "uplink tx 1"]);
        assert_eq!(heddle_wire::ether::destination(&w.pop(&UPLINK)), Some(ROUTER));
    });
}

#[test]
fn what_the_tunnel_delivers_too_late_is_answered_by_the_tunnel() {
    worlds(|w| {
        for (node, own) in [(N1, B.v4()), (N3, B.v6())] {
            // By a neighbor that the kernel does not know: the answer goes where the packet came from.
            let mut frame = node.encapsulate(&node.pod_to(own).ttl(1).udp(1000, 53, b"x"));
            frame[6..12].copy_from_slice(&STRANGER.0);
            w.push(&UPLINK, &frame);
            w.step();
            w.changed(&["uplink rx 1", "uplink answered time-exceeded 1", "uplink tx 1"]);
            let mut out = w.pop(&UPLINK);
            assert_eq!(heddle_wire::ether::destination(&out), Some(STRANGER));
            out[..6].copy_from_slice(&ROUTER.0);
            let (_, p) = nodes::opened(&out, &node);
            assert_eq!((p.src, p.dst), (HOST.ip(own), node.pod(own)));
            // A segment of no connection.
            let reset = node.encapsulate(&node.pod_to(own).tcp(1000, 80, ACK, 5, 6, b"x"));
            let before = w.tunnelled();
            w.push(&UPLINK, &reset);
            w.step();
            assert_eq!(w.tunnelled(), (before.0 + 1, before.1 + 1));
            w.changed(&["uplink rx 1", "uplink answered tcp-reset 1", "uplink tx 1"]);
            let out = w.pop(&UPLINK);
            let (_, p) = nodes::opened(&out, &node);
            assert_eq!((p.src, p.dst, p.tcp_flags), (own, node.pod(own), TcpFlags::RST));
        }
        // The gateway is nobody's on other nodes.
        let to_gateway = N1.pod_to(ip("169.254.1.1")).echo_request(1, 1, b"x");
        w.absorbed(&UPLINK, &N1.encapsulate(&to_gateway), "to-gateway");
    });
}
