//! Services by other ways than a pod's connection to a ClusterIP: node ports, load balancers, clients on the node and
//! outside; and session affinity.

use heddle_wire::TcpFlags;

use super::{CLIENT, HOST, WEB, by_host, from, play};
use crate::script::step;

const SYN_ACK: TcpFlags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0);

#[test]
fn node_ports_and_load_balancers() {
    play("node_ports_and_load_balancers", |f| {
        vec![
            step(
                "a pod to a node port of its node",
                CLIENT,
                from(10, f.client, f.node).tcp(40_030, 30_080, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "its answer comes from the node",
                WEB,
                from(20, f.web, f.client).tcp(8080, 40_030, SYN_ACK, 1, 2, b""),
            ),
            step("UDP", CLIENT, from(10, f.client, f.node).udp(40_031, 30_053, b"query")),
            step(
                "its answer",
                WEB,
                from(20, f.web, f.client).udp(5353, 40_031, b"answer"),
            ),
            step(
                "SCTP to the load balancer's address: heddle serves it without the load balancer",
                CLIENT,
                from(10, f.client, f.balancer).sctp(40_032, 99, 7, b"\x01\x00\x00\x04"),
            ),
            step(
                "its answer",
                WEB,
                from(20, f.web, f.client).sctp(9999, 40_032, 7, b"\x02\x00\x00\x04"),
            ),
            step(
                "a port of the node that no Service has is the node's own",
                CLIENT,
                from(10, f.client, f.node).tcp(40_033, 22, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "a node port of another node, which serves it",
                CLIENT,
                from(10, f.client, f.other_node).tcp(40_034, 30_080, TcpFlags::SYN, 1, 0, b""),
            ),
        ]
    });
}

#[test]
fn from_the_node_and_from_outside() {
    play("from_the_node_and_from_outside", |f| {
        // The source ports of masqueraded connections. They are constant, because the replay's hash has a fixed seed.
        let (plain, outsider) = if f.node.is_v4() {
            (62_183, 61_675)
        } else {
            (61_296, 62_995)
        };
        vec![
            step(
                "a process of the node through a ClusterIP: the source is kept, because pods reach the node by heddle",
                HOST,
                by_host(f.node, f.service).tcp(40_035, 80, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "its answer",
                WEB,
                from(20, f.web, f.node).tcp(8080, 40_035, SYN_ACK, 1, 2, b""),
            ),
            step(
                "to a Service whose backend is no pod: masqueraded to an address of heddle, so that the answer comes back through it",
                HOST,
                by_host(f.node, f.plain).tcp(40_036, 80, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "its answer",
                HOST,
                by_host(f.other_node, f.masquerade).tcp(8080, plain, SYN_ACK, 1, 2, b""),
            ),
            step(
                "a client outside through the load balancer's address: traffic policy Local keeps the source",
                HOST,
                by_host(f.outside, f.balancer).tcp(40_037, 80, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "the answer",
                WEB,
                from(20, f.web, f.outside).tcp(8080, 40_037, SYN_ACK, 1, 2, b""),
            ),
            step(
                "a client outside to a ClusterIP is masqueraded",
                HOST,
                by_host(f.outside, f.service).tcp(40_038, 80, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "so its answer comes back through heddle",
                WEB,
                from(20, f.web, f.masquerade).tcp(8080, outsider, SYN_ACK, 1, 2, b""),
            ),
        ]
    });
}

#[test]
fn one_client_port_to_two_services_of_one_backend() {
    play("one_client_port_to_two_services_of_one_backend", |f| {
        let syn = |to| from(10, f.client, to).tcp(40_060, 80, TcpFlags::SYN, 1, 0, b"");
        let other = if f.client.is_v4() { OTHER_PORT.0 } else { OTHER_PORT.1 };
        vec![
            step("to the first Service", CLIENT, syn(f.service)),
            step(
                "to the second Service: its tuple would be the same at the backend, so the source port changes",
                CLIENT,
                syn(f.front),
            ),
            step(
                "the answer of the first",
                WEB,
                from(20, f.web, f.client).tcp(8080, 40_060, SYN_ACK, 1, 2, b""),
            ),
            step(
                "the answer of the second",
                WEB,
                from(20, f.web, f.client).tcp(8080, other, SYN_ACK, 1, 2, b""),
            ),
        ]
    });
}

/// The source port of the second connection, IPv4 and IPv6. It is constant, because the replay's hash has a fixed seed.
const OTHER_PORT: (u16, u16) = (48_944, 31_813);

#[test]
fn a_client_stays_with_its_backend() {
    play("a_client_stays_with_its_backend", |f| {
        let syn = |port| from(10, f.client, f.sticky).tcp(port, 80, TcpFlags::SYN, 1, 0, b"");
        vec![
            step("a first connection", CLIENT, syn(40_040)),
            step("each later one goes to the same backend", CLIENT, syn(40_041)),
            step("from any port", CLIENT, syn(40_049)),
            step(
                "nine seconds later: each connection restarts the timeout of ten seconds",
                CLIENT,
                syn(40_050),
            )
            .after(9),
            step("nine seconds later", CLIENT, syn(40_051)).after(9),
        ]
    });
}
