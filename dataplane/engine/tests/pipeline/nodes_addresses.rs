//! Nodes' own addresses, and clients outside of the cluster.

use heddle_tables::{Backends, FrontendKind, NextHopId};
use heddle_wire::testing::{Packet, ip};
use heddle_wire::{Ip, Parsed, Proto, TcpFlags, ether, parse};

use crate::nodes::{CLIENT, N1, N3, N4, ROUTER, STRANGER};
use crate::tables::{A, B, HOST, MASQUERADE_PORTS, UPLINK, external};
use crate::world::{World, worlds};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const CLIENT_V6: &str = "2001:db8:ffff::7";

#[test]
fn the_node_s_processes_reach_pods_of_other_nodes() {
    worlds(|w| {
        let there = N1.pod(A.v4());
        let (_, p) = w.sent(&HOST, &N1, &HOST.to(there).partial().tcp(1000, 80, SYN, 1, 0, b""));
        assert_eq!(
            (p.src, p.sport),
            (HOST.v4(), 1000),
            "the other node knows this node's address"
        );
        w.received(&N1, &HOST, &N1.pod_to(HOST.v4()).tcp(80, 1000, SYN | ACK, 1, 2, b""));
        // An address that only this node knows, as a bridge has, is replaced.
        let bridge = Packet::new(HOST.mac, heddle_wire::MacAddr::GATEWAY, ip("172.17.0.1"), there);
        let (_, p) = w.sent(&HOST, &N1, &bridge.tcp(1000, 80, SYN, 1, 0, b""));
        assert_eq!(p.src, HOST.v4());
        assert!(in_range(p.sport), "{}", p.sport);
        let answer = N1.pod_to(HOST.v4()).tcp(80, p.sport, SYN | ACK, 1, 2, b"");
        let (_, p) = w.received(&N1, &HOST, &answer);
        assert_eq!((p.dst, p.dport), (ip("172.17.0.1"), 1000));
    });
}

#[test]
fn pods_and_nodes_reach_each_other_without_translation() {
    worlds(|w| {
        // A pod and another node's processes, opened by either side.
        let (_, p) = w.sent(&A, &N1, &A.to(N1.address()).tcp(1000, 10250, SYN, 1, 0, b""));
        assert_eq!((p.src, p.dst), (A.v4(), N1.address()));
        w.received(
            &N1,
            &A,
            &N1.inside(N1.address(), A.v4()).tcp(10250, 1000, SYN | ACK, 1, 2, b""),
        );
        w.received(
            &N1,
            &B,
            &N1.inside(N1.address(), B.v4()).tcp(2000, 8080, SYN, 1, 0, b""),
        );
        w.sent(&B, &N1, &B.to(N1.address()).tcp(8080, 2000, SYN | ACK, 1, 2, b""));
        // A pod of another node and this node's processes.
        w.received(&N3, &HOST, &N3.pod_to(HOST.v4()).udp(1000, 53, b"x"));
        w.sent(&HOST, &N3, &HOST.to(N3.pod(HOST.v4())).udp(53, 1000, b"y"));
    });
}

#[test]
fn a_connection_to_a_node_that_begins_to_run_heddle_goes_on_by_the_kernel() {
    worlds(|w| {
        w.pass(&A, &HOST, &A.to(N4.address()).tcp(1000, 22, SYN, 1, 0, b""));
        crate::nodes::set_node(&mut w.tables, &N4, crate::nodes::path(&N1));
        w.raise_uplink();
        w.set_policy(&A, w.tables.current().endpoint(A.endpoint).unwrap().policy.clone());
        w.pass(&A, &HOST, &A.to(N4.address()).tcp(1000, 22, ACK, 2, 2, b"x"));
        assert_eq!(w.connections(), 1);
    });
}

fn in_range(port: u16) -> bool {
    (MASQUERADE_PORTS.0..=MASQUERADE_PORTS.1).contains(&port)
}

/// Returns a packet of a client outside, as it comes in by the uplink.
pub fn outside(neighbor: heddle_wire::MacAddr, dst: Ip) -> Packet {
    let client = if dst.is_v4() { ip(CLIENT) } else { ip(CLIENT_V6) };
    Packet::new(neighbor, UPLINK.mac, client, dst)
}

/// Makes the node port 30080 with these backends.
pub fn node_port(w: &mut World, backends: &[Ip], local_only: bool) {
    for address in ["0.0.0.0", "::"] {
        let of_family: Vec<(Ip, u16)> = backends
            .iter()
            .filter(|backend| backend.is_v4() == ip(address).is_v4())
            .map(|backend| (*backend, 8080))
            .collect();
        let mut frontend = external(FrontendKind::NodePort, address, Proto::TCP, 30080, &of_family, false);
        if local_only {
            // As the compiler has it for externalTrafficPolicy: Local.
            frontend.inside = Some(Backends::new([], false));
        }
        w.tables.set_frontend(frontend.into());
    }
    w.publish();
}

/// Takes what left by the uplink outside of tunnels.
#[track_caller]
fn plain(w: &mut World, to: heddle_wire::MacAddr) -> Parsed {
    let out = w.pop(&UPLINK);
    assert_eq!(
        (ether::destination(&out), ether::source(&out)),
        (Some(to), Some(UPLINK.mac))
    );
    parse(&out, out.len()).unwrap()
}

#[test]
fn a_client_outside_reaches_a_local_backend_by_a_node_port() {
    worlds(|w| {
        node_port(w, &[A.v4(), A.v6()], true);
        for node in [HOST.v4(), HOST.v6()] {
            let (_, p) = w.pass(&UPLINK, &A, &outside(ROUTER, node).tcp(1000, 30080, SYN, 1, 0, b""));
            let client = outside(ROUTER, node);
            assert_eq!(
                (p.src, p.dst, p.dport),
                (parse_src(&client), A.ip(node), 8080),
                "the client is seen"
            );
            w.push(&A, &A.to(p.src).partial().tcp(8080, 1000, SYN | ACK, 1, 2, b""));
            w.step();
            w.changed(&["a rx 1", "a forwarded 1", "uplink tx 1"]);
            let p = plain(w, ROUTER);
            assert_eq!((p.src, p.sport, p.dport), (node, 30080, 1000));
        }
    });
}

fn parse_src(packet: &Packet) -> Ip {
    let frame = packet.udp(1, 2, b"");
    parse(&frame, frame.len()).unwrap().src
}

#[test]
fn a_client_behind_an_unknown_neighbor_is_answered_by_the_kernel_s_routes() {
    worlds(|w| {
        node_port(w, &[A.v4()], true);
        w.pass(
            &UPLINK,
            &A,
            &outside(STRANGER, HOST.v4()).tcp(1000, 30080, SYN, 1, 0, b""),
        );
        let (_, p) = w.pass(&A, &HOST, &A.to(ip(CLIENT)).tcp(8080, 1000, SYN | ACK, 1, 2, b""));
        assert_eq!((p.src, p.sport), (HOST.v4(), 30080));
        // When the neighbor that a connection came by is gone, its answers are the kernel's too.
        w.pass(
            &UPLINK,
            &A,
            &outside(ROUTER, HOST.v4()).tcp(1001, 30080, SYN, 1, 0, b""),
        );
        w.tables.set_next_hop(crate::nodes::ROUTER_HOP, None);
        w.tables.set_neighbor(ROUTER, None);
        w.raise_uplink();
        let (_, p) = w.pass(&A, &HOST, &A.to(ip(CLIENT)).tcp(8080, 1001, SYN | ACK, 1, 2, b""));
        assert_eq!((p.src, p.sport), (HOST.v4(), 30080));
        assert!(w.tables.current().next_hop(NextHopId::KERNEL).is_some());
    });
}

#[test]
fn a_client_outside_reaches_a_backend_on_another_node_as_this_node() {
    worlds(|w| {
        for (node, backend) in [(N1, N1.pod(HOST.v4())), (N3, N3.pod(HOST.v6()))] {
            node_port(w, &[backend], false);
            let own = HOST.ip(backend);
            w.push(&UPLINK, &outside(ROUTER, own).tcp(1000, 30080, SYN, 1, 0, b""));
            w.step();
            w.changed(&["uplink rx 1", "uplink forwarded 1", "uplink tx 1"]);
            let frame = w.pop(&UPLINK);
            let (_, p) = crate::nodes::opened(&frame, &node);
            assert_eq!((p.src, p.dst, p.dport), (own, backend, 8080));
            assert!(in_range(p.sport), "{}", p.sport);
            // The answer comes by the tunnel and leaves the way that the request came.
            let answer = node.pod_to(own).tcp(8080, p.sport, SYN | ACK, 1, 2, b"");
            w.push(&UPLINK, &node.encapsulate(&answer));
            w.step();
            w.changed(&["uplink rx 1", "uplink forwarded 1", "uplink tx 1"]);
            let p = plain(w, ROUTER);
            assert_eq!(
                (p.src, p.sport, p.dst, p.dport),
                (own, 30080, parse_src(&outside(ROUTER, own)), 1000)
            );
        }
    });
}

#[test]
fn a_backend_that_is_another_node_s_own_address_is_reached_by_the_kernel() {
    worlds(|w| {
        node_port(w, &[N1.address()], false);
        let (_, p) = w.pass(
            &UPLINK,
            &HOST,
            &outside(ROUTER, HOST.v4()).tcp(1000, 30080, SYN, 1, 0, b""),
        );
        assert_eq!((p.src, p.dst, p.dport), (HOST.v4(), N1.address(), 8080));
        // The answer comes plain, to a port that is heddle's.
        let answer = Packet::new(ROUTER, UPLINK.mac, N1.address(), HOST.v4());
        w.push(&UPLINK, &answer.tcp(8080, p.sport, SYN | ACK, 1, 2, b""));
        w.step();
        w.changed(&["uplink rx 1", "uplink forwarded 1", "uplink tx 1"]);
        let p = plain(w, ROUTER);
        assert_eq!((p.src, p.sport, p.dst), (HOST.v4(), 30080, ip(CLIENT)));
    });
}

#[test]
fn heddle_is_no_router_for_the_outside() {
    worlds(|w| {
        let from = |dst: &str| outside(ROUTER, ip(dst)).udp(1000, 53, b"x");
        // Pods of other nodes, other nodes, the outside, a Service's range without a Service.
        w.dropped(&UPLINK, &from(N1.pod), "no-route");
        w.dropped(&UPLINK, &from(N1.address), "no-route");
        w.dropped(&UPLINK, &from("203.0.113.9"), "no-route");
        w.dropped(&UPLINK, &from("10.96.9.9"), "unknown-destination");
        // The tunnel is for the pods of this node, and its own addresses.
        let by_tunnel = |dst: &str| N1.encapsulate(&N1.pod_to(ip(dst)).udp(1000, 53, b"x"));
        w.dropped(&UPLINK, &by_tunnel(N3.pod), "no-route");
        w.dropped(&UPLINK, &by_tunnel("203.0.113.9"), "no-route");
        // It does not answer in place of others either.
        for dst in ["10.0.3.5", N4.address] {
            let segment = N1.pod_to(ip(dst)).tcp(1000, 80, ACK, 5, 6, b"x");
            w.dropped(&UPLINK, &N1.encapsulate(&segment), "no-route");
            let last_hop = N1.pod_to(ip(dst)).ttl(1).udp(1000, 53, b"x");
            w.dropped(&UPLINK, &N1.encapsulate(&last_hop), "no-route");
            let segment = outside(ROUTER, ip(dst)).tcp(1000, 80, ACK, 5, 6, b"x");
            w.dropped(&UPLINK, &segment, "no-route");
        }
        // A pod's or the node's address from outside is spoofed.
        for src in ["10.0.0.2", "192.0.2.1", "10.0.0.99", N1.pod] {
            let spoofed = Packet::new(ROUTER, UPLINK.mac, ip(src), HOST.v4());
            w.dropped(&UPLINK, &spoofed.udp(1000, 53, b"x"), "spoofed-source");
        }
    });
}

#[test]
fn errors_about_connections_of_the_uplink_reach_their_senders() {
    worlds(|w| {
        // A router on the underlay's far side says that a pod's packet was too big: inside the tunnel.
        let (sent, _) = w.sent(&A, &N1, &A.to(N1.pod(A.v4())).udp(1000, 53, b"x"));
        let error = N1.inside(N1.address(), A.v4()).icmp_error(3, 4, 1300, &sent);
        let (out, p) = w.received(&N1, &A, &error);
        assert_eq!((p.src, p.icmp_type), (N1.address(), 3));
        assert!(heddle_wire::parse::quoted(&out, &p).is_ok());
        // A router on the way to a client says so to the node port.
        node_port(w, &[B.v4()], true);
        w.pass(
            &UPLINK,
            &B,
            &outside(ROUTER, HOST.v4()).tcp(1000, 30080, SYN, 1, 0, b""),
        );
        w.push(&B, &B.to(ip(CLIENT)).tcp(8080, 1000, SYN | ACK, 1, 2, b""));
        w.step();
        let sent = w.pop(&UPLINK);
        w.discard_changes();
        let router = Packet::new(ROUTER, UPLINK.mac, ip("198.51.100.1"), HOST.v4());
        let (out, p) = w.pass(&UPLINK, &B, &router.icmp_error(3, 4, 1300, &sent));
        let quoted = heddle_wire::parse::quoted(&out, &p).unwrap();
        assert_eq!((p.dst, quoted.src, quoted.sport), (B.v4(), B.v4(), 8080));
    });
}
