//! Compares the fast sums with naive ones, and incremental updates with recomputation.

use proptest::prelude::*;

use super::*;

fn naive(bytes: &[u8]) -> u16 {
    let mut s: u32 = 0;
    for pair in bytes.chunks(2) {
        s += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        s = (s & 0xffff) + (s >> 16);
    }
    s as u16
}

#[test]
fn example_of_rfc_1071() {
    assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
}

#[test]
fn example_of_rfc_1624() {
    // Section 4: equation 3 gives 0000, unlike the old equation 2, which gave ffff.
    assert_eq!(Delta::word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
}

#[test]
fn udp_without_a_checksum_stays_without() {
    assert_eq!(Delta::word(1, 2).apply_udp(0), 0);
    assert_eq!(Delta::word(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
}

proptest! {
    #[test]
    fn sum_is_that_of_the_naive_twin(bytes in prop::collection::vec(any::<u8>(), 0..4100), skip in 0usize..9) {
        let bytes = bytes.get(skip..).unwrap_or(&[]);
        prop_assert_eq!(sum(bytes).fold(), naive(bytes));
    }

    #[test]
    fn a_chain_sums_like_its_concatenation(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70), 0..9)) {
        let mut c = Chain::default();
        parts.iter().for_each(|p| c.push(p));
        prop_assert_eq!(c.sum().fold(), naive(&parts.concat()));
    }

    #[test]
    fn pseudo_header_is_the_sum_of_its_bytes(is_v4: bool, src: [u8; 16], dst: [u8; 16], len: u16, proto in 1u8..) {
        let len = u32::from(len);
        let (bytes, src, dst) = if is_v4 {
            let (s, d) = ([src[0], src[1], src[2], src[3]], [dst[0], dst[1], dst[2], dst[3]]);
            ([&s[..], &d, &[0, proto], &(len as u16).to_be_bytes()].concat(), Ip::from_v4(s), Ip::from_v4(d))
        } else {
            let len = (len + 9).to_be_bytes();
            ([&src[..], &dst, &len, &[0, 0, 0, proto]].concat(), Ip::from_v6(src), Ip::from_v6(dst))
        };
        let len = if is_v4 { len } else { len + 9 };
        prop_assert_eq!(pseudo(src, dst, Proto(proto), len).fold(), naive(&bytes));
    }

    #[test]
    fn a_delta_is_recomputation(
        mut bytes in prop::collection::vec(any::<u8>(), 40..80),
        new_a: [u8; 16], new_b: [u8; 16], w: u16,
    ) {
        bytes[39] |= 1; // the checksum of zeros alone is ambiguous
        let field = !naive(&bytes);
        let old = |b: &[u8], at: usize| Ip::from_v6(b[at..at + 16].try_into().unwrap());
        let d = Delta::address(old(&bytes, 0), Ip::from_v6(new_a))
            .and(Delta::address(old(&bytes, 16), Ip::from_v6(new_b)))
            .and(Delta::word(u16::from_be_bytes([bytes[32], bytes[33]]), w));
        bytes[..16].copy_from_slice(&new_a);
        bytes[16..32].copy_from_slice(&new_b);
        bytes[32..34].copy_from_slice(&w.to_be_bytes());
        prop_assert_eq!(d.apply(field), !naive(&bytes));
        prop_assert_eq!(Delta::from_raw(d.to_raw()), d);
        prop_assert_eq!(d.reverse().apply(d.apply(field)), field);
    }
}
