//! Fragmentation of IPv4 packets: the headers of each fragment, and the length of its data (RFC 791 section 3.2).
//!
//! This module writes headers only. The caller provides the memory of the fragments and copies the data. IPv6 packets are
//! fragmented by their senders alone (RFC 8200 section 5). The transport checksum covers the whole packet, so the caller must
//! finish it first.

use crate::bytes;
use crate::checksum;
use crate::parse::{L3, Parsed};

const L3_OFFSET: usize = Parsed::L3_OFFSET;
const MIN_HEADERS: usize = L3_OFFSET + 20;
/// The length of Ethernet and the longest IPv4 header.
const MAX_HEADERS: usize = L3_OFFSET + 60;
const MORE_FRAGMENTS: u16 = 0x2000;
/// Option types without a length octet: end of list, and no operation.
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
/// The flag of an option that is copied into every fragment (RFC 791 section 3.1).
const COPIED: u8 = 0x80;

/// A builder of the Ethernet and IPv4 headers of one packet's fragments, one after the other.
///
/// The packet may be a fragment itself. Then the offsets continue from its own, and the last fragment has its flag for more
/// fragments.
#[derive(Clone, Debug)]
pub struct Fragmenter {
    headers: [u8; MAX_HEADERS],
    len: usize,
    mtu: usize,
    /// The offset of the next fragment's data in the datagram, in octets.
    offset: usize,
    /// Octets of data that are in no fragment yet.
    left: usize,
    /// True if the packet itself is a fragment that others follow.
    more: bool,
    first: bool,
}

impl Fragmenter {
    /// Makes a fragmenter of a packet, parsed from `head`, for a path with the MTU `mtu` in octets. Returns `None` if the packet
    /// is not IPv4 or has DF set, or if the MTU leaves no room for eight octets of data.
    #[must_use]
    pub fn new(head: &[u8], p: &Parsed, mtu: u16) -> Option<Self> {
        if p.l3 != L3::V4 || p.dont_fragment {
            return None;
        }
        let len = p.l4();
        let mut headers = [0; MAX_HEADERS];
        headers.get_mut(..len)?.copy_from_slice(head.get(..len)?);
        let made = Self {
            headers,
            len,
            mtu: usize::from(mtu),
            offset: usize::from(p.fragment_offset),
            left: p.l4_len(),
            more: p.more_fragments,
            first: true,
        };
        (len >= MIN_HEADERS && made.room() > 0).then_some(made)
    }

    /// Returns the length of data in each fragment except the last: a multiple of eight octets.
    fn room(&self) -> usize {
        (self.mtu + L3_OFFSET).saturating_sub(self.len) & !7
    }

    /// Makes the headers of the next fragment and returns the length of its data, or `None` if all data is in fragments.
    pub fn advance(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        if !std::mem::take(&mut self.first) {
            self.keep_copied_options();
        }
        // The last one may be longer by up to seven octets if the MTU leaves room for them.
        let data = if self.len - L3_OFFSET + self.left <= self.mtu {
            self.left
        } else {
            self.room()
        };
        self.left -= data;
        let more = self.left > 0 || self.more;
        let place = (self.offset / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 };
        let total = (self.len - L3_OFFSET + data) as u16;
        self.offset += data;
        let header = self.headers.get_mut(L3_OFFSET..self.len)?;
        bytes::put16(header, 2, total);
        bytes::put16(header, 6, place);
        bytes::put16(header, 10, 0);
        let sum = checksum::sum(header).checksum();
        bytes::put16(header, 10, sum);
        Some(data)
    }

    /// Returns the headers that were made last.
    #[must_use]
    pub fn headers(&self) -> &[u8] {
        self.headers.get(..self.len).unwrap_or_default()
    }

    /// Removes the options that only the first fragment has, and fills the last word of the header with zeros, which end the list.
    fn keep_copied_options(&mut self) {
        if self.len == MIN_HEADERS {
            return;
        }
        let old = self.headers;
        let mut rest = old.get(MIN_HEADERS..self.len).unwrap_or_default();
        let mut end = MIN_HEADERS;
        while let Some((&kind, after)) = rest.split_first() {
            let len = match (kind, after.first()) {
                (END_OF_OPTIONS, _) | (2.., None) => break,
                (NO_OPERATION, _) => 1,
                (_, Some(&len)) => usize::from(len),
            };
            // An impossible length ends the list.
            let Some((option, behind)) = rest.split_at_checked(len).filter(|_| len > 0) else {
                break;
            };
            if kind & COPIED != 0
                && let Some(place) = self.headers.get_mut(end..end + len)
            {
                place.copy_from_slice(option);
                end += len;
            }
            rest = behind;
        }
        let whole = MIN_HEADERS + (end - MIN_HEADERS).next_multiple_of(4);
        if let Some(padding) = self.headers.get_mut(end..whole) {
            padding.fill(END_OF_OPTIONS);
        }
        self.len = whole;
        self.headers[L3_OFFSET] = 0x40 | ((whole - L3_OFFSET) / 4) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Packet, assert_valid, ip, mac};
    use crate::{ParseError, Proto, parse};
    use proptest::prelude::*;

    fn base() -> Packet {
        Packet::new(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2")).dont_fragment(false)
    }

    /// Returns all fragments of a frame. Asserts that each is valid and none is larger than the MTU.
    fn fragments(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let p = parse(frame, frame.len()).unwrap();
        let mut fragmenter = Fragmenter::new(frame, &p, mtu).unwrap();
        let (mut made, mut at) = (Vec::new(), p.l4());
        while let Some(len) = fragmenter.advance() {
            let fragment = [fragmenter.headers(), &frame[at..at + len]].concat();
            at += len;
            assert_valid(&fragment);
            assert!(fragment.len() <= usize::from(mtu) + L3_OFFSET);
            made.push(fragment);
        }
        assert_eq!(at, p.end(), "all data is in fragments");
        made
    }

    /// Reassembles fragments as in RFC 791 section 3.2. Returns the offset of the data, the data, and the last flag for more
    /// fragments.
    fn reassembled(fragments: &[Vec<u8>]) -> (usize, Vec<u8>, bool) {
        let (mut start, mut data, mut more) = (None, Vec::<u8>::new(), true);
        for fragment in fragments {
            let sliced = etherparse::SlicedPacket::from_ethernet(fragment).unwrap();
            let Some(etherparse::NetSlice::Ipv4(v4)) = &sliced.net else {
                panic!("no IPv4: {sliced:?}")
            };
            let header = v4.header();
            let offset = usize::from(header.fragments_offset().byte_offset());
            let start = *start.get_or_insert(offset);
            assert_eq!(offset, start + data.len(), "in order, without a gap");
            assert!(!header.dont_fragment());
            data.extend_from_slice(v4.payload().payload);
            more = header.more_fragments();
        }
        (start.unwrap(), data, more)
    }

    #[test]
    fn packets_with_df_or_without_room_are_not_fragmented() {
        let with_df = base().dont_fragment(true).udp(1, 2, &[0; 3000]);
        let six = Packet::new(mac(1), mac(2), ip("fd00::1"), ip("fd00::2")).udp(1, 2, &[0; 3000]);
        for frame in [&with_df, &six] {
            let p = parse(frame, frame.len()).unwrap();
            assert!(Fragmenter::new(frame, &p, 1500).is_none());
        }
        let frame = base().udp(1, 2, &[0; 100]);
        let p = parse(&frame, frame.len()).unwrap();
        assert!(Fragmenter::new(&frame, &p, 27).is_none(), "a header and seven octets");
        assert_eq!(fragments(&frame, 28).len(), 14);
    }

    #[test]
    fn options_that_are_not_to_be_copied_stand_in_the_first_fragment_alone() {
        // No operation, router alert (RFC 2113, to be copied), record route with room for one address (not to be copied).
        let options = [1, 0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0];
        let made = fragments(&base().ip_options(&options).udp(1, 2, &[7; 4000]), 1500);
        let lengths: Vec<u8> = made.iter().map(|f| f[14] & 0xf).collect();
        assert_eq!(lengths, [8, 6, 6]);
        assert_eq!(made[0][34..46], options);
        assert_eq!(made[1][34..38], [0x94, 4, 0, 0]);
    }

    #[test]
    fn the_last_fragment_fills_an_mtu_that_is_no_multiple_of_eight() {
        // 20 octets of header and 1476 + 4 of data.
        let made = fragments(&base().raw(Proto(200), &[1; 1472 + 1480]), 1500);
        assert_eq!(made.len(), 2);
        let made = fragments(&base().raw(Proto(200), &[1; 1472 + 1479]), 1499);
        assert_eq!(made.iter().map(Vec::len).collect::<Vec<_>>(), [1506, 1513]);
    }

    proptest! {
        #[test]
        fn fragments_are_the_packet(
            data in prop::collection::vec(any::<u8>(), 8..9000),
            mtu in 68_u16..2000,
            options in prop::collection::vec(any::<u8>(), 0..10),
            whole in any::<bool>(),
            place in 0_u16..4000,
            more in any::<bool>(),
        ) {
            let options: Vec<u8> = options.iter().flat_map(|b| [*b, b.wrapping_mul(3) % 12, 0, *b]).collect();
            let mut data = data;
            let packet = base().ip_options(&options);
            let packet = if whole {
                packet
            } else {
                data.truncate(data.len() & !7);
                packet.fragment(place * 8 + 8, more)
            };
            let frame = packet.raw(Proto(200), &data);
            // The options are random, which the parser accepts unless they are a source route.
            let p = match parse(&frame, frame.len()) {
                Err(ParseError::Ipv4SourceRoute) => return Err(TestCaseError::reject("a source route")),
                parsed => parsed.unwrap(),
            };
            let (start, put, follows) = reassembled(&fragments(&frame, mtu));
            prop_assert_eq!(start, usize::from(p.fragment_offset));
            prop_assert!(put == data);
            prop_assert_eq!(follows, p.more_fragments);
            // Fragments can be fragmented again.
            let twice: Vec<Vec<u8>> =
                fragments(&frame, 2 * mtu).iter().flat_map(|f| fragments(f, mtu)).collect();
            prop_assert!(reassembled(&twice).1 == data);
        }
    }
}
