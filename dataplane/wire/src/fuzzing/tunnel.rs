//! The invariants of tunnels for any bytes: as a packet that comes in, and as a frame that leaves.

use crate::addr::{Ip, MacAddr};
use crate::bytes;
use crate::checksum::{self, Sum};
use crate::parse::{L3, Parsed, parse};
use crate::vxlan::{self, OuterHeader, VxlanError, ecn};

const VNI: u32 = 77;

/// Reads `data` as a packet of a tunnel and decapsulates it, and encapsulates it as a frame for other nodes. Asserts that the inner
/// frame lies in the packet, that the congestion marks change nothing else, and that an encapsulated frame is valid and comes out
/// as it went in.
///
/// # Panics
///
/// If an invariant is broken.
pub fn check_tunnel(data: &[u8]) {
    let Ok(p) = parse(data, data.len()) else { return };
    check_open(data, &p);
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
    }
}
