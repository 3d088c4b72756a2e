//! Segmentation of TCP packets that are larger than their path takes: the headers of each segment, and the length of its data. A kernel
//! that leaves this to the device (TSO) sends such packets.
//!
//! This module writes headers only. The caller provides the memory of the segments, copies the data and sums it. Each segment has the
//! packet's headers and options, with these differences: lengths, the sequence number, the identification of IPv4 (one more for each
//! segment), FIN and PSH only in the last one, CWR only in the first (RFC 3168 section 6.1.2), and the checksums.

use crate::bytes;
use crate::checksum::{self, Sum, pseudo};
use crate::parse::{L3, Parsed};
use crate::proto::Proto;
use crate::tcp::MIN_HEADER;
use crate::tcp_flags::TcpFlags;

const L3_OFFSET: usize = Parsed::L3_OFFSET;
/// The most octets of headers: Ethernet, IPv6, the longest TCP header, and extension headers of 138 octets.
const MAX_HEADERS: usize = 256;
/// The length of an IPv6 header.
const V6_HEADER: usize = 40;

/// Returns true if a packet may be cut into segments: a whole TCP packet with data and without a flag that belongs to one octet of the
/// stream alone.
#[must_use]
#[inline]
pub fn is_divisible(p: &Parsed) -> bool {
    let alone = TcpFlags::SYN | TcpFlags::RST | TcpFlags::URG;
    p.is_tcp() && !p.is_fragment() && p.payload_len() > 0 && !p.tcp_flags.intersects(alone)
}

/// A builder of the headers of one packet's segments, one after the other.
#[derive(Clone, Debug)]
pub struct Segmenter {
    headers: [u8; MAX_HEADERS],
    len: usize,
    l4: usize,
    l3: L3,
    addresses: Sum,
    flags: TcpFlags,
    size: usize,
    /// The sequence number of the next segment.
    sequence: u32,
    /// The identification of the next segment; IPv4 alone has one.
    id: u16,
    /// Octets of data that are in no segment yet.
    left: usize,
    first: bool,
}

impl Segmenter {
    /// Makes a segmenter of a packet, parsed from `head`, for segments with at most `size` octets of data. Returns `None` if the packet
    /// is not divisible ([`is_divisible`]), if its headers do not lie in the head or are too long, or if `size` is 0.
    #[must_use]
    pub fn new(head: &[u8], p: &Parsed, size: u16) -> Option<Self> {
        if !is_divisible(p) || size == 0 {
            return None;
        }
        let (len, l4) = (p.payload(), p.l4());
        let mut headers = [0; MAX_HEADERS];
        headers.get_mut(..len)?.copy_from_slice(head.get(..len)?);
        if len < l4 + MIN_HEADER {
            return None;
        }
        Some(Self {
            sequence: bytes::be32(&headers, l4 + 4)?,
            headers,
            len,
            l4,
            l3: p.l3,
            addresses: pseudo(p.src, p.dst, Proto::TCP, 0),
            flags: p.tcp_flags,
            size: usize::from(size),
            id: p.fragment_id as u16,
            left: p.payload_len(),
            first: true,
        })
    }

    /// Makes the headers of the next segment and returns the length of its data, or `None` if all data is in segments. The checksum of
    /// TCP is left open until [`Segmenter::write`].
    pub fn advance(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        let data = self.left.min(self.size);
        self.left -= data;
        let mut flags = self.flags.0;
        if !std::mem::take(&mut self.first) {
            flags &= !TcpFlags::CWR.0;
        }
        if self.left > 0 {
            flags &= !(TcpFlags::FIN | TcpFlags::PSH).0;
        }
        let total = (self.len - L3_OFFSET + data) as u16;
        let header = self.headers.get_mut(L3_OFFSET..self.l4)?;
        match self.l3 {
            L3::V4 => {
                bytes::put16(header, 2, total);
                bytes::put16(header, 4, self.id);
                bytes::put16(header, 10, 0);
                let sum = checksum::sum(header).checksum();
                bytes::put16(header, 10, sum);
                self.id = self.id.wrapping_add(1);
            }
            L3::V6 => {
                bytes::put16(header, 4, total - V6_HEADER as u16);
            }
            L3::Arp => return None,
        }
        let tcp = self.headers.get_mut(self.l4..self.len)?;
        bytes::put(tcp, 4, self.sequence.to_be_bytes());
        bytes::put(tcp, 13, [flags]);
        bytes::put16(tcp, 16, 0);
        self.sequence = self.sequence.wrapping_add(data as u32);
        Some(data)
    }

    /// Returns the length of the headers in octets, the same for all segments.
    #[must_use]
    pub const fn headers_len(&self) -> usize {
        self.len
    }

    /// Writes the headers that were made last to the front of `to`. `data` is the sum of the segment's data, and `len` its length.
    /// Returns false if there is no room.
    #[must_use]
    pub fn write(&self, to: &mut [u8], data: Sum, len: usize) -> bool {
        let Some(headers) = self.headers.get(..self.len) else {
            return false;
        };
        let Some(tcp) = headers.get(self.l4..) else {
            return false;
        };
        let covered = (tcp.len() + len) as u16;
        // A TCP header has a multiple of four octets, so the data begins at an even place of the sum.
        let sum = self
            .addresses
            .plus_word(covered)
            .plus(checksum::sum(tcp))
            .plus(data)
            .checksum();
        let Some(front) = to.get_mut(..self.len) else {
            return false;
        };
        front.copy_from_slice(headers);
        bytes::put16(front, self.l4 + 16, sum)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parse::parse;
    use crate::testing::{Packet, assert_valid, ip, mac};

    fn packet(v6: bool) -> Packet {
        let [a, b] = if v6 {
            ["fd00::1", "fd00::2"]
        } else {
            ["10.0.0.1", "10.0.0.2"]
        };
        Packet::new(mac(1), mac(2), ip(a), ip(b))
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 31 + n / 251) as u8).collect()
    }

    /// Cuts a frame, and returns the segments as frames.
    fn cut(frame: &[u8], size: u16) -> Vec<Vec<u8>> {
        let p = parse(frame, frame.len()).unwrap();
        let mut segmenter = Segmenter::new(frame, &p, size).unwrap();
        let mut data = &frame[p.payload()..p.end()];
        let mut segments = Vec::new();
        while let Some(len) = segmenter.advance() {
            let (now, later) = data.split_at(len);
            data = later;
            let mut segment = vec![0; segmenter.headers_len()];
            assert!(segmenter.write(&mut segment, checksum::sum(now), len));
            segment.extend_from_slice(now);
            segments.push(segment);
        }
        assert!(data.is_empty());
        segments
    }

    /// Cuts a frame by the text of RFC 9293 and RFC 3168, field by field, with checksums from scratch.
    fn cut_naively(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
        let p = parse(frame, frame.len()).unwrap();
        let data = &frame[p.payload()..p.end()];
        let parts: Vec<&[u8]> = data.chunks(size).collect();
        let mut segments = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            let mut segment = frame[..p.payload()].to_vec();
            segment.extend_from_slice(part);
            let (l3, l4) = (Parsed::L3_OFFSET, p.l4());
            let length = segment.len() - l3;
            if p.l3 == L3::V4 {
                segment[l3 + 2..l3 + 4].copy_from_slice(&(length as u16).to_be_bytes());
                let id = u16::from_be_bytes([frame[l3 + 4], frame[l3 + 5]]).wrapping_add(n as u16);
                segment[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
                segment[l3 + 10..l3 + 12].fill(0);
                let sum = checksum::sum(&segment[l3..l4]).checksum();
                segment[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
            } else {
                segment[l3 + 4..l3 + 6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
            }
            let before: usize = parts[..n].iter().map(|part| part.len()).sum();
            let sequence = u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().unwrap()).wrapping_add(before as u32);
            segment[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
            if n > 0 {
                segment[l4 + 13] &= !0x80;
            }
            if n + 1 < parts.len() {
                segment[l4 + 13] &= !0x09;
            }
            let own = parse(&segment, segment.len()).unwrap();
            let sum = checksum::compute(&own, [&segment[..]]).unwrap();
            assert!(sum.store(&mut segment));
            segments.push(segment);
        }
        segments
    }

    #[test]
    fn flags_stand_where_they_belong() {
        let flags = TcpFlags::ACK | TcpFlags::PSH | TcpFlags::FIN | TcpFlags::ECE | TcpFlags::CWR;
        for v6 in [false, true] {
            let frame = packet(v6).tcp(1, 2, flags, u32::MAX - 10, 7, &pattern(2500));
            let seen: Vec<_> = cut(&frame, 1000)
                .iter()
                .map(|segment| {
                    assert_valid(segment);
                    let p = parse(segment, segment.len()).unwrap();
                    let sequence = crate::tcp::sequence(segment, &p).unwrap();
                    (p.tcp_flags, sequence, p.payload_len(), p.fragment_id)
                })
                .collect();
            let id = |n| if v6 { 0 } else { seen[0].3 + n };
            let (ack, ece) = (TcpFlags::ACK, TcpFlags::ECE);
            assert_eq!(
                seen,
                [
                    (ack | ece | TcpFlags::CWR, u32::MAX - 10, 1000, id(0)),
                    (ack | ece, 989, 1000, id(1)),
                    (ack | ece | TcpFlags::PSH | TcpFlags::FIN, 1989, 500, id(2)),
                ]
            );
        }
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let data = pattern(3000);
        for v6 in [false, true] {
            for (frame, size) in [
                (packet(v6).tcp(1, 2, TcpFlags::SYN | TcpFlags::ACK, 1, 1, &data), 1000),
                (packet(v6).tcp(1, 2, TcpFlags::RST, 1, 1, &data), 1000),
                (packet(v6).tcp(1, 2, TcpFlags::ACK | TcpFlags::URG, 1, 1, &data), 1000),
                (packet(v6).tcp(1, 2, TcpFlags::ACK, 1, 1, &[]), 1000),
                (packet(v6).tcp(1, 2, TcpFlags::ACK, 1, 1, &data), 0),
                (packet(v6).udp(1, 2, &data), 1000),
            ] {
                let p = parse(&frame, frame.len()).unwrap();
                assert!(Segmenter::new(&frame, &p, size).is_none());
            }
            // Headers that do not lie in the first frame.
            let frame = packet(v6).tcp(1, 2, TcpFlags::ACK, 1, 1, &data);
            let p = parse(&frame, frame.len()).unwrap();
            assert!(Segmenter::new(&frame[..p.payload() - 1], &p, 1000).is_none());
        }
    }

    proptest! {
        #[test]
        fn segments_are_the_naive_ones(
            v6: bool,
            len in 1usize..9000,
            size in 1u16..3000,
            sequence: u32,
            flags in 0u8..=255,
            options: bool,
        ) {
            let flags = TcpFlags(flags & !(TcpFlags::SYN | TcpFlags::RST | TcpFlags::URG).0 | TcpFlags::ACK.0);
            let mut packet = packet(v6);
            if options {
                packet = packet.tcp_options(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
                packet = if v6 { packet.extension(60, &[0, 1, 4, 0, 0, 0, 0]) } else { packet.ip_options(&[1, 1, 1, 0]) };
            }
            let frame = packet.tcp(40_000, 80, flags, sequence, 5, &pattern(len));
            let segments = cut(&frame, size);
            prop_assert_eq!(&segments, &cut_naively(&frame, usize::from(size)));
            for segment in &segments {
                assert_valid(segment);
            }
        }
    }
}
