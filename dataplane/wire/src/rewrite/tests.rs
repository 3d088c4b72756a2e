//! Compares rewritten packets with packets that were built with the new fields. Etherparse verifies both.

use proptest::prelude::*;

use super::*;
use crate::TcpFlags;
use crate::checksum::{compute, is_partial, verify};
use crate::parse::{parse, quoted};
use crate::testing::{Checksum, Packet, assert_valid, ip, mac};

#[track_caller]
fn parsed(frame: &[u8]) -> Parsed {
    parse(frame, frame.len()).unwrap()
}

fn base(is_v4: bool) -> (Ip, Ip, Packet) {
    let (a, b) = if is_v4 {
        (ip("10.0.0.1"), ip("10.96.0.10"))
    } else {
        (ip("fd00::1"), ip("fd96::a"))
    };
    (a, b, Packet::new(mac(1), mac(2), a, b))
}

fn address(is_v4: bool, bytes: [u8; 16]) -> Ip {
    if is_v4 {
        Ip::from_v4([10, bytes[0], bytes[1], bytes[2]])
    } else {
        Ip::from_v6([&[0xfd], &bytes[..15]].concat().try_into().unwrap())
    }
}

/// Returns a frame of the protocol that `which` selects.
fn frame(p: &Packet, which: usize, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    match which {
        0 => p.udp(ports.0, ports.1, payload),
        1 => p.tcp(ports.0, ports.1, TcpFlags::ACK, 5, 6, payload),
        2 => p.sctp(ports.0, ports.1, 9, payload),
        3 => p.echo_request(ports.0, 1, payload),
        _ => p.echo_reply(ports.1, 1, payload),
    }
}

/// Forwards a frame of [`base`] under the addresses that it has, with the translation to a tuple. The TTL becomes 63.
fn translate(frame: &mut [u8], p: &Parsed, to: &Tuple, deltas: Deltas) -> bool {
    forward(frame, p, (mac(2), mac(1)), Some((to, deltas)))
}

/// Finishes a partial checksum as forwarding does.
fn finish(head: &mut [u8], rest: &[&[u8]], p: &Parsed) -> bool {
    let chain = std::iter::once(&*head).chain(rest.iter().copied());
    is_partial(head, p) && compute(p, chain).is_some_and(|sum| sum.store(head))
}

proptest! {
    #[test]
    fn a_forwarded_packet_is_the_one_built_so(
        is_v4: bool, which in 0usize..5, ttl: u8, nat: bool, ports: (u16, u16), new_ports: (u16, u16), src: [u8; 16],
        dst: [u8; 16], payload in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let (a, b, packet) = base(is_v4);
        let mut f = frame(&packet.ttl(ttl), which, ports, &payload);
        let ((src, dst), new_ports) = match nat {
            true => ((address(is_v4, src), address(is_v4, dst)), new_ports),
            false => ((a, b), ports),
        };
        let want = Packet::new(mac(8), mac(7), src, dst).ttl(ttl.saturating_sub(1));
        let want = frame(&want, which, new_ports, &payload);
        let (p, q) = (parsed(&f), parsed(&want));
        let (to, deltas) = (q.tuple(), Deltas::between(p.proto, &p.tuple(), &q.tuple()));
        let sent = forward(&mut f, &p, (mac(7), mac(8)), nat.then_some((&to, deltas)));
        prop_assert_eq!(sent, ttl > 1);
        if sent {
            prop_assert_eq!(&f, &want);
            prop_assert_eq!(Parsed { ttl: ttl - 1, ..p.translated(&to) }, q);
            assert_valid(&f);
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong(is_v4: bool, which in 0usize..5, ports: (u16, u16), new: (u16, u16)) {
        let (a, b, packet) = base(is_v4);
        let mut f = frame(&packet.checksum(Checksum::Wrong), which, ports, b"payload");
        let p = parsed(&f);
        let (sport, dport) = (if p.sport == 0 { 0 } else { new.0 }, if p.dport == 0 { 0 } else { new.1 });
        let to = Tuple { src: b, dst: a, sport, dport };
        prop_assert!(!verify(&p, [&f[..]]));
        prop_assert!(translate(&mut f, &p, &to, Deltas::between(p.proto, &p.tuple(), &to)));
        prop_assert!(!verify(&parsed(&f), [&f[..]]));
    }

    #[test]
    fn partial_checksums_are_finished_over_any_chain(
        is_v4: bool, which in 0usize..3, ports: (u16, u16), cuts in prop::collection::vec(0usize..3000, 0..4),
        payload in prop::collection::vec(any::<u8>(), 0..3000), padding in 0usize..20,
    ) {
        let (_, _, packet) = base(is_v4);
        let mut f = frame(&packet.clone().padding(padding).partial(), which, ports, &payload);
        let want = frame(&packet.padding(padding), which, ports, &payload);
        let p = parsed(&f);
        prop_assert!(is_partial(&f, &p));
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| (c + p.payload()).min(f.len())).collect();
        cuts.sort_unstable();
        let head_len = *cuts.first().unwrap_or(&f.len());
        let (head, rest) = f.split_at_mut(head_len);
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut from = head_len;
        for cut in cuts.iter().skip(1).copied().chain([want.len()]) {
            parts.push(&rest[from - head_len..cut - head_len]);
            from = cut;
        }
        prop_assert!(finish(head, &parts, &p));
        prop_assert_eq!(&f, &want);
        assert_valid(&f);
        // In rare cases the correct checksum equals the pseudo-header sum. To finish it again changes nothing.
        if is_partial(&f, &p) {
            prop_assert!(finish(&mut f, &[], &p));
            prop_assert_eq!(&f, &want);
        }
    }

    #[test]
    fn a_translated_error_is_the_one_built_so(
        is_v4: bool, which in 0usize..5, ports: (u16, u16), new: (u16, u16), src: [u8; 16], dst: [u8; 16], cut in 0usize..40,
    ) {
        // A pod's packet to a Service was translated, and the error quotes the translated packet.
        let (client, service, packet) = base(is_v4);
        let (masqueraded, backend) = (address(is_v4, src), address(is_v4, dst));
        let sent = frame(&packet, which, ports, b"some payload of the packet");
        let seen = frame(&Packet::new(mac(1), mac(2), masqueraded, backend), which, new, b"some payload of the packet");
        let kind = if is_v4 { 11 } else { 3 };
        let keep = seen.len().saturating_sub(cut).max(parsed(&seen).l4() + 8);
        // A quote that contains half a checksum field is not translated exactly.
        let keep = if which == 1 && keep == parsed(&seen).l4() + 17 { keep - 1 } else { keep };
        let mut error = Packet::new(mac(2), mac(1), backend, masqueraded).icmp_error(kind, 0, 0, &seen[..keep]);
        let p = parsed(&error);
        let inner = quoted(&error, &p).unwrap();
        let to = parsed(&sent).tuple();
        prop_assert!(translate_error(&mut error, &p, &inner, service, client, &to));
        assert_valid(&error);
        let q = parsed(&error);
        prop_assert_eq!((q.src, q.dst), (service, client));
        prop_assert_eq!(quoted(&error, &q).unwrap().tuple(), to);
        if which != 2 {
            let want = Packet::new(mac(2), mac(1), service, client).icmp_error(kind, 0, 0, &sent[..keep]);
            prop_assert_eq!(error, want);
        }
    }

    #[test]
    fn mss_is_clamped_wherever_it_stands(is_v4: bool, mss: u16, max: u16, odd: bool, ack: bool) {
        let (_, _, packet) = base(is_v4);
        let flags = if ack { TcpFlags::SYN | TcpFlags::ACK } else { TcpFlags::SYN };
        let build = |mss: u16| {
            let [a, b] = mss.to_be_bytes();
            let options: &[u8] = if odd { &[1, 2, 4, a, b, 1, 1, 0] } else { &[2, 4, a, b] };
            packet.clone().tcp_options(options).tcp(1, 2, flags, 3, 4, b"")
        };
        let mut f = build(mss);
        let p = parsed(&f);
        prop_assert_eq!(clamp_mss(&mut f, &p, max), mss > max);
        prop_assert_eq!(&f, &build(mss.min(max)));
    }
}

#[test]
fn a_packet_whose_ttl_is_used_up_is_not_forwarded() {
    for is_v4 in [true, false] {
        for ttl in [0, 1] {
            let mut f = base(is_v4).2.ttl(ttl).udp(1, 2, b"");
            let (before, p) = (f.clone(), parsed(&f));
            assert!(!forward(&mut f, &p, (mac(7), mac(8)), None));
            assert_eq!(f, before);
        }
    }
}

#[test]
fn only_a_syn_has_its_mss_clamped() {
    let mut f = base(true).2.mss(9000).tcp(1, 2, TcpFlags::ACK, 3, 4, b"");
    let p = parsed(&f);
    assert!(!clamp_mss(&mut f, &p, 1000));
    let mut f = base(true)
        .2
        .tcp_options(&[3, 0, 2, 4])
        .tcp(1, 2, TcpFlags::SYN, 3, 4, b"");
    let p = parsed(&f);
    assert!(!clamp_mss(&mut f, &p, 1), "an option of length 0 ends the search");
}

#[test]
fn fragments_are_translated_without_ports_and_with_the_datagrams_checksum() {
    for is_v4 in [true, false] {
        let (a, b, packet) = base(is_v4);
        let back = Packet::new(mac(1), mac(2), b, a);
        let (datagram, want) = (packet.udp(7, 8, &[9; 100]), back.udp(17, 18, &[9; 100]));
        let at = parsed(&datagram).l4();
        let to = Tuple {
            src: b,
            dst: a,
            sport: 17,
            dport: 18,
        };
        for (from, until, more) in [(0, 56, true), (56, 108, false)] {
            let cut = |p: &Packet, f: &[u8]| {
                p.clone()
                    .fragment(from as u16, more)
                    .raw(Proto::UDP, &f[at + from..at + until])
            };
            let mut f = cut(&packet, &datagram);
            let p = parsed(&f);
            let old = Tuple {
                src: a,
                dst: b,
                sport: 7,
                dport: 8,
            };
            assert!(translate(&mut f, &p, &to, Deltas::between(Proto::UDP, &old, &to)));
            assert_eq!(f, cut(&back.clone().ttl(63), &want));
            assert!(!is_partial(&f, &p) && compute(&p, [&f[..]]).is_none());
        }
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let (a, b, packet) = base(true);
    let mut f = packet.checksum(Checksum::Zero).udp(1, 2, b"x");
    let p = parsed(&f);
    let to = Tuple {
        src: b,
        dst: a,
        sport: 3,
        dport: 4,
    };
    assert!(!is_partial(&f, &p));
    assert!(translate(&mut f, &p, &to, Deltas::between(p.proto, &p.tuple(), &to)));
    assert_eq!(f[40..42], [0, 0]);
    assert_valid(&f);
}

#[test]
fn a_tuple_of_the_other_family_is_refused() {
    for is_v4 in [true, false] {
        let mut f = base(is_v4).2.udp(1, 2, b"x");
        let p = parsed(&f);
        let (a, b, _) = base(!is_v4);
        let to = Tuple {
            src: a,
            dst: b,
            sport: 3,
            dport: 4,
        };
        assert!(!translate(&mut f, &p, &to, Deltas::default()));
    }
}

#[test]
fn macs_are_set_in_wire_order() {
    let mut f = base(true).2.udp(1, 2, b"x");
    assert!(set_macs(&mut f, mac(8), mac(9)));
    assert_eq!((f[5], f[11]), (8, 9));
    assert!(!set_macs(&mut f[..11], mac(8), mac(9)));
}

#[test]
fn an_echo_request_is_answered_in_place_whatever_its_length() {
    for is_v4 in [true, false] {
        let (a, b, packet) = base(is_v4);
        let whole = packet.ttl(3).echo_request(5, 6, &[3; 9001]);
        let mut head = whole[..4096].to_vec();
        let p = parse(&head, whole.len()).unwrap();
        assert!(echo_reply_in_place(&mut head, &p, mac(7)));
        let want = Packet::new(mac(7), mac(1), b, a).echo_reply(5, 6, &[3; 9001]);
        assert_eq!([&head[..], &whole[4096..]].concat(), want);
        assert_valid(&want);
    }
}

#[test]
fn a_message_of_zeros_has_the_checksum_ffff() {
    let (a, b, packet) = base(true);
    let mut f = packet.echo_request(0, 0, &[0; 16]);
    let p = parsed(&f);
    assert!(echo_reply_in_place(&mut f, &p, mac(7)));
    assert_eq!(f, Packet::new(mac(7), mac(1), b, a).echo_reply(0, 0, &[0; 16]));
    assert_eq!(f[36..38], [0xff; 2]);
    let mut f = packet.echo_reply(5, 0, &[0; 16]);
    let (p, to) = (
        parsed(&f),
        Tuple {
            src: b,
            dst: a,
            sport: 0,
            dport: 0,
        },
    );
    assert!(translate(&mut f, &p, &to, Deltas::between(p.proto, &p.tuple(), &to)));
    assert_eq!(f[36..38], [0xff; 2]);
    assert_valid(&f);
    f[36..38].fill(0);
    assert!(compute(&parsed(&f), [&f[..]]).unwrap().store(&mut f));
    assert_eq!(f[36..38], [0xff; 2]);
}

#[test]
fn a_udp_checksum_that_comes_to_zero_is_sent_as_ffff() {
    for is_v4 in [true, false] {
        let packet = base(is_v4).2;
        let at = parsed(&packet.udp(1, 2, &[0, 0])).l4() + 6;
        // With the checksum of the rest as its payload, a packet has the sum ffff.
        let rest: [u8; 2] = packet.udp(1, 2, &[0, 0])[at..at + 2].try_into().unwrap();
        let mut f = packet.partial().udp(1, 2, &rest);
        let p = parsed(&f);
        assert!(finish(&mut f, &[], &p));
        assert_eq!(f[at..at + 2], [0xff; 2]);
        assert!(verify(&p, [&f[..]]));
        assert_valid(&f);
    }
}
