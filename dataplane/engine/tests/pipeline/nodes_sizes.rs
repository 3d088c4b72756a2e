//! Packets to other nodes that are larger than their path, and fragments.

use heddle_tables::{Endpoint, FrontendKind};
use heddle_wire::parse::quoted;
use heddle_wire::testing::{ip, reassemble};
use heddle_wire::{Proto, TcpFlags, parse, tcp};

use crate::nodes::{self, N1, N3};
use crate::tables::{A, B, HOST, OVERLAY_MTU, UPLINK, UPLINK_MTU, external};
use crate::world::worlds;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + n / 251) as u8).collect()
}

#[test]
fn segments_are_clamped_to_the_tunnel() {
    worlds(|w| {
        for (node, own, mss) in [
            (N1, A.v4(), OVERLAY_MTU - 40),
            (N1, A.v6(), OVERLAY_MTU - 60),
            (N3, A.v4(), OVERLAY_MTU - 20 - 40),
        ] {
            let syn = A.to(node.pod(own)).mss(60_000).tcp(1000, 80, TcpFlags::SYN, 1, 0, b"");
            let (out, p) = w.sent(&A, &node, &syn);
            assert_eq!(tcp::mss(&out, &p).unwrap().1, mss);
            let answer = node
                .pod_to(own)
                .mss(60_000)
                .tcp(80, 1000, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
            let (out, p) = w.received(&node, &A, &answer);
            assert_eq!(tcp::mss(&out, &p).unwrap().1, mss);
        }
    });
}

#[test]
fn a_packet_that_must_not_be_fragmented_gets_an_error_with_the_mtu_of_the_tunnel() {
    worlds(|w| {
        for (node, own, mtu) in [
            (N1, A.v4(), OVERLAY_MTU),
            (N1, A.v6(), OVERLAY_MTU),
            (N3, A.v6(), OVERLAY_MTU - 20),
        ] {
            let headers = if own.is_v4() { 28 } else { 48 };
            let fits = usize::from(mtu) - headers;
            w.push(&A, &A.to(node.pod(own)).partial().udp(1000, 53, &pattern(fits)));
            w.step();
            w.discard_changes();
            let frame = w.pop(&UPLINK);
            assert_eq!(frame.len(), usize::from(UPLINK_MTU) + 14, "it fills the uplink");
            nodes::opened(&frame, &node);
            let too_big = A.to(node.pod(own)).partial().udp(1000, 53, &pattern(fits + 1));
            let (out, p) = w.answered(&A, &too_big, "too-big");
            assert_eq!(u16::from_be_bytes([out[p.l4() + 6], out[p.l4() + 7]]), mtu);
            assert_eq!(quoted(&out, &p).unwrap().dst, node.pod(own));
        }
    });
}

#[test]
fn a_pod_behind_a_smaller_path_answers_the_other_node_by_the_tunnel() {
    worlds(|w| {
        let small = Endpoint {
            mtu: 1300,
            ..w.tables.current().endpoint(B.endpoint).unwrap().clone()
        };
        w.tables.set_endpoint(small);
        w.publish();
        for (node, own) in [(N1, B.v4()), (N3, B.v6())] {
            let frame = node.encapsulate(&node.pod_to(own).udp(1000, 53, &pattern(1350)));
            w.push(&UPLINK, &frame);
            w.step();
            w.changed(&["uplink rx 1", "uplink answered too-big 1", "uplink tx 1"]);
            let out = w.pop(&UPLINK);
            let (inner, p) = nodes::opened(&out, &node);
            assert_eq!((p.src, p.dst), (HOST.ip(own), node.pod(own)));
            assert_eq!(u16::from_be_bytes([inner[p.l4() + 6], inner[p.l4() + 7]]), 1300);
            assert_eq!(quoted(&inner, &p).unwrap().src, node.pod(own));
        }
    });
}

#[test]
fn a_datagram_that_may_be_fragmented_crosses_the_tunnel_in_fragments_that_fit() {
    worlds(|w| {
        for (node, mtu) in [(N1, OVERLAY_MTU), (N3, OVERLAY_MTU - 20)] {
            let data = pattern(9000);
            let frame = A
                .to(node.pod(A.v4()))
                .dont_fragment(false)
                .partial()
                .udp(1000, 53, &data);
            let (before, _) = w.tunnelled();
            w.push(&A, &frame);
            w.step();
            let count = (9008 / usize::from(mtu - 20)) + 1;
            assert_eq!(w.tunnelled().0 - before, count as u64);
            w.changed(&[
                "a rx 1",
                "a forwarded 1",
                &format!("a fragments {}", count - 1),
                &format!("uplink tx {count}"),
            ]);
            let mut inner = Vec::new();
            let mut ports = std::collections::BTreeSet::new();
            for _ in 0..count {
                let out = w.pop(&UPLINK);
                assert!(out.len() <= usize::from(UPLINK_MTU) + 14);
                ports.insert(parse(&out, out.len()).unwrap().sport);
                inner.push(nodes::opened(&out, &node).0);
            }
            assert_eq!(ports.len(), 1, "the fragments of a datagram take one path");
            let whole = reassemble(&inner).unwrap();
            assert!(whole.ends_with(&data));
            // They come back as they went: in the order in which they were sent, and in the reverse one.
            let answer = node.pod_to(A.v4()).dont_fragment(false);
            for reversed in [false, true] {
                let mut parts = cut(&answer.clone().identification(if reversed { 8 } else { 7 }), &data);
                if reversed {
                    parts.reverse();
                }
                for part in &parts {
                    w.push(&UPLINK, &node.encapsulate(part));
                }
                w.step();
                let n = parts.len();
                w.changed(&[
                    &format!("uplink rx {n}"),
                    &format!("uplink forwarded {n}"),
                    &format!("a tx {n}"),
                ]);
                let arrived: Vec<_> = (0..n).map(|_| w.pop(&A)).collect();
                assert!(reassemble(&arrived).unwrap().ends_with(&data));
            }
        }
    });
}

/// Cuts a datagram to port 1000 into fragments of 1,400 octets of data.
fn cut(packet: &heddle_wire::testing::Packet, data: &[u8]) -> Vec<Vec<u8>> {
    let whole = packet.udp(53, 1000, data);
    let datagram = &whole[34..];
    let parts = datagram.chunks(1400);
    let last = parts.len() - 1;
    parts
        .enumerate()
        .map(|(n, part)| {
            packet
                .clone()
                .fragment((n * 1400) as u16, n < last)
                .raw(Proto::UDP, part)
        })
        .collect()
}

#[test]
fn fragments_from_another_node_follow_the_translation_of_their_flow() {
    worlds(|w| {
        let service = external(
            FrontendKind::NodePort,
            "0.0.0.0",
            Proto::UDP,
            30053,
            &[(A.v4(), 53)],
            false,
        );
        w.tables.set_frontend(service.into());
        w.publish();
        let data = pattern(3000);
        // To a node port of this node, by the tunnel of another node's pod.
        let request = N1.pod_to(HOST.v4()).dont_fragment(false);
        let whole = request.udp(1000, 30053, &data);
        let parts: Vec<_> = whole[34..].chunks(1400).collect();
        for (n, part) in parts.iter().enumerate() {
            let fragment = request
                .clone()
                .fragment((n * 1400) as u16, n + 1 < parts.len())
                .raw(Proto::UDP, part);
            w.push(&UPLINK, &N1.encapsulate(&fragment));
        }
        w.step();
        w.discard_changes();
        let arrived: Vec<_> = (0..parts.len()).map(|_| w.pop(&A)).collect();
        let whole = reassemble(&arrived).unwrap();
        heddle_wire::testing::assert_valid(&whole);
        let p = parse(&whole, whole.len()).unwrap();
        assert_eq!((p.dst, p.dport), (ip("10.0.0.2"), 53));
    });
}

#[test]
fn packets_of_several_frames_cross_the_tunnel() {
    worlds(|w| {
        // A node whose path takes 9,000 octets.
        for node in [N1, N3] {
            let mut path = nodes::path(&node).unwrap();
            path.mtu = 8900;
            nodes::set_node(&mut w.tables, &node, Ok(path));
        }
        w.publish();
        for node in [N1, N3] {
            let data = pattern(8800);
            w.pushed_split(&A, &A.to(node.pod(A.v4())).partial().udp(1000, 53, &data), 4000);
            w.step();
            let out = w.pop(&UPLINK);
            let (inner, _) = nodes::opened(&out, &node);
            assert!(inner.ends_with(&data));
            let back = node.encapsulate(&node.pod_to(A.v4()).udp(53, 1000, &data));
            w.pushed_split(&UPLINK, &back, 3000);
            w.step();
            assert!(w.pop(&A).ends_with(&data));
            w.discard_changes();
        }
    });
}
