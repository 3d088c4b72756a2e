//! Packets that the parser accepts and refuses, as bytes, and random packets with etherparse as the oracle.

use proptest::prelude::*;

use super::*;
use crate::fuzzing;
use crate::testing::{self, Packet, ip, mac};
use crate::{IcmpMessage, Ip, MacAddr, Proto, TcpFlags};

fn v4() -> Packet {
    Packet::new(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2"))
}

fn v6() -> Packet {
    Packet::new(mac(1), mac(2), ip("fd00::1"), ip("fd00::2"))
}

#[track_caller]
fn ok(frame: &[u8]) -> Parsed {
    fuzzing::check_parse(frame);
    parse(frame, frame.len()).unwrap()
}

#[track_caller]
fn refused(frame: &[u8]) -> ParseError {
    fuzzing::check_parse(frame);
    parse(frame, frame.len()).unwrap_err()
}

/// Recomputes the IPv4 header checksum after a change.
fn resum(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = crate::checksum::sum(&frame[14..end]).checksum();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn tcp_over_ipv4() {
    let f = v4().ttl(7).mss(1460).tcp(1000, 80, TcpFlags::SYN, 1, 0, b"abc");
    let p = ok(&f);
    assert_eq!(
        (p.src, p.dst, p.sport, p.dport),
        (ip("10.0.0.1"), ip("10.0.0.2"), 1000, 80)
    );
    assert_eq!(
        (p.l3, p.proto, p.ttl, p.tcp_flags),
        (L3::V4, Proto::TCP, 7, TcpFlags::SYN)
    );
    assert_eq!(
        (p.l4_offset, p.payload_offset, p.l3_len, p.end()),
        (34, 58, 47, f.len())
    );
    assert_eq!(
        (p.payload_len(), p.fragment, p.dont_fragment, p.l2_multicast),
        (3, Fragment::Whole, true, false)
    );
    assert_eq!(crate::tcp::mss(&f, &p), Some((56, 1460)));
}

#[test]
fn udp_over_ipv6_behind_every_extension() {
    let padn = [0, 1, 4, 0, 0, 0, 0];
    let f = v6()
        .extension(0, &padn)
        .extension(43, &[0, 4, 0, 0, 0, 0, 0])
        .extension(44, &[0, 0, 0, 0, 0, 0, 9])
        .extension(
            51,
            &[4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
        .extension(60, &padn)
        .udp(5, 6, b"x");
    let p = ok(&f);
    assert_eq!((p.proto, p.sport, p.dport, p.l4()), (Proto::UDP, 5, 6, f.len() - 9));
    assert_eq!((p.fragment, p.fragment_id), (Fragment::Whole, 9));
}

#[test]
fn trailing_padding_is_no_part_of_the_packet() {
    let p = ok(&v4().padding(10).udp(1, 2, b"abc"));
    assert_eq!((p.end(), p.payload_len()), (14 + 20 + 11, 3));
}

#[test]
fn ipv4_options_are_stepped_over() {
    let p = ok(&v4().ip_options(&[1, 1, 1, 0]).udp(1, 2, b""));
    assert_eq!((p.l4_offset, p.sport), (38, 1));
}

#[test]
fn frames_that_are_not_ip() {
    let mut f = v4().udp(1, 2, b"");
    for (ethertype, why) in [
        (0x8100u16, ParseError::VlanTagged),
        (0x88a8, ParseError::VlanTagged),
        (0x9100, ParseError::VlanTagged),
        (0x88cc, ParseError::UnknownEtherType),
        (0x0026, ParseError::UnknownEtherType),
    ] {
        f[12..14].copy_from_slice(&ethertype.to_be_bytes());
        assert_eq!(refused(&f), why);
    }
    assert_eq!(refused(&f[..13]), ParseError::EthernetTruncated);
    assert_eq!(refused(&[]), ParseError::EthernetTruncated);
}

#[test]
fn bad_ipv4_headers() {
    let good = v4().udp(1, 2, b"abcd");
    let change = |at: usize, to: u8| {
        let mut f = good.clone();
        f[at] = to;
        f
    };
    assert_eq!(refused(&change(14, 0x65)), ParseError::Ipv4Version);
    assert_eq!(refused(&change(14, 0x44)), ParseError::Ipv4HeaderLength);
    assert_eq!(refused(&change(17, 19)), ParseError::Ipv4TotalLength);
    assert_eq!(refused(&change(17, 33)), ParseError::Ipv4LengthExceedsFrame);
    assert_eq!(refused(&change(22, 63)), ParseError::Ipv4Checksum);
    assert_eq!(refused(&good[..33]), ParseError::Ipv4Truncated);
}

#[test]
fn source_routes_are_refused_wherever_they_stand() {
    let with = |options: &[u8]| {
        let good = v4().udp(1, 2, b"abcd");
        let mut f = [&good[..34], options, &good[34..]].concat();
        f[14] = 0x40 | (5 + options.len() as u8 / 4);
        f[17] += options.len() as u8;
        f[24..26].fill(0);
        let sum = crate::checksum::sum(&f[14..34 + options.len()]).checksum();
        f[24..26].copy_from_slice(&sum.to_be_bytes());
        f
    };
    for kind in [131, 137] {
        for options in [
            vec![kind, 7, 4, 10, 0, 0, 9, 0],
            vec![1, kind, 7, 4, 10, 0, 0, 9],
            vec![148, 4, 0, 0, kind, 7, 4, 10, 0, 0, 9, 0],
        ] {
            assert_eq!(refused(&with(&options)), ParseError::Ipv4SourceRoute, "{options:?}");
        }
        // Behind the end of the options, or in another option's data, the octet means nothing.
        for options in [vec![0, kind, 7, 4], vec![148, 4, kind, 7], vec![7, 1, kind, 7]] {
            let frame = with(&options);
            assert!(parse(&frame, frame.len()).is_ok(), "{options:?}");
        }
    }
}

#[test]
fn addresses_that_never_stand_on_a_wire() {
    let from = |src: &str, dst: &str| refused(&testing::udp(mac(1), mac(2), ip(src), ip(dst), 1, 2, b""));
    assert_eq!(from("224.0.0.1", "10.0.0.1"), ParseError::SourceMulticast);
    assert_eq!(from("255.255.255.255", "10.0.0.1"), ParseError::SourceMulticast);
    assert_eq!(from("127.0.0.1", "10.0.0.1"), ParseError::SourceLoopback);
    assert_eq!(from("10.0.0.1", "127.0.0.1"), ParseError::DestinationLoopback);
    assert_eq!(from("10.0.0.1", "0.0.0.0"), ParseError::DestinationUnspecified);
    assert_eq!(from("ff02::1", "fd00::1"), ParseError::SourceMulticast);
    assert_eq!(from("::1", "fd00::1"), ParseError::SourceLoopback);
    assert_eq!(from("fd00::1", "::1"), ParseError::DestinationLoopback);
    assert_eq!(from("fd00::1", "::"), ParseError::DestinationUnspecified);
}

#[test]
fn mapped_addresses_in_ipv6_are_refused() {
    for at in [22, 38] {
        let mut f = v6().udp(1, 2, b"");
        f[at..at + 16].copy_from_slice(&ip("10.0.0.9").octets());
        assert_eq!(refused(&f), ParseError::Ipv4MappedAddress);
    }
}

#[test]
fn the_unspecified_source_is_for_probes_and_dhcp() {
    assert_eq!(
        ok(&testing::ndp_solicit(mac(1), ip("::"), ip("fe80::1"))).src,
        Ip::UNSPECIFIED
    );
    ok(&testing::udp(
        mac(1),
        MacAddr::BROADCAST,
        ip("0.0.0.0"),
        ip("255.255.255.255"),
        68,
        67,
        b"",
    ));
}

#[test]
fn bad_ipv6_headers_and_extensions() {
    let good = v6().udp(1, 2, b"abcd");
    let mut f = good.clone();
    f[14] = 0x40;
    assert_eq!(refused(&f), ParseError::Ipv6Version);
    assert_eq!(refused(&good[..good.len() - 1]), ParseError::Ipv6LengthExceedsFrame);
    assert_eq!(refused(&good[..53]), ParseError::Ipv6Truncated);
    let pad = [0, 1, 4, 0, 0, 0, 0];
    assert_eq!(
        refused(&v6().extension(60, &pad).extension(0, &pad).udp(1, 2, b"")),
        ParseError::Ipv6ExtensionOrder
    );
    let twice = v6().extension(44, &[0; 7]).extension(44, &[0; 7]).udp(1, 2, b"");
    assert_eq!(refused(&twice), ParseError::Ipv6ExtensionOrder);
    assert_eq!(
        refused(&v6().extension(43, &[0; 7]).udp(1, 2, b"")),
        ParseError::Ipv6RoutingType0
    );
    let segments = v6().extension(43, &[0, 4, 1, 0, 0, 0, 0]).udp(1, 2, b"");
    assert_eq!(refused(&segments), ParseError::Ipv6RoutingSegmentsLeft);
    assert_eq!(
        refused(&v6().extension(60, &[9, 1, 4, 0, 0, 0, 0]).udp(1, 2, b"")),
        ParseError::Ipv6ExtensionTruncated
    );
    let many = (0..MAX_EXTENSIONS).fold(v6(), |p, _| p.extension(60, &pad));
    ok(&many.udp(1, 2, b""));
    assert_eq!(
        refused(&many.extension(60, &pad).udp(1, 2, b"")),
        ParseError::Ipv6TooManyExtensions
    );
}

#[test]
fn fragments_first_and_later() {
    for base in [v4(), v6()] {
        let datagram = base.udp(7, 8, &[1; 40]);
        let l4 = &datagram[datagram.len() - 48..];
        let first = ok(&base
            .clone()
            .identification(77)
            .fragment(0, true)
            .raw(Proto::UDP, &l4[..24]));
        assert_eq!(
            (first.fragment, first.fragment_id, first.more_fragments),
            (Fragment::First, 77, true)
        );
        assert_eq!((first.sport, first.dport, first.fragment_offset), (7, 8, 0));
        let later = ok(&base
            .clone()
            .identification(77)
            .fragment(24, false)
            .raw(Proto::UDP, &l4[24..]));
        assert_eq!(
            (later.fragment, later.fragment_id, later.more_fragments),
            (Fragment::Later, 77, false)
        );
        assert_eq!((later.sport, later.dport, later.fragment_offset), (0, 0, 24));
        assert_eq!((later.l4_len(), later.proto), (24, Proto::UDP));
    }
}

#[test]
fn bad_fragments() {
    for base in [v4(), v6()] {
        let f =
            |offset, more, proto, len: usize| refused(&base.clone().fragment(offset, more).raw(proto, &vec![1; len]));
        assert_eq!(f(0, true, Proto::UDP, 21), ParseError::FragmentLength);
        assert_eq!(f(64, false, Proto::UDP, 0), ParseError::FragmentLength);
        assert_eq!(f(65_528, false, Proto::UDP, 100), ParseError::FragmentOverflow);
        assert_eq!(f(0, true, Proto::TCP, 16), ParseError::FragmentTiny);
        assert_eq!(f(8, false, Proto::TCP, 16), ParseError::FragmentTiny);
        assert_eq!(f(16, true, Proto::TCP, 16), ParseError::FragmentTiny);
    }
}

#[test]
fn bad_transport_headers() {
    for base in [v4(), v6()] {
        for (proto, len, why) in [
            (Proto::TCP, 19, ParseError::TcpTruncated),
            (Proto::UDP, 7, ParseError::UdpTruncated),
            (Proto::SCTP, 11, ParseError::SctpTruncated),
            (Proto::UDP, 8, ParseError::UdpLength),
            (Proto::TCP, 20, ParseError::TcpHeaderLength),
        ] {
            assert_eq!(refused(&base.raw(proto, &vec![0; len])), why);
        }
        let mut doff = [0; 20];
        doff[12] = 0x60;
        assert_eq!(refused(&base.raw(Proto::TCP, &doff)), ParseError::TcpHeaderLength);
        assert_eq!(
            refused(&base.raw(Proto::UDP, &[0, 1, 0, 2, 0, 9, 0, 0])),
            ParseError::UdpLength
        );
    }
    assert_eq!(refused(&v4().raw(Proto::ICMP, &[8; 7])), ParseError::IcmpTruncated);
    assert_eq!(refused(&v4().raw(Proto::ICMPV6, &[8; 8])), ParseError::ProtocolFamily);
    assert_eq!(refused(&v6().raw(Proto::ICMP, &[8; 8])), ParseError::ProtocolFamily);
}

#[test]
fn echo_replies_have_the_reverse_tuple_of_their_requests() {
    for (base, back) in [
        (v4(), Packet::new(mac(2), mac(1), ip("10.0.0.2"), ip("10.0.0.1"))),
        (v6(), Packet::new(mac(2), mac(1), ip("fd00::2"), ip("fd00::1"))),
    ] {
        let request = ok(&base.echo_request(99, 1, b"hello"));
        let reply = ok(&back.echo_reply(99, 1, b"hello"));
        assert_eq!((request.sport, request.dport), (99, 0));
        assert_eq!(request.tuple().reversed(), reply.tuple());
        assert_eq!(
            (request.icmp(), reply.icmp()),
            (Some(IcmpMessage::EchoRequest), Some(IcmpMessage::EchoReply))
        );
    }
}

#[test]
fn messages_of_the_link_are_recognised() {
    use IcmpMessage::*;
    for (kind, want) in [
        (1, Error),
        (2, Error),
        (3, Error),
        (4, Error),
        (100, Error),
        (130, Mld),
        (131, Mld),
        (132, Mld),
        (143, Mld),
        (133, RouterSolicitation),
        (134, RouterAdvertisement),
        (135, NeighborSolicitation),
        (136, NeighborAdvertisement),
        (137, Redirect),
        (200, Other),
    ] {
        assert_eq!(ok(&v6().icmp(kind, 0, [0; 4], &[0; 20])).icmp(), Some(want));
    }
    for (kind, want) in [
        (3, Error),
        // No router forwards source quench and redirect.
        (4, Other),
        (5, Other),
        (11, Error),
        (12, Error),
        (13, Other),
    ] {
        assert_eq!(ok(&v4().icmp(kind, 0, [0; 4], &[0; 20])).icmp(), Some(want));
    }
}

#[test]
fn arp_requests_and_what_is_no_arp() {
    let f = testing::arp_request(mac(1), ip("10.0.0.1"), ip("169.254.1.1"));
    let p = ok(&f);
    let a = arp(&f, &p).unwrap();
    assert_eq!(
        (p.l3, p.l2_multicast, a.operation),
        (L3::Arp, true, ArpOperation::Request)
    );
    assert_eq!(
        (a.sender_mac, a.sender, a.target),
        (mac(1), ip("10.0.0.1"), ip("169.254.1.1"))
    );
    assert_eq!(refused(&f[..41]), ParseError::ArpTruncated);
    for at in [14, 16, 18, 19, 20, 21] {
        let mut bad = f.clone();
        bad[at] ^= 8;
        assert_eq!(refused(&bad), ParseError::ArpMalformed);
    }
    let multicast = testing::arp_request(mac(1), ip("224.0.0.1"), ip("10.0.0.1"));
    assert_eq!(refused(&multicast), ParseError::SourceMulticast);
}

#[test]
fn headers_behind_the_head_frame_are_a_reason_of_their_own() {
    let f = v4().mss(1460).tcp(1, 2, TcpFlags::SYN, 1, 0, &[0; 100]);
    for cut in 14..58 {
        assert_eq!(parse(&f[..cut], f.len()), Err(ParseError::HeadersSplit), "{cut}");
    }
    for (units, behind) in [(0, 62), (1, 70)] {
        let mut options = vec![units, 1, 4 + 8 * units];
        options.resize(7 + 8 * usize::from(units), 0);
        let extended = v6().extension(60, &options).raw(Proto(47), &[0; 8]);
        for cut in 14..behind {
            assert_eq!(
                parse(&extended[..cut], extended.len()),
                Err(ParseError::HeadersSplit),
                "{cut}"
            );
        }
        assert_eq!(
            parse(&extended[..behind], extended.len()),
            parse(&extended, extended.len())
        );
    }
    let whole = parse(&f, f.len());
    assert_eq!(parse(&f[..58], f.len()), whole);
}

#[test]
fn quoted_packets_are_read_to_their_tuple() {
    for base in [v4(), v6()] {
        let (kind, code) = if ok(&base.udp(1, 2, b"")).l3 == L3::V4 {
            (11, 0)
        } else {
            (3, 0)
        };
        for (frame, ports) in [
            (base.udp(53, 99, b"payload"), (53, 99)),
            (base.tcp(53, 99, TcpFlags::ACK, 1, 2, b"x"), (53, 99)),
            (base.sctp(53, 99, 1, b""), (53, 99)),
            (base.echo_request(7, 1, b""), (7, 0)),
            (base.echo_reply(7, 1, b""), (0, 7)),
            (base.clone().fragment(64, false).raw(Proto::UDP, &[0; 5]), (0, 0)),
            (
                base.clone()
                    .fragment(0, true)
                    .raw(Proto::UDP, &[0, 53, 0, 99, 0, 60, 0, 0]),
                (53, 99),
            ),
        ] {
            let sent = ok(&frame);
            let error = base.icmp_error(kind, code, 0, &frame);
            let p = ok(&error);
            let inner = quoted(&error, &p).unwrap();
            assert_eq!((inner.src, inner.dst, inner.proto), (sent.src, sent.dst, sent.proto));
            assert_eq!(((inner.sport, inner.dport), inner.fragment), (ports, sent.fragment));
            assert_eq!(inner.l4_offset, p.payload_offset + sent.l4_offset - 14);
        }
        let error = base.icmp_error(kind, code, 0, &base.udp(1, 2, b""));
        let nested = base.icmp_error(kind, code, 0, &error);
        assert_eq!(quoted(&nested, &ok(&nested)), Err(ParseError::QuoteOfError));
        for len in 0..27 {
            let cut = base.icmp(kind, code, [0; 4], &base.udp(1, 2, b"")[14..14 + len]);
            assert_eq!(quoted(&cut, &ok(&cut)), Err(ParseError::QuoteTruncated), "{len}");
        }
    }
    let wrong = v6().icmp_error(1, 0, 0, &v4().udp(1, 2, &[0; 60]));
    assert_eq!(quoted(&wrong, &ok(&wrong)), Err(ParseError::QuoteMalformed));
}

#[test]
fn a_land_packet_is_left_to_the_engine() {
    ok(&testing::tcp(
        mac(1),
        mac(2),
        ip("10.0.0.1"),
        ip("10.0.0.1"),
        5,
        5,
        TcpFlags::SYN,
        0,
        0,
        b"",
    ));
}

mod random;
