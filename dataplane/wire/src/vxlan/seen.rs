//! The outer headers of a packet that was opened, by which the next packet from the same sender is recognized without being parsed.

use super::{HEADER, UDP};
use crate::bytes;
use crate::checksum;
use crate::ether;
use crate::parse::{L3, Parsed};

/// The offset of the first octet that is compared: the EtherType.
const FIRST: usize = 12;
/// The octets that are compared, the ones of a mask: whole words up to the end of the VXLAN header or a little behind it.
const V4: usize = 40;
const V6: usize = 64;
/// The octets of the shortest datagram that is opened.
const SHORTEST: usize = UDP + HEADER + ether::HEADER;

/// EtherType, version and header length, flags (without DF) and fragment offset, protocol, addresses, destination port, and the VXLAN
/// header.
const MASK_V4: [u8; V4] = mask(
    &[(12, 15), (21, 22), (23, 24), (26, 34), (36, 38), (42, 50)],
    (20, 0xbf),
);
/// EtherType, version, next header, addresses, destination port, and the VXLAN header.
const MASK_V6: [u8; V6] = mask(&[(12, 14), (20, 21), (22, 54), (56, 58), (62, 70)], (14, 0xf0));

/// Returns a mask of these ranges of a frame's octets, and of some bits of one octet.
const fn mask<const N: usize>(ranges: &[(usize, usize)], (at, bits): (usize, u8)) -> [u8; N] {
    let mut mask = [0; N];
    let mut n = 0;
    while n < ranges.len() {
        let (mut octet, end) = ranges[n];
        while octet < end {
            mask[octet - FIRST] = 0xff;
            octet += 1;
        }
        n += 1;
    }
    mask[at - FIRST] = bits;
    mask
}

/// The parts of outer headers that all packets have in common that one node sends to one address of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenHeader {
    l3: L3,
    octets: [u8; V6],
}

impl SeenHeader {
    /// Returns the headers of a packet that was parsed and [opened](super::open); `head` is its first frame. Returns `None` if its IP
    /// header has options or extensions, which no node sends.
    #[must_use]
    pub fn of(head: &[u8], outer: &Parsed) -> Option<Self> {
        let mut octets = [0; V6];
        let plain = match outer.l3 {
            L3::V4 => {
                *octets.first_chunk_mut::<V4>()? = *bytes::read::<V4>(head, FIRST)?;
                20
            }
            L3::V6 => {
                octets = *bytes::read::<V6>(head, FIRST)?;
                40
            }
            L3::Arp => return None,
        };
        (outer.l4() == ether::HEADER + plain).then_some(Self { l3: outer.l3, octets })
    }

    /// Returns the family of the outer headers.
    #[must_use]
    #[inline(always)]
    pub const fn l3(&self) -> L3 {
        self.l3
    }

    /// Returns the offset of the inner frame.
    #[must_use]
    #[inline(always)]
    pub const fn inner(&self) -> usize {
        ether::HEADER + if matches!(self.l3, L3::V6) { 40 } else { 20 } + UDP + HEADER
    }

    /// Returns true if a packet has the same outer headers, is whole and ends with its datagram: it would be parsed and opened like the
    /// first one, with the same addresses, the same port and the same network identifier. `head` is the packet's first frame, and
    /// `packet_len` the length of all its frames in octets.
    #[must_use]
    #[inline(always)]
    pub fn is_repeated(&self, head: &[u8], packet_len: usize) -> bool {
        match self.l3 {
            L3::V6 => self.is_repeated_v6(head, packet_len),
            _ => self.is_repeated_v4(head, packet_len),
        }
    }

    #[inline(always)]
    fn is_repeated_v4(&self, head: &[u8], packet_len: usize) -> bool {
        const LEAST: usize = ether::HEADER + 20 + SHORTEST;
        let (Some(head), Some(seen)) = (head.first_chunk::<LEAST>(), self.octets.first_chunk::<V4>()) else {
            return false;
        };
        let (Some(octets), Some(ip)) = (bytes::read::<V4>(head, FIRST), bytes::read::<20>(head, ether::HEADER)) else {
            return false;
        };
        let total = usize::from(u16::from_be_bytes([head[16], head[17]]));
        let udp = usize::from(u16::from_be_bytes([head[38], head[39]]));
        equal(octets, seen, &MASK_V4)
            && ether::HEADER + total == packet_len
            && (SHORTEST..=total.saturating_sub(20)).contains(&udp)
            && checksum::sum(ip).fold() == 0xffff
    }

    #[inline(always)]
    fn is_repeated_v6(&self, head: &[u8], packet_len: usize) -> bool {
        const LEAST: usize = ether::HEADER + 40 + SHORTEST;
        let Some(head) = head.first_chunk::<LEAST>() else {
            return false;
        };
        let Some(octets) = bytes::read::<V6>(head, FIRST) else {
            return false;
        };
        let payload = usize::from(u16::from_be_bytes([head[18], head[19]]));
        let udp = usize::from(u16::from_be_bytes([head[58], head[59]]));
        equal(octets, &self.octets, &MASK_V6)
            && ether::HEADER + 40 + payload == packet_len
            && (SHORTEST..=payload).contains(&udp)
    }
}

/// Returns true if the octets are equal where the mask has ones.
#[inline(always)]
fn equal<const N: usize>(a: &[u8; N], b: &[u8; N], mask: &[u8; N]) -> bool {
    let words = a
        .as_chunks::<8>()
        .0
        .iter()
        .zip(b.as_chunks::<8>().0)
        .zip(mask.as_chunks::<8>().0);
    let differing = words.fold(0, |differing, ((a, b), mask)| {
        let [a, b, mask] = [a, b, mask].map(|octets| u64::from_ne_bytes(*octets));
        differing | (a ^ b) & mask
    });
    differing == 0
}
