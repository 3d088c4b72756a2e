//! The invariants of tunnels for any bytes: as a packet that comes in, and as a frame that leaves.

use crate::addr::{Ip, MacAddr};
use crate::build::{self, IcmpError, Unreachable};
use crate::bytes;
use crate::checksum::{self, Sum};
use crate::parse::{L3, ParseError, Parsed, parse, quoted};
use crate::rewrite;
use crate::vxlan::{self, OuterHeader, SeenHeader, VxlanError, ecn};

const VNI: u32 = 77;

/// Reads `data` as a packet of a tunnel and decapsulates it, and encapsulates it as a frame for other nodes. Asserts that the inner
/// frame lies in the packet, that errors about an inner packet in a quote are valid, that the congestion marks change nothing else, and that an encapsulated frame is valid and comes out
/// as it went in.
///
/// # Panics
///
/// If an invariant is broken.
pub fn check_tunnel(data: &[u8]) {
    let Ok(p) = parse(data, data.len()) else { return };
    check_open(data, &p);
    check_quote(data, &p);
    if p.l3 != L3::Arp {
        for v4 in [true, false] {
            check_round_trip(data, &p, v4);
        }
    }
}

/// Opens a packet of the tunnel that its own bytes name, and of another one.
fn check_open(data: &[u8], outer: &Parsed) {
    let vni = bytes::read::<4>(data, outer.payload() + 4).map_or(VNI, |word| u32::from_be_bytes(*word) >> 8);
    let opened = vxlan::open(data, outer, vni);
    let expected = opened.and(Err(VxlanError::Vni));
    assert_eq!(vxlan::open(data, outer, vni ^ 1), expected, "another identifier");
    let Ok(at) = opened else { return };
    assert!(at == outer.payload() + vxlan::HEADER, "{at} of {outer:?}");
    let Some(inner) = data.get(at..) else {
        panic!("an inner frame behind the end: {at} of {}", data.len());
    };
    for class in 0..4 {
        check_marks(class, inner);
    }
    check_seen(data, outer, vni);
}

/// Changes each octet of the outer headers of an opened packet, and its length. Asserts that only packets that are parsed and opened
/// alike are recognized by its headers, and that it is recognized itself.
fn check_seen(data: &[u8], outer: &Parsed, vni: u32) {
    let Some(seen) = SeenHeader::of(data, outer) else {
        return;
    };
    assert_eq!(
        seen.is_repeated(data, data.len()),
        outer.end() == data.len(),
        "{outer:?}"
    );
    let check = |head: &[u8], len: usize| {
        if !seen.is_repeated(head, len) {
            return;
        }
        let p = match parse(head, len) {
            Ok(p) => p,
            Err(e) => panic!("{e} of a packet that is recognized"),
        };
        let ends = |p: &Parsed| (p.l3, p.src, p.dst, p.proto, p.dport);
        assert_eq!(ends(&p), ends(outer));
        assert_eq!((p.end(), p.l3), (len, seen.l3()));
        assert_eq!(vxlan::open(head, &p, vni), Ok(seen.inner()));
    };
    for at in 0..seen.inner().min(data.len()) {
        for bits in [0x01, 0x40, 0xff] {
            let mut changed = data.to_vec();
            if let Some(octet) = changed.get_mut(at) {
                *octet ^= bits;
            }
            check(&changed, changed.len());
            if outer.l3 == L3::V4 && rewrite::finish_ipv4_header(&mut changed, Parsed::L3_OFFSET) {
                check(&changed, changed.len());
            }
        }
    }
    for len in [data.len() - 1, data.len(), data.len() + 1] {
        for head in [
            seen.inner(),
            seen.inner() + 13,
            seen.inner() + 14,
            data.len() - 1,
            data.len(),
        ] {
            check(data.get(..head).unwrap_or(data), len);
        }
    }
}

/// Reads the inner packet in the quote of an ICMP error, and builds the errors about it. Asserts that each is valid, quotes that
/// packet, and goes to its sender.
fn check_quote(data: &[u8], p: &Parsed) {
    let Ok(outer) = quoted(data, p) else { return };
    let at = usize::from(outer.l4_offset) + 12;
    let vni = bytes::read::<4>(data, at).map_or(VNI, |word| u32::from_be_bytes(*word) >> 8);
    let Ok(inner) = vxlan::quoted_inner(data, p, &outer, vni) else {
        return;
    };
    let other = vxlan::quoted_inner(data, p, &outer, vni ^ 1);
    assert_eq!(other, Err(ParseError::QuoteMalformed), "another identifier");
    let mut out = [0; 2048];
    let macs = (MacAddr::GATEWAY, MacAddr([2, 1, 1, 1, 1, 1]));
    for error in [
        IcmpError::TooBig { mtu: 1300 },
        IcmpError::Unreachable(Unreachable::Host),
    ] {
        let Some(frame) = build::icmp_error_inside(data, &inner, error, macs, &mut out)
            .ok()
            .and_then(|len| out.get(..len))
        else {
            panic!("no error about {inner:?}");
        };
        // The ends of the inner packet may be any addresses, and the engine parses the error as one that comes in.
        let Ok(built) = parse(frame, frame.len()) else { continue };
        assert_eq!((built.src, built.dst, built.end()), (inner.dst, inner.src, frame.len()));
        assert!(built.l3_len <= if built.l3 == L3::V4 { 576 } else { 1280 });
        assert!(checksum::verify(&built, [frame]), "checksum of {built:?}");
        if let Ok(again) = quoted(frame, &built) {
            assert_eq!((again.src, again.dst), (inner.src, inner.dst));
        }
    }
}

/// Combines the marks of an outer packet with the marks of an inner frame.
fn check_marks(class: u8, inner: &[u8]) {
    let mut frame = inner.to_vec();
    let taken = ecn::decapsulate(class, &mut frame);
    let Ok(before) = parse(inner, inner.len()) else {
        return;
    };
    if !taken {
        assert_eq!(frame, inner, "a packet that is dropped");
        assert_eq!((class, ecn::traffic_class(inner, before.l3) & 3), (3, 0));
        return;
    }
    assert_eq!(parse(&frame, frame.len()), Ok(before), "only the marks change");
    assert_eq!(
        checksum::verify(&before, [&frame[..]]),
        checksum::verify(&before, [inner]),
        "the transport's checksum does not cover the marks"
    );
    if before.l3 != L3::Arp {
        let classes = [&frame[..], inner].map(|frame| ecn::traffic_class(frame, before.l3));
        assert_eq!(classes[0] >> 2, classes[1] >> 2, "DSCP");
        assert_eq!(Some(classes[0] & 3), ecn::combine(class, classes[1]));
    }
}

/// Encapsulates a frame, opens the packet, and compares.
fn check_round_trip(data: &[u8], p: &Parsed, v4: bool) {
    let Some(inner) = data.get(..p.end()) else {
        panic!("a packet that ends behind its frame: {p:?}");
    };
    let ends = if v4 {
        [Ip::from_v4([192, 0, 2, 1]), Ip::from_v4([192, 0, 2, 2])]
    } else {
        [Ip::from_v6([0x20; 16]), Ip::from_v6([0x21; 16])]
    };
    let Some(header) = OuterHeader::new(ends[0], ends[1], vxlan::PORT, VNI) else {
        panic!("two addresses of one family");
    };
    let header = header.with_macs(MacAddr::GATEWAY, MacAddr([2, 1, 1, 1, 1, 1]));
    let class = ecn::traffic_class(inner, p.l3);
    let sum = if header.needs_inner_sum() {
        let Some(sum) = vxlan::inner_sum(p, [inner]) else {
            panic!("no sum of {p:?}");
        };
        sum
    } else {
        Sum::ZERO
    };
    let mut frame = [&vec![0; header.len()][..], inner].concat();
    let written = header.write(&mut frame, inner.len() as u32, class, 50_000, sum);
    let total = frame.len() - if v4 { 14 } else { 54 };
    assert_eq!(written, total <= usize::from(u16::MAX), "{total} octets");
    if !written {
        return;
    }
    let outer = match parse(&frame, frame.len()) {
        Ok(outer) => outer,
        Err(e) => panic!("{e} of an encapsulated frame"),
    };
    assert_eq!((outer.src, outer.dst, outer.sport), (ends[0], ends[1], 50_000));
    assert_eq!(outer.end(), frame.len());
    assert_eq!(ecn::traffic_class(&frame, outer.l3), class);
    assert_eq!(vxlan::open(&frame, &outer, VNI), Ok(header.len()));
    assert_eq!(frame.get(header.len()..), Some(inner));
    // The sum follows from the inner checksum, so the outer one is as right as that.
    if checksum::verify(p, [inner]) {
        assert!(checksum::verify(&outer, [&frame[..]]), "outer checksum around {p:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_corpus_of_the_fuzz_target_holds() {
        let mut replayed = 0;
        for name in ["tunnel", "parse"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../fuzz/corpus")
                .join(name);
            for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
                let file = entry.unwrap().path();
                println!("{}", file.display());
                check_tunnel(&fs::read(&file).unwrap());
                replayed += 1;
            }
        }
        assert!(replayed >= 60, "{replayed} inputs");
    }

    proptest! {
        #[test]
        fn any_change_of_a_packet(at in 0_usize..120, to: u8, cut in 40_usize..130, data: [u8; 20]) {
            use crate::testing::{Packet, ip, mac};
            for (src, dst) in [("10.0.0.1", "10.0.1.1"), ("fd00::1", "fd00::2")] {
                let inner = Packet::new(mac(1), mac(2), ip(src), ip(dst)).udp(1000, 53, &data);
                let payload = [&[8, 0, 0, 0, 0, 0, 77, 0][..], &inner].concat();
                let mut frame = Packet::new(mac(1), mac(2), ip(src), ip(dst)).udp(50_000, vxlan::PORT, &payload);
                if let Some(octet) = frame.get_mut(at) {
                    *octet = to;
                }
                check_tunnel(&frame);
                check_tunnel(frame.get(..cut).unwrap_or(&frame));
            }
        }

        #[test]
        fn any_change_of_an_error(at in 14_usize..200, to: u8, cut in 40_usize..240, data: [u8; 60], kind in 1_u8..13) {
            use crate::testing::{Packet, ip, mac};
            for (src, dst) in [("10.0.0.1", "10.0.1.1"), ("fd00::1", "fd00::2")] {
                let inner = Packet::new(mac(1), mac(2), ip(src), ip(dst)).udp(1000, 53, &data);
                let payload = [&[8, 0, 0, 0, 0, 0, 77, 0][..], &inner].concat();
                let outer = Packet::new(mac(1), mac(2), ip(src), ip(dst)).udp(50_000, vxlan::PORT, &payload);
                let router = Packet::new(mac(1), mac(2), ip(dst), ip(src));
                // The quote is cut, and changed before and after the error gets its checksum.
                let mut quote = outer.get(..cut).unwrap_or(&outer).to_vec();
                if let Some(octet) = quote.get_mut(at) {
                    *octet = to;
                }
                let mut frame = router.icmp_error(kind, 4, 1400, &quote);
                check_tunnel(&frame);
                if let Some(octet) = frame.get_mut(at) {
                    *octet = to;
                }
                check_tunnel(&frame);
            }
        }
    }
}
