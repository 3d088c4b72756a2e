//! ICMP errors of routers between the nodes: they quote packets of the tunnel, and reach the sender of the inner packet.

use heddle_tables::{FrontendKind, NodePath};
use heddle_wire::testing::{Packet, assert_valid, ip};
use heddle_wire::{Ip, Proto, TcpFlags, parse, parse::quoted};

use crate::nodes::{self, CLIENT, N1, N2, N3, N4, Other, ROUTER};
use crate::services::serve;
use crate::tables::{A, B, HOST, Party, UPLINK, external};
use crate::world::{World, worlds};

const SYN: TcpFlags = TcpFlags::SYN;
pub const TOO_BIG: [(u8, u8); 2] = [(3, 4), (2, 0)];

/// Pushes a frame, and returns the packet of the tunnel that leaves by the uplink.
fn tunnelled(w: &mut World, from: &Party, frame: &[u8]) -> Vec<u8> {
    w.push(from, frame);
    w.step();
    let outer = w.pop(&UPLINK);
    w.discard_changes();
    outer
}

/// Returns the part of a packet that Linux quotes (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4), Ethernet header included.
fn quote(outer: &[u8]) -> &[u8] {
    let limit = if is_v4(outer) { 576 - 28 } else { 1280 - 48 };
    &outer[..outer.len().min(14 + limit)]
}

fn is_v4(outer: &[u8]) -> bool {
    outer[12..14] == [8, 0]
}

/// Returns a packet of a router between the nodes.
fn router(outer: &[u8]) -> Packet {
    let (router, own) = match is_v4(outer) {
        true => ("203.0.113.1", HOST.v4()),
        false => ("2001:db8:ffff::1", HOST.v6()),
    };
    Packet::new(ROUTER, UPLINK.mac, ip(router), own)
}

/// Returns the router's error about a packet of the tunnel.
pub fn error(outer: &[u8], [v4, v6]: [(u8, u8); 2], word: u32) -> Vec<u8> {
    let (kind, code) = if is_v4(outer) { v4 } else { v6 };
    router(outer).icmp_error(kind, code, word, quote(outer))
}

/// Returns the MTU in an error.
fn mtu_of(frame: &[u8]) -> u32 {
    let at = parse(frame, frame.len()).unwrap().l4() + 4;
    u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

fn overhead(node: &Other) -> u32 {
    if node.address().is_v4() { 50 } else { 70 }
}

#[test]
fn too_big_for_the_underlay_is_too_big_for_the_pod() {
    worlds(|w| {
        for node in [N1, N3] {
            for own in [A.v4(), A.v6()] {
                let there = node.pod(own);
                let sent = A.to(there).udp(1000, 53, &[7; 1370]);
                let outer = tunnelled(w, &A, &sent);
                let (out, p) = w.pass(&UPLINK, &A, &error(&outer, TOO_BIG, 1400));
                let (kind, code) = TOO_BIG[usize::from(!own.is_v4())];
                assert_eq!(
                    (p.icmp_type, p.icmp_code, mtu_of(&out)),
                    (kind, code, 1400 - overhead(&node))
                );
                assert_eq!((p.src, p.dst, p.ttl), (there, own, 63));
                let inner = quoted(&out, &p).unwrap();
                assert_eq!((inner.src, inner.dst, inner.sport, inner.dport), (own, there, 1000, 53));
                // As much as both routers quote. The TTL is the one with which the packet left.
                let at = usize::from(inner.l3_offset);
                let rest = inner.l4_offset as usize - at;
                assert_eq!(out[at + rest..], sent[14 + rest..][..out.len() - at - rest]);
                assert!(out.len() - at >= 400, "{}", out.len() - at);
            }
        }
    });
}

#[test]
fn the_error_is_translated_like_the_flow_s_replies() {
    worlds(|w| {
        // A pod that sends to a Service sees the Service.
        let backends = [(N1.pod(A.v4()), 8080), (N1.pod(A.v6()), 8080)];
        serve(w, &[]);
        for (vip, backend) in ["10.96.0.10", "fd96::10"].map(ip).into_iter().zip(backends) {
            w.tables.set_frontend(crate::tables::frontend(
                &vip.to_string(),
                Proto::UDP,
                80,
                &[backend],
                true,
            ));
            w.publish();
            let sent = A.to(vip).udp(1000, 80, &[7; 1300]);
            let outer = tunnelled(w, &A, &sent);
            let (out, p) = w.pass(&UPLINK, &A, &error(&outer, TOO_BIG, 1340));
            let inner = quoted(&out, &p).unwrap();
            assert_eq!((p.src, inner.dst, inner.dport, mtu_of(&out)), (vip, vip, 80, 1290));
        }
        // The node's own processes, and answers of a pod to a pod of another node.
        let outer = tunnelled(w, &HOST, &HOST.to(N1.pod(HOST.v4())).udp(1000, 53, &[7; 1300]));
        let (_, p) = w.pass(&UPLINK, &HOST, &error(&outer, TOO_BIG, 1340));
        assert_eq!((p.src, p.dst), (N1.pod(HOST.v4()), HOST.v4()));
        w.received(&N1, &B, &N1.pod_to(B.v4()).udp(1000, 53, b"query"));
        let outer = tunnelled(w, &B, &B.to(N1.pod(B.v4())).udp(53, 1000, &[7; 1300]));
        let (_, p) = w.pass(&UPLINK, &B, &error(&outer, TOO_BIG, 1340));
        assert_eq!((p.src, p.dst), (N1.pod(B.v4()), B.v4()));
    });
}

#[test]
fn a_client_outside_gets_the_error_from_the_address_that_it_asked() {
    worlds(|w| {
        let backends = [(N1.pod(HOST.v4()), 8080)];
        let frontend = external(FrontendKind::NodePort, "0.0.0.0", Proto::TCP, 30080, &backends, false);
        w.tables.set_frontend(std::sync::Arc::new(frontend));
        w.publish();
        let from_client = Packet::new(ROUTER, UPLINK.mac, ip(CLIENT), HOST.v4());
        tunnelled(w, &UPLINK, &from_client.tcp(1000, 30080, SYN, 1, 0, b""));
        let large = from_client.tcp(1000, 30080, TcpFlags::ACK, 2, 2, &[7; 1380]);
        let outer = tunnelled(w, &UPLINK, &large);
        w.push(&UPLINK, &error(&outer, TOO_BIG, 1400));
        w.step();
        w.changed(&["uplink rx 1", "uplink forwarded 1", "uplink tx 1"]);
        let out = w.pop(&UPLINK);
        assert_valid(&out);
        let p = parse(&out, out.len()).unwrap();
        assert_eq!((p.src, p.dst, mtu_of(&out)), (HOST.v4(), ip(CLIENT), 1350));
        let inner = quoted(&out, &p).unwrap();
        assert_eq!(
            (inner.src, inner.sport, inner.dst, inner.dport),
            (ip(CLIENT), 1000, HOST.v4(), 30080)
        );
    });
}

#[test]
fn a_node_that_the_network_does_not_reach_is_a_host_that_cannot_be_reached() {
    worlds(|w| {
        for node in [N1, N3] {
            let kinds = [[(3, 0), (1, 0)], [(3, 1), (1, 3)], [(3, 13), (1, 1)], [(11, 0), (3, 0)]];
            for own in [A.v4(), A.v6()] {
                let outer = tunnelled(w, &A, &A.to(node.pod(own)).tcp(1000, 80, SYN, 1, 0, b""));
                for kind in kinds {
                    let (_, p) = w.pass(&UPLINK, &A, &error(&outer, kind, 0));
                    let expected = if own.is_v4() { (3, 1) } else { (1, 3) };
                    assert_eq!((p.icmp_type, p.icmp_code), expected);
                }
                // Errors without news about the path: a port, a header, an assembly.
                for kind in [[(3, 3), (1, 4)], [(12, 0), (4, 0)], [(11, 1), (3, 1)]] {
                    w.dropped(&UPLINK, &error(&outer, kind, 0), "tunnel-error-refused");
                }
            }
        }
    });
}

#[test]
fn an_mtu_is_accepted_within_bounds() {
    worlds(|w| {
        for node in [N1, N3] {
            let Ok(NodePath { mtu, .. }) = nodes::path(&node) else {
                panic!("no path to {node:?}");
            };
            for own in [A.v4(), A.v6()] {
                let least = if own.is_v4() { 552 } else { 1280 };
                let outer = tunnelled(w, &A, &A.to(node.pod(own)).udp(1000, 53, &[7; 1300]));
                for (inner, accepted) in [
                    (least - 1, false),
                    (least, true),
                    (u32::from(mtu) - 1, true),
                    (u32::from(mtu), false),
                    (9000, false),
                ] {
                    let frame = error(&outer, TOO_BIG, inner + overhead(&node));
                    if accepted {
                        let (out, _) = w.pass(&UPLINK, &A, &frame);
                        assert_eq!(mtu_of(&out), inner);
                    } else {
                        w.dropped(&UPLINK, &frame, "tunnel-error-refused");
                    }
                }
                w.dropped(&UPLINK, &error(&outer, TOO_BIG, 0), "tunnel-error-refused");
                w.dropped(&UPLINK, &error(&outer, TOO_BIG, 40), "tunnel-error-refused");
            }
        }
    });
}

#[test]
fn an_error_about_a_packet_that_this_node_did_not_send_is_dropped() {
    worlds(|w| {
        for node in [N1, N3] {
            let own = A.v4();
            let there = node.pod(own);
            let outer = tunnelled(w, &A, &A.to(there).udp(1000, 53, &[7; 1300]));
            let about = |outer: &[u8]| error(outer, TOO_BIG, 1400);
            let l4 = parse(&outer, outer.len()).unwrap().l4();
            let changed = |at: usize, octet: u8| {
                let mut outer = outer.clone();
                outer[at] = octet;
                about(&outer)
            };
            // Another tunnel, another protocol inside, another flow.
            w.dropped(&UPLINK, &changed(l4 + 8 + 6, 99), "icmp-quote-malformed");
            w.dropped(&UPLINK, &changed(l4 + 8, 0), "icmp-quote-malformed");
            w.dropped(&UPLINK, &changed(l4 + 16 + 13, 6), "icmp-quote-malformed");
            w.dropped(&UPLINK, &changed(l4 + 16 + 14, 0x55), "icmp-quote-malformed");
            w.dropped(&UPLINK, &changed(l4 + 16 + 14 + 20, 9), "icmp-without-flow");
            // A pod of another node than the one that the packet went to.
            let other = if node.id == N1.id { N3 } else { N1 };
            let mut elsewhere = outer.clone();
            elsewhere[l4 + 16 + 14 + 16..][..4].copy_from_slice(&other.pod(own).v4_octets());
            w.dropped(&UPLINK, &about(&elsewhere), "spoofed-source");
            // No port of the tunnel.
            w.dropped(&UPLINK, &changed(l4 + 2, 9), "icmp-without-flow");
            // A damaged error.
            let mut damaged = about(&outer);
            *damaged.last_mut().unwrap() ^= 1;
            w.dropped(&UPLINK, &damaged, "tunnel-error-refused");
            // Nothing behind the UDP header, as routers of RFC 792 quote.
            let short = |octets: usize| {
                router(&outer).icmp_error(TOO_BIG[usize::from(!is_v4(&outer))].0, 4, 1400, &outer[..l4 + octets])
            };
            for octets in [8, 16, 16 + 14 + 19] {
                w.dropped(&UPLINK, &short(octets), "icmp-quote-truncated");
            }
        }
        // Nodes without a tunnel, and nodes that are not reached.
        for node in [N2, N4] {
            let to = Packet::new(ROUTER, UPLINK.mac, HOST.v4(), node.address());
            let outer = to.udp(
                50_000,
                4789,
                &[&nodes::header(77)[..], &A.to(N1.pod(A.v4())).udp(1, 2, b"x")].concat(),
            );
            w.dropped(&UPLINK, &error(&outer, TOO_BIG, 1400), "icmp-without-flow");
        }
    });
}

#[test]
fn extensions_behind_the_quote_are_no_part_of_it() {
    worlds(|w| {
        let outer = tunnelled(w, &A, &A.to(N1.pod(A.v4())).udp(1000, 53, &[7; 1300]));
        // RFC 4884 section 5.1: 128 octets of the packet, whose number in words is in the sixth octet, then an extension.
        let extended = [&outer[..14 + 128], &[0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0, 0][..]].concat();
        let frame = router(&outer).icmp_error(3, 4, 32 << 16 | 1400, &extended);
        let (out, p) = w.pass(&UPLINK, &A, &frame);
        let quoted: Ip = quoted(&out, &p).unwrap().dst;
        assert_eq!(
            (quoted, p.payload_len(), mtu_of(&out)),
            (N1.pod(A.v4()), 128 - 50, 1350)
        );
    });
}
