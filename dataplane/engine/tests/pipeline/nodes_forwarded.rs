//! Direct server return: connections of clients outside, at the node that they come to and at the node of their backend.

use std::sync::Arc;

use heddle_flow::FlowState;
use heddle_tables::{Frontend, FrontendKey, FrontendKind, RemoteNode};
use heddle_wire::testing::{Packet, assert_valid, ip};
use heddle_wire::{Ip, MacAddr, Parsed, Proto, TcpFlags, parse};

use crate::nodes::{self, CLIENT, N1, N2, N3, N4, Other, ROUTER};
use crate::nodes_addresses::outside;
use crate::tables::{A, B, HOST, OVERLAY_MTU, Party, UPLINK, external, isolate, list};
use crate::world::{World, worlds};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
pub const BALANCER: [&str; 2] = ["203.0.113.10", "2001:db8:5::10"];
pub const ANY: [&str; 2] = ["0.0.0.0", "::"];
/// Each kind of frontend: its address in the tables, and the address that a client asks at this node.
const KINDS: [(FrontendKind, [&str; 2], [&str; 2]); 3] = [
    (FrontendKind::LoadBalancer, BALANCER, BALANCER),
    (FrontendKind::ExternalIp, BALANCER, BALANCER),
    (FrontendKind::NodePort, ANY, ["192.0.2.1", "2001:db8::1"]),
];

/// Serves frontends of a kind with direct server return, in both families. `here` are the backends that are pods of this node.
pub fn serve(w: &mut World, kind: FrontendKind, at: [&str; 2], to: &dyn Fn(Ip) -> Vec<Ip>, here: &[&Party]) {
    for addr in at {
        let family = ip(addr);
        let all: Vec<(Ip, u16)> = to(family).into_iter().map(|ip| (ip, 8080)).collect();
        let own: Vec<(Ip, u16)> = here.iter().map(|pod| (pod.ip(family), 8080)).collect();
        for proto in [Proto::TCP, Proto::UDP] {
            let mut frontend = external(kind, addr, proto, 80, &all, false);
            frontend.direct_return = true;
            frontend.here = (!own.is_empty()).then(|| Arc::new(list(&own, true)));
            w.tables.set_frontend(Arc::new(frontend));
        }
    }
    w.publish();
}

/// Serves the load balancer's address, with a pod of another node as the only backend.
pub fn balance(w: &mut World, node: &Other) {
    serve(
        w,
        FrontendKind::LoadBalancer,
        BALANCER,
        &|family| vec![node.pod(family)],
        &[],
    );
}

/// Serves the load balancer's address, with a pod of this node as the only backend.
fn balance_here(w: &mut World, pod: &Party) {
    serve(
        w,
        FrontendKind::LoadBalancer,
        BALANCER,
        &|family| vec![pod.ip(family)],
        &[pod],
    );
}

/// Makes a node that is reached by a tunnel one of Flannel, which does not run heddle.
fn without_heddle(w: &mut World, node: &Other) {
    let mut flannel = RemoteNode::clone(w.tables.current().remote_node(node.id).unwrap());
    (flannel.takes_own, flannel.takes_forwarded) = (false, false);
    w.tables.set_remote_node(node.id, Some(Arc::new(flannel)));
}

fn edit(w: &mut World, kind: FrontendKind, at: &str, change: impl FnOnce(&mut Frontend)) {
    let key = external(kind, at, Proto::TCP, 80, &[], false).key;
    let mut frontend = Frontend::clone(w.tables.current().frontend_at(key).unwrap());
    change(&mut frontend);
    w.tables.set_frontend(Arc::new(frontend));
    w.publish();
}

pub fn forget(w: &mut World, at: [&str; 2]) {
    for (addr, proto) in at.into_iter().flat_map(|at| [(at, Proto::TCP), (at, Proto::UDP)]) {
        let (ip, port) = (ip(addr), 80);
        w.tables.remove_frontend(FrontendKey { ip, proto, port });
    }
    w.forget_connections();
}

/// The client outside, of the family of an address.
pub fn client(family: Ip) -> Ip {
    ip(if family.is_v4() { CLIENT } else { "2001:db8:ffff::7" })
}

/// A packet of the client as another node forwards it in the tunnel.
fn forwarded(by: &Other, dst: Ip) -> Packet {
    by.inside(client(dst), dst)
}

pub fn ends(p: &Parsed) -> (Ip, u16, Ip, u16) {
    (p.src, p.sport, p.dst, p.dport)
}

#[test]
fn a_client_s_packets_go_to_the_backend_s_node_as_they_are() {
    worlds(|w| {
        for (kind, at, asked) in KINDS {
            serve(w, kind, at, &|family| vec![N1.pod(family)], &[]);
            for vip in asked.map(ip) {
                let seen = (client(vip), 1000, vip, 80);
                let (_, p) = w.sent(&UPLINK, &N1, &outside(ROUTER, vip).tcp(1000, 80, SYN, 1, 0, b""));
                assert_eq!((ends(&p), p.ttl), (seen, 63), "{kind:?}");
                // No SYN-ACK comes by this node, and the client's ACK is one of the fast path.
                let slow = w.slow();
                for flags in [ACK, ACK | TcpFlags::PSH] {
                    let (_, p) = w.sent(&UPLINK, &N1, &outside(ROUTER, vip).tcp(1000, 80, flags, 2, 2, b"GET"));
                    assert_eq!(ends(&p), seen);
                }
                assert_eq!((w.slow(), w.states()), (slow, vec![FlowState::Established]));
                let (_, p) = w.sent(&UPLINK, &N1, &outside(ROUTER, vip).udp(1000, 80, b"x"));
                assert_eq!(ends(&p), seen);
                w.forget_connections();
            }
            forget(w, at);
        }
    });
}

#[test]
fn the_backend_s_node_translates_and_answers_the_client_by_the_kernel() {
    worlds(|w| {
        let at_n1 = [N1.address, "2001:db8::11"];
        w.tables
            .set_address(ip(at_n1[1]), w.tables.current().address(N1.address()));
        for (kind, at, asked) in [
            (FrontendKind::LoadBalancer, BALANCER, BALANCER),
            (FrontendKind::ExternalIp, BALANCER, BALANCER),
            (FrontendKind::NodePort, ANY, at_n1),
        ] {
            // The choice among all is another node's pod: this node takes its own.
            serve(w, kind, at, &|family| vec![N3.pod(family), A.ip(family)], &[&A]);
            for vip in asked.map(ip) {
                for sport in 1000..1020 {
                    let (_, p) = w.received(&N1, &A, &forwarded(&N1, vip).tcp(sport, 80, SYN, 1, 0, b""));
                    assert_eq!(ends(&p), (client(vip), sport, A.ip(vip), 8080), "{kind:?}");
                    let answer = A
                        .to(client(vip))
                        .partial()
                        .mss(60_000)
                        .tcp(8080, sport, SYN | ACK, 1, 2, b"");
                    let (frame, p) = w.pass(&A, &HOST, &answer);
                    assert_eq!(ends(&p), (vip, 80, client(vip), sport));
                    // The client's packets must fit the tunnel to this node, although the answers do not take it.
                    let headers = if vip.is_v4() { 40 } else { 60 };
                    let mss = OVERLAY_MTU - headers;
                    assert_eq!(frame[p.l4() + 22..p.l4() + 24], mss.to_be_bytes());
                    assert_valid(&frame);
                }
                let (_, p) = w.received(&N1, &A, &forwarded(&N1, vip).udp(1000, 80, b"x"));
                assert_eq!(ends(&p), (client(vip), 1000, A.ip(vip), 8080));
                let (_, p) = w.pass(&A, &HOST, &A.to(client(vip)).udp(8080, 1000, b"y"));
                assert_eq!(ends(&p), (vip, 80, client(vip), 1000));
            }
            forget(w, at);
        }
    });
}

#[test]
fn both_nodes_choose_the_same_backend() {
    worlds(|w| {
        let vip = ip(BALANCER[0]);
        let all = |family: Ip| vec![A.ip(family), B.ip(family), N1.pod(family), N3.pod(family)];
        let (mut here, mut there) = (0, 0);
        for sport in 1000..1060 {
            serve(w, FrontendKind::LoadBalancer, BALANCER, &all, &[&A, &B]);
            w.push(&UPLINK, &outside(ROUTER, vip).tcp(sport, 80, SYN, 1, 0, b""));
            w.step();
            w.discard_changes();
            let chosen = [&A, &B].into_iter().find(|pod| w.has_reached(pod));
            let Some(pod) = chosen else {
                w.discard_outputs();
                there += 1;
                continue;
            };
            let first = w.pop(pod);
            let p = parse(&first, first.len()).unwrap();
            assert_eq!(
                (p.src, p.sport),
                (client(vip), sport),
                "a local backend sees the client too"
            );
            w.forget_connections();
            // The same connection, forwarded by another node.
            w.received(&N1, pod, &forwarded(&N1, vip).tcp(sport, 80, SYN, 1, 0, b""));
            here += 1;
        }
        assert!(here > 15 && there > 15, "{here} here, {there} elsewhere");
    });
}

#[test]
fn nodes_that_cannot_take_it_get_a_masqueraded_connection() {
    worlds(|w| {
        let vip = ip(BALANCER[0]);
        // A router leads to the node, which would get the packet back.
        balance(w, &N2);
        let frame = w.sent_plain(&UPLINK, ROUTER, &outside(ROUTER, vip).tcp(1000, 80, SYN, 1, 0, b""));
        let p = parse(&frame, frame.len()).unwrap();
        assert_eq!((p.src, p.dst, p.dport), (HOST.v4(), N2.pod(vip), 8080));
        // Flannel's node, behind a tunnel: it does not run heddle.
        without_heddle(w, &N1);
        balance(w, &N1);
        let (_, p) = w.sent(&UPLINK, &N1, &outside(ROUTER, vip).tcp(1001, 80, SYN, 1, 0, b""));
        assert_eq!((p.src, p.dst), (ip("169.254.2.2"), N1.pod(vip)));
        // A node that is not reached, and without the option.
        balance(w, &N4);
        w.dropped(
            &UPLINK,
            &outside(ROUTER, vip).tcp(1002, 80, SYN, 1, 0, b""),
            "node-unreachable",
        );
        balance(w, &N3);
        edit(w, FrontendKind::LoadBalancer, BALANCER[0], |f| f.direct_return = false);
        let (_, p) = w.sent(&UPLINK, &N3, &outside(ROUTER, vip).tcp(1003, 80, SYN, 1, 0, b""));
        assert_eq!((p.src, p.dst), (HOST.v4(), N3.pod(vip)));
    });
}

#[test]
fn clients_that_are_not_outside_are_masqueraded_as_ever() {
    worlds(|w| {
        let vip = ip(BALANCER[0]);
        balance(w, &N1);
        let (_, p) = w.sent(&A, &N1, &A.to(vip).tcp(1000, 80, SYN, 1, 0, b""));
        assert_eq!((p.src, p.dst), (HOST.v4(), N1.pod(vip)), "a pod");
        let (_, p) = w.sent(&HOST, &N1, &HOST.to(vip).tcp(1000, 80, SYN, 1, 0, b""));
        assert_eq!((p.src, p.dst), (HOST.v4(), N1.pod(vip)), "the node itself");
        let other = Packet::new(ROUTER, UPLINK.mac, N3.address(), ip(BALANCER[1]));
        let (_, p) = w.sent(&UPLINK, &N1, &other.tcp(1000, 80, SYN, 1, 0, b""));
        assert_eq!((p.src, p.dst), (HOST.v6(), N1.pod(ip(BALANCER[1]))), "another node");
        let behind = Packet::new(HOST.mac, MacAddr::GATEWAY, client(vip), vip);
        let (_, p) = w.sent(&HOST, &N1, &behind.tcp(1001, 80, SYN, 1, 0, b""));
        assert_eq!(p.src, HOST.v4(), "a client that comes by the kernel");
    });
}

#[test]
fn a_displaced_connection_goes_on_and_an_unknown_one_is_reset_by_the_backend_s_node() {
    worlds(|w| {
        let vip = ip(BALANCER[0]);
        balance(w, &N1);
        let data = outside(ROUTER, vip).tcp(1000, 80, ACK, 5, 5, b"x");
        let (_, p) = w.sent(&UPLINK, &N1, &data);
        assert_eq!(ends(&p), (client(vip), 1000, vip, 80));
        assert_eq!(w.states(), [FlowState::Established]);
        // At the backend's node: the reset goes to the client, not to the node that forwarded the segment.
        forget(w, BALANCER);
        balance_here(w, &A);
        let (_, p) = w.received(&N1, &HOST, &forwarded(&N1, vip).tcp(1001, 80, ACK, 5, 5, b"x"));
        assert_eq!((ends(&p), p.tcp_flags), ((vip, 80, client(vip), 1001), RST));
        // The same at a node port of the other node.
        serve(w, FrontendKind::NodePort, ANY, &|family| vec![A.ip(family)], &[&A]);
        let (_, p) = w.received(&N1, &HOST, &forwarded(&N1, N1.address()).tcp(1001, 80, ACK, 5, 5, b"x"));
        assert_eq!((ends(&p), p.tcp_flags), ((N1.address(), 80, client(vip), 1001), RST));
    });
}

#[test]
fn a_node_forwards_nothing_but_clients_outside_to_external_frontends() {
    worlds(|w| {
        let vip = ip(BALANCER[0]);
        balance_here(w, &A);
        crate::services::serve(w, &[&A]);
        let mut spoofed = |by: &Other, src: Ip, dst: Ip| {
            let inner = by.inside(src, dst).tcp(1000, 80, SYN, 1, 0, b"");
            w.dropped(&UPLINK, &by.encapsulate(&inner), "spoofed-source");
        };
        spoofed(&N1, client(vip), A.v4());
        spoofed(&N1, client(vip), ip("10.96.0.10"));
        spoofed(&N1, client(vip), HOST.v4());
        spoofed(&N1, client(vip), N2.address());
        spoofed(&N1, client(vip), ip("203.0.113.77"));
        spoofed(&N1, N3.pod(vip), vip);
        spoofed(&N1, B.v4(), vip);
        spoofed(&N1, HOST.v4(), vip);
        spoofed(&N1, ip("fe80::7"), ip(BALANCER[1]));
        // Its own address has no such port here.
        let inner = forwarded(&N1, N1.address()).tcp(1000, 80, SYN, 1, 0, b"");
        w.dropped(&UPLINK, &N1.encapsulate(&inner), "no-route");
        // The node is known, but does not run heddle.
        without_heddle(w, &N1);
        w.publish();
        let inner = forwarded(&N1, vip).tcp(1000, 80, SYN, 1, 0, b"");
        w.dropped(&UPLINK, &N1.encapsulate(&inner), "spoofed-source");
    });
}

#[test]
fn the_backend_s_policy_and_the_source_ranges_see_the_client() {
    worlds(|w| {
        let vip = ip(BALANCER[0]);
        balance_here(w, &A);
        w.set_policy(&A, Some(isolate(heddle_tables::Direction::Ingress, &[])));
        let inner = forwarded(&N1, vip).tcp(1000, 80, SYN, 1, 0, b"");
        w.dropped(&UPLINK, &N1.encapsulate(&inner), "policy-denied-ingress");
        w.set_policy(&A, Some(Arc::new(heddle_tables::EndpointPolicy::open())));
        let only = |range: &str| Some([heddle_tables::Prefix::new(ip(range), 24)].into());
        edit(w, FrontendKind::LoadBalancer, BALANCER[0], |f| {
            f.source_ranges = only("192.0.2.0");
        });
        w.dropped(&UPLINK, &N1.encapsulate(&inner), "service-source-range");
        edit(w, FrontendKind::LoadBalancer, BALANCER[0], |f| {
            f.source_ranges = only("198.51.100.0");
        });
        w.received(&N1, &A, &inner);
        // This node has no backend any more.
        edit(w, FrontendKind::LoadBalancer, BALANCER[0], |f| f.here = None);
        let inner = forwarded(&N1, vip).tcp(1001, 80, SYN, 1, 0, b"");
        w.dropped(&UPLINK, &N1.encapsulate(&inner), "service-no-local-endpoint");
    });
}

#[test]
fn a_change_of_the_tables_keeps_the_connection_at_both_nodes() {
    worlds(|w| {
        let vip = ip(BALANCER[0]);
        balance(w, &N1);
        w.sent(&UPLINK, &N1, &outside(ROUTER, vip).tcp(1000, 80, SYN, 1, 0, b""));
        w.raise_uplink();
        let (_, p) = w.sent(&UPLINK, &N1, &outside(ROUTER, vip).tcp(1000, 80, ACK, 2, 2, b"x"));
        assert_eq!(ends(&p), (client(vip), 1000, vip, 80));
        assert_eq!(w.connections(), 1);
        // The node is away for a while.
        nodes::set_node(&mut w.tables, &N1, Err(heddle_tables::Unreachable::NoRoute));
        w.raise_uplink();
        let data = outside(ROUTER, vip).tcp(1000, 80, ACK, 3, 2, b"x");
        w.dropped(&UPLINK, &data, "node-unreachable");
        nodes::set_node(&mut w.tables, &N1, nodes::path(&N1));
        w.raise_uplink();
        w.sent(&UPLINK, &N1, &data);
        // The backend's node.
        forget(w, BALANCER);
        balance_here(w, &A);
        w.received(&N1, &A, &forwarded(&N1, vip).tcp(1000, 80, SYN, 1, 0, b""));
        for _ in 0..2 {
            w.raise_uplink();
            let (_, p) = w.pass(&A, &HOST, &A.to(client(vip)).tcp(8080, 1000, SYN | ACK, 1, 2, b""));
            assert_eq!(ends(&p), (vip, 80, client(vip), 1000));
            w.raise_uplink();
            w.received(&N1, &A, &forwarded(&N1, vip).tcp(1000, 80, ACK, 2, 2, b"x"));
        }
        // The client's packets come by another node, or by this one's own uplink.
        w.received(&N3, &A, &forwarded(&N3, vip).tcp(1000, 80, ACK, 3, 2, b"x"));
        w.pass(&UPLINK, &A, &outside(ROUTER, vip).tcp(1000, 80, ACK, 4, 2, b"x"));
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn errors_about_answers_reach_the_pod_by_the_node_that_the_client_asked() {
    worlds(|w| {
        let vip = ip(BALANCER[0]);
        balance_here(w, &A);
        w.received(&N1, &A, &forwarded(&N1, vip).udp(1000, 80, b"x"));
        let (answer, _) = w.pass(&A, &HOST, &A.to(client(vip)).udp(8080, 1000, b"answer"));
        // A router's error goes to the frontend's address, and so to the node that attracts it. Here as it forwards it.
        let error = N1.inside(ip("203.0.113.1"), vip).icmp_error(3, 4, 1400, &answer);
        let (frame, p) = w.received(&N1, &A, &error);
        let inner = heddle_wire::parse::quoted(&frame, &p).unwrap();
        assert_eq!(p.dst, A.v4());
        assert_eq!(
            (inner.src, inner.sport, inner.dst, inner.dport),
            (A.v4(), 8080, client(vip), 1000)
        );
        // At that node: the error is of the connection that it forwards.
        forget(w, BALANCER);
        balance(w, &N1);
        w.sent(&UPLINK, &N1, &outside(ROUTER, vip).udp(1000, 80, b"x"));
        let error = Packet::new(ROUTER, UPLINK.mac, ip("203.0.113.1"), vip).icmp_error(3, 4, 1400, &answer);
        let (frame, p) = w.sent(&UPLINK, &N1, &error);
        let inner = heddle_wire::parse::quoted(&frame, &p).unwrap();
        assert_eq!((p.src, p.dst), (ip("203.0.113.1"), vip));
        assert_eq!((inner.src, inner.sport, inner.dst), (vip, 80, client(vip)));
    });
}
