//! The invariants of segmentation, for any packet.

use crate::checksum;
use crate::parse::{Parsed, parse};
use crate::segment::{Segmenter, is_divisible};
use crate::tcp;

/// Cuts a packet into segments of several sizes. Asserts that each segment can be parsed and verified, that the segments follow each
/// other, and that their data is the packet's.
pub(super) fn check(data: &[u8], p: &Parsed) {
    for size in [0, 1, 7, 536, 1448, u16::MAX] {
        let segmenter = Segmenter::new(data, p, size);
        assert_eq!(segmenter.is_some(), is_divisible(p) && size > 0, "{p:?} by {size}");
        // A packet of the fuzzer's is short. In octets of one each, it would still make thousands.
        if let Some(segmenter) = segmenter.filter(|_| p.payload_len() <= 64 * usize::from(size)) {
            check_segments(data, p, segmenter);
        }
    }
}

fn check_segments(data: &[u8], p: &Parsed, mut segmenter: Segmenter) {
    let mut left = &data[p.payload()..p.end()];
    let mut sequence = tcp::sequence(data, p);
    while let Some(len) = segmenter.advance() {
        let (now, later) = left.split_at(len);
        let mut segment = vec![0; segmenter.headers_len()];
        assert!(segmenter.write(&mut segment, checksum::sum(now), len));
        segment.extend_from_slice(now);
        let own = match parse(&segment, segment.len()) {
            Ok(own) => own,
            Err(e) => panic!("{e} in a segment of {p:?}"),
        };
        assert!(checksum::verify(&own, [&segment[..]]), "checksum of {own:?}");
        assert_eq!(tcp::sequence(&segment, &own), sequence);
        assert_eq!((own.tuple(), own.payload_len(), own.ttl), (p.tuple(), len, p.ttl));
        sequence = sequence.map(|sequence| sequence.wrapping_add(len as u32));
        left = later;
    }
    assert!(left.is_empty());
}
