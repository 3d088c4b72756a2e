//! The invariants for any bytes. The fuzz targets, the replay of their corpus and the property tests assert them.
//!
//! These functions panic if an invariant is broken. The packet path never calls them.

#![allow(clippy::panic, reason = "an invariant that is broken has to stop the fuzzer")]

mod segments;
mod tunnel;

pub use tunnel::check_tunnel;

use crate::addr::{Ip, MacAddr};
use crate::build::{self, BuildError, IcmpError, Unreachable};
use crate::checksum;
use crate::ether;
use crate::icmp::IcmpMessage;
use crate::ndp;
use crate::parse::{self, Fragment, Inner, L3, ParseError, Parsed, parse, quoted};
use crate::proto::Proto;
use crate::rewrite::{self, Deltas, Tuple};
use crate::tcp;

const GATEWAY_V4: Ip = Ip::from_v4([169, 254, 1, 1]);
const GATEWAY_V6: Ip = Ip::from_v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Parses `data` as a frame, as the head of a longer packet, and cut at the end of each header. Asserts that offsets are in order
/// and in range, that rewrites change no length and can be undone, and that every local reply can be parsed and verified.
///
/// # Panics
///
/// If an invariant is broken.
pub fn check_parse(data: &[u8]) {
    let whole = parse(data, data.len());
    if let Ok(p) = whole {
        check_parsed(data, data.len(), &p);
        check_cuts(data, &p);
        check_answers(data, &p);
        check_rewrites(data, &p);
        segments::check(data, &p);
    }
    // As the head of a longer packet: if the parser accepts the frame as a whole packet, it accepts it here too.
    let longer = data.len() + 3000;
    match parse(data, longer) {
        Ok(p) => check_parsed(data, longer, &p),
        Err(e) if whole.is_ok() => panic!("{e} only when the packet goes on"),
        Err(_) => {}
    }
    assert_eq!(parse(data, 0), Err(ParseError::EthernetTruncated));
}

/// Asserts that offsets, families, ports and fragment fields of a parsed packet are consistent.
fn check_parsed(head: &[u8], packet_len: usize, p: &Parsed) {
    assert!(
        Parsed::L3_OFFSET <= p.l4() && p.l4() <= p.payload() && p.payload() <= p.end(),
        "offsets in order: {p:?}"
    );
    assert!(p.end() <= packet_len, "end {} behind {packet_len}", p.end());
    assert!(p.payload() <= head.len(), "headers are in the head: {p:?}");
    assert_eq!(p.l4_len(), p.end() - p.l4());
    let v4 = p.l3 != L3::V6;
    assert!(p.src.is_v4() == v4 && p.dst.is_v4() == v4, "families: {p:?}");
    assert!(
        p.proto.has_ports() || p.icmp().is_some() || (p.sport, p.dport) == (0, 0),
        "ports of what has none: {p:?}"
    );
    match p.fragment {
        Fragment::Whole => assert!(p.fragment_offset == 0 && !p.more_fragments),
        Fragment::First => assert!(p.fragment_offset == 0 && p.more_fragments),
        Fragment::Later => assert!(p.fragment_offset > 0 && p.l4() == p.payload() && (p.sport, p.dport) == (0, 0)),
    }
    if let Some((at, _)) = tcp::mss(head, p) {
        assert!(p.l4() + tcp::MIN_HEADER + 2 <= at && at + 2 <= p.payload());
    }
    assert_eq!(parse::arp(head, p).is_some(), p.l3 == L3::Arp);
    match quoted(head, p) {
        Ok(inner) => check_inner(head, p, &inner),
        Err(e) => assert!(
            matches!(
                e,
                ParseError::QuoteOfError | ParseError::QuoteMalformed | ParseError::QuoteTruncated
            ),
            "{e:?} of a quote"
        ),
    }
    if ndp::solicitation(head, p).is_ok() {
        assert!(p.icmp() == Some(IcmpMessage::NeighborSolicitation) && p.ttl == 255);
    }
}

/// Asserts that the offsets of a quoted packet are in range.
fn check_inner(head: &[u8], p: &Parsed, i: &Inner) {
    assert_eq!(p.icmp(), Some(IcmpMessage::Error));
    assert_eq!(i.l3, p.l3);
    assert_eq!(usize::from(i.l3_offset), p.payload());
    assert!(
        i.l3_offset < i.l4_offset && usize::from(i.l4_offset) <= head.len().min(p.end()),
        "{i:?}"
    );
    if i.fragment == Fragment::Later {
        assert_eq!((i.sport, i.dport), (0, 0));
    }
}

/// Cuts the frame at the ends of its headers, and parses each piece twice. As the head frame of the whole packet, it gives the same
/// result or `HeadersSplit`. As the whole packet, it gives an error if it ends before the end of the packet.
fn check_cuts(data: &[u8], p: &Parsed) {
    // The parser reads the first octet of SCTP's first chunk too.
    let chunk = p.proto == Proto::SCTP && !p.is_later_fragment() && p.end() > p.payload();
    let read = p.payload() + usize::from(chunk);
    for cut in [
        0,
        13,
        14,
        33,
        p.l4(),
        p.payload().saturating_sub(1),
        p.payload(),
        read,
        p.end(),
    ] {
        let Some(head) = data.get(..cut) else { continue };
        match parse(head, data.len()) {
            Ok(same) => assert!(same == *p && cut >= read, "cut at {cut}: {same:?} for {p:?}"),
            Err(ParseError::HeadersSplit) => assert!(cut < read, "cut at {cut} of {p:?}"),
            Err(e) => assert!(e == ParseError::EthernetTruncated && cut < 14, "{e:?} at {cut}"),
        }
        assert_eq!(parse(head, cut).is_ok(), cut >= p.end(), "truncated at {cut}");
    }
}

/// Builds every local reply to a packet and checks it.
fn check_answers(data: &[u8], p: &Parsed) {
    let mut out = [0; 2048];
    let gateway = if p.l3 == L3::V6 { GATEWAY_V6 } else { GATEWAY_V4 };
    let mac = MacAddr::GATEWAY;
    for error in [
        IcmpError::TimeExceeded,
        IcmpError::TooBig { mtu: 1400 },
        IcmpError::Unreachable(Unreachable::Port),
        IcmpError::Unreachable(Unreachable::Code(9)),
    ] {
        let answer = build::icmp_error(data, p, error, mac, gateway, &mut out);
        assert_eq!(answer.is_ok(), build::may_answer_with_error(p, error));
        if let Some(a) = check_answer(&out, answer) {
            assert_eq!((a.icmp(), a.dst), (Some(IcmpMessage::Error), p.src));
            assert!(a.l3_len <= if a.l3 == L3::V4 { 576 } else { 1280 });
            assert!(!build::may_answer_with_error(&a, error), "an error about an error");
        }
    }
    let reset = build::tcp_reset(data, p, mac, &mut out);
    if let Some(a) = check_answer(&out, reset) {
        assert_eq!(a.tuple(), p.tuple().reversed());
        assert!(
            build::tcp_reset(&out, &a, mac, &mut [0; 128]) == Err(BuildError::NotAnswerable),
            "a reset of a reset"
        );
    }
    let echo = build::echo_reply(data, p, mac, &mut out);
    if checksum::verify(p, [data])
        && let Some(a) = check_answer(&out, echo)
    {
        assert_eq!(a.tuple(), p.tuple().reversed());
    }
    let advertisement = build::neighbor_advertisement(data, p, mac, true, &mut out);
    check_answer(&out, advertisement);
    let arp = build::arp_reply(data, p, mac, &mut out);
    check_answer(&out, arp);
}

/// Asserts that a local reply can be parsed and that its checksum is correct. Returns `None` if there is no reply, or if its
/// address may not be a source.
fn check_answer(out: &[u8], built: Result<usize, BuildError>) -> Option<Parsed> {
    let frame = out.get(..built.ok()?)?;
    match parse(frame, frame.len()) {
        Ok(a) => {
            assert_eq!(a.end(), frame.len());
            assert!(checksum::verify(&a, [frame]), "checksum of {a:?}");
            Some(a)
        }
        Err(ParseError::SourceMulticast | ParseError::SourceLoopback | ParseError::DestinationUnspecified) => None,
        Err(e) => panic!("the answer does not parse: {e}: {frame:02x?}"),
    }
}

/// Forwards a packet, with a translation or without one, and asserts that only the MAC addresses, the TTL and the tuple differ, and
/// that a transport checksum is as right or wrong as before. Returns the packet, or `None` if it may not be forwarded.
fn check_forward(data: &[u8], p: &Parsed, to: Option<(&Tuple, Deltas)>) -> Option<(Vec<u8>, Parsed)> {
    let macs = (MacAddr([2, 1, 1, 1, 1, 1]), MacAddr::GATEWAY);
    let mut frame = data.to_vec();
    if !rewrite::forward(&mut frame, p, macs, to) {
        assert!(to.is_some() || p.ttl <= 1, "refused without a reason: {p:?}");
        return None;
    }
    let sent = match parse(&frame, frame.len()) {
        Ok(sent) => sent,
        Err(e) => panic!("{e} after forwarding {p:?}"),
    };
    let expected = to.map_or(*p, |(new, _)| p.translated(new));
    assert_eq!(
        sent,
        Parsed {
            ttl: p.ttl - 1,
            // The destination is now the MAC address of a pod.
            l2_multicast: false,
            ..expected
        }
    );
    let of_frame = (ether::destination(&frame), ether::source(&frame));
    assert_eq!(of_frame, (Some(macs.0), Some(macs.1)));
    let (was_right, is_right) = (checksum::verify(p, [data]), checksum::verify(&sent, [&frame[..]]));
    assert_eq!(is_right, was_right, "verdict on the checksum of {p:?}");
    Some((frame, sent))
}

/// Applies every rewrite to a packet, and asserts that the result parses as expected and that checksums stay right or wrong.
fn check_rewrites(data: &[u8], p: &Parsed) {
    let v4 = p.l3 == L3::V4;
    let (a, b) = if v4 {
        (GATEWAY_V4, Ip::from_v4([10, 9, 8, 7]))
    } else {
        (GATEWAY_V6, Ip::from_v6([0x20; 16]))
    };
    let old = p.tuple();
    let new = Tuple {
        src: a,
        dst: b,
        sport: if old.sport == 0 { 0 } else { 4242 },
        dport: if old.dport == 0 { 0 } else { 53 },
    };
    // Forwarding, and a translation with its inverse.
    check_forward(data, p, None);
    let deltas = Deltas::between(p.proto, &old, &new);
    let back = Deltas {
        l3: deltas.l3.reverse(),
        l4: deltas.l4.reverse(),
    };
    if let Some((frame, sent)) = check_forward(data, p, Some((&new, deltas))) {
        check_forward(&frame, &sent, Some((&old, back)));
    }
    // The translation of an ICMP error.
    if let Ok(inner) = quoted(data, p) {
        let mut frame = data.to_vec();
        let quote = Tuple {
            src: b,
            dst: a,
            ..inner.tuple()
        };
        if rewrite::translate_error(&mut frame, p, &inner, a, b, &quote) {
            let again = parse(&frame, frame.len()).map(|q| (q, quoted(&frame, &q).map(|i| i.tuple())));
            assert_eq!(again, Ok((p.translated(&Tuple { src: a, dst: b, ..old }), Ok(quote))));
        }
    }
    // MSS and the computed checksum.
    let mut frame = data.to_vec();
    if rewrite::clamp_mss(&mut frame, p, 1000) {
        assert_eq!(tcp::mss(&frame, p).map(|m| m.1), Some(1000));
        assert_eq!(checksum::verify(p, [&frame[..]]), checksum::verify(p, [data]));
    }
    if let Some(done) = checksum::compute(p, [data]) {
        let mut frame = data.to_vec();
        assert!(done.store(&mut frame));
        let right = checksum::verify(p, [&frame[..]]);
        assert!(right, "computed checksum of {p:?}");
    }
}

/// Compares addresses, protocol, ports and payload of a frame with etherparse's, if both parsers accept it.
///
/// # Panics
///
/// If they differ.
#[cfg(any(test, feature = "testing"))]
pub fn check_against_etherparse(data: &[u8]) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let (Ok(p), Ok(e)) = (parse(data, data.len()), SlicedPacket::from_ethernet(data)) else {
        return;
    };
    // The network header.
    match &e.net {
        Some(NetSlice::Ipv4(ip)) => {
            assert_eq!(p.src, Ip::from_v4(ip.header().source()));
            assert_eq!(p.dst, Ip::from_v4(ip.header().destination()));
            assert_eq!(
                (p.l3, p.ttl, p.fragment_id),
                (L3::V4, ip.header().ttl(), ip.header().identification().into())
            );
            assert_eq!(p.is_fragment(), ip.payload().fragmented);
        }
        Some(NetSlice::Ipv6(ip)) => {
            assert_eq!(p.src, Ip::from_v6(ip.header().source()));
            assert_eq!(p.dst, Ip::from_v6(ip.header().destination()));
            assert_eq!((p.l3, p.ttl), (L3::V6, ip.header().hop_limit()));
            assert_eq!(p.is_fragment(), ip.payload().fragmented);
        }
        Some(NetSlice::Arp(_)) => assert_eq!(p.l3, L3::Arp),
        None => panic!("etherparse sees no network header in {p:?}"),
    }
    // The transport header.
    let ports = (p.sport, p.dport);
    match &e.transport {
        Some(TransportSlice::Tcp(t)) => {
            assert_eq!((p.proto, ports), (Proto::TCP, (t.source_port(), t.destination_port())));
            assert_eq!(
                (p.tcp_flags.contains(tcp::TcpFlags::SYN), p.payload_len()),
                (t.syn(), t.payload().len())
            );
        }
        Some(TransportSlice::Udp(u)) => {
            assert_eq!((p.proto, ports), (Proto::UDP, (u.source_port(), u.destination_port())));
        }
        Some(TransportSlice::Icmpv4(i)) => {
            assert_eq!(
                (p.proto, p.icmp_type, p.icmp_code),
                (Proto::ICMP, i.type_u8(), i.code_u8())
            );
        }
        Some(TransportSlice::Icmpv6(i)) => {
            assert_eq!(
                (p.proto, p.icmp_type, p.icmp_code),
                (Proto::ICMPV6, i.type_u8(), i.code_u8())
            );
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_corpus_of_the_fuzz_target_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/parse");
        let mut replayed = 0;
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let file = entry.unwrap().path();
            let bytes = fs::read(&file).unwrap();
            println!("{}", file.display());
            super::check_parse(&bytes);
            super::check_against_etherparse(&bytes);
            replayed += 1;
        }
        assert!(replayed >= 40, "{replayed} inputs in {}", folder.display());
    }
}
