//! Transport checksums of parsed packets, which may be chains of frames: detects partial ones, computes, finishes and verifies.

use super::{Chain, Crc32c, Sum, pseudo};
use crate::bytes;
use crate::parse::Parsed;
use crate::proto::Proto;

/// Returns the offset of the checksum field in the transport header.
#[inline]
pub(crate) const fn field_offset(proto: Proto) -> Option<usize> {
    match proto {
        Proto::TCP => Some(16),
        Proto::UDP => Some(6),
        Proto::SCTP => Some(8),
        Proto::ICMP | Proto::ICMPV6 => Some(2),
        _ => None,
    }
}

/// Returns the length that the checksum covers. For UDP this is the length in its header, which may be less than the packet's.
#[inline]
fn covered(head: &[u8], p: &Parsed) -> Option<usize> {
    if p.proto == Proto::UDP {
        bytes::be16(head, p.l4() + 4).map(usize::from)
    } else {
        Some(p.l4_len())
    }
}

#[inline]
fn pseudo_of(p: &Parsed, len: usize) -> Sum {
    match p.proto {
        Proto::TCP | Proto::UDP | Proto::ICMPV6 => pseudo(p.src, p.dst, p.proto, len as u32),
        _ => Sum::ZERO,
    }
}

/// Returns true if the transport checksum is unfinished. Only valid for frames from a veth.
///
/// Under `CHECKSUM_PARTIAL`, Linux leaves the folded pseudo-header sum, not complemented, in a TCP or UDP checksum field, and zero
/// in the CRC32c of SCTP. A fragment is never partial, because Linux finishes the checksum before it fragments.
#[must_use]
#[inline(always)]
pub fn is_partial(head: &[u8], p: &Parsed) -> bool {
    if p.is_fragment() {
        return false;
    }
    match p.proto {
        Proto::TCP => bytes::be16(head, p.l4() + 16) == Some(pseudo_of(p, p.l4_len()).fold()),
        Proto::UDP => match (covered(head, p), bytes::be16(head, p.l4() + 6)) {
            (Some(len), Some(field)) => field == pseudo_of(p, len).fold(),
            _ => false,
        },
        Proto::SCTP => bytes::be32(head, p.l4() + 8) == Some(0),
        _ => false,
    }
}

/// A computed checksum, to be stored in the head frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finished {
    at: u16,
    value: Value,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Sum(u16),
    Crc([u8; 4]),
}

impl Finished {
    /// Writes the checksum field. Returns false if the head frame is too short: then it belongs to another packet.
    #[inline]
    pub fn store(self, head: &mut [u8]) -> bool {
        match self.value {
            Value::Sum(v) => bytes::put16(head, usize::from(self.at), v),
            Value::Crc(v) => bytes::put(head, usize::from(self.at), v),
        }
    }
}

/// Computes the transport checksum of a whole packet, regardless of the field's content. `chain` is the packet's frames, head
/// first.
///
/// Returns `None` for fragments, for protocols without a known checksum, and for a chain that is shorter than the packet.
#[must_use]
#[inline(always)]
pub fn compute<'a>(p: &Parsed, chain: impl IntoIterator<Item = &'a [u8]>) -> Option<Finished> {
    let mut chain = chain.into_iter();
    let head = chain.next()?;
    let at = p.l4() + field_offset(p.proto)?;
    if p.is_fragment() {
        return None;
    }
    let len = covered(head, p)?;
    let value = if p.proto == Proto::SCTP {
        Value::Crc(crc(p, head, chain, len)?)
    } else {
        // Sum the octets before and behind the field. A sum over everything, minus the field, would be ffff and not 0 for a
        // message of zeros, because one's complement has two zeros.
        let before = super::sum(head.get(p.l4()..at)?);
        let behind = at + 2;
        let total = sum_range(
            pseudo_of(p, len).plus(before),
            head,
            chain,
            behind,
            (p.l4() + len).checked_sub(behind)?,
        )?;
        Value::Sum(match total.checksum() {
            0 if p.proto == Proto::UDP => 0xffff,
            sum => sum,
        })
    };
    Some(Finished { at: at as u16, value })
}

/// Returns true if the transport checksum is correct. `chain` is the packet's frames, head first.
///
/// Also returns true if there is no checksum to verify: fragments, other protocols, UDP over IPv4 with a field of 0.
#[must_use]
pub fn verify<'a>(p: &Parsed, chain: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut chain = chain.into_iter();
    let (Some(head), Some(offset)) = (chain.next(), field_offset(p.proto)) else {
        return true;
    };
    if p.is_fragment() {
        return true;
    }
    let Some(len) = covered(head, p) else {
        return false;
    };
    if p.proto == Proto::SCTP {
        return crc(p, head, chain, len).is_some_and(|c| bytes::read::<4>(head, p.l4() + offset) == Some(&c));
    }
    if p.proto == Proto::UDP && bytes::be16(head, p.l4() + offset) == Some(0) {
        // In IPv6, UDP must have a checksum (RFC 8200 section 8.1).
        return p.l3 == crate::parse::L3::V4;
    }
    sum_range(pseudo_of(p, len), head, chain, p.l4(), len).is_some_and(|s| s.fold() == 0xffff)
}

/// Adds `len` octets from `start` of the packet to `sum`.
#[inline(always)]
fn sum_range<'a>(sum: Sum, head: &[u8], rest: impl Iterator<Item = &'a [u8]>, start: usize, len: usize) -> Option<Sum> {
    let mut total = Chain::from(sum);
    each_slice(head, rest, start, len, |slice| total.push(slice))?;
    Some(total.sum())
}

/// Returns the CRC32c of an SCTP packet of `len` octets, with zeros in place of its CRC field.
fn crc<'a>(p: &Parsed, head: &[u8], rest: impl Iterator<Item = &'a [u8]>, len: usize) -> Option<[u8; 4]> {
    let mut crc = Crc32c::new();
    crc.push(bytes::read::<8>(head, p.l4())?);
    crc.push(&[0; 4]);
    each_slice(head, rest, p.l4() + 12, len.checked_sub(12)?, |slice| crc.push(slice))?;
    Some(crc.finish())
}

/// Calls `f` with the slices of a chain that cover `len` octets from the offset `start`, which is in the head. Returns `None` if
/// the chain is too short.
#[inline(always)]
fn each_slice<'a>(
    head: &[u8],
    rest: impl Iterator<Item = &'a [u8]>,
    start: usize,
    len: usize,
    mut f: impl FnMut(&[u8]),
) -> Option<()> {
    let first = head.get(start..)?;
    let first = first.get(..len).unwrap_or(first);
    f(first);
    let mut left = len - first.len();
    for slice in rest {
        if left == 0 {
            break;
        }
        let slice = slice.get(..left).unwrap_or(slice);
        f(slice);
        left -= slice.len();
    }
    (left == 0).then_some(())
}
