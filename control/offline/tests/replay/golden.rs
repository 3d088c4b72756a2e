//! The golden packets: each protocol, both families, both directions, errors, fragments and refusals.

mod errors;
mod fragments;
mod frontends;
mod nodes;

use heddle_wire::testing::{Packet, ip};
use heddle_wire::{Ip, MacAddr, TcpFlags};

use super::script::{Step, step, transcript};

const CLIENT: &str = "pod:shop/client";
const WEB: &str = "pod:shop/web";
const HOST: &str = "host";
const UPLINK: &str = "uplink";

/// Addresses of one family.
struct Family {
    client: Ip,
    web: Ip,
    closed: Ip,
    service: Ip,
    own_service: Ip,
    empty: Ip,
    /// A Service with the backend of `service`, of type LoadBalancer with `externalTrafficPolicy: Local`, and its load
    /// balancer's address.
    front: Ip,
    balancer: Ip,
    /// A Service with session affinity and two endpoints.
    sticky: Ip,
    /// A Service whose backend is no pod.
    plain: Ip,
    /// A Service with `internalTrafficPolicy: Local` and an endpoint on another node.
    elsewhere: Ip,
    /// A Service of type NodePort whose backend is `remote`.
    far: Ip,
    node: Ip,
    other_node: Ip,
    /// The pods of node-2 and node-3.
    remote: Ip,
    remote_3: Ip,
    outside: Ip,
    /// The source that a pod sees when it reaches itself through a Service.
    hairpin: Ip,
    masquerade: Ip,
}

fn families() -> [Family; 2] {
    [
        Family {
            client: ip("10.1.0.10"),
            web: ip("10.1.0.20"),
            closed: ip("10.1.0.30"),
            service: ip("10.96.0.80"),
            own_service: ip("10.96.0.81"),
            empty: ip("10.96.0.82"),
            front: ip("10.96.0.83"),
            balancer: ip("198.51.100.5"),
            sticky: ip("10.96.0.84"),
            plain: ip("10.96.0.85"),
            elsewhere: ip("10.96.0.86"),
            far: ip("10.96.0.87"),
            node: ip("192.0.2.1"),
            other_node: ip("192.0.2.2"),
            remote: ip("10.2.0.20"),
            remote_3: ip("10.3.0.20"),
            outside: ip("203.0.113.7"),
            hairpin: ip("169.254.1.1"),
            masquerade: ip("10.1.0.2"),
        },
        Family {
            client: ip("fd00:1::10"),
            web: ip("fd00:1::20"),
            closed: ip("fd00:1::30"),
            service: ip("fd00:96::80"),
            own_service: ip("fd00:96::81"),
            empty: ip("fd00:96::82"),
            front: ip("fd00:96::83"),
            balancer: ip("2001:db8:5::5"),
            sticky: ip("fd00:96::84"),
            plain: ip("fd00:96::85"),
            elsewhere: ip("fd00:96::86"),
            far: ip("fd00:96::87"),
            node: ip("2001:db8::1"),
            other_node: ip("2001:db8::2"),
            remote: ip("fd00:2::20"),
            remote_3: ip("fd00:3::20"),
            outside: ip("2001:db8:ffff::7"),
            hairpin: ip("fd00:1::2"),
            masquerade: ip("fd00:1::2"),
        },
    ]
}

/// Returns a packet that a pod sends. Its MAC contains the pod's IPv4 address.
fn from(pod: u8, src: Ip, dst: Ip) -> Packet {
    Packet::new(MacAddr([2, 0, 10, 1, 0, pod]), MacAddr::GATEWAY, src, dst)
}

/// Returns a packet that comes in by the host port: from a process of the node, or routed by its kernel.
fn by_host(src: Ip, dst: Ip) -> Packet {
    Packet::new(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr::GATEWAY, src, dst)
}

/// Runs the steps of both families and compares the transcripts with the snapshots.
fn play(name: &str, steps: impl Fn(&Family) -> Vec<Step>) {
    for (family, v) in families().iter().zip(["v4", "v6"]) {
        insta::assert_snapshot!(format!("{name}_{v}"), transcript(&steps(family)));
    }
}

#[test]
fn tcp_through_a_cluster_ip() {
    play("tcp_through_a_cluster_ip", |f| {
        let there = |dst| from(10, f.client, dst);
        let back = || from(20, f.web, f.client);
        vec![
            step(
                "the first packet chooses a backend",
                CLIENT,
                there(f.service).tcp(40_000, 80, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "its answer comes from the Service",
                WEB,
                back().tcp(8080, 40_000, TcpFlags::SYN | TcpFlags::ACK, 9, 2, b""),
            ),
            step(
                "data there",
                CLIENT,
                there(f.service).tcp(40_000, 80, TcpFlags::ACK, 2, 10, b"GET /"),
            ),
            step("data back", WEB, back().tcp(8080, 40_000, TcpFlags::ACK, 10, 7, b"odd")),
            step(
                "the TTL expires: the sender receives an error that quotes the Service's address",
                CLIENT,
                there(f.service).ttl(1).tcp(40_000, 80, TcpFlags::ACK, 7, 13, b""),
            ),
            step(
                "the server resets it",
                WEB,
                back().tcp(8080, 40_000, TcpFlags::RST | TcpFlags::ACK, 13, 7, b""),
            ),
        ]
    });
}

#[test]
fn udp_and_errors_about_it() {
    play("udp_and_errors_about_it", |f| {
        let asked = from(10, f.client, f.service).udp(40_001, 53, b"query");
        let seen = from(10, f.client, f.web).ttl(63).udp(40_001, 5353, b"query");
        let (unreachable, port) = if f.client.is_v4() { (3, 3) } else { (1, 4) };
        vec![
            step("a datagram through a ClusterIP", CLIENT, asked),
            step(
                "its answer",
                WEB,
                from(20, f.web, f.client).udp(5353, 40_001, b"an answer"),
            ),
            step(
                "the server's error is translated: source and quoted packet have the Service's address",
                WEB,
                from(20, f.web, f.client).icmp_error(unreachable, port, 0, &seen),
            ),
            step(
                "an error about a packet that was never sent",
                WEB,
                from(20, f.web, f.client).icmp_error(
                    unreachable,
                    port,
                    0,
                    &from(10, f.client, f.web).ttl(63).udp(1, 2, b"never"),
                ),
            ),
            step(
                "a datagram to the client's port from another source port opens a connection of its own",
                WEB,
                from(20, f.web, f.client).udp(5354, 40_001, b"hello"),
            ),
        ]
    });
}

#[test]
fn sctp_through_a_cluster_ip() {
    play("sctp_through_a_cluster_ip", |f| {
        vec![
            step(
                "to the server: the CRC is kept",
                CLIENT,
                from(10, f.client, f.service).sctp(40_002, 99, 7, b"\x01\x00\x00\x04"),
            ),
            step(
                "back to the client",
                WEB,
                from(20, f.web, f.client).sctp(9999, 40_002, 8, b"\x02\x00\x00\x04"),
            ),
            step(
                "a veth leaves the CRC at zero: heddle computes it, to the server",
                CLIENT,
                from(10, f.client, f.service)
                    .partial()
                    .sctp(40_002, 99, 7, b"\x0a\x00\x00\x04"),
            ),
            step(
                "back to the client",
                WEB,
                from(20, f.web, f.client)
                    .partial()
                    .sctp(9999, 40_002, 8, b"\x0b\x00\x00\x04"),
            ),
        ]
    });
}

#[test]
fn ping_and_the_gateway() {
    play("ping_and_the_gateway", |f| {
        vec![
            step(
                "a ping to a pod",
                CLIENT,
                from(10, f.client, f.web).echo_request(77, 1, b"are you there"),
            ),
            step(
                "its answer",
                WEB,
                from(20, f.web, f.client).echo_reply(77, 1, b"are you there"),
            ),
            step(
                "an echo reply without a request",
                WEB,
                from(20, f.web, f.client).echo_reply(78, 1, b"well"),
            ),
            step(
                "a ping to a ClusterIP: nothing answers there",
                CLIENT,
                from(10, f.client, f.service).echo_request(79, 1, b"anybody"),
            ),
        ]
    });
}

#[test]
fn a_pod_through_its_own_service() {
    play("a_pod_through_its_own_service", |f| {
        vec![
            step(
                "to itself: it sees another source, so that the answer comes back through heddle",
                CLIENT,
                from(10, f.client, f.own_service).tcp(40_003, 80, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "back to the client",
                CLIENT,
                from(10, f.client, f.hairpin).tcp(8080, 40_003, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b""),
            ),
        ]
    });
}

#[test]
fn refused_and_denied() {
    play("refused_and_denied", |f| {
        let to = |dst| from(10, f.client, dst);
        vec![
            step(
                "no endpoints: a reset",
                CLIENT,
                to(f.empty).tcp(40_004, 80, TcpFlags::SYN, 5, 0, b""),
            ),
            step(
                "no endpoints: port unreachable",
                CLIENT,
                to(f.empty).udp(40_004, 53, b"x"),
            ),
            step(
                "no endpoints, SCTP: port unreachable",
                CLIENT,
                to(f.empty).sctp(40_004, 99, 7, b"\x01\x00\x00\x04"),
            ),
            step(
                "the only endpoint is on another node and the traffic policy is Local: dropped",
                CLIENT,
                to(f.elsewhere).tcp(40_004, 80, TcpFlags::SYN, 5, 0, b""),
            ),
            step(
                "no such port",
                CLIENT,
                to(f.service).tcp(40_004, 81, TcpFlags::SYN, 5, 0, b""),
            ),
            step(
                "denied by policy",
                CLIENT,
                to(f.closed).tcp(40_005, 80, TcpFlags::SYN, 5, 0, b""),
            ),
            step(
                "another pod's address as source",
                CLIENT,
                from(10, f.web, f.client).udp(1, 2, b"x"),
            ),
            step(
                "another pod's MAC as source",
                CLIENT,
                from(20, f.client, f.web).udp(1, 2, b"x"),
            ),
            step(
                "to the outside: by the host port",
                CLIENT,
                to(f.outside).tcp(40_006, 443, TcpFlags::SYN, 5, 0, b""),
            ),
        ]
    });
}
