//! Nodes that are reached without a tunnel.

use std::sync::Arc;

use heddle_tables::{FrontendKind, RemoteNode, Unreachable};
use heddle_wire::testing::{Packet, ip, mac};
use heddle_wire::{Ip, MacAddr, TcpFlags, parse};

use crate::nodes::{self, N1, N2, N3, ROUTER};
use crate::nodes_addresses::outside;
use crate::nodes_forwarded::{ANY, BALANCER, balance, client, ends, forget, serve};
use crate::tables::{A, B, C, HOST, Party, UPLINK, UPLINK_MTU};
use crate::world::{World, worlds};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;

fn plain(src: heddle_wire::Ip, dst: heddle_wire::Ip) -> Packet {
    Packet::new(ROUTER, UPLINK.mac, src, dst)
}

#[test]
fn pods_and_nodes_reach_each_other_with_their_own_addresses() {
    worlds(|w| {
        for own in [A.v4(), A.v6()] {
            let there = N2.pod(own);
            let out = w.sent_plain(&A, ROUTER, &A.to(there).partial().tcp(1000, 80, SYN, 1, 0, b""));
            let p = parse(&out, out.len()).unwrap();
            assert_eq!((p.src, p.dst, p.ttl), (own, there, 63));
            w.pass(&UPLINK, &A, &plain(there, own).tcp(80, 1000, SYN | ACK, 1, 2, b""));
            w.pass(&UPLINK, &B, &plain(there, B.ip(own)).udp(1000, 53, b"x"));
            w.sent_plain(&B, ROUTER, &B.to(there).udp(53, 1000, b"y"));
        }
        // The node's own processes, in both directions.
        w.pass(&UPLINK, &HOST, &plain(N2.pod(HOST.v4()), HOST.v4()).udp(1000, 53, b"x"));
        w.sent_plain(&HOST, ROUTER, &HOST.to(N2.pod(HOST.v4())).udp(53, 1000, b"y"));
        w.sent_plain(&A, ROUTER, &A.to(N2.address()).udp(1000, 53, b"x"));
        w.pass(&UPLINK, &A, &plain(N2.address(), A.v4()).udp(53, 1000, b"y"));
    });
}

#[test]
fn the_whole_mtu_of_the_uplink_is_used() {
    worlds(|w| {
        let largest = usize::from(UPLINK_MTU) - 28;
        w.sent_plain(&A, ROUTER, &A.to(N2.pod(A.v4())).udp(1000, 53, &vec![7; largest]));
        let (_, p) = w.answered(
            &A,
            &A.to(N2.pod(A.v4())).udp(1000, 53, &vec![7; largest + 1]),
            "too-big",
        );
        assert_eq!(p.icmp_type, 3);
    });
}

#[test]
fn a_connection_survives_the_change_between_tunnel_and_direct_routing() {
    worlds(|w| {
        let there = N1.pod(A.v4());
        w.sent(&A, &N1, &A.to(there).tcp(1000, 80, SYN, 1, 0, b""));
        w.received(&N1, &B, &N1.pod_to(B.v4()).tcp(2000, 80, SYN, 1, 0, b""));
        let mut direct = nodes::path(&N2);
        for path in [direct, nodes::path(&N1)] {
            let by_tunnel = path.unwrap().outer.is_some();
            nodes::set_node(&mut w.tables, &N1, path);
            w.raise_uplink();
            // Whoever sends first: the pod that answers here, and the pod that asked there.
            let answer = B.to(there).tcp(80, 2000, SYN | ACK, 1, 2, b"");
            let request = A.to(there).tcp(1000, 80, ACK, 2, 2, b"");
            let back = |to: heddle_wire::Ip, sport, dport| {
                if by_tunnel {
                    N1.encapsulate(&N1.pod_to(to).tcp(sport, dport, ACK, 1, 2, b"x"))
                } else {
                    plain(there, to).tcp(sport, dport, ACK, 1, 2, b"x")
                }
            };
            if by_tunnel {
                w.sent(&B, &N1, &answer);
                w.sent(&A, &N1, &request);
            } else {
                w.sent_plain(&B, ROUTER, &answer);
                w.sent_plain(&A, ROUTER, &request);
            }
            w.pass(&UPLINK, &A, &back(A.v4(), 80, 1000));
            w.pass(&UPLINK, &B, &back(B.v4(), 2000, 80));
            direct = path;
        }
        assert!(direct.is_ok());
        assert_eq!(w.connections(), 2);
    });
}

#[test]
fn connections_outlast_the_time_in_which_a_node_is_not_reached() {
    for node in [N1, N2] {
        worlds(|w| {
            let there = node.pod(A.v4());
            let by_tunnel = nodes::path(&node).unwrap().outer.is_some();
            let from_there = |to: heddle_wire::Ip, sport, dport, flags| {
                if by_tunnel {
                    node.encapsulate(&node.pod_to(to).tcp(sport, dport, flags, 1, 2, b""))
                } else {
                    plain(there, to).tcp(sport, dport, flags, 1, 2, b"")
                }
            };
            let here = |w: &mut World, from: &Party, frame: &[u8]| {
                if by_tunnel {
                    w.sent(from, &node, frame);
                } else {
                    w.sent_plain(from, ROUTER, frame);
                }
            };
            // One connection is opened here, and one there.
            let request = |flags| A.to(there).tcp(1000, 80, flags, 1, 2, b"");
            let answer = |flags| B.to(there).tcp(80, 2000, flags, 1, 2, b"");
            here(w, &A, &request(SYN));
            w.pass(&UPLINK, &B, &from_there(B.v4(), 2000, 80, SYN));
            for path in [Err(Unreachable::NoRoute), nodes::path(&node)] {
                nodes::set_node(&mut w.tables, &node, path);
                // Something else changes too, so that every connection is judged while the node is not reached.
                w.raise_uplink();
                for _ in 0..2 {
                    if path.is_err() {
                        w.dropped(&A, &request(ACK), "node-unreachable");
                        w.dropped(&B, &answer(SYN | ACK), "node-unreachable");
                    } else {
                        here(w, &B, &answer(SYN | ACK));
                        here(w, &A, &request(ACK));
                    }
                }
                if path.is_err() && !by_tunnel {
                    w.dropped(&UPLINK, &from_there(A.v4(), 80, 1000, ACK), "node-unreachable");
                    w.dropped(&UPLINK, &from_there(B.v4(), 2000, 80, ACK), "node-unreachable");
                } else if path.is_ok() {
                    w.pass(&UPLINK, &A, &from_there(A.v4(), 80, 1000, ACK));
                    w.pass(&UPLINK, &B, &from_there(B.v4(), 2000, 80, ACK));
                }
            }
            assert_eq!(w.connections(), 2);
        });
    }
}

#[test]
fn answers_from_a_range_without_masquerade_come_by_the_uplink() {
    worlds(|w| {
        for outside in ["203.0.113.200", "2001:db8:aa::7"].map(ip) {
            let own = A.ip(outside);
            let request = |flags| A.to(outside).tcp(1000, 80, flags, 1, 2, b"");
            let answer = |flags| plain(outside, own).tcp(80, 1000, flags, 1, 2, b"");
            // The kernel routes the request. Nothing but the answer shows that the kernel's network answers by the uplink.
            w.pass(&A, &HOST, &request(SYN));
            w.pass(&UPLINK, &A, &answer(SYN | ACK));
            w.pass(&A, &HOST, &request(ACK));
            let before = w.slow();
            w.pass(&UPLINK, &A, &answer(ACK));
            w.pass(&A, &HOST, &request(ACK));
            assert_eq!(w.slow(), before, "both directions are hits");
            // A change of the tables leaves both directions as they are.
            w.raise_uplink();
            w.set_policy(&A, None);
            w.dropped(&UPLINK, &answer(ACK), "policy-not-ready");
            w.set_policy(&A, Some(std::sync::Arc::new(heddle_tables::EndpointPolicy::open())));
            w.pass(&UPLINK, &A, &answer(ACK));
            w.pass(&A, &HOST, &request(ACK));
            // The answers may come by the kernel again.
            let by_kernel = |flags| {
                Packet::new(HOST.mac, heddle_wire::MacAddr::GATEWAY, outside, own).tcp(80, 1000, flags, 1, 2, b"")
            };
            w.pass(&HOST, &A, &by_kernel(ACK));
            w.pass(&UPLINK, &A, &answer(ACK));
            w.dropped(
                &B,
                &Packet::new(B.mac, heddle_wire::MacAddr::GATEWAY, outside, own).tcp(80, 1000, ACK, 1, 2, b""),
                "spoofed-source",
            );
        }
        assert_eq!(w.connections(), 2);
        // Other destinations get the node's address, so no answer to a pod's own comes by the uplink.
        for outside in ["203.0.113.20", "2001:db8:ab::7"].map(ip) {
            w.pass(&A, &HOST, &A.to(outside).tcp(1000, 80, SYN, 1, 0, b""));
            let answer = plain(outside, A.ip(outside)).tcp(80, 1000, SYN | ACK, 1, 2, b"");
            w.dropped(&UPLINK, &answer, "spoofed-source");
        }
    });
}

#[test]
fn without_a_tunnel_the_neighbor_s_mac_shows_who_forwarded_a_packet() {
    const NEIGHBOR: MacAddr = mac(0xd7);
    worlds(|w| {
        let mut path = nodes::path(&N2).unwrap();
        path.next_hop.dst = NEIGHBOR;
        let mut direct = RemoteNode::clone(w.tables.current().remote_node(N2.id).unwrap());
        (direct.path, direct.takes_forwarded) = (Ok(path), true);
        w.tables.set_remote_node(N2.id, Some(Arc::new(direct)));
        let vip = ip(BALANCER[0]);
        // To the node.
        balance(w, &N2);
        let frame = w.sent_plain(&UPLINK, NEIGHBOR, &outside(ROUTER, vip).tcp(1000, 80, SYN, 1, 0, b""));
        let p = parse(&frame, frame.len()).unwrap();
        assert_eq!(ends(&p), (client(vip), 1000, vip, 80));
        // From the node, to a balancer's address and to a node port of its own.
        forget(w, BALANCER);
        let none = |family: Ip| vec![N3.pod(family), A.ip(family)];
        serve(w, FrontendKind::LoadBalancer, BALANCER, &none, &[&A]);
        serve(w, FrontendKind::NodePort, ANY, &none, &[&A]);
        for (vip, sport) in (1000..1020).map(|n| (if n % 2 == 0 { vip } else { N2.address() }, n)) {
            let syn = outside(NEIGHBOR, vip).mss(9000).tcp(sport, 80, SYN, 1, 0, b"");
            let (frame, p) = w.pass(&UPLINK, &A, &syn);
            assert_eq!(ends(&p), (client(vip), sport, A.v4(), 8080));
            assert_eq!(frame[p.l4() + 22..p.l4() + 24], (UPLINK_MTU - 40).to_be_bytes());
            let (_, p) = w.pass(&A, &HOST, &A.to(client(vip)).tcp(8080, sport, SYN | ACK, 1, 2, b""));
            assert_eq!(ends(&p), (vip, 80, client(vip), sport));
        }
        // The same from a router is no node's: this node chooses among all.
        let mut elsewhere = 0;
        for sport in 2000..2030 {
            w.push(&UPLINK, &outside(ROUTER, vip).tcp(sport, 80, SYN, 1, 0, b""));
            w.step();
            elsewhere += usize::from(w.has_reached(&UPLINK));
            w.discard_changes();
            w.discard_outputs();
        }
        assert!(elsewhere > 5, "{elsewhere}");
        // The node's own packets are its own.
        let own = Packet::new(NEIGHBOR, UPLINK.mac, N2.pod(vip), C.v4());
        w.pass(&UPLINK, &C, &own.tcp(1000, 80, SYN, 1, 0, b""));
    });
}
