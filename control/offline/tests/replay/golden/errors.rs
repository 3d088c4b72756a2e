//! ICMP errors: source and quoted packet are translated to the addresses that the receiver knows, in both directions.

use heddle_wire::TcpFlags;
use heddle_wire::testing::Packet;

use super::{CLIENT, Family, HOST, WEB, by_host, from, play};
use crate::script::step;

/// Returns type and code of "port unreachable" in this family.
fn port_unreachable(f: &Family) -> (u8, u8) {
    if f.client.is_v4() { (3, 3) } else { (1, 4) }
}

/// Returns "fragmentation needed" or "packet too big", with the next hop's MTU.
fn too_big(f: &Family, base: &Packet, quoted: &[u8]) -> Vec<u8> {
    if f.client.is_v4() {
        base.icmp_error(3, 4, 1400, quoted)
    } else {
        base.icmp_error(2, 0, 1400, quoted)
    }
}

/// Returns "time exceeded".
fn time_exceeded(f: &Family, base: &Packet, quoted: &[u8]) -> Vec<u8> {
    base.icmp_error(if f.client.is_v4() { 11 } else { 3 }, 0, 0, quoted)
}

#[test]
fn errors_about_tcp_through_a_cluster_ip() {
    play("errors_about_tcp_through_a_cluster_ip", |f| {
        let there = from(10, f.client, f.service).tcp(40_020, 80, TcpFlags::SYN, 1, 0, b"");
        let back = from(20, f.web, f.client).tcp(8080, 40_020, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
        let seen_by_web = from(10, f.client, f.web)
            .ttl(63)
            .tcp(40_020, 8080, TcpFlags::SYN, 1, 0, b"");
        let seen_by_client =
            from(20, f.service, f.client)
                .ttl(63)
                .tcp(80, 40_020, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
        vec![
            step("a connection", CLIENT, there),
            step("its answer", WEB, back),
            step(
                "the server reports that a segment was too large: the client receives it from the Service",
                WEB,
                too_big(f, &from(20, f.web, f.client), &seen_by_web),
            ),
            step(
                "the client reports the same about an answer: the error quotes the server's own address",
                CLIENT,
                too_big(f, &from(10, f.client, f.service), &seen_by_client),
            ),
            step(
                "an error to another pod than the sender of the quoted packet belongs to no connection",
                WEB,
                time_exceeded(f, &from(20, f.web, f.closed), &seen_by_web),
            ),
        ]
    });
}

#[test]
fn errors_of_the_client() {
    play("errors_of_the_client", |f| {
        let (kind, code) = port_unreachable(f);
        let udp_back = from(20, f.service, f.client).ttl(63).udp(53, 40_021, b"answer");
        let sctp_back = from(20, f.service, f.client)
            .ttl(63)
            .sctp(99, 40_022, 7, b"\x02\x00\x00\x04");
        let error = |about: &[u8]| from(10, f.client, f.service).icmp_error(kind, code, 0, about);
        vec![
            step(
                "a datagram through a ClusterIP",
                CLIENT,
                from(10, f.client, f.service).udp(40_021, 53, b"query"),
            ),
            step(
                "its answer",
                WEB,
                from(20, f.web, f.client).udp(5353, 40_021, b"answer"),
            ),
            step(
                "the client has closed its port: the error quotes the server's own address and port",
                CLIENT,
                error(&udp_back),
            ),
            step(
                "SCTP through the ClusterIP",
                CLIENT,
                from(10, f.client, f.service).sctp(40_022, 99, 7, b"\x01\x00\x00\x04"),
            ),
            step(
                "its answer",
                WEB,
                from(20, f.web, f.client).sctp(9999, 40_022, 7, b"\x02\x00\x00\x04"),
            ),
            step("an error about it", CLIENT, error(&sctp_back)),
            step(
                "an error directly to the server about a packet that it did not send to the client directly",
                CLIENT,
                from(10, f.client, f.web).icmp_error(
                    kind,
                    code,
                    0,
                    &from(20, f.web, f.client).ttl(63).udp(5353, 40_021, b"answer"),
                ),
            ),
        ]
    });
}

#[test]
fn errors_of_routers_and_about_pings() {
    play("errors_of_routers_and_about_pings", |f| {
        let (kind, code) = port_unreachable(f);
        let out = from(10, f.client, f.outside);
        let router = if f.client.is_v4() {
            "192.0.2.254"
        } else {
            "2001:db8::fe"
        };
        let router = by_host(heddle_wire::testing::ip(router), f.client);
        let ping = from(10, f.client, f.web).ttl(63).echo_request(91, 1, b"ping");
        vec![
            step(
                "a segment to the outside",
                CLIENT,
                out.tcp(40_023, 443, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "an error of a router on its path, which the kernel routes to the host port, keeps its source",
                HOST,
                time_exceeded(f, &router, &out.ttl(1).tcp(40_023, 443, TcpFlags::SYN, 1, 0, b"")),
            ),
            step("a ping", CLIENT, from(10, f.client, f.web).echo_request(91, 1, b"ping")),
            step(
                "an error about the ping is matched by its identifier",
                WEB,
                from(20, f.web, f.client).icmp_error(kind, code, 0, &ping),
            ),
            step(
                "an error about an error is dropped (RFC 1122 section 3.2.2)",
                WEB,
                from(20, f.web, f.client).icmp_error(
                    kind,
                    code,
                    0,
                    &from(10, f.client, f.web).icmp_error(kind, code, 0, &ping),
                ),
            ),
        ]
    });
}

#[test]
fn errors_of_a_pod_through_its_own_service() {
    play("errors_of_a_pod_through_its_own_service", |f| {
        let own = from(10, f.client, f.own_service);
        let seen = from(10, f.hairpin, f.client)
            .ttl(63)
            .tcp(40_024, 8080, TcpFlags::SYN, 1, 0, b"");
        vec![
            step("to itself", CLIENT, own.tcp(40_024, 80, TcpFlags::SYN, 1, 0, b"")),
            step(
                "the server, which is the same pod, reports that the segment was too large",
                CLIENT,
                too_big(f, &from(10, f.client, f.hairpin), &seen),
            ),
        ]
    });
}
