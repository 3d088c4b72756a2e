//! Encapsulated packets are verified by etherparse, header by header, and opened again.

use proptest::prelude::*;

use super::*;
use crate::addr::{Ip, MacAddr};
use crate::checksum::Sum;
use crate::parse::{L3, parse};
use crate::tcp_flags::TcpFlags;
use crate::testing::{self, Checksum, Packet};

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const VNI: u32 = 0x00ab_cdef;

fn outer(v4: bool) -> OuterHeader {
    let (src, dst) = if v4 {
        (Ip::from_v4([192, 0, 2, 1]), Ip::from_v4([192, 0, 2, 2]))
    } else {
        (Ip::from_v6([0x20; 16]), Ip::from_v6([0x21; 16]))
    };
    OuterHeader::new(src, dst, PORT, VNI).unwrap().with_macs(A, B)
}

/// Encapsulates a frame.
fn encapsulate(v4: bool, inner: &[u8], source_port: u16) -> Vec<u8> {
    let header = outer(v4);
    let p = parse(inner, inner.len()).unwrap();
    let inner = &inner[..p.end()];
    let class = ecn::traffic_class(inner, p.l3);
    let sum = if header.needs_inner_sum() {
        inner_sum(&p, [inner]).unwrap()
    } else {
        Sum::ZERO
    };
    let mut out = [vec![0; header.len()], inner.to_vec()].concat();
    assert!(header.write(&mut out, inner.len() as u32, class, source_port, sum));
    out
}

fn packet(v4: bool) -> Packet {
    if v4 {
        Packet::new(
            A,
            MacAddr::GATEWAY,
            Ip::from_v4([10, 0, 0, 1]),
            Ip::from_v4([10, 0, 1, 2]),
        )
    } else {
        Packet::new(A, MacAddr::GATEWAY, Ip::from_v6([0xfd; 16]), Ip::from_v6([0xfc; 16]))
    }
}

fn between_nodes() -> Packet {
    Packet::new(A, B, Ip::from_v4([192, 0, 2, 1]), Ip::from_v4([192, 0, 2, 2]))
}

/// Packets of each protocol, with and without a checksum from which the sum follows.
fn inner_frames(v4: bool, payload: &[u8]) -> Vec<Vec<u8>> {
    let p = packet(v4);
    let mut all = vec![
        p.tcp(1, 2, TcpFlags::ACK, 3, 4, payload),
        p.udp(1, 2, payload),
        p.sctp(1, 2, 3, payload),
        p.echo_request(4, 5, payload),
        p.raw(Proto(47), payload),
        p.clone().fragment(0, true).udp(1, 2, &[payload, &[0; 8]].concat()[..8]),
    ];
    if v4 {
        all.push(p.checksum(Checksum::Zero).udp(1, 2, payload));
    }
    all
}

proptest! {
    #[test]
    fn every_encapsulated_packet_verifies_and_opens_to_what_went_in(
        v4: bool, inner_v4: bool, port: u16, class: u8, payload in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        for mut inner in inner_frames(inner_v4, &payload) {
            set_class(&mut inner, class);
            let sent = encapsulate(v4, &inner, port);
            testing::verify(&sent).unwrap();
            let p = parse(&sent, sent.len()).unwrap();
            prop_assert_eq!((p.sport, p.dport, p.l3 == L3::V4, p.dont_fragment), (port, PORT, v4, true));
            prop_assert_eq!(ecn::traffic_class(&sent, p.l3), class);
            let at = open(&sent, &p, VNI).unwrap();
            prop_assert_eq!(&sent[at..], &inner[..]);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), class: u8) {
        let valid = encapsulate(true, &packet(true).udp(1, 2, b"x"), 1);
        for frame in [bytes.clone(), [&valid[..42], &bytes].concat()] {
            if let Ok(p) = parse(&frame, frame.len()) && let Ok(at) = open(&frame, &p, VNI) {
                prop_assert!(at + ether::HEADER <= frame.len());
            }
        }
        let before = bytes.len();
        let _ = ecn::decapsulate(class, &mut bytes);
        prop_assert_eq!(bytes.len(), before);
    }
}

/// Sets the traffic class of a frame, with its checksum.
fn set_class(frame: &mut [u8], class: u8) {
    if frame[12..14] == [8, 0] {
        frame[15] = class;
        frame[24..26].fill(0);
        let sum = checksum_of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[14] = 0x60 | class >> 4;
        frame[15] = frame[15] & 0x0f | class << 4;
    }
}

fn checksum_of(header: &[u8]) -> u16 {
    crate::checksum::sum(header).checksum()
}

#[test]
fn marks_are_combined_as_the_table_of_rfc_6040_says() {
    // Rows: inner Not-ECT, ECT(0), ECT(1), CE. Columns: outer Not-ECT, ECT(0), ECT(1), CE (RFC 6040 figure 4).
    let table = [
        (0b00, [Some(0b00), Some(0b00), Some(0b00), None]),
        (0b10, [Some(0b10), Some(0b10), Some(0b01), Some(0b11)]),
        (0b01, [Some(0b01), Some(0b01), Some(0b01), Some(0b11)]),
        (0b11, [Some(0b11); 4]),
    ];
    for (inner, row) in table {
        for (outer, expected) in [0b00, 0b10, 0b01, 0b11].into_iter().zip(row) {
            assert_eq!(
                ecn::combine(outer, inner),
                expected,
                "outer {outer:02b} inner {inner:02b}"
            );
            for v4 in [true, false] {
                // The DSCP of the inner packet stays, whatever the outer one is.
                let mut frame = packet(v4).udp(1, 2, b"data");
                set_class(&mut frame, 0xb8 | inner);
                assert_eq!(ecn::decapsulate(0x20 | outer, &mut frame), expected.is_some());
                testing::verify(&frame).unwrap();
                let p = parse(&frame, frame.len()).unwrap();
                if let Some(mark) = expected {
                    assert_eq!(ecn::traffic_class(&frame, p.l3), 0xb8 | mark);
                }
            }
        }
    }
}

#[test]
fn a_header_that_is_not_of_this_network_is_refused_with_the_reason() {
    let good = encapsulate(true, &packet(true).udp(1, 2, b"data"), 1);
    let opened = |frame: &[u8], vni| open(frame, &parse(frame, frame.len()).unwrap(), vni);
    let at = 14 + 20 + 8;
    assert_eq!(opened(&good, VNI), Ok(at + HEADER));
    assert_eq!(opened(&good, VNI + 1), Err(VxlanError::Vni));
    for (octet, value) in [(0, 0x00), (0, 0x0c), (0, 0x88), (1, 1), (2, 1), (3, 0x80), (7, 1)] {
        let mut bad = good.clone();
        bad[at + octet] = value;
        assert_eq!(opened(&bad, VNI), Err(VxlanError::Flags), "octet {octet}: {value:02x}");
    }
    // A datagram that ends within the header or within the inner Ethernet header.
    for len in 0..HEADER + ether::HEADER {
        let short = between_nodes().udp(9, PORT, &good[at..at + len]);
        assert_eq!(opened(&short, VNI), Err(VxlanError::Truncated), "{len}");
    }
    let fragment = between_nodes().fragment(0, true).udp(9, PORT, &good[at..at + 32]);
    assert_eq!(opened(&fragment, VNI), Err(VxlanError::Truncated));
    let tcp = packet(true).tcp(1, PORT, TcpFlags::ACK, 1, 1, &good[at..]);
    assert_eq!(opened(&tcp, VNI), Err(VxlanError::Truncated));
}

#[test]
fn the_next_packet_of_a_sender_is_recognized() {
    for v4 in [true, false] {
        let first = encapsulate(v4, &packet(true).udp(1, 2, b"data"), 1);
        let p = parse(&first, first.len()).unwrap();
        let seen = SeenHeader::of(&first, &p).unwrap();
        assert_eq!((seen.l3(), seen.inner()), (p.l3, open(&first, &p, VNI).unwrap()));
        // Other connections, sizes, marks and neighbors.
        for inner in inner_frames(false, &[7; 90]) {
            let mut inner = inner;
            set_class(&mut inner, 0xb9);
            let mut next = encapsulate(v4, &inner, 50_000);
            next[..12].fill(0x22);
            assert!(seen.is_repeated(&next, next.len()));
            // The first frame of a chain.
            assert!(seen.is_repeated(&next[..seen.inner() + 14], next.len()));
            assert!(!seen.is_repeated(&next[..seen.inner() + 13], next.len()));
            assert!(!seen.is_repeated(&next, next.len() + 1), "octets behind the packet");
        }
        // Every octet of what is compared.
        let compared: Vec<usize> = if v4 {
            [12..15, 20..22, 23..24, 26..34, 36..38, 42..50]
                .into_iter()
                .flatten()
                .collect()
        } else {
            [12..15, 20..21, 22..54, 56..58, 62..70].into_iter().flatten().collect()
        };
        for at in compared {
            let mut other = first.clone();
            other[at] ^= 0x80;
            if v4 {
                other[24..26].fill(0);
                let sum = checksum_of(&other[14..34]);
                other[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            assert!(!seen.is_repeated(&other, other.len()), "octet {at}");
        }
        let other_family = encapsulate(!v4, &packet(true).udp(1, 2, b"data"), 1);
        assert!(!seen.is_repeated(&other_family, other_family.len()));
    }
}

#[test]
fn headers_that_cannot_be_are_not_built() {
    let (v4, v6) = (Ip::from_v4([192, 0, 2, 1]), Ip::from_v6([0x20; 16]));
    assert_eq!(OuterHeader::new(v4, v6, PORT, 1), None);
    assert_eq!(OuterHeader::new(v4, v4, PORT, MAX_VNI + 1), None);
    assert!(OuterHeader::new(v6, v6, PORT, MAX_VNI).is_some());
    // A datagram of more than 65,535 octets, and a head without room.
    let header = outer(true);
    let mut head = vec![0; 100];
    assert!(header.write(&mut head, 65_499, 0, 1, Sum::ZERO));
    assert!(!header.write(&mut head, 65_500, 0, 1, Sum::ZERO));
    assert!(!header.write(&mut head[..49], 10, 0, 1, Sum::ZERO));
    assert_eq!((OVERHEAD_V4, OVERHEAD_V6), (50, 70));
    assert_eq!((outer(true).len(), outer(false).len()), (50, 70));
}
