//! Echo connections, which have their identifier as the port, and ICMP errors that belong to a flow.

use heddle_wire::parse::quoted;
use heddle_wire::rewrite::Tuple;
use heddle_wire::testing::{Packet, ip};
use heddle_wire::{Ip, MacAddr, TcpFlags, parse};

use crate::forwarding::addresses;
use crate::services::serve;
use crate::tables::{A, B, C, HOST, Party};
use crate::world::worlds;

/// Port unreachable, or time exceeded, of the address's family.
fn unreachable(from: &Party, src: Ip, dst: Ip, quote: &[u8]) -> Vec<u8> {
    let (kind, code) = if src.is_v4() { (3, 3) } else { (1, 4) };
    Packet::new(from.mac, MacAddr::GATEWAY, src, dst).icmp_error(kind, code, 0, quote)
}

#[test]
fn echo_goes_there_and_back() {
    worlds(|w| {
        for (a, b) in addresses(&A).into_iter().zip(addresses(&B)) {
            let (_, p) = w.pass(&A, &B, &A.to(b).echo_request(7, 1, b"ping"));
            assert_eq!((p.src, p.dst, p.sport), (a, b, 7));
            let (_, p) = w.pass(&B, &A, &B.to(a).echo_reply(7, 1, b"ping"));
            assert_eq!((p.src, p.dst, p.dport), (b, a, 7));
            // Another identifier is another flow; nobody asked for this reply.
            w.dropped(&B, &B.to(a).echo_reply(8, 1, b"ping"), "icmp-without-flow");
        }
    });
}

#[test]
fn an_error_follows_the_flow_that_it_quotes() {
    worlds(|w| {
        for (a, b) in addresses(&A).into_iter().zip(addresses(&B)) {
            let (question, _) = w.pass(&A, &B, &A.to(b).udp(1000, 53, b"question"));
            let (out, p) = w.pass(&B, &A, &unreachable(&B, b, a, &question));
            assert_eq!((p.src, p.dst, p.ttl), (b, a, 63));
            let inner = quoted(&out, &p).unwrap();
            assert_eq!(
                inner.tuple(),
                Tuple {
                    src: a,
                    dst: b,
                    sport: 1000,
                    dport: 53
                }
            );
        }
    });
}

#[test]
fn an_error_through_a_service_names_the_service() {
    worlds(|w| {
        serve(w, &[&B]);
        for vip in ["10.96.0.10", "fd96::10"].map(ip) {
            let a = A.ip(vip);
            for udp in [true, false] {
                let packet = A.to(vip);
                let frame = if udp {
                    packet.udp(1000, 80, b"question")
                } else {
                    packet.tcp(1000, 80, TcpFlags::SYN, 1, 0, b"")
                };
                let (sent, _) = w.pass(&A, &B, &frame);
                let (out, p) = w.pass(&B, &A, &unreachable(&B, B.ip(vip), a, &sent));
                assert_eq!((p.src, p.dst), (vip, a));
                let inner = quoted(&out, &p).unwrap();
                assert_eq!(
                    inner.tuple(),
                    Tuple {
                        src: a,
                        dst: vip,
                        sport: 1000,
                        dport: 80
                    }
                );
                // The quote is a valid packet again, checksums included: but for its TTL, it is what A sent.
                let mut quote = frame[..14].to_vec();
                quote.extend(&out[usize::from(inner.l3_offset)..]);
                assert!(parse(&quote, quote.len()).is_ok());
                heddle_wire::testing::assert_valid(&quote);
            }
        }
    });
}

#[test]
fn a_router_on_the_way_keeps_its_name() {
    worlds(|w| {
        let outside = ip("198.51.100.7");
        let (sent, _) = w.pass(&A, &HOST, &A.to(outside).udp(1000, 33434, b"trace"));
        let router = ip("203.0.113.1");
        let exceeded = Packet::new(HOST.mac, MacAddr::GATEWAY, router, A.v4()).icmp_error(11, 0, 0, &sent);
        let (_, p) = w.pass(&HOST, &A, &exceeded);
        assert_eq!((p.src, p.dst), (router, A.v4()));
    });
}

#[test]
fn an_error_that_belongs_to_no_flow_is_dropped() {
    worlds(|w| {
        let never_sent = A.to(B.v4()).udp(1000, 53, b"question");
        w.dropped(&B, &unreachable(&B, B.v4(), A.v4(), &never_sent), "icmp-without-flow");
        let (sent, _) = w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"question"));
        // From a pod that the flow does not touch, about it: under its own address, and under B's.
        w.dropped(&C, &unreachable(&C, C.v4(), A.v4(), &sent), "icmp-without-flow");
        w.dropped(&C, &unreachable(&C, B.v4(), A.v4(), &sent), "spoofed-source");
        // To somebody else than who sent what is quoted.
        w.dropped(&B, &unreachable(&B, B.v4(), C.v4(), &sent), "icmp-without-flow");
        // No error answers an error.
        let packet = Packet::new(B.mac, MacAddr::GATEWAY, B.v4(), A.v4()).ttl(1);
        w.dropped(&B, &packet.icmp_error(3, 3, 0, &sent), "ttl-exceeded");
    });
}

#[test]
fn an_error_of_a_flow_that_policy_has_ended_is_dropped() {
    worlds(|w| {
        let (sent, _) = w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"question"));
        w.set_policy(&B, Some(crate::tables::isolate(heddle_tables::Direction::Ingress, &[])));
        w.dropped(&B, &unreachable(&B, B.v4(), A.v4(), &sent), "policy-denied-ingress");
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn an_echo_error_is_matched_by_its_identifier() {
    worlds(|w| {
        let outside = ip("198.51.100.7");
        let (sent, _) = w.pass(&A, &HOST, &A.to(outside).ttl(9).echo_request(7, 1, b"trace"));
        let exceeded = Packet::new(HOST.mac, MacAddr::GATEWAY, ip("203.0.113.1"), A.v4()).icmp_error(11, 0, 0, &sent);
        w.pass(&HOST, &A, &exceeded);
    });
}

#[test]
fn other_messages_are_dropped() {
    worlds(|w| {
        w.dropped(&A, &A.to(B.v4()).icmp(13, 0, [0; 4], &[0; 12]), "unsupported-icmp");
        w.dropped(&A, &A.to(B.v6()).icmp(139, 0, [0; 4], &[0; 12]), "unsupported-icmp");
    });
}

#[test]
fn a_request_with_the_identifier_0_does_not_pass_as_a_reply() {
    use heddle_tables::Direction;
    worlds(|w| {
        w.set_policy(&A, Some(crate::tables::isolate(Direction::Ingress, &[])));
        for (a, b) in addresses(&A).into_iter().zip(addresses(&B)) {
            w.pass(&A, &B, &A.to(b).echo_request(0, 1, b"ping"));
            w.pass(&B, &A, &B.to(a).echo_reply(0, 1, b"ping"));
            w.dropped(&B, &B.to(a).echo_request(0, 1, b"ping"), "policy-denied-ingress");
            w.pass(&B, &A, &B.to(a).echo_reply(0, 2, b"ping"));
        }
    });
}

#[test]
fn redirects_and_source_quench_are_not_forwarded() {
    worlds(|w| {
        let (question, _) = w.pass(&A, &B, &A.to(B.v4()).udp(1000, 53, b"question"));
        for kind in [4, 5] {
            let message = B.to(A.v4()).icmp_error(kind, 0, 0, &question);
            w.dropped(&B, &message, "unsupported-icmp");
        }
        w.pass(&B, &A, &unreachable(&B, B.v4(), A.v4(), &question));
    });
}
